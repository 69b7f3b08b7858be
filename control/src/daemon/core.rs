//! The core: owns configuration and health, and decides what the dataplane and the twins shall have.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use api::DesiredState;
use config::{Config, Diagnostic};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::link::{self, Trial, TrialRequest};
use super::{EVENTS_MAX, Event};
use crate::addresses::Wanted;
use crate::ctl::{DataplaneLink, Health, NotReloaded, Reloaded, Status};
use crate::pace::Pace;
use crate::{desired, health};

/// Changes that come this close together are sent as one state. Short against any check's interval, long against
/// the time in which a whole rack's servers are found down one by one.
const COALESCE: Duration = Duration::from_millis(2);

/// What the core speaks to.
pub(super) struct Ends {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) desired: watch::Sender<Arc<DesiredState>>,
    pub(super) trials: mpsc::Sender<TrialRequest>,
    pub(super) twins: watch::Sender<Wanted>,
    pub(super) wake: Arc<Notify>,
    pub(super) link: watch::Receiver<DataplaneLink>,
    pub(super) health: health::Table,
}

type ReloadAnswer = oneshot::Sender<Result<Reloaded, NotReloaded>>;

/// A reload whose state is being tried.
struct Pending {
    config: Arc<Config>,
    warnings: Vec<String>,
    answer: ReloadAnswer,
}

pub(super) struct Core {
    config: Arc<Config>,
    /// The configuration at start, of which some keys are in force whatever is reloaded.
    at_start: Arc<Config>,
    /// The configuration whose VIPs the dataplane knows.
    vips: Option<Arc<Config>>,
    file: PathBuf,
    ends: Ends,
    pending: Option<Pending>,
    /// The file may have changed since the pending reload read it.
    reload_again: bool,
    /// The desired state may differ from the one published.
    stale: bool,
    pace: Pace,
    /// When the desired state changes by itself.
    next_change: Option<Instant>,
    reloads: u64,
    reload_failures: u64,
}

impl Core {
    pub(super) fn new(config: Config, file: PathBuf, ends: Ends) -> Self {
        let config = Arc::new(config);
        Core {
            at_start: Arc::clone(&config),
            config,
            vips: None,
            file,
            ends,
            pending: None,
            reload_again: false,
            stale: true,
            pace: Pace::default(),
            next_change: None,
            reloads: 0,
            reload_failures: 0,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        self.follow_config();
        while let Some(event) = self.next_event(&mut inbox).await {
            self.handle(event);
            if self.stale {
                sleep(COALESCE).await;
            }
            // Bounded, so that a flood of changes does not keep the state from going out.
            for _ in 0..EVENTS_MAX {
                let Ok(event) = inbox.try_recv() else { break };
                self.handle(event);
            }
            // A reload that is being tried is followed by a state that has all that changed meanwhile. One of the old
            // configuration would undo the reload for a moment, as the link would apply it after the trial.
            if self.stale && self.pending.is_none() {
                self.publish();
            }
        }
    }

    /// What happens next; `None`: nothing will any more.
    async fn next_event(&self, inbox: &mut mpsc::Receiver<Event>) -> Option<Event> {
        let next_change = self.next_change.filter(|_| self.pending.is_none());
        let Some(at) = next_change else { return inbox.recv().await };
        tokio::select! {
            event = inbox.recv() => event,
            () = sleep_until(at) => Some(Event::Time),
        }
    }

    /// Takes up a configuration that is in force from now on.
    fn follow_config(&mut self) {
        self.ends.health.reconcile(&self.config);
        self.pace.follow(&self.config, Instant::now());
        self.publish();
        self.publish_twins();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Time => self.stale = true,
            Event::Health(change) => self.health_changed(&change),
            Event::Link(link::Event::Connected { up, proceed }) => {
                self.ends.health.seed(up.into_iter());
                self.publish();
                self.ends.wake.notify_one();
                // The link may have lost the connection meanwhile; it starts over then.
                let _ = proceed.send(());
            }
            Event::Link(link::Event::Applied(state)) => self.applied(&state),
            Event::Link(link::Event::Lost) => {
                self.vips = None;
                self.publish_twins();
            }
            Event::Reload(answer) => self.reload(answer),
            Event::Hangup => self.hangup(),
            Event::TrialEnded(trial) => {
                self.trial_ended(trial);
                if std::mem::take(&mut self.reload_again) {
                    self.hangup();
                }
            }
            Event::GetLink(answer) => {
                let _ = answer.send(self.ends.link.borrow().clone());
            }
            Event::GetStatus(answer) => {
                let _ = answer.send(self.status());
            }
        }
    }

    fn health_changed(&mut self, change: &health::Change) {
        let (service, real) = (change.id.service, change.id.real);
        match (&change.reason, change.up) {
            (Some(reason), false) => warn!("real server {real} of {service} is down: {reason}"),
            (None, false) => warn!("real server {real} of {service} is down"),
            (_, true) => info!("real server {real} of {service} is up"),
        }
        if !change.up {
            self.pace.went_down(change.id);
        } else if change.was_down {
            self.pace.came_back(change.id, Instant::now());
        }
        self.stale = true;
    }

