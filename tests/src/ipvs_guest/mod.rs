//! A guest that runs Linux IPVS: Debian's kernel in qemu, emulated, with a card towards clients and one
//! towards real servers.
//!
//! Everything between host and guest goes through Unix sockets: nothing touches this machine's network, and
//! no interface is made. A guest boots in some seconds and costs a CPU only while it works.

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::agent::{Agent, Listening};
use crate::qemu::{self, Machine, Qemu};

mod image;
mod wire;

pub use crate::agent::Said;
pub use crate::side::Side;
use wire::Wire;

/// How long booting and every command may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Memory of the guest in MiB.
const MEMORY_MIB: u32 = 256;

/// A running guest; ended when dropped.
#[derive(Debug)]
pub struct Guest {
    _qemu: Qemu,
    agent: Agent,
    wires: [Wire; 2],
    _dir: TempDir,
}

impl Guest {
    /// Boots it and waits until it takes commands.
    pub fn start() -> Result<Guest> {
        let dir = tempfile::tempdir()?;
        let image = image::make(dir.path())?;
        let wires = [Wire::new(Side::Wan, dir.path())?, Wire::new(Side::Lan, dir.path())?];
        let listening = Listening::new(dir.path(), &qemu::console(dir.path()))?;
        let cards = Side::ALL.into_iter().flat_map(|side| Wire::arguments(side, dir.path()));
        let machine = Machine {
            wrapper: &[],
            program: "qemu-system-x86_64".into(),
            memory_mib: MEMORY_MIB,
            append: "",
            arguments: listening.arguments().into_iter().chain(cards).collect(),
            patience: PATIENCE,
        };
        let (qemu, agent) = machine.boot(&image, dir.path(), listening)?;
        Ok(Guest { _qemu: qemu, agent, wires, _dir: dir })
    }

    /// Runs a line of shell in the guest; any exit status is fine.
    pub fn run_any(&mut self, line: &str) -> Result<Said> {
        self.agent.run_any(line)
    }

    /// Runs a line of shell in the guest, which must succeed.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.agent.run(line)
    }

    /// Puts frames in, and waits until everything that they lead to at once has come out: of one card, then
    /// the other.
    pub fn exchange(&mut self, frames: &[(Side, Vec<u8>)]) -> Result<Vec<(Side, Vec<u8>)>> {
        let mut seen = [Vec::new(), Vec::new()];
        for part in frames.chunks(FRAMES_AT_ONCE) {
            for (side, frame) in part {
                self.wires[*side as usize].send(frame)?;
            }
            // What a frame leads to on the other card is on its way when its own card has passed the barrier.
            for _ in 0..2 {
                for side in Side::ALL {
                    self.wires[side as usize]
                        .barrier(&mut seen[side as usize])
                        .with_context(|| self.console())?;
                }
            }
        }
        let [wan, lan] = seen;
        let with = |side| move |frame| (side, frame);
        Ok(wan.into_iter().map(with(Side::Wan)).chain(lan.into_iter().map(with(Side::Lan))).collect())
    }

    /// What the kernel and the first process have said.
    pub fn console(&self) -> String {
        self.agent.console()
    }
}

/// Fewer than the guest's cards and the sockets have room for.
const FRAMES_AT_ONCE: usize = 64;
