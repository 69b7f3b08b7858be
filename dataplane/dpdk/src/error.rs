//! What can go wrong, in words: which device, what the limit is and what would be right.

use std::fmt;

/// An error number of the system or of DPDK, shown with its symbolic name; zero when DPDK gave none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// From a C return value, which DPDK makes negative.
    pub(crate) fn from_return(value: i32) -> Self {
        match value {
            // Many drivers say -1 for "it failed", which is not meant as EPERM.
            -1 => Self(0),
            _ => Self(value.saturating_abs()),
        }
    }

    /// The symbolic name, such as `ENODEV`.
    pub fn name(self) -> &'static str {
        match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EIO => "EIO",
            libc::ENXIO => "ENXIO",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ENOSPC => "ENOSPC",
            libc::ENAMETOOLONG => "ENAMETOOLONG",
            libc::ENOSYS => "ENOSYS",
            libc::EPROTO => "EPROTO",
            libc::ENOTSUP => "ENOTSUP",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::EALREADY => "EALREADY",
            libc::ENOEXEC => "ENOEXEC",
            libc::ERANGE => "ERANGE",
            1001 => "E_RTE_SECONDARY",
            1002 => "E_RTE_NO_CONFIG",
            _ => "errno",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("it gave no reason");
        }
        // SAFETY: rte_strerror takes any number and returns a NUL-terminated string of the calling thread.
        let text = unsafe { crate::ffi::text(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} {}: {text}", self.name(), self.0)
    }
}

/// Receive or transmit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the wire to us.
    Receive,
    /// From us to the wire.
    Transmit,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Receive => "receive",
            Self::Transmit => "transmit",
        })
    }
}

