//! The rig with what the forwarding modes need: IPv6, DNS, real servers that answer clients themselves, tunnels,
//! and hosts behind a router with a narrow link.
//!
//! ```text
//!  far 10.3.0.11 ── router ──┐  narrow link between them
//!                  10.1.0.254├─ bridge `wan` ── gateway ── bridge `lan` ── eth0 real1, real2, real3
//!  client1, client2 ─────────┤                                                │
//!                            └──────────── direct answers ────────────── eth1 10.1.0.51, .52, .53
//!
//!  bridge `lan` ── 10.2.0.254 router ── far 10.4.0.11, a real server
//!  bridge `wan` ── 10.1.0.253 (direct answers)
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::ConfigFile;
use crate::dns::Dns;
use crate::gateway::binary;
use crate::load::{self, Answers};
use crate::netns::{self, End, Netns};
use crate::nginx::Nginx;
use crate::process::{Bond, Process};
use crate::receiver::{self, Receiver};
use crate::rig::{Rig, RigOptions, noise, sha256};
use crate::run::Cmd;

/// Where GUE's packets are taken.
pub const GUE_PORT: u16 = 6080;

const START_LIMIT: Duration = Duration::from_secs(10);

/// Ports with both families, pools for both, routes to the far hosts.
const BASE: &str = r#"
[dataplane]
workers = 2
connections_max = 100000

[control]
metrics_listen = "127.0.0.1:9180"

[[port]]
name = "wan"
device = "net_af_xdp,iface=veth-wan"
addresses = ["10.1.0.1/24", "2001:db8:1::1/64"]

[[port]]
name = "lan"
device = "net_af_xdp,iface=veth-lan"
addresses = ["10.2.0.1/24", "2001:db8:2::1/64"]

[[local_pool]]
name = "inside"
addresses = ["10.2.0.200-10.2.0.203", "2001:db8:2::200-2001:db8:2::203"]

[[route]]
network = "10.3.0.0/24"
via = "10.1.0.254"
port = "wan"

[[route]]
network = "2001:db8:3::/64"
via = "2001:db8:1::fe"
port = "wan"

[[route]]
network = "10.4.0.0/24"
via = "10.2.0.254"
port = "lan"

[[route]]
network = "2001:db8:4::/64"
via = "2001:db8:2::fe"
port = "lan"
"#;

/// A rig, and what was added.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order.
    _dns: Vec<Dns>,
    decaps: Vec<Process>,
    /// The rig.
    pub rig: Rig,
    far: Option<Far>,
}

/// A host behind a router.
#[derive(Debug)]
struct Far {
    host: Netns,
    _router: Netns,
}

impl Lab {
    /// The network and the real servers' nginx and dnsmasq. `services` is the rest of the configuration (TOML).
    pub fn build(services: &str) -> Result<Lab> {
        let table = format!("{BASE}{services}").parse().context("the test's configuration is not TOML")?;
        let options = RigOptions {
            config: ConfigFile { table },
            prefix: None,
            bond: Bond::DiesWithParent,
            receiver: false,
        };
        let rig = Rig::build(options)?;
        let mut dns = Vec::new();
        for (number, real) in (1..).zip(&rig.reals) {
            dns.push(Dns::start(&format!("real{number}"), real, rig.dir())?);
        }
        Ok(Lab { _dns: dns, decaps: Vec::new(), rig, far: None })
    }

    /// The same with the gateway running.
    pub fn start(services: &str) -> Result<Lab> {
        let mut lab = Lab::build(services)?;
        lab.start_gateway()?;
        Ok(lab)
    }

    /// Starts the gateway and waits until every real server of every service gets connections.
    pub fn start_gateway(&mut self) -> Result<()> {
        self.rig.gateway.start(&self.rig.gw)?;
        let gw = &self.rig.gw;
        self.rig.gateway.wait_for("every real server in service", |gateway| {
            let services = gateway.json(gw, "services")?;
            let servers = services.as_array().into_iter().flatten();
            let mut servers = servers.flat_map(|service| service["real_servers"].as_array()).flatten();
            let first = servers.next();
            let ready = first.into_iter().chain(servers).all(|s| s["up"] == true && s["reachable"] == true);
            Ok((first.is_some() && ready).then_some(()))
        })
    }

