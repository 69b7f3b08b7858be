//! Every forwarding mode through the whole gateway, between real programs.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use tollgate_tests::capture::{Capture, Segment, flag};
use tollgate_tests::lab::Lab;
use tollgate_tests::load::{Answers, Wrk};
use tollgate_tests::nginx::Nginx;
use tollgate_tests::process::Bond;
use tollgate_tests::rig::{CLIENTS, CLIENTS6, sha256};
use tollgate_tests::wait::wait_for;
use tollgate_tests::{Cmd, Netns, dns, load};

/// The MTU of the link to the far host.
const NARROW: u16 = 1300;

/// Services in turn (rr) of real1 and real2 on one VIP of each family: HTTP and DNS.
fn web_and_dns(mode: &str) -> String {
    let mut text = String::new();
    for (vip, net) in [("10.1.0.100", "10.2.0."), ("[2001:db8:1::100]", "[2001:db8:2::")] {
        let end = if net.starts_with('[') { "]" } else { "" };
        for (protocol, port) in [("tcp", 80), ("udp", 53)] {
            text += &format!(
                "[[service]]\nlisten = \"{vip}:{port}\"\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n\
                 scheduler = \"rr\"\nreal_server = [{{ address = \"{net}11{end}:{port}\" }}, \
                 {{ address = \"{net}12{end}:{port}\" }}]\n"
            );
        }
    }
    text
}

/// Both real servers answer over TCP and UDP, IPv4 and IPv6, each its share.
fn web_and_dns_answer(lab: &Lab) -> Result<()> {
    for vip in ["10.1.0.100", "[2001:db8:1::100]"] {
        assert_shared(&lab.get(&format!("http://{vip}/"), 20)?, &["real1", "real2"], vip);
        let mut answers = Answers::default();
        for _ in 0..10 {
            let server = dns::who(lab.client(), vip.trim_matches(['[', ']']))?;
            *answers.by_server.entry(server).or_default() += 1;
        }
        assert_shared(&answers, &["real1", "real2"], vip);
    }
    Ok(())
}

/// One service; `real_servers` as in the configuration.
fn service(listen: &str, protocol: &str, more: &str, real_servers: &[&str]) -> String {
    let reals: Vec<String> = real_servers.iter().map(|real| format!("{{ {real} }}")).collect();
    format!(
        "[[service]]\nlisten = \"{listen}\"\nprotocol = \"{protocol}\"\nscheduler = \"rr\"\n{more}\n\
         real_server = [{}]\n",
        reals.join(", ")
    )
}

/// `[ADDRESS]` for IPv6, as it stands before a port.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Three pings, each of which must be answered.
fn ping(from: &Netns, to: &str) -> Result<()> {
    Cmd::line(&format!("ping -q -c 3 -i 0.2 -W 3 {to}")).in_netns(from).run()?;
    Ok(())
}

/// The first captured segment with exactly these flags.
fn first_segment(capture: &Capture, flags: u8, also: impl Fn(&Segment) -> bool) -> Result<Segment> {
    wait_for("a segment in the capture", Duration::from_secs(5), || {
        Ok(capture.segments()?.into_iter().find(|segment| segment.has_flags(flags) && also(segment)))
    })
}

/// Bounded loads over long and over short connections, on both workers.
fn loads_make_no_errors(lab: &Lab) -> Result<()> {
    for vip in ["10.1.0.100", "[2001:db8:1::100]"] {
        for close in [false, true] {
            let load = Wrk { connections: 16, duration: Duration::from_secs(2), close };
            let report = load.run(lab.client(), &format!("http://{vip}/"))?;
            assert!(report.errors == 0 && report.requests > 100, "{vip}, close: {close}, {report:?}");
        }
    }
    Ok(())
}

/// All requests were answered, by these real servers in turn. Each worker takes turns of its own.
fn assert_shared(answers: &Answers, servers: &[&str], what: &str) {
    let share = answers.answered() / servers.len() as u32;
    let even = servers.iter().all(|server| answers.of(server).abs_diff(share) <= 2);
    let by_them: u32 = servers.iter().map(|server| answers.of(server)).sum();
    let all = by_them > 0 && by_them == answers.answered() && answers.failed == 0;
    assert!(even && all, "{what}: {answers:?}");
}

