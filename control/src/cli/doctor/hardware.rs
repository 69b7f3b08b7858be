//! The machine: memory, PCI devices, CPUs.

use std::collections::BTreeSet;

use api::Status;
use config::{Config, HugePages};

use super::Finding;
use super::machine::{Machine, Pages, pci_addresses};

/// Pages of 2 MiB and up, which are those that DPDK takes.
const PAGE_KIB_MIN: u64 = 2048;

pub(super) fn memory(machine: &Machine, config: Option<&Config>, status: Option<&Status>) -> Vec<Finding> {
    const CHECK: &str = "huge pages";
    let large = || machine.pages.iter().filter(|pages| pages.size_kib >= PAGE_KIB_MIN);
    let mib =
        |count: fn(&Pages) -> u64| large().map(|pages| count(pages) * pages.size_kib / 1024).sum::<u64>();
    let (total, free) = (mib(|pages| pages.total), mib(|pages| pages.free));
    let wanted = config.map(|config| (config.dataplane.huge_pages, u64::from(config.dataplane.memory_mib)));
    let boot = "boot with hugepages=N of 2 MiB, or set vm.nr_hugepages early, before memory is fragmented";
    let has = format!("{total} MiB, {free} MiB of them free");
    let mut found = vec![match (status, wanted) {
        (_, Some((HugePages::Never, _))) => Finding::ok(CHECK, "not used, as configured"),
        (Some(_), _) if total > 0 => Finding::ok(CHECK, has),
        (Some(_), _) => Finding::note(CHECK, "none: every packet costs more TLB misses", boot),
        (None, Some((_, wanted))) if free >= wanted => Finding::ok(CHECK, has),
        (None, Some((HugePages::Require, wanted))) if large().next().is_none() => Finding::problem(
            CHECK,
            format!("the kernel offers none, and {wanted} MiB are required"),
            "a kernel with CONFIG_HUGETLBFS, or huge_pages = \"prefer\" in [dataplane]",
        ),
        (None, Some((_, wanted))) => Finding::note(
            CHECK,
            format!("{has}, {wanted} MiB are wanted; the dataplane reserves the missing ones if it can"),
            boot,
        ),
        (None, None) => Finding::ok(CHECK, has),
    }];
    let nodes: BTreeSet<u32> = large().map(|pages| pages.node).collect();
    let of_node =
        |node: &u32| large().filter(|pages| pages.node == *node).map(|pages| pages.total).sum::<u64>();
    let (with, without): (Vec<u32>, Vec<u32>) = nodes.iter().partition(|node| of_node(node) > 0);
    if !with.is_empty() && !without.is_empty() {
        let without: Vec<String> = without.iter().map(u32::to_string).collect();
        let text = format!("none on NUMA node {}: ports there use memory of other nodes", without.join(","));
        let remedy = "write to /sys/devices/system/node/nodeN/hugepages/hugepages-2048kB/nr_hugepages";
        found.push(Finding::note(CHECK, text, remedy));
    }
    found
}

/// Drivers that share the device with DPDK.
const SHARING_DRIVERS: [&str; 4] = ["mlx4_core", "mlx5_core", "mana", "hv_netvsc"];

pub(super) fn pci(machine: &Machine, config: Option<&Config>) -> Vec<Finding> {
    config.into_iter().flat_map(pci_addresses).map(|address| pci_device(machine, address)).collect()
}

fn pci_device(machine: &Machine, address: &str) -> Finding {
    const CHECK: &str = "pci device";
    let bind = format!("dpdk-devbind.py --bind=vfio-pci {address}");
    match machine.drivers.get(address).map(String::as_str) {
        None => Finding::problem(
            CHECK,
            format!("there is no {address}"),
            "see `lspci -D`, and `device` of the port",
        ),
        Some("") => Finding::problem(CHECK, format!("{address} has no driver"), bind),
        Some("vfio-pci") if machine.iommu_groups == 0 && !machine.noiommu => Finding::problem(
            CHECK,
            format!("{address} is bound to vfio-pci, but there is no IOMMU"),
            "switch the IOMMU on in the firmware and boot with intel_iommu=on or amd_iommu=on; in a virtual machine \
             without one: enable_unsafe_noiommu_mode=1 of the module vfio",
        ),
        Some("vfio-pci") if machine.iommu_groups == 0 => {
            let text = format!("{address} is bound to vfio-pci without IOMMU: it may write to any memory");
            Finding::note(CHECK, text, "")
        }
        Some(driver @ ("uio_pci_generic" | "igb_uio")) => {
            Finding::note(CHECK, format!("{address} is bound to {driver}: it may write to any memory"), bind)
        }
        Some(driver) if driver == "vfio-pci" || SHARING_DRIVERS.contains(&driver) => {
            Finding::ok(CHECK, format!("{address} is bound to {driver}"))
        }
        Some(driver) => {
            Finding::problem(CHECK, format!("{address} belongs to the kernel's driver {driver}"), bind)
        }
    }
}

