//! UDP servers that know nothing of it, behind the whole gateway, with the BPF receiver: they see their clients.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tollgate_tests::lab::Lab;
use tollgate_tests::process::Process;
use tollgate_tests::receiver::Receiver;
use tollgate_tests::rig::{CLIENTS, CLIENTS6};
use tollgate_tests::wait::{wait_for, wait_until};
use tollgate_tests::{Cmd, Netns};

/// Answers each datagram with whom it is from, as `recvfrom` has it.
const SERVER: &str = "import socket,sys\n\
    s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n\
    s.bind((sys.argv[1], 5300))\n\
    while True:\n    data, peer = s.recvfrom(2048)\n    s.sendto(f'{peer[0]} {peer[1]}'.encode(), peer)\n";

/// Where dnsmasq listens that writes down who asks.
const DNS_PORT: u16 = 5353;

/// How long a server may take to start, an answer to come, and a log to be written.
const PATIENCE: Duration = Duration::from_secs(10);

/// VIP, real server, and how it is told its clients.
const SERVICES: [(&str, &str, &str); 4] = [
    ("10.1.0.100", "10.2.0.11", "option"),
    ("10.1.0.101", "10.2.0.11", "header"),
    ("[2001:db8:1::100]", "[2001:db8:2::11]", "header"),
    ("[2001:db8:1::101]", "[2001:db8:2::11]", "option"),
];

fn services() -> String {
    let one = |vip: &str, port: u16, real: &str, real_port: u16, uoa: &str| {
        format!(
            "[[service]]\nlisten = \"{vip}:{port}\"\nprotocol = \"udp\"\nuoa = \"{uoa}\"\n\
             real_server = [{{ address = \"{real}:{real_port}\" }}]\n"
        )
    };
    SERVICES
        .iter()
        .flat_map(|(vip, real, uoa)| [one(vip, 5300, real, 5300, uoa), one(vip, 53, real, DNS_PORT, uoa)])
        .collect()
}

/// The gateway, a receiver on real1, and servers there in its group.
struct Bed {
    // Dropped in this order: a control group with processes in it cannot be removed, nor a folder with a mount.
    servers: Vec<Process>,
    dns: Process,
    receiver: Receiver,
    lab: Lab,
}

impl Bed {
    fn start() -> Result<Bed> {
        let lab = Lab::start(&services())?;
        let (real, dir) = (&lab.rig.reals[0], lab.rig.dir());
        let receiver = lab.udp_receiver()?;
        let mut servers = Vec::new();
        for address in ["10.2.0.11", "2001:db8:2::11"] {
            let server = Cmd::line("python3 -u -c").arg(SERVER).arg(address);
            servers.push(lab.serve(&format!("udp-{}", servers.len()), &server, &receiver)?);
        }
        listening(real, 5300, 2)?;
        let dns = Cmd::line(&format!(
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --port={DNS_PORT} --log-queries \
             --log-facility=- --pid-file={}/logging.pid --no-resolv --no-hosts --local=/test/ \
             --txt-record=who.test,logging",
            dir.display()
        ));
        let dns = lab.serve("logging-dns", &dns, &receiver)?;
        listening(real, DNS_PORT, 2)?;
        Ok(Bed { servers, dns, receiver, lab })
    }

    fn succeed(self) -> Result<()> {
        drop((self.servers, self.dns));
        drop(self.receiver);
        self.lab.succeed()
    }
}

fn listening(netns: &Netns, port: u16, sockets: usize) -> Result<()> {
    wait_until(&format!("{sockets} sockets at port {port}"), PATIENCE, || {
        let all = Cmd::line(&format!("ss -Hlun sport = :{port}")).in_netns(netns).run()?.stdout;
        Ok(all.lines().count() >= sockets)
    })?;
    Ok(())
}

/// Asks `count` times from one socket; what the server says of it, and where that is bound.
fn ask(client: &Netns, from: &str, vip: &str, count: usize) -> Result<(Vec<String>, SocketAddr)> {
    client.inside(|| {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(format!("{vip}:5300"))?;
        let mut said = Vec::new();
        for _ in 0..count {
            socket.send(b"who am I?")?;
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).with_context(|| format!("{vip} does not answer"))?;
            said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        Ok((said, socket.local_addr()?))
    })
}

#[test]
fn udp_servers_see_their_clients() -> Result<()> {
    let bed = Bed::start()?;
    let client = bed.lab.client();
    for (vip, _, uoa) in SERVICES {
        let from = if vip.starts_with('[') { CLIENTS6[0] } else { CLIENTS[0] };
        // The first three tell it, the others go the short way.
        let (said, local) = ask(client, from, vip, 6)?;
        let wanted = format!("{} {}", local.ip(), local.port());
        ensure!(said.iter().all(|said| *said == wanted), "{vip}, {uoa}: {said:?}, not {wanted}");
        let question = format!("dig +short +time=5 +tries=1 @{} who.test TXT", vip.trim_matches(['[', ']']));
        let answer = Cmd::line(&question).in_netns(client).run()?.stdout;
        ensure!(answer.contains("logging"), "{vip}: {answer}");
        let logged = format!("query[TXT] who.test from {from}");
        wait_for(&format!("`{logged}` in dnsmasq's log"), PATIENCE, || {
            Ok(bed.dns.log_text().contains(&logged).then_some(()))
        })?;
        println!("| tollgate-toa (BPF) | {vip} {uoa} | python3, dnsmasq | {from} |");
    }
    let status = bed.receiver.status()?;
    for said in ["datagrams that told the client", "header of protocol 248 was taken out"] {
        let line = status.lines().find(|line| line.contains(said)).context(said)?;
        ensure!(line.split_whitespace().next() != Some("0"), "{status}");
    }
    bed.succeed()
}

/// Clients cannot tell an address of their own: the option is gone, and the server sees who sent it.
#[test]
fn a_client_that_forges_the_option_is_seen_as_itself() -> Result<()> {
    let bed = Bed::start()?;
    let (vip, from) = (SERVICES[0].0, CLIENTS[0]);
    let forging = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(10)\n\
         s.bind(('{from}', 0))\n\
         s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([31, 8, 0, 53, 8, 8, 8, 8]))\n\
         for n in range(5):\n    s.sendto(b'x', ('{vip}', 5300))\n    print(s.recv(100).decode())\n\
         print('{from}', s.getsockname()[1])\n"
    );
    let said = Cmd::line("python3 -c").arg(forging).in_netns(bed.lab.client()).run()?.stdout;
    let mut lines: Vec<&str> = said.lines().collect();
    let wanted = lines.pop().context("nothing said")?;
    ensure!(lines.len() == 5 && lines.iter().all(|line| *line == wanted), "{said}");
    let page = Cmd::line("curl -s http://127.0.0.1:9180/metrics").in_netns(&bed.lab.rig.gw).run()?.stdout;
    let stripped = page.lines().filter(|line| line.contains("event=\"uoa_stripped\""));
    let stripped: f64 = stripped.filter_map(|line| line.split(' ').nth(1)?.parse::<f64>().ok()).sum();
    ensure!(stripped == 5.0, "{stripped} options stripped");
    bed.succeed()
}
