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
    fn ordinary_frames_fit_the_ordinary_buffer_and_jumbo_frames_get_a_larger_one() {
        assert_eq!(data_room(None), dpdk::DATA_ROOM_DEFAULT);
        assert_eq!(data_room(Some(1500)), dpdk::DATA_ROOM_DEFAULT);
        assert!(data_room(Some(9000)) >= 9000 + FRAME_OVERHEAD_LEN + dpdk::HEADROOM);
    }
}
