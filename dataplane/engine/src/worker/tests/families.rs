//! Both families, both protocols, all modes: what holds for every combination of them.

use std::net::{Ipv6Addr, SocketAddr};

use wire::build::{Ipv6Base, TcpFrame6, UdpFrame, UdpFrame6};
use wire::{ipv6, udp};

use super::*;
use crate::conn::Conn;
use crate::snapshot::{Tunnel, TunnelKind};

const PROTO_TCP: u8 = ipv4::PROTO_TCP;
const PROTO_UDP: u8 = ipv4::PROTO_UDP;

fn v6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host)
}

/// One combination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub mode: Mode,
    pub client_v6: bool,
    pub real_v6: bool,
    pub udp: bool,
}

impl Case {
    /// All that there are: only FULLNAT and TUN have two families.
    pub(super) fn all() -> Vec<Case> {
        let mut all = Vec::new();
        for mode in [Mode::FullNat, Mode::Nat, Mode::Dr, Mode::Tun] {
            for bits in 0..8u8 {
                let (client_v6, real_v6, udp) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                if client_v6 == real_v6 || matches!(mode, Mode::FullNat | Mode::Tun) {
                    all.push(Case { mode, client_v6, real_v6, udp });
                }
            }
        }
        all
    }

    pub(super) fn protocol(self) -> u8 {
        if self.udp { PROTO_UDP } else { PROTO_TCP }
    }

    pub(super) fn client(self, port: u16) -> SocketAddr {
        let ip = if self.client_v6 { v6(1, 9).into() } else { CLIENT.into() };
        SocketAddr::new(ip, port)
    }

    pub(super) fn virtual_(self) -> SocketAddr {
        SocketAddr::new(if self.client_v6 { v6(1, 100).into() } else { VIP.into() }, 80)
    }

    pub(super) fn real(self) -> SocketAddr {
        let port = if self.mode.is_one_way() { 80 } else { 8080 };
        SocketAddr::new(if self.real_v6 { v6(2, 11).into() } else { REAL.into() }, port)
    }

    /// One that comes before it in the order of slots.
    pub(super) fn first_real(self) -> SocketAddr {
        let ip = if self.real_v6 { v6(2, 10).into() } else { Ipv4Addr::new(10, 2, 0, 10).into() };
        SocketAddr::new(ip, self.real().port())
    }

    pub(super) fn local(self) -> IpAddr {
        if self.real_v6 { v6(2, 200).into() } else { LIP.into() }
    }

    pub(super) fn spec(self) -> ServiceSpec {
        let tunnel = Tunnel { kind: TunnelKind::Ipip, source: self.local() };
        let mut real = RealSpec::new(self.real(), self.mode, 1);
        real.tunnel = (self.mode == Mode::Tun).then_some(tunnel);
        ServiceSpec {
            protocol: self.protocol(),
            virtual_: self.virtual_(),
            // What tunnels come from is no local address of connections.
            locals: if self.mode == Mode::FullNat { vec![self.local()] } else { Vec::new() },
            reals: vec![real],
            ..service(&[])
        }
    }

    pub(super) fn rig(self, connections_max: u32) -> Rig {
        Self::rig_of(connections_max, self.spec())
    }

    pub(super) fn rig_of(connections_max: u32, spec: ServiceSpec) -> Rig {
        let mut rig = Rig::with(connections_max, spec);
        two_families(&mut rig.fib);
        rig.apply_fib();
        rig
    }

    /// What a client sends from a port.
    pub(super) fn sent(self, port: u16) -> Packet {
        Packet { src: self.client(port), dst: self.virtual_(), ..Packet::of(self.udp) }
    }

    /// What the real server answers to what it got as `inbound`.
    pub(super) fn answered(self, inbound: &Packet) -> Packet {
        let (seq, ack) = (REAL_ISN.wrapping_add(1), CLIENT_ISN + 1);
        Packet { src: inbound.dst, dst: inbound.src, seq, ack, ..Packet::of(self.udp) }
    }

    /// Opens a connection from a port; what the real server got last of it.
    pub(super) fn open(self, rig: &mut Rig, port: u16) -> Packet {
        if self.udp {
            return rig.pass_in(self, &self.sent(port));
        }
        let syn = Packet { flags: flags::SYN, seq: CLIENT_ISN, ack: 0, ..self.sent(port) };
        let first = rig.pass_in(self, &syn);
        if !self.mode.is_one_way() {
            let answer = Packet { flags: flags::SYN | flags::ACK, seq: REAL_ISN, ..self.answered(&first) };
            rig.pass_out(&answer);
        }
        rig.pass_in(self, &self.sent(port));
        first
    }
}

