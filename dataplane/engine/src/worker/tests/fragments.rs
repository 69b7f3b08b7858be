//! Fragments through one to four workers, in any order: what leaves is what would have left of the whole packet, cut.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use wire::build::{Ipv6Base, TcpFrame6, UdpFrame, UdpFrame6, fragments_v4, fragments_v6};
use wire::{ethernet, ipv6, tunnel as outer};

use super::*;
use crate::snapshot::{Options, Tunnel, TunnelKind};
use crate::{WAIT_LEN_MAX, WAIT_SLOTS};

const PROTOCOLS: [u8; 2] = [ipv4::PROTO_TCP, ipv4::PROTO_UDP];
const FRAGMENT_ID: u32 = 0x0001_2345;

/// Workers with the rings and slots of a platform around them.
struct Farm {
    workers: Vec<Worker>,
    counters: Vec<Arc<Counters>>,
    slots: Vec<HashMap<u16, Vec<HeapBuf>>>,
    now: Ticks,
    forwarded: Vec<Vec<u8>>,
    other: Vec<Verdict>,
    freed: usize,
}

/// A packet on its way to a worker.
struct Step {
    worker: usize,
    packet: HeapBuf,
    /// How often it was handed over.
    handed: usize,
}

impl Farm {
    fn new(workers: u16, spec: ServiceSpec) -> Farm {
        let limits = Limits { services_max: 4, reals_max: 16, pairs_max: 16 };
        let counters: Vec<Arc<Counters>> = (0..workers).map(|_| Arc::new(Counters::new(4, 16, 16))).collect();
        let mut planner = Planner::new(limits, counters.clone());
        let updates = planner.plan(&Spec { generation: 1, services: vec![spec] }).unwrap();
        let fib = Arc::new(fib());
        let worker = |(id, mut update): (usize, Update)| {
            let config = WorkerConfig {
                id: WorkerId(id as u16),
                workers,
                connections_max: 100,
                limits,
                secret: [1, 2],
                punt_per_second: 1000,
                now: Ticks(0),
            };
            let mut worker = Worker::new(&config, counters[id].clone(), counters.clone());
            update.fib = Some(fib.clone());
            worker.apply(&mut update);
            worker
        };
        Farm {
            workers: updates.into_iter().enumerate().map(worker).collect(),
            slots: (0..workers).map(|_| HashMap::new()).collect(),
            counters,
            now: Ticks(100),
            forwarded: Vec::new(),
            other: Vec::new(),
            freed: 0,
        }
    }

    /// A frame comes in at a worker, and all that follows from it happens.
    fn send(&mut self, worker: usize, frame: &[u8]) {
        let worker = worker % self.workers.len();
        // What a driver left there.
        let mut packet = HeapBuf::from_frame(frame);
        packet.set_note(0xdead_beef);
        self.run(VecDeque::from([Step { worker, packet, handed: 0 }]));
    }

    fn run(&mut self, mut steps: VecDeque<Step>) {
        while let Some(Step { worker, packet, handed }) = steps.pop_front() {
            let mut packets = [packet];
            let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
            if handed == 0 {
                self.workers[worker].process(self.now, &mut packets, &mut verdicts);
            } else {
                self.workers[worker].process_handed_over(self.now, &mut packets, &mut verdicts);
            }
            let [packet] = packets;
            match verdicts[0] {
                Verdict::HandOver(to) => {
                    assert!(handed < 2 && to.index() != worker, "handed over {handed} times before");
                    steps.push_back(Step { worker: to.index(), packet, handed: handed + 1 });
                }
                Verdict::Wait(slot) => {
                    let slot = self.slots[worker].entry(slot.0).or_default();
                    assert!(slot.len() < WAIT_LEN_MAX);
                    slot.push(packet);
                }
                Verdict::Forward(_) => self.forwarded.push(packet.to_vec()),
                other => self.other.push(other),
            }
            steps.extend(self.released(worker));
        }
    }

    fn released(&mut self, worker: usize) -> Vec<Step> {
        let mut again = Vec::new();
        while let Some(released) = self.workers[worker].take_released() {
            match released {
                Released::Process(slot) => {
                    let packets = self.slots[worker].remove(&slot.0).unwrap();
                    again.extend(packets.into_iter().map(|packet| Step { worker, packet, handed: 0 }));
                }
                Released::Free(slot) => self.freed += self.slots[worker].remove(&slot.0).unwrap().len(),
            }
        }
        assert!(self.slots[worker].len() <= WAIT_SLOTS);
        again
    }

