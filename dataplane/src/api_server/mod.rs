//! The API on a unix socket: a thread that accepts, and one per client, bounded. A client's frames become messages
//! to the main thread; workers never notice.

mod client;
mod listen;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use nix::poll::{PollFd, PollFlags, poll};

use crate::state::Inbox;

/// Clients at one time: control, and some operators with the command line.
const CLIENTS_MAX: usize = 32;

/// How often the accepting thread looks whether all shall end.
const STOP_INTERVAL_MS: u16 = 50;

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another process serves the same socket.
    #[error(
        "another dataplane is running on {0}; stop it, or give this one its own `api_socket` and `instance` in \
         [dataplane]"
    )]
    InUse(PathBuf),
    /// Something else lies where the socket should be.
    #[error("{0} exists and is no socket; remove it or set another `api_socket` in [dataplane]")]
    NotASocket(PathBuf),
    /// The socket or its directory cannot be made.
    #[error("cannot make the API socket {path}: {error}; check the directory and its permissions")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The bound socket; its file is removed when dropped.
pub(crate) struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

impl Bound {
    /// Binds the socket, before the slow parts of the start, so that a second instance ends early.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) fn new(path: &Path) -> Result<Bound, Error> {
        Ok(Bound { listener: listen::listen(path)?, path: path.to_owned() })
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn serve(self, inbox: Sender<Inbox>, stop: Arc<AtomicBool>) -> io::Result<Server> {
        let listener = self.listener.try_clone()?;
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || accept(&listener, &inbox, &stop))?;
        Ok(Server { _bound: self, _thread: thread })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The running server; dropping it removes the socket.
pub(crate) struct Server {
    _bound: Bound,
    _thread: JoinHandle<()>,
}

fn accept(listener: &UnixListener, inbox: &Sender<Inbox>, stop: &AtomicBool) {
    let clients = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Relaxed) {
        // Waits with a limit, so that a stop is noticed; the listener itself does not block, because whoever called
        // may be gone again.
        let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let called = poll(&mut waiting, STOP_INTERVAL_MS).is_ok_and(|ready| ready > 0);
        match listener.accept() {
            Ok((stream, _)) => admit(stream, inbox, &clients),
            // Out of file descriptors, say: the caller goes on waiting, and this thread must not spin meanwhile.
            Err(_) if called => std::thread::sleep(Duration::from_millis(STOP_INTERVAL_MS.into())),
            Err(_) => {}
        }
    }
}

/// Starts a client's thread, or closes the connection when there are too many.
fn admit(stream: UnixStream, inbox: &Sender<Inbox>, clients: &Arc<AtomicUsize>) {
    if clients.load(Ordering::Relaxed) >= CLIENTS_MAX {
        tracing::warn!("an API client was turned away: {CLIENTS_MAX} are connected");
        return;
    }
    clients.fetch_add(1, Ordering::Relaxed);
    let leave = Leave(clients.clone());
    let inbox = inbox.clone();
    let started = std::thread::Builder::new().name("api-client".to_owned()).spawn(move || {
        let _leave = leave;
        if let Err(error) = client::serve(stream, &inbox) {
            tracing::info!("API client: {error}");
        }
    });
    if let Err(error) = started {
        tracing::warn!("an API client was turned away: no thread: {error}");
    }
}

/// Counts a client down, however its thread ends.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
