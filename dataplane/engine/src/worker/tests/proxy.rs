//! Real servers that are told their clients by the PROXY protocol.

use std::net::SocketAddr;

use wire::build::fragments_v4;
use wire::proxy::{self, Version};

use super::families::{Case, Packet};
use super::*;
use crate::conn::Stage;
use crate::tcp::later;

/// Length of version 2's header over IPv4.
const LEN: u32 = 28;

fn spec(version: Version) -> ServiceSpec {
    let mut spec = service(&[(REAL, 1)]);
    spec.options.proxy = Some(version);
    spec
}

fn rig() -> Rig {
    Rig::with(1000, spec(Version::V2))
}

fn header() -> Vec<u8> {
    let ends = [(CLIENT, 5555), (VIP, 80)].map(SocketAddr::from);
    proxy::encode(Version::V2, ends[0], ends[1]).as_bytes().to_vec()
}

fn data(payload: &[u8]) -> TcpFrame {
    TcpFrame { payload: payload.to_vec(), ..from_client(5555) }
}

/// The real server acknowledges so many bytes of what it gets.
fn acked(lport: u16, bytes: u32) -> TcpFrame {
    TcpFrame { ack: U32::new(CLIENT_ISN + 1 + bytes), ..from_real(lport) }
}

/// The connection, its header acknowledged.
fn told(rig: &mut Rig) -> u16 {
    let lport = rig.open(5555);
    rig.outbound(&acked(lport, LEN));
    lport
}

#[test]
fn the_handshakes_ack_carries_the_header_and_what_follows_stands_behind_it() {
    let mut rig = rig();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    let back = rig.outbound(&syn_ack(lport));
    assert_eq!(options::mss(&back.options), Some(1460 - 28));
    assert_eq!(back.header.window.get(), syn_ack(lport).window.get() - 28);
    let first = rig.inbound(&ack(5555));
    assert_eq!((first.header.seq.get(), &first.payload, first.toa()), (CLIENT_ISN + 1, &header(), None));
    let back = rig.outbound(&acked(lport, LEN));
    assert_eq!((back.header.ack.get(), back.header.window), (CLIENT_ISN + 1, from_real(lport).window));
    let next = rig.inbound(&data(b"GET"));
    assert_eq!((next.header.seq.get(), &next.payload[..]), (CLIENT_ISN + 1 + LEN, &b"GET"[..]));
    let back = rig.outbound(&acked(lport, LEN + 3));
    assert_eq!(back.header.ack.get(), CLIENT_ISN + 4);
    assert_eq!(rig.event(Counter::ProxyInserted), 1);
}

/// What was late of a connection that had the same endpoints.
#[test]
fn an_acknowledgement_of_what_no_client_sent_acknowledges_no_header() {
    let mut rig = rig();
    let lport = rig.open(5555);
    rig.outbound(&acked(lport, 200_000_000));
    let whole = [&header()[..], b"GET"].concat();
    assert_eq!(rig.inbound(&data(b"GET")).payload, whole);
    rig.outbound(&acked(lport, LEN + 3));
    assert_eq!(rig.inbound(&TcpFrame { seq: U32::new(CLIENT_ISN + 4), ..data(b" /") }).payload, b" /");
}

#[test]
fn what_begins_the_stream_carries_the_header_until_that_is_acknowledged() {
    let mut rig = rig();
    let lport = rig.open(5555);
    let whole = [&header()[..], b"GET"].concat();
    for _ in 0..2 {
        let first = rig.inbound(&data(b"GET"));
        assert_eq!((first.header.seq.get(), &first.payload), (CLIENT_ISN + 1, &whole));
    }
    // A second segment stands where it belongs, and so does a FIN.
    let second = rig.inbound(&TcpFrame { seq: U32::new(CLIENT_ISN + 4), ..data(b" /") });
    assert_eq!((second.header.seq.get(), &second.payload[..]), (CLIENT_ISN + 4 + LEN, &b" /"[..]));
    for (bytes, carries) in [(0, true), (LEN - 1, true), (LEN, false)] {
        let back = rig.outbound(&acked(lport, bytes));
        assert_eq!(back.header.ack.get(), CLIENT_ISN + 1);
        assert_eq!(back.header.window.get(), from_real(lport).window.get() - (LEN - bytes) as u16);
        assert_eq!(rig.inbound(&data(b"GET")).payload == whole, carries, "{bytes}");
    }
    let fin = rig.inbound(&TcpFrame {
        flags: flags::FIN | flags::ACK,
        seq: U32::new(CLIENT_ISN + 6),
        ..from_client(5555)
    });
    assert_eq!(fin.header.seq.get(), CLIENT_ISN + 6 + LEN);
}

