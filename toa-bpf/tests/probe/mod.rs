//! The conformance probe for TOA receivers: a hand-made TCP peer behind a TUN device, and the cases it plays.
//!
//! It stands in for gateway and client at once: it writes the segments that a FULLNAT gateway would send, option
//! included, to an ordinary listening socket in the same network namespace, and compares what `accept4()` and
//! `getpeername()` then say with what a receiver should show. It knows nothing of the receiver: the BPF tests run it
//! in a namespace, the kernel module's tests in a guest (as the example `toa-probe`).

pub mod cases;
pub mod datagram;
pub mod pcap;
pub mod peer;
pub mod segment;
pub mod sockets;
pub mod tun;
pub mod vector;

use std::io;
use std::process::Command;

/// The trusted gateway's local address, and one outside every trust list.
pub const LIP: &str = "10.9.0.2";
/// See [`LIP`].
pub const LIP_UNTRUSTED: &str = "10.10.0.2";
/// See [`LIP`].
pub const LIP_V6: &str = "fd00:9::2";
/// What the receiver under test must trust, no more.
pub const TRUST: [&str; 2] = ["10.9.0.0/24", "fd00:9::/64"];
/// The real server's own addresses.
pub const SERVER: &str = "10.8.0.1";
/// See [`SERVER`].
pub const SERVER_V6: &str = "fd00:8::1";
/// Where clients are whose packets are made by hand and go through a real gateway.
pub const CLIENT_NETWORK: &str = "10.5.0.0/24";
/// One of them.
pub const FORGING_CLIENT: &str = "10.5.0.9";
/// Where servers listen in the vectors.
pub const SERVER_PORT: u16 = 8080;

/// Gives this thread's network namespace a TUN device with the server's addresses and routes to the gateways.
pub fn set_up(device: &str) -> io::Result<tun::Tun> {
    let tun = tun::Tun::create(device)?;
    let commands = [
        "link set lo up".to_owned(),
        format!("link set {device} up"),
        format!("addr add {SERVER}/24 dev {device}"),
        format!("-6 addr add {SERVER_V6}/64 dev {device}"),
        format!("route add 10.9.0.0/24 dev {device}"),
        format!("route add 10.10.0.0/24 dev {device}"),
        format!("-6 route add fd00:9::/64 dev {device}"),
    ];
    run_ip(&commands)?;
    Ok(tun)
}

/// Gives it a TUN device with a network behind it that is neither the servers' nor a gateway's.
pub fn set_up_client(device: &str) -> io::Result<tun::Tun> {
    let tun = tun::Tun::create(device)?;
    run_ip(&[format!("link set {device} up"), format!("route add {CLIENT_NETWORK} dev {device}")])?;
    Ok(tun)
}

fn run_ip(commands: &[String]) -> io::Result<()> {
    for arguments in commands {
        if !Command::new("ip").args(arguments.split(' ')).status()?.success() {
            return Err(io::Error::other(format!("`ip {arguments}` failed")));
        }
    }
    Ok(())
}
