//! API connections for async programs: greeting, frames and the dataplane's requests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::frame::{self, GREETING_LEN, Greeting, PREFIX_LEN};
use api::{DesiredState, Refusal, Request, Response, Stats, Status};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Time for connecting and greeting on a local socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What went wrong with the dataplane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or we may not.
    #[error("nobody answers on {}: {source}; is tollgate-dataplane running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke or carries something else.
    #[error(transparent)]
    Frame(#[from] frame::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The other side closed the connection.
    #[error("the dataplane closed the connection")]
    Closed,
    /// An answer to another question.
    #[error("the dataplane answered {wanted} with something else")]
    Unexpected {
        /// The request.
        wanted: &'static str,
    },
    /// The dataplane refused.
    #[error("the dataplane refused: {0}")]
    Refused(#[from] Refusal),
}

/// Sends our greeting and checks the peer's.
///
/// # Errors
/// See [`frame::Error`].
pub async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), frame::Error> {
    stream.write_all(&Greeting::ours().to_bytes()).await?;
    let mut bytes = [0; GREETING_LEN];
    stream.read_exact(&mut bytes).await?;
    Greeting::from_bytes(bytes)?.check()
}

/// Sends one frame.
///
/// # Errors
/// See [`frame::Error`].
pub async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), frame::Error> {
    Ok(stream.write_all(&frame::encode(message)?).await?)
}

/// Receives one frame; `None` when the peer closed between two frames.
///
/// # Errors
/// See [`frame::Error`].
pub async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, frame::Error> {
    let mut prefix = [0; PREFIX_LEN];
    let mut got = 0;
    while got < PREFIX_LEN {
        match stream.read(&mut prefix[got..]).await? {
            0 if got == 0 => return Ok(None),
            0 => return Err(frame::Error::Truncated { got, wanted: PREFIX_LEN }),
            n => got += n,
        }
    }
    let wanted = frame::body_len(prefix)?;
    // Grows with what arrives: an announced length alone must not take memory.
    let mut body = Vec::new();
    let got = stream.take(wanted as u64).read_to_end(&mut body).await?;
    if got < wanted {
        return Err(frame::Error::Truncated { got, wanted });
    }
    frame::decode(&body).map(Some)
}

/// A greeted connection to the dataplane.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects and greets.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn connect(path: &Path) -> Result<Client, Error> {
        let connecting = async {
            let mut stream = UnixStream::connect(path)
                .await
                .map_err(|source| Error::Connect { path: path.to_owned(), source })?;
            greet(&mut stream).await?;
            Ok(Client { stream })
        };
        timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| Error::Timeout(CONNECT_TIMEOUT))?
    }

    async fn call(&mut self, request: &Request, limit: Duration) -> Result<Response, Error> {
        let calling = async {
            send(&mut self.stream, request).await?;
            receive(&mut self.stream).await?.ok_or(Error::Closed)
        };
        match timeout(limit, calling).await {
            Ok(Ok(Response::Refused(refusal))) => Err(refusal.into()),
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout(limit)),
        }
    }

    /// Asks for the status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&mut self, limit: Duration) -> Result<Status, Error> {
        match self.call(&Request::GetStatus, limit).await? {
            Response::Status(status) => Ok(*status),
            _ => Err(Error::Unexpected { wanted: "GetStatus" }),
        }
    }

    /// Asks for all counters.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stats(&mut self, limit: Duration) -> Result<Stats, Error> {
        match self.call(&Request::GetStats, limit).await? {
            Response::Stats(stats) => Ok(*stats),
            _ => Err(Error::Unexpected { wanted: "GetStats" }),
        }
    }

    /// Replaces the desired state.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn apply(&mut self, state: DesiredState, limit: Duration) -> Result<u64, Error> {
        let wanted = state.generation;
        match self.call(&Request::Apply(Box::new(state)), limit).await? {
            Response::Applied { generation } if generation == wanted => Ok(generation),
            _ => Err(Error::Unexpected { wanted: "Apply" }),
        }
    }

    /// Returns when the dataplane closes the connection or sends something unasked; then it is of no use any more.
    pub async fn closed(&self) {
        // An error counts as closed as well; a wake-up without cause is followed by another wait.
        let mut byte = [0; 1];
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            match self.stream.try_read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}
