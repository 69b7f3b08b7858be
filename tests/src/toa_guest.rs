//! A real server in a qemu guest: Debian's kernel, nginx, and the receivers that show it the client's address.
//!
//! It stands on the rig's bridge `lan` beside the real servers in namespaces, as 10.2.0.31 and 2001:db8:2::31.
//! `toa-kmod/tests/guest.sh` makes what it boots.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use crate::agent::Said;
use crate::agent::{Agent, Listening};
use crate::process::{Bond, Process};
use crate::rig::Rig;
use crate::run::Cmd;

/// Its IPv4 address.
pub const ADDRESS: &str = "10.2.0.31";
/// Its IPv6 address.
pub const ADDRESS6: &str = "2001:db8:2::31";
/// What its receivers shall trust: the rig's local pool.
pub const TRUST: &str = "10.2.0.200/30,2001:db8:2::200/126";

/// How long booting and every command may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Downloads and a first build of the module and the tools.
const MAKE_LIMIT: Duration = Duration::from_secs(280);
/// Memory of the guest in MiB; thousands of connections take some 30.
const MEMORY_MIB: u32 = 320;

/// A kernel that it can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's own.
    V6_1,
    /// That of Debian 12's security archive.
    V6_12,
}

impl Kernel {
    /// As it is called.
    pub fn series(self) -> &'static str {
        match self {
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
        }
    }
}

/// The running guest; ended when dropped.
#[derive(Debug)]
pub struct ToaGuest {
    agent: Agent,
    _qemu: Process,
}

/// What it boots.
#[derive(Debug)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// The program that makes segments by hand, `toa-bpf/examples/toa-probe.rs`.
    pub probe: PathBuf,
}

impl Image {
    /// Made if it is not there.
    pub fn make(kernel: Kernel) -> Result<Image> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../toa-kmod/tests/guest.sh");
        let said = Cmd::new(script).arg(kernel.series()).limit(MAKE_LIMIT).run()?;
        let mut lines = said.stdout.lines().map(PathBuf::from);
        let mut line = || lines.next().context("guest.sh did not say what to boot");
        Ok(Image { kernel: line()?, initramfs: line()?, probe: line()? })
    }
}

impl ToaGuest {
    /// Boots it, and waits until it takes commands and has its addresses.
    pub fn start(image: &Image, rig: &Rig) -> Result<ToaGuest> {
        let switch = rig.make_tap("guest", "lan")?;
        let console = rig.dir().join("guest.log");
        let listening = Listening::new(rig.dir(), &console)?;
        let mut command =
            Cmd::line("qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot");
        // One emulating thread: patching code under several is not emulated right and hangs now and then.
        command =
            command.args(["-accel", "tcg,thread=single", "-smp", "1", "-m"]).arg(MEMORY_MIB.to_string());
        command = command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
        command =
            command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off", "-serial", "stdio"]);
        command = command.args(listening.arguments());
        // Without the header of virtio there are no offloads: packets are whole, as on a wire.
        command = command.args(["-netdev", "tap,id=lan,ifname=guest,script=no,downscript=no,vnet_hdr=off"]);
        command = command.args(["-device", "virtio-net-pci,netdev=lan,mac=02:70:63:61:31:00,romfile="]);
        let mut qemu = Process::spawn("guest", switch, &command, rig.dir(), Bond::DiesWithParent)?;
        let agent = listening.accept(PATIENCE, || qemu.must_run())?;
        let mut guest = ToaGuest { agent, _qemu: qemu };
        guest.run(&format!("ip link set eth0 up; ip addr add {ADDRESS}/24 dev eth0"))?;
        guest.run(&format!("ip -6 addr add {ADDRESS6}/64 dev eth0"))?;
        Ok(guest)
    }

    /// Runs a line of shell; any exit status is fine.
    pub fn run_any(&mut self, line: &str) -> Result<Said> {
        self.agent.run_any(line)
    }

    /// Runs a line of shell, which must succeed.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.agent.run(line)
    }

    /// Writes a file; no line of it may have a single quote in it.
    pub fn write(&mut self, path: &str, text: &str) -> Result<()> {
        self.run(&format!(": >{path}"))?;
        for line in text.lines() {
            ensure!(!line.contains('\''), "a single quote in {line:?}");
            self.run(&format!("echo '{line}' >>{path}"))?;
        }
        Ok(())
    }

    /// What the kernel said that it should not have to say.
    pub fn complaints(&mut self) -> Result<String> {
        let pattern = "BUG|Oops|WARNING|general protection|Call Trace|leak|soft lockup|refcount";
        Ok(self.run_any(&format!("dmesg | grep -E '{pattern}'"))?.text)
    }

    /// All that the kernel and the first process have said.
    pub fn console(&self) -> String {
        self.agent.console()
    }
}
