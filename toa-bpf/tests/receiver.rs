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
use probe::cases::{self, CLIENT, toa};
use probe::peer::{PATIENCE, Peer};
use probe::tun::Tun;
use probe::{LIP, LIP_UNTRUSTED, SERVER, TRUST};
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

/// Sends a datagram to the server, and returns whom the server sees it from and what came back to `to`.
fn ask_udp(fixture: &Fixture, server: &UdpSocket, from: SocketAddr, told: Option<&str>) -> SocketAddr {
    let port = server.local_addr().unwrap().port();
    let to = SocketAddr::new(SERVER.parse().unwrap(), port);
    let told = told.map(|client| client.parse().unwrap());
    fixture.tun.send(&datagram::write(from, to, told, b"question")).unwrap();
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
