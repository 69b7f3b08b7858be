//! The table that the conformance vectors are made from: where the option is, what it looks like, and whose address
//! the server must see.

use std::net::{IpAddr, SocketAddr};

use super::segment::{self, ACK, PSH, SYN};
use super::vector::{self, Counts, Index, Listener, Socket, Then};
use super::{LIP, LIP_UNTRUSTED, LIP_V6, SERVER, SERVER_PORT, SERVER_V6, TRUST, pcap};

/// The client that every good option names.
pub const CLIENT: &str = "203.0.113.7:4660";
/// See [`CLIENT`].
pub const CLIENT_V6: &str = "[2001:db8::7]:4660";

const GATEWAY_ISN: u32 = 0x1000_0000;
const SERVER_ISN: u32 = 0x2000_0000;
/// Of the client and the server, for MPTCP.
const GATEWAY_KEY: [u8; 8] = *b"gateway1";
/// See [`GATEWAY_KEY`].
const SERVER_KEY: [u8; 8] = *b"server01";
/// Bytes of options that a TCP header has room for.
const OPTIONS_MAX: usize = 40;
/// MSS 1400.
const SYN_OPTIONS: [u8; 4] = [2, 4, 0x05, 0x78];
/// The first case's port at the gateway; each has its own.
const FIRST_PORT: u16 = 40_000;
/// The identifier of the form that RFC 6994 asks for.
const EXID: [u8; 2] = *b"TG";

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
    /// IPv4 socket that speaks MPTCP.
    Mptcp,
    /// IPv6 socket that speaks MPTCP, IPv4 gateway.
    MptcpDualV4,
    /// IPv6 socket that speaks MPTCP, IPv6 gateway.
    MptcpV6,
    /// IPv4 socket, gateway that is not trusted.
    Untrusted,
}

/// One case.
struct Case {
    name: &'static str,
    server: Server,
    place: Place,
    then: Then,
    options: Vec<u8>,
    /// The address to be seen; none is the gateway's own.
    seen: Option<&'static str>,
    counts: Counts,
}

