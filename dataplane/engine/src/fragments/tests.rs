use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const PORTS: u32 = 0x1234_5678;

fn counters() -> Counters {
    Counters::new(1, 1, 1)
}

fn key(id: u32) -> Key6 {
    Key6 { addrs: [1, 2], ports: id, protocol: 17 }
}

fn first(len: u16) -> Arrival {
    Arrival { offset: 0, len, more: true, ports: Some(PORTS) }
}

fn later(offset: u16, len: u16, more: bool) -> Arrival {
    Arrival { offset, len, more, ports: None }
}

/// A table with what its caller keeps.
struct Rig {
    fragments: Fragments,
    counters: Counters,
    now: Ticks,
    kept: HashMap<u16, Vec<(u32, Arrival)>>,
}

impl Rig {
    fn new() -> Rig {
        Rig { fragments: Fragments::new(), counters: counters(), now: Ticks(7), kept: HashMap::new() }
    }

    /// Ids share few chains, so that chains are long.
    fn arrive(&mut self, id: u32, arrival: Arrival) -> Outcome {
        let key = key(id);
        let outcome = self.fragments.arrive(self.now, (&key, u64::from(id % 5)), &arrival, &self.counters);
        if let Outcome::Wait(slot) = outcome {
            let kept = self.kept.entry(slot.0).or_default();
            assert!(kept.len() < WAIT_LEN_MAX && kept.iter().all(|(other, _)| *other == id));
            kept.push((id, arrival));
        }
        outcome
    }

    /// Does what the table says with what is kept; what became of what goes on, and how many were freed.
    fn empty(&mut self) -> (Vec<Outcome>, usize) {
        let (mut outcomes, mut freed) = (Vec::new(), 0);
        while let Some(released) = self.fragments.take_released() {
            match released {
                Released::Process(slot) => {
                    for (id, arrival) in self.kept.remove(&slot.0).unwrap_or_default() {
                        outcomes.push(self.arrive(id, arrival));
                    }
                }
                Released::Free(slot) => freed += self.kept.remove(&slot.0).unwrap().len(),
            }
        }
        (outcomes, freed)
    }

    fn kept(&self) -> usize {
        self.kept.values().map(Vec::len).sum()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped(reason).get()
    }

    fn live(&self) -> usize {
        let mut index = self.fragments.oldest;
        let mut n = 0;
        while let Some(entry) = self.fragments.entries.get(index as usize) {
            index = entry.newer;
            n += 1;
            assert!(n <= ENTRIES);
        }
        n
    }
}

#[test]
fn later_fragments_have_the_ports_of_the_first_until_all_came() {
    let mut rig = Rig::new();
    assert_eq!(rig.arrive(1, first(800)), Outcome::Ports(PORTS));
    assert_eq!(rig.arrive(1, later(1600, 10, false)), Outcome::Ports(PORTS));
    assert_eq!(rig.live(), 1);
    assert_eq!(rig.arrive(1, later(800, 800, true)), Outcome::Ports(PORTS));
    assert_eq!(rig.live(), 0);
    assert!(matches!(rig.arrive(1, later(800, 800, true)), Outcome::Wait(_)));
}

#[test]
fn fragments_of_other_packets_do_not_count() {
    let mut rig = Rig::new();
    rig.arrive(1, first(800));
    assert!(matches!(rig.arrive(6, later(800, 8, false)), Outcome::Wait(_)));
    assert_eq!(rig.arrive(6, Arrival { ports: Some(9), ..first(800) }), Outcome::Ports(9));
    assert_eq!(rig.empty(), (vec![Outcome::Ports(9)], 0));
    assert_eq!(rig.live(), 1);
}

#[test]
fn what_came_early_goes_on_when_the_first_comes() {
    let mut rig = Rig::new();
    let Outcome::Wait(slot) = rig.arrive(1, later(16, 8, false)) else { panic!() };
    assert_eq!(rig.arrive(1, later(8, 8, true)), Outcome::Wait(slot));
    assert_eq!(rig.empty(), (vec![], 0));
    assert_eq!(rig.arrive(1, first(8)), Outcome::Ports(PORTS));
    assert_eq!(rig.empty(), (vec![Outcome::Ports(PORTS); 2], 0));
    assert_eq!((rig.live(), rig.kept()), (0, 0));
}