#[test]
fn a_corrupt_acknowledgement_ends_nothing() {
    let mut rig = rig();
    let lport = rig.open(5555);
    let mut frame = acked(lport, LEN).to_vec();
    frame[50] ^= 1;
    rig.send(SERVER_SIDE, &frame);
    assert_eq!(rig.inbound(&ack(5555)).payload, header());
}

#[test]
fn resets_and_probes_carry_no_header() {
    let mut rig = rig();
    rig.open(5555);
    let probe = rig.inbound(&TcpFrame { seq: U32::new(CLIENT_ISN), ..data(b"x") });
    assert_eq!((probe.header.seq.get(), &probe.payload[..]), (CLIENT_ISN, &b"x"[..]));
    let reset = rig.inbound(&TcpFrame { flags: flags::RST | flags::ACK, ..from_client(5555) });
    assert_eq!((reset.header.seq.get(), reset.payload.len()), (CLIENT_ISN + 1 + LEN, 0));
    assert_eq!(rig.states(), [ConnState::Close]);
}

#[test]
fn nothing_of_the_header_is_selectively_acknowledged_to_the_client() {
    let mut rig = rig();
    let lport = rig.open(5555);
    let edge = |n: u32| (CLIENT_ISN + 1 + n).to_be_bytes();
    let sack = |edges: &[u32]| {
        let mut option = vec![1, 1, options::KIND_SACK, 2 + 4 * edges.len() as u8];
        edges.iter().for_each(|n| option.extend(edge(*n)));
        TcpFrame { options: option, ..acked(lport, LEN) }
    };
    // The header came twice (RFC 2883).
    let back = rig.outbound(&sack(&[0, LEN]));
    assert_eq!(back.options, [1; 12]);
    // The same, and a hole in front of what came of the data.
    let back = rig.outbound(&sack(&[0, LEN, LEN + 50, LEN + 100]));
    let kept = [&[1, 1, options::KIND_SACK, 10][..], &edge(50), &edge(100), &[1; 8]].concat();
    assert_eq!(back.options, kept);
}

#[test]
fn data_on_a_syn_cannot_stand_in_front_of_the_header() {
    let mut rig = rig();
    let forged = TcpFrame { payload: b"PROXY UNKNOWN\r\n".to_vec(), ..syn(5555) };
    assert_eq!(rig.send(CLIENT_SIDE, &forged.to_vec()).0, Verdict::Drop(DropReason::SynData));
    let open = TcpFrame { options: vec![options::KIND_FAST_OPEN, 2, 1, 1], ..syn(5555) };
    assert_eq!(rig.inbound(&open).options, [1; 4]);
}

