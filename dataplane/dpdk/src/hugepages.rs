//! Finding and reserving huge pages.
//!
//! The kernel lists each size in its own directory with how many pages there are and how many are free. Missing
//! 2 MiB pages can be reserved while the machine runs, as far as memory is not too fragmented. Pages are only ever
//! added: other processes may count on theirs.

use std::path::Path;

/// Where Linux lists the sizes.
pub(crate) const SYSFS_HUGEPAGES: &str = "/sys/kernel/mm/hugepages";

const MIB_PER_SMALL: u64 = 2;

/// Why there are not enough.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shortage {
    /// What is free after all.
    pub(crate) found_mib: u64,
    /// What stood in the way.
    pub(crate) reason: String,
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Free memory in huge pages of all sizes, in MiB.
fn free_mib(root: &Path) -> u64 {
    let Ok(sizes) = std::fs::read_dir(root) else { return 0 };
    let free_of = |size: std::fs::DirEntry| {
        let name = size.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        // DPDK takes pages of 2 MiB and up on every platform that we know.
        (kib >= MIB_PER_SMALL * 1024)
            .then_some(read_number(&size.path().join("free_hugepages"))? * kib / 1024)
    };
    sizes.flatten().filter_map(free_of).sum()
}

/// Makes sure that `wanted_mib` of huge pages are free, reserving what is missing; `meminfo` is the text of
/// `/proc/meminfo`.
pub(crate) fn ensure(root: &Path, meminfo: &str, wanted_mib: u32) -> Result<(), Shortage> {
    let wanted_mib = u64::from(wanted_mib);
    let found_mib = free_mib(root);
    if found_mib >= wanted_mib {
        return Ok(());
    }
    let missing = (wanted_mib - found_mib).div_ceil(MIB_PER_SMALL);
    let total = root.join("hugepages-2048kB/nr_hugepages");
    let Some(have) = read_number(&total) else {
        return Err(Shortage { found_mib, reason: "the kernel offers no 2 MiB pages".to_owned() });
    };
    // The kernel would give what it can, up to starving the rest of the machine.
    let available = meminfo_available_mib(meminfo);
    if available.is_some_and(|available| missing * MIB_PER_SMALL >= available) {
        let reason = format!("only {} MiB of memory are available", available.unwrap_or(0));
        return Err(Shortage { found_mib, reason });
    }
    if let Err(error) = std::fs::write(&total, (have + missing).to_string()) {
        return Err(Shortage { found_mib, reason: format!("writing {}: {error}", total.display()) });
    }
    let after_mib = free_mib(root);
    if after_mib < wanted_mib {
        // The kernel gave some and did not complain. They are of no use to us, so they go back.
        let _ = std::fs::write(&total, have.to_string());
        return Err(Shortage { found_mib: after_mib, reason: "memory is short or fragmented".to_owned() });
    }
    Ok(())
}

/// Memory that can be had without swapping, by the text of `/proc/meminfo`.
fn meminfo_available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

/// Whether a hugetlbfs is mounted, by the text of `/proc/mounts`.
pub(crate) fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| line.split_whitespace().nth(2) == Some("hugetlbfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        8000000 kB\nMemAvailable:    1048576 kB\n";

    /// A directory like the kernel's, though a plain file grants any number and `free` does not follow.
    fn sysfs(small_total: &str, small_free: &str, large_free: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (size, total, free) in
            [("hugepages-2048kB", small_total, small_free), ("hugepages-1048576kB", large_free, large_free)]
        {
            std::fs::create_dir(root.path().join(size)).unwrap();
            std::fs::write(root.path().join(size).join("nr_hugepages"), total).unwrap();
            std::fs::write(root.path().join(size).join("free_hugepages"), free).unwrap();
        }
        root
    }

    fn reserved(root: &Path) -> u64 {
        read_number(&root.join("hugepages-2048kB/nr_hugepages")).unwrap()
    }

    #[test]
    fn enough_free_pages_of_any_size_change_nothing() {
        let root = sysfs("10\n", "4\n", "1\n");
        assert_eq!(ensure(root.path(), MEMINFO, 1024 + 8), Ok(()));
        assert_eq!(reserved(root.path()), 10);
    }

    #[test]
    fn missing_pages_are_added_to_those_in_use() {
        let root = sysfs("10\n", "4\n", "0\n");
        // The free pages are a link to the reserved ones here, so that granting shows.
        let free = root.path().join("hugepages-2048kB/free_hugepages");
        std::fs::remove_file(&free).unwrap();
        std::os::unix::fs::symlink("nr_hugepages", &free).unwrap();
        assert_eq!(ensure(root.path(), MEMINFO, 33), Ok(()));
        assert_eq!(reserved(root.path()), 10 + 7, "13 MiB are missing, which is 7 pages");
    }

    #[test]
    fn pages_that_do_not_suffice_are_given_back() {
        let root = sysfs("10\n", "4\n", "0\n");
        let shortage = ensure(root.path(), MEMINFO, 21).unwrap_err();
        assert_eq!((shortage.found_mib, reserved(root.path())), (8, 10));
    }

    #[test]
    fn more_than_the_machine_has_is_not_even_tried() {
        let root = sysfs("0\n", "0\n", "0\n");
        let shortage = ensure(root.path(), MEMINFO, 1024).unwrap_err();
        assert_eq!(shortage.reason, "only 1024 MiB of memory are available");
        assert_eq!(reserved(root.path()), 0);
    }

    #[test]
    fn a_kernel_without_huge_pages_is_a_shortage() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(ensure(root.path(), MEMINFO, 2).unwrap_err().found_mib, 0);
        assert_eq!(ensure(&root.path().join("missing"), MEMINFO, 2).unwrap_err().found_mib, 0);
    }

    #[test]
    fn a_mount_is_found_by_its_type() {
        assert!(is_mounted("proc /proc proc rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw 0 0\n"));
        assert!(!is_mounted("tmpfs /hugetlbfs tmpfs rw 0 0\n"));
    }
}
