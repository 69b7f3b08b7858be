//! Which connections a run has, and their frames.
//!
//! The local ports that the gateway picks need not be known: in mode FULLNAT the service has exactly as many (local
//! address, port, real server) combinations as the run has connections, so all of them are in use once all connections are
//! open. All initial sequence numbers are the same, so a real server's frames do not depend on which client sits behind
//! them. In mode NAT they are addressed to the client, and there is one real server, so that it is known whose they are.
//!
//! With several workers each has a share of the local ports that need not be as large as its share of the clients. Then
//! there are more ports than connections, a first gateway is asked what it chose ([`Flows::learnt`]), and one with the
//! same seed that is given the same packets chooses the same again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use api::{
    Connection, DesiredState, Protocol, RealServer, Scheduler, Service, ServiceKey, StaticNeighbour,
    StaticRoute, Timeouts, ToaMode, Tunnel, TunnelKind,
};
use wire::MacAddr;
use wire::tcp::flags::{ACK, PSH, SYN};

use crate::case::{Case, Mode, Proto, Traffic};
use crate::frames::Ends;

/// Name of the port that data comes in on and everything leaves by.
pub(crate) const DATA_PORT: &str = "data";
/// Name of the port that opens the connections.
pub(crate) const SETUP_PORT: &str = "setup";
/// What net_pcap calls its first port in a process.
pub(crate) const DATA_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x00]);
/// And its second one.
pub(crate) const SETUP_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x01]);

/// Frames in the replayed file at least, so that a handful of connections does not make an unusually small file.
const FRAMES_MIN: usize = 1024;
/// Frames in the replayed file at most: each takes a packet buffer of about 2.4 kB in gateway and testpmd.
pub(crate) const FRAMES_MAX: usize = 1 << 20;
/// Length of the data frames that open connections: there must be data in them.
const SETUP_BYTES: u32 = 90;

// IPv6 addresses are these behind 2001:db8::/96.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const CLIENT_FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const LOCAL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 200);
const TUNNEL_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 199);
const REAL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
/// With the length of the prefix, and whether they are reached by the router.
const NETWORKS: [(Ipv4Addr, u8, bool); 3] = [
    (Ipv4Addr::new(10, 2, 0, 0), 24, false),
    (Ipv4Addr::new(10, 1, 0, 0), 24, false),
    (Ipv4Addr::new(10, 128, 0, 0), 9, true),
];
const V6_PREFIX: u128 = 0x2001_0db8 << 96;
const V6_PREFIX_LEN: u8 = 96;
const ROUTER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 1, 0xfe]);
/// Of the service; in DR and TUN the real servers have the same.
const PORT: u16 = 80;
const LOCAL_PORT_FIRST: u16 = 1024;
/// Ports used of one local address towards one real server, at most.
const LOCAL_PORTS_MAX: u32 = 60_000;
/// Real servers and local addresses that are tried, so that they and the ports multiply to the flows.
const REALS: [u32; 6] = [20, 10, 5, 4, 2, 1];
const LOCALS: [u32; 4] = [1, 2, 5, 10];
const CLIENT_ISN: u32 = 1000;
const REAL_ISN: u32 = 5000;
const CLIENT_PORT_FIRST: u32 = 10_000;
/// Connections of one client address.
const PORTS_PER_CLIENT: u32 = 50_000;
/// Clients' addresses end with 10.255.255.255.
const FLOWS_MAX: u32 = 100_000_000;

/// The connections of a case.
#[derive(Debug, Clone)]
pub(crate) struct Flows {
    /// What is measured.
    pub(crate) case: Case,
    /// How long connections live without packets.
    pub(crate) timeouts: Timeouts,
    locals: u32,
    reals: u32,
    ports: u32,
    /// By client; empty: not known.
    chosen: Arc<[Chosen]>,
}

/// What a gateway chose for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chosen {
    /// `None` in modes without one.
    local: Option<SocketAddr>,
    real: SocketAddr,
    worker: u16,
}

/// Which of the frames that open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The first one of each connection.
    First,
    /// All of them.
    Whole,
}

impl Flows {
    /// Spreads a case's connections over real servers and, in mode FULLNAT, local addresses and ports.
    ///
    /// # Errors
    /// A number that does not divide so.
    pub(crate) fn new(case: Case) -> Result<Flows> {
        let count = case.flows;
        ensure!((1..=FLOWS_MAX).contains(&count), "{count} flows: 1 to {FLOWS_MAX} can be measured");
        let flows = |locals, reals, ports| Flows {
            case,
            timeouts: Timeouts::default(),
            locals,
            reals,
            ports,
            chosen: Arc::new([]),
        };
        let without_locals = |reals| Ok(flows(0, reals, 0));
        match case.mode {
            Mode::Nat => return without_locals(1),
            Mode::Dr | Mode::Tun => return without_locals(REALS[0]),
            Mode::Fullnat => {}
        }
        for locals in LOCALS {
            for reals in REALS {
                let ports = count / (locals * reals);
                if locals * reals * ports == count && ports <= LOCAL_PORTS_MAX {
                    return Ok(flows(locals, reals, ports));
                }
            }
        }
        anyhow::bail!("{count} flows do not spread evenly over real servers; take a rounder number")
    }