#[test]
fn a_packet_is_given_up_after_thirty_seconds_with_all_that_waits() {
    let mut rig = Rig::new();
    rig.arrive(1, later(8, 8, true));
    rig.arrive(1, later(16, 8, true));
    rig.arrive(2, first(8));
    rig.now = rig.now.plus(Ticks(LIFETIME.0 - 1));
    rig.fragments.expire(rig.now, 10, &rig.counters);
    assert_eq!((rig.empty(), rig.live()), ((vec![], 0), 2));
    rig.now = rig.now.plus(Ticks(1));
    assert!(matches!(rig.arrive(2, later(8, 8, false)), Outcome::Wait(_)), "what is over is not found");
    rig.fragments.expire(rig.now, 10, &rig.counters);
    assert_eq!((rig.empty(), rig.live()), ((vec![], 2), 1));
    assert_eq!(rig.dropped(DropReason::FragmentTimeout), 2);
}

#[test]
fn what_can_be_part_of_no_packet_is_dropped() {
    let invalid = [
        first(0),
        first(12),
        later(8, 0, false),
        later(65_528, 8, false),
        later(65_520, 16, true),
        Arrival { ports: Some(0), ..first(8) },
    ];
    for arrival in invalid {
        let mut rig = Rig::new();
        assert_eq!(rig.arrive(1, arrival), Outcome::Drop(DropReason::FragmentInvalid), "{arrival:?}");
        assert_eq!(rig.live(), 0);
    }
}

#[test]
fn a_packet_of_too_many_fragments_is_refused() {
    let mut rig = Rig::new();
    rig.arrive(1, first(8));
    for n in 1..PIECES_MAX as u16 {
        assert_eq!(rig.arrive(1, later(n * 8, 8, true)), Outcome::Ports(PORTS));
    }
    let next = later(PIECES_MAX as u16 * 8, 8, false);
    assert_eq!(rig.arrive(1, next), Outcome::Drop(DropReason::FragmentInvalid));
}

#[test]
fn a_full_table_gives_up_the_oldest_packet() {
    let mut rig = Rig::new();
    rig.arrive(0, later(8, 8, true));
    rig.arrive(0, later(16, 8, true));
    for id in 1..ENTRIES as u32 {
        rig.arrive(id, first(8));
    }
    assert_eq!((rig.live(), rig.dropped(DropReason::FragmentTableFull)), (ENTRIES, 0));
    rig.arrive(ENTRIES as u32, first(8));
    assert_eq!((rig.live(), rig.dropped(DropReason::FragmentTableFull)), (ENTRIES, 2));
    assert_eq!(rig.empty(), (vec![], 2));
    assert_eq!(rig.arrive(1, later(8, 8, false)), Outcome::Ports(PORTS));
}

#[test]
fn where_many_wait_the_packet_that_waits_longest_gives_way() {
    let mut rig = Rig::new();
    for id in 0..WAITING_MAX as u32 {
        assert!(matches!(rig.arrive(id, later(8, 8, true)), Outcome::Wait(_)));
    }
    assert_eq!((rig.empty(), rig.live()), ((vec![], 0), WAITING_MAX));
    assert!(matches!(rig.arrive(1000, later(8, 8, true)), Outcome::Wait(_)));
    assert_eq!((rig.empty(), rig.live()), ((vec![], 1), WAITING_MAX));
    assert_eq!(rig.dropped(DropReason::FragmentBufferFull), 1);
    assert_eq!(rig.arrive(1, first(8)), Outcome::Ports(PORTS));
    assert_eq!(rig.empty(), (vec![Outcome::Ports(PORTS)], 0));
}

#[test]
fn no_more_wait_than_there_are_slots_until_those_are_emptied() {
    let mut rig = Rig::new();
    for id in 0..WAIT_SLOTS as u32 {
        assert!(matches!(rig.arrive(id, later(8, 8, true)), Outcome::Wait(_)));
    }
    assert_eq!(rig.arrive(1000, later(8, 8, true)), Outcome::Drop(DropReason::FragmentBufferFull));
    assert_eq!((rig.empty(), rig.live()), ((vec![], WAIT_SLOTS - WAITING_MAX), WAITING_MAX));
    assert!(matches!(rig.arrive(1000, later(8, 8, true)), Outcome::Wait(_)));
}

