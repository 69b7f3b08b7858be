//! Attaching, and what may stand in the way; the trust list; whose memory it is.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::fixture::{Fixture, cgroup2_root, lip};
use crate::probe::cases::CLIENT;
use crate::probe::{SERVER, TRUST};

#[test]
fn attaching_twice_is_refused_and_changes_nothing() {
    let fixture = Fixture::new("twice");
    fixture.attach();
    let again =
        fixture.tool(&["attach", "--trust", "0.0.0.0/0", "--cgroup", fixture.group.to_str().unwrap()]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("already attached"));
    assert_eq!(fixture.status()["trust"], serde_json::json!(TRUST));
}

#[test]
fn a_failed_attach_leaves_nothing_behind() {
    let fixture = Fixture::new("failed");
    let file = fixture.group.join("cgroup.procs");
    let output = fixture.tool(&["attach", "--trust", "10.9.0.0/24", "--cgroup", file.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(!fixture.pins.exists(), "{}", String::from_utf8_lossy(&output.stderr));

    let status = fixture.tool(&["status"]);
    assert!(!status.status.success());
    assert!(String::from_utf8_lossy(&status.stderr).contains("not attached"));
}

#[test]
fn without_rights_attaching_is_refused_in_a_sentence() {
    let fixture = Fixture::new("rights");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", env!("CARGO_BIN_EXE_tollgate-toa")])
        .args(["attach", "--trust", "10.9.0.0/24", "--cgroup", fixture.group.to_str().unwrap(), "--pin-dir"])
        .arg(&fixture.pins)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no permission to"), "{said}");
    assert!(said.contains("run as root"), "{said}");
    assert!(!fixture.pins.exists());
}

/// Attaches with the capabilities of root but these.
fn attach_without(fixture: &Fixture, capabilities: &str) -> Output {
    Command::new("setpriv")
        .args([&format!("--bounding-set={capabilities}"), "--", env!("CARGO_BIN_EXE_tollgate-toa")])
        .args(["attach", "--trust", &TRUST.join(","), "--cgroup", fixture.group.to_str().unwrap()])
        .arg("--pin-dir")
        .arg(&fixture.pins)
        .output()
        .unwrap()
}

#[test]
fn of_roots_capabilities_three_are_enough_and_a_missing_one_is_named() {
    let fixture = Fixture::new("caps");
    let output = attach_without(&fixture, "-perfmon,-sys_admin");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("CAP_PERFMON"), "{said}");
    assert!(!fixture.pins.exists());

    let output = attach_without(&fixture, "-all,+perfmon,+bpf,+net_admin,+dac_override");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fixture.status()["mptcp"], true);
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    assert_eq!(fixture.seen_by(&listener, 41_010), CLIENT.parse().unwrap());
}

#[test]
fn the_trust_list_of_an_attached_receiver_is_changed() {
    let fixture = Fixture::new("trust");
    fixture.attach_with(&["--udp"]);
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    let client: SocketAddr = CLIENT.parse().unwrap();
    let lines = |arguments: &[&str]| {
        let output = fixture.tool(&[&["trust"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut all = TRUST.map(str::to_owned).to_vec();
    all.sort();
    let mut listed = lines(&["list"]);
    listed.sort();
    assert_eq!(listed, all);
    assert_eq!(fixture.seen_by(&listener, 46_000), client);
    assert_eq!(lines(&["remove", "10.9.0.0/24"]), [TRUST[1]]);
    assert_eq!(fixture.seen_by(&listener, 46_001), lip(46_001));
    assert_eq!(lines(&["add", "10.9.0.2,10.9.0.2/32"]).len(), 2);
    assert_eq!(fixture.seen_by(&listener, 46_002), client);
    assert_eq!(fixture.status()["trust"].as_array().unwrap().len(), 2);
    for (arguments, reason) in [
        (&["trust", "remove", "10.7.0.0/16"][..], "10.7.0.0/16 is not a trusted prefix"),
        (&["trust", "remove", "10.9.0.2,fd00:9::/64"], "no trusted prefix would be left"),
        (&["trust", "add", "10.9.0.1/24"], "10.9.0.0/24 is right"),
    ] {
        let output = fixture.tool(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{said}");
        assert_eq!(lines(&["list"]).len(), 2, "what is refused changes nothing");
    }
}

/// Memory that a connection takes is charged to whom the receiver's maps are: another group than the server's costs each
/// connection time, and the group of whoever attached may have limits.
#[test]
fn nothing_is_charged_to_the_memory_group_of_whoever_attaches() {
    let fixture = Fixture::new("memory");
    let group = MemoryGroup::new();
    let trust = TRUST.join(",");
    let tool = [env!("CARGO_BIN_EXE_tollgate-toa"), "attach", "--udp", "--trust", &trust, "--pin-dir"];
    let output = Command::new("sh")
        .args(["-c", "echo 0 >\"$0\"; exec \"$@\""])
        .arg(group.0.join("cgroup.procs"))
        .args(tool)
        .arg(&fixture.pins)
        .arg("--cgroup")
        .arg(&fixture.group)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The maps for UDP alone take some 10 MB.
    let charged = group.charged();
    assert!(charged < 4_000_000, "{charged} bytes are charged");
}

/// A group for memory, of either version of control groups.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let v1 =
            |fields: &Vec<&str>| fields[2] == "cgroup" && fields[3].split(',').any(|word| word == "memory");
        let root = fields.into_iter().find(v1).map_or_else(cgroup2_root, |fields| PathBuf::from(fields[1]));
        // Only version 2 has this file; where the controller is on already, nothing changes.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(root.join("cgroup.subtree_control"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"+memory"));
        let group = root.join(format!("tgtoa-memory-{}", std::process::id()));
        fs::create_dir(&group).expect("this test needs the memory controller of control groups");
        Self(group)
    }

    /// Bytes.
    fn charged(&self) -> u64 {
        let read = |file| fs::read_to_string(self.0.join(file));
        let told = read("memory.current").or_else(|_| read("memory.usage_in_bytes")).unwrap();
        told.trim().parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