    fn pass(&mut self, seconds: u32) {
        self.now = self.now.plus(Ticks::from_secs(seconds));
        for worker in 0..self.workers.len() {
            self.workers[worker].housekeep(self.now);
            assert!(self.released(worker).is_empty());
        }
    }

    fn waiting(&self) -> usize {
        self.slots.iter().flat_map(HashMap::values).map(Vec::len).sum()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|counters| counters.dropped(reason).get()).sum()
    }

    fn event(&self, event: Counter) -> u64 {
        self.counters.iter().map(|counters| counters.event(event).get()).sum()
    }

    /// The only frame that was forwarded.
    fn one(&mut self) -> Vec<u8> {
        assert_eq!((self.forwarded.len(), &self.other[..]), (1, &[][..]));
        self.forwarded.pop().unwrap()
    }
}

fn v6(last: u16) -> IpAddr {
    std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, last).into()
}

fn client(wide: bool) -> IpAddr {
    if wide { v6(9) } else { CLIENT.into() }
}

fn vip(wide: bool) -> IpAddr {
    if wide { v6(100) } else { VIP.into() }
}

fn local(wide: bool) -> IpAddr {
    if wide { v6(200) } else { LIP.into() }
}

fn real(wide: bool) -> IpAddr {
    if wide { v6(11) } else { REAL.into() }
}

fn fib() -> Fib {
    let mut fib = FibBuilder::default();
    fib.set_port(CLIENT_SIDE, FibPort { mac: GATEWAY_MAC, mtu: 1500 });
    for (network, len) in [(IpAddr::from([10, 0, 0, 0]), 8), (v6(0), 64)] {
        fib.set_route(network, len, Route { via: None, port: CLIENT_SIDE });
    }
    for wide in [false, true] {
        fib.set_neighbour(CLIENT_SIDE, client(wide), Some(CLIENT_MAC));
        fib.set_neighbour(CLIENT_SIDE, real(wide), Some(REAL_MAC));
    }
    fib.build()
}

/// How a datagram gets where.
#[derive(Debug, Clone, Copy)]
struct Case {
    mode: Mode,
    client_wide: bool,
    real_wide: bool,
    protocol: u8,
    outbound: bool,
    /// Whether the gateway changes sequence numbers.
    rebase: bool,
}

impl Case {
    fn spec(&self) -> ServiceSpec {
        let port = if self.mode.is_one_way() { 80 } else { 8080 };
        let mut to = RealSpec::new((real(self.real_wide), port).into(), self.mode, 1);
        if self.mode == Mode::Tun {
            to.tunnel = Some(Tunnel { kind: TunnelKind::Ipip, source: local(self.real_wide) });
        }
        ServiceSpec {
            protocol: self.protocol,
            virtual_: (vip(self.client_wide), 80).into(),
            toa: None,
            options: Options { rebase_sequence: self.rebase, ..Options::default() },
            locals: vec![local(self.real_wide)],
            reals: vec![to],
            ..service(&[])
        }
    }

    /// Opens a connection, and tells between which endpoints the packets of this case go.
    fn open(&self, farm: &mut Farm) -> (SocketAddr, SocketAddr) {
        let inbound =
            (SocketAddr::new(client(self.client_wide), 4000), SocketAddr::new(vip(self.client_wide), 80));
        if self.protocol == ipv4::PROTO_TCP || self.outbound {
            farm.send(0, &frame(self.protocol, flags::SYN, inbound, &[]));
            let opened = farm.one();
            if self.outbound {
                let (src, dst) = endpoints(&opened);
                return (dst, src);
            }
        }
        inbound
    }
}

