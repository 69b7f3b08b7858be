//! The deterministic simulator: real TCP stacks on both sides of the real engine, in virtual time, driven by one seed.
//!
//! Clients and real servers are smoltcp stacks whose programs send each other byte streams that tell where they come
//! from. Between them are links that lose, double, delay, reorder and corrupt, paths that cut packets, an enemy who
//! forges, an operator who changes the configuration, and a gateway of one to four workers that may crash. What must
//! hold is written in `oracle` (packets) and `world` (streams, tables, counters).
//!
//! - `TOLLGATE_SIM_SEEDS=5000` runs that many seeds (1,000 by default),
//! - `TOLLGATE_SIM_SEED=123` runs that one and prints every packet.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is a test")]

mod faults;
mod forge;
mod fragments;
mod gateway;
mod host;
mod judge;
mod link;
mod operator;
mod oracle;
mod packet;
mod preface;
mod rng;
mod rules;
mod stream;
mod topology;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use engine::snapshot::{Mode, Scheduler};
use faults::Fault;
use wire::proxy::Version;
use world::{Options, Report};

const SEEDS_DEFAULT: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: give a whole number")))
}

/// Runs one seed; a panic of the engine or of a stack is a failure like any other.
fn try_seed(seed: u64, options: Options) -> Result<Report, String> {
    match std::panic::catch_unwind(|| world::run(seed, options)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("of unknown kind")))
        }
    }
}

fn failure(seed: u64, error: &str) -> String {
    format!(
        "seed {seed}: {error}\nreplay: TOLLGATE_SIM_SEED={seed} cargo test -p tollgate-tests --test simulator \
         every_byte_stream_arrives_whole -- --nocapture"
    )
}

/// Seeds `0..seeds` on all cores; what they did in all, and every failure.
fn run_all(seeds: u64, options: Options) -> (Report, Vec<String>) {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let result = Mutex::new((Report::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let one = try_seed(seed, options);
                    let mut result = result.lock().unwrap();
                    match one {
                        Ok(report) => result.0.add(&report),
                        Err(error) => result.1.push(failure(seed, &error)),
                    }
                    // A few show what is wrong; hundreds of the same kind only take time.
                    stop.store(result.1.len() >= 20, Relaxed);
                }
            });
        }
    });
    result.into_inner().unwrap()
}

