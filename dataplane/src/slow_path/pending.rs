//! Translated packets that wait until the MAC address of their next hop is known.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use engine::fib::{Fib, NextHop};
use engine::{Addr, PortId, Verdict, WorkerId};
use wire::{MacAddr, ethernet};

/// How many packets wait at most, over all next hops.
const PENDING_MAX: usize = 256;

/// How many of them wait for one next hop: whoever does not answer takes no more room from the others than this.
const PENDING_EACH_MAX: usize = 32;

/// How long one packet waits at most. The kernel gives up after 3 s; a client sends its SYN again after one.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What became of a packet.
pub(super) enum Outcome<P> {
    /// Its header is filled in; send it out of this port.
    Send(PortId, P),
    /// It waited too long, or there is no route any more.
    GiveUp(WorkerId, P),
    /// It goes on waiting for this next hop.
    Wait(PortId, IpAddr),
}

struct Waiting<P> {
    packet: P,
    destination: IpAddr,
    /// What it waited for when it came; `None`: for nothing any more.
    next_hop: Option<(PortId, IpAddr)>,
    worker: WorkerId,
    until: Instant,
}

/// The queue. Generic so that tests need no DPDK.
pub(super) struct Pending<P> {
    waiting: VecDeque<Waiting<P>>,
}

