//! A blocking API connection.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{Refusal, Request, Response, Stats, Status, frame};
use serde::{Serialize, de::DeserializeOwned};

use crate::ctl;

/// Longer than a reload of 100,000 real servers takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

pub(super) const DATAPLANE: &str = "tollgate-dataplane";
pub(super) const CONTROL: &str = "tollgate-control";

/// What went wrong on a socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("nobody answers on {}: {source}; is {program} running?", path.display())]
    Connect { path: PathBuf, program: &'static str, source: io::Error },
    #[error("{}: permission denied; run as root or as a member of the socket's group", .0.display())]
    Permission(PathBuf),
    #[error("{program} on {}: {source}", path.display())]
    Frame { path: PathBuf, program: &'static str, source: frame::Error },
    #[error("{program} on {} closed the connection instead of answering", path.display())]
    Closed { path: PathBuf, program: &'static str },
    #[error("{program} on {} answered something else than was asked", path.display())]
    Unexpected { path: PathBuf, program: &'static str },
    #[error("the dataplane refused: {0}")]
    Refused(#[from] Refusal),
}

/// A greeted connection.
pub(super) struct Peer {
    stream: UnixStream,
    path: PathBuf,
    program: &'static str,
}

impl Peer {
    pub(super) fn connect(path: &Path, program: &'static str) -> Result<Peer, PeerError> {
        let path = path.to_owned();
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(PeerError::Permission(path));
            }
            Err(source) => return Err(PeerError::Connect { path, program, source }),
        };
        let mut peer = Peer { stream, path, program };
        let limits = peer
            .stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .and_then(|()| peer.stream.set_write_timeout(Some(ANSWER_TIMEOUT)));
        limits
            .map_err(frame::Error::from)
            .and_then(|()| frame::greet(&mut peer.stream))
            .map_err(peer.frame())?;
        Ok(peer)
    }

    fn frame(&self) -> impl Fn(frame::Error) -> PeerError + use<> {
        let (path, program) = (self.path.clone(), self.program);
        move |source| PeerError::Frame { path: path.clone(), program, source }
    }

    pub(super) fn unexpected(&self) -> PeerError {
        PeerError::Unexpected { path: self.path.clone(), program: self.program }
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &impl Serialize) -> Result<T, PeerError> {
        let error = self.frame();
        frame::write(&mut self.stream, request).map_err(&error)?;
        let answer = frame::read(&mut self.stream).map_err(&error)?;
        answer.ok_or_else(|| PeerError::Closed { path: self.path.clone(), program: self.program })
    }

    /// Asks the dataplane.
    pub(super) fn dataplane(&mut self, request: &Request) -> Result<Response, PeerError> {
        match self.ask(request)? {
            Response::Refused(refusal) => Err(refusal.into()),
            response => Ok(response),
        }
    }

    /// Asks control.
    pub(super) fn control(&mut self, request: &ctl::Request) -> Result<ctl::Response, PeerError> {
        self.ask(request)
    }

    pub(super) fn stats(&mut self) -> Result<Stats, PeerError> {
        match self.dataplane(&Request::GetStats)? {
            Response::Stats(stats) => Ok(*stats),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn status(&mut self) -> Result<Status, PeerError> {
        match self.dataplane(&Request::GetStatus)? {
            Response::Status(status) => Ok(*status),
            _ => Err(self.unexpected()),
        }
    }
}