fn frame(protocol: u8, bits: u8, (src, dst): (SocketAddr, SocketAddr), payload: &[u8]) -> Vec<u8> {
    let ports = (U16::new(src.port()), U16::new(dst.port()));
    let payload = payload.to_vec();
    let tcp = TcpFrame {
        eth_dst: GATEWAY_MAC,
        src_port: ports.0,
        dst_port: ports.1,
        flags: bits,
        payload: payload.clone(),
        flags_fragment: U16::ZERO,
        id: U16::new(FRAGMENT_ID as u16),
        ..TcpFrame::default()
    };
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if protocol == ipv4::PROTO_TCP => {
            TcpFrame { src: u32be(src), dst: u32be(dst), ..tcp }.to_vec()
        }
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip = Ipv4Base {
                eth_dst: GATEWAY_MAC,
                src: u32be(src),
                dst: u32be(dst),
                id: tcp.id,
                flags_fragment: U16::ZERO,
                ..Ipv4Base::default()
            };
            UdpFrame { ip, src_port: ports.0, dst_port: ports.1, payload, ..UdpFrame::default() }.to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) if protocol == ipv4::PROTO_TCP => {
            TcpFrame6 { src: src.octets(), dst: dst.octets(), hop_limit: 64, tcp }.to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6Base {
                eth_dst: GATEWAY_MAC,
                src: src.octets(),
                dst: dst.octets(),
                ..Ipv6Base::default()
            };
            UdpFrame6 { ip, src_port: ports.0, dst_port: ports.1, payload, ..UdpFrame6::default() }.to_vec()
        }
        _ => panic!("one family"),
    }
}

fn cut(whole: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    if whole[14] >> 4 == 6 { fragments_v6(whole, mtu + 40, FRAGMENT_ID) } else { fragments_v4(whole, mtu) }
}

/// A packet, or a fragment of one, as its receiver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    src: IpAddr,
    dst: IpAddr,
    hops: u8,
    protocol: u8,
    id: u32,
    offset: usize,
    more: bool,
    payload: Vec<u8>,
}

/// Reads a frame; lengths and header checksums are proven. Of a tunnel's packet, what is inside.
fn got(frame: &[u8]) -> Got {
    let packet = &frame[ethernet::HEADER_LEN..];
    if let Some(inside) = outer::open(packet, None) {
        let inner = [&frame[..ethernet::HEADER_LEN], &packet[inside.inner_offset..]].concat();
        return got(&inner);
    }
    if packet[0] >> 4 == 6 {
        let ip: &ipv6::Header = wire::view(packet, 0).unwrap();
        assert_eq!(ip.check(packet.len()).unwrap(), packet.len());
        let upper = ipv6::walk_extensions(packet).unwrap();
        Got {
            src: ipv6::to_addr(ip.src).into(),
            dst: ipv6::to_addr(ip.dst).into(),
            hops: ip.hop_limit,
            protocol: upper.protocol,
            id: upper.fragment.map_or(0, |fragment| fragment.id.get()),
            offset: upper.fragment.map_or(0, |fragment| fragment.fragment_offset().into()),
            more: upper.fragment.is_some_and(|fragment| fragment.more_fragments()),
            payload: packet[upper.offset..].to_vec(),
        }
    } else {
        let ip: &ipv4::Header = wire::view(packet, 0).unwrap();
        assert_eq!(usize::from(ip.total_len.get()), packet.len());
        assert!(checksum::verify_ipv4(&packet[..20]));
        Got {
            src: ipv4::to_addr(ip.src).into(),
            dst: ipv4::to_addr(ip.dst).into(),
            hops: ip.ttl,
            protocol: ip.protocol,
            id: ip.id.get().into(),
            offset: ip.fragment_offset().into(),
            more: ip.more_fragments(),
            payload: packet[20..].to_vec(),
        }
    }
}

fn endpoints(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let got = got(frame);
    let port = |at: usize| u16::from_be_bytes([got.payload[at], got.payload[at + 1]]);
    (SocketAddr::new(got.src, port(0)), SocketAddr::new(got.dst, port(2)))
}

fn l4_checksum_is_right(got: &Got) -> bool {
    let bytes = &got.payload;
    match (got.src, got.dst, got.protocol) {
        (IpAddr::V4(src), IpAddr::V4(dst), 6) => checksum::verify_tcp_v4(u32be(src), u32be(dst), bytes),
        (IpAddr::V4(src), IpAddr::V4(dst), _) => checksum::verify_udp_v4(u32be(src), u32be(dst), bytes),
        (IpAddr::V6(src), IpAddr::V6(dst), 6) => checksum::verify_tcp_v6(&src.octets(), &dst.octets(), bytes),
        (IpAddr::V6(src), IpAddr::V6(dst), _) => checksum::verify_udp_v6(&src.octets(), &dst.octets(), bytes),
        _ => false,
    }
}

