//! Bad input at the running programs: each is answered with an error that names the thing and the remedy, and leaves
//! what runs alone.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use api::frame::{self, Greeting};
use api::{API_VERSION, Request, Response};
use tollgate_tests::rig::URL;
use tollgate_tests::run::Said;
use tollgate_tests::wait::{wait_for, wait_until};
use tollgate_tests::{Cmd, ConfigFile, Rig, RigOptions, gateway, load};

/// A configuration with mistakes (sysexits' EX_USAGE, as the issue wants it).
const EXIT_BAD_CONFIG: i32 = 64;

fn write(dir: &Path, text: &str) -> Result<PathBuf> {
    let path = dir.join("bad.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

fn demo_text() -> Result<String> {
    Ok(std::fs::read_to_string(tollgate_tests::config::repository().join("configs/demo.toml"))?)
}

/// What is replaced in the demo's configuration, by which mistake, in which line it is told, and what is said.
const MISTAKES: [(&str, &str, &str, &str); 5] = [
    ("workers = 2", "wrokers = 2", "wrokers", "unknown key"),
    ("\"10.2.0.200-10.2.0.203\"", "\"10.1.0.100\"", "listen = \"10.1", "local address of pool"),
    ("weight = 2", "weight = 65536", "weight = 65536", "65535"),
    ("mode = \"fullnat\"", "mode = \"dsr\"", "mode = ", "did you mean `dr`?"),
    ("scheduler = \"wrr\"", "scheduler = \"fastest\"", "scheduler = ", "wlc"),
];

#[test]
fn mistakes_in_a_configuration_are_named_with_their_place_by_every_program() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (right, wrong, told_in, said) in MISTAKES {
        let text = demo_text()?.replacen(right, wrong, 1);
        let line =
            1 + text.lines().position(|line| line.contains(told_in)).context("the demo has changed")?;
        let path = write(dir.path(), &text)?;
        let place = format!("{}:{line}:", path.display());
        for command in [
            Cmd::new(gateway::binary("tollgate")?).arg("check-config"),
            Cmd::new(gateway::binary("tollgate-dataplane")?).arg("--config"),
            Cmd::new(gateway::binary("tollgate-control")?).arg("--config"),
        ] {
            let command = command.arg(&path);
            let Said { code, stderr, .. } = command.run_any()?;
            assert_eq!(code, Some(EXIT_BAD_CONFIG), "`{command}` with {wrong}: {stderr}");
            assert!(stderr.contains(&place) && stderr.contains(said), "`{command}` with {wrong}: {stderr}");
        }
    }
    Ok(())
}

#[test]
fn a_missing_configuration_is_named() -> Result<()> {
    for program in ["tollgate-dataplane", "tollgate-control"] {
        let said =
            Cmd::new(gateway::binary(program)?).args(["--config", "/nonexistent/tollgate.toml"]).run_any()?;
        assert_eq!(said.code, Some(EXIT_BAD_CONFIG), "{said:?}");
        assert!(said.stderr.contains("/nonexistent/tollgate.toml"), "{said:?}");
    }
    Ok(())
}

/// Starts the dataplane with a changed demo configuration, which must fail; what it said.
fn refused_start(change: impl FnOnce(&mut ConfigFile) -> Result<()>) -> Result<Said> {
    let mut options = RigOptions::demo()?;
    change(&mut options.config)?;
    let rig = Rig::build(options)?;
    let dataplane = Cmd::new(gateway::binary("tollgate-dataplane")?).arg("--config").arg(&rig.gateway.config);
    let said = dataplane.in_netns(&rig.gw).run_any()?;
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    rig.succeed()?;
    Ok(said)
}

fn set_device(config: &mut ConfigFile, device: &str) -> Result<()> {
    config.tables("port")?[1].insert("device".to_owned(), device.into());
    Ok(())
}

#[test]
fn an_unknown_pci_address_is_named_with_a_remedy() -> Result<()> {
    let said = refused_start(|config| set_device(config, "0000:ff:1f.7"))?;
    assert!(said.stderr.contains("0000:ff:1f.7") && said.stderr.contains("dpdk-devbind"), "{}", said.stderr);
    Ok(())
}

#[test]
fn a_missing_interface_is_named() -> Result<()> {
    let said = refused_start(|config| set_device(config, "net_af_xdp,iface=veth-none"))?;
    assert!(said.stderr.contains("veth-none"), "{}", said.stderr);
    Ok(())
}

#[test]
fn missing_huge_pages_are_named_when_they_are_required() -> Result<()> {
    let said = refused_start(|config| {
        config.set("dataplane", "huge_pages", "require")?;
        // More than any machine has that runs this test.
        config.set("dataplane", "memory_mib", 1_000_000)
    })?;
    let names_it = said.stderr.contains("1000000 MiB of huge pages are required");
    let remedy = said.stderr.contains("lower memory_mib") && said.stderr.contains("huge_pages = \"prefer\"");
    assert!(names_it && remedy, "{}", said.stderr);
    Ok(())
}

#[test]
fn a_start_without_permission_says_so() -> Result<()> {
    let rig = Rig::build(RigOptions::demo()?)?;
    let unprivileged = Cmd::line(
        "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --",
    );
    // The unprivileged must be able to read both, whoever built the program.
    let (program, config) = (rig.dir().join("tollgate-dataplane"), &rig.gateway.config);
    std::fs::copy(gateway::binary("tollgate-dataplane")?, &program)?;
    Cmd::line("chmod a+rx").arg(rig.dir()).arg(&program).arg(config).run()?;
    let said = unprivileged.arg(program).arg("--config").arg(config).in_netns(&rig.gw).run_any()?;
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    let text = said.stderr.to_lowercase();
    assert!(text.contains("root") || text.contains("permission") || text.contains("cap_"), "{}", said.stderr);
    rig.succeed()
}

#[test]
fn a_second_dataplane_on_the_same_socket_is_refused_and_the_first_goes_on() -> Result<()> {
    let rig = Rig::demo()?;
    let second = Cmd::new(gateway::binary("tollgate-dataplane")?).arg("--config").arg(&rig.gateway.config);
    let said = second.in_netns(&rig.gw).run_any()?;
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    assert!(said.stderr.contains("dataplane.sock"), "{}", said.stderr);
    assert_eq!(load::get_many(&rig.clients[0], URL, 20)?.failed, 0);
    rig.succeed()
}

#[test]
fn a_refused_reload_leaves_everything_as_it_was() -> Result<()> {
    let rig = Rig::demo()?;
    let generation = |rig: &Rig| -> Result<_> {
        Ok(rig.gateway.json(&rig.gw, "status")?["dataplane"]["generation"].clone())
    };
    let before = generation(&rig)?;
    rig.gateway.change_config(|config| config.set_weights(&[1, 70_000, 1]))?;
    let said = rig.gateway.cli_any(&rig.gw, "reload")?;
    assert_eq!(said.code, Some(EXIT_BAD_CONFIG), "{said:?}");
    assert!(said.stderr.contains("70000") || said.stderr.contains("65535"), "{said:?}");
    assert_eq!(generation(&rig)?, before);
    assert_eq!(load::get_many(&rig.clients[0], URL, 20)?.failed, 0);
    rig.succeed()
}

fn connect(rig: &Rig) -> Result<UnixStream> {
    let stream = UnixStream::connect(rig.gateway.api_socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// All that comes until the dataplane closes the connection, which it must.
fn rest_of(mut stream: UnixStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // A reset counts as closed too.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            Err(error).context("the dataplane leaves a broken connection open")
        }
        _ => Ok(bytes),
    }
}

#[test]
fn broken_api_connections_disturb_nobody() -> Result<()> {
    let rig = Rig::demo()?;
    let before = rig.gateway.json(&rig.gw, "status")?["dataplane"]["generation"].clone();

    let mut other_version = connect(&rig)?;
    other_version.write_all(&Greeting { version: API_VERSION + 1 }.to_bytes())?;
    assert_eq!(
        rest_of(other_version)?,
        Greeting::ours().to_bytes(),
        "the version must be told, and nothing else"
    );

    for garbage in [&b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"[..], &[0; 8], b"TG"] {
        let mut stream = connect(&rig)?;
        stream.write_all(garbage)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        assert!(rest_of(stream)?.len() <= frame::GREETING_LEN);
    }

    let mut truncated = connect(&rig)?;
    frame::greet(&mut truncated)?;
    truncated.write_all(&[100, 0, 0, 0, 1, 2, 3])?;
    truncated.shutdown(std::net::Shutdown::Write)?;
    rest_of(truncated)?;

    let mut giant = connect(&rig)?;
    frame::greet(&mut giant)?;
    giant.write_all(&u32::MAX.to_le_bytes())?;
    rest_of(giant)?;

    let mut nonsense = connect(&rig)?;
    frame::greet(&mut nonsense)?;
    nonsense.write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff])?;
    let answer: Option<Response> = frame::read(&mut nonsense)?;
    assert!(matches!(answer, Some(Response::Refused(_))), "{answer:?}");

    assert_eq!(rig.gateway.json(&rig.gw, "status")?["dataplane"]["generation"], before);
    assert_eq!(load::get_many(&rig.clients[0], URL, 20)?.failed, 0);
    rig.succeed()
}

