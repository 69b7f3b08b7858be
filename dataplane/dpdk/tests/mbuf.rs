//! Mbufs and pools: lengths, ends, ownership.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use arrayvec::ArrayVec;
use dpdk::{BURST_LEN_MAX, Burst, DATA_ROOM_DEFAULT, Error, HEADROOM, Mbuf, Mempool};
use proptest::prelude::*;
use wire::PacketBuf;

#[derive(Clone, Debug)]
enum Step {
    PushFront(usize),
    PullFront(usize),
    PushBack(usize),
    Truncate(usize),
    Reframe(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..200usize).prop_map(Step::PushFront),
        (0..200usize).prop_map(Step::PullFront),
        (0..1500usize).prop_map(Step::PushBack),
        (0..2400usize).prop_map(Step::Truncate),
        (0..200usize, 0..2400usize).prop_map(|(front, len)| Step::Reframe(front, len)),
        Just(Step::PushFront(usize::MAX)),
        Just(Step::PullFront(1 << 16)),
        Just(Step::PushBack(usize::MAX)),
    ]
}

fn pool() -> &'static Mempool {
    static POOL: std::sync::OnceLock<Mempool> = std::sync::OnceLock::new();
    POOL.get_or_init(|| common::pool("properties", 127))
}

proptest! {
    /// The model is the buffer as three numbers; the bytes that stay in the frame must not change.
    #[test]
    fn growing_and_cutting_follow_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let mut mbuf = pool().alloc().unwrap();
        prop_assert!(mbuf.copy_from_slice(&[0x11; 64]));
        let mut frame = vec![0x11_u8; 64];
        let mut headroom = usize::from(HEADROOM);
        for step in steps {
            let tailroom = usize::from(DATA_ROOM_DEFAULT) - headroom - frame.len();
            match step {
                Step::PushFront(len) => {
                    let fits = len <= headroom;
                    prop_assert_eq!(mbuf.push_front(len), fits);
                    if fits {
                        headroom -= len;
                        mbuf.data_mut()[..len].fill(0x22);
                        frame.splice(..0, std::iter::repeat_n(0x22, len));
                    }
                }
                Step::PullFront(len) => {
                    let fits = len <= frame.len();
                    prop_assert_eq!(mbuf.pull_front(len), fits);
                    if fits {
                        headroom += len;
                        frame.drain(..len);
                    }
                }
                Step::PushBack(len) => {
                    let fits = len <= tailroom;
                    prop_assert_eq!(mbuf.push_back(len), fits);
                    if fits {
                        let start = frame.len();
                        mbuf.data_mut()[start..].fill(0x33);
                        frame.resize(start + len, 0x33);
                    }
                }
                Step::Truncate(len) => {
                    mbuf.truncate(len);
                    frame.truncate(len);
                }
                Step::Reframe(front, len) => {
                    let with_front = mbuf.data_mut_with_front(front);
                    prop_assert_eq!(with_front.is_some(), front <= headroom);
                    if let Some(with_front) = with_front {
                        prop_assert_eq!(&with_front[front..], &frame[..]);
                        with_front[..front].fill(0x44);
                        headroom -= front;
                        frame.splice(..0, std::iter::repeat_n(0x44, front));
                        frame.truncate(len);
                    }
                    mbuf.reframe(front, len);
                }
            }
            prop_assert_eq!(mbuf.data(), &frame[..]);
            prop_assert_eq!(mbuf.len_total(), frame.len());
            prop_assert_eq!(mbuf.headroom(), headroom);
            prop_assert_eq!(mbuf.tailroom(), usize::from(DATA_ROOM_DEFAULT) - headroom - frame.len());
        }
    }
}

#[test]
fn a_fresh_mbuf_is_empty_with_the_usual_headroom() {
    let pool = common::pool("fresh", 7);
    let mbuf = pool.alloc().unwrap();
    assert_eq!(mbuf.data(), b"");
    assert_eq!(mbuf.headroom(), usize::from(HEADROOM));
    assert_eq!(mbuf.tailroom(), 2048);
    assert_eq!(mbuf.segment_count(), 1);
    assert_eq!(mbuf.rss_hash(), None);
    mbuf.prefetch_data();
    Mbuf::prefetch(mbuf.data());
}

