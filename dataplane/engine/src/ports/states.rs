//! Which places of a share are ready, which rest, and which are in use: two bits per place, and an index that finds the
//! next ready one in a few steps, however few there are.
//!
//! A round gives the *ready* places; what is freed meanwhile is *resting*. The next round gives what was freed in the one
//! before: it has *rested*. So three of the four codes take turns to mean these, and a new round touches no place.

/// Codes that take turns, from 0 on.
pub(super) const RESTS: usize = 3;
/// The fourth.
const USED: usize = 3;
/// Places of a word, and words of a mark.
const BITS: u32 = 64;

#[derive(Debug)]
pub(super) struct States {
    /// The lower and the upper bits of 64 places' codes.
    words: Box<[[u64; 2]]>,
    /// Of 64 words each, by code: which have places of that code.
    marks: Box<[[u64; RESTS]]>,
    /// Places by code.
    counts: [u32; RESTS],
    ready: usize,
    rested: usize,
    resting: usize,
    /// So many places are ready when half of a round is over.
    half: u32,
}

/// Places of a word that have a code, a bit each.
#[inline(always)]
fn having(word: [u64; 2], code: usize) -> u64 {
    let inverted = |bit: usize| ((code >> bit & 1) as u64).wrapping_sub(1);
    (word[0] ^ inverted(0)) & (word[1] ^ inverted(1))
}

impl States {
    /// All `places` are ready.
    pub(super) fn new(places: u32) -> States {
        // Zeroes, which the kernel gives when they are first touched.
        let mut words = vec![[0; 2]; places.div_ceil(BITS) as usize].into_boxed_slice();
        if let (Some(last), false) = (words.last_mut(), places.is_multiple_of(BITS)) {
            *last = [u64::MAX << (places % BITS); 2];
        }
        let mut marks = vec![[0; RESTS]; words.len().div_ceil(BITS as usize)].into_boxed_slice();
        for word in 0..words.len() {
            marks[word / BITS as usize][0] |= 1 << (word as u32 % BITS);
        }
        States { words, marks, counts: [places, 0, 0], ready: 0, rested: 1, resting: 2, half: places / 2 }
    }

    /// What has rested is ready, and what rests has rested. What is still ready rests; of that there is only what no real port
    /// could use.
    pub(super) fn begin_round(&mut self) {
        (self.ready, self.rested, self.resting) = (self.rested, self.resting, self.ready);
        self.half = self.counts[self.ready] / 2;
    }

    /// The first ready place from `start` on.
    #[inline(always)]
    pub(super) fn first_ready(&self, start: u32) -> Option<u32> {
        let number = start / BITS;
        let here = having(*self.words.get(number as usize)?, self.ready) & (u64::MAX << (start % BITS));
        if here != 0 {
            return Some(number * BITS + here.trailing_zeros());
        }
        let number = self.first_marked(number + 1)?;
        let ready = having(*self.words.get(number as usize)?, self.ready);
        Some(number * BITS + ready.trailing_zeros() % BITS)
    }

    /// The first word from `start` on that has ready places.
    #[inline(always)]
    fn first_marked(&self, start: u32) -> Option<u32> {
        let mut at = start / BITS;
        let mut marks = self.marks.get(at as usize)?[self.ready] & (u64::MAX << (start % BITS));
        while marks == 0 {
            at += 1;
            marks = self.marks.get(at as usize)?[self.ready];
        }
        Some(at * BITS + marks.trailing_zeros())
    }

    /// Where the round most likely goes on behind a place that it has given: right if its neighbours are ready too.
    #[inline(always)]
    pub(super) fn likely_after(&self, place: u32) -> u32 {
        let number = place / BITS;
        let word = self.words.get(number as usize).copied().unwrap_or_default();
        let behind = having(word, self.ready) & ((u64::MAX - 1) << (place % BITS));
        if behind == 0 { (number + 1) * BITS } else { number * BITS + behind.trailing_zeros() }
    }

    /// A ready place is in use from now on.
    #[inline(always)]
    pub(super) fn set_used(&mut self, place: u32) {
        let (number, bit) = ((place / BITS) as usize, 1 << (place % BITS));
        let Some(word) = self.words.get_mut(number) else { return };
        *word = word.map(|bits| bits | bit);
        if having(*word, self.ready) == 0 {
            self.marks[number / BITS as usize][self.ready] &= !(1 << (number as u32 % BITS));
        }
        self.counts[self.ready] -= 1;
        // With nothing in between, the next round would give what was freed a moment ago: two rounds are made of this one.
        if self.counts[self.ready] == self.half && self.counts[self.rested] == 0 {
            (self.rested, self.resting) = (self.resting, self.rested);
        }
    }

    /// A place is in use no more, and rests; `false` if it was not in use.
    #[inline(always)]
    pub(super) fn set_free(&mut self, place: u32) -> bool {
        let (number, bit) = ((place / BITS) as usize, 1 << (place % BITS));
        let Some(word) = self.words.get_mut(number) else { return false };
        if having(*word, USED) & bit == 0 {
            return false;
        }
        for (at, bits) in word.iter_mut().enumerate() {
            if self.resting >> at & 1 == 0 {
                *bits &= !bit;
            }
        }
        self.marks[number / BITS as usize][self.resting] |= 1 << (number as u32 % BITS);
        self.counts[self.resting] += 1;
        true
    }
}

#[cfg(test)]
impl States {
    /// Panics unless marks and counts say what the words say and nothing behind `places` is free.
    pub(super) fn check(&self, places: u32) {
        for (number, word) in self.words.iter().enumerate() {
            for (code, marks) in self.marks[number / 64].iter().enumerate() {
                assert_eq!(
                    marks >> (number % 64) & 1 == 1,
                    having(*word, code) != 0,
                    "word {number}, code {code}"
                );
            }
        }
        for (code, count) in self.counts.iter().enumerate() {
            assert_eq!(self.words.iter().map(|word| having(*word, code).count_ones()).sum::<u32>(), *count);
        }
        let mut behind = places..self.words.len() as u32 * BITS;
        assert!(
            behind.all(|place| having(self.words[(place / BITS) as usize], USED) >> (place % BITS) & 1 == 1)
        );
    }
}
