//! What the tests of this crate share: one EAL per process, because there can be no second one.

#![allow(dead_code, clippy::unwrap_used)]

use dpdk::{DATA_ROOM_DEFAULT, Eal, EalConfig, HugePages, Lcore, Mempool};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Two workers on one CPU, ordinary memory, nothing left behind.
pub(crate) fn config() -> EalConfig {
    let cpu = first_cpu();
    EalConfig {
        main: Lcore { id: 0, cpus: Vec::new() },
        workers: vec![Lcore { id: 1, cpus: vec![cpu] }, Lcore { id: 2, cpus: vec![cpu] }],
        memory_mib: 64,
        huge_pages: HugePages::Never,
        pci: Vec::new(),
        vdevs: Vec::new(),
        file_prefix: format!("dpdktest{}", std::process::id()),
        in_memory: true,
        extra_args: Vec::new(),
    }
}

/// A CPU that this process may use; not every container has CPU 0.
fn first_cpu() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split([',', '-']).next().unwrap().parse().unwrap()
}

/// The EAL of this process, started by whichever test comes first.
pub(crate) fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| Eal::init(&config()).unwrap())
}

pub(crate) fn pool(name: &str, mbufs: u32) -> Mempool {
    Mempool::new(eal(), name, mbufs, 0, DATA_ROOM_DEFAULT, None).unwrap()
}

/// Asks until the answer is yes.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::yield_now();
    }
}

/// Frames of different lengths and contents.
pub(crate) fn frames(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| (0..60 + n % 1400).map(|byte| (n * 31 + byte) as u8).collect()).collect()
}

const PCAP_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;

pub(crate) fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65_535_u32.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for frame in frames {
        file.extend([0; 8]);
        file.extend((frame.len() as u32).to_le_bytes());
        file.extend((frame.len() as u32).to_le_bytes());
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

pub(crate) fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let mut frames = Vec::new();
    let mut rest = &file[PCAP_HEADER_LEN..];
    while rest.len() >= RECORD_HEADER_LEN {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[RECORD_HEADER_LEN..RECORD_HEADER_LEN + len].to_vec());
        rest = &rest[RECORD_HEADER_LEN + len..];
    }
    frames
}
