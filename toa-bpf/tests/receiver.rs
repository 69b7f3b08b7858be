//! The BPF receiver on the running kernel: real programs, a control group and network namespaces of our own, and
//! servers that know nothing of it. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers fail the test")]

#[allow(dead_code, unreachable_pub, missing_docs)]
mod probe;

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use probe::cases::{self, CLIENT, CLIENT_V6, toa};
use probe::datagram::Told;
use probe::peer::{PATIENCE, Peer};
use probe::tun::Tun;
use probe::{LIP, LIP_UNTRUSTED, LIP_V6, SERVER, SERVER_V6, TRUST};
use probe::{datagram, vector};

/// Control groups belong to the process, so one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A control group with this process in it, a BPF file system, and a namespace with a TUN device for this thread.
struct Fixture {
    tun: Tun,
    group: PathBuf,
    home: PathBuf,
    pins: PathBuf,
    bpffs: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let root = cgroup2_root();
        let home = own_group(&root);
        let group = root.join(format!("tgtoa-{name}-{}", std::process::id()));
        fs::create_dir(&group).expect("this test needs root and control groups version 2");
        fs::write(group.join("cgroup.procs"), "0").unwrap();
        // The pid keeps parallel runs of this test apart; the mount is taken away in drop.
        let bpffs = PathBuf::from(format!("/tmp/tgtoa-bpffs-{name}-{}", std::process::id()));
        fs::create_dir(&bpffs).unwrap();
        run("mount", &["-t", "bpf", "tgtoa", bpffs.to_str().unwrap()]);
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let tun = probe::set_up("tgtoa0").unwrap();
        Self { tun, group, home, pins: bpffs.join("toa"), bpffs, _turn: turn }
    }

    fn tool(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tollgate-toa"))
            .args(arguments)
            .arg("--pin-dir")
            .arg(&self.pins)
            .output()
            .unwrap()
    }

    fn attach(&self) {
        self.attach_with(&[]);
    }

    fn attach_with(&self, more: &[&str]) {
        let trust = TRUST.join(",");
        let arguments = ["attach", "--trust", &trust, "--cgroup", self.group.to_str().unwrap()];
        let output = self.tool(&[&arguments, more].concat());
        assert!(output.status.success(), "attach failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn status(&self) -> serde_json::Value {
        let output = self.tool(&["status", "--json"]);
        assert!(output.status.success(), "status failed: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Connects with the option on the final ACK and returns the address that `accept` shows.
    fn seen_by(&self, listener: &TcpListener, port: u16) -> SocketAddr {
        let server = SocketAddr::new(SERVER.parse().unwrap(), listener.local_addr().unwrap().port());
        let peer = Peer::open(&self.tun, lip(port), server, &[]).unwrap();
        peer.acknowledge(&toa(254, CLIENT)).unwrap();
        let (_, seen) = vector::accept(listener).unwrap();
        peer.reset().unwrap();
        seen
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.tool(&["detach"]);
        let _ = Command::new("umount").arg(&self.bpffs).status();
        let _ = fs::remove_dir(&self.bpffs);
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.group);
    }
}

fn lip(port: u16) -> SocketAddr {
    SocketAddr::new(LIP.parse().unwrap(), port)
}

fn cgroup2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(line.expect("no control groups version 2 are mounted").split(' ').nth(1).unwrap())
}

/// The group this process is in, to go back to.
fn own_group(root: &Path) -> PathBuf {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let line = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    root.join(line.trim_start_matches('/'))
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} failed");
}

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

/// Sends a datagram to the server, and returns whom the server sees it from and what came back to `to`.
fn ask_udp(fixture: &Fixture, server: &UdpSocket, from: SocketAddr, told: Option<&str>) -> SocketAddr {
    let told = told.map(|client| Told::in_option(client.parse().unwrap()));
    ask_telling(fixture, server, from, &told.unwrap_or_default())
}

fn ask_telling(fixture: &Fixture, server: &UdpSocket, from: SocketAddr, told: &Told) -> SocketAddr {
    let port = server.local_addr().unwrap().port();
    let to = SocketAddr::new(if from.is_ipv4() { SERVER } else { SERVER_V6 }.parse().unwrap(), port);
    fixture.tun.send(&datagram::telling(from, to, told, b"question")).unwrap();
    let mut buffer = [0; 64];
    let (length, seen) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", seen).unwrap();
    let came = fixture.tun.receive(PATIENCE, |packet| datagram::read(packet, from)).unwrap();
    assert_eq!(came, b"answer");
    seen
}

