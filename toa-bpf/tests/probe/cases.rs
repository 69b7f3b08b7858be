//! The cases: where the option is, what it looks like, and whose address the server must see.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use super::peer::{PATIENCE, Peer};
use super::tun::{Tun, wait_readable};
use super::{LIP, LIP_UNTRUSTED, LIP_V6, SERVER, SERVER_V6};

/// The client that every good option names.
pub const CLIENT: &str = "203.0.113.7:4660";
/// See [`CLIENT`].
pub const CLIENT_V6: &str = "[2001:db8::7]:4660";

const SYNCOOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// Which segment carries the option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Syn,
    /// The bare ACK that ends the handshake, with data following (as the gateway does: on every segment).
    FinalAck,
    /// Data that ends the handshake: the bare ACK was lost.
    FirstData,
    /// Data after a bare ACK without the option.
    LateData,
}

/// What kind of socket listens, and who connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    /// IPv4 socket.
    V4,
    /// IPv6 socket, IPv4 gateway.
    DualV4,
    /// IPv6 socket, IPv6 gateway.
    V6,
    /// IPv4 socket with TCP_DEFER_ACCEPT.
    Deferred,
    /// IPv4 socket, SYN cookies forced.
    Cookies,
    /// IPv4 socket, gateway that is not trusted.
    Untrusted,
}

/// One case.
pub struct Case {
    pub name: &'static str,
    server: Server,
    place: Place,
    options: Vec<u8>,
    /// The address to be seen; none is the gateway's own.
    seen: Option<&'static str>,
}

/// A TOA option for any kind and address.
pub fn toa(kind: u8, client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let address = match client.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = u8::try_from(4 + address.len()).unwrap();
    [vec![kind, length], client.port().to_be_bytes().to_vec(), address].concat()
}

/// All cases, each with the address that the program on the real server shall see.
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn all() -> Vec<Case> {
    let case = |name, server, place, options: Vec<u8>, seen| Case { name, server, place, options, seen };
    let good = || toa(254, CLIENT);
    let good_v6 = || toa(254, CLIENT_V6);
    let client = Some(CLIENT);
    let client_v6 = Some(CLIENT_V6);
    let mapped = Some("[::ffff:203.0.113.7]:4660");
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
    let behind_sack = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2];

    let mut cases = vec![
        case("kind 254 on the final ACK", Server::V4, Place::FinalAck, good(), client),
        case("kind 253 on the final ACK", Server::V4, Place::FinalAck, toa(253, CLIENT), client),
        case("kind 200 on the final ACK", Server::V4, Place::FinalAck, toa(200, CLIENT), client),
        case("on data that ends the handshake", Server::V4, Place::FirstData, good(), client),
        case(
            "behind timestamps",
            Server::V4,
            Place::FinalAck,
            [timestamps.to_vec(), good()].concat(),
            client,
        ),
        case(
            "behind timestamps and SACK, unaligned",
            Server::V4,
            Place::FinalAck,
            [timestamps.to_vec(), behind_sack.to_vec(), vec![1], good()].concat(),
            client,
        ),
        case("IPv6 socket, IPv4 gateway", Server::DualV4, Place::FinalAck, good(), mapped),
        case("IPv6 socket, IPv4 gateway, IPv6 client", Server::DualV4, Place::FinalAck, good_v6(), client_v6),
        case("IPv6 gateway, IPv6 client", Server::V6, Place::FinalAck, good_v6(), client_v6),
        case("IPv6 gateway, kind 253", Server::V6, Place::FinalAck, toa(253, CLIENT_V6), client_v6),
        case("IPv6 gateway, IPv4 client", Server::V6, Place::FinalAck, good(), mapped),
        case(
            "IPv6 gateway, on data that ends the handshake",
            Server::V6,
            Place::FirstData,
            good_v6(),
            client_v6,
        ),
        case("deferred accept", Server::Deferred, Place::FinalAck, good(), client),
        case("SYN cookies, final ACK", Server::Cookies, Place::FinalAck, good(), client),
        case("SYN cookies, first data", Server::Cookies, Place::FirstData, good(), client),
        case(
            "two options: the first",
            Server::V4,
            Place::FinalAck,
            [good(), toa(254, "198.51.100.9:99")].concat(),
            client,
        ),
        case(
            "another length of the same kind in front",
            Server::V4,
            Place::FinalAck,
            [vec![254, 4, 0xf9, 0x89], good()].concat(),
            client,
        ),
        case("no option", Server::V4, Place::FinalAck, vec![], None),
        case(
            "IPv4 socket, IPv6 client: no room in sockaddr_in",
            Server::V4,
            Place::FinalAck,
            good_v6(),
            None,
        ),
        case("on the SYN only", Server::V4, Place::Syn, good(), None),
        case("on late data only", Server::V4, Place::LateData, good(), None),
        case("gateway not trusted", Server::Untrusted, Place::FinalAck, good(), None),
        case("behind the end of the options", Server::V4, Place::FinalAck, [vec![0], good()].concat(), None),
    ];
    cases.extend(malformed().into_iter().map(|(name, options)| Case {
        name,
        server: Server::V4,
        place: Place::FinalAck,
        options,
        seen: None,
    }));
    cases
}

fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let mut cases = vec![
        ("length 0", vec![254, 0, 0x12, 0x34, 203, 0, 113, 7]),
        ("length 1", vec![254, 1, 0x12, 0x34, 203, 0, 113, 7]),
        ("length 6", vec![254, 6, 0x12, 0x34, 203, 0, 0, 0]),
        ("length 12", vec![254, 12, 0x12, 0x34, 203, 0, 113, 7, 0, 0, 0, 0]),
        ("length behind the header", vec![254, 255, 0x12, 0x34, 203, 0, 113, 7]),
        ("cut short", vec![254, 8, 0x12, 0x34]),
        ("IPv6 form cut short", vec![254, 20, 0x12, 0x34, 203, 0, 113, 7]),
        ("kind only, at the end", vec![1, 1, 1, 254]),
        ("behind a broken option", [vec![5, 1], toa(254, CLIENT)].concat()),
        ("kind 200 in IPv6 form", toa(200, CLIENT_V6)),
    ];
    cases.extend(
        [
            ("port 0", "203.0.113.7:0"),
            ("address 0.0.0.0", "0.0.0.0:4660"),
            ("loopback address", "127.0.0.1:4660"),
            ("multicast address", "224.0.0.1:4660"),
            ("broadcast address", "255.255.255.255:4660"),
            ("the gateway's own address", "10.9.0.2:4660"),
        ]
        .map(|(name, address)| (name, toa(254, address))),
    );
    cases
}

/// Plays one case. `index` gives it a port of its own.
///
/// # Errors
/// What was seen instead, or what did not work.
pub fn play(tun: &Tun, case: &Case, index: u16) -> Result<(), String> {
    let told = |what: &str, error: io::Error| format!("{what}: {error}");
    if case.server == Server::Cookies {
        fs::write(SYNCOOKIES, "2").map_err(|error| told("forcing SYN cookies", error))?;
    }
    let result = play_prepared(tun, case, index);
    if case.server == Server::Cookies {
        fs::write(SYNCOOKIES, "1").map_err(|error| told("SYN cookies back to normal", error))?;
    }
    result
}

fn play_prepared(tun: &Tun, case: &Case, index: u16) -> Result<(), String> {
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let (listen_on, server_ip, lip) = match case.server {
        Server::V6 => ("[::]:0", SERVER_V6, LIP_V6),
        Server::DualV4 => ("[::]:0", SERVER, LIP),
        Server::Untrusted => ("0.0.0.0:0", SERVER, LIP_UNTRUSTED),
        Server::V4 | Server::Deferred | Server::Cookies => ("0.0.0.0:0", SERVER, LIP),
    };
    let listener = TcpListener::bind(listen_on).map_err(told("listening"))?;
    if case.server == Server::Deferred {
        defer_accept(&listener).map_err(told("TCP_DEFER_ACCEPT"))?;
    }
    let port = listener.local_addr().map_err(told("listening"))?.port();
    let server = SocketAddr::new(server_ip.parse().unwrap(), port);
    let gateway = SocketAddr::new(lip.parse().unwrap(), 40_000 + index);

    let on_syn: &[u8] = if case.place == Place::Syn { &case.options } else { &[] };
    let mut peer = Peer::open(tun, gateway, server, on_syn).map_err(told("SYN"))?;
    let options = |wanted| if case.place == wanted { &case.options[..] } else { &[] };
    if case.place != Place::FirstData {
        peer.acknowledge(options(Place::FinalAck)).map_err(told("final ACK"))?;
    }
    let on_data = if case.place == Place::Syn { &[] } else { &case.options[..] };
    peer.data(on_data, b"hello").map_err(told("data"))?;
    let (stream, accepted) = accept(&listener).map_err(told("accept"))?;
    let named = stream.peer_addr().map_err(told("getpeername"))?;
    peer.reset().map_err(told("RST"))?;

    let expected = match case.seen {
        Some(client) => client.parse().unwrap(),
        None => as_seen_by(&listener, gateway),
    };
    match accepted == expected && named == expected {
        true => Ok(()),
        false => Err(format!("accept4 says {accepted}, getpeername {named}; {expected} is right")),
    }
}

/// An IPv6 socket sees an IPv4 peer as a mapped address.
fn as_seen_by(listener: &TcpListener, peer: SocketAddr) -> SocketAddr {
    let on_v6 = listener.local_addr().is_ok_and(|addr| addr.is_ipv6());
    match peer.ip() {
        IpAddr::V4(v4) if on_v6 => SocketAddr::new(v4.to_ipv6_mapped().into(), peer.port()),
        _ => peer,
    }
}

/// Accepts with a deadline.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    if !wait_readable(listener.as_raw_fd(), Instant::now() + PATIENCE)? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no connection came"));
    }
    listener.accept()
}

fn defer_accept(listener: &TcpListener) -> io::Result<()> {
    let seconds: libc::c_int = 30;
    let length = libc::socklen_t::try_from(size_of_val(&seconds)).unwrap();
    // SAFETY: the option takes an int, whose address and length are passed, on an open descriptor.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
