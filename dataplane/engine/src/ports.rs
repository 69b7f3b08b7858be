//! Local ports of one pair (local address, real server endpoint), one worker's share of them.
//!
//! Two bits per port. Picks go round in order, so the port that was given out longest ago is next, and a port that
//! was just freed is passed over until the round has come by it once: real servers keep a closed connection in
//! TIME_WAIT for a while (RFC 9293 §3.6.1).

use crate::ids::WorkerId;
use crate::steer;

#[derive(Debug)]
pub(crate) struct PortSet {
    /// First port of this worker within the range; its ports are `first + n * stride`.
    first: u32,
    stride: u32,
    count: u32,
    in_use: u32,
    next: u32,
    used: Box<[u64]>,
    /// Freed since the round last came by.
    resting: Box<[u64]>,
}

impl PortSet {
    /// The share of `worker` among `workers` in the range `first..=last`.
    pub(crate) fn new((first, last): (u16, u16), worker: WorkerId, workers: u16) -> PortSet {
        let (first, last) = (u32::from(first), u32::from(last));
        let stride = u32::from(workers.max(1));
        let own = (first..=last).find(|port| steer::owner_of_local_port(*port as u16, workers) == worker);
        let count = own.map_or(0, |own| (last - own) / stride + 1);
        let words = (count as usize).div_ceil(64);
        PortSet {
            first: own.unwrap_or(first),
            stride,
            count,
            in_use: 0,
            next: 0,
            used: vec![0; words].into_boxed_slice(),
            resting: vec![0; words].into_boxed_slice(),
        }
    }

    /// Starts the rounds elsewhere, so that a restarted gateway does not begin with the ports that real servers
    /// remember best.
    pub(crate) fn start_at(&mut self, random: u64) {
        if self.count > 0 {
            self.next = (random % u64::from(self.count)) as u32;
        }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.in_use == self.count
    }

    /// A free port, in host order.
    pub(crate) fn take(&mut self) -> Option<u16> {
        if self.is_exhausted() {
            return None;
        }
        // Two rounds: the first may find nothing but resting ports, and wakes them.
        for _ in 0..2 * self.used.len() + 2 {
            let word = self.next as usize / 64;
            let from_here = u64::MAX << (self.next % 64);
            let in_range = match self.count as usize - word * 64 {
                left if left < 64 => (1 << left) - 1,
                _ => u64::MAX,
            };
            let free = !self.used[word] & !self.resting[word] & from_here & in_range;
            if free != 0 {
                let bit = free.trailing_zeros();
                // What the round has come by is rested.
                self.resting[word] &= !(from_here & ((1 << bit) - 1));
                self.used[word] |= 1 << bit;
                self.in_use += 1;
                let n = word as u32 * 64 + bit;
                self.next = if n + 1 == self.count { 0 } else { n + 1 };
                return Some((self.first + n * self.stride) as u16);
            }
            self.resting[word] &= !from_here;
            let next = (word as u32 + 1) * 64;
            self.next = if next >= self.count { 0 } else { next };
        }
        None
    }

    /// Gives a port back, in host order. Ports that are not of this set or not in use are ignored.
    pub(crate) fn give_back(&mut self, port: u16) {
        let Some(distance) = u32::from(port).checked_sub(self.first) else { return };
        let n = distance / self.stride;
        if n >= self.count || distance % self.stride != 0 {
            return;
        }
        let (word, bit) = (n as usize / 64, 1 << (n % 64));
        if self.used[word] & bit != 0 {
            self.used[word] &= !bit;
            self.resting[word] |= bit;
            self.in_use -= 1;
        }
    }

    #[cfg(test)]
    fn in_use(&self) -> u32 {
        self.in_use
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_port_is_given_twice_and_all_are_given(
            first in 1u16..2000, len in 0u16..400, workers in 1u16..9, start: u64,
            steps in prop::collection::vec(any::<Option<u8>>(), 1..600),
        ) {
            let last = first + len;
            for worker in 0..workers {
                let mut set = PortSet::new((first, last), WorkerId(worker), workers);
                set.start_at(start);
                let share = (first..=last).filter(|p| steer::owner_of_local_port(*p, workers).0 == worker).count();
                let mut taken: Vec<u16> = Vec::new();
                for step in &steps {
                    match step {
                        Some(n) if !taken.is_empty() => {
                            let port = taken.swap_remove(*n as usize % taken.len());
                            set.give_back(port);
                        }
                        _ => match set.take() {
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
            let mut set = PortSet::new((1024, 65535), WorkerId(worker), 3);
            while let Some(port) = set.take() {
                assert!(all.insert(port));
            }
        }
        assert_eq!(all.len(), 65535 - 1024 + 1);
    }

    #[test]
    fn a_freed_port_rests_for_a_whole_round() {
        let mut set = PortSet::new((1000, 1199), WorkerId(0), 1);
        for _ in 0..100 {
            set.take().unwrap();
        }
        set.give_back(1150); // never taken: ignored
        set.give_back(1099);
        let round: Vec<u16> = (0..100).map(|_| set.take().unwrap()).collect();
        assert!(!round.contains(&1099), "{round:?}");
        assert_eq!(set.take(), Some(1099));
        assert_eq!(set.take(), None);
    }
}
