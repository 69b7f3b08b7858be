//! Opening a port: check, configure, set queues up, start.

use super::{Port, PortConfig, PortId, PortInfo, PortShared, step_error};
use crate::error::{Direction, Error};
use crate::{Eal, HEADROOM, Mempool, RxQueue, TxQueue, log};
use dpdk_sys::{rte_eth_conf, rte_eth_dev_info, rte_eth_rss_conf, rte_eth_rss_reta_entry64};
use std::sync::{Arc, PoisonError};

/// What an Ethernet frame adds to the MTU: header, two VLAN tags and the check sum, which some NICs store.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4 + 4;

/// Frames that fit the default data room must not be refused for the sake of tags.
const MTU_DEFAULT: u16 = 1500;

/// Longest RSS key of any known driver is 52 bytes; the interface has eight bits for it.
const RSS_KEY_LEN_MAX: usize = u8::MAX as usize;

/// What is hashed: the endpoints of TCP and UDP, the addresses of other IP.
const RSS_WANTED: u64 =
    dpdk_sys::RTE_ETH_RSS_IP as u64 | dpdk_sys::RTE_ETH_RSS_TCP as u64 | dpdk_sys::RTE_ETH_RSS_UDP as u64;

/// A running port and its queues.
pub(super) type Opened = (Port, Vec<RxQueue>, Vec<TxQueue>);

impl Port {
    /// Configures and starts a port whose received packets come from `mempool`.
    ///
    /// Asking for more than the port can do is an error that says the limit; [`Port::probe_info`] tells it first. What
    /// is merely missing (promiscuous mode, RSS) is a warning, see [`Port::warnings`].
    pub fn open(eal: &Eal, id: PortId, config: &PortConfig, mempool: &Mempool) -> Result<Opened, Error> {
        let info = Self::probe_info(eal, id)?;
        check(&info, config, mempool)?;
        if !eal.shared().open_ports.lock().unwrap_or_else(PoisonError::into_inner).insert(id.0) {
            return Err(Error::PortInUse { port: info.name });
        }
        log::forget_complaints();
        // From here on dropping `shared` closes the port and takes the bookings back.
        let mut shared = PortShared {
            id,
            info,
            mac: [0; 6],
            warnings: Vec::new(),
            inserts_tags: false,
            mempool: mempool.clone(),
            claimed: 0,
            eal: eal.shared().clone(),
        };
        let raw_info = raw_info(&shared)?;
        configure(&mut shared, &raw_info, config)?;
        set_up_queues(&mut shared, &raw_info, config)?;
        start(&mut shared, config)?;
        let shared = Arc::new(shared);
        let rx = (0..config.rx_queues).map(|queue| RxQueue::new(shared.clone(), queue)).collect();
        let tx = (0..config.tx_queues).map(|queue| TxQueue::new(shared.clone(), queue)).collect();
        Ok((Self { shared }, rx, tx))
    }
}

/// Compares the wishes with what the port and the pool can do.
fn check(info: &PortInfo, config: &PortConfig, mempool: &Mempool) -> Result<(), Error> {
    let port = || info.name.clone();
    if config.rx_queues == 0 || config.tx_queues == 0 {
        return Err(Error::NoQueues { port: port() });
    }
    for (direction, asked, limit) in [
        (Direction::Receive, config.rx_queues, info.max_rx_queues),
        (Direction::Transmit, config.tx_queues, info.max_tx_queues),
    ] {
        if asked > limit {
            return Err(Error::TooManyQueues { port: port(), direction, asked, limit });
        }
    }
    if let Some(mtu) = config.mtu
        && (mtu < info.min_mtu || mtu > info.max_mtu)
    {
        return Err(Error::MtuOutOfRange { port: port(), mtu, min: info.min_mtu, max: info.max_mtu });
    }
    let mtu = config.mtu.unwrap_or(MTU_DEFAULT);
    let needed = u32::from(mtu) + FRAME_OVERHEAD + u32::from(HEADROOM);
    if needed > u32::from(mempool.data_room()) {
        return Err(Error::MbufTooSmall {
            port: port(),
            mtu,
            needed,
            data_room: mempool.data_room(),
            mempool: mempool.name().to_owned(),
        });
    }
    Ok(())
}

