//! Attaches, inspects and detaches the BPF programs.
//!
//! The links to the control group are pinned in a directory of a BPF file system, together with the maps that
//! `status` reads. The directory exists exactly while the receiver is attached: `attach` makes it last into being or
//! removes it again, so nothing half-attached stays behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, LinkOrder, Program, ProgramError,
    SchedClassifier, SockOps, TcAttachType, loaded_programs, tc::TcAttachOptions,
};
use aya::{Ebpf, EbpfError, EbpfLoader};

use crate::accounting::Uncharged;
use crate::counters::COUNTERS;
use crate::prefix::Prefix;
use crate::{kernel, mounts};

/// Aligned as the ELF parser wishes.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/toa.bpf.o"));

/// Show clients.
const PROGRAMS_TCP: [&str; 2] = ["toa_getpeername4", "toa_getpeername6"];
/// Learns clients, also of connections that speak MPTCP, for which Linux has had the means since 5.19.
const PROGRAM_MPTCP: &str = "toa_established_mptcp";
/// Takes its place where the kernel refuses it.
const PROGRAM_PLAIN: &str = "toa_established";
/// Show clients, and learn them, of UDP.
const PROGRAMS_UDP: [&str; 7] = [
    "toa_recvmsg4",
    "toa_recvmsg6",
    "toa_sendmsg4",
    "toa_sendmsg6",
    "toa_connect4",
    "toa_connect6",
    "toa_udp_learn",
];
/// Stands at interfaces; its pins have theirs behind it.
const PROGRAM_HEADER: &str = "toa_udp_header";
/// Between the program's and the interface's name.
const AT_INTERFACE: char = '@';
/// Maps that only UDP needs; they take some megabytes.
const MAPS_UDP: [&str; 2] = ["udp_clients", "udp_gateways"];
pub(crate) const MAP_TRUST: &str = "trust";
const MAP_COUNTERS: &str = "counters";
const MAP_ABOUT: &str = "about";
const MAPS: [&str; 3] = [MAP_TRUST, MAP_COUNTERS, MAP_ABOUT];
/// Entries of the map `trust` in the BPF program.
pub(crate) const TRUST_MAX: usize = 1024;
/// Bytes of the map `about` in the BPF program.
const ABOUT_LEN: usize = 256;

/// How long the kernel may take to let unpinned programs go; it takes milliseconds.
const RELEASE_MAX: Duration = Duration::from_secs(5);
/// How often it is asked.
const RELEASE_POLL: Duration = Duration::from_millis(2);

/// What is served beside TCP: every packet that comes in is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Udp {
    /// Flows that are remembered.
    pub(crate) flows: u32,
    /// Where headers of protocol 248 are looked for.
    pub(crate) header_interfaces: Vec<String>,
}

/// Why the receiver could not be attached, read or detached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel will not do.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// A file system is missing.
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    /// There is one already.
    #[error("already attached: {0} exists; `tollgate-toa detach` first, or give another --pin-dir")]
    AlreadyAttached(PathBuf),
    /// There is none.
    #[error("not attached: {0} does not exist; `tollgate-toa attach --trust PREFIX` attaches")]
    NotAttached(PathBuf),
    /// No rights.
    #[error(
        "no permission to {doing}; run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and rights on the directories"
    )]
    Permission {
        /// What was tried.
        doing: &'static str,
    },
    /// The map has room for so many.
    #[error("{0} trusted prefixes are given; {TRUST_MAX} is the most")]
    TooManyPrefixes(usize),
    /// The path is kept for `status`.
    #[error("the control group's path {0} is longer than {ABOUT_LEN} bytes")]
    CgroupPathLength(PathBuf),
    /// A file operation.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses the object file as a whole.
    #[error("the kernel cannot take the BPF maps (Linux 5.11 or newer with CONFIG_CGROUP_BPF is needed)")]
    Load(#[source] Box<EbpfError>),
    /// The kernel refuses a program.
    #[error(
        "the kernel cannot take the BPF program {name} (Linux 5.11 or newer with CONFIG_CGROUP_BPF is needed, and CAP_PERFMON)"
    )]
    Program {
        /// Which program.
        name: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// Attached by a link of type tcx.
    #[error(
        "cannot look for protocol 248 on interface {interface}; is there one, and is this Linux 6.6 or newer?"
    )]
    Interface {
        /// Which.
        interface: String,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A prefix to take away.
    #[error("{0} is not a trusted prefix; `tollgate-toa trust list` shows them")]
    NotTrusted(Prefix),
    /// An empty list would look like an oversight.
    #[error("no trusted prefix would be left; `tollgate-toa detach` is for believing nobody")]
    NobodyTrusted,
    /// Somebody else has them open.
    #[error("the pins are removed, but another process holds the BPF links; they last until it ends")]
    Held,
    /// A pin does not hold what it should.
    #[error("the pin {0} is not of this version of tollgate-toa; `tollgate-toa detach`, then attach again")]
    Pin(PathBuf),
    /// A map operation.
    #[error("cannot use the BPF map {name}")]
    Map {
        /// Which map.
        name: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
}

/// What `status` tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The control group that it was attached to.
    pub(crate) cgroup: PathBuf,
    /// False when the group was removed: the kernel has then detached the programs by itself.
    pub(crate) cgroup_present: bool,
    /// Whether connections that speak MPTCP are served, beside those that speak plain TCP.
    pub(crate) mptcp: bool,
    /// Whether UDP is served.
    pub(crate) udp: bool,
    /// Where headers of protocol 248 are looked for.
    pub(crate) interfaces: Vec<String>,
    /// Trusted prefixes, sorted.
    pub(crate) trust: Vec<Prefix>,
    /// In the order of [`COUNTERS`], summed over all CPUs.
    pub(crate) counters: [u64; COUNTERS.len()],
}