#[test]
fn a_udp_server_sees_the_client_and_its_answers_go_to_the_gateway() {
    let fixture = Fixture::new("udp");
    fixture.attach_with(&["--udp"]);
    let client: SocketAddr = CLIENT.parse().unwrap();
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    let dual = UdpSocket::bind("[::]:0").unwrap();
    for server in [&server, &dual] {
        server.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(ask_udp(&fixture, &server, lip(44_000), None), lip(44_000));
    assert_eq!(ask_udp(&fixture, &server, lip(44_001), Some(CLIENT)), client);
    // Gateways tell it on a flow's first datagrams only.
    assert_eq!(ask_udp(&fixture, &server, lip(44_001), None), client);
    assert_eq!(
        ask_udp(&fixture, &server, lip(44_001), Some("203.0.113.8:53")),
        "203.0.113.8:53".parse().unwrap()
    );
    let mapped: SocketAddr = format!("[::ffff:{}]:{}", client.ip(), client.port()).parse().unwrap();
    assert_eq!(ask_udp(&fixture, &dual, lip(44_002), Some(CLIENT)), mapped);

    let stranger = SocketAddr::new(LIP_UNTRUSTED.parse().unwrap(), 44_003);
    assert_eq!(ask_udp(&fixture, &server, stranger, Some(CLIENT)), stranger);
    assert_eq!(ask_udp(&fixture, &server, lip(44_004), Some("127.0.0.1:1")), lip(44_004));

    let status = fixture.status();
    assert_eq!(status["udp"], true);
    assert_eq!(status["udp_header"], serde_json::json!([]));
    for (counter, value) in
        [("udp_learnt", 3), ("udp_shown", 4), ("udp_returned", 4), ("untrusted", 1), ("bad_address", 1)]
    {
        assert_eq!(status["counters"][counter], value, "{status}");
    }
}

/// A server with a socket of its own for the client: that talks to the gateway, too.
#[test]
fn a_connected_udp_socket_talks_to_the_gateway() {
    let fixture = Fixture::new("udpc");
    fixture.attach_with(&["--udp"]);
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = ask_udp(&fixture, &server, lip(44_010), Some(CLIENT));
    server.connect(client).unwrap();
    server.send(b"more").unwrap();
    let came = fixture.tun.receive(PATIENCE, |packet| datagram::read(packet, lip(44_010))).unwrap();
    assert_eq!(came, b"more");
}

/// Where the header of protocol 248 is looked for: the device of [`Fixture`].
const HEADER: [&str; 3] = ["--udp", "--udp-header", "tgtoa0"];

fn lip6(port: u16) -> SocketAddr {
    SocketAddr::new(LIP_V6.parse().unwrap(), port)
}

#[test]
fn a_header_between_ip_and_udp_is_learnt_and_taken_out_over_both_families() {
    let fixture = Fixture::new("udph");
    fixture.attach_with(&HEADER);
    let (v4, v6): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), CLIENT_V6.parse().unwrap());
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    let server6 = UdpSocket::bind((SERVER_V6, 0)).unwrap();
    let dual = UdpSocket::bind("[::]:0").unwrap();
    for server in [&server, &server6, &dual] {
        server.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(ask_telling(&fixture, &server, lip(45_000), &Told::in_header(v4)), v4);
    assert_eq!(ask_udp(&fixture, &server, lip(45_000), None), v4);
    assert_eq!(ask_telling(&fixture, &server6, lip6(45_001), &Told::in_header(v6)), v6);
    assert_eq!(ask_udp(&fixture, &server6, lip6(45_001), None), v6);
    assert_eq!(ask_telling(&fixture, &dual, lip6(45_002), &Told::in_header(v6)), v6);
    let mapped = SocketAddr::new(probe_mapped(v4), v4.port());
    assert_eq!(ask_telling(&fixture, &dual, lip(45_003), &Told::in_header(v4)), mapped);
    // Other IPv4 options go with the header.
    let behind_options = Told { options: vec![1; 8], ..Told::in_header(v4) };
    assert_eq!(ask_telling(&fixture, &server, lip(45_004), &behind_options), v4);
    // Datagrams that tell nothing are as ever.
    assert_eq!(ask_udp(&fixture, &server6, lip6(45_005), None), lip6(45_005));
    let status = fixture.status();
    assert_eq!(status["udp_header"], serde_json::json!(["tgtoa0"]));
    for (counter, value) in
        [("udp_learnt", 5), ("udp_unwrapped", 5), ("udp_shown", 7), ("udp_returned", 7), ("malformed", 0)]
    {
        assert_eq!(status["counters"][counter], value, "{counter} {status}");
    }
}

