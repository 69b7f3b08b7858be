//! The short way against the long one.

use wire::uoa::Form;

use super::families::{Case, Packet};
use super::*;
use crate::counters::Count;
use crate::ids::RealId;
use crate::snapshot::TunnelKind;

/// What a packet of an open connection may look like, ordinary or not.
#[derive(Debug, Clone)]
struct Shape {
    inbound: bool,
    flags: u8,
    ahead: i16,
    ack_ahead: u8,
    window: u16,
    options: Vec<u8>,
    payload_len: usize,
    hops: u8,
    start: Start,
    summed: bool,
    padding: usize,
}

/// What else an IP header starts with.
#[derive(Debug, Clone)]
struct Start {
    class: u8,
    flow: u16,
    id: u16,
    dont_fragment: bool,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let timestamps = [vec![1, 1, 8, 10], vec![7; 8]].concat();
    let forged = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53)).to_vec();
    let options = prop_oneof![Just(vec![]), Just(timestamps), Just(forged), Just(vec![1, 1, 5, 10])];
    let flags = prop_oneof![
        8 => Just(flags::ACK),
        8 => Just(flags::ACK | flags::PSH),
        1 => Just(flags::ACK | flags::FIN),
        1 => Just(flags::RST)
    ];
    let start = any::<(u8, u16, u16, bool)>().prop_map(|(class, flow, id, dont_fragment)| Start {
        class,
        flow,
        id,
        dont_fragment,
    });
    let tcp = (flags, -50i16..2000, 0u8..200, any::<u16>(), options);
    let rest = (any::<bool>(), 0usize..1461, 0u8..65, start, prop::bool::weighted(0.8), 0usize..20);
    (tcp, rest).prop_map(
        |(
            (flags, ahead, ack_ahead, window, options),
            (inbound, payload_len, hops, start, summed, padding),
        )| {
            Shape {
                inbound,
                flags,
                ahead,
                ack_ahead,
                window,
                options,
                payload_len,
                hops,
                start,
                summed,
                padding,
            }
        },
    )
}

impl Start {
    fn put(&self, frame: &mut [u8]) {
        if frame[12..14] == [0x86, 0xdd] {
            let first = 6 << 28 | u32::from(self.class) << 20 | u32::from(self.flow);
            frame[14..18].copy_from_slice(&first.to_be_bytes());
            return;
        }
        frame[15] = self.class;
        frame[18..20].copy_from_slice(&self.id.to_be_bytes());
        frame[20] = u8::from(self.dont_fragment) << 6;
        frame[24..26].fill(0);
        let sum = checksum::internet(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_bytes());
    }
}

impl Shape {
    /// A frame of the connection of which the real server got `got`.
    fn frame(&self, case: Case, got: &Packet) -> (PortId, Vec<u8>) {
        // Where the real server's answers do not come this way, all is the client's.
        let inbound = self.inbound || case.mode.is_one_way();
        let (port, base) =
            if inbound { (CLIENT_SIDE, case.sent(5555)) } else { (SERVER_SIDE, case.answered(got)) };
        let packet = Packet { payload: vec![0xa5; self.payload_len], hops: self.hops, ..base };
        if case.udp {
            return (port, self.vary(packet.frame(), !self.summed));
        }
        let packet = Packet {
            flags: self.flags,
            seq: packet.seq.wrapping_add_signed(self.ahead.into()),
            ack: packet.ack.wrapping_add(self.ack_ahead.into()),
            window: self.window,
            options: self.options.clone(),
            ..packet
        };
        (port, self.vary(packet.frame(), false))
    }

    fn vary(&self, mut frame: Vec<u8>, without_sum: bool) -> Vec<u8> {
        self.start.put(&mut frame);
        // The parser does not let it pass over IPv6.
        if without_sum && frame[12..14] == [8, 0] {
            frame[40..42].fill(0);
        }
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }
}

impl Rig {
    /// As [`Rig::send`], but never by the short way.
    fn send_the_long_way(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut packet = HeapBuf::from_frame(frame).on_port(port.0);
        let Parsed::Segment(segment) = parse(frame, GATEWAY_MAC) else { panic!("no segment") };
        let found = self.worker.table.find_tuple(&segment.tuple(frame)).unwrap();
        let verdict = self.worker.forward(self.now, &mut packet, &segment, found);
        (verdict, packet.to_vec())
    }

    /// Packets and bytes of all real servers, by direction, after the upkeep of a tick.
    fn traffic(&mut self) -> Vec<[u64; 4]> {
        self.worker.housekeep_after::<HeapBuf>(self.now.plus(Ticks(1)), || true);
        let reals = (0..16).map(|slot| self.worker.counters.real(RealId(slot)));
        reals
            .map(|real| [&real.packets[0], &real.bytes[0], &real.packets[1], &real.bytes[1]].map(Count::get))
            .collect()
    }
}

/// Whether a service like this may tell clients of UDP flows.
fn tells(case: Case) -> bool {
    case.udp && case.mode == Mode::FullNat
}

