use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use config::Config;
use engine::fib::{FibPort, Route};
use engine::plan::{RealSpec, ServiceSpec, Spec};
use engine::snapshot::{Mode, Scheduler};
use engine::{Counter, DropReason, FibBuilder};
use wire::build::{Ipv4Base, TcpFrame, UdpFrame, fragments_v4};
use wire::{MacAddr, U16, ipv4, tcp};

use super::*;

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
/// What net_pcap gives to the first port of a process.
const WAN_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x00]);

/// SYNs of many clients to a service, to an unknown service, and to a service whose real server has no MAC address; some
/// to the first in fragments, last one first; and datagrams that have to be cut.
fn frames() -> Vec<Vec<u8>> {
    let ports = [80, 81, 82];
    let frame = |n: u16| TcpFrame {
        eth_dst: WAN_MAC,
        src: ipv4::addr([10, 1, 0, 11].into()),
        dst: ipv4::addr([10, 1, 0, 100].into()),
        src_port: U16::new(20_000 + n),
        dst_port: U16::new(ports[usize::from(n) % ports.len()]),
        flags: tcp::flags::SYN,
        pad: true,
        ..TcpFrame::default()
    };
    let in_fragments = |n: u16| TcpFrame {
        src_port: U16::new(30_000 + n),
        dst_port: U16::new(80),
        payload: vec![0; 200],
        flags_fragment: U16::ZERO,
        id: U16::new(n),
        ..frame(n)
    };
    let fragments = (0..8).flat_map(|n| fragments_v4(&in_fragments(n).to_vec(), 100).into_iter().rev());
    let datagram = |n: u16| UdpFrame {
        ip: Ipv4Base {
            eth_dst: WAN_MAC,
            src: ipv4::addr([10, 1, 0, 11].into()),
            dst: ipv4::addr([10, 1, 0, 100].into()),
            flags_fragment: U16::ZERO,
            ..Ipv4Base::default()
        },
        src_port: U16::new(30_000 + n),
        dst_port: U16::new(53),
        payload: vec![0; 1_000],
        ..UdpFrame::default()
    };
    let datagrams = (0..8).map(|n| datagram(n).to_vec());
    (0..96).map(|n| frame(n).to_vec()).chain(fragments).chain(datagrams).collect()
}

fn write_pcap(path: &Path) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames() {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    fs::write(path, bytes).unwrap();
}

fn config(directory: &Path) -> Config {
    let at = directory.display();
    let text = format!(
        r#"
[dataplane]
workers = 2
huge_pages = "never"
memory_mib = 64
mbufs = 4096
connections_max = 1000
services_max = 8
real_servers_max = 8
seed = 1
[[port]]
name = "wan"
device = "net_pcap,rx_pcap={at}/wan.pcap,infinite_rx=1"
kernel_interface = ""
rx_descriptors = 64
tx_descriptors = 64
[[port]]
name = "lan"
device = "net_null"
kernel_interface = ""
rx_descriptors = 64
tx_descriptors = 64
"#
    );
    Config::from_str("test", &text).unwrap()
}

fn service(port: u16, real: &str) -> ServiceSpec {
    ServiceSpec {
        protocol: 6,
        virtual_: format!("10.1.0.100:{port}").parse().unwrap(),
        also: Vec::new(),
        scheduler: Scheduler::Wlc,
        flags: Default::default(),
        toa: Some(254),
        timeouts: Default::default(),
        locals: vec!["10.2.0.200".parse().unwrap()],
        local_ports: (1024, 65_535),
        options: Default::default(),
        sorry: None,
        reals: vec![RealSpec::new(real.parse().unwrap(), Mode::FullNat, 1)],
    }
}

fn fib() -> engine::Fib {
    let mut builder = FibBuilder::default();
    builder.set_port(WAN, FibPort { mac: WAN_MAC, mtu: 1500 });
    builder.set_port(LAN, FibPort { mac: MAC, mtu: 576 });
    builder.set_route("10.1.0.0".parse().unwrap(), 24, Route { via: None, port: WAN });
    builder.set_route("10.2.0.0".parse().unwrap(), 24, Route { via: None, port: LAN });
    builder.set_neighbour(LAN, "10.2.0.11".parse().unwrap(), Some(MAC));
    builder.build()
}

/// Everything that a worker does, on this thread: receive, process, hand over, punt, ask, send through another
/// worker, take a new configuration, list connections.
#[test]
fn a_turn_of_the_loop_allocates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    write_pcap(&directory.path().join("wan.pcap"));
    let stop = Arc::new(AtomicBool::new(false));
    let mut assembled = crate::start::assemble(&config(directory.path()), stop).unwrap();
    let datagrams = ServiceSpec { protocol: ipv4::PROTO_UDP, ..service(53, "10.2.0.11:53") };
    let services = vec![service(80, "10.2.0.11:80"), service(81, "10.2.0.12:80"), datagrams];
    let spec = Spec { generation: 1, services };
    let updates = assembled.parts.planner.plan(&spec).unwrap();
    let fib = Arc::new(fib());
    for (link, mut update) in assembled.parts.workers.iter().zip(updates) {
        update.fib = Some(fib.clone());
        link.to.send(ToWorker::Apply(update)).unwrap();
        let found = Vec::with_capacity(100);
        let filter = ConnFilter::default();
        link.to
            .send(ToWorker::Export(Box::new(Export { filter, cursor: Some(0), scan: 100, found })))
            .unwrap();
    }
    let mut workers = assembled.workers;
    let mut burst = Burst::new();
    let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];

    let allocations = allocation_counter::measure(|| {
        for turn in 0..2000 {
            for worker in &mut workers {
                if turn % 1000 == 1 {
                    worker.look_at_control(Ticks(turn));
                }
                worker.turn(Ticks(turn), &mut burst, &mut verdicts);
            }
        }
    });

    assert_eq!(allocations.count_total, 0, "{allocations:?}");
    let links = &assembled.parts.workers;
    let sum =
        |count: &dyn Fn(&engine::Counters) -> u64| -> u64 { links.iter().map(|l| count(&l.counters)).sum() };
    assert!(sum(&|counters| counters.event(Counter::Forwarded).get()) > 0);
    assert!(sum(&|counters| counters.event(Counter::HandedOver).get()) > 0);
    assert!(sum(&|counters| counters.event(Counter::Fragmented).get()) > 0);
    assert!(sum(&|counters| counters.event(Counter::Unresolved).get()) > 0);
    let waited = sum(&|counters| counters.event(Counter::FragmentsWaited).get());
    assert!(
        waited > 2 * (WAIT_SLOTS * engine::WAIT_LEN_MAX) as u64,
        "{waited} are not more than fit at once"
    );
    let lost = [DropReason::FragmentBufferFull, DropReason::FragmentTableFull, DropReason::FragmentTimeout];
    assert_eq!(lost.map(|reason| sum(&|counters| counters.dropped(reason).get())), [0; 3]);
    assert!(sum(&|counters| engine::PuntClass::ALL.iter().map(|c| counters.punt(*c).get()).sum()) > 0);
    let listed: usize = links
        .iter()
        .flat_map(|link| link.from.try_iter())
        .map(|reply| match reply {
            FromWorker::Exported(export) => export.found.len(),
            FromWorker::Applied(_) => 0,
        })
        .sum();
    assert!(listed > 0);
    // Nobody took the punted packets, so the rings filled up; that too must be counted.
    assert!(links.iter().any(|link| link.page.dropped(PlatformDrop::PuntFull).get() > 0));
}
