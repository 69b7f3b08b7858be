//! The desired state: everything that the dataplane shall do, in one message.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Everything that the dataplane shall do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Grows with each change; shown by `tollgate status`.
    pub generation: u64,
    /// The virtual services; each [`ServiceKey`] at most once.
    pub services: Vec<Service>,
    /// Neighbours that are not asked of the kernel.
    pub static_neighbours: Vec<StaticNeighbour>,
    /// Routes that are not asked of the kernel.
    pub static_routes: Vec<StaticRoute>,
    /// Connection timeouts where a service sets none.
    pub timeouts: Timeouts,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// What identifies a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The transport protocol.
    pub protocol: Protocol,
    /// VIP:vport.
    pub virtual_: SocketAddr,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.virtual_)
    }
}

/// How packets reach a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both addresses are replaced; the real server answers to the local address.
    FullNat,
}

/// How a real server is picked for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Weighted least connections.
    Wlc,
}

/// Whether and how real servers are told the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToaMode {
    /// Nothing is inserted and nothing is stripped.
    Off,
    /// TCP option of this kind (254 by default) with port and address.
    Option {
        /// The option kind: 254, 253 or 200.
        kind: u8,
    },
}

/// One virtual service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// VIP:vport and protocol.
    pub key: ServiceKey,
    /// The operator's name for it.
    pub name: String,
    /// Forwarding mode.
    pub mode: Mode,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Client address to real servers.
    pub toa: ToaMode,
    /// Local addresses that stand in for the client.
    pub local_addresses: Vec<IpAddr>,
    /// First and last local port.
    pub local_ports: (u16, u16),
    /// The real servers; each endpoint at most once.
    pub real_servers: Vec<RealServer>,
    /// Timeouts of this service's connections; `None`: those of the state.
    pub timeouts: Option<Timeouts>,
}

/// One real server of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RealServer {
    /// RIP:rport.
    pub real: SocketAddr,
    /// Share of new connections; 0: drain.
    pub weight: u16,
    /// Whether the health checks pass; a server that is not up gets no new connection.
    pub up: bool,
}

/// Seconds without a packet after which a connection in a TCP state ends (IPVS `timeouts`, ip_vs_proto_tcp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// ESTABLISHED.
    pub established_s: u32,
    /// SYN_SENT.
    pub syn_sent_s: u32,
    /// SYN_RECV.
    pub syn_recv_s: u32,
    /// FIN_WAIT.
    pub fin_wait_s: u32,
    /// TIME_WAIT.
    pub time_wait_s: u32,
    /// CLOSE.
    pub close_s: u32,
    /// CLOSE_WAIT.
    pub close_wait_s: u32,
    /// LAST_ACK.
    pub last_ack_s: u32,
    /// UDP.
    pub udp_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            established_s: 900,
            syn_sent_s: 120,
            syn_recv_s: 60,
            fin_wait_s: 120,
            time_wait_s: 120,
            close_s: 10,
            close_wait_s: 60,
            last_ack_s: 30,
            udp_s: 300,
        }
    }
}

/// A neighbour given by configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StaticNeighbour {
    /// The port's name.
    pub port: String,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// A route given by configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StaticRoute {
    /// Destination network.
    pub network: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Next hop; `None`: on link.
    pub via: Option<IpAddr>,
    /// The port's name.
    pub port: String,
}