#[test]
fn repetitions_of_ended_packets_keep_nobody_from_waiting() {
    let mut rig = Rig::new();
    for id in 0..2 * WAIT_SLOTS as u32 {
        rig.arrive(id, first(8));
        assert_eq!(rig.arrive(id, later(8, 8, false)), Outcome::Ports(PORTS));
        assert!(matches!(rig.arrive(id, later(8, 8, false)), Outcome::Wait(_)), "{id}");
        rig.empty();
    }
    assert_eq!(rig.live(), WAITING_MAX);
    assert!(matches!(rig.arrive(1000, later(8, 8, false)), Outcome::Wait(_)));
    assert_eq!(rig.arrive(1000, first(8)), Outcome::Ports(PORTS));
    assert_eq!(rig.empty(), (vec![Outcome::Ports(PORTS)], 1));
}

#[test]
fn a_slot_holds_a_few_packets_only() {
    let mut rig = Rig::new();
    for n in 1..=WAIT_LEN_MAX as u16 {
        assert!(matches!(rig.arrive(1, later(n * 8, 8, true)), Outcome::Wait(_)));
    }
    assert_eq!(rig.arrive(1, later(800, 8, true)), Outcome::Drop(DropReason::FragmentBufferFull));
    rig.arrive(1, first(8));
    assert_eq!(rig.empty(), (vec![Outcome::Ports(PORTS); WAIT_LEN_MAX], 0));
}

/// What RFC 5722 says, byte by byte.
#[derive(Default)]
struct Bytes {
    /// By unit of 8 bytes: which piece holds it.
    units: HashMap<u16, (u16, u16)>,
    total: Option<u16>,
}

impl Bytes {
    fn takes(&mut self, start: u16, units: u16, more: bool) -> bool {
        let end = start + units;
        let beyond = self.total.is_some_and(|total| if more { end >= total } else { end != total });
        let cut = !more && self.units.keys().any(|unit| *unit >= end);
        let other =
            (start..end).any(|unit| self.units.get(&unit).is_some_and(|piece| *piece != (start, end)));
        if beyond || cut || other {
            return false;
        }
        if !more {
            self.total = Some(end);
        }
        self.units.extend((start..end).map(|unit| (unit, (start, end))));
        true
    }

    fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.units.len() == usize::from(total))
    }
}

proptest! {
    #[test]
    fn overlaps_spoil_a_packet_and_repetitions_do_not(
        pieces in prop::collection::vec((1u16..12, 1u16..4, prop::bool::weighted(0.9)), 1..30),
    ) {
        let mut rig = Rig::new();
        let mut model = Bytes::default();
        rig.arrive(1, first(8));
        model.takes(0, 1, true);
        let mut spoilt = false;
        for (start, units, more) in pieces {
            spoilt = spoilt || !model.takes(start, units, more);
            let wanted =
                if spoilt { Outcome::Drop(DropReason::FragmentOverlap) } else { Outcome::Ports(PORTS) };
            prop_assert_eq!(rig.arrive(1, later(start * 8, units * 8, more)), wanted);
            prop_assert_eq!(rig.live(), usize::from(!model.is_whole()));
            if model.is_whole() {
                break;
            }
        }
    }

    /// Whatever comes, lists stay lists, and every packet that waits is given back or freed and counted once.
    #[test]
    fn nothing_that_waits_is_lost(
        steps in prop::collection::vec((0u32..400, 0u16..6, 1u16..3, any::<bool>(), 0u32..40), 1..1500),
        lazy in 1usize..20,
    ) {
        let mut rig = Rig::new();
        let mut freed = 0;
        for (n, (id, start, units, more, passed)) in steps.into_iter().enumerate() {
            let ports = (start == 0).then_some(PORTS);
            rig.arrive(id, Arrival { offset: start * 8, len: units * 8, more, ports });
            rig.now = rig.now.plus(Ticks(passed));
            if n % lazy == 0 {
                freed += rig.empty().1;
                rig.fragments.expire(rig.now, 2, &rig.counters);
            }
            prop_assert!(rig.live() <= ENTRIES);
        }
        freed += rig.empty().1;
        rig.now = rig.now.plus(LIFETIME);
        rig.fragments.expire(rig.now, ENTRIES, &rig.counters);
        freed += rig.empty().1;
        prop_assert_eq!((rig.live(), rig.kept()), (0, 0));
        prop_assert_eq!(rig.fragments.slots.free.len(), WAIT_SLOTS);
        let lost = rig.dropped(DropReason::FragmentTimeout) + rig.dropped(DropReason::FragmentBufferFull);
        prop_assert_eq!(freed as u64, lost);
    }
}
