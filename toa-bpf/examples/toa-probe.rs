//! Plays the conformance vectors against the receiver of the kernel it runs on, in the network namespace it runs in, and
//! does some more that tests need and shells cannot do.
//!
//! - `toa-probe FOLDER`: plays the vectors in it, a line for each, and ends with 0 only when all are right.
//! - `toa-probe hold`: opens one connection, has the kernel encrypt what it sends (kTLS), prints the address that it
//!   shows, waits for a line on standard input, and prints the address again.
//! - `toa-probe options`: asks for the client and the peer by the receiver's socket options.
//! - `toa-probe udp`: who a UDP server sees for a datagram that tells its client, and what gets the answer.
//! - `toa-probe forge SERVER PATH`: asks an HTTP server for a path with all sorts of forged options, from 10.5.0.9, and
//!   prints how often.
//! - `toa-probe mptcp ADDRESS... -- COMMAND...`: becomes nginx with listeners at these addresses that speak MPTCP, which it
//!   inherits.
//! - `toa-probe bench ON OFF [ROUNDS]`: what `accept` and `getpeername` cost with a receiver and without, in turn; ON and
//!   OFF are shell commands.

#[path = "../tests/probe/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic)]
mod probe;

use std::hint::black_box;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use probe::cases::{CLIENT, CLIENT_V6, toa};
use probe::peer::{PATIENCE, Peer};
use probe::tun::Tun;
use probe::{datagram, sockets, vector};

/// Socket options of the receiver, see toa-kmod/README.md.
const OPTION_CLIENT: libc::c_int = 4096;
/// See [`OPTION_CLIENT`].
const OPTION_PEER: libc::c_int = 4097;
/// Calls of getpeername in one measurement, and connections in one.
const CALLS: u32 = 200_000;
/// See [`CALLS`].
const CONNECTIONS: u16 = 2_000;
/// Rounds of a bench without another number.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("toa-probe: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how much was wrong.
fn run(arguments: &[&str]) -> io::Result<u32> {
    let set_up = || probe::set_up("toaprobe0");
    match arguments {
        ["hold"] => hold(&set_up()?).map(|()| 0),
        ["options"] => options(&set_up()?).map(|()| 0),
        ["udp"] => udp(&set_up()?).map(|()| 0),
        ["forge", server, path] => forge(server.parse().map_err(io::Error::other)?, path).map(|()| 0),
        ["mptcp", rest @ ..] => nginx_with_mptcp(rest).map(|()| 0),
        ["bench", on, off] => bench(&set_up()?, on, off, ROUNDS).map(|()| 0),
        ["bench", on, off, rounds] => {
            bench(&set_up()?, on, off, rounds.parse().map_err(io::Error::other)?).map(|()| 0)
        }
        [folder] => play_all(&set_up()?, Path::new(folder)),
        _ => Err(io::Error::other(
            "give FOLDER, `hold`, `options`, `udp`, `forge SERVER PATH`, `mptcp ADDRESS... -- COMMAND...` or `bench ON OFF [ROUNDS]`",
        )),
    }
}

fn play_all(tun: &Tun, folder: &Path) -> io::Result<u32> {
    let mut wrong = 0;
    let cases = vector::read_index(folder)?.case;
    for case in &cases {
        match vector::play(tun, folder, case) {
            Ok(()) => println!("ok    {}", case.name),
            Err(problem) => {
                println!("WRONG {}: {problem}", case.name);
                wrong += 1;
            }
        }
    }
    println!("{} cases, {wrong} wrong", cases.len());
    Ok(wrong)
}

