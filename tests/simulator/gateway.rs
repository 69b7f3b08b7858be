//! The gateway: workers of the real engine, the planner and the forwarding table as the dataplane uses them, and the
//! rings between workers.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use engine::fib::{FibPort, Route};
use engine::plan::Update;
use engine::rss::{Hashed, KEY_LEN};
use engine::snapshot::Mode;
use engine::{
    BURST_LEN_MAX, ConnFilter, ConnInfo, ConnState, Counter, Counters, DropReason, FibBuilder, PairId,
    Planner, PortId, PuntClass, RealId, Released, Rss, Spec, Ticks, Verdict, Worker, WorkerConfig, WorkerId,
    steer,
};
use wire::{HeapBuf, MacAddr, PacketBuf};

use crate::faults::Fault;
use crate::oracle::Oracle;
use crate::packet::{self, Mac, is_fragment};
use crate::rng::{Rng, mix};
use crate::topology::{LIMITS, ROUTER, ROUTER6, Shape, client_ip, gateway_mac, server_ip};

const PUNT_PER_SECOND: u32 = 2_000;
/// As an error of IPv4 needs that becomes one of IPv6.
const TAILROOM: usize = 64;
/// What the engine may need in front of a frame, at most: an IPv6 header with UDP and GUE (52 bytes), and the
/// address of what is to be resolved.
const HEADROOM_MIN: usize = 52 + Verdict::TARGET_LEN;

/// A packet that leaves the engine.
#[derive(Debug)]
pub(crate) struct Emitted {
    pub(crate) worker: WorkerId,
    pub(crate) port: PortId,
    pub(crate) verdict: Verdict,
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
}

struct Lane {
    worker: Worker,
    /// From the ports.
    queue: VecDeque<HeapBuf>,
    /// From other workers.
    ring: VecDeque<HeapBuf>,
    /// By slot: fragments that wait for the first one of their packet.
    slots: HashMap<u16, Vec<HeapBuf>>,
    /// Configurations on their way, oldest first.
    updates: VecDeque<Update>,
    tally: Tally,
}

/// What a worker was given and what became of it, to compare with its counters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Tally {
    given: u64,
    forwarded: u64,
    replied: u64,
    unresolved: u64,
    handed_over: u64,
    punts: u64,
    waited: u64,
    drops: u64,
}

/// The ports' receive hash, and whether they really hash so.
struct Nic {
    rss: Arc<Rss>,
    honest: bool,
}

impl Nic {
    /// Half of the gateways with several workers have one; every fourth of these lies. With real servers in
    /// NAT none does: when a service gets its first one, only the NIC finds the owners of its older
    /// connections.
    fn of(seed: u64, shape: &Shape) -> Option<Nic> {
        let workers = shape.workers;
        if workers == 1 || seed & 1 == 0 {
            return None;
        }
        let bytes = |n: u64| mix(seed ^ n << 48).to_le_bytes();
        let key: Vec<u8> = (1..=KEY_LEN as u64 / 8).flat_map(bytes).collect();
        let len = 4 << (seed >> 8 & 7);
        let table: Vec<u16> = (0..len).map(|entry| entry % workers).collect();
        // Under some keys local ports cannot be chosen: such a gateway steers in software.
        let rss = Arc::new(Rss::new(&key, &table, workers, Hashed::ALL).ok()?);
        Some(Nic { rss, honest: seed >> 4 & 3 != 0 || shape.modes.contains(&Mode::Nat) })
    }

    /// The worker that it brings a frame to; of what is no whole segment or datagram it hashes less.
    fn worker(&self, frame: &[u8]) -> Option<usize> {
        let segment = packet::parse(frame).filter(|_| self.honest && !is_fragment(frame))?;
        self.rss.worker_of(segment.protocol, segment.src, segment.dst).map(WorkerId::index)
    }
}

pub(crate) struct Gateway {
    nic: Option<Nic>,
    lanes: Vec<Lane>,
    counters: Vec<Arc<Counters>>,
    planner: Planner,
    fib: FibBuilder,
    rng: Rng,
    pub(crate) fault: Fault,
}

