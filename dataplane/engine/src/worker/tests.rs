use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;
use wire::build::{Ipv4Base, TcpFrame};
use wire::tcp::{flags, options};
use wire::{HeapBuf, U16, U32, checksum, icmp, ipv4, toa};

use super::*;
use crate::fib::{FibBuilder, FibPort, Route};
use crate::plan::{Planner, RealSpec, ServiceSpec, Spec};
use crate::snapshot::{Mode, Scheduler};

const CLIENT_SIDE: PortId = PortId(0);
const SERVER_SIDE: PortId = PortId(1);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);
const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const REAL_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
const LIP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 200);
const REAL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
const CLIENT_ISN: u32 = 1000;
const REAL_ISN: u32 = u32::MAX - 2; // sequence numbers wrap soon

type Verdicts = [Verdict; BURST_LEN_MAX];

fn u32be(addr: Ipv4Addr) -> U32 {
    ipv4::addr(addr)
}

fn service(reals: &[(Ipv4Addr, u16)]) -> ServiceSpec {
    ServiceSpec {
        protocol: 6,
        virtual_: SocketAddrV4::new(VIP, 80),
        mode: Mode::FullNat,
        scheduler: Scheduler::Rr,
        toa: Some(254),
        timeouts: Timeouts::default(),
        locals: vec![LIP],
        local_ports: (1024, 65535),
        reals: reals
            .iter()
            .map(|(ip, weight)| RealSpec { real: SocketAddrV4::new(*ip, 8080), weight: *weight, up: true })
            .collect(),
    }
}

/// One worker with a client network on one port and a server network on the other.
struct Rig {
    worker: Worker,
    planner: Planner,
    fib: FibBuilder,
    counters: Arc<Counters>,
    now: Ticks,
    generation: u64,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(1000, service(&[(REAL, 1)]))
    }

    fn with(connections_max: u32, spec: ServiceSpec) -> Rig {
        let limits = Limits { services_max: 4, reals_max: 16, pairs_max: 16 };
        let counters = Arc::new(Counters::new(limits.services_max, limits.reals_max, limits.pairs_max));
        let config = WorkerConfig {
            id: WorkerId(0),
            workers: 1,
            connections_max,
            limits,
            secret: [1, 2],
            punt_per_second: 1000,
            now: Ticks(0),
        };
        let mut fib = FibBuilder::default();
        for port in [CLIENT_SIDE, SERVER_SIDE] {
            fib.set_port(port, FibPort { mac: GATEWAY_MAC, mtu: 1500 });
        }
        fib.set_route([10, 1, 0, 0].into(), 24, Route { via: None, port: CLIENT_SIDE });
        fib.set_route([10, 2, 0, 0].into(), 24, Route { via: None, port: SERVER_SIDE });
        fib.set_neighbour(CLIENT_SIDE, CLIENT.into(), Some(CLIENT_MAC));
        fib.set_neighbour(SERVER_SIDE, REAL.into(), Some(REAL_MAC));
        let worker = Worker::new(&config, counters.clone(), vec![counters.clone()]);
        let planner = Planner::new(limits, vec![counters.clone()]);
        let mut rig = Rig { worker, planner, fib, counters, now: Ticks(100), generation: 0 };
        rig.configure(vec![spec]);
        rig.apply_fib();
        rig
    }

    fn configure(&mut self, services: Vec<ServiceSpec>) {
        self.generation += 1;
        let spec = Spec { generation: self.generation, services };
        for mut update in self.planner.plan(&spec).unwrap() {
            self.worker.apply(&mut update);
        }
    }

    fn apply_fib(&mut self) {
        self.worker.apply(&mut Update::of_fib(Arc::new(self.fib.build())));
    }

    fn send(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut packets = [HeapBuf::from_frame(frame).on_port(port.0)];
        let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
        self.worker.process(self.now, &mut packets, &mut verdicts);
        (verdicts[0], packets[0].to_vec())
    }

    /// From the client; the result is what the real server gets.
    fn inbound(&mut self, frame: &TcpFrame) -> TcpView {
        let (verdict, out) = self.send(CLIENT_SIDE, &frame.to_vec());
        assert_eq!(verdict, Verdict::Forward(SERVER_SIDE), "{}", wire::build::summary(&out));
        TcpView::new(&out)
    }

    /// From the real server; the result is what the client gets.
    fn outbound(&mut self, frame: &TcpFrame) -> TcpView {
        let (verdict, out) = self.send(SERVER_SIDE, &frame.to_vec());
        assert_eq!(verdict, Verdict::Forward(CLIENT_SIDE), "{}", wire::build::summary(&out));
        TcpView::new(&out)
    }

    /// Runs a handshake; returns the connection's local port.
    fn open(&mut self, client_port: u16) -> u16 {
        let lport = self.inbound(&syn(client_port)).header.src_port.get();
        self.outbound(&syn_ack(lport));
        self.inbound(&ack(client_port));
        lport
    }

    fn states(&self) -> Vec<TcpState> {
        let mut out = Vec::with_capacity(100);
        assert_eq!(self.worker.export(self.now, &ConnFilter::default(), 0, 10_000, &mut out), None);
        out.iter().map(|conn| conn.state).collect()
    }

    fn event(&self, event: Counter) -> u64 {
        self.counters.event(event).get()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped(reason).get()
    }

    /// Lets time pass, with housekeeping as often as a real loop would.
    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds * 4 {
            self.now = self.now.plus(Ticks(25));
            self.worker.housekeep(self.now);
        }
    }
}

