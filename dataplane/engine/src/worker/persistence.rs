//! Clients that stay with their real server: templates as a worker uses them.
//!
//! Whoever forges addresses can have a template made by each packet. So one lives briefly at first: a little longer than a
//! connection that nobody answers. Only when the connection is looked at and was answered, it gets the service's timeout
//! (IPVS calls such templates assured).

use crate::addr::Tuple;
use crate::conn::{Conn, flag, trait_};
use crate::counters::{Counter, Counters};
use crate::persist::Templates;
use crate::snapshot::{Persistence, Service, Snapshot};
use crate::tcp::ConnState;
use crate::time::Ticks;

use super::Worker;
use super::admit::state_of_new;

/// Buckets of templates that are looked through per tick: a million templates in about six seconds.
const SWEEP_BUCKETS: usize = 256;

/// Ticks that are made up for, after a pause.
const SWEEP_TICKS_MAX: u32 = 16;

/// Buckets that one [`Worker::housekeep`] looks through: a few µs.
const SWEEP_AT_ONCE: usize = 32;

/// By how much a template outlives a connection that nobody answers: so late the look at a connection may come.
pub(super) const LATE: Ticks = Ticks::from_secs(10);

/// The template of one client.
pub(super) struct Persisting<'a> {
    templates: &'a Templates,
    key: u64,
    persistence: Persistence,
    service: &'a Service,
    counters: &'a Counters,
    now: Ticks,
    /// How long a template lives of which nothing is known but that a packet asked for it.
    brief: Ticks,
}

impl<'a> Persisting<'a> {
    /// `None` where the service is not persistent.
    pub(super) fn of(
        snapshot: &'a Snapshot,
        service: &'a Service,
        counters: &'a Counters,
        tuple: &Tuple,
        now: Ticks,
    ) -> Option<Persisting<'a>> {
        let persistence = service.options.persistence?;
        let templates = snapshot.templates.as_deref()?;
        // One real server for all of a service's ports, as IPVS has it for port 0 and firewall marks.
        let key = templates.key(service.id, tuple.src.addr.as_bytes(), persistence.prefix_len, 0);
        let first = state_of_new(tuple.protocol);
        // What ends with its packet is never looked at.
        let brief = match first == ConnState::Udp && service.options.one_packet {
            true => persistence.timeout,
            false => Ticks(service.timeouts.of(first).plus(LATE).0.min(persistence.timeout.0)),
        };
        Some(Persisting { templates, key, persistence, service, counters, now, brief })
    }

    /// The index of the real server that the client had, if it may have it still.
    pub(super) fn known(&self, snapshot: &Snapshot) -> Option<usize> {
        let id = self.templates.get(self.key, self.now)?;
        let known = self.service.reals.iter().position(|real| real.id == id).filter(|index| {
            let real = &self.service.reals[*index];
            let quiescent = real.weight == 0 && self.service.options.expire_quiescent_template;
            real.up && !quiescent && !snapshot.has_ended(id)
        });
        if known.is_some() {
            self.refresh(self.brief);
        } else if let Some(removed) = self.templates.forget(self.key) {
            self.counters.persistent(removed).sub(1);
        }
        known
    }

    /// Remembers the pick; another worker may have been first, then his counts.
    pub(super) fn remember(&self, picked: usize) -> usize {
        let Some(real) = self.service.reals.get(picked) else { return picked };
        let removed = |id| self.counters.persistent(id).sub(1);
        match self.templates.get_or_insert(self.key, real.id, self.now, self.brief, removed) {
            Some(template) if template.is_new => {
                self.counters.persistent(real.id).add(1);
                picked
            }
            Some(template) => {
                let first = self.service.reals.iter().position(|real| real.id == template.real);
                first.unwrap_or(picked)
            }
            None => {
                self.counters.event(Counter::TemplatesFull).add(1);
                picked
            }
        }
    }

    fn refresh(&self, lives: Ticks) {
        self.templates.refresh(self.key, self.now, lives);
    }
}

/// Whether a client has shown that it has its address, or the real server has answered it, as far as can be seen: of
/// one-way UDP nothing can.
fn is_answered(conn: &Conn) -> bool {
    match conn.state {
        ConnState::Udp => !conn.has(flag::EMBRYONIC),
        // A RST ends a handshake too, and needs nothing that was sent to the client.
        state => !state.is_embryonic() && (conn.is(trait_::ONE_WAY) || conn.has(flag::INBOUND_ACK)),
    }
}

impl Worker {
    /// Puts off the expiry of the template of a living or just ended connection; how long it lives from now. `None`: it has
    /// none, or ended unanswered.
    pub(super) fn refresh_template(&self, index: u32, now: Ticks) -> Option<Ticks> {
        let conn = &self.table.conns[index as usize];
        if !conn.is(trait_::PERSISTENT) {
            return None;
        }
        let service = self.snapshot.service(conn.service)?;
        let tuple = self.table.tuples(index).inbound;
        let persisting = Persisting::of(&self.snapshot, service, &self.counters, &tuple, now)?;
        let deadline = self.deadline(index);
        let lives = match is_answered(conn) {
            true => persisting.persistence.timeout,
            false if now.reached(deadline) => return None,
            false => Ticks(persisting.brief.0.min(deadline.since(now).plus(LATE).0)),
        };
        persisting.refresh(lives);
        Some(lives)
    }

    /// Removes expired templates, a share of them per tick in small steps; one worker does it for all. Returns
    /// how many buckets it looked through.
    pub(super) fn sweep_templates(&mut self, now: Ticks) -> usize {
        if self.to_sweep == 0 && now == self.swept || self.id.0 != 0 {
            return 0;
        }
        if now != self.swept {
            let ticks = now.since(self.swept).0.clamp(1, SWEEP_TICKS_MAX) as usize;
            self.to_sweep =
                (self.to_sweep + SWEEP_BUCKETS * ticks).min(SWEEP_BUCKETS * SWEEP_TICKS_MAX as usize);
            self.swept = now;
        }
        let Some(templates) = &self.snapshot.templates else { return 0 };
        let count = self.to_sweep.min(SWEEP_AT_ONCE);
        self.to_sweep -= count;
        let (snapshot, counters) = (&self.snapshot, &self.counters);
        self.sweep_at = templates.sweep(
            self.sweep_at,
            count,
            now,
            |real| snapshot.has_ended(real),
            |real| counters.persistent(real).sub(1),
        );
        count
    }
}
