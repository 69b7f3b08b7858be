//! The BPF receiver for the real servers of a rig: a control group that they start in, with `tollgate-toa` attached.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::gateway::binary;
use crate::netns::Netns;
use crate::run::Cmd;

/// What it trusts: the local addresses of the rig's pool.
const TRUST: &str = "10.2.0.200/30,2001:db8:2::200/126";
const MOUNTS: &str = "/proc/self/mounts";

/// An attached receiver. Detached, with its control group removed, when dropped.
#[derive(Debug)]
pub struct Receiver {
    cgroup: PathBuf,
    /// A BPF file system of its own, for the pins.
    bpffs: PathBuf,
    keep: bool,
}

impl Receiver {
    /// Makes the control group `name`, and a BPF file system in `dir`, and attaches.
    pub fn attach(name: &str, dir: &Path) -> Result<Receiver> {
        Receiver::attach_with(name, dir, |attach| attach)
    }

    /// The same for UDP, also where the client stands in a header that comes in on an interface of `netns`.
    pub fn attach_udp(name: &str, dir: &Path, netns: &Netns, interface: &str) -> Result<Receiver> {
        Receiver::attach_with(name, dir, |attach| {
            let attach = attach.args(["--udp", "--udp-header"]).arg(interface);
            // Other than `ip netns exec`, this leaves the mounts below /sys as they are.
            let inside = Cmd::new("nsenter").arg(format!("--net=/run/netns/{}", netns.name()));
            inside.args(attach.argv().iter().cloned())
        })
    }

    fn attach_with(name: &str, dir: &Path, more: impl FnOnce(Cmd) -> Cmd) -> Result<Receiver> {
        let cgroup = cgroup2_root()?.join(name);
        let bpffs = dir.join("bpf");
        std::fs::create_dir(&cgroup).with_context(|| cgroup.display().to_string())?;
        let receiver = Receiver { cgroup, bpffs, keep: false };
        std::fs::create_dir(&receiver.bpffs)?;
        Cmd::line("mount -t bpf tollgate").arg(&receiver.bpffs).run()?;
        more(receiver.tool(&["attach", "--trust", TRUST, "--cgroup"])?.arg(&receiver.cgroup)).run()?;
        Ok(receiver)
    }

    /// The group that servers must start in, to be shown their clients.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// What `tollgate-toa status` says.
    pub fn status(&self) -> Result<String> {
        Ok(self.tool(&["status"])?.run()?.stdout)
    }

    /// Leaves it attached when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    fn tool(&self, arguments: &[&str]) -> Result<Cmd> {
        let tool = Cmd::new(binary("tollgate-toa")?).arg("--pin-dir").arg(self.bpffs.join("toa"));
        Ok(tool.args(arguments.iter().copied()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let cleared = remove_pins(&self.bpffs).and_then(|()| Ok(std::fs::remove_dir(&self.cgroup)?));
        if let Err(error) = cleared {
            eprintln!("the receiver's group {} is left behind: {error:#}", self.cgroup.display());
        }
    }
}

/// The control group of the rig whose names begin with `prefix`.
pub fn group_of(prefix: &str) -> String {
    format!("{prefix}-toa")
}

/// `command` as a member of a control group: sockets belong to the group of the process that makes them.
pub(crate) fn member(cgroup: &Path, command: &Cmd) -> Cmd {
    // `ip netns exec` hides the mounts below /sys, but not those of this process.
    let group = format!("/proc/{}/root{}", std::process::id(), cgroup.display());
    let join = Cmd::line("sh -c").arg(r#"echo $$ >"$0/cgroup.procs" && exec "$@""#).arg(group);
    join.args(command.argv().iter().cloned())
}

/// Removes a group that a receiver left behind, and with it the programs that are attached there.
pub fn remove_group(name: &str) -> Result<()> {
    let cgroup = cgroup2_root()?.join(name);
    if cgroup.exists() {
        std::fs::remove_dir(&cgroup).with_context(|| cgroup.display().to_string())?;
    }
    Ok(())
}

/// The control groups directly under the root.
pub(crate) fn groups() -> Result<Vec<String>> {
    let Ok(root) = cgroup2_root() else { return Ok(Vec::new()) };
    let entries = std::fs::read_dir(root)?.flatten();
    Ok(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Unmounts a BPF file system that a receiver left behind; the pins go with it.
pub fn remove_pins(bpffs: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string(MOUNTS)?;
    if mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == bpffs)) {
        Cmd::new("umount").arg(bpffs).run()?;
    }
    Ok(())
}

fn cgroup2_root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string(MOUNTS)?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let line = line.context("no control groups version 2 are mounted: `mount -t cgroup2 cgroup2 DIR`")?;
    Ok(PathBuf::from(line.split(' ').nth(1).unwrap_or("/sys/fs/cgroup")))
}
