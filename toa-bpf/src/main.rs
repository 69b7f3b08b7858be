//! `tollgate-toa`: shows real servers the client's address behind a FULLNAT gateway, without a kernel module.
//!
//! A few small BPF programs are attached to a control group and stay there without a daemon, held by pins in a BPF
//! file system. This program puts them there, tells what they do, and takes them away again.
#![forbid(unsafe_code)]

mod counters;
mod kernel;
mod mounts;
mod prefix;
mod receiver;
mod report;

use std::error::Error as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use prefix::Prefix;
use receiver::Protocols;

/// Wrong arguments, as in sysexits.h.
const EXIT_USAGE: u8 = 64;
/// Where the pins live unless `--pin-dir` says otherwise.
const PIN_DIR: &str = "/sys/fs/bpf/tollgate-toa";

/// Shows servers the client's address behind a FULLNAT gateway (TOA), without a kernel module.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Directory in a BPF file system that keeps the receiver attached; one per receiver.
    #[arg(long, global = true, default_value = PIN_DIR, value_name = "DIR")]
    pin_dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Attach the receiver; it stays until `detach` or a reboot.
    Attach {
        /// The gateways' local addresses (LIPs) whose options are believed, as prefixes. Nothing else is believed.
        #[arg(long, required = true, value_delimiter = ',', value_name = "PREFIX")]
        trust: Vec<Prefix>,
        /// Control group (v2) whose sockets are served; by default the root, that is every server.
        #[arg(long, value_name = "PATH")]
        cgroup: Option<PathBuf>,
        /// Serve UDP as well, for gateways that tell the client in an IPv4 option (UOA). Looks at every packet.
        #[arg(long)]
        udp: bool,
    },
    /// Tell whether the receiver is attached, whom it trusts, and what it counted.
    Status {
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Detach the receiver. Connections stay; they show the gateway's address again.
    Detach,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(problem) => {
            // clap prints help and version this way too: those are no mistakes.
            let code = if problem.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = problem.print();
            return ExitCode::from(code);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("tollgate-toa: {problem}");
            let mut cause = problem.source();
            while let Some(inner) = cause {
                eprintln!("  because: {inner}");
                cause = inner.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), receiver::Error> {
    let pin_dir = &arguments.pin_dir;
    match arguments.command {
        Command::Attach { trust, cgroup, udp } => {
            let protocols = if udp { Protocols::TcpAndUdp } else { Protocols::Tcp };
            let cgroup = receiver::attach(pin_dir, cgroup, &trust, protocols)?;
            println!("attached to {}; trusting {}", cgroup.display(), report::list(&trust));
        }
        Command::Status { json } => {
            let status = receiver::status(pin_dir)?;
            print!("{}", if json { report::json(&status) } else { report::text(&status) });
        }
        Command::Detach => {
            receiver::detach(pin_dir)?;
            println!("detached; {} is gone", pin_dir.display());
        }
    }
    Ok(())
}
