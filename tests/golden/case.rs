//! What a case is: a service, and steps of frames in, frames out and counts.

use std::collections::BTreeMap;

use crate::frame::{Conn, Frame, Seg, client_ack, mss, syn, syn_ack};

/// One case. Another mode or protocol adds its own cases with its own `service` and frames.
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
    pub(crate) steps: fn(&[Conn]) -> Vec<Step>,
}

/// A service of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    /// Kind of the option that tells the client's address.
    pub(crate) toa: Option<u8>,
    /// Weight of its only real server.
    pub(crate) weight: u16,
}

impl Service {
    pub(crate) const TOA: Service = Service { toa: Some(254), weight: 1 };
}

/// Counts by the names that the API has for them.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Frames go in, frames come out, something is counted.
pub(crate) struct Step {
    pub(crate) what: String,
    pub(crate) input: Vec<Frame>,
    pub(crate) output: Vec<Frame>,
    pub(crate) counts: Counts,
}

pub(crate) fn step(what: impl Into<String>, input: Vec<Frame>) -> Step {
    Step { what: what.into(), input, output: Vec::new(), counts: Counts::new() }
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
    pub(crate) fn inbound_as(&self, what: &str, seg: &Seg, out: &Seg) -> Step {
        step(what, vec![self.client_sends(seg)]).gives(self.real_gets(out))
    }

    /// What a client sends reaches the real server as it is.
    pub(crate) fn inbound(&self, what: &str, seg: &Seg) -> Step {
        self.inbound_as(what, seg, seg)
    }

    /// What a client sends reaches the real server with its address in front of the options.
    pub(crate) fn inbound_with_toa(&self, what: &str, seg: &Seg) -> Step {
        self.inbound_as(what, seg, &seg.clone().with_first(&self.toa(254))).counts("toa_inserted", 1)
    }

    /// What a real server sends reaches the client as `out`.
    pub(crate) fn outbound_as(&self, what: &str, seg: &Seg, out: &Seg) -> Step {
        step(what, vec![self.real_sends(seg)]).gives(self.client_gets(out))
    }

    /// What a real server sends reaches the client as it is.
    pub(crate) fn outbound(&self, what: &str, seg: &Seg) -> Step {
        self.outbound_as(what, seg, seg)
    }

    /// A SYN that opens the connection.
    pub(crate) fn opens(&self, what: &str, syn: &Seg) -> Step {
        self.inbound(what, syn).counts("connections_created", 1)
    }

    /// SYN and SYN-ACK with MSS 1460.
    pub(crate) fn half_open(&self) -> Vec<Step> {
        vec![
            self.opens("SYN", &syn()),
            self.outbound_as("SYN-ACK, its MSS lowered", &syn_ack(), &syn_ack().options(&mss(1452)))
                .counts("mss_lowered", 1),
        ]
    }

    /// The whole handshake, TOA on its ACK.
    pub(crate) fn handshake(&self) -> Vec<Step> {
        let mut steps = self.half_open();
        steps.push(self.inbound_with_toa("ACK with TOA", &client_ack(0, 0)));
        steps
    }

    /// A handshake, then a byte each way, so that TOA is done with.
    pub(crate) fn settled(&self) -> Vec<Step> {
        let mut steps = self.handshake();
        steps.push(self.inbound_with_toa("one byte with TOA", &client_ack(0, 0).payload(1)));
        steps.push(self.outbound("its acknowledgement", &crate::frame::real_ack(0, 1)));
        steps
    }
}