/// Routes and neighbours of IPv6, as [`Rig::with`] has those of IPv4.
pub(super) fn two_families(fib: &mut FibBuilder) {
    fib.set_route(v6(1, 0).into(), 48, Route { via: None, port: CLIENT_SIDE });
    fib.set_route(v6(2, 0).into(), 48, Route { via: None, port: SERVER_SIDE });
    fib.set_neighbour(CLIENT_SIDE, v6(1, 9).into(), Some(CLIENT_MAC));
    fib.set_neighbour(SERVER_SIDE, v6(2, 11).into(), Some(REAL_MAC));
}

/// A segment or datagram of either family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub udp: bool,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub hops: u8,
}

impl Packet {
    fn of(udp: bool) -> Packet {
        Packet {
            src: (CLIENT, 0).into(),
            dst: (VIP, 0).into(),
            udp,
            flags: if udp { 0 } else { flags::ACK },
            seq: if udp { 0 } else { CLIENT_ISN + 1 },
            ack: if udp { 0 } else { REAL_ISN.wrapping_add(1) },
            window: if udp { 0 } else { 65_535 },
            options: Vec::new(),
            payload: Vec::new(),
            hops: 64,
        }
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        let tcp = TcpFrame {
            eth_dst: GATEWAY_MAC,
            eth_src: CLIENT_MAC,
            src_port: U16::new(self.src.port()),
            dst_port: U16::new(self.dst.port()),
            seq: U32::new(self.seq),
            ack: U32::new(self.ack),
            flags: self.flags,
            window: U16::new(self.window),
            options: self.options.clone(),
            payload: self.payload.clone(),
            ttl: self.hops,
            ..TcpFrame::default()
        };
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                self.frame4(TcpFrame { src: u32be(src), dst: u32be(dst), ..tcp })
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.frame6(tcp, src.octets(), dst.octets()),
            _ => panic!("{self:?} is of two families"),
        }
    }

    fn frame4(&self, tcp: TcpFrame) -> Vec<u8> {
        if !self.udp {
            return tcp.to_vec();
        }
        let ip = Ipv4Base {
            eth_dst: tcp.eth_dst,
            eth_src: tcp.eth_src,
            src: tcp.src,
            dst: tcp.dst,
            ttl: self.hops,
            ..Ipv4Base::default()
        };
        let (src_port, dst_port) = (tcp.src_port, tcp.dst_port);
        UdpFrame { ip, src_port, dst_port, payload: tcp.payload, ..UdpFrame::default() }.to_vec()
    }

    fn frame6(&self, tcp: TcpFrame, src: [u8; 16], dst: [u8; 16]) -> Vec<u8> {
        if !self.udp {
            return TcpFrame6 { src, dst, hop_limit: self.hops, tcp }.to_vec();
        }
        let (eth_dst, eth_src, hop_limit) = (tcp.eth_dst, tcp.eth_src, self.hops);
        let ip = Ipv6Base { eth_dst, eth_src, src, dst, hop_limit, ..Ipv6Base::default() };
        let (src_port, dst_port) = (tcp.src_port, tcp.dst_port);
        UdpFrame6 { ip, src_port, dst_port, payload: tcp.payload, ..UdpFrame6::default() }.to_vec()
    }

    /// Reads a frame without extension headers, its checksums proven.
    pub(super) fn read(frame: &[u8]) -> Packet {
        match frame[12..14] {
            [0x86, 0xdd] => Packet::read_v6(frame),
            _ => Packet::read_v4(frame),
        }
    }

    fn read_v4(frame: &[u8]) -> Packet {
        let ip: ipv4::Header = *wire::view(frame, 14).unwrap();
        let l4 = &frame[14 + ip.header_len()..14 + usize::from(ip.total_len.get())];
        let udp = ip.protocol == PROTO_UDP;
        let verify = if udp { checksum::verify_udp_v4 } else { checksum::verify_tcp_v4 };
        assert!(checksum::verify_ipv4(&frame[14..14 + ip.header_len()]), "{}", wire::build::summary(frame));
        assert!(verify(ip.src, ip.dst, l4), "{}", wire::build::summary(frame));
        let (src, dst) = (ipv4::to_addr(ip.src).into(), ipv4::to_addr(ip.dst).into());
        Packet { hops: ip.ttl, ..Packet::read_l4((src, dst), l4, udp) }
    }

    fn read_v6(frame: &[u8]) -> Packet {
        let ip: ipv6::Header = *wire::view(frame, 14).unwrap();
        let l4 = &frame[54..54 + usize::from(ip.payload_len.get())];
        let udp = ip.next_header == PROTO_UDP;
        let verify = if udp { checksum::verify_udp_v6 } else { checksum::verify_tcp_v6 };
        assert!(verify(&ip.src, &ip.dst, l4), "{}", wire::build::summary(frame));
        let (src, dst) = (Ipv6Addr::from(ip.src).into(), Ipv6Addr::from(ip.dst).into());
        Packet { hops: ip.hop_limit, ..Packet::read_l4((src, dst), l4, udp) }
    }

    fn read_l4((src, dst): (IpAddr, IpAddr), l4: &[u8], udp: bool) -> Packet {
        let ports: &udp::Header = wire::view(l4, 0).unwrap();
        let (src, dst) =
            (SocketAddr::new(src, ports.src_port.get()), SocketAddr::new(dst, ports.dst_port.get()));
        if udp {
            return Packet { src, dst, payload: l4[8..].to_vec(), ..Packet::of(true) };
        }
        let tcp: &wire::tcp::Header = wire::view(l4, 0).unwrap();
        Packet {
            src,
            dst,
            flags: tcp.flags,
            seq: tcp.seq.get(),
            ack: tcp.ack.get(),
            window: tcp.window.get(),
            options: l4[20..tcp.header_len()].to_vec(),
            payload: l4[tcp.header_len()..].to_vec(),
            ..Packet::of(false)
        }
    }
}

