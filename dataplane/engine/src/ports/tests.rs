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
