//! Local ports of one pair (local address, real server endpoint), one worker's share of them.
//!
//! Picks go round in order, and a port that was freed in one round is not given in the next one, which half of the free ports
//! are for: real servers keep a closed connection in TIME_WAIT for a while (RFC 9293 §3.6.1). Which ports are the worker's,
//! and in which order, says its [`Share`].

mod share;
mod states;

pub(crate) use share::Share;
use states::States;

#[derive(Debug)]
pub(crate) struct PortSet {
    share: Share,
    /// Ports that can be in use at once.
    capacity: u32,
    in_use: u32,
    /// Nothing was found, and no port has come back since. Where real ports differ, that is known only by a look at all
    /// places at the edges of the range, and then holds for all of them: who asks much for what there is not gets a quick no.
    refused: bool,
    /// The place from where on the next port is looked for.
    next: u32,
    /// By place in the share. Where there is no port it is in use for ever.
    states: States,
}

impl PortSet {
    /// No port of the share is in use.
    pub(crate) fn new(share: Share) -> PortSet {
        let mut states = States::new(share.places());
        let mut capacity = share.places();
        share.for_each_empty_place(|place| {
            states.set_used(place);
            capacity -= 1;
        });
        PortSet { share, capacity, in_use: 0, refused: false, next: 0, states }
    }

    /// Starts the rounds elsewhere, so that a restarted gateway does not begin with the ports that real servers
    /// remember best.
    pub(crate) fn start_at(&mut self, random: u64) {
        if self.share.places() > 0 {
            self.next = (random % u64::from(self.share.places())) as u32;
        }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.refused || self.in_use == self.capacity
    }

    /// A free port towards `real_port`, both in host order.
    pub(crate) fn take(&mut self, real_port: u16) -> Option<u16> {
        if self.is_exhausted() {
            return None;
        }
        // Of what is ready there may be nothing, then of what has rested, and then what rests is woken.
        for _ in 0..states::RESTS {
            let behind = || if self.next == 0 { None } else { self.look(0, real_port) };
            if let Some((place, port)) = self.look(self.next, real_port).or_else(behind) {
                self.states.set_used(place);
                self.in_use += 1;
                self.next = self.states.likely_after(place);
                return Some(port);
            }
            self.states.begin_round();
            self.next = 0;
        }
        // Where none is in use none will come back, and towards other real ports there may be some.
        self.refused = self.in_use > 0;
        None
    }

    /// The first ready place from `start` on that has a port towards `real_port`, and that port. Towards some real ports
    /// a place at the edge of the range has none.
    #[inline(always)]
    fn look(&self, start: u32, real_port: u16) -> Option<(u32, u16)> {
        let mut place = self.states.first_ready(start)?;
        loop {
            if let Some(port) = self.share.port(place, real_port) {
                return Some((place, port));
            }
            place = self.states.first_ready(place + 1)?;
        }
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
        if self.states.set_free(place) {
            self.in_use -= 1;
            self.refused = false;
        }
    }

    #[cfg(test)]
    pub(crate) fn in_use(&self) -> u32 {
        self.in_use
    }
}

#[cfg(test)]
mod tests;
