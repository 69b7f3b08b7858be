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

/// How packets reach a real server. Each real server has its own, as in IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Both addresses are replaced; the real server answers to the local address. The only one that can change the
    /// address family (NAT64, NAT46).
    FullNat,
    /// The virtual endpoint is replaced by the real one; the real server's route to clients leads through us.
    Nat,
    /// Only the destination MAC address is replaced; the real server owns the VIP and answers clients itself.
    Dr,
    /// The packet is sent in a tunnel; the real server owns the VIP and answers clients itself.
    Tun(Tunnel),
}

impl Mode {
    /// Whether the real server answers clients itself, so that replies are never seen (IPVS's INPUT_ONLY).
    pub fn is_one_way(self) -> bool {
        matches!(self, Mode::Dr | Mode::Tun(_))
    }

    /// ipvsadm's word for it, and that of the FULLNAT fork.
    pub fn forward_word(self) -> &'static str {
        match self {
            Mode::FullNat => "FullNat",
            Mode::Nat => "Masq",
            Mode::Dr => "Route",
            Mode::Tun(_) => "Tunnel",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::FullNat => "fullnat",
            Mode::Nat => "nat",
            Mode::Dr => "dr",
            Mode::Tun(_) => "tun",
        })
    }
}

/// The tunnel to a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tunnel {
    /// What the packets are wrapped in.
    pub kind: TunnelKind,
    /// Source address of the outer header, of the real server's address family. The outer destination is the real
    /// server's address. The family of the packet within may be the other one.
    pub source: IpAddr,
}

/// What the packets in a tunnel are wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TunnelKind {
    /// An IP header and nothing else (RFC 2003, RFC 2473).
    Ipip,
    /// GRE without key and sequence number (RFC 2784).
    Gre {
        /// Whether the GRE header has a checksum.
        checksum: bool,
    },
    /// UDP and a GUE header of version 0 (draft-ietf-intarea-gue), as IPVS sends it.
    Gue {
        /// UDP destination port; never 0.
        port: u16,
        /// Whether the UDP header has a checksum.
        checksum: bool,
    },
}

impl fmt::Display for TunnelKind {
    /// As `ipvsadm --tun-info` shows it: `ipip`, `gre:-c`, `gue:6080:+c`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |checksum: bool| if checksum { "+c" } else { "-c" };
        match self {
            TunnelKind::Ipip => f.write_str("ipip"),
            TunnelKind::Gre { checksum } => write!(f, "gre:{}", flag(*checksum)),
            TunnelKind::Gue { port, checksum } => write!(f, "gue:{port}:{}", flag(*checksum)),
        }
    }
}

/// How a real server is picked for a new connection. The names are those of IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// Locality-based least connections with replication.
    Lblcr,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Maglev hashing.
    Mh,
    /// Weighted failover: all to the available server of the highest weight.
    Fo,
    /// Weighted overflow: to the server of the highest weight that has fewer connections than its weight.
    Ovf,
}

impl Scheduler {
    /// Every scheduler.
    pub const ALL: [Scheduler; 13] = [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Lblc,
        Scheduler::Lblcr,
        Scheduler::Dh,
        Scheduler::Sh,
        Scheduler::Sed,
        Scheduler::Nq,
        Scheduler::Mh,
        Scheduler::Fo,
        Scheduler::Ovf,
    ];

    /// Its name in the configuration and in listings.
    pub fn name(self) -> &'static str {
        match self {
            Scheduler::Rr => "rr",
            Scheduler::Wrr => "wrr",
            Scheduler::Lc => "lc",
            Scheduler::Wlc => "wlc",
            Scheduler::Lblc => "lblc",
            Scheduler::Lblcr => "lblcr",
            Scheduler::Dh => "dh",
            Scheduler::Sh => "sh",
            Scheduler::Sed => "sed",
            Scheduler::Nq => "nq",
            Scheduler::Mh => "mh",
            Scheduler::Fo => "fo",
            Scheduler::Ovf => "ovf",
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Variants of a scheduler; all off by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SchedulerFlags {
    /// sh-fallback, mh-fallback: where the hash leads to a server that is not available, another one is taken.
    pub fallback: bool,
    /// sh-port, mh-port: the client's port is hashed too.
    pub port: bool,
    /// QUIC's connection ID is hashed where a packet has one; only with mh, over UDP.
    pub quic_cid: bool,
}

impl SchedulerFlags {
    /// The names of the flags that are set, as they are written with this scheduler: `mh-port`, `quic-cid`.
    pub fn names(self, scheduler: Scheduler) -> impl Iterator<Item = String> {
        let with_prefix = [(self.fallback, "fallback"), (self.port, "port")].into_iter();
        with_prefix
            .filter(|(is_set, _)| *is_set)
            .map(move |(_, flag)| format!("{scheduler}-{flag}"))
            .chain(self.quic_cid.then(|| "quic-cid".to_owned()))
    }
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

/// What becomes of a client's segment that should carry its address in a TCP option and has no room for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToaNoRoom {
    /// It passes without.
    #[default]
    Pass,
    /// It is dropped; where it is too long for the next link, its sender is told what fits.
    Drop,
}

/// How real servers of mode FULLNAT are told the client of a UDP flow (UOA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uoa {
    /// Where the address stands.
    pub form: UoaForm,
    /// How many of a flow's first datagrams carry it; never 0.
    pub datagrams: u8,
    /// What becomes of datagrams without room for it.
    pub no_room: ToaNoRoom,
}

/// Where a datagram carries the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UoaForm {
    /// In an option of the IPv4 header (type 31); over IPv6 as [`UoaForm::Header`].
    Option,
    /// In a header between IP and UDP (protocol 248).
    Header,
}

/// Versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A further address of a service that has several (what LVS does with firewall marks). Only destinations are meant;
/// all addresses of a service share its scheduler, its real servers and its persistence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VirtualRange {
    /// The transport protocol.
    pub protocol: Protocol,
    /// VIP, of the address family of the service's key.
    pub address: IpAddr,
    /// First and last port. (0, 0): every port that no service names (only with persistence).
    pub ports: (u16, u16),
}

impl fmt::Display for VirtualRange {
    /// As in the configuration: `10.1.0.100:80`, `[2001:db8::1]:8000-8100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.ports;
        SocketAddr::new(self.address, first).fmt(f)?;
        if last > first { write!(f, "-{last}") } else { Ok(()) }
    }
}

/// What becomes of the client's TCP timestamps (RFC 7323) on the way to a FULLNAT real server, which may see one local
/// endpoint go back in time when it is used for another client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcpTimestamps {
    /// They pass unchanged.
    #[default]
    Keep,
    /// The option is taken out of SYNs, so that the connection has none.
    Strip,
    /// They are shifted so that those of one local endpoint never go back.
    Rewrite,
}

/// Persistence: a client's connections go to the real server that its last ones had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Persistence {
    /// Seconds that a template outlives its last connection; never 0.
    pub timeout_s: u32,
    /// Clients whose addresses agree in so many leading bits count as one; 1 to 32, or 1 to 128 for IPv6.
    pub prefix_len: u8,
}

/// One virtual service. No two services of a state have an address and port in common, but one may have every port
/// (port 0) of an address of which others name some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// VIP:vport and protocol. Port 0: every port that no service names (only with persistence).
    pub key: ServiceKey,
    /// The operator's name for it.
    pub name: String,
    /// Further addresses, of the same address family; they overlap neither each other nor the key.
    pub also: Vec<VirtualRange>,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Its variants.
    pub scheduler_flags: SchedulerFlags,
    /// Client address to FULLNAT real servers.
    pub toa: ToaMode,
    /// The option has an experiment identifier in front (RFC 6994); only with kinds 254 and 253.
    pub toa_exid: bool,
    /// What becomes of segments without room for the option.
    pub toa_no_room: ToaNoRoom,
    /// Client address to FULLNAT real servers over UDP; `None`: they are told nothing.
    pub uoa: Option<Uoa>,
    /// Client address to FULLNAT and NAT real servers in front of the stream (PROXY protocol); then `toa` is off.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Every packet is scheduled on its own and leaves no connection behind; UDP only.
    pub one_packet: bool,
    /// Persistence; `None`: each connection is scheduled on its own.
    pub persistence: Option<Persistence>,
    /// Local addresses that stand in for the client, of any address family; those of a real server's family serve it.
    /// Without FULLNAT real servers there may be none.
    pub local_addresses: Vec<IpAddr>,
    /// First and last local port.
    pub local_ports: (u16, u16),
    /// The real servers; each endpoint at most once.
    pub real_servers: Vec<RealServer>,
    /// Gets new connections while no real server can be picked; none of the real servers. Always up, of weight 1.
    pub sorry_server: Option<RealServer>,
    /// Timeouts of this service's connections; `None`: those of the state.
    pub timeouts: Option<Timeouts>,
    /// What becomes of TCP timestamps.
    pub tcp_timestamps: TcpTimestamps,
    /// Each connection of a FULLNAT real server begins at a sequence number beyond that of the last one on the same
    /// local endpoint, so that a real server in TIME_WAIT accepts it.
    pub rebase_sequence: bool,
    /// Connections of a real server that has left the service, or is not up, end at once; otherwise
    /// they live on (IPVS `expire_nodest_conn`).
    pub expire_nodest_conn: bool,
    /// Templates of a real server of weight 0 end with the client's next connection, which is scheduled anew; otherwise
    /// a client stays with its draining server (IPVS `expire_quiescent_template`).
    pub expire_quiescent_template: bool,
    /// TCP connections that end by timeout or by an administrator are reset on both sides.
    pub reset_on_expiry: bool,
    /// Client addresses that clients put into options of TCP (TOA) or of IPv4 (UOA) themselves are taken out; otherwise
    /// they pass, where `toa` and `uoa` are off.
    pub strip_toa: bool,
}

