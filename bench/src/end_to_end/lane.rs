//! One device with clients, real servers and network of its own.

use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tollgate_tests::config::ConfigFile;
use tollgate_tests::netns::{self, End, Netns};
use tollgate_tests::process::{Bond, Process};
use tollgate_tests::rig::{REAL_SERVERS, Rig, RigOptions};
use tollgate_tests::run::Cmd;
use tollgate_tests::wait::wait_until;

use super::{groups_cpu_ns, machine_cpu_ns};
use crate::report::TOLLGATE;

/// What is compared.
pub(super) const DUTS: [&str; 5] = ["direct", TOLLGATE, "nftables", "haproxy", "nginx-stream"];
/// iperf3's port, at the device and at the first real server.
pub(super) const IPERF_PORT: u16 = 5201;

const VIP: &str = "10.1.0.100";
/// The first real server's address on a cable of its own to the client.
const DIRECT: &str = "10.9.0.2";
const START_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// The service for iperf3: its control and its data connection must meet the same server.
const IPERF_SERVICE: &str = r#"
[[service]]
name = "iperf"
listen = "10.1.0.100:5201"
protocol = "tcp"
mode = "fullnat"
scheduler = "rr"

[[service.real_server]]
address = "10.2.0.11:5201"
"#;

/// A device and everything around it.
pub(super) struct Lane {
    /// Its name in the results.
    pub(super) dut: &'static str,
    /// Where wrk goes.
    pub(super) url: String,
    /// Where iperf3 goes.
    pub(super) address: String,
    // Dropped in this order: processes, then the network.
    balancer: Option<Process>,
    _iperf: Process,
    rig: Rig,
}

impl Lane {
    /// Builds the network and starts everything.
    pub(super) fn start(dut: &'static str) -> Result<Lane> {
        let mut config = ConfigFile::from_repository("demo.toml")?;
        let more: toml::Table = IPERF_SERVICE.parse().context("the service for iperf3")?;
        let (services, added) = (config.table.get_mut("service"), more.get("service"));
        if let (Some(services), Some(added)) =
            (services.and_then(toml::Value::as_array_mut), added.and_then(toml::Value::as_array))
        {
            services.extend(added.iter().cloned());
        }
        let mut rig =
            Rig::build(RigOptions { config, prefix: None, bond: Bond::DiesWithParent, receiver: false })?;
        let iperf = Cmd::line("iperf3 -s -p").arg(IPERF_PORT.to_string());
        let iperf = Process::spawn("iperf3", &rig.reals[0], &iperf, rig.dir(), Bond::DiesWithParent)?;
        let mut address = VIP;
        let balancer = match dut {
            TOLLGATE => rig.start_gateway().map(|()| None)?,
            "direct" => {
                lay_cable(&rig)?;
                address = DIRECT;
                None
            }
            "nftables" => route_and_translate(&rig).map(|()| None)?,
            "haproxy" => Some(proxy(&rig, dut, &haproxy_config(), &["haproxy", "-db", "-f"])?),
            "nginx-stream" => Some(proxy(&rig, dut, &nginx_config(rig.dir()), &["nginx", "-c"])?),
            other => bail!("no such device: {other}"),
        };
        let url = format!("http://{address}/");
        let mut lane = Lane { dut, url, address: address.to_owned(), balancer, _iperf: iperf, rig };
        lane.wait_reachable()?;
        lane.suspend()?;
        Ok(lane)
    }

    fn wait_reachable(&mut self) -> Result<()> {
        let get = Cmd::line("curl -s --max-time 1 -o /dev/null").arg(&self.url).in_netns(self.client());
        let balancer = &mut self.balancer;
        wait_until(&format!("an answer through {}", self.dut), START_LIMIT, || {
            balancer.as_mut().map_or(Ok(()), Process::must_run)?;
            Ok(get.run_any()?.code == Some(0))
        })?;
        Ok(())
    }

    /// Where loads come from.
    pub(super) fn client(&self) -> &Netns {
        &self.rig.clients[0]
    }

    /// Does some work; what the machine and what the device's own processes spent on CPUs for it, in nanoseconds.
    pub(super) fn with_cpu<T>(&self, work: impl FnOnce(&Lane) -> Result<T>) -> Result<(T, u64, Option<u64>)> {
        let groups = self.groups();
        let (machine, own) = (machine_cpu_ns()?, groups_cpu_ns(&groups)?);
        let done = work(self)?;
        let (machine, own) = (machine_cpu_ns()? - machine, groups_cpu_ns(&groups)? - own);
        Ok((done, machine, (!groups.is_empty()).then_some(own)))
    }

    /// Its processes: each leads a group. The kernel's forwarding has none.
    fn processes(&self) -> impl Iterator<Item = &Process> {
        let gateway = &self.rig.gateway;
        [&self.balancer, &gateway.dataplane, &gateway.control].into_iter().flatten()
    }

