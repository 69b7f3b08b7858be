//! Persistence: which real server a client has, for as long as it comes back in time (IPVS's templates).
//!
//! One table for all workers, without locks, because a client's connections hash to different workers. Two
//! workers that meet the same new client at once agree on one real server.
//!
//! # The table
//! A bucket has one header word and [`SLOTS`] slots, each a key and a value. The header says which slots are
//! visible and which are reserved, and counts its own changes:
//!
//! ```text
//! header   version (34 bits) | reserved slots (15) | visible slots (15)
//! key      keyed hash of service, masked client and port (64)
//! value    tick of expiry (32) | real server (32)
//! ```
//!
//! - Only the header decides what is in the bucket, and each change of it is a compare-exchange on all of it. So
//!   who has seen that a key is missing can only make it visible if nothing else has become visible since.
//! - A slot is reserved before its key and value are written, and belongs to who reserved it until it is visible
//!   or free. A reader that meets the writing notices that the header has changed, and looks anew.
//! - Of a visible slot only the expiry changes, by a compare-exchange on the value.
//! - A key is never visible twice.
//!
//! Every step that has to be repeated was overtaken by another worker's that was not. The one exception:
//! while the last slots of a bucket are reserved, others wait for what comes of it, a few instructions, and
//! give up after [`TRIES_MAX`] looks.
//!
//! # Times
//! Expiry is a tick ([`crate::time`]) that wraps after 497 days, so expired templates must be swept well
//! within 248. A template that expires in the same tick in which it is refreshed may be lost.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use crate::hash::fold;
use crate::ids::{RealId, ServiceId};
use crate::time::Ticks;

/// Slots of a bucket. With half of all slots in use, one in a thousand newcomers finds its bucket full; with
/// 7 slots in two cache lines it would be one in a hundred.
const SLOTS: usize = 15;

/// Looks at a bucket that others keep changing: about 50 µs. More than a few happen only where workers share
/// a CPU.
const TRIES_MAX: usize = 1000;

const VISIBLE: u64 = 1;
const RESERVED: u64 = 1 << SLOTS;
const VERSION: u64 = 1 << (2 * SLOTS);
const ALL_SLOTS: u64 = (1 << SLOTS) - 1;

/// Four cache lines: the header and the keys in two, the values in two.
#[derive(Debug, Default)]
#[repr(C, align(128))]
struct Bucket {
    header: AtomicU64,
    keys: [AtomicU64; SLOTS],
    values: [AtomicU64; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 256);

/// What a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// The real server.
    pub real: RealId,
    /// Whether this call made it: one more template of `real`.
    pub is_new: bool,
}

/// The templates of all services. See the module.
#[derive(Debug)]
pub struct Templates {
    buckets: Box<[Bucket]>,
    secret: [u64; 2],
}

/// A visible slot and its value.
#[derive(Debug, Clone, Copy)]
struct Found {
    slot: usize,
    value: u64,
}

/// What one look at a bucket says.
enum Look {
    Found(Found),
    Missing,
    /// Another worker changed the bucket meanwhile.
    Changed,
}

impl Templates {
    /// A table for as many templates, with twice as many slots. The secret keeps clients from choosing their
    /// bucket.
    pub fn new(capacity: usize, secret: [u64; 2]) -> Templates {
        let buckets = (capacity * 2).div_ceil(SLOTS).max(1);
        Templates { buckets: std::iter::repeat_with(Bucket::default).take(buckets).collect(), secret }
    }

    /// The key of a client (4 or 16 bytes) of a service. Clients that agree in `prefix_len` bits are one;
    /// `port` is the virtual port (host order), or 0 where one real server is to serve all ports.
    pub fn key(&self, service: ServiceId, client: &[u8], prefix_len: u8, port: u16) -> u64 {
        // The constants only keep a weak secret (of a test, of an operator's seed) from making a weak hash.
        let first = self.secret[0] ^ 0x9e37_79b9_7f4a_7c15;
        let second = self.secret[1] ^ 0xe703_7ed1_a0b4_28db;
        let client = masked(client, prefix_len);
        let inner = fold(client as u64 ^ first, (client >> 64) as u64 ^ second);
        fold(inner ^ second, (u64::from(service.0) << 16 | u64::from(port)) ^ first)
    }

    /// The real server of a key.
    pub fn get(&self, key: u64, now: Ticks) -> Option<RealId> {
        let found = self.bucket(key).find(key)?;
        is_live(found.value, now).then(|| real_of(found.value))
    }

