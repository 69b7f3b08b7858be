//! What a port tells about itself.

use super::{Link, Port, PortId, PortInfo, PortStats, RssState, all_ports, port_name, step_error};
use crate::error::Error;
use crate::{Eal, PortConfig, ffi, log};
use dpdk_sys::{rte_eth_dev_info, rte_eth_rss_conf, rte_eth_rss_reta_entry64};
use std::sync::Arc;

/// Entries per group of a redirection table, as C passes it.
const GROUP_LEN: usize = dpdk_sys::RTE_ETH_RETA_GROUP_SIZE as usize;

/// Length in bytes of an RSS key, by the documentation of `rte_eth_rss_conf`, unless the driver says otherwise.
const RSS_KEY_LEN_DEFAULT: u8 = 40;

/// The groups for a table of `size` entries, all of them asked for.
pub(super) fn reta_groups(size: u16) -> Vec<rte_eth_rss_reta_entry64> {
    let group = |index: usize| {
        let entries = (usize::from(size) - index * GROUP_LEN).min(GROUP_LEN);
        let mask = u64::MAX >> (GROUP_LEN - entries);
        rte_eth_rss_reta_entry64 { mask, ..Default::default() }
    };
    (0..usize::from(size).div_ceil(GROUP_LEN)).map(group).collect()
}

/// Length in bytes of a port's key. A driver that does not tell it means the usual one.
pub(super) fn key_len(info: &PortInfo) -> u8 {
    match info.rss_key_size {
        0 => RSS_KEY_LEN_DEFAULT,
        size => size,
    }
}

impl Port {
    /// What a port is and can do, without opening it.
    pub fn probe_info(_eal: &Eal, id: PortId) -> Result<PortInfo, Error> {
        let Some(name) = port_name(id) else {
            return Err(Error::UnknownPortId {
                id: id.0,
                known: all_ports().filter_map(port_name).collect(),
            });
        };
        log::forget_complaints();
        let mut raw = rte_eth_dev_info::default();
        // SAFETY: C fills the structure.
        let ret = unsafe { dpdk_sys::rte_eth_dev_info_get(id.0, &mut raw) };
        if ret != 0 {
            return Err(step_error(&name, "unknown driver", "tell about itself", ret));
        }
        // SAFETY: the strings belong to the device and its driver, which exist while the port does.
        let (device, driver, socket) = unsafe {
            (
                ffi::text(dpdk_sys::tg_device_name(raw.device)),
                ffi::text(raw.driver_name),
                dpdk_sys::rte_eth_dev_socket_id(id.0),
            )
        };
        Ok(PortInfo {
            name,
            device,
            driver,
            if_index: raw.if_index,
            max_rx_queues: raw.max_rx_queues,
            max_tx_queues: raw.max_tx_queues,
            numa_node: u32::try_from(socket).ok(),
            reta_size: raw.reta_size,
            rss_key_size: raw.hash_key_size,
            rss_offloads: raw.flow_type_rss_offloads,
            min_mtu: raw.min_mtu,
            max_mtu: raw.max_mtu,
            rx_desc_limits: (raw.rx_desc_lim.nb_min, raw.rx_desc_lim.nb_max),
            tx_desc_limits: (raw.tx_desc_lim.nb_min, raw.tx_desc_lim.nb_max),
        })
    }

    /// Its number.
    pub fn id(&self) -> PortId {
        self.shared.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.info.name
    }

    /// What was asked for and is missing; the caller logs it.
    pub fn warnings(&self) -> &[String] {
        &self.shared.warnings
    }

    /// What it is and can do.
    pub fn info(&self) -> &PortInfo {
        &self.shared.info
    }

    /// Its hardware address, as it was when the port was opened.
    pub fn mac(&self) -> [u8; 6] {
        self.shared.mac
    }

    /// Whether it puts VLAN tags on the frames that ask for one ([`crate::Mbuf::request_tag`]).
    pub fn inserts_tags(&self) -> bool {
        self.shared.inserts_tags
    }

