//! What memory alone does to a thread: one that has a CPU to itself writes to memory that has rested, as evenly as expiry writes
//! to the records of connections, and looks at the clock all the time. In a virtual machine its looks are now and then
//! further apart than without that memory, because the host handles the guest's memory in its own way.
//!
//! It does nothing of what a gateway does, so what it shows is the machine's. Its memory must be as the gateway's, in huge
//! pages where there are any: the host's ways go by pages, and small ones are many. Only a process that is started for it
//! gets such memory from malloc, so the bench runs itself a second time (`--rested RECORDS`).

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::child::Answering;
use crate::gateway::TURNS_OVER_US;
use crate::machine::{self, MEASURED_CPU};

/// Bytes and words of a connection's record.
const RECORD_LEN: usize = 128;
const RECORD_WORDS: usize = RECORD_LEN / size_of::<u64>();
/// Bytes of a huge page.
const HUGE_LEN: usize = 2 << 20;
/// Has malloc ask for huge pages where it maps memory. The dataplane's own allocator would be one for all that the bench does:
/// the page faults of a huge page take long enough to be seen in latencies.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// Numbers of gaps that were longer than each of [`TURNS_OVER_US`].
pub(crate) type Counts = [u64; TURNS_OVER_US.len()];

/// Gaps between two looks at the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gaps {
    /// All of them.
    pub(crate) all: Counts,
    /// Those in which a huge page was written to for the first time.
    pub(crate) at_pages: Counts,
}

impl Gaps {
    fn count(&mut self, gap: Duration, is_at_page: bool) {
        for (at, limit) in TURNS_OVER_US.into_iter().enumerate() {
            let is_over = gap > Duration::from_micros(limit.into());
            self.all[at] += u64::from(is_over);
            self.at_pages[at] += u64::from(is_over && is_at_page);
        }
    }
}

/// What one turn showed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// While the memory was written to.
    pub(crate) writing: Gaps,
    /// After that, in as long without.
    pub(crate) without: Gaps,
    /// How much of the memory is in huge pages, at most 1.
    pub(crate) huge_share: f64,
}

/// A process with memory as large as the records of so many connections, which rests between turns.
pub(crate) struct Rested(Answering);

impl Rested {
    /// Starts it and has the memory written to.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(records: u32) -> Result<Rested> {
        let own = std::env::current_exe().context("finding this program")?;
        let mut command = machine::on_both_cpus(&own);
        command.arg("--rested").arg(records.to_string()).env(TUNABLES.0, TUNABLES.1);
        let mut rested = Rested(Answering::start(&mut command)?);
        rested.turn(Duration::ZERO)?;
        Ok(rested)
    }

    /// Has a word of each record written to within `length`, and waits as long after that, on the measured CPU. Nothing else may
    /// run there.
    ///
    /// # Errors
    /// When the process has ended.
    pub(crate) fn turn(&mut self, length: Duration) -> Result<Turn> {
        self.0.ask(&length.as_nanos().to_string())
    }
}

/// Takes a turn for each line of its input, which has the length in nanoseconds, and tells it in a line of JSON.
///
/// # Errors
/// When it cannot have its CPU; a line is no number.
pub(crate) fn serve(records: u32) -> Result<()> {
    machine::pin_to(&[MEASURED_CPU])?;
    let mut memory = Memory::new(records);
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading lengths")?;
        let length = line.parse().with_context(|| format!("`{line}` is no length"))?;
        let turn = memory.turn(Duration::from_nanos(length))?;
        writeln!(output, "{}", serde_json::to_string(&turn)?).context("writing a turn")?;
        output.flush().context("writing a turn")?;
    }
    Ok(())
}

struct Memory {
    words: Vec<u64>,
    records: u32,
}

impl Memory {
    /// Written once, so that it is really there.
    fn new(records: u32) -> Memory {
        Memory { words: vec![1; records as usize * RECORD_WORDS], records }
    }

    fn turn(&mut self, length: Duration) -> Result<Turn> {
        let writing = gaps(self.records, length, clock(), |record| {
            let word = black_box(&mut self.words[record as usize * RECORD_WORDS]);
            *word += 1;
            std::ptr::from_mut(word).addr() % HUGE_LEN < RECORD_LEN
        });
        let without = gaps(self.records, length, clock(), |_| false);
        let huge_share = machine::own_huge_kib()? as f64 * 1024.0 / size_of_val(&self.words[..]) as f64;
        Ok(Turn { writing, without, huge_share: huge_share.min(1.0) })
    }
}

/// Time since now.
fn clock() -> impl FnMut() -> Duration {
    let start = Instant::now();
    move || start.elapsed()
}

/// Touches records evenly over `length`, no more than one between two looks at the clock, so that each has a gap of its own.
/// `touch` tells whether a record is the first one of a huge page.
fn gaps(
    records: u32,
    length: Duration,
    mut clock: impl FnMut() -> Duration,
    mut touch: impl FnMut(u32) -> bool,
) -> Gaps {
    let (mut gaps, pace) = (Gaps::default(), length / records);
    let (mut next, mut due, mut last) = (0, Duration::ZERO, clock());
    while next < records {
        let mut is_at_page = false;
        if last >= due {
            is_at_page = touch(next);
            next += 1;
            due += pace;
        }
        let now = clock();
        gaps.count(now - last, is_at_page);
        last = now;
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gaps of a clock that shows these times, in µs, and the looks after which records were touched, of which the second
    /// one is the first of a huge page.
    fn at(times: &[u64], length_us: u64, records: u32) -> (Gaps, Vec<usize>) {
        let looks = std::cell::Cell::new(0);
        let clock = || {
            looks.set(looks.get() + 1);
            Duration::from_micros(times[looks.get() - 1])
        };
        let mut touched = Vec::new();
        let gaps = gaps(records, Duration::from_micros(length_us), clock, |record| {
            assert_eq!(record as usize, touched.len(), "in order");
            touched.push(looks.get());
            record == 1
        });
        (gaps, touched)
    }

    #[test]
    fn a_gap_counts_for_every_limit_that_it_is_longer_than() {
        let (gaps, _) = at(&[0, 20, 71, 171, 192, 293], 50, 5);
        assert_eq!(gaps.all, [4, 3, 1], "gaps of 20, 51, 100, 21 and 101 µs");
        assert_eq!(gaps.at_pages, [1, 1, 0], "the gap of 51 µs");
    }

    #[test]
    fn records_are_touched_when_they_are_due_and_one_by_one_when_they_are_late() {
        let (_, touched) = at(&[0, 4, 8, 12, 40, 41, 42], 40, 4);
        assert_eq!(touched, [1, 4, 5, 6]);
    }

    #[test]
    fn a_gap_without_a_record_is_not_at_a_page() {
        let (gaps, touched) = at(&[0, 1, 61, 62], 20, 2);
        assert_eq!((gaps.all[1], gaps.at_pages[1], touched), (1, 0, vec![1, 3]));
    }

    #[test]
    fn every_record_is_written_in_every_turn() {
        let mut memory = Memory::new(3);
        for _ in 0..2 {
            memory.turn(Duration::from_micros(3)).unwrap();
        }
        let written = memory.words.iter().filter(|word| **word == 3).count();
        assert_eq!((written, memory.words.len()), (3, 48));
    }
}
