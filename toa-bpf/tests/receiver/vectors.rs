//! The conformance vectors, and listeners older than the receiver.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::fixture::{Fixture, lip};
use crate::probe::cases::{self, CLIENT};
use crate::probe::{SERVER, TRUST, vector};

/// Where the conformance vectors are.
fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/toa-vectors")
}

/// The vectors are files, so that others can use them; the table in `probe/cases.rs` is where they are written down.
#[test]
fn the_vectors_are_those_of_the_table() {
    let made = cases::make();
    let folder = vectors();
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let _ = fs::remove_dir_all(folder.join("receivers"));
        fs::create_dir_all(folder.join("receivers")).unwrap();
        for file in &made {
            fs::write(folder.join(&file.path), &file.bytes).unwrap();
        }
    }
    for file in &made {
        let there = fs::read(folder.join(&file.path)).unwrap_or_default();
        assert!(
            there == file.bytes,
            "{} differs; if that is meant, run this with UPDATE_VECTORS=1",
            file.path
        );
    }
    let count = fs::read_dir(folder.join("receivers")).unwrap().count();
    assert_eq!(count + 1, made.len(), "a file in {} belongs to no case", folder.display());
}

#[test]
fn every_vector_shows_the_right_address_and_is_counted() {
    let fixture = Fixture::new("vectors");
    fixture.attach();
    assert_eq!(fixture.status()["mptcp"], true);
    let index = vector::read_index(&vectors()).unwrap();
    assert_eq!(index.trust, TRUST);
    let mut wrong = Vec::new();
    // kTLS needs a module that this kernel may not have; guests play these.
    for case in index.case.iter().filter(|case| case.then != vector::Then::Ktls) {
        let before = fixture.status();
        let result = vector::play(&fixture.tun, &vectors(), case);
        let counter = serde_json::to_value(case.counts).unwrap();
        let counter = counter.as_str().unwrap();
        let count = |status: &serde_json::Value| status["counters"][counter].as_u64().unwrap();
        let counted = count(&fixture.status()) - count(&before);
        match result {
            Ok(()) if counted == 1 => {}
            Ok(()) => wrong.push(format!("{}: {counter} +{counted}", case.name)),
            Err(problem) => wrong.push(format!("{}: {problem}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), fixture.status());
}

#[test]
fn a_listener_older_than_the_receiver_is_served_until_detach() {
    let fixture = Fixture::new("older");
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    assert_eq!(fixture.seen_by(&listener, 41_000), lip(41_000));

    fixture.attach();
    let client: SocketAddr = CLIENT.parse().unwrap();
    assert_eq!(fixture.seen_by(&listener, 41_001), client);

    assert!(fixture.tool(&["detach"]).status.success());
    assert_eq!(fixture.seen_by(&listener, 41_002), lip(41_002));
}
