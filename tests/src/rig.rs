//! The network of the demo and the end-to-end tests.
//!
//! ```text
//!  client1 10.1.0.11 ┐                  ┌── gateway ──────────────────────┐                  ┌ 10.2.0.11 real1
//!  client2 10.1.0.12 ┴─ bridge `wan` ───┤ veth-wan ═ DPDK ═ veth-lan      ├── bridge `lan` ──┼ 10.2.0.12 real2
//!                       (switch)        │   twin `wan`        twin `lan`  │   (switch)       └ 10.2.0.13 real3
//!                                       │   10.1.0.1, VIP     10.2.0.1, LIPs                 
//!                                       └─────────────────────────────────┘
//! ```
//!
//! Each name is a namespace. The gateway's veth ends have no address: a DPDK port takes their packets (AF_XDP, see
//! docs/adr/0002-ports-in-namespaces.md), the addresses are on the kernel twins that the dataplane makes. Real
//! servers have no route to the clients: only FULLNAT's local addresses let an answer come back. Hosts have an IPv6
//! address each as well, 2001:db8:1::11 for 10.1.0.11 and so on; [`crate::lab`] adds what the other modes need.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::config::ConfigFile;
use crate::gateway::Gateway;
use crate::netns::{self, End, Netns};
use crate::nginx::Nginx;
use crate::post_mortem;
use crate::process::Bond;
use crate::receiver::{self, Receiver};
use crate::run::Cmd;
use crate::wait;

/// The virtual service of `configs/demo.toml`, as a URL.
pub const URL: &str = "http://10.1.0.100/";
/// The clients' addresses.
pub const CLIENTS: [&str; 2] = ["10.1.0.11", "10.1.0.12"];
/// The real servers' addresses.
pub const REAL_SERVERS: [&str; 3] = ["10.2.0.11", "10.2.0.12", "10.2.0.13"];
/// The clients' IPv6 addresses.
pub const CLIENTS6: [&str; 2] = ["2001:db8:1::11", "2001:db8:1::12"];
/// The real servers' IPv6 addresses.
pub const REAL_SERVERS6: [&str; 3] = ["2001:db8:2::11", "2001:db8:2::12", "2001:db8:2::13"];
/// Length of the file that is downloaded.
pub const DOWNLOAD_LEN: usize = 200_000_000;

/// What kind of rig is wanted.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// The gateway's configuration.
    pub config: ConfigFile,
    /// What the namespaces' names begin with; `None`: something that no other rig has.
    pub prefix: Option<String>,
    /// Whether everything lives on when this process is killed or drops the rig with [`Rig::keep`].
    pub bond: Bond,
    /// Whether the real servers are shown their clients by the BPF receiver.
    pub receiver: bool,
}

impl RigOptions {
    /// The demo's configuration.
    pub fn demo() -> Result<RigOptions> {
        let config = ConfigFile::from_repository("demo.toml")?;
        Ok(RigOptions { config, prefix: None, bond: Bond::DiesWithParent, receiver: false })
    }
}

/// Clients, gateway and real servers. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Rig {
    // Dropped in this order: processes, namespaces, files.
    /// The gateway's processes.
    pub gateway: Gateway,
    /// The real servers.
    pub nginx: Vec<Nginx>,
    /// The clients' namespaces.
    pub clients: Vec<Netns>,
    /// The gateway's namespace.
    pub gw: Netns,
    /// The real servers' namespaces.
    pub reals: Vec<Netns>,
    switch: Netns,
    // After the servers, since a control group with processes in it cannot be removed.
    /// What shows real servers their clients.
    pub receiver: Option<Receiver>,
    /// What the namespaces' names begin with.
    pub(crate) prefix: String,
    dir: Option<TempDir>,
    succeeded: bool,
}