/// A forwarded segment, its checksums proven.
struct TcpView {
    ip: ipv4::Header,
    header: wire::tcp::Header,
    options: Vec<u8>,
    payload: Vec<u8>,
    eth: wire::ethernet::Header,
}

impl TcpView {
    fn new(frame: &[u8]) -> TcpView {
        let eth: wire::ethernet::Header = *wire::view(frame, 0).unwrap();
        let ip: ipv4::Header = *wire::view(frame, 14).unwrap();
        let end = 14 + usize::from(ip.total_len.get());
        let l4 = 14 + ip.header_len();
        assert!(checksum::verify_ipv4(&frame[14..l4]), "IP checksum: {}", wire::build::summary(frame));
        let ok = checksum::verify_tcp_v4(ip.src, ip.dst, &frame[l4..end]);
        assert!(ok, "TCP checksum: {}", wire::build::summary(frame));
        let header: wire::tcp::Header = *wire::view(frame, l4).unwrap();
        let payload_at = l4 + header.header_len();
        TcpView {
            ip,
            header,
            options: frame[l4 + 20..payload_at].to_vec(),
            payload: frame[payload_at..end].to_vec(),
            eth,
        }
    }

    fn toa(&self) -> Option<(IpAddr, u16)> {
        toa::find(&self.options).map(|client| (client.addr, client.port.get()))
    }
}

fn from_client(client_port: u16) -> TcpFrame {
    TcpFrame {
        eth_dst: GATEWAY_MAC,
        eth_src: CLIENT_MAC,
        src: u32be(CLIENT),
        dst: u32be(VIP),
        src_port: U16::new(client_port),
        dst_port: U16::new(80),
        seq: U32::new(CLIENT_ISN + 1),
        ack: U32::new(REAL_ISN.wrapping_add(1)),
        flags: flags::ACK,
        ..TcpFrame::default()
    }
}

fn from_real(local_port: u16) -> TcpFrame {
    TcpFrame {
        eth_dst: GATEWAY_MAC,
        eth_src: REAL_MAC,
        src: u32be(REAL),
        dst: u32be(LIP),
        src_port: U16::new(8080),
        dst_port: U16::new(local_port),
        seq: U32::new(REAL_ISN.wrapping_add(1)),
        ack: U32::new(CLIENT_ISN + 1),
        flags: flags::ACK,
        ..TcpFrame::default()
    }
}

fn syn(client_port: u16) -> TcpFrame {
    TcpFrame {
        flags: flags::SYN,
        seq: U32::new(CLIENT_ISN),
        ack: U32::ZERO,
        options: vec![options::KIND_MSS, 4, 5, 0xb4],
        ..from_client(client_port)
    }
}

fn syn_ack(local_port: u16) -> TcpFrame {
    TcpFrame {
        flags: flags::SYN | flags::ACK,
        seq: U32::new(REAL_ISN),
        options: vec![options::KIND_MSS, 4, 5, 0xb4],
        ..from_real(local_port)
    }
}

fn ack(client_port: u16) -> TcpFrame {
    from_client(client_port)
}

