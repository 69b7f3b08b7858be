//! A real server with Debian's kernel, in a qemu guest behind the gateway: nginx's own log shows who the client was.
#![forbid(unsafe_code)]

mod asking;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use asking::{Asking, counter};
use tollgate_tests::Cmd;
use tollgate_tests::lab::Lab;
use tollgate_tests::load::Wrk;
use tollgate_tests::rig::{CLIENTS, CLIENTS6};
use tollgate_tests::toa_guest::{Image, Kernel, TRUST, ToaGuest};
use tollgate_tests::wait::wait_for;

/// A network behind client2, in which clients are that make their segments by hand.
const FORGERS: &str = r#"
[[route]]
network = "10.5.0.0/24"
via = "10.1.0.12"
port = "wan"
"#;

/// One service for each client family, real server's family, and kind of listener.
const SERVICES: &str = r#"
[[service]]
name = "v4"
listen = "10.1.0.100:80"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "10.2.0.31:80" }]

[[service]]
name = "v6"
listen = "[2001:db8:1::100]:80"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "[2001:db8:2::31]:80" }]

[[service]]
name = "v4-dual"
listen = "10.1.0.100:81"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "10.2.0.31:81" }]

[[service]]
name = "nat64-dual"
listen = "[2001:db8:1::100]:81"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "10.2.0.31:81" }]

[[service]]
name = "nat64"
listen = "[2001:db8:1::100]:82"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "10.2.0.31:80" }]

[[service]]
name = "tls"
listen = "10.1.0.100:443"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "10.2.0.31:443" }]

[[service]]
name = "tls6"
listen = "[2001:db8:1::100]:443"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "[2001:db8:2::31]:443" }]

[[service]]
name = "mptcp"
listen = "10.1.0.100:83"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "10.2.0.31:83" }]

[[service]]
name = "mptcp6"
listen = "[2001:db8:1::100]:83"
protocol = "tcp"
mode = "fullnat"
real_server = [{ address = "[2001:db8:2::31]:84" }]

[[service]]
name = "mptcp6-strip"
listen = "[2001:db8:1::100]:84"
protocol = "tcp"
mode = "fullnat"
tcp_timestamps = "strip"
real_server = [{ address = "[2001:db8:2::31]:84" }]
"#;

const NGINX: &str = r#"worker_processes 1; pid /tmp/nginx.pid; error_log /tmp/error.log; user root;
events { worker_connections 4096; }
http { log_format peer "$remote_addr $request_uri"; access_log /tmp/access.log peer;
server { listen 80 backlog=4096; listen [::]:80 ipv6only=on backlog=4096;
listen [::]:81 ipv6only=off backlog=4096; listen 83; listen [::]:84 ipv6only=off;
listen 443 ssl; listen [::]:443 ssl ipv6only=on; ssl_certificate /tmp/pem; ssl_certificate_key /tmp/pem;
ssl_protocols TLSv1.2 TLSv1.3; ssl_conf_command Options KTLS; location / { return 200 "guest"; } } }
"#;

/// Starts nginx with listeners of ports 83 and 84 that speak MPTCP. It stays in the foreground when it inherits them.
const START_NGINX: &str =
    "toa-probe mptcp 0.0.0.0:83 [::]:84 -- nginx -e stderr -c /tmp/nginx.conf >/tmp/nginx.log 2>&1 &";

/// Has a table of what is shown here.
const DOCS: &str = include_str!("../../../docs/toa.md");

/// How long nginx may take to write its log, in an emulated guest on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one load lasts.
const LOAD_TIME: Duration = Duration::from_secs(4);
/// Connections that all loads of a guest together must reach.
const CONNECTIONS_MIN: u64 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Module,
    Bpf,
}

