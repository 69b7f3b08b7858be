//! A worker with open connections of any mode, protocol and family and the frames that belong to them, without DPDK: what the benches
//! and the instruction profile share.
//!
//! Every client's and every real server's initial sequence number is the same, so frames of both directions can be
//! made from nothing but endpoints.

#![allow(dead_code, unreachable_pub)] // Each program that includes this uses a part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A tool of the benches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use engine::fib::{FibPort, Route};
use engine::plan::{Limits, RealSpec, ServiceSpec, Spec};
use engine::snapshot::{Mode, Scheduler, Tunnel, TunnelKind};
use engine::tcp::Timeouts;
use engine::{
    BURST_LEN_MAX, ConnFilter, ConnState, Counter, Counters, FibBuilder, Planner, PortId, Ticks, Update,
    Verdict, Worker, WorkerConfig, WorkerId,
};
use wire::buf::ROOM_DEFAULT;
use wire::build::{Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6};
use wire::tcp::flags::{ACK, PSH, SYN};
use wire::{HeapBuf, MacAddr, U16, U32, ethernet, ipv4, ipv6, tcp, udp};

/// Packets per call, as the dataplane's loop has them.
pub const BURST: usize = 32;
/// What every IPv4 frame is long: 64 bytes on the wire with the FCS.
pub const FRAME_LEN: usize = 60;
/// With IPv6, and in NAT64 everywhere: the headers of TCP, and with the FCS 78 bytes on the wire.
pub const FRAME_LEN_V6: usize = 74;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
// IPv6 addresses are these behind 2001:db8::/96.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const CLIENT_FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const LOCAL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 200);
const TUNNEL_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 199);
const REAL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
/// Where there are many services, their real servers begin behind the local addresses.
const MANY_FROM: u32 = 1000;
const PORT: u16 = 80;
/// Ports of one virtual address, where there are many services.
const VPORTS: u32 = 250;
const REALS: u32 = 20;
const LOCALS: u32 = 2;
const CLIENT_ISN: u32 = 1000;
const REAL_ISN: u32 = 5000;
const NOW: Ticks = Ticks(100);
/// No connection that is open waits longer for a packet, in seconds.
pub const TIMEOUT_S: u32 = 1000;

/// What kind of connections there are.
#[derive(Clone, Copy)]
pub struct Kind {
    pub mode: Mode,
    pub is_udp: bool,
    /// Whether clients have IPv6.
    pub client_is_v6: bool,
    /// Whether real servers have IPv6.
    pub real_is_v6: bool,
}

impl Kind {
    /// FULLNAT, TCP, IPv4.
    pub const PLAINEST: Kind =
        Kind { mode: Mode::FullNat, is_udp: false, client_is_v6: false, real_is_v6: false };

    /// Whether real servers answer clients themselves.
    pub fn is_one_way(self) -> bool {
        matches!(self.mode, Mode::Dr | Mode::Tun)
    }

    fn frame_len(self) -> usize {
        if self.client_is_v6 || self.real_is_v6 { FRAME_LEN_V6 } else { FRAME_LEN }
    }

    /// The n-th client, with 50,000 ports on each address, and the VIP.
    fn client(self, n: u32) -> Endpoints {
        let host = address(CLIENT_FIRST, n / 50_000, self.client_is_v6);
        let src = SocketAddr::new(host, (10_000 + n % 50_000) as u16);
        Endpoints { src, dst: self.vip_of(0) }
    }

    /// The n-th service's: 250 ports on each address.
    fn vip_of(self, n: u32) -> SocketAddr {
        SocketAddr::new(address(VIP, n / VPORTS, self.client_is_v6), PORT + (n % VPORTS) as u16)
    }

    fn real(self, n: u32) -> RealSpec {
        let real = SocketAddr::new(address(REAL_FIRST, n, self.real_is_v6), PORT);
        let source = address(TUNNEL_SOURCE, 0, self.real_is_v6);
        let tunnel = (self.mode == Mode::Tun).then_some(Tunnel { kind: TunnelKind::Ipip, source });
        RealSpec { tunnel, ..RealSpec::new(real, self.mode, 1) }
    }

    /// One service.
    pub fn spec(self) -> Spec {
        Spec { generation: 1, services: vec![self.service(0, REALS)] }
    }

