//! Both ends of short TCP connections without any memory of them: the answer to a segment follows from the segment.
//!
//! ```text
//! client   SYN          ACK, request                        ACK   FIN
//! real            SYN-ACK            response, FIN                      ACK
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use arrayvec::ArrayVec;
use wire::tcp::flags::{ACK, FIN, PSH, SYN};
use wire::{U32, checksum, ethernet, ipv4, tcp};

use crate::flows::{DATA_MAC, Flows};

/// Bytes of payload of requests and responses.
const PAYLOAD_LEN: usize = 64;
/// Length of a segment's frame without payload.
const HEADERS_LEN: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + tcp::HEADER_LEN;
/// Shortest frame without the FCS.
const FRAME_LEN_MIN: usize = 60;
const IP_AT: usize = ethernet::HEADER_LEN;
/// Where these bytes come from is not looked at by anybody.
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const CLIENT_ISN: u32 = 1000;
const REAL_ISN: u32 = 5000;
const TTL: u8 = 64;

/// A segment to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    src: SocketAddrV4,
    dst: SocketAddrV4,
    seq: u32,
    ack: u32,
    flags: u8,
    payload_len: usize,
}

/// What follows from a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// To be sent, in this order.
    pub(super) segments: ArrayVec<Segment, 2>,
    /// Whether it was the connection's last one.
    pub(super) is_last: bool,
}

/// A segment that was received.
#[derive(Debug, Clone, Copy)]
struct Seen {
    src: SocketAddrV4,
    dst: SocketAddrV4,
    seq: u32,
    ack: u32,
    flags: u8,
    payload_len: u32,
}

/// The SYN of the n-th client.
pub(super) fn first(flows: &Flows, n: u32) -> Segment {
    let v4 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, address.port()),
        IpAddr::V6(_) => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, address.port()),
    };
    Segment {
        src: v4(flows.client(n)),
        dst: v4(flows.vip()),
        seq: CLIENT_ISN,
        ack: 0,
        flags: SYN,
        payload_len: 0,
    }
}

/// What a client or a real server, whichever the frame is for, answers to it.
pub(super) fn answer(frame: &[u8]) -> Step {
    let Some(seen) = parse(frame) else { return Step::default() };
    let reply =
        |flags, seq, ack, payload_len| Segment { src: seen.dst, dst: seen.src, seq, ack, flags, payload_len };
    let has = |flag| seen.flags & flag != 0;
    let after = seen.seq.wrapping_add(seen.payload_len);
    let mut step = Step::default();
    if Flows::is_client(*seen.dst.ip()) {
        if has(SYN) {
            let expected = seen.seq.wrapping_add(1);
            step.segments.push(reply(ACK, seen.ack, expected, 0));
            step.segments.push(reply(ACK | PSH, seen.ack, expected, PAYLOAD_LEN));
        } else if has(FIN) {
            step.segments.push(reply(ACK | FIN, seen.ack, after.wrapping_add(1), 0));
        } else if seen.payload_len > 0 {
            step.segments.push(reply(ACK, seen.ack, after, 0));
        } else {
            step.is_last = true;
        }
    } else if has(SYN) {
        step.segments.push(reply(SYN | ACK, REAL_ISN, seen.seq.wrapping_add(1), 0));
    } else if has(FIN) {
        step.segments.push(reply(ACK, seen.ack, after.wrapping_add(1), 0));
    } else if seen.payload_len > 0 {
        step.segments.push(reply(ACK | PSH, seen.ack, after, PAYLOAD_LEN));
        step.segments.push(reply(ACK | FIN, seen.ack.wrapping_add(PAYLOAD_LEN as u32), after, 0));
    }
    step
}

