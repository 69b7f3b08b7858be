//! Which worker polls which receive queue and owns which transmit queue. Pure arithmetic.

/// A port's queue counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queues {
    /// Receive queues.
    pub(crate) rx: u16,
    /// Transmit queues.
    pub(crate) tx: u16,
}

/// How many queues to ask of a device: one pair per worker as far as it has them and the operator allows.
pub(crate) fn queues(workers: u16, wanted: Option<u16>, rx_max: u16, tx_max: u16) -> Queues {
    let wish = wanted.unwrap_or(workers).min(workers);
    Queues { rx: wish.min(rx_max).max(1), tx: wish.min(tx_max).max(1) }
}

/// Who has what of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deal {
    /// By receive queue: the worker that polls it.
    pub(crate) rx: Vec<u16>,
    /// By transmit queue: the worker that owns it. No worker owns two.
    pub(crate) tx: Vec<u16>,
    /// By worker: the worker that sends for it, which is itself when it owns a queue.
    pub(crate) sender: Vec<u16>,
}

/// Deals the queues of all ports out, round-robin over (port, queue). Where every port has a pair per worker, worker n
/// gets queue n of each; two ports with one queue each go to two workers.
pub(crate) fn deal(workers: u16, ports: &[Queues]) -> Vec<Deal> {
    let workers = workers.max(1);
    let (mut next_rx, mut next_tx) = (0, 0);
    let take = |next: &mut u16, count: u16| -> Vec<u16> {
        let taken = (0..count).map(|i| (*next + i) % workers).collect();
        *next = (*next + count) % workers;
        taken
    };
    ports
        .iter()
        .map(|port| {
            let rx = take(&mut next_rx, port.rx);
            let tx = take(&mut next_tx, port.tx.min(workers));
            let mut helpers = tx.iter().copied().cycle();
            let sender = (0..workers)
                .map(|worker| match tx.contains(&worker) {
                    true => worker,
                    // A port has at least one transmit queue.
                    false => helpers.next().unwrap_or(worker),
                })
                .collect();
            Deal { rx, tx, sender }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_pair_per_worker_each_gets_its_number_on_every_port() {
        let all = deal(3, &[Queues { rx: 3, tx: 3 }; 2]);
        for port in all {
            assert_eq!(port, Deal { rx: vec![0, 1, 2], tx: vec![0, 1, 2], sender: vec![0, 1, 2] });
        }
    }

    #[test]
    fn single_queues_of_two_ports_go_to_two_workers_which_send_for_each_other() {
        let all = deal(2, &[Queues { rx: 1, tx: 1 }; 2]);
        assert_eq!(all[0], Deal { rx: vec![0], tx: vec![0], sender: vec![0, 0] });
        assert_eq!(all[1], Deal { rx: vec![1], tx: vec![1], sender: vec![1, 1] });
    }

    #[test]
    fn workers_without_a_transmit_queue_are_spread_over_those_that_have_one() {
        let all = deal(4, &[Queues { rx: 2, tx: 2 }]);
        assert_eq!(all[0].sender, [0, 1, 0, 1]);
    }

    #[test]
    fn every_queue_has_one_worker_and_every_sender_owns_a_queue() {
        for workers in 1..=8 {
            for rx in 1..=workers {
                for tx in 1..=workers {
                    for port in deal(workers, &[Queues { rx, tx }; 3]) {
                        assert_eq!(port.rx.len(), rx.into());
                        let mut owners = port.tx.clone();
                        owners.sort_unstable();
                        owners.dedup();
                        assert_eq!(owners.len(), usize::from(tx), "no worker owns two");
                        assert!(port.sender.iter().all(|sender| port.tx.contains(sender)));
                    }
                }
            }
        }
    }

    #[test]
    fn a_device_is_asked_for_no_more_queues_than_it_has_or_workers_are() {
        assert_eq!(queues(4, None, 16, 2), Queues { rx: 4, tx: 2 });
        assert_eq!(queues(4, Some(8), 16, 16), Queues { rx: 4, tx: 4 });
        assert_eq!(queues(4, Some(1), 16, 16), Queues { rx: 1, tx: 1 });
    }
}
