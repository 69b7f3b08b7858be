//! Real servers, which know nothing of the receiver, and what they log.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{Fixture, lip};
use crate::probe::SERVER;
use crate::probe::cases::{CLIENT, mp_capable, toa};
use crate::probe::peer::{PATIENCE, Peer};

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
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a client of a server speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Tcp,
    Mptcp,
}

/// One request to the server on port 8080, whose log must then have a line with `logged`.
fn logs_the_client(fixture: &Fixture, server: &Server, port: u16, client: Client, logged: &str) {
    const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
    let address: SocketAddr = format!("{SERVER}:8080").parse().unwrap();
    poll(|| format!("listening: {}", server.log()), || TcpStream::connect(address).ok());
    let with_toa = |more: &[u8]| [&toa(254, CLIENT), more].concat();
    let syn_options = if client == Client::Mptcp { mp_capable(&[]) } else { Vec::new() };
    let mut peer = Peer::open(&fixture.tun, lip(port), address, &syn_options).unwrap();
    if client == Client::Mptcp {
        let keys = [*b"a client", peer.key.expect("the server does not speak MPTCP")].concat();
        let len = u16::try_from(REQUEST.len()).unwrap().to_be_bytes();
        peer.acknowledge(&with_toa(&mp_capable(&keys))).unwrap();
        peer.data(&with_toa(&mp_capable(&[&keys[..], &len].concat())), REQUEST).unwrap();
    } else {
        peer.acknowledge(&with_toa(&[])).unwrap();
        peer.data(&with_toa(&[]), REQUEST).unwrap();
    }
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
/// 262 is IPPROTO_MPTCP, and 284 SOL_MPTCP, whose option MPTCP_INFO plain TCP does not have.
const PYTHON_MPTCP: &str = "import socket\n\
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
    listener.bind(('10.8.0.1', 8080))\n\
    listener.listen()\n\
    while True:\n\
    \x20   connection, accepted = listener.accept()\n\
    \x20   try:\n\
    \x20       connection.getsockopt(284, 1, 4)\n\
    \x20       speaks = 'MPTCP'\n\
    \x20   except OSError:\n\
    \x20       speaks = 'TCP'\n\
    \x20   if connection.recv(100):\n\
    \x20       assert connection.getpeername() == accepted\n\
    \x20       print('client %s:%d speaks %s' % (*accepted, speaks), flush=True)\n\
    \x20       connection.send(b'hello')\n\
    \x20   connection.close()\n";
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
        logs_the_client(&fixture, &server, port, Client::Tcp, &format!("client {CLIENT}"));
        println!("| tollgate-toa (BPF) | the test machine's, {} | IPv4 | {name} | {CLIENT} |", release());
    }
}

#[test]
fn a_server_that_speaks_mptcp_logs_clients_that_do_and_others() {
    let fixture = Fixture::new("mptcp");
    fixture.attach();
    let server = Server::start("python3", "python3", &["file"], PYTHON_MPTCP);
    for (port, client, speaks, family) in
        [(42_010, Client::Tcp, "TCP", "IPv4"), (42_011, Client::Mptcp, "MPTCP", "IPv4, MPTCP")]
    {
        logs_the_client(&fixture, &server, port, client, &format!("client {CLIENT} speaks {speaks}"));
        let kernel = release();
        println!(
            "| tollgate-toa (BPF) | the test machine's, {kernel} | {family} | python3, MPTCP socket | {CLIENT} |"
        );
    }
}
