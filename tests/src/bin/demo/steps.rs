//! The eight steps.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tollgate_tests::capture::Segment;
use tollgate_tests::load::{self, Answers, Wrk};
use tollgate_tests::process::Bond;
use tollgate_tests::prometheus::Prometheus;
use tollgate_tests::rig::{CLIENTS, URL};
use tollgate_tests::scenario;
use tollgate_tests::{Cmd, Rig};

use crate::say::Say;

/// The TOA option's kind in `configs/demo.toml`.
const TOA_KIND: u8 = 254;
/// How long wrk loads the gateway.
const LOAD_TIME: Duration = Duration::from_secs(10);

/// Runs all of them.
pub(crate) fn all(rig: &mut Rig, say: &mut Say) -> Result<()> {
    requests(rig, say)?;
    client_address(rig, say)?;
    tables(rig, say)?;
    under_load(rig, say)?;
    real_server_crashes(rig, say)?;
    reload(rig, say)?;
    control_dies(rig, say)?;
    metrics(rig, say)
}

fn requests(rig: &Rig, say: &mut Say) -> Result<()> {
    say.step("400 requests by curl, 200 from each client");
    let mut answers = Answers::default();
    for client in &rig.clients {
        answers.add(load::get_many(client, URL, 200)?);
    }
    say.note(split(&answers));
    say.claim(answers.answered() == 400 && answers.failed == 0, "all 400 are answered")?;
    // Each worker spreads its own connections, so a few may be off.
    let expected = [("real1", 200), ("real2", 100), ("real3", 100)];
    let close = expected.iter().all(|(server, share)| answers.of(server).abs_diff(*share) <= 10);
    say.claim(close, "split 2 : 1 : 1, as the weights say")
}

fn client_address(rig: &Rig, say: &mut Say) -> Result<()> {
    say.step(
        "What real1 sees: the gateway's local address, and the client's real one in TCP option 254 (TOA)",
    );
    let mut clients = Vec::new();
    for (number, address) in CLIENTS.iter().enumerate() {
        let seen = scenario::what_real_server_sees(rig, number, TOA_KIND)?;
        let [_, _, ack] = &seen.handshake;
        for segment in &seen.handshake {
            say.note(decoded(segment));
        }
        let local = (200..=203).any(|last| ack.from.ip() == IpAddr::from([10, 2, 0, last]));
        say.claim(local, format!("its peer is the local address {}", ack.from.ip()))?;
        let right =
            ack.toa(TOA_KIND) == Some(seen.client) && seen.client.ip() == address.parse::<IpAddr>()?;
        say.claim(
            right,
            format!("option 254 of the handshake's ACK names client{} as {}", number + 1, seen.client),
        )?;
        if number == 0 {
            let tshark = Cmd::line("tshark -n -c 3 -T fields -e ip.src -e tcp.flags.str -e tcp.options -r");
            say.show(
                "tshark: source, flags, option bytes (fe = 254)",
                &tshark.arg(&seen.capture).run()?.stdout,
            );
        }
        clients.push(seen.client.to_string());
    }
    access_log(rig, say, &clients)
}

/// The receiver shows nginx the same address, so it stands in its log.
fn access_log(rig: &Rig, say: &mut Say, clients: &[String]) -> Result<()> {
    let logged = rig.nginx[0].logged()?;
    let last = logged.len().saturating_sub(2);
    say.show("the last lines of the access log of nginx on real1", &logged[last..].join("\n"));
    let all = clients.iter().all(|client| logged.contains(client));
    say.claim(all, "nginx logs both clients' addresses and ports, not the gateway's")?;
    let strange = logged.iter().filter(|line| CLIENTS.iter().all(|client| !line.starts_with(client))).count();
    say.claim(strange == 0, format!("no other address in its {} lines", logged.len()))?;
    let receiver = rig.receiver.as_ref().context("the demo has a receiver")?;
    say.show("tollgate-toa status", &receiver.status()?);
    Ok(())
}

fn decoded(segment: &Segment) -> String {
    let flags = match segment.flags & 0x12 {
        0x02 => "SYN",
        0x12 => "SYN,ACK",
        _ => "ACK",
    };
    let toa = segment.toa(TOA_KIND).map_or(String::new(), |client| format!("  option 254: {client}"));
    format!("{:<18} → {:<18} {flags:<8}{toa}", segment.from.to_string(), segment.to.to_string())
}

fn tables(rig: &Rig, say: &mut Say) -> Result<()> {
    say.step("The service table, and some connections");
    say.show("tollgate services", &rig.gateway.cli(&rig.gw, "services")?);
    say.show("tollgate connections --limit 6", &rig.gateway.cli(&rig.gw, "connections --limit 6")?);
    let stats = rig.gateway.json(&rig.gw, "stats")?;
    let total = &stats["services"][0]["total"]["connections"];
    let scheduled = total.as_u64().context("no connections in the statistics")?;
    say.claim(scheduled >= 400, format!("the table counts {scheduled} connections, the 400 among them"))
}

