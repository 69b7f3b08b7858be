//! One connection from the gateway's local address to the server, segment by segment.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::segment::{self, ACK, PSH, RST, Reply, SYN};
use super::tun::Tun;

/// How long the kernel may take for an answer; emulated guests are slow.
pub const PATIENCE: Duration = Duration::from_secs(10);
const ISN: u32 = 0x1000_0000;
/// MSS 1400.
const SYN_OPTIONS: [u8; 4] = [2, 4, 0x05, 0x78];

/// The gateway's side of a connection whose SYN was answered.
pub struct Peer<'a> {
    tun: &'a Tun,
    local: SocketAddr,
    server: SocketAddr,
    seq: u32,
    ack: u32,
    /// The server's key for MPTCP, if it speaks that.
    pub key: Option<[u8; 8]>,
}

impl<'a> Peer<'a> {
    /// Sends the SYN with the option bytes given behind the usual ones, and takes the SYN-ACK.
    pub fn open(tun: &'a Tun, local: SocketAddr, server: SocketAddr, more: &[u8]) -> io::Result<Self> {
        let options = [&SYN_OPTIONS, more].concat();
        tun.send(&segment::write(local, server, ISN, 0, SYN, &options, &[]))?;
        let reply = tun.receive(PATIENCE, |packet| {
            segment::read(packet, local).filter(|reply| reply.flags & (SYN | ACK) == SYN | ACK)
        })?;
        let (seq, ack) = (ISN.wrapping_add(1), reply.seq.wrapping_add(1));
        Ok(Self { tun, local, server, seq, ack, key: reply.key })
    }

    /// Sends a bare ACK with these option bytes.
    pub fn acknowledge(&self, options: &[u8]) -> io::Result<()> {
        self.send(ACK, options, &[])
    }

    /// Sends data with these option bytes.
    pub fn data(&mut self, options: &[u8], data: &[u8]) -> io::Result<()> {
        self.send(ACK | PSH, options, data)?;
        self.seq = self.seq.wrapping_add(u32::try_from(data.len()).unwrap());
        Ok(())
    }

    /// Waits for a segment of the server that carries data.
    #[allow(dead_code, reason = "each user of the probe needs another part of it")]
    pub fn answer(&self) -> io::Result<Reply> {
        self.tun.receive(PATIENCE, |packet| {
            segment::read(packet, self.local).filter(|reply| reply.payload_len > 0)
        })
    }

    /// Ends the connection at once.
    pub fn reset(self) -> io::Result<()> {
        self.send(RST | ACK, &[], &[])
    }

    fn send(&self, flags: u8, options: &[u8], data: &[u8]) -> io::Result<()> {
        self.tun.send(&segment::write(self.local, self.server, self.seq, self.ack, flags, options, data))
    }
}