    /// Its MTU.
    pub fn mtu(&self) -> u16 {
        let mut mtu = 0;
        // SAFETY: C writes the number. It cannot fail for a port that exists.
        unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.shared.id.0, &mut mtu) };
        mtu
    }

    /// Gives it another hardware address, which its filter lets in from then on.
    ///
    /// # Errors
    /// [`Error::Port`]: the driver has no such function, or refuses.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        log::forget_complaints();
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: the port exists; C reads the address.
        let ret = unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(self.shared.id.0, &mut address) };
        self.check("take another MAC address", ret)
    }

    /// The state of its link, as the driver last saw it; `None` when the driver cannot tell.
    pub fn link(&self) -> Option<Link> {
        let mut link = dpdk_sys::tg_link::default();
        // SAFETY: C fills the structure.
        let ret = unsafe { dpdk_sys::tg_link_get(self.shared.id.0, &mut link) };
        let (up, full_duplex) = (link.up != 0, link.full_duplex != 0);
        (ret == 0).then_some(Link { up, speed_mbps: link.speed_mbps, full_duplex })
    }

    /// Its counters; zeroes when the driver has none.
    pub fn stats(&self) -> PortStats {
        let mut raw = dpdk_sys::rte_eth_stats::default();
        // SAFETY: C fills the structure, or leaves its zeroes; the driver's counters may be read from any thread.
        unsafe { dpdk_sys::rte_eth_stats_get(self.shared.id.0, &mut raw) };
        PortStats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_nombuf: raw.rx_nombuf,
        }
    }

    /// The driver's own counters by name; none when the driver has none.
    pub fn xstats(&self) -> Vec<(String, u64)> {
        let id = self.shared.id.0;
        // SAFETY: without a buffer C only returns the number of counters.
        let count = unsafe { dpdk_sys::rte_eth_xstats_get_names(id, std::ptr::null_mut(), 0) };
        let count = usize::try_from(count).unwrap_or(0);
        let mut names = vec![dpdk_sys::rte_eth_xstat_name::default(); count];
        let mut values = vec![dpdk_sys::rte_eth_xstat::default(); count];
        // SAFETY: both buffers have `count` elements, and C fills no more.
        let (named, valued) = unsafe {
            (
                dpdk_sys::rte_eth_xstats_get_names(id, names.as_mut_ptr(), count as u32),
                dpdk_sys::rte_eth_xstats_get(id, values.as_mut_ptr(), count as u32),
            )
        };
        names.truncate(usize::try_from(named).unwrap_or(0));
        values.truncate(usize::try_from(valued).unwrap_or(0));
        let pair = |value: &dpdk_sys::rte_eth_xstat| {
            let name = names.get(usize::try_from(value.id).ok()?)?;
            // SAFETY: the driver terminates its names within the array.
            Some((unsafe { ffi::text(name.name.as_ptr()) }, value.value))
        };
        values.iter().filter_map(pair).collect()
    }

    /// What it hashes received packets with; `None` when it has no RSS, has it off, or hides the key.
    pub fn rss(&self) -> Result<Option<RssState>, Error> {
        if self.shared.info.rss_offloads == 0 {
            return Ok(None);
        }
        log::forget_complaints();
        let len = key_len(&self.shared.info);
        let mut key = vec![0; usize::from(len)];
        let mut conf = rte_eth_rss_conf { rss_key: key.as_mut_ptr(), rss_key_len: len, ..Default::default() };
        // SAFETY: the structure points to a buffer of the length that it says, which is the driver's own.
        let ret = unsafe { dpdk_sys::rte_eth_dev_rss_hash_conf_get(self.shared.id.0, &mut conf) };
        if ret == -libc::ENOTSUP {
            return Ok(None);
        }
        self.check("tell its RSS key", ret)?;
        // A driver that has the function but not the key leaves the zeroes.
        if conf.rss_hf == 0 || key.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let has = |bit| conf.rss_hf & u64::from(bit) != 0;
        Ok(Some(RssState {
            key,
            tcp4: has(dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV4_TCP),
            udp4: has(dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV4_UDP),
            tcp6: has(dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV6_TCP),
            udp6: has(dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV6_UDP),
        }))
    }

    /// The queue for each value of the low bits of the receive hash; `None` when it has no such table.
    pub fn reta(&self) -> Result<Option<Vec<u16>>, Error> {
        let size = self.shared.info.reta_size;
        if size == 0 {
            return Ok(None);
        }
        log::forget_complaints();
        let mut table = reta_groups(size);
        // SAFETY: the table has the groups that `size` entries need.
        let ret = unsafe { dpdk_sys::rte_eth_dev_rss_reta_query(self.shared.id.0, table.as_mut_ptr(), size) };
        if ret == -libc::ENOTSUP {
            return Ok(None);
        }
        self.check("tell its redirection table", ret)?;
        Ok(Some(table.iter().flat_map(|group| group.reta).take(usize::from(size)).collect()))
    }

    /// The NUMA node that it is attached to, if that is known.
    pub fn numa_node(&self) -> Option<u32> {
        self.shared.info.numa_node
    }

    /// Stops the port; [`Error::PortInUse`] while a queue of it still exists. Dropping the port and its queues stops
    /// it too, and closes it.
    pub fn stop(&self) -> Result<(), Error> {
        if Arc::strong_count(&self.shared) > 1 {
            return Err(Error::PortInUse { port: self.shared.info.name.clone() });
        }
        log::forget_complaints();
        // SAFETY: no queue is left, so nobody sends or receives.
        let ret = unsafe { dpdk_sys::rte_eth_dev_stop(self.shared.id.0) };
        self.check("stop", ret)
    }

    fn check(&self, what: &str, ret: i32) -> Result<(), Error> {
        if ret == 0 {
            Ok(())
        } else {
            Err(step_error(&self.shared.info.name, &self.shared.info.driver, what, ret))
        }
    }
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Port>();
    is_send_and_sync::<PortConfig>();
};
