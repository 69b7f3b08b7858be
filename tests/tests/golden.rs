//! Golden pcaps: frames into the whole program, frames out, compared byte for byte.
//!
//! `golden/cases` says for each case what goes in, what must come out and what is counted; what must come out is put
//! together from scratch there, independent of the gateway. `golden/recorded` holds the same as pcap files (open them
//! with tshark) with an index each, so that a change of behaviour shows as a difference of files. After a change that
//! is meant: `UPDATE_GOLDEN=1 cargo test -p tollgate-tests --test golden`.
#![forbid(unsafe_code)]

#[path = "../golden/case.rs"]
mod case;
#[path = "../golden/cases/mod.rs"]
mod cases;
#[path = "../golden/conn.rs"]
mod conn;
#[path = "../golden/dataplane.rs"]
mod dataplane;
#[path = "../golden/frame.rs"]
mod frame;
#[path = "../golden/load.rs"]
mod load;
#[path = "../golden/look.rs"]
mod look;
#[path = "../golden/pieces.rs"]
mod pieces;
#[path = "../golden/port.rs"]
mod port;
#[path = "../golden/recording.rs"]
mod recording;
#[path = "../golden/rules.rs"]
mod rules;
#[path = "../golden/run.rs"]
mod run;
#[path = "../golden/trouble.rs"]
mod trouble;

use std::collections::BTreeSet;

use anyhow::Result;
use case::Case;
use dataplane::{Dataplane, PATIENCE};
use run::Order;
use tollgate_tests::wait::wait_until;

/// Room for every connection of every case.
const CONNECTIONS_MAX: u32 = 4096;

/// Runs all cases on one dataplane and tells of all that fail.
fn run_all(dataplane: &mut Dataplane, cases: &[Case], order: Order) -> Result<()> {
    run::apply(dataplane, cases)?;
    let mut faults = Vec::new();
    for case in cases {
        let result = run::run(dataplane, case, order).and_then(|went| match order {
            Order::Same => run::compare_with_recording(case, &went),
            Order::Any => Ok(()),
        });
        faults.extend(result.err().map(|error| format!("{error:#}")));
    }
    assert!(faults.is_empty(), "{} cases failed\n\n{}", faults.len(), faults.join("\n\n"));
    Ok(())
}

#[test]
fn every_frame_leaves_as_its_case_says() -> Result<()> {
    let mut dataplane = Dataplane::start(1, CONNECTIONS_MAX)?;
    run_all(&mut dataplane, &cases::all(), Order::Same)?;
    dataplane.stop()
}

#[test]
fn two_workers_send_the_same_frames_as_one() -> Result<()> {
    let mut dataplane = Dataplane::start(2, CONNECTIONS_MAX)?;
    run_all(&mut dataplane, &cases::all(), Order::Any)?;
    let status = dataplane.status()?;
    assert!(status.workers.iter().all(|worker| worker.handed_over > 0), "{:?}", status.workers);
    assert!(status.workers.iter().all(|worker| worker.connections > 0), "{:?}", status.workers);
    dataplane.stop()
}

#[test]
fn a_full_table_refuses_newcomers_and_spares_the_established() -> Result<()> {
    let mut dataplane = Dataplane::start(1, cases::TABLE_LEN.into())?;
    run_all(&mut dataplane, &[cases::full_table()], Order::Same)?;
    let worker = dataplane.status()?.workers.swap_remove(0);
    assert_eq!(
        (worker.connections_max, worker.connections),
        (cases::TABLE_LEN.into(), cases::TABLE_LEN.into())
    );
    assert_eq!((worker.table_full, worker.recycled), (2, 1));
    dataplane.stop()
}

#[test]
fn exhausted_local_ports_are_counted_and_spare_the_established() -> Result<()> {
    let mut dataplane = Dataplane::start(1, CONNECTIONS_MAX)?;
    run_all(&mut dataplane, &[cases::exhausted()], Order::Same)?;
    let pair = dataplane.stats()?.local_ports.swap_remove(0);
    assert_eq!((pair.in_use, pair.capacity, pair.exhausted), (1, 1, 2));
    assert_eq!(dataplane.status()?.workers[0].local_ports_exhausted, 2);
    dataplane.stop()
}

#[test]
fn fragments_that_wait_in_vain_are_counted_when_their_time_is_over() -> Result<()> {
    let mut dataplane = Dataplane::start(1, CONNECTIONS_MAX)?;
    run_all(&mut dataplane, &[cases::lost()], Order::Same)?;
    let waited = dataplane.counts()?["fragments_waited"];
    wait_until("they are given up", PATIENCE, || {
        // The worker turns with the frames that come, fillers too.
        dataplane.send(&[])?;
        Ok(dataplane.counts()?["fragment_timeout"] == waited)
    })?;
    dataplane.stop()
}

#[test]
fn cases_have_names_numbers_and_recordings_of_their_own() {
    let mut cases = cases::all();
    cases.extend([cases::exhausted(), cases::full_table(), cases::lost()]);
    let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    let numbers: BTreeSet<_> = cases.iter().map(|case| case.number).collect();
    assert_eq!((names.len(), numbers.len()), (cases.len(), cases.len()));
    assert!(cases.iter().all(|case| (1..=10).contains(&case.conns)));
    let files: BTreeSet<_> = recording::names().unwrap().into_iter().collect();
    let wanted: BTreeSet<_> =
        names.iter().flat_map(|name| [format!("{name}.pcap"), format!("{name}.txt")]).collect();
    assert_eq!(files, wanted, "recordings belong to cases; take away what is left over");
}

#[test]
fn the_index_of_the_vectors_for_gateways_is_that_of_the_cases() -> Result<()> {
    let path = recording::vectors_folder().join("gateways.toml");
    let index = recording::vectors_index(&cases::all());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &index)?;
    }
    assert!(std::fs::read_to_string(&path)? == index, "run this with UPDATE_GOLDEN=1 if that is meant");
    Ok(())
}

/// What stands between backticks in the tables under "Tests" of docs/modes.md, without what is no name of a test.
fn named_in_docs() -> Result<BTreeSet<String>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/modes.md"))?;
    let (_, tests) = page.split_once("\n## Tests\n").unwrap_or_default();
    let cells = tests
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    Ok(cells.filter(|name| !name.contains('/')).map(str::to_owned).collect())
}

#[test]
fn the_page_about_modes_names_its_cases_and_none_that_is_not_there() -> Result<()> {
    let named = named_in_docs()?;
    let modes = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modes.rs"))?;
    let cases: BTreeSet<_> = cases::all().iter().map(|case| case.name).collect();
    let unknown: Vec<_> = named
        .iter()
        .filter(|name| !cases.contains(name.as_str()) && !modes.contains(&format!("fn {name}()")))
        .collect();
    assert!(unknown.is_empty(), "docs/modes.md names tests that there are not: {unknown:?}");
    let of_modes = cases::of_modes().into_iter().map(|case| case.name);
    let missing: Vec<_> = of_modes.filter(|name| !named.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/modes.md does not name {missing:?}");
    Ok(())
}
