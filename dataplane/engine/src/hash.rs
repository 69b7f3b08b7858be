//! Hashing of packet keys and the small maps that the packet path reads.

use crate::addr::{Addr, Endpoint, Tuple};
use crate::ids::ServiceId;

/// The five-tuple of an IPv4 packet: bytes as loaded, so network order in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key {
    /// Source, then destination address.
    pub addrs: u64,
    /// Source, then destination port.
    pub ports: u32,
    pub protocol: u8,
}

impl Key {
    /// `None` when the tuple is not IPv4.
    #[inline(always)]
    pub(crate) fn of(tuple: &Tuple) -> Option<Key> {
        let (src, dst) = (tuple.src.addr.v4()?, tuple.dst.addr.v4()?);
        let ports = pair32(tuple.src.port, tuple.dst.port);
        Some(Key { addrs: pair64(src, dst), ports, protocol: tuple.protocol })
    }

    #[inline(always)]
    pub(crate) fn tuple(&self) -> Tuple {
        let ((src, dst), (sport, dport)) = (halves64(self.addrs), halves32(self.ports));
        Tuple {
            protocol: self.protocol,
            src: Endpoint { addr: Addr::from_v4(src), port: sport },
            dst: Endpoint { addr: Addr::from_v4(dst), port: dport },
        }
    }
}

/// The five-tuple of an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key6 {
    /// Source, then destination address.
    pub addrs: [u128; 2],
    /// Source, then destination port.
    pub ports: u32,
    pub protocol: u8,
}

impl Key6 {
    #[inline(always)]
    pub(crate) fn of(tuple: &Tuple) -> Key6 {
        Key6 {
            addrs: [tuple.src.addr.bits(), tuple.dst.addr.bits()],
            ports: pair32(tuple.src.port, tuple.dst.port),
            protocol: tuple.protocol,
        }
    }

    #[inline(always)]
    pub(crate) fn tuple(&self) -> Tuple {
        let (sport, dport) = halves32(self.ports);
        Tuple {
            protocol: self.protocol,
            src: Endpoint { addr: Addr::from_bits(self.addrs[0]), port: sport },
            dst: Endpoint { addr: Addr::from_bits(self.addrs[1]), port: dport },
        }
    }
}

/// The five-tuple of a packet of either family, as the table keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnyKey {
    V4(Key),
    V6(Key6),
}

impl AnyKey {
    #[inline(always)]
    pub(crate) fn of(tuple: &Tuple) -> AnyKey {
        match Key::of(tuple) {
            Some(key) => AnyKey::V4(key),
            None => AnyKey::V6(Key6::of(tuple)),
        }
    }

    #[inline(always)]
    pub(crate) fn tuple(&self) -> Tuple {
        match self {
            AnyKey::V4(key) => key.tuple(),
            AnyKey::V6(key) => key.tuple(),
        }
    }

    /// Source, then destination port.
    #[inline(always)]
    pub(crate) fn ports(&self) -> u32 {
        match self {
            AnyKey::V4(key) => key.ports,
            AnyKey::V6(key) => key.ports,
        }
    }

    /// The same with another destination port, as loaded.
    #[inline(always)]
    pub(crate) fn with_dst_port(self, port: u16) -> AnyKey {
        let ports = pair32(halves32(self.ports()).0, port);
        match self {
            AnyKey::V4(key) => AnyKey::V4(Key { ports, ..key }),
            AnyKey::V6(key) => AnyKey::V6(Key6 { ports, ..key }),
        }
    }
}

