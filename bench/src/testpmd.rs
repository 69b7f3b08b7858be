//! testpmd on the same capture file: what the port itself can do.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::child::Owned;
use crate::gateway::{Rate, mbufs};
use crate::machine::{OTHER_CPU, forwarding_cpus, on_both_cpus};

/// How long an answer may take; the first comes when the whole file is in memory.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How testpmd forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Packets leave untouched.
    Io,
    /// MAC addresses are swapped: every packet's first cache line is read and written.
    MacSwap,
    /// MAC addresses, IP addresses and ports are swapped: the headers are parsed as well.
    FiveTupleSwap,
}

impl Mode {
    /// As testpmd calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Io => "io",
            Mode::MacSwap => "macswap",
            Mode::FiveTupleSwap => "5tswap",
        }
    }

    /// As the results call it.
    pub(crate) fn dut(self) -> &'static str {
        match self {
            Mode::Io => "testpmd-io",
            Mode::MacSwap => "testpmd-macswap",
            Mode::FiveTupleSwap => "testpmd-5tswap",
        }
    }
}

/// A running testpmd that forwards only while it is measured.
pub(crate) struct Testpmd {
    process: Owned,
    input: ChildStdin,
    lines: Receiver<(Instant, String)>,
    workers: u16,
}

impl Testpmd {
    /// Starts it on a device that holds so many frames, with a queue for each of its cores.
    ///
    /// # Errors
    /// When it does not start; its messages are in `testpmd.log` in `dir`.
    pub(crate) fn start(
        program: &Path,
        dir: &Path,
        device: &str,
        workers: u16,
        frames: usize,
    ) -> Result<Testpmd> {
        let log = dir.join("testpmd.log");
        let lcores =
            forwarding_cpus(workers).into_iter().zip(1..).map(|(cpu, lcore)| format!(",{lcore}@{cpu}"));
        let mut process = Owned(
            on_both_cpus(program)
                .arg("--lcores")
                .arg(format!("0@{OTHER_CPU}{}", lcores.collect::<String>()))
                .args(["--in-memory", "--no-pci", "--no-telemetry", "--file-prefix=tollgate-bench-testpmd"])
                .arg(format!("--vdev={device}"))
                .args(["--", "--interactive", "--burst=32", "--no-lsc-interrupt"])
                .args(["nb-cores", "rxq", "txq"].map(|option| format!("--{option}={workers}")))
                .arg(format!("--total-num-mbufs={}", mbufs(frames)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(File::create(&log).context("making testpmd's log")?)
                .spawn()
                .with_context(|| format!("starting {}", program.display()))?,
        );
        let input = process.0.stdin.take().context("testpmd's input")?;
        let output = process.0.stdout.take().context("testpmd's output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        let mut testpmd = Testpmd { process, input, lines, workers };
        testpmd.sent().with_context(|| format!("testpmd did not start; see {}", log.display()))?;
        Ok(testpmd)
    }

    /// Forwards in `mode`, lets it run for `warm` and measures for `length`.
    ///
    /// # Errors
    /// When it does not answer or does not forward.
    pub(crate) fn measure(&mut self, mode: Mode, warm: Duration, length: Duration) -> Result<Rate> {
        self.say(&format!("set fwd {}", mode.name()))?;
        self.say("start")?;
        let workers = self.workers;
        self.process.run(workers, warm)?;
        let (from, before) = self.sent()?;
        let cpu_from = self.process.forwarding_cpu_ns(workers)?;
        self.process.run(workers, length)?;
        let (to, after) = self.sent()?;
        let cpu_ns = self.process.forwarding_cpu_ns(workers)? - cpu_from;
        self.say("stop")?;
        // "stop" is done when the next question is answered.
        self.sent()?;
        ensure!(after > before, "testpmd {} sent nothing", mode.name());
        Ok(Rate { packets: after - before, wall_ns: (to - from).as_nanos() as u64, cpu_ns, workers })
    }

    /// Forwards in `mode` while something is done.
    ///
    /// # Errors
    /// Of what is done, or when it does not answer.
    pub(crate) fn going<T>(&mut self, mode: Mode, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.say(&format!("set fwd {}", mode.name()))?;
        self.say("start")?;
        self.sent()?;
        let done = work()?;
        self.say("stop")?;
        self.sent()?;
        Ok(done)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("telling testpmd to `{line}`"))
    }

    /// Packets sent so far, and when that was.
    fn sent(&mut self) -> Result<(Instant, u64)> {
        self.say("show port stats 0")?;
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, line)) => {
                    if let Some(count) = tx_packets(&line) {
                        return Ok((at, count));
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("testpmd told no statistics within {ANSWER_MAX:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("testpmd ended"),
            }
        }
    }
}

/// The count in a line such as `  TX-packets: 1234  TX-errors: 0  TX-bytes:  0` of the port's statistics. The summary
/// that "stop" prints has the count of one run only; its lines do not tell bytes.
fn tx_packets(line: &str) -> Option<u64> {
    let rest = line.trim_start().strip_prefix("TX-packets:")?;
    if !rest.contains("TX-bytes") {
        return None;
    }
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ports_own_statistics_count() {
        assert_eq!(tx_packets("  TX-packets: 1234       TX-errors: 0          TX-bytes:  98"), Some(1234));
        assert_eq!(tx_packets("  TX-packets: 77         TX-dropped: 0         TX-total: 77"), None);
        assert_eq!(tx_packets("  RX-packets: 1234       RX-missed: 0          RX-bytes:  98"), None);
    }
}
