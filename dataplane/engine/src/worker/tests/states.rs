//! How connections open, close, expire and are opened anew.

use super::families::{Case, Packet};
use super::*;

#[test]
fn a_close_from_either_side_ends_in_time_wait_and_then_in_nothing() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let fin = flags::FIN | flags::ACK;
    rig.inbound(&TcpFrame { flags: fin, ..from_client(5555) });
    assert_eq!(rig.states(), [ConnState::CloseWait]);
    rig.outbound(&TcpFrame { flags: fin, ack: U32::new(CLIENT_ISN + 2), ..from_real(lport) });
    assert_eq!(rig.states(), [ConnState::TimeWait]);
    rig.pass(119);
    assert_eq!(rig.worker.connections(), 1);
    rig.pass(3);
    assert_eq!(rig.worker.connections(), 0);
    let real = rig.counters.real(crate::RealId(0));
    assert_eq!((real.active.get(), real.inactive.get(), real.connections.get()), (0, 0, 1));
    assert_eq!(rig.counters.pair(crate::PairId(0)).in_use.get(), 0);
    assert!(ConnState::ALL.iter().all(|state| rig.counters.state(*state).get() == 0));
}

#[test]
fn packets_keep_a_connection_alive() {
    let mut rig = Rig::new();
    rig.open(5555);
    for _ in 0..4 {
        rig.pass(600);
        rig.inbound(&ack(5555));
    }
    assert_eq!(rig.worker.connections(), 1);
    rig.pass(901);
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_rst_outside_the_window_is_forwarded_but_ends_nothing() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    rig.outbound(&from_real(lport));
    let rst = |seq: u32| TcpFrame { flags: flags::RST, seq: U32::new(seq), ..from_client(5555) };
    for seq in [CLIENT_ISN, CLIENT_ISN + 1 + 65_536, CLIENT_ISN.wrapping_sub(1_000_000)] {
        rig.inbound(&rst(seq));
        assert_eq!(rig.states(), [ConnState::Established]);
    }
    assert_eq!(rig.event(Counter::RstOutOfWindow), 3);
    rig.inbound(&rst(CLIENT_ISN + 1));
    assert_eq!(rig.states(), [ConnState::Close]);
    rig.pass(11);
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_forged_fin_does_not_move_the_state() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    rig.outbound(&from_real(lport));
    let fin = flags::FIN | flags::ACK;
    rig.inbound(&TcpFrame { flags: fin, seq: U32::new(CLIENT_ISN + 1_000_000), ..from_client(5555) });
    assert_eq!(rig.states(), [ConnState::Established]);
    assert_eq!(rig.event(Counter::FinOutOfWindow), 1);
}

#[test]
fn a_corrupt_rst_ends_nothing() {
    let mut rig = Rig::new();
    rig.open(5555);
    let mut frame = TcpFrame { flags: flags::RST, ..from_client(5555) }.to_vec();
    frame[50] ^= 1;
    rig.send(CLIENT_SIDE, &frame);
    assert_eq!(rig.states(), [ConnState::Established]);
}

#[test]
fn a_refused_connection_closes() {
    let mut rig = Rig::new();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    let refuse = TcpFrame { flags: flags::RST | flags::ACK, seq: U32::ZERO, ..from_real(lport) };
    rig.outbound(&TcpFrame { ack: U32::new(77), ..refuse.clone() });
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    rig.outbound(&refuse);
    assert_eq!(rig.states(), [ConnState::Close]);
}

#[test]
fn a_blind_ack_does_not_establish() {
    let mut rig = Rig::new();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    rig.inbound(&ack(5555));
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    rig.outbound(&syn_ack(lport));
    rig.inbound(&TcpFrame { ack: U32::new(REAL_ISN), ..ack(5555) });
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    assert_eq!(rig.event(Counter::HandshakeAckInvalid), 2);
    rig.inbound(&ack(5555));
    assert_eq!(rig.states(), [ConnState::Established]);
}

/// What was late of a connection that had the same endpoints: it acknowledges what no client has sent in this one.
#[test]
fn a_late_segment_of_a_former_connection_does_not_establish() {
    for (flags, payload) in [(flags::ACK, &b""[..]), (flags::ACK, b"late"), (flags::ACK | flags::FIN, b"")] {
        let mut rig = Rig::new();
        let lport = rig.inbound(&syn(5555)).header.src_port.get();
        rig.outbound(&syn_ack(lport));
        let late = TcpFrame {
            flags,
            ack: U32::new(CLIENT_ISN + 200_000_000),
            payload: payload.to_vec(),
            ..from_real(lport)
        };
        rig.outbound(&late);
        assert_eq!(rig.states(), [ConnState::SynRecv], "{flags} {payload:?}");
        assert_eq!(rig.event(Counter::HandshakeAckInvalid), 1);
        // It does not mean either that the real server has seen who its client is.
        let answer = rig.inbound(&ack(5555));
        assert!(answer.toa().is_some(), "{flags} {payload:?}");
        assert_eq!(rig.states(), [ConnState::Established]);
    }
}

