//! The part of a QUIC connection id that packets of one connection share (RFC 8999 §5, RFC 9000 §17).
//!
//! ```text
//! long header:  1------- | version (4 bytes) | id length (1 byte) | destination id | …
//! short header: 01------ | destination id, of a length that only the server knows | …
//! ```
//!
//! A short header does not say how long the id is, so of both forms the first 8 bytes count; a client's own
//! first id has at least 8 (RFC 9000 §7.2). A client that changes its address stays with its real server if
//! the ids that the server gives out begin like the one it was first called by; other servers must be found
//! otherwise.

/// Bytes of the id that count.
const ID_LEN: usize = 8;

/// The first 8 bytes of the destination connection id; `None` for what is no QUIC or has a shorter id.
pub(super) fn connection_id(payload: &[u8]) -> Option<u64> {
    const LONG: u8 = 0x80;
    const FIXED: u8 = 0x40;
    let (first, rest) = payload.split_first()?;
    let id = if first & LONG != 0 {
        let (len, id) = rest.get(4..)?.split_first()?;
        id.get(..usize::from(*len))?
    } else if first & FIXED != 0 {
        rest
    } else {
        return None;
    };
    Some(u64::from_be_bytes(*id.first_chunk::<ID_LEN>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_and_short_headers_of_one_connection_agree() {
        let id = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        let long: Vec<u8> = [0xc0, 0, 0, 0, 1, 10].into_iter().chain(id).chain([0; 20]).collect();
        let short: Vec<u8> = [0x43].into_iter().chain(id).chain([0xff; 20]).collect();
        assert_eq!(connection_id(&long), Some(0x0102_0304_0506_0708));
        assert_eq!(connection_id(&short), connection_id(&long));
    }

    #[test]
    fn what_has_no_id_of_eight_bytes_has_none() {
        let long = |len: u8, there: usize| [&[0xc0, 0, 0, 0, 1, len], vec![7; there].as_slice()].concat();
        assert_eq!(connection_id(&long(7, 30)), None);
        assert_eq!(connection_id(&long(0, 30)), None);
        assert_eq!(connection_id(&long(20, 19)), None, "cut off");
        assert_eq!(connection_id(&long(8, 8)), Some(0x0707_0707_0707_0707));
        assert_eq!(connection_id(&[0x40, 1, 2, 3, 4, 5, 6, 7]), None, "cut off");
        assert_eq!(connection_id(&[0x3f; 40]), None, "the fixed bit is missing: DNS, STUN, DTLS");
        assert_eq!(connection_id(&[]), None);
    }

    proptest! {
        #[test]
        fn no_payload_is_too_strange(payload: Vec<u8>) {
            if connection_id(&payload).is_some() {
                prop_assert!(payload.len() > ID_LEN);
            }
        }
    }
}
