//! Which connections a run has, and their frames.
//!
//! The local ports that the gateway picks need not be known: the service has exactly as many (local address, port, real
//! server) combinations as the run has connections, so all of them are in use once all SYNs are through. All
//! initial sequence numbers are the same, so a real server's frames do not depend on which client sits behind them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use api::{
    DesiredState, Protocol, RealServer, Scheduler, Service, ServiceKey, StaticNeighbour, StaticRoute,
    Timeouts, ToaMode,
};
use wire::build::TcpFrame;
use wire::tcp::flags::{ACK, PSH, SYN};
use wire::{MacAddr, U16, U32};

/// Name of the port that data comes in on and everything leaves by.
pub(crate) const DATA_PORT: &str = "data";
/// Name of the port that opens the connections.
pub(crate) const SETUP_PORT: &str = "setup";
/// What net_pcap calls its first port in a process.
pub(crate) const DATA_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x00]);
/// And its second one.
pub(crate) const SETUP_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x01]);

/// Bytes of a frame as DPDK sees it: 64 on the wire, with the FCS.
pub(crate) const FRAME_LEN: usize = 60;
/// Frames in the replayed file at least, so that a handful of connections does not make an unusually small file.
const FRAMES_MIN: usize = 1024;
/// Frames in the replayed file at most: each takes a packet buffer of about 2.4 kB in gateway and testpmd.
pub(crate) const FRAMES_MAX: usize = 1 << 20;

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 100), 80);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const ROUTER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 1, 0xfe]);
const CLIENTS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);
const LOCAL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 200);
const REAL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
const REAL_PORT: u16 = 80;
const LOCAL_PORT_FIRST: u16 = 1024;
/// Ports used of one local address towards one real server, at most.
const LOCAL_PORTS_MAX: u32 = 60_000;
/// Real servers and local addresses that are tried, so that they and the ports multiply to the flows.
const REALS: [u32; 6] = [20, 10, 5, 4, 2, 1];
const LOCALS: [u32; 4] = [1, 2, 5, 10];
const CLIENT_ISN: u32 = 1000;
const REAL_ISN: u32 = 5000;
const PAYLOAD_LEN: usize = FRAME_LEN - 54;
/// Connections of one client address.
const PORTS_PER_CLIENT: u32 = 50_000;

/// Which packets are replayed while the gateway is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Clients' segments only.
    Inbound,
    /// Clients' and real servers' segments, 1:1.
    Both,
}

impl Traffic {
    /// As in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Traffic::Inbound => "inbound",
            Traffic::Both => "both",
        }
    }
}

/// The connections of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flows {
    /// How many.
    pub(crate) count: u32,
    locals: u32,
    reals: u32,
    ports: u32,
}

impl Flows {
    /// Spreads `count` connections over local addresses, real servers and local ports.
    ///
    /// # Errors
    /// A number that does not divide so.
    pub(crate) fn new(count: u32) -> Result<Flows> {
        ensure!(count > 0, "0 flows cannot be measured");
        for locals in LOCALS {
            for reals in REALS {
                let ports = count / (locals * reals);
                if locals * reals * ports == count && ports <= LOCAL_PORTS_MAX {
                    return Ok(Flows { count, locals, reals, ports });
                }
            }
        }
        anyhow::bail!("{count} flows do not spread evenly over real servers; take a rounder number")
    }

    /// What the gateway is told to do.
    pub(crate) fn desired_state(&self) -> DesiredState {
        let reals = (0..self.reals).map(|n| real(n).ip().to_owned());
        let neighbour = |address: Ipv4Addr, mac: MacAddr| StaticNeighbour {
            port: DATA_PORT.to_owned(),
            address: address.into(),
            mac: mac.0,
        };
        let mut neighbours: Vec<_> =
            reals.enumerate().map(|(n, ip)| neighbour(ip, real_mac(n as u8))).collect();
        neighbours.push(neighbour(ROUTER, ROUTER_MAC));
        let route = |network: Ipv4Addr, prefix_len: u8, via: Option<Ipv4Addr>| StaticRoute {
            network: network.into(),
            prefix_len,
            via: via.map(IpAddr::V4),
            port: DATA_PORT.to_owned(),
        };
        DesiredState {
            generation: 1,
            services: vec![self.service()],
            static_neighbours: neighbours,
            static_routes: vec![
                route(Ipv4Addr::new(10, 2, 0, 0), 24, None),
                route(Ipv4Addr::new(10, 1, 0, 0), 24, None),
                route(CLIENTS.0, CLIENTS.1, Some(ROUTER)),
            ],
            timeouts: Timeouts::default(),
        }
    }

    fn service(&self) -> Service {
        let key = ServiceKey { protocol: Protocol::Tcp, virtual_: SocketAddr::V4(VIP) };
        Service {
            scheduler: Scheduler::Rr,
            toa: ToaMode::Option { kind: 254 },
            local_addresses: (0..self.locals).map(|n| IpAddr::V4(local(n))).collect(),
            local_ports: (LOCAL_PORT_FIRST, LOCAL_PORT_FIRST + (self.ports - 1) as u16),
            real_servers: (0..self.reals).map(|n| RealServer::new(SocketAddr::V4(real(n)))).collect(),
            ..Service::new(key, "bench")
        }
    }