/// Removes the pins again unless `keep` is called: no half-attached receiver stays behind.
struct Pins<'a> {
    directory: &'a Path,
    kept: bool,
}

impl<'a> Pins<'a> {
    fn create(directory: &'a Path) -> Result<Self, Error> {
        match fs::create_dir(directory) {
            Ok(()) => Ok(Self { directory, kept: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::AlreadyAttached(directory.to_owned()))
            }
            Err(source) => Err(file_error("make the directory", directory, source)),
        }
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing better can be done with a failure here; the first one is already on its way up.
            let _ = fs::remove_dir_all(self.directory);
        }
    }
}

/// Attaches the programs to a control group, the root one by default, and returns which.
pub(crate) fn attach(
    pin_dir: &Path,
    cgroup: Option<PathBuf>,
    trust: &[Prefix],
    udp: Option<&Udp>,
) -> Result<PathBuf, Error> {
    kernel::check()?;
    if trust.len() > TRUST_MAX {
        return Err(Error::TooManyPrefixes(trust.len()));
    }
    let cgroup = match cgroup {
        Some(path) => path,
        None => mounts::cgroup2_root()?,
    };
    mounts::require_cgroup2(&cgroup)?;
    mounts::require_bpffs(pin_dir)?;
    let group = File::open(&cgroup).map_err(|source| file_error("open", &cgroup, source))?;

    let pins = Pins::create(pin_dir)?;
    let mut object = load(udp)?;
    fill_maps(&mut object, &cgroup, trust)?;
    for name in MAPS {
        let map = object.map(name).ok_or_else(|| Error::Pin(pin_dir.join(name)))?;
        let path = pin_dir.join(name);
        map.pin(&path).map_err(|error| file_error("pin", &path, io::Error::other(error)))?;
    }
    let udp_programs = PROGRAMS_UDP.iter().filter(|_| udp.is_some());
    for name in udp_programs.chain(&PROGRAMS_TCP) {
        attach_and_pin(&mut object, name, &group, pin_dir)?;
    }
    // Last, so that no client is learnt before it can be shown.
    match attach_and_pin(&mut object, PROGRAM_MPTCP, &group, pin_dir) {
        Err(Error::Program { .. }) => attach_and_pin(&mut object, PROGRAM_PLAIN, &group, pin_dir)?,
        done => done?,
    }
    for interface in udp.map_or(&[][..], |udp| &udp.header_interfaces) {
        let link = attach_at(&mut object, interface)?;
        let path = pin_dir.join(format!("{PROGRAM_HEADER}{AT_INTERFACE}{interface}"));
        link.pin(&path).map_err(|error| file_error("pin", &path, io::Error::other(error)))?;
    }
    pins.keep();
    Ok(cgroup)
}

fn load(udp: Option<&Udp>) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    for map in MAPS_UDP {
        loader.map_max_entries(map, udp.map_or(1, |udp| udp.flows));
    }
    let _uncharged = Uncharged::enter();
    loader.load(OBJECT).map_err(load_error)
}

