//! Everything that is counted. One page per worker, one writer per page, any number of readers.
//!
//! Counters are relaxed atomics that only their worker writes, as a plain load, add and store: no locked
//! instruction, no cache line shared between writers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::conn::Direction;
use crate::ids::{PairId, RealId};
use crate::tcp::ConnState;
use crate::verdict::{DropReason, PuntClass};

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only for the owning worker.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts; only for the owning worker, and only on gauges.
    #[inline(always)]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets; only for the owning worker, and only on gauges.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Its value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Defines an enum whose variants are counters with a snake-case name and their doc line as help.
macro_rules! named_counters {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $help:literal])+ $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $($(#[doc = $help])+ $variant,)*
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Snake-case name, as in metrics.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }

            /// One line on what it counts.
            pub fn help(self) -> &'static str {
                match self { $($name::$variant => concat!($($help),+).trim_ascii()),* }
            }
        }
    };
}
pub(crate) use named_counters;

named_counters! {
    /// Events that are no drops.
    Counter {
        /// Packets that were translated and forwarded.
        Forwarded = "forwarded",
        /// Packets that were cut into fragments for the next link.
        Fragmented = "fragmented",
        /// Fragments that came before the first one of their packet, and waited for it.
        FragmentsWaited = "fragments_waited",
        /// ICMP errors about connections, translated and forwarded; also counted as forwarded.
        IcmpErrors = "icmp_errors",
        /// Packets answered by the gateway itself.
        Replied = "replied",
        /// Packets that another worker owned.
        HandedOver = "handed_over",
        /// Packets that the NIC should have brought to their owner by its hash or a flow rule, but brought to another
        /// worker.
        Misdirected = "misdirected",
        /// Packets whose next hop had no known MAC address yet.
        Unresolved = "unresolved",
        /// Connections created.
        ConnectionsCreated = "connections_created",
        /// Connections that ended: timed out, given up for newer ones, or replaced.
        ConnectionsExpired = "connections_expired",
        /// Old connections in TIME_WAIT or CLOSE replaced by a new one of the same client port.
        ConnectionsReused = "connections_reused",
        /// Connections ended because their real server is gone or its drain deadline has passed.
        ConnectionsEnded = "connections_ended",
        /// RST segments that the gateway sent because it ended connections; also counted as forwarded or replied.
        ResetsSent = "resets_sent",
        /// Connections of persistent services for which no template could be kept; they were scheduled all the same.
        TemplatesFull = "templates_full",
        /// Embryonic connections given up because the table was full.
        EmbryonicRecycled = "embryonic_recycled",
        /// RST segments outside the window; forwarded, but the connection lives on.
        RstOutOfWindow = "rst_out_of_window",
        /// FIN segments outside the window; forwarded, but the state stays.
        FinOutOfWindow = "fin_out_of_window",
        /// ACKs that claim to end a handshake but acknowledge another number than the SYN-ACK's.
        HandshakeAckInvalid = "handshake_ack_invalid",
        /// TOA options inserted.
        ToaInserted = "toa_inserted",
        /// Segments that should carry TOA but whose TCP header had no room, or that came in fragments.
        ToaNoRoom = "toa_no_room",
        /// Segments that should carry TOA but would have exceeded the MTU.
        ToaOverMtu = "toa_over_mtu",
        /// Segments from clients whose own address options were overwritten.
        ToaStripped = "toa_stripped",
        /// Datagrams that carry UOA.
        UoaInserted = "uoa_inserted",
        /// Datagrams that should carry UOA but had no room in the IP header, came in fragments, or behind extension headers.
        UoaNoRoom = "uoa_no_room",
        /// Datagrams that should carry UOA but would have exceeded the MTU.
        UoaOverMtu = "uoa_over_mtu",
        /// Datagrams from clients whose own UOA options were overwritten.
        UoaStripped = "uoa_stripped",
        /// SYN segments whose Fast Open option was overwritten.
        FastOpenStripped = "fast_open_stripped",
        /// Segments with malformed TCP options; what stands behind the fault is not looked at.
        TcpOptionsMalformed = "tcp_options_malformed",
        /// Handshake segments whose TCP timestamps were overwritten.
        TimestampsStripped = "timestamps_stripped",
        /// SYN-ACKs whose MSS was lowered to make room for what tells the client's address.
        MssLowered = "mss_lowered",
        /// Segments that carry the PROXY protocol's header.
        ProxyInserted = "proxy_inserted",
        /// Segments that should carry the PROXY protocol's header and came in fragments; the header goes with the next one.
        ProxyNoRoom = "proxy_no_room",
        /// Segments that would have exceeded the MTU with the PROXY protocol's header; their sender was told what fits.
        ProxyOverMtu = "proxy_over_mtu",
    }
}

/// Traffic counters of one real server in one service, as IPVS has them; one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RealCounters {
    /// Connections scheduled.
    pub connections: Count,
    /// Packets by [`Direction`]: from clients, to clients.
    pub packets: [Count; 2],
    /// Bytes (IP length) in the same order.
    pub bytes: [Count; 2],
    /// Gauge: connections in an active state.
    pub active: Count,
    /// Gauge: other connections.
    pub inactive: Count,
    /// Gauge: all of them. The two above move apart for a moment when a connection changes between them; this one
    /// does not, so it says whether the slot is free.
    pub held: Count,
}