#[test]
fn a_client_that_says_nothing_blocks_no_other() -> Result<()> {
    let rig = Rig::demo()?;
    let silent = (0..8).map(|_| connect(&rig)).collect::<Result<Vec<_>>>()?;
    let mut half = connect(&rig)?;
    frame::greet(&mut half)?;
    half.write_all(&frame::encode(&Request::GetStatus)?[..2])?;
    let said = rig.gateway.cli(&rig.gw, "status")?;
    assert!(said.contains("dataplane"), "{said}");
    drop((silent, half));
    rig.succeed()
}

#[test]
fn the_command_line_names_both_versions_when_the_dataplane_speaks_another() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("other.sock");
    let listener = UnixListener::bind(&socket)?;
    let other = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(&Greeting { version: 99 }.to_bytes())?;
        let mut greeting = [0; frame::GREETING_LEN];
        stream.read_exact(&mut greeting)
    });
    let said = Cmd::new(gateway::binary("tollgate")?).arg("status").arg("--socket").arg(&socket).run_any()?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("99") && said.stderr.contains(&API_VERSION.to_string()), "{said:?}");
    other.join().ok().context("the listener panicked")??;
    Ok(())
}

#[test]
fn a_dataplane_that_is_not_there_is_named() -> Result<()> {
    let said = Cmd::new(gateway::binary("tollgate")?)
        .args(["status", "--socket", "/nonexistent/api.sock"])
        .run_any()?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("/nonexistent/api.sock"), "{said:?}");
    Ok(())
}

