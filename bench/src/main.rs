//! `tollgate-bench`: measures the dataplane, prints a table and writes `results.json` and `table.md`. `make bench` builds
//! what it needs and runs it; docs/benchmarks.md explains what it measures and how.
#![forbid(unsafe_code)]

mod budget;
mod case;
mod child;
mod feeder;
mod flows;
mod frames;
mod gateway;
mod instructions;
mod machine;
mod pcap;
mod report;
mod testpmd;
mod throughput;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::case::{Case, Selection};
use crate::flows::Flows;
use crate::report::Row;
use crate::throughput::Plan;

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
    /// Windows per device and case.
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    #[command(flatten)]
    selection: Selection,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cases = arguments.selection.cases(arguments.quick)?;
    machine::stay_aside()?;
    std::fs::create_dir_all(&arguments.out).context("making the directory for results")?;
    let dir = arguments.out.canonicalize().context("finding the directory for results")?;
    if let (Some(budget), Some(program)) = (&arguments.budget, &arguments.instructions) {
        return hold_budget(budget, program, &dir, arguments.new_budget.as_deref());
    }
    let (mut rows, mut failed) = (Vec::new(), 0);
    if let Some(dataplane) = arguments.dataplane {
        let plan = Plan {
            dataplane,
            testpmd: arguments.testpmd,
            dir: dir.clone(),
            windows: arguments.windows.unwrap_or(if arguments.quick { 3 } else { 5 }).max(1),
            length: Duration::from_millis(300),
            warm: Duration::from_millis(150),
        };
        (rows, failed) = throughput(&plan, &cases)?;
    }
    if let Some(program) = arguments.instructions {
        rows.extend(instructions::run_all(&program, &dir));
    }
    let machine = machine::description();
    report::write(&dir, &machine, &rows)?;
    println!("\n{}", report::markdown(&machine, &rows));
    println!("written: {0}/results.json, {0}/table.md", dir.display());
    ensure!(failed == 0, "{failed} cases could not be measured; why stands above");
    Ok(())
}

/// The rows of all cases, and how many could not be measured.
fn throughput(plan: &Plan, cases: &[Case]) -> Result<(Vec<Row>, usize)> {
    // All at once, so that a number that does not divide does not end a run in its middle.
    let flows = cases.iter().map(|case| Flows::new(*case)).collect::<Result<Vec<_>>>()?;
    let (mut rows, mut failed) = (Vec::new(), 0);
    for flows in flows {
        let case = flows.case;
        match throughput::run(plan, flows) {
            Ok(measured) => {
                tell(&measured);
                rows.extend(measured);
            }
            Err(error) => {
                failed += 1;
                let Case { flows, frame_bytes, .. } = case;
                eprintln!("{}, {flows} flows, {frame_bytes} bytes is not measured: {error:#}", case.name());
            }
        }
    }
    Ok((rows, failed))
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
fn tell(rows: &[Row]) {
    for row in rows.iter().filter(|row| row.bench == "throughput") {
        let ratio = row.ratio_macswap.unwrap_or(f64::NAN);
        println!(
            "{:15} {:7} {} {:5} {:7} {:4} bytes {:>8} flows  {:7.2} Mpps ({:.2}-{:.2})  {ratio:.3} of macswap{}",
            row.dut,
            row.mode.unwrap_or_default(),
            row.proto,
            row.family,
            row.traffic,
            row.frame_bytes,
            row.flows,
            row.value,
            row.min,
            row.max,
            if row.all_forwarded == Some(false) { "  NOT ALL FORWARDED" } else { "" }
        );
    }
}