/// Whether `pieces` are pieces of `whole`; which of its bytes they hold.
fn covered(whole: &Got, pieces: &[Got]) -> Vec<bool> {
    let mut seen = vec![false; whole.payload.len()];
    for piece in pieces {
        let range = piece.offset..piece.offset + piece.payload.len();
        assert_eq!(whole.payload[range.clone()], piece.payload);
        assert_eq!(piece.more, range.end < whole.payload.len());
        let expected = Got {
            id: piece.id,
            offset: piece.offset,
            more: piece.more,
            payload: piece.payload.clone(),
            ..whole.clone()
        };
        assert_eq!(piece, &expected);
        assert_eq!(piece.id as u16, FRAGMENT_ID as u16);
        seen[range].fill(true);
    }
    seen
}

fn cases() -> impl Strategy<Value = Case> {
    let ways = prop::sample::select(vec![
        (Mode::FullNat, false, false),
        (Mode::FullNat, true, true),
        (Mode::FullNat, false, true),
        (Mode::FullNat, true, false),
        (Mode::Nat, false, false),
        (Mode::Nat, true, true),
        (Mode::Dr, false, false),
        (Mode::Dr, true, true),
        (Mode::Tun, false, false),
        (Mode::Tun, false, true),
        (Mode::Tun, true, false),
        (Mode::Tun, true, true),
    ]);
    (ways, prop::sample::select(PROTOCOLS.to_vec()), any::<bool>(), any::<bool>()).prop_map(
        |((mode, client_wide, real_wide), protocol, outbound, rebase)| Case {
            mode,
            client_wide,
            real_wide,
            protocol,
            outbound: outbound && !mode.is_one_way(),
            rebase,
        },
    )
}

proptest! {
    /// Any order, repetitions and losses. `picks` says which fragment comes in next, at which worker.
    #[test]
    fn fragments_leave_as_pieces_of_what_the_whole_packet_would_have_been(
        case in cases(),
        workers in 1u16..5,
        len in 200usize..1200,
        mtu in 100usize..200,
        picks in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4), 1..30),
    ) {
        let mut farm = Farm::new(workers, case.spec());
        let way = case.open(&mut farm);
        let payload: Vec<u8> = (0..len).map(|n| (n * 7 / 3) as u8).collect();
        let whole = frame(case.protocol, flags::ACK, way, &payload);
        let pieces = cut(&whole, mtu);
        for (pick, worker) in &picks {
            farm.send(*worker, &pieces[pick.index(pieces.len())]);
        }
        let out: Vec<Got> = farm.forwarded.drain(..).map(|frame| got(&frame)).collect();
        let drops = farm.other.len();
        prop_assert_eq!(picks.len(), out.len() + drops + farm.waiting(), "{:?}", farm.other);
        let full = farm.dropped(DropReason::FragmentBufferFull) as usize;
        prop_assert_eq!(full, drops, "{:?}", farm.other);

        farm.pass(31);
        prop_assert_eq!(farm.waiting(), 0);
        prop_assert_eq!(farm.dropped(DropReason::FragmentTimeout) as usize, farm.freed);

        let mut other = Farm::new(workers, case.spec());
        prop_assert_eq!(case.open(&mut other), way);
        other.send(0, &whole);
        let wanted = got(&other.one());
        prop_assert!(l4_checksum_is_right(&wanted));
        let seen = covered(&wanted, &out);
        let came: Vec<usize> = picks.iter().map(|(pick, _)| pick.index(pieces.len())).collect();
        if full == 0 && (0..pieces.len()).all(|n| came.contains(&n)) {
            prop_assert!(seen.iter().all(|seen| *seen));
        }
        if !came.contains(&0) {
            prop_assert!(out.is_empty());
        }
    }

    /// Whatever fragments are made of, nothing grows beyond its bound and every packet is accounted for.
    #[test]
    fn floods_of_fragments_stay_within_bounds(
        workers in 1u16..4,
        packets in prop::collection::vec((0u16..300, 0u16..9, 1usize..9, any::<bool>(), 0usize..4, any::<u8>()), 1..800),
    ) {
        let mut farm = Farm::new(workers, udp4().spec());
        for (id, offset, units, more, worker, kind) in &packets {
            let base = Ipv4Base {
                eth_dst: GATEWAY_MAC,
                src: u32be(CLIENT),
                dst: u32be(VIP),
                protocol: if kind % 8 == 0 { 6 } else { 17 },
                id: U16::new(*id),
                flags_fragment: U16::new(offset | if *more { ipv4::FLAG_MORE_FRAGMENTS } else { 0 }),
                ..Ipv4Base::default()
            };
            let mut payload = vec![*kind; units * 8 - usize::from(kind % 16 == 1)];
            if kind % 4 == 0 && payload.len() >= 6 {
                payload[..6].copy_from_slice(&[40, 0, 0, 80, 0, 30]);
            }
            farm.send(*worker, &base.frame(&payload));
            prop_assert!(farm.waiting() <= WAIT_SLOTS * WAIT_LEN_MAX * usize::from(workers));
        }
        let settled = farm.forwarded.len() + farm.other.len();
        prop_assert_eq!(settled + farm.waiting() + farm.freed, packets.len());
        farm.pass(31);
        for _ in 0..10 {
            farm.pass(0);
        }
        prop_assert_eq!(farm.waiting(), 0);
        prop_assert_eq!(settled + farm.freed, packets.len());
    }
}

