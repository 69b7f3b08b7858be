//! What a worker does between bursts: connections end when their time is up or a change of the configuration ends them.

use arrayvec::ArrayVec;
use wire::{HeapBuf, PacketBuf};

use super::persistence::LATE;
use super::{Worker, timeout};
use crate::conn::{Direction, NIL, trait_};
use crate::counters::Counter;
use crate::table::is_live;
use crate::time::Ticks;
use crate::wheel::LISTS;

/// Connections that one round of [`Worker::housekeep`] ends because of a change of the configuration; as many more, one from
/// each of the wheel's lists, because their time is up. Each takes some 0.5 µs when all of it is out of the caches.
const END_MAX: usize = LISTS;
/// Connections opened since the last time for which there is a round more, so that as many can end as open.
const OPENED_PER_ROUND: u32 = LISTS as u32;
/// Records that one round asks whether they have to end because of a change of the configuration.
const ENDING_MAX: u32 = 64;
/// Old fragments that one round gives up.
const FRAGMENTS_MAX: usize = 16;

impl Worker {
    /// Ends connections whose time is up: bounded work, to be called once per turn of a loop that has nothing else to do.
    /// Returns how much it looked at; 0: nothing is left to do at `now`.
    pub fn housekeep(&mut self, now: Ticks) -> usize {
        self.sweep_traffic(now) + self.round::<HeapBuf>(now, &mut || true)
    }

    /// [`Worker::housekeep`] after packets, with the prefetching of their buffers: the more connections they opened, the more
    /// may end. Whether there `is_time` is asked before each connection, so that this keeps packets waiting for no longer than
    /// there is time and one connection more, and what little it sweeps, however slow memory is. Returns what the last round
    /// looked at, and what there is to sweep.
    #[inline(always)]
    pub fn housekeep_after<P: PacketBuf>(&mut self, now: Ticks, mut is_time: impl FnMut() -> bool) -> usize {
        let unsettled = self.sweep_traffic(now);
        let mut seen = self.round::<P>(now, &mut is_time);
        for _ in 0..std::mem::take(&mut self.opened) / OPENED_PER_ROUND {
            if seen == 0 || !is_time() {
                break;
            }
            seen = self.round::<P>(now, &mut is_time);
        }
        unsettled + seen
    }

    #[inline(always)]
    fn sweep_traffic(&mut self, now: Ticks) -> usize {
        self.traffic.sweep(now, self.table.used_mut(), &self.counters)
    }

    fn round<P: PacketBuf>(&mut self, now: Ticks, is_time: &mut impl FnMut() -> bool) -> usize {
        let seen = self.sweep_templates(now) + self.end_some(now, is_time);
        self.fragments.expire(now, FRAGMENTS_MAX, &self.counters);
        match self.wheel.due(now) {
            Some(due) => seen + self.end_due::<P>(now, &due, is_time),
            None => seen,
        }
    }

    /// Ends those of the records whose time is up, and arms the others again: at least one, and as many as there `is_time`
    /// for. In stages, so that cache misses overlap. Returns how many.
    #[inline(never)]
    fn end_due<P: PacketBuf>(
        &mut self,
        now: Ticks,
        due: &[u32; LISTS],
        is_time: &mut impl FnMut() -> bool,
    ) -> usize {
        let due: ArrayVec<u32, LISTS> = due.iter().copied().filter(|index| *index != NIL).collect();
        for index in &due {
            let conn = &self.table.conns[*index as usize];
            P::prefetch(conn);
            P::prefetch(&conn.wheel_next);
        }
        let mut fetched = 0;
        for index in &due {
            if !is_time() && fetched > 0 {
                break;
            }
            let next = self.table.conns[*index as usize].wheel_next;
            if let Some(next) = self.table.conns.get(next as usize) {
                P::prefetch(&next.wheel_prev);
            }
            self.prefetch_entries::<P>(*index);
            fetched += 1;
        }
        let mut done = 0;
        for index in due.into_iter().take(fetched) {
            if done > 0 && !is_time() {
                break;
            }
            self.wheel.disarm(&mut self.table.conns, index);
            self.end_or_arm(now, index);
            done += 1;
        }
        done
    }

    /// Fetches the buckets that most likely hold a record's entries.
    fn prefetch_entries<P: PacketBuf>(&self, index: u32) {
        for bucket in self.table.buckets_of(index).into_iter().flatten() {
            P::prefetch(bucket);
        }
    }

    /// A record that was taken off the wheel.
    fn end_or_arm(&mut self, now: Ticks, index: u32) {
        let deadline = self.deadline(index);
        let template = self.refresh_template(index, now);
        if now.reached(deadline) {
            if !self.end_telling(now, index) {
                self.wheel.arm(&mut self.table.conns, index, now, now);
            }
            return;
        }
        self.wheel.arm(&mut self.table.conns, index, now, look_by(now, deadline, template));
    }

    /// Ends connections of real servers whose connections end now: looks at some records per call, at least one and as many as
    /// there `is_time` for, until it has seen all. Returns at how many.
    fn end_some(&mut self, now: Ticks, is_time: &mut impl FnMut() -> bool) -> usize {
        let Some(start) = self.ending else { return 0 };
        let used = self.table.used().len() as u32;
        let end = start.saturating_add(ENDING_MAX).min(used);
        let (mut index, mut ended) = (start, 0);
        while index < end && ended < END_MAX {
            if !is_time() && index > start {
                break;
            }
            let conn = &self.table.conns[index as usize];
            if is_live(conn) && !conn.is(trait_::RESET) && self.snapshot.has_ended(conn.real_id) {
                // Too many wait to be told; it is this one's turn again next time.
                if !self.end_telling(now, index) {
                    break;
                }
                self.counters.event(Counter::ConnectionsEnded).add(1);
                ended += 1;
            }
            index += 1;
        }
        self.ending = (index < used).then_some(index);
        (index - start) as usize
    }

    /// When the connection ends if no packet comes.
    pub(super) fn deadline(&self, index: u32) -> Ticks {
        let conn = &self.table.conns[index as usize];
        conn.seen.plus(timeout(&self.snapshot, conn.service, conn.state))
    }

    /// Removes a connection and everything it holds.
    pub(super) fn end(&mut self, index: u32) {
        self.table.unlink(index);
        self.wheel.disarm(&mut self.table.conns, index);
        self.embryonic.remove(&mut self.table.conns, index);
        let conn = &self.table.conns[index as usize];
        self.give_port_back(conn.pair, conn.ports[Direction::Outbound as usize]);
        let conn = &mut self.table.conns[index as usize];
        conn.settle(&self.counters);
        let real = self.counters.real(conn.real_id);
        if conn.state.is_active() { &real.active } else { &real.inactive }.sub(1);
        real.held.sub(1);
        self.counters.state(conn.state).sub(1);
        self.counters.event(Counter::ConnectionsExpired).add(1);
        self.table.give_back(index);
        self.count_gauges();
    }
}

/// When to look again at a connection that ends at `deadline` if no packet comes, and whose template was refreshed `now` to
/// live for so long. A template that ends sooner would be lost under a silent connection without another refreshment.
pub(super) fn look_by(now: Ticks, deadline: Ticks, template: Option<Ticks>) -> Ticks {
    let left = deadline.since(now);
    match template {
        Some(lives) if lives.0 < left.plus(LATE).0 => now.plus(Ticks(left.0.min(lives.0 / 2 + 1))),
        _ => deadline,
    }
}
