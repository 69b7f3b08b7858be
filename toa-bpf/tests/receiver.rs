//! The BPF receiver on the running kernel: real programs, a control group and network namespaces of our own, and
//! servers that know nothing of it. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers fail the test")]

#[allow(dead_code, unreachable_pub, missing_docs)]
mod probe;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use probe::cases::{self, CLIENT, toa};
use probe::peer::{PATIENCE, Peer};
use probe::tun::Tun;
use probe::vector;
use probe::{LIP, SERVER, TRUST};

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
        let trust = TRUST.join(",");
        let output = self.tool(&["attach", "--trust", &trust, "--cgroup", self.group.to_str().unwrap()]);
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

/// Ends nginx by its own pid, also when the test fails.
struct Nginx {
    process: Child,
    directory: PathBuf,
}

impl Nginx {
    fn start(address: &str) -> Self {
        let directory = PathBuf::from(format!("/tmp/tgtoa-nginx-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let config = format!(
            "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log; events {{}}\n\
             http {{ log_format peer '$remote_addr:$remote_port'; access_log {dir}/access.log peer;\n\
             server {{ listen {address}; return 200 'hello'; }} }}\n",
            dir = directory.display(),
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, config).unwrap();
        let process = Command::new("nginx")
            .args(["-e", "stderr", "-c"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is needed for this test (Debian: apt install nginx-light)");
        Self { process, directory }
    }

    fn access_log(&self) -> String {
        fs::read_to_string(self.directory.join("access.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Polls until `done` gives something.
fn poll<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in {PATIENCE:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn nginx_logs_the_client() {
    let fixture = Fixture::new("nginx");
    fixture.attach();
    let server: SocketAddr = format!("{SERVER}:8080").parse().unwrap();
    let nginx = Nginx::start(&server.to_string());
    poll("nginx listening", || std::net::TcpStream::connect(server).ok());

    let mut peer = Peer::open(&fixture.tun, lip(42_000), server, &[]).unwrap();
    peer.acknowledge(&toa(254, CLIENT)).unwrap();
    peer.data(&toa(254, CLIENT), b"GET / HTTP/1.0\r\n\r\n").unwrap();
    peer.answer().unwrap();
    poll("the line in nginx's log", || nginx.access_log().lines().any(|line| line == CLIENT).then_some(()));
}
