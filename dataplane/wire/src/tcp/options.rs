//! TCP options (RFC 9293 §3.1 and §3.2, RFC 7323, RFC 2018, RFC 7413, RFC 6994).
//!
//! ```text
//! +--------+      +--------+      +--------+--------+----- - - -
//! |  END 0 |      |  NOP 1 |      |  kind  | length |  data
//! +--------+      +--------+      +--------+--------+----- - - -
//! ```
//!
//! Options are at most 40 bytes of the sender's invention. The walk is strict: it ends at END, and at the first option
//! whose length is below 2 or beyond the end, because what follows has no agreed meaning; receivers end there too.
//! Offsets are from the first byte of the options, which is at an even offset of the segment (20), so an offset's
//! parity here is its parity for the checksum.

use crate::checksum::Delta;
use crate::{U16, U32};

/// End of options.
pub const KIND_END: u8 = 0;
/// Filler.
pub const KIND_NOP: u8 = 1;
/// Maximum segment size.
pub const KIND_MSS: u8 = 2;
/// Window scale (RFC 7323 §2).
pub const KIND_WINDOW_SCALE: u8 = 3;
/// Selective acknowledgements permitted (RFC 2018 §2).
pub const KIND_SACK_PERMITTED: u8 = 4;
/// Selective acknowledgements (RFC 2018 §3).
pub const KIND_SACK: u8 = 5;
/// Timestamps (RFC 7323 §3).
pub const KIND_TIMESTAMPS: u8 = 8;
/// MD5 signature (RFC 2385).
pub const KIND_MD5: u8 = 19;
/// TCP authentication option (RFC 5925).
pub const KIND_AO: u8 = 29;
/// Multipath TCP (RFC 8684).
pub const KIND_MPTCP: u8 = 30;
/// Fast Open cookie (RFC 7413 §4.1).
pub const KIND_FAST_OPEN: u8 = 34;
/// Shared experimental kind (RFC 6994).
pub const KIND_EXPERIMENT_1: u8 = 253;
/// Shared experimental kind (RFC 6994).
pub const KIND_EXPERIMENT_2: u8 = 254;

/// Length of the MSS option.
pub const MSS_LEN: usize = 4;
/// Length of the window scale option.
pub const WINDOW_SCALE_LEN: usize = 3;
/// Length of the timestamps option.
pub const TIMESTAMPS_LEN: usize = 10;
/// Length of one block of a SACK option: its left and its right edge.
pub const SACK_BLOCK_LEN: usize = 8;
/// What a sender must assume when the other end sends no MSS option over IPv4 (RFC 9293 §3.7.1, MUST-15).
pub const MSS_DEFAULT_V4: u16 = 536;
/// Shifts above this are taken as this (RFC 7323 §2.3).
pub const WINDOW_SCALE_MAX: u8 = 14;

/// One option, where it stands and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// What it is, one of the `KIND_*`; never END or NOP.
    pub kind: u8,
    /// Where its kind byte stands, from the first byte of the options.
    pub offset: usize,
    /// Length of the whole option, kind and length bytes included: 2 to 40.
    pub len: usize,
}

impl Opt {
    /// The whole option, given the options that it came from.
    #[inline]
    #[must_use]
    pub fn bytes<'a>(&self, options: &'a [u8]) -> &'a [u8] {
        options.get(self.offset..self.offset + self.len).unwrap_or_default()
    }

    /// What stands behind kind and length, given the options that it came from.
    #[inline]
    #[must_use]
    pub fn data<'a>(&self, options: &'a [u8]) -> &'a [u8] {
        options.get(self.offset + 2..self.offset + self.len).unwrap_or_default()
    }
}

/// Why a walk over options ended before their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The last byte is a kind that needs a length.
    #[error("TCP option {kind} at offset {offset} has no length byte")]
    NoLength {
        /// The option's kind.
        kind: u8,
        /// Where it stands.
        offset: usize,
    },
    /// A length that does not even cover kind and length.
    #[error("TCP option {kind} at offset {offset} has length {len}, at least 2 is expected")]
    LengthTooSmall {
        /// The option's kind.
        kind: u8,
        /// Where it stands.
        offset: usize,
        /// What it says.
        len: u8,
    },
    /// A length that goes beyond the options.
    #[error("TCP option {kind} at offset {offset} has length {len}, which is beyond the end of the options")]
    LengthBeyondEnd {
        /// The option's kind.
        kind: u8,
        /// Where it stands.
        offset: usize,
        /// What it says.
        len: u8,
    },
}