    /// That many services, each with its own real servers behind the same local addresses.
    pub fn spec_of(self, services: u32, reals_each: u32) -> Spec {
        let services = (0..services).map(|n| {
            let service = self.service(n, reals_each);
            let reals = (0..reals_each).map(|i| self.real(MANY_FROM + n * reals_each + i)).collect();
            ServiceSpec { reals, ..service }
        });
        Spec { generation: 1, services: services.collect() }
    }

    fn service(self, n: u32, reals: u32) -> ServiceSpec {
        let with_locals = self.mode == Mode::FullNat;
        ServiceSpec {
            protocol: if self.is_udp { ipv4::PROTO_UDP } else { ipv4::PROTO_TCP },
            virtual_: self.vip_of(n),
            also: Vec::new(),
            scheduler: Scheduler::Rr,
            flags: Default::default(),
            toa: (with_locals && !self.is_udp).then_some(254),
            timeouts: Timeouts::default(),
            locals: (0..LOCALS)
                .filter(|_| with_locals)
                .map(|n| address(LOCAL_FIRST, n, self.real_is_v6))
                .collect(),
            local_ports: (1024, 65_535),
            options: Default::default(),
            sorry: None,
            reals: (0..reals).map(|n| self.real(n)).collect(),
        }
    }

    /// A segment or, whatever the flags, a datagram.
    fn frame(self, endpoints: Endpoints, flags: u8, (seq, ack): (u32, u32), len: usize) -> Vec<u8> {
        if self.is_udp {
            return udp_frame(endpoints, len);
        }
        let tcp = TcpFrame {
            eth_dst: GATEWAY,
            eth_src: NEIGHBOUR,
            src_port: U16::new(endpoints.src.port()),
            dst_port: U16::new(endpoints.dst.port()),
            seq: U32::new(seq),
            ack: U32::new(ack),
            flags,
            payload: endpoints.payload(if flags & SYN == 0 { len } else { 0 }, tcp::HEADER_LEN),
            pad: true,
            ..TcpFrame::default()
        };
        match (endpoints.src.ip(), endpoints.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                TcpFrame { src: ipv4::addr(src), dst: ipv4::addr(dst), ..tcp }.to_vec()
            }
            (src, dst) => {
                TcpFrame6 { src: octets(src), dst: octets(dst), tcp, ..TcpFrame6::default() }.to_vec()
            }
        }
    }

    /// What opens the n-th client's connection: a SYN, or a datagram. Those that [`Rig::established`] opened are the first.
    pub fn first_frame(self, n: u32) -> Vec<u8> {
        self.first_frame_to(n, 0)
    }

    /// The same, to this service.
    pub fn first_frame_to(self, n: u32, service: u32) -> Vec<u8> {
        let endpoints = Endpoints { dst: self.vip_of(service), ..self.client(n) };
        self.frame(endpoints, SYN, (CLIENT_ISN, 0), self.frame_len())
    }

    fn data_frame_inbound(self, endpoints: Endpoints) -> Vec<u8> {
        self.frame(endpoints, ACK | PSH, (CLIENT_ISN + 1, REAL_ISN + 1), self.frame_len())
    }

    fn data_frame_outbound(self, endpoints: Endpoints) -> Vec<u8> {
        self.frame(endpoints, ACK | PSH, (REAL_ISN + 1, CLIENT_ISN + 1), self.frame_len())
    }
}

/// One direction's endpoints of a connection.
#[derive(Clone, Copy)]
pub struct Endpoints {
    src: SocketAddr,
    dst: SocketAddr,
}

impl Endpoints {
    /// Payload that fills a frame of `len` bytes, or none.
    fn payload(&self, len: usize, header_len: usize) -> Vec<u8> {
        let ip_len = if self.src.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        vec![b'x'; len.saturating_sub(ethernet::HEADER_LEN + ip_len + header_len)]
    }
}

/// A worker and its connections.
pub struct Rig {
    pub kind: Kind,
    pub worker: Worker,
    pub counters: Arc<Counters>,
    pub now: Ticks,
    /// Client to VIP, one per connection.
    pub inbound: Vec<Endpoints>,
    /// Real server to local address or, in NAT, to the client; one per connection, none where real servers answer
    /// clients themselves.
    pub outbound: Vec<Endpoints>,
}

