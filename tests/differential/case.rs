//! What a case is: services, and steps that both gateways go through. Nothing here knows either of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::frame::{self, CLIENT, CLIENT6, Frame, VIP, VIP6};
use crate::outcome::ConnectionLine;

/// Counts by the names that the dataplane's API has for them.
pub(crate) type Counts = BTreeMap<String, u64>;

/// One case.
pub(crate) struct Case {
    /// The name of its recording.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) about: &'static str,
    /// What is configured before the first step.
    pub(crate) services: Vec<Service>,
    pub(crate) steps: Vec<Step>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Service {
    pub(crate) protocol: Protocol,
    pub(crate) virtual_: SocketAddr,
    /// ipvsadm's name for it.
    pub(crate) scheduler: &'static str,
    /// ipvsadm's names for them.
    pub(crate) flags: &'static [&'static str],
    pub(crate) one_packet: bool,
    /// Seconds.
    pub(crate) persistence: Option<u32>,
    pub(crate) reals: Vec<Real>,
}

/// A real server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Real {
    pub(crate) real: SocketAddr,
    pub(crate) mode: Mode,
    pub(crate) weight: u16,
    /// Upper and lower threshold; 0: none.
    pub(crate) thresholds: (u32, u32),
}

/// Forwarding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Dr,
    Nat,
    Ipip,
    Gre,
    GreChecksum,
    Gue,
    GueChecksum,
}

/// One step: something is done, and both gateways are asked what came of it.
pub(crate) struct Step {
    pub(crate) what: String,
    pub(crate) action: Action,
}

/// What is done.
pub(crate) enum Action {
    /// Frames go in; those that come out are told.
    Send(Vec<Frame>),
    /// Frames go in; told is to which real servers they went, in order.
    Pick(Vec<Frame>),
    /// The connections are listed: all of the case, or those from this client port.
    Connections(Option<u16>),
    /// The real servers' connections are counted.
    Counts,
    /// The real servers' counters of packets and bytes are read.
    Traffic,
    /// The configuration becomes this.
    Configure(Vec<Service>),
    /// A setting of IPVS, which is a setting of every service in Tollgate.
    Set(Setting, bool),
}

/// Settings for all of IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    ExpireNodestConn,
    ExpireQuiescentTemplate,
}

/// What has an outcome: a gateway of either kind.
pub(crate) trait Gateway {
    /// Makes this the whole configuration.
    fn configure(&mut self, services: &[Service]) -> Result<()>;
    /// Goes back to no services, default settings and nothing learnt.
    fn forget(&mut self) -> Result<()>;
    /// Changes a setting.
    fn set(&mut self, setting: Setting, on: bool) -> Result<()>;
    /// Puts frames in and tells what came out: of one port, then of the other.
    fn send(&mut self, frames: &[Frame]) -> Result<Vec<Frame>>;
    /// The connections of these services.
    fn connections(&mut self, services: &[Service]) -> Result<Vec<ConnectionLine>>;
    /// How many connections these services' real servers have, one line each.
    fn counts(&mut self, services: &[Service]) -> Result<Vec<String>>;
    /// What these services' real servers have had, one line each.
    fn traffic(&mut self, services: &[Service]) -> Result<Vec<String>>;
}

fn step(what: impl Into<String>, action: Action) -> Step {
    Step { what: what.into(), action }
}

pub(crate) fn send(what: impl Into<String>, frames: impl IntoIterator<Item = Frame>) -> Step {
    step(what, Action::Send(frames.into_iter().collect()))
}

pub(crate) fn pick(what: impl Into<String>, frames: impl IntoIterator<Item = Frame>) -> Step {
    step(what, Action::Pick(frames.into_iter().collect()))
}

pub(crate) fn connections() -> Step {
    step("connections", Action::Connections(None))
}

/// The connections from this client port.
pub(crate) fn connections_from(port: u16) -> Step {
    step("connections", Action::Connections(Some(port)))
}

pub(crate) fn counts() -> Step {
    step("counts", Action::Counts)
}

pub(crate) fn traffic() -> Step {
    step("traffic", Action::Traffic)
}

pub(crate) fn configure(what: impl Into<String>, services: Vec<Service>) -> Step {
    step(what, Action::Configure(services))
}

pub(crate) fn set(setting: Setting, on: bool) -> Step {
    step(format!("{setting:?} {}", if on { "on" } else { "off" }), Action::Set(setting, on))
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn client(self) -> IpAddr {
        match self {
            Family::V4 => CLIENT.into(),
            Family::V6 => CLIENT6.into(),
        }
    }

    pub(crate) fn vip(self) -> IpAddr {
        match self {
            Family::V4 => VIP.into(),
            Family::V6 => VIP6.into(),
        }
    }

    pub(crate) fn rip(self, n: u8) -> IpAddr {
        match self {
            Family::V4 => frame::rip(n).into(),
            Family::V6 => frame::rip6(n).into(),
        }
    }
}

impl Mode {
    /// The port of a real server of a service: only NAT can have another one. Each service has one of its
    /// own, since NAT tells connections apart by the real server's endpoint and the client's.
    fn real_port(self, virtual_port: u16) -> u16 {
        if self == Mode::Nat { virtual_port + 7000 } else { virtual_port }
    }
}

/// A service of its own for the case with this number, with as many real servers of weight 1.
pub(crate) fn service(family: Family, number: u16, protocol: Protocol, mode: Mode, reals: u8) -> Service {
    let virtual_ = SocketAddr::new(family.vip(), 1000 + number);
    let real = |n| Real {
        real: SocketAddr::new(family.rip(n), mode.real_port(virtual_.port())),
        mode,
        weight: 1,
        thresholds: (0, 0),
    };
    Service {
        protocol,
        virtual_,
        scheduler: "rr",
        flags: &[],
        one_packet: false,
        persistence: None,
        reals: (1..=reals).map(real).collect(),
    }
}

impl Service {
    /// Whether it is at this address and port.
    pub(crate) fn covers(&self, virtual_: SocketAddr) -> bool {
        self.virtual_.ip() == virtual_.ip() && [0, virtual_.port()].contains(&self.virtual_.port())
    }

    pub(crate) fn scheduler(mut self, name: &'static str) -> Service {
        self.scheduler = name;
        self
    }

    pub(crate) fn flags(mut self, flags: &'static [&'static str]) -> Service {
        self.flags = flags;
        self
    }

    /// With these weights, one for each real server.
    pub(crate) fn weights(mut self, weights: &[u16]) -> Service {
        for (real, weight) in self.reals.iter_mut().zip(weights) {
            real.weight = *weight;
        }
        self
    }

    /// Persistent for so many seconds.
    pub(crate) fn persistent(mut self, seconds: u32) -> Service {
        self.persistence = Some(seconds);
        self
    }

    /// With an upper and a lower threshold on every real server.
    pub(crate) fn thresholds(mut self, upper: u32, lower: u32) -> Service {
        for real in &mut self.reals {
            real.thresholds = (upper, lower);
        }
        self
    }

    /// At this port of its address; its real servers, too.
    pub(crate) fn port(mut self, port: u16) -> Service {
        self.virtual_.set_port(port);
        for real in &mut self.reals {
            real.real.set_port(port);
        }
        self
    }

    /// Without the `n`th real server.
    pub(crate) fn without(mut self, n: u8) -> Service {
        let gone = [Family::V4.rip(n), Family::V6.rip(n)];
        self.reals.retain(|real| !gone.contains(&real.real.ip()));
        self
    }
}
