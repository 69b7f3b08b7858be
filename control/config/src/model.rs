//! The validated configuration: what the rest of Tollgate works with. Every default is filled in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api::{
    Mode, Persistence, Protocol, ProxyVersion, Scheduler, SchedulerFlags, StaticNeighbour, StaticRoute,
    TcpTimestamps, Timeouts, ToaMode, ToaNoRoom, Uoa, VirtualRange,
};

use crate::value::contains;

/// A whole configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[dataplane]`.
    pub dataplane: Dataplane,
    /// `[control]`.
    pub control: Control,
    /// `[[port]]`.
    pub ports: Vec<Port>,
    /// `[[local_pool]]`.
    pub local_pools: Vec<LocalPool>,
    /// `[[service]]`.
    pub services: Vec<Service>,
    /// `[[neighbour]]`.
    pub static_neighbours: Vec<StaticNeighbour>,
    /// `[[route]]`.
    pub static_routes: Vec<StaticRoute>,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
}

impl Config {
    /// Whether an address is on a network of a port: the kernel has to know its MAC address then.
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        self.ports.iter().flat_map(|port| &port.addresses).any(|network| contains(*network, address))
    }
}

/// `[dataplane]`: read at start only.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataplane {
    /// How many workers.
    pub workers: u16,
    /// The CPUs for them, one each; empty: chosen by the dataplane.
    pub cpus: Vec<u32>,
    /// Memory for packet buffers and DPDK, in MiB.
    pub memory_mib: u32,
    /// Huge pages.
    pub huge_pages: HugePages,
    /// Idle behaviour.
    pub idle: Idle,
    /// With [`Idle::Pause`], the longest pause in microseconds.
    pub idle_pause_max_us: u32,
    /// Steering of packets to their owner.
    pub steering: Steering,
    /// Connections over all workers.
    pub connections_max: u32,
    /// Services at most.
    pub services_max: u32,
    /// Real servers at most, over all services.
    pub real_servers_max: u32,
    /// Packet buffers; 0: computed from queues and workers.
    pub mbufs: u32,
    /// The API's unix socket.
    pub api_socket: PathBuf,
    /// Makes two instances on one machine possible; DPDK's file prefix.
    pub instance: String,
    /// Punted packets per second and class that the kernel is shown at most.
    pub punt_rate_limit: u32,
    /// Fixed seed for hashes and port choice; `None`: random. For benches and golden tests.
    pub seed: Option<u64>,
    /// Further EAL arguments, passed through.
    pub eal_args: Vec<String>,
}

/// Huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// Start fails without them.
    Require,
    /// Missing ones are reserved; if that fails the start goes on without, with a warning.
    Prefer,
    /// Not used.
    Never,
}

/// What a worker without packets does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Adaptive when workers share CPUs with others, else poll.
    Auto,
    /// Polls without pause.
    Poll,
    /// Backs off to short pauses of the CPU, without system calls.
    Pause,
    /// Backs off to short sleeps.
    Adaptive,
}

/// How packets find their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// By the NICs' hash if all ports can, else by flow rules if one can, else in software.
    Auto,
    /// By the NICs' hash; where that is not possible, in software with a warning.
    Rss,
    /// By flow rules, a local address for each worker; where that is not possible, in software with a warning.
    Flow,
    /// The receiving worker hands over.
    Software,
}

/// `[control]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Control's own socket, for `tollgate reload` and health in `tollgate services`.
    pub socket: PathBuf,
    /// Log filter, as in `RUST_LOG`.
    pub log: String,
    /// Whether VIPs, LIPs and port addresses are put on the kernel twins.
    pub manage_addresses: bool,
}

/// `[[port]]`: a DPDK port and its kernel twin.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// The operator's name.
    pub name: String,
    /// PCI address or vdev (`net_...`).
    pub device: Device,
    /// Name of the kernel twin; `None`: no twin.
    pub kernel_interface: Option<String>,
    /// Addresses of the gateway itself on the twin, with prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Largest IP packet; `None`: the device's own.
    pub mtu: Option<u16>,
    /// The VLAN that its network is, whose tag all its frames carry; `None`: they carry none.
    pub vlan: Option<u16>,
    /// Receive and transmit queues; `None`: as many as workers, if the device has them.
    pub queues: Option<u16>,
    /// Descriptors per receive queue.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue.
    pub tx_descriptors: u16,
    /// Promiscuous mode.
    pub promiscuous: bool,
}

/// What drives a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A PCI address, e.g. 0000:01:00.0.
    Pci(String),
    /// A DPDK virtual device with arguments, e.g. `net_af_xdp,iface=eth1`; the dataplane adds a unique number to
    /// the driver's name.
    Vdev(String),
}

