//! Guests: Debian's kernel in qemu, emulated, with an agent that runs lines of shell.

pub(crate) mod image;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::wait::wait_for;

/// What a command in the guest said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit status.
    pub status: u32,
    /// Its output, that for errors too.
    pub text: String,
}

/// The host's end of the agent. In its folder are the socket `agent` and what the guest says on its `console`.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: BufReader<UnixStream>,
    dir: PathBuf,
}

impl Agent {
    /// The socket that qemu is to connect to.
    pub(crate) fn listen(dir: &Path) -> Result<UnixListener> {
        let listener = UnixListener::bind(dir.join("agent"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Waits until qemu has connected and the guest takes commands. `patience` holds for every command after.
    pub(crate) fn accept(
        listener: &UnixListener,
        qemu: &mut Child,
        dir: &Path,
        patience: Duration,
    ) -> Result<Agent> {
        let (stream, _) = wait_for("qemu connects", patience, || {
            if let Some(status) = qemu.try_wait()? {
                bail!("qemu has ended with {status}:\n{}", console(dir));
            }
            Ok(listener.accept().ok())
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        let mut agent = Agent { stream: BufReader::new(stream), dir: dir.to_owned() };
        let line = agent.line()?;
        ensure!(line == "== ready", "the guest said {line:?} instead of being ready:\n{}", agent.console());
        Ok(agent)
    }

    /// Runs a line of shell in the guest; any exit status is fine.
    pub(crate) fn run_any(&mut self, line: &str) -> Result<Said> {
        ensure!(!line.contains('\n'), "commands are single lines: {line:?}");
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).context("writing to the guest")?;
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
    pub(crate) fn run(&mut self, line: &str) -> Result<String> {
        let said = self.run_any(line)?;
        ensure!(said.status == 0, "`{line}` ended with {} in the guest:\n{}", said.status, said.text);
        Ok(said.text)
    }

    /// What the kernel and the first process have said.
    pub(crate) fn console(&self) -> String {
        console(&self.dir)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        let len = read.with_context(|| format!("waiting for the guest:\n{}", self.console()))?;
        ensure!(len > 0, "the guest has ended:\n{}", self.console());
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }
}

fn console(dir: &Path) -> String {
    let bytes = std::fs::read(dir.join("console")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Ends qemu.
pub(crate) fn end(qemu: &mut Child) {
    if let Err(error) = qemu.kill().and_then(|()| qemu.wait()) {
        eprintln!("qemu (pid {}) is left behind: {error}", qemu.id());
    }
}
