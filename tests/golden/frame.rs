//! Frames of one connection as they enter and as they must leave: the oracle.
//!
//! What leaves is put together from scratch out of what a case says, with checksums over the whole segment. Nothing of
//! the engine's translation is used, so a frame that equals it byte for byte is right.

use std::net::Ipv4Addr;

use wire::build::{Ipv4Base, TcpFrame, icmp_error_frame};
use wire::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use wire::{MacAddr, U16, U32, checksum, ipv4};

/// What net_pcap calls the first and the second port of a process.
pub(crate) const WAN_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x00]);
pub(crate) const LAN_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x01]);
pub(crate) const CLIENT_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 1, 0x11]);
pub(crate) const REAL_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 2, 0x11]);

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
pub(crate) const LIP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 200);
pub(crate) const RIP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);

/// Sequence numbers of the two sides' SYNs.
pub(crate) const CLIENT_ISN: u32 = 1_000;
pub(crate) const REAL_ISN: u32 = 0xffff_fff0;

/// A port of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Port {
    Wan,
    Lan,
}

impl Port {
    pub(crate) const ALL: [Port; 2] = [Port::Wan, Port::Lan];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Port::Wan => "wan",
            Port::Lan => "lan",
        }
    }
}

/// A frame at a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame {
    pub(crate) port: Port,
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    /// With other bytes.
    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Frame {
        change(&mut self.bytes);
        self
    }

    /// With one bit flipped that no checksum was told of.
    pub(crate) fn flipped(self, at: usize) -> Frame {
        self.edit(|bytes| bytes[at] ^= 0x20)
    }

    /// With IP options behind the fixed IP header.
    pub(crate) fn with_ip_options(self, options: &[u8]) -> Frame {
        assert!(options.len().is_multiple_of(4));
        self.edit(|bytes| {
            bytes.splice(34..34, options.iter().copied());
            bytes[14] += (options.len() / 4) as u8;
            let total_len = u16::from_be_bytes([bytes[16], bytes[17]]) + options.len() as u16;
            bytes[16..18].copy_from_slice(&total_len.to_be_bytes());
        })
        .with_ip_checksum()
    }

    /// With the IP checksum right again.
    pub(crate) fn with_ip_checksum(self) -> Frame {
        self.edit(|bytes| {
            let end = 14 + usize::from(bytes[14] & 0x0f) * 4;
            bytes[24..26].fill(0);
            let sum = checksum::internet(&bytes[14..end]);
            bytes[24..26].copy_from_slice(&sum.to_bytes());
        })
    }
}

/// A TCP segment without its endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Seg {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
    /// Zeros behind the IP packet.
    pub(crate) tail: usize,
}

pub(crate) fn seg(flags: u8, seq: u32, ack: u32) -> Seg {
    let (options, payload) = (Vec::new(), Vec::new());
    Seg { flags, seq, ack, window: 65_535, options, payload, ttl: 64, dont_fragment: true, tail: 0 }
}

/// The client's SYN, with MSS 1460.
pub(crate) fn syn() -> Seg {
    seg(SYN, CLIENT_ISN, 0).options(&mss(1460))
}

/// The real server's SYN-ACK, with MSS 1460.
pub(crate) fn syn_ack() -> Seg {
    seg(SYN | ACK, REAL_ISN, CLIENT_ISN + 1).options(&mss(1460))
}

/// The client has sent `sent` bytes and received `received`.
pub(crate) fn client_ack(sent: u32, received: u32) -> Seg {
    seg(ACK, CLIENT_ISN + 1 + sent, REAL_ISN.wrapping_add(1 + received))
}

/// The real server has sent `sent` bytes and received `received`.
pub(crate) fn real_ack(sent: u32, received: u32) -> Seg {
    seg(ACK, REAL_ISN.wrapping_add(1 + sent), CLIENT_ISN + 1 + received)
}

/// The MSS option.
pub(crate) fn mss(value: u16) -> [u8; 4] {
    let [a, b] = value.to_be_bytes();
    [2, 4, a, b]
}

/// Two NOPs and timestamps, as stacks send them.
pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10], &value.to_be_bytes()[..], &echo.to_be_bytes()].concat()
}

/// NOPs.
pub(crate) fn nops(len: usize) -> Vec<u8> {
    vec![1; len]
}

impl Seg {
    pub(crate) fn options(mut self, options: &[u8]) -> Seg {
        self.options = options.to_vec();
        self
    }

    /// With `option` in front of what options there are.
    pub(crate) fn with_first(mut self, option: &[u8]) -> Seg {
        self.options.splice(0..0, option.iter().copied());
        self
    }

    /// With that many bytes to carry.
    pub(crate) fn payload(mut self, len: usize) -> Seg {
        self.payload = (0..len).map(|n| (n * 7 + 3) as u8).collect();
        if len > 0 {
            self.flags |= PSH;
        }
        self
    }

