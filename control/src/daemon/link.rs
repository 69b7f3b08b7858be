//! The connection to the dataplane: kept, and on it the desired state, as a whole and as often as it changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{DesiredState, Refusal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::client::{Client, Error};
use crate::ctl::DataplaneLink;
use crate::health::TargetId;

/// Pauses between attempts to connect: the first, and the longest after doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Pause after a dataplane of another version answered: only an installation changes that.
const VERSION_BACKOFF: Duration = Duration::from_secs(10);

/// Repeated trouble is logged once in this time.
const REPEAT_LOG: Duration = Duration::from_secs(60);

/// Time for an answer with status or counters.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a state to be applied on every worker; 100,000 real servers take seconds.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// What the link tells the core.
#[derive(Debug)]
pub enum Event {
    /// A dataplane answers. `up` are the real servers that it holds to be up. The link waits for the answer before
    /// it applies the desired state.
    Connected {
        /// Real servers that may get new connections.
        up: Vec<TargetId>,
        /// To go on.
        proceed: oneshot::Sender<()>,
    },
    /// The watched desired state is in force.
    Applied(Arc<DesiredState>),
    /// The connection broke; the dataplane may have lost everything.
    Lost,
}

/// How a trial went.
#[derive(Debug)]
pub enum Trial {
    /// In force.
    Applied {
        /// Its generation.
        generation: u64,
    },
    /// The dataplane refused it and runs on with the old one.
    Refused(Refusal),
    /// There is no dataplane to ask.
    Away,
}

/// A state to try, and where to say how it went.
pub type TrialRequest = (Arc<DesiredState>, oneshot::Sender<Trial>);

/// The link's ends.
pub struct Link {
    /// The dataplane's socket.
    pub socket: PathBuf,
    /// What the dataplane shall do; its generation is given here.
    pub desired: watch::Receiver<Arc<DesiredState>>,
    /// States that may be refused, for reloads.
    pub trials: mpsc::Receiver<TrialRequest>,
    /// To the core.
    pub events: mpsc::Sender<super::Event>,
    /// Read by everybody.
    pub status: watch::Sender<DataplaneLink>,
}

