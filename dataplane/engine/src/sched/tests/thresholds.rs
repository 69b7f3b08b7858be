//! Upper and lower thresholds.

use super::*;

const REAL: RealId = RealId(0);

struct Full {
    service: Service,
    counters: Vec<Arc<Counters>>,
}

impl Full {
    fn new(upper: u32, lower: u32) -> Full {
        let reals = vec![Real { upper, lower, ..real(0, 1) }];
        let service = service_of(Scheduler::Rr, SchedulerFlags::default(), reals);
        Full { service, counters: pages(2, 1) }
    }

    fn picks(&self, worker: u16) -> bool {
        with_flow(0, |flow| state(&self.service).pick(&self.service, flow, worker, &self.counters)).is_some()
    }

    /// Fills the server up; returns how many connections it took.
    fn fill(&self) -> u64 {
        let mut taken = 0;
        while taken < 1000 && self.picks((taken % 2) as u16) {
            self.counters[taken as usize % 2].real(REAL).held.add(1);
            taken += 1;
        }
        taken
    }

    /// Ends connections until the server takes new ones; returns how many are left.
    fn drain(&self, mut left: u64) -> u64 {
        while left > 0 && !self.picks(0) {
            left -= 1;
            let page = self.counters.iter().find(|page| page.real(REAL).held.get() > 0).unwrap();
            page.real(REAL).held.sub(1);
        }
        left
    }
}

#[test]
fn a_full_server_takes_connections_again_below_the_lower_threshold() {
    let full = Full::new(10, 4);
    assert_eq!(full.fill(), 10);
    assert_eq!(full.drain(10), 3);
}

#[test]
fn without_a_lower_threshold_it_is_three_quarters_of_the_upper() {
    let full = Full::new(10, 0);
    assert_eq!(full.fill(), 10);
    assert_eq!(full.drain(10), 7);
}

#[test]
fn a_server_that_was_filled_by_the_last_pick_stays_full_when_one_connection_ends_unseen() {
    let full = Full::new(10, 4);
    full.fill();
    full.counters[0].real(REAL).held.sub(1);
    assert!(!full.picks(0) && !full.picks(1));
}

#[test]
fn a_raised_threshold_opens_the_server_at_once_and_a_removed_one_too() {
    for upper in [11, 0] {
        let mut full = Full::new(10, 4);
        full.fill();
        full.service.reals[0].upper = upper;
        assert!(full.picks(0), "{upper}");
    }
}

#[test]
fn overloaded_servers_are_passed_over_in_wrr_without_upsetting_the_others() {
    let mut reals: Vec<Real> =
        [60_000, 3, 1].iter().enumerate().map(|(i, weight)| real(i, *weight)).collect();
    reals[0].upper = 1;
    let service = service_of(Scheduler::Wrr, SchedulerFlags::default(), reals);
    let counters = pages(1, 3);
    counters[0].real(REAL).held.add(1);
    let mut state = state(&service);
    let picks: Vec<usize> =
        (0..8).map(|_| with_flow(0, |flow| state.pick(&service, flow, 0, &counters)).unwrap()).collect();
    assert_eq!(picks, [1, 2, 1, 1, 1, 2, 1, 1]);
}