#[test]
fn direct_routing_over_tcp_and_udp_and_both_families() -> Result<()> {
    let mut lab = Lab::build(&web_and_dns("dr"))?;
    lab.answer_directly(&["10.1.0.100", "2001:db8:1::100"])?;
    lab.start_gateway()?;
    web_and_dns_answer(&lab)?;
    loads_make_no_errors(&lab)?;
    lab.succeed()
}

#[test]
fn fullnat_over_tcp_and_udp_and_both_families() -> Result<()> {
    let lab = Lab::start(&web_and_dns("fullnat"))?;
    web_and_dns_answer(&lab)?;
    loads_make_no_errors(&lab)?;
    lab.succeed()
}

#[test]
fn nat_over_tcp_and_udp_and_both_families() -> Result<()> {
    let mut lab = Lab::build(&web_and_dns("nat"))?;
    lab.route_through_gateway()?;
    lab.start_gateway()?;
    let capture = Capture::start(&lab.rig.reals[0], "eth0", "tcp port 80", lab.rig.dir())?;
    web_and_dns_answer(&lab)?;
    for client in [CLIENTS[0], CLIENTS6[0]] {
        first_segment(&capture, flag::SYN, |syn| syn.from.ip().to_string() == client)?;
    }
    loads_make_no_errors(&lab)?;
    lab.succeed()
}

#[test]
fn what_real_servers_behind_nat_send_of_their_own_accord_is_routed_by_the_kernel() -> Result<()> {
    let mut lab = Lab::build(&web_and_dns("nat"))?;
    lab.route_through_gateway()?;
    lab.start_gateway()?;
    let mut server = Nginx::new("client1", lab.rig.dir(), lab.rig.dir(), Bond::DiesWithParent)?;
    server.start(lab.client())?;
    for real in &lab.rig.reals[..2] {
        for (client, url) in [(CLIENTS[0], "http://10.1.0.11/"), (CLIENTS6[0], "http://[2001:db8:1::11]/")] {
            ping(real, client)?;
            assert_eq!(load::get_many(real, url, 10)?.of("client1"), 10, "{url}");
        }
    }
    // The same real servers, as such.
    web_and_dns_answer(&lab)?;
    lab.succeed()
}

/// VIP, tunnel, network of the real servers, MTU of what fits into it.
const TUNNELS: [(&str, &str, &str, u16); 9] = [
    ("10.1.0.101", "tunnel = \"ipip\"", "10.2.0.", 1480),
    ("10.1.0.102", "tunnel = \"gre\"", "10.2.0.", 1476),
    ("10.1.0.103", "tunnel = \"gre\"\ntunnel_checksum = true", "10.2.0.", 1472),
    ("10.1.0.104", "tunnel = \"gue\"\ntunnel_port = 6080", "10.2.0.", 1468),
    ("10.1.0.105", "tunnel = \"ipip\"", "2001:db8:2::", 1460),
    ("2001:db8:1::101", "tunnel = \"ipip\"", "2001:db8:2::", 1460),
    ("2001:db8:1::102", "tunnel = \"ipip\"", "10.2.0.", 1480),
    ("2001:db8:1::103", "tunnel = \"gue\"\ntunnel_port = 6080", "2001:db8:2::", 1448),
    ("2001:db8:1::104", "tunnel = \"gue\"\ntunnel_port = 6080\ntunnel_checksum = true", "2001:db8:2::", 1448),
];

