//! What must hold of a world as a whole: tables and counters at any time, streams and emptiness at its end.

use std::collections::HashSet;

use engine::snapshot::Mode;
use engine::{Counter, DropReason};

use crate::stream::End;
use crate::world::World;

impl World {
    /// What must hold at any time: no endpoint twice, every connection with its owner, gauges right.
    pub(crate) fn check_table(&mut self) -> Result<(), String> {
        let now = self.ticks();
        let Some(gateway) = &self.gateway else { return Ok(()) };
        let mut inside = HashSet::new();
        let mut outside = HashSet::new();
        for (worker, info) in gateway.connections(now) {
            let two_way = !info.mode.is_one_way();
            if two_way && !inside.insert((info.protocol, info.local, info.real)) {
                return Err(format!("two connections from {} to {}", info.local, info.real));
            }
            if !outside.insert((info.protocol, info.client, info.virtual_)) {
                return Err(format!("two connections of {} to {}", info.client, info.virtual_));
            }
            let owner = gateway.owner_of_replies(&info);
            if info.mode == Mode::FullNat && owner != worker {
                return Err(format!("replies to {} are owned by worker {owner}, not {worker}", info.local));
            }
        }
        gateway.check_gauges(now)?;
        gateway.check_steering()?;
        gateway.check_accounts()
    }

    pub(crate) fn judge(&mut self) -> Result<(), String> {
        self.check_table()?;
        let Some(gateway) = &self.gateway else { return Err("the gateway never came back".into()) };
        self.report.reused = gateway.count(Counter::ConnectionsReused);
        let recycled = gateway.count(Counter::EmbryonicRecycled) > 0;
        let refusals = [DropReason::TableFull, DropReason::LocalPortsExhausted, DropReason::ReplyAmbiguous];
        let refused: u64 = refusals.into_iter().map(|reason| gateway.count_drop(reason)).sum();
        for (i, (conn, plan)) in self.conns.iter().zip(&self.plans).enumerate() {
            let whole = conn.client_end == End::Whole && conn.server_end == End::Whole;
            self.report.whole += u64::from(whole);
            // A crowded table, an ambiguity and a service without real servers may turn newcomers away, and only
            // them.
            let turned_away = !conn.established && (refused > 0 || self.blackout_seen);
            if !whole && !plan.may_abort() && !conn.excused && !turned_away && !recycled {
                return Err(format!("connection {i} of {:?} was cut: {conn:?} {plan:?}", conn.client));
            }
        }
        // Honest clients keep to the lowered MSS, so there is always room on links of the size that they know.
        let honest = self.shape.lying_clients == 0 && self.shape.forged == 0 && !self.cutter.narrow;
        if honest && self.oracle.seen.toa_missing_for_room > 0 {
            return Err("an honest client's segment had no room for TOA".into());
        }
        let counted = gateway.count(Counter::UoaInserted);
        if !self.oracle.blind && counted != self.oracle.inserted {
            let inserted = self.oracle.inserted;
            return Err(format!(
                "{counted} datagrams are said to have told their client, {inserted} left that do"
            ));
        }
        self.expire()
    }

    /// Lets every timeout pass and looks that nothing is left.
    pub(crate) fn expire(&mut self) -> Result<(), String> {
        for _ in 0..110 {
            self.now_us += 10_000_000;
            let now = self.ticks();
            if let Some(gateway) = &mut self.gateway {
                gateway.housekeep(now);
            }
        }
        let now = self.ticks();
        self.gateway.as_ref().map_or(Ok(()), |gateway| gateway.check_empty(now))
    }
}