    /// Sends the desired state on its way. Whatever is equal to the last one stays unsent there.
    fn publish(&mut self) {
        self.stale = false;
        let now = Instant::now();
        let state = self.state_of(&self.config, now);
        self.next_change = self.pace.next_change(&self.config, now);
        self.ends.desired.send_replace(Arc::new(state));
    }

    fn publish_twins(&self) {
        let wanted = desired::twins(&self.config, self.vips.as_deref());
        self.ends.twins.send_if_modified(|current| {
            let changed = *current != wanted;
            *current = wanted;
            changed
        });
    }

    fn state_of(&self, config: &Config, now: Instant) -> DesiredState {
        desired::state(config, |id, service, real| desired::Now {
            up: self.ends.health.is_up(id, real.health_check.as_ref()),
            ramp_percent: self.pace.ramp_percent(id, service.slow_start, now),
            end_connections: self.pace.ends_connections(id, real, now),
        })
    }

    fn applied(&mut self, state: &DesiredState) {
        if self.vips.as_ref().is_some_and(|vips| Arc::ptr_eq(vips, &self.config)) {
            return;
        }
        // A state of before the last reload says nothing of the VIPs of now.
        if desired::has_addresses_of(state, &self.config) {
            self.vips = Some(Arc::clone(&self.config));
            self.publish_twins();
        }
    }

    fn reload(&mut self, answer: ReloadAnswer) {
        if self.pending.is_some() {
            let _ = answer.send(Err(NotReloaded::Busy));
            return;
        }
        let config = match Config::load(&self.file) {
            Ok(config) => Arc::new(config),
            Err(mistakes) => {
                self.refuse_file(&mistakes, answer);
                return;
            }
        };
        let warnings = self.warnings(&config);
        let state = Arc::new(self.state_of(&config, Instant::now()));
        let (trial, ended) = oneshot::channel();
        self.pending = Some(Pending { config, warnings, answer });
        let (trials, events) = (self.ends.trials.clone(), self.ends.events.clone());
        tokio::spawn(async move {
            // A link that is gone has no dataplane either.
            let _ = trials.send((state, trial)).await;
            let trial = ended.await.unwrap_or(Trial::Away);
            let _ = events.send(Event::TrialEnded(trial)).await;
        });
    }

    /// Nobody waits for an answer who could be told to try again, so a second reload follows the first.
    fn hangup(&mut self) {
        if self.pending.is_some() {
            self.reload_again = true;
        } else {
            self.reload(oneshot::channel().0);
        }
    }

    fn warnings(&self, config: &Config) -> Vec<String> {
        // [control] is compared with what control was started with, the dataplane's keys with the last file: it may
        // have been restarted since.
        desired::start_only_changes(&self.config, &self.at_start, config)
    }

    fn refuse_file(&mut self, mistakes: &[Diagnostic], answer: ReloadAnswer) {
        self.reload_failures += 1;
        error!(mistakes = mistakes.len(), "not reloaded, the old configuration stays");
        for mistake in mistakes {
            error!("{mistake}");
        }
        let lines = mistakes.iter().map(ToString::to_string).collect();
        let _ = answer.send(Err(NotReloaded::Mistakes(lines)));
    }

    fn trial_ended(&mut self, trial: Trial) {
        let Some(pending) = self.pending.take() else { return };
        let generation = match trial {
            Trial::Applied { generation } => Some(generation),
            Trial::Away => None,
            Trial::Refused(refusal) => {
                self.reload_failures += 1;
                error!("not reloaded, the old configuration stays: the dataplane refused it: {refusal}");
                let _ = pending.answer.send(Err(NotReloaded::Refused(refusal.to_string())));
                return;
            }
        };
        self.reloads += 1;
        for warning in &pending.warnings {
            warn!("{warning}");
        }
        self.config = pending.config;
        let services = self.config.services.len();
        let real_servers = self.config.services.iter().map(|service| service.real_servers.len()).sum();
        info!(services, real_servers, ?generation, "reloaded");
        self.follow_config();
        let warnings = pending.warnings;
        let _ = pending.answer.send(Ok(Reloaded { generation, warnings, services, real_servers }));
    }

    fn status(&self) -> Status {
        let services = self.config.services.iter();
        let mut health: Vec<Health> = services.flat_map(|service| self.health_of(service)).collect();
        health.sort_by_key(|health| (health.service, health.real));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config: self.file.display().to_string(),
            dataplane: self.ends.link.borrow().clone(),
            reloads: self.reloads,
            reload_failures: self.reload_failures,
            health,
        }
    }

    /// The health of a service's checked real servers.
    fn health_of(&self, service: &config::Service) -> impl Iterator<Item = Health> {
        let key = desired::service_key(service);
        service.real_servers.iter().filter_map(move |real| {
            let machine = self.ends.health.machine(health::TargetId { service: key, real: real.address })?;
            Some(Health {
                service: key,
                name: service.name.clone(),
                real: real.address,
                mode: real.mode,
                state: machine.state().word().to_owned(),
                since_s: machine.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                error: machine.last_error,
                passes: machine.passes,
                failures: machine.failures,
                changes: machine.changes,
            })
        })
    }
}
