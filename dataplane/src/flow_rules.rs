//! Flow rules that bring replies to their owner: on every port that takes such rules, one per protocol and local
//! address that is a worker's ([`engine::Planner::dealt_locals`]). They are hints: what no rule brings is handed
//! over.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::counted;
use dpdk::{Flow, FlowRule};
use engine::WorkerId;

use crate::ports::{Deal, OpenPort};

const PROTOCOLS: [u8; 2] = [wire::ipv4::PROTO_TCP, wire::ipv4::PROTO_UDP];

/// Addresses that never occur (RFC 5737, RFC 3849), for a rule that finds out whether a port takes any.
const NOBODYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// A port that takes flow rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Taker {
    /// Its place among the ports.
    port: usize,
    /// By worker: a queue that it polls.
    queues: Vec<u16>,
}

/// Which ports take flow rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Takers {
    pub(crate) takers: Vec<Taker>,
    /// What the others, or one of them in one family, say against it.
    pub(crate) refusals: Vec<String>,
}

/// Finds the ports that take flow rules to a queue of each worker, by making some that match nothing and taking them
/// back: some drivers only find out then.
pub(crate) fn probe(ports: &[OpenPort], deals: &[Deal], workers: u16) -> Takers {
    let mut found = Takers::default();
    for (number, (port, deal)) in ports.iter().zip(deals).enumerate() {
        let Some(queues) = queues_of(deal, workers) else {
            let (name, have) = (&port.config.name, port.rx_queues);
            found.refusals.push(format!(
                "port {name} has fewer receive queues ({have}) than there are workers ({workers})"
            ));
            continue;
        };
        let last = queues.last().copied().unwrap_or(0);
        let mut refused = NOBODYS.iter().filter_map(|address| takes(port, *address, last).err());
        let (first, second) = (refused.next(), refused.next());
        if second.is_none() {
            found.takers.push(Taker { port: number, queues });
        }
        found.refusals.extend(first);
    }
    found
}

/// By worker: a queue that it polls; `None`: one has none.
fn queues_of(deal: &Deal, workers: u16) -> Option<Vec<u16>> {
    let queue = |worker| deal.rx.iter().position(|of| *of == worker).map(|queue| queue as u16);
    (0..workers).map(queue).collect()
}

/// Whether a port takes rules for TCP and UDP to an address; else what is said against it.
fn takes(port: &OpenPort, to: IpAddr, queue: u16) -> Result<(), String> {
    let made = PROTOCOLS.map(|protocol| add(port, to, protocol, queue));
    made.into_iter().try_for_each(|made| made.map(drop)).map_err(|error| {
        let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
        let why = match error {
            dpdk::Error::Port { said, .. } => said,
            other => other.to_string(),
        };
        let (name, driver) = (&port.config.name, &port.dpdk.info().driver);
        format!("port {name} ({driver}) takes none for {family} ({why})")
    })
}

/// Makes a rule in the first of two forms that the port takes.
fn add(port: &OpenPort, to: IpAddr, protocol: u8, queue: u16) -> Result<Flow, dpdk::Error> {
    let add = |protocol_in_ip| {
        let rule = FlowRule { to, protocol, protocol_in_ip, queue };
        port.dpdk.check_flow(&rule)?;
        port.dpdk.add_flow(&rule)
    };
    add(false).or_else(|refusal| add(true).map_err(|_| refusal))
}

type Key = (u8, IpAddr, WorkerId);

/// The rules that there are.
#[derive(Default)]
pub(crate) struct Rules {
    takers: Vec<Taker>,
    /// By place of the port, and what the rule is for.
    made: HashMap<(usize, Key), Flow>,
    /// What was refused last time: how many, and the first reason.
    refused: (usize, String),
}

impl Rules {
    pub(crate) fn new(takers: Vec<Taker>) -> Rules {
        Rules { takers, ..Rules::default() }
    }

    /// Makes the rules for these local addresses and takes all others back.
    pub(crate) fn follow(&mut self, ports: &[OpenPort], wanted: &HashSet<Key>) {
        self.made.retain(|(_, key), _| wanted.contains(key));
        let (mut count, mut first) = (0, String::new());
        for taker in &self.takers {
            let Some(port) = ports.get(taker.port) else { continue };
            for key in wanted {
                let (protocol, to, worker) = *key;
                let Some(&queue) = taker.queues.get(worker.index()) else { continue };
                if self.made.contains_key(&(taker.port, *key)) {
                    continue;
                }
                match add(port, to, protocol, queue) {
                    Ok(flow) => {
                        self.made.insert((taker.port, *key), flow);
                    }
                    Err(error) => {
                        count += 1;
                        first = if first.is_empty() { error.to_string() } else { first };
                    }
                }
            }
        }
        if count != self.refused.0 && count > 0 {
            tracing::warn!("ports refuse {}, one with: {first}", counted(count, "flow rule"));
        }
        self.refused = (count, first);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.made.len()
    }

    /// What is wrong with them now.
    pub(crate) fn trouble(&self) -> Option<String> {
        let (count, first) = &self.refused;
        (*count > 0).then(|| {
            format!(
                "ports refuse {}, so packets to some local addresses are handed over in software; one with: {first}",
                counted(*count, "flow rule")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Queues, deal};

    #[test]
    fn a_rule_leads_to_a_queue_that_the_worker_polls() {
        for workers in 1..=64 {
            let ports =
                [Queues { rx: workers, tx: 1 }, Queues { rx: 1, tx: 1 }, Queues { rx: workers, tx: 1 }];
            let deals = deal(workers, &ports);
            for port in [&deals[0], &deals[2]] {
                let queues = queues_of(port, workers).unwrap();
                let polled: Vec<u16> = queues.iter().map(|queue| port.rx[usize::from(*queue)]).collect();
                assert_eq!(polled, (0..workers).collect::<Vec<_>>());
            }
            assert_eq!(queues_of(&deals[1], workers).is_some(), workers == 1);
        }
    }
}