impl Case {
    /// Otherwise it has nothing to tell about it.
    fn client_speaks_mptcp(&self) -> bool {
        self.then == Then::MptcpInfo
    }
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

/// The same in the form of RFC 6994: an identifier behind the length, and two bytes in front to keep words aligned.
fn toa_with_exid(kind: u8, client: &str) -> Vec<u8> {
    let plain = toa(kind, client);
    let length = plain[1] + 2;
    [&[1, 1, kind, length][..], &EXID, &plain[2..]].concat()
}

/// All cases, each with the address that the program on the real server shall see.
#[expect(clippy::too_many_lines, reason = "a table")]
fn all() -> Vec<Case> {
    let case = |name, server, place, options: Vec<u8>, seen: Option<&'static str>| Case {
        name,
        server,
        place,
        then: Then::Nothing,
        options,
        seen,
        counts: if seen.is_some() { Counts::Learnt } else { Counts::WithoutOption },
    };
    let then = |then, case: Case| Case { then, ..case };
    let counts = |counts, case: Case| Case { counts, ..case };
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
        case("MPTCP listener", Server::Mptcp, Place::FinalAck, good(), client),
        then(Then::Ktls, case("kTLS after accept", Server::V4, Place::FinalAck, good(), client)),
        then(Then::Ktls, case("kTLS after accept, IPv6", Server::V6, Place::FinalAck, good_v6(), client_v6)),
        then(Then::Sockmap, case("socket in a sockmap", Server::V4, Place::FinalAck, good(), client)),
        then(
            Then::Sockmap,
            case("socket in a sockmap, IPv6", Server::V6, Place::FinalAck, good_v6(), client_v6),
        ),
        then(
            Then::AddrForm,
            case("IPv6 socket made an IPv4 one", Server::DualV4, Place::FinalAck, good(), mapped),
        ),
        case("kind 254 with an ExID", Server::V4, Place::FinalAck, toa_with_exid(254, CLIENT), client),
        case("kind 253 with an ExID", Server::V4, Place::FinalAck, toa_with_exid(253, CLIENT), client),
        case(
            "IPv6 client with an ExID",
            Server::V6,
            Place::FinalAck,
            toa_with_exid(254, CLIENT_V6),
            client_v6,
        ),
        case("another ExID", Server::V4, Place::FinalAck, vec![1, 1, 254, 10, 1, 2, 3, 4, 5, 6, 7, 8], None),
        case("no option", Server::V4, Place::FinalAck, vec![], None),
        counts(
            Counts::Learnt,
            case(
                "IPv4 socket, IPv6 client: no room in sockaddr_in",
                Server::V4,
                Place::FinalAck,
                good_v6(),
                None,
            ),
        ),
        case("on the SYN only", Server::V4, Place::Syn, good(), None),
        case("on late data only", Server::V4, Place::LateData, good(), None),
        counts(
            Counts::Untrusted,
            case("gateway not trusted", Server::Untrusted, Place::FinalAck, good(), None),
        ),
        case("behind the end of the options", Server::V4, Place::FinalAck, [vec![0], good()].concat(), None),
    ];
    cases.extend(
        malformed().into_iter().map(|(name, options, what)| {
            counts(what, case(name, Server::V4, Place::FinalAck, options, None))
        }),
    );
    cases.push(counts(
        Counts::BadAddress,
        case(
            "the gateway's own address, IPv6",
            Server::V6,
            Place::FinalAck,
            toa(254, "[fd00:9::2]:4660"),
            None,
        ),
    ));
    let mptcp =
        |name, server, place, options, seen| then(Then::MptcpInfo, case(name, server, place, options, seen));
    cases.extend([
        mptcp("MPTCP on both sides", Server::Mptcp, Place::FinalAck, good(), client),
        mptcp("MPTCP, on data that ends the handshake", Server::Mptcp, Place::FirstData, good(), client),
        mptcp("MPTCP, IPv6 socket, IPv4 gateway", Server::MptcpDualV4, Place::FinalAck, good(), mapped),
        mptcp("MPTCP, IPv6", Server::MptcpV6, Place::FinalAck, good_v6(), client_v6),
        mptcp("MPTCP, no option", Server::Mptcp, Place::FinalAck, vec![], None),
    ]);
    cases
}

