//! New connections per second: every packet is the first of its connection, while older ones end.
//!
//! The file holds the first packets of more clients than fit the table, whose connections expire after a second when they
//! are not answered, as here. So each packet of a turn of the file finds no connection, a new one is made for it, and
//! another one has expired or, at more than a million and a half per second, is given up because the table is full.

use std::time::Duration;

use anyhow::{Result, ensure};
use api::Timeouts;

use crate::case::{Case, FLOWS_MOST, Family, Mode, Proto, Traffic};
use crate::flows::Flows;
use crate::gateway::{Gateway, Window, memory_mib};
use crate::machine::HugePages;
use crate::report::{Row, Spread, TOLLGATE};
use crate::throughput::{Plan, Replay};
use crate::turns::{Looks, WHOLE_CORE, least_calm};

/// Clients in the file.
const CLIENTS: u32 = 1 << 21;
/// Connections that fit: fewer, or at a high rate the first client would come again before its connection has expired,
/// keep it alive, and no packet would make a connection any more.
const CONNECTIONS_MAX: u32 = 3 << 19;
/// Time after which an unanswered connection expires: the shortest that there is.
const TIMEOUT_S: u32 = 1;
/// Time until as many end as are made.
const SETTLE: Duration = Duration::from_secs(3);
/// Windows in which less than this share of packets made a connection do not measure that: the counters are read one
/// after the other.
const NEW_MIN: f64 = 0.9;

/// What is measured.
pub(crate) fn cases(quick: bool) -> Vec<Case> {
    use Family::{Ipv4, Ipv6};
    use Mode::{Dr, Fullnat, Nat};
    use Proto::{Tcp, Udp};
    let all =
        [(Fullnat, Tcp, Ipv4), (Fullnat, Udp, Ipv4), (Fullnat, Tcp, Ipv6), (Nat, Udp, Ipv4), (Dr, Tcp, Ipv4)];
    let count = if quick { 2 } else { all.len() };
    let cases = all[..count]
        .iter()
        .filter_map(|(mode, proto, family)| Case::new(*mode, *proto, *family, Traffic::Inbound));
    cases.map(|case| Case { flows: CLIENTS, ..case }).collect()
}

/// Measures one case.
///
/// # Errors
/// When the gateway does not start or answer, or most packets made no connection.
pub(crate) fn run(plan: &Plan, case: Case) -> Result<Vec<Row>> {
    // Local ports enough for any number that may live.
    let mut flows = Flows::new(Case { flows: FLOWS_MOST, ..case })?;
    flows.timeouts =
        Timeouts { syn_sent_s: TIMEOUT_S, syn_recv_s: TIMEOUT_S, udp_s: TIMEOUT_S, ..Timeouts::default() };
    let replay = Replay::write(&plan.dir, [flows.first_frames(CLIENTS)])?;
    let _pages = HugePages::reserve(memory_mib(replay.frames) + 64)?;
    let mut setup = plan.setup(&flows, replay.device("net_pcap"), replay.frames);
    setup.connections_max = CONNECTIONS_MAX;
    let mut gateway = Gateway::launch(&setup, None)?;
    gateway.apply(&flows)?;
    std::thread::sleep(SETTLE);
    let turns = plan.patience.turns(WHOLE_CORE, || {
        gateway.halt()?;
        let mut looks = Looks::begin(&plan.cores, case.workers)?;
        let window = gateway.measure(plan.warm, plan.length)?;
        looks.look()?;
        Ok(looks.end(window))
    })?;
    let windows: Vec<&Window> = turns.iter().map(|turn| &turn.figures).collect();
    let made = |window: &&Window| window.created as f64 / window.rate.packets.max(1) as f64;
    let least = windows.iter().map(made).fold(f64::INFINITY, f64::min);
    ensure!(least > NEW_MIN, "only {:.0} % of packets made a connection", least * 100.0);
    let rates: Vec<f64> = windows.iter().map(|w| w.rate.mpps() * 1e6 * made(w)).collect();
    let shares: Vec<f64> = windows.iter().map(|window| window.rate.share()).collect();
    let detail = if case.proto == Proto::Tcp { "SYN" } else { "one datagram" };
    Ok(vec![Row {
        windows: windows.len(),
        cpu_share: Some(Spread::of(&shares).min),
        core_share: least_calm(&turns),
        dropped: Some(windows.iter().map(|window| window.dropped).sum()),
        all_forwarded: Some(windows.iter().all(|window| window.all_forwarded)),
        detail: Some(detail),
        ..Row::new("new_connections", TOLLGATE, &case, "connections/s", Spread::of(&rates))
    }])
}
