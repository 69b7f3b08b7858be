//! `tollgate-toa`: shows real servers the client's address behind a FULLNAT gateway, without a kernel module.
//!
//! A few small BPF programs are attached to a control group and stay there without a daemon, held by pins in a BPF
//! file system. This program puts them there, tells what they do, and takes them away again.
#![forbid(unsafe_code)]

mod accounting;
mod counters;
mod kernel;
mod mounts;
mod prefix;
mod receiver;
mod report;
mod trust;

use std::error::Error as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use prefix::Prefix;
use receiver::Udp;

/// Wrong arguments, as in sysexits.h.
const EXIT_USAGE: u8 = 64;
/// UDP flows that are remembered unless `--udp-flows` says otherwise: some 10 MB.
const UDP_FLOWS: u32 = 65_536;
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
        /// Serve UDP as well, for gateways that tell the client on a flow's first datagrams (UOA). Looks at every packet.
        #[arg(long)]
        udp: bool,
        /// Interfaces on which datagrams come in that tell the client in a header of protocol 248 (all over IPv6 do).
        #[arg(long, requires = "udp", value_delimiter = ',', value_name = "INTERFACE")]
        udp_header: Vec<String>,
        /// How many UDP flows are remembered; the one that was silent longest gives way.
        #[arg(long, requires = "udp", default_value_t = UDP_FLOWS, value_name = "NUMBER",
            value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
        udp_flows: u32,
    },
    /// Show or change whom an attached receiver believes. Clients that it has learnt stay shown.
    Trust {
        #[command(subcommand)]
        change: Change,
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

#[derive(Subcommand)]
enum Change {
    /// Print the trusted prefixes, one on a line.
    List,
    /// Believe these as well.
    Add {
        /// Gateways' local addresses (LIPs), as prefixes.
        #[arg(required = true, value_delimiter = ',', value_name = "PREFIX")]
        prefixes: Vec<Prefix>,
    },
    /// Believe these no more. One must be left: `detach` is for none.
    Remove {
        /// As in the list.
        #[arg(required = true, value_delimiter = ',', value_name = "PREFIX")]
        prefixes: Vec<Prefix>,
    },
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
        Command::Attach { trust, cgroup, udp, udp_header, udp_flows } => {
            let udp = udp.then_some(Udp { flows: udp_flows, header_interfaces: udp_header });
            let cgroup = receiver::attach(pin_dir, cgroup, &trust, udp.as_ref())?;
            println!("attached to {}; trusting {}", cgroup.display(), report::list(&trust));
        }
        Command::Status { json } => {
            let status = receiver::status(pin_dir)?;
            print!("{}", if json { report::json(&status) } else { report::text(&status) });
        }
        Command::Trust { change } => {
            match change {
                Change::List => {}
                Change::Add { prefixes } => trust::add(pin_dir, &prefixes)?,
                Change::Remove { prefixes } => trust::remove(pin_dir, &prefixes)?,
            }
            for prefix in trust::list(pin_dir)? {
                println!("{prefix}");
            }
        }
        Command::Detach => {
            receiver::detach(pin_dir)?;
            println!("detached; {} is gone", pin_dir.display());
        }
    }
    Ok(())
}