    /// The frames that establish all connections, in the order in which they must arrive: SYNs, SYN-ACKs, then a
    /// segment of each client and one of each real server, after which the client's address is no longer announced.
    pub(crate) fn setup_frames(&self) -> impl Iterator<Item = Vec<u8>> + use<> {
        let flows = *self;
        let syns = (0..flows.count).map(|n| inbound(n, SETUP_MAC, SYN));
        let syn_acks = (0..flows.count).map(move |n| flows.outbound(n, SETUP_MAC, SYN | ACK));
        let acks = (0..flows.count).map(|n| inbound(n, SETUP_MAC, ACK | PSH));
        let data = (0..flows.count).map(move |n| flows.outbound(n, SETUP_MAC, ACK | PSH));
        syns.chain(syn_acks).chain(acks).chain(data)
    }

    /// A frame that the gateway drops because it is not for its MAC address.
    pub(crate) fn filler_frame() -> Vec<u8> {
        inbound(0, ROUTER_MAC, ACK)
    }

    /// The frames that are replayed while measuring, in random order. Of more connections than fit a file in both
    /// directions, each has its frame in one of the two.
    pub(crate) fn data_frames(&self, traffic: Traffic) -> Vec<Vec<u8>> {
        let count = self.count as usize;
        let split = traffic == Traffic::Both && 2 * count > FRAMES_MAX;
        let per_flow = if traffic == Traffic::Both && !split { 2 } else { 1 };
        let total = (count * per_flow).max(FRAMES_MIN).next_multiple_of(per_flow);
        let mut frames: Vec<Vec<u8>> = (0..total)
            .map(|i| {
                let n = (i / per_flow % count) as u32;
                if traffic == Traffic::Both && i % 2 == 1 {
                    self.outbound(n, DATA_MAC, ACK | PSH)
                } else {
                    inbound(n, DATA_MAC, ACK | PSH)
                }
            })
            .collect();
        shuffle(&mut frames);
        frames
    }

    fn outbound(&self, n: u32, mac: MacAddr, flags: u8) -> Vec<u8> {
        let (pair, port) = (n / self.ports, n % self.ports);
        let src = real(pair % self.reals);
        let dst = SocketAddrV4::new(local(pair / self.reals), LOCAL_PORT_FIRST + port as u16);
        let from = real_mac((pair % self.reals) as u8);
        frame((from, src), (mac, dst), flags, (REAL_ISN, CLIENT_ISN))
    }
}

/// A client's frame.
fn inbound(n: u32, mac: MacAddr, flags: u8) -> Vec<u8> {
    let address = u32::from(CLIENTS.0) + 1 + n / PORTS_PER_CLIENT;
    let src = SocketAddrV4::new(address.into(), (10_000 + n % PORTS_PER_CLIENT) as u16);
    frame((ROUTER_MAC, src), (mac, VIP), flags, (CLIENT_ISN, REAL_ISN))
}

fn frame(src: (MacAddr, SocketAddrV4), dst: (MacAddr, SocketAddrV4), flags: u8, isns: (u32, u32)) -> Vec<u8> {
    let is_syn = flags & SYN != 0;
    TcpFrame {
        eth_dst: dst.0,
        eth_src: src.0,
        src: U32::from_bytes(src.1.ip().octets()),
        dst: U32::from_bytes(dst.1.ip().octets()),
        src_port: U16::new(src.1.port()),
        dst_port: U16::new(dst.1.port()),
        seq: U32::new(if is_syn { isns.0 } else { isns.0 + 1 }),
        ack: U32::new(if flags & ACK != 0 { isns.1 + 1 } else { 0 }),
        flags,
        payload: vec![b'x'; if is_syn { 0 } else { PAYLOAD_LEN }],
        pad: true,
        ..TcpFrame::default()
    }
    .to_vec()
}

fn real(n: u32) -> SocketAddrV4 {
    SocketAddrV4::new((u32::from(REAL_FIRST) + n).into(), REAL_PORT)
}

fn local(n: u32) -> Ipv4Addr {
    (u32::from(LOCAL_FIRST) + n).into()
}

fn real_mac(n: u8) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 2, n])
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

/// Reads "1,1000,100k,1M".
///
/// # Errors
/// What is no number.
pub(crate) fn parse_counts(text: &str) -> Result<Vec<u32>> {
    let count = |item: &str| -> Result<u32> {
        let (digits, factor) = match item.trim().trim_end_matches(['k', 'M']) {
            digits if item.trim().ends_with('k') => (digits, 1000),
            digits if item.trim().ends_with('M') => (digits, 1_000_000),
            digits => (digits, 1),
        };
        let number: u32 = digits.parse().with_context(|| format!("`{item}` is no number of flows"))?;
        number.checked_mul(factor).with_context(|| format!("`{item}` flows are too many"))
    };
    text.split(',').map(count).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flows_are_as_many_as_local_endpoints_towards_real_servers() {
        for count in [1, 1000, 100_000, 1_000_000, 10_000_000] {
            let flows = Flows::new(count).unwrap();
            assert_eq!(flows.locals * flows.reals * flows.ports, count);
        }
        assert!(Flows::new(7919 * 7919).is_err());
    }

    #[test]
    fn every_connection_has_frames_of_its_own_in_both_directions() {
        let flows = Flows::new(1000).unwrap();
        let unique: HashSet<Vec<u8>> = flows.data_frames(Traffic::Both).into_iter().collect();
        assert_eq!(unique.len(), 2000);
        assert!(unique.iter().all(|frame| frame.len() == FRAME_LEN));
        assert_eq!(flows.setup_frames().collect::<HashSet<_>>().len(), 4000);
    }

    #[test]
    fn numbers_of_flows_have_suffixes() {
        assert_eq!(parse_counts("1,1k, 100k,1M").unwrap(), [1, 1000, 100_000, 1_000_000]);
        assert!(parse_counts("many").is_err());
    }
}
