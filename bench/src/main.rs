//! `tollgate-bench`: measures the dataplane, prints a table and writes `results.json` and `table.md`. `make bench` builds
//! what it needs and runs it; docs/benchmarks.md explains what it measures and how.
#![forbid(unsafe_code)]

mod budget;
mod case;
mod child;
mod circle;
mod cores;
mod end_to_end;
mod expiry;
mod feeder;
mod flows;
mod frames;
mod gateway;
mod instructions;
mod load;
mod machine;
mod memory;
mod opening;
mod pcap;
mod perf;
mod report;
mod rested;
mod testpmd;
mod throughput;
mod turns;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::case::{Case, Selection};
use crate::cores::Cores;
use crate::end_to_end::Turns;
use crate::flows::Flows;
use crate::report::Row;
use crate::throughput::Plan;
use crate::turns::Patience;

/// Measures the dataplane against testpmd.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The dataplane, built with the release profile; without it, throughput is not measured.
    #[arg(long, value_name = "FILE")]
    dataplane: Option<PathBuf>,
    /// The engine's example `instructions`; without it, or without valgrind, instructions are not counted.
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    /// The engine's example `expiry`; without it, the calls that end connections are not timed alone.
    #[arg(long, value_name = "FILE")]
    expiry: Option<PathBuf>,
    /// testpmd.
    #[arg(long, value_name = "FILE", default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
    /// Where results.json and table.md go.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Only counts instructions and fails when a figure is more than 3 % over the budget in this file.
    #[arg(long, value_name = "FILE", requires = "instructions")]
    budget: Option<PathBuf>,
    /// Makes the counted instructions the new budget, for this reason.
    #[arg(long, value_name = "REASON", requires = "budget")]
    new_budget: Option<String>,
    /// The main cases only, with fewer windows.
    #[arg(long)]
    quick: bool,
    /// Plays clients and real servers at the other end of a memif; the bench itself starts this.
    #[arg(long, value_name = "SOCKET", hide = true)]
    load: Option<PathBuf>,
    /// Writes to memory that rests in between; the bench itself starts this.
    #[arg(long, value_name = "RECORDS", hide = true)]
    rested: Option<u32>,
    /// Windows per device and case.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOWS)]
    windows: usize,
    /// Only these benches; all of them by default, or with any of the dimensions below, throughput.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Bench>,
    #[command(flatten)]
    selection: Selection,
}

/// Time for making up for disturbed turns: what is left of 20 minutes on a machine whose cores neighbours take half of.
const PATIENCE: Duration = Duration::from_secs(150);
/// Windows per device and case.
const DEFAULT_WINDOWS: usize = 5;

/// What can be measured; the names are those in results.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Bench {
    /// Packets per second in steady state, beside testpmd.
    Throughput,
    /// Connections made per second.
    NewConnections,
    /// Instructions per packet of the engine alone.
    EngineInstructions,
    /// Bytes per connection.
    Memory,
    /// From sending a packet to receiving it, on an idle and a half loaded gateway.
    Latency,
    /// Turns of the worker's loop that take long while a million connections end; among the latencies in results.json.
    ExpiryStall,
    /// wrk and iperf3 through Tollgate and its alternatives; the dataplane is the one beside this program.
    EndToEnd,
}

impl Arguments {
    fn wants(&self, bench: Bench) -> bool {
        if self.only.is_empty() {
            self.selection.is_empty() || bench == Bench::Throughput
        } else {
            self.only.contains(&bench)
        }
    }
}

fn main() -> Result<()> {
    let (arguments, start) = (Arguments::parse(), Instant::now());
    if let Some(socket) = &arguments.load {
        return load::serve(socket);
    }
    if let Some(records) = arguments.rested {
        return rested::serve(records);
    }
    let cases = arguments.selection.cases(arguments.quick)?;
    machine::stay_aside()?;
    std::fs::create_dir_all(&arguments.out).context("making the directory for results")?;
    let dir = arguments.out.canonicalize().context("finding the directory for results")?;
    if let (Some(budget), Some(program)) = (&arguments.budget, &arguments.instructions) {
        return hold_budget(budget, program, &dir, arguments.new_budget.as_deref());
    }
    let mut results = Results::default();
    if let Some(dataplane) = &arguments.dataplane {
        let plan = Plan {
            dataplane: dataplane.clone(),
            testpmd: arguments.testpmd.clone(),
            dir: dir.clone(),
            patience: Patience {
                turns: arguments.windows.max(1),
                rest: Rc::new(Cell::new(if arguments.quick { Duration::ZERO } else { PATIENCE })),
            },
            starts: if arguments.quick { 1 } else { 3 },
            length: Duration::from_millis(if arguments.quick { 150 } else { 300 }),
            warm: Duration::from_millis(if arguments.quick { 100 } else { 150 }),
            has_counters: arguments.wants(Bench::Throughput) && perf::is_available(),
            cores: Cores::learn()?,
        };
        measure(&arguments, &plan, &cases, &mut results)?;
    }
    let Results { mut rows, failed } = results;
    if let (Some(program), true) = (&arguments.instructions, arguments.wants(Bench::EngineInstructions)) {
        rows.extend(instructions::run_all(program, &dir));
    }
    let machine = machine::description();
    report::write(&dir, &machine, &rows)?;
    println!("\n{}", report::markdown(&machine, &rows));
    let took = start.elapsed().as_secs();
    println!(
        "written: {0}/results.json, {0}/table.md; it took {1} min {2} s",
        dir.display(),
        took / 60,
        took % 60
    );
    ensure!(failed == 0, "{failed} cases could not be measured; why stands above");
    Ok(())
}