#[test]
fn a_reused_client_port_in_time_wait_gets_a_new_connection_and_local_port() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let fin = flags::FIN | flags::ACK;
    rig.inbound(&TcpFrame { flags: fin, ..from_client(5555) });
    rig.outbound(&TcpFrame { flags: fin, ack: U32::new(CLIENT_ISN + 2), ..from_real(lport) });
    assert_eq!(rig.states(), [ConnState::TimeWait]);
    let again = rig.inbound(&TcpFrame { seq: U32::new(CLIENT_ISN + 100_000), ..syn(5555) });
    assert_ne!(again.header.src_port.get(), lport);
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    assert_eq!(rig.event(Counter::ConnectionsReused), 1);
}

#[test]
fn a_second_syn_and_the_real_servers_challenge_hide_nobody_and_establish_nothing() {
    let mut rig = Rig::new();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    rig.outbound(&syn_ack(lport));
    rig.inbound(&TcpFrame { seq: U32::new(CLIENT_ISN.wrapping_sub(1_000_000)), ..syn(5555) });
    // A half-open socket answers a SYN out of its window with a bare ACK (RFC 9293 §3.10.7.4).
    rig.outbound(&from_real(lport));
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    assert_eq!(rig.inbound(&ack(5555)).toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(rig.states(), [ConnState::Established]);
}

#[test]
fn a_retransmitted_syn_keeps_its_connection() {
    let mut rig = Rig::new();
    let first = rig.inbound(&syn(5555)).header.src_port;
    assert_eq!(rig.inbound(&syn(5555)).header.src_port, first);
    assert_eq!(rig.worker.connections(), 1);
}

#[test]
fn one_way_only_a_rst_or_fin_near_what_the_client_has_sent_moves_the_state() {
    for case in Case::all().into_iter().filter(|case| case.mode.is_one_way() && !case.udp) {
        for (flags, event, after) in [
            (flags::RST, Counter::RstOutOfWindow, ConnState::Close),
            (flags::FIN | flags::ACK, Counter::FinOutOfWindow, ConnState::FinWait),
        ] {
            let mut rig = case.rig(10);
            case.open(&mut rig, 5555);
            rig.pass_in(case, &Packet { payload: vec![7; 1000], ..case.sent(5555) });
            let at = |seq: u32| Packet { flags, seq, ..case.sent(5555) };
            let next = CLIENT_ISN + 1001;
            for seq in [next.wrapping_sub(70_000), next + 70_000, 0x8000_0000] {
                rig.pass_in(case, &at(seq));
                assert_eq!(rig.states(), [ConnState::Established], "{case:?} {seq}");
            }
            assert_eq!(rig.event(event), 3);
            rig.pass_in(case, &at(next));
            assert_eq!(rig.states(), [after], "{case:?}");
        }
    }
}

#[test]
fn one_way_a_blind_segment_does_not_prepare_the_way_for_a_blind_rst() {
    for case in Case::all().into_iter().filter(|case| case.mode.is_one_way() && !case.udp) {
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        for flags in [flags::ACK, flags::ACK | flags::FIN, flags::SYN, flags::RST] {
            rig.pass_in(case, &Packet { flags, seq: 0x4000_0000, ..case.sent(5555) });
        }
        assert_eq!(rig.states(), [ConnState::Established], "{case:?}");
        // The client's own, after more than a window of data.
        for chunk in 1..=100 {
            rig.pass_in(case, &Packet { seq: CLIENT_ISN + chunk * 1460, ..case.sent(5555) });
        }
        rig.pass_in(case, &Packet { flags: flags::RST, seq: CLIENT_ISN + 101 * 1460, ..case.sent(5555) });
        assert_eq!(rig.states(), [ConnState::Close], "{case:?}");
    }
}

#[test]
fn one_way_a_client_that_begins_anew_is_followed_to_its_new_numbers() {
    for case in Case::all().into_iter().filter(|case| case.mode.is_one_way() && !case.udp) {
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        let first = CLIENT_ISN + 0x2000_0000;
        rig.pass_in(case, &Packet { flags: flags::FIN | flags::ACK, ..case.sent(5555) });
        rig.pass_in(case, &Packet { flags: flags::SYN, seq: first, ..case.sent(5555) });
        rig.pass_in(case, &Packet { seq: first + 1, ..case.sent(5555) });
        assert_eq!(rig.states(), [ConnState::Established], "{case:?}");
        rig.pass_in(case, &Packet { flags: flags::RST, seq: first + 1, ..case.sent(5555) });
        assert_eq!(rig.states(), [ConnState::Close], "{case:?}");
    }
}
