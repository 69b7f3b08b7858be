//! What the platform counts beside the engine: packets in and out, and drops for want of room.
//!
//! A page has one writer. Each worker writes one of its own, the slow path writes another one per worker, for the
//! packets that came from (or were to go through) that worker.

use std::mem::offset_of;

use engine::counters::Count;

macro_rules! platform_drops {
    ($($(#[doc = $help:literal])+ $variant:ident = $text:literal,)*) => {
        /// Why the platform dropped a packet; listed beside the engine's reasons.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum PlatformDrop {
            $($(#[doc = $help])+ $variant,)*
        }

        impl PlatformDrop {
            /// All of them, in order.
            pub(crate) const ALL: &'static [PlatformDrop] = &[$(PlatformDrop::$variant),*];

            /// Snake-case name, as in metrics.
            pub(crate) fn name(self) -> &'static str {
                match self { $(PlatformDrop::$variant => $text),* }
            }

            /// One line on what it counts.
            pub(crate) fn help(self) -> &'static str {
                match self { $(PlatformDrop::$variant => concat!($($help),+).trim_ascii()),* }
            }
        }
    };
}

platform_drops! {
    /// The port's transmit queue took no more packets.
    TxFull = "tx_full",
    /// The ring to the worker that owns the port's transmit queue was full.
    TxRingFull = "tx_ring_full",
    /// The ring to the worker that owns the connection was full.
    HandoverFull = "handover_full",
    /// The ring to the slow path was full.
    PuntFull = "punt_full",
    /// The ring for packets that wait for a MAC address was full.
    ResolveRingFull = "resolve_ring_full",
    /// Too many packets wait for a MAC address.
    ResolveOverflow = "resolve_overflow",
    /// The next hop did not tell its MAC address in time.
    Unresolved = "neighbour_unresolved",
    /// The frame is larger than the port's MTU allows and does not fit one buffer.
    MultiSegment = "multi_segment",
    /// The frame bears no VLAN tag, and its port's network is a VLAN.
    Untagged = "vlan_untagged",
    /// No room in the packet buffer for the VLAN tag.
    NoTagRoom = "vlan_no_headroom",
    /// A fragment was to wait for the first one of its packet where there is no room for it.
    NoWaitRoom = "no_wait_room",
    /// The packet had to be cut into fragments for its port, and could not: no buffers, or more than 64 fragments.
    CutFailed = "cut_failed",
    /// The packet is to leave through a port that does not exist.
    NoSuchPort = "no_such_port",
    /// The packet is for the kernel, but its port has no kernel twin.
    NoTwin = "no_twin",
    /// The kernel twin did not take the packet.
    TwinFull = "twin_full",
    /// The ring from the slow path to the worker was full.
    InjectFull = "inject_full",
}

/// Turns of a worker's loop that took longer than so many microseconds are counted, each under all limits that it exceeds.
/// Some turns are long by themselves: with many ports, or when the machine takes the CPU away.
pub(crate) const LONG_TURNS_US: [u64; 5] = [20, 50, 100, 1_000, 10_000];

/// Turns whose upkeep took longer than so many microseconds are counted, too, without the longest of its steps from one look at
/// the time to the next, of which there is one at each connection: so that one interruption makes none long.
pub(crate) const LONG_UPKEEPS_US: [u64; 2] = [20, 50];

/// Counters of one writer on behalf of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Page {
    drops: [Count; PlatformDrop::ALL.len()],
    /// Packets received from ports.
    pub(crate) rx_packets: Count,
    /// Packets that ports took.
    pub(crate) tx_packets: Count,
    /// Turns of the loop.
    pub(crate) turns: Count,
    /// Turns that found packets.
    pub(crate) busy_turns: Count,
    /// Turns that took longer than [`LONG_TURNS_US`].
    pub(crate) long_turns: [Count; LONG_TURNS_US.len()],
    /// Turns whose upkeep took longer than [`LONG_UPKEEPS_US`] without its longest step.
    pub(crate) long_upkeeps: [Count; LONG_UPKEEPS_US.len()],
    /// The longest turn since the start, in nanoseconds; rests of an idle worker do not count.
    pub(crate) longest_turn_ns: Count,
}

/// What every burst counts is in one cache line.
const _: () = {
    const LINE: usize = offset_of!(Page, rx_packets) / 64;
    assert!(offset_of!(Page, tx_packets) / 64 == LINE);
    assert!(offset_of!(Page, turns) / 64 == LINE);
    assert!(offset_of!(Page, busy_turns) / 64 == LINE);
};

impl Page {
    /// Packets dropped for `reason`.
    #[inline(always)]
    pub(crate) fn dropped(&self, reason: PlatformDrop) -> &Count {
        &self.drops[reason as usize]
    }
}

/// What passed between one port and its kernel twin. Written by the slow path.
#[derive(Debug, Default)]
pub(crate) struct TwinPage {
    /// Packets handed to the kernel.
    pub(crate) punted: Count,
    /// Packets taken from the kernel.
    pub(crate) injected: Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drop_reason_has_its_line_in_the_documentation() {
        let page = include_str!("../../docs/drop-reasons.md");
        let engine = engine::DropReason::ALL.iter().map(|reason| reason.name());
        for name in engine.chain(PlatformDrop::ALL.iter().map(|reason| reason.name())) {
            assert!(page.contains(&format!("| `{name}` |")), "docs/drop-reasons.md lacks `{name}`");
        }
    }

    #[test]
    fn the_documentation_names_no_drop_reason_that_there_is_not() {
        let page = include_str!("../../docs/drop-reasons.md");
        let reasons = page.split("Packets that never reach a worker").next().unwrap_or_default();
        let mut documented = reasons.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let engine = engine::DropReason::ALL.iter().map(|reason| reason.name());
        let all: Vec<_> = engine.chain(PlatformDrop::ALL.iter().map(|reason| reason.name())).collect();
        assert_eq!(documented.find(|name| !all.contains(name)), None, "docs/drop-reasons.md");
    }

    #[test]
    fn every_drop_has_its_place_in_the_path_of_a_packet() {
        let page = include_str!("../../docs/packet-flow.md");
        let engine = engine::DropReason::ALL.iter().map(|reason| reason.name());
        for name in engine.chain(PlatformDrop::ALL.iter().map(|reason| reason.name())) {
            let named = page.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|word| word == name);
            // The page has one line for all of these.
            assert!(named || name.starts_with("fragment_"), "docs/packet-flow.md lacks `{name}`");
        }
    }
}
