//! A guest that runs the gateway on network cards that hash: Debian's kernel in qemu, emulated, with the
//! dataplane on two cards with several queues, whose receive hash is that of real NICs.
//!
//! The cards' other ends are TAPs in a network namespace of their own, where frames are sent and received as
//! they are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::{Agent, Listening};
use crate::frames::{FrameReceiver, FrameSender};
use crate::gateway::binary;
use crate::guest_image::{self, Contents, Image};
use crate::netns::Netns;
use crate::run::Cmd;
use crate::wait::wait_for;

/// How long booting and every step may take on a busy machine: some ten seconds on an idle one.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long fetching a qemu may take.
const FETCH_LIMIT: Duration = Duration::from_secs(240);
/// Memory of the guest in MiB; 128 of it become huge pages.
const MEMORY_MIB: u32 = 512;
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
        let (name, mac) = (side.name(), side.mac().map(|byte| format!("{byte:02x}")).join(":"));
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

/// The most queues, and so workers, that cards are asked for.
const QUEUES_MAX: u16 = 4;

/// A card of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Towards clients.
    Wan,
    /// Towards real servers.
    Lan,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Wan, Side::Lan];

    /// Its name, also that of the TAP.
    pub fn name(self) -> &'static str {
        match self {
            Side::Wan => "wan",
            Side::Lan => "lan",
        }
    }

    /// Its hardware address.
    pub fn mac(self) -> [u8; 6] {
        [0x02, 0, 0, 0, 0, 0x10 + self as u8]
    }
}

/// The other end of a card.
#[derive(Debug)]
struct Wire {
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// A running guest; ended when dropped.
#[derive(Debug)]
pub struct Guest {
    _qemu: Qemu,
    agent: Agent,
    wires: [Wire; 2],
    // Dropped behind qemu, which holds the TAPs.
    _netns: Netns,
    _dir: TempDir,
}

impl Guest {
    /// Boots it with two such cards, and waits until it takes commands.
    pub fn start(card: Card) -> Result<Guest> {
        let dir = tempfile::tempdir()?;
        let image = make_image(dir.path())?;
        let netns = Netns::create(&format!("tg{}n0-rss", std::process::id()))?;
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
        let console = dir.path().join("console");
        let listening = Listening::new(dir.path(), &console)?;
        let mut qemu = Qemu(spawn_qemu(&image, &netns, dir.path(), card)?);
        let agent = listening.accept(PATIENCE, || match qemu.0.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("qemu has ended with {status}:\n{}", std::fs::read_to_string(&console)?)
            }
        })?;
        Ok(Guest { _qemu: qemu, agent, wires, _netns: netns, _dir: dir })
    }

    /// Starts dataplane and control and waits until the services are in force. `config` gets the cards' PCI
    /// addresses in place of `WAN` and `LAN`.
    pub fn start_gateway(&mut self, config: &str) -> Result<()> {
        let cards = self.agent.run("cat /cards")?;
        let cards: Vec<&str> = cards.split_whitespace().collect();
        ensure!(cards.len() == 2, "two cards are wanted, DPDK has {cards:?}:\n{}", self.agent.console());
        let config = config.replace("WAN", cards[0]).replace("LAN", cards[1]);
        self.agent.run("rm -f /config")?;
        for line in config.lines() {
            ensure!(!line.contains('\''), "a shell would take this for something else: {line}");
            self.agent.run(&format!("echo '{line}' >>/config"))?;
        }
        for program in ["dataplane", "control"] {
            self.agent.run(&format!("tollgate-{program} --config /config >/{program}.log 2>&1 &"))?;
            let socket = format!("test -S /run/tollgate/{program}.sock");
            self.wait_for(&format!("{program}'s socket"), |guest| {
                Ok((guest.agent.run_any(&socket)?.status == 0).then_some(()))
            })?;
        }
        self.wait_for("the services and the links", |guest| {
            if guest.agent.run_any("pidof tollgate-dataplane && pidof tollgate-control")?.status != 0 {
                bail!("one of them has ended");
            }
            // The dataplane's socket is there before it answers.
            let said = guest.agent.run_any("tollgate status --json")?;
            let status: Value = serde_json::from_str(&said.text).unwrap_or_default();
            let ports = status["dataplane"]["ports"].as_array().into_iter().flatten();
            let links = ports.filter(|port| port["link_up"] == true).count();
            let in_force = status["dataplane"]["generation"].as_u64() > Some(0);
            Ok((in_force && links == Side::ALL.len()).then_some(()))
        })
    }

    /// Ends both.
    pub fn stop_gateway(&mut self) -> Result<()> {
        self.agent.run("killall tollgate-control tollgate-dataplane")?;
        self.wait_for("both programs' end", |guest| {
            Ok((guest.agent.run_any("pidof tollgate-control tollgate-dataplane")?.status != 0).then_some(()))
        })
    }

    /// `tollgate status --json`.
    pub fn status(&mut self) -> Result<Value> {
        self.json("status")
    }

    /// What the command line says with `--json`.
    pub fn json(&mut self, arguments: &str) -> Result<Value> {
        let text = self.agent.run(&format!("tollgate {arguments} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("`tollgate {arguments} --json` said:\n{text}"))
    }

    /// Sends frames to one card; what then comes out of the other, which must be as many.
    pub fn pass(&mut self, from: Side, frames: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let to = match from {
            Side::Wan => Side::Lan,
            Side::Lan => Side::Wan,
        };
        let mut out = Vec::new();
        for part in frames.chunks(FRAMES_AT_ONCE) {
            part.iter().try_for_each(|frame| self.wires[from as usize].sender.send(frame))?;
            let wanted = out.len() + part.len();
            let what = format!("{wanted} frames from {}", to.name());
            let receiver = &self.wires[to as usize].receiver;
            let waited = wait_for(&what, PATIENCE, || {
                while let Some(frame) = receiver.receive(&to.mac())? {
                    out.push(frame);
                }
                Ok((out.len() >= wanted).then_some(()))
            });
            if let Err(error) = waited {
                return Err(error.context(format!("{} came\n{}", out.len(), self.last_words())));
            }
        }
        ensure!(out.len() == frames.len(), "{} frames came of {}", out.len(), frames.len());
        Ok(out)
    }

    fn wait_for<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut Guest) -> Result<Option<T>>,
    ) -> Result<T> {
        let waited = wait_for(what, PATIENCE, || probe(self));
        waited.map_err(|error| error.context(self.last_words()))
    }

    /// The logs and the counters.
    fn last_words(&mut self) -> String {
        let logs = "tail -n 30 /dataplane.log /control.log; tollgate status; tollgate stats";
        let said = self.agent.run_any(logs).map_or_else(|error| format!("{error:#}"), |said| said.text);
        format!("{said}\n{}", self.agent.console())
    }
}

