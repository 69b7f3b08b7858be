//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The checksum is the complement of the ones' complement sum of a message's 16-bit words. In that arithmetic, numbers
//! are added modulo 0xffff, and there are two zeroes, 0x0000 and 0xffff; the sum of words of which at least one is not
//! 0x0000 is never 0x0000.
//!
//! **Byte order.** Swapping the bytes of every word swaps the bytes of the sum (RFC 1071 §2B), because 2^8 is a rotation
//! modulo 0xffff. So all sums here are of words as the CPU loads them ("lanes", native order), and the result is stored
//! as the CPU stores it: no swap anywhere. Likewise 2^16 = 1 modulo 0xffff, so 32-bit lanes can be added to a wide
//! accumulator and folded at the end (§2C). A field at an odd offset straddles two words, its bytes change places, and
//! it counts as its byte-swapped value.
//!
//! **Incremental update.** With HC the old checksum, m an old word, m' the new one and ~ the complement, RFC 1624
//! derives from ~HC = m + rest and ~HC' = m' + rest, and from -m = ~m:
//!
//! ```text
//! ~HC' = ~HC + ~m + m'          HC' = ~(~HC + ~m + m')          (eqn 3)
//! ```
//!
//! A [`Delta`] is the sum of (~m + m') over all words that change. It does not know the checksum, so it can be computed
//! once per connection, folded to 2 bytes, and applied to every packet.
//!
//! **The two zeroes.** A valid message has ~HC != 0x0000, since some word of a real header is not zero. Adding to a
//! non-zero number with end-around carry never gives 0x0000, so HC' is never 0xffff, which is exactly what a full
//! computation over a message that is not all zeroes gives: incremental and full results are equal, bit for bit. (RFC
//! 1141's form, HC' = HC + m + ~m', gets this wrong; that was RFC 1624's reason to be.) A damaged packet stays damaged:
//! the difference between sum and checksum is the same before and after.

use core::ops::{Add, AddAssign};

use crate::{U16, U32, U64};

/// Adds with end-around carry: modulo 2^64-1, of which 0xffff is a divisor. Never overflows, and is 0 only for 0 + 0.
#[inline(always)]
const fn add_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Folds the accumulator to one lane; 0 only for 0.
#[inline(always)]
const fn fold(acc: u64) -> u16 {
    // A word and the same with its halves changed: in the upper half stands their sum, with the carry of the lower half,
    // which is its own.
    let acc = (acc.wrapping_add(acc.rotate_left(32)) >> 32) as u32;
    (acc.wrapping_add(acc.rotate_left(16)) >> 16) as u16
}

#[inline(always)]
const fn lane16(word: U16) -> u16 {
    u16::from_ne_bytes(word.to_bytes())
}

#[inline(always)]
const fn lane32(word: U32) -> u32 {
    u32::from_ne_bytes(word.to_bytes())
}

/// Sum of the lanes of `bytes`, an odd last byte counted as if a zero followed. Does not overflow below 16 GiB.
#[inline]
fn sum_lanes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let acc: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let rest = match *rest {
        [a] => u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c] => u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, 0])),
        _ => 0,
    };
    add_carry(acc, rest)
}

