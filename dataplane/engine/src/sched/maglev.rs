//! Maglev's look-up table (Eisenbud et al., NSDI 2016, §3.4), with weights.
//!
//! Each member has its own order in which it would like the table's places, by hash of its endpoint. Members
//! take turns, by weight, and each time take the place they like best of what is left. So the shares are
//! exact to one place, and when a member comes, goes or changes weight, nearly all other places stay whose
//! they are.
//!
//! The table depends on the endpoints and weights alone, not on their order or history, so every gateway of a
//! cluster makes the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

use super::flow_hash::{address, hash};

/// What has a share of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub endpoint: SocketAddr,
    /// Not 0.
    pub weight: u32,
    /// What the table says.
    pub index: u32,
}

/// Purposes of the two hashes that make a member's order; flows use small numbers.
const OFFSET: u64 = 1 << 32;
const SKIP: u64 = OFFSET + 1;

/// Places for as many configured servers, whether they are usable or not: primes, so that every step goes
/// through all.
///
/// Measured, one server added or removed: of the other servers' places 1.7 % move with 20 servers and 4,093
/// places; with 100 servers 2.9 % with 4,093, 1.4 % with 16,381, 0.9 % with 32,749 (those that the new server
/// takes not counted, another 1 %). Another number of places moves nearly everything, so there are few steps,
/// far apart.
pub(super) fn size(servers: usize) -> usize {
    match servers {
        0..=16 => 4093,
        17..=160 => 32_749,
        161..=1600 => 131_071,
        _ => 1_048_573,
    }
}

/// The table: `size` indexes, or none without members.
pub(super) fn build(mut members: Vec<Member>, size: usize) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    /// A weight of 1 takes its turn after so much; the weight's own rounding error stays below 2^-16.
    const ONE_TURN: u64 = 1 << 40;
    if members.is_empty() {
        return Vec::new();
    }
    members.sort_unstable_by_key(|member| member.endpoint);
    let mut orders: Vec<Order> = members.iter().map(|member| Order::new(member.endpoint, size)).collect();
    let stride = |i: usize| ONE_TURN / u64::from(members[i].weight);
    // The first turn after half a stride: shares are then rounded to the nearest place, for great and small
    // alike.
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        (0..members.len()).map(|i| Reverse((stride(i) / 2, i))).collect();
    let mut table = vec![FREE; size];
    for _ in 0..size {
        let Some(mut next) = turns.peek_mut() else { break };
        let Reverse((turn, i)) = *next;
        let place = orders[i].by_ref().find(|place| table[*place] == FREE);
        if let Some(place) = place {
            table[place] = members[i].index;
        }
        *next = Reverse((turn + stride(i), i));
    }
    table
}

/// A member's order of places: from one on in equal steps around, each once.
struct Order {
    next: usize,
    skip: usize,
    size: usize,
}

impl Order {
    fn new(endpoint: SocketAddr, size: usize) -> Order {
        let key = match endpoint.ip() {
            IpAddr::V4(v4) => address(&v4.octets()),
            IpAddr::V6(v6) => address(&v6.octets()),
        };
        let of = |purpose, n: usize| (hash(purpose, key, endpoint.port()) % n as u64) as usize;
        Order { next: of(OFFSET, size), skip: of(SKIP, size - 1) + 1, size }
    }
}

impl Iterator for Order {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let place = self.next;
        self.next = (place + self.skip) % self.size;
        Some(place)
    }
}
