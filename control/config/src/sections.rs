//! `[dataplane]`, `[control]` and `[timeouts]`.

use std::path::PathBuf;

use api::Timeouts;

use crate::counted;
use crate::model::{Control, Dataplane, HugePages, Idle, Steering};
use crate::reader::{Fault, Reader, Schema, choose};
use crate::value;

/// Connections that one table may be asked for; at some 200 bytes each this is 50 GiB.
const CONNECTIONS_LIMIT: u64 = 1 << 28;

pub(crate) const DATAPLANE: Schema = Schema {
    name: "[dataplane]",
    keys: &[
        "workers",
        "cpus",
        "memory_mib",
        "huge_pages",
        "idle",
        "idle_pause_max_us",
        "steering",
        "connections_max",
        "services_max",
        "real_servers_max",
        "mbufs",
        "api_socket",
        "instance",
        "punt_rate_limit",
        "seed",
        "eal_args",
    ],
    not_built: &[],
};

pub(crate) const CONTROL: Schema = Schema {
    name: "[control]",
    keys: &["metrics_listen", "socket", "log", "manage_addresses"],
    not_built: &[],
};

pub(crate) const TIMEOUTS: Schema = Schema {
    name: "[timeouts]",
    keys: &[
        "established",
        "syn_sent",
        "syn_recv",
        "fin_wait",
        "time_wait",
        "close",
        "close_wait",
        "last_ack",
        "udp",
    ],
    not_built: &[],
};

