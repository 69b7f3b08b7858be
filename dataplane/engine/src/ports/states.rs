//! Which places of a share are ready, which rest, and which are in use: two bits per place, and an index that finds the
//! next ready one in a few steps, however few there are.
//!
//! Three of the four codes take turns to mean *ready*, *rested* and *resting*, so a new round touches no place.

/// Codes that take turns.
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
    /// What ready places have; rested ones have the next, resting ones the one after it.
    ready: usize,
}

/// The code after this one.
const fn after(code: usize) -> usize {
    if code + 1 == RESTS { 0 } else { code + 1 }
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
        States { words, marks, ready: 0 }
    }

    /// What was ready and is not in use by now, starts to rest.
    pub(super) fn begin_round(&mut self) {
        self.ready = after(self.ready);
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

    /// Where to look next after a place: a guess that is right when its neighbours are ready too.
    #[inline(always)]
    pub(super) fn next_ready(&self, place: u32) -> u32 {
        let number = place / BITS;
        let word = self.words.get(number as usize).copied().unwrap_or_default();
        let behind = having(word, self.ready) & ((u64::MAX - 1) << (place % BITS));
        match (behind != 0, (number as usize + 1) < self.words.len()) {
            (true, _) => number * BITS + behind.trailing_zeros(),
            (false, true) => (number + 1) * BITS,
            (false, false) => 0,
        }
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
    }

    /// A place that is in use rests from now on; `false` if it was not in use.
    #[inline(always)]
    pub(super) fn set_resting(&mut self, place: u32) -> bool {
        let (number, bit) = ((place / BITS) as usize, 1 << (place % BITS));
        let Some(word) = self.words.get_mut(number) else { return false };
        if having(*word, USED) & bit == 0 {
            return false;
        }
        let resting = after(after(self.ready));
        for (at, bits) in word.iter_mut().enumerate() {
            if resting >> at & 1 == 0 {
                *bits &= !bit;
            }
        }
        self.marks[number / BITS as usize][resting] |= 1 << (number as u32 % BITS);
        true
    }
}