/// How many packets the dataplane has dropped for each of these reasons.
fn drops<const N: usize>(rig: &Rig, reasons: [&str; N]) -> Result<[Option<u64>; N]> {
    let stats = rig.gateway.json(&rig.gw, "stats")?;
    let drops = stats["drops"].as_array().context("no drops in the statistics")?;
    Ok(reasons.map(|reason| drops.iter().find(|drop| drop["name"] == reason)?["total"].as_u64()))
}

/// An Ethernet frame to the gateway with an IPv4 header that says `total_len`, and these bytes behind it.
fn ipv4_frame(to: [u8; 6], from: [u8; 6], total_len: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(total_len.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 1, 0, 11, 10, 1, 0, 100]);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&to[..], &from[..], &[0x08, 0x00], &header, rest].concat()
}

#[test]
fn malformed_packets_are_counted_drops() -> Result<()> {
    let rig = Rig::demo()?;
    // The answer teaches the client nothing that matters; the twin's MAC address is what is needed.
    let (gateway, client) = (rig.gw.mac("veth-wan")?, rig.clients[0].mac("eth0")?);
    let frames = [
        // Longer than it is.
        ipv4_frame(gateway, client, 1000, 6, &[0; 40]),
        // Shorter than its own header.
        ipv4_frame(gateway, client, 10, 6, &[0; 40]),
        // A TCP header that is cut off.
        ipv4_frame(gateway, client, 30, 6, &[0; 26]),
        // A data offset beyond the packet.
        ipv4_frame(
            gateway,
            client,
            40,
            6,
            &[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0xf0, 2, 0, 0, 0, 0, 0, 0],
        ),
        // An IPv4 header length of 4 bytes.
        [&gateway[..], &client, &[0x08, 0x00, 0x41, 0], &[0; 44]].concat(),
    ];
    rig.clients[0].send_frames("eth0", &frames)?;
    let reasons = ["ip_truncated", "l4_truncated", "ip_header_invalid"];
    wait_until("every malformed packet among the drops, for its reason", Duration::from_secs(10), || {
        Ok(drops(&rig, reasons)? == [Some(2), Some(2), Some(1)])
    })?;
    assert_eq!(load::get_many(&rig.clients[0], URL, 20)?.failed, 0);
    rig.succeed()
}