#[test]
fn what_has_no_room_for_the_header_waits_for_a_shorter_one() {
    let mut rig = rig();
    rig.open(5555);
    let (verdict, out) = rig.send(CLIENT_SIDE, &data(&[7; 1460]).to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let error: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((error.code, error.rest.get()), (icmp::CODE_FRAGMENTATION_NEEDED, 1472));
    assert_eq!(rig.event(Counter::ProxyOverMtu), 1);
    let fits = rig.inbound(&data(&[7; 1432]));
    assert_eq!(fits.ip.total_len.get(), 1500);
    let mut whole = data(&[7; 300]).to_vec();
    // May be fragmented.
    whole[20] = 0;
    let first = &fragments_v4(&whole, 100)[0];
    assert_eq!(rig.send(CLIENT_SIDE, first).0, Verdict::Forward(SERVER_SIDE));
    assert_eq!(rig.event(Counter::ProxyNoRoom), 1);
}

#[test]
fn both_versions_in_both_families_and_modes_and_between_the_families() {
    let cases = Case::all().into_iter().filter(|case| !case.udp);
    for case in cases {
        for version in [Version::V1, Version::V2] {
            let mut rig = case.rig(10);
            let mut spec = case.spec();
            spec.options.proxy = Some(version);
            rig.configure(vec![spec]);
            case.open(&mut rig, 5555);
            let got = rig.pass_in(case, &Packet { payload: b"hello".to_vec(), ..case.sent(5555) });
            let ends = [case.client(5555), case.virtual_()];
            let header = proxy::encode(version, ends[0], ends[1]);
            let told = if case.mode.is_one_way() { &[][..] } else { header.as_bytes() };
            assert_eq!(got.payload, [told, b"hello"].concat(), "{case:?} {version:?}");
            assert_eq!(got.options, [0; 0]);
        }
    }
}

#[test]
fn a_connection_that_begins_anew_owes_the_header_again() {
    let mut rig = rig();
    let lport = told(&mut rig);
    assert_eq!(rig.inbound(&ack(5555)).payload, [0; 0]);
    // The real server has forgotten it, and the client tries anew.
    rig.inbound(&TcpFrame { seq: U32::new(5000), ..syn(5555) });
    rig.outbound(&TcpFrame { seq: U32::new(77), ack: U32::new(5001), ..syn_ack(lport) });
    let first = rig.inbound(&TcpFrame { seq: U32::new(5001), ack: U32::new(78), ..from_client(5555) });
    assert_eq!((first.header.seq.get(), first.payload), (5001, header()));
}

#[test]
fn numbers_are_shifted_alike_after_they_have_wrapped() {
    let mut rig = rig();
    let lport = told(&mut rig);
    // 6 GB, in steps as windows allow them.
    for step in 1..=6_000u32 {
        let sent = step.wrapping_mul(1 << 20);
        let seq = CLIENT_ISN.wrapping_add(1).wrapping_add(sent);
        let out = rig.inbound(&TcpFrame { seq: U32::new(seq), ..data(b"x") });
        assert_eq!(out.header.seq.get(), seq.wrapping_add(LEN), "{step}");
        let back = rig.outbound(&acked_at(lport, seq.wrapping_add(LEN + 1)));
        assert_eq!(back.header.ack.get(), seq.wrapping_add(1), "{step}");
    }
    assert!(rig.worker.table.conns.iter().any(|conn| conn.preface.stage == Stage::Over));
}

fn acked_at(lport: u16, ack: u32) -> TcpFrame {
    TcpFrame { ack: U32::new(ack), ..from_real(lport) }
}

#[test]
fn errors_about_the_segment_with_the_header_quote_what_the_client_sent_and_tell_what_fits() {
    let mut rig = rig();
    let sent = rig.inbound(&syn(5555));
    rig.outbound(&syn_ack(sent.header.src_port.get()));
    rig.inbound(&ack(5555));
    for (at_real, at_client) in
        [(CLIENT_ISN + 1, CLIENT_ISN + 1), (CLIENT_ISN + 1 + LEN + 9, CLIENT_ISN + 10)]
    {
        let quoted = TcpFrame {
            src: sent.ip.src,
            dst: sent.ip.dst,
            src_port: sent.header.src_port,
            dst_port: sent.header.dst_port,
            seq: U32::new(at_real),
            ..ack(5555)
        };
        let ip = Ipv4Base {
            eth_dst: GATEWAY_MAC,
            eth_src: REAL_MAC,
            src: u32be(REAL),
            dst: u32be(LIP),
            protocol: ipv4::PROTO_ICMP,
            ..Ipv4Base::default()
        };
        let error = (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, U32::new(1400));
        let frame = wire::build::icmp_error_frame(ip, error, &quoted.to_vec()[14..]).unwrap();
        let (verdict, out) = rig.send(SERVER_SIDE, &frame);
        assert_eq!(verdict, Verdict::Forward(CLIENT_SIDE));
        let quoted: &wire::tcp::Header = wire::view(&out, 14 + 20 + 8 + 20).unwrap();
        let message: &icmp::Header = wire::view(&out, 34).unwrap();
        assert_eq!((quoted.seq.get(), message.rest.get()), (at_client, 1400 - LEN));
        assert_eq!(message.checksum, checksum::icmp(&out[34..]));
    }
}

/// Two ends that lose segments, over one gateway: a client with so much to say, and a real server that keeps what comes.
struct Lossy {
    rig: Rig,
    random: u64,
    /// Per 256.
    loss: u64,
    lport: u16,
    /// What the real server's SYN-ACK was answered with.
    shift: u32,
    is_open: bool,
    /// What the real server has, from the client's ISN + 1 on, `None` where nothing came yet.
    stream: Vec<Option<u8>>,
    acked: u32,
}

impl Lossy {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn loses(&mut self) -> bool {
        self.random() % 256 < self.loss
    }

    /// The client sends a segment; it may get lost before the gateway or behind it.
    fn send(&mut self, frame: &TcpFrame) {
        if self.loses() {
            return;
        }
        let got = self.rig.inbound(frame);
        if self.loses() {
            return;
        }
        self.is_open = true;
        let at = got.header.seq.get().wrapping_sub(self.shift).wrapping_sub(CLIENT_ISN + 1) as usize;
        self.stream.resize(self.stream.len().max(at + got.payload.len()), None);
        for (place, byte) in self.stream[at..].iter_mut().zip(&got.payload) {
            assert!(place.is_none_or(|known| known == *byte), "two bytes at one place");
            *place = Some(*byte);
        }
    }

    /// The real server answers: with its SYN-ACK, or with what it has, and with an honest SACK of the rest.
    fn answer(&mut self) {
        let first = CLIENT_ISN.wrapping_add(1).wrapping_add(self.shift);
        let frame = if self.is_open {
            let whole = self.stream.iter().take_while(|byte| byte.is_some()).count();
            let mut frame = acked_at(self.lport, first.wrapping_add(whole as u32));
            let next = whole + self.stream[whole..].iter().take_while(|byte| byte.is_none()).count();
            if next < self.stream.len() {
                let end = next + self.stream[next..].iter().take_while(|byte| byte.is_some()).count();
                let edges = [next, end].map(|at| first.wrapping_add(at as u32).to_be_bytes()).concat();
                frame.options = [&[1, 1, options::KIND_SACK, 10][..], &edges].concat();
            }
            frame
        } else {
            TcpFrame { ack: U32::new(first), ..syn_ack(self.lport) }
        };
        if self.loses() {
            return;
        }
        let got = self.rig.outbound(&frame);
        if !self.loses() && later(got.header.ack.get(), CLIENT_ISN + 1 + self.acked) {
            self.acked = got.header.ack.get() - CLIENT_ISN - 1;
        }
    }

    /// Until the real server has all that the client has to say, which is in pieces.
    fn run(&mut self, pieces: &[Vec<u8>]) -> Vec<u8> {
        let total: usize = pieces.iter().map(Vec::len).sum();
        let mut turns = 0;
        while self.acked < total as u32 || self.stream.is_empty() || self.stream.contains(&None) {
            turns += 1;
            assert!(turns < 10_000, "no end: {} of {total} acknowledged", self.acked);
            self.answer();
            assert!(self.acked as usize <= total, "the client never sent that");
            self.send(&ack(5555));
            let mut at = 0;
            for piece in pieces {
                if at + piece.len() as u32 > self.acked {
                    self.send(&TcpFrame { seq: U32::new(CLIENT_ISN + 1 + at), ..data(piece) });
                }
                at += piece.len() as u32;
            }
        }
        self.stream.iter().flatten().copied().collect()
    }
}

#[test]
fn the_header_arrives_first_and_once_whatever_is_lost() {
    for seed in 1..=300u64 {
        let version = if seed % 2 == 0 { Version::V1 } else { Version::V2 };
        let mut spec = spec(version);
        spec.options.rebase_sequence = seed % 3 == 0;
        let mut rig = Rig::with(10, spec);
        let sent = rig.inbound(&syn(5555)).header;
        let shift = sent.seq.get().wrapping_sub(CLIENT_ISN);
        rig.outbound(&TcpFrame {
            ack: U32::new(sent.seq.get().wrapping_add(1)),
            ..syn_ack(sent.src_port.get())
        });
        let mut lossy = Lossy {
            rig,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            loss: seed % 160,
            lport: sent.src_port.get(),
            shift,
            is_open: false,
            stream: Vec::new(),
            acked: 0,
        };
        let pieces: Vec<Vec<u8>> = (0..seed as u8 % 5).map(|n| vec![n; 1 + usize::from(n) * 37]).collect();
        let stream = lossy.run(&pieces);
        let ends = [(CLIENT, 5555), (VIP, 80)].map(SocketAddr::from);
        let header = proxy::encode(version, ends[0], ends[1]);
        assert_eq!(stream, [header.as_bytes(), &pieces.concat()].concat(), "seed {seed}");
    }
}