/// The ways that there are into a tunnel.
fn tunnels() -> impl Strategy<Value = TunnelKind> {
    let gre = |checksum| TunnelKind::Gre { checksum };
    let gue = |checksum| TunnelKind::Gue { port: 6080, checksum };
    prop::sample::select(vec![TunnelKind::Ipip, gre(false), gre(true), gue(false), gue(true)])
}

/// With a service like this, whose real server, if it is behind a tunnel, is behind one of this `kind`; before it there is one
/// that gets nothing, in the slot that is found where no other is named.
fn rig(case: Case, kind: TunnelKind) -> Rig {
    let mut spec = case.spec();
    for tunnel in spec.reals.iter_mut().filter_map(|real| real.tunnel.as_mut()) {
        tunnel.kind = kind;
    }
    let mut idle = case.spec().reals.remove(0);
    (idle.real, idle.weight) = (case.first_real(), 0);
    spec.reals.insert(0, idle);
    Case::rig_of(10, spec)
}

/// What the real server got first, or last, of a connection that is open now; it may have been told the client.
fn open(case: Case, rig: &mut Rig) -> Packet {
    if tells(case) {
        return uoa::received(&rig.send(CLIENT_SIDE, &case.sent(5555).frame()).1).1;
    }
    if case.mode == Mode::Tun {
        // What tunnels hold is looked at elsewhere; clients' packets do not depend on it.
        let sent = case.sent(5555);
        let syn = Packet { flags: flags::SYN, seq: CLIENT_ISN, ack: 0, ..sent.clone() };
        let forwarded = [&syn, &sent].map(|packet| rig.send(CLIENT_SIDE, &packet.frame()).0);
        assert_eq!(forwarded, [Verdict::Forward(SERVER_SIDE); 2], "{case:?}");
        return sent;
    }
    case.open(rig, 5555)
}

proptest! {
    #[test]
    fn the_short_way_does_what_the_long_way_does(
        case in prop::sample::select(Case::all()), shapes in prop::collection::vec(shapes(), 1..30),
        form in prop::option::of(prop::sample::select(vec![Form::Option, Form::Header])), must in any::<bool>(),
        kind in tunnels(),
    ) {
        let mut rigs = [(); 2].map(|()| match form {
            Some(form) if tells(case) => uoa::rig(case, form, must),
            _ => rig(case, kind),
        });
        let got = rigs.each_mut().map(|rig| open(case, rig))[0].clone();
        for shape in shapes {
            let (port, frame) = shape.frame(case, &got);
            let short = rigs[0].send(port, &frame);
            let long = rigs[1].send_the_long_way(port, &frame);
            prop_assert_eq!(short, long, "{:?} {:?} {:?}", case, kind, shape);
            prop_assert_eq!(rigs[0].memory(), rigs[1].memory(), "{:?} {:?}", case, shape);
            for event in Counter::ALL {
                prop_assert_eq!(rigs[0].event(*event), rigs[1].event(*event), "{:?} {:?}", event, shape);
            }
        }
        let traffic = rigs.each_mut().map(Rig::traffic);
        prop_assert!(traffic[0].iter().any(|counts| counts[0] > 0));
        prop_assert_eq!(&traffic[0], &traffic[1], "{:?}", case);
    }
}

#[test]
fn ordinary_packets_of_every_mode_and_family_go_the_short_way() {
    for case in Case::all() {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        let sent = case.sent(5555);
        if !case.mode.is_one_way() {
            // Ends TOA, and the time in which unanswered datagrams are given up first.
            rig.pass_out(&Packet { payload: b"hello".to_vec(), ..case.answered(&got) });
        }
        let mut packet = HeapBuf::from_frame(&sent.frame());
        let glance = rig.worker.glance(&packet, GATEWAY_MAC.into());
        let glance = Glance { likely: rig.worker.table.likely(glance.likely, glance.hash), ..glance };
        let mut verdict = Verdict::NONE;
        let epoch = condition(0, 0, 0, 0, rig.worker.fib.epoch());
        assert!(rig.worker.short_way(rig.now, epoch, &mut packet, &glance, &mut verdict), "{case:?}");
        assert_eq!(verdict, Verdict::Forward(SERVER_SIDE), "{case:?}");
    }
}

#[test]
fn when_a_connection_ends_all_that_it_carried_is_counted_for_its_real_server() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let count = |rig: &Rig, at: usize| rig.counters.real(RealId(0)).packets[at].get();
    let opened = [0, 1].map(|at| count(&rig, at));
    for _ in 0..3 {
        rig.inbound(&from_client(5555));
        // The first of them ends TOA.
        rig.outbound(&TcpFrame { payload: b"hello".to_vec(), ..from_real(lport) });
    }
    assert!((0..2).any(|at| count(&rig, at) < opened[at] + 3), "nothing went the short way");
    rig.worker.end(0);
    assert_eq!([0, 1].map(|at| count(&rig, at)), opened.map(|packets| packets + 3));
    assert_eq!(rig.counters.real(RealId(0)).held.get(), 0);
}
