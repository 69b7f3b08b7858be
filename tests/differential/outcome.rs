//! What came of a step, as lines that two gateways can be compared by.

use std::fmt;
use std::net::SocketAddr;

use anyhow::Result;

use crate::case::{Action, Gateway, Service};
use crate::describe::{describe, real_of};
use crate::frame::{Frame, Port};

/// Runs a step on a gateway. `services` is what is configured.
pub(crate) fn of(gateway: &mut dyn Gateway, action: &Action, services: &[Service]) -> Result<Vec<String>> {
    match action {
        Action::Send(frames) => Ok(send(gateway, frames)?.iter().map(describe).collect()),
        Action::Pick(frames) => {
            let out = send(gateway, frames)?;
            Ok(picks(frames, out).chunks(PICKS_PER_LINE).map(|line| line.join(" ")).collect())
        }
        Action::Connections(port) => {
            let mut all = gateway.connections(services)?;
            all.retain(|connection| port.is_none_or(|port| connection.client.port() == port));
            let mut lines: Vec<String> = all.iter().map(ToString::to_string).collect();
            lines.sort();
            Ok(lines)
        }
        Action::Counts => gateway.counts(services),
        Action::Traffic => gateway.traffic(services),
        Action::Configure(services) => gateway.configure(services).map(|()| Vec::new()),
        Action::Set(setting, on) => gateway.set(*setting, *on).map(|()| Vec::new()),
    }
}

/// Frames of the two ports, in their order: those of one port overtake those of the other.
fn send(gateway: &mut dyn Gateway, frames: &[Frame]) -> Result<Vec<Frame>> {
    let runs = frames.chunk_by(|one, next| one.port == next.port);
    runs.map(|run| gateway.send(run)).collect::<Result<Vec<_>>>().map(|out| out.concat())
}

/// Which real server got each of the frames; `-`: none did.
fn picks(frames: &[Frame], mut out: Vec<Frame>) -> Vec<String> {
    let pick = |frame: &Frame| {
        let at = out.iter().position(|out| out.port == Port::Lan && source(out) == source(frame));
        let real = at.and_then(|at| real_of(&out.remove(at)));
        real.map_or_else(|| "-".to_owned(), |n| n.to_string())
    };
    frames.iter().map(pick).collect()
}

/// Source address and port of an IPv4 packet without options.
fn source(frame: &Frame) -> Option<(&[u8], &[u8])> {
    Some((frame.bytes.get(26..30)?, frame.bytes.get(34..36)?))
}

const PICKS_PER_LINE: usize = 40;

/// A connection, as `ipvsadm -Lnc` shows it.
pub(crate) struct ConnectionLine {
    pub(crate) protocol: String,
    pub(crate) expires_s: u32,
    pub(crate) state: String,
    pub(crate) client: SocketAddr,
    pub(crate) virtual_: SocketAddr,
    pub(crate) real: SocketAddr,
}

/// Timeouts that occur, in seconds.
const TIMEOUTS_S: [u32; 9] = [2, 3, 10, 30, 60, 120, 300, 360, 900];
impl fmt::Display for ConnectionLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.expires_s;
        // What has run down, by at most one half on a busy machine, began at a timeout that there is.
        let from = TIMEOUTS_S.into_iter().find(|&t| t >= left && t - left <= t / 2);
        let left = from.map_or_else(|| format!("{left} s left"), |t| format!("{t} s"));
        let (protocol, state) = (&self.protocol, &self.state);
        write!(f, "{protocol} {state} {left}: {} > {} > {}", self.client, self.virtual_, self.real)
    }
}

/// The connections of a real server.
pub(crate) struct CountsLine {
    pub(crate) real: SocketAddr,
    pub(crate) weight: u64,
    pub(crate) active: u64,
    pub(crate) inactive: u64,
    pub(crate) persistent: u64,
}

impl fmt::Display for CountsLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (weight, active, inactive) = (self.weight, self.active, self.inactive);
        let persistent = self.persistent;
        write!(
            f,
            "{} weight {weight}: active {active} inactive {inactive} persistent {persistent}",
            self.real
        )
    }
}

/// The counters of a real server.
pub(crate) struct TrafficLine {
    pub(crate) real: SocketAddr,
    pub(crate) connections: u64,
    /// Packets and bytes.
    pub(crate) inbound: (u64, u64),
    pub(crate) outbound: (u64, u64),
}

impl fmt::Display for TrafficLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (real, connections) = (self.real, self.connections);
        let ((in_packets, in_bytes), (out_packets, out_bytes)) = (self.inbound, self.outbound);
        write!(f, "{real} connections {connections}, in {in_packets} packets {in_bytes} bytes, ")?;
        write!(f, "out {out_packets} packets {out_bytes} bytes")
    }
}