fn udp4() -> Case {
    Case {
        mode: Mode::FullNat,
        client_wide: false,
        real_wide: false,
        protocol: 17,
        outbound: false,
        rebase: false,
    }
}

fn datagram(len: usize) -> Vec<u8> {
    let way = (SocketAddr::new(CLIENT.into(), 4000), SocketAddr::new(VIP.into(), 80));
    frame(17, 0, way, &vec![5; len])
}

#[test]
fn a_fragment_is_handed_over_at_most_twice_and_both_workers_count_it() {
    let mut farm = Farm::new(4, udp4().spec());
    let pieces = cut(&datagram(400), 220);
    for worker in 0..4 {
        for piece in &pieces {
            farm.send(worker, piece);
        }
    }
    assert_eq!((farm.forwarded.len(), farm.waiting()), (pieces.len() * 4, 0));
    // Three of four workers do not keep the ports; the keeper may own the connection, too.
    let handed = farm.event(Counter::HandedOver) as usize;
    assert!(handed >= pieces.len() * 3 && handed <= pieces.len() * 7, "{handed}");
    assert_eq!(farm.workers.iter().map(Worker::connections).sum::<u32>(), 1);
}

#[test]
fn a_datagram_that_came_last_fragment_first_leaves_whole() {
    let mut farm = Farm::new(1, udp4().spec());
    let pieces = cut(&datagram(1000), 220);
    for piece in pieces.iter().rev() {
        farm.send(0, piece);
    }
    assert_eq!((farm.forwarded.len(), farm.waiting()), (pieces.len(), 0));
    assert_eq!(farm.event(Counter::FragmentsWaited), pieces.len() as u64 - 1);
}

#[test]
fn all_of_a_packet_is_refused_once_fragments_overlap() {
    let mut farm = Farm::new(2, udp4().spec());
    let (coarse, fine) = (cut(&datagram(1000), 420), cut(&datagram(1000), 220));
    farm.send(0, &coarse[0]);
    farm.send(0, &fine[1]);
    farm.send(0, &coarse[1]);
    assert_eq!(farm.other, [Verdict::Drop(DropReason::FragmentOverlap); 2]);
    assert_eq!((farm.forwarded.len(), farm.dropped(DropReason::FragmentOverlap)), (1, 2));
}

#[test]
fn first_fragments_hold_the_transport_header() {
    let way = (SocketAddr::new(CLIENT.into(), 4000), SocketAddr::new(VIP.into(), 80));
    let with_options = TcpFrame { options: vec![1; 12], payload: vec![0; 100], ..syn(4000) };
    let cases = [
        (cut(&frame(6, flags::SYN, way, &[0; 100]), 36), 2),
        // 24 bytes of a header of 32.
        (cut(&with_options.to_vec(), 44), 1),
        (cut(&frame(6, flags::SYN, way, &[0; 100]), 44), 0),
        (cut(&frame(17, 0, way, &[0; 100]), 28), 0),
    ];
    for (pieces, tiny) in cases {
        let mut farm = Farm::new(1, Case { protocol: pieces[0][23], ..udp4() }.spec());
        farm.send(0, &pieces[0]);
        farm.send(0, &pieces[1]);
        assert_eq!(farm.dropped(DropReason::FragmentTiny), tiny);
        assert_eq!(farm.forwarded.len(), if tiny == 0 { 2 } else { 0 });
    }
}

