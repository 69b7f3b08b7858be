//! Plays the conformance cases against the receiver of the kernel it runs on, in the network namespace it runs in.
//!
//! Meant for guests. `toa-probe FOLDER` plays the conformance vectors in it, prints a line per case and ends with 0
//! only when all are right. `toa-probe hold` opens one connection, prints the address that it shows, waits for a line on
//! standard input, and prints the address again.

#[path = "../tests/probe/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic)]
mod probe;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;

use probe::cases::{CLIENT, toa};
use probe::peer::Peer;
use probe::tun::Tun;
use probe::vector;

fn main() -> ExitCode {
    let result = probe::set_up("toaprobe0").and_then(|tun| match std::env::args().nth(1).as_deref() {
        Some("hold") => hold(&tun).map(|()| 0),
        Some(folder) => play_all(&tun, Path::new(folder)),
        None => Err(io::Error::other("give `hold`, or the folder with the vectors")),
    });
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("toa-probe: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many cases are wrong.
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

fn hold(tun: &Tun) -> io::Result<()> {
    let listener = TcpListener::bind((probe::SERVER, 0))?;
    let gateway: SocketAddr = format!("{}:43000", probe::LIP).parse().map_err(io::Error::other)?;
    let peer = Peer::open(tun, gateway, listener.local_addr()?, &[])?;
    peer.acknowledge(&toa(254, CLIENT))?;
    let (stream, _) = vector::accept(&listener)?;
    println!("{}", stream.peer_addr()?);
    io::stdout().flush()?;
    io::stdin().read_line(&mut String::new())?;
    println!("{}", stream.peer_addr()?);
    peer.reset()
}
