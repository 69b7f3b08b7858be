//! A process that does not outlive the bench.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

/// What DPDK calls the thread of an lcore before its number, in this and that release.
const FORWARDING_THREADS: [&str; 3] = ["rte-worker-", "lcore-worker-", "dpdk-worker"];
/// How many times as long as asked for [`Owned::run`] lasts at most.
const RUN_STRETCH_MAX: u32 = 20;
/// How long a process may take to end by itself.
const END_MAX: Duration = Duration::from_secs(10);

/// What a thread had of CPUs, as the kernel has it in `schedstat`.
struct Schedule {
    ran_ns: u64,
    waited_ns: u64,
}

/// A child process that answers each line of its input with a line of JSON.
pub(crate) struct Answering {
    /// The process.
    pub(crate) process: Owned,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Answering {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(command: &mut Command) -> Result<Answering> {
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = Owned(process.with_context(|| format!("starting {command:?}"))?);
        let input = process.0.stdin.take().context("the child's input")?;
        let output = BufReader::new(process.0.stdout.take().context("the child's output")?);
        Ok(Answering { process, input, output })
    }

    /// The answer to a line.
    ///
    /// # Errors
    /// When the child has ended or answers something else.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        writeln!(self.input, "{line}").context("telling a child what to do")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).context("reading a child's answer")?;
        if answer.is_empty() {
            bail!("the child that was told `{line}` ended: {:?}", self.process.ended());
        }
        serde_json::from_str(&answer).with_context(|| format!("a child answered `{}`", answer.trim()))
    }
}

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

    /// Its first so many forwarding threads: lcores 1 and up, in the dataplane as in testpmd.
    ///
    /// # Errors
    /// When there are no such threads.
    pub(crate) fn forwarding_threads(&self, workers: u16) -> Result<Vec<u32>> {
        let tasks = format!("/proc/{}/task", self.0.id());
        let is_worker = |name: &str| {
            let number = FORWARDING_THREADS.iter().find_map(|prefix| name.strip_prefix(prefix));
            number
                .and_then(|number| number.parse().ok())
                .is_some_and(|number| (1..=workers).contains(&number))
        };
        let mut found = Vec::new();
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let task = task?;
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if is_worker(name.trim()) {
                found.extend(task.file_name().to_string_lossy().parse::<u32>().ok());
            }
        }
        ensure!(
            found.len() == usize::from(workers),
            "{} of {workers} threads in {tasks} are named {FORWARDING_THREADS:?} and a number",
            found.len()
        );
        Ok(found)
    }

    /// Nanoseconds that these threads have spent on CPUs, in sum. Another's load on the machine takes time away from a
    /// window, but not from this.
    ///
    /// # Errors
    /// When there are no such threads.
    pub(crate) fn forwarding_cpu_ns(&self, workers: u16) -> Result<u64> {
        self.forwarding_threads(workers)?.into_iter().map(|thread| Ok(self.schedule(thread)?.ran_ns)).sum()
    }

    /// Nanoseconds that its main thread could have run and had no CPU.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn main_waited_ns(&self) -> Result<u64> {
        Ok(self.schedule(self.0.id())?.waited_ns)
    }

    fn schedule(&self, thread: u32) -> Result<Schedule> {
        let path = format!("/proc/{}/task/{thread}/schedstat", self.0.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [ran_ns, waited_ns, _] = numbers[..] else {
            bail!("{path} holds `{}`, not three numbers", text.trim())
        };
        Ok(Schedule { ran_ns, waited_ns })
    }

    /// Waits for `length`, or longer on a busy machine: until its forwarding threads have had CPUs for half of that.
    ///
    /// # Errors
    /// When there are no such threads.
    pub(crate) fn run(&self, workers: u16, length: Duration) -> Result<()> {
        let (start, cpu_start) = (Instant::now(), self.forwarding_cpu_ns(workers)?);
        std::thread::sleep(length);
        let wanted = cpu_start + length.as_nanos() as u64 / 2 * u64::from(workers);
        while self.forwarding_cpu_ns(workers)? < wanted && start.elapsed() < length * RUN_STRETCH_MAX {
            std::thread::sleep(length / 10);
        }
        Ok(())
    }

    /// KiB that it has in memory, huge pages too.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn memory_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let resident = field("VmRSS:").with_context(|| format!("{path} has no VmRSS"))?;
        Ok(resident + field("HugetlbPages:").unwrap_or(0))
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
