//! The same packets, with the same configuration, through Linux IPVS and through Tollgate.
//!
//! IPVS is that of Debian's kernel in an emulated guest; Tollgate is the whole dataplane program on
//! net_pcap ports. What comes out, which real servers are picked, states, timeouts and counters are
//! compared step by step. Where the two differ, `differential/recorded` holds what each does, and a reason
//! under whose heading docs/ipvs-differences.md explains it. What IPVS does is compared with the recording
//! too, so that the facts there stay facts.
//!
//! After a change that is meant: `UPDATE_DIFFERENTIAL=1 cargo test -p tollgate-tests --test differential`,
//! then give the steps with `why: ?` their reasons. `ONLY=nat` runs the cases with `nat` in their names.
#![forbid(unsafe_code)]

#[path = "../differential/case.rs"]
mod case;
#[path = "../differential/cases/mod.rs"]
mod cases;
#[path = "../golden/dataplane.rs"]
#[expect(dead_code, reason = "golden tests use more of it")]
mod dataplane;
#[path = "../differential/describe.rs"]
mod describe;
#[path = "../differential/frame.rs"]
mod frame;
#[path = "../differential/hashes.rs"]
mod hashes;
#[path = "../differential/ipvs.rs"]
mod ipvs;
#[path = "../differential/outcome.rs"]
mod outcome;
#[path = "../golden/port.rs"]
mod port;
#[path = "../differential/recording.rs"]
mod recording;
#[path = "../differential/tollgate.rs"]
mod tollgate;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use case::{Action, Case, Gateway};
use ipvs::Ipvs;
use recording::Did;
use tollgate::{Refused, Tollgate};

#[test]
fn tollgate_does_as_ipvs_does_or_differs_for_a_reason() -> Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let write = std::env::var_os("UPDATE_DIFFERENTIAL").is_some();
    let mut ipvs = Ipvs::start()?;
    let mut tollgate = Tollgate::start()?;
    let mut faults = Vec::new();
    for case in cases::all().iter().filter(|case| case.name.contains(&only)) {
        let result =
            run(case, &mut ipvs, &mut tollgate).and_then(|dids| recording::compare(case, &dids, write));
        faults.extend(result.err().map(|error| format!("{error:#}")));
    }
    assert!(faults.is_empty(), "{} cases failed\n\n{}", faults.len(), faults.join("\n\n"));
    tollgate.stop()
}

/// Runs a case on both.
fn run(case: &Case, ipvs: &mut Ipvs, tollgate: &mut Tollgate) -> Result<Vec<Did>> {
    let theirs = outcomes(case, ipvs, |_| ()).with_context(|| format!("{}, ipvs", case.name))?;
    hashes::check(case, &theirs, false).with_context(|| format!("{}, ipvs", case.name))?;
    let mut notes = Vec::new();
    tollgate.take_notes();
    let ours = outcomes(case, tollgate, |tollgate| notes.push(tollgate.take_notes()));
    let ours = ours.with_context(|| format!("{}, tollgate", case.name))?;
    hashes::check(case, &ours, true).with_context(|| format!("{}, tollgate", case.name))?;
    notes.resize(case.steps.len(), Vec::new());
    let all = theirs.into_iter().zip(ours).zip(notes);
    Ok(all.map(|((ipvs, tollgate), notes)| Did { ipvs, tollgate, notes }).collect())
}

/// What every step of a case led to on a gateway; `after` is called after each.
fn outcomes<G: Gateway>(case: &Case, gateway: &mut G, after: impl FnMut(&mut G)) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    if let Err(error) = steps(case, gateway, &mut all, after) {
        // A configuration that is refused is an outcome, of all the rest of the case.
        let refused = error.downcast::<Refused>()?.to_string();
        all.resize(case.steps.len(), vec![refused]);
    }
    gateway.forget()?;
    Ok(all)
}

fn steps<G: Gateway>(
    case: &Case,
    gateway: &mut G,
    all: &mut Vec<Vec<String>>,
    mut after: impl FnMut(&mut G),
) -> Result<()> {
    gateway.configure(&case.services)?;
    let mut services = case.services.clone();
    for step in &case.steps {
        if let Action::Configure(new) = &step.action {
            services.clone_from(new);
        }
        let lines = outcome::of(gateway, &step.action, &services);
        all.push(lines.with_context(|| step.what.clone())?);
        after(gateway);
    }
    Ok(())
}

#[test]
fn cases_have_names_of_their_own_and_recordings() -> Result<()> {
    let cases = cases::all();
    let names: BTreeSet<String> = cases.iter().map(|case| case.name.clone()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    assert_eq!(recording::names()?, names, "recordings belong to cases; take away what is left over");
    Ok(())
}

#[test]
fn every_difference_has_its_reason_in_the_documentation() -> Result<()> {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ipvs-differences.md"))?;
    let is_told = |reason: &str| {
        document
            .lines()
            .any(|line| line.starts_with(&format!("**{reason}.**")) || line == format!("## {reason}"))
    };
    for case in cases::all() {
        for reason in recording::reasons_of(&case)? {
            assert!(is_told(&reason), "{}: no paragraph begins with **{reason}.**", case.name);
        }
    }
    Ok(())
}