impl<P: wire::PacketBuf> Pending<P> {
    pub(super) fn new() -> Self {
        Pending { waiting: VecDeque::with_capacity(PENDING_MAX) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a packet of `worker` that had [`Verdict::Resolve`]. Gives back what there is no room for, and whose it was: this
    /// packet if too many wait for its next hop, else the one that has waited longest, because next hops that are there
    /// answer at once.
    pub(super) fn add(
        &mut self,
        mut packet: P,
        worker: WorkerId,
        fib: &Fib,
        now: Instant,
    ) -> Result<(), (WorkerId, P)> {
        let Some(destination) = take_target(&mut packet) else { return Err((worker, packet)) };
        let next_hop = match resolve(fib, destination) {
            Resolved::Wait { port, next_hop } => Some((port, next_hop)),
            Resolved::Ready { .. } | Resolved::NoRoute => None,
        };
        let alike = self.waiting.iter().filter(|other| other.next_hop == next_hop).count();
        if next_hop.is_some() && alike >= PENDING_EACH_MAX {
            return Err((worker, packet));
        }
        let too_many = self.waiting.len() >= PENDING_MAX;
        let gives_way = if too_many { self.waiting.pop_front() } else { None };
        self.waiting.push_back(Waiting { packet, destination, next_hop, worker, until: now + WAIT_MAX });
        gives_way.map_or(Ok(()), |oldest| Err((oldest.worker, oldest.packet)))
    }

    /// Looks at all packets again: hands out those that are through with waiting, in order, and says what the others
    /// wait for.
    pub(super) fn settle(&mut self, fib: &Fib, now: Instant, mut on: impl FnMut(Outcome<P>)) {
        for _ in 0..self.waiting.len() {
            let Some(mut waiting) = self.waiting.pop_front() else { return };
            match resolve(fib, waiting.destination) {
                Resolved::Ready { port, source, destination } => {
                    fill_header(waiting.packet.data_mut(), source, destination);
                    on(Outcome::Send(port, waiting.packet));
                }
                Resolved::Wait { port, next_hop } if now < waiting.until => {
                    on(Outcome::Wait(port, next_hop));
                    self.waiting.push_back(waiting);
                }
                Resolved::Wait { .. } | Resolved::NoRoute => {
                    on(Outcome::GiveUp(waiting.worker, waiting.packet));
                }
            }
        }
    }
}

enum Resolved {
    Ready { port: PortId, source: MacAddr, destination: MacAddr },
    Wait { port: PortId, next_hop: IpAddr },
    NoRoute,
}

fn resolve(fib: &Fib, destination: IpAddr) -> Resolved {
    match fib.lookup(destination) {
        NextHop::NoRoute => Resolved::NoRoute,
        NextHop::Unknown { port, next_hop } => Resolved::Wait { port, next_hop },
        NextHop::Adjacency(id) => match fib.adjacency(id) {
            Some(found) => match found.destination {
                Some(mac) => Resolved::Ready { port: found.port, source: found.source, destination: mac },
                None => Resolved::Wait { port: found.port, next_hop: found.next_hop },
            },
            None => Resolved::NoRoute,
        },
    }
}

/// Takes off what stands in front of a frame that is to be resolved: the address that it is to get to. `None`, with
/// the packet as it was, for what is too short.
fn take_target<P: wire::PacketBuf>(packet: &mut P) -> Option<IpAddr> {
    let target = Addr::from_v6(*packet.data().first_chunk::<{ Verdict::TARGET_LEN }>()?);
    packet.pull_front(Verdict::TARGET_LEN).then(|| target.to_ip())
}

fn fill_header(frame: &mut [u8], source: MacAddr, destination: MacAddr) {
    let is_ipv6 = frame.get(ethernet::HEADER_LEN).is_some_and(|byte| byte >> 4 == 6);
    if let Some(header) = wire::view_mut::<ethernet::Header>(frame, 0) {
        header.dst = destination;
        header.src = source;
        header.ether_type = if is_ipv6 { ethernet::ETHERTYPE_IPV6 } else { ethernet::ETHERTYPE_IPV4 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::FibBuilder;
    use engine::fib::{FibPort, Route};
    use wire::{HeapBuf, PacketBuf};

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn packet() -> HeapBuf {
        packet_to(11)
    }

    fn packet_to(host: u8) -> HeapBuf {
        let target = Addr::from(IpAddr::from([10, 2, 0, host])).octets();
        let mut frame = vec![0; 60];
        frame[14] = 0x45;
        HeapBuf::from_frame(&[target.as_slice(), &frame].concat())
    }

    fn builder() -> FibBuilder {
        let mut builder = FibBuilder::default();
        builder.set_port(PortId(1), FibPort { mac: OURS, mtu: 1500 });
        builder.set_route("10.2.0.0".parse().unwrap(), 24, Route { via: None, port: PortId(1) });
        builder
    }

    #[test]
    fn a_packet_leaves_with_its_header_once_the_next_hop_is_known() {
        let now = Instant::now();
        let mut pending = Pending::new();
        pending.add(packet(), WorkerId(0), &Fib::empty(), now).ok().unwrap();
        let destination = "10.2.0.11".parse().unwrap();
        let mut builder = builder();
        let mut wanted = Vec::new();
        pending.settle(&builder.build(), now, |outcome| match outcome {
            Outcome::Wait(port, next_hop) => wanted.push((port, next_hop)),
            Outcome::Send(..) | Outcome::GiveUp(..) => panic!("nothing is known yet"),
        });
        assert_eq!(wanted, [(PortId(1), destination)]);
        builder.set_neighbour(PortId(1), destination, Some(THEIRS));
        let mut sent = Vec::new();
        pending.settle(&builder.build(), now, |outcome| match outcome {
            Outcome::Send(port, packet) => sent.push((port, packet.data()[..14].to_vec())),
            Outcome::GiveUp(..) | Outcome::Wait(..) => panic!("it is known in time"),
        });
        assert_eq!(sent, [(PortId(1), vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0])]);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_packet_is_given_up_when_its_time_is_over() {
        let now = Instant::now();
        let mut pending = Pending::new();
        pending.add(packet(), WorkerId(1), &Fib::empty(), now).ok().unwrap();
        let mut given_up = 0;
        pending.settle(&builder().build(), now + WAIT_MAX, |outcome| match outcome {
            Outcome::Send(..) | Outcome::Wait(..) => panic!("nothing is known, and its time is over"),
            Outcome::GiveUp(worker, _) => given_up += usize::from(worker == WorkerId(1)),
        });
        assert_eq!(given_up, 1);
    }

    #[test]
    fn one_next_hop_has_a_part_of_the_queue() {
        let now = Instant::now();
        let fib = builder().build();
        let mut pending = Pending::new();
        for _ in 0..PENDING_EACH_MAX {
            assert!(pending.add(packet(), WorkerId(0), &fib, now).is_ok());
        }
        assert!(matches!(pending.add(packet(), WorkerId(1), &fib, now), Err((WorkerId(1), _))));
        assert!(pending.add(packet_to(12), WorkerId(0), &fib, now).is_ok());
        // Behind one gateway the destinations do not matter.
        let mut builder = builder();
        let gateway = "10.2.0.1".parse().unwrap();
        builder.set_route("0.0.0.0".parse().unwrap(), 0, Route { via: Some(gateway), port: PortId(1) });
        let fib = builder.build();
        let refused = (0..=255).filter(|host| {
            let target = Addr::from(IpAddr::from([192, 0, 2, *host])).octets();
            let packet = HeapBuf::from_frame(&[target.as_slice(), &[0; 60]].concat());
            pending.add(packet, WorkerId(0), &fib, now).is_err()
        });
        assert_eq!(refused.count(), 256 - PENDING_EACH_MAX);
    }

    #[test]
    fn a_full_queue_gives_up_what_waits_longest() {
        let now = Instant::now();
        let fib = builder().build();
        let mut pending = Pending::new();
        let mut gave_way = Vec::new();
        for number in 0..PENDING_MAX as u16 + 2 {
            if let Err((worker, _)) = pending.add(packet_to(number as u8), WorkerId(number), &fib, now) {
                gave_way.push(worker);
            }
        }
        assert_eq!(gave_way, [WorkerId(0), WorkerId(1)]);
    }
}
