//! Linux IPVS in its guest, as a gateway.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tollgate_tests::ipvs_guest::{Guest, Side};
use tollgate_tests::wait_until;

use crate::case::{Family, Gateway, Mode, Protocol, Real, Service, Setting, service};
use crate::describe::GUE_PORT;
use crate::frame::{
    CLIENT, CLIENT_MAC, CLIENT6, Frame, LAN_IP, LAN_IP6, Port, REALS, VIP, VIP6, WAN_IP, WAN_IP6, real_mac,
    rip, rip6, udp,
};
use crate::outcome::{ConnectionLine, CountsLine, TrafficLine};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The guest, and what is configured in it.
pub(crate) struct Ipvs {
    guest: Guest,
    services: Vec<Service>,
}

impl Ipvs {
    /// Boots the guest and gives it addresses, neighbours and routes.
    pub(crate) fn start() -> Result<Ipvs> {
        let mut guest = Guest::start()?;
        guest.run(
            "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.vs.conntrack=0",
        )?;
        let mut lines = vec![
            format!("address add {WAN_IP}/24 dev eth0"),
            format!("address add {LAN_IP}/24 dev eth1"),
            format!("address add {WAN_IP6}/64 dev eth0 nodad"),
            format!("address add {LAN_IP6}/64 dev eth1 nodad"),
            format!("address add {VIP}/32 dev eth0"),
            format!("address add {VIP6}/128 dev eth0 nodad"),
            format!("route add 10.9.0.0/16 via {CLIENT}"),
            format!("route add fd00:9::/64 via {CLIENT6}"),
            format!("neigh replace {CLIENT} lladdr {CLIENT_MAC} dev eth0 nud permanent"),
            format!("neigh replace {CLIENT6} lladdr {CLIENT_MAC} dev eth0 nud permanent"),
        ];
        for n in 1..=REALS {
            let mac = real_mac(n);
            lines.push(format!("neigh replace {} lladdr {mac} dev eth1 nud permanent", rip(n)));
            lines.push(format!("neigh replace {} lladdr {mac} dev eth1 nud permanent", rip6(n)));
        }
        let words: String = lines.iter().map(|line| format!("'{line}' ")).collect();
        guest.run(&format!("printf '%s\\n' {words}| ip -batch -"))?;
        Ok(Ipvs { guest, services: Vec::new() })
    }

    /// Runs ipvsadm with lines as `ipvsadm --restore` takes them.
    fn restore(&mut self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let words: String = lines.iter().map(|line| format!("'{line}' ")).collect();
        let said = self.guest.run(&format!("printf '%s\\n' {words}| ipvsadm --restore"))?;
        ensure!(said.trim().is_empty(), "ipvsadm said {said:?} to {lines:?}");
        Ok(())
    }
}

impl Ipvs {
    /// The real servers of a service, as ipvsadm lists them.
    fn list(&mut self, service: &Service, options: &str) -> Result<Vec<Row>> {
        rows(&self.guest.run(&format!("ipvsadm -Ln {options} {}", service_words(service)))?)
    }

    /// IPVS adds up its counters every two seconds. Waits until it has done so after now: a service of its
    /// own gets a packet, and is asked until it shows.
    fn wait_for_estimator(&mut self) -> Result<()> {
        let mut service = service(Family::V4, 999, Protocol::Udp, Mode::Dr, 1);
        service.one_packet = true;
        let mut services = self.services.clone();
        services.push(service.clone());
        self.configure(&services)?;
        let frame = udp(SocketAddr::new(CLIENT.into(), 999), service.virtual_).by_client();
        self.send(&[frame])?;
        wait_until("IPVS adds up its counters", PATIENCE, || {
            Ok(self.list(&service, "--stats --exact")?.iter().any(|row| row.numbers[0] > 0))
        })?;
        services.pop();
        self.configure(&services)
    }
}

/// How ipvsadm names a service.
fn service_words(service: &Service) -> String {
    let option = match service.protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
    };
    format!("{option} {}", service.virtual_)
}

fn add_service(service: &Service) -> String {
    let mut line = format!("-A {} -s {}", service_words(service), service.scheduler);
    if let Some(seconds) = service.persistence {
        let _ = write!(line, " -p {seconds}");
    }
    if service.one_packet {
        line.push_str(" -o");
    }
    if !service.flags.is_empty() {
        let _ = write!(line, " -b {}", service.flags.join(","));
    }
    line
}

fn real_line(command: &str, service: &Service, real: &Real) -> String {
    let mode = match real.mode {
        Mode::Dr => "-g".to_owned(),
        Mode::Nat => "-m".into(),
        Mode::Ipip => "-i".into(),
        Mode::Gre => "-i --tun-type gre --tun-nocsum".into(),
        Mode::GreChecksum => "-i --tun-type gre --tun-csum".into(),
        Mode::Gue => format!("-i --tun-type gue --tun-port {GUE_PORT} --tun-nocsum"),
        Mode::GueChecksum => format!("-i --tun-type gue --tun-port {GUE_PORT} --tun-csum"),
    };
    let (upper, lower) = real.thresholds;
    let words = service_words(service);
    format!("{command} {words} -r {} {mode} -w {} -x {upper} -y {lower}", real.real, real.weight)
}

