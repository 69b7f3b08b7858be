//! Plays the conformance vectors of `tests/toa-vectors`: the index says what socket listens and what it must show, a
//! pcap file what the gateway sends.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::peer::PATIENCE;
use super::segment::{self, ACK, RST, SYN};
use super::tun::{Tun, wait_readable};
use super::{SERVER_PORT, pcap, sockets};

const SYNCOOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// The index of the vectors for receivers, `receivers.toml`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// What a receiver must trust while these are played, and nothing else.
    pub trust: Vec<String>,
    pub case: Vec<Case>,
}

/// One vector.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The pcap file, relative to the index.
    pub file: String,
    /// The listening socket.
    pub socket: Socket,
    /// How it listens.
    #[serde(default, skip_serializing_if = "Listener::is_plain")]
    pub listener: Listener,
    /// What the server does with the accepted socket before `getpeername` is asked.
    #[serde(default, skip_serializing_if = "Then::is_nothing")]
    pub then: Then,
    /// What `accept` and `getpeername` must show.
    pub sees: String,
    /// What kind of thing a receiver should count for it.
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Socket {
    /// `AF_INET`, any address.
    Inet,
    /// `AF_INET6`, any address, IPv4 too.
    Inet6,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    #[default]
    Plain,
    /// With `TCP_DEFER_ACCEPT`.
    DeferAccept,
    /// While the machine answers every SYN with a cookie (`net.ipv4.tcp_syncookies=2`).
    SynCookies,
    /// `IPPROTO_MPTCP`.
    Mptcp,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    #[default]
    Nothing,
    /// Has the kernel encrypt what it sends (kTLS), and sends something.
    Ktls,
    /// Puts the socket into a BPF sockmap.
    Sockmap,
    /// Makes the IPv6 socket an IPv4 one (`IPV6_ADDRFORM`).
    AddrForm,
    /// Asks for `MPTCP_INFO`, which only a connection that speaks MPTCP has.
    MptcpInfo,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    Learnt,
    WithoutOption,
    Untrusted,
    Malformed,
    BadAddress,
}

impl Listener {
    fn is_plain(&self) -> bool {
        *self == Listener::Plain
    }
}

impl Then {
    fn is_nothing(&self) -> bool {
        *self == Then::Nothing
    }
}

/// Reads the index in a folder.
pub fn read_index(folder: &Path) -> io::Result<Index> {
    let text = fs::read_to_string(folder.join("receivers.toml"))?;
    toml::from_str(&text).map_err(io::Error::other)
}

/// Plays one case.
///
/// # Errors
/// What was seen instead, or what did not work.
pub fn play(tun: &Tun, folder: &Path, case: &Case) -> Result<(), String> {
    let told = |what: &str, error: io::Error| format!("{what}: {error}");
    if case.listener == Listener::SynCookies {
        fs::write(SYNCOOKIES, "2").map_err(|error| told("forcing SYN cookies", error))?;
    }
    let result = play_prepared(tun, folder, case);
    if case.listener == Listener::SynCookies {
        fs::write(SYNCOOKIES, "1").map_err(|error| told("SYN cookies back to normal", error))?;
    }
    result
}

fn play_prepared(tun: &Tun, folder: &Path, case: &Case) -> Result<(), String> {
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let packets = pcap::read(&folder.join(&case.file)).map_err(told("pcap"))?;
    let address = match case.socket {
        Socket::Inet => format!("0.0.0.0:{SERVER_PORT}"),
        Socket::Inet6 => format!("[::]:{SERVER_PORT}"),
    };
    let listener = match case.listener {
        Listener::Mptcp => sockets::listen_mptcp(address.parse().unwrap()),
        _ => TcpListener::bind(address),
    };
    let listener = listener.map_err(told("listening"))?;
    if case.listener == Listener::DeferAccept {
        sockets::defer_accept(&listener).map_err(told("TCP_DEFER_ACCEPT"))?;
    }
    let reset = replay(tun, &packets).map_err(told("playing"))?;
    let (stream, accepted) = accept(&listener).map_err(told("accept"))?;
    let _kept = then(&stream, case.then).map_err(told("what the server does then"))?;
    let named = stream.peer_addr().map_err(told("getpeername"))?;
    tun.send(&reset).map_err(told("RST"))?;

    let expected: SocketAddr = case.sees.parse().map_err(|error| format!("sees: {error}"))?;
    // Once it is an IPv4 socket, it shows IPv4 addresses.
    let expected_now = if case.then == Then::AddrForm { unmapped(expected) } else { expected };
    match accepted == expected && named == expected_now {
        true => Ok(()),
        false => Err(format!("accept4 says {accepted}, getpeername {named}; {expected} is right")),
    }
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => SocketAddr::new(v6.to_canonical(), address.port()),
        IpAddr::V4(_) => address,
    }
}

/// Sends the packets of the side that begins, in order, with the server's initial sequence number and MPTCP key instead
/// of the recorded ones. Returns a segment that ends the connection.
fn replay(tun: &Tun, packets: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let first = segment::ends(packets.first().ok_or_else(|| odd("no packets"))?);
    let (gateway, server) = first.ok_or_else(|| odd("the first packet is no TCP segment"))?;
    let is_syn_ack = |reply: &segment::Reply| reply.flags & (SYN | ACK) == SYN | ACK;
    let mut recorded = packets.iter().filter_map(|packet| segment::read(packet, gateway));
    let recorded = recorded.find(is_syn_ack).ok_or_else(|| odd("no SYN-ACK is recorded"))?;
    let mut chosen = None;
    let mut last = Vec::new();
    for packet in packets.iter().filter(|packet| segment::ends(packet) == Some((gateway, server))) {
        let packet = segment::adapted(packet, chosen);
        tun.send(&packet)?;
        if segment::flags(&packet) & SYN != 0 {
            let now = tun.receive(PATIENCE, |packet| segment::read(packet, gateway).filter(is_syn_ack))?;
            chosen = Some(segment::Chosen { recorded, now });
        }
        last = packet;
    }
    Ok(segment::reset_after(&last, RST | ACK))
}

/// Does it, and returns what has to live as long as the connection.
fn then(stream: &TcpStream, what: Then) -> io::Result<Option<sockets::Kept>> {
    match what {
        Then::Nothing => Ok(None),
        Then::Ktls => sockets::encrypt(stream).map(|()| None),
        Then::Sockmap => sockets::put_into_sockmap(stream).map(Some),
        Then::AddrForm => sockets::make_ipv4(stream).map(|()| None),
        Then::MptcpInfo => sockets::speaks_mptcp(stream).map(|()| None),
    }
}

/// Accepts with a deadline.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    use std::os::fd::AsRawFd as _;
    if !wait_readable(listener.as_raw_fd(), Instant::now() + PATIENCE)? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no connection came"));
    }
    listener.accept()
}
