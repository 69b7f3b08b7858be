//! The command line `tollgate`: asks the dataplane and control over their sockets and prints tables or JSON.

pub mod check;
mod connections;
mod doctor;
mod peer;
mod services;
mod stats;
mod status;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use config::{EXIT_BAD_CONFIG, counted};

use crate::ctl;
use peer::{Peer, PeerError};

/// Shows and steers a Tollgate gateway.
#[derive(Debug, Parser)]
#[command(
    name = "tollgate",
    version,
    after_help = "\
Exit codes: 0 done; 1 the dataplane or control cannot be asked, or refused, or doctor has found problems; 64 the configuration has mistakes.
Command lines that cannot be understood end with 2."
)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Socket of the dataplane [default: that of the configuration, else /run/tollgate/dataplane.sock].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Socket of control [default: that of the configuration, else /run/tollgate/control.sock].
    #[arg(long, global = true, value_name = "PATH")]
    control_socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How the gateway is: versions, generation, workers, ports, warnings.
    Status,
    /// Services and their real servers with weight, health and connections.
    Services,
    /// Connections: client, virtual, local, real.
    Connections(ConnectionFilter),
    /// Traffic of services and real servers, and what was dropped.
    Stats {
        /// Per second, measured over one second.
        #[arg(long)]
        rate: bool,
    },
    /// Say every mistake in a configuration file.
    CheckConfig {
        /// The file.
        #[arg(default_value = config::DEFAULT_PATH)]
        file: PathBuf,
    },
    /// What is wrong with the gateway and its machine, and what to do about it; also before the first start.
    Doctor {
        /// The configuration file.
        #[arg(default_value = config::DEFAULT_PATH)]
        file: PathBuf,
    },
    /// Make control read its configuration again. Live connections are not touched.
    Reload,
}

/// Which connections are listed.
#[derive(Debug, clap::Args)]
struct ConnectionFilter {
    /// Only those of the service with this VIP:port or name.
    #[arg(long)]
    service: Option<String>,
    /// Only those from this client address.
    #[arg(long)]
    client: Option<IpAddr>,
    /// Only those to this real server, RIP:port.
    #[arg(long)]
    real: Option<SocketAddr>,
    /// At most so many.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// A socket.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A file with mistakes.
    #[error("{0}")]
    Mistakes(check::Mistakes),
    /// What doctor has found.
    #[error("{0} of the checks found a problem")]
    Problems(usize),
    /// Control keeps the old configuration.
    #[error("not reloaded, the old configuration stays in force\n{0}")]
    NotReloaded(ctl::NotReloaded),
    /// No such service.
    #[error("there is no service `{wanted}`; there is {there}")]
    NoService {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// Standard output.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    /// Never with our own types.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Mistakes(_) | CliError::NotReloaded(ctl::NotReloaded::Mistakes(_)) => {
                ExitCode::from(EXIT_BAD_CONFIG)
            }
            _ => ExitCode::FAILURE,
        }
    }
}

/// Runs one command.
pub fn run(arguments: Arguments) -> ExitCode {
    match execute(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough, as with `tollgate connections | head`.
        Err(CliError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.to_string().trim_end());
            error.exit_code()
        }
    }
}

fn execute(arguments: &Arguments) -> Result<(), CliError> {
    let sockets = || Sockets::new(arguments);
    match &arguments.command {
        Command::Status => status::run(&sockets(), arguments.json),
        Command::Services => services::run(&sockets(), arguments.json),
        Command::Connections(filter) => connections::run(&sockets(), filter, arguments.json),
        Command::Stats { rate } => stats::run(&sockets(), *rate, arguments.json),
        Command::CheckConfig { file } => check_config(file, arguments.json),
        Command::Doctor { file } => doctor::run(&sockets(), file, arguments.json),
        Command::Reload => reload(&sockets(), arguments.json),
    }
}

/// Where to ask.
struct Sockets {
    dataplane: PathBuf,
    control: PathBuf,
}

impl Sockets {
    fn new(arguments: &Arguments) -> Self {
        // The configuration is read only for what is not given: with many services that takes a moment.
        if let (Some(dataplane), Some(control)) = (&arguments.socket, &arguments.control_socket) {
            return Sockets { dataplane: dataplane.clone(), control: control.clone() };
        }
        let file = match &arguments.command {
            Command::Doctor { file } => file,
            _ => Path::new(config::DEFAULT_PATH),
        };
        let (dataplane, control) = config::sockets(file);
        Sockets {
            dataplane: arguments.socket.clone().unwrap_or(dataplane),
            control: arguments.control_socket.clone().unwrap_or(control),
        }
    }

    fn dataplane(&self) -> Result<Peer, PeerError> {
        Peer::connect(&self.dataplane, peer::DATAPLANE)
    }

    /// Control's status; `None` when it is not running.
    fn control_status(&self) -> Result<Option<ctl::Status>, PeerError> {
        let mut control = match Peer::connect(&self.control, peer::CONTROL) {
            Ok(control) => control,
            Err(PeerError::Connect { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match control.control(&ctl::Request::GetStatus)? {
            ctl::Response::Status(status) => Ok(Some(*status)),
            _ => Err(control.unexpected()),
        }
    }
}

/// Prints, with errors instead of a panic when the other end of a pipe is gone.
fn print(text: &str) -> Result<(), CliError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn check_config(file: &Path, json: bool) -> Result<(), CliError> {
    match check::load(file) {
        Ok(_) if json => print_json(&serde_json::json!({ "valid": true, "mistakes": [] })),
        Ok(config) => print(&format!("{}\n", check::summary(file, &config))),
        Err(mistakes) => {
            if json {
                print_json(&serde_json::json!({ "valid": false, "mistakes": mistakes.lines }))?;
            }
            Err(CliError::Mistakes(mistakes))
        }
    }
}

fn reload(sockets: &Sockets, json: bool) -> Result<(), CliError> {
    let mut control = Peer::connect(&sockets.control, peer::CONTROL)?;
    let reloaded = match control.control(&ctl::Request::Reload)? {
        ctl::Response::Reloaded(reloaded) => reloaded,
        ctl::Response::NotReloaded(problem) => return Err(CliError::NotReloaded(problem)),
        ctl::Response::Status(_) => return Err(control.unexpected().into()),
    };
    if json {
        return print_json(&reloaded);
    }
    let services = counted(reloaded.services, "service");
    let mut text = format!("reloaded: {services}, {}", counted(reloaded.real_servers, "real server"));
    match reloaded.generation {
        Some(generation) => text.push_str(&format!(", generation {generation}\n")),
        None => text.push_str("; the dataplane is away and will be told when it is back\n"),
    }
    for warning in &reloaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    print(&text)
}
