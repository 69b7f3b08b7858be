use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use proptest::prelude::*;

use super::*;

const TIMEOUT: Ticks = Ticks(100);

thread_local! {
    /// Where the thread is in its random walk; 0: it lets nobody in between.
    static WALK: Cell<u64> = const { Cell::new(0) };
}

/// Gives the CPU away at one in four of the points where that might do harm. Without it threads on few CPUs
/// hardly ever meet there.
pub(super) fn let_others_run() {
    let next = WALK.get().wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(u64::from(WALK.get() != 0));
    WALK.set(next);
    if next >> 62 == 3 {
        std::thread::yield_now();
    }
}

fn nobody(removed: RealId) {
    panic!("a template of {removed} gave way");
}

impl Templates {
    /// Templates in the table, live or not, by real server.
    fn counts(&self) -> HashMap<u32, i64> {
        let mut counts = HashMap::new();
        for bucket in &self.buckets {
            let header = bucket.header.load(Acquire);
            assert_eq!(header & (ALL_SLOTS * RESERVED), 0, "a reserved slot is left over");
            for slot in (0..SLOTS).filter(|slot| header & (VISIBLE << slot) != 0) {
                *counts.entry(real_of(bucket.values[slot].load(Acquire)).0).or_default() += 1;
            }
        }
        counts
    }
}

#[test]
fn a_client_keeps_its_real_server_until_the_timeout_after_it_last_came() {
    let templates = Templates::new(10, [1, 2]);
    let start = Ticks(u32::MAX - 50);
    assert_eq!(templates.get(7, start), None);
    let new = templates.get_or_insert(7, RealId(3), start, TIMEOUT, nobody);
    assert_eq!(new, Some(Template { real: RealId(3), is_new: true }));
    let again = templates.get_or_insert(7, RealId(4), start.plus(Ticks(60)), TIMEOUT, nobody);
    assert_eq!(again, Some(Template { real: RealId(3), is_new: false }));
    assert_eq!(templates.get(7, start.plus(Ticks(159))), Some(RealId(3)), "coming again put it off");
    assert_eq!(templates.get(7, start.plus(Ticks(160))), None);
    templates.refresh(7, start.plus(Ticks(159)), TIMEOUT);
    assert_eq!(templates.get(7, start.plus(Ticks(258))), Some(RealId(3)));
    let mut gave_way = None;
    let later = start.plus(Ticks(259));
    let new = templates.get_or_insert(7, RealId(4), later, TIMEOUT, |real| gave_way = Some(real));
    assert_eq!((new, gave_way), (Some(Template { real: RealId(4), is_new: true }), Some(RealId(3))));
}

#[test]
fn a_shorter_timeout_does_not_end_a_template_early() {
    let templates = Templates::new(10, [1, 2]);
    templates.get_or_insert(7, RealId(3), Ticks(0), TIMEOUT, nobody);
    templates.refresh(7, Ticks(1), Ticks(5));
    templates.get_or_insert(7, RealId(3), Ticks(1), Ticks(5), nobody);
    assert_eq!(templates.get(7, Ticks(99)), Some(RealId(3)));
}

#[test]
fn a_full_bucket_refuses_newcomers_and_keeps_what_it_has() {
    let templates = Templates::new(1, [1, 2]);
    for key in 0..SLOTS as u64 {
        assert!(templates.get_or_insert(key, RealId(key as u32), Ticks(0), TIMEOUT, nobody).is_some());
    }
    assert_eq!(templates.get_or_insert(99, RealId(0), Ticks(99), TIMEOUT, nobody), None);
    assert!((0..SLOTS as u64).all(|key| templates.get(key, Ticks(99)) == Some(RealId(key as u32))));
    // When the first expires, its slot is the newcomer's.
    templates.refresh(5, Ticks(99), TIMEOUT);
    let mut gave_way = Vec::new();
    assert!(
        templates.get_or_insert(99, RealId(77), Ticks(100), TIMEOUT, |real| gave_way.push(real)).is_some()
    );
    assert_eq!(gave_way, [RealId(0)]);
    assert_eq!(templates.get(5, Ticks(100)), Some(RealId(5)));
}

#[test]
fn nominal_capacity_is_reached_with_one_in_a_hundred_refused_at_most() {
    let templates = Templates::new(20_000, [1, 2]);
    let key = |n: u32| templates.key(ServiceId(0), &n.to_be_bytes(), 32, 0);
    let refused = (0..20_000)
        .filter(|n| templates.get_or_insert(key(*n), RealId(0), Ticks(0), TIMEOUT, nobody).is_none());
    assert!(refused.count() < 200);
}