const _: () = assert!(size_of::<RealCounters>() == 64);

impl RealCounters {
    /// Counts a packet of so many bytes.
    #[inline(always)]
    pub(crate) fn count(&self, direction: Direction, len: usize) {
        self.packets[direction as usize].add(1);
        self.bytes[direction as usize].add(len as u64);
    }
}

/// Use of the local ports of one pair.
#[derive(Debug, Default)]
pub struct PairCounters {
    /// Gauge: ports in use.
    pub in_use: Count,
    /// Connections refused for lack of a port.
    pub exhausted: Count,
}

/// One worker's page.
#[derive(Debug)]
pub struct Counters {
    drops: [Count; DropReason::COUNT],
    punts: [Count; PuntClass::COUNT],
    events: [Count; Counter::COUNT],
    /// Gauge: connections per TCP state.
    states: [Count; ConnState::COUNT],
    /// Gauge: connections in the table.
    pub connections: Count,
    /// Gauge: connections with an unfinished handshake.
    pub embryonic: Count,
    reals: Box<[RealCounters]>,
    /// What [`Counters::real`] gives for a slot that there is not. No connection names one; it is here so that
    /// the packet path has no way to panic.
    of_no_real: RealCounters,
    /// By real server.
    persistent: Box<[Count]>,
    /// By real server; see [`Counters::overloaded_at`].
    overloaded_at: Box<[AtomicU32]>,
    pairs: Box<[PairCounters]>,
    no_real_server: Box<[Count]>,
}

impl Counters {
    /// A page with room for as many services, real servers and pairs.
    pub fn new(services_max: usize, reals_max: usize, pairs_max: usize) -> Counters {
        Counters {
            drops: Default::default(),
            punts: Default::default(),
            events: std::array::from_fn(|_| Count::default()),
            states: Default::default(),
            connections: Count::default(),
            embryonic: Count::default(),
            reals: std::iter::repeat_with(RealCounters::default).take(reals_max).collect(),
            of_no_real: RealCounters::default(),
            persistent: std::iter::repeat_with(Count::default).take(reals_max).collect(),
            overloaded_at: std::iter::repeat_with(AtomicU32::default).take(reals_max).collect(),
            pairs: std::iter::repeat_with(PairCounters::default).take(pairs_max).collect(),
            no_real_server: std::iter::repeat_with(Count::default).take(services_max).collect(),
        }
    }

    /// Packets dropped for `reason`.
    #[inline(always)]
    pub fn dropped(&self, reason: DropReason) -> &Count {
        &self.drops[reason as usize]
    }

    /// Packets punted in `class`.
    #[inline(always)]
    pub fn punt(&self, class: PuntClass) -> &Count {
        &self.punts[class as usize]
    }

    /// Other events.
    #[inline(always)]
    pub fn event(&self, event: Counter) -> &Count {
        &self.events[event as usize]
    }

    /// Connections in `state`.
    #[inline(always)]
    pub fn state(&self, state: ConnState) -> &Count {
        &self.states[state as usize]
    }

    /// Counters of a real server.
    #[inline(always)]
    pub fn real(&self, id: RealId) -> &RealCounters {
        match self.reals.get(id.index()) {
            Some(real) => real,
            None => self.of_no_real(),
        }
    }

    /// Apart: as an alternative in place it costs every packet two instructions.
    #[cold]
    #[inline(never)]
    fn of_no_real(&self) -> &RealCounters {
        &self.of_no_real
    }

    /// Gauge: persistence templates of a real server. One worker makes a template and another removes it, so one
    /// page's number may be negative (two's complement); the wrapping sum over all pages is right.
    #[inline(always)]
    pub fn persistent(&self, id: RealId) -> &Count {
        &self.persistent[id.index()]
    }

    /// The upper threshold that a real server reached and has not come down from; 0: none. The one thing here
    /// that is no counter and that any worker may write, in the first worker's page only.
    #[inline(always)]
    pub(crate) fn overloaded_at(&self, id: RealId) -> &AtomicU32 {
        &self.overloaded_at[id.index()]
    }

    /// Port use of a pair.
    #[inline(always)]
    pub fn pair(&self, id: PairId) -> &PairCounters {
        &self.pairs[id.index()]
    }

    /// Sets a real server's counters to 0, for the next tenant of the slot. Only while no worker can write them: no
    /// connection and no snapshot names the slot.
    pub(crate) fn reset_real(&self, id: RealId) {
        let real = self.real(id);
        real.connections.set(0);
        real.packets.iter().chain(&real.bytes).for_each(|count| count.set(0));
        self.persistent(id).set(0);
        self.overloaded_at(id).store(0, Relaxed);
    }

    /// Packets for a service without a usable real server.
    #[inline(always)]
    pub fn no_real_server(&self, id: crate::ids::ServiceId) -> &Count {
        &self.no_real_server[id.index()]
    }
}