    fn groups(&self) -> Vec<u32> {
        self.processes().map(Process::pid).collect()
    }

    /// Takes its processes off the CPUs: the dataplane would poll while others are measured.
    pub(super) fn suspend(&mut self) -> Result<()> {
        self.processes().try_for_each(|process| process.signal(Signal::SIGSTOP))
    }

    /// Lets it go on, and waits until it answers.
    pub(super) fn resume(&mut self) -> Result<()> {
        self.processes().try_for_each(|process| process.signal(Signal::SIGCONT))?;
        if self.dut == TOLLGATE {
            // Health checks that were under way may have failed.
            self.rig.wait_in_service(&[true; REAL_SERVERS.len()])?;
        }
        self.wait_reachable()
    }

    /// All went well: nobody needs to see the logs.
    pub(super) fn end(mut self) -> Result<()> {
        self.processes().try_for_each(|process| process.signal(Signal::SIGCONT))?;
        self.rig.hush();
        Ok(())
    }
}

/// A link from the first client to the first real server, with nothing in between.
fn lay_cable(rig: &Rig) -> Result<()> {
    let (client, real) = (&rig.clients[0], &rig.reals[0]);
    netns::join(End { netns: client, interface: "direct" }, End { netns: real, interface: "direct" })?;
    client.ip("addr add 10.9.0.1/24 dev direct")?;
    real.ip(&format!("addr add {DIRECT}/24 dev direct"))?;
    Ok(())
}

/// Gives the gateway's kernel the addresses that otherwise Tollgate's twins have.
fn give_addresses(rig: &Rig) -> Result<()> {
    for (address, interface) in [("10.1.0.1/24", "wan"), ("10.1.0.100/32", "wan"), ("10.2.0.1/24", "lan")] {
        rig.gw.ip(&format!("addr add {address} dev veth-{interface}"))?;
    }
    Ok(())
}

/// DNAT and masquerade in the kernel.
fn route_and_translate(rig: &Rig) -> Result<()> {
    give_addresses(rig)?;
    rig.gw.sysctl("net.ipv4.ip_forward", "1")?;
    let [one, two, three] = REAL_SERVERS;
    let rules = format!(
        "table ip balancer {{
  chain inbound {{
    type nat hook prerouting priority -100;
    ip daddr {VIP} tcp dport 80 dnat to numgen inc mod 3 map {{ 0 : {one}, 1 : {two}, 2 : {three} }}
    ip daddr {VIP} tcp dport {IPERF_PORT} dnat to {one}
  }}
  chain outbound {{
    type nat hook postrouting priority 100;
    oifname \"veth-lan\" masquerade
  }}
}}
"
    );
    let path = rig.dir().join("balancer.nft");
    std::fs::write(&path, rules).with_context(|| path.display().to_string())?;
    Cmd::line("nft -f").arg(&path).in_netns(&rig.gw).run()?;
    Ok(())
}

/// A proxy in the gateway's namespace, with its configuration as the last argument.
fn proxy(rig: &Rig, name: &str, config: &str, command: &[&str]) -> Result<Process> {
    give_addresses(rig)?;
    // A port per connection to a real server.
    rig.gw.sysctl("net.ipv4.ip_local_port_range", "1024 65000")?;
    let path = rig.dir().join(format!("{name}.conf"));
    std::fs::write(&path, config).with_context(|| path.display().to_string())?;
    let command = Cmd::new(command[0]).args(&command[1..]).arg(&path);
    Process::spawn(name, &rig.gw, &command, rig.dir(), Bond::DiesWithParent)
}

fn haproxy_config() -> String {
    let mut text = format!(
        "global
  nbthread 2
  maxconn 8000
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend iperf
  bind {VIP}:{IPERF_PORT}
  default_backend iperf
backend iperf
  server real1 {}:{IPERF_PORT}
frontend web
  bind {VIP}:80 backlog 4096
  default_backend web
backend web
  balance roundrobin
",
        REAL_SERVERS[0]
    );
    for (number, address) in REAL_SERVERS.iter().enumerate() {
        text += &format!("  server web{number} {address}:80\n");
    }
    text
}

fn nginx_config(dir: &Path) -> String {
    let dir = dir.display();
    let servers = REAL_SERVERS.map(|address| format!("server {address}:80;"));
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; user root; worker_processes 2; worker_rlimit_nofile 20000;
pid {dir}/stream.pid; error_log {dir}/stream.error.log;
events {{ worker_connections 8000; }}
stream {{
  upstream web {{ {} }}
  server {{ listen {VIP}:80 backlog=4096; proxy_pass web; }}
  server {{ listen {VIP}:{IPERF_PORT}; proxy_pass {}:{IPERF_PORT}; }}
}}
",
        servers.join(" "),
        REAL_SERVERS[0]
    )
}