impl Rig {
    /// Builds the network and starts nginx; the gateway is not started yet.
    pub fn build(options: RigOptions) -> Result<Rig> {
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces need root: run it with sudo, or through `make`");
        }
        sweep()?;
        let prefix = options.prefix.unwrap_or_else(unique_prefix);
        let dir = tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir()?;
        let make = |name: &str| Netns::create(&format!("{prefix}-{name}"));
        let switch = make("switch")?;
        netns::bridge(&switch, "wan")?;
        netns::bridge(&switch, "lan")?;
        let gw = make("gw")?;
        attach(&gw, "veth-wan", &switch, "wan", "gw-wan")?;
        attach(&gw, "veth-lan", &switch, "lan", "gw-lan")?;
        let mut clients = Vec::new();
        for (number, addresses) in (1..).zip(CLIENTS.into_iter().zip(CLIENTS6)) {
            let name = format!("client{number}");
            clients.push(host(make(&name)?, &switch, "wan", &name, addresses)?);
        }
        let files = dir.path().join("files");
        std::fs::create_dir(&files)?;
        let (mut reals, mut nginx) = (Vec::new(), Vec::new());
        for (number, addresses) in (1..).zip(REAL_SERVERS.into_iter().zip(REAL_SERVERS6)) {
            let name = format!("real{number}");
            reals.push(host(make(&name)?, &switch, "lan", &name, addresses)?);
            nginx.push(Nginx::new(&name, dir.path(), &files, options.bond)?);
        }
        let receiver = if options.receiver {
            Some(Receiver::attach(&receiver::group_of(&prefix), dir.path())?)
        } else {
            None
        };
        for (server, receiver) in nginx.iter_mut().zip(receiver.iter().cycle()) {
            server.set_cgroup(receiver.cgroup());
        }
        let gateway = Gateway::new(&prefix, options.config, dir.path(), options.bond)?;
        let dir = Some(dir);
        let mut rig =
            Rig { gateway, nginx, clients, gw, reals, switch, receiver, prefix, dir, succeeded: false };
        for number in 0..rig.reals.len() {
            rig.start_nginx(number)?;
        }
        Ok(rig)
    }

    /// The demo's network with the gateway running and every real server in service.
    pub fn demo() -> Result<Rig> {
        let mut rig = Rig::build(RigOptions::demo()?)?;
        rig.start_gateway()?;
        Ok(rig)
    }

    /// Starts the gateway and waits until every real server is in service.
    pub fn start_gateway(&mut self) -> Result<()> {
        self.gateway.start(&self.gw)?;
        self.wait_in_service(&[true; REAL_SERVERS.len()])?;
        Ok(())
    }

    /// Waits until exactly these real servers get new connections; how long it took.
    pub fn wait_in_service(&mut self, wanted: &[bool]) -> Result<Duration> {
        let start = Instant::now();
        let what = format!("real servers in service: {wanted:?}");
        let gw = &self.gw;
        self.gateway
            .wait_for(&what, |gateway| Ok((gateway.in_service(gw)? == wanted).then(|| start.elapsed())))
    }

    /// Starts a real server's nginx.
    pub fn start_nginx(&mut self, number: usize) -> Result<()> {
        self.nginx[number].start(&self.reals[number])
    }

    /// Kills a real server's nginx.
    pub fn crash_nginx(&mut self, number: usize) -> Result<()> {
        self.nginx[number].crash(&self.reals[number])
    }

    /// One more namespace.
    pub(crate) fn make_netns(&self, name: &str) -> Result<Netns> {
        Netns::create(&format!("{}-{name}", self.prefix))
    }

    /// One more interface for a namespace, on the bridge `wan` or `lan`.
    pub(crate) fn attach(&self, netns: &Netns, interface: &str, bridge: &str, port: &str) -> Result<()> {
        attach(netns, interface, &self.switch, bridge, port)
    }

    /// A TAP for a guest on the bridge `wan` or `lan`; a guest's qemu has to run in the namespace that is returned.
    pub(crate) fn make_tap(&self, name: &str, bridge: &str) -> Result<&Netns> {
        self.switch.ip(&format!("tuntap add {name} mode tap"))?;
        self.switch.ip(&format!("link set {name} master {bridge} up"))?;
        Ok(&self.switch)
    }

    /// Where logs, captures and configurations go.
    pub fn dir(&self) -> &Path {
        self.gateway.dir()
    }

    /// Makes the file for downloads; its URL and its SHA-256.
    pub fn download_file(&self) -> Result<(String, String)> {
        let path = self.dir().join("files").join("download");
        std::fs::write(&path, noise(DOWNLOAD_LEN))?;
        Ok((format!("{URL}files/download"), sha256(&path)?))
    }

    /// The test has succeeded: nobody needs to see the logs.
    pub fn succeed(mut self) -> Result<()> {
        self.succeeded = true;
        Ok(())
    }

    /// Says that the logs need not be shown when this is dropped.
    pub fn hush(&mut self) {
        self.succeeded = true;
    }

    /// Leaves everything running; the folder with the files.
    pub fn keep(mut self) -> Option<PathBuf> {
        self.succeeded = true;
        let namespaces = self.clients.iter_mut().chain(self.reals.iter_mut());
        namespaces.chain([&mut self.gw, &mut self.switch]).for_each(Netns::keep);
        self.receiver.iter_mut().for_each(Receiver::keep);
        self.dir.take().map(TempDir::keep)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.succeeded && !wait::was_interrupted() {
            eprintln!("{}", post_mortem::of(&self.gateway, &self.gw, &format!("{}-", self.prefix)));
        }
    }
}

