//! Starting the EAL: what is refused before it, once only, log lines, cleaning up.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::config;
use dpdk::{Eal, EalConfig, Error, Lcore, LogLevel, LogSink, Mempool, Port, PortConfig, set_log_sink};
use std::sync::{Arc, Mutex};

fn refused(config: &EalConfig) -> Error {
    Eal::init(config).err().unwrap()
}

/// All in one test: they share the process's one chance to start.
#[test]
fn mistakes_are_named_before_the_start_and_the_start_happens_once() {
    let mut wrong = config();
    wrong.workers[1].id = 1;
    assert_eq!(refused(&wrong), Error::DuplicateLcore { id: 1 });

    let mut wrong = config();
    wrong.workers.push(Lcore { id: 999, cpus: vec![0] });
    assert!(matches!(refused(&wrong), Error::LcoreOutOfRange { id: 999, .. }));

    let mut wrong = config();
    wrong.workers[0].cpus = vec![1000];
    assert!(matches!(refused(&wrong), Error::UnknownCpu { lcore: 1, cpu: 1000, .. }));

    let error = refused(&EalConfig { pci: vec!["eth0".to_owned()], ..config() });
    assert_eq!(error, Error::BadPciAddress { address: "eth0".to_owned() });
    let error = refused(&EalConfig { pci: vec!["ffff:1f.7".to_owned(), "7e:1e.6".to_owned()], ..config() });
    assert_eq!(error, Error::BadPciAddress { address: "ffff:1f.7".to_owned() });
    let error = refused(&EalConfig { pci: vec!["7e:1e.6".to_owned()], ..config() });
    assert!(matches!(&error, Error::UnknownPci { address, .. } if address == "0000:7e:1e.6"), "{error:?}");

    let vdevs = vec!["net_null0".to_owned(), "net_null0,size=64".to_owned()];
    assert_eq!(
        refused(&EalConfig { vdevs, ..config() }),
        Error::DuplicateVdev { name: "net_null0".to_owned() }
    );

    start_use_and_end();
    assert_eq!(refused(&config()), Error::AlreadyRunning, "cleaned up is not unstarted");
}

fn start_use_and_end() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let record = move |level: LogLevel, line: &str| sink.lock().unwrap().push((level, line.to_owned()));
    set_log_sink(LogLevel::Info, LogSink::Callback(Box::new(record)));
    let eal = Eal::init(&EalConfig { vdevs: vec!["net_null0".to_owned()], ..config() }).unwrap();
    assert_eq!((eal.warnings(), eal.has_huge_pages()), (&[][..], false));
    assert!(
        lines
            .lock()
            .unwrap()
            .iter()
            .any(|(level, line)| *level == LogLevel::Info && line.starts_with("EAL: "))
    );
    assert_eq!(refused(&config()), Error::AlreadyRunning);
    assert!(dpdk::version().starts_with("DPDK "));

    eal.attach_vdev("net_nonsense0").unwrap_err();
    assert!(
        lines.lock().unwrap().iter().any(|(level, _)| *level <= LogLevel::Error),
        "errors reach the sink"
    );

    let pool = Mempool::new(&eal, "packets", 255, 0, dpdk::DATA_ROOM_DEFAULT, None).unwrap();
    let config = PortConfig { rx_desc: 64, tx_desc: 64, ..PortConfig::default() };
    let (port, mut rx, _tx) =
        Port::open(&eal, Port::by_name(&eal, "net_null0").unwrap(), &config, &pool).unwrap();
    // The queue keeps everything alive that it needs, in whatever order the rest goes.
    drop((eal, pool, port));
    let mut burst = dpdk::Burst::new();
    assert_eq!(rx[0].receive(&mut burst).packets, 64);
    drop(burst);
    drop(rx);
}
