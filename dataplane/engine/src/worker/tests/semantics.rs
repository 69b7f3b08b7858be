//! What a service wants beside forwarding: persistence, sorry servers, one-packet scheduling, ends of connections.

use super::families::Case;
use super::*;
use crate::snapshot::{Options, Persistence};

const OTHER_REAL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 12);
const OTHER_REAL_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);

fn persistent(prefix_len: u8) -> ServiceSpec {
    let persistence = Persistence { timeout: Ticks::from_secs(100), prefix_len };
    let options = Options { persistence: Some(persistence), ..Options::default() };
    ServiceSpec { options, ..service(&[(REAL, 1), (OTHER_REAL, 1)]) }
}

fn rig(spec: ServiceSpec) -> Rig {
    let mut rig = Rig::with(1000, spec);
    rig.fib.set_neighbour(SERVER_SIDE, OTHER_REAL.into(), Some(OTHER_REAL_MAC));
    rig.apply_fib();
    rig
}

/// The real server that a SYN of this client goes to.
fn real_of(rig: &mut Rig, client: Ipv4Addr, client_port: u16) -> Ipv4Addr {
    let syn = TcpFrame { src: u32be(client), ..syn(client_port) };
    let real = rig.inbound(&syn).ip.dst;
    Ipv4Addr::from(real.to_bytes())
}

fn client(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, last)
}

#[test]
fn a_persistent_client_stays_while_others_take_turns() {
    let mut rig = rig(persistent(32));
    let first = real_of(&mut rig, client(1), 1000);
    for port in 1001..1010 {
        assert_eq!(real_of(&mut rig, client(1), port), first);
    }
    let others: Vec<_> = (10..14).map(|last| real_of(&mut rig, client(last), 1000)).collect();
    assert!(others.contains(&REAL) && others.contains(&OTHER_REAL));
}

#[test]
fn clients_of_one_network_are_one_under_a_netmask() {
    let mut rig = rig(persistent(24));
    let first = real_of(&mut rig, client(1), 1000);
    for last in 2..10 {
        assert_eq!(real_of(&mut rig, client(last), 1000), first);
    }
}

/// All clients of one real server, for so many seconds after their last connection.
fn lasting(seconds: u32) -> Rig {
    let persistence = Persistence { timeout: Ticks::from_secs(seconds), prefix_len: 32 };
    let options = Options { persistence: Some(persistence), ..Options::default() };
    rig(ServiceSpec { options, ..service(&[(REAL, 1)]) })
}

fn templates(rig: &Rig) -> u64 {
    (0..4).map(|id| rig.counters.persistent(crate::RealId(id)).get()).sum()
}

fn rst(client_port: u16) -> TcpFrame {
    TcpFrame { flags: flags::RST, ack: U32::ZERO, ..from_client(client_port) }
}

#[test]
fn a_template_outlives_its_connections_by_the_timeout_and_no_longer() {
    let mut rig = lasting(1000);
    rig.open(1000);
    rig.inbound(&rst(1000));
    // The connection ends after 10 s in CLOSE, the template 1000 s later.
    rig.pass(1000);
    assert!(rig.states().is_empty());
    assert_eq!(templates(&rig), 1);
    rig.pass(30);
    assert_eq!(templates(&rig), 0);
}

#[test]
fn a_template_under_a_silent_connection_stays() {
    // Less than a connection may be in SYN_RECV, and more.
    for seconds in [5, 30, 100] {
        let mut rig = lasting(seconds);
        rig.open(1000);
        rig.pass(850);
        assert_eq!((rig.states(), templates(&rig)), (vec![ConnState::Established], 1), "{seconds}");
    }
}

#[test]
fn whoever_forges_an_address_has_no_template_made_that_lasts() {
    let mut rig = lasting(1000);
    let steps: [fn(&mut Rig); 3] = [
        |rig| drop(rig.inbound(&syn(1000))),
        |rig| {
            let port = rig.inbound(&syn(1000)).header.src_port.get();
            rig.outbound(&syn_ack(port));
        },
        |rig| {
            let port = rig.inbound(&syn(1000)).header.src_port.get();
            rig.outbound(&syn_ack(port));
            rig.inbound(&rst(1000));
        },
    ];
    for forge in steps {
        forge(&mut rig);
        assert_eq!(templates(&rig), 1);
        rig.pass(100);
        assert_eq!((rig.worker.connections(), templates(&rig)), (0, 0));
    }
}

#[test]
fn a_template_lives_as_long_as_a_connection_that_waits_for_its_answer() {
    let mut rig = lasting(1000);
    for _ in 0..4 {
        rig.inbound(&syn(1000));
        rig.pass(50);
        assert_eq!((rig.states(), templates(&rig)), (vec![ConnState::SynRecv], 1));
    }
}