/// What changes in a message, as far as its checksum is concerned.
///
/// Deltas add up in any order, and one delta serves any number of checksums (a change of address concerns the IPv4
/// header's and the TCP checksum alike).
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// A word at an even offset becomes another one.
    #[inline(always)]
    #[must_use]
    pub const fn replace16(self, old: U16, new: U16) -> Self {
        Self(add_carry(self.0, !lane16(old) as u64 + lane16(new) as u64))
    }

    /// A double word at an even offset becomes another one.
    #[inline(always)]
    #[must_use]
    pub const fn replace32(self, old: U32, new: U32) -> Self {
        // The 32-bit complement is the negative modulo 2^32-1, hence modulo 0xffff as well.
        Self(add_carry(self.0, !lane32(old) as u64 + lane32(new) as u64))
    }

    /// An IPv6 address at an even offset becomes another one.
    #[inline]
    #[must_use]
    pub fn replace128(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        self.replace_bytes(old, new)
    }

    /// A word at any `offset` (from the first byte that the checksum covers) becomes another one.
    #[inline]
    #[must_use]
    pub const fn replace16_at(self, offset: usize, old: U16, new: U16) -> Self {
        if offset.is_multiple_of(2) {
            return self.replace16(old, new);
        }
        let (old, new) = (lane16(old).swap_bytes(), lane16(new).swap_bytes());
        Self(add_carry(self.0, !old as u64 + new as u64))
    }

    /// Bytes at an even offset become others. Where the lengths differ the message grows or shrinks at its end; bytes in
    /// its middle may be inserted or removed in even numbers only.
    #[inline]
    #[must_use]
    pub fn replace_bytes(self, old: &[u8], new: &[u8]) -> Self {
        self.sub_bytes(old).add_bytes(new)
    }

    /// A byte at any `offset` becomes another one.
    #[inline]
    #[must_use]
    pub const fn replace8_at(self, offset: usize, old: u8, new: u8) -> Self {
        if offset.is_multiple_of(2) {
            self.replace16(U16::from_bytes([old, 0]), U16::from_bytes([new, 0]))
        } else {
            self.replace16(U16::from_bytes([0, old]), U16::from_bytes([0, new]))
        }
    }

    /// A word appears at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn add16(self, new: U16) -> Self {
        Self(add_carry(self.0, lane16(new) as u64))
    }

    /// A word at an even offset disappears.
    #[inline(always)]
    #[must_use]
    pub const fn sub16(self, old: U16) -> Self {
        Self(add_carry(self.0, !lane16(old) as u64))
    }

    /// A double word appears at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn add32(self, new: U32) -> Self {
        Self(add_carry(self.0, lane32(new) as u64))
    }

    /// A double word at an even offset disappears.
    #[inline(always)]
    #[must_use]
    pub const fn sub32(self, old: U32) -> Self {
        Self(add_carry(self.0, !lane32(old) as u64))
    }

    /// Bytes appear at an even offset; an even number of them, unless they end the message.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, new: &[u8]) -> Self {
        Self(add_carry(self.0, sum_lanes(new)))
    }

    /// Bytes at an even offset disappear; an even number of them, unless they end the message.
    #[inline]
    #[must_use]
    pub fn sub_bytes(self, old: &[u8]) -> Self {
        Self(add_carry(self.0, !fold(sum_lanes(old)) as u64))
    }

    /// The change that takes this one back.
    #[inline]
    #[must_use]
    pub const fn negated(self) -> Self {
        match fold(self.0) {
            0 => Self::ZERO,
            folded => Self(!folded as u64),
        }
    }

    /// The same change in 2 bytes, for storage; in native order, so not for the wire.
    #[inline(always)]
    #[must_use]
    pub const fn to_folded(self) -> u16 {
        fold(self.0)
    }

    /// Takes back what [`Delta::to_folded`] gave.
    #[inline(always)]
    #[must_use]
    pub const fn from_folded(folded: u16) -> Self {
        Self(folded as u64)
    }

    /// Two folded changes as one.
    #[inline(always)]
    #[must_use]
    pub const fn add_folded(a: u16, b: u16) -> u16 {
        let (sum, carry) = a.overflowing_add(b);
        sum + carry as u16
    }

    /// As [`Delta::apply`] of a delta that is folded: one subtraction with end-around borrow (RFC 1624 eqn 4).
    #[inline(always)]
    #[must_use]
    pub const fn apply_folded(folded: u16, check: U16) -> U16 {
        let (difference, borrow) = lane16(check).overflowing_sub(folded);
        U16::from_bytes((difference - borrow as u16).to_ne_bytes())
    }

    /// As [`Delta::apply_udp`] of a delta that is folded. Where the subtraction would give zero, adding the complement
    /// instead gives 0xffff.
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp_folded(folded: u16, check: U16) -> U16 {
        let sum = Self::add_folded(lane16(check), !folded);
        if lane16(check) == 0 { check } else { U16::from_bytes(sum.to_ne_bytes()) }
    }

    /// The checksum after the change (RFC 1624 eqn 3).
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, check: U16) -> U16 {
        let sum = !lane16(check);
        U16::from_bytes((!fold(add_carry(self.0, sum as u64))).to_ne_bytes())
    }

    /// Like [`Delta::apply`] for UDP: zero means "no checksum" and stays, and a checksum that becomes zero is written
    /// as 0xffff (RFC 768).
    #[inline(always)]
    #[must_use]
    pub fn apply_udp(self, check: U16) -> U16 {
        if check == U16::ZERO { check } else { never_zero(self.apply(check)) }
    }
}

