//! VLAN tags that a port takes off and puts on: net_af_packet, which has the kernel do it, on both ends of a veth.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{eal, eventually};
use dpdk::{Burst, Mbuf, Mempool, Port, PortConfig, RxQueue};
use std::process::Command;
use wire::PacketBuf;

/// Moves this thread into a network namespace of its own, with both ends of a veth up and silent.
fn make_veth() {
    // SAFETY: takes a number and touches no memory; only this thread changes its namespace.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "needs root");
    for command in [
        "ip link add tgtag0 type veth peer name tgtag1",
        "ip link set tgtag0 up arp off addrgenmode none",
        "ip link set tgtag1 up arp off addrgenmode none",
    ] {
        let mut words = command.split(' ');
        assert!(Command::new(words.next().unwrap()).args(words).status().unwrap().success(), "{command}");
    }
}

fn receive(rx: &mut RxQueue) -> Mbuf {
    let mut burst = Burst::new();
    eventually("a frame", || rx.receive(&mut burst).packets > 0);
    burst.pop().unwrap()
}

#[test]
fn tags_are_put_on_when_asked_for_and_told_when_taken_off() {
    make_veth();
    let pool: Mempool = common::pool("tags", 2047);
    let open = |number: u32| {
        let id =
            eal().attach_vdev(&format!("net_af_packet{number},iface=tgtag{number},framecnt=64")).unwrap();
        let config = PortConfig { vlan_offload: true, rx_desc: 64, tx_desc: 64, ..PortConfig::default() };
        Port::open(eal(), id, &config, &pool).unwrap()
    };
    let ((port, _rx, mut tx), (_peer, mut rx, _tx)) = (open(0), open(1));
    assert!(port.inserts_tags());
    for tci in [None, Some(5), Some(0xe005)] {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.copy_from_slice(&common::frames(1)[0]));
        if let Some(tci) = tci {
            frame.request_tag(tci);
        }
        let mut burst = Burst::new();
        burst.push(frame);
        assert_eq!(tx[0].send(&mut burst), 1);
        let mut arrived = receive(&mut rx[0]);
        assert_eq!(arrived.take_stripped_tag(), tci);
        assert_eq!(arrived.take_stripped_tag(), None);
        assert_eq!(arrived.data(), common::frames(1)[0]);
    }
}