/// The CPUs of workers that have one to themselves, as far as that is known.
fn worker_cpus(config: Option<&Config>, status: Option<&Status>) -> Vec<u32> {
    match (status, config) {
        (Some(status), _) => {
            let own = status.workers.iter().filter(|worker| worker.cpus.len() == 1);
            own.map(|worker| worker.cpus[0]).collect()
        }
        (None, config) => config.map(|config| config.dataplane.cpus.clone()).unwrap_or_default(),
    }
}

pub(super) fn cpus(machine: &Machine, config: Option<&Config>, status: Option<&Status>) -> Vec<Finding> {
    const CHECK: &str = "cpus";
    let cpus = worker_cpus(config, status);
    if let Some(status) = status
        && status.workers.len() > cpus.len()
    {
        let text = "workers share CPUs with all other threads: others delay packets by whole time slices";
        return vec![Finding::note(
            CHECK,
            text,
            "a CPU for each worker and one for the rest, or fewer workers",
        )];
    }
    let mut found = Vec::new();
    let list = |cpus: &[u32]| cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let named = |cpus: &[u32]| format!("CPU{} {}", if cpus.len() == 1 { "" } else { "s" }, list(cpus));
    let open: Vec<u32> = cpus.iter().copied().filter(|cpu| !machine.isolated.contains(cpu)).collect();
    if !open.is_empty() {
        let text = format!("other programs may run on the workers' {}", named(&open));
        let list = list(&open);
        let remedy = format!("boot with isolcpus={list} nohz_full={list} rcu_nocbs={list}");
        found.push(Finding::note(CHECK, text, remedy));
    }
    let is_slow = |cpu: &&u32| machine.governors.get(cpu).is_some_and(|governor| governor != "performance");
    let slow: Vec<u32> = cpus.iter().filter(is_slow).copied().collect();
    if !slow.is_empty() {
        let text = format!("the frequency of {} changes with the load", named(&slow));
        found.push(Finding::note(CHECK, text, "cpupower frequency-set -g performance"));
    }
    let shares = |cpu: &&u32| {
        let siblings = machine.siblings.get(cpu).map_or(&[][..], Vec::as_slice);
        siblings.iter().any(|sibling| sibling != *cpu && cpus.contains(sibling))
    };
    let sharing: Vec<u32> = cpus.iter().filter(shares).copied().collect();
    if !sharing.is_empty() {
        let text = format!("workers on {} share a core with each other", named(&sharing));
        found.push(Finding::note(CHECK, text, "one hyper-thread of a core only, by `cpus` in [dataplane]"));
    }
    if found.is_empty() && !cpus.is_empty() {
        found.push(Finding::ok(CHECK, format!("workers have {} to themselves", named(&cpus))));
    }
    found
}

/// What of /proc/cpuinfo stands for x86-64-v3 (`abm` is LZCNT).
const V3_FLAGS: [&str; 8] = ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"];

pub(super) fn instructions(machine: &Machine) -> Finding {
    const CHECK: &str = "instructions";
    let missing: Vec<&str> = V3_FLAGS.into_iter().filter(|flag| !machine.cpu_flags.contains(*flag)).collect();
    match missing.is_empty() {
        true => Finding::ok(CHECK, "workers run the code for x86-64-v3"),
        false => Finding::note(
            CHECK,
            format!("workers run the code for any x86-64: the CPU lacks {}", missing.join(", ")),
            "in a virtual machine pass the host's CPU through (qemu: -cpu host)",
        ),
    }
}