    /// The same with what a gateway chose for each client.
    ///
    /// # Errors
    /// Not every client has a connection.
    pub(crate) fn learnt(mut self, connections: &[Connection]) -> Result<Flows> {
        let by_client: HashMap<SocketAddr, &Connection> =
            connections.iter().map(|connection| (connection.client, connection)).collect();
        let chosen = (0..self.case.flows).map(|n| {
            let found =
                by_client.get(&self.client(n)).with_context(|| format!("client {n} has no connection"))?;
            Ok(Chosen { local: found.local, real: found.real, worker: found.worker })
        });
        self.chosen = chosen.collect::<Result<_>>()?;
        Ok(self)
    }

    /// Whether a gateway must be asked what it chooses before all frames are known.
    pub(crate) fn must_learn(&self) -> bool {
        self.case.workers > 1 && self.chosen.is_empty()
    }

    /// What the gateway is told to do.
    pub(crate) fn desired_state(&self) -> DesiredState {
        let mut state = DesiredState {
            generation: 1,
            services: vec![self.service()],
            timeouts: self.timeouts,
            ..DesiredState::default()
        };
        let port = || DATA_PORT.to_owned();
        let mut neighbour = |address, mac: MacAddr| {
            state.static_neighbours.push(StaticNeighbour { port: port(), address, mac: mac.0 });
        };
        for n in 0..self.reals {
            neighbour(self.real(n).ip(), real_mac(n));
        }
        for is_v6 in [false, true] {
            neighbour(address(ROUTER, 0, is_v6), ROUTER_MAC);
        }
        for is_v6 in [false, true] {
            state.static_routes.extend(NETWORKS.map(|(network, prefix_len, routed)| StaticRoute {
                network: address(network, 0, is_v6),
                prefix_len: prefix_len + if is_v6 { V6_PREFIX_LEN } else { 0 },
                via: routed.then(|| address(ROUTER, 0, is_v6)),
                port: port(),
            }));
        }
        state
    }

    fn service(&self) -> Service {
        let protocol = match self.case.proto {
            Proto::Tcp => Protocol::Tcp,
            Proto::Udp => Protocol::Udp,
        };
        let real_server = |n| RealServer { mode: self.mode(), ..RealServer::new(self.real(n)) };
        let service = Service::new(ServiceKey { protocol, virtual_: self.vip() }, "bench");
        let local_ports = match self.ports {
            0 => service.local_ports,
            ports => {
                let slack = if self.case.workers > 1 { ports } else { 0 };
                (LOCAL_PORT_FIRST, LOCAL_PORT_FIRST + (ports + slack - 1).min(LOCAL_PORTS_MAX) as u16)
            }
        };
        Service {
            scheduler: Scheduler::Rr,
            toa: if self.tells_client() { ToaMode::Option { kind: 254 } } else { ToaMode::Off },
            local_addresses: (0..self.locals).map(|n| self.local(n)).collect(),
            local_ports,
            real_servers: (0..self.reals).map(real_server).collect(),
            ..service
        }
    }

    fn mode(&self) -> api::Mode {
        match self.case.mode {
            Mode::Fullnat => api::Mode::FullNat,
            Mode::Nat => api::Mode::Nat,
            Mode::Dr => api::Mode::Dr,
            Mode::Tun => {
                let source = address(TUNNEL_SOURCE, 0, self.case.family.real_is_v6());
                api::Mode::Tun(Tunnel { kind: TunnelKind::Ipip, source })
            }
        }
    }

    /// TOA is part of the ordinary FULLNAT service for TCP.
    fn tells_client(&self) -> bool {
        self.case.mode == Mode::Fullnat && self.case.proto == Proto::Tcp
    }

