//! Frames that a script sends, and what is known of them.

use std::net::Ipv4Addr;

use wire::build::TcpFrame;
use wire::tcp::{self, flags};
use wire::{HeapBuf, MacAddr, U16, U32, ethernet, ipv4, view};

use super::{CLIENT_SIDE, SERVER_SIDE};
use crate::script::Script;

pub(super) const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);
pub(super) const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub(super) const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 9), Ipv4Addr::new(10, 1, 0, 10)];
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
pub(super) const LIP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 200);
pub(super) const REALS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 2, 0, 11), Ipv4Addr::new(10, 2, 0, 12)];
pub(super) const VPORT: u16 = 80;
pub(super) const RPORT: u16 = 8080;
pub(super) const TOA_KIND: u8 = 254;

/// Sequence numbers start shortly before they wrap.
const ISN: u32 = u32::MAX - 40;

/// One frame on its way to the engine.
#[derive(Debug)]
pub(super) struct Sent {
    pub frame: Vec<u8>,
    pub from_clients: bool,
    /// Whether its checksums are right, so that they must be afterwards.
    pub whole: bool,
    /// Of a connection of [`super::mixed`].
    pub mixed: bool,
    room: usize,
}

/// The parts of a frame that is TCP over IPv4.
pub(super) struct Parts<'a> {
    pub ip: &'a ipv4::Header,
    pub ip_bytes: &'a [u8],
    pub tcp: &'a tcp::Header,
    pub segment: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn of(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(ethernet::HEADER_LEN..)?;
        let ip: &ipv4::Header = view(packet, 0)?;
        let len = ip.check(packet.len()).ok()?;
        let ip_bytes = packet.get(..ip.header_len())?;
        let segment = packet.get(ip.header_len()..usize::from(ip.total_len.get()))?;
        let tcp: &tcp::Header = view(segment, 0)?;
        assert!(len <= packet.len());
        (ip.protocol == ipv4::PROTO_TCP).then_some(Self { ip, ip_bytes, tcp, segment })
    }

    pub(super) fn options(&self) -> &'a [u8] {
        tcp::options_of(self.segment).unwrap_or_default()
    }

    pub(super) fn payload(&self) -> &'a [u8] {
        self.segment.get(self.tcp.header_len()..).unwrap_or_default()
    }
}

impl Sent {
    /// Any bytes, addressed to us so that they get past the first check, or not.
    pub(super) fn raw(how: u8, bytes: &[u8]) -> Self {
        let mut frame = bytes.to_vec();
        if how & 2 == 0 && frame.len() >= 6 {
            frame[..6].copy_from_slice(&GATEWAY_MAC.0);
        }
        Self { frame, from_clients: how & 1 == 0, whole: false, mixed: true, room: usize::from(how >> 2) * 4 }
    }

    pub(super) fn from_client(who: u8, flags: u8, script: &mut Script<'_>) -> Self {
        let client = CLIENTS[usize::from(who & 1)];
        let port = 5000 + u16::from(who >> 1 & 7);
        let dst_port = if who & 0x10 == 0 { VPORT } else { VPORT + 1 };
        Self::segment(true, (client, port), (VIP, dst_port), flags, script)
    }

    pub(super) fn from_real(who: u8, local_port: u16, flags: u8, script: &mut Script<'_>) -> Self {
        let real = REALS[usize::from(who & 1)];
        Self::segment(false, (real, RPORT), (LIP, local_port), flags, script)
    }

    fn segment(
        from_clients: bool,
        from: (Ipv4Addr, u16),
        to: (Ipv4Addr, u16),
        flags: u8,
        script: &mut Script<'_>,
    ) -> Self {
        let shape = script.byte();
        let first = if flags & flags::SYN == 0 { ISN.wrapping_add(1) } else { ISN };
        let mut frame = TcpFrame {
            eth_dst: GATEWAY_MAC,
            eth_src: PEER_MAC,
            src: ipv4::addr(from.0),
            dst: ipv4::addr(to.0),
            src_port: U16::new(from.1),
            dst_port: U16::new(to.1),
            seq: U32::new(first.wrapping_add(u32::from(script.byte()))),
            ack: U32::new(ISN.wrapping_add(u32::from(script.byte()))),
            flags,
            pad: shape & 1 == 0,
            ..TcpFrame::default()
        };
        if shape & 2 != 0 {
            frame.options = script.bytes().to_vec();
        }
        if shape & 4 != 0 {
            frame.payload = script.bytes().to_vec();
        }
        if shape & 8 != 0 {
            // Around the MTU of 1500, where there may be no room for the option.
            frame.payload.resize(1400 + usize::from(script.byte()) % 80, 0x55);
        }
        if shape & 0x10 != 0 {
            frame.ttl = script.byte();
        }
        if shape & 0x20 != 0 {
            frame.flags_fragment = U16::new(script.word());
        }
        if shape & 0x40 != 0 {
            (frame.seq, frame.ack) = (wild(script), wild(script));
        }
        let room = if shape & 0x80 == 0 { 128 } else { usize::from(script.byte() & 15) };
        Self { frame: frame.to_vec(), from_clients, whole: true, mixed: false, room }
    }

    pub(super) fn mixed(from_clients: bool, frame: Vec<u8>, script: &mut Script<'_>) -> Self {
        let room = if script.byte() < 0xe0 { 128 } else { usize::from(script.byte() & 63) };
        Self { frame, from_clients, whole: true, mixed: true, room }
    }

    /// One byte changed, or the end cut off.
    pub(super) fn spoilt(mut self, how: u8, at: u16, value: u8) -> Self {
        let at = usize::from(at) % self.frame.len().max(1);
        if how & 2 == 0 {
            self.frame[at] ^= value;
        } else {
            self.frame.truncate(at);
        }
        self.whole = false;
        self
    }

    pub(super) fn packet(&self) -> HeapBuf {
        let port = if self.from_clients { CLIENT_SIDE } else { SERVER_SIDE };
        HeapBuf::with_room(&self.frame, self.room, self.room).on_port(port.0)
    }
}

fn wild(script: &mut Script<'_>) -> U32 {
    U32::from_bytes([script.byte(), script.byte(), script.byte(), script.byte()])
}
