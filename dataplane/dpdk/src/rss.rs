//! The hash that NICs spread packets with.

/// The Toeplitz hash of `words` (host order, each read from the tuple in network order) under `key`.
///
/// For TCP over IPv4 the words are source address, destination address, and the ports as `sport << 16 | dport`. A key
/// shorter than `4 * words.len() + 4` bytes counts as continued with zeroes.
pub fn softrss(words: &[u32], key: &[u8]) -> u32 {
    // The hash is linear, so word by word under its own 64-bit window of the key is the same as all at once, and it
    // neither asks for an aligned key nor reads past its end.
    words.iter().enumerate().fold(0, |hash, (index, &word)| {
        let mut window = [0u32; 2];
        for (half, slot) in window.iter_mut().enumerate() {
            let mut bytes = [0; 4];
            for (byte, from) in bytes.iter_mut().zip(key.iter().skip((index + half) * 4)) {
                *byte = *from;
            }
            *slot = u32::from_ne_bytes(bytes);
        }
        let mut tuple = word;
        // SAFETY: one word is read from the tuple, and for it two aligned words, which is all of `window`, as key.
        hash ^ unsafe { dpdk_sys::rte_softrss(&mut tuple, 1, window.as_ptr().cast()) }
    })
}

#[cfg(test)]
mod tests {
    use super::softrss;

    /// The key and the flows of Microsoft's "Verifying the RSS hash calculation".
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn ipv4_hashes_equal_the_published_vectors() {
        let cases = [
            ([66, 9, 149, 187], 2794_u16, [161, 142, 100, 80], 1766_u16, 0x323e_8fc2, 0x51cc_c178),
            ([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739, 0xd718_262a, 0xc626_b0ea),
            ([24, 19, 198, 95], 12898, [12, 22, 207, 184], 38024, 0xd2d0_a5de, 0x5c2b_394a),
        ];
        for (src, sport, dst, dport, addresses_only, with_ports) in cases {
            let (src, dst) = (u32::from_be_bytes(src), u32::from_be_bytes(dst));
            let ports = u32::from(sport) << 16 | u32::from(dport);
            assert_eq!(softrss(&[src, dst], &KEY), addresses_only);
            assert_eq!(softrss(&[src, dst, ports], &KEY), with_ports);
        }
    }

    #[test]
    fn a_short_key_is_continued_with_zeroes() {
        let mut padded = KEY[..7].to_vec();
        padded.resize(16, 0);
        assert_eq!(softrss(&[1, 2, 3], &KEY[..7]), softrss(&[1, 2, 3], &padded));
        assert_eq!(softrss(&[u32::MAX], &[]), 0);
    }
}
