//! What an operator may get wrong, and what a client of the API may.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::{Dataplane, PATIENCE};
use api::frame::{self, Greeting};
use api::{Refusal, Request, Response};
use nix::sys::signal::Signal;

fn frame_of_noise() -> Vec<u8> {
    wire::build::TcpFrame::default().to_vec()
}

#[test]
fn a_bad_configuration_is_told_whole_and_ends_with_64() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    fs::write(&path, "[dataplane]\nworkers = 0\ncolour = \"red\"\n").unwrap();
    let (status, said) = crate::common::run(&["--config", path.to_str().unwrap()]);
    assert_eq!(status.code(), Some(64), "{said}");
    assert!(
        said.contains("bad.toml:2:") && said.contains("bad.toml:3:") && said.contains("colour"),
        "{said}"
    );
}

#[test]
fn a_good_configuration_passes_the_check_without_starting_anything() {
    let directory = tempfile::tempdir().unwrap();
    let path = crate::common::write_config(directory.path(), 2);
    let (status, said) = crate::common::run(&["--check", "--config", path.to_str().unwrap()]);
    assert!(status.success(), "{said}");
    assert!(!directory.path().join("api.sock").exists());
}

#[test]
fn a_device_that_does_not_exist_is_named_and_ends_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let path = crate::common::write_config(directory.path(), 1);
    let text = fs::read_to_string(&path).unwrap();
    for (device, word) in [("0000:ff:1f.7", "0000:ff:1f.7"), ("net_af_packet,iface=tgnone9", "tgnone9")] {
        let start = text.find("device = \"net_pcap").unwrap();
        let end = start + text[start..].find('\n').unwrap();
        let changed = format!("{}device = \"{device}\"{}", &text[..start], &text[end..]);
        fs::write(&path, changed).unwrap();
        let (status, said) = crate::common::run(&["--config", path.to_str().unwrap()]);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(word) && said.contains("port \"wan\""), "{said}");
        assert!(!directory.path().join("api.sock").exists(), "the socket is removed again");
    }
}

#[test]
fn a_second_instance_says_so_and_leaves_the_first_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut dataplane = Dataplane::start(directory.path(), 1, &[frame_of_noise()]);
    let path = directory.path().join("tollgate.toml");
    let (status, said) = crate::common::run(&["--config", path.to_str().unwrap()]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("another dataplane is running"), "{said}");
    assert!(matches!(dataplane.ask(&Request::GetStatus), Response::Status(_)));
    assert!(dataplane.stop(Signal::SIGINT).success());
}

#[test]
fn a_socket_left_by_a_killed_dataplane_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let mut killed = Dataplane::start(directory.path(), 1, &[frame_of_noise()]);
    killed.stop(Signal::SIGKILL);
    assert!(killed.socket().exists());
    let next = Dataplane::start(directory.path(), 1, &[frame_of_noise()]);
    assert!(matches!(next.ask(&Request::GetStatus), Response::Status(_)));
}

#[test]
fn clients_that_break_the_rules_harm_only_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(directory.path(), 1, &[frame_of_noise()]);
    let mut bystander = dataplane.connect();

    let mut old = UnixStream::connect(dataplane.socket()).unwrap();
    old.set_read_timeout(Some(PATIENCE)).unwrap();
    old.write_all(&Greeting { version: 9999 }.to_bytes()).unwrap();
    let mut bytes = Vec::new();
    old.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, Greeting::ours().to_bytes(), "our version is told, then the connection closed");

    let mut cut = dataplane.connect();
    cut.write_all(&[200, 0, 0, 0, 1, 2, 3]).unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    let refused: Option<Response> = frame::read(&mut cut).unwrap();
    assert!(matches!(refused, Some(Response::Refused(Refusal::Malformed(_)))), "{refused:?}");

    frame::write(&mut bystander, &Request::GetStatus).unwrap();
    assert!(matches!(frame::read(&mut bystander).unwrap(), Some(Response::Status(_))));
}
