//! `tollgate-bench`: measures the dataplane, prints a table and writes `results.json` and `table.md`. `make bench` builds
//! what it needs and runs it; docs/benchmarks.md explains what it measures and how.
#![forbid(unsafe_code)]

mod child;
mod feeder;
mod flows;
mod gateway;
mod instructions;
mod machine;
mod pcap;
mod report;
mod testpmd;
mod throughput;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::flows::{Flows, Traffic};
use crate::report::Row;
use crate::throughput::Plan;

/// Measures the dataplane against testpmd.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The dataplane, built with the release profile.
    #[arg(long, value_name = "FILE")]
    dataplane: PathBuf,
    /// The engine's example `instructions`; without it, or without valgrind, instructions are not counted.
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    /// testpmd.
    #[arg(long, value_name = "FILE", default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
    /// Where results.json and table.md go.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Fewer flows and windows.
    #[arg(long)]
    quick: bool,
    /// Numbers of flows, e.g. 1,1k,100k,1M.
    #[arg(long, value_name = "LIST")]
    flows: Option<String>,
    /// Windows per device and number of flows.
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    /// Only clients' packets, not those of real servers.
    #[arg(long)]
    inbound_only: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let counts = match (&arguments.flows, arguments.quick) {
        (Some(list), _) => flows::parse_counts(list)?,
        (None, true) => vec![1000, 100_000],
        (None, false) => vec![1, 1000, 100_000, 1_000_000],
    };
    let flows = counts.into_iter().map(Flows::new).collect::<Result<Vec<_>>>()?;
    let traffics: &[Traffic] =
        if arguments.inbound_only { &[Traffic::Inbound] } else { &[Traffic::Inbound, Traffic::Both] };
    machine::stay_aside()?;
    std::fs::create_dir_all(&arguments.out).context("making the directory for results")?;
    let dir = arguments.out.canonicalize().context("finding the directory for results")?;
    let plan = Plan {
        dataplane: arguments.dataplane,
        testpmd: arguments.testpmd,
        dir: dir.clone(),
        windows: arguments.windows.unwrap_or(if arguments.quick { 3 } else { 7 }).max(1),
        length: Duration::from_millis(if arguments.quick { 500 } else { 1000 }),
        warm: Duration::from_millis(300),
    };
    let machine = machine::description();
    let mut rows = Vec::new();
    for traffic in traffics {
        for flows in &flows {
            let measured = throughput::run(&plan, *flows, *traffic)
                .with_context(|| format!("{} flows, {}", flows.count, traffic.name()))?;
            tell(&measured);
            rows.extend(measured);
        }
    }
    if let Some(program) = arguments.instructions {
        for traffic in [Traffic::Inbound, Traffic::Both] {
            match instructions::run(&program, &dir, traffic) {
                Ok(row) => rows.push(row),
                Err(error) => eprintln!("instructions are not counted: {error:#}"),
            }
        }
    }
    report::write(&dir, &machine, &rows)?;
    println!("\n{}", report::markdown(&machine, &rows));
    println!("written: {0}/results.json, {0}/table.md", dir.display());
    Ok(())
}

/// A line of progress.
fn tell(rows: &[Row]) {
    for row in rows.iter().filter(|row| row.bench == "throughput") {
        let ratio = row.ratio_macswap.unwrap_or(f64::NAN);
        println!(
            "{:8} {:>8} flows  {:16} {:7.2} Mpps ({:.2}-{:.2})  {ratio:.3} of macswap{}",
            row.traffic,
            row.flows,
            row.dut,
            row.value,
            row.min,
            row.max,
            if row.all_forwarded == Some(false) { "  NOT ALL FORWARDED" } else { "" }
        );
    }
}