#[test]
fn a_handshake_passes_between_client_and_real_server() {
    let mut rig = Rig::new();
    let out = rig.inbound(&syn(5555));
    assert_eq!((out.ip.src, out.ip.dst), (u32be(LIP), u32be(REAL)));
    assert_eq!(out.header.dst_port.get(), 8080);
    assert_eq!((out.eth.src, out.eth.dst), (GATEWAY_MAC, REAL_MAC));
    assert_eq!(out.ip.ttl, 63);
    assert_eq!(out.toa(), None, "TOA never stands on a SYN");

    let back = rig.outbound(&syn_ack(out.header.src_port.get()));
    assert_eq!((back.ip.src, back.ip.dst), (u32be(VIP), u32be(CLIENT)));
    assert_eq!((back.header.src_port.get(), back.header.dst_port.get()), (80, 5555));
    assert_eq!((back.eth.src, back.eth.dst), (GATEWAY_MAC, CLIENT_MAC));
    assert_eq!(options::mss(&back.options), Some(1460 - 8));
    assert_eq!(rig.states(), [TcpState::SynRecv]);

    assert_eq!(rig.inbound(&ack(5555)).toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(rig.states(), [TcpState::Established]);
}

#[test]
fn toa_stands_on_every_segment_until_the_real_server_has_acknowledged_or_spoken() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let data = TcpFrame { payload: b"GET / HTTP/1.0\r\n".to_vec(), ..from_client(5555) };
    let out = rig.inbound(&data);
    assert_eq!(out.toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(out.payload, data.payload);
    assert_eq!(rig.inbound(&data).toa(), Some((CLIENT.into(), 5555)), "a retransmission carries it too");
    rig.outbound(&from_real(lport)); // acknowledges only the SYN
    assert!(rig.inbound(&data).toa().is_some());
    rig.outbound(&TcpFrame { ack: U32::new(CLIENT_ISN + 1 + 16), ..from_real(lport) });
    assert_eq!(rig.inbound(&data).toa(), None);
}

#[test]
fn a_server_that_speaks_first_ends_toa() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    rig.outbound(&TcpFrame { payload: b"220 hello\r\n".to_vec(), ..from_real(lport) });
    assert_eq!(rig.inbound(&ack(5555)).toa(), None);
}

#[test]
fn a_client_cannot_forge_its_address() {
    let mut rig = Rig::new();
    rig.inbound(&syn(5555));
    let forged = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53));
    let other = toa::encode_v4(200, U32::new(0x0808_0808), U16::new(53));
    let out = rig.inbound(&TcpFrame { options: [forged, other].concat(), ..from_client(5555) });
    let walked: Vec<_> = options::iter(&out.options).filter_map(|opt| Some(opt.ok()?.kind)).collect();
    assert_eq!(walked.iter().filter(|kind| toa::is_toa_kind(**kind)).count(), 1);
    assert_eq!(out.toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(rig.event(Counter::ToaStripped), 1);
}

#[test]
fn toa_and_fast_open_are_stripped_from_a_syn() {
    let mut rig = Rig::new();
    let forged = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53));
    let mut opts = vec![options::KIND_FAST_OPEN, 2];
    opts.extend(forged);
    let out = rig.inbound(&TcpFrame { options: opts, ..syn(5555) });
    assert!(out.options.iter().all(|byte| *byte == options::KIND_NOP || *byte == options::KIND_END));
    assert_eq!(rig.event(Counter::FastOpenStripped), 1);
}

#[test]
fn without_room_in_the_header_the_segment_passes_without_toa_and_is_counted() {
    let mut rig = Rig::new();
    rig.open(5555);
    let full = TcpFrame {
        options: [vec![8, 10], vec![0; 8], vec![30, 28], vec![0; 26]].concat(),
        ..from_client(5555)
    };
    assert_eq!(rig.inbound(&full).toa(), None);
    assert_eq!(rig.event(Counter::ToaNoRoom), 1);
}

#[test]
fn a_client_cannot_hide_behind_a_header_full_of_padding_or_forged_options() {
    let mut rig = Rig::new();
    rig.open(5555);
    let timestamps = [vec![8, 10], vec![3; 8]].concat();
    let forged = [vec![249, 40], vec![9; 38]].concat();
    for opts in
        [vec![1; 40], forged, [timestamps.clone(), vec![1; 26]].concat(), [vec![1; 29], timestamps].concat()]
    {
        let out =
            rig.inbound(&TcpFrame { options: opts.clone(), payload: b"x".to_vec(), ..from_client(5555) });
        assert_eq!(out.toa(), Some((CLIENT.into(), 5555)), "{opts:?}");
        assert_eq!(options::timestamps(&out.options).is_some(), opts.contains(&3));
        assert_eq!(out.payload, b"x");
    }
    assert_eq!(rig.event(Counter::ToaNoRoom), 0);
}