impl Gateway {
    /// A gateway with this configuration in force. `fib` outlives crashes: the kernel keeps it.
    pub(crate) fn start(
        rng: &mut Rng,
        shape: &Shape,
        spec: &Spec,
        mut fib: FibBuilder,
        now: Ticks,
    ) -> Result<Gateway, String> {
        let mut rng = rng.fork();
        let page = || Arc::new(Counters::new(LIMITS.services_max, LIMITS.reals_max, LIMITS.pairs_max));
        let counters: Vec<_> = (0..shape.workers).map(|_| page()).collect();
        let secret = [rng.next(), rng.next()];
        let nic = Nic::of(mix(secret[0]), shape);
        let rss = nic.as_ref().map(|nic| nic.rss.clone());
        let table = Arc::new(fib.build());
        let lane = |id: u16| {
            let config = WorkerConfig {
                id: WorkerId(id),
                workers: shape.workers,
                connections_max: shape.connections_max,
                limits: LIMITS,
                secret,
                punt_per_second: PUNT_PER_SECOND,
                now,
            };
            let mut worker = Worker::new(&config, counters[usize::from(id)].clone(), counters.clone())
                .with_rss(rss.clone());
            worker.apply(&mut Update::of_fib(table.clone()));
            Lane {
                worker,
                queue: VecDeque::new(),
                ring: VecDeque::new(),
                slots: HashMap::new(),
                updates: VecDeque::new(),
                tally: Tally::default(),
            }
        };
        let lanes = (0..shape.workers).map(lane).collect();
        let planner = Planner::new(LIMITS, counters.clone()).with_rss(rss.clone());
        let mut gateway = Gateway { nic, lanes, counters, planner, fib, rng, fault: Fault::None };
        gateway.configure(spec)?;
        for lane in &mut gateway.lanes {
            lane.take_updates();
        }
        Ok(gateway)
    }

    /// What the kernel knows about the network.
    pub(crate) fn network(shape: &Shape) -> FibBuilder {
        let mut fib = FibBuilder::default();
        for port in [PortId(0), PortId(1)] {
            fib.set_port(port, FibPort { mac: MacAddr(gateway_mac(port)), mtu: shape.mtu });
        }
        let client_side = PortId(0);
        let default = |via: IpAddr| Route { via: Some(via), port: client_side };
        fib.set_route(Ipv4Addr::UNSPECIFIED.into(), 0, default(ROUTER.into()));
        fib.set_route(Ipv6Addr::UNSPECIFIED.into(), 0, default(ROUTER6.into()));
        for wide in [false, true] {
            let near = if wide { 48 } else { 24 };
            fib.set_route(client_ip(0, wide), near, Route { via: None, port: client_side });
            let inside = if wide { 32 } else { 16 };
            fib.set_route(server_ip(0, wide), inside, Route { via: None, port: shape.server_port });
        }
        fib
    }

    pub(crate) fn into_network(self) -> FibBuilder {
        self.fib
    }

    /// Gives a configuration to the workers; each takes it when [`Gateway::take_updates`] says so.
    pub(crate) fn configure(&mut self, spec: &Spec) -> Result<(), String> {
        let updates =
            self.planner.plan(spec).map_err(|error| format!("the configuration is refused: {error}"))?;
        for (lane, update) in self.lanes.iter_mut().zip(updates) {
            lane.updates.push_back(update);
        }
        Ok(())
    }

    pub(crate) fn set_neighbour(&mut self, port: PortId, address: IpAddr, mac: Mac) {
        self.fib.set_neighbour(port, address, Some(MacAddr(mac)));
        let table = Arc::new(self.fib.build());
        for lane in &mut self.lanes {
            lane.updates.push_back(Update::of_fib(table.clone()));
        }
    }

    /// One worker takes what was sent to it.
    pub(crate) fn take_updates(&mut self, worker: usize) {
        self.lanes[worker].take_updates();
    }