/// The tunnels, each with a service for these protocols and ports, and real servers that are ready for them.
fn tunnels(services: &[(&str, u16)]) -> Result<Lab> {
    let mut text = String::new();
    for (vip, tunnel, net, _) in TUNNELS {
        let reals = ["11", "12"].map(|host| format!("address = \"{net}{host}\""));
        for (protocol, port) in services {
            let listen = format!("{}:{port}", bracketed(vip));
            let more = format!("mode = \"tun\"\n{tunnel}");
            text += &service(&listen, protocol, &more, &[&reals[0], &reals[1]]);
        }
    }
    let mut lab = Lab::build(&text)?;
    lab.answer_directly(&TUNNELS.map(|(vip, ..)| vip))?;
    lab.open_tunnels()?;
    lab.start_gateway()?;
    Ok(lab)
}

#[test]
fn tunnels_of_every_kind_in_both_families() -> Result<()> {
    let lab = tunnels(&[("tcp", 80), ("udp", 53)])?;
    for (vip, tunnel, ..) in TUNNELS {
        let answers = lab.get(&format!("http://{}/", bracketed(vip)), 10)?;
        assert_shared(&answers, &["real1", "real2"], &format!("{vip} {tunnel}"));
        assert!(dns::who(lab.client(), vip)?.starts_with("real"), "{vip} {tunnel}");
    }
    lab.succeed()
}

#[test]
fn clients_learn_what_fits_into_a_tunnel() -> Result<()> {
    let lab = tunnels(&[("tcp", 80)])?;
    let file = lab.file("upload", 2_000_000)?;
    for (vip, tunnel, _, mtu) in TUNNELS {
        lab.upload(&bracketed(vip), &file)?;
        assert_eq!(Lab::learnt_mtu(lab.client(), vip)?, Some(mtu), "{vip} {tunnel}");
    }
    assert_eq!(lab.uploaded()?, vec![sha256(&file)?; TUNNELS.len()]);
    lab.succeed()
}

#[test]
fn fullnat_between_the_families_tells_the_clients_address() -> Result<()> {
    let mut text = String::new();
    for (vip, net, end) in [("[2001:db8:1::100]", "10.2.0.", ""), ("10.1.0.100", "[2001:db8:2::", "]")] {
        for (protocol, port) in [("tcp", 80), ("udp", 53)] {
            let reals = ["11", "12"].map(|host| format!("address = \"{net}{host}{end}:{port}\""));
            text += &service(&format!("{vip}:{port}"), protocol, "", &[&reals[0], &reals[1]]);
        }
    }
    let lab = Lab::start(&text)?;
    let capture = Capture::start(&lab.rig.reals[0], "eth0", "tcp port 80", lab.rig.dir())?;
    web_and_dns_answer(&lab)?;
    for (client, over_ipv6) in [(CLIENTS6[0], false), (CLIENTS[0], true)] {
        let told = first_segment(&capture, flag::ACK, |ack| {
            ack.toa(254).is_some_and(|toa| toa.ip().to_string() == client)
        })?;
        assert_eq!(told.from.is_ipv6(), over_ipv6);
    }
    let file = lab.file("download", 2_000_000)?;
    for vip in ["10.1.0.100", "[2001:db8:1::100]"] {
        assert_eq!(lab.download(lab.client(), &format!("http://{vip}/files/download"))?, sha256(&file)?);
        lab.upload(vip, &file)?;
    }
    assert_eq!(lab.uploaded()?, vec![sha256(&file)?; 2]);
    lab.succeed()
}

/// A client address, on a port of its own choice, and the virtual address, as nginx's PROXY port tells them.
fn told(answer: &str) -> Option<(&str, &str)> {
    let [client, port, virtual_] = answer.split(' ').collect::<Vec<_>>()[..] else { return None };
    (port.parse::<u16>().ok()? > 0).then_some((client, virtual_))
}

/// Both versions of the PROXY protocol on ports 81 and 82 of a VIP of each family, before nginx that expects them.
fn proxied(mode: &str, families: [(&str, &str, &str); 2]) -> String {
    let mut text = String::new();
    for (vip, net, end) in families {
        for (port, version) in [(81, "v1"), (82, "v2")] {
            let reals = ["11", "12"].map(|host| format!("address = \"{net}{host}{end}:81\""));
            let more = format!("mode = \"{mode}\"\nproxy_protocol = \"{version}\"");
            text += &service(&format!("{vip}:{port}"), "tcp", &more, &[&reals[0], &reals[1]]);
        }
    }
    text
}

