//! Memory per connection: of table and index, and of the whole process with that many connections open.

use anyhow::Result;

use crate::case::{Case, FLOWS_MOST, Family, Mode, Proto, Traffic};
use crate::flows::{Flows, Opening};
use crate::gateway::{Gateway, memory_mib};
use crate::machine::HugePages;
use crate::report::{Row, Spread, TOLLGATE};
use crate::throughput::{Plan, Replay};

/// Connections of a quick run.
const FLOWS_QUICK: u32 = 1_000_000;
/// Frames that the data port replays, all of which are dropped: the port must not count.
const FILLERS: usize = 64;

/// Opens 10 million connections and looks at the process.
///
/// # Errors
/// When the gateway does not start or answer.
pub(crate) fn run(plan: &Plan, quick: bool) -> Result<Vec<Row>> {
    let Some(case) = Case::new(Mode::Fullnat, Proto::Udp, Family::Ipv4, Traffic::Inbound) else {
        return Ok(Vec::new());
    };
    let flows = Flows::new(Case { flows: if quick { FLOWS_QUICK } else { FLOWS_MOST }, ..case })?;
    let replay = Replay::write(&plan.dir, [vec![flows.filler_frame(); FILLERS]])?;
    let _pages = HugePages::reserve(memory_mib(replay.frames) + 64)?;
    let mut setup = plan.setup(&flows, replay.device("net_pcap"), replay.frames);
    setup.connections_max = flows.case.flows;
    let mut gateway = Gateway::with_connections(&setup, Opening::Whole)?;
    let table = gateway.bytes_per_connection()?;
    let process_mib = gateway.memory_kib()? as f64 / 1024.0;
    let row = |unit, value, detail| Row {
        detail: Some(detail),
        ..Row::new("memory", TOLLGATE, &flows.case, unit, Spread::exactly(value))
    };
    let per_connection = process_mib * 1_048_576.0 / f64::from(flows.case.flows);
    Ok(vec![
        row("bytes/connection", table, "record and index"),
        row("bytes/connection", per_connection, "whole process"),
        row("MiB", process_mib, "whole process"),
    ])
}