    /// The state that all connections are in once they are open.
    pub(crate) fn open_state(&self) -> &'static str {
        match self.case.proto {
            Proto::Tcp => "ESTABLISHED",
            Proto::Udp => "UDP",
        }
    }

    /// The frames that open all connections, in the order in which they must arrive. TCP: SYNs, SYN-ACKs, then a segment of
    /// each client and one of each real server, after which the client's address is no longer announced. UDP: a datagram
    /// of each client and one of each real server, after which the connection counts as answered. Where the real servers
    /// answer the clients themselves, only the clients' ones.
    pub(crate) fn setup_frames(&self, opening: Opening) -> impl Iterator<Item = Vec<u8>> + use<> {
        let (flows, one_way) = (self.clone(), self.case.mode.is_one_way());
        let steps: &[(bool, u8)] = match self.case.proto {
            Proto::Tcp => &[(true, SYN), (false, SYN | ACK), (true, ACK | PSH), (false, ACK | PSH)],
            Proto::Udp => &[(true, 0), (false, 0)],
        };
        let count = if opening == Opening::First { 1 } else { steps.len() };
        let steps = steps[..count].iter().filter(move |(inbound, _)| *inbound || !one_way);
        steps.flat_map(move |(inbound, flags)| {
            let flows = flows.clone();
            (0..flows.case.flows).map(move |n| {
                let ends = if *inbound { flows.inbound(n, SETUP_MAC) } else { flows.outbound(n, SETUP_MAC) };
                flows.frame(ends, *inbound, *flags, SETUP_BYTES)
            })
        })
    }

    /// A frame that the gateway drops because it is not for its MAC address.
    pub(crate) fn filler_frame(&self) -> Vec<u8> {
        self.frame(self.inbound(0, ROUTER_MAC), true, ACK, SETUP_BYTES)
    }

    /// The frames that are replayed while measuring, in random order, for each worker those of its connections. Of more
    /// connections than fit a file in both directions, each has its frame in one of the two; of more than fit in one,
    /// as many as fit have one, spread over all.
    pub(crate) fn data_frames(&self) -> Vec<Vec<Vec<u8>>> {
        let count = self.case.flows as usize;
        let both = self.case.traffic == Traffic::Both;
        let per_flow = if both && 2 * count <= FRAMES_MAX { 2 } else { 1 };
        let total = (count * per_flow).max(FRAMES_MIN).next_multiple_of(per_flow).min(FRAMES_MAX);
        let mut queues = vec![Vec::new(); self.case.workers.into()];
        for i in 0..total {
            let n = if count > total { i * count / total } else { i / per_flow % count } as u32;
            let inbound = !both || i % 2 == 0;
            let ends = if inbound { self.inbound(n, DATA_MAC) } else { self.outbound(n, DATA_MAC) };
            let worker = self.chosen.get(n as usize).map_or(0, |chosen| chosen.worker);
            let frame = self.frame(ends, inbound, ACK | PSH, self.case.frame_bytes);
            if let Some(queue) = queues.get_mut(usize::from(worker)) {
                queue.push(frame);
            }
        }
        queues.iter_mut().for_each(|queue| shuffle(queue));
        queues
    }

    /// The first frames of so many connections, each of another client, in the order of their numbers.
    pub(crate) fn first_frames(&self, count: u32) -> impl Iterator<Item = Vec<u8>> {
        let flags = if self.case.proto == Proto::Tcp { SYN } else { 0 };
        (0..count).map(move |n| self.frame(self.inbound(n, DATA_MAC), true, flags, self.case.frame_bytes))
    }

    fn frame(&self, ends: Ends, inbound: bool, flags: u8, bytes: u32) -> Vec<u8> {
        if self.case.proto == Proto::Udp {
            return ends.udp(bytes);
        }
        let (own, other) = if inbound { (CLIENT_ISN, REAL_ISN) } else { (REAL_ISN, CLIENT_ISN) };
        let seq = if flags & SYN != 0 { own } else { own + 1 };
        ends.tcp(flags, (seq, if flags & ACK != 0 { other + 1 } else { 0 }), bytes)
    }

    /// Client to VIP.
    fn inbound(&self, n: u32, to: MacAddr) -> Ends {
        Ends { from: ROUTER_MAC, to, src: self.client(n), dst: self.vip() }
    }

    /// Real server to local address, or in mode NAT to the client.
    fn outbound(&self, n: u32, to: MacAddr) -> Ends {
        if let Some(Chosen { local, real, .. }) = self.chosen.get(n as usize) {
            let from = (0..self.reals).find(|n| self.real(*n) == *real).map_or(ROUTER_MAC, real_mac);
            return Ends { from, to, src: *real, dst: local.unwrap_or_else(|| self.client(n)) };
        }
        if self.case.mode != Mode::Fullnat {
            let real = n % self.reals;
            return Ends { from: real_mac(real), to, src: self.real(real), dst: self.client(n) };
        }
        let (pair, port) = (n / self.ports, n % self.ports);
        let dst = SocketAddr::new(self.local(pair / self.reals), LOCAL_PORT_FIRST + port as u16);
        Ends { from: real_mac(pair % self.reals), to, src: self.real(pair % self.reals), dst }
    }

    /// Where clients go.
    pub(crate) fn vip(&self) -> SocketAddr {
        SocketAddr::new(address(VIP, 0, self.case.family.client_is_v6()), PORT)
    }

    /// Whether this is a client's address.
    pub(crate) fn is_client(address: Ipv4Addr) -> bool {
        u32::from(address) >= u32::from(CLIENT_FIRST)
    }

    /// The n-th client.
    pub(crate) fn client(&self, n: u32) -> SocketAddr {
        let host = address(CLIENT_FIRST, n / PORTS_PER_CLIENT, self.case.family.client_is_v6());
        SocketAddr::new(host, (CLIENT_PORT_FIRST + n % PORTS_PER_CLIENT) as u16)
    }

    fn local(&self, n: u32) -> IpAddr {
        address(LOCAL_FIRST, n, self.case.family.real_is_v6())
    }

    fn real(&self, n: u32) -> SocketAddr {
        SocketAddr::new(address(REAL_FIRST, n, self.case.family.real_is_v6()), PORT)
    }
}