impl Add for Delta {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(add_carry(self.0, other.0))
    }
}

impl AddAssign for Delta {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Equal when they do the same to every checksum of a real message.
impl PartialEq for Delta {
    fn eq(&self, other: &Self) -> bool {
        fold(self.0) % 0xffff == fold(other.0) % 0xffff
    }
}

impl Eq for Delta {}

/// The sum of a message's words so far. Every piece but the last must have an even length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Goes on with these bytes.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        Self(add_carry(self.0, sum_lanes(bytes)))
    }

    /// Goes on with this word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: U16) -> Self {
        Self(add_carry(self.0, lane16(word) as u64))
    }

    /// Goes on with these words.
    #[inline(always)]
    #[must_use]
    pub fn words<const N: usize>(self, words: [U16; N]) -> Self {
        // No array is long enough to overflow this.
        Self(add_carry(self.0, words.into_iter().map(|word| u64::from(lane16(word))).sum()))
    }

    /// Goes on with this double word.
    #[inline(always)]
    #[must_use]
    pub const fn double_word(self, word: U32) -> Self {
        Self(add_carry(self.0, lane32(word) as u64))
    }

    /// Goes on with this word of 8 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn quad_word(self, word: U64) -> Self {
        Self(add_carry(self.0, u64::from_ne_bytes(word.to_bytes())))
    }

    /// The same sum in 2 bytes, for storage; in native order, so not for the wire.
    #[inline]
    #[must_use]
    pub const fn to_folded(self) -> u16 {
        fold(self.0)
    }

    /// Takes back what [`Sum::to_folded`] gave.
    #[inline(always)]
    #[must_use]
    pub const fn from_folded(folded: u16) -> Self {
        Self(folded as u64)
    }

    /// The checksum of the message, whose own checksum field must have been zero or left out.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> U16 {
        U16::from_bytes((!fold(self.0)).to_ne_bytes())
    }

    /// Whether the message, its checksum field included, is intact (RFC 1071 §1 step 3).
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        fold(self.0) == 0xffff
    }

    /// The sum without this word, which it contains.
    #[inline]
    const fn without(self, word: U16) -> Self {
        Self(add_carry(self.0, !lane16(word) as u64))
    }
}

/// The Internet checksum of `bytes`.
#[inline]
#[must_use]
pub fn internet(bytes: &[u8]) -> U16 {
    Sum::ZERO.bytes(bytes).checksum()
}

/// Whether the checksum of this IPv4 header, options included and nothing else, is right.
#[inline]
#[must_use]
pub fn verify_ipv4(header: &[u8]) -> bool {
    Sum::ZERO.bytes(header).is_valid()
}

/// Sum of the pseudo header of IPv4 (RFC 9293 §3.1, RFC 768); `len` is that of the transport header and its payload.
#[inline]
#[must_use]
pub const fn pseudo_v4(src: U32, dst: U32, protocol: u8, len: U16) -> Sum {
    Sum::ZERO.double_word(src).double_word(dst).word(U16::from_bytes([0, protocol])).word(len)
}

/// Sum of the pseudo header of IPv6 (RFC 8200 §8.1); `len` is that of the upper-layer header and its payload.
#[inline]
#[must_use]
pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], protocol: u8, len: U32) -> Sum {
    Sum::ZERO.bytes(src).bytes(dst).double_word(len).word(U16::from_bytes([0, protocol]))
}

const TCP_CHECKSUM_OFFSET: usize = 16;
const UDP_CHECKSUM_OFFSET: usize = 6;
const ICMP_CHECKSUM_OFFSET: usize = 2;

/// The checksum that `segment` must carry over the pseudo header; what its checksum field holds is left out.
#[inline]
fn transport(pseudo: Sum, segment: &[u8], field: usize) -> U16 {
    let sum = pseudo.bytes(segment);
    match segment.get(field..field + 2) {
        Some(&[a, b]) => sum.without(U16::from_bytes([a, b])).checksum(),
        _ => sum.checksum(),
    }
}

#[inline]
const fn never_zero(check: U16) -> U16 {
    if check.get() == 0 { U16::MAX_VALUE } else { check }
}