#[test]
fn what_follows_a_refused_first_fragment_is_refused_too() {
    let spec =
        ServiceSpec { reals: vec![RealSpec::new((REAL, 8080).into(), Mode::FullNat, 0)], ..udp4().spec() };
    let mut farm = Farm::new(1, spec);
    for piece in &cut(&datagram(400), 220) {
        farm.send(0, piece);
    }
    let stray = Verdict::Drop(DropReason::FragmentStray);
    assert_eq!(farm.other, [Verdict::Reply(CLIENT_SIDE), stray, stray]);
}

#[test]
fn fragments_that_are_not_ours_go_to_the_kernel_in_order_or_not() {
    let mut farm = Farm::new(1, udp4().spec());
    let way = (SocketAddr::new(CLIENT.into(), 53), SocketAddr::new([10, 1, 0, 1].into(), 5353));
    let pieces = cut(&frame(17, 0, way, &[0; 400]), 220);
    for piece in pieces.iter().rev() {
        farm.send(0, piece);
    }
    assert_eq!(farm.other, [Verdict::Punt(PuntClass::Local); 3]);
    let echo = Ipv4Base {
        protocol: 1,
        flags_fragment: U16::new(0x2000),
        eth_dst: GATEWAY_MAC,
        ..Ipv4Base::default()
    };
    farm.send(0, &echo.frame(&[8; 64]));
    assert_eq!(farm.other[3], Verdict::Punt(PuntClass::Icmp));
}

#[test]
fn a_datagram_without_checksum_stays_without_and_cannot_become_ipv6() {
    let bare = |frame: Vec<u8>| {
        let mut frame = frame;
        frame[40..42].fill(0);
        frame
    };
    let mut farm = Farm::new(1, udp4().spec());
    farm.send(0, &cut(&bare(datagram(400)), 220)[0]);
    assert_eq!(farm.one()[40..42], [0, 0]);
    let mut farm = Farm::new(1, Case { real_wide: true, ..udp4() }.spec());
    farm.send(0, &cut(&bare(datagram(400)), 220)[0]);
    assert_eq!(farm.other, [Verdict::Drop(DropReason::FragmentNoChecksum)]);
}

#[test]
fn a_segment_in_fragments_carries_no_client_address_and_none_of_its_own() {
    let mut rig = Rig::new();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    rig.outbound(&syn_ack(lport));
    let forged = toa::encode_v4(253, U32::new(0x0102_0304), U16::new(5)).to_vec();
    let data =
        TcpFrame { options: forged, payload: vec![7; 200], flags_fragment: U16::ZERO, ..from_client(5555) };
    let pieces = fragments_v4(&data.to_vec(), 120);
    let sent: Vec<Got> = pieces.iter().map(|piece| got(&rig.send(CLIENT_SIDE, piece).1)).collect();
    assert_eq!((rig.event(Counter::ToaNoRoom), rig.event(Counter::ToaStripped)), (1, 1));
    let payload: Vec<u8> = sent.iter().flat_map(|piece| piece.payload.clone()).collect();
    let whole = Got { payload, ..sent[0].clone() };
    assert!(l4_checksum_is_right(&whole));
    assert_eq!(toa::find(&whole.payload[20..28]), None);
    // The next whole segment tells.
    assert!(rig.inbound(&ack(5555)).toa().is_some());
}

#[test]
fn a_fragmented_syn_opens_a_connection_and_a_fragmented_rst_ends_it() {
    let mut rig = Rig::new();
    let with_data = |frame: TcpFrame| {
        let frame = TcpFrame { payload: vec![3; 100], flags_fragment: U16::ZERO, ..frame };
        fragments_v4(&frame.to_vec(), 84)
    };
    for piece in with_data(syn(5555)) {
        assert_eq!(rig.send(CLIENT_SIDE, &piece).0, Verdict::Forward(SERVER_SIDE));
    }
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    rig.open(5555);
    assert_eq!(rig.states(), [ConnState::Established]);
    for piece in with_data(TcpFrame { flags: flags::RST, seq: U32::new(CLIENT_ISN + 1), ..from_client(5555) })
    {
        assert_eq!(rig.send(CLIENT_SIDE, &piece).0, Verdict::Forward(SERVER_SIDE));
    }
    assert_eq!(rig.states(), [ConnState::Close]);
}