impl Receiver {
    fn name(self) -> &'static str {
        match self {
            Receiver::Module => "tollgate_toa (module)",
            Receiver::Bpf => "tollgate-toa (BPF)",
        }
    }

    fn on(self) -> String {
        match self {
            Receiver::Module => format!("insmod /tollgate_toa.ko trust={TRUST}"),
            Receiver::Bpf => format!("tollgate-toa attach --trust {TRUST}"),
        }
    }

    fn off(self) -> &'static str {
        match self {
            Receiver::Module => "rmmod tollgate_toa",
            Receiver::Bpf => "tollgate-toa detach",
        }
    }
}

/// Whether it is one of the rig's pools, 10.2.0.200-203 and 2001:db8:2::200-203.
fn is_local_address(address: &str) -> bool {
    address.starts_with("10.2.0.20") || address.starts_with("2001:db8:2::20")
}

/// A new key, and a certificate for it that nobody has to believe.
fn certificate(dir: &Path) -> Result<String> {
    let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
    let openssl =
        Cmd::line("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=guest");
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).run()?;
    Ok(std::fs::read_to_string(key)? + &std::fs::read_to_string(certificate)?)
}

/// The gateway, and nginx in the guest behind it.
struct Bed {
    // Before the lab, whose bridge it is on.
    guest: ToaGuest,
    lab: Lab,
    kernel: Kernel,
    probe: PathBuf,
    connections: u64,
    /// How many requests, or loads of them, there have been: each has a path of its own.
    requests: u32,
}

impl Bed {
    fn start(kernel: Kernel) -> Result<Bed> {
        let image = Image::make(kernel)?;
        let mut lab = Lab::build(&format!("{FORGERS}{SERVICES}"))?;
        let mut guest = ToaGuest::start(&image, &lab.rig)?;
        guest.write("/tmp/nginx.conf", NGINX)?;
        guest.write("/tmp/pem", &certificate(lab.rig.dir())?)?;
        guest.run(START_NGINX)?;
        wait_for("nginx runs in the guest", PATIENCE, || {
            Ok((guest.run_any("[ -s /tmp/nginx.pid ]")?.status == 0).then_some(()))
        })
        .with_context(|| guest.run("cat /tmp/nginx.log").unwrap_or_default())?;
        lab.rig.clients[1].sysctl("net.ipv4.ip_forward", "1")?;
        lab.start_gateway()?;
        Ok(Bed { guest, lab, kernel, probe: image.probe, connections: 0, requests: 0 })
    }

    /// `url` with a path that no other request has, and that path.
    fn own_path(&mut self, url: &str) -> (String, String) {
        self.requests += 1;
        let path = format!("/{}", self.requests);
        (format!("{url}{path}"), path)
    }

    /// The addresses that nginx has logged for `path`, with how often each is there. It writes them when it has answered,
    /// so wait until there are as many.
    fn logged_for(&mut self, path: &str, count: u64) -> Result<BTreeMap<String, u64>> {
        let guest = &mut self.guest;
        let command = format!("sed -n 's| {path}$||p' /tmp/access.log | sort | uniq -c");
        let what = format!("{count} lines about {path} in nginx's log");
        wait_for(&what, PATIENCE, || {
            let mut seen = BTreeMap::new();
            for line in guest.run(&command)?.lines().filter(|line| !line.trim().is_empty()) {
                let (count, address) = line.trim().split_once(' ').context("uniq says `COUNT ADDRESS`")?;
                seen.insert(address.to_owned(), count.parse()?);
            }
            Ok((seen.values().sum::<u64>() >= count).then_some(seen))
        })
    }

    /// The address that nginx logs for a request to `url`.
    fn ask(&mut self, url: &str) -> Result<String> {
        self.ask_by(Asking::Plainly, url)
    }

    fn ask_by(&mut self, asking: Asking, url: &str) -> Result<String> {
        let (url, path) = self.own_path(url);
        let before = self.proof(asking)?;
        asking.get(self.lab.client(), &url)?;
        let after = self.proof(asking)?;
        ensure!(
            asking == Asking::Plainly || after > before,
            "{asking:?} to {url} was not: {before}, {after}"
        );
        let mut seen = self.logged_for(&path, 1)?;
        ensure!(seen.len() == 1, "one request to {url}, and in nginx's log is {seen:?}");
        Ok(seen.pop_first().context("nothing logged")?.0)
    }