/// A host with one interface `eth0` on a bridge.
fn host(netns: Netns, switch: &Netns, bridge: &str, name: &str, addresses: (&str, &str)) -> Result<Netns> {
    attach(&netns, "eth0", switch, bridge, name)?;
    netns.ip(&format!("addr add {}/24 dev eth0", addresses.0))?;
    netns.ip(&format!("addr add {}/64 dev eth0", addresses.1))?;
    // Thousands of short connections from one address, and bursts of them to one nginx.
    netns.sysctl("net.ipv4.ip_local_port_range", "1024 65000")?;
    netns.sysctl("net.core.somaxconn", "4096")?;
    netns.sysctl("net.ipv4.tcp_max_syn_backlog", "4096")?;
    Ok(netns)
}

fn attach(netns: &Netns, interface: &str, switch: &Netns, bridge: &str, port: &str) -> Result<()> {
    netns::join(End { netns, interface }, End { netns: switch, interface: port })?;
    switch.ip(&format!("link set {port} master {bridge}"))?;
    Ok(())
}

/// `tgPIDnN`: tells a later run whose it was.
pub fn unique_prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("tg{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the namespaces and files of runs that were killed before they could do it.
pub fn sweep() -> Result<()> {
    let is_stale = |name: &str| maker_of(name).is_some_and(|pid| !Path::new("/proc").join(pid).exists());
    for name in netns::list(is_stale)? {
        // Another run may be removing it too.
        let removed = netns::delete(&name);
        if netns::list(|left| left == name)?.is_empty() {
            continue;
        }
        removed.with_context(|| format!("removing {name}, which a killed run left behind"))?;
    }
    let stale_group = |name: &String| name.strip_suffix("-toa").is_some_and(|_| is_stale(name));
    for name in receiver::groups()?.iter().filter(|name| stale_group(name)) {
        // Another run may be removing it too.
        let _ = receiver::remove_group(name);
    }
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        if is_stale(&entry.file_name().to_string_lossy()) {
            let _ = receiver::remove_pins(&entry.path().join("bpf"));
            // Only room on the disk is lost if that fails.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The process id in a name that [`unique_prefix`] begins.
fn maker_of(name: &str) -> Option<&str> {
    let (pid, rest) = name.strip_prefix("tg")?.split_once('n')?;
    let (count, _) = rest.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(pid) && is_number(count)).then_some(pid)
}

/// The SHA-256 of a file, in hexadecimal digits.
pub fn sha256(path: &Path) -> Result<String> {
    let said = Cmd::new("sha256sum").arg(path).run()?.stdout;
    Ok(said.split_whitespace().next().context("sha256sum said nothing")?.to_owned())
}

/// Bytes without a pattern (xorshift64), the same every time: nothing that is lost, repeated or swapped in them stays
/// unseen.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_rig_makes_tell_a_maker() {
        assert_eq!(maker_of("tg123n0-gw"), Some("123"));
        assert_eq!(maker_of("tg123-gw"), None);
        assert_eq!(maker_of("tgxn0-gw"), None);
        assert_eq!(maker_of("tollgate-gw"), None);
    }
}
