//! Runs shell commands in a qemu guest, over a virtio serial port that is a Unix socket on this side.
//!
//! The guest's first process reads lines, runs each, and puts a line `== STATUS` behind its output.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::wait::wait_for;

/// How long the guest may take to repeat a word, and how often it is asked to.
const SETTLE_WAIT: Duration = Duration::from_secs(10);
const SETTLE_TRIES: u32 = 6;

/// What a shell says of a command that there is not.
const NOT_FOUND: u32 = 127;
/// How often a command is given in all that the guest does not know: an emulated UART may lose the first half of its FIFO.
const TRIES: u32 = 3;

/// What a command in the guest said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit status.
    pub status: u32,
    /// Its output, that for errors too.
    pub text: String,
}

/// The socket that qemu connects to.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    socket: PathBuf,
    console: PathBuf,
}

impl Listening {
    /// On `DIR/agent`. Errors show what `console` has in it.
    pub(crate) fn new(dir: &Path, console: &Path) -> Result<Listening> {
        let socket = dir.join("agent");
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        Ok(Listening { listener, socket, console: console.to_owned() })
    }

    /// What qemu is started with.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let chardev = format!("socket,id=agent,path={}", self.socket.display());
        let parts = ["-device", "virtio-serial-pci,addr=0x4", "-chardev", &chardev];
        let port = ["-device", "virtserialport,chardev=agent,name=agent"];
        parts.into_iter().chain(port).map(str::to_owned).collect()
    }

    /// Waits until the guest takes commands; `must_run` fails when qemu has ended.
    pub(crate) fn accept(
        self,
        patience: Duration,
        mut must_run: impl FnMut() -> Result<()>,
    ) -> Result<Agent> {
        let (stream, _) = wait_for("qemu connects", patience, || {
            must_run()?;
            Ok(self.listener.accept().ok())
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        let mut agent = Agent { stream: BufReader::new(stream), console: self.console };
        let line = agent.line()?;
        ensure!(line == "== ready", "the guest said {line:?} instead of being ready:\n{}", agent.console());
        agent.settle(patience)?;
        Ok(agent)
    }
}

/// A guest that takes commands.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: BufReader<UnixStream>,
    console: PathBuf,
}

impl Agent {
    /// Waits until a line arrives as it was sent: an emulated UART may throw away what is in its FIFO when the guest has
    /// just opened it, and a part of a line does anything.
    fn settle(&mut self, patience: Duration) -> Result<()> {
        self.set_patience(SETTLE_WAIT)?;
        for attempt in 0..SETTLE_TRIES {
            let word = format!("settled-{attempt}");
            writeln!(self.stream.get_mut(), "echo {word}").context("writing to the guest")?;
            while let Ok(line) = self.line() {
                if line == word {
                    self.set_patience(patience)?;
                    while !self.line()?.starts_with("== ") {}
                    return Ok(());
                }
            }
        }
        bail!("the guest does not repeat what it is told:\n{}", self.console())
    }

    /// Lets the guest be silent for so long.
    pub(crate) fn set_patience(&self, patience: Duration) -> Result<()> {
        Ok(self.stream.get_ref().set_read_timeout(Some(patience))?)
    }

    /// Runs a line of shell in the guest; any exit status is fine.
    pub(crate) fn run_any(&mut self, line: &str) -> Result<Said> {
        let mut said = self.run_once(line)?;
        for _ in 1..TRIES {
            if said.status != NOT_FOUND {
                break;
            }
            said = self.run_once(line)?;
        }
        Ok(said)
    }

    fn run_once(&mut self, line: &str) -> Result<Said> {
        ensure!(!line.contains('\n'), "commands are single lines: {line:?}");
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).context("writing to the guest")?;
        let mut text = String::new();
        loop {
            let next = self.line()?;
            if let Some(status) = next.strip_prefix("== ") {
                // The guest puts a line's end in front, in case that the command ended without one.
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
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        let len = read.with_context(|| format!("waiting for the guest:\n{}", self.console()))?;
        ensure!(len > 0, "the guest has ended:\n{}", self.console());
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }
}
