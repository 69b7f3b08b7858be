//! Segments that reset a connection, written from nothing: RST that ends a connection from between its endpoints, and RST
//! that a closed port answers with (RFC 9293 §3.10.7.1).

use zerocopy::IntoBytes;

use super::{HEADER_LEN, Header, flags};
use crate::icmp::HOPS;
use crate::{Addresses, U16, U32, checksum, ipv4, ipv6};

/// A RST: whom it is from and for, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Addresses of the packet.
    pub addresses: Addresses,
    /// Port of the sender.
    pub src_port: U16,
    /// Port of the receiver.
    pub dst_port: U16,
    /// The number that the receiver expects next; no other counts for sure (RFC 5961 §3.2).
    pub seq: u32,
    /// The number that the sender expects next, if there is one.
    pub ack: Option<u32>,
}

impl Reset {
    /// The answer of a closed port to a segment between these addresses with a payload of so many bytes; `None` to a RST,
    /// which is never answered.
    #[must_use]
    pub const fn answer_to(addresses: &Addresses, segment: &Header, payload_len: u32) -> Option<Self> {
        if segment.has(flags::RST) {
            return None;
        }
        let control = segment.has(flags::SYN) as u32 + segment.has(flags::FIN) as u32;
        let (seq, ack) = if segment.has(flags::ACK) {
            (segment.ack.get(), None)
        } else {
            (0, Some(segment.seq.get().wrapping_add(payload_len).wrapping_add(control)))
        };
        let addresses = match *addresses {
            Addresses::V4 { src, dst } => Addresses::V4 { src: dst, dst: src },
            Addresses::V6 { src, dst } => Addresses::V6 { src: dst, dst: src },
        };
        Some(Self { addresses, src_port: segment.dst_port, dst_port: segment.src_port, seq, ack })
    }

    /// Length of the IP packet in bytes.
    #[must_use]
    pub const fn packet_len(&self) -> usize {
        self.addresses.family().header_len() + HEADER_LEN
    }

    /// Writes the IP packet, checksums included; `None` where `room` is shorter than [`Reset::packet_len`].
    #[must_use]
    pub fn write(&self, room: &mut [u8]) -> Option<()> {
        let (ip, rest) = room.split_at_mut_checked(self.addresses.family().header_len())?;
        let mut segment = self.segment();
        match &self.addresses {
            Addresses::V4 { src, dst } => {
                segment.checksum = checksum::tcp_v4(*src, *dst, segment.as_bytes());
                ip.copy_from_slice(header_v4(*src, *dst).as_bytes());
            }
            Addresses::V6 { src, dst } => {
                segment.checksum = checksum::tcp_v6(src, dst, segment.as_bytes());
                ip.copy_from_slice(header_v6(*src, *dst).as_bytes());
            }
        }
        rest.get_mut(..HEADER_LEN)?.copy_from_slice(segment.as_bytes());
        Some(())
    }

    fn segment(&self) -> Header {
        Header {
            src_port: self.src_port,
            dst_port: self.dst_port,
            seq: U32::new(self.seq),
            ack: U32::new(self.ack.unwrap_or(0)),
            data_offset: (HEADER_LEN as u8 / 4) << 4,
            flags: flags::RST | if self.ack.is_some() { flags::ACK } else { 0 },
            window: U16::ZERO,
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        }
    }
}

fn header_v4(src: U32, dst: U32) -> ipv4::Header {
    let mut header = ipv4::Header {
        version_ihl: 0x45,
        dscp_ecn: 0,
        total_len: U16::new((ipv4::HEADER_LEN + HEADER_LEN) as u16),
        // Not to be fragmented, so it needs no identification (RFC 6864 §4.1).
        id: U16::ZERO,
        flags_fragment: U16::new(ipv4::FLAG_DONT_FRAGMENT),
        ttl: HOPS,
        protocol: ipv4::PROTO_TCP,
        checksum: U16::ZERO,
        src,
        dst,
    };
    header.checksum = checksum::internet(header.as_bytes());
    header
}

fn header_v6(src: [u8; 16], dst: [u8; 16]) -> ipv6::Header {
    ipv6::Header {
        version_class_flow: U32::new(6 << 28),
        payload_len: U16::new(HEADER_LEN as u16),
        next_header: ipv4::PROTO_TCP,
        hop_limit: HOPS,
        src,
        dst,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{IP_DST, IP_SRC, documentation_v6, ethernet, summary};
    use crate::{MacAddr, ethernet as eth};

    const V4: Addresses = Addresses::V4 { src: IP_SRC, dst: IP_DST };

    fn segment(flags: u8) -> Header {
        let reset = Reset {
            addresses: V4,
            src_port: U16::new(40_000),
            dst_port: U16::new(80),
            seq: u32::MAX - 1,
            ack: Some(7),
        };
        Header { flags, ..reset.segment() }
    }

    #[test]
    fn a_closed_port_answers_with_the_number_that_was_acknowledged_or_acknowledges_all() {
        let answer = |flags, len| {
            Reset::answer_to(&V4, &segment(flags), len).map(|reset| (reset.seq, reset.ack, reset.src_port))
        };
        assert_eq!(answer(flags::ACK | flags::PSH, 100), Some((7, None, U16::new(80))));
        assert_eq!(answer(flags::SYN, 0), Some((0, Some(u32::MAX), U16::new(80))));
        assert_eq!(answer(flags::FIN, 10), Some((0, Some(9), U16::new(80))));
        assert_eq!(answer(flags::RST | flags::ACK, 0), None);
    }

    #[test]
    fn both_families_are_written_whole() {
        let (src, dst) = (documentation_v6(1), documentation_v6(2));
        for (addresses, ether_type, wanted) in [
            (V4, eth::ETHERTYPE_IPV4, "192.0.2.1:5 > 198.51.100.1:6 tcp R. seq 9 ack 8 win 0 len 0"),
            (
                Addresses::V6 { src, dst },
                eth::ETHERTYPE_IPV6,
                "[2001:db8::1]:5 > [2001:db8::2]:6 tcp R. seq 9 ack 8 win 0 len 0",
            ),
        ] {
            let reset =
                Reset { addresses, src_port: U16::new(5), dst_port: U16::new(6), seq: 9, ack: Some(8) };
            let mut room = [0xff; 100];
            reset.write(&mut room).unwrap();
            let packet = room[..reset.packet_len()].to_vec();
            assert_eq!(summary(&ethernet(MacAddr::ZERO, MacAddr::ZERO, ether_type, &packet)), wanted);
            assert_eq!(reset.write(&mut room[..reset.packet_len() - 1]), None);
            match addresses {
                Addresses::V4 { src, dst } => {
                    assert!(checksum::verify_ipv4(&packet[..20]));
                    assert!(checksum::verify_tcp_v4(src, dst, &packet[20..]));
                }
                Addresses::V6 { src, dst } => assert!(checksum::verify_tcp_v6(&src, &dst, &packet[40..])),
            }
        }
    }
}