impl Default for Dataplane {
    fn default() -> Self {
        Dataplane {
            workers: 2,
            cpus: Vec::new(),
            memory_mib: 512,
            huge_pages: HugePages::Prefer,
            idle: Idle::Auto,
            idle_pause_max_us: 5,
            steering: Steering::Auto,
            connections_max: 1_000_000,
            services_max: 4096,
            real_servers_max: 16_384,
            mbufs: 0,
            api_socket: PathBuf::from("/run/tollgate/dataplane.sock"),
            instance: "tollgate".to_owned(),
            punt_rate_limit: 10_000,
            seed: None,
            eal_args: Vec::new(),
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Control {
            metrics_listen: Some(([127, 0, 0, 1], 9180).into()),
            socket: PathBuf::from("/run/tollgate/control.sock"),
            log: "info".to_owned(),
            manage_addresses: true,
        }
    }
}

/// What both programs are told, each its own socket.
pub(crate) fn programs(of_dataplane: &Reader<'_>, of_control: &Reader<'_>) -> (Dataplane, Control) {
    let (dataplane, control) = (dataplane(of_dataplane), control(of_control));
    if dataplane.api_socket == control.socket {
        let (table, key, other) = if of_control.has("socket") {
            (of_control, "socket", "`api_socket` in [dataplane]")
        } else {
            (of_dataplane, "api_socket", "`socket` in [control]")
        };
        table.unfit(key, format!("this is {other} too"), "give each program a socket of its own");
    }
    (dataplane, control)
}

fn dataplane(table: &Reader<'_>) -> Dataplane {
    let default = Dataplane::default();
    let whole = |key, range, or: u32| table.integer::<u32>(key, range).map_or(or, |at| at.value);
    let huge_pages =
        [("prefer", HugePages::Prefer), ("require", HugePages::Require), ("never", HugePages::Never)];
    let idle =
        [("auto", Idle::Auto), ("poll", Idle::Poll), ("pause", Idle::Pause), ("adaptive", Idle::Adaptive)];
    let workers = table.integer("workers", 1..=128).map_or(default.workers, |at| at.value);
    Dataplane {
        workers,
        cpus: cpus(table, workers),
        memory_mib: whole("memory_mib", 64..=1 << 20, default.memory_mib),
        huge_pages: table.choice("huge_pages", &huge_pages).map_or(default.huge_pages, |at| at.value),
        idle: table.choice("idle", &idle).map_or(default.idle, |at| at.value),
        idle_pause_max_us: whole("idle_pause_max_us", 1..=100, default.idle_pause_max_us),
        steering: table.parsed("steering", "\"auto\"", steering).map_or(default.steering, |at| at.value),
        connections_max: whole("connections_max", 1..=CONNECTIONS_LIMIT, default.connections_max),
        services_max: whole("services_max", 1..=1 << 20, default.services_max),
        real_servers_max: whole("real_servers_max", 1..=1 << 22, default.real_servers_max),
        mbufs: whole("mbufs", 0..=1 << 26, default.mbufs),
        api_socket: table
            .parsed("api_socket", "\"/run/tollgate/dataplane.sock\"", value::socket_path)
            .map_or(default.api_socket, |at| at.value),
        instance: table
            .parsed("instance", "\"tollgate\"", value::name)
            .map_or(default.instance, |at| at.value),
        punt_rate_limit: whole("punt_rate_limit", 0..=u64::from(u32::MAX), default.punt_rate_limit),
        // TOML's integers are signed, so half of the seeds can be written; that is enough of them.
        seed: table.integer_or_word("seed", 0..=i64::MAX as u64, "random"),
        eal_args: table
            .parsed_list("eal_args", "[\"--no-pci\"]", |text| Ok(text.to_owned()))
            .into_iter()
            .map(|at| at.value)
            .collect(),
    }
}

fn steering(text: &str) -> Result<Steering, Fault> {
    choose(
        text,
        &[
            ("auto", Steering::Auto),
            ("rss", Steering::Rss),
            ("flow", Steering::Flow),
            ("software", Steering::Software),
        ],
    )
}

fn cpus(table: &Reader<'_>, workers: u16) -> Vec<u32> {
    let items = table.list("cpus", "[2, 3]").unwrap_or_default();
    let listed = items.len();
    let found: Vec<_> = items.iter().filter_map(|item| item.integer::<u32>(0..=4095)).collect();
    for (at, cpu) in found.iter().enumerate() {
        if found[..at].iter().any(|other| other.value == cpu.value) {
            let message = format!("CPU {} is listed twice", cpu.value);
            table.fault(&cpu.span, "cpus", Fault::new(message, "list one CPU for each worker"));
        }
    }
    if let Some(first) = found.first().filter(|_| listed != usize::from(workers)) {
        let message = format!("{} for {}", counted(listed, "CPU"), counted(workers, "worker"));
        let help = "list one CPU for each worker, or none to leave the choice to Tollgate";
        table.fault(&first.span, "cpus", Fault::new(message, help));
    }
    found.into_iter().map(|at| at.value).collect()
}

fn control(table: &Reader<'_>) -> Control {
    let default = Control::default();
    let metrics_listen = if table.is_word("metrics_listen", "none") {
        None
    } else {
        let found = table.parsed("metrics_listen", "\"127.0.0.1:9180\"", value::endpoint);
        found.map_or(default.metrics_listen, |at| Some(at.value))
    };
    let socket = table.parsed("socket", "\"/run/tollgate/control.sock\"", value::socket_path);
    Control {
        metrics_listen,
        socket: socket.map_or(default.socket, |at| at.value),
        log: table.parsed("log", "\"info\"", value::log_filter).map_or(default.log, |at| at.value),
        manage_addresses: table.boolean("manage_addresses").unwrap_or(default.manage_addresses),
    }
}

/// Timeouts, with those of `base` where the table says nothing.
pub(crate) fn timeouts(table: &Reader<'_>, base: Timeouts) -> Timeouts {
    let read = |key, or: u32| table.parsed(key, "\"900s\"", value::seconds).map_or(or, |at| at.value);
    Timeouts {
        established_s: read("established", base.established_s),
        syn_sent_s: read("syn_sent", base.syn_sent_s),
        syn_recv_s: read("syn_recv", base.syn_recv_s),
        fin_wait_s: read("fin_wait", base.fin_wait_s),
        time_wait_s: read("time_wait", base.time_wait_s),
        close_s: read("close", base.close_s),
        close_wait_s: read("close_wait", base.close_wait_s),
        last_ack_s: read("last_ack", base.last_ack_s),
        udp_s: read("udp", base.udp_s),
    }
}
