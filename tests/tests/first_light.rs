//! The demo's claims, one test each: TCP over IPv4 through FULLNAT between real programs.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tollgate_tests::capture::flag;
use tollgate_tests::load::{self, Answers, Wrk};
use tollgate_tests::process::Bond;
use tollgate_tests::prometheus::Prometheus;
use tollgate_tests::rig::{CLIENTS, URL};
use tollgate_tests::wait::wait_for;
use tollgate_tests::{Rig, scenario};

#[test]
fn requests_of_two_clients_are_spread_by_weight() -> Result<()> {
    let rig = Rig::demo()?;
    let mut answers = Answers::default();
    for client in &rig.clients {
        answers.add(load::get_many(client, URL, 200)?);
    }
    assert_eq!(answers.failed, 0, "{answers:?}");
    for (server, share) in [("real1", 200), ("real2", 100), ("real3", 100)] {
        assert!(answers.of(server).abs_diff(share) <= 10, "{answers:?}");
    }
    rig.succeed()
}

#[test]
fn the_real_server_sees_a_local_address_and_is_told_the_clients_in_toa() -> Result<()> {
    let rig = Rig::demo()?;
    for (number, address) in CLIENTS.iter().enumerate() {
        let seen = scenario::what_real_server_sees(&rig, number, 254)?;
        let [syn, syn_ack, ack] = &seen.handshake;
        assert_eq!(seen.client.ip().to_string(), *address);
        assert_eq!(ack.toa(254), Some(seen.client));
        let pool: [IpAddr; 4] = [200, 201, 202, 203].map(|last| [10, 2, 0, last].into());
        assert!(pool.contains(&ack.from.ip()), "not of the local pool: {:?}", ack.from);
        assert!(syn.has_flags(flag::SYN) && syn_ack.has_flags(flag::SYN | flag::ACK));
        assert_eq!((syn.from, syn.to), (syn_ack.to, syn_ack.from));
    }
    rig.succeed()
}

#[test]
fn a_loaded_gateway_makes_no_errors() -> Result<()> {
    let rig = Rig::demo()?;
    for close in [false, true] {
        let report =
            Wrk { connections: 32, duration: Duration::from_secs(4), close }.run(&rig.clients[0], URL)?;
        assert!(report.errors == 0 && report.requests > 100, "close: {close}, {report:?}");
    }
    rig.succeed()
}

#[test]
fn a_dead_real_server_is_taken_out_and_brought_back() -> Result<()> {
    let mut rig = Rig::demo()?;
    let report = scenario::crash_and_return(&mut rig, 1, 200)?;
    assert_eq!(report.failed_after_out, 0, "{report:?}");
    assert!(report.answers_again, "{report:?}");
    // Two checks, 500 ms apart, have to fail.
    assert!(report.out_after < Duration::from_secs(5), "{report:?}");
    rig.succeed()
}

#[test]
fn a_reload_leaves_a_running_download_alone() -> Result<()> {
    let mut rig = Rig::demo()?;
    let report = scenario::reload_during_download(&mut rig, &[1, 1, 8])?;
    assert_eq!(report.sha256.0, report.sha256.1);
    assert!(report.generations.1 > report.generations.0, "{report:?}");
    assert!(report.answers.failed == 0 && report.answers.of("real3") >= 70, "{report:?}");
    rig.succeed()
}

#[test]
fn traffic_does_not_notice_that_control_is_killed_and_started_again() -> Result<()> {
    let mut rig = Rig::demo()?;
    let report = scenario::kill_control_under_load(&mut rig, Duration::from_secs(6))?;
    assert!(report.dataplane_unmoved && report.load.errors == 0 && report.load.requests > 100, "{report:?}");
    rig.wait_in_service(&[true; 3])?;
    rig.succeed()
}

#[test]
fn the_dataplane_is_told_everything_again_after_it_was_killed() -> Result<()> {
    let mut rig = Rig::demo()?;
    assert_eq!(load::get_many(&rig.clients[0], URL, 10)?.failed, 0);
    if let Some(mut dataplane) = rig.gateway.dataplane.take() {
        dataplane.kill()?;
    }
    rig.gateway.start_dataplane(&rig.gw)?;
    rig.wait_in_service(&[true; 3])?;
    // The twins are new: the first request may wait until addresses are back on them.
    wait_for("an answer", Duration::from_secs(10), || Ok(load::get(&rig.clients[0], URL).ok()))?;
    assert_eq!(load::get_many(&rig.clients[0], URL, 20)?.failed, 0);
    rig.succeed()
}

#[test]
fn prometheus_reads_the_same_counters_as_the_command_line() -> Result<()> {
    let rig = Rig::demo()?;
    let mut prometheus = Prometheus::start(&rig.gw, "127.0.0.1:9180", rig.dir(), Bond::DiesWithParent)?;
    prometheus.wait_for_query(&rig.gw, "up == 1")?;
    assert_eq!(load::get_many(&rig.clients[0], URL, 40)?.failed, 0);
    let stats = rig.gateway.json(&rig.gw, "stats")?;
    let total = &stats["services"][0]["total"]["connections"];
    assert_eq!(total, 40);
    prometheus.wait_for_query(&rig.gw, "tollgate_service_connections_total{service=\"web\"} == 40")?;
    prometheus.wait_for_query(&rig.gw, "sum(tollgate_real_server_connections_total) == 40")?;
    assert_eq!(prometheus.query(&rig.gw, "tollgate_real_server_healthy == 1")?.len(), 3);
    for family in [
        "tollgate_worker_connections",
        "tollgate_port_received_packets_total",
        "tollgate_drops_total",
        "tollgate_toa_total",
        "tollgate_connections",
        "tollgate_local_ports_in_use",
    ] {
        assert!(!prometheus.query(&rig.gw, family)?.is_empty(), "{family} is missing");
    }
    rig.succeed()
}