    /// A frame comes in on a port; which worker polls it is up to the NIC.
    pub(crate) fn receive(&mut self, port: PortId, frame: &[u8]) -> usize {
        let any = self.rng.below(self.lanes.len() as u64) as usize;
        let worker = self.nic.as_ref().and_then(|nic| nic.worker(frame)).unwrap_or(any);
        let room = if self.rng.chance(50_000) { 128 } else { HEADROOM_MIN };
        self.lanes[worker].queue.push_back(HeapBuf::with_room(frame, room, TAILROOM).on_port(port.0));
        worker
    }

    pub(crate) fn has_work(&self, worker: usize) -> bool {
        !self.lanes[worker].queue.is_empty() || !self.lanes[worker].ring.is_empty()
    }

    /// One turn of a worker's loop: a burst from its queue, one from its ring, some housekeeping. What leaves is
    /// appended to `out`; workers that were handed something are named.
    pub(crate) fn turn(
        &mut self,
        worker: usize,
        now: Ticks,
        oracle: &mut Oracle,
        out: &mut Vec<Emitted>,
    ) -> Result<Vec<usize>, String> {
        let mut woken = Vec::new();
        for ring in [false, true] {
            let lane = &mut self.lanes[worker];
            let queue = if ring { &mut lane.ring } else { &mut lane.queue };
            let len = queue.len().min(self.rng.range(1, BURST_LEN_MAX as u64) as usize);
            let mut burst: Vec<HeapBuf> = queue.drain(..len).collect();
            let before: Vec<Vec<u8>> = burst.iter().map(HeapBuf::to_vec).collect();
            let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];
            if ring {
                lane.worker.process_handed_over(now, &mut burst, &mut verdicts);
            } else {
                lane.worker.process(now, &mut burst, &mut verdicts);
            }
            lane.tally.given += len as u64;
            for ((packet, before), verdict) in burst.into_iter().zip(before).zip(verdicts) {
                self.settle(worker, ring, packet, before, verdict, oracle, out, &mut woken)?;
            }
        }
        self.lanes[worker].worker.housekeep(now);
        if self.lanes[worker].empty_slots() {
            woken.push(worker);
        }
        Ok(woken)
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `turn`, cut out of it to be readable")]
    fn settle(
        &mut self,
        worker: usize,
        ring: bool,
        packet: HeapBuf,
        before: Vec<u8>,
        verdict: Verdict,
        oracle: &mut Oracle,
        out: &mut Vec<Emitted>,
        woken: &mut Vec<usize>,
    ) -> Result<(), String> {
        let id = WorkerId(worker as u16);
        let tally = &mut self.lanes[worker].tally;
        let port = match verdict {
            Verdict::Forward(port) | Verdict::ForwardCut { port, .. } => (&mut tally.forwarded, port),
            Verdict::Reply(port) => (&mut tally.replied, port),
            Verdict::Resolve(port) => (&mut tally.unresolved, port),
            Verdict::HandOver(_) => (&mut tally.handed_over, PortId(packet.port())),
            Verdict::Punt(_) => (&mut tally.punts, PortId(packet.port())),
            Verdict::Drop(_) => (&mut tally.drops, PortId(packet.port())),
            Verdict::Wait(_) => (&mut tally.waited, PortId(packet.port())),
        };
        *port.0 += 1;
        let port = port.1;
        let mut after = packet.to_vec();
        let mut target = None;
        if let Verdict::Resolve(_) = verdict {
            let bytes: Vec<u8> = after.drain(..Verdict::TARGET_LEN).collect();
            target = bytes.try_into().ok().map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).to_canonical());
        }
        self.fault.strike(&before, verdict, &mut after);
        oracle
            .check(id, &before, verdict, &after, target)
            .map_err(|broken| explain(&broken, id, verdict, &before, &after))?;
        if let Verdict::HandOver(to) = verdict {
            // Who knows a fragment's ports is not always who owns its connection.
            if ring && !is_fragment(&before) {
                return Err(format!("worker {worker} hands on what was handed to it"));
            }
            let Some(lane) = self.lanes.get_mut(to.index()) else {
                return Err(format!("worker {worker} hands over to worker {to}, who does not exist"));
            };
            lane.ring.push_back(packet);
            woken.push(to.index());
        } else if let Verdict::Wait(slot) = verdict {
            self.lanes[worker].slots.entry(slot.0).or_default().push(packet);
        }
        out.push(Emitted { worker: id, port, verdict, before, after });
        Ok(())
    }

    /// Next hops that workers wanted.
    pub(crate) fn take_wanted(&mut self) -> Vec<(PortId, IpAddr)> {
        self.lanes.iter_mut().flat_map(|lane| lane.worker.take_wanted()).collect()
    }

    pub(crate) fn housekeep(&mut self, now: Ticks) {
        for lane in &mut self.lanes {
            // A worker's loop turns thousands of times in a step of ours; a bounded share does.
            while lane.worker.housekeep(now) > 0 {}
            // What comes of age here waited in vain.
            lane.empty_slots();
        }
    }

    /// Every connection of every worker.
    pub(crate) fn connections(&self, now: Ticks) -> Vec<(WorkerId, ConnInfo)> {
        let mut all = Vec::new();
        for (id, lane) in self.lanes.iter().enumerate() {
            let mut page = Vec::with_capacity(64);
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                cursor = lane.worker.export(now, &ConnFilter::default(), at, 128, &mut page);
                all.extend(page.drain(..).map(|info| (WorkerId(id as u16), info)));
            }
        }
        all
    }

    /// What was given is what came out, and the counters tell the same.
    pub(crate) fn check_accounts(&self) -> Result<(), String> {
        for (id, (lane, counters)) in self.lanes.iter().zip(&self.counters).enumerate() {
            let tally = &lane.tally;
            let counted = Tally {
                given: tally.given,
                forwarded: counters.event(Counter::Forwarded).get(),
                replied: counters.event(Counter::Replied).get(),
                unresolved: counters.event(Counter::Unresolved).get(),
                handed_over: counters.event(Counter::HandedOver).get(),
                waited: counters.event(Counter::FragmentsWaited).get(),
                punts: PuntClass::ALL.iter().map(|c| counters.punt(*c).get()).sum(),
                drops: DropReason::ALL.iter().map(|r| counters.dropped(*r).get()).sum(),
            };
            let out = tally.forwarded
                + tally.replied
                + tally.unresolved
                + tally.handed_over
                + tally.punts
                + tally.waited
                + tally.drops;
            if tally.given != out || *tally != counted {
                return Err(format!(
                    "worker {id} was given {}, accounts for {out}: {tally:?} counted {counted:?}",
                    tally.given
                ));
            }
        }
        Ok(())
    }

    /// Gauges agree with the table: states, embryonic, connections, per real server, ports in use.
    pub(crate) fn check_gauges(&self, now: Ticks) -> Result<(), String> {
        let all = self.connections(now);
        for (id, counters) in self.counters.iter().enumerate() {
            let own: Vec<&ConnInfo> =
                all.iter().filter(|(w, _)| w.index() == id).map(|(_, info)| info).collect();
            let expect = |what: &str, gauge: u64, real: usize| {
                if gauge == real as u64 {
                    Ok(())
                } else {
                    Err(format!("worker {id}: gauge {what} is {}, the table has {real}", gauge as i64))
                }
            };
            expect("connections", counters.connections.get(), own.len())?;
            let embryonic = own.iter().filter(|c| c.state.is_embryonic()).count() as u64;
            // Which UDP connections are unanswered is not exported.
            let udp = own.iter().filter(|c| c.state == ConnState::Udp && !c.mode.is_one_way()).count() as u64;
            let gauge = counters.embryonic.get();
            if gauge < embryonic || gauge > embryonic + udp {
                return Err(format!(
                    "worker {id}: gauge embryonic is {gauge}, the table has {embryonic}, UDP {udp}"
                ));
            }
            for state in ConnState::ALL {
                let count = own.iter().filter(|c| c.state == state).count();
                expect(state.name(), counters.state(state).get(), count)?;
            }
            let active = own.iter().filter(|c| c.state.is_active()).count();
            let reals = || (0..LIMITS.reals_max as u32).map(|n| counters.real(RealId(n)));
            expect("active", reals().map(|r| r.active.get()).fold(0, u64::wrapping_add), active)?;
            expect(
                "inactive",
                reals().map(|r| r.inactive.get()).fold(0, u64::wrapping_add),
                own.len() - active,
            )?;
            let pairs = (0..LIMITS.pairs_max as u32).map(|n| counters.pair(PairId(n)).in_use.get());
            let with_port = own.iter().filter(|c| c.mode == Mode::FullNat).count();
            expect("ports in use", pairs.fold(0, u64::wrapping_add), with_port)?;
        }
        Ok(())
    }

    /// Every single gauge is zero.
    pub(crate) fn check_empty(&self, now: Ticks) -> Result<(), String> {
        if let Some((worker, left)) = self.connections(now).first() {
            return Err(format!("worker {worker} still remembers {left:?}"));
        }
        self.check_gauges(now)?;
        for (id, counters) in self.counters.iter().enumerate() {
            for n in 0..LIMITS.reals_max as u32 {
                let real = counters.real(RealId(n));
                if real.active.get() != 0 || real.inactive.get() != 0 {
                    return Err(format!("worker {id}: real server slot {n} keeps counting {real:?}"));
                }
            }
            if let Some(n) =
                (0..LIMITS.pairs_max as u32).find(|n| counters.pair(PairId(*n)).in_use.get() != 0)
            {
                return Err(format!("worker {id}: pair slot {n} keeps ports in use"));
            }
        }
        Ok(())
    }

    /// Who owns the replies of a FULLNAT connection.
    pub(crate) fn owner_of_replies(&self, info: &ConnInfo) -> WorkerId {
        let by_nic =
            self.nic.as_ref().and_then(|nic| nic.rss.worker_of(info.protocol, info.real, info.local));
        by_nic.unwrap_or_else(|| steer::owner_of_local_port(info.local.port(), self.lanes.len() as u16))
    }

    /// An honest NIC brings every whole segment and datagram to its owner.
    pub(crate) fn check_steering(&self) -> Result<(), String> {
        match (self.count(Counter::Misdirected), &self.nic) {
            (0, _) | (_, Some(Nic { honest: false, .. })) => Ok(()),
            (misdirected, _) => Err(format!("{misdirected} packets were brought to the wrong worker")),
        }
    }

    /// Sum of an event over all workers.
    pub(crate) fn count(&self, event: Counter) -> u64 {
        self.counters.iter().map(|c| c.event(event).get()).sum()
    }

    pub(crate) fn count_drop(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|c| c.dropped(reason).get()).sum()
    }
}

impl Lane {
    fn take_updates(&mut self) {
        for mut update in self.updates.drain(..) {
            self.worker.apply(&mut update);
        }
    }

    /// Does what the worker says with fragments that need not wait any longer; whether there is work now.
    fn empty_slots(&mut self) -> bool {
        let mut again = false;
        while let Some(released) = self.worker.take_released() {
            match released {
                Released::Process(slot) => {
                    self.queue.extend(self.slots.remove(&slot.0).unwrap_or_default());
                    again = true;
                }
                Released::Free(slot) => {
                    let freed = self.slots.remove(&slot.0).unwrap_or_default().len() as u64;
                    self.tally.given += freed;
                    self.tally.drops += freed;
                }
            }
        }
        again
    }
}

fn explain(broken: &str, worker: WorkerId, verdict: Verdict, before: &[u8], after: &[u8]) -> String {
    format!(
        "{broken}\n  worker {worker}, {verdict:?}\n  in:  {}\n  out: {}",
        packet::summary(before),
        packet::summary(after)
    )
}