/// The driver's full self-description.
fn raw_info(port: &PortShared) -> Result<rte_eth_dev_info, Error> {
    let mut info = rte_eth_dev_info::default();
    // SAFETY: C fills the structure.
    match unsafe { dpdk_sys::rte_eth_dev_info_get(port.id.0, &mut info) } {
        0 => Ok(info),
        ret => Err(step_error(&port.info.name, &port.info.driver, "tell about itself", ret)),
    }
}

fn configure(port: &mut PortShared, raw: &rte_eth_dev_info, config: &PortConfig) -> Result<(), Error> {
    let mut conf = rte_eth_conf::default();
    let mut key = [0; RSS_KEY_LEN_MAX];
    // Zero is "the default of the driver or of Ethernet, whichever is less".
    conf.rxmode.mtu = config.mtu.map_or(0, u32::from);
    if config.vlan_offload {
        let insert = raw.tx_offload_capa & u64::from(dpdk_sys::RTE_ETH_TX_OFFLOAD_VLAN_INSERT);
        conf.rxmode.offloads |= raw.rx_offload_capa & u64::from(dpdk_sys::RTE_ETH_RX_OFFLOAD_VLAN_STRIP);
        conf.txmode.offloads |= insert;
        port.inserts_tags = insert != 0;
    }
    let hashed = RSS_WANTED & port.info.rss_offloads;
    if config.rss.is_some() && hashed == 0 {
        port.warnings.push(format!("port {} has no RSS: its packets are spread by software", port.info.name));
    } else if let Some(rss) = &config.rss {
        conf.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
        conf.rxmode.offloads |= raw.rx_offload_capa & u64::from(dpdk_sys::RTE_ETH_RX_OFFLOAD_RSS_HASH);
        conf.rx_adv_conf.rss_conf.rss_hf = hashed;
        // Given here and not later because some drivers (igb) fall back to their own key at start otherwise.
        let len = usize::from(port.info.rss_key_size);
        if len > 0
            && let Some(given) = rss.key.get(..len)
        {
            key[..len].copy_from_slice(given);
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = port.info.rss_key_size;
        }
    }
    // SAFETY: the structure, and the key that it points to, live for the call, which copies both.
    let ret =
        unsafe { dpdk_sys::rte_eth_dev_configure(port.id.0, config.rx_queues, config.tx_queues, &conf) };
    if ret != 0 {
        let what = format!(
            "be configured with {} receive and {} transmit queues",
            config.rx_queues, config.tx_queues
        );
        return Err(step_error(&port.info.name, &port.info.driver, what, ret));
    }
    let Some(mtu) = config.mtu else { return Ok(()) };
    // SAFETY: the port is configured and not started.
    match unsafe { dpdk_sys::rte_eth_dev_set_mtu(port.id.0, mtu) } {
        // A driver without such a function takes the MTU from the configuration above.
        0 => Ok(()),
        ret if ret == -libc::ENOTSUP => Ok(()),
        ret => Err(step_error(&port.info.name, &port.info.driver, format!("set its MTU to {mtu}"), ret)),
    }
}

fn set_up_queues(port: &mut PortShared, raw: &rte_eth_dev_info, config: &PortConfig) -> Result<(), Error> {
    let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
    // SAFETY: the port exists; C changes the two numbers to what the driver can do.
    let ret = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port.id.0, &mut rx_desc, &mut tx_desc) };
    if ret != 0 {
        return Err(step_error(&port.info.name, &port.info.driver, "choose the number of descriptors", ret));
    }
    // With all mbufs waiting in receive descriptors none is left to receive into, and nothing would ever say so.
    let claimed = u32::from(config.rx_queues) * u32::from(rx_desc);
    port.mempool.claim(claimed).map_err(|needed| Error::MempoolTooSmall {
        mempool: port.mempool.name().to_owned(),
        mbufs: port.mempool.size(),
        port: port.info.name.clone(),
        needed,
    })?;
    port.claimed = claimed;
    // SAFETY: the port exists.
    let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(port.id.0) };
    let socket = port.eal.socket(u32::try_from(socket).ok()) as u32;
    for queue in 0..config.rx_queues {
        let (conf, pool) = (&raw.default_rxconf, port.mempool.raw());
        // SAFETY: the port is configured with this queue; the pool lives as long as the port.
        let ret = unsafe { dpdk_sys::rte_eth_rx_queue_setup(port.id.0, queue, rx_desc, socket, conf, pool) };
        if ret != 0 {
            let what = format!("set up receive queue {queue} with {rx_desc} descriptors");
            return Err(step_error(&port.info.name, &port.info.driver, what, ret));
        }
    }
    for queue in 0..config.tx_queues {
        let conf = &raw.default_txconf;
        // SAFETY: the port is configured with this queue.
        let ret = unsafe { dpdk_sys::rte_eth_tx_queue_setup(port.id.0, queue, tx_desc, socket, conf) };
        if ret != 0 {
            let what = format!("set up transmit queue {queue} with {tx_desc} descriptors");
            return Err(step_error(&port.info.name, &port.info.driver, what, ret));
        }
    }
    Ok(())
}

