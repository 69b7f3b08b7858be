//! Health checks: which real servers may get new connections.
//!
//! Each checked real server of a service is a target with a task of its own; the tasks share bounded numbers of
//! probes in flight (`turns`). A target's state lives in its [`Machine`], which the task advances and everybody else
//! reads.

mod machine;
mod probe;
mod turns;

pub use machine::{Machine, State};
pub use probe::{ProbeError, probe};

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::ServiceKey;
use config::{Config, HealthCheck};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracing::warn;

use crate::desired::service_key;
use turns::Turns;

/// The first check of a target comes within this time, so that a new server is in service soon.
const FIRST_CHECK_WITHIN: Duration = Duration::from_secs(1);

/// A real server of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId {
    /// The service.
    pub service: ServiceKey,
    /// RIP:rport.
    pub real: SocketAddr,
}

/// A target changed between up and down.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which one.
    pub id: TargetId,
    /// What it is now.
    pub up: bool,
    /// Whether it was down before.
    pub was_down: bool,
    /// Why it is down.
    pub reason: Option<String>,
}

struct Target {
    check: HealthCheck,
    machine: Arc<Mutex<Machine>>,
    task: AbortHandle,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All checked real servers.
pub struct Table {
    targets: HashMap<TargetId, Target>,
    /// Real servers without a check, which count as up.
    unchecked: HashSet<TargetId>,
    turns: Arc<Turns>,
    changes: mpsc::Sender<Change>,
}

impl Table {
    /// An empty table; changes are told to the sender.
    pub fn new(changes: mpsc::Sender<Change>) -> Self {
        Table { targets: HashMap::new(), unchecked: HashSet::new(), turns: Arc::new(Turns::new()), changes }
    }

    /// Starts, keeps and ends checks so that they are those of the configuration. A target whose check changes keeps
    /// its state; an unchanged one is not touched; one that had no check so far counts as up until its check says
    /// otherwise.
    pub fn reconcile(&mut self, config: &Config) {
        let mut wanted = HashMap::new();
        let mut unchecked = HashSet::new();
        for service in &config.services {
            let service_key = service_key(service);
            for real in &service.real_servers {
                let id = TargetId { service: service_key, real: real.address };
                match &real.health_check {
                    Some(check) => {
                        wanted.insert(id, check);
                    }
                    None => {
                        unchecked.insert(id);
                    }
                }
            }
        }
        self.targets.retain(|id, _| wanted.contains_key(id));
        for (id, check) in wanted {
            let known = self.targets.get(&id);
            if known.is_some_and(|target| target.check == *check) {
                continue;
            }
            let was_up = self.is_known_up(id);
            let mut machine = Machine::new(check.rise, check.fall);
            if was_up {
                machine.seed_up();
            }
            self.start(id, check.clone(), machine);
        }
        self.unchecked = unchecked;
    }

    fn start(&mut self, id: TargetId, check: HealthCheck, machine: Machine) {
        let machine = Arc::new(Mutex::new(machine));
        let run = run(id, check.clone(), Arc::clone(&machine), Arc::clone(&self.turns), self.changes.clone());
        let task = tokio::spawn(run).abort_handle();
        self.targets.insert(id, Target { check, machine, task });
    }

    /// Takes over what the dataplane holds to be up, where no check has said otherwise yet: a restart of control
    /// must not take a live server out.
    pub fn seed(&mut self, up: impl Iterator<Item = TargetId>) {
        for id in up {
            if let Some(target) = self.targets.get(&id) {
                lock(&target.machine).seed_up();
            }
        }
    }

    /// Whether a real server with this check may get new connections, also when the check is not running yet.
    pub fn is_up(&self, id: TargetId, check: Option<&HealthCheck>) -> bool {
        check.is_none() || self.is_known_up(id)
    }

    fn is_known_up(&self, id: TargetId) -> bool {
        self.unchecked.contains(&id)
            || self.targets.get(&id).is_some_and(|target| lock(&target.machine).state() == State::Up)
    }

    /// The state of a checked target.
    pub fn machine(&self, id: TargetId) -> Option<Machine> {
        self.targets.get(&id).map(|target| lock(&target.machine).clone())
    }
}

/// A machine is valid after any panic: each of its methods writes only whole values.
fn lock(machine: &Mutex<Machine>) -> std::sync::MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a target is checked: the first time soon, then in its interval, at a point of that which is fixed for each
/// target. So checks are spread evenly over time, and a service's servers are not all asked at once.
struct Rhythm {
    /// `None`: the first one is over.
    first: Option<Instant>,
    others: Interval,
}

impl Rhythm {
    fn new(id: TargetId, interval: Duration) -> Self {
        let begun = Instant::now();
        let (first, second) = beats(id, interval);
        let mut others = interval_at(begun + second, interval);
        others.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Rhythm { first: Some(begun + first), others }
    }

    async fn beat(&mut self) {
        match self.first.take() {
            Some(first) => sleep_until(first).await,
            None => {
                self.others.tick().await;
            }
        }
    }
}

/// After what times the first check and the second one come. Between them lie half an interval to one and a half.
fn beats(id: TargetId, interval: Duration) -> (Duration, Duration) {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let share = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    let first = interval.min(FIRST_CHECK_WITHIN).mul_f64(share);
    let point = interval.mul_f64(share);
    let is_soon = point - first < interval / 2;
    (first, if is_soon { point + interval } else { point })
}

async fn run(
    id: TargetId,
    check: HealthCheck,
    machine: Arc<Mutex<Machine>>,
    turns: Arc<Turns>,
    changes: mpsc::Sender<Change>,
) {
    let mut rhythm = Rhythm::new(id, check.interval);
    let (mut could_check, mut failed_late) = (true, false);
    loop {
        rhythm.beat().await;
        // Boxed, as it is large and most targets wait for their next check.
        let result = turns.take(&mut failed_late, Box::pin(probe(&check, id.real))).await;
        if let Err(error) = &result
            && error.is_own()
        {
            // A server must not be taken out, nor brought back, for what is missing here.
            if could_check {
                warn!("real server {} of {} is not checked, its state stays: {error}", id.real, id.service);
            }
            could_check = false;
            lock(&machine).last_error = Some(error.to_string());
            continue;
        }
        could_check = true;
        let reason = result.as_ref().err().map(ToString::to_string);
        let (was_down, change) = {
            let mut machine = lock(&machine);
            (machine.state() == State::Down, machine.record(result.map_err(|error| error.to_string())))
        };
        if let Some(up) = change
            && changes.send(Change { id, up, was_down, reason }).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