#[test]
fn a_syn_from_an_address_that_cannot_be_a_clients_opens_nothing() {
    let mut rig = Rig::new();
    let sources =
        [[224, 0, 0, 1], [255, 255, 255, 255], [0, 0, 0, 0], [127, 0, 0, 1], VIP.octets(), LIP.octets()];
    for source in sources {
        let frame = TcpFrame { src: u32be(source.into()), ..syn(5555) }.to_vec();
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(DropReason::SourceInvalid), "{source:?}");
    }
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_syn_at_the_end_of_its_ttl_opens_nothing() {
    let mut rig = Rig::new();
    let (verdict, _) = rig.send(CLIENT_SIDE, &TcpFrame { ttl: 1, ..syn(5555) }.to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn toa_does_not_push_a_packet_over_the_mtu() {
    let mut rig = Rig::new();
    rig.open(5555);
    let full = TcpFrame { payload: vec![7; 1460], ..from_client(5555) };
    let out = rig.inbound(&full);
    assert_eq!((out.toa(), out.payload.len()), (None, 1460));
    assert_eq!(rig.event(Counter::ToaOverMtu), 1);
    let fits = TcpFrame { payload: vec![7; 1452], ..from_client(5555) };
    assert_eq!(rig.inbound(&fits).ip.total_len.get(), 1500);
}

#[test]
fn a_packet_over_the_mtu_is_answered_with_fragmentation_needed() {
    let mut rig = Rig::new();
    rig.open(5555);
    let giant = TcpFrame { payload: vec![7; 1461], ..from_client(5555) }.to_vec();
    let (verdict, out) = rig.send(CLIENT_SIDE, &giant);
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let ip: &ipv4::Header = wire::view(&out, 14).unwrap();
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((ip.src, ip.dst), (u32be(VIP), u32be(CLIENT)));
    assert_eq!((message.kind, message.code, message.next_hop_mtu()), (3, 4, 1500));
    assert!(checksum::verify_ipv4(&out[14..34]));
    assert_eq!(message.checksum, checksum::icmp(&out[34..]));
    assert_eq!(out.len(), 14 + 576);
    assert_eq!(out[42..], giant[14..14 + 548]);
}

#[test]
fn a_packet_at_the_end_of_its_ttl_is_answered_with_time_exceeded() {
    let mut rig = Rig::new();
    rig.open(5555);
    let (verdict, out) = rig.send(CLIENT_SIDE, &TcpFrame { ttl: 1, ..from_client(5555) }.to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((message.kind, message.code), (11, 0));
}

#[test]
fn syn_to_unknown_vip_is_punted() {
    let mut rig = Rig::new();
    let frame = TcpFrame { dst: u32be(Ipv4Addr::new(10, 1, 0, 101)), ..syn(1) };
    assert_eq!(rig.send(CLIENT_SIDE, &frame.to_vec()).0, Verdict::Punt(PuntClass::Local));
    let frame = TcpFrame { dst_port: U16::new(81), ..syn(1) };
    assert_eq!(rig.send(CLIENT_SIDE, &frame.to_vec()).0, Verdict::Punt(PuntClass::Local));
}

#[test]
fn segments_of_no_connection_are_strays() {
    let mut rig = Rig::new();
    for bits in [flags::ACK, flags::RST, flags::FIN | flags::ACK, flags::SYN | flags::ACK] {
        let frame = TcpFrame { flags: bits, ..from_client(1) };
        assert_eq!(rig.send(CLIENT_SIDE, &frame.to_vec()).0, Verdict::Punt(PuntClass::Stray));
    }
    let reply = from_real(4242).to_vec();
    assert_eq!(rig.send(SERVER_SIDE, &reply).0, Verdict::Punt(PuntClass::Stray));
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_corrupt_syn_opens_nothing() {
    let mut rig = Rig::new();
    for at in [14 + 8, 34 + 4] {
        let mut frame = syn(5555).to_vec();
        frame[at] ^= 0x10;
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(DropReason::ChecksumInvalid));
    }
    assert_eq!(rig.dropped(DropReason::ChecksumInvalid), 2);
}

#[test]
fn a_corrupt_segment_leaves_corrupt() {
    let mut rig = Rig::new();
    rig.open(5555);
    let mut frame = TcpFrame { payload: b"hello".to_vec(), ..from_client(5555) }.to_vec();
    *frame.last_mut().unwrap() ^= 0x40;
    let (verdict, out) = rig.send(CLIENT_SIDE, &frame);
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
    let ip: &ipv4::Header = wire::view(&out, 14).unwrap();
    assert!(!checksum::verify_tcp_v4(ip.src, ip.dst, &out[34..]));
}

#[test]
fn truncated_and_malformed_frames_are_counted_drops() {
    let mut rig = Rig::new();
    let whole = syn(5555).to_vec();
    let cut = |len: usize| whole[..len].to_vec();
    let edit = |at: usize, value: u8| {
        let mut frame = whole.clone();
        frame[at] = value;
        frame
    };
    let cases = [
        (cut(0), DropReason::FrameTooShort),
        (cut(13), DropReason::FrameTooShort),
        (cut(14), DropReason::IpTruncated),
        (cut(33), DropReason::IpTruncated),
        (cut(40), DropReason::IpTruncated),
        (edit(14, 0x65), DropReason::IpHeaderInvalid),
        (edit(14, 0x44), DropReason::IpHeaderInvalid),
        (edit(17, 19), DropReason::IpTruncated),
        (edit(17, 39), DropReason::L4Truncated),
        (edit(46, 0x40), DropReason::L4Truncated),
        (edit(46, 0xf0), DropReason::L4Truncated),
        (edit(47, 0), DropReason::TcpFlagsInvalid),
        (edit(47, flags::PSH | flags::URG), DropReason::TcpFlagsInvalid),
        (edit(47, flags::SYN | flags::FIN), DropReason::TcpFlagsInvalid),
        (edit(47, flags::SYN | flags::RST), DropReason::TcpFlagsInvalid),
        (edit(20, 0x20), DropReason::Fragment),
        (edit(21, 0x01), DropReason::Fragment),
        (edit(5, 0xbb), DropReason::NotOurMac),
    ];
    for (frame, reason) in cases {
        let before = rig.dropped(reason);
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(reason));
        assert_eq!(rig.dropped(reason), before + 1);
    }
}

#[test]
fn what_is_not_ours_to_forward_goes_to_the_kernel_in_its_class() {
    let mut rig = Rig::new();
    let with_type = |ether_type: u16| {
        let mut frame = syn(1).to_vec();
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        frame
    };
    let proto = |protocol| Ipv4Base { eth_dst: GATEWAY_MAC, protocol, ..Ipv4Base::default() }.frame(&[0; 30]);
    let mut multicast = syn(1).to_vec();
    multicast[0] = 1;
    let cases = [
        (with_type(0x0806), PuntClass::Arp),
        (with_type(0x86dd), PuntClass::Ipv6),
        (with_type(0x88cc), PuntClass::OtherEthertype),
        (with_type(0x8100), PuntClass::OtherEthertype),
        (proto(1), PuntClass::Icmp),
        (proto(112), PuntClass::Local),
        (multicast, PuntClass::Multicast),
    ];
    for (frame, class) in cases {
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Punt(class));
    }
}

#[test]
fn punts_over_the_rate_limit_are_dropped() {
    let mut rig = Rig::new();
    let frame = from_client(1).to_vec();
    let punted = (0..2000).filter(|_| matches!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Punt(_))).count();
    assert_eq!(punted, 1000);
    assert_eq!(rig.dropped(DropReason::PuntRateLimited), 1000);
}

