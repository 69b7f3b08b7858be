//! Starting DPDK's environment abstraction layer (EAL) from our own configuration.

use crate::error::{Errno, Error};
use crate::hugepages::{self, SYSFS_HUGEPAGES};
use crate::pci::{self, SYSFS_DEVICES};
use crate::port::{self, PortId};
use crate::{ffi, log};
use std::collections::BTreeSet;
use std::ffi::{CString, c_char};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether memory comes from huge pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePages {
    /// Reserve what is missing, and fail when that is impossible.
    Require,
    /// Reserve what is missing; when that is impossible warn and go on without.
    Prefer,
    /// Ordinary memory; slower, and most NICs cannot work with it.
    Never,
}

/// A thread of the EAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lcore {
    /// Its number, which need not be that of a CPU.
    pub id: u16,
    /// The CPUs that it may run on; several lcores may share one. Empty: all that the process may use.
    pub cpus: Vec<usize>,
}

/// Everything that the EAL has to know to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EalConfig {
    /// The calling thread; it gets this affinity, and threads that it starts later inherit that.
    pub main: Lcore,
    /// The threads that [`Eal::launch`] can use.
    pub workers: Vec<Lcore>,
    /// Memory for pools, rings and descriptors, in MiB.
    pub memory_mib: u32,
    /// Whether that memory is huge pages.
    pub huge_pages: HugePages,
    /// Addresses of the PCI devices to use; with none, the bus is not looked at.
    pub pci: Vec<String>,
    /// Virtual devices as DPDK writes them, such as `net_af_xdp0,iface=eth0`.
    pub vdevs: Vec<String>,
    /// Tells the DPDK processes of one machine apart.
    pub file_prefix: String,
    /// Leave no files behind, and need no hugetlbfs mount; secondary processes and telemetry are then impossible.
    pub in_memory: bool,
    /// Passed to the EAL as they are, after everything else.
    pub extra_args: Vec<String>,
}

/// What ports, pools and queues keep alive.
pub(crate) struct EalShared {
    pub(crate) workers: Vec<u16>,
    /// Ports that somebody has open. Holding the lock also keeps devices from coming and going.
    pub(crate) open_ports: Mutex<BTreeSet<u16>>,
    has_huge_pages: bool,
}

impl EalShared {
    /// The socket argument for an allocation. Without huge pages all memory counts as that of one node.
    pub(crate) fn socket(&self, numa: Option<u32>) -> i32 {
        match numa.and_then(|node| i32::try_from(node).ok()) {
            Some(node) if self.has_huge_pages => node,
            _ => dpdk_sys::SOCKET_ID_ANY,
        }
    }
}