/// Opens `count` connections that say nothing, from a client; those that came about within the time.
fn idle_connections(rig: &Rig, count: usize) -> Result<Vec<std::net::TcpStream>> {
    let address = "10.1.0.100:80".parse()?;
    rig.clients[0].inside(|| {
        Ok((0..count)
            .map_while(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok())
            .collect())
    })
}

/// A connection that was made earlier still carries a request and its answer.
fn still_works(mut stream: &std::net::TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

#[test]
fn exhausted_local_ports_are_counted_and_shown_and_old_connections_live() -> Result<()> {
    let mut options = RigOptions::demo()?;
    for pool in options.config.tables("local_pool")? {
        pool.insert("addresses".to_owned(), vec!["10.2.0.200"].into());
        pool.insert("ports".to_owned(), "2000-2015".into());
    }
    let mut rig = Rig::build(options)?;
    rig.start_gateway()?;
    // 16 ports towards each of three real servers.
    let streams = idle_connections(&rig, 60)?;
    assert!((16..=48).contains(&streams.len()), "{} connections over 48 local ports", streams.len());
    let said = wait_for("exhausted ports in `tollgate status`", Duration::from_secs(10), || {
        let said = rig.gateway.cli(&rig.gw, "status")?;
        Ok(said.contains("lack of a local port").then_some(said))
    })?;
    assert!(said.contains("local pool"), "the remedy is missing:\n{said}");
    assert!(still_works(&streams[0])? && still_works(&streams[streams.len() - 1])?);
    rig.succeed()
}

#[test]
fn a_full_connection_table_is_counted_and_shown_and_old_connections_live() -> Result<()> {
    let mut options = RigOptions::demo()?;
    options.config.set("dataplane", "connections_max", 64)?;
    let mut rig = Rig::build(options)?;
    rig.start_gateway()?;
    let streams = idle_connections(&rig, 200)?;
    assert!((1..=64).contains(&streams.len()), "{} connections in a table of 64", streams.len());
    let said = wait_for("the full table in `tollgate status`", Duration::from_secs(10), || {
        let said = rig.gateway.cli(&rig.gw, "status")?;
        Ok(said.contains("table was full").then_some(said))
    })?;
    assert!(said.contains("connections_max"), "the remedy is missing:\n{said}");
    assert!(still_works(&streams[0])?);
    rig.succeed()
}

#[test]
fn ports_in_use_are_named_and_the_one_that_uses_them_goes_on() -> Result<()> {
    let rig = Rig::demo()?;
    let mut config = ConfigFile::read(&rig.gateway.config)?;
    config.set("dataplane", "api_socket", rig.dir().join("second.sock").to_string_lossy().into_owned())?;
    config.set("dataplane", "instance", "second")?;
    let path = rig.dir().join("second.toml");
    config.write(&path)?;
    let second = Cmd::new(gateway::binary("tollgate-dataplane")?).arg("--config").arg(path);
    let said = second.in_netns(&rig.gw).run_any()?;
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    let error = said.stderr.lines().find(|line| line.contains("ERROR")).unwrap_or("");
    assert!(error.contains("port wan: veth-wan is in use by another"), "{}", said.stderr);
    assert_eq!(load::get_many(&rig.clients[0], URL, 20)?.failed, 0);
    rig.succeed()
}
