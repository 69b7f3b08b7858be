//! One check of one real server.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use config::{CheckKind, DnsRecord, HealthCheck};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, SimpleDnsError, TYPE, header_buffer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Bytes of an answer over UDP that are read; a longer one is cut.
const ANSWER_MAX: usize = 2048;

/// Bytes of an HTTP head at most.
const HEAD_MAX: usize = 1 << 16;

/// Bytes that are read for an HTTP head at most, with answers of 1xx before it: they are read in one go without a look
/// at the clock, and a server may send them without end.
const READ_MAX: u64 = 2 * HEAD_MAX as u64;

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
    #[error("HTTP: {}", cause(.0))]
    Http(#[from] hyper::Error),
    /// The request cannot be built from path and host.
    #[error("the request cannot be built: {0}")]
    Request(#[from] hyper::http::Error),
    /// Another status than wanted.
    #[error("HTTP status {0}")]
    Status(u16),
    /// A datagram cannot be sent, or came back as an ICMP error.
    #[error("UDP to {0}: {1}")]
    Datagram(SocketAddr, io::Error),
    /// No DNS message, or none can be made of the name.
    #[error("DNS: {0}")]
    Dns(#[from] SimpleDnsError),
    /// Something else than the answer to the query.
    #[error("DNS: what came back is no answer to the query")]
    NoAnswer,
    /// An answer that says that there was an error.
    #[error("DNS: {0:?}")]
    Rcode(RCODE),
    /// The kernel gives no random number for a query.
    #[error("no random number: {0}")]
    Random(getrandom::Error),
}

/// What went wrong, where hyper says first that the request was given up therefore.
fn cause(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) if error.is_canceled() => source.to_string(),
        _ => error.to_string(),
    }
}

impl ProbeError {
    /// Whether this machine lacks what a check needs, which says nothing of the real server.
    pub fn is_own(&self) -> bool {
        let (ProbeError::Connect(_, error) | ProbeError::Datagram(_, error)) = self else {
            return matches!(self, ProbeError::Random(_));
        };
        // The last two: no port of our own is free.
        let lacking = [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
            Errno::ENOBUFS,
            Errno::EADDRNOTAVAIL,
            Errno::EADDRINUSE,
        ];
        error.raw_os_error().is_some_and(|code| lacking.contains(&Errno::from_raw(code)))
    }
}

/// Checks a real server once.
///
/// # Errors
/// Why it failed.
pub async fn probe(check: &HealthCheck, real: SocketAddr) -> Result<(), ProbeError> {
    let asked = SocketAddr::new(real.ip(), check.port.unwrap_or(real.port()));
    match (timeout(check.timeout, ask(&check.kind, asked)).await, &check.kind) {
        (Ok(result), _) => result,
        // Nobody said that nobody is there.
        (Err(_), CheckKind::Udp { needs_reply: false, .. }) => Ok(()),
        (Err(_), _) => Err(ProbeError::Timeout(check.timeout)),
    }
}

async fn ask(kind: &CheckKind, asked: SocketAddr) -> Result<(), ProbeError> {
    let connect = async || TcpStream::connect(asked).await.map_err(|error| ProbeError::Connect(asked, error));
    match kind {
        CheckKind::Tcp => connect().await.map(drop),
        CheckKind::Http { path, host, status } => {
            let default = asked.to_string();
            http(connect().await?, path, host.as_deref().unwrap_or(&default), status).await
        }
        CheckKind::Dns { name, record } => dns(asked, name, *record).await,
        CheckKind::Udp { payload, .. } => exchange(asked, payload).await.map(drop),
    }
}

/// Sends a datagram and waits for one. The socket is connected, so that ICMP errors arrive as errors of its own and
/// datagrams of others do not arrive.
async fn exchange(asked: SocketAddr, payload: &[u8]) -> Result<Vec<u8>, ProbeError> {
    let failed = |error| ProbeError::Datagram(asked, error);
    let any: IpAddr =
        if asked.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    // Without it the kernel keeps to itself that a host or network is unreachable, and tells only of closed ports
    // (ip(7)).
    let hears_all = if asked.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
    };
    hears_all.map_err(io::Error::from).map_err(failed)?;
    socket.connect(asked).await.map_err(failed)?;
    socket.send(payload).await.map_err(failed)?;
    let mut answer = vec![0; ANSWER_MAX];
    let len = socket.recv(&mut answer).await.map_err(failed)?;
    answer.truncate(len);
    Ok(answer)
}

async fn dns(asked: SocketAddr, name: &str, record: DnsRecord) -> Result<(), ProbeError> {
    let id = getrandom::u32().map_err(ProbeError::Random)? as u16;
    let answer = exchange(asked, &query(id, name, record)?).await?;
    // The rest of the answer is of no interest, and may be cut.
    let is_answer =
        header_buffer::id(&answer)? == id && header_buffer::has_flags(&answer, PacketFlag::RESPONSE)?;
    if !is_answer {
        return Err(ProbeError::NoAnswer);
    }
    match header_buffer::rcode(&answer)? {
        RCODE::NoError => Ok(()),
        code => Err(ProbeError::Rcode(code)),
    }
}

fn query(id: u16, name: &str, record: DnsRecord) -> Result<Vec<u8>, ProbeError> {
    let record = match record {
        DnsRecord::A => TYPE::A,
        DnsRecord::Aaaa => TYPE::AAAA,
        DnsRecord::Cname => TYPE::CNAME,
        DnsRecord::Mx => TYPE::MX,
        DnsRecord::Ns => TYPE::NS,
        DnsRecord::Soa => TYPE::SOA,
        DnsRecord::Txt => TYPE::TXT,
    };
    let name = Name::new(name.trim_end_matches('.'))?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(name, record.into(), CLASS::IN.into(), false));
    Ok(packet.build_bytes_vec()?)
}

pub(super) async fn http(
    stream: TcpStream,
    path: &str,
    host: &str,
    wanted: &[(u16, u16)],
) -> Result<(), ProbeError> {
    let (reader, writer) = stream.into_split();
    let bounded = TokioIo::new(tokio::io::join(reader.take(READ_MAX), writer));
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(bounded).await?;
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
