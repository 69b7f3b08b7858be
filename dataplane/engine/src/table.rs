//! The connection table: records and the index that finds them.
//!
//! Sized at start, never grows. Each connection has two index entries, one per direction, because a packet's
//! five-tuple is either client → virtual or real → local. The index is made of buckets of one cache line with eight
//! entries: a 16-bit tag (hash bits) and a record number. A key lives in its first bucket, or, when that is full, in
//! its second one; the first then counts it as overflowed, so a lookup reads the second only when it must. A look
//! thus costs one bucket and one record.
//!
//! Bytes per connection: 128 (record) + 2 entries x 64 B / (8 x load 0.7) = 151. Eight tags are one 128-bit compare; ten
//! ways would fit the line too and save 5 bytes, but cost a dozen instructions per look.

use wide::{u8x16, u16x8};
use zerocopy::transmute;

use crate::addr::Tuple;
use crate::conn::{Conn, Direction, Keys, NIL, Tuples, Wide, flag, trait_, wide};
use crate::hash::{AnyKey, Key, Key6, Secret, reduce};

/// Entries per bucket.
const WAYS: usize = 8;
/// Entries per hundred places when the table is full of connections.
const LOAD_PERCENT: usize = 70;
/// Marks the outbound entry of a record.
const OUTBOUND: u32 = 1 << 31;

/// A place in the index and what it points to.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    /// Hash bits, 0: free.
    tags: [u16; WAYS],
    /// Record number and direction bit.
    entries: [u32; WAYS],
    /// Keys that belong here but live in their second bucket.
    overflowed: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Bucket = Bucket { tags: [0; WAYS], overflowed: 0, entries: [0; WAYS] };

    /// Entries that have this tag: two bits each, as tags have two bytes.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        let equal = u16x8::new(self.tags).simd_eq(u16x8::splat(tag));
        u8x16::new(transmute!(equal.to_array())).to_bitmask()
    }

    /// The entry of the lowest bits that [`Bucket::matches`] gave.
    #[inline(always)]
    fn entry(&self, matches: u32) -> u32 {
        self.entries[first_way(matches)]
    }

    fn free_way(&self) -> Option<usize> {
        let free = self.matches(0);
        (free != 0).then(|| first_way(free))
    }
}

/// The number of the lowest bits that [`Bucket::matches`] gave.
#[inline(always)]
fn first_way(matches: u32) -> usize {
    matches.trailing_zeros() as usize / 2 % WAYS
}

/// Where a key's hash points.
#[derive(Debug, Clone, Copy)]
struct Place {
    tag: u16,
    first: usize,
    second: usize,
}

/// A found record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub conn: u32,
    pub direction: Direction,
}

/// The index could not take a key, or there is no room for IPv6 addresses: the table counts as full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The addresses of connections that have IPv6 on a side. There is room for all; it costs memory only as far as it
/// was ever used, because the kernel gives pages when they are first touched.
#[derive(Debug)]
pub(crate) struct WidePool {
    pub(crate) all: Vec<Wide>,
    /// Numbers that were used and are no more.
    free: Vec<u32>,
    /// Numbers from here on were never used.
    fresh: u32,
}

impl WidePool {
    fn new(len: u32) -> WidePool {
        WidePool { all: vec![[[0; 2]; 2]; len as usize], free: Vec::with_capacity(len as usize), fresh: 0 }
    }

    fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        let number = self.fresh;
        self.fresh += u32::from((number as usize) < self.all.len());
        (number < self.fresh).then_some(number)
    }
}

/// Records and index.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) conns: Vec<Conn>,
    pub(crate) wide: WidePool,
    buckets: Vec<Bucket>,
    /// List of freed records, linked through `wheel_next`.
    free: u32,
    /// Records from here on were never used.
    fresh: u32,
    live: u32,
    secret: Secret,
}

impl Table {
    pub(crate) fn new(connections_max: u32, secret: Secret) -> Table {
        let entries = connections_max as usize * 2;
        let buckets = (entries * 100).div_ceil(WAYS * LOAD_PERCENT).max(2);
        Table {
            conns: vec![Conn::EMPTY; connections_max as usize],
            wide: WidePool::new(connections_max),
            buckets: vec![Bucket::EMPTY; buckets],
            free: NIL,
            fresh: 0,
            live: 0,
            secret,
        }
    }

    /// Connections in the table.
    pub(crate) fn len(&self) -> u32 {
        self.live
    }

    /// Bytes of records and index, and of IPv6 addresses as far as there ever were some.
    pub(crate) fn bytes(&self) -> usize {
        let wide = self.wide.fresh as usize * (size_of::<Wide>() + size_of::<u32>());
        self.conns.len() * size_of::<Conn>() + self.buckets.len() * size_of::<Bucket>() + wide
    }

