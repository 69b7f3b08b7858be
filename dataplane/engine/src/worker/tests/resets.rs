//! Both sides of a connection that ends are told, with numbers that they accept.

use super::families::{Case, Packet};
use super::*;
use crate::snapshot::Options;

const SENT: u32 = 300;
const ANSWERED: u32 = 700;

fn with_resets(case: Case) -> ServiceSpec {
    let options = Options { reset_on_expiry: true, expire_nodest_conn: true, ..Options::default() };
    ServiceSpec { options, ..case.spec() }
}

fn tcp_cases() -> Vec<Case> {
    Case::all().into_iter().filter(|case| !case.udp).collect()
}

/// A rig with a connection that has had a request and an answer; what the real server got of it last.
fn conversation(case: Case, spec: ServiceSpec) -> (Rig, Packet) {
    let mut rig = case.rig(10);
    rig.configure(vec![spec]);
    let syn = Packet { flags: flags::SYN, seq: CLIENT_ISN, ack: 0, ..case.sent(5555) };
    let first = rig.pass_in(case, &syn);
    // The real server acknowledges the numbers that it got.
    let shift = first.seq.wrapping_sub(CLIENT_ISN);
    let answer = case.answered(&first);
    if !case.mode.is_one_way() {
        let (flags, ack) = (flags::SYN | flags::ACK, answer.ack.wrapping_add(shift));
        rig.pass_out(&Packet { flags, ack, seq: REAL_ISN, ..answer.clone() });
    }
    rig.pass_in(case, &case.sent(5555));
    rig.pass_in(case, &Packet { payload: vec![7; SENT as usize], ..case.sent(5555) });
    let ack = CLIENT_ISN + 1 + SENT;
    if !case.mode.is_one_way() {
        rig.pass_out(&Packet { ack: ack.wrapping_add(shift), payload: vec![8; ANSWERED as usize], ..answer });
    }
    let acked = REAL_ISN.wrapping_add(1 + ANSWERED);
    let last = rig.pass_in(case, &Packet { seq: ack, ack: acked, ..case.sent(5555) });
    assert_eq!(rig.states(), [ConnState::Established]);
    (rig, last)
}

impl Rig {
    /// The RSTs that wait, each with the port that it leaves by.
    fn resets(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut all = Vec::new();
        while self.worker.resets_waiting() > 0 {
            let mut packet = HeapBuf::with_room(&[], 128, 128);
            match self.worker.write_reset(&mut packet) {
                Some(Verdict::Forward(port)) => all.push((port, packet.to_vec())),
                other => panic!("{other:?}"),
            }
        }
        all
    }
}

/// What the real server's stack gets of a frame.
fn unwrapped(case: Case, mut frame: Vec<u8>) -> Packet {
    if case.mode == Mode::Tun {
        frame.drain(14..14 + if case.real_v6 { 40 } else { 20 });
        frame[12..14].copy_from_slice(if case.client_v6 { &[0x86, 0xdd] } else { &[8, 0] });
    }
    Packet::read(&frame)
}

fn assert_told(case: Case, rig: &mut Rig, last: &Packet) {
    let told = rig.resets();
    let [(to_client, client_frame), (to_real, real_frame)] = told.as_slice() else {
        panic!("{case:?}: {} RSTs", told.len())
    };
    assert_eq!((*to_client, *to_real), (CLIENT_SIDE, SERVER_SIDE));
    assert_eq!(client_frame[..12], [CLIENT_MAC.0, GATEWAY_MAC.0].concat());
    assert_eq!(real_frame[..12], [REAL_MAC.0, GATEWAY_MAC.0].concat());
    let (client, real) = (Packet::read(client_frame), unwrapped(case, real_frame.clone()));
    assert_eq!((client.src, client.dst), (case.virtual_(), case.client(5555)), "{case:?}");
    assert_eq!(client.seq, REAL_ISN.wrapping_add(1 + ANSWERED), "{case:?}: not what the client expects");
    assert_eq!(client.ack, CLIENT_ISN + 1 + SENT, "{case:?}");
    // As the last packet of the client came: the next one must have its number.
    assert_eq!((real.src, real.dst), (last.src, last.dst), "{case:?}");
    assert_eq!((real.seq, real.ack), (last.seq, last.ack), "{case:?}");
    assert!(
        [&client, &real].iter().all(|rst| rst.flags == flags::RST | flags::ACK && rst.options.is_empty())
    );
    assert_eq!(rig.event(Counter::ResetsSent), 2);
}