/// Two words that stand one behind the other in memory, as one.
#[inline(always)]
pub(crate) fn pair64(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[inline(always)]
pub(crate) fn halves64(pair: u64) -> (u32, u32) {
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

    /// 64 well-mixed bits of an IPv6 key.
    #[inline(always)]
    pub(crate) fn hash6(self, key: &Key6) -> u64 {
        let ports = u64::from(key.ports) | u64::from(key.protocol) << 32;
        let [src, dst] = key.addrs.map(|addr| (addr as u64, (addr >> 64) as u64));
        let first = fold(src.0 ^ self.0[0], src.1 ^ self.0[1]);
        let second = fold(dst.0 ^ self.0[1] ^ first, dst.1 ^ self.0[0]);
        fold(second ^ ports ^ self.0[0], first ^ 0x9e37_79b9_7f4a_7c15 ^ self.0[1])
    }

    /// 64 well-mixed bits of a key of either family.
    #[inline(always)]
    pub(crate) fn hash_any(self, key: &AnyKey) -> u64 {
        match key {
            AnyKey::V4(key) => self.hash(*key),
            AnyKey::V6(key) => self.hash6(key),
        }
    }

    /// 64 well-mixed bits of an endpoint.
    #[inline(always)]
    pub(crate) fn hash_endpoint(self, endpoint: Endpoint) -> u64 {
        let bits = endpoint.addr.bits();
        let inner = fold(bits as u64 ^ self.0[0], (bits >> 64) as u64 ^ self.0[1]);
        fold(inner ^ u64::from(endpoint.port) ^ self.0[1], 0x9e37_79b9_7f4a_7c15 ^ self.0[0])
    }

    /// The same of an IPv4 endpoint, as loaded.
    #[inline(always)]
    pub(crate) fn hash_endpoint4(self, addr: u32, port: u16) -> u64 {
        let bits = u64::from(addr) | u64::from(port) << 32;
        fold(bits ^ self.0[0], 0x9e37_79b9_7f4a_7c15 ^ self.0[1])
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

/// A hash table of keys that are never [`Default::default`]; open addressing.
#[derive(Debug, Clone)]
pub(crate) struct Open<K, V> {
    slots: Vec<(K, V)>,
    len: usize,
}

impl<K: OpenKey, V: Copy + Default> Default for Open<K, V> {
    fn default() -> Self {
        Open { slots: vec![Default::default(); 2], len: 0 }
    }
}

/// A key of [`Open`]: its default means an empty slot.
pub(crate) trait OpenKey: Copy + Default + PartialEq {
    fn bits(self) -> u64;
}

/// An IPv4 address as loaded from a header.
impl OpenKey for u32 {
    /// In host order, because addresses in a row are spread best as numbers in a row.
    #[inline(always)]
    fn bits(self) -> u64 {
        u32::from_be(self).into()
    }
}

impl OpenKey for u128 {
    /// A folded multiplication. Operators number networks and hosts alike: the halves of many addresses are equal
    /// or differ by the same, and a sum of them, exclusive or not, would be one for all.
    #[inline(always)]
    fn bits(self) -> u64 {
        fold(self as u64 ^ 0x9e37_79b9_7f4a_7c15, (self >> 64) as u64 ^ 0xe703_7ed1_a0b4_28db)
    }
}

impl OpenKey for (u128, u32) {
    #[inline(always)]
    fn bits(self) -> u64 {
        self.0.bits() ^ u64::from(self.1) << 20
    }
}

impl<K: OpenKey, V: Copy + Default> Open<K, V> {
    #[inline(always)]
    fn start(&self, key: K) -> usize {
        spread(key.bits(), 64 - self.slots.len().trailing_zeros())
    }

    /// Adds or replaces. The load stays at a quarter, so a look is nearly always one load.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if (self.len + 1) * 4 > self.slots.len() {
            let bigger = vec![Default::default(); self.slots.len() * 2];
            for (key, value) in std::mem::replace(&mut self.slots, bigger) {
                if key != K::default() {
                    self.place(key, value);
                }
            }
        }
        self.len += usize::from(self.place(key, value));
    }

    /// Whether the key is new.
    fn place(&mut self, key: K, value: V) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = self.start(key);
        while self.slots[at].0 != K::default() && self.slots[at].0 != key {
            at = (at + 1) & mask;
        }
        let new = self.slots[at].0 != key;
        self.slots[at] = (key, value);
        new
    }

    #[inline(always)]
    pub(crate) fn get(&self, key: K) -> Option<V> {
        let mask = self.slots.len() - 1;
        let mut at = self.start(key);
        loop {
            let (found, value) = self.slots[at & mask];
            if found == key {
                return (key != K::default()).then_some(value);
            }
            if found == K::default() {
                return None;
            }
            at += 1;
        }
    }
}

/// What a service listens at: protocol and VIP:vport, or a range of ports.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointMap {
    exact: Open<(u128, u32), ServiceId>,
    /// Where an address and protocol has ranges: index into `ranges`.
    ranged: Open<(u128, u32), u32>,
    /// First port, last port, service; they do not overlap.
    ranges: Vec<Vec<(u16, u16, ServiceId)>>,
    /// Where an address has a service for all ports that no other names.
    whole: Open<(u128, u32), ServiceId>,
}