pub(super) fn clock(machine: &Machine) -> Finding {
    const CHECK: &str = "clock";
    let has = |flag: &str| machine.cpu_flags.contains(flag);
    let daemons = ["chronyd", "ntpd", "ptp4l", "systemd-timesyn"];
    let kept = machine.synchronized || daemons.iter().any(|name| machine.programs.contains(*name));
    if !has("constant_tsc") || !has("nonstop_tsc") {
        let text = "the time-stamp counter is not constant: timeouts follow the CPU's frequency";
        return Finding::note(
            CHECK,
            text,
            "the governor `performance`; in a virtual machine: -cpu host,+invtsc",
        );
    }
    match kept {
        true => Finding::ok(CHECK, "constant time-stamp counter, time is kept by a daemon"),
        false => Finding::note(
            CHECK,
            "constant time-stamp counter; no daemon keeps the time",
            "chrony or systemd-timesyncd, so that logs of several machines agree",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::machine::tests::config;
    use super::super::{Verdict, worst};
    use super::*;

    fn pages_of(nodes: &[(u32, u64, u64)]) -> Machine {
        let pages = nodes.iter().map(|(node, total, free)| Pages {
            node: *node,
            size_kib: 2048,
            total: *total,
            free: *free,
        });
        Machine { pages: pages.collect(), ..Machine::default() }
    }

    #[test]
    fn missing_huge_pages_are_told_with_the_remedy() {
        let wants = |how: &str| config(&format!("huge_pages = \"{how}\"\nmemory_mib = 256"));
        let verdict = |machine: &Machine, how: &str| worst(&memory(machine, Some(&wants(how)), None));
        assert_eq!(verdict(&pages_of(&[(0, 200, 200)]), "require"), Verdict::Ok);
        assert_eq!(verdict(&pages_of(&[(0, 200, 20)]), "require"), Verdict::Note);
        assert_eq!(verdict(&pages_of(&[(0, 0, 0)]), "prefer"), Verdict::Note);
        assert_eq!(verdict(&Machine::default(), "require"), Verdict::Problem);
        assert_eq!(verdict(&Machine::default(), "never"), Verdict::Ok);
        let found = memory(&pages_of(&[(0, 0, 0)]), Some(&wants("prefer")), Some(&Status::default()));
        assert!(found[0].remedy.contains("hugepages=N"), "{found:?}");
    }

    #[test]
    fn a_node_without_huge_pages_is_told() {
        let found = memory(&pages_of(&[(0, 200, 200), (1, 0, 0)]), None, None);
        assert_eq!(worst(&found), Verdict::Note);
        assert!(found[1].text.contains("NUMA node 1:"), "{found:?}");
    }

    #[test]
    fn what_a_pci_device_is_bound_to_is_judged() {
        let with = |driver: Option<&str>, iommu_groups, noiommu| {
            let drivers = driver.map(|driver| ("0000:01:00.0".to_owned(), driver.to_owned()));
            let machine = Machine {
                drivers: drivers.into_iter().collect(),
                iommu_groups,
                noiommu,
                ..Machine::default()
            };
            pci(&machine, Some(&config(""))).remove(0)
        };
        assert_eq!(with(Some("vfio-pci"), 9, false).verdict, Verdict::Ok);
        assert_eq!(with(Some("mlx5_core"), 0, false).verdict, Verdict::Ok);
        assert_eq!(with(Some("uio_pci_generic"), 9, false).verdict, Verdict::Note);
        assert_eq!(with(Some("vfio-pci"), 0, true).verdict, Verdict::Note);
        for (finding, wanted) in [
            (with(None, 9, false), "lspci"),
            (with(Some(""), 9, false), "--bind=vfio-pci 0000:01:00.0"),
            (with(Some("ixgbe"), 9, false), "--bind=vfio-pci 0000:01:00.0"),
            (with(Some("vfio-pci"), 0, false), "intel_iommu=on"),
        ] {
            assert_eq!(finding.verdict, Verdict::Problem);
            assert!(finding.remedy.contains(wanted), "{finding:?}");
        }
    }

    #[test]
    fn workers_want_cpus_of_their_own() {
        let quiet = Machine {
            isolated: vec![2, 3],
            governors: BTreeMap::from([(2, "performance".to_owned()), (3, "performance".to_owned())]),
            siblings: BTreeMap::from([(2, vec![0, 2]), (3, vec![1, 3])]),
            ..Machine::default()
        };
        let config = config("workers = 2\ncpus = [2, 3]");
        assert_eq!(worst(&cpus(&quiet, Some(&config), None)), Verdict::Ok);
        let said = |machine: Machine| {
            let found = cpus(&machine, Some(&config), None);
            assert_eq!(worst(&found), Verdict::Note);
            found.iter().map(|finding| finding.remedy.clone()).collect::<String>()
        };
        assert!(said(Machine { isolated: vec![2], ..quiet_like(&quiet) }).contains("isolcpus=3 "));
        let governors = BTreeMap::from([(3, "powersave".to_owned())]);
        assert!(said(Machine { governors, ..quiet_like(&quiet) }).contains("performance"));
        let siblings = BTreeMap::from([(2, vec![2, 3]), (3, vec![2, 3])]);
        assert!(said(Machine { siblings, ..quiet_like(&quiet) }).contains("one hyper-thread"));
        let shared = api::WorkerStatus { cpus: vec![0, 1], ..api::WorkerStatus::default() };
        let status = Status { workers: vec![shared], ..Status::default() };
        assert!(cpus(&quiet, Some(&config), Some(&status))[0].text.contains("share CPUs"));
    }

    fn quiet_like(machine: &Machine) -> Machine {
        Machine {
            isolated: machine.isolated.clone(),
            governors: machine.governors.clone(),
            siblings: machine.siblings.clone(),
            ..Machine::default()
        }
    }

    #[test]
    fn the_cpus_flags_tell_instructions_and_clock() {
        let with = |flags: &[&str]| Machine {
            cpu_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            synchronized: true,
            ..Machine::default()
        };
        assert_eq!(instructions(&with(&V3_FLAGS)).verdict, Verdict::Ok);
        assert!(instructions(&with(&V3_FLAGS[1..])).text.contains("lacks avx"));
        let tsc = ["constant_tsc", "nonstop_tsc"];
        assert_eq!(clock(&with(&tsc)).verdict, Verdict::Ok);
        assert_eq!(clock(&with(&tsc[..1])).verdict, Verdict::Note);
        assert!(clock(&Machine { synchronized: false, ..with(&tsc) }).remedy.contains("chrony"));
    }
}