#[test]
fn without_a_usable_real_server_the_client_is_told() {
    let mut rig = Rig::with(10, service(&[(REAL, 0)]));
    let (verdict, out) = rig.send(CLIENT_SIDE, &syn(1).to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((message.kind, message.code), (3, 3));
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_close_from_either_side_ends_in_time_wait_and_then_in_nothing() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let fin = flags::FIN | flags::ACK;
    rig.inbound(&TcpFrame { flags: fin, ..from_client(5555) });
    assert_eq!(rig.states(), [TcpState::CloseWait]);
    rig.outbound(&TcpFrame { flags: fin, ack: U32::new(CLIENT_ISN + 2), ..from_real(lport) });
    assert_eq!(rig.states(), [TcpState::TimeWait]);
    rig.pass(119);
    assert_eq!(rig.worker.connections(), 1);
    rig.pass(3);
    assert_eq!(rig.worker.connections(), 0);
    let real = rig.counters.real(crate::RealId(0));
    assert_eq!((real.active.get(), real.inactive.get(), real.connections.get()), (0, 0, 1));
    assert_eq!(rig.counters.pair(crate::PairId(0)).in_use.get(), 0);
    assert!(TcpState::ALL.iter().all(|state| rig.counters.state(*state).get() == 0));
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
        assert_eq!(rig.states(), [TcpState::Established]);
    }
    assert_eq!(rig.event(Counter::RstOutOfWindow), 3);
    rig.inbound(&rst(CLIENT_ISN + 1));
    assert_eq!(rig.states(), [TcpState::Close]);
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
    assert_eq!(rig.states(), [TcpState::Established]);
    assert_eq!(rig.event(Counter::FinOutOfWindow), 1);
}

#[test]
fn a_corrupt_rst_ends_nothing() {
    let mut rig = Rig::new();
    rig.open(5555);
    let mut frame = TcpFrame { flags: flags::RST, ..from_client(5555) }.to_vec();
    frame[50] ^= 1;
    rig.send(CLIENT_SIDE, &frame);
    assert_eq!(rig.states(), [TcpState::Established]);
}

