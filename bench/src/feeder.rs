//! Feeds the gateway's setup port through a named pipe that net_pcap reads as a capture file.
//!
//! A worker blocks in a read when the pipe is empty, so the feeder keeps it full of frames that the gateway drops. When it
//! is told to, it sends the frames that open the connections, as often as it takes: between workers some may be lost. Then
//! it closes the pipe, and the port is quiet for good.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::flows::{Flows, Opening};
use crate::pcap;

const FILL: u8 = 0;
const CONNECT: u8 = 1;
const CLOSE: u8 = 2;
/// Filler frames in one write.
const FILLERS: usize = 64;
/// Real frames in one write.
const FRAMES: usize = 512;

/// The thread that writes.
pub(crate) struct Feeder {
    command: Arc<AtomicU8>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Feeder {
    /// Makes the pipe and begins to fill it.
    ///
    /// # Errors
    /// When the pipe cannot be made.
    pub(crate) fn start(path: &Path, flows: Flows, opening: Opening) -> Result<Feeder> {
        let _ = std::fs::remove_file(path);
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU)
            .with_context(|| format!("making the pipe {}", path.display()))?;
        // For reading as well, so that opening does not wait for the gateway.
        let pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let command = Arc::new(AtomicU8::new(FILL));
        let commanded = command.clone();
        let thread = std::thread::Builder::new()
            .name("feeder".to_owned())
            .spawn(move || feed(pipe, &flows, opening, &commanded))
            .context("starting the feeder")?;
        Ok(Feeder { command, thread: Some(thread) })
    }

    /// Has the frames that open the connections sent.
    pub(crate) fn connect(&self) {
        self.command.store(CONNECT, Ordering::Relaxed);
    }

    /// Whether the gateway has been given all of them.
    ///
    /// # Errors
    /// When the pipe broke.
    pub(crate) fn is_done(&mut self) -> Result<bool> {
        match self.thread.take_if(|thread| thread.is_finished()).map(JoinHandle::join) {
            None => Ok(self.command.load(Ordering::Relaxed) != CONNECT),
            Some(Ok(result)) => result.and_then(|()| bail!("the feeder ended")),
            Some(Err(_)) => bail!("the feeder panicked"),
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.command.store(CLOSE, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn feed(mut pipe: File, flows: &Flows, opening: Opening, command: &AtomicU8) -> Result<()> {
    put(&mut pipe, &pcap::file_header(), command)?;
    let fillers = pcap::record(&flows.filler_frame()).repeat(FILLERS);
    loop {
        match command.load(Ordering::Relaxed) {
            FILL => put(&mut pipe, &fillers, command)?,
            CONNECT => {
                let mut frames = flows.setup_frames(opening);
                while command.load(Ordering::Relaxed) == CONNECT {
                    let chunk: Vec<u8> =
                        frames.by_ref().take(FRAMES).flat_map(|frame| pcap::record(&frame)).collect();
                    put(&mut pipe, &chunk, command)?;
                    if chunk.is_empty() {
                        let _ = command.compare_exchange(CONNECT, FILL, Ordering::Relaxed, Ordering::Relaxed);
                    }
                }
            }
            _ => return Ok(()),
        }
    }
}

/// Writes all of `bytes`, waiting for room, unless told to close.
fn put(pipe: &mut File, mut bytes: &[u8], command: &AtomicU8) -> Result<()> {
    while !bytes.is_empty() && command.load(Ordering::Relaxed) != CLOSE {
        match pipe.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut wait = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut wait, PollTimeout::from(50_u8)).context("waiting for the pipe")?;
            }
            Err(error) => return Err(error).context("writing to the gateway's setup port"),
        }
    }
    Ok(())
}