/// Everything that DPDK, or our use of it, can fail with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A second start of the EAL in one process.
    #[error(
        "the DPDK environment (EAL) was already started in this process, and it starts only once: restart the process"
    )]
    AlreadyRunning,
    /// Two lcores with one number.
    #[error("lcore {id} is configured twice; every lcore, the main one included, needs its own number")]
    DuplicateLcore {
        /// The lcore's number.
        id: u16,
    },
    /// An lcore number beyond what DPDK was built for.
    #[error("lcore {id} is out of range: this DPDK was built for lcores 0 to {max}")]
    LcoreOutOfRange {
        /// The lcore's number.
        id: u16,
        /// The greatest possible one.
        max: u16,
    },
    /// A CPU that is not there, or not ours.
    #[error("lcore {lcore} asks for CPU {cpu}, which this process may not use; it may use {allowed:?}")]
    UnknownCpu {
        /// The lcore.
        lcore: u16,
        /// The CPU asked for.
        cpu: usize,
        /// The CPUs in the process's affinity mask.
        allowed: Vec<usize>,
    },
    /// An lcore that is not among the configured workers.
    #[error("lcore {id} is not a worker; the workers are {workers:?}")]
    UnknownLcore {
        /// The lcore's number.
        id: u16,
        /// The configured worker lcores.
        workers: Vec<u16>,
    },
    /// An lcore that still runs something.
    #[error("lcore {id} is still running its previous function; wait for it first")]
    LcoreBusy {
        /// The lcore's number.
        id: u16,
    },
    /// A NUL byte in a name or argument.
    #[error("\"{value}\" contains a NUL byte, which no DPDK name or argument may")]
    NulInText {
        /// The text with the NUL made visible.
        value: String,
    },
    /// Huge pages are required and cannot be had.
    #[error(
        "{wanted_mib} MiB of huge pages are required, {found_mib} MiB are free, and no more could be reserved ({reason}): \
         run as root, free memory, boot with hugepages=N, lower memory_mib, or set huge_pages = \"prefer\" to do without"
    )]
    NoHugePages {
        /// What the configuration asks for.
        wanted_mib: u32,
        /// What is free.
        found_mib: u64,
        /// Why reserving failed.
        reason: String,
    },
    /// Huge pages without a file system to take them from.
    #[error(
        "no hugetlbfs is mounted: mount -t hugetlbfs none /dev/hugepages, or use in-memory mode, which needs no mount"
    )]
    NoHugeMount,
    /// The system refuses.
    #[error(
        "no permission to {what}: run as root or grant CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW and CAP_IPC_LOCK ({said})"
    )]
    NoPermission {
        /// What was refused.
        what: String,
        /// What DPDK logged.
        said: String,
    },
    /// Another process runs with the same file prefix.
    #[error(
        "another DPDK process already runs with file prefix \"{prefix}\": end it, choose another prefix, or use in-memory mode"
    )]
    PrefixInUse {
        /// The prefix.
        prefix: String,
    },
    /// The EAL did not start.
    #[error("the DPDK environment (EAL) did not start: {errno}; DPDK said: {said}")]
    EalInit {
        /// The cause as a number.
        errno: Errno,
        /// What DPDK logged.
        said: String,
    },
    /// A text that is no PCI address.
    #[error("\"{address}\" is not a PCI address; write domain:bus:device.function, such as 0000:03:00.0")]
    BadPciAddress {
        /// The text.
        address: String,
    },
    /// No such PCI device.
    #[error(
        "there is no PCI device {address}; the network devices are {known:?} (see: dpdk-devbind.py --status)"
    )]
    UnknownPci {
        /// The address asked for.
        address: String,
        /// Addresses of the network devices on the bus.
        known: Vec<String>,
    },
    /// A PCI device that no DPDK driver took.
    #[error(
        "no DPDK driver took PCI device {address}, which is bound to {kernel_driver}: bind it with \
         dpdk-devbind.py --bind=vfio-pci {address}, and install its DPDK driver; DPDK said: {said}"
    )]
    PciNotDriven {
        /// The device.
        address: String,
        /// The kernel driver that has it, or `no kernel driver`.
        kernel_driver: String,
        /// What DPDK logged.
        said: String,
    },
    /// A virtual device whose driver is not there.
    #[error(
        "there is no DPDK driver for virtual device \"{vdev}\": check the spelling (net_tap, net_af_xdp, ...) and that the driver's package is installed"
    )]
    NotFoundDriver {
        /// The device with its arguments.
        vdev: String,
    },
    /// A virtual device of a name that is in use.
    #[error("a virtual device \"{name}\" exists already; number them, as in net_tap0, net_tap1")]
    DuplicateVdev {
        /// The device's name.
        name: String,
    },
    /// A virtual device that does not start.
    #[error("virtual device \"{vdev}\" cannot be made: {errno}; DPDK said: {said}")]
    Vdev {
        /// The device with its arguments.
        vdev: String,
        /// The cause as a number.
        errno: Errno,
        /// What DPDK logged.
        said: String,
    },
    /// A port name that does not exist.
    #[error("there is no port \"{name}\"; the ports are {known:?}")]
    UnknownPort {
        /// The name asked for.
        name: String,
        /// The names of all ports.
        known: Vec<String>,
    },
    /// A port number that does not exist.
    #[error("there is no port number {id}; the ports are {known:?}")]
    UnknownPortId {
        /// The number asked for.
        id: u16,
        /// The names of all ports.
        known: Vec<String>,
    },
    /// A port that is open already, or whose queues still exist.
    #[error("port {port} is in use: close it and drop its queues first")]
    PortInUse {
        /// The port.
        port: String,
    },
    /// A port without queues.
    #[error("port {port} needs at least one receive queue and one transmit queue")]
    NoQueues {
        /// The port.
        port: String,
    },
    /// More queues than the port has.
    #[error(
        "port {port} has at most {limit} {direction} queues, {asked} were asked for: lower the port's queues or set queues = \"workers\""
    )]
    TooManyQueues {
        /// The port.
        port: String,
        /// Which of the two.
        direction: Direction,
        /// What was asked for.
        asked: u16,
        /// What the port can do.
        limit: u16,
    },
    /// An MTU that the port cannot do.
    #[error("port {port} can do an MTU from {min} to {max}, not {mtu}")]
    MtuOutOfRange {
        /// The port.
        port: String,
        /// What was asked for.
        mtu: u16,
        /// The least.
        min: u16,
        /// The greatest.
        max: u16,
    },
    /// Mbufs into which a whole frame does not fit.
    #[error(
        "port {port} with MTU {mtu} needs mbufs of {needed} bytes, those of mempool {mempool} have {data_room}: set the \
         port's mtu to {mtu}, for which mbufs are then made, or to less"
    )]
    MbufTooSmall {
        /// The port.
        port: String,
        /// Its MTU.
        mtu: u16,
        /// Bytes needed per mbuf, headroom included.
        needed: u32,
        /// Bytes per mbuf, headroom included.
        data_room: u16,
        /// The pool.
        mempool: String,
    },
    /// A pool that would be emptied by receive descriptors alone.
    #[error(
        "mempool {mempool} has {mbufs} mbufs; with port {port} the receive queues hold {needed} of them at all times: raise \
         mbufs (0: as many as needed), or lower the port's queues or rx_descriptors"
    )]
    MempoolTooSmall {
        /// The pool.
        mempool: String,
        /// Its size.
        mbufs: u32,
        /// The port.
        port: String,
        /// Mbufs that all receive queues on this pool take.
        needed: u32,
    },
    /// A cache that does not fit the pool.
    #[error(
        "mempool {pool} is to have {mbufs} mbufs, where a cache of {cache} per lcore is too large (at most {limit}): raise \
         mbufs (0: as many as needed)"
    )]
    CacheTooLarge {
        /// The pool.
        pool: String,
        /// What was asked for.
        cache: u32,
        /// Size of the pool.
        mbufs: u32,
        /// The greatest possible.
        limit: u32,
    },
    /// A name in use.
    #[error("a {what} named \"{name}\" exists already")]
    NameTaken {
        /// Mempool or ring.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name too long.
    #[error("\"{name}\" is too long for the name of a {what}: at most 25 bytes")]
    NameTooLong {
        /// Mempool or ring.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// No memory for a pool or ring.
    #[error(
        "not enough DPDK memory for {what} \"{name}\" ({bytes} bytes, NUMA node {numa}): raise memory_mib or lower mbufs"
    )]
    NoMemory {
        /// Mempool or ring.
        what: &'static str,
        /// The name.
        name: String,
        /// About how much.
        bytes: u64,
        /// The node, or `any`.
        numa: String,
    },
    /// A pool or ring that cannot be made.
    #[error("{what} \"{name}\" cannot be made: {errno}")]
    Create {
        /// Mempool or ring.
        what: &'static str,
        /// The name.
        name: String,
        /// The cause.
        errno: Errno,
    },
    /// A step of opening or asking a port failed.
    #[error("port {port} ({driver}): cannot {what}: {errno}; DPDK said: {said}")]
    Port {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// The step.
        what: String,
        /// The cause.
        errno: Errno,
        /// What DPDK logged.
        said: String,
    },
}
