//! Control's own unix socket: reload, and what control knows of health. Greeting and frames are those of the
//! dataplane's API, and so is the version.

use std::net::SocketAddr;

use api::{Mode, ServiceKey};
use serde::{Deserialize, Serialize};

/// What a client asks of control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Read the configuration again. Answered by [`Response::Reloaded`] or [`Response::NotReloaded`].
    Reload,
    /// Answered by [`Response::Status`].
    GetStatus,
}

/// What control answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The new configuration is in force.
    Reloaded(Reloaded),
    /// The old configuration stays in force.
    NotReloaded(NotReloaded),
    /// See [`Status`].
    Status(Box<Status>),
}

/// How a reload went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation that the dataplane runs; `None`: it is away and will be told when it is back.
    pub generation: Option<u64>,
    /// Changes that have no effect before a restart.
    pub warnings: Vec<String>,
    /// Services in the new configuration.
    pub services: usize,
    /// Real servers in the new configuration.
    pub real_servers: usize,
}

/// Why the old configuration stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotReloaded {
    /// Mistakes in the file, each with its place.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
    /// The dataplane refused it.
    #[error("the dataplane refused the new configuration: {0}")]
    Refused(String),
    /// Another reload has not ended.
    #[error("another reload is under way; try again when it has ended")]
    Busy,
}

/// How control is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The configuration file.
    pub config: String,
    /// The connection to the dataplane.
    pub dataplane: DataplaneLink,
    /// Reloads that took effect.
    pub reloads: u64,
    /// Reloads that were refused.
    pub reload_failures: u64,
    /// Every checked real server.
    pub health: Vec<Health>,
}

/// Control's connection to the dataplane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneLink {
    /// Whether it stands.
    pub connected: bool,
    /// The generation last applied.
    pub generation: u64,
    /// States applied since control's start.
    pub applied: u64,
    /// Why the connection does not stand, or why the dataplane refused the state.
    pub trouble: Option<String>,
}

/// Health of one real server of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The service.
    pub service: ServiceKey,
    /// The operator's name for it.
    pub name: String,
    /// RIP:rport.
    pub real: SocketAddr,
    /// Forwarding mode.
    pub mode: Mode,
    /// "up", "down" or "checking".
    pub state: String,
    /// Why the last check failed.
    pub error: Option<String>,
    /// Unix time in seconds since when the state holds.
    pub since_s: u64,
    /// Passed checks.
    pub passes: u64,
    /// Failed checks.
    pub failures: u64,
    /// Changes between up and down.
    pub changes: u64,
}
