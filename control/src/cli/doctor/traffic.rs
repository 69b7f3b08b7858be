//! How full the gateway is, and what it drops.

use api::{Stats, Status, WorkerCounter, WorkerStatus};
use config::counted;

use super::super::status::{SCARCE_TOLD, more_scarce_text, scarce, scarce_text, sum};
use super::Finding;

/// A table is worth a note from this share on.
const TABLE_NOTE_PERCENT: u64 = 80;
/// A worker that finds packets in so many of its turns has little left.
const BUSY_NOTE: f64 = 0.9;

pub(super) fn workers(status: &Status) -> Vec<Finding> {
    const CHECK: &str = "workers";
    let mut found: Vec<Finding> = status.workers.iter().flat_map(worker).collect();
    if found.is_empty() {
        let (used, max) =
            (sum(status, |worker| worker.connections), sum(status, |worker| worker.connections_max));
        let workers = counted(status.workers.len(), "worker");
        let text = format!("{workers}, {used} of {}", counted(max, "connection"));
        found.push(Finding::ok(CHECK, text));
    }
    found
}

fn worker(worker: &WorkerStatus) -> Vec<Finding> {
    const CHECK: &str = "workers";
    let mut found = Vec::new();
    let id = worker.id;
    let larger = "connections_max in [dataplane]";
    if worker.table_full > 0 {
        let text = format!(
            "worker {id} refused {}, because its table was full",
            counted(worker.table_full, "connection")
        );
        found.push(Finding::problem(CHECK, text, larger));
    } else if worker.connections * 100 >= worker.connections_max.max(1) * TABLE_NOTE_PERCENT {
        let text = format!(
            "worker {id} has {} of {}",
            worker.connections,
            counted(worker.connections_max, "connection")
        );
        found.push(Finding::note(CHECK, text, larger));
    }
    if worker.busy >= BUSY_NOTE {
        let text =
            format!("worker {id} found packets in {:.0}% of its turns since the start", worker.busy * 100.0);
        found.push(Finding::note(CHECK, text, "more workers, each with a CPU"));
    }
    found
}

pub(super) fn local_ports(stats: &Stats) -> Vec<Finding> {
    const CHECK: &str = "local ports";
    const REMEDY: &str = "more addresses in the local pool";
    let scarce = scarce(stats);
    let finding = |text, has_refused| match has_refused {
        true => Finding::problem(CHECK, text, REMEDY),
        false => Finding::note(CHECK, text, REMEDY),
    };
    let told = scarce.iter().take(SCARCE_TOLD);
    let mut found: Vec<Finding> = told.map(|port| finding(scarce_text(port), port.exhausted > 0)).collect();
    if let Some(more) = scarce.get(SCARCE_TOLD..).filter(|more| !more.is_empty()) {
        found.push(finding(more_scarce_text(more.len()), more.iter().any(|port| port.exhausted > 0)));
    }
    found
}

/// So many reasons are shown.
const DROPS_SHOWN: usize = 5;
/// Reasons that mean that the gateway itself is short of something, and what helps.
const OURS: [(&str, &str); 7] = [
    ("tx_full", "the link is slower than the traffic; more `tx_descriptors`"),
    ("tx_ring_full", "a queue for each worker (`queues` of the port)"),
    ("handover_full", "more workers or CPUs of their own; a steering without hand-over"),
    ("table_full", "connections_max in [dataplane]"),
    ("local_ports_exhausted", "more addresses in the local pool"),
    ("no_real_server", "health checks and weights: `tollgate services`"),
    ("neighbour_unresolved", "a next hop that is down: `ip neigh` on the kernel twins"),
];