/// `[[local_pool]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalPool {
    /// Its name.
    pub name: String,
    /// The port whose twin owns the addresses.
    pub port: String,
    /// The addresses; ranges and networks are expanded.
    pub addresses: Vec<IpAddr>,
    /// First and last local port.
    pub ports: (u16, u16),
}

/// `[[service]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// VIP:vport, the first of its addresses. Port 0: every port that no service names.
    pub listen: SocketAddr,
    /// Its further addresses.
    pub also: Vec<VirtualRange>,
    /// Each of its VIPs once, with the name of the port whose twin owns it.
    pub vips: Vec<(IpAddr, String)>,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Its variants.
    pub scheduler_flags: SchedulerFlags,
    /// One-packet scheduling.
    pub one_packet: bool,
    /// Persistence.
    pub persistence: Option<Persistence>,
    /// Name of the local pool; empty: no real server needs one.
    pub local_pool: String,
    /// Client address to FULLNAT real servers.
    pub toa: ToaMode,
    /// The option has an experiment identifier.
    pub toa_exid: bool,
    /// What becomes of segments without room for the option.
    pub toa_no_room: ToaNoRoom,
    /// Client address to FULLNAT real servers over UDP.
    pub uoa: Option<Uoa>,
    /// Client address in front of the stream.
    pub proxy_protocol: Option<ProxyVersion>,
    /// TCP timestamps towards FULLNAT real servers.
    pub tcp_timestamps: TcpTimestamps,
    /// Re-basing of sequence numbers towards FULLNAT real servers.
    pub rebase_sequence: bool,
    /// End connections of real servers that are gone or down.
    pub expire_nodest_conn: bool,
    /// End templates of real servers of weight 0.
    pub expire_quiescent_template: bool,
    /// Reset TCP connections that end by timeout or by an administrator.
    pub reset_on_expiry: bool,
    /// Take out client addresses that clients put into options of TCP or IPv4 themselves.
    pub strip_toa: bool,
    /// Gets new connections while no real server can be picked.
    pub sorry_server: Option<RealServer>,
    /// How long a real server that has come back takes to its full weight; `None`: no time.
    pub slow_start: Option<Duration>,
    /// Health check of its real servers; `None`: always up.
    pub health_check: Option<HealthCheck>,
    /// Timeouts; `None`: `[timeouts]`.
    pub timeouts: Option<Timeouts>,
    /// The real servers.
    pub real_servers: Vec<RealServer>,
}

/// `[[service.real_server]]` or `sorry_server = {…}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RealServer {
    /// RIP:rport. Port 0: the port that the client asked for.
    pub address: SocketAddr,
    /// Forwarding mode.
    pub mode: Mode,
    /// Weight, 0 to 65535.
    pub weight: u16,
    /// No new connections from so many on; 0: no limit.
    pub upper_threshold: u32,
    /// New connections again below so many; 0: below three quarters of the upper threshold.
    pub lower_threshold: u32,
    /// How long it may drain before its connections are ended; `None`: as long as it takes.
    pub drain_deadline: Option<Duration>,
    /// Its own check, or the service's if it has none of its own; `None`: always up.
    pub health_check: Option<HealthCheck>,
}

/// `health_check = {…}`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// Port to ask; `None`: the real server's, which then is not 0.
    pub port: Option<u16>,
    /// Time between two checks.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// Passes in a row that bring a server up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// A TCP handshake.
    Tcp,
    /// An HTTP/1.1 GET.
    Http {
        /// Path.
        path: String,
        /// Host header; `None`: the real server's address.
        host: Option<String>,
        /// Status codes that pass, as inclusive ranges.
        status: Vec<(u16, u16)>,
    },
    /// A DNS query over UDP that must be answered without an error.
    Dns {
        /// The name asked for; "." is the root.
        name: String,
        /// The record type asked for.
        record: DnsRecord,
    },
    /// A UDP datagram. Passes with an answer, fails with ICMP unreachable.
    Udp {
        /// What is sent.
        payload: Vec<u8>,
        /// Whether silence fails.
        needs_reply: bool,
    },
}

/// A DNS record type that a check can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsRecord {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias.
    Cname,
    /// Mail exchange.
    Mx,
    /// Name server.
    Ns,
    /// Start of authority.
    Soa,
    /// Text.
    Txt,
}

/// Descriptors per queue where a port sets none.
pub const DESCRIPTORS_DEFAULT: u16 = 1024;

/// Local ports where a pool sets none: all but the privileged ones.
pub const LOCAL_PORTS_DEFAULT: (u16, u16) = (1024, 65_535);
