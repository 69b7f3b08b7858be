//! Ports by what they add to a hash: as many classes as the redirection table has entries, each of the same
//! size.
//!
//! A class is a number of `k` bits for a table of `2^k` entries, and a linear function of the port's 16 bits.
//! Some `k` bits of the port, the pivots, have contributions that are independent of each other; the lowest
//! that do are taken. Whatever the other bits are, exactly one setting of the pivots puts the port in a
//! wanted class. So the other bits, read as a number, are the port's place within its class.

use super::Toeplitz;

/// The classes of destination ports. See the module.
#[derive(Debug)]
pub(crate) struct PortClasses {
    /// By half byte of the port, lowest first: what it adds to the class.
    class: [[u16; 16]; 4],
    /// The same for the place.
    place: [[u16; 16]; 4],
    /// By class: the setting of the pivots that adds it.
    pivots: Box<[u16]>,
    /// By place: the other bits of the port, and what they add to the class.
    others: Box<[(u16, u16)]>,
    /// Ports that agree in all bits but the lowest so many fill a run of places in every class.
    block_bits: u32,
}

impl PortClasses {
    /// For ports at `offset` of what is hashed; `None` if the classes that ports can have are not all that
    /// there are.
    pub(super) fn new(toeplitz: &Toeplitz, offset: usize, mask: u32) -> Option<PortClasses> {
        let class_of = |port: u16| (toeplitz.at(offset, &port.to_be_bytes()) & mask) as u16;
        let k = mask.count_ones();
        let pivot_mask = pivots(|bit| class_of(1 << bit));
        if pivot_mask.count_ones() != k {
            return None;
        }
        let mut pivots = vec![0; 1 << k];
        for index in 0..1u32 << k {
            let setting = deposit(index, pivot_mask);
            pivots[usize::from(class_of(setting))] = setting;
        }
        let others = (0..1u32 << (16 - k)).map(|place| deposit(place, !pivot_mask));
        let table = |of: &dyn Fn(u16) -> u16| {
            std::array::from_fn(|nibble| std::array::from_fn(|value| of((value << (4 * nibble)) as u16)))
        };
        Some(PortClasses {
            class: table(&class_of),
            place: table(&|port| extract(port, !pivot_mask)),
            pivots: pivots.into(),
            others: others.map(|bits| (bits, class_of(bits))).collect(),
            block_bits: 16 - pivot_mask.leading_zeros(),
        })
    }

    /// The class of a port (host order).
    #[inline(always)]
    pub(crate) fn class(&self, port: u16) -> u16 {
        sum(&self.class, port)
    }

    /// Its place within its class.
    #[inline(always)]
    pub(crate) fn place(&self, port: u16) -> u16 {
        sum(&self.place, port)
    }

    /// The port of a class at a place.
    #[inline(always)]
    pub(crate) fn port(&self, class: u16, place: u16) -> u16 {
        let (bits, adds) = self.others[usize::from(place) % self.others.len()];
        bits | self.pivots[usize::from(class ^ adds) % self.pivots.len()]
    }

    /// The whole blocks that a range of ports is within, first and last port.
    pub(crate) fn around(&self, (first, last): (u16, u16)) -> (u16, u16) {
        let below = ((1u32 << self.block_bits) - 1) as u16;
        (first & !below, last | below)
    }
}

#[inline(always)]
fn sum(table: &[[u16; 16]; 4], port: u16) -> u16 {
    let adds = |nibble: usize| table[nibble][usize::from(port >> (4 * nibble) & 15)];
    adds(0) ^ adds(1) ^ adds(2) ^ adds(3)
}

/// The lowest bits of a port whose contributions are independent of those of lower ones (Gauss).
fn pivots(adds: impl Fn(u32) -> u16) -> u16 {
    let mut basis: [u16; 16] = [0; 16];
    (0..16).filter(|&bit| insert(&mut basis, adds(bit))).fold(0, |mask, bit| mask | 1 << bit)
}

/// Adds to a basis, which has at each index a vector whose highest bit is that one; whether it was
/// independent.
fn insert(basis: &mut [u16; 16], mut vector: u16) -> bool {
    while vector != 0 {
        let highest = 15 - vector.leading_zeros() as usize;
        if basis[highest] == 0 {
            basis[highest] = vector;
            return true;
        }
        vector ^= basis[highest];
    }
    false
}

/// Puts the low bits of `value` where `mask` has ones.
fn deposit(value: u32, mask: u16) -> u16 {
    let places = (0..16).filter(|bit| mask >> bit & 1 != 0);
    places.enumerate().fold(0, |word, (from, to)| word | ((value >> from & 1) as u16) << to)
}

/// Takes the bits where `mask` has ones as a number.
fn extract(word: u16, mask: u16) -> u16 {
    let places = (0..16).filter(|bit| mask >> bit & 1 != 0);
    places.enumerate().fold(0, |value, (to, from)| value | (word >> from & 1) << to)
}