impl Drop for EalShared {
    fn drop(&mut self) {
        // SAFETY: this is the last of all handles, so nothing of DPDK is used after it. A failure leaves files at
        // worst, and there is nobody left to tell.
        let _ = unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// The running EAL. Ports, pools, rings and queues keep it alive; with the last of them it is cleaned up.
pub struct Eal {
    shared: Arc<EalShared>,
    warnings: Vec<String>,
}

/// Set by the first start, for good: DPDK cannot start twice in a process, not even after cleaning up.
static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts the EAL and makes the devices. Mistakes in the configuration are found before anything starts.
    pub fn init(config: &EalConfig) -> Result<Self, Error> {
        let pci = check(config)?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyRunning);
        }
        let mut warnings = Vec::new();
        let memory = memory_args(config, &mut warnings).inspect_err(|_| {
            // Nothing of DPDK has run yet, so the caller may try again.
            STARTED.store(false, Ordering::SeqCst);
        })?;
        let args = arguments(config, &pci, memory)?;
        log::redirect();
        log::forget_complaints();
        start(args, config)?;
        let shared = Arc::new(EalShared {
            workers: config.workers.iter().map(|lcore| lcore.id).collect(),
            open_ports: Mutex::new(BTreeSet::new()),
            // SAFETY: the EAL is up; this reads its configuration.
            has_huge_pages: unsafe { dpdk_sys::rte_eal_has_hugepages() } != 0,
        });
        let eal = Self { shared, warnings };
        for address in &pci {
            if !port::all_ports().any(|id| port::device_name(id).as_deref() == Some(address)) {
                return Err(Error::PciNotDriven {
                    address: address.clone(),
                    kernel_driver: pci::kernel_driver(Path::new(SYSFS_DEVICES), address),
                    said: log::complaints(),
                });
            }
        }
        for vdev in &config.vdevs {
            eal.attach_vdev(vdev)?;
        }
        Ok(eal)
    }

    /// What was done otherwise than asked; the caller logs it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether DPDK's memory is huge pages.
    pub fn has_huge_pages(&self) -> bool {
        self.shared.has_huge_pages
    }

    /// Makes a virtual device, such as `net_tap0,iface=tg0`, and returns its port.
    pub fn attach_vdev(&self, vdev: &str) -> Result<PortId, Error> {
        let (name, args) = vdev.split_once(',').unwrap_or((vdev, ""));
        let (c_name, c_args) = (ffi::c_string(name)?, ffi::c_string(args)?);
        let _devices = self.shared.open_ports.lock().unwrap_or_else(PoisonError::into_inner);
        if port::all_ports().any(|id| port::device_name(id).as_deref() == Some(name)) {
            return Err(Error::DuplicateVdev { name: name.to_owned() });
        }
        let before: BTreeSet<u16> = port::all_ports().map(|id| id.0).collect();
        log::forget_complaints();
        // SAFETY: the strings live for the call, which copies them.
        let ret =
            unsafe { dpdk_sys::rte_eal_hotplug_add(c"vdev".as_ptr(), c_name.as_ptr(), c_args.as_ptr()) };
        if ret != 0 {
            return Err(vdev_error(vdev, name, Errno::from_return(ret)));
        }
        match port::all_ports().find(|id| !before.contains(&id.0)) {
            Some(id) => Ok(id),
            None => Err(vdev_error(vdev, name, Errno(libc::ENODEV))),
        }
    }

    /// Removes the virtual device behind a port that is not open.
    pub fn detach_vdev(&self, id: PortId) -> Result<(), Error> {
        let info = crate::Port::probe_info(self, id)?;
        let open = self.shared.open_ports.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains(&id.0) {
            return Err(Error::PortInUse { port: info.name });
        }
        let c_name = ffi::c_string(&info.device)?;
        log::forget_complaints();
        // SAFETY: the string lives for the call; nobody has the port open, and nobody can open it while we hold the
        // lock.
        let ret = unsafe { dpdk_sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), c_name.as_ptr()) };
        if ret != 0 {
            return Err(vdev_error(&info.device, &info.device, Errno::from_return(ret)));
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Arc<EalShared> {
        &self.shared
    }
}

/// Checks all that can be checked without DPDK; returns the PCI addresses in full form.
fn check(config: &EalConfig) -> Result<Vec<String>, Error> {
    let allowed = allowed_cpus();
    let max = (dpdk_sys::RTE_MAX_LCORE - 1) as u16;
    let mut ids = BTreeSet::new();
    for lcore in std::iter::once(&config.main).chain(&config.workers) {
        if lcore.id > max {
            return Err(Error::LcoreOutOfRange { id: lcore.id, max });
        }
        if !ids.insert(lcore.id) {
            return Err(Error::DuplicateLcore { id: lcore.id });
        }
        if let Some(&cpu) = lcore.cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(Error::UnknownCpu { lcore: lcore.id, cpu, allowed });
        }
    }
    let mut names = BTreeSet::new();
    for vdev in &config.vdevs {
        let name = vdev.split(',').next().unwrap_or_default();
        if !names.insert(name) {
            return Err(Error::DuplicateVdev { name: name.to_owned() });
        }
    }
    let devices = Path::new(SYSFS_DEVICES);
    let full = |address: &String| {
        let address = pci::normalise(address)?;
        pci::check_exists(devices, &address).map(|()| address)
    };
    config.pci.iter().map(full).collect()
}

/// The CPUs that this process may use.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero set is a valid empty one, and the kernel writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        set
    };
    // SAFETY: every index is below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Decides about huge pages, and returns the arguments that say so.