impl Segment {
    /// Its frame, with right checksums.
    pub(super) fn frame(&self) -> ArrayVec<u8, { HEADERS_LEN + PAYLOAD_LEN }> {
        let mut bytes = ArrayVec::from([0; HEADERS_LEN + PAYLOAD_LEN]);
        let end = HEADERS_LEN + self.payload_len;
        let total_len = (end - IP_AT) as u16;
        put(&mut bytes, 0, &DATA_MAC.0);
        put(&mut bytes, 6, &OWN_MAC);
        put(&mut bytes, 12, &[8, 0, 0x45, 0]);
        put(&mut bytes, IP_AT + 2, &total_len.to_be_bytes());
        put(&mut bytes, IP_AT + 8, &[TTL, ipv4::PROTO_TCP]);
        put(&mut bytes, IP_AT + 12, &self.src.ip().octets());
        put(&mut bytes, IP_AT + 16, &self.dst.ip().octets());
        let tcp_at = IP_AT + ipv4::HEADER_LEN;
        put(&mut bytes, tcp_at, &self.src.port().to_be_bytes());
        put(&mut bytes, tcp_at + 2, &self.dst.port().to_be_bytes());
        put(&mut bytes, tcp_at + 4, &self.seq.to_be_bytes());
        put(&mut bytes, tcp_at + 8, &self.ack.to_be_bytes());
        put(&mut bytes, tcp_at + 12, &[0x50, self.flags, 0xff, 0xff]);
        let header = checksum::internet(&bytes[IP_AT..tcp_at]).get();
        put(&mut bytes, IP_AT + 10, &header.to_be_bytes());
        let (src, dst) = (U32::new(u32::from(*self.src.ip())), U32::new(u32::from(*self.dst.ip())));
        let segment = checksum::tcp_v4(src, dst, &bytes[tcp_at..end]).get();
        put(&mut bytes, tcp_at + 16, &segment.to_be_bytes());
        bytes.truncate(end.max(FRAME_LEN_MIN));
        bytes
    }
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// Reads an IPv4 frame with TCP in it.
fn parse(frame: &[u8]) -> Option<Seen> {
    let packet = frame.get(IP_AT..)?;
    if frame.get(12..14)? != [8, 0] || *packet.get(9)? != ipv4::PROTO_TCP {
        return None;
    }
    let ip_len = usize::from(packet.first()? & 0xf) * 4;
    let total_len = usize::from(u16_at(packet, 2)?);
    let segment = packet.get(ip_len..total_len)?;
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    let endpoint =
        |ip_at, port_at| Some(SocketAddrV4::new(u32_at(packet, ip_at)?.into(), u16_at(segment, port_at)?));
    Some(Seen {
        src: endpoint(12, 0)?,
        dst: endpoint(16, 2)?,
        seq: u32_at(segment, 4)?,
        ack: u32_at(segment, 8)?,
        flags: *segment.get(13)?,
        payload_len: segment.len().checked_sub(header_len)? as u32,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_without_a_gateway_between_ends_after_nine_segments() {
        let flows = super::super::conversation_flows().unwrap();
        // The real server stands in for the VIP: nothing is translated.
        let mut wire = vec![first(&flows, 7)];
        let (mut sent, mut last) = (0, 0);
        while let Some(segment) = (!wire.is_empty()).then(|| wire.remove(0)) {
            sent += 1;
            assert!(sent < 20, "it does not end");
            let frame = segment.frame();
            let packet = &frame[IP_AT..];
            assert!(checksum::verify_ipv4(&packet[..20]));
            let total_len = usize::from(u16_at(packet, 2).unwrap());
            let (src, dst) = (U32::new((*segment.src.ip()).into()), U32::new((*segment.dst.ip()).into()));
            assert!(checksum::verify_tcp_v4(src, dst, &packet[20..total_len]));
            let step = answer(&frame);
            wire.extend(step.segments);
            last += u32::from(step.is_last);
        }
        assert_eq!((sent, last), (9, 1));
    }

    #[test]
    fn nothing_is_answered_to_what_is_no_whole_tcp_segment() {
        let frame = first(&super::super::conversation_flows().unwrap(), 0).frame();
        for len in 0..HEADERS_LEN {
            assert_eq!(answer(&frame[..len]), Step::default());
        }
    }
}
