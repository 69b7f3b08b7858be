//! Runs cases on a dataplane and compares: with the case itself, with rules that hold for every frame, and with the
//! recording.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use api::{
    ConnectionQuery, DesiredState, RealServer, Request, Response, Scheduler, ServiceKey, StaticNeighbour,
    StaticRoute, Timeouts, ToaMode, Tunnel,
};
use wire::build::summary;
use wire::{MacAddr, ipv4};

use crate::case::{Case, Counts, Mode, Service, Step};
use crate::conn::{Conn, Marks, without_own_id};
use crate::dataplane::{Dataplane, PATIENCE};
use crate::frame::{CLIENT, CLIENT_MAC, CLIENT6, Frame, Port, REAL_MAC, RIP, RIP6, TUNNEL, TUNNEL6, either};
use crate::look::Packet;
use crate::{recording, rules};

/// Everything that the cases need, in force at once.
pub(crate) fn apply(dataplane: &mut Dataplane, cases: &[Case]) -> Result<()> {
    let workers = dataplane.workers() as u16;
    let services = cases.iter().flat_map(|case| (0..case.conns).map(move |n| service(case, n, workers)));
    // Nothing ends by itself while the test runs, however slow the machine is.
    let timeouts = Timeouts { syn_recv_s: 1000, close_s: 1000, last_ack_s: 1000, ..Timeouts::default() };
    let state = DesiredState {
        generation: 1,
        services: services.collect(),
        static_neighbours: vec![
            neighbour(Port::Wan, CLIENT, CLIENT_MAC),
            neighbour(Port::Wan, CLIENT6, CLIENT_MAC),
            neighbour(Port::Lan, RIP, REAL_MAC),
            neighbour(Port::Lan, RIP6, REAL_MAC),
        ],
        static_routes: Port::ALL.into_iter().flat_map(routes).collect(),
        timeouts,
    };
    let response = dataplane.ask_workers(&Request::Apply(Box::new(state)))?;
    ensure!(response == Response::Applied { generation: 1 }, "{response:?}");
    Ok(())
}

fn neighbour(port: Port, address: impl Into<IpAddr>, mac: MacAddr) -> StaticNeighbour {
    StaticNeighbour { port: port.name().into(), address: address.into(), mac: mac.0 }
}

/// The networks on a port's link.
fn routes(port: Port) -> [StaticRoute; 2] {
    let net = port as u8 + 1;
    let route = |network: IpAddr, prefix_len| StaticRoute {
        network,
        prefix_len,
        via: None,
        port: port.name().into(),
    };
    [
        route([10, net, 0, 0].into(), 24),
        route(Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, 0).into(), 64),
    ]
}

fn api_mode(service: &Service) -> api::Mode {
    match service.mode {
        Mode::FullNat => api::Mode::FullNat,
        Mode::Nat => api::Mode::Nat,
        Mode::Dr => api::Mode::Dr,
        Mode::Tun(kind) => api::Mode::Tun(Tunnel { kind, source: either(service.inside, TUNNEL, TUNNEL6) }),
    }
}

/// With one local port for each worker.
fn service(case: &Case, n: u16, workers: u16) -> api::Service {
    let conn = &case.conns()[usize::from(n)];
    let first = Conn::local_port(case.number, n);
    let key = ServiceKey { protocol: conn.service.protocol, virtual_: conn.virtual_.into() };
    let mode = api_mode(&conn.service);
    let real = RealServer { weight: case.service.weight, mode, ..RealServer::new(conn.real.into()) };
    let mut service = api::Service {
        scheduler: Scheduler::Rr,
        toa: case.service.toa.map_or(ToaMode::Off, |kind| ToaMode::Option { kind }),
        local_addresses: if mode == api::Mode::FullNat { vec![conn.local.0] } else { Vec::new() },
        local_ports: (first, first + workers - 1),
        real_servers: vec![real],
        ..api::Service::new(key, format!("{}-{n}", case.name))
    };
    if let Some(tune) = case.service.tune {
        tune(&mut service);
    }
    service
}

/// A step as it went.
pub(crate) struct Went {
    pub(crate) step: Step,
    pub(crate) sent: Vec<Frame>,
}

/// Runs a case: every step's frames and counts must be what the case says.
pub(crate) fn run(dataplane: &mut Dataplane, case: &Case, order: Order) -> Result<Vec<Went>> {
    let mut conns = case.conns();
    let mut before = dataplane.counts()?;
    let mut went = Vec::new();
    for number in 0..(case.steps)(&conns).len() {
        let step = (case.steps)(&conns).swap_remove(number);
        let place = format!("{}: {}", case.name, step.what);
        dataplane.send(&step.input)?;
        let sent = dataplane.take_sent()?;
        learn(case, &mut conns, &sent);
        let step = (case.steps)(&conns).swap_remove(number);
        for frame in &sent {
            rules::check(frame, &step, &conns, case).with_context(|| place.clone())?;
        }
        let sent: Vec<Frame> = sent.iter().map(without_own_id).collect();
        let expected: Vec<Frame> = step.output.iter().map(without_own_id).collect();
        compare(&sent, &expected, order).with_context(|| place.clone())?;
        before = compare_counts(dataplane, &before, &step.counts).with_context(|| place.clone())?;
        if let Some((conn, state)) = &step.listed {
            compare_listed(dataplane, conn, state).context(place)?;
        }
        went.push(Went { step, sent });
    }
    Ok(went)
}

