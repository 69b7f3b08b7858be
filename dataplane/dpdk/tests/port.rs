//! Ports on virtual devices: packets, limits, statistics, RSS, closing.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{eal, eventually, frames, read_pcap, write_pcap};
use dpdk::{
    Burst, DATA_ROOM_DEFAULT, Direction, Error, FlowRule, Mbuf, Mempool, Port, PortConfig, RssConfig,
    RssState, RxQueue,
};
use wire::PacketBuf;

fn small() -> PortConfig {
    PortConfig { rx_desc: 64, tx_desc: 64, ..PortConfig::default() }
}

/// Receives until `count` frames are there.
fn receive(rx: &mut RxQueue, count: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let mut burst = Burst::new();
    eventually("the arrival of all frames", || {
        rx.receive(&mut burst);
        got.extend(burst.iter().map(|mbuf| mbuf.segments().flatten().copied().collect::<Vec<u8>>()));
        Mbuf::free_bulk(&mut burst);
        got.len() >= count
    });
    got
}

#[test]
fn frames_of_a_pcap_arrive_and_leave_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let expected = frames(100);
    write_pcap(&input, &expected);
    let pool = common::pool("pcap", 511);
    let vdev = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let id = eal().attach_vdev(&vdev).unwrap();
    let (port, mut rx, mut tx) = Port::open(eal(), id, &small(), &pool).unwrap();
    let mut burst = Burst::new();
    let mut moved = 0;
    eventually("all frames' way through the port", || {
        rx[0].receive(&mut burst);
        moved += tx[0].send(&mut burst);
        moved == expected.len()
    });
    assert!(burst.is_empty());
    let (packets, bytes) = (100, expected.iter().map(Vec::len).sum::<usize>() as u64);
    let stats = port.stats();
    assert_eq!((stats.rx_packets, stats.tx_packets), (packets, packets));
    assert_eq!((stats.rx_bytes, stats.tx_bytes), (bytes, bytes));
    assert!(port.xstats().contains(&("rx_good_packets".to_owned(), packets)));
    drop((rx, tx, port));
    assert_eq!(read_pcap(&output), expected);
    assert_eq!(pool.available(), 511, "closing the port returns every mbuf");
}

#[test]
fn a_frame_larger_than_an_mbuf_is_a_chain_that_can_be_cut() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("jumbo.pcap");
    let jumbo: Vec<u8> = (0..5000_u32).map(|byte| byte as u8).collect();
    write_pcap(&input, &[jumbo.clone(), jumbo.clone()]);
    let pool = common::pool("jumbo", 255);
    let id = eal().attach_vdev(&format!("net_pcap1,rx_pcap={}", input.display())).unwrap();
    let (_port, mut rx, _tx) = Port::open(eal(), id, &small(), &pool).unwrap();
    let mut burst = Burst::new();
    let mut segmented = false;
    eventually("the arrival of both frames", || {
        segmented |= rx[0].receive(&mut burst).segmented;
        burst.len() == 2
    });
    assert!(segmented);
    let mut mbuf = burst.pop().unwrap();
    assert_eq!(mbuf.len_total(), 5000);
    assert_eq!(mbuf.segment_count(), 3);
    assert_eq!(mbuf.data(), &jumbo[..2048], "the data is the first segment");
    assert_eq!(mbuf.segments().flatten().copied().collect::<Vec<_>>(), jumbo);
    assert_eq!(mbuf.tailroom(), 0);
    assert!(!mbuf.push_back(1) && !mbuf.copy_from_slice(b"x"));
    mbuf.truncate(2048);
    assert_eq!(mbuf.len_total(), 5000, "the data is no longer than that already");
    mbuf.truncate(100);
    assert_eq!((mbuf.len_total(), mbuf.segment_count(), mbuf.data()), (100, 1, &jumbo[..100]));
    assert_eq!(pool.in_use(), 4, "one chain of three and one mbuf");
    drop((mbuf, burst));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn what_is_sent_into_a_ring_port_comes_out_of_it() {
    let pool = common::pool("ringport", 511);
    let id = eal().attach_vdev("net_ring0").unwrap();
    assert_eq!(Port::by_name(eal(), "net_ring0").unwrap(), id);
    let (_port, mut rx, mut tx) = Port::open(eal(), id, &small(), &pool).unwrap();
    let expected = frames(60);
    let mut burst = Burst::new();
    for frame in &expected {
        let mut mbuf = pool.alloc().unwrap();
        assert!(mbuf.copy_from_slice(frame));
        burst.push(mbuf);
    }
    eventually("sending the burst", || {
        tx[0].send(&mut burst);
        burst.is_empty()
    });
    assert_eq!(receive(&mut rx[0], 60), expected);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_receive_fills_the_room_that_there_is() {
    let pool = common::pool("null", 511);
    let id = eal().attach_vdev("net_null0,size=64").unwrap();
    let (port, mut rx, mut tx) = Port::open(eal(), id, &small(), &pool).unwrap();
    let mut burst = Burst::new();
    assert_eq!(rx[0].receive(&mut burst).packets, 64);
    burst.truncate(30);
    assert_eq!(rx[0].receive(&mut burst).packets, 34);
    assert_eq!((rx[0].receive(&mut burst).packets, burst.len()), (0, 64));
    assert_eq!(tx[0].send(&mut burst), 64);
    assert_eq!((burst.len(), pool.in_use()), (0, 0));
    assert_eq!((rx[0].port(), rx[0].index(), tx[0].index()), (id, 0, 0));
    assert!(port.link().unwrap().up);
}

#[test]
fn an_unknown_port_is_named_with_the_known_ones() {
    let id = eal().attach_vdev("net_null1").unwrap();
    let error = Port::by_name(eal(), "eth9").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("\"eth9\"") && text.contains("\"net_null1\""), "{text}");
    assert!(matches!(error, Error::UnknownPort { name, .. } if name == "eth9"));
    assert!(Port::all(eal()).contains(&id) && Port::count(eal()) >= 1);
    let error = Port::probe_info(eal(), dpdk::PortId(31)).unwrap_err();
    assert!(matches!(error, Error::UnknownPortId { id: 31, .. }), "{error:?}");
}