fn probe_mapped(v4: SocketAddr) -> std::net::IpAddr {
    match v4.ip() {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

#[test]
fn a_client_of_another_family_than_the_gateways_is_not_shown() {
    let fixture = Fixture::new("udpf");
    fixture.attach_with(&HEADER);
    let (v4, v6): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), CLIENT_V6.parse().unwrap());
    let dual = UdpSocket::bind("[::]:0").unwrap();
    dual.set_read_timeout(Some(PATIENCE)).unwrap();
    let shown = |port: u16| SocketAddr::new(probe_mapped(lip(port)), port);
    assert_eq!(ask_telling(&fixture, &dual, lip(45_010), &Told::in_option(v6)), shown(45_010));
    assert_eq!(ask_telling(&fixture, &dual, lip(45_011), &Told::in_header(v6)), shown(45_011));
    assert_eq!(ask_telling(&fixture, &dual, lip6(45_012), &Told::in_header(v4)), lip6(45_012));
    let counters = &fixture.status()["counters"];
    assert_eq!((&counters["udp_other_family"], &counters["udp_unwrapped"]), (&3.into(), &2.into()));
}

#[test]
fn a_header_that_is_not_believed_is_left_where_it_is() {
    let fixture = Fixture::new("udpm");
    fixture.attach_with(&HEADER);
    let client: SocketAddr = CLIENT.parse().unwrap();
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = server.local_addr().unwrap();
    let stranger = SocketAddr::new(LIP_UNTRUSTED.parse().unwrap(), 45_020);
    let good = Told::in_header(client);
    let told = |at: usize, byte: u8| {
        let mut told = good.clone();
        told.header[at] = byte;
        told
    };
    let broken = [(0, 0x20), (0, 0x11), (1, 6), (2, 1), (3, 13), (3, 0), (4, 30), (5, 9), (5, 255)];
    fixture.tun.send(&datagram::telling(stranger, to, &good, b"question")).unwrap();
    for (at, byte) in broken {
        fixture.tun.send(&datagram::telling(lip(45_021), to, &told(at, byte), b"question")).unwrap();
    }
    let mut cut = datagram::telling(lip(45_021), to, &good, b"");
    cut.truncate(30);
    fixture.tun.send(&cut).unwrap();
    // The next one that the server gets is this: of the others the kernel knows no protocol.
    assert_eq!(ask_telling(&fixture, &server, lip(45_022), &good), client);
    let counters = &fixture.status()["counters"];
    assert_eq!(counters["untrusted"], 1, "{counters}");
    assert_eq!(counters["malformed"], broken.len() + 1, "{counters}");
    assert_eq!((&counters["udp_learnt"], &counters["udp_unwrapped"]), (&1.into(), &1.into()), "{counters}");
}

#[test]
fn an_interface_that_is_not_there_is_told_and_nothing_stays() {
    let fixture = Fixture::new("udpi");
    let group = fixture.group.to_str().unwrap().to_owned();
    let arguments =
        ["attach", "--trust", "10.9.0.0/24", "--cgroup", &group, "--udp", "--udp-header", "none0"];
    let output = fixture.tool(&arguments);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("on interface none0"), "{said}");
    assert!(!fixture.pins.exists());
}

#[test]
fn connected_sockets_of_both_families_talk_to_the_gateway_and_name_the_client() {
    let fixture = Fixture::new("udpc6");
    fixture.attach_with(&HEADER);
    for (address, gateway, client) in [(SERVER, lip(45_030), CLIENT), (SERVER_V6, lip6(45_031), CLIENT_V6)] {
        let client: SocketAddr = client.parse().unwrap();
        let server = UdpSocket::bind((address, 0)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(ask_telling(&fixture, &server, gateway, &Told::in_header(client)), client);
        server.connect(client).unwrap();
        assert_eq!(server.peer_addr().unwrap(), client);
        server.send(b"more").unwrap();
        let came = fixture.tun.receive(PATIENCE, |packet| datagram::read(packet, gateway)).unwrap();
        assert_eq!(came, b"more");
        // What comes in afterwards is the connected socket's, from the client.
        let to = server.local_addr().unwrap();
        fixture.tun.send(&datagram::telling(gateway, to, &Told::default(), b"again")).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"again"[..], client));
    }
}