    pub(crate) fn fin(mut self) -> Seg {
        self.flags |= FIN;
        self
    }

    pub(crate) fn rst(mut self) -> Seg {
        self.flags |= RST;
        self
    }

    pub(crate) fn flags(mut self, flags: u8) -> Seg {
        self.flags = flags;
        self
    }

    pub(crate) fn seq(mut self, seq: u32) -> Seg {
        self.seq = seq;
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Seg {
        self.ttl = ttl;
        self
    }

    pub(crate) fn may_fragment(mut self) -> Seg {
        self.dont_fragment = false;
        self
    }

    /// With zeros behind the IP packet.
    pub(crate) fn tail(mut self, len: usize) -> Seg {
        self.tail = len;
        self
    }
}

/// The four endpoints of a connection, and the service's options that its frames depend on.
#[derive(Debug, Clone)]
pub(crate) struct Conn {
    pub(crate) client: (Ipv4Addr, u16),
    pub(crate) virtual_: (Ipv4Addr, u16),
    pub(crate) local: (Ipv4Addr, u16),
    pub(crate) real: (Ipv4Addr, u16),
}

type End = (MacAddr, (Ipv4Addr, u16));

impl Conn {
    /// The `n`th connection of the case with this number. No two have a port in common.
    pub(crate) fn new(case: u16, n: u16) -> Conn {
        let id = case * 10 + n;
        Conn {
            client: (CLIENT, 40_000 + id),
            virtual_: (VIP, 1_000 + id),
            local: (LIP, Conn::local_port(case, n)),
            real: (RIP, 8_000 + id),
        }
    }

    /// The first of its two local ports; the second one is there only when there are two workers.
    pub(crate) fn local_port(case: u16, n: u16) -> u16 {
        20_000 + 2 * (case * 10 + n)
    }

    pub(crate) fn client_sends(&self, seg: &Seg) -> Frame {
        frame(Port::Wan, (CLIENT_MAC, self.client), (WAN_MAC, self.virtual_), seg)
    }

    pub(crate) fn client_gets(&self, seg: &Seg) -> Frame {
        frame(Port::Wan, (WAN_MAC, self.virtual_), (CLIENT_MAC, self.client), &routed(seg))
    }

    pub(crate) fn real_sends(&self, seg: &Seg) -> Frame {
        frame(Port::Lan, (REAL_MAC, self.real), (LAN_MAC, self.local), seg)
    }

    pub(crate) fn real_gets(&self, seg: &Seg) -> Frame {
        frame(Port::Lan, (LAN_MAC, self.local), (REAL_MAC, self.real), &routed(seg))
    }

    /// The option that tells the client's address: kind, length, port, address.
    pub(crate) fn toa(&self, kind: u8) -> [u8; 8] {
        let (port, ip) = (self.client.1.to_be_bytes(), self.client.0.octets());
        [kind, 8, port[0], port[1], ip[0], ip[1], ip[2], ip[3]]
    }
}

/// A router has passed it on.
fn routed(seg: &Seg) -> Seg {
    seg.clone().ttl(seg.ttl - 1)
}

fn frame(port: Port, (eth_src, src): End, (eth_dst, dst): End, seg: &Seg) -> Frame {
    assert!(seg.options.len().is_multiple_of(4), "{seg:?}");
    let tcp = TcpFrame {
        eth_dst,
        eth_src,
        src: ipv4::addr(src.0),
        dst: ipv4::addr(dst.0),
        src_port: U16::new(src.1),
        dst_port: U16::new(dst.1),
        seq: U32::new(seg.seq),
        ack: U32::new(seg.ack),
        flags: seg.flags,
        window: U16::new(seg.window),
        options: seg.options.clone(),
        payload: seg.payload.clone(),
        ttl: seg.ttl,
        id: U16::new(0x1234),
        flags_fragment: U16::new(if seg.dont_fragment { ipv4::FLAG_DONT_FRAGMENT } else { 0 }),
        ..TcpFrame::default()
    };
    let mut bytes = tcp.to_vec();
    bytes.resize(bytes.len() + seg.tail, 0);
    Frame { port, bytes }
}

/// The gateway's ICMP error about a frame: back to where it came from, from the address it was sent to.
pub(crate) fn icmp_error(about: &Frame, kind: u8, code: u8, rest: u32) -> Frame {
    let b = &about.bytes;
    let mac = |at: usize| MacAddr([b[at], b[at + 1], b[at + 2], b[at + 3], b[at + 4], b[at + 5]]);
    let ip = |at: usize| ipv4::addr(Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3]));
    let base = Ipv4Base {
        eth_dst: mac(6),
        eth_src: mac(0),
        src: ip(30),
        dst: ip(26),
        flags_fragment: U16::ZERO,
        ..Ipv4Base::default()
    };
    let bytes = icmp_error_frame(base, (kind, code, U32::new(rest)), &b[14..]).unwrap_or_default();
    Frame { port: about.port, bytes }
}