fn malformed() -> Vec<(&'static str, Vec<u8>, Counts)> {
    let (broken, other) = (Counts::Malformed, Counts::WithoutOption);
    let mut cases = vec![
        ("length 0", vec![254, 0, 0x12, 0x34, 203, 0, 113, 7], broken),
        ("length 1", vec![254, 1, 0x12, 0x34, 203, 0, 113, 7], broken),
        ("length 6", vec![254, 6, 0x12, 0x34, 203, 0, 0, 0], other),
        ("length 12", vec![254, 12, 0x12, 0x34, 203, 0, 113, 7, 0, 0, 0, 0], other),
        ("length behind the header", vec![254, 255, 0x12, 0x34, 203, 0, 113, 7], broken),
        ("cut short", vec![254, 8, 0x12, 0x34], broken),
        ("IPv6 form cut short", vec![254, 20, 0x12, 0x34, 203, 0, 113, 7], broken),
        ("kind only, at the end", vec![1, 1, 1, 254], broken),
        ("behind a broken option", [vec![5, 1], toa(254, CLIENT)].concat(), broken),
        ("kind 200 in IPv6 form", toa(200, CLIENT_V6), other),
        // 88 bytes into the header; modulo 64 that is where the first option hides one.
        (
            "an option longer than the header",
            [&[99, 12, 0, 0][..], &toa(254, CLIENT), &[1; 16], &[98, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
                .concat(),
            broken,
        ),
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
        .map(|(name, address)| (name, toa(254, address), Counts::BadAddress)),
    );
    cases
}

/// A file of the vectors: its path, and what is in it.
pub struct Made {
    pub path: String,
    pub bytes: Vec<u8>,
}

/// The index and every pcap file.
pub fn make() -> Vec<Made> {
    let mut files = Vec::new();
    let mut index = Index { trust: TRUST.map(str::to_owned).to_vec(), case: Vec::new() };
    for (case, port) in all().iter().zip(FIRST_PORT..) {
        let path = format!("receivers/{}.pcap", file_name(case.name));
        let (socket, lip, server) = match case.server {
            Server::V6 | Server::MptcpV6 => (Socket::Inet6, LIP_V6, SERVER_V6),
            Server::DualV4 | Server::MptcpDualV4 => (Socket::Inet6, LIP, SERVER),
            Server::Untrusted => (Socket::Inet, LIP_UNTRUSTED, SERVER),
            _ => (Socket::Inet, LIP, SERVER),
        };
        let gateway = SocketAddr::new(lip.parse().unwrap(), port);
        let server = SocketAddr::new(server.parse().unwrap(), SERVER_PORT);
        files.push(Made { path: path.clone(), bytes: pcap::write(&conversation(case, gateway, server)) });
        index.case.push(vector::Case {
            name: case.name.to_owned(),
            file: path,
            socket,
            listener: match case.server {
                Server::Deferred => Listener::DeferAccept,
                Server::Cookies => Listener::SynCookies,
                Server::Mptcp | Server::MptcpDualV4 | Server::MptcpV6 => Listener::Mptcp,
                _ => Listener::Plain,
            },
            then: case.then,
            sees: case.seen.map_or_else(|| as_seen_on(socket, gateway).to_string(), str::to_owned),
            counts: case.counts,
        });
    }
    let text = format!(
        "# What a receiver must show; README.md tells how to play it.\n{}",
        toml::to_string(&index).unwrap()
    );
    files.push(Made { path: "receivers.toml".to_owned(), bytes: text.into_bytes() });
    files
}

/// Letters and digits of a name, with hyphens between words.
fn file_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

/// An IPv6 socket sees an IPv4 peer as a mapped address.
fn as_seen_on(socket: Socket, peer: SocketAddr) -> SocketAddr {
    match peer.ip() {
        IpAddr::V4(v4) if socket == Socket::Inet6 => SocketAddr::new(v4.to_ipv6_mapped().into(), peer.port()),
        _ => peer,
    }
}

/// MPTCP's option MP_CAPABLE (RFC 8684, 3.1) with what follows its flags, which ask for HMAC-SHA256.
pub fn mp_capable(more: &[u8]) -> Vec<u8> {
    [&[30, u8::try_from(4 + more.len()).unwrap(), 1, 1], more].concat()
}

/// The connection as it is on the wire between gateway and server.
fn conversation(case: &Case, gateway: SocketAddr, server: SocketAddr) -> Vec<Vec<u8>> {
    let toa = |place: bool| if place { &case.options[..] } else { &[] };
    let mptcp = |more: &[&[u8]]| match case.client_speaks_mptcp() {
        true => mp_capable(&more.concat()),
        false => Vec::new(),
    };
    let from_gateway = |flags: u8, options: &[u8], data: &[u8]| {
        segment::write(gateway, server, GATEWAY_ISN + 1, SERVER_ISN + 1, flags, options, data)
    };
    let syn_options = [&SYN_OPTIONS, toa(case.place == Place::Syn), &mptcp(&[])].concat();
    let syn_ack_options = [&SYN_OPTIONS[..], &mptcp(&[&SERVER_KEY])].concat();
    let mut packets = vec![
        segment::write(gateway, server, GATEWAY_ISN, 0, SYN, &syn_options, &[]),
        segment::write(server, gateway, SERVER_ISN, GATEWAY_ISN + 1, SYN | ACK, &syn_ack_options, &[]),
    ];
    if case.place != Place::FirstData {
        let keys = mptcp(&[&GATEWAY_KEY, &SERVER_KEY]);
        packets.push(from_gateway(ACK, &[toa(case.place == Place::FinalAck), &keys].concat(), &[]));
    }
    let data = b"hello";
    let data_len = u16::try_from(data.len()).unwrap().to_be_bytes();
    let keys = mptcp(&[&GATEWAY_KEY, &SERVER_KEY, &data_len]);
    let mut options = [toa(case.place != Place::Syn), &keys].concat();
    // Both are too long for one header when the client has an IPv6 address.
    if options.len() > OPTIONS_MAX {
        options = keys;
    }
    packets.push(from_gateway(ACK | PSH, &options, data));
    packets
}
