//! Sequence numbers and timestamps that differ on both sides.

use super::*;
use crate::snapshot::{Options, Timestamps};

fn rig(options: Options) -> Rig {
    Rig::with(1000, ServiceSpec { options, ..service(&[(REAL, 1)]) })
}

fn rebasing() -> Rig {
    rig(Options { rebase_sequence: true, ..Options::default() })
}

fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut option = vec![1, 1, options::KIND_TIMESTAMPS, 10];
    option.extend(value.to_be_bytes());
    option.extend(echo.to_be_bytes());
    option
}

fn timestamps_of(view: &TcpView) -> Option<(u32, u32)> {
    options::timestamps(&view.options)
}

#[test]
fn the_real_server_sees_shifted_numbers_and_the_client_its_own() {
    let mut rig = rebasing();
    let syn = rig.inbound(&syn(5555)).header;
    let shift = syn.seq.get().wrapping_sub(CLIENT_ISN);
    assert_ne!(shift, 0);
    let lport = syn.src_port.get();
    let answer = |flags, ahead: u32, options: Vec<u8>| TcpFrame {
        flags,
        seq: U32::new(if flags & flags::SYN != 0 { REAL_ISN } else { REAL_ISN.wrapping_add(1) }),
        ack: U32::new(CLIENT_ISN.wrapping_add(1 + ahead).wrapping_add(shift)),
        options,
        ..from_real(lport)
    };
    let back = rig.outbound(&answer(flags::SYN | flags::ACK, 0, vec![]));
    assert_eq!(back.header.ack.get(), CLIENT_ISN + 1);
    let data = rig.inbound(&TcpFrame { payload: vec![7; 100], ..ack(5555) });
    assert_eq!(data.header.seq.get(), (CLIENT_ISN + 1).wrapping_add(shift));
    assert_eq!(data.header.ack.get(), REAL_ISN.wrapping_add(1));
    assert_eq!(rig.states(), [ConnState::Established]);
    // A hole from 50 to 100, told by SACK.
    let edge = |n: u32| (CLIENT_ISN + 1 + n).wrapping_add(shift).to_be_bytes();
    let sack = [vec![1, 1, options::KIND_SACK, 10], edge(50).to_vec(), edge(100).to_vec()].concat();
    let back = rig.outbound(&answer(flags::ACK, 0, sack));
    assert_eq!(back.header.ack.get(), CLIENT_ISN + 1);
    assert_eq!(back.options[4..8], (CLIENT_ISN + 51).to_be_bytes());
    assert_eq!(back.options[8..12], (CLIENT_ISN + 101).to_be_bytes());
    // A RST in the window, in the client's numbers, ends it.
    rig.outbound(&answer(flags::ACK, 100, vec![]));
    rig.inbound(&TcpFrame { flags: flags::RST, seq: U32::new(CLIENT_ISN + 101), ..from_client(5555) });
    assert_eq!(rig.states(), [ConnState::Close]);
}

#[test]
fn numbers_of_one_local_endpoint_go_forward() {
    let mut spec = service(&[(REAL, 1)]);
    spec.options.rebase_sequence = true;
    spec.local_ports = (2000, 2000);
    let mut rig = Rig::with(1000, spec);
    let first = rig.inbound(&TcpFrame { seq: U32::new(u32::MAX - 5), ..syn(5555) }).header;
    rig.pass(62);
    assert!(rig.states().is_empty());
    let second = rig.inbound(&TcpFrame { seq: U32::new(9), ..syn(5556) }).header;
    assert_eq!(first.src_port, second.src_port);
    assert!(crate::tcp::later(second.seq.get(), first.seq.get()));
}

#[test]
fn errors_about_shifted_segments_quote_what_the_client_sent() {
    let mut rig = rebasing();
    let sent = rig.inbound(&syn(5555));
    let quoted = TcpFrame {
        src: sent.ip.src,
        dst: sent.ip.dst,
        src_port: sent.header.src_port,
        dst_port: sent.header.dst_port,
        seq: sent.header.seq,
        ..syn(5555)
    };
    let ip = Ipv4Base {
        eth_dst: GATEWAY_MAC,
        eth_src: REAL_MAC,
        src: u32be(REAL),
        dst: u32be(LIP),
        protocol: ipv4::PROTO_ICMP,
        ..Ipv4Base::default()
    };
    let error = (icmp::TYPE_UNREACHABLE, icmp::CODE_HOST_UNREACHABLE, U32::ZERO);
    let frame = wire::build::icmp_error_frame(ip, error, &quoted.to_vec()[14..]).unwrap();
    let (verdict, out) = rig.send(SERVER_SIDE, &frame);
    assert_eq!(verdict, Verdict::Forward(CLIENT_SIDE));
    let quoted: &wire::tcp::Header = wire::view(&out, 14 + 20 + 8 + 20).unwrap();
    assert_eq!((quoted.seq.get(), quoted.src_port.get()), (CLIENT_ISN, 5555));
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!(message.checksum, checksum::icmp(&out[34..]));
}

#[test]
fn stripped_timestamps_are_gone_from_the_handshake() {
    let mut rig = rig(Options { timestamps: Timestamps::Strip, ..Options::default() });
    let sent = rig.inbound(&TcpFrame { options: timestamps(1, 0), ..syn(5555) });
    assert_eq!(timestamps_of(&sent), None);
    let lport = sent.header.src_port.get();
    let answer = rig.outbound(&TcpFrame { options: timestamps(9, 1), ..syn_ack(lport) });
    assert_eq!(timestamps_of(&answer), None);
    assert_eq!(rig.event(Counter::TimestampsStripped), 2);
}

#[test]
fn rewritten_timestamps_go_forward_and_come_back_as_they_were() {
    let mut spec = service(&[(REAL, 1)]);
    spec.options.timestamps = Timestamps::Rewrite;
    spec.local_ports = (2000, 2000);
    let mut rig = Rig::with(1000, spec);
    let sent = rig.inbound(&TcpFrame { options: timestamps(0xffff_fff0, 0), ..syn(5555) });
    let (first, _) = timestamps_of(&sent).unwrap();
    let lport = sent.header.src_port.get();
    let answer = rig.outbound(&TcpFrame { options: timestamps(77, first), ..syn_ack(lport) });
    assert_eq!(timestamps_of(&answer), Some((77, 0xffff_fff0)));
    let sent = rig.inbound(&TcpFrame { options: timestamps(0x10, 77), ..ack(5555) });
    assert_eq!(timestamps_of(&sent), Some((first.wrapping_add(0x20), 77)));
    rig.inbound(&TcpFrame { flags: flags::RST, ..ack(5555) });
    rig.pass(70);
    let sent = rig.inbound(&TcpFrame { options: timestamps(3, 0), ..syn(5556) });
    let (second, _) = timestamps_of(&sent).unwrap();
    assert!(crate::tcp::later(second, first.wrapping_add(0x20)));
}
