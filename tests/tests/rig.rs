//! The test bed itself: what it makes is really there, and really gone afterwards.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::Result;
use tollgate_tests::capture::Capture;
use tollgate_tests::rig::{REAL_SERVERS, RigOptions};
use tollgate_tests::wait::wait_for;
use tollgate_tests::{Cmd, Rig, load};
use tollgate_tests::{netns, pcap};

#[test]
fn real_servers_answer_on_their_side_and_clients_cannot_reach_them() -> Result<()> {
    let rig = Rig::build(RigOptions::demo()?)?;
    for (number, address) in REAL_SERVERS.iter().enumerate() {
        let answer = load::get(&rig.reals[(number + 1) % 3], &format!("http://{address}/"))?;
        assert_eq!(answer, format!("real{}", number + 1));
    }
    let curl = Cmd::line("curl -s --max-time 2 http://10.2.0.11/").in_netns(&rig.clients[0]);
    assert_ne!(
        curl.run_any()?.code,
        Some(0),
        "the gateway is not running, yet the client reached a real server"
    );
    rig.succeed()
}

#[test]
fn a_dropped_rig_leaves_no_namespace_and_no_process() -> Result<()> {
    let mut rig = Rig::build(RigOptions::demo()?)?;
    let prefix = rig.gw.name().trim_end_matches("gw").to_owned();
    let pids = rig.reals.iter().map(netns::Netns::pids).collect::<Result<Vec<_>>>()?.concat();
    assert!(pids.len() >= 3, "three nginx should run: {pids:?}");
    rig.hush();
    drop(rig);
    assert_eq!(netns::list(|name| name.starts_with(&prefix))?, Vec::<String>::new());
    let living: Vec<_> =
        pids.iter().filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert!(living.is_empty(), "still running: {living:?}");
    Ok(())
}

#[test]
fn namespaces_of_a_killed_run_are_removed_by_the_next_one() -> Result<()> {
    // No process has the highest id that the kernel could give.
    let stale = format!("tg{}n0-gw", (1 << 22) - 1);
    Cmd::line(&format!("ip netns add {stale}")).run()?;
    let rig = Rig::build(RigOptions::demo()?)?;
    assert_eq!(netns::list(|name| name == stale)?, Vec::<String>::new());
    rig.succeed()
}

#[test]
fn frames_are_sent_as_they_are() -> Result<()> {
    let rig = Rig::build(RigOptions::demo()?)?;
    let capture = Capture::start(&rig.clients[1], "eth0", "ether proto 0x88b5", rig.dir())?;
    // An EtherType for experiments, to everybody; the bridge passes it on.
    let mut frame = vec![0xff; 6];
    frame.extend(rig.clients[0].mac("eth0")?);
    frame.extend([0x88, 0xb5, 1, 2, 3]);
    rig.clients[0].send_frames("eth0", std::slice::from_ref(&frame))?;
    let came = wait_for("the frame", Duration::from_secs(5), || Ok(pcap::read(capture.path())?.pop()))?;
    assert_eq!(came.bytes, frame);
    rig.succeed()
}
