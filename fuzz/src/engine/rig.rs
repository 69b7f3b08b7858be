//! One worker with clients on one port and real servers on the other, and the promises about it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use engine::fib::{FibBuilder, FibPort, Route};
use engine::snapshot::{Mode, Scheduler};
use engine::tcp::Timeouts;
use engine::{
    BURST_LEN_MAX, ConnFilter, Counter, Counters, DropReason, Limits, Planner, RealSpec, Released,
    ServiceSpec, Spec, Ticks, Update, Verdict, WAIT_LEN_MAX, Worker, WorkerConfig, WorkerId,
};
use wire::tcp::flags;
use wire::{HeapBuf, U32, checksum, icmp, ipv4, ipv6, toa, view};

use super::mixed::{self, Kept};
use super::sent::{CLIENTS, GATEWAY_MAC, LIP, PEER_MAC, Parts, REALS, RPORT, Sent, TOA_KIND, VIP, VPORT};
use super::{CLIENT_SIDE, SERVER_SIDE, control_bits};
use crate::script::Script;

/// Small, so that scripts can fill it.
const CONNECTIONS_MAX: u32 = 16;
/// Few, so that scripts can use them up.
const LOCAL_PORTS: (u16, u16) = (2000, 2011);

pub(super) struct Rig {
    worker: Worker,
    planner: Planner,
    counters: Arc<Counters>,
    now: Ticks,
    generation: u64,
    toa: bool,
    /// Ports from which connections were seen to go to real servers.
    local_ports: Vec<u16>,
    dropped: u64,
    /// What was forwarded of connections of [`mixed`].
    pub(super) kept: Kept,
    /// By slot: fragments that wait.
    waiting: HashMap<u16, Vec<Sent>>,
}

impl Rig {
    /// `how`: bit 0 switches TOA off, bits 1 and 2 choose the scheduler, bit 3 lets time wrap soon.
    pub(super) fn new(how: u8) -> Self {
        let limits = Limits { services_max: 32, reals_max: 48, pairs_max: 32 };
        let counters = Arc::new(Counters::new(limits.services_max, limits.reals_max, limits.pairs_max));
        let now = if how & 8 == 0 { Ticks(100) } else { Ticks(u32::MAX - 500) };
        let config = WorkerConfig {
            id: WorkerId(0),
            workers: 1,
            connections_max: CONNECTIONS_MAX,
            limits,
            secret: [1, 2],
            punt_per_second: 1000,
            now,
        };
        let worker = Worker::new(&config, counters.clone(), vec![counters.clone()]);
        let planner = Planner::new(limits, vec![counters.clone()]);
        let toa = how & 1 == 0;
        let mut rig = Self {
            worker,
            planner,
            counters,
            now,
            generation: 0,
            toa,
            local_ports: vec![2000],
            dropped: 0,
            kept: Kept::default(),
            waiting: HashMap::new(),
        };
        rig.configure(how & 0x06);
        rig.connect();
        rig
    }

    /// Routes and neighbours; the second real server's MAC address stays unknown.
    fn connect(&mut self) {
        let mut fib = FibBuilder::default();
        for port in [CLIENT_SIDE, SERVER_SIDE] {
            fib.set_port(port, FibPort { mac: GATEWAY_MAC, mtu: 1500 });
        }
        fib.set_route([10, 1, 0, 0].into(), 24, Route { via: None, port: CLIENT_SIDE });
        fib.set_route([10, 2, 0, 0].into(), 24, Route { via: None, port: SERVER_SIDE });
        for (port, network) in [CLIENT_SIDE, SERVER_SIDE].into_iter().zip(mixed::networks()) {
            fib.set_route(network.into(), 48, Route { via: None, port });
        }
        fib.set_neighbour(CLIENT_SIDE, mixed::client6().into(), Some(PEER_MAC));
        fib.set_neighbour(SERVER_SIDE, mixed::real6().into(), Some(PEER_MAC));
        for client in CLIENTS {
            fib.set_neighbour(CLIENT_SIDE, client.into(), Some(PEER_MAC));
        }
        fib.set_neighbour(SERVER_SIDE, REALS[0].into(), Some(PEER_MAC));
        self.worker.apply(&mut Update::of_fib(Arc::new(fib.build())));
    }

