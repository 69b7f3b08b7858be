//! Messages between control (or any other tool) and the dataplane, and their framing.
//!
//! A connection on the dataplane's unix socket starts with a greeting of fixed layout from each side
//! ([`frame::Greeting`]), so that two versions which do not understand each other can still say so. After it come
//! frames: a 4-byte little-endian length and a postcard-encoded [`Request`] or [`Response`]. Each request has
//! exactly one response, in order.
//!
//! The desired state is declarative: [`DesiredState`] holds everything, the dataplane applies the difference.
#![forbid(unsafe_code)]

pub mod frame;
mod state;
mod status;

pub use state::*;
pub use status::*;

use serde::{Deserialize, Serialize};

/// The version of every message here. Raised by any change of a message's shape.
pub const API_VERSION: u16 = 5;

/// What a client asks of the dataplane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Replace the desired state. Answered by [`Response::Applied`] when every worker runs it.
    Apply(Box<DesiredState>),
    /// Answered by [`Response::Status`].
    GetStatus,
    /// All counters. Answered by [`Response::Stats`].
    GetStats,
    /// A page of connections. Answered by [`Response::Connections`].
    GetConnections(ConnectionQuery),
}

/// What the dataplane answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The state with this generation is in force on every worker.
    Applied {
        /// The generation of the [`DesiredState`] that was applied.
        generation: u64,
    },
    /// See [`Status`].
    Status(Box<Status>),
    /// See [`Stats`].
    Stats(Box<Stats>),
    /// See [`ConnectionPage`].
    Connections(ConnectionPage),
    /// The request was understood but refused; the running state is untouched.
    Refused(Refusal),
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The frame did not decode.
    #[error("the request does not decode: {0}")]
    Malformed(String),
    /// The desired state asks for more than the dataplane was started with.
    #[error("{what}: {wanted} wanted, room for {limit}; raise [dataplane] {key} and restart the dataplane")]
    TooMany {
        /// What there is too much of, e.g. "services".
        what: String,
        /// How many the state has.
        wanted: u64,
        /// How many fit.
        limit: u64,
        /// The configuration key that raises the limit.
        key: String,
    },
    /// The desired state contradicts itself or the dataplane's abilities.
    #[error("{0}")]
    Invalid(String),
}
