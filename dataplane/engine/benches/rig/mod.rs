//! A worker with established FULLNAT connections and the frames that belong to them, without DPDK: what the benches
//! and the instruction profile share.
//!
//! Every client's and every real server's initial sequence number is the same, so frames of both directions can be
//! made from nothing but endpoints.

#![allow(dead_code, unreachable_pub)] // Each program that includes this uses a part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A tool of the benches.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use engine::fib::{FibPort, Route};
use engine::plan::{Limits, RealSpec, ServiceSpec, Spec};
use engine::snapshot::{Mode, Scheduler};
use engine::tcp::Timeouts;
use engine::{
    BURST_LEN_MAX, ConnFilter, Counter, Counters, FibBuilder, Planner, PortId, Ticks, Update, Verdict,
    Worker, WorkerConfig, WorkerId,
};
use wire::buf::ROOM_DEFAULT;
use wire::build::TcpFrame;
use wire::tcp::flags::{ACK, PSH, SYN};
use wire::{HeapBuf, MacAddr, U16, U32};

/// Packets per call, as the dataplane's loop has them.
pub const BURST: usize = 32;
/// What every frame is long: 64 bytes on the wire with the FCS.
pub const FRAME_LEN: usize = 60;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
const VPORT: u16 = 80;
const REALS: u32 = 20;
const LOCALS: u8 = 2;
const CLIENT_ISN: u32 = 1000;
const REAL_ISN: u32 = 5000;
const NOW: Ticks = Ticks(100);

/// One direction's endpoints of a connection.
#[derive(Clone, Copy)]
pub struct Endpoints {
    src: SocketAddrV4,
    dst: SocketAddrV4,
}

/// A worker and its connections.
pub struct Rig {
    pub worker: Worker,
    pub counters: Arc<Counters>,
    pub now: Ticks,
    /// Client to VIP, one per connection.
    pub inbound: Vec<Endpoints>,
    /// Real server to local address, one per connection.
    pub outbound: Vec<Endpoints>,
}

impl Rig {
    /// A worker that has a service with room for `connections_max` connections, and none yet.
    pub fn empty(connections_max: u32) -> Rig {
        let limits = Limits { services_max: 16, reals_max: 64, pairs_max: 256 };
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
        for mut update in planner.plan(&spec()).expect("the plan fits") {
            worker.apply(&mut update);
        }
        worker.apply(&mut Update::of_fib(Arc::new(fib().build())));
        Rig { worker, counters, now: NOW, inbound: Vec::new(), outbound: Vec::new() }
    }

    /// A worker with that many established connections.
    pub fn established(flows: u32) -> Rig {
        let mut rig = Rig::empty(flows + flows / 8 + 64);
        rig.inbound = (0..flows).map(client).collect();
        let syns = rig.inbound.clone();
        rig.run_all(&syns, |e| frame(e, SYN, CLIENT_ISN, 0, 0));
        let mut conns = Vec::with_capacity(flows as usize);
        assert_eq!(rig.worker.export(rig.now, &ConnFilter::default(), 0, u32::MAX, &mut conns), None);
        let v4 = |endpoint: std::net::SocketAddr| match endpoint {
            std::net::SocketAddr::V4(v4) => v4,
            std::net::SocketAddr::V6(v6) => panic!("{v6} in an IPv4 bench"),
        };
        rig.outbound = conns.iter().map(|c| Endpoints { src: v4(c.real), dst: v4(c.local) }).collect();
        let (inbound, outbound) = (rig.inbound.clone(), rig.outbound.clone());
        rig.run_all(&outbound, |e| frame(e, SYN | ACK, REAL_ISN, CLIENT_ISN + 1, 0));
        rig.run_all(&inbound, |e| frame(e, ACK, CLIENT_ISN + 1, REAL_ISN + 1, 0));
        // The real server speaks, so that the gateway stops repeating the client's address.
        rig.run_all(&outbound, data_frame_outbound);
        assert_eq!(rig.worker.connections(), flows);
        assert_eq!(rig.counters.state(engine::ConnState::Established).get(), u64::from(flows));
        rig
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
                    data_frame_outbound(self.outbound[random.below(self.outbound.len())])
                } else {
                    data_frame_inbound(self.inbound[random.below(self.inbound.len())])
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
            packets: vec![HeapBuf::from_frame(&[0; FRAME_LEN]); BURST],
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

/// A SYN from a client that no connection has been made for, when `n` was not used before.
pub fn syn_frame(n: u32) -> Vec<u8> {
    frame(client(n), SYN, CLIENT_ISN, 0, 0)
}

/// A frame whose IP packet is cut.
pub fn cut_frame() -> Vec<u8> {
    let mut frame = data_frame_inbound(client(0));
    frame.truncate(40);
    frame
}

/// A frame of no service of ours.
pub fn foreign_frame() -> Vec<u8> {
    let src = SocketAddrV4::new(Ipv4Addr::new(10, 3, 0, 1), 1024);
    frame(Endpoints { src, dst: SocketAddrV4::new(VIP, 81) }, ACK, 1, 1, 6)
}

fn data_frame_inbound(endpoints: Endpoints) -> Vec<u8> {
    frame(endpoints, ACK | PSH, CLIENT_ISN + 1, REAL_ISN + 1, 6)
}

fn data_frame_outbound(endpoints: Endpoints) -> Vec<u8> {
    frame(endpoints, ACK | PSH, REAL_ISN + 1, CLIENT_ISN + 1, 6)
}

fn frame(endpoints: Endpoints, flags: u8, seq: u32, ack: u32, payload_len: usize) -> Vec<u8> {
    TcpFrame {
        eth_dst: GATEWAY,
        eth_src: NEIGHBOUR,
        src: U32::from_bytes(endpoints.src.ip().octets()),
        dst: U32::from_bytes(endpoints.dst.ip().octets()),
        src_port: U16::new(endpoints.src.port()),
        dst_port: U16::new(endpoints.dst.port()),
        seq: U32::new(seq),
        ack: U32::new(ack),
        flags,
        payload: vec![b'x'; payload_len],
        pad: true,
        ..TcpFrame::default()
    }
    .to_vec()
}

/// The n-th client: 50,000 ports on each address of 10.128.0.0/9.
fn client(n: u32) -> Endpoints {
    let address = Ipv4Addr::from(0x0a80_0001 + n / 50_000);
    let src = SocketAddrV4::new(address, (10_000 + n % 50_000) as u16);
    Endpoints { src, dst: SocketAddrV4::new(VIP, VPORT) }
}

fn spec() -> Spec {
    let real = |n| RealSpec::new((Ipv4Addr::from(0x0a02_000b + n), 80).into(), Mode::FullNat, 1);
    let service = ServiceSpec {
        protocol: 6,
        virtual_: (VIP, VPORT).into(),
        also: Vec::new(),
        scheduler: Scheduler::Rr,
        flags: Default::default(),
        toa: Some(254),
        timeouts: Timeouts::default(),
        locals: (0..LOCALS).map(|n| [10, 2, 0, 200 + n].into()).collect(),
        local_ports: (1024, 65_535),
        options: Default::default(),
        sorry: None,
        reals: (0..REALS).map(real).collect(),
    };
    Spec { generation: 1, services: vec![service] }
}

fn fib() -> FibBuilder {
    let mut fib = FibBuilder::default();
    let port = PortId(0);
    fib.set_port(port, FibPort { mac: GATEWAY, mtu: 1500 });
    let router = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 254));
    fib.set_neighbour(port, router, Some(NEIGHBOUR));
    fib.set_route(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, Route { via: Some(router), port });
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
