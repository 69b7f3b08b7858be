//! Network namespaces, and the links between them.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::frames::{self, FrameSender};
use crate::run::Cmd;
use crate::wait::{Cleanup, wait_until};

/// A network namespace; deleted, with every process in it, when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    keep: bool,
}

impl Netns {
    /// Makes a namespace with `lo` up.
    pub fn create(name: &str) -> Result<Netns> {
        Cmd::line(&format!("ip netns add {name}")).run()?;
        let netns = Netns { name: name.to_owned(), keep: false };
        netns.ip("link set lo up")?;
        // Addresses must be usable at once: no wait for duplicate address detection.
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves it behind when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// `ip -n NAME args…`, split at white space.
    pub fn ip(&self, args: &str) -> Result<String> {
        Ok(Cmd::line(&format!("ip -n {} {args}", self.name)).run()?.stdout)
    }

    /// Sets a kernel variable of this namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        Cmd::line("sysctl -q -w").arg(format!("{key}={value}")).in_netns(self).run()?;
        Ok(())
    }

    /// Turns off every offload that would let unfinished checksums or over-long packets out of `interface`: what a
    /// DPDK port receives over a veth must look as if it came from a wire.
    pub fn offloads_off(&self, interface: &str) -> Result<()> {
        let off = format!("ethtool -K {interface} tx off rx off gso off tso off gro off");
        Cmd::line(&off).in_netns(self).run()?;
        Ok(())
    }

    /// Runs `work` on a thread of its own in this namespace: sockets that it makes belong to the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", self.name))?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sends frames, from the Ethernet header on, out of `interface` exactly as they are.
    pub fn send_frames(&self, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
        self.inside(|| {
            let sender = FrameSender::open(interface)?;
            frames.iter().try_for_each(|frame| sender.send(frame))
        })
    }

    /// The MAC address of `interface`.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        self.inside(|| frames::mac(interface)).with_context(|| format!("in {}", self.name))
    }

    /// The processes in it.
    pub fn pids(&self) -> Result<Vec<i32>> {
        pids_in(&self.name)
    }

    /// Ends every process in it with SIGKILL.
    pub fn kill_all(&self) -> Result<()> {
        kill_all_in(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = delete(&self.name)
        {
            eprintln!("namespace {} is left behind: {error:#}", self.name);
        }
    }
}

/// One end of a veth.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace.
    pub netns: &'a Netns,
    /// The interface's name in it.
    pub interface: &'a str,
}

/// Joins two namespaces by a veth, both ends up and without offloads.
pub fn join(one: End<'_>, other: End<'_>) -> Result<()> {
    let (a, b) = (one.netns.name(), other.netns.name());
    let (a_if, b_if) = (one.interface, other.interface);
    Cmd::line(&format!("ip link add name {a_if} netns {a} type veth peer name {b_if} netns {b}")).run()?;
    for end in [one, other] {
        end.netns.offloads_off(end.interface)?;
        end.netns.ip(&format!("link set {} up", end.interface))?;
    }
    Ok(())
}

/// Makes a bridge that forwards from its first packet on, whatever that contains.
pub fn bridge(netns: &Netns, name: &str) -> Result<()> {
    // A kernel with bridge netfilter would validate IP headers on the way and drop what tests send broken on purpose.
    for family in ["iptables", "ip6tables", "arptables"] {
        let key = format!("net.bridge.bridge-nf-call-{family}");
        if Path::new("/proc/sys").join(key.replace('.', "/")).exists() {
            netns.sysctl(&key, "0")?;
        }
    }
    netns.ip(&format!("link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"))?;
    netns.ip(&format!("link set {name} up"))?;
    Ok(())
}

/// The namespaces of which `belongs` holds.
pub fn list(belongs: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let names = match std::fs::read_dir("/run/netns") {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("/run/netns cannot be read"),
    };
    Ok(names
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|n| belongs(n))
        .collect())
}

/// Ends the processes of a namespace and deletes it.
pub fn delete(name: &str) -> Result<()> {
    let _cleanup = Cleanup::begin();
    kill_all_in(name)?;
    Cmd::line(&format!("ip netns del {name}")).run()?;
    Ok(())
}

fn pids_in(name: &str) -> Result<Vec<i32>> {
    let said = Cmd::line(&format!("ip netns pids {name}")).run()?;
    Ok(said.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn kill_all_in(name: &str) -> Result<()> {
    let own = std::process::id().cast_signed();
    for pid in pids_in(name)?.into_iter().filter(|&pid| pid != own) {
        // It may have ended by itself in between.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    wait_until(&format!("no process in namespace {name}"), Duration::from_secs(5), || {
        Ok(pids_in(name)?.into_iter().all(is_zombie))
    })?;
    Ok(())
}

/// Also true of a process that is gone.
fn is_zombie(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")) else {
        return true;
    };
    // The state follows the name, which is in parentheses and may contain anything.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}
