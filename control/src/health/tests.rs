use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use config::{CheckKind, DnsRecord};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::*;

fn feed(machine: &mut Machine, results: &str) -> Vec<Option<bool>> {
    let result = |c| if c == '+' { Ok(()) } else { Err("no answer".to_owned()) };
    results.chars().map(|c| machine.record(result(c))).collect()
}

#[test]
fn the_first_pass_brings_an_unknown_server_up() {
    let mut machine = Machine::new(3, 2);
    assert_eq!(feed(&mut machine, "+"), [Some(true)]);
    assert_eq!(machine.state(), State::Up);
}

#[test]
fn rise_and_fall_count_results_in_a_row() {
    let mut machine = Machine::new(2, 3);
    assert_eq!(feed(&mut machine, "+--+---"), [Some(true), None, None, None, None, None, Some(false)]);
    assert_eq!(feed(&mut machine, "+-++"), [None, None, None, Some(true)]);
    assert_eq!((machine.passes, machine.failures, machine.changes), (5, 6, 3));
}

#[test]
fn a_live_server_is_not_taken_out_before_a_whole_fall_even_if_seeded_late() {
    let mut machine = Machine::new(2, 3);
    assert_eq!(feed(&mut machine, "--"), [None, None]);
    machine.seed_up();
    assert_eq!(machine.state(), State::Up);
    assert_eq!(feed(&mut machine, "-"), [Some(false)]);
}

#[test]
fn seeding_does_not_overrule_what_checks_decided() {
    let mut machine = Machine::new(2, 1);
    feed(&mut machine, "-");
    machine.seed_up();
    assert_eq!(machine.state(), State::Down);
}

proptest! {
    #[test]
    fn a_server_that_is_up_goes_down_only_after_a_fall_in_a_row(results in "[+-]{0,60}", rise in 1_u32..5, fall in 1_u32..5) {
        let mut machine = Machine::new(rise, fall);
        let mut before = machine.state();
        for (at, _) in results.char_indices() {
            feed(&mut machine, &results[at..=at]);
            let tail = |c: char| results[..=at].chars().rev().take_while(|found| *found == c).count() as u32;
            if before != State::Down && machine.state() == State::Down {
                prop_assert!(tail('-') >= fall);
            }
            if before == State::Down && machine.state() == State::Up {
                prop_assert!(tail('+') >= rise);
            }
            before = machine.state();
        }
    }
}

fn check(kind: CheckKind, interval_ms: u64) -> HealthCheck {
    HealthCheck {
        kind,
        port: None,
        interval: Duration::from_millis(interval_ms),
        timeout: Duration::from_millis(500),
        rise: 1,
        fall: 1,
    }
}

fn http(status: &[(u16, u16)]) -> CheckKind {
    CheckKind::Http {
        path: "/health".to_owned(),
        host: Some("www.example.org".to_owned()),
        status: status.to_vec(),
    }
}

/// A server that answers each connection with a text and closes; what it was asked is sent on.
async fn server(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, seen) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 1024];
            let len = stream.read(&mut request).await.unwrap_or(0);
            let _ = asked.try_send(String::from_utf8_lossy(&request[..len]).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, seen)
}

#[tokio::test]
async fn an_http_check_asks_for_its_path_and_host_and_passes_on_the_wanted_status() {
    let (address, mut seen) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    probe(&check(http(&[(200, 299)]), 100), address).await.unwrap();
    let request = seen.recv().await.unwrap();
    assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("host: www.example.org\r\n"), "{request}");
    let error = probe(&check(http(&[(200, 200)]), 100), address).await.unwrap_err();
    assert!(matches!(error, ProbeError::Status(204)), "{error}");
}