impl EndpointMap {
    #[inline(always)]
    fn key(protocol: u8, endpoint: Endpoint) -> (u128, u32) {
        (endpoint.addr.bits(), u32::from(endpoint.port) | u32::from(protocol) << 16)
    }

    /// Enters the ports `first..=last` (host order) of an address.
    pub(crate) fn insert(&mut self, protocol: u8, addr: Addr, (first, last): (u16, u16), id: ServiceId) {
        if first == last {
            self.exact.insert(Self::key(protocol, Endpoint { addr, port: first.to_be() }), id);
            return;
        }
        let key = Self::key(protocol, Endpoint { addr, port: 0 });
        if (first, last) == (1, u16::MAX) {
            self.whole.insert(key, id);
            return;
        }
        let index = self.ranged.get(key).unwrap_or_else(|| {
            self.ranges.push(Vec::new());
            let index = self.ranges.len() as u32 - 1;
            self.ranged.insert(key, index);
            index
        });
        let ranges = &mut self.ranges[index as usize];
        let at = ranges.partition_point(|range| range.0 <= first);
        ranges.insert(at, (first, last, id));
    }

    /// The service at an endpoint: one at exactly this port before one with a range, and that before one with all ports.
    #[inline]
    pub(crate) fn get(&self, protocol: u8, endpoint: Endpoint) -> Option<ServiceId> {
        let exact = self.exact.get(Self::key(protocol, endpoint));
        exact.or_else(|| self.get_range(protocol, endpoint)).or_else(|| {
            let of_address = Self::key(protocol, Endpoint { port: 0, ..endpoint });
            self.whole.get(of_address).filter(|_| endpoint.port != 0)
        })
    }

    fn get_range(&self, protocol: u8, endpoint: Endpoint) -> Option<ServiceId> {
        let index = self.ranged.get(Self::key(protocol, Endpoint { port: 0, ..endpoint }))?;
        let ranges = self.ranges.get(index as usize)?;
        let port = u16::from_be(endpoint.port);
        let behind = ranges.partition_point(|range| range.0 <= port);
        let (_, last, id) = *ranges.get(behind.checked_sub(1)?)?;
        (port <= last).then_some(id)
    }
}

/// A set of addresses, small and read for every packet.
pub(crate) type AddressSet = AddressMap<()>;

impl AddressSet {
    /// A set of these.
    pub(crate) fn new(addresses: impl Iterator<Item = Addr>) -> AddressSet {
        addresses.map(|address| (address, ())).collect()
    }

    #[inline(always)]
    pub(crate) fn contains4(&self, word: u32) -> bool {
        self.get4(word).is_some()
    }

    #[inline(always)]
    pub(crate) fn contains(&self, address: Addr) -> bool {
        self.get(address).is_some()
    }
}

/// Something for each of some addresses, few and read for every packet.
#[derive(Debug, Clone)]
pub(crate) struct AddressMap<V> {
    /// As loaded from a header.
    v4: Open<u32, V>,
    v6: Open<u128, V>,
}

impl<V: Copy + Default> Default for AddressMap<V> {
    fn default() -> Self {
        AddressMap { v4: Open::default(), v6: Open::default() }
    }
}

/// Addresses 0.0.0.0 and :: are left out: they never name a host.
impl<V: Copy + Default> FromIterator<(Addr, V)> for AddressMap<V> {
    fn from_iter<I: IntoIterator<Item = (Addr, V)>>(entries: I) -> Self {
        let mut map = AddressMap::default();
        for (address, value) in entries {
            match address.v4() {
                Some(0) => {}
                Some(word) => map.v4.insert(word, value),
                None if address.bits() == 0 => {}
                None => map.v6.insert(address.bits(), value),
            }
        }
        map
    }
}

impl<V: Copy + Default> AddressMap<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.len == 0 && self.v6.len == 0
    }

    #[inline(always)]
    pub(crate) fn get4(&self, word: u32) -> Option<V> {
        self.v4.get(word)
    }

    #[inline(always)]
    pub(crate) fn get(&self, address: Addr) -> Option<V> {
        match address.v4() {
            Some(word) => self.get4(word),
            None => self.v6.get(address.bits()),
        }
    }
}

#[cfg(test)]
mod tests;