#[test]
fn bytes_are_copied_in_only_when_they_fit() {
    let pool = common::pool("copied", 7);
    let mut mbuf = pool.alloc().unwrap();
    assert!(mbuf.copy_from_slice(b"hello"));
    assert!(!mbuf.copy_from_slice(&[0; 2049]));
    assert!(!mbuf.copy_from_slice(&[0; 1 << 16]));
    assert_eq!(mbuf.data(), b"hello", "a refusal changes nothing");
    assert!(mbuf.copy_from_slice(&[7; 2048]));
    assert_eq!(mbuf.segments().collect::<Vec<_>>(), [&[7_u8; 2048][..]]);
}

#[test]
fn every_way_of_freeing_returns_every_mbuf_to_the_pool() {
    let pool = common::pool("freeing", 255);
    assert_eq!((pool.available(), pool.in_use()), (255, 0));

    let mut burst = Burst::new();
    assert_eq!(pool.alloc_burst(&mut burst, BURST_LEN_MAX + 1), BURST_LEN_MAX, "never beyond the capacity");
    assert_eq!((pool.available(), pool.in_use()), (255 - 64, 64));
    Mbuf::free_bulk(&mut burst);
    assert!(burst.is_empty());
    assert_eq!(pool.available(), 255);

    drop((pool.alloc(), pool.alloc()));
    assert_eq!(pool.available(), 255);

    let mut large: ArrayVec<Mbuf, 200> = std::iter::repeat_with(|| pool.alloc().unwrap()).take(200).collect();
    Mbuf::free_bulk(&mut large);
    assert_eq!(pool.available(), 255);

    let many: Vec<Mbuf> = std::iter::repeat_with(|| pool.alloc().unwrap()).take(150).collect();
    Mbuf::free_all(many);
    assert_eq!(pool.available(), 255);

    Mbuf::free_bulk(&mut burst);
    assert_eq!(pool.available(), 255, "freeing nothing is allowed");
}

#[test]
fn an_empty_pool_gives_nothing_and_breaks_nothing() {
    let pool = common::pool("scarce", 10);
    let held: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(held.len(), 10);
    let mut burst = Burst::new();
    assert_eq!(pool.alloc_burst(&mut burst, 1), 0);
    drop(held);
    assert_eq!(pool.alloc_burst(&mut burst, 11), 0, "all or nothing");
    assert_eq!(pool.alloc_burst(&mut burst, 10), 10);
}

#[test]
fn an_mbuf_outlives_the_handles_of_its_pool() {
    let pool = common::pool("outlived", 7);
    let mut mbuf = pool.alloc().unwrap();
    drop(pool);
    assert!(mbuf.copy_from_slice(b"still here"));
    assert_eq!(mbuf.data(), b"still here");
}

#[test]
fn mbufs_are_freed_from_another_thread() {
    let pool = common::pool("threads", 63);
    let mut burst = Burst::new();
    assert_eq!(pool.alloc_burst(&mut burst, 32), 32);
    std::thread::spawn(move || drop(burst)).join().unwrap();
    assert_eq!(pool.available(), 63);
}

#[test]
fn pools_that_cannot_be_made_say_why() {
    let eal = common::eal();
    let make = |name: &str, mbufs, cache| Mempool::new(eal, name, mbufs, cache, DATA_ROOM_DEFAULT, None);
    let _first = make("taken", 7, 0).unwrap();
    let what = "mempool";
    assert_eq!(make("taken", 7, 0).unwrap_err(), Error::NameTaken { what, name: "taken".to_owned() });
    let long = "x".repeat(40);
    assert_eq!(make(&long, 7, 0).unwrap_err(), Error::NameTooLong { what, name: long });
    assert_eq!(
        make("cached", 100, 67).unwrap_err(),
        Error::CacheTooLarge { pool: "cached".to_owned(), cache: 67, mbufs: 100, limit: 66 }
    );
    assert_eq!(make("a\0b", 7, 0).unwrap_err(), Error::NulInText { value: "a\\0b".to_owned() });
    let error = make("huge", 1 << 20, 0).unwrap_err();
    assert!(matches!(error, Error::NoMemory { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("\"huge\"") && said.contains("raise memory_mib"), "{error}");
}