/// A connection from the gateway at this port, with this option on the last segment of its handshake, as both ends
/// have it.
fn connect<'a>(
    tun: &'a Tun,
    listener: &TcpListener,
    port: u16,
    option: &[u8],
) -> io::Result<(Peer<'a>, TcpStream)> {
    let gateway: SocketAddr = format!("{}:{port}", probe::LIP).parse().map_err(io::Error::other)?;
    let server: SocketAddr =
        format!("{}:{}", probe::SERVER, listener.local_addr()?.port()).parse().map_err(io::Error::other)?;
    let peer = Peer::open(tun, gateway, server, &[])?;
    peer.acknowledge(option)?;
    Ok((peer, vector::accept(listener)?.0))
}

fn hold(tun: &Tun) -> io::Result<()> {
    let listener = TcpListener::bind((probe::SERVER, 0))?;
    let (_peer, stream) = connect(tun, &listener, 43_000, &toa(254, CLIENT))?;
    sockets::encrypt(&stream)?;
    println!("{}", stream.peer_addr()?);
    io::stdout().flush()?;
    io::stdin().read_line(&mut String::new())?;
    println!("{}", stream.peer_addr()?);
    Ok(())
}

/// Prints what each option tells, `-` for nothing, for an IPv4 and an IPv6 client of an IPv4 socket, and for an IPv6
/// client of an IPv6 socket.
fn options(tun: &Tun) -> io::Result<()> {
    let v4 = TcpListener::bind((probe::SERVER, 0))?;
    let dual = TcpListener::bind("[::]:0")?;
    for (listener, port, client) in
        [(&v4, 43_001, CLIENT), (&v4, 43_002, CLIENT_V6), (&dual, 43_003, CLIENT_V6)]
    {
        let (_peer, stream) = connect(tun, listener, port, &toa(254, client))?;
        let told = [OPTION_CLIENT, OPTION_PEER].map(|option| {
            sockets::ask_receiver(&stream, option).map_or("-".to_owned(), |address| address.to_string())
        });
        println!("{} {}", told[0], told[1]);
    }
    Ok(())
}