#[test]
fn every_byte_stream_arrives_whole() {
    if let Some(seed) = number("TOLLGATE_SIM_SEED") {
        let report = try_seed(seed, Options { trace: true, ..Options::default() });
        let report = report.unwrap_or_else(|error| panic!("{}", failure(seed, &error)));
        eprintln!("{report:#?}");
        return;
    }
    let seeds = number("TOLLGATE_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let (report, failures) = run_all(seeds, Options::default());
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n\n"));
    eprintln!("{report:#?}");
    // A world in which nothing happens proves nothing.
    let seen = report.seen;
    assert!(report.whole > report.connections / 2, "{report:?}");
    assert!(report.told > 0, "{report:?}");
    assert!(report.reused > 0 && seen.missing().is_empty(), "{:?} in {report:?}", seen.missing());
    let every = || topology::SCHEDULERS.into_iter().chain([Scheduler::Dh]);
    let modes = [Mode::FullNat, Mode::Nat, Mode::Dr, Mode::Tun];
    let missing: Vec<_> = every()
        .flat_map(|scheduler| modes.map(|mode| (scheduler, mode)))
        .filter(|pair| !report.scheduled.contains(pair))
        .collect();
    assert!(missing.is_empty(), "never scheduled: {missing:?}");
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..40 {
        let runs: Vec<Report> = (0..2).map(|_| try_seed(seed, Options::default()).unwrap()).collect();
        assert_eq!(runs[0].fingerprint, runs[1].fingerprint, "seed {seed} went two ways");
        assert_eq!(runs[0].events, runs[1].events);
    }
}

/// The first complaint about a gateway with this fault.
fn complaint(fault: Fault, blind: bool) -> String {
    let options = Options { fault, blind, ..Options::default() };
    (0..300)
        .find_map(|seed| world::run(seed, options).err().map(|error| format!("seed {seed}: {error}")))
        .unwrap_or_else(|| panic!("{fault:?} (blind: {blind}) goes unnoticed"))
}

fn assert_complaint(fault: Fault, expected: &str) {
    let complaint = complaint(fault, false);
    assert!(complaint.contains(expected), "{fault:?} gives: {complaint}");
}

#[test]
fn a_wrong_checksum_is_noticed() {
    assert_complaint(Fault::WrongChecksum, "TCP checksum");
}

#[test]
fn a_covered_up_corruption_is_noticed() {
    assert_complaint(Fault::HealedChecksum, "TCP checksum");
}

#[test]
fn a_ttl_that_stays_is_noticed() {
    assert_complaint(Fault::KeptTtl, "TTL");
}

#[test]
fn a_lost_toa_option_is_noticed() {
    assert_complaint(Fault::DroppedToa, "without TOA");
}

#[test]
fn a_lying_toa_option_is_noticed() {
    assert_complaint(Fault::WrongToa, "TOA says");
}

#[test]
fn a_forged_option_that_gets_through_is_noticed() {
    assert_complaint(Fault::LeakedToa, "address option");
}

#[test]
fn a_lost_uoa_option_is_noticed() {
    assert_complaint(Fault::DroppedUoa, "without UOA");
}

#[test]
fn lying_uoa_is_noticed() {
    assert_complaint(Fault::WrongUoa, "UOA says");
}

#[test]
fn forged_uoa_that_gets_through_is_noticed() {
    assert_complaint(Fault::LeakedUoa, "IP options");
}

#[test]
fn real_servers_alone_notice_that_uoa_lies() {
    let complaint = complaint(Fault::WrongUoa, true);
    assert!(complaint.contains("is told"), "{complaint}");
}

#[test]
fn a_swapped_local_port_is_noticed() {
    assert_complaint(Fault::SwappedPort, "without SYN goes to");
}

#[test]
fn a_client_address_at_the_real_server_is_noticed() {
    assert_complaint(Fault::KeptClient, "is no local address");
}

#[test]
fn a_reply_to_the_wrong_client_is_noticed() {
    assert_complaint(Fault::SwappedClient, "gets what is");
}

#[test]
fn a_changed_payload_is_noticed() {
    assert_complaint(Fault::WrongPayload, "payload");
}

#[test]
fn a_changed_fragment_is_noticed() {
    assert_complaint(Fault::WrongFragment, "later fragment");
    assert_complaint(Fault::WrongFragmentChecksum, "checksum");
}

#[test]
fn the_streams_alone_notice_what_the_packets_would_have_told() {
    let wrong_bytes = complaint(Fault::WrongPayload, true);
    assert!(wrong_bytes.contains("greeting") || wrong_bytes.contains("wrong bytes"), "{wrong_bytes}");
    for fault in [Fault::WrongChecksum, Fault::SwappedPort, Fault::StrayRst] {
        let complaint = complaint(fault, true);
        assert!(
            complaint.contains("was cut") || complaint.contains("come to rest"),
            "{fault:?} gives: {complaint}"
        );
    }
}

/// Every seed once with version 1 and once with version 2. Only streams are looked at: what the header does to single
/// packets is in the engine's own tests.
#[test]
fn real_servers_read_the_proxy_header_once_whatever_the_links_do() {
    let seeds = number("TOLLGATE_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT) / 2;
    for version in [Version::V1, Version::V2] {
        let options = Options { proxy: Some(version), blind: true, ..Options::default() };
        let (report, failures) = run_all(seeds, options);
        assert!(failures.is_empty(), "{version:?}: {} failures\n{}", failures.len(), failures.join("\n\n"));
        assert!(report.prefaces > report.connections / 4, "{version:?}: {report:?}");
    }
}

/// A gateway that tells nothing, or other than it is, does not get past these real servers.
#[test]
fn a_missing_proxy_header_is_noticed() {
    let options = Options { proxy: Some(Version::V2), fault: Fault::NoPreface, ..Options::default() };
    let complaint = (0..100).find_map(|seed| world::run(seed, Options { blind: true, ..options }).err());
    let complaint = complaint.expect("goes unnoticed");
    assert!(complaint.contains("no PROXY header"), "{complaint}");
}