    /// Real servers own these VIPs, do not answer ARP for them, and have an interface among the clients.
    pub fn answer_directly(&self, vips: &[&str]) -> Result<()> {
        for (number, real) in (1..).zip(&self.rig.reals) {
            self.rig.attach(real, "eth1", "wan", &format!("back{number}"))?;
            real.ip(&format!("addr add 10.1.0.5{number}/24 dev eth1"))?;
            real.ip(&format!("addr add 2001:db8:1::5{number}/64 dev eth1"))?;
            real.ip("route add 10.3.0.0/24 via 10.1.0.254")?;
            real.ip("route add 2001:db8:3::/64 via 2001:db8:1::fe")?;
            own(real, vips)?;
        }
        Ok(())
    }

    /// The gateway is the real servers' default route and the clients' way to them.
    pub fn route_through_gateway(&self) -> Result<()> {
        self.rig.gw.sysctl("net.ipv4.ip_forward", "1")?;
        self.rig.gw.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        for real in &self.rig.reals {
            real.ip("route add default via 10.2.0.1")?;
            real.ip("route add default via 2001:db8:2::1")?;
        }
        for client in &self.rig.clients {
            client.ip("route add 10.2.0.0/24 via 10.1.0.1")?;
            client.ip("route add 2001:db8:2::/64 via 2001:db8:1::1")?;
        }
        Ok(())
    }

    /// Real servers take packets out of tunnels, the far one too.
    pub fn open_tunnels(&mut self) -> Result<()> {
        for real in self.rig.reals.iter().chain(self.far.iter().map(|far| &far.host)) {
            netns::join(End { netns: real, interface: "decap0" }, End { netns: real, interface: "decap1" })?;
            real.sysctl("net.ipv4.conf.decap1.rp_filter", "0")?;
            let command = Cmd::new(binary("tollgate-decap")?).args(["decap0", "decap1"]);
            let command = command.arg(GUE_PORT.to_string());
            let name = format!("{}.decap", real.name());
            let mut decap = Process::spawn(&name, real, &command, self.rig.dir(), Bond::DiesWithParent)?;
            decap.wait_log("ready", START_LIMIT)?;
            self.decaps.push(decap);
        }
        Ok(())
    }

    /// A client 10.3.0.11, 2001:db8:3::11 behind a router whose link to it takes packets of `mtu` bytes, while
    /// the client itself knows nothing of that.
    pub fn add_far_client(&mut self, mtu: u16) -> Result<()> {
        let router = self.rig.make_netns("router")?;
        self.add_interface(&router, "eth0", "wan", ["10.1.0.254", "2001:db8:1::fe"])?;
        self.far = Some(self.far_host(router, 3, mtu)?);
        Ok(())
    }

    /// A real server 10.4.0.11, 2001:db8:4::11 with nginx and these VIPs, behind a router whose link to it
    /// takes packets of `mtu` bytes. Its answers to clients take another way than through the gateway.
    pub fn add_far_real_server(&mut self, mtu: u16, vips: &[&str]) -> Result<()> {
        let router = self.rig.make_netns("router")?;
        self.add_interface(&router, "eth0", "lan", ["10.2.0.254", "2001:db8:2::fe"])?;
        self.add_interface(&router, "eth2", "wan", ["10.1.0.253", "2001:db8:1::fd"])?;
        let far = self.far_host(router, 4, mtu)?;
        own(&far.host, vips)?;
        let mut nginx = Nginx::new("far", self.rig.dir(), self.rig.dir(), Bond::DiesWithParent)?;
        nginx.start(&far.host)?;
        self.rig.nginx.push(nginx);
        self.far = Some(far);
        Ok(())
    }

    fn add_interface(&self, router: &Netns, name: &str, bridge: &str, addresses: [&str; 2]) -> Result<()> {
        self.rig.attach(router, name, bridge, &format!("router-{bridge}"))?;
        add_addresses(router, name, addresses)
    }