/// nginx sees the clients, and what they upload arrives whole.
fn nginx_is_told_by_the_proxy_protocol(lab: &Lab) -> Result<()> {
    let file = lab.file("upload", 2_000_000)?;
    for (vip, bare, client) in
        [("10.1.0.100", "10.1.0.100", CLIENTS[0]), ("[2001:db8:1::100]", "2001:db8:1::100", CLIENTS6[0])]
    {
        for port in [81, 82] {
            let address = format!("{vip}:{port}");
            let answers = lab.get(&format!("http://{address}/"), 10)?;
            let right = answers.by_server.keys().all(|answer| told(answer) == Some((client, bare)));
            assert!(right && answers.answered() == 10, "{address}: {answers:?}");
            lab.upload(&address, &file)?;
        }
    }
    assert_eq!(lab.uploaded()?, vec![sha256(&file)?; 4]);
    Ok(())
}

const OWN_FAMILIES: [(&str, &str, &str); 2] =
    [("10.1.0.100", "10.2.0.", ""), ("[2001:db8:1::100]", "[2001:db8:2::", "]")];
const OTHER_FAMILIES: [(&str, &str, &str); 2] =
    [("10.1.0.100", "[2001:db8:2::", "]"), ("[2001:db8:1::100]", "10.2.0.", "")];

#[test]
fn fullnat_tells_nginx_by_the_proxy_protocol() -> Result<()> {
    let lab = Lab::start(&proxied("fullnat", OWN_FAMILIES))?;
    nginx_is_told_by_the_proxy_protocol(&lab)?;
    lab.succeed()
}

#[test]
fn fullnat_between_the_families_tells_nginx_by_the_proxy_protocol() -> Result<()> {
    let lab = Lab::start(&proxied("fullnat", OTHER_FAMILIES))?;
    nginx_is_told_by_the_proxy_protocol(&lab)?;
    lab.succeed()
}

#[test]
fn nat_tells_nginx_by_the_proxy_protocol() -> Result<()> {
    let mut lab = Lab::build(&proxied("nat", OWN_FAMILIES))?;
    lab.route_through_gateway()?;
    lab.start_gateway()?;
    nginx_is_told_by_the_proxy_protocol(&lab)?;
    lab.succeed()
}

#[test]
fn a_real_server_that_speaks_first_knows_the_client_before() -> Result<()> {
    let more = "proxy_protocol = \"v1\"";
    let lab = Lab::start(&service("10.1.0.100:25", "tcp", more, &["address = \"10.2.0.11:25\""]))?;
    let listener = lab.rig.reals[0].inside(|| Ok(TcpListener::bind("10.2.0.11:25")?))?;
    let server = thread::spawn(move || -> Result<String> {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream);
        let mut header = String::new();
        reader.read_line(&mut header)?;
        reader.get_mut().write_all(b"220 hello\r\n")?;
        let mut said = String::new();
        reader.read_line(&mut said)?;
        Ok(header + &said)
    });
    // The client waits for the greeting before it says anything.
    let from = lab.client().inside(|| {
        let mut stream = TcpStream::connect("10.1.0.100:25")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting, b"220 hello\r\n");
        stream.write_all(b"QUIT\r\n")?;
        Ok(stream.local_addr()?)
    })?;
    let heard = server.join().unwrap()?;
    assert_eq!(heard, format!("PROXY TCP4 {} 10.1.0.100 {} 25\r\nQUIT\r\n", from.ip(), from.port()));
    lab.succeed()
}

#[test]
fn modes_are_mixed_in_one_service() -> Result<()> {
    let reals = [
        "address = \"10.2.0.11:80\", mode = \"fullnat\"",
        "address = \"10.2.0.12:80\", mode = \"dr\"",
        "address = \"[2001:db8:2::13]:80\", mode = \"tun\"",
    ];
    let mut lab = Lab::build(&service("10.1.0.100:80", "tcp", "", &reals))?;
    lab.answer_directly(&["10.1.0.100"])?;
    lab.open_tunnels()?;
    lab.start_gateway()?;
    assert_shared(&lab.get("http://10.1.0.100/", 30)?, &["real1", "real2", "real3"], "10.1.0.100");
    lab.succeed()
}

