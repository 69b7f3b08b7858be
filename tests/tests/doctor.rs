//! `tollgate doctor` on a gateway that runs, and on one that does not.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tollgate_tests::lab::Lab;

const SERVICE: &str = "[[service]]\nlisten = \"10.1.0.100:80\"\nprotocol = \"tcp\"\n\
                       real_server = [{ address = \"10.2.0.11:80\" }]\n";

/// What doctor finds, and whether it calls it well.
fn findings(lab: &Lab) -> Result<(bool, Vec<Value>)> {
    let (gateway, gw) = (&lab.rig.gateway, &lab.rig.gw);
    let said = gateway.cli_any(gw, &format!("doctor {} --json", gateway.config.display()))?;
    let found = serde_json::from_str(&said.stdout).with_context(|| said.stderr.clone())?;
    Ok((said.code == Some(0), found))
}

fn with_verdict<'a>(found: &'a [Value], verdict: &str) -> Vec<&'a Value> {
    found.iter().filter(|finding| finding["verdict"] == verdict).collect()
}

#[test]
fn doctor_finds_no_problem_on_a_gateway_that_runs_and_names_one_that_does_not() -> Result<()> {
    let mut lab = Lab::start(SERVICE)?;
    lab.get("http://10.1.0.100/", 10)?;
    let (well, found) = findings(&lab)?;
    ensure!(well && with_verdict(&found, "problem").is_empty(), "{found:#?}");
    for check in
        ["configuration", "dataplane", "control", "huge pages", "instructions", "clock", "port", "steering"]
    {
        ensure!(found.iter().any(|finding| finding["check"] == check), "no word on {check}: {found:#?}");
    }
    let (gateway, gw) = (&lab.rig.gateway, &lab.rig.gw);
    let page = gateway.cli(gw, &format!("doctor {}", gateway.config.display()))?;
    ensure!(page.lines().count() >= found.len() && page.starts_with("ok "), "{page}");

    let mut dataplane = lab.rig.gateway.dataplane.take().context("a dataplane")?;
    dataplane.kill()?;
    let (well, found) = findings(&lab)?;
    let problems = with_verdict(&found, "problem");
    ensure!(!well && problems.iter().any(|finding| finding["check"] == "dataplane"), "{found:#?}");
    let remedies: Vec<&str> = problems.iter().filter_map(|finding| finding["remedy"].as_str()).collect();
    ensure!(remedies.concat().contains("systemctl start tollgate-dataplane"), "{remedies:?}");
    // What only the machine tells is still there.
    ensure!(found.iter().any(|finding| finding["check"] == "huge pages"), "{found:#?}");
    lab.succeed()
}