/// Walks over options; see [`iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    options: &'a [u8],
    offset: usize,
}

/// Walks over options strictly: NOPs are passed over in silence, END ends the walk, and a malformed option is reported
/// once and ends it as well.
#[inline]
#[must_use]
pub const fn iter(options: &[u8]) -> Iter<'_> {
    Iter { options, offset: 0 }
}

impl Iter<'_> {
    /// Where the walk stands: behind the last option, or, at the end, at END, at the malformed option, or at the end of
    /// the bytes.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    #[inline]
    fn stop(&mut self) {
        self.options = &[];
    }
}

impl Iterator for Iter<'_> {
    type Item = Result<Opt, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Every turn moves on by at least one byte, so there are at most 40 for a real header.
        loop {
            let offset = self.offset;
            let (kind, len) = match *self.options.get(offset..)? {
                [] => return None,
                [KIND_NOP, ..] => {
                    self.offset += 1;
                    continue;
                }
                [KIND_END, ..] => {
                    self.stop();
                    return None;
                }
                [kind] => {
                    self.stop();
                    return Some(Err(Malformed::NoLength { kind, offset }));
                }
                [kind, len, ..] => (kind, len),
            };
            if len < 2 {
                self.stop();
                return Some(Err(Malformed::LengthTooSmall { kind, offset, len }));
            }
            if usize::from(len) > self.options.len() - offset {
                self.stop();
                return Some(Err(Malformed::LengthBeyondEnd { kind, offset, len }));
            }
            self.offset += usize::from(len);
            return Some(Ok(Opt { kind, offset, len: usize::from(len) }));
        }
    }
}

impl core::iter::FusedIterator for Iter<'_> {}

/// The well-formed options, up to END or the first malformed one.
#[inline]
fn well_formed(options: &[u8]) -> impl Iterator<Item = Opt> {
    iter(options).map_while(Result::ok)
}

/// The first option of this kind.
#[inline]
#[must_use]
pub fn find(options: &[u8], kind: u8) -> Option<Opt> {
    well_formed(options).find(|opt| opt.kind == kind)
}

/// The last option of this kind and length.
#[inline]
fn last(options: &[u8], kind: u8, len: usize) -> Option<Opt> {
    let mut found = None;
    for item in iter(options) {
        match item {
            Ok(opt) if opt.kind == kind && opt.len == len => found = Some(opt),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    found
}

/// The maximum segment size that is asked for. As receivers do, the last one wins where there are several, and an
/// option of another length than 4 does not count.
#[inline]
#[must_use]
pub fn mss(options: &[u8]) -> Option<u16> {
    let opt = last(options, KIND_MSS, MSS_LEN)?;
    read16(options, opt.offset + 2).map(U16::get)
}

/// The window scale that is offered, at most 14; the last one wins, as with [`mss`].
#[inline]
#[must_use]
pub fn window_scale(options: &[u8]) -> Option<u8> {
    let opt = last(options, KIND_WINDOW_SCALE, WINDOW_SCALE_LEN)?;
    options.get(opt.offset + 2).map(|shift| (*shift).min(WINDOW_SCALE_MAX))
}

/// Whether selective acknowledgements are offered.
#[inline]
#[must_use]
pub fn sack_permitted(options: &[u8]) -> bool {
    well_formed(options).any(|opt| opt.kind == KIND_SACK_PERMITTED && opt.len == 2)
}

/// Timestamp value and echo reply, in this order (RFC 7323 §3.2).
#[inline]
#[must_use]
pub fn timestamps(options: &[u8]) -> Option<(u32, u32)> {
    let opt = find(options, KIND_TIMESTAMPS).filter(|opt| opt.len == TIMESTAMPS_LEN)?;
    match *opt.data(options) {
        [a, b, c, d, e, f, g, h] => {
            Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
        }
        _ => None,
    }
}

/// What [`lower_mss`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// The MSS that was asked for.
    pub old: u16,
    /// The MSS that is asked for now; the same where it was too small to be lowered.
    pub new: u16,
    /// The change for the TCP checksum.
    pub delta: Delta,
}

/// Lowers the maximum segment size by `by`, so that the other end leaves room for what is inserted later, but not below
/// `floor`; an MSS that is at or below the floor already stays. `None` when there is no MSS option: the other end then
/// assumes 536 (RFC 9293 §3.7.1), and there is room.
///
/// All MSS options are lowered where there are several, since receivers differ in which one they believe; `old` and
/// `new` are those of the last.
#[inline]
#[must_use]
pub fn lower_mss(options: &mut [u8], by: u16, floor: u16) -> Option<Lowered> {
    let mut result: Option<Lowered> = None;
    let mut walk_offset = 0;
    // The walk is done on a shared borrow that ends before the write; a write never changes where options stand.
    while let Some(opt) = next_mss(options, &mut walk_offset) {
        let value_offset = opt.offset + 2;
        let Some(old) = read16(options, value_offset) else { break };
        let lowered = old.get().saturating_sub(by).max(floor).min(old.get());
        let new = U16::new(lowered);
        if let Some(bytes) = options.get_mut(value_offset..value_offset + 2) {
            bytes.copy_from_slice(&new.to_bytes());
        }
        let delta = result.map_or(Delta::ZERO, |r| r.delta).replace16_at(value_offset, old, new);
        result = Some(Lowered { old: old.get(), new: lowered, delta });
    }
    result
}

#[inline]
fn is_mss(opt: &Opt) -> bool {
    opt.kind == KIND_MSS && opt.len == MSS_LEN
}

#[inline]
fn next_mss(options: &[u8], walk_offset: &mut usize) -> Option<Opt> {
    let mut walk = Iter { options, offset: *walk_offset };
    let found = walk.by_ref().map_while(Result::ok).find(is_mss);
    *walk_offset = walk.offset;
    found
}

#[inline]
fn read16(bytes: &[u8], offset: usize) -> Option<U16> {
    match *bytes.get(offset..)? {
        [a, b, ..] => Some(U16::from_bytes([a, b])),
        _ => None,
    }
}

/// What an overwriting walk did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stripped {
    /// How many options were overwritten.
    pub count: u8,
    /// Whether the walk ended at a malformed option; what stands behind it is untouched, as no receiver reads it.
    pub malformed: bool,
    /// The change for the TCP checksum.
    pub delta: Delta,
}

