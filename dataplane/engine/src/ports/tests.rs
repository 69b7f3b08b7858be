use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::ids::WorkerId;
use crate::steer;

proptest! {
    #[test]
    fn no_port_is_given_twice_and_all_are_given(
        first in 1u16..2000, len in 0u16..400, workers in 1u16..9, start: u64,
        steps in prop::collection::vec(any::<Option<u8>>(), 1..600),
    ) {
        let last = first + len;
        for worker in 0..workers {
            let mut set = PortSet::new(Share::strided((first, last), WorkerId(worker), workers));
            set.start_at(start);
            let share = (first..=last).filter(|p| steer::owner_of_local_port(*p, workers).0 == worker).count();
            let mut taken: Vec<u16> = Vec::new();
            for step in &steps {
                match step {
                    Some(n) if !taken.is_empty() => {
                        let port = taken.swap_remove(*n as usize % taken.len());
                        set.give_back(port, 80);
                    }
                    _ => match set.take(80) {
                        Some(port) => {
                            prop_assert!((first..=last).contains(&port));
                            prop_assert_eq!(steer::owner_of_local_port(port, workers).0, worker);
                            prop_assert!(!taken.contains(&port));
                            taken.push(port);
                        }
                        None => prop_assert_eq!(taken.len(), share),
                    },
                }
                prop_assert_eq!(set.in_use() as usize, taken.len());
                set.states.check(set.share.places());
            }
        }
    }
}

#[test]
fn the_workers_shares_are_the_whole_range() {
    let mut all = HashSet::new();
    for worker in 0..3 {
        let mut set = PortSet::new(Share::strided((1024, 65535), WorkerId(worker), 3));
        while let Some(port) = set.take(80) {
            assert!(all.insert(port));
        }
    }
    assert_eq!(all.len(), 65535 - 1024 + 1);
}

#[test]
fn a_freed_port_rests_for_a_whole_round() {
    let mut set = PortSet::new(Share::strided((1000, 1199), WorkerId(0), 1));
    for _ in 0..100 {
        set.take(80).unwrap();
    }
    set.give_back(1150, 80); // never taken: ignored
    set.give_back(1099, 80);
    let round: Vec<u16> = (0..100).map(|_| set.take(80).unwrap()).collect();
    assert!(!round.contains(&1099), "{round:?}");
    assert_eq!(set.take(80), Some(1099));
    assert_eq!(set.take(80), None);
}

#[test]
fn ports_rest_however_different_their_connections_live() {
    let mut set = PortSet::new(Share::strided((1024, 3071), WorkerId(0), 1));
    let mut ends: Vec<Vec<u16>> = vec![Vec::new(); 26_001];
    let mut freed = vec![None; 1 << 16];
    let mut random = 1u32;
    for now in 0..20_000 {
        for port in std::mem::take(&mut ends[now]) {
            set.give_back(port, 80);
            freed[usize::from(port)] = Some(now);
        }
        let port = set.take(80).unwrap();
        // Some 640 are in use, so a round has more than a thousand others.
        let rested = freed[usize::from(port)].map_or(usize::MAX, |then| now - then);
        assert!(rested >= 500, "{port} came again after {rested} picks");
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let longest = if now % 8 == 0 { 6_000 } else { 600 };
        ends[now + 1 + (random >> 16) as usize % longest].push(port);
    }
}

#[test]
fn what_is_freed_in_one_round_is_given_in_the_order_of_ports() {
    let mut set = PortSet::new(Share::strided((1000, 1199), WorkerId(0), 1));
    for _ in 0..200 {
        set.take(80).unwrap();
    }
    assert_eq!(set.take(80), None);
    for port in (1100..1150).chain(1000..1010) {
        set.give_back(port, 80);
    }
    let round: Vec<u16> = (0..60).map(|_| set.take(80).unwrap()).collect();
    assert_eq!(round, (1000..1010).chain(1100..1150).collect::<Vec<_>>(), "the order of the ports");
    assert_eq!(set.take(80), None);
}

#[test]
fn a_start_in_the_middle_gives_the_ports_before_it_too_before_any_comes_again() {
    let mut set = PortSet::new(Share::strided((1000, 1999), WorkerId(0), 1));
    set.start_at(700);
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        let port = set.take(80).unwrap();
        assert!(seen.insert(port), "{port} came again");
        set.give_back(port, 80);
    }
    assert!((0..1000).all(|_| set.take(80).is_some()));
}

/// A flood leaves few ports free: they must still be found.
#[test]
fn of_a_full_range_the_last_free_ports_are_found_wherever_they_are() {
    let mut set = PortSet::new(Share::strided((1024, 65535), WorkerId(0), 1));
    while set.take(80).is_some() {}
    for port in [65535, 1024, 30_000, 1024, 5118, 5120, 65535] {
        set.give_back(port, 80);
        assert_eq!(set.take(80), Some(port));
        assert_eq!(set.take(80), None);
    }
}
