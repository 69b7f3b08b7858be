//! Guests: Debian's kernel in qemu, emulated, with an agent that runs lines of shell.

pub(crate) mod agent;
pub(crate) mod image;

use std::process::Child;
use std::time::Duration;

use anyhow::{Result, bail};

pub use agent::Said;
use agent::{Agent, Listening};

/// Waits until the guest of `qemu` takes commands.
pub(crate) fn accept(listening: Listening, qemu: &mut Child, patience: Duration) -> Result<Agent> {
    let console = listening.console();
    listening.accept(patience, || match qemu.try_wait()? {
        None => Ok(()),
        Some(status) => {
            bail!("qemu has ended with {status}:\n{}", std::fs::read_to_string(&console).unwrap_or_default())
        }
    })
}

/// Ends qemu.
pub(crate) fn end(qemu: &mut Child) {
    if let Err(error) = qemu.kill().and_then(|()| qemu.wait()) {
        eprintln!("qemu (pid {}) is left behind: {error}", qemu.id());
    }
}
