//! Frames to and from the guest's network cards, which are pairs of Unix datagram sockets: one datagram,
//! one frame.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::side::Side;

/// The longest frame that is believed.
const FRAME_LEN_MAX: usize = 65_536;
/// How long an emulated guest may take to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// A local address of the guest that is used for nothing but [`Wire::barrier`].
const BARRIER_ADDRESS: [u8; 4] = [192, 0, 2, 254];
/// The first bytes of the hardware addresses that ask for it.
const BARRIER_MAC: [u8; 2] = [0x02, 0xbb];

/// The host's end of one card.
#[derive(Debug)]
pub(super) struct Wire {
    side: Side,
    socket: UnixDatagram,
    guest: PathBuf,
    /// How many barriers there have been.
    barriers: u32,
}

impl Wire {
    pub(super) fn new(side: Side, dir: &Path) -> Result<Wire> {
        let socket = UnixDatagram::bind(host_path(side, dir)).context("the socket of a card")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Wire { side, socket, guest: guest_path(side, dir), barriers: 0 })
    }

    /// Arguments that make this a card of qemu's guest.
    pub(super) fn arguments(side: Side, dir: &Path) -> [String; 4] {
        let (name, mac) = (side.name(), side.mac_text());
        let (local, remote) = (guest_path(side, dir), host_path(side, dir));
        [
            "-netdev".into(),
            format!(
                "dgram,id={name},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                local.display(),
                remote.display()
            ),
            "-device".into(),
            format!("virtio-net-pci,netdev={name},mac={mac},addr=0x{},romfile=", 5 + side as u8),
        ]
    }

    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket
            .send_to(frame, &self.guest)
            .with_context(|| format!("a frame of {} bytes to {}", frame.len(), self.side.name()))?;
        Ok(())
    }

    /// Asks for something that the guest answers by itself, and gathers what comes until the answer does.
    /// The guest has one CPU and deals with a card's frames in their order, so that all that the frames
    /// before lead to on this card has come.
    pub(super) fn barrier(&mut self, seen: &mut Vec<Vec<u8>>) -> Result<()> {
        self.barriers += 1;
        let [a, b] = BARRIER_MAC;
        let [c, d, e, f] = self.barriers.to_be_bytes();
        let mac = [a, b, c, d, e, f];
        self.send(&arp_probe(mac))?;
        let deadline = Instant::now() + PATIENCE;
        let mut frame = vec![0; FRAME_LEN_MAX];
        loop {
            let len = match self.socket.recv(&mut frame) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("the guest does not answer on {} within {PATIENCE:?}", self.side.name())
                }
                Err(error) => return Err(error).context("the socket of a card"),
            };
            let frame = &frame[..len];
            if frame.starts_with(&mac) {
                return Ok(());
            }
            // To groups of stations: what IPv6 says of its own accord.
            let to_group = frame.first().is_none_or(|first| first & 1 == 1);
            if !to_group && !frame.starts_with(&BARRIER_MAC) {
                seen.push(frame.to_vec());
            }
            ensure!(Instant::now() < deadline, "the guest sends without end on {}", self.side.name());
        }
    }
}

fn host_path(side: Side, dir: &Path) -> PathBuf {
    dir.join(format!("{}-host", side.name()))
}

fn guest_path(side: Side, dir: &Path) -> PathBuf {
    dir.join(format!("{}-guest", side.name()))
}

/// An ARP probe (RFC 5227 §2.1.1): it asks, and leaves no trace in the guest's neighbour table.
fn arp_probe(mac: [u8; 6]) -> Vec<u8> {
    let ethernet = [&[0xff; 6], &mac[..], &[0x08, 0x06]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1], &mac[..], &[0; 4], &[0; 6], &BARRIER_ADDRESS].concat();
    let mut frame = [ethernet, arp].concat();
    frame.resize(60, 0);
    frame
}
