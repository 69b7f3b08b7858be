//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).
//!
//! The gateway leaves ARP to the kernel; this view serves static neighbours, kernel-less set-ups and tests.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{MacAddr, U16, U32, ethernet};

/// Length of the packet for IPv4 over Ethernet.
pub const PACKET_LEN: usize = 28;

/// "Who has ...?"
pub const OP_REQUEST: U16 = U16::new(1);
/// "... is at".
pub const OP_REPLY: U16 = U16::new(2);

const HARDWARE_ETHERNET: U16 = U16::new(1);

/// An ARP packet for IPv4 over Ethernet.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |       hardware type (1)       |     protocol type (0x0800)    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | hw. length (6)| pr. length (4)|           operation           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    sender hardware address                    |
/// +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                               |    sender protocol address    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                               |                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+    target hardware address    +
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    target protocol address                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// 1: Ethernet.
    pub hardware_type: U16,
    /// 0x0800: IPv4.
    pub protocol_type: U16,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// [`OP_REQUEST`] or [`OP_REPLY`].
    pub operation: U16,
    /// Hardware address of the sender.
    pub sender_mac: MacAddr,
    /// IPv4 address of the sender; 0 in a probe (RFC 5227 §1.1).
    pub sender_ip: U32,
    /// Hardware address of the target; zero in a request.
    pub target_mac: MacAddr,
    /// IPv4 address of the target.
    pub target_ip: U32,
}

const _: () = assert!(size_of::<Packet>() == PACKET_LEN);

impl Packet {
    const fn new(operation: U16, sender: (MacAddr, U32), target: (MacAddr, U32)) -> Self {
        Self {
            hardware_type: HARDWARE_ETHERNET,
            protocol_type: ethernet::ETHERTYPE_IPV4,
            hardware_len: 6,
            protocol_len: 4,
            operation,
            sender_mac: sender.0,
            sender_ip: sender.1,
            target_mac: target.0,
            target_ip: target.1,
        }
    }

    /// The question who has `target_ip`.
    #[must_use]
    pub const fn request(sender_mac: MacAddr, sender_ip: U32, target_ip: U32) -> Self {
        Self::new(OP_REQUEST, (sender_mac, sender_ip), (MacAddr::ZERO, target_ip))
    }

    /// The answer to this request from the station `mac`: sender and target change places.
    #[must_use]
    pub const fn reply(&self, mac: MacAddr) -> Self {
        Self::new(OP_REPLY, (mac, self.target_ip), (self.sender_mac, self.sender_ip))
    }

    /// The announcement that `ip` is at `mac` (RFC 5227 §3).
    #[must_use]
    pub const fn announcement(mac: MacAddr, ip: U32) -> Self {
        Self::new(OP_REQUEST, (mac, ip), (MacAddr::ZERO, ip))
    }

    /// Whether this speaks of IPv4 over Ethernet; the other fields have no meaning where it does not.
    #[inline]
    #[must_use]
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware_type == HARDWARE_ETHERNET
            && self.protocol_type == ethernet::ETHERTYPE_IPV4
            && self.hardware_len == 6
            && self.protocol_len == 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_answers_the_one_who_asked() {
        let (asker, owner) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let request = Packet::request(asker, U32::new(0x0a00_0001), U32::new(0x0a00_0002));
        let reply = request.reply(owner);
        assert!(request.is_ipv4_over_ethernet() && reply.is_ipv4_over_ethernet());
        assert_eq!(reply.operation, OP_REPLY);
        assert_eq!((reply.sender_mac, reply.sender_ip), (owner, request.target_ip));
        assert_eq!((reply.target_mac, reply.target_ip), (asker, request.sender_ip));
    }
}
