//! lc, wlc, sed, nq, lblc, lblcr.

use super::*;

const ONE_DAY: Ticks = Ticks::from_secs(24 * 60 * 60);

/// Two workers that open connections in turn, all of them active.
struct Rig {
    service: Service,
    counters: Vec<Arc<Counters>>,
    states: [SchedState; 2],
    turn: usize,
    now: Ticks,
}

impl Rig {
    fn new(scheduler: Scheduler, weights: &[u16]) -> Rig {
        let service = service(scheduler, weights);
        let states = [state(&service), state(&service)];
        Rig { service, counters: pages(2, weights.len()), states, turn: 0, now: Ticks(u32::MAX - 5) }
    }

    /// A connection to this virtual address on this worker.
    fn open_on(&mut self, worker: usize, virtual_: [u8; 4]) -> usize {
        let flow =
            Flow { now: self.now, client: &[10, 0, 0, 1], client_port: 1, virtual_: &virtual_, payload: &[] };
        let picked = self.states[worker].pick(&self.service, &flow, worker as u16, &self.counters).unwrap();
        self.counters[worker].real(self.service.reals[picked].id).active.add(1);
        picked
    }

    fn open(&mut self) -> usize {
        self.turn += 1;
        self.open_on(self.turn % 2, [10, 1, 0, 100])
    }

    fn counts(&mut self, connections: usize) -> Vec<usize> {
        let mut counts = vec![0; self.service.reals.len()];
        (0..connections).for_each(|_| counts[self.open()] += 1);
        counts
    }

    fn load(&self, real: u32, active: u64, inactive: u64) {
        self.counters[0].real(RealId(real)).active.set(active);
        self.counters[0].real(RealId(real)).inactive.set(inactive);
    }
}

#[test]
fn they_fill_up_over_all_workers_by_weight_or_evenly() {
    assert_eq!(Rig::new(Scheduler::Wlc, &[1, 2, 1]).counts(400), [100, 200, 100]);
    assert_eq!(Rig::new(Scheduler::Lc, &[1, 2, 1]).counts(300), [100, 100, 100]);
    assert_eq!(Rig::new(Scheduler::Sed, &[1, 2, 1]).counts(400), [100, 200, 100]);
}

#[test]
fn an_active_connection_weighs_as_much_as_256_others() {
    for scheduler in [Scheduler::Lc, Scheduler::Wlc] {
        let mut rig = Rig::new(scheduler, &[1, 1]);
        rig.load(0, 1, 0);
        rig.load(1, 0, 255);
        assert_eq!(rig.open(), 1, "{scheduler:?}");
        rig.load(1, 0, 257);
        assert_eq!(rig.open(), 0, "{scheduler:?}");
    }
}

#[test]
fn sed_leaves_a_slow_server_idle_and_nq_does_not() {
    let mut sed = Rig::new(Scheduler::Sed, &[1, 10]);
    assert_eq!((0..9).map(|_| sed.open()).collect::<Vec<_>>(), [1; 9]);
    let mut nq = Rig::new(Scheduler::Nq, &[1, 10]);
    let mut first_two = [nq.open(), nq.open()];
    first_two.sort_unstable();
    assert_eq!(first_two, [0, 1], "none waits while one is idle");
    assert_eq!((0..8).map(|_| nq.open()).collect::<Vec<_>>(), [1; 8]);
}

#[test]
fn sed_and_nq_look_at_active_connections_alone() {
    for scheduler in [Scheduler::Sed, Scheduler::Nq] {
        let mut rig = Rig::new(scheduler, &[1, 1]);
        rig.load(0, 0, 10_000);
        rig.load(1, 1, 0);
        assert_eq!(rig.open(), 0, "{scheduler:?}");
    }
}

#[test]
fn equals_take_turns() {
    for scheduler in [Scheduler::Lc, Scheduler::Wlc, Scheduler::Sed, Scheduler::Nq] {
        let service = service(scheduler, &[5, 5, 5]);
        assert_eq!(picks(&service, 0, 6), [0, 1, 2, 0, 1, 2], "{scheduler:?}");
        assert_eq!(picks(&service, 1, 3), [1, 2, 0], "{scheduler:?}");
    }
}