    /// How often the guest's kernel has done what a client asks for.
    fn proof(&mut self, asking: Asking) -> Result<u64> {
        let Some((file, name)) = asking.proof() else { return Ok(0) };
        let text = self.guest.run(&format!("cat {file}"))?;
        counter(&text, name).with_context(|| format!("no {name} in {text}"))
    }

    /// Who is shown for each family and listener; prints the rows of the table in docs/toa.md, which must have them.
    fn families(&mut self, receiver: Receiver) -> Result<()> {
        let (client, client6) = (CLIENTS[0], CLIENTS6[0]);
        let mapped = format!("::ffff:{client}");
        let (plainly, mptcp) = (Asking::Plainly, Asking::Mptcp);
        let mut missing = Vec::new();
        for (what, asking, url, expected) in [
            ("IPv4 | nginx, IPv4 socket", plainly, "http://10.1.0.100", Some(client)),
            ("IPv6 | nginx, IPv6 socket", plainly, "http://[2001:db8:1::100]", Some(client6)),
            ("IPv4 | nginx, dual-stack socket", plainly, "http://10.1.0.100:81", Some(&mapped)),
            (
                "IPv6, translated to IPv4 | nginx, dual-stack socket",
                plainly,
                "http://[2001:db8:1::100]:81",
                Some(client6),
            ),
            // Nothing else fits into the address of an IPv4 socket.
            ("IPv6, translated to IPv4 | nginx, IPv4 socket", plainly, "http://[2001:db8:1::100]:82", None),
            ("IPv4 | nginx, kTLS (TLS 1.3)", Asking::Tls("1.3"), "https://10.1.0.100", Some(client)),
            ("IPv6 | nginx, kTLS (TLS 1.2)", Asking::Tls("1.2"), "https://[2001:db8:1::100]", Some(client6)),
            ("IPv4 | nginx, MPTCP socket", plainly, "http://10.1.0.100:83", Some(client)),
            ("IPv4, MPTCP | nginx, MPTCP socket", mptcp, "http://10.1.0.100:83", Some(client)),
            // Beside the keys of MPTCP and timestamps is no room for the option.
            ("IPv6, MPTCP | nginx, MPTCP socket", mptcp, "http://[2001:db8:1::100]:83", None),
            (
                "IPv6, MPTCP, `tcp_timestamps = \"strip\"` | nginx, MPTCP socket",
                mptcp,
                "http://[2001:db8:1::100]:84",
                Some(client6),
            ),
        ] {
            let mut logged = self.ask_by(asking, url)?;
            if is_local_address(&logged) {
                "the LIP".clone_into(&mut logged);
            }
            let row = format!("| {} | {} | {what} | {logged} |", receiver.name(), self.kernel.series());
            println!("{row}");
            ensure!(logged == expected.unwrap_or("the LIP"), "{row}, but {expected:?} is right");
            if !DOCS.lines().any(|line| line == row) {
                missing.push(row);
            }
        }
        ensure!(missing.is_empty(), "docs/toa.md lacks the lines\n{}", missing.join("\n"));
        Ok(())
    }

    /// Clients that lie about their address, in all sorts of options on every segment.
    fn forged(&mut self) -> Result<()> {
        self.requests += 1;
        let path = format!("/{}", self.requests);
        let forge = Cmd::new(&self.probe).args(["forge", "10.1.0.100:80", &path]);
        let said = forge.in_netns(&self.lab.rig.clients[1]).run()?.stdout;
        let seen = self.logged_for(&path, said.trim().parse().context(said)?)?;
        ensure!(seen.len() == 1 && seen.contains_key("10.5.0.9"), "forged addresses are logged: {seen:?}");
        Ok(())
    }

