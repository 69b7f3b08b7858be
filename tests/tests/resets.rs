//! Connections of a real server that has gone are reset on both sides where that is wanted, through the whole gateway.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use tollgate_tests::lab::Lab;
use tollgate_tests::process::{Bond, Process};
use tollgate_tests::wait::wait_until;
use tollgate_tests::{Cmd, Netns};

const LIMIT: Duration = Duration::from_secs(10);
const VIPS: [&str; 2] = ["10.1.0.100:80", "[2001:db8:1::100]:80"];

/// A service of each family whose only real server is this one.
fn services(mode: &str, real: u8) -> String {
    let reals = [format!("10.2.0.1{real}:80"), format!("[2001:db8:2::1{real}]:80")];
    let of = |(vip, real): (&str, &String)| {
        format!(
            "[[service]]\nlisten = \"{vip}\"\nprotocol = \"tcp\"\nmode = \"{mode}\"\nexpire_nodest_conn = true\n\
             reset_on_expiry = true\nreal_server = [{{ address = \"{real}\" }}]\n"
        )
    };
    VIPS.into_iter().zip(&reals).map(of).collect()
}

/// An open connection over which one request was answered.
fn answered(client: &Netns, vip: &str) -> Result<TcpStream> {
    let mut stream = client.inside(|| Ok(TcpStream::connect_timeout(&vip.parse()?, LIMIT)?))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")?;
    let mut seen = Vec::new();
    let mut room = [0; 1000];
    while !seen.ends_with(b"real1\n") && !seen.ends_with(b"real1") {
        let len = stream.read(&mut room)?;
        anyhow::ensure!(len > 0, "{vip}: closed after {}", String::from_utf8_lossy(&seen));
        seen.extend(&room[..len]);
    }
    Ok(stream)
}

/// Connections with its port 80 that a real server believes in.
fn open_at(real: &Netns) -> Result<String> {
    Ok(Cmd::line("ss -tnH state connected exclude time-wait sport = :80").in_netns(real).run()?.stdout)
}

fn both_sides_hear_of_the_end(mut lab: Lab, mode: &str) -> Result<()> {
    lab.start_gateway()?;
    lab.file("download", 50_000_000)?;
    let idle: Vec<TcpStream> = VIPS.iter().map(|vip| answered(lab.client(), vip)).collect::<Result<_>>()?;
    let curl = Cmd::line("curl -sS --limit-rate 1M --max-time 40 -o").arg(lab.rig.dir().join("downloaded"));
    let curl = curl.arg("http://10.1.0.100/files/download");
    let mut download = Process::spawn("download", lab.client(), &curl, lab.rig.dir(), Bond::DiesWithParent)?;
    wait_until("three connections", LIMIT, || Ok(open_at(&lab.rig.reals[0])?.lines().count() == 3))?;

    lab.rig.gateway.change_config(|config| {
        let new: toml::Table = services(mode, 2).parse()?;
        config.table.insert("service".to_owned(), new.get("service").context("services")?.clone());
        Ok(())
    })?;
    lab.rig.gateway.cli(&lab.rig.gw, "reload")?;

    for mut stream in idle {
        let error = stream.read(&mut [0; 10]).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::ConnectionReset), "{mode} {:?}", stream.peer_addr());
    }
    let status = download.wait_exit(LIMIT)?;
    assert!(!status.success() && download.log_text().contains("reset by peer"), "{}", download.log_text());
    wait_until("no connection at the real server", LIMIT, || Ok(open_at(&lab.rig.reals[0])?.is_empty()))?;
    lab.succeed()
}

#[test]
fn both_sides_hear_of_the_end_in_fullnat() -> Result<()> {
    both_sides_hear_of_the_end(Lab::build(&services("fullnat", 1))?, "fullnat")
}

#[test]
fn both_sides_hear_of_the_end_in_nat() -> Result<()> {
    let lab = Lab::build(&services("nat", 1))?;
    lab.route_through_gateway()?;
    both_sides_hear_of_the_end(lab, "nat")
}

#[test]
fn both_sides_hear_of_the_end_in_direct_routing() -> Result<()> {
    let lab = Lab::build(&services("dr", 1))?;
    lab.answer_directly(&["10.1.0.100", "2001:db8:1::100"])?;
    both_sides_hear_of_the_end(lab, "dr")
}

#[test]
fn both_sides_hear_of_the_end_behind_tunnels() -> Result<()> {
    let mut lab = Lab::build(&services("tun", 1))?;
    lab.answer_directly(&["10.1.0.100", "2001:db8:1::100"])?;
    lab.open_tunnels()?;
    both_sides_hear_of_the_end(lab, "tun")
}