fn under_load(rig: &Rig, say: &mut Say) -> Result<()> {
    say.step(&format!("wrk for {} s with 32 connections", LOAD_TIME.as_secs()));
    let report = Wrk { connections: 32, duration: LOAD_TIME, close: false }.run(&rig.clients[0], URL)?;
    let (mean, p99) = &report.latency;
    say.note(format!("{:.0} requests/s, latency {mean} on average, {p99} for 99 %", report.per_second));
    say.claim(report.errors == 0 && report.requests > 0, format!("{} requests, no error", report.requests))
}

fn real_server_crashes(rig: &mut Rig, say: &mut Say) -> Result<()> {
    say.step("nginx of real2 is killed, 200 requests and more go on");
    let report = scenario::crash_and_return(rig, 1, 200)?;
    say.note(format!(
        "the health check took it out after {:.2} s; {} of {} requests failed until then",
        report.out_after.as_secs_f32(),
        report.failed,
        report.requests
    ));
    say.claim(report.failed_after_out == 0, "no request failed afterwards")?;
    let back = report.back_after.as_secs_f32();
    say.claim(report.answers_again, format!("nginx started again: real2 answers again after {back:.2} s"))
}

fn reload(rig: &mut Rig, say: &mut Say) -> Result<()> {
    say.step("A reload that changes the weights to 1 : 1 : 8, during a download of 200 MB");
    let report = scenario::reload_during_download(rig, &[1, 1, 8])?;
    let (before, after) = report.generations;
    let megabytes = |bytes: u64| bytes / 1_000_000;
    say.note(format!(
        "reloaded at {} MB, in force and tried out at {} MB: {}",
        megabytes(report.progress.0),
        megabytes(report.progress.1),
        split(&report.answers)
    ));
    say.claim(after > before, format!("generation {before} became {after}"))?;
    say.claim(
        report.answers.failed == 0 && report.answers.of("real3") >= 70,
        "new connections follow the new weights",
    )?;
    let (expected, came) = &report.sha256;
    say.claim(expected == came, format!("the download arrived whole: SHA-256 {}…", &came[..16]))?;
    rig.gateway.change_config(|config| config.set_weights(&[2, 1, 1]))?;
    rig.gateway.cli(&rig.gw, "reload")?;
    Ok(())
}

fn control_dies(rig: &mut Rig, say: &mut Say) -> Result<()> {
    say.step("kill -9 of tollgate-control in the middle of wrk, a new connection for each request");
    let report = scenario::kill_control_under_load(rig, LOAD_TIME)?;
    say.note(format!("{:.0} connections/s", report.load.per_second));
    say.claim(report.dataplane_unmoved, "the dataplane did not notice")?;
    let requests = report.load.requests;
    say.claim(report.load.errors == 0 && requests > 0, format!("{requests} requests, no error"))?;
    rig.wait_in_service(&[true; 3])?;
    say.claim(true, "control is back and every real server in service")
}

fn metrics(rig: &Rig, say: &mut Say) -> Result<()> {
    say.step("Metrics, scraped by a real Prometheus and asked for through its API");
    let mut prometheus = Prometheus::start(&rig.gw, "127.0.0.1:9180", rig.dir(), Bond::DiesWithParent)?;
    prometheus.wait_for_query(&rig.gw, "up{job=\"tollgate\"} == 1")?;
    say.claim(true, "Prometheus scrapes tollgate-control")?;
    load::get_many(&rig.clients[0], URL, 50)?;
    let stats = rig.gateway.json(&rig.gw, "stats")?;
    let total = &stats["services"][0]["total"]["connections"];
    prometheus.wait_for_query(
        &rig.gw,
        &format!("tollgate_service_connections_total{{service=\"web\"}} == {total}"),
    )?;
    say.claim(true, format!("it counts {total} connections, as `tollgate stats` does"))?;
    for (query, label) in [
        ("tollgate_real_server_connections_total", "real"),
        ("sum by (state) (tollgate_connections) > 0", "state"),
        ("sum by (result) (tollgate_toa_total) > 0", "result"),
        ("sum by (reason) (tollgate_drops_total) > 0", "reason"),
    ] {
        let samples = prometheus.query(&rig.gw, query)?;
        let values: Vec<_> =
            samples.iter().map(|sample| format!("{} {}", sample.label(label), sample.value)).collect();
        say.note(format!(
            "{query}: {}",
            if values.is_empty() { "none".to_owned() } else { values.join(", ") }
        ));
    }
    let healthy = prometheus.query(&rig.gw, "tollgate_real_server_healthy == 1")?.len();
    say.claim(healthy == 3, "all three real servers are healthy in its eyes")
}

fn split(answers: &Answers) -> String {
    let parts: Vec<_> = answers.by_server.iter().map(|(server, count)| format!("{server} {count}")).collect();
    format!("{}; failed {}", parts.join(", "), answers.failed)
}
