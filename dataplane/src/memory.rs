//! How many packet buffers there must be, and how large, so that no queue or ring can starve another.

use crate::ports::Queues;

/// Free buffers that each lcore keeps to itself; eight bursts.
pub(crate) const CACHE_LEN: u32 = 256;

/// Buffers beyond all queues and rings: bursts in hands, packets that wait for a MAC address.
const SPARE_LEN: u32 = 2048;

/// Fragments that wait, per worker.
const WAITING_LEN: u32 = (engine::WAIT_SLOTS * engine::WAIT_LEN_MAX) as u32;

/// What net_af_xdp keeps in its fill ring beside the descriptors, per receive queue.
const FILL_RING_LEN: u32 = 4096;

/// Frames of a kernel twin that are in hands at a time.
const TWIN_LEN: u32 = 64;

/// What an Ethernet frame adds to the MTU, with two VLAN tags.
const FRAME_OVERHEAD_LEN: u16 = 14 + 8 + 4;

/// Bytes of a connection's record and its part of the index. Addresses of IPv6 come on top when they are first used.
const CONNECTION_LEN: u64 = 151;

/// More connections than there is memory for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "connections_max = {connections} takes {needed_mib} MiB of memory, and {available_mib} MiB are available: lower \
     connections_max in [dataplane], or free memory"
)]
pub(crate) struct TooManyConnections {
    connections: u32,
    needed_mib: u64,
    available_mib: u64,
}

/// Asked for more than there is, an allocator can only end the program. `available_mib` is `None` where nobody knows.
///
/// # Errors
/// [`TooManyConnections`].
pub(crate) fn check_connections(
    connections: u32,
    available_mib: Option<u64>,
) -> Result<(), TooManyConnections> {
    let needed_mib = (u64::from(connections) * CONNECTION_LEN) >> 20;
    match available_mib {
        Some(available_mib) if needed_mib > available_mib => {
            Err(TooManyConnections { connections, needed_mib, available_mib })
        }
        _ => Ok(()),
    }
}

/// Memory that can be had without swapping.
pub(crate) fn available_mib() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

/// Lengths of all rings.
pub(crate) struct Rings {
    /// Between two workers, one direction.
    pub(crate) per_worker_pair: u32,
    /// Between a worker and the slow path.
    pub(crate) per_worker: u32,
    /// Around one port; the transmit rings count once per worker.
    pub(crate) per_port: u32,
}

/// Enough buffers for every queue and ring to be full at once.
pub(crate) fn mbufs(workers: u16, ports: &[(&config::Port, Queues)], rings: &Rings) -> u32 {
    let workers = u32::from(workers);
    let queues: u32 = ports
        .iter()
        .map(|(port, queues)| {
            u32::from(queues.rx) * (u32::from(port.rx_descriptors) + FILL_RING_LEN)
                + u32::from(queues.tx) * u32::from(port.tx_descriptors)
                + rings.per_port * workers
                + TWIN_LEN
        })
        .sum();
    // Each worker and the slow path, with DPDK's flush threshold of half a cache more.
    let caches = (workers + 1) * CACHE_LEN * 3 / 2;
    queues
        + caches
        + workers * (workers - 1) * rings.per_worker_pair
        + workers * (rings.per_worker + WAITING_LEN)
        + SPARE_LEN
}

/// The NUMA nodes that ports are on, in the order of the ports.
pub(crate) fn nodes(of_ports: impl Iterator<Item = Option<u32>>) -> Vec<u32> {
    let mut nodes = Vec::new();
    for node in of_ports.flatten() {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

/// Bytes per buffer for packets of at most `mtu` bytes, headroom included.
pub(crate) fn data_room(mtu: Option<u16>) -> u16 {
    let frame = mtu.unwrap_or(1500).saturating_add(FRAME_OVERHEAD_LEN).saturating_add(dpdk::HEADROOM);
    frame.next_multiple_of(64).max(dpdk::DATA_ROOM_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_named_once_and_virtual_devices_have_none() {
        assert_eq!(nodes([None, Some(1), Some(0), None, Some(1)].into_iter()), [1, 0]);
        assert_eq!(nodes([None, None].into_iter()), []);
    }

    #[test]
    fn connections_that_fit_no_memory_are_refused_with_what_there_is() {
        assert_eq!(check_connections(1_000_000, Some(144)), Ok(()));
        let refusal = check_connections(1_000_000, Some(143)).unwrap_err().to_string();
        assert!(refusal.contains("1000000 takes 144 MiB") && refusal.contains("143 MiB are"), "{refusal}");
        assert_eq!(check_connections(u32::MAX, None), Ok(()));
        assert!(available_mib().is_some_and(|mib| mib > 0));
    }

    #[test]
    fn a_connection_takes_what_it_is_said_to_take() {
        let limits = engine::Limits { services_max: 1, reals_max: 1, pairs_max: 1 };
        let counters = std::sync::Arc::new(engine::Counters::new(1, 1, 1));
        let config = engine::WorkerConfig {
            id: engine::WorkerId(0),
            workers: 1,
            connections_max: 100_000,
            limits,
            secret: [1, 2],
            punt_per_second: 1,
            now: engine::Ticks(0),
        };
        let bytes = engine::Worker::new(&config, counters.clone(), vec![counters]).table_bytes() as u64;
        assert_eq!(bytes.div_ceil(100_000), CONNECTION_LEN, "{bytes}");
    }

    #[test]
    fn ordinary_frames_fit_the_ordinary_buffer_and_jumbo_frames_get_a_larger_one() {
        assert_eq!(data_room(None), dpdk::DATA_ROOM_DEFAULT);
        assert_eq!(data_room(Some(1500)), dpdk::DATA_ROOM_DEFAULT);
        assert!(data_room(Some(9000)) >= 9000 + FRAME_OVERHEAD_LEN + dpdk::HEADROOM);
    }
}
