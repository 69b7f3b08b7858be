//! The real server's end of mode TUN's tunnels, for kernels that have none: takes packets out of IPIP, GRE and
//! GUE, over IPv4 and IPv6, and lets them come in by a veth of the same namespace.
//!
//! `tollgate-decap INTO OUT_OF PORT`: frames are sent into the veth end INTO and received from its peer OUT_OF;
//! PORT is that of GUE. Says `ready` when it listens, and runs until it is ended.
//!
//! Formats: RFC 2003, RFC 2473 and RFC 4213 (IP in IP), RFC 2784 (GRE), draft-ietf-intarea-gue (GUE, variant
//! 0).
#![forbid(unsafe_code)]

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tollgate_tests::frames::{self, FrameSender};

const PROTO_IPV4: u8 = 4;
const PROTO_IPV6: u8 = 41;
const PROTO_GRE: u8 = 47;
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// GRE: a checksum and two reserved bytes follow.
const GRE_CHECKSUM: u8 = 0x80;

/// What a socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    /// The inner packet.
    Ip,
    Gre,
    Gue,
    /// UDP to this port without a checksum, and in it GUE.
    UdpUnsummed(u16),
}

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate-decap: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let [into, out_of, port] = args else { bail!("wanted: INTO OUT_OF PORT") };
    let port = port.parse().with_context(|| format!("`{port}` is no UDP port"))?;
    let header = [frames::mac(out_of)?, frames::mac(into)?].concat();
    let sender = FrameSender::open(into)?;
    let (inner, received) = channel();
    for domain in [Domain::IPV4, Domain::IPV6] {
        for protocol in [PROTO_IPV4, PROTO_IPV6, PROTO_GRE] {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
            let payload = if protocol == PROTO_GRE { Payload::Gre } else { Payload::Ip };
            listen(socket, payload, domain == Domain::IPV4, inner.clone());
        }
    }
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    listen(socket, Payload::Gue, false, inner.clone());
    // Over IPv6 that socket gets nothing without a checksum, which tunnels may leave out (RFC 6935).
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::UDP))?;
    listen(socket, Payload::UdpUnsummed(port), false, inner);
    println!("ready");
    for packet in received {
        let ether_type = if packet[0] >> 4 == 6 { ETHER_TYPE_IPV6 } else { ETHER_TYPE_IPV4 };
        sender.send(&[&header[..], &ether_type, &packet].concat())?;
    }
    bail!("every socket has failed")
}

/// Passes on what is in the packets that come to a socket. `headed`: they come with their IPv4 header.
fn listen(mut socket: Socket, payload: Payload, headed: bool, inner: Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut room = vec![0; usize::from(u16::MAX)];
        loop {
            let packet = match socket.read(&mut room) {
                Ok(len) => &room[..len],
                // A pending ICMP error about nothing that this sent.
                Err(error) => {
                    eprintln!("tollgate-decap: {payload:?}: {error}");
                    continue;
                }
            };
            let outer = if headed { ipv4_payload(packet) } else { Some(packet) };
            match outer.and_then(|outer| unwrap(payload, outer)) {
                Some(packet) if inner.send(packet.to_vec()).is_err() => return,
                Some(_) => {}
                None if matches!(payload, Payload::UdpUnsummed(_)) => {}
                None => eprintln!("tollgate-decap: {payload:?}: not understood: {packet:02x?}"),
            }
        }
    });
}

fn ipv4_payload(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0x0f) * 4..)
}

/// The packet in a tunnel's payload; `None` for whatever is not as it must be.
fn unwrap(payload: Payload, outer: &[u8]) -> Option<&[u8]> {
    let (inner, version) = match payload {
        Payload::Ip => (outer, None),
        Payload::Gre => {
            let (flags, ether_type) = (outer.get(..2)?, outer.get(2..4)?);
            let summed = flags[0] == GRE_CHECKSUM;
            if flags[1] != 0 || flags[0] & !GRE_CHECKSUM != 0 || (summed && sum(outer) != 0xffff) {
                return None;
            }
            let version =
                [(ETHER_TYPE_IPV4, 4), (ETHER_TYPE_IPV6, 6)].into_iter().find(|e| e.0 == ether_type)?.1;
            (outer.get(if summed { 8 } else { 4 }..)?, Some(version))
        }
        Payload::UdpUnsummed(port) => {
            let ours = outer.get(2..4)? == port.to_be_bytes() && outer.get(6..8)? == [0, 0];
            return if ours { unwrap(Payload::Gue, outer.get(8..)?) } else { None };
        }
        Payload::Gue => {
            // Variant 0, no control message; the low bits count words of options.
            let words = outer.first().filter(|first| **first < 0x20)?;
            let version =
                [(PROTO_IPV4, 4), (PROTO_IPV6, 6)].into_iter().find(|p| Some(&p.0) == outer.get(1))?.1;
            (outer.get(4 + usize::from(*words) * 4..)?, Some(version))
        }
    };
    let found = inner.first()? >> 4;
    (found == version.unwrap_or(found) && (found == 4 || found == 6)).then_some(inner)
}

/// The one's complement sum of RFC 1071; 0xffff over whatever contains its own checksum.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: [u8; 3] = [0x45, 1, 2];
    const IPV6: [u8; 3] = [0x60, 1, 2];

    #[test]
    fn every_kind_of_tunnel_is_opened() {
        assert_eq!(unwrap(Payload::Ip, &IPV4), Some(&IPV4[..]));
        assert_eq!(unwrap(Payload::Gre, &[0, 0, 0x86, 0xdd, 0x60, 1, 2]), Some(&IPV6[..]));
        assert_eq!(unwrap(Payload::Gue, &[0, 4, 0, 0, 0x45, 1, 2]), Some(&IPV4[..]));
        let udp = [9, 9, 0x17, 0xc0, 0, 15, 0, 0, 0, 4, 0, 0, 0x45, 1, 2];
        assert_eq!(unwrap(Payload::UdpUnsummed(6080), &udp), Some(&IPV4[..]));
        assert_eq!(unwrap(Payload::UdpUnsummed(6081), &udp), None);
        assert_eq!(unwrap(Payload::Gue, &[1, 41, 0, 0, 9, 9, 9, 9, 0x60, 1, 2]), Some(&IPV6[..]));
    }

    #[test]
    fn a_wrong_gre_checksum_is_refused() {
        // The sum of 8000, 0800, 4501 and 0200 is cf01.
        let mut outer = [0x80, 0, 0x08, 0, 0x30, 0xfe, 0, 0, 0x45, 1, 2];
        assert_eq!(unwrap(Payload::Gre, &outer), Some(&IPV4[..]));
        outer[9] = 2;
        assert_eq!(unwrap(Payload::Gre, &outer), None);
    }

    #[test]
    fn what_is_cut_or_names_another_protocol_is_refused() {
        for outer in [&[][..], &[0], &[0, 0, 8], &[0, 0, 8, 0], &[0, 0, 8, 0, 0x60], &[0, 0, 8, 6, 0x45]] {
            assert_eq!(unwrap(Payload::Gre, outer), None);
        }
        for outer in [&[][..], &[0], &[0, 4, 0, 0], &[0, 6, 0, 0, 0x45], &[0x20, 4, 0, 0, 0x45]] {
            assert_eq!(unwrap(Payload::Gue, outer), None);
        }
    }
}
