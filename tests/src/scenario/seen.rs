//! What a real server is told of its client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::capture::{Capture, Segment, flag};
use crate::rig::{Rig, URL};
use crate::run::Cmd;
use crate::wait::wait_for;

/// A connection as its client and its real server saw it.
#[derive(Debug, Clone)]
pub struct SeenClient {
    /// The client's own address and port.
    pub client: SocketAddr,
    /// SYN, SYN-ACK and the handshake's ACK, as captured at the real server.
    pub handshake: [Segment; 3],
    /// The capture.
    pub capture: PathBuf,
}

/// Lets a client ask until real1 has answered, and reports that connection.
pub fn what_real_server_sees(rig: &Rig, client: usize, toa_kind: u8) -> Result<SeenClient> {
    // The health checks come from the gateway's own address.
    let filter = "tcp port 80 and not host 10.2.0.1";
    let mut capture = Capture::start(&rig.reals[0], "eth0", filter, rig.dir())?;
    let client = wait_for("an answer from real1", Duration::from_secs(10), || ask(rig, client))?;
    let handshake = wait_for("the handshake in the capture", Duration::from_secs(5), || {
        Ok(handshake_of(&capture.segments()?, client, toa_kind))
    });
    capture.stop()?;
    let handshake = handshake.with_context(|| match capture.segments() {
        Ok(segments) => format!("{client} is in none of {segments:#?}"),
        Err(error) => error.to_string(),
    })?;
    Ok(SeenClient { client, handshake, capture: capture.path().to_owned() })
}

/// One request; the client's address and port if real1 has answered it.
fn ask(rig: &Rig, client: usize) -> Result<Option<SocketAddr>> {
    let curl = Cmd::line("curl -sS --fail --max-time 5 -w %{local_ip}:%{local_port}").arg(URL);
    let said = curl.in_netns(&rig.clients[client]).run()?.stdout;
    let (server, client) = said.split_once('\n').context("curl said too little")?;
    Ok(if server == "real1" { Some(client.parse()?) } else { None })
}

/// The handshake whose ACK names this client.
fn handshake_of(segments: &[Segment], client: SocketAddr, toa_kind: u8) -> Option<[Segment; 3]> {
    let ack = segments
        .iter()
        .find(|s| s.has_flags(flag::ACK) && s.payload_len == 0 && s.toa(toa_kind) == Some(client))?;
    let syn = segments.iter().find(|s| s.from == ack.from && s.has_flags(flag::SYN))?;
    let syn_ack = segments.iter().find(|s| s.to == ack.from && s.has_flags(flag::SYN | flag::ACK))?;
    Some([syn.clone(), syn_ack.clone(), ack.clone()])
}
