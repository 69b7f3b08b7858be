mod client_address;
mod dealt;
mod families;
mod fragments;
mod icmp_errors;
mod ipv6;
mod modes;
mod proxy;
mod refused;
mod resets;
mod resources;
mod rss;
mod semantics;
mod shifts;
mod states;
mod steady;
mod tunnel_errors;
mod udp;
mod uoa;

use std::net::Ipv4Addr;

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
        virtual_: (VIP, 80).into(),
        also: Vec::new(),
        scheduler: Scheduler::Rr,
        flags: Default::default(),
        toa: Some(254),
        timeouts: Timeouts::default(),
        locals: vec![LIP.into()],
        local_ports: (1024, 65535),
        options: Default::default(),
        sorry: None,
        reals: reals
            .iter()
            .map(|(ip, weight)| RealSpec::new((*ip, 8080).into(), Mode::FullNat, *weight))
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

    fn states(&self) -> Vec<ConnState> {
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
            while self.worker.housekeep(self.now) > 0 {}
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
