//! A guest that runs Linux IPVS: Debian's kernel in qemu, emulated, with a card towards clients and one
//! towards real servers.
//!
//! Everything between host and guest goes through Unix sockets: nothing touches this machine's network, and
//! no interface is made. A guest boots in some seconds and costs a CPU only while it works.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::wait::wait_for;

mod image;
mod wire;

pub use wire::Side;
use wire::Wire;

/// How long booting and every command may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Memory of the guest in MiB.
const MEMORY_MIB: u32 = 256;

/// A running guest; ended when dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    agent: BufReader<UnixStream>,
    wires: [Wire; 2],
    dir: TempDir,
}

/// What a command in the guest said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit status.
    pub status: u32,
    /// Its output, that for errors too.
    pub text: String,
}

impl Guest {
    /// Boots it and waits until it takes commands.
    pub fn start() -> Result<Guest> {
        let dir = tempfile::tempdir()?;
        let image = image::make(dir.path())?;
        let wires = [Wire::new(Side::Wan, dir.path())?, Wire::new(Side::Lan, dir.path())?];
        let listener = UnixListener::bind(dir.path().join("agent"))?;
        listener.set_nonblocking(true)?;
        let mut qemu = spawn_qemu(&image, dir.path())?;
        let console = || std::fs::read_to_string(dir.path().join("console")).unwrap_or_default();
        let stream = wait_for("qemu connects", PATIENCE, || {
            if let Some(status) = qemu.try_wait()? {
                bail!("qemu has ended with {status}:\n{}", console());
            }
            Ok(listener.accept().ok())
        })?;
        let (stream, _) = stream;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut guest = Guest { qemu, agent: BufReader::new(stream), wires, dir };
        let line = guest.line()?;
        ensure!(line == "== ready", "the guest said {line:?} instead of being ready:\n{}", guest.console());
        Ok(guest)
    }

    /// Runs a line of shell in the guest; any exit status is fine.
    pub fn run_any(&mut self, line: &str) -> Result<Said> {
        ensure!(!line.contains('\n'), "commands are single lines: {line:?}");
        self.agent.get_mut().write_all(format!("{line}\n").as_bytes()).context("writing to the guest")?;
        let mut text = String::new();
        loop {
            let next = self.line()?;
            if let Some(status) = next.strip_prefix("== ") {
                // The agent puts a line's end in front, in case that the command ended without one.
                text.pop();
                let status = status.parse().with_context(|| format!("an exit status: {status:?}"))?;
                return Ok(Said { status, text });
            }
            text.push_str(&next);
            text.push('\n');
        }
    }

    /// Runs a line of shell in the guest, which must succeed.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let said = self.run_any(line)?;
        ensure!(said.status == 0, "`{line}` ended with {} in the guest:\n{}", said.status, said.text);
        Ok(said.text)
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
        let bytes = std::fs::read(self.dir.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.agent.read_line(&mut line);
        let len = read.with_context(|| format!("waiting for the guest:\n{}", self.console()))?;
        ensure!(len > 0, "the guest has ended:\n{}", self.console());
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// Fewer than the guest's cards and the sockets have room for.
const FRAMES_AT_ONCE: usize = 64;

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = self.qemu.kill().and_then(|()| self.qemu.wait()) {
            eprintln!("qemu (pid {}) is left behind: {error}", self.qemu.id());
        }
    }
}

fn spawn_qemu(image: &image::Image, dir: &std::path::Path) -> Result<Child> {
    let console = File::create(dir.join("console"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    // One emulating thread: patching code under several is not emulated right and hangs now and then.
    command.args(["-accel", "tcg,thread=single", "-smp", "1", "-m", &MEMORY_MIB.to_string()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    command.args(["-device", "virtio-serial-pci,addr=0x4"]);
    command.args(["-chardev", &format!("socket,id=agent,path={}", dir.join("agent").display())]);
    command.args(["-device", "virtserialport,chardev=agent,name=agent"]);
    for side in Side::ALL {
        command.args(Wire::arguments(side, dir));
    }
    command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
    command.spawn().context("qemu does not start; scripts/setup.sh installs qemu-system-x86")
}