    #[inline(always)]
    pub(crate) fn hash(&self, key: Key) -> u64 {
        self.secret.hash(key)
    }

    #[inline(always)]
    pub(crate) fn hash6(&self, key: &Key6) -> u64 {
        self.secret.hash6(key)
    }

    #[inline(always)]
    pub(crate) fn hash_any(&self, key: &AnyKey) -> u64 {
        self.secret.hash_any(key)
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> Place {
        let n = self.buckets.len() as u32;
        let first = self.bucket_of(hash) as usize;
        let second = reduce((hash >> 24) as u32, n) as usize;
        let second = if second != first { second } else { (first + 1) % n as usize };
        Place { tag: tag_of(hash), first, second }
    }

    /// The number of the bucket where a lookup of this hash starts.
    #[inline(always)]
    pub(crate) fn bucket_of(&self, hash: u64) -> u32 {
        reduce(hash as u32, self.buckets.len() as u32)
    }

    /// A bucket, for prefetching.
    #[inline(always)]
    pub(crate) fn bucket(&self, number: u32) -> Option<&Bucket> {
        self.buckets.get(number as usize)
    }

    /// The buckets where the entries of a record begin, for prefetching.
    #[inline(always)]
    pub(crate) fn buckets_of(&self, index: u32) -> [Option<&Bucket>; 2] {
        [index, index | OUTBOUND].map(|entry| self.bucket(self.bucket_of(self.hash_of(entry))))
    }

    /// The entry that a lookup of this hash, which starts at `bucket`, will most likely find; [`NIL`] when there is none.
    #[inline(always)]
    pub(crate) fn likely(&self, bucket: u32, hash: u64) -> u32 {
        let Some(first) = self.bucket(bucket) else { return NIL };
        let matches = first.matches(tag_of(hash));
        if matches == 0 { self.likely_second(first, hash) } else { first.entry(matches) }
    }

    /// The same of what does not live in its first bucket.
    #[inline(never)]
    fn likely_second(&self, first: &Bucket, hash: u64) -> u32 {
        if first.overflowed == 0 {
            return NIL;
        }
        let place = self.place(hash);
        let second = &self.buckets[place.second];
        let matches = second.matches(place.tag);
        if matches == 0 { NIL } else { second.entry(matches) }
    }

    /// The record of an entry, for prefetching.
    #[inline(always)]
    pub(crate) fn record(&self, entry: u32) -> Option<&Conn> {
        self.conns.get(index_of(entry))
    }

    /// The connection that an IPv4 packet with this key belongs to. `hash` must be the key's.
    #[inline(always)]
    pub(crate) fn find(&self, key: Key, hash: u64) -> Option<Found> {
        self.find_by(hash, |entry| self.check(entry, key))
    }

    /// The same of an IPv6 packet.
    #[inline(always)]
    pub(crate) fn find6(&self, key: &Key6, hash: u64) -> Option<Found> {
        self.find_by(hash, |entry| self.check6(entry, key))
    }

    /// The connection that a packet with this tuple belongs to.
    pub(crate) fn find_tuple(&self, tuple: &Tuple) -> Option<Found> {
        let key = AnyKey::of(tuple);
        self.find_any(&key, self.hash_any(&key))
    }

    /// The connection that a packet with this key belongs to. `hash` must be the key's.
    #[inline(always)]
    pub(crate) fn find_any(&self, key: &AnyKey, hash: u64) -> Option<Found> {
        match key {
            AnyKey::V4(key) => self.find(*key, hash),
            AnyKey::V6(key) => self.find6(key, hash),
        }
    }

    #[inline(always)]
    fn find_by(&self, hash: u64, check: impl Fn(u32) -> Option<Found>) -> Option<Found> {
        let place = self.place(hash);
        let first = &self.buckets[place.first];
        if let Some(found) = find_in(first, place.tag, &check) {
            return Some(found);
        }
        if first.overflowed == 0 {
            return None;
        }
        find_in(&self.buckets[place.second], place.tag, &check)
    }

    /// Whether `entry` (from [`Table::likely`]) is what an IPv4 packet with this key belongs to.
    #[inline(always)]
    pub(crate) fn check(&self, entry: u32, key: Key) -> Option<Found> {
        let index = entry & !OUTBOUND;
        let conn = self.conns.get(index as usize)?;
        let direction = direction_of(entry);
        let here = conn.flags & (flag::LIVE | wide(direction)) == flag::LIVE;
        (conn.key(direction) == key && here).then_some(Found { conn: index, direction })
    }

    /// Whether `entry` is what an IPv6 packet with this key belongs to.
    #[inline(always)]
    pub(crate) fn check6(&self, entry: u32, key: &Key6) -> Option<Found> {
        let index = entry & !OUTBOUND;
        let conn = self.conns.get(index as usize)?;
        let direction = direction_of(entry);
        let all = flag::LIVE | wide(direction);
        let i = direction as usize;
        let same = conn.flags & all == all && conn.ports[i] == key.ports && conn.protocol == key.protocol;
        if !same {
            return None;
        }
        let addrs = self.wide.all.get(conn.addrs[i] as usize)?[i];
        (addrs == key.addrs).then_some(Found { conn: index, direction })
    }

    /// The IPv6 addresses of a record, for prefetching and translation.
    #[inline(always)]
    pub(crate) fn wide(&self, conn: &Conn, direction: Direction) -> Option<&[u128; 2]> {
        let i = direction as usize;
        self.wide.all.get(conn.addrs[i] as usize).map(|wide| &wide[i])
    }

    /// The five-tuples of a connection.
    pub(crate) fn tuples(&self, index: u32) -> Tuples {
        let conn = &self.conns[index as usize];
        Tuples {
            inbound: self.tuple(conn, Direction::Inbound),
            outbound: self.tuple(conn, Direction::Outbound),
        }
    }

    /// The five-tuple of packets that come in in this direction.
    pub(crate) fn tuple(&self, conn: &Conn, direction: Direction) -> Tuple {
        self.key(conn, direction).tuple()
    }

    /// The same as the table keeps it.
    #[inline(always)]
    pub(crate) fn key(&self, conn: &Conn, direction: Direction) -> AnyKey {
        if !conn.is_wide(direction) {
            return AnyKey::V4(conn.key(direction));
        }
        let addrs = self.wide(conn, direction).copied().unwrap_or_default();
        AnyKey::V6(Key6 { addrs, ports: conn.ports[direction as usize], protocol: conn.protocol })
    }

    /// Writes a record's endpoints; the record must not have any yet.
    #[inline(always)]
    pub(crate) fn set_keys(&mut self, index: u32, keys: &Keys) -> Result<(), Full> {
        let conn = &mut self.conns[index as usize];
        if let [AnyKey::V4(inbound), AnyKey::V4(outbound)] = keys {
            conn.protocol = inbound.protocol;
            conn.addrs = [inbound.addrs, outbound.addrs];
            conn.ports = [inbound.ports, outbound.ports];
            return Ok(());
        }
        self.set_wide_keys(index, keys)
    }

    #[inline(never)]
    fn set_wide_keys(&mut self, index: u32, keys: &Keys) -> Result<(), Full> {
        let conn = &mut self.conns[index as usize];
        let number = self.wide.take().ok_or(Full)?;
        let wide_addrs = &mut self.wide.all[number as usize];
        for (i, direction) in [Direction::Inbound, Direction::Outbound].into_iter().enumerate() {
            conn.ports[i] = keys[i].ports();
            match &keys[i] {
                AnyKey::V4(key) => (conn.addrs[i], conn.protocol) = (key.addrs, key.protocol),
                AnyKey::V6(key) => {
                    wide_addrs[i] = key.addrs;
                    (conn.addrs[i], conn.protocol) = (number.into(), key.protocol);
                    conn.flags |= wide(direction);
                }
            }
        }
        Ok(())
    }

    /// Takes a free record. The caller fills it in and calls [`Table::link`].
    pub(crate) fn take(&mut self) -> Option<u32> {
        let index = if self.free != NIL {
            let index = self.free;
            self.free = self.conns[index as usize].wheel_next;
            index
        } else if (self.fresh as usize) < self.conns.len() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.live += 1;
        Some(index)
    }

    /// Gives a record back that is not (or no longer) linked.
    pub(crate) fn give_back(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let numbers = [Direction::Inbound, Direction::Outbound]
            .map(|d| conn.is_wide(d).then(|| conn.addrs[d as usize]));
        // Both sides have the same one.
        if let Some(number) = numbers[0].or(numbers[1]) {
            self.wide.free.push(number as u32);
        }
        conn.flags = 0;
        conn.wheel_next = self.free;
        self.free = index;
        self.live -= 1;
    }

    /// Enters a record under both its keys, whose hashes these are, or of one-way modes under the inbound one; on error
    /// under none.
    pub(crate) fn link(&mut self, index: u32, [inbound, outbound]: [u64; 2]) -> Result<(), Full> {
        self.insert(inbound, index)?;
        if self.conns[index as usize].is(trait_::ONE_WAY) {
            return Ok(());
        }
        self.insert(outbound, index | OUTBOUND).inspect_err(|_| self.remove(inbound, index))
    }

    /// Takes a record's entries out of the index.
    pub(crate) fn unlink(&mut self, index: u32) {
        self.remove(self.hash_of(index), index);
        if !self.conns[index as usize].is(trait_::ONE_WAY) {
            self.remove(self.hash_of(index | OUTBOUND), index | OUTBOUND);
        }
    }

    fn insert(&mut self, hash: u64, entry: u32) -> Result<(), Full> {
        let place = self.place(hash);
        for _ in 0..2 {
            if let Some(way) = self.buckets[place.first].free_way() {
                self.put(place.first, way, place.tag, entry);
                return Ok(());
            }
            if let Some(way) = self.buckets[place.second].free_way() {
                self.put(place.second, way, place.tag, entry);
                self.buckets[place.first].overflowed += 1;
                return Ok(());
            }
            if !self.make_room(place.first) && !self.make_room(place.second) {
                return Err(Full);
            }
        }
        Err(Full)
    }

    fn put(&mut self, bucket: usize, way: usize, tag: u16, entry: u32) {
        let bucket = &mut self.buckets[bucket];
        bucket.tags[way] = tag;
        bucket.entries[way] = entry;
    }

    /// Moves one entry of a full bucket to its other bucket.
    fn make_room(&mut self, from: usize) -> bool {
        for way in 0..WAYS {
            let entry = self.buckets[from].entries[way];
            let place = self.place(self.hash_of(entry));
            let to = if place.first == from { place.second } else { place.first };
            let Some(free) = self.buckets[to].free_way() else { continue };
            self.put(to, free, place.tag, entry);
            self.buckets[from].tags[way] = 0;
            if to == place.second {
                self.buckets[place.first].overflowed += 1;
            } else {
                self.buckets[place.first].overflowed -= 1;
            }
            return true;
        }
        false
    }

    fn hash_of(&self, entry: u32) -> u64 {
        self.hash_any(&self.key(&self.conns[index_of(entry)], direction_of(entry)))
    }

    fn remove(&mut self, hash: u64, entry: u32) {
        let place = self.place(hash);
        if self.remove_from(place.first, place.tag, entry) {
            return;
        }
        if self.remove_from(place.second, place.tag, entry) {
            self.buckets[place.first].overflowed -= 1;
        }
    }

    fn remove_from(&mut self, bucket: usize, tag: u16, entry: u32) -> bool {
        let bucket = &mut self.buckets[bucket];
        let way = (0..WAYS).find(|way| bucket.tags[*way] == tag && bucket.entries[*way] == entry);
        if let Some(way) = way {
            bucket.tags[way] = 0;
            // Nothing reads it any more; an entry that is gone shall stand nowhere.
            bucket.entries[way] = NIL;
        }
        way.is_some()
    }

    /// Records that were ever used; the rest need not be looked at.
    pub(crate) fn used(&self) -> &[Conn] {
        &self.conns[..self.fresh as usize]
    }

    /// The same, to write to.
    #[inline(always)]
    pub(crate) fn used_mut(&mut self) -> &mut [Conn] {
        &mut self.conns[..self.fresh as usize]
    }

    /// Live records.
    #[cfg(test)]
    fn live_conns(&self) -> impl Iterator<Item = &Conn> {
        self.used().iter().filter(|c| c.has(flag::LIVE))
    }
}

#[inline(always)]
fn find_in(bucket: &Bucket, tag: u16, check: impl Fn(u32) -> Option<Found>) -> Option<Found> {
    let mut matches = bucket.matches(tag);
    while matches != 0 {
        if let Some(found) = check(bucket.entry(matches)) {
            return Some(found);
        }
        matches &= matches - 1;
        matches &= matches - 1;
    }
    None
}

/// The tag that stands for a hash in the index; never 0.
#[inline(always)]
fn tag_of(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

/// The record that an entry points to.
#[inline(always)]
pub(crate) fn index_of(entry: u32) -> usize {
    (entry & !OUTBOUND) as usize
}

/// The direction of the packets that an entry is for.
#[inline(always)]
pub(crate) fn direction_of(entry: u32) -> Direction {
    if entry & OUTBOUND == 0 { Direction::Inbound } else { Direction::Outbound }
}

/// Whether a record is in use, for iteration over [`Table::used`].
#[inline(always)]
pub(crate) fn is_live(conn: &Conn) -> bool {
    conn.has(flag::LIVE)
}

#[cfg(test)]
mod tests;