#[test]
fn a_refused_connection_closes() {
    let mut rig = Rig::new();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    let refuse = TcpFrame { flags: flags::RST | flags::ACK, seq: U32::ZERO, ..from_real(lport) };
    rig.outbound(&TcpFrame { ack: U32::new(77), ..refuse.clone() });
    assert_eq!(rig.states(), [TcpState::SynRecv]);
    rig.outbound(&refuse);
    assert_eq!(rig.states(), [TcpState::Close]);
}

#[test]
fn a_blind_ack_does_not_establish() {
    let mut rig = Rig::new();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    rig.inbound(&ack(5555));
    assert_eq!(rig.states(), [TcpState::SynRecv]);
    rig.outbound(&syn_ack(lport));
    rig.inbound(&TcpFrame { ack: U32::new(REAL_ISN), ..ack(5555) });
    assert_eq!(rig.states(), [TcpState::SynRecv]);
    assert_eq!(rig.event(Counter::HandshakeAckInvalid), 2);
    rig.inbound(&ack(5555));
    assert_eq!(rig.states(), [TcpState::Established]);
}

#[test]
fn a_reused_client_port_in_time_wait_gets_a_new_connection_and_local_port() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let fin = flags::FIN | flags::ACK;
    rig.inbound(&TcpFrame { flags: fin, ..from_client(5555) });
    rig.outbound(&TcpFrame { flags: fin, ack: U32::new(CLIENT_ISN + 2), ..from_real(lport) });
    assert_eq!(rig.states(), [TcpState::TimeWait]);
    let again = rig.inbound(&TcpFrame { seq: U32::new(CLIENT_ISN + 100_000), ..syn(5555) });
    assert_ne!(again.header.src_port.get(), lport);
    assert_eq!(rig.states(), [TcpState::SynRecv]);
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
    assert_eq!(rig.states(), [TcpState::SynRecv]);
    assert_eq!(rig.inbound(&ack(5555)).toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(rig.states(), [TcpState::Established]);
}

#[test]
fn a_retransmitted_syn_keeps_its_connection() {
    let mut rig = Rig::new();
    let first = rig.inbound(&syn(5555)).header.src_port;
    assert_eq!(rig.inbound(&syn(5555)).header.src_port, first);
    assert_eq!(rig.worker.connections(), 1);
}

#[test]
fn a_full_table_gives_up_embryonic_connections_and_never_established_ones() {
    let mut rig = Rig::with(4, service(&[(REAL, 1)]));
    rig.open(1);
    rig.open(2);
    rig.inbound(&syn(3));
    rig.inbound(&syn(4));
    rig.inbound(&syn(5)); // in place of 3
    assert_eq!(rig.event(Counter::EmbryonicRecycled), 1);
    rig.inbound(&syn(4)); // still there
    assert_eq!(rig.event(Counter::EmbryonicRecycled), 1);
    let lport = rig.inbound(&syn(3)).header.src_port.get(); // in place of 4
    rig.outbound(&syn_ack(lport));
    rig.inbound(&ack(3));
    let lport = rig.inbound(&syn(6)).header.src_port.get(); // in place of 5
    rig.outbound(&syn_ack(lport));
    rig.inbound(&ack(6));
    // Four established connections: nothing may be given up.
    assert_eq!(rig.send(CLIENT_SIDE, &syn(7).to_vec()).0, Verdict::Drop(DropReason::TableFull));
    for port in [1, 2, 3, 6] {
        rig.inbound(&ack(port));
    }
    assert_eq!(rig.states(), [TcpState::Established; 4]);
}

#[test]
fn exhausted_local_ports_refuse_newcomers_and_harm_nobody() {
    let spec = ServiceSpec { local_ports: (2000, 2001), ..service(&[(REAL, 1)]) };
    let mut rig = Rig::with(100, spec);
    rig.open(1);
    rig.open(2);
    assert_eq!(rig.send(CLIENT_SIDE, &syn(3).to_vec()).0, Verdict::Drop(DropReason::LocalPortsExhausted));
    assert_eq!(rig.counters.pair(crate::PairId(0)).exhausted.get(), 1);
    assert_eq!(rig.counters.pair(crate::PairId(0)).in_use.get(), 2);
    assert_eq!(rig.worker.connections(), 2);
    rig.inbound(&ack(1));
    rig.inbound(&ack(2));
}

