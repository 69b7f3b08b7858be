//! Which local ports are a worker's: those whose replies reach it.

use std::sync::Arc;

use crate::addr::Addr;
use crate::ids::WorkerId;
use crate::rss::Rss;
use crate::steer;

/// One worker's share of a range of ports towards one real server. Its ports have places, 0, 1, …
#[derive(Debug)]
pub(crate) enum Share {
    /// Replies tell their owner by the port alone.
    Strided(Strided),
    /// Replies tell it by the NIC's hash.
    Hashed(Hashed),
}

/// Every `stride`th port from `first` on.
#[derive(Debug)]
pub(crate) struct Strided {
    first: u32,
    stride: u32,
    count: u32,
}

/// The ports of all classes that the redirection table maps to the worker, class after class.
#[derive(Debug)]
pub(crate) struct Hashed {
    rss: Arc<Rss>,
    worker: WorkerId,
    wide: bool,
    /// The class of replies, but for their ports.
    base: u16,
    /// First and last port.
    range: (u16, u16),
    /// The real server's port, if it has the same one in all connections.
    real_port: Option<u16>,
    /// The range's first place within each class, and how many it has there.
    first_place: u32,
    places_each: u32,
}

impl Share {
    /// The ports of `range` that [`steer::owner_of_local_port`] gives to `worker`.
    pub(crate) fn strided((first, last): (u16, u16), worker: WorkerId, workers: u16) -> Share {
        let (first, last) = (u32::from(first), u32::from(last));
        let stride = u32::from(workers.max(1));
        let own = (first..=last).find(|port| steer::owner_of_local_port(*port as u16, workers) == worker);
        let count = own.map_or(0, |own| (last - own) / stride + 1);
        Share::Strided(Strided { first: own.unwrap_or(first), stride, count })
    }

    /// The ports of `range` that let replies of `real` to `local` arrive at `worker`. A `real_port` (host
    /// order) of 0 stands for another one in each connection.
    pub(crate) fn hashed(
        rss: &Arc<Rss>,
        (real, real_port): (Addr, u16),
        local: Addr,
        range: (u16, u16),
        worker: WorkerId,
    ) -> Share {
        let wide = !local.is_v4();
        let (first, last) = rss.classes(wide).around(range);
        let first_place = u32::from(rss.classes(wide).place(first));
        let places_each = u32::from(rss.classes(wide).place(last)) + 1 - first_place;
        let real_port = (real_port != 0).then_some(real_port);
        let base = rss.base(real, local);
        Share::Hashed(Hashed {
            rss: rss.clone(),
            worker,
            wide,
            base,
            range,
            real_port,
            first_place,
            places_each,
        })
    }

    /// How many places there are.
    #[inline(always)]
    pub(crate) fn places(&self) -> u32 {
        match self {
            Share::Strided(share) => share.count,
            Share::Hashed(share) => share.rss.entries_of(share.worker).len() as u32 * share.places_each,
        }
    }

    /// The port at a place, towards a real port, both in host order.
    #[inline(always)]
    pub(crate) fn port(&self, place: u32, real_port: u16) -> Option<u16> {
        match self {
            Share::Strided(share) => Some((share.first + place * share.stride) as u16),
            Share::Hashed(share) => share.port(place, real_port),
        }
    }

    /// The place of a port towards a real port, both in host order; `None` if it is not of this share.
    #[inline(always)]
    pub(crate) fn place(&self, port: u16, real_port: u16) -> Option<u32> {
        match self {
            Share::Strided(share) => share.place(port),
            Share::Hashed(share) => share.place(port, real_port),
        }
    }

    /// Calls `empty` with each place that has no port in any connection.
    pub(crate) fn for_each_empty_place(&self, empty: impl FnMut(u32)) {
        if let Share::Hashed(share) = self
            && let Some(real_port) = share.real_port
        {
            share.outside().filter_map(|port| share.place_in_blocks(port, real_port)).for_each(empty);
        }
    }
}

impl Strided {
    #[inline(always)]
    fn place(&self, port: u16) -> Option<u32> {
        let distance = u32::from(port).checked_sub(self.first)?;
        let place = distance / self.stride;
        (distance % self.stride == 0 && place < self.count).then_some(place)
    }
}

impl Hashed {
    /// The class of replies, but for the local port.
    #[inline(always)]
    fn rest(&self, real_port: u16) -> u16 {
        self.base ^ self.rss.of_source_port(self.wide, real_port.to_be())
    }

    #[inline(always)]
    fn port(&self, place: u32, real_port: u16) -> Option<u16> {
        let entry = *self.rss.entries_of(self.worker).get((place / self.places_each) as usize)?;
        let place = self.first_place + place % self.places_each;
        let port = self.rss.classes(self.wide).port(entry ^ self.rest(real_port), place as u16);
        (self.range.0..=self.range.1).contains(&port).then_some(port)
    }

    #[inline(always)]
    fn place(&self, port: u16, real_port: u16) -> Option<u32> {
        let inside = (self.range.0..=self.range.1).contains(&port);
        if inside { self.place_in_blocks(port, real_port) } else { None }
    }

    /// The place of a port within the blocks around the range.
    #[inline(always)]
    fn place_in_blocks(&self, port: u16, real_port: u16) -> Option<u32> {
        let classes = self.rss.classes(self.wide);
        let (worker, nth) = self.rss.entry(classes.class(port) ^ self.rest(real_port));
        let place = u32::from(classes.place(port)) - self.first_place;
        (worker == self.worker).then_some(u32::from(nth) * self.places_each + place)
    }

    /// Ports of the blocks around the range that are not in it.
    fn outside(&self) -> impl Iterator<Item = u16> {
        let (first, last) = self.rss.classes(self.wide).around(self.range);
        let behind = (u32::from(self.range.1) + 1..=u32::from(last)).map(|port| port as u16);
        (first..self.range.0).chain(behind)
    }
}