fn memory_args(config: &EalConfig, warnings: &mut Vec<String>) -> Result<Vec<String>, Error> {
    let mut args = vec!["-m".to_owned(), config.memory_mib.to_string()];
    let huge = match config.huge_pages {
        HugePages::Never => false,
        HugePages::Require => find_huge_pages(config).map(|()| true)?,
        HugePages::Prefer => match find_huge_pages(config) {
            Ok(()) => true,
            Err(error) => {
                warnings.push(format!("running without huge pages, which is slower: {error}"));
                false
            }
        },
    };
    if !huge {
        args.push("--no-huge".to_owned());
    }
    if config.in_memory {
        // DPDK 22.11 refuses --in-memory together with --no-huge; this is what it would add.
        args.push(if huge { "--in-memory" } else { "--no-shconf" }.to_owned());
        args.push("--no-telemetry".to_owned());
    }
    Ok(args)
}

fn find_huge_pages(config: &EalConfig) -> Result<(), Error> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !config.in_memory && !hugepages::is_mounted(&mounts) {
        return Err(Error::NoHugeMount);
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    hugepages::ensure(Path::new(SYSFS_HUGEPAGES), &meminfo, config.memory_mib).map_err(|shortage| {
        Error::NoHugePages {
            wanted_mib: config.memory_mib,
            found_mib: shortage.found_mib,
            reason: shortage.reason,
        }
    })
}

/// The EAL's command line, in the strings that C wants.
fn arguments(config: &EalConfig, pci: &[String], memory: Vec<String>) -> Result<Vec<CString>, Error> {
    let allowed = allowed_cpus();
    let mapping = |lcore: &Lcore| {
        let cpus = if lcore.cpus.is_empty() { &allowed } else { &lcore.cpus };
        let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
        format!("{}@({})", lcore.id, cpus.join(","))
    };
    let lcores: Vec<String> = std::iter::once(&config.main).chain(&config.workers).map(mapping).collect();
    let mut args = vec![
        "dpdk".to_owned(),
        format!("--lcores={}", lcores.join(",")),
        format!("--main-lcore={}", config.main.id),
        format!("--file-prefix={}", config.file_prefix),
    ];
    args.extend(memory);
    if pci.is_empty() {
        args.push("--no-pci".to_owned());
    }
    for address in pci {
        args.extend(["-a".to_owned(), address.clone()]);
    }
    args.extend(config.extra_args.iter().cloned());
    args.iter().map(|arg| ffi::c_string(arg)).collect()
}

/// Calls rte_eal_init.
fn start(args: Vec<CString>, config: &EalConfig) -> Result<(), Error> {
    // The EAL reorders the array and keeps pointers into the strings, so both stay for the life of the process.
    let strings: Vec<*mut c_char> = args.into_iter().map(CString::into_raw).collect();
    let count = strings.len() as i32;
    let mut argv = strings;
    argv.push(std::ptr::null_mut());
    let argv = argv.leak();
    // SAFETY: `argv` is an array of `count` strings with a null behind it, all of which live for ever. It runs once.
    if unsafe { dpdk_sys::rte_eal_init(count, argv.as_mut_ptr()) } >= 0 {
        return Ok(());
    }
    let errno = Errno::from_return(ffi::errno());
    let said = log::complaints();
    if said.contains("another primary process") || said.contains("Cannot create lock") {
        return Err(Error::PrefixInUse { prefix: config.file_prefix.clone() });
    }
    if is_permission(errno, &said) {
        return Err(Error::NoPermission { what: "start DPDK".to_owned(), said });
    }
    Err(Error::EalInit { errno, said })
}

fn is_permission(errno: Errno, said: &str) -> bool {
    // Drivers tend to turn the kernel's refusal into another number, but they quote its words.
    errno.0 == libc::EACCES || said.contains("Permission denied") || said.contains("Operation not permitted")
}

fn vdev_error(vdev: &str, name: &str, errno: Errno) -> Error {
    let (vdev, said) = (vdev.to_owned(), log::complaints());
    if errno.0 == libc::EEXIST {
        return Error::DuplicateVdev { name: name.to_owned() };
    }
    // The bus takes a name when a driver knows its beginning, so "cannot parse" means that there is none.
    if said.contains("failed to parse device") {
        return Error::NotFoundDriver { vdev };
    }
    if is_permission(errno, &said) {
        return Error::NoPermission { what: format!("make virtual device {vdev}"), said };
    }
    Error::Vdev { vdev, errno, said }
}