    /// The real server of a key; `real` if it has none. Either way it has it until `timeout` from now.
    /// `None`: the bucket is full of live templates. `removed` is told the real server of an expired template
    /// that gave way.
    pub fn get_or_insert(
        &self,
        key: u64,
        real: RealId,
        now: Ticks,
        timeout: Ticks,
        removed: impl FnOnce(RealId),
    ) -> Option<Template> {
        let bucket = self.bucket(key);
        let until = now.plus(timeout);
        for _ in 0..TRIES_MAX {
            let header = bucket.header.load(Acquire);
            let slot = match bucket.look(header, key) {
                Look::Changed => continue,
                Look::Found(found) if is_live(found.value, now) => {
                    bucket.extend(found, until);
                    return Some(Template { real: real_of(found.value), is_new: false });
                }
                Look::Found(expired) => expired.slot,
                Look::Missing => match bucket.room(header, now) {
                    Some(slot) => slot,
                    None if header & (ALL_SLOTS * RESERVED) == 0 => return None,
                    None => {
                        spin_loop();
                        continue;
                    }
                },
            };
            interleave();
            let was_visible = header & (VISIBLE << slot) != 0;
            let reserved = (header & !(VISIBLE << slot) | RESERVED << slot).wrapping_add(VERSION);
            if bucket.header.compare_exchange(header, reserved, AcqRel, Acquire).is_ok() {
                interleave();
                let old = bucket.write(slot, key, pack(real, until));
                if was_visible {
                    removed(real_of(old));
                }
                return match bucket.publish(reserved, slot, key) {
                    Published::Here => Some(Template { real, is_new: true }),
                    Published::Elsewhere(found) => {
                        bucket.extend(found, until);
                        Some(Template { real: real_of(found.value), is_new: false })
                    }
                    Published::Nowhere => None,
                };
            }
        }
        None
    }

    /// Lets a key have its real server until `timeout` from now, if it still has one.
    pub fn refresh(&self, key: u64, now: Ticks, timeout: Ticks) {
        let bucket = self.bucket(key);
        if let Some(found) = bucket.find(key).filter(|found| is_live(found.value, now)) {
            bucket.extend(found, now.plus(timeout));
        }
    }

    /// Takes a key's real server away; the real server that has one template less now.
    pub fn forget(&self, key: u64) -> Option<RealId> {
        let bucket = self.bucket(key);
        for _ in 0..TRIES_MAX {
            let header = bucket.header.load(Acquire);
            match bucket.look(header, key) {
                Look::Found(found) if bucket.hide(header, found.slot) => return Some(real_of(found.value)),
                Look::Missing => return None,
                Look::Found(_) | Look::Changed => {}
            }
        }
        None
    }

    /// Removes what has expired, or belongs to a real server that is gone, from `n` buckets at `cursor`;
    /// tells the real server of each. Returns the next cursor. A full round over [`Templates::buckets`] sees
    /// every template.
    pub fn sweep(
        &self,
        cursor: usize,
        n: usize,
        now: Ticks,
        is_gone: impl Fn(RealId) -> bool,
        mut removed: impl FnMut(RealId),
    ) -> usize {
        let start = cursor % self.buckets.len();
        let end = start.saturating_add(n).min(self.buckets.len());
        for bucket in &self.buckets[start..end] {
            for slot in 0..SLOTS {
                let header = bucket.header.load(Acquire);
                if header & (VISIBLE << slot) == 0 {
                    continue;
                }
                let value = bucket.values[slot].load(Acquire);
                let has_to_go = !is_live(value, now) || is_gone(real_of(value));
                // One that changes under our hands is left for the next round.
                if has_to_go && bucket.hide(header, slot) {
                    removed(real_of(value));
                }
            }
        }
        end % self.buckets.len()
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    fn bucket(&self, key: u64) -> &Bucket {
        &self.buckets[((u128::from(key) * self.buckets.len() as u128) >> 64) as usize]
    }
}

impl Bucket {
    /// Looks for a key among the slots that are visible under this header.
    fn look(&self, header: u64, key: u64) -> Look {
        let visible = header & ALL_SLOTS;
        let slot = (0..SLOTS).find(|i| visible & (VISIBLE << i) != 0 && self.keys[*i].load(Acquire) == key);
        interleave();
        let found = slot.map(|slot| Found { slot, value: self.values[slot].load(Acquire) });
        // All that was read was there at one time, if the header is still the same: who writes a slot has
        // changed the header before, and we would see that with what it wrote.
        match found {
            _ if self.header.load(Acquire) != header => Look::Changed,
            Some(found) => Look::Found(found),
            None => Look::Missing,
        }
    }