#[test]
fn templates_of_a_real_server_that_is_gone_are_swept_before_they_expire() {
    let templates = Templates::new(100, [1, 2]);
    for n in 0..50u32 {
        let key = templates.key(ServiceId(0), &n.to_be_bytes(), 32, 0);
        templates.get_or_insert(key, RealId(n % 2), Ticks(0), TIMEOUT, nobody);
    }
    let mut removed = Vec::new();
    let mut cursor = 0;
    for _ in 0..templates.buckets() {
        cursor = templates.sweep(cursor, 1, Ticks(1), |real| real == RealId(1), |real| removed.push(real));
    }
    assert_eq!(cursor, 0);
    assert_eq!(removed, [RealId(1); 25]);
    assert_eq!(templates.counts(), HashMap::from([(0, 25)]));
}

#[test]
fn clients_of_one_network_share_a_key_and_nothing_else_does() {
    let templates = Templates::new(1, [1, 2]);
    let key = |client: &[u8], prefix_len| templates.key(ServiceId(1), client, prefix_len, 80);
    let client = [192, 0, 2, 1];
    assert_eq!(key(&client, 24), key(&[192, 0, 2, 200], 24));
    assert_ne!(key(&client, 24), key(&[192, 0, 3, 1], 24));
    assert_ne!(key(&client, 32), key(&[192, 0, 2, 2], 32));
    assert_eq!(key(&client, 0), key(&[10, 0, 0, 1], 0));
    let v6: [u8; 16] = std::array::from_fn(|i| i as u8);
    let neighbour: [u8; 16] = std::array::from_fn(|i| if i < 8 { i as u8 } else { 9 });
    assert_eq!(key(&v6, 64), key(&neighbour, 64));
    assert_ne!(key(&v6, 128), key(&neighbour, 128));
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    assert_ne!(key(&[0; 16], 0), key(&[0; 4], 0), "families do not meet");
    assert_eq!(
        masked(&mapped, 128),
        masked(&[10, 0, 0, 1], 32),
        "an engine that keeps mapped addresses agrees"
    );
    let others = [
        templates.key(ServiceId(2), &client, 24, 80),
        templates.key(ServiceId(1), &client, 24, 81),
        templates.key(ServiceId(1), &client, 25, 80),
        Templates::new(1, [2, 2]).key(ServiceId(1), &client, 24, 80),
    ];
    // 192.0.2.1/25 masks to the same address as /24.
    assert_eq!(others.map(|other| other == key(&client, 24)), [false, false, true, false]);
}

#[derive(Debug, Clone)]
enum Step {
    Get(u64),
    Insert(u64, u32),
    Refresh(u64),
    Forget(u64),
    Wait(u32),
    Sweep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Twelve keys always find room, even in one bucket with expired templates.
    let key = (0u64..12).prop_map(|n| n.wrapping_mul(0x1555_5555_5555_5555));
    prop_oneof![
        key.clone().prop_map(Step::Get),
        (key.clone(), 0u32..4).prop_map(|(key, real)| Step::Insert(key, real)),
        key.clone().prop_map(Step::Refresh),
        key.prop_map(Step::Forget),
        (0u32..60).prop_map(Step::Wait),
        (0usize..3).prop_map(Step::Sweep),
    ]
}

proptest! {
    #[test]
    fn the_table_is_a_map_with_expiry(
        steps in prop::collection::vec(step(), 1..300), capacity in 1usize..60, start: u32,
    ) {
        let templates = Templates::new(capacity, [1, 2]);
        let mut model: HashMap<u64, (u32, u64)> = HashMap::new();
        let mut counts: HashMap<u32, i64> = HashMap::new();
        let mut passed = 0u64;
        let mut cursor = 0;
        for step in steps {
            let now = Ticks(start.wrapping_add(passed as u32));
            let live = |model: &HashMap<u64, (u32, u64)>, key| {
                model.get(&key).filter(|(_, expiry)| *expiry > passed).map(|(real, _)| *real)
            };
            let until = passed + u64::from(TIMEOUT.0);
            match step {
                Step::Get(key) => {
                    prop_assert_eq!(templates.get(key, now), live(&model, key).map(RealId));
                }
                Step::Insert(key, real) => {
                    let mut gone = None;
                    let removed = |real| gone = Some(real);
                    let got = templates.get_or_insert(key, RealId(real), now, TIMEOUT, removed);
                    let had = live(&model, key);
                    let expected = Template { real: RealId(had.unwrap_or(real)), is_new: had.is_none() };
                    prop_assert_eq!(got, Some(expected));
                    model.insert(key, (expected.real.0, until));
                    *counts.entry(real).or_default() += i64::from(expected.is_new);
                    if let Some(gone) = gone {
                        *counts.entry(gone.0).or_default() -= 1;
                    }
                }
                Step::Refresh(key) => {
                    templates.refresh(key, now, TIMEOUT);
                    if let Some(real) = live(&model, key) {
                        model.insert(key, (real, until));
                    }
                }
                Step::Forget(key) => {
                    let forgotten = templates.forget(key);
                    // An expired one may be there still, or not.
                    prop_assert!(forgotten.is_some() || live(&model, key).is_none());
                    let had = model.get(&key).map(|(real, _)| RealId(*real));
                    prop_assert!(forgotten.is_none() || forgotten == had);
                    if let Some(real) = forgotten {
                        *counts.entry(real.0).or_default() -= 1;
                    }
                    model.remove(&key);
                }
                Step::Wait(ticks) => passed += u64::from(ticks),
                Step::Sweep(n) => {
                    let removed = |real: RealId| *counts.entry(real.0).or_default() -= 1;
                    cursor = templates.sweep(cursor, n, now, |_| false, removed);
                }
            }
            counts.retain(|_, count| *count != 0);
            prop_assert_eq!(&templates.counts(), &counts);
        }
    }
}