/// The n-th address from this one on.
fn address(first: Ipv4Addr, n: u32, is_v6: bool) -> IpAddr {
    let bits = u32::from(first) + n;
    if is_v6 { Ipv6Addr::from(V6_PREFIX | u128::from(bits)).into() } else { Ipv4Addr::from(bits).into() }
}

fn real_mac(n: u32) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 2, n as u8])
}

/// Fisher and Yates, with a repeatable generator (xorshift64*).
fn shuffle<T>(items: &mut [T]) {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for i in (1..items.len()).rev() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let j = ((u128::from(random) * (i as u128 + 1)) >> 64) as usize;
        items.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::case::Family;
    use crate::frames::FCS_LEN;

    #[test]
    fn a_worker_is_sent_the_frames_of_its_connections_and_real_servers_answer_the_chosen_port() {
        let flows = Flows::new(Case { workers: 2, ..plainest(2) }).unwrap();
        assert!(flows.must_learn());
        let chosen = |n: u32, local: &str| Connection {
            key: ServiceKey { protocol: Protocol::Tcp, virtual_: flows.vip() },
            protocol: Protocol::Tcp,
            client: flows.client(n),
            virtual_: flows.vip(),
            local: Some(local.parse().unwrap()),
            real: flows.real(n),
            mode: api::Mode::FullNat,
            state: String::new(),
            expires_s: 1,
            worker: n as u16,
        };
        let connections = [chosen(1, "10.2.0.200:7001"), chosen(0, "10.2.0.200:7000")];
        let flows = flows.learnt(&connections).unwrap();
        assert_eq!(flows.outbound(1, DATA_MAC).dst, "10.2.0.200:7001".parse().unwrap());
        let unique = |worker: usize| flows.data_frames()[worker].iter().cloned().collect::<HashSet<_>>();
        assert_eq!((unique(0).len(), unique(1).len()), (2, 2));
        assert!(unique(0).is_disjoint(&unique(1)));
        assert!(flows.clone().learnt(&connections[..1]).is_err());
    }

    fn plainest(flows: u32) -> Case {
        let case = Case::new(Mode::Fullnat, Proto::Tcp, Family::Ipv4, Traffic::Both).unwrap();
        Case { flows, ..case }
    }

    #[test]
    fn flows_are_as_many_as_local_endpoints_towards_real_servers() {
        for count in [1, 1000, 100_000, 1_000_000, 10_000_000] {
            let flows = Flows::new(plainest(count)).unwrap();
            assert_eq!(flows.locals * flows.reals * flows.ports, count);
        }
        assert!(Flows::new(plainest(7919 * 7919)).is_err());
        assert!(Flows::new(plainest(0)).is_err());
    }

    #[test]
    fn every_connection_has_frames_of_its_own_in_every_direction() {
        use {Family::*, Mode::*, Proto::*, Traffic::*};
        for (case, opening) in [
            (Case::new(Fullnat, Tcp, Ipv4, Both), 4000),
            (Case::new(Fullnat, Udp, Nat64, Both), 2000),
            (Case::new(Nat, Tcp, Ipv6, Both), 4000),
            (Case::new(Dr, Tcp, Ipv4, Inbound), 2000),
            (Case::new(Tun, Udp, Ipv6, Inbound), 1000),
        ] {
            let flows = Flows::new(case.unwrap()).unwrap();
            let unique: HashSet<Vec<u8>> = flows.data_frames().into_iter().flatten().collect();
            let expected = if flows.case.traffic == Both { 2000 } else { 1000 };
            assert_eq!(unique.len(), expected, "{}", flows.case.name());
            assert!(unique.iter().all(|frame| frame.len() as u32 + FCS_LEN == flows.case.frame_bytes));
            assert_eq!(
                flows.setup_frames(Opening::Whole).collect::<HashSet<_>>().len(),
                opening,
                "{}",
                flows.case.name()
            );
        }
    }
}
