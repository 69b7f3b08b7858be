//! How a packet ends.

use crate::counters::named_counters;
use crate::ids::{PortId, WorkerId};

/// What the caller shall do with a packet. The packet's bytes are already as they must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out of this port.
    Forward(PortId),
    /// It became an answer of ours (an ICMP error); send it out of this port.
    Reply(PortId),
    /// Hand it to the kernel twin of the port it came from.
    Punt(PuntClass),
    /// Another worker owns its connection: move it there, unchanged.
    HandOver(WorkerId),
    /// As [`Verdict::Forward`], but the IPv4 packet is longer than the port takes and must be cut into fragments of
    /// at most `mtu` bytes (IP length) first.
    ForwardCut {
        /// The port.
        port: PortId,
        /// Its MTU.
        mtu: u16,
    },
    /// It is translated, but its next hop's MAC address is unknown (the Ethernet header is not filled in): have
    /// the next hop resolved, then send it out of this port. In front of the frame stand [`Verdict::TARGET_LEN`] bytes
    /// with the address that it is to get to, which in modes DR and TUN is not the packet's; IPv4 in mapped form.
    Resolve(PortId),
    /// A fragment that came before the first one of its packet: keep it, until [`crate::Worker::take_released`] names
    /// this slot.
    Wait(WaitSlot),
    /// Free it. The reason is already counted.
    Drop(DropReason),
}

/// Where fragments wait for the first one of their packet: one of [`WAIT_SLOTS`], each with room for
/// [`WAIT_LEN_MAX`] packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitSlot(pub u16);

/// Slots per worker. Fragments overtake each other within microseconds, so only what never comes right fills them.
pub const WAIT_SLOTS: usize = 160;

/// Packets that wait in one slot at most. With an MTU of 1500 this is a datagram of 12 kB that came last fragment
/// first.
pub const WAIT_LEN_MAX: usize = 8;

/// What is to be done with all packets of a slot, which is free then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// Give them to [`crate::Worker::process`] again, in the order in which they came.
    Process(WaitSlot),
    /// Free them. The reason is already counted.
    Free(WaitSlot),
}

impl Verdict {
    /// What verdict arrays are filled with before [`crate::Worker::process`] runs.
    pub const NONE: Verdict = Verdict::Drop(DropReason::FrameTooShort);

    /// Bytes in front of a frame that is to be resolved.
    pub const TARGET_LEN: usize = 16;
}

named_counters! {
    /// Why a packet was dropped. Every reason is a counter, a metric label and a line in docs/drop-reasons.md.
    DropReason {
        /// Shorter than an Ethernet header.
        FrameTooShort = "frame_too_short",
        /// A unicast frame for another station.
        NotOurMac = "not_our_mac",
        /// The IP packet is cut: shorter than its header or its own length field says.
        IpTruncated = "ip_truncated",
        /// Bad IP version or header length.
        IpHeaderInvalid = "ip_header_invalid",
        /// A fragment that can be part of no packet: empty, odd in length, beyond the longest packet, the 65th of its packet,
        /// or between ports 0.
        FragmentInvalid = "fragment_invalid",
        /// A first fragment without the whole transport header, or a later one that reaches into it.
        FragmentTiny = "fragment_tiny",
        /// A fragment that overlaps another one or contradicts it about the packet's end, and all of the same packet after it.
        FragmentOverlap = "fragment_overlap",
        /// A fragment that waited for the first one of its packet and had to give way to fragments of newer packets.
        FragmentTableFull = "fragment_table_full",
        /// More fragments came before the first one of their packet than may wait.
        FragmentBufferFull = "fragment_buffer_full",
        /// A fragment that waited in vain for the first one of its packet.
        FragmentTimeout = "fragment_timeout",
        /// A later fragment of a packet that was refused: it belongs to no connection.
        FragmentStray = "fragment_stray",
        /// The first fragment of a UDP datagram without checksum that was to become IPv6, where it must have one.
        FragmentNoChecksum = "fragment_no_checksum",
        /// IPv6 extension headers that no sender builds: too many, hop-by-hop options not first, two fragment headers.
        ExtensionHeaders = "extension_headers",
        /// A source route that is not used up: IPv4 option LSRR or SSRR, IPv6 routing header.
        SourceRouted = "source_routed",
        /// The transport header is cut or its length field is impossible.
        L4Truncated = "l4_truncated",
        /// A combination of TCP flags that no stack sends (none at all, SYN with FIN or RST).
        TcpFlagsInvalid = "tcp_flags_invalid",
        /// A SYN or first datagram from an address that cannot be a client's: multicast, broadcast, loopback, none at all, a virtual or
        /// a local address.
        SourceInvalid = "source_invalid",
        /// A SYN or first datagram whose checksum is wrong; a sender that leaves checksums to a NIC that is not there
        /// (veth, TAP) shows up here.
        ChecksumInvalid = "checksum_invalid",
        /// Hop limit used up and the ICMP answer was rate-limited or impossible.
        TtlExpired = "ttl_expired",
        /// Does not fit the next link, and the ICMP answer was rate-limited or impossible, or it is to be cut and the next
        /// hop's MAC address is not known yet.
        TooBig = "too_big",
        /// An ICMP error to a virtual or local address about no connection that there is.
        IcmpUnknown = "icmp_unknown",
        /// An ICMP error about a connection that cannot be put into the other family, does not fit, or is a redirect.
        IcmpUntranslatable = "icmp_untranslatable",
        /// The first packet of a connection, handed over just when the configuration changed; its sender repeats it.
        NotOwner = "not_owner",
        /// The service has no real server that is up and has weight.
        NoRealServer = "no_real_server",
        /// The connection table is full and nothing in it may be given up.
        TableFull = "table_full",
        /// No local port is free towards the chosen real server.
        LocalPortsExhausted = "local_ports_exhausted",
        /// Mode NAT: the real server's replies could not be told from those of another connection of the same client
        /// endpoint, which came by another virtual address.
        ReplyAmbiguous = "reply_ambiguous",
        /// The routing table has no way to the destination, or one that leads nowhere (a blackhole).
        NoRoute = "no_route",
        /// No room for what tells the client's address, in a service that forwards nothing without it.
        ClientUntold = "client_untold",
        /// A SYN with data, which would stand in front of the PROXY protocol's header; its sender repeats the data later.
        SynData = "syn_data",
        /// No room in the packet buffer to insert what must be inserted.
        NoHeadroom = "no_headroom",
        /// The kernel would have got it, but its class is over the rate limit.
        PuntRateLimited = "punt_rate_limited",
    }
}

named_counters! {
    /// What kind of packet the kernel is handed. Each class has its own rate limit.
    PuntClass {
        /// ARP.
        Arp = "arp",
        /// For an address of the gateway itself: its own sessions, health checks, routing daemons.
        Local = "local",
        /// TCP or UDP to a virtual or local address that belongs to no connection; the kernel answers with a RST or an
        /// ICMP error.
        Stray = "stray",
        /// ICMP.
        Icmp = "icmp",
        /// ICMPv6: neighbour discovery, echo and all else but errors about connections.
        Ipv6 = "ipv6",
        /// Multicast and broadcast (VRRP, OSPF, DHCP …).
        Multicast = "multicast",
        /// Every other Ethernet type (LLDP, LACP, VLAN …).
        OtherEthertype = "other_ethertype",
    }
}