/// What leads from the one to the other.
fn changes(old: &[Service], new: &[Service]) -> Vec<String> {
    let same = |a: &Service, b: &Service| a.protocol == b.protocol && a.virtual_ == b.virtual_;
    let mut lines = Vec::new();
    for service in old.iter().filter(|old| !new.iter().any(|new| same(old, new))) {
        lines.push(format!("-D {}", service_words(service)));
    }
    for service in new {
        let Some(before) = old.iter().find(|old| same(old, service)) else {
            lines.push(add_service(service));
            // The kernel keeps the last one first; schedulers shall go through them in their order.
            lines.extend(service.reals.iter().rev().map(|real| real_line("-a", service, real)));
            continue;
        };
        let had = |real: &Real| before.reals.iter().find(|old| old.real == real.real);
        for real in before.reals.iter().filter(|old| !service.reals.iter().any(|new| new.real == old.real)) {
            lines.push(format!("-d {} -r {}", service_words(service), real.real));
        }
        for real in &service.reals {
            match had(real) {
                Some(old) if old == real => {}
                Some(_) => lines.push(real_line("-e", service, real)),
                None => lines.push(real_line("-a", service, real)),
            }
        }
    }
    lines
}

fn side(port: Port) -> Side {
    match port {
        Port::Wan => Side::Wan,
        Port::Lan => Side::Lan,
    }
}

impl Gateway for Ipvs {
    fn configure(&mut self, services: &[Service]) -> Result<()> {
        let lines = changes(&self.services, services);
        self.restore(&lines)?;
        self.services = services.to_vec();
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        self.services.clear();
        let expire = "/proc/sys/net/ipv4/vs/expire_nodest_conn";
        // Real servers take their connections with them. What was learnt of the MTU on the way to real
        // servers is kept with the route; flushing the cache is not enough.
        let route = format!("10.2.0.0/24 dev eth1 scope link src {LAN_IP}");
        let routes = format!("'route del {route}' 'route add {route}'");
        self.guest.run(&format!(
            "echo 1 >{expire}; ipvsadm --clear && echo 0 >{expire} && printf '%s\\n' {routes} | ip -batch - && \
             ip -6 route flush cache"
        ))?;
        Ok(())
    }

    fn set(&mut self, setting: Setting, on: bool) -> Result<()> {
        let name = match setting {
            Setting::ExpireNodestConn => "expire_nodest_conn",
            Setting::ExpireQuiescentTemplate => "expire_quiescent_template",
        };
        self.guest.run(&format!("sysctl -q -w net.ipv4.vs.{name}={}", u8::from(on)))?;
        Ok(())
    }

    fn send(&mut self, frames: &[Frame]) -> Result<Vec<Frame>> {
        let frames: Vec<_> = frames.iter().map(|frame| (side(frame.port), frame.bytes.clone())).collect();
        let seen = self.guest.exchange(&frames)?;
        let port = |side| if side == Side::Wan { Port::Wan } else { Port::Lan };
        Ok(seen.into_iter().map(|(side, bytes)| Frame { port: port(side), bytes }).collect())
    }

    fn connections(&mut self, services: &[Service]) -> Result<Vec<ConnectionLine>> {
        let text = self.guest.run("ipvsadm -Lnc")?;
        // Two lines of headings.
        let all = text.lines().skip(2).map(|line| connection(line).with_context(|| line.to_owned()));
        let mut all = all.collect::<Result<Vec<_>>>()?;
        all.retain(|one| services.iter().any(|service| service.covers(one.virtual_)));
        Ok(all)
    }

    fn counts(&mut self, services: &[Service]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for service in services {
            let connections = self.list(service, "")?;
            let templates = self.list(service, "--persistent-conn")?;
            for (real, templates) in connections.iter().zip(&templates) {
                // Forward, weight, active, inactive; and weight, persistent, active, inactive.
                let ([weight, active, inactive], [_, persistent, ..]) =
                    (&real.numbers[..], &templates.numbers[..])
                else {
                    bail!("other columns than expected");
                };
                let (weight, active, inactive) = (*weight, *active, *inactive);
                let line = CountsLine { real: real.real, weight, active, inactive, persistent: *persistent };
                lines.push(line.to_string());
            }
        }
        Ok(lines)
    }

    fn traffic(&mut self, services: &[Service]) -> Result<Vec<String>> {
        self.wait_for_estimator()?;
        let mut lines = Vec::new();
        for service in services {
            for row in self.list(service, "--stats --exact")? {
                let [connections, in_packets, out_packets, in_bytes, out_bytes] = row.numbers[..] else {
                    bail!("other columns than expected");
                };
                let (inbound, outbound) = ((in_packets, in_bytes), (out_packets, out_bytes));
                lines.push(TrafficLine { real: row.real, connections, inbound, outbound }.to_string());
            }
        }
        Ok(lines)
    }
}

/// A line of `ipvsadm -Lnc`: protocol, time left, state, client, virtual, real.
fn connection(line: &str) -> Result<ConnectionLine> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [protocol, left, state, client, virtual_, real] = words[..] else {
        return Err(anyhow::anyhow!("not six words"));
    };
    let (minutes, seconds) = left.split_once(':').context("minutes and seconds")?;
    Ok(ConnectionLine {
        protocol: protocol.to_owned(),
        expires_s: minutes.parse::<u32>()? * 60 + seconds.parse::<u32>()?,
        state: state.to_owned(),
        client: client.parse()?,
        virtual_: virtual_.parse()?,
        real: real.parse()?,
    })
}

/// A real server's line in a listing.
struct Row {
    real: SocketAddr,
    /// The columns that are numbers.
    numbers: Vec<u64>,
}

fn rows(text: &str) -> Result<Vec<Row>> {
    // The heading begins like the rows.
    let lines = text.lines().filter(|line| line.starts_with("  ->") && !line.contains("RemoteAddress"));
    lines
        .map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let real = words.next().context("no address")?.parse().with_context(|| line.to_owned())?;
            Ok(Row { real, numbers: words.filter_map(|word| word.parse().ok()).collect() })
        })
        .collect()
}
