//! The daemon: one core task that owns configuration and health, and around it the link to the dataplane, the
//! addresses, the metrics and control's own socket, which speak to it by messages.

mod core;
pub mod link;
mod socket;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::DesiredState;
use config::Config;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::ctl::{DataplaneLink, NotReloaded, Reloaded, Status};
use crate::{addresses, health, http};

pub use socket::listen;

/// Messages to the core that may wait; senders wait when it is full, nothing is lost.
const EVENTS_MAX: usize = 4096;

/// What the core hears.
#[derive(Debug)]
pub enum Event {
    /// Of a health check.
    Health(health::Change),
    /// Of the link to the dataplane.
    Link(link::Event),
    /// Read the configuration again and say how it went.
    Reload(oneshot::Sender<Result<Reloaded, NotReloaded>>),
    /// SIGHUP: read the configuration again, after the reload that is under way if there is one.
    Hangup,
    /// A trial on the dataplane has ended.
    TrialEnded(link::Trial),
    /// A ramp or a deadline has come to its next step.
    Time,
    /// Tell how the connection to the dataplane is.
    GetLink(oneshot::Sender<DataplaneLink>),
    /// Tell how control is.
    GetStatus(oneshot::Sender<Status>),
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The metrics' address cannot be used.
    #[error("[control] metrics_listen {address}: {source}; name a free address of this machine, or \"none\"")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("[control] socket {}: {source}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else lies where the socket should be.
    #[error("{} exists and is no socket; remove it or set another `socket` in [control]", .0.display())]
    NotASocket(PathBuf),
    /// Another control answers there.
    #[error("another tollgate-control answers on {}; end it first, or set another [control] socket", .0.display())]
    Running(PathBuf),
    /// No signal handler.
    #[error("signals cannot be caught: {0}")]
    Signals(io::Error),
}

/// Runs until SIGTERM or SIGINT. The dataplane and the addresses are left as they are.
///
/// # Errors
/// See [`Error`].
pub async fn run(config: Config, file: &Path) -> Result<(), Error> {
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let socket_path = config.control.socket.clone();
    let socket = listen(&socket_path).await?;
    let metrics = match config.control.metrics_listen {
        Some(address) => Some(http::listen(address).map_err(|source| Error::Metrics { address, source })?),
        None => None,
    };
    let running = Running::start(config, file, socket, metrics);
    info!(version = env!("CARGO_PKG_VERSION"), config = %file.display(), "tollgate-control runs");
    loop {
        tokio::select! {
            _ = hangup.recv() => running.reload_by_signal(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    info!("ending; the dataplane goes on with the last state");
    drop(running);
    // Somebody else may have removed it already.
    let _ = std::fs::remove_file(&socket_path);
    Ok(())
}

/// All tasks of a daemon; dropping it ends them.
pub struct Running {
    events: mpsc::Sender<Event>,
    _tasks: JoinSet<()>,
}

impl Running {
    /// Starts the tasks on the current runtime.
    pub fn start(config: Config, file: &Path, socket: UnixListener, metrics: Option<TcpListener>) -> Running {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (changes, mut changed) = mpsc::channel(EVENTS_MAX);
        let (desired, desired_seen) = watch::channel(Arc::new(DesiredState::default()));
        let (trials, trials_seen) = mpsc::channel(1);
        let (link_status, link_status_seen) = watch::channel(DataplaneLink::default());
        let (twins, twins_seen) = watch::channel(addresses::Wanted::default());
        let wake = Arc::new(Notify::new());
        let dataplane_socket = config.dataplane.api_socket.clone();

        let mut tasks = JoinSet::new();
        let to_core = events.clone();
        tasks.spawn(async move {
            while let Some(change) = changed.recv().await {
                if to_core.send(Event::Health(change)).await.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(link::run(link::Link {
            socket: dataplane_socket.clone(),
            desired: desired_seen,
            trials: trials_seen,
            events: events.clone(),
            status: link_status,
        }));
        tasks.spawn(addresses::run(twins_seen, Arc::clone(&wake), dataplane_socket.clone()));
        tasks.spawn(socket::serve(socket, events.clone()));
        if let Some(listener) = metrics {
            tasks.spawn(http::serve(listener, http::App::new(dataplane_socket, events.clone())));
        }
        let core = core::Core::new(
            config,
            file.to_owned(),
            core::Ends {
                events: events.clone(),
                desired,
                trials,
                twins,
                wake,
                link: link_status_seen,
                health: health::Table::new(changes),
            },
        );
        tasks.spawn(core.run(inbox));
        Running { events, _tasks: tasks }
    }

    /// Reloads; the core logs how it went.
    pub fn reload_by_signal(&self) {
        let events = self.events.clone();
        tokio::spawn(async move {
            if events.send(Event::Hangup).await.is_err() {
                warn!("the reload was not answered");
            }
        });
    }
}

#[cfg(test)]
mod tests;
