//! Whom the kernel charges for the memory that each told connection takes.
//!
//! The kernel charges what a map allocates to the memory control group that its maker was in, at the time. Were that
//! another one than the server's, which with systemd it is, each connection would have the kernel switch its CPU's
//! reserve from one group to the other and back: 0.8 µs, measured as docs/toa.md tells. Nothing is charged to the root
//! group, so maps are made from there.
//!
//! The limits that remain: the kernel's for each socket (`net.core.optmem_max`), and for UDP `--udp-flows`.

use std::fs;
use std::path::{Path, PathBuf};

/// The process is in the root group while this lives, and in its own again afterwards.
///
/// All this is to save time: where moving fails, for want of rights or of such a group, the process stays where it is.
pub(crate) struct Uncharged {
    /// The list of processes of the group to go back to.
    home: Option<PathBuf>,
}

impl Uncharged {
    pub(crate) fn enter() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let lists = find_lists(&read("/proc/self/mounts"), &read("/proc/self/cgroup"));
        let home = lists.and_then(|lists| join(&lists.root).then_some(lists.own));
        Self { home }
    }
}

impl Drop for Uncharged {
    fn drop(&mut self) {
        // The group may be gone meanwhile; this program ends soon in any case.
        if let Some(own) = &self.home {
            join(own);
        }
    }
}

/// Puts this process into the group with this list of processes.
fn join(list: &Path) -> bool {
    fs::write(list, "0").is_ok()
}

/// Files that list the processes of the root group, and of this process's.
#[derive(Debug, PartialEq, Eq)]
struct Lists {
    root: PathBuf,
    own: PathBuf,
}

/// From the kernel's lists of mounts (device, directory, type, options) and of groups (number, controllers, path). Memory
/// is charged in version 2 unless there is a hierarchy of version 1 for it.
fn find_lists(mounts: &str, groups: &str) -> Option<Lists> {
    let mount = |wanted: fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (directory, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(kind, options).then(|| PathBuf::from(directory))
        })
    };
    let group = |wanted: fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            wanted(controllers).then(|| path.trim_start_matches('/'))
        })
    };
    let (root, path) = match group(has_memory) {
        Some(path) => (mount(|kind, options| kind == "cgroup" && has_memory(options))?, path),
        None => (mount(|kind, _| kind == "cgroup2")?, group(str::is_empty)?),
    };
    let list = |group: PathBuf| group.join("cgroup.procs");
    Some(Lists { own: list(root.join(path)), root: list(root) })
}

fn has_memory(list: &str) -> bool {
    list.split(',').any(|word| word == "memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(root: &str, own: &str) -> Option<Lists> {
        Some(Lists { root: root.into(), own: own.into() })
    }

    #[test]
    fn version_2_has_one_group_for_all() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        let own = "/sys/fs/cgroup/system.slice/x.service/cgroup.procs";
        let found = find_lists(mounts, "0::/system.slice/x.service\n");
        assert_eq!(found, lists("/sys/fs/cgroup/cgroup.procs", own));
    }

    #[test]
    fn version_1_charges_memory_where_both_are_mounted() {
        let mounts = "cgroup /c/cpu cgroup rw,cpu 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n\
                      cgroup /c/memory cgroup rw,memory 0 0\n";
        let found = find_lists(mounts, "4:memory:/a/b\n1:cpu:/\n0::/x\n");
        assert_eq!(found, lists("/c/memory/cgroup.procs", "/c/memory/a/b/cgroup.procs"));
    }

    #[test]
    fn without_groups_there_is_nowhere_to_go() {
        assert_eq!(find_lists("proc /proc proc rw 0 0\nbroken\n", "0::/\n"), None);
        assert_eq!(find_lists("cgroup2 /c cgroup2 rw 0 0\n", ""), None);
    }
}
