//! Workers that pass fragments among themselves as those of the program do, in a small network.

use std::collections::{HashMap, VecDeque};

use super::super::*;
use crate::{WAIT_LEN_MAX, WAIT_SLOTS};

/// Workers with the rings and slots of a platform around them.
pub(super) struct Farm {
    pub(super) workers: Vec<Worker>,
    pub(super) counters: Vec<Arc<Counters>>,
    pub(super) slots: Vec<HashMap<u16, Vec<HeapBuf>>>,
    pub(super) now: Ticks,
    pub(super) forwarded: Vec<Vec<u8>>,
    pub(super) other: Vec<Verdict>,
    pub(super) freed: usize,
}

/// A packet on its way to a worker.
pub(super) struct Step {
    worker: usize,
    packet: HeapBuf,
    /// How often it was handed over.
    handed: usize,
}

impl Farm {
    pub(super) fn new(workers: u16, spec: ServiceSpec) -> Farm {
        let limits = Limits { services_max: 4, reals_max: 16, pairs_max: 16 };
        let counters: Vec<Arc<Counters>> = (0..workers).map(|_| Arc::new(Counters::new(4, 16, 16))).collect();
        let mut planner = Planner::new(limits, counters.clone());
        let updates = planner.plan(&Spec { generation: 1, services: vec![spec] }).unwrap();
        let fib = Arc::new(fib());
        let worker = |(id, mut update): (usize, Update)| {
            let config = WorkerConfig {
                id: WorkerId(id as u16),
                workers,
                connections_max: 100,
                limits,
                secret: [1, 2],
                punt_per_second: 1000,
                now: Ticks(0),
            };
            let mut worker = Worker::new(&config, counters[id].clone(), counters.clone());
            update.fib = Some(fib.clone());
            worker.apply(&mut update);
            worker
        };
        Farm {
            workers: updates.into_iter().enumerate().map(worker).collect(),
            slots: (0..workers).map(|_| HashMap::new()).collect(),
            counters,
            now: Ticks(100),
            forwarded: Vec::new(),
            other: Vec::new(),
            freed: 0,
        }
    }

    /// A frame comes in at a worker, and all that follows from it happens.
    pub(super) fn send(&mut self, worker: usize, frame: &[u8]) {
        let worker = worker % self.workers.len();
        // What a driver left there.
        let mut packet = HeapBuf::from_frame(frame);
        packet.set_note(0xdead_beef);
        self.run(VecDeque::from([Step { worker, packet, handed: 0 }]));
    }

    pub(super) fn run(&mut self, mut steps: VecDeque<Step>) {
        while let Some(Step { worker, packet, handed }) = steps.pop_front() {
            let mut packets = [packet];
            let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
            if handed == 0 {
                self.workers[worker].process(self.now, &mut packets, &mut verdicts);
            } else {
                self.workers[worker].process_handed_over(self.now, &mut packets, &mut verdicts);
            }
            let [packet] = packets;
            match verdicts[0] {
                Verdict::HandOver(to) => {
                    assert!(handed < 2 && to.index() != worker, "handed over {handed} times before");
                    steps.push_back(Step { worker: to.index(), packet, handed: handed + 1 });
                }
                Verdict::Wait(slot) => {
                    let slot = self.slots[worker].entry(slot.0).or_default();
                    assert!(slot.len() < WAIT_LEN_MAX);
                    slot.push(packet);
                }
                Verdict::Forward(_) => self.forwarded.push(packet.to_vec()),
                other => self.other.push(other),
            }
            steps.extend(self.released(worker));
        }
    }

    pub(super) fn released(&mut self, worker: usize) -> Vec<Step> {
        let mut again = Vec::new();
        while let Some(released) = self.workers[worker].take_released() {
            match released {
                Released::Process(slot) => {
                    let packets = self.slots[worker].remove(&slot.0).unwrap();
                    again.extend(packets.into_iter().map(|packet| Step { worker, packet, handed: 0 }));
                }
                Released::Free(slot) => self.freed += self.slots[worker].remove(&slot.0).unwrap().len(),
            }
        }
        assert!(self.slots[worker].len() <= WAIT_SLOTS);
        again
    }

    pub(super) fn pass(&mut self, seconds: u32) {
        self.now = self.now.plus(Ticks::from_secs(seconds));
        for worker in 0..self.workers.len() {
            self.workers[worker].housekeep(self.now);
            assert!(self.released(worker).is_empty());
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.slots.iter().flat_map(HashMap::values).map(Vec::len).sum()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|counters| counters.dropped(reason).get()).sum()
    }

    pub(super) fn event(&self, event: Counter) -> u64 {
        self.counters.iter().map(|counters| counters.event(event).get()).sum()
    }

    /// The only frame that was forwarded.
    pub(super) fn one(&mut self) -> Vec<u8> {
        assert_eq!((self.forwarded.len(), &self.other[..]), (1, &[][..]));
        self.forwarded.pop().unwrap()
    }
}

pub(super) fn v6(last: u16) -> IpAddr {
    std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, last).into()
}

pub(super) fn client(wide: bool) -> IpAddr {
    if wide { v6(9) } else { CLIENT.into() }
}

pub(super) fn vip(wide: bool) -> IpAddr {
    if wide { v6(100) } else { VIP.into() }
}

pub(super) fn local(wide: bool) -> IpAddr {
    if wide { v6(200) } else { LIP.into() }
}

pub(super) fn real(wide: bool) -> IpAddr {
    if wide { v6(11) } else { REAL.into() }
}

pub(super) fn fib() -> Fib {
    let mut fib = FibBuilder::default();
    fib.set_port(CLIENT_SIDE, FibPort { mac: GATEWAY_MAC, mtu: 1500 });
    for (network, len) in [(IpAddr::from([10, 0, 0, 0]), 8), (v6(0), 64)] {
        fib.set_route(network, len, Route { via: None, port: CLIENT_SIDE });
    }
    for wide in [false, true] {
        fib.set_neighbour(CLIENT_SIDE, client(wide), Some(CLIENT_MAC));
        fib.set_neighbour(CLIENT_SIDE, real(wide), Some(REAL_MAC));
    }
    fib.build()
}