/// Fewer than a card's queue has descriptors, whatever queues they reach.
const FRAMES_AT_ONCE: usize = 32;

/// The emulator; ended when dropped.
#[derive(Debug)]
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("qemu (pid {}) is left behind: {error}", self.0.id());
        }
    }
}

fn make_image(dir: &Path) -> Result<Image> {
    let mut programs = Vec::new();
    for name in ["tollgate-dataplane", "tollgate-control", "tollgate"] {
        let stripped = dir.join(name);
        Cmd::line("strip --strip-debug -o").arg(&stripped).arg(binary(name)?).run()?;
        programs.push(stripped);
    }
    let plug_ins = plug_ins()?;
    let init = include_bytes!("init.sh");
    guest_image::make(dir, &Contents { init, programs: &programs, plug_ins: &plug_ins, modules: &MODULES })
}

/// DPDK's plug-ins: `/usr/lib/TRIPLE/dpdk/pmds-VERSION/librte_NAME.so.VERSION`.
fn plug_ins() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for library in std::fs::read_dir("/usr/lib")?.flatten() {
        for folder in std::fs::read_dir(library.path().join("dpdk")).into_iter().flatten().flatten() {
            for name in PLUG_INS {
                let path = folder.path().join(format!("librte_{name}.so"));
                found.extend(path.canonicalize());
            }
        }
    }
    ensure!(found.len() == PLUG_INS.len(), "of DPDK's plug-ins {PLUG_INS:?} there are only {found:?}");
    Ok(found)
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

fn spawn_qemu(image: &Image, netns: &Netns, dir: &Path, card: Card) -> Result<Child> {
    let root = qemu_root(card)?;
    let console = File::create(dir.join("console"))?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name(), "setpriv", "--pdeathsig", "KILL", "--"]);
    // One emulating thread: patching code under several is not emulated right and hangs now and then.
    command.arg(root.join("usr/bin/qemu-system-x86_64"));
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(folder));
    }
    command.args(["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1"]);
    command.args(["-m", &MEMORY_MIB.to_string()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.args(["-chardev", &format!("socket,id=agent,path={}", dir.join("agent").display())]);
    command.args(["-device", "isa-serial,chardev=agent"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    // On a busy machine the check of the timer finds none.
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"]);
    for side in Side::ALL {
        let (name, queues) = (side.name(), card.tap_queues());
        let tap = format!("tap,id={name},ifname={name},queues={queues},script=no,downscript=no,vhost=off");
        command.args(["-netdev", &tap]).args(card.arguments(side));
    }
    command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
    command.spawn().context("qemu does not start; scripts/setup.sh installs qemu-system-x86")
}