#[test]
fn both_sides_are_reset_when_their_real_server_goes_in_every_mode_and_family() {
    for case in tcp_cases() {
        let (mut rig, last) = conversation(case, with_resets(case));
        rig.configure(vec![ServiceSpec { reals: Vec::new(), ..with_resets(case) }]);
        rig.worker.housekeep(rig.now);
        assert_told(case, &mut rig, &last);
        assert_eq!(rig.event(Counter::ConnectionsEnded), 1);
        rig.worker.housekeep(rig.now);
        rig.pass(11);
        assert_eq!((rig.worker.connections(), rig.worker.resets_waiting()), (0, 0), "{case:?}");
    }
}

#[test]
fn the_service_may_go_with_its_real_servers() {
    let case = tcp_cases()[0];
    let (mut rig, last) = conversation(case, with_resets(case));
    rig.configure(Vec::new());
    rig.worker.housekeep(rig.now);
    assert_told(case, &mut rig, &last);
}

#[test]
fn both_sides_are_reset_when_a_connection_times_out() {
    for case in tcp_cases() {
        let (mut rig, last) = conversation(case, with_resets(case));
        rig.pass(899);
        assert_eq!(rig.worker.resets_waiting(), 0);
        rig.pass(3);
        assert_told(case, &mut rig, &last);
    }
}

#[test]
fn shifted_numbers_are_those_of_each_side() {
    for case in tcp_cases().into_iter().filter(|case| case.mode == Mode::FullNat) {
        let options = Options { rebase_sequence: true, ..with_resets(case).options };
        let (mut rig, last) = conversation(case, ServiceSpec { options, ..with_resets(case) });
        assert_ne!(last.seq, CLIENT_ISN + 1 + SENT);
        rig.pass(902);
        assert_told(case, &mut rig, &last);
    }
}

#[test]
fn without_the_switch_connections_end_in_silence() {
    for case in tcp_cases() {
        let mut spec = with_resets(case);
        spec.options.reset_on_expiry = false;
        let (mut rig, _) = conversation(case, spec.clone());
        rig.configure(vec![ServiceSpec { reals: Vec::new(), ..spec }]);
        rig.worker.housekeep(rig.now);
        assert_eq!((rig.worker.connections(), rig.worker.resets_waiting()), (0, 0), "{case:?}");
    }
}

#[test]
fn what_is_not_open_is_not_reset() {
    let case = tcp_cases()[0];
    for steps in [vec![], vec![flags::RST], vec![flags::FIN | flags::ACK]] {
        let mut rig = case.rig(10);
        rig.configure(vec![with_resets(case)]);
        if steps.is_empty() {
            rig.pass_in(case, &Packet { flags: flags::SYN, seq: CLIENT_ISN, ack: 0, ..case.sent(5555) });
        } else {
            let first = case.open(&mut rig, 5555);
            rig.pass_in(case, &Packet { flags: steps[0], ..case.sent(5555) });
            let fin = Packet { flags: flags::FIN | flags::ACK, ack: CLIENT_ISN + 2, ..case.answered(&first) };
            rig.pass_out(&fin);
        }
        rig.configure(vec![ServiceSpec { reals: Vec::new(), ..with_resets(case) }]);
        rig.worker.housekeep(rig.now);
        assert_eq!((rig.worker.connections(), rig.worker.resets_waiting()), (0, 0), "{steps:?}");
    }
}