#[test]
fn vips_answer_pings() -> Result<()> {
    let lab = Lab::start(&web_and_dns("fullnat"))?;
    for client in &lab.rig.clients {
        ping(client, "10.1.0.100")?;
        ping(client, "2001:db8:1::100")?;
    }
    lab.succeed()
}

#[test]
fn a_client_hears_that_no_real_server_listens() -> Result<()> {
    let vips = ["10.1.0.100", "2001:db8:1::100", "2001:db8:1::101", "10.1.0.101"];
    let reals = ["10.2.0.11", "2001:db8:2::11", "10.2.0.11", "2001:db8:2::11"];
    let mut text = String::new();
    for (vip, real) in vips.iter().zip(reals) {
        let real = format!("address = \"{}:9999\"", bracketed(real));
        text += &service(&format!("{}:9999", bracketed(vip)), "udp", "", &[&real]);
    }
    let lab = Lab::start(&text)?;
    for vip in vips {
        let said = dns::ask(lab.client(), vip, 9999)?;
        assert!(said.stdout.contains("connection refused"), "{vip}: {said:?}");
    }
    lab.succeed()
}

#[test]
fn datagrams_that_may_be_fragmented_pass_tunnels_that_are_too_small_for_them() -> Result<()> {
    let lab = tunnels(&[("udp", 7)])?;
    // Otherwise Linux sets DF.
    lab.client().sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
    let sent: Vec<u8> = (0..1472).map(|at: u16| at.to_le_bytes()[0]).collect();
    for (vip, tunnel, net, mtu) in TUNNELS {
        if vip.contains(':') || net.contains(':') {
            continue;
        }
        let servers: Vec<UdpSocket> =
            lab.rig.reals[..2].iter().map(|real| udp_socket(real, vip, 7)).collect::<Result<_>>()?;
        let client = udp_socket(lab.client(), CLIENTS[0], 0)?;
        client.send_to(&sent, (vip, 7))?;
        let mut room = [0; 2000];
        let (len, from) = wait_for(&format!("{vip} {tunnel}"), Duration::from_secs(5), || {
            Ok(servers.iter().find_map(|server| server.recv_from(&mut room).ok()))
        })?;
        assert_eq!(room[..len], sent, "{vip} {tunnel}: not whole through an MTU of {mtu}");
        assert_eq!(from, client.local_addr()?);
    }
    lab.succeed()
}

