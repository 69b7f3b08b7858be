//! `tollgate-dataplane`: forwards packets. Reads its `[dataplane]` and `[[port]]` configuration once, at start; what
//! to forward it is told over its API, by `tollgate-control`.
//!
//! Threads: the main thread ([`state`]) plans and answers, the workers ([`worker`]) forward, the slow path
//! ([`slow_path`]) talks with the kernel twins, the mirror ([`mirror`]) watches the kernel, and the API server
//! ([`api_server`]) has a thread per client.
#![forbid(unsafe_code)]

mod api_server;
mod claim;
mod counts;
mod cpus;
mod flow_rules;
mod memory;
mod mirror;
mod ports;
mod slow_path;
mod start;
mod state;
mod steering;
mod vlan;
mod wiring;
mod worker;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use config::Config;
use crossbeam_channel::Sender;
use signal_hook::consts::{SIGINT, SIGTERM};
use state::Inbox;

// Tests bring an allocator that counts.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: dpdk::alloc::HugeAlloc = dpdk::alloc::HugeAlloc;

/// Exit code of a start that failed for want of something outside.
const EXIT_START: u8 = 1;
/// Exit code of a fault in the program itself (`EX_SOFTWARE` of sysexits).
const EXIT_INTERNAL: u8 = 70;

/// Tollgate's packet forwarder.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Signals: SIGTERM and SIGINT end it, and with it its connections.
Exit codes: 0 ended as asked, or the file is valid; 1 cannot run; 64 the configuration has mistakes; 70 a fault of its own."
)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Only check the configuration.
    #[arg(long)]
    check: bool,
    /// What is logged to standard error, as in RUST_LOG.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(diagnostics) => {
            for diagnostic in &diagnostics {
                eprintln!("{diagnostic}");
            }
            return ExitCode::from(config::EXIT_BAD_CONFIG);
        }
    };
    if arguments.check {
        println!("{}: the configuration is good", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = start_logging(&arguments.log) {
        eprintln!("--log {}: {error}", arguments.log);
        return ExitCode::from(config::EXIT_BAD_CONFIG);
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let internal = error.is::<state::Fault>();
            ExitCode::from(if internal { EXIT_INTERNAL } else { EXIT_START })
        }
    }
}

fn start_logging(filter: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    dpdk::set_log_sink(
        dpdk::LogLevel::Warning,
        dpdk::LogSink::Callback(Box::new(|level, line| tracing::debug!("DPDK ({level:?}): {line}"))),
    );
    Ok(())
}

fn run(config: &Config) -> anyhow::Result<()> {
    let (inbox, messages) = crossbeam_channel::bounded(state::INBOX_LEN);
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(inbox.clone())?;
    // Bound first, so that a second instance ends before it touches devices.
    let socket = api_server::Bound::new(&config.dataplane.api_socket)?;
    let _claims = claim::all(config)?;
    let mut running = start::start(config, inbox.clone(), stop.clone())?;
    let server = socket.serve(inbox, stop)?;
    tracing::info!("ready; the API is at {}", config.dataplane.api_socket.display());
    let result = running.core.run(&messages);
    // Whoever waits to tell us something is woken.
    drop(messages);
    drop(server);
    // A worker that does not answer cannot be waited for either: after a fault the process just ends.
    let signal = result?;
    running.stop();
    match signal {
        0 => {}
        signal => tracing::info!("ended by signal {signal}"),
    }
    Ok(())
}

fn watch_signals(inbox: Sender<Inbox>) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if inbox.send(Inbox::Stop(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
