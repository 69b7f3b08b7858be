//! The machine: CPUs, huge pages, and what a reader of the results must know of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The CPU of whatever is measured.
pub(crate) const MEASURED_CPU: usize = 1;
/// The CPU of everything else.
pub(crate) const OTHER_CPU: usize = 0;

/// The CPUs of so many forwarding threads: the second one shares its CPU with everything else.
pub(crate) fn forwarding_cpus(workers: u16) -> Vec<usize> {
    [MEASURED_CPU, OTHER_CPU][..usize::from(workers.min(2))].to_vec()
}

const HUGE_DIR: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// How often the kernel is asked for huge pages.
const RESERVE_TRIES: usize = 5;
/// Never left with fewer than this: what `make demo` wants.
const HUGE_KEPT: u64 = 512;

/// Puts this process on the CPU for everything else.
///
/// # Errors
/// When there is only one CPU.
pub(crate) fn stay_aside() -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus >= 2, "the bench needs two CPUs, one for the worker and one for all else; here is {cpus}");
    pin_to(&[OTHER_CPU])
}

/// Puts this thread on these CPUs.
///
/// # Errors
/// When there are no such CPUs.
pub(crate) fn pin_to(cpus: &[usize]) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    let this = nix::unistd::Pid::from_raw(0);
    nix::sched::sched_setaffinity(this, &set).with_context(|| format!("pinning a thread to CPUs {cpus:?}"))
}

/// While it lives, this thread and what it starts run on any CPU.
pub(crate) struct Anywhere(nix::sched::CpuSet);

impl Anywhere {
    /// Leaves the CPU for everything else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn enter() -> Result<Anywhere> {
        let this = nix::unistd::Pid::from_raw(0);
        let before = nix::sched::sched_getaffinity(this)?;
        pin_to(&[MEASURED_CPU, OTHER_CPU])?;
        Ok(Anywhere(before))
    }
}

impl Drop for Anywhere {
    fn drop(&mut self) {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &self.0);
    }
}

/// A command that may run on both CPUs, unlike the bench itself, writes whole lines at once, and is killed with the bench.
pub(crate) fn on_both_cpus(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c"]).arg(format!("{OTHER_CPU},{MEASURED_CPU}"));
    command.args(["stdbuf", "-oL"]).arg(program);
    command
}

/// The same before all others on its CPU, for a load that tells time: what waits meanwhile must be able to.
pub(crate) fn before_others(program: &Path) -> Command {
    let mut command = on_both_cpus(Path::new("chrt"));
    command.args(["--fifo", "1"]).arg(program);
    command
}

/// Huge pages that were reserved for a run and are given back after it.
pub(crate) struct HugePages {
    before: u64,
    reserved: u64,
}

impl HugePages {
    /// Makes so many MiB of free huge pages.
    ///
    /// # Errors
    /// When memory is short.
    pub(crate) fn reserve(mib: u64) -> Result<HugePages> {
        let (before, free) = (read("nr_hugepages")?, read("free_hugepages")?);
        let wanted = before + (mib / 2 + 1).saturating_sub(free);
        // The kernel stops at the first page for which it finds no room, though it has just made some.
        for tries in 0..RESERVE_TRIES {
            if read("nr_hugepages")? >= wanted {
                break;
            }
            if tries > 0 {
                // Copies of files lie between what is free; they are read again when they are needed.
                let _ = fs::write("/proc/sys/vm/drop_caches", "1");
            }
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
            fs::write(format!("{HUGE_DIR}/nr_hugepages"), wanted.to_string())
                .context("reserving huge pages (are you root?)")?;
        }
        let pages = HugePages { before, reserved: read("nr_hugepages")? };
        let got = read("free_hugepages")? * 2;
        ensure!(
            got >= mib,
            "{mib} MiB of huge pages are needed and only {got} MiB could be had; free memory or leave out the largest number of flows (--flows)"
        );
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Only what this run added: others may have changed the number meanwhile.
        if let Ok(now) = read("nr_hugepages") {
            let rest = now.saturating_sub(self.reserved.saturating_sub(self.before));
            let _ = fs::write(format!("{HUGE_DIR}/nr_hugepages"), rest.max(HUGE_KEPT.min(now)).to_string());
        }
    }
}

fn read(name: &str) -> Result<u64> {
    let path = format!("{HUGE_DIR}/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.trim().parse().with_context(|| format!("{path} holds no number"))
}

/// KiB of transparent huge pages that this process has.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn own_huge_kib() -> Result<u64> {
    let path = "/proc/self/smaps_rollup";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no AnonHugePages"))
}

/// Date and name of the commit that is checked out; empty without git.
pub(crate) fn commit() -> String {
    let output = Command::new("git").args(["show", "-s", "--format=%cs %h"]).output();
    output.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// CPU, memory, kernel, DPDK and our own version in one line.
pub(crate) fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let guest = if cpuinfo.contains("hypervisor") { ", virtual machine" } else { "" };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 =
        memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} (family {} model {}), {cpus} CPUs, {} of cache, {:.0} GiB{guest}; Linux {}; DPDK {}; Tollgate of {}",
        field("model name"),
        field("cpu family"),
        field("model\t"),
        field("cache size"),
        kib as f64 / 1048576.0,
        kernel.trim(),
        dpdk_version(),
        commit()
    )
}

fn dpdk_version() -> String {
    let output = Command::new("pkg-config").args(["--modversion", "libdpdk"]).output();
    output.map_or_else(|_| "?".to_owned(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
