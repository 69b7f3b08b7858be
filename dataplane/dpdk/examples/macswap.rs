//! Swaps the MAC addresses of every packet and sends it back: testpmd's `macswap` on the safe layer.
//!
//! `macswap VDEV SECONDS [CPU]` runs one worker on one virtual device, such as `net_null0` or
//! `net_pcap0,rx_pcap=in.pcap,infinite_rx=1`, and prints the rate. The bench compares it with testpmd on the same
//! device: the difference is what the safe layer costs.

use dpdk::{Burst, Eal, EalConfig, HugePages, Lcore, Mbuf, Mempool, Port, PortConfig, RxQueue, TxQueue};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::PacketBuf;

/// Bursts between two looks at the stop flag.
const HOUSEKEEPING_BURSTS: u32 = 1024;
const WORKER: u16 = 1;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let vdev = args.next().unwrap_or_else(|| "net_null0".to_owned());
    let seconds: u64 = args.next().as_deref().unwrap_or("3").parse()?;
    // The last CPU unless told otherwise, as the first one usually serves the rest of the machine.
    let cpu = match args.next() {
        Some(cpu) => cpu.parse()?,
        None => std::thread::available_parallelism()?.get() - 1,
    };
    let eal = Eal::init(&EalConfig {
        main: Lcore { id: 0, cpus: Vec::new() },
        workers: vec![Lcore { id: WORKER, cpus: vec![cpu] }],
        memory_mib: 256,
        huge_pages: HugePages::Prefer,
        pci: Vec::new(),
        vdevs: vec![vdev.clone()],
        file_prefix: format!("macswap{}", std::process::id()),
        in_memory: true,
        extra_args: Vec::new(),
    })?;
    for warning in eal.warnings() {
        eprintln!("warning: {warning}");
    }
    let name = vdev.split(',').next().unwrap_or_default();
    let pool = Mempool::new(&eal, "packets", 32 * 1024, 256, dpdk::DATA_ROOM_DEFAULT, None)?;
    let config = PortConfig { rx_desc: 512, tx_desc: 512, ..PortConfig::default() };
    let (port, rx, tx) = Port::open(&eal, Port::by_name(&eal, name)?, &config, &pool)?;

    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let (Some(rx), Some(tx)) = (rx.into_iter().next(), tx.into_iter().next()) else {
        return Err("the port gave no queues".into());
    };
    let (worker_stop, worker_count) = (stop.clone(), count.clone());
    eal.launch(WORKER, move || forward(rx, tx, &worker_stop, &worker_count))?;
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let packets = count.load(Ordering::Relaxed);
    let elapsed = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    eal.wait(WORKER);
    let mpps = packets as f64 / elapsed.as_secs_f64() / 1e6;
    println!("{} {mpps:.2} Mpps ({packets} packets in {:.2} s)", port.name(), elapsed.as_secs_f64());
    Ok(())
}

fn forward(mut rx: RxQueue, mut tx: TxQueue, stop: &AtomicBool, count: &AtomicU64) {
    let mut burst = Burst::new();
    let mut packets = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..HOUSEKEEPING_BURSTS {
            if rx.receive(&mut burst).packets == 0 {
                continue;
            }
            for mbuf in &mut burst {
                if let Some((destination, rest)) = mbuf.data_mut().split_first_chunk_mut::<6>()
                    && let Some(source) = rest.first_chunk_mut::<6>()
                {
                    std::mem::swap(destination, source);
                }
            }
            packets += tx.send(&mut burst) as u64;
            Mbuf::free_bulk(&mut burst);
        }
        count.store(packets, Ordering::Relaxed);
    }
}