#[tokio::test]
async fn every_path_that_the_configuration_accepts_is_asked_for_as_it_is() {
    let (address, mut seen) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut accepted = 0;
    for character in ' '..='~' {
        for path in [format!("/a{character}b"), format!("/a?b{character}c")] {
            let text = format!(
                "[[port]]\nname = \"wan\"\ndevice = \"0000:01:00.0\"\n[[service]]\nlisten = \"10.1.0.100:80\"\n\
                 protocol = \"tcp\"\nmode = \"nat\"\nhealth_check = {{ type = \"http\", path = {path:?} }}\n"
            );
            let Ok(config) = Config::from_str("test", &text) else { continue };
            let check = config.services[0].health_check.clone().unwrap();
            let result = probe(&check, address).await;
            assert!(result.is_ok(), "{path}: {result:?}");
            let request = seen.recv().await.unwrap();
            assert!(request.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{request}");
            accepted += 1;
        }
    }
    // RFC 3986 §3.3: letters, digits and 17 more at least, in path and query.
    assert!(accepted >= 2 * (62 + 17), "{accepted}");
}

#[tokio::test]
async fn a_body_without_end_does_not_keep_an_http_check() {
    let (address, _seen) = server("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx").await;
    probe(&check(http(&[(200, 299)]), 100), address).await.unwrap();
}

/// How a check ends at a server that sends a text again and again, after a first one.
async fn flooded(first: &'static str, again: &'static str) -> ProbeError {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    // A thread, as the check must not have to wait for the flood.
    let listener = listener.into_std().unwrap();
    let flood = std::thread::spawn(move || {
        use std::io::{Read, Write};
        listener.set_nonblocking(false).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(false).unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let text = again.repeat(1000);
        let mut sent = stream.write_all(first.as_bytes());
        while sent.is_ok() {
            sent = stream.write_all(text.as_bytes());
        }
    });
    let patient = HealthCheck { timeout: Duration::from_secs(600), ..check(http(&[(200, 299)]), 100) };
    let error = probe(&patient, address).await.unwrap_err();
    flood.join().unwrap();
    error
}

#[tokio::test]
async fn answers_without_end_are_given_up_before_the_time_is_over() {
    let headers = flooded("HTTP/1.1 200 OK\r\n", "x: y\r\n").await;
    assert!(matches!(headers, ProbeError::Http(_)), "{headers}");
    let line = flooded("HTTP/1.1 200 OK\r\nx: ", "y").await;
    assert_eq!(line.to_string(), "HTTP: message head is too large");
    let hints = flooded("", "HTTP/1.1 103 Early Hints\r\n\r\n").await;
    assert!(matches!(hints, ProbeError::Http(_)), "{hints}");
}

#[tokio::test]
async fn what_is_no_http_is_called_so() {
    // It speaks first, as servers of SSH and SMTP do, so that the answer may be there before the question.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    stream.readable().await.unwrap();
    let error = probe::http(stream, "/", "test", &[(200, 299)]).await.unwrap_err();
    assert_eq!(error.to_string(), "HTTP: received unexpected message from connection");
}

#[tokio::test]
async fn nonsense_silence_and_closed_ports_fail_with_their_reasons() {
    let (address, _seen) = server("220 mail.example.org ESMTP\r\n").await;
    let error = probe(&check(http(&[(200, 299)]), 100), address).await.unwrap_err();
    assert!(matches!(error, ProbeError::Http(_)), "{error}");

    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let silent_address = silent.local_addr().unwrap();
    probe(&check(CheckKind::Tcp, 100), silent_address).await.unwrap();
    let error = probe(&check(http(&[(200, 299)]), 100), silent_address).await.unwrap_err();
    assert!(matches!(error, ProbeError::Timeout(_)), "{error}");

    drop(silent);
    let error = probe(&check(CheckKind::Tcp, 100), silent_address).await.unwrap_err();
    assert!(matches!(error, ProbeError::Connect(..)), "{error}");
}

#[test]
fn what_this_machine_lacks_is_not_held_against_a_server() {
    let address = SocketAddr::from(([10, 2, 0, 11], 80));
    let own = |code: nix::errno::Errno| {
        let error = || std::io::Error::from_raw_os_error(code as i32);
        let all = [ProbeError::Connect(address, error()), ProbeError::Datagram(address, error())];
        all.map(|error| error.is_own())
    };
    use nix::errno::Errno::*;
    for code in [EMFILE, ENFILE, ENOMEM, ENOBUFS] {
        assert_eq!(own(code), [true, true], "{code}");
    }
    for code in [ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT, ECONNRESET] {
        assert_eq!(own(code), [false, false], "{code}");
    }
    assert!(!ProbeError::Timeout(Duration::from_secs(1)).is_own());
}

/// A UDP server that makes answers of what it is asked; `None`: it stays silent.
async fn datagram_server(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut request = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut request).await {
            if let Some(answer) = answer(&request[..len]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    address
}

/// The query with the bit that makes it a response, and a response code.
fn response(query: &[u8], code: u8) -> Vec<u8> {
    let mut response = query.to_vec();
    response[2] |= 0x80;
    response[3] = (response[3] & 0xf0) | code;
    response
}

fn dns() -> HealthCheck {
    check(CheckKind::Dns { name: "www.example.org".to_owned(), record: DnsRecord::Aaaa }, 100)
}

#[tokio::test]
async fn a_dns_check_asks_for_its_name_and_passes_on_an_answer_without_error() {
    let address = datagram_server(|query| {
        // RFC 1035 §4.1: recursion desired, one question; the name label by label, type AAAA, class IN.
        assert_eq!(query[2..12], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&query[12..], b"\x03www\x07example\x03org\0\0\x1c\0\x01");
        Some(response(query, 0))
    });
    probe(&dns(), address.await).await.unwrap();
    let root = CheckKind::Dns { name: ".".to_owned(), record: DnsRecord::Soa };
    let address = datagram_server(|query| (query[12..] == [0, 0, 6, 0, 1]).then(|| response(query, 0)));
    probe(&check(root, 100), address.await).await.unwrap();
}

/// Why the check fails at a server that answers like this.
async fn dns_error(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> ProbeError {
    probe(&dns(), datagram_server(answer).await).await.unwrap_err()
}

#[tokio::test]
async fn a_dns_check_fails_on_errors_on_nonsense_and_on_silence() {
    let refused = dns_error(|query| Some(response(query, 5))).await;
    assert_eq!(refused.to_string(), "DNS: Refused");
    let echo = dns_error(|query| Some(query.to_vec())).await;
    assert!(matches!(echo, ProbeError::NoAnswer), "{echo}");
    let other = dns_error(|query| Some(response(&[&[!query[0]], &query[1..]].concat(), 0))).await;
    assert!(matches!(other, ProbeError::NoAnswer), "{other}");
    for len in 0..4 {
        let cut = dns_error(move |query| Some(response(query, 0)[..len].to_vec())).await;
        assert!(matches!(cut, ProbeError::Dns(_)), "{len} bytes: {cut}");
    }
    assert!(matches!(dns_error(|_| None).await, ProbeError::Timeout(_)));
}

#[tokio::test]
async fn a_udp_check_passes_with_an_answer_and_with_silence_only_if_that_will_do() {
    let udp = |needs_reply| check(CheckKind::Udp { payload: vec![1, 2], needs_reply }, 100);
    let echo = datagram_server(|request| (request == [1, 2]).then(|| vec![3])).await;
    probe(&udp(true), echo).await.unwrap();
    let silent = datagram_server(|_| None).await;
    probe(&udp(false), silent).await.unwrap();
    assert!(matches!(probe(&udp(true), silent).await, Err(ProbeError::Timeout(_))));
}

#[tokio::test]
async fn a_udp_check_of_a_port_where_nobody_listens_fails() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let closed = socket.local_addr().unwrap();
    drop(socket);
    for needs_reply in [false, true] {
        let udp = check(CheckKind::Udp { payload: vec![], needs_reply }, 100);
        let error = probe(&udp, closed).await.unwrap_err();
        assert!(matches!(error, ProbeError::Datagram(..)), "{error}");
    }
}

/// A process that does nothing in a network namespace of its own.
struct Neighbour(std::process::Child);

impl Neighbour {
    fn new() -> Neighbour {
        let child = Command::new("unshare").args(["-n", "sleep", "60"]).spawn().unwrap();
        let namespace = format!("/proc/{}/ns/net", child.id());
        let ours = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let begun = std::time::Instant::now();
        while std::fs::read_link(&namespace).is_ok_and(|theirs| theirs == ours) {
            assert!(begun.elapsed() < Duration::from_secs(10), "no namespace");
            std::thread::sleep(Duration::from_millis(1));
        }
        Neighbour(child)
    }

    fn run(&self, command: &str) {
        let pid = self.0.id().to_string();
        run(&format!("nsenter -t {pid} -n {command}"));
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_udp_check_hears_of_a_router_that_a_host_is_unreachable() {
    let in_own_namespace = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let router = Neighbour::new();
        run(&format!("ip link add ours type veth peer name theirs netns {}", router.0.id()));
        for (address, beyond) in [("10.8.0.", "10.9.0.0/24"), ("fd00:8::", "fd00:9::/64")] {
            let (ours, length) = (format!("{address}1"), if address.contains(':') { 64 } else { 24 });
            let nodad = if length == 64 { " nodad" } else { "" };
            run(&format!("ip address add {ours}/{length} dev ours{nodad}"));
            router.run(&format!("ip address add {address}2/{length} dev theirs{nodad}"));
            router.run(&format!("ip route add unreachable {beyond}"));
            if length == 24 {
                run("ip link set ours up");
                router.run("ip link set theirs up");
                router.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
            }
            run(&format!("ip route add {beyond} via {address}2"));
        }
        let udp = HealthCheck {
            timeout: Duration::from_secs(5),
            ..check(CheckKind::Udp { payload: vec![1], needs_reply: false }, 100)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for real in ["10.9.0.9:53", "[fd00:9::9]:53"] {
            let error = runtime.block_on(probe(&udp, real.parse().unwrap())).unwrap_err();
            assert!(matches!(error, ProbeError::Datagram(..)), "{error}");
        }
    };
    std::thread::spawn(in_own_namespace).join().unwrap();
}

#[tokio::test]
async fn checks_work_over_ipv6_too() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    probe(&check(CheckKind::Tcp, 100), address).await.unwrap();
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let udp = check(CheckKind::Udp { payload: vec![], needs_reply: true }, 100);
    let answering = async {
        let (_, from) = socket.recv_from(&mut [0; 8]).await.unwrap();
        socket.send_to(&[1], from).await.unwrap();
    };
    let (result, ()) = tokio::join!(probe(&udp, address), answering);
    result.unwrap();
}

/// A configuration with one service whose real servers are on this machine.
fn config_of(reals: &[SocketAddr], check: Option<HealthCheck>) -> Config {
    let text = "[[port]]\nname = \"wan\"\ndevice = \"0000:01:00.0\"\n\
        [[local_pool]]\nname = \"inside\"\naddresses = [\"10.2.0.200\"]\n\
        [[service]]\nlisten = \"10.1.0.100:80\"\nprotocol = \"tcp\"\nmode = \"fullnat\"\n";
    let mut config = Config::from_str("test", text).unwrap();
    let real = |address: &SocketAddr| config::RealServer {
        address: *address,
        mode: api::Mode::FullNat,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        drain_deadline: None,
        health_check: check.clone(),
    };
    config.services[0].real_servers = reals.iter().map(real).collect();
    config
}

fn id_of(config: &Config, real: usize) -> TargetId {
    TargetId {
        service: service_key(&config.services[0]),
        real: config.services[0].real_servers[real].address,
    }
}

async fn next_change(changes: &mut mpsc::Receiver<Change>) -> Change {
    timeout(Duration::from_secs(10), changes.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_server_comes_up_goes_down_with_a_reason_and_comes_back() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let healthy = Arc::new(AtomicBool::new(true));
    let answers = Arc::clone(&healthy);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = if answers.load(Ordering::Relaxed) { "200 OK" } else { "503 Unavailable" };
            let _ = stream.read(&mut [0; 1024]).await;
            let _ =
                stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
        }
    });
    let check = check(http(&[(200, 299)]), 100);
    let config = config_of(&[address], Some(check.clone()));
    let (sender, mut changes) = mpsc::channel(16);
    let mut table = Table::new(sender);
    assert!(!table.is_up(id_of(&config, 0), Some(&check)));
    table.reconcile(&config);
    let change = next_change(&mut changes).await;
    assert_eq!((change.up, change.was_down), (true, false), "it is new");
    assert!(table.is_up(id_of(&config, 0), Some(&check)));
    healthy.store(false, Ordering::Relaxed);
    let change = next_change(&mut changes).await;
    assert_eq!((change.up, change.reason.as_deref()), (false, Some("HTTP status 503")));
    healthy.store(true, Ordering::Relaxed);
    let change = next_change(&mut changes).await;
    assert_eq!((change.up, change.was_down), (true, true));
}

#[tokio::test]
async fn a_reload_keeps_the_state_of_targets_and_forgets_those_that_are_gone() {
    let (first, _) = server("").await;
    let (second, _) = server("").await;
    let slow = check(CheckKind::Tcp, 50);
    let config = config_of(&[first, second], Some(slow.clone()));
    let (sender, mut changes) = mpsc::channel(16);
    let mut table = Table::new(sender);
    table.reconcile(&config);
    for _ in 0..2 {
        assert!(next_change(&mut changes).await.up);
    }
    let changed = HealthCheck { fall: 7, ..slow };
    let smaller = config_of(&[first], Some(changed.clone()));
    table.reconcile(&smaller);
    assert!(table.is_up(id_of(&config, 0), Some(&changed)), "a changed check must not take the server out");
    assert!(table.machine(id_of(&config, 1)).is_none(), "it is gone");
}

#[tokio::test]
async fn a_server_that_gets_its_first_check_by_a_reload_stays_in_service() {
    let closed: SocketAddr = ([127, 0, 0, 1], 9).into();
    let bare = config_of(&[closed], None);
    let (sender, _changes) = mpsc::channel(16);
    let mut table = Table::new(sender);
    table.reconcile(&bare);
    let check = HealthCheck { fall: 1000, ..check(CheckKind::Tcp, 1000) };
    let checked = config_of(&[closed], Some(check.clone()));
    assert!(table.is_up(id_of(&checked, 0), Some(&check)), "before");
    table.reconcile(&checked);
    assert!(table.is_up(id_of(&checked, 0), Some(&check)), "after");
}

#[test]
fn first_checks_come_soon_and_all_others_are_spread_over_the_interval() {
    let service = ServiceKey { protocol: api::Protocol::Tcp, virtual_: ([10, 1, 0, 100], 80).into() };
    for interval_ms in [100, 800, 1000, 1500, 2000, 10_000, 3_600_000] {
        let interval = Duration::from_millis(interval_ms);
        let all: Vec<_> = (0..1000)
            .map(|port| beats(TargetId { service, real: ([10, 2, 0, 1], port).into() }, interval))
            .collect();
        let soon = interval.min(Duration::from_secs(1));
        assert!(all.iter().all(|(first, _)| *first < soon), "{interval:?}");
        let gaps = || all.iter().map(|(first, second)| *second - *first);
        assert!(gaps().all(|gap| gap >= interval / 2 && gap <= interval * 3 / 2), "{interval:?}");
        for quarter in 0..4 {
            let in_quarter =
                |at: Duration, of: Duration| at.as_nanos() % of.as_nanos() * 4 / of.as_nanos() == quarter;
            let first = all.iter().filter(|(first, _)| in_quarter(*first, soon)).count();
            let others = all.iter().filter(|(_, second)| in_quarter(*second, interval)).count();
            assert!(first > 150 && others > 150, "{interval:?}, quarter {quarter}: {first}, {others}");
        }
    }
}
