//! The control daemon.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::{Config, EXIT_BAD_CONFIG};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

/// Reads the configuration, checks real servers and tells the dataplane what to do.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Signals: SIGHUP reloads the configuration; SIGTERM ends control, the dataplane goes on.
Exit codes: 0 ended as asked, or the file is valid; 1 cannot run; 64 the configuration has mistakes."
)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Only check the configuration, then end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let loaded = control::cli::check::load(&arguments.config);
    let config = match loaded {
        Ok(config) => config,
        Err(mistakes) => {
            eprint!("{mistakes}");
            return ExitCode::from(EXIT_BAD_CONFIG);
        }
    };
    if arguments.check {
        println!("{}", control::cli::check::summary(&arguments.config, &config));
        return ExitCode::SUCCESS;
    }
    // Loading has refused a filter that does not parse.
    let filter = EnvFilter::try_new(&config.control.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
    raise_descriptor_limit();
    run(config, &arguments.config)
}

/// Health checks need a descriptor each while they run.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
}

fn run(config: Config, file: &std::path::Path) -> ExitCode {
    // Two: a large scrape on one must not delay the health checks on the other.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            runtime.block_on(control::daemon::run(config, file)).map_err(|error| error.to_string())
        }
        Err(error) => Err(format!("no threads: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate-control: {error}");
            ExitCode::FAILURE
        }
    }
}