#[inline]
const fn v4(src: U32, dst: U32, protocol: u8, segment: &[u8]) -> Sum {
    // An IPv4 payload has at most 65,515 bytes; beyond that the answer has no meaning.
    pseudo_v4(src, dst, protocol, U16::new(segment.len() as u16))
}

#[inline]
fn v6(src: &[u8; 16], dst: &[u8; 16], protocol: u8, segment: &[u8]) -> Sum {
    pseudo_v6(src, dst, protocol, U32::new(segment.len() as u32))
}

/// The checksum that a TCP segment must carry over IPv4; its checksum field may hold anything.
#[must_use]
pub fn tcp_v4(src: U32, dst: U32, segment: &[u8]) -> U16 {
    transport(v4(src, dst, crate::ipv4::PROTO_TCP, segment), segment, TCP_CHECKSUM_OFFSET)
}

/// The checksum that a TCP segment must carry over IPv6; its checksum field may hold anything.
#[must_use]
pub fn tcp_v6(src: &[u8; 16], dst: &[u8; 16], segment: &[u8]) -> U16 {
    transport(v6(src, dst, crate::ipv4::PROTO_TCP, segment), segment, TCP_CHECKSUM_OFFSET)
}

/// The checksum that a UDP datagram must carry over IPv4, never zero; its checksum field may hold anything.
#[must_use]
pub fn udp_v4(src: U32, dst: U32, datagram: &[u8]) -> U16 {
    never_zero(transport(v4(src, dst, crate::ipv4::PROTO_UDP, datagram), datagram, UDP_CHECKSUM_OFFSET))
}

/// The checksum that a UDP datagram must carry over IPv6, never zero; its checksum field may hold anything.
#[must_use]
pub fn udp_v6(src: &[u8; 16], dst: &[u8; 16], datagram: &[u8]) -> U16 {
    never_zero(transport(v6(src, dst, crate::ipv4::PROTO_UDP, datagram), datagram, UDP_CHECKSUM_OFFSET))
}

/// The checksum that an ICMP message must carry; its checksum field may hold anything.
#[must_use]
pub fn icmp(message: &[u8]) -> U16 {
    transport(Sum::ZERO, message, ICMP_CHECKSUM_OFFSET)
}

/// The checksum that an ICMPv6 message must carry (RFC 4443 §2.3); its checksum field may hold anything.
#[must_use]
pub fn icmp_v6(src: &[u8; 16], dst: &[u8; 16], message: &[u8]) -> U16 {
    transport(v6(src, dst, crate::ipv4::PROTO_ICMPV6, message), message, ICMP_CHECKSUM_OFFSET)
}

/// Whether the checksum of a TCP segment over IPv4 is right.
#[must_use]
pub fn verify_tcp_v4(src: U32, dst: U32, segment: &[u8]) -> bool {
    v4(src, dst, crate::ipv4::PROTO_TCP, segment).bytes(segment).is_valid()
}

/// Whether the checksum of a TCP segment over IPv6 is right.
#[must_use]
pub fn verify_tcp_v6(src: &[u8; 16], dst: &[u8; 16], segment: &[u8]) -> bool {
    v6(src, dst, crate::ipv4::PROTO_TCP, segment).bytes(segment).is_valid()
}

/// Whether the checksum of a UDP datagram over IPv4 is right or absent.
#[must_use]
pub fn verify_udp_v4(src: U32, dst: U32, datagram: &[u8]) -> bool {
    let absent = datagram.get(UDP_CHECKSUM_OFFSET..UDP_CHECKSUM_OFFSET + 2) == Some(&[0, 0]);
    absent || v4(src, dst, crate::ipv4::PROTO_UDP, datagram).bytes(datagram).is_valid()
}

/// Whether the checksum of a UDP datagram over IPv6 is right; it may not be absent (RFC 8200 §8.1).
#[must_use]
pub fn verify_udp_v6(src: &[u8; 16], dst: &[u8; 16], datagram: &[u8]) -> bool {
    let absent = datagram.get(UDP_CHECKSUM_OFFSET..UDP_CHECKSUM_OFFSET + 2) == Some(&[0, 0]);
    !absent && v6(src, dst, crate::ipv4::PROTO_UDP, datagram).bytes(datagram).is_valid()
}

#[cfg(test)]
mod tests;