/// A connection that was reset: what is sent, and what comes back to its sender.
#[test]
fn what_still_comes_is_answered_as_a_closed_port_does_and_rsts_pass() {
    for case in tcp_cases() {
        let (mut rig, last) = conversation(case, with_resets(case));
        rig.configure(vec![ServiceSpec { reals: Vec::new(), ..with_resets(case) }]);
        rig.worker.housekeep(rig.now);
        rig.resets();
        let late = Packet { ack: 77, payload: vec![1; 9], ..case.sent(5555) };
        let (verdict, out) = rig.send(CLIENT_SIDE, &late.frame());
        assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
        let answer = Packet::read(&out);
        assert_eq!((answer.src, answer.dst), (case.virtual_(), case.client(5555)), "{case:?}");
        assert_eq!((answer.seq, answer.flags), (77, flags::RST));
        assert_eq!(out[..12], [CLIENT_MAC.0, GATEWAY_MAC.0].concat());
        if !case.mode.is_one_way() {
            let late = Packet { ack: 99, ..case.answered(&last) };
            let (verdict, out) = rig.send(SERVER_SIDE, &late.frame());
            assert_eq!(verdict, Verdict::Reply(SERVER_SIDE));
            let answer = Packet::read(&out);
            assert_eq!((answer.src, answer.dst), (last.src, last.dst), "{case:?}");
            assert_eq!((answer.seq, answer.flags), (99, flags::RST));
        }
        let rst = Packet { flags: flags::RST, ..case.sent(5555) };
        assert_eq!(rig.pass_in(case, &rst).flags, flags::RST, "{case:?}");
        assert_eq!(rig.states(), [ConnState::Close]);
    }
}

#[test]
fn a_new_syn_gets_another_connection_at_once() {
    let case = tcp_cases()[0];
    let (mut rig, last) = conversation(case, with_resets(case));
    let mut gone = with_resets(case);
    gone.reals[0].end_connections = true;
    rig.configure(vec![gone]);
    rig.worker.housekeep(rig.now);
    rig.configure(vec![with_resets(case)]);
    let again = Packet { flags: flags::SYN, seq: CLIENT_ISN, ack: 0, ..case.sent(5555) };
    assert_ne!(rig.pass_in(case, &again).src, last.src);
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    // Those of the former connection are not sent to the new one.
    assert_eq!(rig.worker.resets_waiting(), 2);
    assert_eq!(rig.worker.write_reset(&mut HeapBuf::with_room(&[], 128, 128)), None);
}

#[test]
fn more_than_fit_at_once_are_told_in_turn_and_none_is_lost() {
    let case = tcp_cases()[0];
    let count = 3 * RESETS_MAX as u16;
    for by_timeout in [false, true] {
        let mut rig = case.rig(count.into());
        rig.configure(vec![with_resets(case)]);
        for port in 1..=count {
            case.open(&mut rig, port);
        }
        if by_timeout {
            rig.now = rig.now.plus(Ticks::from_secs(901));
        } else {
            rig.configure(vec![ServiceSpec { reals: Vec::new(), ..with_resets(case) }]);
        }
        let mut told = std::collections::HashSet::new();
        for _ in 0..200 {
            rig.worker.housekeep(rig.now);
            assert!(rig.worker.resets_waiting() <= RESETS_MAX);
            let to_client = rig.resets().into_iter().filter(|(port, _)| *port == CLIENT_SIDE);
            told.extend(to_client.map(|(_, frame)| Packet::read(&frame).dst.port()));
            rig.now = rig.now.plus(Ticks(4));
        }
        assert_eq!(told.len(), usize::from(count), "by timeout: {by_timeout}");
        assert_eq!(rig.event(Counter::ResetsSent), 2 * u64::from(count));
        rig.pass(11);
        assert_eq!(rig.worker.connections(), 0);
    }
}

#[test]
fn a_reset_whose_next_hop_is_unknown_waits_for_it() {
    let case = tcp_cases()[0];
    let (mut rig, _) = conversation(case, with_resets(case));
    rig.fib.set_neighbour(CLIENT_SIDE, case.client(1).ip(), None);
    rig.apply_fib();
    rig.pass(902);
    let mut packet = HeapBuf::with_room(&[], 128, 128);
    assert_eq!(rig.worker.write_reset(&mut packet), Some(Verdict::Resolve(CLIENT_SIDE)));
}