/// A UDP socket in a namespace that never waits.
fn udp_socket(netns: &Netns, address: &str, port: u16) -> Result<UdpSocket> {
    netns.inside(|| {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

#[test]
fn fullnat_learns_a_narrow_path_to_the_client() -> Result<()> {
    let mut text = web_and_dns("fullnat");
    text += &service("[2001:db8:1::101]:80", "tcp", "", &["address = \"10.2.0.11:80\""]);
    text += &service("10.1.0.101:80", "tcp", "", &["address = \"[2001:db8:2::11]:80\""]);
    let mut lab = Lab::build(&text)?;
    lab.add_far_client(NARROW)?;
    lab.start_gateway()?;
    let file = lab.file("download", 2_000_000)?;
    for vip in ["10.1.0.100", "[2001:db8:1::100]", "[2001:db8:1::101]", "10.1.0.101"] {
        let got = lab.download(lab.far()?, &format!("http://{vip}/files/download"));
        assert_eq!(got?, sha256(&file)?, "{vip}");
    }
    lab.succeed()
}

#[test]
fn nat_learns_a_narrow_path_to_the_client() -> Result<()> {
    let mut lab = Lab::build(&web_and_dns("nat"))?;
    lab.add_far_client(NARROW)?;
    lab.route_through_gateway()?;
    lab.start_gateway()?;
    let file = lab.file("download", 2_000_000)?;
    for (vip, client) in [("10.1.0.100", "10.3.0.11"), ("[2001:db8:1::100]", "2001:db8:3::11")] {
        let got = lab.download(lab.far()?, &format!("http://{vip}/files/download"));
        assert_eq!(got?, sha256(&file)?, "{vip}");
        let reals = lab.rig.reals.iter();
        let learnt: Vec<_> = reals.map(|real| Lab::learnt_mtu(real, client)).collect::<Result<_>>()?;
        assert!(learnt.contains(&Some(NARROW)), "{vip}: {learnt:?}");
    }
    lab.succeed()
}

#[test]
fn direct_routing_learns_a_narrow_path_to_the_client() -> Result<()> {
    let mut text = service("10.1.0.100:80", "tcp", "mode = \"dr\"", &["address = \"10.2.0.11\""]);
    let real = "address = \"2001:db8:2::11\"";
    text += &service("[2001:db8:1::100]:80", "tcp", "mode = \"dr\"", &[real]);
    let mut lab = Lab::build(&text)?;
    lab.add_far_client(NARROW)?;
    lab.answer_directly(&["10.1.0.100", "2001:db8:1::100"])?;
    lab.start_gateway()?;
    let file = lab.file("download", 2_000_000)?;
    for (vip, client) in [("10.1.0.100", "10.3.0.11"), ("[2001:db8:1::100]", "2001:db8:3::11")] {
        let got = lab.download(lab.far()?, &format!("http://{vip}/files/download"));
        assert_eq!(got?, sha256(&file)?, "{vip}");
        assert_eq!(Lab::learnt_mtu(&lab.rig.reals[0], client)?, Some(NARROW));
    }
    lab.succeed()
}

#[test]
fn fullnat_tells_clients_of_a_narrow_path_to_the_real_server() -> Result<()> {
    let vips = ["10.1.0.100", "2001:db8:1::100", "2001:db8:1::101", "10.1.0.101"];
    let reals = ["10.4.0.11", "2001:db8:4::11", "10.4.0.11", "2001:db8:4::11"];
    let mut text = String::new();
    for (vip, real) in vips.iter().zip(reals) {
        let real = format!("address = \"{}:80\"", bracketed(real));
        text += &service(&format!("{}:80", bracketed(vip)), "tcp", "", &[&real]);
    }
    let mut lab = Lab::build(&text)?;
    lab.add_far_real_server(NARROW, &[])?;
    lab.start_gateway()?;
    let file = lab.file("upload", 2_000_000)?;
    for vip in vips {
        lab.upload(&bracketed(vip), &file)?;
        // Less where the header of the other family is shorter, or while TOA is inserted.
        let learnt = Lab::learnt_mtu(lab.client(), vip)?;
        assert!(learnt.is_some_and(|mtu| mtu.abs_diff(NARROW) <= 20), "{vip}: {learnt:?}");
    }
    assert_eq!(lab.uploaded()?, vec![sha256(&file)?; vips.len()]);
    lab.succeed()
}

#[test]
fn a_narrow_path_under_a_tunnel_is_told_to_clients() -> Result<()> {
    let mut text = String::new();
    for (vip, tunnel, net, _) in TUNNELS {
        let real = format!("address = \"{}11\"", net.replace("10.2", "10.4").replace("db8:2", "db8:4"));
        let more = format!("mode = \"tun\"\n{tunnel}");
        text += &service(&format!("{}:80", bracketed(vip)), "tcp", &more, &[&real]);
    }
    let mut lab = Lab::build(&text)?;
    // Wide enough for the least that IPv6 asks for, in any tunnel.
    lab.add_far_real_server(1400, &TUNNELS.map(|(vip, ..)| vip))?;
    lab.open_tunnels()?;
    lab.start_gateway()?;
    let file = lab.file("upload", 2_000_000)?;
    for (vip, ..) in TUNNELS {
        lab.upload(&bracketed(vip), &file)?;
    }
    assert_eq!(lab.uploaded()?, vec![sha256(&file)?; TUNNELS.len()]);
    lab.succeed()
}