/// Edits the options that `wanted` names, in place. An edit leaves every option as long as it is, or makes
/// NOPs of it.
#[inline]
fn edit_where(
    options: &mut [u8],
    wanted: impl Fn(&Opt, &[u8]) -> bool,
    edit: impl Fn(&Opt, &mut [u8]) -> Delta,
) -> Stripped {
    let mut edited = Stripped::default();
    let mut offset = 0;
    loop {
        let mut walk = Iter { options, offset };
        let opt = match walk.next() {
            None => return edited,
            Some(Err(_)) => return Stripped { malformed: true, ..edited },
            Some(Ok(opt)) => opt,
        };
        offset = walk.offset;
        if wanted(&opt, options) {
            edited.delta += edit(&opt, options);
            edited.count += 1;
        }
    }
}

/// Overwrites the options that `unwanted` names with NOPs; it is given the kind and the whole option.
#[inline]
pub fn strip_where(options: &mut [u8], unwanted: impl Fn(u8, &[u8]) -> bool) -> Stripped {
    edit_where(options, |opt, options| unwanted(opt.kind, opt.bytes(options)), fill_with_nop)
}

/// Overwrites timestamps with NOPs, of whatever length. For SYNs: a connection whose SYN offers none has none
/// (RFC 7323 §3.2).
#[inline]
pub fn strip_timestamps(options: &mut [u8]) -> Stripped {
    strip_where(options, |kind, _| kind == KIND_TIMESTAMPS)
}

/// Overwrites an option, and tells what that changes.
fn fill_with_nop(opt: &Opt, options: &mut [u8]) -> Delta {
    let mut delta = Delta::ZERO;
    let bytes = options.get_mut(opt.offset..opt.offset + opt.len).unwrap_or_default();
    for (at, byte) in bytes.iter_mut().enumerate() {
        delta = delta.replace8_at(opt.offset + at, *byte, KIND_NOP);
        *byte = KIND_NOP;
    }
    delta
}

/// Adds `shift`, modulo 2^32, to every edge of every selective acknowledgement, as the acknowledgement number
/// beside them is shifted. An option that does not hold whole blocks is left alone; receivers do not read it
/// (RFC 2018 §3).
///
/// The result is the change for the TCP checksum.
#[inline]
pub fn map_sack(options: &mut [u8], shift: u32) -> Delta {
    // Nearly every segment has timestamps at most.
    if shift == 0 || crate::toa::is_harmless(options) {
        return Delta::ZERO;
    }
    let holds_blocks =
        |opt: &Opt, _: &[u8]| opt.kind == KIND_SACK && (opt.len - 2).is_multiple_of(SACK_BLOCK_LEN);
    let edited = edit_where(options, holds_blocks, |opt, options| {
        let edges = (opt.offset + 2..opt.offset + opt.len).step_by(size_of::<u32>());
        edges.fold(Delta::ZERO, |delta, edge| delta + shift32(options, edge, shift))
    });
    edited.delta
}