impl Rig {
    /// From a client; what the real server's stack gets, out of the tunnel if there is one.
    pub(super) fn pass_in(&mut self, case: Case, packet: &Packet) -> Packet {
        let (verdict, mut out) = self.send(CLIENT_SIDE, &packet.frame());
        assert_eq!(verdict, Verdict::Forward(SERVER_SIDE), "{}", wire::build::summary(&out));
        if case.mode == Mode::Tun {
            out.drain(14..14 + if case.real_v6 { 40 } else { 20 });
            out[12..14].copy_from_slice(if case.client_v6 { &[0x86, 0xdd] } else { &[8, 0] });
        }
        Packet::read(&out)
    }

    /// From a real server; what the client gets.
    pub(super) fn pass_out(&mut self, packet: &Packet) -> Packet {
        let (verdict, out) = self.send(SERVER_SIDE, &packet.frame());
        assert_eq!(verdict, Verdict::Forward(CLIENT_SIDE), "{}", wire::build::summary(&out));
        Packet::read(&out)
    }

    /// Everything that a worker remembers of its connections; not how it gets to their ends, which is looked up when the
    /// first packet wants it, be it an error, and not which part of their traffic the page has already.
    pub(super) fn memory(&self) -> String {
        let mut conns = self.worker.table.used().to_vec();
        for conn in &mut conns {
            (conn.next_hops, conn.traffic) = (Conn::EMPTY.next_hops, Conn::EMPTY.traffic);
        }
        format!("{conns:?}")
    }
}

#[test]
fn every_mode_sends_each_family_and_protocol_where_it_belongs() {
    for case in Case::all() {
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        let sent = Packet { payload: b"hello".to_vec(), ..case.sent(5555) };
        let got = rig.pass_in(case, &sent);
        let (src, dst) = match case.mode {
            Mode::FullNat => (case.local(), case.real()),
            Mode::Nat => (sent.src.ip(), case.real()),
            Mode::Dr | Mode::Tun => (sent.src.ip(), case.virtual_()),
        };
        assert_eq!((got.src.ip(), got.dst), (src, dst), "{case:?}");
        let tells = case.mode == Mode::FullNat && !case.udp;
        let told = toa::find(&got.options).map(|client| SocketAddr::new(client.addr, client.port.get()));
        assert_eq!(told, tells.then_some(sent.src), "{case:?}");
        let plain = Packet { src: sent.src, dst: sent.dst, options: Vec::new(), ..got };
        assert_eq!(plain, Packet { hops: 63, ..sent }, "{case:?}");
    }
}