#[test]
fn lblc_keeps_a_destination_where_it_is_until_that_server_is_overloaded() {
    let mut rig = Rig::new(Scheduler::Lblc, &[10, 10]);
    let first = rig.open_on(0, [10, 1, 0, 1]);
    // Eleven active connections do not exceed 10 before the twelfth is asked for; another is then half idle.
    let kept: Vec<usize> = (0..10).map(|_| rig.open_on(0, [10, 1, 0, 1])).collect();
    assert_eq!(kept, [first; 10]);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), 1 - first, "11 active exceed the weight of 10");
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), 1 - first, "and there it stays");
}

#[test]
fn lblc_does_not_leave_an_overloaded_server_when_all_others_are_busy() {
    let mut rig = Rig::new(Scheduler::Lblc, &[10, 10]);
    let first = rig.open_on(0, [10, 1, 0, 1]);
    rig.load(first as u32, 100, 0);
    rig.load(1 - first as u32, 5, 0);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), first);
    rig.load(1 - first as u32, 4, 0);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), 1 - first);
}

#[test]
fn lblc_forgets_a_destination_after_a_day_without_connections() {
    let mut rig = Rig::new(Scheduler::Lblc, &[10, 10]);
    let first = rig.open_on(0, [10, 1, 0, 1]);
    rig.now = rig.now.plus(ONE_DAY);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), first);
    rig.now = rig.now.plus(ONE_DAY).plus(Ticks(1));
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), 1 - first, "the other has fewer connections");
}

#[test]
fn lblcr_adds_servers_under_load_and_takes_the_most_loaded_away_after_a_day() {
    let mut rig = Rig::new(Scheduler::Lblcr, &[10, 10, 10]);
    let first = rig.open_on(0, [10, 1, 0, 1]);
    rig.load(first as u32, 11, 0);
    let second = rig.open_on(0, [10, 1, 0, 1]);
    assert_ne!(first, second);
    // Both serve it now, the less loaded one first; the idle third does not.
    rig.load(first as u32, 2, 0);
    rig.load(second as u32, 3, 0);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), first);
    rig.load(first as u32, 6, 0);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), second);
    // The first is the most loaded when a day has passed since the set changed.
    rig.now = rig.now.plus(ONE_DAY);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), second);
    rig.load(first as u32, 4, 0);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), first, "both still serve it");
    rig.load(first as u32, 8, 0);
    rig.now = rig.now.plus(Ticks(1));
    rig.open_on(0, [10, 1, 0, 1]);
    rig.load(first as u32, 0, 0);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), second, "the set has shrunk");
}

#[test]
fn lblcr_forgets_servers_that_are_taken_from_the_service() {
    let mut rig = Rig::new(Scheduler::Lblcr, &[1; 20]);
    // Eight servers, as many as are remembered, all of them overloaded in turn, and then removed.
    let mut had = Vec::new();
    for _ in 0..8 {
        let picked = rig.open_on(0, [10, 1, 0, 1]);
        rig.load(picked as u32, 100, 0);
        had.push(picked);
    }
    rig.service.reals.retain(|real| !had.contains(&real.id.index()));
    let next = rig.open_on(0, [10, 1, 0, 1]);
    assert_eq!(rig.open_on(0, [10, 1, 0, 1]), next, "there was room to remember it");
}

#[test]
fn destinations_without_number_stay_within_the_table_and_the_rest_is_scheduled_all_the_same() {
    for scheduler in [Scheduler::Lblc, Scheduler::Lblcr] {
        let mut rig = Rig::new(scheduler, &[10_000, 10_000]);
        for n in 0..5000u32 {
            rig.open_on(0, n.to_be_bytes());
        }
        let [a, b] = [0, 1].map(|i| rig.counters[0].real(RealId(i)).active.get());
        assert_eq!((a, b), (2500, 2500), "{scheduler:?}");
    }
}