fn start(port: &mut PortShared, config: &PortConfig) -> Result<(), Error> {
    // SAFETY: the port is configured and all its queues are set up.
    let ret = unsafe { dpdk_sys::rte_eth_dev_start(port.id.0) };
    if ret != 0 {
        return Err(step_error(&port.info.name, &port.info.driver, "start", ret));
    }
    let mut mac = dpdk_sys::rte_ether_addr::default();
    // SAFETY: C fills the structure.
    let ret = unsafe { dpdk_sys::rte_eth_macaddr_get(port.id.0, &mut mac) };
    if ret != 0 {
        return Err(step_error(&port.info.name, &port.info.driver, "tell its MAC address", ret));
    }
    port.mac = mac.addr_bytes;
    if config.promiscuous {
        // SAFETY: the port exists.
        let ret = unsafe { dpdk_sys::rte_eth_promiscuous_enable(port.id.0) };
        if ret == -libc::ENOTSUP {
            port.warnings.push(format!("port {} has no promiscuous mode", port.info.name));
        } else if ret != 0 {
            return Err(step_error(&port.info.name, &port.info.driver, "enter promiscuous mode", ret));
        }
    }
    if let Some(rss) = &config.rss
        && RSS_WANTED & port.info.rss_offloads != 0
    {
        set_key(port, &rss.key);
        let in_turn: Vec<u16> = (0..config.rx_queues).collect();
        let queues = if rss.table.is_empty() { &in_turn } else { &rss.table };
        if port.info.reta_size > 0 {
            set_table(port, port.info.reta_size, queues);
        }
    }
    Ok(())
}

/// Sets the key where it was not taken with the configuration, as by drivers that do not tell its length.
/// Whether they take it now is to be asked ([`Port::rss`]): many can live without.
fn set_key(port: &PortShared, key: &[u8]) {
    let len = super::query::key_len(&port.info);
    let Some(key) = key.get(..len.into()) else { return };
    let mut key = key.to_vec();
    // Later releases of DPDK have more fields.
    let mut conf = rte_eth_rss_conf { rss_key: key.as_mut_ptr(), rss_key_len: len, ..Default::default() };
    conf.rss_hf = RSS_WANTED & port.info.rss_offloads;
    // SAFETY: the structure points to a key of the length that it says; both live for the call, which copies
    // them.
    unsafe { dpdk_sys::rte_eth_dev_rss_hash_update(port.id.0, &mut conf) };
}

/// Fills the redirection table. A start resets it on some NICs, so it is written afterwards.
fn set_table(port: &mut PortShared, size: u16, queues: &[u16]) {
    let mut table = super::query::reta_groups(size);
    let entries = table.iter_mut().flat_map(|group| group.reta.iter_mut());
    for (entry, queue) in entries.zip(queues.iter().cycle()) {
        *entry = *queue;
    }
    // SAFETY: the table has the groups that `size` entries need.
    let ret = unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(port.id.0, table.as_mut_ptr(), size) };
    if ret != 0 {
        port.warnings.push(format!("port {} keeps its own redirection table", port.info.name));
    }
    const _: () = assert!(size_of::<rte_eth_rss_reta_entry64>() == 8 + 2 * 64);
}