#[test]
fn replies_of_one_way_modes_are_the_kernels_and_change_nothing() {
    for case in Case::all().into_iter().filter(|case| case.mode.is_one_way()) {
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        let memory = rig.memory();
        let reply = Packet { src: case.virtual_(), dst: case.client(5555), ..case.sent(5555) };
        let (verdict, out) = rig.send(SERVER_SIDE, &reply.frame());
        assert_eq!(verdict, Verdict::Punt(PuntClass::Local), "{case:?}");
        assert_eq!(out, reply.frame());
        assert_eq!(rig.memory(), memory, "{case:?}");
    }
}

proptest! {
    #[test]
    fn there_and_back_gives_the_same_packet(
        case in prop::sample::select(Case::all()),
        payload in prop::collection::vec(any::<u8>(), 0..1400),
        (seq, ack, window, hops) in any::<(u32, u32, u16, u8)>(),
        port in 1u16..,
        timestamps in any::<bool>(),
    ) {
        prop_assume!(!case.mode.is_one_way() && hops > 2);
        let mut spec = case.spec();
        spec.toa = None;
        let mut rig = case.rig(10);
        rig.configure(vec![spec]);
        case.open(&mut rig, port);
        let options = if timestamps && !case.udp { [vec![1, 1, 8, 10], vec![7; 8]].concat() } else { vec![] };
        let mut sent = Packet { payload, hops, ..case.sent(port) };
        if !case.udp {
            sent = Packet { seq, ack, window, options, flags: flags::ACK | flags::PSH, ..sent };
        }
        let there = rig.pass_in(case, &sent);
        // The real server sends the very same back.
        let echo = Packet { src: there.dst, dst: there.src, ..there };
        let back = rig.pass_out(&echo);
        prop_assert_eq!(back, Packet { src: sent.dst, dst: sent.src, hops: hops - 2, ..sent });
    }

    #[test]
    fn a_reply_reaches_the_owner_of_its_connection(
        case in prop::sample::select(Case::all()), workers in 1u16..=64, port in 1u16..=u16::MAX - 8,
    ) {
        prop_assume!(!case.mode.is_one_way());
        let mut gateway = Gateway::new(case, workers);
        for port in port..port + 8 {
            let first = Packet { flags: if case.udp { 0 } else { flags::SYN }, ..case.sent(port) };
            let (owner, there) = gateway.send(CLIENT_SIDE, &first);
            let (same, back) = gateway.send(SERVER_SIDE, &case.answered(&there));
            prop_assert_eq!(owner, same);
            prop_assert_eq!((back.src, back.dst), (case.virtual_(), case.client(port)));
        }
    }
}

/// Several workers; the NIC gives every packet to the first.
struct Gateway {
    workers: Vec<Worker>,
}

impl Gateway {
    fn new(case: Case, workers: u16) -> Gateway {
        let limits = Limits { services_max: 1, reals_max: 1, pairs_max: 1 };
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(Counters::new(1, 1, 1))).collect();
        let mut planner = Planner::new(limits, counters.clone());
        let updates = planner.plan(&Spec { generation: 1, services: vec![case.spec()] }).unwrap();
        let fib = Arc::new(case.rig(1).fib.build());
        let worker = |(i, mut update): (usize, Update)| {
            let config = WorkerConfig {
                id: WorkerId(i as u16),
                workers,
                connections_max: 100,
                limits,
                secret: [7, 8],
                punt_per_second: 1000,
                now: Ticks(0),
            };
            let mut worker = Worker::new(&config, counters[i].clone(), counters.clone());
            worker.apply(&mut update);
            worker.apply(&mut Update::of_fib(fib.clone()));
            worker
        };
        Gateway { workers: updates.into_iter().enumerate().map(worker).collect() }
    }

    /// Which worker forwarded a packet, and as what.
    fn send(&mut self, port: PortId, packet: &Packet) -> (usize, Packet) {
        let mut packets = [HeapBuf::from_frame(&packet.frame()).on_port(port.0)];
        let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
        self.workers[0].process(Ticks(1), &mut packets, &mut verdicts);
        let mut owner = 0;
        if let Verdict::HandOver(to) = verdicts[0] {
            owner = to.index();
            self.workers[owner].process_handed_over(Ticks(1), &mut packets, &mut verdicts);
        }
        assert!(matches!(verdicts[0], Verdict::Forward(_)), "{:?} of {packet:?}", verdicts[0]);
        (owner, Packet::read(packets[0].data()))
    }
}