    /// Short connections for a while; each must be answered, and logged with the client's address.
    fn load(&mut self) -> Result<()> {
        let (url, path) = self.own_path("http://10.1.0.100");
        let wrk = Wrk { connections: 8, duration: LOAD_TIME, close: true };
        let report = wrk.run(self.lab.client(), &url)?;
        ensure!(report.errors == 0, "{report:?}");
        let seen = self.logged_for(&path, report.requests)?;
        ensure!(seen.len() == 1 && seen.contains_key(CLIENTS[0]), "not only the client is logged: {seen:?}");
        self.connections += seen.values().sum::<u64>();
        Ok(())
    }

    /// The receiver goes and comes back while connections come in; none may fail.
    fn off_and_on_under_load(&mut self, receiver: Receiver) -> Result<()> {
        let (url, path) = self.own_path("http://10.1.0.100");
        let (guest, lab) = (&mut self.guest, &self.lab);
        let wrk = Wrk { connections: 8, duration: LOAD_TIME, close: true };
        let report = std::thread::scope(|scope| {
            let load = scope.spawn(|| wrk.run(lab.client(), &url));
            for _ in 0..2 {
                guest.run(receiver.off())?;
                guest.run(&receiver.on())?;
            }
            load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure!(report.errors == 0, "{report:?}");
        // Both addresses are right here, but nothing else is.
        let seen = self.logged_for(&path, report.requests)?;
        ensure!(seen.contains_key(CLIENTS[0]), "the client was never logged: {seen:?}");
        let strange = seen.keys().find(|&address| address != CLIENTS[0] && !is_local_address(address));
        ensure!(strange.is_none(), "neither client nor gateway: {seen:?}");
        self.connections += seen.values().sum::<u64>();
        Ok(())
    }

    fn receiver(&mut self, receiver: Receiver) -> Result<()> {
        self.guest.run(&receiver.on())?;
        self.families(receiver)?;
        self.forged()?;
        self.load()?;
        self.off_and_on_under_load(receiver)?;
        self.guest.run(receiver.off())?;
        let logged = self.ask("http://10.1.0.100")?;
        ensure!(is_local_address(&logged), "without a receiver, nginx logs {logged}");
        Ok(())
    }

    /// Sockets in use according to the kernel's memory allocator, IPv4 and IPv6.
    fn sockets(&mut self) -> Result<u64> {
        let text =
            self.guest.run("grep -E '^(TCP|TCPv6|request_sock_TCP|request_sock_TCPv6) ' /proc/slabinfo")?;
        let count = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
        Ok(text.lines().filter_map(count).sum())
    }
}

fn nginx_logs_the_client(kernel: Kernel) -> Result<()> {
    let mut bed = Bed::start(kernel)?;
    let logged = bed.ask("http://10.1.0.100")?;
    ensure!(is_local_address(&logged), "without a receiver, nginx logs {logged}");
    let before = bed.sockets()?;
    for receiver in [Receiver::Bpf, Receiver::Module] {
        bed.receiver(receiver).with_context(|| format!("{}: {}", receiver.name(), bed.guest.console()))?;
    }
    println!("{} connections on Linux {}", bed.connections, kernel.series());
    ensure!(bed.connections >= CONNECTIONS_MIN, "only {} connections", bed.connections);
    // The allocator counts per-CPU slabs as in use, so some dozens more are none.
    let settled = |bed: &mut Bed| Ok((bed.sockets()? <= before + 100).then_some(()));
    wait_for("sockets are freed", Duration::from_secs(20), || settled(&mut bed))?;
    let complaints = bed.guest.complaints()?;
    ensure!(complaints.is_empty(), "the guest's kernel complains:\n{complaints}");
    bed.lab.succeed()
}

#[test]
fn nginx_on_linux_6_1_logs_the_client() -> Result<()> {
    nginx_logs_the_client(Kernel::V6_1)
}

#[test]
fn nginx_on_linux_6_12_logs_the_client() -> Result<()> {
    nginx_logs_the_client(Kernel::V6_12)
}