#[test]
fn the_same_local_port_serves_different_real_servers() {
    let other = Ipv4Addr::new(10, 2, 0, 12);
    let spec = ServiceSpec { local_ports: (2000, 2000), ..service(&[(REAL, 1), (other, 1)]) };
    let mut rig = Rig::with(100, spec);
    rig.fib.set_neighbour(SERVER_SIDE, other.into(), Some(REAL_MAC));
    rig.apply_fib();
    let a = rig.inbound(&syn(1));
    let b = rig.inbound(&syn(2));
    assert_eq!((a.header.src_port, b.header.src_port), (U16::new(2000), U16::new(2000)));
    assert_ne!(a.ip.dst, b.ip.dst);
}

#[test]
fn connections_outlive_their_real_server_and_their_service() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    rig.configure(vec![service(&[(Ipv4Addr::new(10, 2, 0, 12), 1)])]);
    rig.inbound(&ack(5555));
    rig.configure(vec![]);
    rig.inbound(&ack(5555));
    rig.outbound(&from_real(lport));
    assert_eq!(rig.send(CLIENT_SIDE, &syn(6).to_vec()).0, Verdict::Punt(PuntClass::Local));
    rig.pass(901);
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn another_port_range_never_gives_a_port_twice() {
    let range = |ports| ServiceSpec { local_ports: ports, ..service(&[(REAL, 1)]) };
    let mut rig = Rig::with(100, range((2000, 2003)));
    let mut seen: Vec<u16> = (1..=3).map(|port| rig.open(port)).collect();
    rig.configure(vec![range((2000, 2004))]);
    seen.extend((4..=5).map(|port| rig.open(port)));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

#[test]
fn an_unknown_next_hop_is_resolved_and_a_new_mac_takes_effect_at_once() {
    let mut rig = Rig::new();
    rig.fib.set_neighbour(SERVER_SIDE, REAL.into(), None);
    rig.apply_fib();
    let (verdict, _) = rig.send(CLIENT_SIDE, &syn(5555).to_vec());
    assert_eq!(verdict, Verdict::Resolve(SERVER_SIDE));
    assert_eq!(rig.worker.take_wanted().as_slice(), [(SERVER_SIDE, IpAddr::from(REAL))]);
    assert!(rig.worker.take_wanted().is_empty());
    let moved = MacAddr([2, 0, 0, 0, 2, 2]);
    rig.fib.set_neighbour(SERVER_SIDE, REAL.into(), Some(moved));
    rig.apply_fib();
    assert_eq!(rig.inbound(&syn(5555)).eth.dst, moved);
}

#[test]
fn a_new_route_moves_living_connections() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let gateway: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 254);
    let mac = MacAddr([2, 0, 0, 0, 2, 0xfe]);
    rig.fib.set_neighbour(SERVER_SIDE, gateway.into(), Some(mac));
    rig.fib.set_route(CLIENT.into(), 32, Route { via: Some(gateway.into()), port: SERVER_SIDE });
    rig.apply_fib();
    let (verdict, out) = rig.send(SERVER_SIDE, &from_real(lport).to_vec());
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
    assert_eq!(TcpView::new(&out).eth.dst, mac);
    rig.fib.remove_route(CLIENT.into(), 32);
    rig.fib.remove_route([10, 1, 0, 0].into(), 24);
    rig.apply_fib();
    let (verdict, _) = rig.send(SERVER_SIDE, &from_real(lport).to_vec());
    assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
}

#[test]
fn ip_options_are_carried_along() {
    let mut rig = Rig::new();
    rig.open(5555);
    let mut frame = TcpFrame { payload: b"x".to_vec(), ..from_client(5555) }.to_vec();
    // Four NOPs as IP options.
    frame.splice(34..34, [1; 4]);
    frame[14] = 0x46;
    frame[16..18].copy_from_slice(&46u16.to_be_bytes()[..]);
    frame[16..18].copy_from_slice(&45u16.to_be_bytes()[..]);
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_bytes());
    let (verdict, out) = rig.send(CLIENT_SIDE, &frame);
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
    let out = TcpView::new(&out);
    assert_eq!((out.payload.as_slice(), out.toa()), (b"x".as_slice(), Some((CLIENT.into(), 5555))));
}

#[test]
fn ethernet_padding_stays_outside_the_packet() {
    let mut rig = Rig::new();
    rig.open(5555);
    let out = rig.inbound(&TcpFrame { pad: true, ..from_client(5555) });
    assert_eq!((out.ip.total_len.get(), out.payload.len()), (48, 0));
}

