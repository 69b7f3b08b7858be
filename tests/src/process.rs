//! A process that runs in a namespace until it is ended.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::run::Cmd;
use crate::wait::{Cleanup, wait_for, wait_until};

/// How long a process may take to end after SIGTERM.
const TERM_LIMIT: Duration = Duration::from_secs(5);

/// A running process; ended when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    keep: bool,
}

/// What becomes of a process when the one that started it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// It is killed too.
    DiesWithParent,
    /// It lives on.
    Outlives,
}

impl Process {
    /// Starts `command` in `netns`; what it says goes to `DIR/NAME.log`.
    pub fn spawn(name: &str, netns: &Netns, command: &Cmd, dir: &Path, bond: Bond) -> Result<Process> {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).context("log file")?;
        let mut outer = Command::new("ip");
        outer.args(["netns", "exec", netns.name()]);
        if bond == Bond::DiesWithParent {
            outer.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        }
        let child = outer
            .args(command.argv())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // Its own group: Ctrl-C ends the demo, and the demo ends it, in its order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("`{command}` does not start"))?;
        Ok(Process { name: name.to_owned(), child, log, keep: bond == Bond::Outlives })
    }

    /// Its name, as in the log file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it live on when dropped, or not.
    pub fn set_keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// An error with its last words if it does not run.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended with {status}; its last words:\n{}", self.name, self.log_tail(30));
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("{signal} to {}", self.name))
    }

    /// Kills it without giving it a chance to say good-bye.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end; kills it when it does not.
    pub fn terminate(&mut self) -> Result<()> {
        if !self.is_running()? {
            return Ok(());
        }
        let _cleanup = Cleanup::begin();
        self.signal(Signal::SIGTERM)?;
        match self.wait_exit(TERM_LIMIT) {
            Ok(_) => Ok(()),
            Err(_) => self.kill(),
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_for(&format!("the end of {}", self.name), limit, || Ok(self.child.try_wait()?))
    }

    /// Waits until its log contains `text`.
    pub fn wait_log(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("`{text}` in the log of {}", self.name);
        wait_until(&what, limit, || {
            let found = self.log_text().contains(text);
            if !found {
                self.must_run()?;
            }
            Ok(found)
        })?;
        Ok(())
    }

    /// All that it has said.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines that it said.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.terminate()
        {
            eprintln!("{} (pid {}) is left behind: {error:#}", self.name, self.pid());
        }
    }
}