fn fill_maps(object: &mut Ebpf, cgroup: &Path, trust: &[Prefix]) -> Result<(), Error> {
    let mut path = [0; ABOUT_LEN];
    let bytes = cgroup.as_os_str().as_encoded_bytes();
    path.get_mut(..bytes.len())
        .ok_or_else(|| Error::CgroupPathLength(cgroup.to_owned()))?
        .copy_from_slice(bytes);
    let mut about =
        Array::<_, [u8; ABOUT_LEN]>::try_from(map_mut(object, MAP_ABOUT)?).map_err(in_map(MAP_ABOUT))?;
    about.set(0, path, 0).map_err(in_map(MAP_ABOUT))?;

    let mut trie =
        LpmTrie::<_, [u8; 16], u32>::try_from(map_mut(object, MAP_TRUST)?).map_err(in_map(MAP_TRUST))?;
    for prefix in trust {
        trie.insert(&Key::new(prefix.map_len(), prefix.octets()), 1, 0).map_err(in_map(MAP_TRUST))?;
    }
    Ok(())
}

fn map_mut<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Map, Error> {
    object.map_mut(name).ok_or_else(|| in_map(name)(MapError::InvalidName { name: name.to_owned() }))
}

fn attach_and_pin(object: &mut Ebpf, name: &'static str, group: &File, pin_dir: &Path) -> Result<(), Error> {
    let link = attach_program(object, name, group)?;
    let path = pin_dir.join(name);
    link.pin(&path).map_err(|error| file_error("pin", &path, io::Error::other(error)))?;
    Ok(())
}

/// Loads and attaches one program; it is held by the returned link alone.
fn attach_program(object: &mut Ebpf, name: &'static str, group: &File) -> Result<FdLink, Error> {
    // A link shares the group with other programs in any case; kernels refuse to be told so by a flag.
    let mode = CgroupAttachMode::Single;
    let refused = |source: ProgramError| program_error(name, source);
    let link = match object.program_mut(name).ok_or(ProgramError::NotLoaded).map_err(refused)? {
        Program::SockOps(program) => attach_sock_ops(program, group, mode),
        Program::CgroupSkb(program) => attach_skb(program, group, mode),
        Program::CgroupSockAddr(program) => attach_sock_addr(program, group, mode),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    link.map_err(refused)
}

/// Puts the program that takes headers out at an interface, in front of what else is there.
fn attach_at(object: &mut Ebpf, interface: &str) -> Result<FdLink, Error> {
    let refused =
        |source: ProgramError| Error::Interface { interface: interface.to_owned(), source: Box::new(source) };
    let program = object.program_mut(PROGRAM_HEADER).ok_or(ProgramError::NotLoaded);
    let program: &mut SchedClassifier = program.and_then(TryInto::try_into).map_err(refused)?;
    if program.fd().is_err() {
        program.load().map_err(|error| program_error(PROGRAM_HEADER, error))?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, order).map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    FdLink::try_from(link).map_err(|_| refused(ProgramError::UnexpectedProgramType))
}

fn attach_sock_ops(
    program: &mut SockOps,
    group: &File,
    mode: CgroupAttachMode,
) -> Result<FdLink, ProgramError> {
    program.load()?;
    let id = program.attach(group, mode)?;
    FdLink::try_from(program.take_link(id)?).map_err(|_| ProgramError::UnexpectedProgramType)
}

fn attach_skb(program: &mut CgroupSkb, group: &File, mode: CgroupAttachMode) -> Result<FdLink, ProgramError> {
    program.load()?;
    let id = program.attach(group, CgroupSkbAttachType::Ingress, mode)?;
    FdLink::try_from(program.take_link(id)?).map_err(|_| ProgramError::UnexpectedProgramType)
}

fn attach_sock_addr(
    program: &mut CgroupSockAddr,
    group: &File,
    mode: CgroupAttachMode,
) -> Result<FdLink, ProgramError> {
    program.load()?;
    let id = program.attach(group, mode)?;
    FdLink::try_from(program.take_link(id)?).map_err(|_| ProgramError::UnexpectedProgramType)
}

/// Reads back what is attached and what it counted.
pub(crate) fn status(pin_dir: &Path) -> Result<Status, Error> {
    require_attached(pin_dir)?;
    let about = open_map(pin_dir, MAP_ABOUT)?;
    let about = Array::<_, [u8; ABOUT_LEN]>::try_from(&about).map_err(in_map(MAP_ABOUT))?;
    let path = about.get(&0, 0).map_err(in_map(MAP_ABOUT))?;
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    let cgroup = PathBuf::from(String::from_utf8_lossy(&path[..end]).into_owned());

    let trust = crate::trust::list(pin_dir)?;
    let map = open_map(pin_dir, MAP_COUNTERS)?;
    let map = PerCpuArray::<_, u64>::try_from(&map).map_err(in_map(MAP_COUNTERS))?;
    let mut counters = [0; COUNTERS.len()];
    for (key, sum) in (0..).zip(&mut counters) {
        *sum = map.get(&key, 0).map_err(in_map(MAP_COUNTERS))?.iter().sum();
    }
    let cgroup_present = mounts::require_cgroup2(&cgroup).is_ok();
    let mptcp = pin_dir.join(PROGRAM_MPTCP).exists();
    let udp = PROGRAMS_UDP.iter().all(|name| pin_dir.join(name).exists());
    let pins = interface_pins(pin_dir)?;
    let interfaces = pins.iter().filter_map(|pin| Some(pin.split_once(AT_INTERFACE)?.1.to_owned()));
    Ok(Status { cgroup, cgroup_present, mptcp, udp, interfaces: interfaces.collect(), trust, counters })
}

/// Names of the pins of programs that stand at interfaces, sorted.
fn interface_pins(pin_dir: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(pin_dir).map_err(|source| file_error("read", pin_dir, source))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(PROGRAM_HEADER)).collect();
    names.sort();
    Ok(names)
}