/// Rows so far, and how many cases could not be measured.
#[derive(Default)]
struct Results {
    rows: Vec<Row>,
    failed: usize,
}

impl Results {
    /// Takes what was measured, and tells it.
    fn take(&mut self, what: &str, measured: Result<Vec<Row>>) {
        match measured {
            Ok(rows) => {
                rows.iter().for_each(tell);
                self.rows.extend(rows);
            }
            Err(error) => {
                self.failed += 1;
                eprintln!("{what} is not measured: {error:#}");
            }
        }
    }
}

/// Everything that needs the dataplane.
fn measure(arguments: &Arguments, plan: &Plan, cases: &[Case], results: &mut Results) -> Result<()> {
    if arguments.wants(Bench::Throughput) {
        // All at once, so that a number that does not divide does not end a run in its middle.
        let flows = cases.iter().map(|case| Flows::new(*case)).collect::<Result<Vec<_>>>()?;
        for flows in flows {
            let Case { flows: count, frame_bytes, workers, .. } = flows.case;
            let name = flows.case.name();
            let what = format!("{name}, {count} flows, {frame_bytes} bytes, {workers} workers");
            results.take(&what, throughput::run(plan, flows));
        }
    }
    if arguments.wants(Bench::NewConnections) {
        for case in opening::cases(arguments.quick) {
            results.take(&format!("the opening of {}", case.name()), opening::run(plan, case));
        }
        results.take("whole short connections", circle::conversations(plan));
    }
    if arguments.wants(Bench::Memory) {
        results.take("memory", memory::run(plan, arguments.quick));
    }
    if arguments.wants(Bench::Latency) {
        results.take("latency", circle::latency(plan));
    }
    if arguments.wants(Bench::ExpiryStall)
        && (!arguments.quick || arguments.only.contains(&Bench::ExpiryStall))
    {
        results.take("the end of many connections", expiry::run(plan));
        if let Some(program) = &arguments.expiry {
            results.take("the calls that end connections", expiry::calls(program));
        }
    }
    if arguments.wants(Bench::EndToEnd) {
        let (rounds, seconds) = if arguments.quick { (2, 1) } else { (plan.patience.turns, 2) };
        let turns = Turns { rounds, load: Duration::from_secs(seconds) };
        results.take("end to end", end_to_end::run(turns));
    }
    Ok(())
}

/// Counts instructions, prints the figures, and holds them against the budget or makes them the new one.
fn hold_budget(budget: &Path, program: &Path, dir: &Path, reason: Option<&str>) -> Result<()> {
    let rows = instructions::run_all(program, dir);
    for row in &rows {
        println!("{:28} {:7.1}", row.name(), row.value);
    }
    match reason {
        None => budget::check(budget, &rows),
        Some(reason) => budget::renew(budget, &rows, instructions::cases().len(), reason),
    }
}

/// A line of progress.
fn tell(row: &Row) {
    let ratio = row.ratio_macswap.map_or(String::new(), |ratio| format!("  {ratio:.3} of macswap"));
    println!(
        "{:19} {:15} {:26} {:>8} flows {:4} bytes {}w  {:9.2} ({:.2}-{:.2}) {} {}{ratio}{}",
        row.bench,
        row.dut,
        row.name(),
        row.flows,
        row.frame_bytes,
        row.workers,
        row.value,
        row.min,
        row.max,
        row.unit,
        row.detail.unwrap_or_default(),
        if row.all_forwarded == Some(false) { "  NOT ALL FORWARDED" } else { "" }
    );
}