#[test]
fn limits_are_told_before_and_named_after() {
    let pool = common::pool("limits", 511);
    let id = eal().attach_vdev("net_null2").unwrap();
    let info = Port::probe_info(eal(), id).unwrap();
    assert_eq!(
        (info.name.as_str(), info.device.as_str(), info.driver.as_str()),
        ("net_null2", "net_null2", "net_null")
    );
    let open = |config: PortConfig, pool: &Mempool| Port::open(eal(), id, &config, pool).err().unwrap();
    let port = || "net_null2".to_owned();

    let (asked, limit) = (info.max_rx_queues + 1, info.max_rx_queues);
    let error = open(PortConfig { rx_queues: asked, ..small() }, &pool);
    assert_eq!(error, Error::TooManyQueues { port: port(), direction: Direction::Receive, asked, limit });
    assert!(error.to_string().contains(&format!("at most {limit} receive queues")), "{error}");
    assert!(error.to_string().contains("lower the port's queues"), "{error}");
    let error = open(PortConfig { tx_queues: info.max_tx_queues + 1, ..small() }, &pool);
    assert!(matches!(error, Error::TooManyQueues { direction: Direction::Transmit, .. }));
    assert_eq!(open(PortConfig { rx_queues: 0, ..small() }, &pool), Error::NoQueues { port: port() });

    let error = open(PortConfig { mtu: Some(info.min_mtu - 1), ..small() }, &pool);
    assert_eq!(
        error,
        Error::MtuOutOfRange { port: port(), mtu: info.min_mtu - 1, min: info.min_mtu, max: info.max_mtu }
    );
    let error = open(PortConfig { mtu: Some(9000), ..small() }, &pool);
    assert!(
        matches!(error, Error::MbufTooSmall { mtu: 9000, data_room: DATA_ROOM_DEFAULT, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("set the port's mtu to 9000"), "{error}");

    let error = open(PortConfig { rx_queues: 1, rx_desc: 511, ..small() }, &pool);
    assert!(matches!(error, Error::MempoolTooSmall { mbufs: 511, needed: 511, .. }), "{error:?}");
    assert!(error.to_string().contains("raise mbufs"), "{error}");
}

#[test]
fn a_failed_opening_and_a_second_handle_leave_the_port_usable() {
    let pool = common::pool("again", 511);
    let id = eal().attach_vdev("net_null3").unwrap();
    Port::open(eal(), id, &PortConfig { rx_queues: 0, ..small() }, &pool).err().unwrap();
    let (port, rx, tx) = Port::open(eal(), id, &small(), &pool).unwrap();
    let in_use = Error::PortInUse { port: "net_null3".to_owned() };
    assert_eq!(Port::open(eal(), id, &small(), &pool).err(), Some(in_use.clone()));
    assert_eq!(eal().detach_vdev(id), Err(in_use.clone()));
    assert_eq!(port.stop(), Err(in_use), "its queues may be in use");
    drop((rx, tx));
    assert_eq!(port.stop(), Ok(()));
    drop(port);
    assert!(Port::by_name(eal(), "net_null3").is_err(), "a dropped port is closed");
}

#[test]
fn a_device_can_be_taken_away_and_made_again() {
    let id = eal().attach_vdev("net_null4").unwrap();
    assert_eq!(eal().attach_vdev("net_null4"), Err(Error::DuplicateVdev { name: "net_null4".to_owned() }));
    eal().detach_vdev(id).unwrap();
    assert!(Port::by_name(eal(), "net_null4").is_err());
    eal().attach_vdev("net_null4").unwrap();
}

#[test]
fn devices_that_cannot_be_made_are_named() {
    let error = eal().attach_vdev("net_nonsense0,iface=x").unwrap_err();
    assert_eq!(error, Error::NotFoundDriver { vdev: "net_nonsense0,iface=x".to_owned() });
    let error = eal().attach_vdev("net_pcap9,rx_pcap=/nonexistent/a.pcap").unwrap_err();
    assert!(matches!(&error, Error::Vdev { said, .. } if said.contains("/nonexistent/a.pcap")), "{error:?}");
}

#[test]
fn the_rss_key_and_table_are_taken_and_told() {
    let pool = common::pool("rss", 1023);
    let key: Vec<u8> = (0..52).collect();
    let rss = RssConfig { key: key.clone(), table: vec![2, 0, 1, 1] };
    let config = PortConfig { rx_queues: 3, tx_queues: 3, rss: Some(rss), ..small() };
    let id = eal().attach_vdev("net_null5").unwrap();
    let (port, _rx, _tx) = Port::open(eal(), id, &config, &pool).unwrap();
    let info = port.info().clone();
    assert!(info.reta_size > 0 && info.rss_offloads != 0, "{info:?}");
    let reta = port.reta().unwrap().unwrap();
    assert_eq!(reta.len(), usize::from(info.reta_size));
    assert!(reta.chunks(4).all(|entries| entries == [2, 0, 1, 1]), "{reta:?}");
    let rss = port.rss().unwrap().unwrap();
    assert_eq!(rss, RssState { key: key[..40].to_vec(), tcp4: true, udp4: true, tcp6: true, udp6: true });
}

#[test]
fn without_wishes_the_table_covers_all_queues_in_turn() {
    let pool = common::pool("rssown", 1023);
    let config = PortConfig { rx_queues: 3, tx_queues: 3, rss: Some(RssConfig::default()), ..small() };
    let id = eal().attach_vdev("net_null6").unwrap();
    let (port, _rx, _tx) = Port::open(eal(), id, &config, &pool).unwrap();
    let reta = port.reta().unwrap().unwrap();
    assert!(reta.iter().enumerate().all(|(index, queue)| usize::from(*queue) == index % 3), "{reta:?}");
}

#[test]
fn a_port_without_rss_says_so_and_works() {
    let pool = common::pool("norss", 511);
    let id = eal().attach_vdev("net_ring1").unwrap();
    let (port, _rx, _tx) =
        Port::open(eal(), id, &PortConfig { rss: Some(RssConfig::default()), ..small() }, &pool).unwrap();
    assert_eq!(port.warnings().len(), 1);
    assert!(port.warnings()[0].contains("no RSS"));
    assert_eq!((port.rss(), port.reta()), (Ok(None), Ok(None)));
    assert_eq!((port.mtu(), port.mac().len()), (1500, 6));
}

#[test]
fn a_port_without_flow_rules_refuses_them_by_name() {
    let pool = common::pool("noflow", 511);
    let id = eal().attach_vdev("net_null7,no-rx=1").unwrap();
    let (port, _rx, _tx) = Port::open(eal(), id, &small(), &pool).unwrap();
    for to in ["192.0.2.1", "2001:db8::1"] {
        let rule = FlowRule { to: to.parse().unwrap(), protocol: 6, protocol_in_ip: false, queue: 0 };
        for refused in [port.check_flow(&rule).err(), port.add_flow(&rule).err()] {
            let Some(Error::Port { port, what, errno, said, .. }) = refused else { panic!("{refused:?}") };
            assert_eq!((port.as_str(), errno.name()), ("net_null7", "ENOSYS"));
            assert!(what.ends_with(to) && said == "Function not implemented", "{what}: {said}");
        }
    }
}
