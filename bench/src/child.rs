//! A process that does not outlive the bench.

use std::fs;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What DPDK calls the thread of lcore 1, before and since release 23.07.
const FORWARDING_THREADS: [&str; 3] = ["rte-worker-1", "lcore-worker-1", "dpdk-worker1"];
/// How many times as long as asked for [`Owned::run`] lasts at most.
const RUN_STRETCH_MAX: u32 = 20;
/// How long a process may take to end by itself.
const END_MAX: Duration = Duration::from_secs(10);

/// A child process that is ended on drop.
pub(crate) struct Owned(pub(crate) Child);

impl Owned {
    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), signal).with_context(|| format!("sending {signal}"))
    }

    /// Nanoseconds that its forwarding thread has spent on a CPU: lcore 1, in the dataplane as in testpmd. Another's load
    /// on the machine takes time away from a window, but not from this.
    ///
    /// # Errors
    /// When there is no such thread.
    pub(crate) fn forwarding_cpu_ns(&self) -> Result<u64> {
        let tasks = format!("/proc/{}/task", self.0.id());
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let task = task?.path();
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            if FORWARDING_THREADS.contains(&name.trim()) {
                let text = fs::read_to_string(task.join("schedstat")).context("reading schedstat")?;
                let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
                return first.context("schedstat holds no number");
            }
        }
        anyhow::bail!("no thread in {tasks} is named {FORWARDING_THREADS:?}")
    }

    /// Waits for `length`, or longer on a busy machine: until its forwarding thread has had a CPU for half of that.
    ///
    /// # Errors
    /// When there is no such thread.
    pub(crate) fn run(&self, length: Duration) -> Result<()> {
        let (start, cpu_start) = (Instant::now(), self.forwarding_cpu_ns()?);
        std::thread::sleep(length);
        let wanted = cpu_start + length.as_nanos() as u64 / 2;
        while self.forwarding_cpu_ns()? < wanted && start.elapsed() < length * RUN_STRETCH_MAX {
            std::thread::sleep(length / 10);
        }
        Ok(())
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGCONT);
        let _ = self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + END_MAX;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