/// Opens a pinned map; its type is checked by the typed view that is made of it.
pub(crate) fn open_map(pin_dir: &Path, name: &'static str) -> Result<Map, Error> {
    let path = pin_dir.join(name);
    let data = MapData::from_pin(&path).map_err(|error| {
        if is_permission(&error) {
            Error::Permission { doing: "read the pins" }
        } else {
            Error::Pin(path.clone())
        }
    })?;
    Map::from_map_data(data).map_err(in_map(name))
}

/// Detaches by removing the pins, which hold the links, and returns when the kernel has let the programs go.
pub(crate) fn detach(pin_dir: &Path) -> Result<(), Error> {
    require_attached(pin_dir)?;
    let at_interfaces = interface_pins(pin_dir)?;
    let programs = || {
        let learning = [PROGRAM_MPTCP, PROGRAM_PLAIN].into_iter();
        let others = PROGRAMS_TCP.iter().rev().chain(PROGRAMS_UDP.iter().rev());
        at_interfaces.iter().map(String::as_str).chain(learning).chain(others.copied())
    };
    let attached: Vec<u32> = programs().filter_map(|name| attached_by(&pin_dir.join(name))).collect();
    // Learning ends first. A pin that is missing is what we want.
    for name in programs().chain(MAPS) {
        let path = pin_dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(file_error("remove", &path, source)),
        }
    }
    fs::remove_dir(pin_dir).map_err(|source| file_error("remove the directory", pin_dir, source))?;
    wait_for_release(&attached)
}

/// The kernel's number of the program of a pinned link; `None` for a pin that is missing or holds something else.
fn attached_by(pin: &Path) -> Option<u32> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    link.info().ok().map(|info| info.program_id())
}

/// The kernel takes links apart some time after their last pin is gone. A link loses its number before it is detached, its
/// program only afterwards.
fn wait_for_release(programs: &[u32]) -> Result<(), Error> {
    let deadline = Instant::now() + RELEASE_MAX;
    while loaded_programs().filter_map(Result::ok).any(|program| programs.contains(&program.id())) {
        if Instant::now() >= deadline {
            return Err(Error::Held);
        }
        std::thread::sleep(RELEASE_POLL);
    }
    Ok(())
}

pub(crate) fn require_attached(pin_dir: &Path) -> Result<(), Error> {
    mounts::require_bpffs(pin_dir)?;
    match fs::metadata(pin_dir) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotAttached(pin_dir.to_owned())),
        Err(source) => Err(file_error("look at", pin_dir, source)),
    }
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::Permission { doing: "use the BPF file system and control group" }
        }
        _ => Error::File { doing, path: path.to_owned(), source },
    }
}

fn load_error(error: EbpfError) -> Error {
    match is_permission(&error) {
        true => Error::Permission { doing: "make BPF maps" },
        false => Error::Load(Box::new(error)),
    }
}

fn program_error(name: &'static str, error: ProgramError) -> Error {
    // The verifier too says EACCES when it refuses a program; only then does it write a log.
    let by_verifier = matches!(&error, ProgramError::LoadError { verifier_log, .. } if !verifier_log.to_string().is_empty());
    match is_permission(&error) && !by_verifier {
        true => Error::Permission { doing: "load and attach BPF programs" },
        false => Error::Program { name, source: Box::new(error) },
    }
}

pub(crate) fn in_map(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { name, source: Box::new(source) }
}

/// Whether the kernel's last word in a chain of causes was that it is not allowed.
fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No kernel of these tests lacks MPTCP, so it is not attached in any other one.
    #[test]
    fn the_program_for_kernels_without_mptcp_is_taken_too() {
        let mut object = load(None).unwrap();
        let program: &mut SockOps = object.program_mut(PROGRAM_PLAIN).unwrap().try_into().unwrap();
        program.load().unwrap();
    }
}
