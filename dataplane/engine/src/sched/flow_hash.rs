//! The hash of dh, sh and mh.
//!
//! It has no secret: every gateway of a cluster must send a client to the same real server, also after a
//! restart and across versions. **Frozen**: another hash would move all clients of a cluster while it is
//! being updated.

use crate::hash::fold;

/// An address as a number; an IPv4 address in its mapped form (RFC 4291 §2.5.5.2), as IPv6 has it on the
/// wire.
pub(super) fn address(bytes: &[u8]) -> u128 {
    let number = bytes.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte));
    if bytes.len() == 4 { 0xffff_0000_0000 | number } else { number }
}

/// 64 well-mixed bits. `purpose` makes independent hashes of the same key.
pub(super) fn hash(purpose: u64, key: u128, extra: u16) -> u64 {
    let inner = fold(key as u64 ^ 0x9e37_79b9_7f4a_7c15, (key >> 64) as u64 ^ 0xa076_1d64_78bd_642f);
    fold(
        inner ^ 0xe703_7ed1_a0b4_28db,
        u64::from(extra) ^ purpose.wrapping_mul(0x8ebc_6af0_9c88_c6e3) ^ 0xd1b5_4a32_d192_ed03,
    )
}

/// Maps a hash onto `0..n` without a division.
pub(super) fn reduce(hash: u64, n: usize) -> usize {
    ((u128::from(hash) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_frozen() {
        assert_eq!(hash(0, address(&[192, 0, 2, 1]), 0), 0xddb2_6dec_48c8_0e8a);
        assert_eq!(hash(1, address(&[192, 0, 2, 1]), 443), 0x8f79_d785_e280_30ab);
        assert_eq!(
            hash(0, address(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), 0),
            0x9360_f388_569d_d262
        );
    }

    #[test]
    fn addresses_of_one_network_spread_evenly() {
        let mut counts = [0u32; 16];
        for last in 0..16_000u16 {
            let [high, low] = last.to_be_bytes();
            counts[reduce(hash(0, address(&[10, 0, high, low]), 0), 16)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
