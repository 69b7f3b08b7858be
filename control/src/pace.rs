//! What takes its time: slow start of real servers that come back, and the deadlines of draining ones.
//!
//! A server that its checks had called down and that passes again gets a share of its weight that grows evenly over its
//! service's `slow_start`; one that is new, or that control finds at its own start, has its whole weight at once. A
//! server of weight 0 has `drain_deadline` from when control first saw the 0. Both clocks live in control: with its end
//! a ramp ends, and a drain begins anew with its next start.

use std::collections::HashMap;
use std::time::Duration;

use config::Config;
use tokio::time::Instant;

use crate::desired::service_key;
use crate::health::TargetId;

/// A ramp's steps: the dataplane is told no more often.
const STEP: Duration = Duration::from_secs(1);

/// The clocks of all real servers that have one running.
#[derive(Debug, Default)]
pub struct Pace {
    /// When servers came back that are not at their whole weight yet.
    returned: HashMap<TargetId, Instant>,
    /// Since when servers have weight 0.
    draining: HashMap<TargetId, Instant>,
}

impl Pace {
    /// Follows a configuration that is in force: starts and stops drains, forgets servers that are gone.
    pub fn follow(&mut self, config: &Config, now: Instant) {
        let mut draining = HashMap::new();
        let mut slow_start = HashMap::new();
        for service in &config.services {
            let key = service_key(service);
            for real in &service.real_servers {
                let id = TargetId { service: key, real: real.address };
                if real.weight == 0 {
                    draining.insert(id, self.draining.get(&id).copied().unwrap_or(now));
                }
                slow_start.insert(id, service.slow_start.unwrap_or_default());
            }
        }
        self.draining = draining;
        self.returned.retain(|id, since| slow_start.get(id).is_some_and(|time| now - *since < *time));
    }

    /// A server that was down passes its checks again.
    pub fn came_back(&mut self, id: TargetId, now: Instant) {
        self.returned.insert(id, now);
    }

    /// A server is down.
    pub fn went_down(&mut self, id: TargetId) {
        self.returned.remove(&id);
    }

    /// How much of a server's weight counts, in percent, 1 to 100.
    pub fn ramp_percent(&self, id: TargetId, slow_start: Option<Duration>, now: Instant) -> u8 {
        let (Some(since), Some(whole)) = (self.returned.get(&id), slow_start) else { return 100 };
        let steps = (now - *since).as_secs() / STEP.as_secs();
        let percent = (steps * STEP.as_secs() * 100).checked_div(whole.as_secs()).unwrap_or(100);
        u8::try_from(percent.clamp(1, 100)).unwrap_or(100)
    }

    /// Whether a server's connections end now.
    pub fn ends_connections(&self, id: TargetId, real: &config::RealServer, now: Instant) -> bool {
        let ends_at = self.draining.get(&id).zip(real.drain_deadline).map(|(since, time)| *since + time);
        real.weight == 0 && ends_at.is_some_and(|at| at <= now)
    }

    /// When something changes by itself next, if nothing else happens.
    pub fn next_change(&self, config: &Config, now: Instant) -> Option<Instant> {
        if self.returned.is_empty() && self.draining.is_empty() {
            return None;
        }
        let services = config.services.iter();
        let changes = services.flat_map(|service| {
            let key = service_key(service);
            service.real_servers.iter().filter_map(move |real| {
                let id = TargetId { service: key, real: real.address };
                let step = || (self.ramp_percent(id, service.slow_start, now) < 100).then(|| now + STEP);
                let end = self.draining.get(&id).zip(real.drain_deadline).map(|(since, time)| *since + time);
                step().into_iter().chain(end.filter(|end| *end > now)).min()
            })
        });
        changes.min()
    }
}

#[cfg(test)]
mod tests;