    /// Another desired state: bits 1 and 2 the scheduler, 3 to 5 the real servers, 6 no service, 7 more ports.
    pub(super) fn configure(&mut self, how: u8) {
        self.generation += 1;
        let scheduler = [Scheduler::Rr, Scheduler::Wrr, Scheduler::Wlc][usize::from(how >> 1 & 3) % 3];
        let real = |ip: Ipv4Addr, weight, up| RealSpec {
            up,
            ..RealSpec::new((ip, RPORT).into(), Mode::FullNat, weight)
        };
        let reals = match how >> 3 & 7 {
            0 => vec![real(REALS[0], 1, true)],
            1 => vec![real(REALS[0], 1, true), real(REALS[1], 3, true)],
            2 => vec![real(REALS[0], 0, true), real(REALS[1], 1, true)],
            3 => vec![real(REALS[0], 1, false)],
            4 => vec![real(REALS[1], u16::MAX, true), real(REALS[0], 1, true)],
            5 => vec![],
            _ => vec![real(REALS[0], 2, true), real(REALS[1], 0, false)],
        };
        let service = ServiceSpec {
            protocol: ipv4::PROTO_TCP,
            virtual_: (VIP, VPORT).into(),
            also: Vec::new(),
            scheduler,
            flags: Default::default(),
            toa: self.toa.then_some(TOA_KIND),
            timeouts: Timeouts::default(),
            locals: vec![LIP.into()],
            local_ports: if how & 0x80 == 0 { LOCAL_PORTS } else { (2000, 2100) },
            options: Default::default(),
            sorry: None,
            reals,
        };
        let services = if how & 0x40 == 0 {
            std::iter::once(service).chain(mixed::services()).collect()
        } else {
            vec![]
        };
        // Slots may still be remembered by connections; then the old configuration stays, as it should.
        let Ok(updates) = self.planner.plan(&Spec { generation: self.generation, services }) else { return };
        for mut update in updates {
            self.worker.apply(&mut update);
        }
    }

    /// A segment to a local port that is in use, or sometimes not.
    pub(super) fn real_segment(&self, script: &mut Script<'_>) -> Sent {
        let who = script.byte();
        let local_port = self.local_ports[usize::from(who >> 1) % self.local_ports.len()];
        let flags = control_bits(script);
        Sent::from_real(who, local_port, flags, script)
    }

    /// Time passes, with housekeeping: the low bits count, the high bits say what.
    pub(super) fn pass(&mut self, how: u8) {
        let unit = [Ticks(1), Ticks(100), Ticks(6_000), Ticks(30_000)][usize::from(how >> 6)];
        for _ in 0..how & 0x3f {
            self.now = self.now.plus(unit);
            self.worker.housekeep(self.now);
        }
    }

    /// What status pages do.
    pub(super) fn look(&mut self, how: u8) {
        let mut page = Vec::with_capacity(usize::from(how & 15));
        let cursor = u32::from(how >> 4);
        let _ = self.worker.export(self.now, &ConnFilter::default(), cursor, 64, &mut page);
        assert!(page.len() <= usize::from(how & 15));
        let _ = self.worker.take_wanted();
    }