/// Takes from frames what the gateway may choose: with two workers a connection has the one or the other of two local
/// ports, as its owner has it, and what a tunnel's flows are spread by is the gateway's affair. Whatever came first
/// has to stay.
fn learn(case: &Case, conns: &mut [Conn], sent: &[Frame]) {
    for frame in sent.iter().filter(|frame| frame.port == Port::Lan) {
        let Some(outer) = Packet::of(frame.packet()) else { continue };
        let marks = Marks { port: outer.ports().map_or(0, |[src, _]| src), label: outer.flow_label };
        let is_tunnel = outer.inner().is_some();
        let inner = outer.innermost();
        let is_error = matches!(inner.protocol, ipv4::PROTO_ICMP | ipv4::PROTO_ICMPV6);
        for (n, conn) in conns.iter_mut().enumerate() {
            let second = Conn::local_port(case.number, n as u16) + 1;
            if conn.service.mode == Mode::FullNat && inner.ports() == Some([second, conn.real.1]) {
                conn.local.1 = second;
            }
            if is_tunnel && (is_error || inner.ports() == Some([conn.client.1, conn.virtual_.1])) {
                let known = if is_error { &mut conn.error_marks } else { &mut conn.marks };
                if *known == Marks::default() {
                    *known = marks;
                }
            }
        }
    }
}

/// Whether the order of frames counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Same,
    Any,
}

/// Frames that left against those that should have; an error shows both.
fn compare(sent: &[Frame], expected: &[Frame], order: Order) -> Result<()> {
    let sorted = |frames: &[Frame]| {
        let mut frames = frames.to_vec();
        match order {
            // Each port is a file of its own; only the order within it is known.
            Order::Same => frames.sort_by_key(|frame| frame.port),
            Order::Any => frames.sort(),
        }
        frames
    };
    let show =
        |frames: &[Frame]| -> String { frames.iter().map(|frame| format!("\n  {}", line(frame))).collect() };
    ensure!(sorted(sent) == sorted(expected), "\nleft:{}\nexpected:{}", show(sent), show(expected));
    Ok(())
}

fn line(frame: &Frame) -> String {
    let hex: String = frame.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {}\n      {hex}", frame.port.name(), summary(&frame.bytes))
}

/// Waits for the expected differences (the slow path counts a little later) and refuses all others.
fn compare_counts(dataplane: &mut Dataplane, before: &Counts, expected: &Counts) -> Result<Counts> {
    let mut wanted = before.clone();
    for (name, n) in expected {
        *wanted.get_mut(name).with_context(|| format!("no counter is called {name}"))? += n;
    }
    let deadline = Instant::now() + PATIENCE / 10;
    loop {
        let now = dataplane.counts()?;
        if now == wanted {
            return Ok(now);
        }
        let mut differing = now.iter().filter(|(name, n)| wanted.get(*name) != Some(n));
        let too_many = differing.clone().any(|(name, n)| wanted.get(name).is_none_or(|wanted| n > wanted));
        ensure!(
            !too_many && Instant::now() < deadline,
            "counted {}; expected {expected:?}",
            differing
                .by_ref()
                .map(|(name, n)| format!("{name} +{}", n - before[name]))
                .collect::<Vec<_>>()
                .join(", ")
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Asks for the connection and compares all that is known of it.
fn compare_listed(dataplane: &mut Dataplane, conn: &Conn, state: &str) -> Result<()> {
    let key = ServiceKey { protocol: conn.service.protocol, virtual_: conn.virtual_.into() };
    let query = ConnectionQuery { service: Some(key), limit: 10, ..ConnectionQuery::default() };
    let Response::Connections(page) = dataplane.ask_workers(&Request::GetConnections(query))? else {
        bail!("the answer is no page of connections");
    };
    let of_client = page.connections.iter().find(|listed| listed.client == conn.client.into());
    let listed = of_client.with_context(|| format!("{} is not listed in {page:?}", conn.client.1))?;
    let local = (conn.service.mode == Mode::FullNat).then(|| conn.local.into());
    ensure!(
        listed.state == state
            && (listed.virtual_, listed.real) == (conn.virtual_.into(), conn.real.into())
            && (listed.local, listed.mode) == (local, api_mode(&conn.service)),
        "expected {state}; listed is {listed:?}"
    );
    Ok(())
}

/// Compares with the recording, or records when the environment variable `UPDATE_GOLDEN` is set.
pub(crate) fn compare_with_recording(case: &Case, went: &[Went]) -> Result<()> {
    let folder = recording::folder(case.name);
    let recording = recording::Recording::of(case, went);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder)?;
        return recording.write(&folder, case.name);
    }
    recording.compare(&folder, case.name)
}