impl Rig {
    /// A worker that has these services, room for `connections_max` connections, and none yet.
    pub fn empty(kind: Kind, spec: &Spec, connections_max: u32) -> Rig {
        let reals_max = spec.services.iter().map(|service| service.reals.len()).sum();
        let pairs_max = reals_max * LOCALS as usize;
        let limits = Limits { services_max: spec.services.len(), reals_max, pairs_max };
        let counters = Arc::new(Counters::new(limits.services_max, limits.reals_max, limits.pairs_max));
        let config = WorkerConfig {
            id: WorkerId(0),
            workers: 1,
            connections_max,
            limits,
            secret: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            punt_per_second: 1000,
            now: NOW,
        };
        let mut worker = Worker::new(&config, counters.clone(), vec![counters.clone()]);
        let mut planner = Planner::new(limits, vec![counters.clone()]);
        for mut update in planner.plan(spec).expect("the plan fits") {
            worker.apply(&mut update);
        }
        worker.apply(&mut Update::of_fib(Arc::new(fib().build())));
        Rig { kind, worker, counters, now: NOW, inbound: Vec::new(), outbound: Vec::new() }
    }

    /// A worker with that many connections that are open: established, or answered datagrams.
    pub fn established(kind: Kind, flows: u32) -> Rig {
        Rig::with_room(kind, flows, 0)
    }

    /// The same, with room for `more` connections.
    pub fn with_room(kind: Kind, flows: u32, more: u32) -> Rig {
        let room = flows + more;
        let mut rig = Rig::empty(kind, &kind.spec(), room + room / 8 + 64);
        rig.open_first(flows);
        rig
    }

    /// Opens the connections of the first `flows` clients, which has none open.
    pub fn open_first(&mut self, flows: u32) {
        let kind = self.kind;
        self.inbound = (0..flows).map(|n| kind.client(n)).collect();
        let inbound = self.inbound.clone();
        self.run_all(&inbound, |e| kind.frame(e, SYN, (CLIENT_ISN, 0), 0));
        if !kind.is_one_way() {
            let mut conns = Vec::with_capacity(flows as usize);
            assert_eq!(self.worker.export(self.now, &ConnFilter::default(), 0, u32::MAX, &mut conns), None);
            self.outbound = conns.iter().map(|c| Endpoints { src: c.real, dst: c.local }).collect();
        }
        let outbound = self.outbound.clone();
        self.run_all(&outbound, |e| kind.frame(e, SYN | ACK, (REAL_ISN, CLIENT_ISN + 1), 0));
        self.run_all(&inbound, |e| kind.frame(e, ACK, (CLIENT_ISN + 1, REAL_ISN + 1), 0));
        // The real server speaks, so that the gateway stops repeating the client's address.
        let some_data = FRAME_LEN_V6 + 1;
        self.run_all(&outbound, |e| kind.frame(e, ACK | PSH, (REAL_ISN + 1, CLIENT_ISN + 1), some_data));
        let state = if kind.is_udp { ConnState::Udp } else { ConnState::Established };
        assert_eq!(self.worker.connections(), flows);
        assert_eq!(self.counters.state(state).get(), u64::from(flows));
    }

    /// Ends all connections, in `rounds` groups, each of random ones: those that are opened next have their records
    /// in no order.
    pub fn scatter(&mut self, rounds: u32) {
        let mut groups = vec![Vec::new(); rounds as usize];
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for endpoints in &self.inbound {
            groups[random.below(rounds as usize)].push(*endpoints);
        }
        let kind = self.kind;
        for group in groups {
            self.now = self.now.plus(Ticks::from_secs(1));
            self.run_all(&group, |e| kind.data_frame_inbound(e));
        }
        for _ in 0..rounds + TIMEOUT_S {
            self.now = self.now.plus(Ticks::from_secs(1));
            while self.worker.housekeep(self.now) > 0 {}
        }
        assert_eq!(self.worker.connections(), 0);
    }

    /// Opens connections with these frames.
    pub fn open(&mut self, frames: impl Iterator<Item = Vec<u8>>) {
        let mut burst: Vec<HeapBuf> = frames.map(|frame| HeapBuf::from_frame(&frame)).collect();
        for chunk in burst.chunks_mut(BURST) {
            self.worker.process(self.now, chunk, &mut [Verdict::NONE; BURST_LEN_MAX]);
        }
    }

