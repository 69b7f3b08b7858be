//! Hashing of packet keys and the small maps that the packet path reads.

use crate::ids::ServiceId;
use crate::snapshot::Endpoint4;

/// The five-tuple as a packet carries it: bytes as loaded, so network order in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key {
    /// Source, then destination address.
    pub addrs: u64,
    /// Source, then destination port.
    pub ports: u32,
    pub protocol: u8,
}

impl Key {
    #[inline(always)]
    pub(crate) fn new(protocol: u8, src: Endpoint4, dst: Endpoint4) -> Key {
        Key { addrs: pair64(src.addr, dst.addr), ports: pair32(src.port, dst.port), protocol }
    }

    #[inline(always)]
    pub(crate) fn src(&self) -> Endpoint4 {
        Endpoint4 { addr: halves64(self.addrs).0, port: halves32(self.ports).0 }
    }

    #[inline(always)]
    pub(crate) fn dst(&self) -> Endpoint4 {
        Endpoint4 { addr: halves64(self.addrs).1, port: halves32(self.ports).1 }
    }
}

/// Two words that stand one behind the other in memory, as one.
#[inline(always)]
fn pair64(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[inline(always)]
fn halves64(pair: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = pair.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

#[inline(always)]
pub(crate) fn pair32(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
pub(crate) fn halves32(pair: u32) -> (u16, u16) {
    let [a, b, c, d] = pair.to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
}

/// A secret that makes hashes unpredictable from outside, so nobody can aim connections at one bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secret(pub [u64; 2]);

impl Secret {
    /// 64 well-mixed bits of a key: two folded 64x64 to 128 bit multiplications (the construction of wyhash).
    #[inline(always)]
    pub(crate) fn hash(self, key: Key) -> u64 {
        let ports = u64::from(key.ports) | u64::from(key.protocol) << 32;
        let inner = fold(key.addrs ^ self.0[0], ports ^ self.0[1]);
        fold(inner ^ self.0[1], 0x9e37_79b9_7f4a_7c15 ^ self.0[0])
    }

    /// A secret for another purpose, not to be told from this one.
    pub(crate) fn derive(self, purpose: u64) -> Secret {
        let a = fold(self.0[0] ^ purpose, 0xa076_1d64_78bd_642f);
        Secret([a, fold(self.0[1] ^ a, 0xe703_7ed1_a0b4_28db)])
    }
}

/// The two halves of a product, one over the other.
#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Maps 32 hash bits onto `0..n` without a division.
#[inline(always)]
pub(crate) fn reduce(bits: u32, n: u32) -> u32 {
    ((u64::from(bits) * u64::from(n)) >> 32) as u32
}

/// Spreads keys that the operator chose over a power-of-two table; no secret needed.
#[inline(always)]
fn spread(key: u64, shift: u32) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
}

/// VIP:vport and protocol to service. Open addressing at a load of at most one half.
#[derive(Debug, Clone)]
pub(crate) struct EndpointMap {
    /// Key (0: free; a key holds the protocol, so it is never 0) and slot.
    slots: Vec<(u64, ServiceId)>,
    len: usize,
}

impl Default for EndpointMap {
    fn default() -> Self {
        EndpointMap { slots: vec![(0, ServiceId(0)); 2], len: 0 }
    }
}

impl EndpointMap {
    #[inline(always)]
    fn key(protocol: u8, endpoint: Endpoint4) -> u64 {
        u64::from(endpoint.addr) | u64::from(endpoint.port) << 32 | u64::from(protocol) << 48
    }

    #[inline(always)]
    fn shift(&self) -> u32 {
        64 - self.slots.len().trailing_zeros()
    }

    pub(crate) fn insert(&mut self, protocol: u8, endpoint: Endpoint4, id: ServiceId) {
        if (self.len + 1) * 2 > self.slots.len() {
            let bigger = vec![(0, ServiceId(0)); self.slots.len() * 2];
            for (key, id) in std::mem::replace(&mut self.slots, bigger) {
                if key != 0 {
                    self.place(key, id);
                }
            }
        }
        self.place(Self::key(protocol, endpoint), id);
        self.len += 1;
    }

    fn place(&mut self, key: u64, id: ServiceId) {
        let mask = self.slots.len() - 1;
        let mut at = spread(key, self.shift());
        while self.slots[at].0 != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = (key, id);
    }

    #[inline]
    pub(crate) fn get(&self, protocol: u8, endpoint: Endpoint4) -> Option<ServiceId> {
        let key = Self::key(protocol, endpoint);
        let mask = self.slots.len() - 1;
        let mut at = spread(key, self.shift());
        loop {
            let (found, id) = self.slots[at & mask];
            if found == key {
                return Some(id);
            }
            if found == 0 {
                return None;
            }
            at += 1;
        }
    }
}

/// A set of IPv4 addresses, small and read for every packet. Open addressing at a load of at most a quarter, so a
/// look is nearly always one load.
#[derive(Debug, Clone)]
pub(crate) struct AddressSet {
    /// 0 (never a local address) is free.
    slots: Vec<u32>,
}

impl Default for AddressSet {
    fn default() -> Self {
        AddressSet { slots: vec![0; 2] }
    }
}

impl AddressSet {
    pub(crate) fn new(addresses: impl Iterator<Item = u32>) -> AddressSet {
        let mut unique: Vec<u32> = addresses.filter(|a| *a != 0).collect();
        unique.sort_unstable();
        unique.dedup();
        let mut set = AddressSet { slots: vec![0; (unique.len() * 4).next_power_of_two().max(2)] };
        for address in unique {
            let mask = set.slots.len() - 1;
            let mut at = set.start(address);
            while set.slots[at] != 0 {
                at = (at + 1) & mask;
            }
            set.slots[at] = address;
        }
        set
    }

    #[inline(always)]
    fn start(&self, address: u32) -> usize {
        spread(address.into(), 64 - self.slots.len().trailing_zeros())
    }

    #[inline(always)]
    pub(crate) fn contains(&self, address: u32) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = self.start(address);
        loop {
            let found = self.slots[at & mask];
            if found == address {
                return address != 0;
            }
            if found == 0 {
                return false;
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn address_set_is_a_set(inside in prop::collection::hash_set(1u32.., 0..200), probes: Vec<u32>) {
            let set = AddressSet::new(inside.iter().copied());
            let model: HashSet<u32> = inside;
            for address in model.iter().chain(&probes) {
                prop_assert_eq!(set.contains(*address), model.contains(address));
            }
            prop_assert!(!set.contains(0));
        }

        #[test]
        fn endpoint_map_is_a_map(keys in prop::collection::hash_set((any::<u32>(), any::<u16>()), 0..200)) {
            let mut map = EndpointMap::default();
            let mut model = HashMap::new();
            for (i, (addr, port)) in keys.iter().enumerate() {
                map.insert(6, Endpoint4 { addr: *addr, port: *port }, ServiceId(i as u32));
                model.insert((*addr, *port), ServiceId(i as u32));
            }
            for (addr, port) in keys {
                let endpoint = Endpoint4 { addr, port };
                prop_assert_eq!(map.get(6, endpoint), model.get(&(addr, port)).copied());
                prop_assert_eq!(map.get(17, endpoint), None);
            }
        }
    }

    #[test]
    fn reduction_stays_below_its_bound() {
        assert_eq!(reduce(u32::MAX, 7), 6);
        assert_eq!(reduce(0, 7), 0);
    }
}