    fn find(&self, key: u64) -> Option<Found> {
        for _ in 0..TRIES_MAX {
            match self.look(self.header.load(Acquire), key) {
                Look::Found(found) => return Some(found),
                Look::Missing => return None,
                Look::Changed => {}
            }
        }
        None
    }

    /// A slot for a new key: a free one, else one that has expired.
    fn room(&self, header: u64, now: Ticks) -> Option<usize> {
        let taken = (header | header >> SLOTS) & ALL_SLOTS;
        let free = (!taken & ALL_SLOTS).trailing_zeros() as usize;
        if free < SLOTS {
            return Some(free);
        }
        let is_visible = |slot: &usize| header & (VISIBLE << slot) != 0;
        (0..SLOTS).filter(is_visible).find(|slot| !is_live(self.values[*slot].load(Acquire), now))
    }

    /// Fills a slot that we have reserved; returns the old value.
    fn write(&self, slot: usize, key: u64, value: u64) -> u64 {
        self.keys[slot].store(key, Release);
        interleave();
        self.values[slot].swap(value, AcqRel)
    }

    /// Makes a slot that we have reserved and filled visible, unless the key has become visible elsewhere.
    fn publish(&self, mut header: u64, slot: usize, key: u64) -> Published {
        for _ in 0..TRIES_MAX {
            interleave();
            let published = (header & !(RESERVED << slot) | VISIBLE << slot).wrapping_add(VERSION);
            match self.header.compare_exchange(header, published, AcqRel, Acquire) {
                Ok(_) => return Published::Here,
                Err(current) => header = current,
            }
            // If the bucket changes during this look, the exchange fails once more.
            if let Look::Found(found) = self.look(header, key) {
                self.give_up(slot);
                return Published::Elsewhere(found);
            }
        }
        self.give_up(slot);
        Published::Nowhere
    }

    /// Frees a slot that we have reserved.
    fn give_up(&self, slot: usize) {
        self.header.fetch_add(VERSION.wrapping_sub(RESERVED << slot), AcqRel);
    }

    /// Takes a slot out that is visible under this header; whether it was we.
    fn hide(&self, header: u64, slot: usize) -> bool {
        interleave();
        let hidden = (header & !(VISIBLE << slot)).wrapping_add(VERSION);
        self.header.compare_exchange(header, hidden, AcqRel, Acquire).is_ok()
    }

    /// Puts off the expiry. If another key has taken the slot meanwhile, with the same real server, that key
    /// has it for longer instead; a harmless mistake.
    fn extend(&self, found: Found, until: Ticks) {
        let mut value = found.value;
        for _ in 0..TRIES_MAX {
            if real_of(value) != real_of(found.value) || expiry_of(value).reached(until) {
                return;
            }
            let later = pack(real_of(value), until);
            match self.values[found.slot].compare_exchange(value, later, AcqRel, Acquire) {
                Ok(_) => return,
                Err(current) => value = current,
            }
        }
    }
}

/// How an attempt to make a key visible ended.
enum Published {
    Here,
    /// Another worker was first.
    Elsewhere(Found),
    /// Others changed the bucket [`TRIES_MAX`] times meanwhile.
    Nowhere,
}

fn pack(real: RealId, expiry: Ticks) -> u64 {
    u64::from(expiry.0) << 32 | u64::from(real.0)
}

fn real_of(value: u64) -> RealId {
    RealId(value as u32)
}

fn expiry_of(value: u64) -> Ticks {
    Ticks((value >> 32) as u32)
}

fn is_live(value: u64, now: Ticks) -> bool {
    !now.reached(expiry_of(value))
}

/// The first `prefix_len` bits of an address of 4 or 16 bytes, as a number; the families never meet, because
/// an IPv4 address is taken in its mapped form (RFC 4291 §2.5.5.2).
fn masked(address: &[u8], prefix_len: u8) -> u128 {
    let number = address.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte));
    let host_bits = |width: u32| width.saturating_sub(prefix_len.into());
    let cleared = |bits: u32| number.checked_shr(bits).and_then(|n| n.checked_shl(bits)).unwrap_or(0);
    if address.len() == 4 { 0xffff_0000_0000 | cleared(host_bits(32)) } else { cleared(host_bits(128)) }
}

/// Where another worker may come in between and do harm; tests let one.
#[inline(always)]
fn interleave() {
    #[cfg(test)]
    tests::let_others_run();
}

#[cfg(test)]
mod tests;