impl Service {
    /// A service with one address, without real servers and with everything optional off; clients cannot forge addresses.
    pub fn new(key: ServiceKey, name: impl Into<String>) -> Service {
        Service {
            key,
            name: name.into(),
            also: Vec::new(),
            scheduler: Scheduler::Wlc,
            scheduler_flags: SchedulerFlags::default(),
            toa: ToaMode::Off,
            toa_exid: false,
            toa_no_room: ToaNoRoom::Pass,
            uoa: None,
            proxy_protocol: None,
            one_packet: false,
            persistence: None,
            local_addresses: Vec::new(),
            local_ports: (1024, 65_535),
            real_servers: Vec::new(),
            sorry_server: None,
            timeouts: None,
            tcp_timestamps: TcpTimestamps::Keep,
            rebase_sequence: false,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            reset_on_expiry: false,
            strip_toa: true,
        }
    }
}

/// One real server of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RealServer {
    /// RIP:rport. Port 0: the port that the client asked for.
    pub real: SocketAddr,
    /// Forwarding mode.
    pub mode: Mode,
    /// Share of new connections; 0: drain.
    pub weight: u16,
    /// Whether the health checks pass; a server that is not up gets no new connection.
    pub up: bool,
    /// How much of its weight counts, in percent, 1 to 100: less than 100 while a returned server is warming up (slow
    /// start). The weight in force is never rounded down to 0.
    pub ramp_percent: u8,
    /// From so many connections on (active and inactive) it gets no new ones; 0: no limit.
    pub upper_threshold: u32,
    /// It gets new ones again below so many; 0: below three quarters of the upper threshold.
    pub lower_threshold: u32,
    /// The drain deadline has passed: its connections and templates end now.
    pub end_connections: bool,
}

impl RealServer {
    /// A FULLNAT real server of weight 1 that is up.
    pub fn new(real: SocketAddr) -> RealServer {
        RealServer {
            real,
            mode: Mode::FullNat,
            weight: 1,
            up: true,
            ramp_percent: 100,
            upper_threshold: 0,
            lower_threshold: 0,
            end_connections: false,
        }
    }
}

/// Seconds without a packet after which a connection in a state ends (IPVS `timeouts`, ip_vs_proto_tcp).
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_scheduler_has_a_name_of_its_own() {
        let names: HashSet<&str> = Scheduler::ALL.iter().map(|scheduler| scheduler.name()).collect();
        assert_eq!(names.len(), Scheduler::ALL.len());
    }

    #[test]
    fn flags_are_named_as_ipvsadm_names_them() {
        let flags = SchedulerFlags { fallback: true, port: true, quic_cid: true };
        let names = |flags: SchedulerFlags, of| flags.names(of).collect::<Vec<_>>().join(",");
        assert_eq!(names(flags, Scheduler::Mh), "mh-fallback,mh-port,quic-cid");
        assert_eq!(
            names(SchedulerFlags { port: true, ..SchedulerFlags::default() }, Scheduler::Sh),
            "sh-port"
        );
        assert_eq!(names(SchedulerFlags::default(), Scheduler::Sh), "");
    }

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        let shown = |address: &str, ports| {
            let address = address.parse().unwrap();
            VirtualRange { protocol: Protocol::Tcp, address, ports }.to_string()
        };
        assert_eq!(shown("10.1.0.100", (80, 80)), "10.1.0.100:80");
        assert_eq!(shown("2001:db8::1", (8000, 8100)), "[2001:db8::1]:8000-8100");
        assert_eq!(shown("10.1.0.100", (0, 0)), "10.1.0.100:0");
    }

    #[test]
    fn modes_and_tunnels_are_named_as_ipvsadm_names_them() {
        let tunnel = |kind| Tunnel { kind, source: [10, 2, 0, 1].into() };
        let kinds = [
            (TunnelKind::Ipip, "ipip"),
            (TunnelKind::Gre { checksum: true }, "gre:+c"),
            (TunnelKind::Gue { port: 6080, checksum: false }, "gue:6080:-c"),
        ];
        for (kind, shown) in kinds {
            assert_eq!(kind.to_string(), shown);
            assert_eq!(Mode::Tun(tunnel(kind)).forward_word(), "Tunnel");
        }
        assert_eq!(
            [Mode::FullNat, Mode::Nat, Mode::Dr].map(Mode::forward_word),
            ["FullNat", "Masq", "Route"]
        );
        assert_eq!([Mode::Nat, Mode::Dr].map(Mode::is_one_way), [false, true]);
    }
}
