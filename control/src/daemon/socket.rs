//! Control's own unix socket.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Error, Event};
use crate::client::{greet, receive, send};
use crate::ctl::{Request, Response};

/// Owner and group may speak to control.
const SOCKET_MODE: u32 = 0o660;

/// A client that says or takes nothing for this long is dropped.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes the socket, in place of one that nobody answers on any more.
///
/// # Errors
/// [`Error::Running`] when somebody does, [`Error::NotASocket`], [`Error::Socket`].
pub async fn listen(path: &Path) -> Result<UnixListener, Error> {
    let error = |source: io::Error| Error::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(Error::Running(path.to_owned())),
            Err(problem) if problem.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(error)?;
            }
            Err(problem) => return Err(error(problem)),
        },
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
        Err(problem) => return Err(error(problem)),
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(error)?;
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(error)?;
    Ok(listener)
}

/// Serves clients until the core is gone.
pub(super) async fn serve(listener: UnixListener, events: mpsc::Sender<Event>) {
    while !events.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(client(stream, events.clone()));
            }
            Err(error) => {
                // Out of descriptors, for example: accepting again at once would only spin.
                warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn client(mut stream: UnixStream, events: mpsc::Sender<Event>) {
    if let Err(error) = answer_all(&mut stream, &events).await {
        debug!("control socket: {error}");
    }
}

async fn answer_all(stream: &mut UnixStream, events: &mpsc::Sender<Event>) -> Result<(), api::frame::Error> {
    let silent = |_| api::frame::Error::Io(io::ErrorKind::TimedOut.into());
    timeout(IDLE_TIMEOUT, greet(stream)).await.map_err(silent)??;
    while let Some(request) = timeout(IDLE_TIMEOUT, receive(stream)).await.map_err(silent)?? {
        let Some(response) = answer(request, events).await else { return Ok(()) };
        timeout(IDLE_TIMEOUT, send(stream, &response)).await.map_err(silent)??;
    }
    Ok(())
}

/// `None`: the core is gone.
async fn answer(request: Request, events: &mpsc::Sender<Event>) -> Option<Response> {
    match request {
        Request::Reload => {
            let (answer, answered) = oneshot::channel();
            events.send(Event::Reload(answer)).await.ok()?;
            Some(match answered.await.ok()? {
                Ok(reloaded) => Response::Reloaded(reloaded),
                Err(problem) => Response::NotReloaded(problem),
            })
        }
        Request::GetStatus => {
            let (answer, answered) = oneshot::channel();
            events.send(Event::GetStatus(answer)).await.ok()?;
            Some(Response::Status(Box::new(answered.await.ok()?)))
        }
    }
}