/// More flows than are remembered: the newest are shown, and whoever is shown gets the answers.
#[test]
fn flows_give_way_and_none_that_is_shown_loses_its_answers() {
    const FLOWS: u16 = 5_000;
    let fixture = Fixture::new("udpl");
    fixture.attach_with(&["--udp", "--udp-flows", "1024"]);
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = |flow: u16| format!("203.0.113.8:{}", 1 + flow);
    for flow in 0..FLOWS {
        let seen = ask_udp(&fixture, &server, lip(20_000 + flow), Some(&client(flow)));
        assert_eq!(seen, client(flow).parse().unwrap());
    }
    let (mut shown, mut forgotten) = (0, 0);
    for flow in 0..FLOWS {
        let gateway = lip(20_000 + flow);
        match ask_udp(&fixture, &server, gateway, None) {
            seen if seen == client(flow).parse().unwrap() => shown += 1,
            seen if seen == gateway => forgotten += 1,
            seen => panic!("flow {flow} is shown as {seen}"),
        }
    }
    assert!((512..=1024).contains(&shown), "{shown} shown, {forgotten} forgotten");
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

/// A server program that knows nothing of the receiver. Ends by its own pid, also when the test fails.
struct Server {
    process: Child,
    directory: PathBuf,
}

impl Server {
    /// Starts it in a folder of its own, which has `file` in it; what it says goes to the file `log` there.
    fn start(name: &str, package: &str, arguments: &[&str], file: &str) -> Self {
        let directory = PathBuf::from(format!("/tmp/tgtoa-{name}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), file.replace("DIR", directory.to_str().unwrap())).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let process = Command::new(name)
            .args(arguments)
            .current_dir(&directory)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error} (Debian: apt install {package})"));
        Self { process, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Polls until `done` gives something.
fn poll<T>(what: impl Fn() -> String, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{} did not happen in {PATIENCE:?}", what());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// One request to the server on port 8080, whose log must then have a line with `logged`.
fn logs_the_client(fixture: &Fixture, server: &Server, port: u16, logged: &str) {
    let address: SocketAddr = format!("{SERVER}:8080").parse().unwrap();
    poll(|| format!("listening: {}", server.log()), || std::net::TcpStream::connect(address).ok());
    let mut peer = Peer::open(&fixture.tun, lip(port), address, &[]).unwrap();
    peer.acknowledge(&toa(254, CLIENT)).unwrap();
    peer.data(&toa(254, CLIENT), b"GET / HTTP/1.0\r\n\r\n").unwrap();
    peer.answer().unwrap();
    let found = || server.log().lines().any(|line| line.contains(logged)).then_some(());
    poll(|| format!("a line with `{logged}` in {}", server.log()), found);
    peer.reset().unwrap();
}

const NGINX: &str = "daemon off; master_process off; pid DIR/pid; error_log DIR/error.log; events {}\n\
    http { log_format peer 'client $remote_addr:$remote_port'; access_log /dev/stdout peer;\n\
    server { listen 10.8.0.1:8080; return 200 'hello'; } }\n";
const HAPROXY: &str = "global\n  log stdout format raw local0\n\
    defaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n\
    frontend f\n  bind 10.8.0.1:8080\n  log global\n  log-format \"client %ci:%cp\"\n\
    http-request return status 200\n";
const PYTHON: &str = "import socketserver\n\
    class Handler(socketserver.StreamRequestHandler):\n\
    \x20   def handle(self):\n\
    \x20       print('client %s:%d' % self.client_address, flush=True)\n\
    \x20       self.wfile.write(b'hello')\n\
    socketserver.TCPServer(('10.8.0.1', 8080), Handler).serve_forever()\n";
const NODE: &str = "require('http').createServer((request, response) => {\n\
    console.log(`client ${request.socket.remoteAddress}:${request.socket.remotePort}`);\n\
    response.end('hello');\n\
    }).listen(8080, '10.8.0.1');\n";

/// Major and minor version of the running kernel.
fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

#[test]
fn servers_that_know_nothing_of_it_log_the_client() {
    let fixture = Fixture::new("servers");
    fixture.attach();
    for (port, (name, package, arguments, file)) in (42_000..).zip([
        ("nginx", "nginx-light", &["-e", "stderr", "-c", "FILE"][..], NGINX),
        ("haproxy", "haproxy", &["-db", "-f", "file"], HAPROXY),
        ("python3", "python3", &["file"], PYTHON),
        ("node", "nodejs", &["file"], NODE),
    ]) {
        // nginx takes a relative path as one in a folder of its own.
        let path = format!("/tmp/tgtoa-{name}-{}/file", std::process::id());
        let arguments: Vec<_> =
            arguments.iter().map(|&word| if word == "FILE" { &path } else { word }).collect();
        let server = Server::start(name, package, &arguments, file);
        logs_the_client(&fixture, &server, port, &format!("client {CLIENT}"));
        println!("| tollgate-toa (BPF) | the test machine's, {} | IPv4 | {name} | {CLIENT} |", release());
    }
}