    /// A host in the networks of this number, and its router's link to it.
    fn far_host(&self, router: Netns, net: u8, mtu: u16) -> Result<Far> {
        let host = self.rig.make_netns("far")?;
        for forwarding in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            router.sysctl(forwarding, "1")?;
        }
        // Answers of a real server come in where requests did not go out.
        for interface in ["all", "default", "eth0"] {
            router.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
        }
        netns::join(End { netns: &router, interface: "eth1" }, End { netns: &host, interface: "eth0" })?;
        router.ip(&format!("link set eth1 mtu {mtu}"))?;
        let (gate, gate6) = (format!("10.{net}.0.1"), format!("2001:db8:{net}::1"));
        add_addresses(&router, "eth1", [&gate, &gate6])?;
        add_addresses(&host, "eth0", [&format!("{gate}1"), &format!("{gate6}1")])?;
        host.ip(&format!("route add default via {gate}"))?;
        host.ip(&format!("route add default via {gate6}"))?;
        Ok(Far { host, _router: router })
    }

    /// The far host.
    pub fn far(&self) -> Result<&Netns> {
        self.far.as_ref().map(|far| &far.host).context("no far host was added")
    }

    /// The first client.
    pub fn client(&self) -> &Netns {
        &self.rig.clients[0]
    }

    /// A receiver of TCP for servers that [`Lab::serve`] starts. To be dropped after them and before the lab.
    pub fn receiver(&self) -> Result<Receiver> {
        Receiver::attach(&receiver::group_of(&self.rig.prefix), self.rig.dir())
    }

    /// The same for UDP, also where the client stands in a header.
    pub fn udp_receiver(&self) -> Result<Receiver> {
        let group = receiver::group_of(&self.rig.prefix);
        Receiver::attach_udp(&group, self.rig.dir(), &self.rig.reals[0], "eth0")
    }

    /// Starts a server on the first real server, where `receiver` shows it its clients.
    pub fn serve(&self, name: &str, command: &Cmd, receiver: &Receiver) -> Result<Process> {
        let command = receiver::member(receiver.cgroup(), command);
        Process::spawn(name, &self.rig.reals[0], &command, self.rig.dir(), Bond::DiesWithParent)
    }

    /// Requests to `url`, each on its own connection.
    pub fn get(&self, url: &str, count: u32) -> Result<Answers> {
        load::get_many(self.client(), url, count)
    }

    /// Uploads a file to a VIP's `/upload`, as fast as it goes.
    pub fn upload(&self, vip: &str, file: &Path) -> Result<()> {
        let curl = Cmd::line("curl -sS --fail --max-time 25 -o /dev/null -T").arg(file);
        curl.arg(format!("http://{vip}/upload")).in_netns(self.client()).run()?;
        Ok(())
    }

    /// The SHA-256 of what `client` gets from `url`.
    pub fn download(&self, client: &Netns, url: &str) -> Result<String> {
        let path = self.rig.dir().join("downloaded");
        let curl = Cmd::line("curl -sS --fail --max-time 25 -o").arg(&path).arg(url);
        curl.in_netns(client).run()?;
        sha256(&path)
    }

    /// The SHA-256 of all that nginx's `/upload` was sent.
    pub fn uploaded(&self) -> Result<Vec<String>> {
        let mut sums = Vec::new();
        for nginx in &self.rig.nginx {
            for path in nginx.uploads()? {
                sums.push(sha256(&path)?);
            }
        }
        Ok(sums)
    }

    /// Makes a file of `len` bytes that nginx serves as `/files/NAME`.
    pub fn file(&self, name: &str, len: usize) -> Result<PathBuf> {
        let path = self.rig.dir().join("files").join(name);
        std::fs::write(&path, noise(len)).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// The path MTU that a namespace has learnt towards an address; `None`: nothing yet.
    pub fn learnt_mtu(netns: &Netns, to: &str) -> Result<Option<u16>> {
        let route = netns.ip(&format!("route get {to}"))?;
        let mut words = route.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
        words.next().map(|mtu| mtu.parse().with_context(|| route.clone())).transpose()
    }

    /// The test has succeeded: nobody needs to see the logs.
    pub fn succeed(mut self) -> Result<()> {
        self.rig.hush();
        Ok(())
    }
}

fn add_addresses(netns: &Netns, interface: &str, [v4, v6]: [&str; 2]) -> Result<()> {
    netns.ip(&format!("addr add {v4}/24 dev {interface}"))?;
    netns.ip(&format!("addr add {v6}/64 dev {interface}"))?;
    Ok(())
}

/// Gives a real server these VIPs, for which it answers no ARP, and lets it take clients' packets anywhere.
fn own(real: &Netns, vips: &[&str]) -> Result<()> {
    for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")] {
        for interface in ["all", "default", "eth0"] {
            real.sysctl(&format!("net.ipv4.conf.{interface}.{key}"), value)?;
        }
    }
    for vip in vips {
        let len = if vip.contains(':') { 128 } else { 32 };
        real.ip(&format!("addr add {vip}/{len} dev lo"))?;
    }
    Ok(())
}