    fn run_all(&mut self, endpoints: &[Endpoints], frame: impl Fn(Endpoints) -> Vec<u8>) {
        let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];
        for chunk in endpoints.chunks(BURST) {
            let mut burst: Vec<HeapBuf> = chunk.iter().map(|e| HeapBuf::from_frame(&frame(*e))).collect();
            self.worker.process(self.now, &mut burst, &mut verdicts);
            for verdict in &verdicts[..burst.len()] {
                assert_eq!(*verdict, Verdict::Forward(PortId(0)));
            }
        }
    }

    /// Data segments in random order: of clients, or of clients and real servers 1:1.
    pub fn data_frames(&self, both: bool, count: usize) -> Vec<Vec<u8>> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        (0..count)
            .map(|i| {
                if both && i % 2 == 1 {
                    self.kind.data_frame_outbound(self.outbound[random.below(self.outbound.len())])
                } else {
                    self.kind.data_frame_inbound(self.inbound[random.below(self.inbound.len())])
                }
            })
            .collect()
    }

    /// Packets that the engine forwarded so far.
    pub fn forwarded(&self) -> u64 {
        self.counters.event(Counter::Forwarded).get()
    }
}

/// 32 buffers that frames are put into again and again, without allocating.
pub struct Burst {
    pub packets: Vec<HeapBuf>,
    pub verdicts: [Verdict; BURST_LEN_MAX],
}

impl Burst {
    pub fn new() -> Burst {
        Burst {
            packets: vec![HeapBuf::from_frame(&[0; FRAME_LEN_V6]); BURST],
            verdicts: [Verdict::NONE; BURST_LEN_MAX],
        }
    }

    /// Fills the buffers with the frames from `at` on, round and round; returns where the next burst begins.
    pub fn load(&mut self, frames: &[Vec<u8>], at: usize) -> usize {
        let mut next = at;
        for packet in &mut self.packets {
            packet.reload(&frames[next], ROOM_DEFAULT);
            next = if next + 1 == frames.len() { 0 } else { next + 1 };
        }
        next
    }

    /// Whether the engine forwarded every packet of the burst.
    pub fn all_forwarded(&self) -> bool {
        self.verdicts[..self.packets.len()].iter().all(|v| matches!(v, Verdict::Forward(_)))
    }
}

/// A frame whose IP packet is cut.
pub fn cut_frame() -> Vec<u8> {
    let mut frame = Kind::PLAINEST.data_frame_inbound(Kind::PLAINEST.client(0));
    frame.truncate(40);
    frame
}

/// A frame of no service of ours.
pub fn foreign_frame() -> Vec<u8> {
    let src = (Ipv4Addr::new(10, 3, 0, 1), 1024).into();
    let endpoints = Endpoints { src, dst: (VIP, PORT + 1).into() };
    Kind::PLAINEST.data_frame_inbound(endpoints)
}

fn udp_frame(endpoints: Endpoints, len: usize) -> Vec<u8> {
    let (src_port, dst_port) = (U16::new(endpoints.src.port()), U16::new(endpoints.dst.port()));
    let payload = endpoints.payload(len, udp::HEADER_LEN);
    match (endpoints.src.ip(), endpoints.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let (src, dst) = (ipv4::addr(src), ipv4::addr(dst));
            let ip = Ipv4Base { eth_dst: GATEWAY, eth_src: NEIGHBOUR, src, dst, ..Ipv4Base::default() };
            UdpFrame { ip, src_port, dst_port, payload, pad: true, ..UdpFrame::default() }.to_vec()
        }
        (src, dst) => {
            let (src, dst) = (octets(src), octets(dst));
            let ip = Ipv6Base { eth_dst: GATEWAY, eth_src: NEIGHBOUR, src, dst, ..Ipv6Base::default() };
            UdpFrame6 { ip, src_port, dst_port, payload, ..UdpFrame6::default() }.to_vec()
        }
    }
}

/// The n-th address from this one on.
fn address(first: Ipv4Addr, n: u32, is_v6: bool) -> IpAddr {
    let bits = u32::from(first) + n;
    let v6 = || Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(bits));
    if is_v6 { v6().into() } else { Ipv4Addr::from(bits).into() }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Everything is behind one router.
fn fib() -> FibBuilder {
    let mut fib = FibBuilder::default();
    let port = PortId(0);
    fib.set_port(port, FibPort { mac: GATEWAY, mtu: 1500 });
    for is_v6 in [false, true] {
        let router = address(ROUTER, 0, is_v6);
        let any = if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        fib.set_neighbour(port, router, Some(NEIGHBOUR));
        fib.set_route(any, 0, Route { via: Some(router), port });
    }
    fib
}

/// xorshift64*: repeatable, and good enough to spread accesses.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}
