//! A guest that runs the gateway on network cards that hash: Debian's kernel in qemu, emulated, with the
//! dataplane on two cards with several queues, whose receive hash is that of real NICs.
//!
//! The cards' other ends are TAPs in a network namespace of their own, where frames are sent and received as
//! they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::frames::{FrameReceiver, FrameSender};
use crate::gateway_guest::{self, GatewayGuest, PATIENCE};
use crate::guest_image::{self, Contents, Image};
use crate::netns::Netns;
use crate::rig;
use crate::run::Cmd;
pub use crate::side::Side;
use crate::wait::wait_for;

/// How long fetching a qemu may take.
const FETCH_LIMIT: Duration = Duration::from_secs(240);
/// Modules that are loaded, besides those that they need.
const MODULES: [&str; 2] = ["uio", "uio_pci_generic"];
/// What EAL opens by itself out of its folder of plug-ins.
const PLUG_INS: [&str; 5] = ["bus_pci", "bus_vdev", "mempool_ring", "net_virtio", "net_e1000"];

/// What cards the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// virtio-net, which keeps what it was told.
    Virtio,
    /// Intel's 82576, which forgets its redirection table in each start.
    Igb,
}

impl Card {
    /// The queues of a card's TAP; igb has its own queues behind one.
    fn tap_queues(self) -> u16 {
        match self {
            Card::Virtio => QUEUES_MAX,
            Card::Igb => 1,
        }
    }

    /// The arguments of qemu for a card at the network of that side.
    fn arguments(self, side: Side) -> Vec<String> {
        let (name, mac) = (side.name(), side.mac_text());
        let own = format!("netdev={name},mac={mac},romfile=");
        match self {
            Card::Virtio => {
                // A vector for each queue, and two for the rest.
                let vectors = 2 * QUEUES_MAX + 2;
                vec!["-device".into(), format!("virtio-net-pci,{own},mq=on,rss=on,vectors={vectors}")]
            }
            Card::Igb => {
                // Each keeps places on its bus for virtual functions, so each has a bus of its own.
                let number = 1 + side as u8;
                let bus = format!("pcie-root-port,id=bus-{name},chassis={number},slot={number}");
                vec!["-device".into(), bus, "-device".into(), format!("igb,bus=bus-{name},{own}")]
            }
        }
    }
}

impl Card {
    /// The arguments of qemu for both cards.
    fn devices(self) -> Vec<String> {
        let of_side = |side: Side| {
            let (name, queues) = (side.name(), self.tap_queues());
            let tap =
                format!("tap,id={name},ifname={name},queues={queues},script=no,downscript=no,vhost=off");
            [vec!["-netdev".to_owned(), tap], self.arguments(side)].concat()
        };
        Side::ALL.into_iter().flat_map(of_side).collect()
    }
}

/// The most queues, and so workers, that cards are asked for.
const QUEUES_MAX: u16 = 4;

/// The other end of a card.
#[derive(Debug)]
struct Wire {
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// A running guest; ended when dropped.
#[derive(Debug)]
pub struct Guest {
    /// The guest itself.
    pub gateway: GatewayGuest,
    wires: [Wire; 2],
    // Dropped behind qemu, which holds the TAPs.
    _netns: Netns,
}

impl Guest {
    /// Boots it with two such cards, and waits until it takes commands.
    pub fn start(card: Card) -> Result<Guest> {
        let dir = tempfile::tempdir()?;
        let image = make_image(dir.path())?;
        let netns = Netns::create(&format!("{}-rss", rig::unique_prefix()))?;
        netns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        for side in Side::ALL {
            let several = if card.tap_queues() > 1 { "multi_queue" } else { "" };
            netns.ip(&format!("tuntap add dev {} mode tap {several}", side.name()))?;
            netns.ip(&format!("link set {} up", side.name()))?;
        }
        let wire = |side: Side| {
            netns.inside(|| {
                let name = side.name();
                Ok(Wire { sender: FrameSender::open(name)?, receiver: FrameReceiver::open(name)? })
            })
        };
        let wires = [wire(Side::Wan)?, wire(Side::Lan)?];
        let wrapper = ["ip", "netns", "exec", netns.name()];
        let gateway = GatewayGuest::boot(&image, dir, &wrapper, &qemu_root(card)?, card.devices())?;
        Ok(Guest { gateway, wires, _netns: netns })
    }

    /// Starts dataplane and control and waits until the services are in force. `config` gets the cards' PCI
    /// addresses in place of `WAN` and `LAN`.
    pub fn start_gateway(&mut self, config: &str) -> Result<()> {
        let cards = self.gateway.run("cat /cards")?;
        let cards: Vec<&str> = cards.split_whitespace().collect();
        ensure!(
            cards.len() == Side::ALL.len(),
            "two cards are wanted, DPDK has {cards:?}:\n{}",
            self.gateway.console()
        );
        self.gateway.start_gateway(&config.replace("WAN", cards[0]).replace("LAN", cards[1]))
    }

    /// Sends frames to one card; what then comes out of the other, which must be as many.
    pub fn pass(&mut self, from: Side, frames: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let to = from.other();
        let mut out = Vec::new();
        for part in frames.chunks(FRAMES_AT_ONCE) {
            part.iter().try_for_each(|frame| self.wires[from as usize].sender.send(frame))?;
            let wanted = out.len() + part.len();
            let what = format!("{wanted} frames from {}", to.name());
            let receiver = &self.wires[to as usize].receiver;
            wait_for(&what, PATIENCE, || {
                while let Some(frame) = receiver.receive(&to.mac())? {
                    out.push(frame);
                }
                Ok((out.len() >= wanted).then_some(()))
            })
            .with_context(|| format!("{} came", out.len()))?;
        }
        ensure!(out.len() == frames.len(), "{} frames came of {}", out.len(), frames.len());
        Ok(out)
    }
}

/// Fewer than a card's queue has descriptors, whatever queues they reach.
const FRAMES_AT_ONCE: usize = 32;

fn make_image(dir: &Path) -> Result<Image> {
    let (programs, plug_ins) = (gateway_guest::programs(dir)?, gateway_guest::plug_ins(&PLUG_INS)?);
    let prepare = include_bytes!("prepare.sh");
    guest_image::make(dir, &Contents { prepare, programs: &programs, plug_ins: &plug_ins, modules: &MODULES })
}

/// The folder of a qemu that has such cards: `/`, or one that is fetched.
fn qemu_root(card: Card) -> Result<PathBuf> {
    if card == Card::Virtio {
        return Ok(PathBuf::from("/"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/guest-qemu.sh");
    let said = Cmd::new(script).arg("igb").limit(FETCH_LIMIT).run()?;
    Ok(PathBuf::from(said.stdout.trim()))
}