#[test]
fn a_drained_server_keeps_its_persistent_clients_unless_they_expire() {
    for expire_quiescent_template in [false, true] {
        let mut rig = rig(persistent(32));
        let first = real_of(&mut rig, client(1), 1000);
        let mut spec = persistent(32);
        spec.options.expire_quiescent_template = expire_quiescent_template;
        for real in spec.reals.iter_mut().filter(|real| real.real.ip() == first) {
            real.weight = 0;
        }
        rig.configure(vec![spec]);
        assert_eq!(real_of(&mut rig, client(1), 1001) == first, !expire_quiescent_template);
    }
}

#[test]
fn the_sorry_server_gets_what_no_real_server_can_have() {
    let sorry = RealSpec::new((OTHER_REAL, 80).into(), Mode::FullNat, 1);
    let with = |up| {
        let mut spec = ServiceSpec { sorry: Some(sorry.clone()), ..service(&[(REAL, 1)]) };
        spec.reals[0].up = up;
        spec
    };
    let mut rig = rig(with(true));
    assert_eq!(real_of(&mut rig, client(1), 1000), REAL);
    rig.configure(vec![with(false)]);
    assert_eq!(real_of(&mut rig, client(1), 1001), OTHER_REAL);
    rig.configure(vec![with(true)]);
    assert_eq!(real_of(&mut rig, client(1), 1002), REAL);
}

#[test]
fn connections_of_an_ended_or_removed_server_end_where_that_is_wanted() {
    let mut spec = service(&[(REAL, 1)]);
    let mut rig = Rig::with(1000, spec.clone());
    rig.open(5555);
    spec.reals[0].weight = 0;
    rig.configure(vec![spec.clone()]);
    rig.pass(1);
    assert_eq!(rig.states(), [ConnState::Established]);
    spec.reals[0].end_connections = true;
    rig.configure(vec![spec.clone()]);
    rig.pass(1);
    assert!(rig.states().is_empty());

    spec = service(&[(REAL, 1)]);
    spec.options.expire_nodest_conn = true;
    rig.configure(vec![spec.clone()]);
    rig.open(5556);
    spec.reals.clear();
    rig.configure(vec![spec]);
    rig.pass(1);
    assert!(rig.states().is_empty());
    assert_eq!(rig.event(Counter::ConnectionsEnded), 2);
}

#[test]
fn a_datagram_of_a_one_packet_service_leaves_nothing_behind() {
    let options = Options { one_packet: true, ..Options::default() };
    let mut spec = ServiceSpec { protocol: 17, options, ..service(&[(REAL, 1), (OTHER_REAL, 1)]) };
    for real in &mut spec.reals {
        (real.mode, real.real) = (Mode::Dr, (real.real.ip(), 80).into());
    }
    let mut rig = rig(spec);
    let frame = wire::build::UdpFrame {
        ip: Ipv4Base {
            eth_dst: GATEWAY_MAC,
            eth_src: CLIENT_MAC,
            src: u32be(CLIENT),
            dst: u32be(VIP),
            ..Ipv4Base::default()
        },
        src_port: U16::new(5555),
        dst_port: U16::new(80),
        payload: b"hello".to_vec(),
        ..Default::default()
    };
    let macs: Vec<MacAddr> = (0..4)
        .map(|_| {
            let (verdict, out) = rig.send(CLIENT_SIDE, &frame.to_vec());
            assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
            wire::view::<wire::ethernet::Header>(&out, 0).unwrap().dst
        })
        .collect();
    assert_eq!(macs[..2], macs[2..]);
    assert_ne!(macs[0], macs[1]);
    assert!(rig.states().is_empty());
}

#[test]
fn a_one_packet_answer_finds_no_connection() {
    for case in Case::all().into_iter().filter(|case| case.udp && !case.mode.is_one_way()) {
        let mut rig = case.rig(10);
        let options = Options { one_packet: true, ..Options::default() };
        rig.configure(vec![ServiceSpec { options, ..case.spec() }]);
        let got = rig.pass_in(case, &case.sent(5555));
        assert_eq!((rig.states(), rig.counters.pair(crate::PairId(0)).in_use.get()), (Vec::new(), 0));
        let (verdict, _) = rig.send(SERVER_SIDE, &case.answered(&got).frame());
        let class = if case.mode == Mode::Nat { PuntClass::Local } else { PuntClass::Stray };
        assert_eq!(verdict, Verdict::Punt(class), "{case:?}");
    }
}
