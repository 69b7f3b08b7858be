//! What the kernel tells of the machine.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;

use config::{Config, Device};

/// Huge pages of one size on one NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) node: u32,
    pub(super) size_kib: u64,
    pub(super) total: u64,
    pub(super) free: u64,
}

/// What the kernel tells of the machine, as far as checks want it. What it does not tell is missing.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) pages: Vec<Pages>,
    /// Flags of the first CPU in /proc/cpuinfo.
    pub(super) cpu_flags: BTreeSet<String>,
    pub(super) isolated: Vec<u32>,
    pub(super) governors: BTreeMap<u32, String>,
    /// Hyper-threads of one core, by CPU.
    pub(super) siblings: BTreeMap<u32, Vec<u32>>,
    /// Drivers of the configured PCI devices; an empty one: none is bound; missing: no such device.
    pub(super) drivers: BTreeMap<String, String>,
    pub(super) iommu_groups: usize,
    pub(super) noiommu: bool,
    pub(super) synchronized: bool,
    pub(super) sysctls: BTreeMap<String, String>,
    /// Twins on which the kernel has heard IPv6 router advertisements, whether it believed them or not.
    pub(super) advertised: BTreeSet<String>,
    /// Whether an IPv6 route leads through a twin to a router, or everywhere; `None`: the kernel does not tell.
    pub(super) ipv6_routed: Option<bool>,
    /// Names of running programs.
    pub(super) programs: HashSet<String>,
    /// Addresses of interfaces; `None`: they cannot be asked for.
    pub(super) addresses: Option<HashSet<(String, IpAddr)>>,
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

