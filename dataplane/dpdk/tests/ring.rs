//! Rings between threads.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use dpdk::{Burst, Error, Mbuf, RX_BURST_MAX, ring};
use wire::PacketBuf;

fn numbered(pool: &dpdk::Mempool, number: u32) -> Mbuf {
    let mut mbuf = pool.alloc().unwrap();
    assert!(mbuf.copy_from_slice(&number.to_be_bytes()));
    mbuf
}

fn number(mbuf: &Mbuf) -> u32 {
    u32::from_be_bytes(mbuf.data().try_into().unwrap())
}

#[test]
fn what_does_not_fit_stays_in_the_burst_in_order() {
    let pool = common::pool("ring_order", 127);
    let (mut producer, mut consumer) = ring(common::eal(), "order", 20, None).unwrap();
    let mut burst: Burst = (0..50).map(|n| numbered(&pool, n)).collect();
    assert_eq!(producer.push(&mut burst), 20);
    assert_eq!((producer.len(), consumer.len(), producer.capacity()), (20, 20, 20));
    assert_eq!(burst.iter().map(number).collect::<Vec<_>>(), (20..50).collect::<Vec<_>>());

    let mut popped = Burst::new();
    assert_eq!(consumer.pop(&mut popped), 20);
    assert_eq!(producer.push(&mut burst), 20);
    assert_eq!(consumer.pop(&mut popped), 20, "a pop appends");
    assert_eq!(popped.iter().map(number).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
    assert!(producer.is_empty() && consumer.is_empty());
    assert_eq!(consumer.pop(&mut popped), 0);
}

#[test]
fn a_pop_is_bounded_by_a_burst_and_by_the_room() {
    let pool = common::pool("ring_bound", 127);
    let (mut producer, mut consumer) = ring(common::eal(), "bound", 100, None).unwrap();
    let mut burst: Burst = (0..64).map(|n| numbered(&pool, n)).collect();
    assert_eq!(producer.push(&mut burst), 64);
    assert_eq!(consumer.pop(&mut burst), RX_BURST_MAX);
    for n in 0..27 {
        burst.push(numbered(&pool, n));
    }
    assert_eq!(consumer.pop(&mut burst), 5, "five places were left");
    assert!(burst.is_full());
    assert_eq!(consumer.pop(&mut burst), 0);
}

#[test]
fn mbufs_left_in_a_ring_are_freed_when_both_ends_are_gone() {
    let pool = common::pool("ring_drop", 127);
    let (mut producer, consumer) = ring(common::eal(), "dropped", 100, None).unwrap();
    let mut burst: Burst = (0..60).map(|n| numbered(&pool, n)).collect();
    assert_eq!(producer.push(&mut burst), 60);
    drop(consumer);
    assert_eq!(pool.in_use(), 60, "one end keeps them");
    drop(producer);
    assert_eq!(pool.available(), 127);
    ring(common::eal(), "dropped", 100, None).unwrap();
}

#[test]
fn a_million_mbufs_cross_between_threads_in_order() {
    const COUNT: u32 = 1_000_000;
    let pool = common::pool("ring_threads", 511);
    let (mut producer, mut consumer) = ring(common::eal(), "threads", 64, None).unwrap();
    let source = pool.clone();
    let sender = std::thread::spawn(move || {
        let mut burst = Burst::new();
        let mut next = 0;
        while next < COUNT || !burst.is_empty() {
            while next < COUNT && !burst.is_full() {
                let Some(mut mbuf) = source.alloc() else { break };
                assert!(mbuf.copy_from_slice(&next.to_be_bytes()));
                burst.push(mbuf);
                next += 1;
            }
            if producer.push(&mut burst) == 0 {
                std::thread::yield_now();
            }
        }
    });
    let mut burst = Burst::new();
    let mut expected = 0;
    common::eventually("the last mbuf's arrival", || {
        if consumer.pop(&mut burst) == 0 {
            std::thread::yield_now();
        }
        for mbuf in &burst {
            assert_eq!(number(mbuf), expected);
            expected += 1;
        }
        Mbuf::free_bulk(&mut burst);
        expected == COUNT
    });
    sender.join().unwrap();
    assert_eq!(pool.available(), 511);
}

#[test]
fn a_ring_of_a_taken_name_is_refused() {
    let _ends = ring(common::eal(), "same", 8, None).unwrap();
    let error = ring(common::eal(), "same", 8, None).err().unwrap();
    assert_eq!(error, Error::NameTaken { what: "ring", name: "same".to_owned() });
}