/// What four workers do to few keys in one bucket, each in its own thread.
fn hammer<T: Send>(work: impl Fn(u32) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let run = move |worker: u32| {
            WALK.set(u64::from(worker) + 1);
            work(worker)
        };
        let threads: Vec<_> = (0..4).map(|worker| scope.spawn(move || run(worker))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn workers_that_meet_the_same_new_client_at_once_agree() {
    const ROUNDS: u32 = 3000;
    const KEYS: u64 = 10;
    let templates = Templates::new(1, [1, 2]);
    let barrier = Barrier::new(4);
    // Each round all templates of the last one have expired, and every slot is soon one that expired.
    let got = hammer(|worker| {
        let mut got = Vec::new();
        for round in 0..ROUNDS {
            let now = Ticks(u32::MAX - 20_000).plus(Ticks(round * 100));
            barrier.wait();
            for n in 0..KEYS {
                // Not all in the same order.
                let key = u64::from(round) % 3 * KEYS + (n + u64::from(worker) * 3) % KEYS;
                let real = RealId(round * 4 + worker);
                got.push((round, key, templates.get_or_insert(key, real, now, TIMEOUT, |_| ()).unwrap()));
            }
        }
        got
    });
    let mut agreed: HashMap<(u32, u64), RealId> = HashMap::new();
    let mut made: HashMap<(u32, u64), u32> = HashMap::new();
    for (round, key, template) in got.into_iter().flatten() {
        let real = *agreed.entry((round, key)).or_insert(template.real);
        assert_eq!(real, template.real, "round {round} key {key}");
        assert_eq!(real.0 / 4, round, "an old round's real server");
        *made.entry((round, key)).or_default() += u32::from(template.is_new);
    }
    assert_eq!(agreed.len(), ROUNDS as usize * KEYS as usize);
    assert!(made.values().all(|made| *made == 1), "each was made once");
}

#[test]
fn counts_stay_right_while_workers_insert_refresh_forget_and_sweep_at_once() {
    const STEPS: u32 = 100_000;
    let templates = Templates::new(2, [1, 2]);
    let counts: [AtomicI64; 4] = Default::default();
    let removed = |real: RealId| {
        counts[real.index()].fetch_sub(1, Relaxed);
    };
    hammer(|worker| {
        let mut random = u64::from(worker) + 1;
        for n in 0..STEPS {
            random = fold(random ^ 0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f);
            // Clocks of workers are not quite the same.
            let now = Ticks(n / 16 + (random >> 40) as u32 % 2);
            let key = random % 24;
            match random >> 32 & 7 {
                0 => templates.forget(key).into_iter().for_each(removed),
                1 => {
                    templates.sweep(n as usize, 1, now, |_| false, removed);
                }
                2 => templates.refresh(key, now, Ticks(5)),
                _ => {
                    let template = templates.get_or_insert(key, RealId(worker), now, Ticks(5), removed);
                    if let Some(template) = template.filter(|template| template.is_new) {
                        assert_eq!(template.real, RealId(worker));
                        counts[template.real.index()].fetch_add(1, Relaxed);
                    }
                }
            }
        }
    });
    let there = templates.counts();
    for (real, count) in counts.iter().enumerate() {
        assert_eq!(
            count.load(Relaxed),
            there.get(&(real as u32)).copied().unwrap_or(0),
            "real server {real}"
        );
    }
    // No key is there twice.
    for bucket in &templates.buckets {
        let header = bucket.header.load(Acquire);
        let visible = (0..SLOTS).filter(|slot| header & (VISIBLE << slot) != 0);
        let mut keys: Vec<u64> = visible.map(|slot| bucket.keys[slot].load(Acquire)).collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
