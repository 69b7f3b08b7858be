//! The only source of chance: everything that a seed decides comes from here, in order.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"): one word of state, so every
/// part of the world can have its own stream that others do not disturb.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        // Seeds are small and consecutive; one round takes them far apart.
        let mut rng = Rng(seed ^ 0x5851_f42d_4c95_7f2d);
        rng.next();
        rng
    }

    /// An independent stream.
    pub(crate) fn fork(&mut self) -> Rng {
        Rng(self.next())
    }

    /// An independent stream that leaves this one as it is: what came later does not change what seeds did before.
    pub(crate) fn aside(&self, purpose: u64) -> Rng {
        Rng(mix(self.0 ^ mix(purpose)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`; 0 for 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { ((u128::from(self.next()) * u128::from(n)) >> 64) as u64 }
    }

    /// A number in `low..=high`.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `per_100k` of 100,000 cases.
    pub(crate) fn chance(&mut self, per_100k: u32) -> bool {
        per_100k != 0 && self.below(100_000) < u64::from(per_100k)
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.next() as u8);
    }
}

pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
