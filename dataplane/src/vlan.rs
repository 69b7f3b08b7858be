//! The VLAN that a port's network is (IEEE 802.1Q-2018 §9): its tag is put on every frame that leaves and taken off every
//! one that comes, so that nothing behind the port, neither the engine nor the kernel twin, sees it.
//!
//! - Frames of other VLANs come and go as they are; only the kernel deals with them.
//! - Frames without a tag belong to another network, and are not taken.
//! - Frames to the group addresses that no bridge passes on (LLDP, LACP) belong to the cable: they bear no tag.

use dpdk::Mbuf;
use wire::{MacAddr, PacketBuf, U16, ethernet};

/// The number in a tag, without priority and drop eligibility.
const ID_MASK: u16 = 0x0fff;

/// Where the tag stands: behind both addresses.
const ADDRESSES_LEN: usize = 12;

/// The VLAN of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vlan {
    /// Its number, 1 to 4094.
    pub(crate) id: u16,
    /// Whether the NIC puts the tag on.
    pub(crate) offload: bool,
}

/// What a received frame bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// None; or one without a number, which means the same.
    None,
    /// One customer tag of this VLAN.
    Of(u16),
    /// A service tag.
    Service,
}

impl Vlan {
    /// Takes the tag off a received frame; `false` when the frame belongs to another network.
    #[inline(always)]
    pub(crate) fn receive(self, packet: &mut Mbuf) -> bool {
        match packet.take_stripped_tag() {
            // A NIC takes off every tag, not only ours.
            Some(tci) => match tci & ID_MASK {
                0 => false,
                id => id == self.id || tag(packet, tci),
            },
            None => self.untag(packet),
        }
    }

    /// The same where the NIC leaves the tag on.
    #[inline(always)]
    fn untag<P: PacketBuf>(self, packet: &mut P) -> bool {
        match tag_of(packet.data()) {
            Tag::Of(id) if id == self.id => {
                packet.data_mut().copy_within(..ADDRESSES_LEN, ethernet::VLAN_TAG_LEN);
                packet.pull_front(ethernet::VLAN_TAG_LEN)
            }
            Tag::Of(_) | Tag::Service => true,
            Tag::None => is_of_the_cable(packet.data()),
        }
    }

    /// Puts the tag on a frame that is to leave; `false` when there is no room for it.
    #[inline(always)]
    pub(crate) fn send(self, packet: &mut Mbuf) -> bool {
        let bears_none = matches!(tag_of(packet.data()), Tag::None);
        if !bears_none || is_of_the_cable(packet.data()) {
            return true;
        }
        if self.offload {
            packet.request_tag(self.id);
            return true;
        }
        tag(packet, self.id)
    }
}

fn tag_of(frame: &[u8]) -> Tag {
    let Some(header) = wire::view::<ethernet::Header>(frame, 0) else { return Tag::None };
    match header.ether_type {
        ethernet::ETHERTYPE_VLAN => {
            let tag = wire::view::<ethernet::VlanTag>(frame, ethernet::HEADER_LEN);
            match tag.map_or(0, ethernet::VlanTag::vlan_id) {
                0 => Tag::None,
                id => Tag::Of(id),
            }
        }
        ethernet::ETHERTYPE_QINQ => Tag::Service,
        _ => Tag::None,
    }
}

/// IEEE 802.1Q-2018 table 8-1: 01-80-C2-00-00-00 to 0F.
fn is_of_the_cable(frame: &[u8]) -> bool {
    wire::view::<MacAddr>(frame, 0)
        .is_some_and(|MacAddr(to)| to[..5] == [0x01, 0x80, 0xc2, 0, 0] && to[5] < 0x10)
}

/// Inserts a tag; `false`, and no change, when there is no room in front of the frame.
fn tag<P: PacketBuf>(packet: &mut P, tci: u16) -> bool {
    let is_whole = packet.data().len() >= ethernet::HEADER_LEN;
    if !is_whole || !packet.push_front(ethernet::VLAN_TAG_LEN) {
        return false;
    }
    let frame = packet.data_mut();
    frame.copy_within(ethernet::VLAN_TAG_LEN..ethernet::VLAN_TAG_LEN + ADDRESSES_LEN, 0);
    frame[ADDRESSES_LEN..ADDRESSES_LEN + 2].copy_from_slice(&ethernet::ETHERTYPE_VLAN.to_bytes());
    frame[ADDRESSES_LEN + 2..ADDRESSES_LEN + 4].copy_from_slice(&U16::new(tci).to_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::HeapBuf;
    use wire::build::{TcpFrame, tagged};

    const OURS: Vlan = Vlan { id: 5, offload: false };

    fn plain() -> Vec<u8> {
        TcpFrame::default().to_vec()
    }

    fn received(frame: &[u8]) -> Option<Vec<u8>> {
        let mut packet = HeapBuf::from_frame(frame);
        OURS.untag(&mut packet).then(|| packet.to_vec())
    }

    #[test]
    fn our_tag_is_taken_off_whatever_its_priority() {
        let mut frame = tagged(&plain(), 5);
        assert_eq!(received(&frame), Some(plain()));
        frame[14] |= 0xe0;
        assert_eq!(received(&frame), Some(plain()));
    }

    #[test]
    fn other_tags_stay_on() {
        let mut service = tagged(&plain(), 5);
        service[12..14].copy_from_slice(&ethernet::ETHERTYPE_QINQ.to_bytes());
        for frame in [tagged(&plain(), 6), service] {
            assert_eq!(received(&frame), Some(frame));
        }
        assert_eq!(received(&tagged(&tagged(&plain(), 6), 5)), Some(tagged(&plain(), 6)));
    }

    #[test]
    fn frames_without_a_number_are_of_another_network_but_for_those_of_the_cable() {
        let mut of_the_cable = plain();
        of_the_cable[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
        assert_eq!(received(&of_the_cable), Some(of_the_cable));
        for frame in [plain(), tagged(&plain(), 0), tagged(&plain(), 5)[..14].to_vec(), vec![0; 5]] {
            assert_eq!(received(&frame), None);
        }
    }

    #[test]
    fn a_tag_that_is_put_on_comes_off_again() {
        let mut packet = HeapBuf::from_frame(&plain());
        assert!(tag(&mut packet, 5));
        assert_eq!(packet.to_vec(), tagged(&plain(), 5));
        assert!(OURS.untag(&mut packet));
        assert_eq!(packet.to_vec(), plain());
        let mut full = HeapBuf::with_room(&plain(), 3, 0);
        assert!(!tag(&mut full, 5));
        assert_eq!(full.to_vec(), plain());
    }
}
