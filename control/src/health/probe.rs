//! One check of one real server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use config::{CheckKind, HealthCheck};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// Nothing in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// No HTTP, or not all of it.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be built from path and host.
    #[error("the request cannot be built: {0}")]
    Request(#[from] hyper::http::Error),
    /// Another status than wanted.
    #[error("HTTP status {0}")]
    Status(u16),
}

/// Checks a real server once.
///
/// # Errors
/// Why it failed.
pub async fn probe(check: &HealthCheck, real: SocketAddr) -> Result<(), ProbeError> {
    let asked = SocketAddr::new(real.ip(), check.port.unwrap_or(real.port()));
    let probing = async {
        let stream = TcpStream::connect(asked).await.map_err(|error| ProbeError::Connect(asked, error))?;
        match &check.kind {
            CheckKind::Tcp => Ok(()),
            CheckKind::Http { path, host, status } => {
                let default = asked.to_string();
                http(stream, path, host.as_deref().unwrap_or(&default), status).await
            }
        }
    };
    timeout(check.timeout, probing).await.map_err(|_| ProbeError::Timeout(check.timeout))?
}

async fn http(stream: TcpStream, path: &str, host: &str, wanted: &[(u16, u16)]) -> Result<(), ProbeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    // The connection is driven here and dropped with the answer's head: the body is of no interest, and a task of
    // its own would outlive the timeout. It may end before the answer is taken out of it.
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer?,
        _ = &mut connection => answer.await?,
    };
    let status = answer.status().as_u16();
    if wanted.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        Ok(())
    } else {
        Err(ProbeError::Status(status))
    }
}
