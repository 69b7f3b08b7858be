//! Functions on lcores.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use common::{eal, eventually};
use dpdk::{Error, LcoreExit, current_lcore, lcore_count, tsc, tsc_hz};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// Tests of one process share the lcores.
static LCORES: Mutex<()> = Mutex::new(());

#[test]
fn two_workers_on_one_cpu_run_at_the_same_time() {
    let _guard = LCORES.lock().unwrap_or_else(PoisonError::into_inner);
    let (to_one, from_two) = mpsc::channel();
    let (to_main, from_one) = mpsc::channel();
    eal().launch(1, move || to_main.send((from_two.recv().unwrap(), current_lcore())).unwrap()).unwrap();
    eal().launch(2, move || to_one.send(current_lcore()).unwrap()).unwrap();
    assert_eq!(from_one.recv().unwrap(), (Some(2), Some(1)));
    assert_eq!((eal().wait(1), eal().wait(2)), (LcoreExit::Finished, LcoreExit::Finished));
    assert_eq!(lcore_count(eal()), 3);
}

#[test]
fn a_panic_ends_the_function_and_not_the_process() {
    let _guard = LCORES.lock().unwrap_or_else(PoisonError::into_inner);
    eal().launch(1, || panic!("on purpose")).unwrap();
    assert_eq!(eal().wait(1), LcoreExit::Panicked);
    eal().launch(1, || {}).unwrap();
    assert_eq!(eal().wait(1), LcoreExit::Finished, "the lcore is as good as new");
}

#[test]
fn a_busy_lcore_refuses_and_drops_what_it_cannot_run() {
    let _guard = LCORES.lock().unwrap_or_else(PoisonError::into_inner);
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    eal()
        .launch(2, move || {
            while !seen.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        })
        .unwrap();
    assert!(eal().is_running(2));
    let refused = stop.clone();
    assert_eq!(eal().launch(2, move || drop(refused)), Err(Error::LcoreBusy { id: 2 }));
    assert_eq!(Arc::strong_count(&stop), 2);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(eal().wait(2), LcoreExit::Finished);
    assert!(!eal().is_running(2));
    let workers = vec![1, 2];
    assert_eq!(eal().launch(0, || {}), Err(Error::UnknownLcore { id: 0, workers: workers.clone() }));
    assert_eq!(eal().launch(77, || {}), Err(Error::UnknownLcore { id: 77, workers }));
    assert_eq!(eal().wait(77), LcoreExit::Finished);
}

#[test]
fn the_time_stamp_counter_runs_at_the_rate_it_says() {
    let (hz, start, since) = (tsc_hz(eal()), tsc(), std::time::Instant::now());
    eventually("a tenth of a second", || tsc() - start >= hz / 10);
    let elapsed = since.elapsed().as_secs_f64();
    assert!((0.08..0.5).contains(&elapsed), "{elapsed}");
}
