//! lc, wlc, sed and nq over very many real servers.

use super::*;

const LEAST: [Scheduler; 4] = [Scheduler::Lc, Scheduler::Wlc, Scheduler::Sed, Scheduler::Nq];

/// Workers that take turns, with a ranking each.
struct Rig {
    service: Service,
    counters: Vec<Arc<Counters>>,
    states: Vec<SchedState>,
    now: Ticks,
}

impl Rig {
    fn new(scheduler: Scheduler, weights: &[u16], workers: usize) -> Rig {
        let service = service(scheduler, weights);
        let counters = pages(workers, weights.len());
        let memory = || Memory::Ranking(Box::new(Ranking::new(&service, &counters)));
        let state = || SchedState { memory: Some(memory()), ..SchedState::default() };
        let states = (0..workers).map(|_| state()).collect();
        Rig { service, counters, states, now: Ticks(7) }
    }

    fn pick(&mut self, worker: usize) -> Option<usize> {
        let flow = Flow {
            now: self.now,
            client: &[10, 0, 0, 1],
            client_port: 1,
            virtual_: &[10, 1, 0, 100],
            payload: &[],
        };
        self.states[worker].pick(&self.service, &flow, worker as u16, &self.counters)
    }

    fn open(&mut self, worker: usize) -> Option<usize> {
        let picked = self.pick(worker)?;
        let counters = self.counters[worker].real(RealId(picked as u32));
        counters.active.add(1);
        counters.held.add(1);
        Some(picked)
    }

    fn load(&self, real: usize) -> u64 {
        self.counters.iter().fold(0, |sum, page| sum + page.real(RealId(real as u32)).active.get())
    }

    /// What a look at all servers would pick, from the same place on.
    fn by_a_look_at_all(&self, worker: usize) -> Option<usize> {
        let state = &self.states[worker];
        let last = if state.started {
            state.last as usize
        } else {
            rounds::start(&self.service, worker as u16, 1).0 as usize
        };
        least::of_all(&self.service, last, &self.counters)
    }
}

proptest! {
    #[test]
    fn as_long_as_only_this_worker_changes_anything_the_pick_is_that_of_a_look_at_all(
        scheduler in prop::sample::select(LEAST.to_vec()),
        weights in prop::collection::vec(0u16..5, RANKED_FROM..3 * RANKED_FROM),
        picks in 1usize..400,
    ) {
        let mut rig = Rig::new(scheduler, &weights, 1);
        for _ in 0..picks {
            let expected = rig.by_a_look_at_all(0).filter(|i| weights[*i] > 0);
            prop_assert_eq!(rig.open(0), expected);
        }
    }

    #[test]
    fn a_server_that_became_idle_is_found_within_a_quarter_as_many_picks_as_there_are_servers(
        scheduler in prop::sample::select(LEAST.to_vec()),
        servers in RANKED_FROM..500,
        idle in any::<prop::sample::Index>(),
    ) {
        let mut rig = Rig::new(scheduler, &vec![1; servers], 1);
        (0..3 * servers).for_each(|_| { rig.open(0); });
        let idle = idle.index(servers);
        rig.counters[0].real(RealId(idle as u32)).active.set(0);
        let found = (0..servers.div_ceil(4)).any(|_| rig.open(0) == Some(idle));
        prop_assert!(found);
    }

    #[test]
    fn workers_that_pick_at_the_same_time_load_all_servers_alike(
        scheduler in prop::sample::select(LEAST.to_vec()),
        workers in 2usize..9,
        order in prop::collection::vec(any::<prop::sample::Index>(), 600),
    ) {
        let mut rig = Rig::new(scheduler, &[1; 100], workers);
        for worker in &order {
            rig.open(worker.index(workers));
        }
        let loads: Vec<u64> = (0..100).map(|real| rig.load(real)).collect();
        prop_assert!(loads.iter().all(|load| (5..=7).contains(load)), "{loads:?}");
    }
}

#[test]
fn closed_servers_are_passed_over_and_found_again_when_they_open() {
    for scheduler in LEAST {
        let mut rig = Rig::new(scheduler, &[1; 100], 1);
        rig.service.reals.iter_mut().for_each(|real| real.upper = 1);
        let mut picked: Vec<usize> = (0..100).map(|_| rig.open(0).unwrap()).collect();
        picked.sort_unstable();
        assert_eq!(picked, (0..100).collect::<Vec<_>>(), "{scheduler:?}");
        assert_eq!(rig.open(0), None, "{scheduler:?}: all are full");
        rig.counters[0].real(RealId(41)).held.set(0);
        rig.counters[0].real(RealId(41)).active.set(0);
        rig.now = rig.now.plus(Ticks(1));
        assert_eq!(rig.open(0), Some(41), "{scheduler:?}: at the latest in the next tick");
    }
}

#[test]
fn servers_that_others_filled_hide_no_open_one() {
    for scheduler in LEAST {
        let mut rig = Rig::new(scheduler, &[1; 300], 2);
        rig.service.reals.iter_mut().for_each(|real| real.upper = 10);
        assert!(rig.open(0).is_some());
        // While this worker rests, others fill all but the last, which is not idle either.
        for real in 0..300 {
            let held = if real == 299 { 5 } else { 10 };
            let page = rig.counters[1].real(RealId(real));
            page.held.set(held);
            page.active.set(held);
        }
        rig.now = rig.now.plus(Ticks(1));
        assert_eq!(rig.open(0), Some(299), "{scheduler:?}");
    }
}

#[test]
fn equals_take_turns_even_if_their_connections_end_at_once() {
    for scheduler in LEAST {
        let mut rig = Rig::new(scheduler, &[3; 70], 1);
        let picked: Vec<usize> = (0..140).map(|_| rig.pick(0).unwrap()).collect();
        assert_eq!(picked, (0..70).chain(0..70).collect::<Vec<_>>(), "{scheduler:?}");
    }
}

#[test]
fn a_ranking_of_another_number_of_servers_is_not_used() {
    let mut rig = Rig::new(Scheduler::Wlc, &[1; 70], 1);
    rig.service.reals.truncate(65);
    rig.counters[0].real(RealId(0)).active.set(1);
    assert_eq!(rig.open(0), Some(1));
}
