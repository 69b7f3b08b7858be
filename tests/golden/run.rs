//! Runs cases on a dataplane and compares: with the case itself, with rules that hold for every frame, and with the
//! recording.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use api::{
    DesiredState, Protocol, RealServer, Request, Response, Scheduler, ServiceKey, StaticNeighbour,
    StaticRoute, Timeouts, ToaMode,
};
use wire::build::summary;

use crate::case::{Case, Counts, Step};
use crate::dataplane::{Dataplane, PATIENCE};
use crate::frame::{CLIENT, CLIENT_MAC, Conn, Frame, LIP, Port, REAL_MAC, RIP};
use crate::{recording, rules};

/// Everything that the cases need, in force at once.
pub(crate) fn apply(dataplane: &mut Dataplane, cases: &[Case]) -> Result<()> {
    let workers = dataplane.workers() as u16;
    let services = cases.iter().flat_map(|case| (0..case.conns).map(move |n| service(case, n, workers)));
    let mac = |port: &str, address: std::net::Ipv4Addr, mac: wire::MacAddr| StaticNeighbour {
        port: port.into(),
        address: address.into(),
        mac: mac.0,
    };
    let route = |port: &str, network: [u8; 4]| StaticRoute {
        network: network.into(),
        prefix_len: 24,
        via: None,
        port: port.into(),
    };
    // Nothing ends by itself while the test runs, however slow the machine is.
    let timeouts = Timeouts { syn_recv_s: 1000, close_s: 1000, last_ack_s: 1000, ..Timeouts::default() };
    let state = DesiredState {
        generation: 1,
        services: services.collect(),
        static_neighbours: vec![mac("wan", CLIENT, CLIENT_MAC), mac("lan", RIP, REAL_MAC)],
        static_routes: vec![route("wan", [10, 1, 0, 0]), route("lan", [10, 2, 0, 0])],
        timeouts,
    };
    let response = dataplane.ask_workers(&Request::Apply(Box::new(state)))?;
    ensure!(response == Response::Applied { generation: 1 }, "{response:?}");
    Ok(())
}

/// With one local port for each worker.
fn service(case: &Case, n: u16, workers: u16) -> api::Service {
    let conn = Conn::new(case.number, n);
    let first = Conn::local_port(case.number, n);
    let key = ServiceKey { protocol: Protocol::Tcp, virtual_: conn.virtual_.into() };
    api::Service {
        scheduler: Scheduler::Rr,
        toa: case.service.toa.map_or(ToaMode::Off, |kind| ToaMode::Option { kind }),
        local_addresses: vec![LIP.into()],
        local_ports: (first, first + workers - 1),
        real_servers: vec![RealServer { weight: case.service.weight, ..RealServer::new(conn.real.into()) }],
        ..api::Service::new(key, format!("{}-{n}", case.name))
    }
}

/// A step as it went.
pub(crate) struct Went {
    pub(crate) step: Step,
    pub(crate) sent: Vec<Frame>,
}

/// Runs a case: every step's frames and counts must be what the case says.
pub(crate) fn run(dataplane: &mut Dataplane, case: &Case, order: Order) -> Result<Vec<Went>> {
    let mut conns: Vec<Conn> = (0..case.conns).map(|n| Conn::new(case.number, n)).collect();
    let mut before = dataplane.counts()?;
    let mut went = Vec::new();
    for number in 0..(case.steps)(&conns).len() {
        let step = (case.steps)(&conns).swap_remove(number);
        let place = format!("{}: {}", case.name, step.what);
        dataplane.send(&step.input)?;
        let sent = dataplane.take_sent()?;
        learn_local_ports(case, &mut conns, &sent);
        let step = (case.steps)(&conns).swap_remove(number);
        compare(&sent, &step.output, order).with_context(|| place.clone())?;
        for frame in &sent {
            rules::check(frame, &step, &conns, case).with_context(|| place.clone())?;
        }
        before = compare_counts(dataplane, &before, &step.counts).context(place)?;
        went.push(Went { step, sent });
    }
    Ok(went)
}

/// With two workers a connection has the one or the other of two local ports, as its owner has it.
fn learn_local_ports(case: &Case, conns: &mut [Conn], sent: &[Frame]) {
    for frame in sent.iter().filter(|frame| frame.port == Port::Lan) {
        let Some(tcp) = wire::view::<wire::tcp::Header>(&frame.bytes, 34) else { continue };
        for (n, conn) in conns.iter_mut().enumerate() {
            let second = Conn::local_port(case.number, n as u16) + 1;
            if tcp.dst_port.get() == conn.real.1 && tcp.src_port.get() == second {
                conn.local.1 = second;
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

/// Compares with the recording, or records when the environment variable `UPDATE_GOLDEN` is set.
pub(crate) fn compare_with_recording(case: &Case, went: &[Went]) -> Result<()> {
    let folder = recording::folder();
    let recording = recording::Recording::of(case, went);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder)?;
        return recording.write(&folder, case.name);
    }
    recording.compare(&folder, case.name)
}

/// Ports by which a frame can be told to belong to a connection.
pub(crate) fn ports_of(conn: &Conn, port: Port) -> [(std::net::Ipv4Addr, u16); 2] {
    match port {
        Port::Wan => [conn.virtual_, conn.client],
        Port::Lan => [conn.local, conn.real],
    }
}
