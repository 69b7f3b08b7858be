//! Finds the file systems that the receiver lives on: control groups version 2 and BPF.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

const MOUNTS: &str = "/proc/self/mounts";

/// Why a needed file system is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing mounted.
    #[error(
        "no control groups version 2 are mounted; boot with systemd.unified_cgroup_hierarchy=1, or \
         `mount -t cgroup2 cgroup2 DIR` and give --cgroup DIR"
    )]
    NoCgroup2,
    /// Another file system.
    #[error(
        "{0} is not in a control group (version 2) file system; `grep cgroup2 {MOUNTS}` shows where one is"
    )]
    NotCgroup2(PathBuf),
    /// Another file system.
    #[error(
        "{0} is not in a BPF file system; `mount -t bpf bpf /sys/fs/bpf`, or give --pin-dir another place"
    )]
    NotBpffs(PathBuf),
    /// Cannot look.
    #[error("cannot look at {path}")]
    Look { path: PathBuf, source: io::Error },
}

/// The place where control groups version 2 are mounted: the root group, which holds every process.
pub(crate) fn cgroup2_root() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string(MOUNTS).map_err(|source| Error::Look { path: MOUNTS.into(), source })?;
    find_cgroup2(&mounts).ok_or(Error::NoCgroup2)
}

/// The first mount of type cgroup2 in the kernel's list: device, directory, type, and more.
fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let directory = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(directory))
    })
}

/// Checks that a directory is a control group of version 2.
pub(crate) fn require_cgroup2(path: &Path) -> Result<(), Error> {
    match file_system(path)? {
        CGROUP2_SUPER_MAGIC => Ok(()),
        _ => Err(Error::NotCgroup2(path.to_owned())),
    }
}

/// Checks that the parent of the pin directory is in a BPF file system.
pub(crate) fn require_bpffs(pin_dir: &Path) -> Result<(), Error> {
    let parent = pin_dir.parent().unwrap_or(Path::new("/"));
    match file_system(parent)? {
        BPF_FS_MAGIC => Ok(()),
        _ => Err(Error::NotBpffs(parent.to_owned())),
    }
}

fn file_system(path: &Path) -> Result<FsType, Error> {
    statfs(path)
        .map(|fs| fs.filesystem_type())
        .map_err(|errno| Error::Look { path: path.to_owned(), source: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_2_mount_is_found_in_a_hybrid_layout() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(find_cgroup2(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn without_version_2_none_is_found() {
        assert_eq!(find_cgroup2("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nbroken\n"), None);
    }

    #[test]
    fn an_ordinary_directory_is_neither_cgroup_nor_bpf() {
        assert!(matches!(require_cgroup2(Path::new("/proc")), Err(Error::NotCgroup2(_))));
        assert!(matches!(require_bpffs(Path::new("/proc/x")), Err(Error::NotBpffs(_))));
    }
}
