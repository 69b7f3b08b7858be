//! What a case is: a service, and steps of frames in, frames out and counts.

use std::collections::BTreeMap;

use api::{Protocol, TunnelKind};
use wire::Family;

use crate::conn::Conn;
use crate::frame::Frame;
use crate::load::{Load, Seg, client_ack, mss, real_ack, syn, syn_ack};

/// One case.
pub(crate) struct Case {
    /// The name of its files.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// Its addresses and ports follow from this; no two cases have the same.
    pub(crate) number: u16,
    /// How many connections (and services) it has, at most 10.
    pub(crate) conns: u16,
    /// What its services do.
    pub(crate) service: Service,
    /// What happens.
    pub(crate) steps: Steps,
}

/// What happens to connections.
pub(crate) type Steps = fn(&[Conn]) -> Vec<Step>;

impl Case {
    /// Its connections, as they are before anything is learnt of them.
    pub(crate) fn conns(&self) -> Vec<Conn> {
        (0..self.conns).map(|n| Conn::new(self.service, self.number, n)).collect()
    }
}

/// How packets get to the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    FullNat,
    Nat,
    Dr,
    Tun(TunnelKind),
}

impl Mode {
    /// Whether the real server answers clients itself.
    pub(crate) fn is_one_way(self) -> bool {
        matches!(self, Mode::Dr | Mode::Tun(_))
    }
}

/// The services of a case, all of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    pub(crate) mode: Mode,
    pub(crate) protocol: Protocol,
    /// Family of client and virtual address.
    pub(crate) outside: Family,
    /// Family of the real server.
    pub(crate) inside: Family,
    /// Kind of the option that tells the client's address.
    pub(crate) toa: Option<u8>,
    /// Weight of its only real server.
    pub(crate) weight: u16,
    /// Makes the services something special; their connections are then not those of the case alone.
    pub(crate) tune: Option<fn(&mut api::Service)>,
}

impl Service {
    /// TCP over IPv4 in FULLNAT with TOA.
    pub(crate) const TOA: Service =
        Service { toa: Some(254), ..Service::new(Mode::FullNat, Protocol::Tcp, [Family::V4; 2]) };

    /// Without TOA; families outside and inside.
    pub(crate) const fn new(mode: Mode, protocol: Protocol, [outside, inside]: [Family; 2]) -> Service {
        Service { mode, protocol, outside, inside, toa: None, weight: 1, tune: None }
    }

    /// Whether real servers are told of clients in a TCP option.
    pub(crate) fn tells_client(&self) -> bool {
        self.toa.is_some() && self.mode == Mode::FullNat && self.protocol == Protocol::Tcp
    }
}

/// Counts by the names that the API has for them.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Frames go in, frames come out, something is counted.
pub(crate) struct Step {
    pub(crate) what: String,
    pub(crate) input: Vec<Frame>,
    pub(crate) output: Vec<Frame>,
    pub(crate) counts: Counts,
    /// A connection, and the state that it is listed in afterwards, in IPVS's words.
    pub(crate) listed: Option<(Conn, &'static str)>,
}

pub(crate) fn step(what: impl Into<String>, input: Vec<Frame>) -> Step {
    Step { what: what.into(), input, output: Vec::new(), counts: Counts::new(), listed: None }
}

impl Step {
    pub(crate) fn gives(mut self, frame: Frame) -> Step {
        self.output.push(frame);
        self
    }

    pub(crate) fn counts(mut self, name: &str, n: u64) -> Step {
        if n > 0 {
            *self.counts.entry(name.to_owned()).or_default() += n;
        }
        self
    }

    /// Afterwards the connection is listed in this state.
    pub(crate) fn listed(mut self, conn: &Conn, state: &'static str) -> Step {
        self.listed = Some((conn.clone(), state));
        self
    }

    /// The kernel would get it, but these ports have no kernel twin: counted, and nothing on the wire.
    pub(crate) fn punted(self, class: &str) -> Step {
        let n = self.input.len() as u64;
        self.counts(&format!("punted_{class}"), n).counts("no_twin", n)
    }

    /// All of it is dropped for this reason.
    pub(crate) fn dropped(self, reason: &str) -> Step {
        let n = self.input.len() as u64;
        self.counts(reason, n)
    }
}

impl Conn {
    /// What a client sends reaches the real server as `out`.
    pub(crate) fn inbound_as<L: Load>(&self, what: &str, load: &L, out: &L) -> Step {
        step(what, vec![self.client_sends(load)]).gives(self.real_gets(out))
    }

    /// What a client sends reaches the real server as it is.
    pub(crate) fn inbound<L: Load>(&self, what: &str, load: &L) -> Step {
        self.inbound_as(what, load, load)
    }

    /// What a client sends reaches the real server with its address in front of the options.
    pub(crate) fn inbound_with_toa(&self, what: &str, seg: &Seg) -> Step {
        self.inbound_as(what, seg, &self.with_toa(seg)).counts("toa_inserted", 1)
    }

    /// What a client sends before the real server has the client's address reaches it with that, if it is to be told.
    pub(crate) fn told(&self, what: &str, seg: &Seg) -> Step {
        if self.service.tells_client() { self.inbound_with_toa(what, seg) } else { self.inbound(what, seg) }
    }

    /// With the client's address in front of the options.
    pub(crate) fn with_toa(&self, seg: &Seg) -> Seg {
        seg.clone().with_first(&self.toa(self.service.toa.unwrap_or(254)))
    }

    /// What a real server sends reaches the client as `out`.
    pub(crate) fn outbound_as<L: Load>(&self, what: &str, load: &L, out: &L) -> Step {
        step(what, vec![self.real_sends(load)]).gives(self.client_gets(out))
    }

    /// What a real server sends reaches the client as it is.
    pub(crate) fn outbound<L: Load>(&self, what: &str, load: &L) -> Step {
        self.outbound_as(what, load, load)
    }

    /// What opens the connection.
    pub(crate) fn opens<L: Load>(&self, what: &str, load: &L) -> Step {
        self.inbound(what, load).counts("connections_created", 1)
    }

    /// SYN and, where it comes this way, SYN-ACK with MSS 1460.
    pub(crate) fn half_open(&self) -> Vec<Step> {
        let mut steps = vec![self.opens("SYN", &syn())];
        if self.service.tells_client() {
            let lowered = syn_ack().options(&mss(1460 - self.toa(254).len() as u16));
            steps.push(
                self.outbound_as("SYN-ACK, its MSS lowered", &syn_ack(), &lowered).counts("mss_lowered", 1),
            );
        } else if !self.service.mode.is_one_way() {
            steps.push(self.outbound("SYN-ACK", &syn_ack()));
        }
        steps
    }

    /// The whole handshake, TOA on its ACK.
    pub(crate) fn handshake(&self) -> Vec<Step> {
        let mut steps = self.half_open();
        let what = if self.service.tells_client() { "ACK with TOA" } else { "ACK" };
        steps.push(self.told(what, &client_ack(0, 0)));
        steps
    }

    /// A handshake, then a byte each way, so that TOA is done with.
    pub(crate) fn settled(&self) -> Vec<Step> {
        let mut steps = self.handshake();
        let what = if self.service.tells_client() { "one byte with TOA" } else { "one byte" };
        steps.push(self.told(what, &client_ack(0, 0).payload(1)));
        if !self.service.mode.is_one_way() {
            steps.push(self.outbound("its acknowledgement", &real_ack(0, 1)));
        }
        steps
    }
}
