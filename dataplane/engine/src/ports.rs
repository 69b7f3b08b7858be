//! Local ports of one pair (local address, real server endpoint), one worker's share of them.
//!
//! Two bits per port. Picks go round in order, so the port that was given out longest ago is next, and a port that
//! was just freed is passed over until the round has come by it once: real servers keep a closed connection in
//! TIME_WAIT for a while (RFC 9293 §3.6.1). Which ports are the worker's, and in which order, says its
//! [`Share`].

mod share;

pub(crate) use share::Share;

#[derive(Debug)]
pub(crate) struct PortSet {
    share: Share,
    /// Ports that can be in use at once.
    capacity: u32,
    in_use: u32,
    next: u32,
    /// By place in the share; also set, for ever, where there is no port.
    used: Box<[u64]>,
    /// Freed since the round last came by.
    resting: Box<[u64]>,
}

impl PortSet {
    /// No port of the share is in use.
    pub(crate) fn new(share: Share) -> PortSet {
        let words = (share.places() as usize).div_ceil(64);
        let mut set = PortSet {
            capacity: share.places(),
            in_use: 0,
            next: 0,
            used: vec![0; words].into_boxed_slice(),
            resting: vec![0; words].into_boxed_slice(),
            share,
        };
        let PortSet { share, used, capacity, .. } = &mut set;
        share.for_each_empty_place(|place| {
            used[place as usize / 64] |= 1 << (place % 64);
            *capacity -= 1;
        });
        set
    }

    /// Starts the rounds elsewhere, so that a restarted gateway does not begin with the ports that real servers
    /// remember best.
    pub(crate) fn start_at(&mut self, random: u64) {
        if self.share.places() > 0 {
            self.next = (random % u64::from(self.share.places())) as u32;
        }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.in_use == self.capacity
    }

    /// A free port towards `real_port`, both in host order.
    pub(crate) fn take(&mut self, real_port: u16) -> Option<u16> {
        if self.is_exhausted() {
            return None;
        }
        let places = self.share.places();
        // Two rounds: the first may find nothing but resting ports, and wakes them.
        for _ in 0..2 * self.used.len() + 2 {
            let word = self.next as usize / 64;
            let from_here = u64::MAX << (self.next % 64);
            let in_range = match places as usize - word * 64 {
                left if left < 64 => (1 << left) - 1,
                _ => u64::MAX,
            };
            let mut free = !self.used[word] & !self.resting[word] & from_here & in_range;
            while free != 0 {
                let bit = free.trailing_zeros();
                let place = word as u32 * 64 + bit;
                // Towards some real ports a place at the edge of the range has no port.
                let Some(port) = self.share.port(place, real_port) else {
                    free &= free - 1;
                    continue;
                };
                // What the round has come by is rested.
                self.resting[word] &= !(from_here & ((1 << bit) - 1));
                self.used[word] |= 1 << bit;
                self.in_use += 1;
                self.next = if place + 1 == places { 0 } else { place + 1 };
                return Some(port);
            }
            self.resting[word] &= !from_here;
            let next = (word as u32 + 1) * 64;
            self.next = if next >= places { 0 } else { next };
        }
        None
    }

    /// The port that [`PortSet::take`] will most likely give next: good enough to fetch what goes with it.
    #[inline(always)]
    pub(crate) fn likely_next(&self, real_port: u16) -> Option<u16> {
        self.share.port(self.next, real_port)
    }

    /// Gives a port back that was taken towards `real_port`, both in host order. Ports that are not of this
    /// set or not in use are ignored.
    pub(crate) fn give_back(&mut self, port: u16, real_port: u16) {
        let Some(place) = self.share.place(port, real_port) else { return };
        let (word, bit) = (place as usize / 64, 1 << (place % 64));
        if self.used[word] & bit != 0 {
            self.used[word] &= !bit;
            self.resting[word] |= bit;
            self.in_use -= 1;
        }
    }

    #[cfg(test)]
    pub(crate) fn in_use(&self) -> u32 {
        self.in_use
    }
}

#[cfg(test)]
mod tests;