/// An unchanged UDP server: prints whom it sees, and whether the gateway gets its answer.
fn udp(tun: &Tun) -> io::Result<()> {
    let server = UdpSocket::bind((probe::SERVER, 0))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let gateway: SocketAddr = format!("{}:43005", probe::LIP).parse().map_err(io::Error::other)?;
    let client = CLIENT.parse().map_err(io::Error::other)?;
    tun.send(&datagram::write(gateway, server.local_addr()?, Some(client), b"question"))?;
    let (_, seen) = server.recv_from(&mut [0; 16])?;
    server.send_to(b"answer", seen)?;
    let answer = tun.receive(PATIENCE, |packet| datagram::read(packet, gateway))?;
    println!("{seen} {}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Forged options on every segment of a connection; the server must answer each.
fn forge(server: SocketAddr, path: &str) -> io::Result<()> {
    let tun = probe::set_up_client("toaforge0")?;
    let forged = [
        toa(254, "198.51.100.66:666"),
        toa(253, "198.51.100.66:666"),
        toa(200, "198.51.100.66:666"),
        toa(254, "[2001:db8::bad]:666"),
        toa(253, "[2001:db8::bad]:666"),
        [toa(254, "198.51.100.66:666"), toa(254, "198.51.100.67:666")].concat(),
        vec![254, 0, 2, 154, 198, 51, 100, 66],
        [vec![1], toa(254, "198.51.100.66:666"), vec![1, 1, 1]].concat(),
    ];
    for (option, port) in forged.iter().zip(5_001..) {
        let client = SocketAddr::new(probe::FORGING_CLIENT.parse().map_err(io::Error::other)?, port);
        let mut peer = Peer::open(&tun, client, server, option)?;
        peer.acknowledge(option)?;
        peer.data(option, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        peer.answer()?;
        peer.reset()?;
    }
    println!("{}", forged.len());
    Ok(())
}

/// nginx takes over listeners whose descriptors are in its environment, which is how a new version of it takes over.
fn nginx_with_mptcp(rest: &[&str]) -> io::Result<()> {
    let mut parts = rest.splitn(2, |word| *word == "--");
    let (addresses, command) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let [program, arguments @ ..] = command else {
        return Err(io::Error::other("which command?"));
    };
    let mut inherited = String::new();
    for address in addresses {
        let listener = sockets::listen_mptcp(address.parse().map_err(io::Error::other)?)?;
        inherited += &format!("{};", sockets::inheritable(listener)?);
    }
    Err(Command::new(program).args(arguments).env("NGINX", inherited).exec())
}

/// Nanoseconds of CPU time for one getpeername, and for one connection from its first segment to accept.
struct Cost {
    getpeername: f64,
    accept: f64,
}

/// Both are measured in turn, first the one and then the other first, so that whatever else the machine does hits both
/// alike. Told is the median of the pairs' ratios, with the interval that holds the true one in 95 of 100 benches.
fn bench(tun: &Tun, on: &str, off: &str, rounds: usize) -> io::Result<()> {
    bench_with(tun, ("client told", &toa(254, CLIENT)), on, off, rounds)?;
    bench_with(tun, ("client not told", &[]), on, off, rounds)
}

/// Of connections with one option.
fn bench_with(
    tun: &Tun,
    (named, option): (&str, &[u8]),
    on: &str,
    off: &str,
    rounds: usize,
) -> io::Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let measure = || measure(tun, option);
    measure()?;
    for round in 0..rounds {
        let measure_with = || {
            shell(on)?;
            let cost = measure();
            shell(off)?;
            cost
        };
        let (one, other) = if round.is_multiple_of(2) {
            let one = measure()?;
            (one, measure_with()?)
        } else {
            let other = measure_with()?;
            (measure()?, other)
        };
        without.push(one);
        with.push(other);
    }
    for (what, pick) in [
        ("getpeername", (|cost| cost.getpeername) as fn(&Cost) -> f64),
        ("connection until accept", |cost| cost.accept),
    ] {
        let ratios = with.iter().zip(&without).map(|(with, without)| pick(with) / pick(without));
        let (from, ratio, to) = middle(ratios);
        let [with, without] = [&with, &without].map(|costs| middle(costs.iter().map(pick)).1);
        println!(
            "{what}, {named}: {without:.0} ns without, {with:.0} ns with, ratio {ratio:.3} ({from:.3} to {to:.3}, {rounds} pairs)"
        );
    }
    Ok(())
}

/// The median, between the ends of its 95 % interval, which is of order statistics and asks for no distribution: the
/// number of values below the true median is binomial.
fn middle(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let at = |place: f64| values[(place.max(0.0) as usize).min(values.len() - 1)];
    let half = 0.98 * count.sqrt();
    (at((count / 2.0 - half).floor()), at(count / 2.0), at((count / 2.0 + half).ceil()))
}

fn measure(tun: &Tun, option: &[u8]) -> io::Result<Cost> {
    let listener = TcpListener::bind((probe::SERVER, 0))?;
    let (peer, stream) = connect(tun, &listener, 43_004, option)?;
    let start = cpu_time_ns()?;
    for _ in 0..CALLS {
        black_box(stream.peer_addr()?);
    }
    let getpeername = (cpu_time_ns()? - start) / f64::from(CALLS);
    peer.reset()?;
    let start = cpu_time_ns()?;
    for number in 0..CONNECTIONS {
        connect(tun, &listener, 10_000 + number, option)?.0.reset()?;
    }
    Ok(Cost { getpeername, accept: (cpu_time_ns()? - start) / f64::from(CONNECTIONS) })
}

/// CPU time of this process, in user and kernel: what other programs do meanwhile is not in it, and what the kernel
/// does for a packet that is written to the TUN device is.
fn cpu_time_ns() -> io::Result<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives through the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as f64 * 1e9 + time.tv_nsec as f64)
}

fn shell(command: &str) -> io::Result<()> {
    match Command::new("sh").args(["-c", command]).output()? {
        output if output.status.success() => Ok(()),
        output => Err(io::Error::other(format!("`{command}`: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}
