//! What the dataplane tells of itself: status, counters, connections.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Mode, Persistence, Protocol, Scheduler, SchedulerFlags, ServiceKey, VirtualRange};

/// How the dataplane is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Version of DPDK.
    pub dpdk_version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Generation of the state in force; 0: none yet.
    pub generation: u64,
    /// What the start had to do without, or what is wrong now; empty: all is well.
    pub warnings: Vec<String>,
    /// How packets find their owner: "single" (one worker), "rss" (by the NICs' hash), "flow" (replies by flow
    /// rules) or "software".
    pub steering: String,
    /// What keeps the steering from being better; empty: nothing.
    pub steering_note: String,
    /// Flow rules that the ports have.
    pub flow_rules: u64,
    /// Idle behaviour in force: "poll", "pause" or "adaptive".
    pub idle: String,
    /// One entry per worker.
    pub workers: Vec<WorkerStatus>,
    /// One entry per port.
    pub ports: Vec<PortStatus>,
}

/// How one worker is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// 0, 1, …
    pub id: u16,
    /// The CPUs that its lcore may run on.
    pub cpus: Vec<u32>,
    /// Connections in its table.
    pub connections: u64,
    /// Of these, with an unfinished handshake.
    pub embryonic: u64,
    /// How many connections fit.
    pub connections_max: u64,
    /// Bytes of table and index.
    pub table_bytes: u64,
    /// New connections refused because the table was full.
    pub table_full: u64,
    /// Embryonic connections given up for newer ones.
    pub recycled: u64,
    /// New connections refused because no local port was free.
    pub local_ports_exhausted: u64,
    /// Packets received from ports.
    pub rx_packets: u64,
    /// Packets sent to ports.
    pub tx_packets: u64,
    /// Packets that another worker owned and that were moved to it.
    pub handed_over: u64,
    /// Of these, packets that the NIC's hash or a flow rule should have brought to their owner.
    pub misdirected: u64,
    /// Share of turns that found packets since start, 0 to 1.
    pub busy: f64,
    /// The longest turn of its loop since start in nanoseconds, if any took over 20 µs; 0: none. Nothing that arrives
    /// waits longer for the worker.
    pub longest_turn_ns: u64,
}

/// How one port is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The operator's name.
    pub name: String,
    /// DPDK driver.
    pub driver: String,
    /// The DPDK device (PCI address or vdev).
    pub device: String,
    /// MAC address as text.
    pub mac: String,
    /// Link.
    pub link_up: bool,
    /// Speed in Mbit/s; 0: unknown.
    pub link_mbps: u32,
    /// The kernel interface that is its twin; empty: none.
    pub kernel_interface: String,
    /// Largest IP packet.
    pub mtu: u16,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// What it tells of its receive hash: key, redirection table, what it hashes with ports.
    pub receive_hash: String,
    /// Received packets.
    pub rx_packets: u64,
    /// Received bytes.
    pub rx_bytes: u64,
    /// Sent packets.
    pub tx_packets: u64,
    /// Sent bytes.
    pub tx_bytes: u64,
    /// Packets that the NIC had no descriptor for.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Receive attempts without a free mbuf.
    pub rx_no_mbuf: u64,
    /// Packets handed to the kernel twin.
    pub punted: u64,
    /// Packets taken from the kernel twin.
    pub injected: u64,
}

/// A named counter with one value per worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCounter {
    /// Snake-case name, as in the metrics.
    pub name: String,
    /// One line on what it counts.
    pub help: String,
    /// One value per worker.
    pub per_worker: Vec<u64>,
}

/// All counters of the dataplane. Counters never go back while the process lives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// One entry per service.
    pub services: Vec<ServiceStats>,
    /// Every drop reason, also those that are 0.
    pub drops: Vec<WorkerCounter>,
    /// Every other engine counter (TOA results, punts, replies …).
    pub counters: Vec<WorkerCounter>,
    /// Connections per state, in IPVS's names: those of TCP, and `UDP`.
    pub states: Vec<WorkerCounter>,
    /// Use of local ports.
    pub local_ports: Vec<LocalPortUse>,
}

/// Counters of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// Which service.
    pub key: ServiceKey,
    /// The operator's name for it.
    pub name: String,
    /// Its further addresses, as configured.
    pub also: Vec<VirtualRange>,
    /// Scheduler, as configured.
    pub scheduler: Scheduler,
    /// Its flags, as configured.
    pub scheduler_flags: SchedulerFlags,
    /// One-packet scheduling, as configured.
    pub one_packet: bool,
    /// Persistence, as configured.
    pub persistence: Option<Persistence>,
    /// Packets for the service that found no real server.
    pub no_real_server: u64,
    /// One entry per real server, and one for the sorry server if there is one.
    pub real_servers: Vec<RealServerStats>,
}

/// Counters of one real server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RealServerStats {
    /// RIP:rport. Port 0: the port that the client asked for.
    pub real: SocketAddr,
    /// Forwarding mode, as configured.
    pub mode: Mode,
    /// Whether it is the service's sorry server.
    pub is_sorry: bool,
    /// Weight, as configured.
    pub weight: u16,
    /// How much of the weight counts (slow start), as configured.
    pub ramp_percent: u8,
    /// Whether it may get new connections.
    pub up: bool,
    /// Whether the dataplane knows the MAC address of its next hop.
    pub reachable: bool,
    /// Counters.
    pub traffic: Traffic,
    /// Connections in an active state (IPVS ActiveConn).
    pub active: u64,
    /// Other connections (IPVS InActConn).
    pub inactive: u64,
    /// Persistence templates (IPVS PersistConn), counted in neither of the two.
    pub persistent: u64,
}

/// Traffic counters as IPVS has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Bytes from clients (IP length).
    pub in_bytes: u64,
    /// Bytes to clients (IP length).
    pub out_bytes: u64,
}

/// Use of one local address towards one real server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocalPortUse {
    /// LIP.
    pub local: IpAddr,
    /// RIP:rport.
    pub real: SocketAddr,
    /// Ports in use, all workers.
    pub in_use: u64,
    /// Ports there are, all workers.
    pub capacity: u64,
    /// Connections refused for lack of a port.
    pub exhausted: u64,
}

/// Which connections are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionQuery {
    /// Only those of this service.
    pub service: Option<ServiceKey>,
    /// Only those from this client address.
    pub client: Option<IpAddr>,
    /// Only those to this real server.
    pub real: Option<SocketAddr>,
    /// At most so many (the dataplane caps it at 10,000).
    pub limit: u32,
    /// Where the last page ended ([`ConnectionPage::next`]); 0: the start.
    pub cursor: u64,
}

/// A page of connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionPage {
    /// The connections found.
    pub connections: Vec<Connection>,
    /// Cursor of the next page; `None`: that was all.
    pub next: Option<u64>,
}

/// One connection: client, virtual, local, real.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Which service.
    pub key: ServiceKey,
    /// The transport protocol; a service of several addresses may have several.
    pub protocol: Protocol,
    /// CIP:cport.
    pub client: SocketAddr,
    /// VIP:vport that the client asked for; of a service of several addresses, any of them.
    pub virtual_: SocketAddr,
    /// LIP:lport; `None`: there is none in this mode.
    pub local: Option<SocketAddr>,
    /// RIP:rport.
    pub real: SocketAddr,
    /// Forwarding mode.
    pub mode: Mode,
    /// State in IPVS's names: ESTABLISHED and the other ones of TCP, UDP, NONE.
    pub state: String,
    /// Seconds until it expires if no packet comes.
    pub expires_s: u32,
    /// Its worker.
    pub worker: u16,
}