/// Puts `map` of it in the place of every edge of every selective acknowledgement. A block of which nothing remains, its
/// edges having become one, is taken out.
///
/// The result is the change for the TCP checksum.
pub fn map_sack_edges(options: &mut [u8], map: impl Fn(u32) -> u32) -> Delta {
    if crate::toa::is_harmless(options) {
        return Delta::ZERO;
    }
    let mut room = [KIND_NOP; super::OPTIONS_LEN_MAX];
    let Some(old) = room.get_mut(..options.len()) else { return Delta::ZERO };
    old.copy_from_slice(options);
    let holds_blocks =
        |opt: &Opt, _: &[u8]| opt.kind == KIND_SACK && (opt.len - 2).is_multiple_of(SACK_BLOCK_LEN);
    edit_where(options, holds_blocks, |opt, options| {
        map_blocks(options.get_mut(opt.offset..opt.offset + opt.len).unwrap_or_default(), &map);
        Delta::ZERO
    });
    Delta::ZERO.replace_bytes(old, options)
}

/// One option of [`map_sack_edges`].
fn map_blocks(option: &mut [u8], map: impl Fn(u32) -> u32) {
    let mut end = 2;
    for start in (2..option.len()).step_by(SACK_BLOCK_LEN) {
        let Some(&edges) = crate::view::<[U32; 2]>(option, start) else { break };
        let edges = edges.map(|edge| U32::new(map(edge.get())));
        if edges[0] == edges[1] {
            continue;
        }
        if let Some(block) = crate::view_mut::<[U32; 2]>(option, end) {
            *block = edges;
            end += SACK_BLOCK_LEN;
        }
    }
    if end == 2 {
        option.fill(KIND_NOP);
        return;
    }
    if let Some(len) = option.get_mut(1) {
        *len = end as u8;
    }
    option.get_mut(end..).unwrap_or_default().fill(KIND_NOP);
}

/// Adds `value_shift` to the timestamp value and `echo_shift` to the echo reply, both modulo 2^32, in every
/// timestamps option of the right length. An echo reply counts in segments with ACK only, and is zero in
/// others (RFC 7323 §3.2): shift it by zero there.
///
/// The result is the change for the TCP checksum.
#[inline]
pub fn shift_timestamps(options: &mut [u8], value_shift: u32, echo_shift: u32) -> Delta {
    let is_whole = |opt: &Opt, _: &[u8]| opt.kind == KIND_TIMESTAMPS && opt.len == TIMESTAMPS_LEN;
    let edited = edit_where(options, is_whole, |opt, options| {
        let value = shift32(options, opt.offset + 2, value_shift);
        value + shift32(options, opt.offset + 6, echo_shift)
    });
    edited.delta
}

/// Adds to the number at this offset, and tells what that changes.
fn shift32(options: &mut [u8], offset: usize, shift: u32) -> Delta {
    let Some(number) = crate::view_mut::<U32>(options, offset) else { return Delta::ZERO };
    let old = *number;
    *number = U32::new(old.get().wrapping_add(shift));
    let ([a, b, c, d], [e, f, g, h]) = (old.to_bytes(), number.to_bytes());
    Delta::ZERO.replace16_at(offset, U16::from_bytes([a, b]), U16::from_bytes([e, f])).replace16_at(
        offset,
        U16::from_bytes([c, d]),
        U16::from_bytes([g, h]),
    )
}

/// Puts `first` in front of the options in the space of their padding, where the header cannot grow: NOPs,
/// and what stands behind END or a malformed option, give way. `None`, and no change, when there is not
/// enough of that.
///
/// The result is the change for the TCP checksum.
#[must_use]
pub fn put_first(options: &mut [u8], first: &[u8]) -> Option<Delta> {
    let mut packed = [KIND_NOP; super::OPTIONS_LEN_MAX];
    let packed = packed.get_mut(..options.len())?;
    let mut end = 0;
    let mut push = |bytes: &[u8]| {
        let room = packed.get_mut(end..end + bytes.len())?;
        room.copy_from_slice(bytes);
        end += bytes.len();
        Some(())
    };
    push(first)?;
    for opt in well_formed(options) {
        push(opt.bytes(options))?;
    }
    let delta = Delta::ZERO.replace_bytes(options, packed);
    options.copy_from_slice(packed);
    Some(delta)
}

#[cfg(test)]
pub(crate) mod tests;