pub(super) fn drops(status: &Status, stats: &Stats) -> Vec<Finding> {
    const CHECK: &str = "drops";
    let count = |drop: &WorkerCounter| drop.per_worker.iter().sum::<u64>();
    let mut drops: Vec<&WorkerCounter> = stats.drops.iter().filter(|drop| count(drop) > 0).collect();
    drops.sort_by_key(|drop| std::cmp::Reverse(count(drop)));
    let received = sum(status, |worker| worker.rx_packets);
    if drops.is_empty() {
        return vec![Finding::ok(CHECK, format!("none of {}", counted(received, "packet")))];
    }
    let finding = |drop: &&WorkerCounter| {
        let text = format!("{} {}: {}", count(drop), drop.name, drop.help);
        match OURS.iter().find(|(name, _)| *name == drop.name) {
            Some((_, remedy)) => Finding::note(CHECK, text, *remedy),
            None => Finding::ok(CHECK, text),
        }
    };
    drops.iter().take(DROPS_SHOWN).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use api::LocalPortUse;

    use super::super::{Verdict, worst};
    use super::*;

    #[test]
    fn full_tables_and_busy_workers_are_told() {
        let with = |worker: WorkerStatus| workers(&Status { workers: vec![worker], ..Status::default() });
        let half = WorkerStatus { connections: 50, connections_max: 100, ..WorkerStatus::default() };
        assert_eq!(worst(&with(half.clone())), Verdict::Ok);
        assert_eq!(worst(&with(WorkerStatus { connections: 80, ..half.clone() })), Verdict::Note);
        assert_eq!(worst(&with(WorkerStatus { table_full: 1, ..half.clone() })), Verdict::Problem);
        // Else "0 found packets in 95% of its turns".
        assert!(
            with(WorkerStatus { busy: 0.95, ..half })[0].text.starts_with("worker 0 found packets in 95%")
        );
    }

    #[test]
    fn local_ports_that_run_out_are_a_problem() {
        let port = |in_use, exhausted| LocalPortUse {
            local: [10, 2, 0, 200].into(),
            real: ([10, 2, 0, 11], 80).into(),
            in_use,
            capacity: 100,
            exhausted,
        };
        let verdict = |port| {
            let stats = Stats { local_ports: vec![port], ..Stats::default() };
            worst(&local_ports(&stats))
        };
        assert_eq!(verdict(port(79, 0)), Verdict::Ok);
        assert_eq!(verdict(port(80, 0)), Verdict::Note);
        assert_eq!(verdict(port(10, 1)), Verdict::Problem);
        let many = |count: u64| Stats {
            local_ports: (0..count).map(|at| port(80 + at, u64::from(at == 0))).collect(),
            ..Stats::default()
        };
        let said: Vec<String> = local_ports(&many(12)).into_iter().map(|finding| finding.text).collect();
        assert_eq!(said.len(), SCARCE_TOLD + 1);
        assert!(said[0].starts_with("91 of 100 local ports of 10.2.0.200 "), "{said:?}");
        assert_eq!(said[10], "local ports are scarce for 2 more pairs of local address and real server");
        assert_eq!(
            worst(&local_ports(&many(12))),
            Verdict::Problem,
            "one of the last has refused a connection"
        );
        assert_eq!(local_ports(&many(10)).len(), 10);
    }

    #[test]
    fn the_most_frequent_drops_come_first_with_what_they_mean() {
        let drop = |name: &str, count| WorkerCounter {
            name: name.to_owned(),
            help: format!("what {name} is"),
            per_worker: vec![count, 0],
        };
        let stats = |drops| Stats { drops, ..Stats::default() };
        let none = drops(&Status::default(), &stats(vec![drop("tx_full", 0)]));
        assert_eq!((worst(&none), none.len()), (Verdict::Ok, 1));
        let many = ["a", "b", "c", "d", "e", "f"].map(|name| drop(name, 1));
        let found = drops(&Status::default(), &stats([&many[..], &[drop("handover_full", 9)]].concat()));
        assert_eq!(found.len(), DROPS_SHOWN);
        assert!(found[0].text.starts_with("9 handover_full: what handover_full is"), "{found:?}");
        assert_eq!((found[0].verdict, found[1].verdict), (Verdict::Note, Verdict::Ok));
    }
}