/// The names in a folder.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Numbers as the kernel lists them: `0-3,8`.
fn cpu_list(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// The number at the end of names such as `cpu12`.
fn numbered(names: Vec<String>, prefix: &str) -> Vec<u32> {
    names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect()
}

impl Machine {
    /// Reads what is below `root`, which is `/` but in tests.
    pub(super) fn read(root: &Path, config: Option<&Config>) -> Machine {
        let cpus = root.join("sys/devices/system/cpu");
        let of_cpus = numbered(names(&cpus), "cpu");
        let of_cpu = |cpu: &u32, file: &str| text(&cpus.join(format!("cpu{cpu}")).join(file));
        Machine {
            pages: pages(root),
            cpu_flags: cpu_flags(root),
            isolated: text(&cpus.join("isolated")).map(|list| cpu_list(&list)).unwrap_or_default(),
            governors: of_cpus
                .iter()
                .filter_map(|cpu| Some((*cpu, of_cpu(cpu, "cpufreq/scaling_governor")?)))
                .collect(),
            siblings: of_cpus
                .iter()
                .filter_map(|cpu| Some((*cpu, cpu_list(&of_cpu(cpu, "topology/thread_siblings_list")?))))
                .collect(),
            drivers: config.map(|config| drivers(root, config)).unwrap_or_default(),
            iommu_groups: names(&root.join("sys/kernel/iommu_groups")).len(),
            noiommu: text(&root.join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode")).as_deref()
                == Some("Y"),
            synchronized: root.join("run/systemd/timesync/synchronized").exists(),
            sysctls: config.map(|config| sysctls(root, config)).unwrap_or_default(),
            advertised: config.map(|config| advertised(root, config)).unwrap_or_default(),
            ipv6_routed: config.and_then(|config| ipv6_routed(root, config)),
            programs: programs(root),
            addresses: addresses(),
        }
    }
}

fn pages(root: &Path) -> Vec<Pages> {
    let nodes = root.join("sys/devices/system/node");
    let mut found = Vec::new();
    let mut of_folder = |node: u32, folder: &Path| {
        for name in names(folder) {
            let size = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
            let Some(size_kib) = size.and_then(|size| size.parse().ok()) else { continue };
            let count = |file: &str| number(&folder.join(&name).join(file)).unwrap_or(0);
            found.push(Pages { node, size_kib, total: count("nr_hugepages"), free: count("free_hugepages") });
        }
    };
    let all = numbered(names(&nodes), "node");
    all.iter().for_each(|node| of_folder(*node, &nodes.join(format!("node{node}/hugepages"))));
    if all.is_empty() {
        of_folder(0, &root.join("sys/kernel/mm/hugepages"));
    }
    found
}

fn cpu_flags(root: &Path) -> BTreeSet<String> {
    let cpuinfo = text(&root.join("proc/cpuinfo")).unwrap_or_default();
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    line.map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

/// The configured PCI devices.
pub(super) fn pci_addresses(config: &Config) -> impl Iterator<Item = &str> {
    config.ports.iter().filter_map(|port| match &port.device {
        Device::Pci(address) => Some(address.as_str()),
        Device::Vdev(_) => None,
    })
}

fn drivers(root: &Path, config: &Config) -> BTreeMap<String, String> {
    let devices = root.join("sys/bus/pci/devices");
    let driver = |address: &str| {
        let device = devices.join(address);
        let link = fs::read_link(device.join("driver")).ok();
        let name = link.as_ref().and_then(|path| path.file_name()?.to_str()).unwrap_or_default();
        device.exists().then(|| (address.to_owned(), name.to_owned()))
    };
    pci_addresses(config).filter_map(driver).collect()
}

fn twins(config: &Config) -> impl Iterator<Item = &str> {
    config.ports.iter().filter_map(|port| port.kernel_interface.as_deref())
}

/// Settings of the kernel that twins depend on, by their path below /proc/sys/net.
fn sysctls(root: &Path, config: &Config) -> BTreeMap<String, String> {
    let of_interface = twins(config).chain(["all"]).flat_map(|interface| {
        ["rp_filter", "arp_ignore"].map(|name| format!("ipv4/conf/{interface}/{name}"))
    });
    // For these the kernel asks the interface alone, not `all` (6.18).
    let of_twin = twins(config)
        .flat_map(|twin| ["accept_ra", "forwarding"].map(|name| format!("ipv6/conf/{twin}/{name}")));
    let of_all = [
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "ipv4/neigh/default/gc_thresh2",
        "ipv4/neigh/default/gc_thresh3",
        "ipv6/neigh/default/gc_thresh2",
        "ipv6/neigh/default/gc_thresh3",
    ];
    let read = |name: String| Some((name.clone(), text(&root.join("proc/sys/net").join(name))?));
    of_interface.chain(of_twin).chain(of_all.map(str::to_owned)).filter_map(read).collect()
}

fn advertised(root: &Path, config: &Config) -> BTreeSet<String> {
    let heard = |twin: &&str| {
        let counters = text(&root.join("proc/net/dev_snmp6").join(twin)).unwrap_or_default();
        let counter = counters.lines().find_map(|line| line.strip_prefix("Icmp6InRouterAdvertisements"));
        counter.and_then(|count| count.trim().parse().ok()).is_some_and(|count: u64| count > 0)
    };
    twins(config).filter(heard).map(str::to_owned).collect()
}

/// A route leads to a router (`RTF_GATEWAY` of linux/route.h).
const ROUTE_GATEWAY: u32 = 2;

/// Looks at all tables, and no farther than to the first such route, of which there may be very many.
fn ipv6_routed(root: &Path, config: &Config) -> Option<bool> {
    let file = fs::File::open(root.join("proc/net/ipv6_route")).ok()?;
    let leads_on = |line: &str| {
        // Network, its length, source, its length, next hop, metric, references, uses, flags, interface; numbers in hex.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, length, _, _, _, _, _, _, flags, interface] = fields.as_slice() else { return false };
        let has_router = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & ROUTE_GATEWAY != 0);
        (has_router || length == "00") && twins(config).any(|twin| twin == interface)
    };
    for line in BufReader::new(file).lines() {
        if leads_on(&line.ok()?) {
            return Some(true);
        }
    }
    Some(false)
}

fn programs(root: &Path) -> HashSet<String> {
    let proc = root.join("proc");
    let processes = numbered(names(&proc), "");
    processes.iter().filter_map(|pid| text(&proc.join(pid.to_string()).join("comm"))).collect()
}

fn addresses() -> Option<HashSet<(String, IpAddr)>> {
    let ip = |address: &nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let all = nix::ifaddrs::getifaddrs().ok()?;
    Some(all.filter_map(|entry| Some((entry.interface_name.clone(), ip(entry.address.as_ref()?)?))).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A configuration with a port on a PCI device and one on a virtual one.
    pub(in super::super) fn config(dataplane: &str) -> Config {
        let text = format!(
            "[dataplane]\n{dataplane}\n\
             [[port]]\nname = \"wan\"\ndevice = \"0000:01:00.0\"\n\
             [[port]]\nname = \"lan\"\ndevice = \"net_af_xdp,iface=eth1\"\n\
             [[service]]\nlisten = \"10.1.0.100:80\"\nprotocol = \"tcp\"\nport = \"wan\"\nmode = \"nat\"\n\
             [[service.real_server]]\naddress = \"10.2.0.11:80\"\n"
        );
        Config::from_str("test", &text).unwrap()
    }

    fn write(root: &Path, file: &str, content: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_kernels_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let pages = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";
        write(root, &format!("{pages}/nr_hugepages"), "64\n");
        write(root, &format!("{pages}/free_hugepages"), "16\n");
        write(root, "proc/cpuinfo", "processor : 0\nflags\t\t: fpu avx2 constant_tsc\n");
        write(root, "proc/77/comm", "bird\n");
        write(root, "sys/devices/system/cpu/isolated", "2-3,5\n");
        write(root, "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n");
        write(root, "sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n");
        write(root, "proc/sys/net/ipv4/conf/wan/rp_filter", "1\n");
        write(root, "proc/sys/net/ipv6/conf/lan/accept_ra", "1\n");
        write(root, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x8086\n");
        let machine = Machine::read(root, Some(&config("")));
        assert_eq!(machine.pages, [Pages { node: 1, size_kib: 2048, total: 64, free: 16 }]);
        assert_eq!((machine.isolated, machine.governors[&2].as_str()), (vec![2, 3, 5], "powersave"));
        assert_eq!(
            (machine.siblings[&2].clone(), machine.drivers["0000:01:00.0"].as_str()),
            (vec![0, 2], "")
        );
        assert!(machine.cpu_flags.contains("avx2") && machine.programs.contains("bird"));
        assert_eq!(machine.sysctls["ipv4/conf/wan/rp_filter"], "1");
        assert_eq!(machine.sysctls["ipv6/conf/lan/accept_ra"], "1");
        assert!(machine.advertised.is_empty() && machine.ipv6_routed.is_none());
    }

    #[test]
    fn routers_that_a_twin_hears_and_routes_that_lead_on_through_one_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let counters = |count: u32| {
            format!("Icmp6InRouterAdvertisements     \t{count}\nIcmp6OutRouterAdvertisements    \t9\n")
        };
        for (interface, count) in [("wan", 2), ("lan", 0), ("eth0", 7)] {
            write(root, &format!("proc/net/dev_snmp6/{interface}"), &counters(count));
        }
        assert_eq!(Machine::read(root, Some(&config(""))).advertised, BTreeSet::from(["wan".to_owned()]));
        // As 6.18 tells them.
        let any = "0".repeat(32);
        let router = "fe800000000000004880d1fffe7b3cf6";
        let route = |network: &str, next_hop: &str, flags: &str, interface: &str| {
            format!("{network} {any} 00 {next_hop} 00000400 00000001 00000000 {flags} {interface:>8}\n")
        };
        let default = format!("{any} 00");
        let mut routes = [
            route("20010db8000100000000000000000000 40", &any, "00000001", "wan"),
            route(&default, &any, "00200200", "lo"),
            route(&default, router, "00450003", "eth0"),
        ]
        .concat();
        let routed = |routes: &str| {
            write(root, "proc/net/ipv6_route", routes);
            Machine::read(root, Some(&config(""))).ipv6_routed
        };
        assert_eq!(routed(&routes), Some(false));
        assert_eq!(routed(&format!("{routes}{}", route(&default, &any, "00000001", "lan"))), Some(true));
        routes += &route("20010db8000700000000000000000000 30", router, "00000003", "wan");
        assert_eq!(routed(&routes), Some(true));
    }
}