#[test]
fn replies_and_requests_have_the_same_owner_for_any_number_of_workers() {
    let limits = Limits { services_max: 1, reals_max: 1, pairs_max: 1 };
    for workers in 1..=8u16 {
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(Counters::new(1, 1, 1))).collect();
        let mut planner = Planner::new(limits, counters.clone());
        let spec = Spec { generation: 1, services: vec![service(&[(REAL, 1)])] };
        let mut fib = Rig::new().fib;
        let fib = Arc::new(fib.build());
        let mut gateway: Vec<Worker> = planner
            .plan(&spec)
            .unwrap()
            .into_iter()
            .enumerate()
            .map(|(i, mut update)| {
                let config = WorkerConfig {
                    id: WorkerId(i as u16),
                    workers,
                    connections_max: 1000,
                    limits,
                    secret: [7, 8],
                    punt_per_second: 1000,
                    now: Ticks(0),
                };
                let mut worker = Worker::new(&config, counters[i].clone(), counters.clone());
                worker.apply(&mut update);
                worker.apply(&mut Update::of_fib(fib.clone()));
                worker
            })
            .collect();
        for client_port in 1000..1050 {
            let mut owners = [0usize; 2];
            let mut lport = 0;
            for (step, port) in [(0, CLIENT_SIDE), (1, SERVER_SIDE)] {
                let frame = if step == 0 { syn(client_port).to_vec() } else { syn_ack(lport).to_vec() };
                let receiver = usize::from(client_port) % usize::from(workers);
                let mut packets = [HeapBuf::from_frame(&frame).on_port(port.0)];
                let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
                gateway[receiver].process(Ticks(1), &mut packets, &mut verdicts);
                owners[step] = receiver;
                if let Verdict::HandOver(owner) = verdicts[0] {
                    owners[step] = owner.index();
                    gateway[owner.index()].process_handed_over(Ticks(1), &mut packets, &mut verdicts);
                }
                assert!(matches!(verdicts[0], Verdict::Forward(_)), "{:?}", verdicts[0]);
                lport = TcpView::new(packets[0].data()).header.src_port.get();
            }
            assert_eq!(owners[0], owners[1], "{workers} workers");
        }
    }
}

/// What a segment of an open connection may look like, ordinary or not.
#[derive(Debug, Clone)]
struct Shape {
    inbound: bool,
    flags: u8,
    ahead: i16,
    ack_ahead: u8,
    window: u16,
    options: Vec<u8>,
    payload_len: usize,
    ttl: u8,
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
    let rest = (any::<bool>(), flags, -50i16..2000, 0u8..200, any::<u16>(), options, 0usize..1461, 0u8..65);
    rest.prop_map(|(inbound, flags, ahead, ack_ahead, window, options, payload_len, ttl)| Shape {
        inbound,
        flags,
        ahead,
        ack_ahead,
        window,
        options,
        payload_len,
        ttl,
    })
}

impl Shape {
    fn frame(&self, lport: u16) -> (PortId, Vec<u8>) {
        let (port, base) =
            if self.inbound { (CLIENT_SIDE, from_client(5555)) } else { (SERVER_SIDE, from_real(lport)) };
        let frame = TcpFrame {
            flags: self.flags,
            seq: U32::new(base.seq.get().wrapping_add_signed(self.ahead.into())),
            ack: U32::new(base.ack.get().wrapping_add(self.ack_ahead.into())),
            window: U16::new(self.window),
            options: self.options.clone(),
            payload: vec![0xa5; self.payload_len],
            ttl: self.ttl,
            ..base
        };
        (port, frame.to_vec())
    }
}

impl Rig {
    /// As [`Rig::send`], but never by the short way.
    fn send_the_long_way(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut packet = HeapBuf::from_frame(frame).on_port(port.0);
        let Parsed::Segment(segment) = parse(frame, GATEWAY_MAC) else { panic!("no segment") };
        let found = self.worker.table.find(segment.key, self.worker.table.hash(segment.key)).unwrap();
        let verdict = self.worker.forward(self.now, &mut packet, &segment, found);
        (verdict, packet.to_vec())
    }

    fn record(&self) -> String {
        format!("{:?}", self.worker.table.used()[0])
    }
}

proptest! {
    #[test]
    fn the_short_way_does_what_the_long_way_does(shapes in prop::collection::vec(shapes(), 1..30)) {
        let mut rigs = [Rig::new(), Rig::new()];
        let lport = rigs.each_mut().map(|rig| rig.open(5555))[0];
        for shape in shapes {
            let (port, frame) = shape.frame(lport);
            let short = rigs[0].send(port, &frame);
            let long = rigs[1].send_the_long_way(port, &frame);
            prop_assert_eq!(short, long, "{:?}", shape);
            prop_assert_eq!(rigs[0].record(), rigs[1].record(), "{:?}", shape);
            for event in Counter::ALL {
                prop_assert_eq!(rigs[0].event(*event), rigs[1].event(*event), "{:?} {:?}", event, shape);
            }
        }
    }
}