    pub(super) fn process(&mut self, packets: &mut [HeapBuf]) -> [Verdict; BURST_LEN_MAX] {
        let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];
        self.worker.process(self.now, packets, &mut verdicts);
        assert!(self.worker.connections() <= CONNECTIONS_MAX);
        verdicts
    }

    /// Takes the fragments that need not wait any longer: what is to be processed again.
    pub(super) fn released(&mut self) -> Vec<Sent> {
        let mut again = Vec::new();
        while let Some(released) = self.worker.take_released() {
            match released {
                Released::Process(slot) => again.extend(self.waiting.remove(&slot.0).expect("a slot in use")),
                Released::Free(slot) => {
                    self.dropped += self.waiting.remove(&slot.0).expect("a slot in use").len() as u64;
                }
            }
        }
        again
    }

    pub(super) fn check(&mut self, sent: Sent, out: &[u8], verdict: Verdict) {
        if let Verdict::Wait(slot) = verdict {
            assert_eq!(sent.frame, out, "a fragment that waits was changed");
            let waiting = self.waiting.entry(slot.0).or_default();
            waiting.push(sent);
            assert!(waiting.len() <= WAIT_LEN_MAX);
            return;
        }
        self.check_settled(&sent, out, verdict);
    }

    fn check_settled(&mut self, sent: &Sent, out: &[u8], verdict: Verdict) {
        match verdict {
            Verdict::Forward(_) if sent.mixed => {
                mixed::check(sent, out);
                self.kept.keep(sent.from_clients, out);
            }
            Verdict::ForwardCut { .. } | Verdict::Resolve(_) if sent.mixed => {}
            Verdict::Forward(port) | Verdict::ForwardCut { port, .. } => {
                assert_eq!(port, if sent.from_clients { SERVER_SIDE } else { CLIENT_SIDE });
                self.check_forwarded(sent, out, verdict);
            }
            Verdict::Resolve(port) => {
                assert_eq!(port, if sent.from_clients { SERVER_SIDE } else { CLIENT_SIDE });
                self.check_forwarded(sent, &out[Verdict::TARGET_LEN..], verdict);
            }
            Verdict::Reply(port) => {
                assert_eq!(port, if sent.from_clients { CLIENT_SIDE } else { SERVER_SIDE });
                check_reply(out);
            }
            Verdict::Punt(_) => assert_eq!(sent.frame, out, "the kernel got a changed packet"),
            Verdict::HandOver(_) => panic!("handed over to a worker that is not there"),
            Verdict::Drop(_) => self.dropped += 1,
            Verdict::Wait(_) => panic!("waits and is settled"),
        }
    }

    /// Of a fragment behind the first only the IP header changes.
    fn check_later(&self, sent: &Sent, out: &[u8], before: &ipv4::Header) {
        let after: &ipv4::Header = view(out, 14).expect("an IPv4 header");
        let carried = |frame: &[u8]| frame[14 + before.header_len()..].to_vec();
        let end = 14 + usize::from(before.total_len.get());
        assert_eq!(carried(&sent.frame[..end]), carried(out), "another payload");
        assert_eq!((after.ttl, after.flags_fragment), (before.ttl - 1, before.flags_fragment));
        let (from, to) = (ipv4::to_addr(after.src), ipv4::to_addr(after.dst));
        if sent.from_clients {
            assert!(from == LIP && REALS.contains(&to), "{from} -> {to} to a real server");
        } else {
            assert!(from == VIP && CLIENTS.contains(&to), "{from} -> {to} to a client");
        }
    }

    fn check_forwarded(&mut self, sent: &Sent, out: &[u8], verdict: Verdict) {
        if let Some(ip) = view::<ipv4::Header>(&sent.frame, 14)
            && ip.fragment_offset() > 0
        {
            return self.check_later(sent, out, ip);
        }
        let before = Parts::of(&sent.frame).expect("what is no TCP is not forwarded");
        let after = Parts::of(out).unwrap_or_else(|| panic!("forwarded {out:02x?} of {:02x?}", sent.frame));
        assert!(checksum::verify_ipv4(after.ip_bytes) || !checksum::verify_ipv4(before.ip_bytes));
        if sent.whole {
            let right = checksum::verify_tcp_v4(after.ip.src, after.ip.dst, after.segment);
            assert!(right, "wrong TCP checksum: {out:02x?} of {:02x?}", sent.frame);
        }
        assert_eq!(before.payload(), after.payload(), "another payload");
        assert_eq!((before.tcp.seq, before.tcp.ack), (after.tcp.seq, after.tcp.ack));
        assert_eq!(after.ip.ttl, before.ip.ttl - 1);
        let whole = !matches!(verdict, Verdict::ForwardCut { .. });
        assert!(!whole || usize::from(after.ip.total_len.get()) <= 1500, "over the MTU");
        let (from, to) = (ipv4::to_addr(after.ip.src), ipv4::to_addr(after.ip.dst));
        if sent.from_clients {
            assert!(from == LIP && REALS.contains(&to), "{from} -> {to} to a real server");
            self.remember(after.tcp.src_port.get());
            self.check_toa(&before, &after);
        } else {
            assert!(from == VIP && CLIENTS.contains(&to), "{from} -> {to} to a client");
        }
    }

    /// A real server must not be able to read anything but the client's true address.
    fn check_toa(&self, before: &Parts<'_>, after: &Parts<'_>) {
        if !self.toa {
            return;
        }
        let options = wire::tcp::options::iter(after.options());
        let mut told = options.map_while(Result::ok).filter(|opt| toa::is_toa_kind(opt.kind));
        let Some(first) = told.next() else { return };
        let client = toa::decode(first.bytes(after.options())).expect("ours can be read");
        assert_eq!(client.addr, ipv4::to_addr(before.ip.src), "a forged address");
        assert_eq!(client.port, before.tcp.src_port, "a forged port");
        assert!(told.next().is_none(), "a second TOA option");
        assert_eq!(after.tcp.flags & (flags::SYN | flags::RST), 0, "TOA on a SYN or RST");
    }

    fn remember(&mut self, local_port: u16) {
        if !self.local_ports.contains(&local_port) {
            self.local_ports.push(local_port);
        }
    }

    /// Every drop was counted, and with time everything ends and is given back.
    pub(super) fn end(&mut self) {
        assert!(self.released().is_empty(), "fragments wait behind the first one");
        let counted: u64 = DropReason::ALL.iter().map(|reason| self.counters.dropped(*reason).get()).sum();
        assert_eq!(counted, self.dropped, "a packet was lost without a counter");
        // Two hours; the longest timeout is a quarter of one.
        for _ in 0..120 {
            self.now = self.now.plus(Ticks::from_secs(60));
            while self.worker.housekeep(self.now) > 0 {}
        }
        assert_eq!(self.worker.connections(), 0, "connections that never end");
        let created = self.counters.event(Counter::ConnectionsCreated).get();
        let expired = self.counters.event(Counter::ConnectionsExpired).get();
        assert!(expired <= created);
    }
}

/// An answer of ours is an ICMP error with right checksums.
fn check_reply(out: &[u8]) {
    let packet = &out[wire::ethernet::HEADER_LEN..];
    if packet[0] >> 4 == 6 {
        let header: &ipv6::Header = view(packet, 0).expect("an answer has an IPv6 header");
        let len = header.payload_len.get();
        let message = &packet[ipv6::HEADER_LEN..][..usize::from(len)];
        let pseudo = checksum::pseudo_v6(&header.src, &header.dst, ipv6::NEXT_ICMPV6, U32::new(len.into()));
        assert!(pseudo.bytes(message).is_valid(), "wrong ICMPv6 checksum: {out:02x?}");
        return;
    }
    let header: &ipv4::Header = view(packet, 0).expect("an answer has an IPv4 header");
    let len = header.header_len();
    let end = usize::from(header.total_len.get());
    assert_eq!(header.protocol, ipv4::PROTO_ICMP);
    assert!(checksum::verify_ipv4(&packet[..len]) && end <= packet.len());
    let message: &icmp::Header = view(packet, len).expect("an answer has an ICMP header");
    assert!(message.is_error());
    assert!(checksum::internet(&packet[len..end]).get() == 0, "wrong ICMP checksum: {out:02x?}");
}