/// Runs the link until its ends are gone.
pub async fn run(mut link: Link) {
    let mut generation = 0;
    let mut backoff = BACKOFF.0;
    let mut log = TroubleLog::default();
    loop {
        let begun = Instant::now();
        let trouble = match link.session(&mut generation, &mut log).await {
            Ok(()) => return,
            Err(trouble) => trouble,
        };
        if !link.set_away(&trouble).await {
            return;
        }
        log.say(&trouble);
        // A session that stood is no reason to wait; one that broke at once must not be repeated in a tight loop.
        backoff = if begun.elapsed() > BACKOFF.1 { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        let is_version = matches!(trouble, Error::Frame(api::frame::Error::Version { .. }));
        let pause = if is_version { VERSION_BACKOFF } else { backoff };
        if link.pause(Instant::now() + pause).await.is_none() {
            return;
        }
    }
}

impl Link {
    /// One connection, from greeting to its end. `Ok`: the core is gone.
    async fn session(&mut self, generation: &mut u64, log: &mut TroubleLog) -> Result<(), Error> {
        let mut client = Client::connect(&self.socket).await?;
        let status = client.status(QUERY_TIMEOUT).await?;
        let stats = client.stats(QUERY_TIMEOUT).await?;
        info!(
            version = status.version,
            pid = status.pid,
            generation = status.generation,
            "dataplane answers"
        );
        log.clear();
        *generation = (*generation).max(status.generation);
        let up = stats.services.iter().flat_map(|service| {
            let up = service.real_servers.iter().filter(|real| real.up);
            up.map(|real| TargetId { service: service.key, real: real.real })
        });
        let (proceed, go_on) = oneshot::channel();
        let event = super::Event::Link(Event::Connected { up: up.collect(), proceed });
        if self.events.send(event).await.is_err() || go_on.await.is_err() {
            return Ok(());
        }
        self.status.send_modify(|status| {
            status.connected = true;
            status.trouble = None;
        });
        let mut in_force = None;
        self.bring_up_to_date(&mut client, generation, &mut in_force).await?;
        loop {
            tokio::select! {
                () = client.closed() => return Err(Error::Closed),
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.bring_up_to_date(&mut client, generation, &mut in_force).await?;
                }
                trial = self.trials.recv() => {
                    let Some((state, answer)) = trial else { return Ok(()) };
                    self.try_out(&mut client, generation, &mut in_force, state, answer).await?;
                }
            }
        }
    }

    /// Applies the watched state unless it is in force already.
    async fn bring_up_to_date(
        &mut self,
        client: &mut Client,
        generation: &mut u64,
        in_force: &mut Option<Arc<DesiredState>>,
    ) -> Result<(), Error> {
        let state = Arc::clone(&self.desired.borrow_and_update());
        if in_force.as_deref() != Some(&*state) {
            match self.apply(client, generation, &state).await {
                Ok(_) => *in_force = Some(Arc::clone(&state)),
                Err(Error::Refused(refusal)) => {
                    error!(
                        "the dataplane refused the desired state and runs on with the last one: {refusal}"
                    );
                    self.status.send_modify(|status| status.trouble = Some(refusal.to_string()));
                    return Ok(());
                }
                Err(trouble) => return Err(trouble),
            }
        }
        // With the core gone the next wait ends the session.
        let _ = self.events.send(super::Event::Link(Event::Applied(state))).await;
        Ok(())
    }

    async fn try_out(
        &mut self,
        client: &mut Client,
        generation: &mut u64,
        in_force: &mut Option<Arc<DesiredState>>,
        state: Arc<DesiredState>,
        answer: oneshot::Sender<Trial>,
    ) -> Result<(), Error> {
        let (trial, result) = match self.apply(client, generation, &state).await {
            Ok(generation) => {
                *in_force = Some(state);
                (Trial::Applied { generation }, Ok(()))
            }
            Err(Error::Refused(refusal)) => (Trial::Refused(refusal), Ok(())),
            Err(trouble) => (Trial::Away, Err(trouble)),
        };
        // The one who asked may have given up; the watched state follows in any case.
        let _ = answer.send(trial);
        result
    }

    async fn apply(
        &mut self,
        client: &mut Client,
        generation: &mut u64,
        state: &DesiredState,
    ) -> Result<u64, Error> {
        // Time makes it grow across restarts of control without keeping a file; the last one known, if the clock
        // goes back.
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
        *generation = now_ms.max(generation.saturating_add(1));
        let mut state = state.clone();
        state.generation = *generation;
        let applied = client.apply(state, APPLY_TIMEOUT).await?;
        self.status.send_modify(|status| {
            status.generation = applied;
            status.applied += 1;
            status.trouble = None;
        });
        Ok(applied)
    }

    /// `false`: the core is gone.
    async fn set_away(&self, trouble: &Error) -> bool {
        let was_connected = self.status.borrow().connected;
        self.status.send_modify(|status| {
            status.connected = false;
            status.trouble = Some(trouble.to_string());
        });
        !was_connected || self.events.send(super::Event::Link(Event::Lost)).await.is_ok()
    }

    /// Waits, and answers trials meanwhile. `None`: the core is gone.
    async fn pause(&mut self, until: Instant) -> Option<()> {
        loop {
            tokio::select! {
                () = sleep_until(until) => return Some(()),
                trial = self.trials.recv() => {
                    let _ = trial?.1.send(Trial::Away);
                }
            }
        }
    }
}

/// Says trouble once when it comes, and now and then while it stays.
#[derive(Default)]
struct TroubleLog {
    last: Option<(String, Instant)>,
}

impl TroubleLog {
    fn say(&mut self, trouble: &Error) {
        let text = trouble.to_string();
        if let Some((last, at)) = &self.last
            && *last == text
            && at.elapsed() < REPEAT_LOG
        {
            return;
        }
        match trouble {
            Error::Frame(api::frame::Error::Version { .. }) => error!("dataplane: {text}"),
            _ => warn!("dataplane: {text}; trying again"),
        }
        self.last = Some((text, Instant::now()));
    }

    fn clear(&mut self) {
        self.last = None;
    }
}
