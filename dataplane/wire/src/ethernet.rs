//! Ethernet II framing and 802.1Q tags (IEEE 802.3-2018 §3, IEEE 802.1Q-2018 §9).
//!
//! Frames carry no checksum here: the NIC removes the FCS. Frames of less than 60 bytes are padded on the wire, so the
//! length of a packet is told by its IP header, never by its frame.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{MacAddr, U16};

/// Length of the header without tags.
pub const HEADER_LEN: usize = 14;
/// Length of one 802.1Q tag.
pub const VLAN_TAG_LEN: usize = 4;
/// The shortest frame on the wire, without the FCS.
pub const FRAME_LEN_MIN: usize = 60;

/// IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: U16 = U16::new(0x0800);
/// ARP (RFC 826).
pub const ETHERTYPE_ARP: U16 = U16::new(0x0806);
/// IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: U16 = U16::new(0x86dd);
/// An 802.1Q customer tag.
pub const ETHERTYPE_VLAN: U16 = U16::new(0x8100);
/// An 802.1ad service tag.
pub const ETHERTYPE_QINQ: U16 = U16::new(0x88a8);
/// LLDP (IEEE 802.1AB).
pub const ETHERTYPE_LLDP: U16 = U16::new(0x88cc);

/// The Ethernet header.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                          destination                          |
/// +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                               |                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+             source            +
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |           ether type          |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// The station that shall take the frame.
    pub dst: MacAddr,
    /// The station that sent it.
    pub src: MacAddr,
    /// What follows, one of the `ETHERTYPE_*`; below 0x0600 a length (IEEE 802.3, not Ethernet II).
    pub ether_type: U16,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// An 802.1Q tag, which stands behind an ether type of [`ETHERTYPE_VLAN`] or [`ETHERTYPE_QINQ`].
///
/// ```text
/// +-----+-+-----------------------+-------------------------------+
/// | PCP |D|        VLAN id        |          ether type           |
/// +-----+-+-----------------------+-------------------------------+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
    pub tci: U16,
    /// What follows the tag.
    pub ether_type: U16,
}

const _: () = assert!(size_of::<VlanTag>() == VLAN_TAG_LEN);

impl VlanTag {
    /// The VLAN's number; 0 means "priority only".
    #[inline]
    #[must_use]
    pub const fn vlan_id(&self) -> u16 {
        self.tci.get() & 0x0fff
    }
}
