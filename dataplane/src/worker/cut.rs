//! Cutting a packet into fragments, for a port that it is too long for.

use dpdk::{BURST_LEN_MAX, Burst, HEADROOM, Mbuf, Mempool};
use wire::ipv4::Fragments;
use wire::{PacketBuf, ethernet};

/// Hands the fragments of `frame`, an IPv4 packet behind an untagged Ethernet header, to `on`: each an IP packet of at
/// most `mtu` bytes behind the same header, in a buffer of `pool`. All or none: a part of a packet is of no use.
///
/// `false`: none, because the pool has not enough buffers, there would be more than [`BURST_LEN_MAX`] fragments, or
/// the packet is none that may be cut.
#[inline(never)]
pub(super) fn cut(pool: &Mempool, frame: &[u8], mtu: u16, mut on: impl FnMut(Mbuf)) -> bool {
    let Some((header, packet)) = frame.split_at_checked(ethernet::HEADER_LEN) else { return false };
    let Ok(fragments) = Fragments::new(packet, mtu.into()) else { return false };
    let count = fragments.clone().take(BURST_LEN_MAX + 1).count();
    let room = usize::from(pool.data_room().saturating_sub(HEADROOM));
    if count > BURST_LEN_MAX || header.len() + usize::from(mtu) > room {
        return false;
    }
    let mut buffers = Burst::new();
    if pool.alloc_burst(&mut buffers, count) != count {
        return false;
    }
    for (mut buffer, fragment) in buffers.drain(..).zip(fragments) {
        // The room was looked at above, and the payload lies within the packet.
        if !buffer.push_back(header.len() + fragment.packet_len()) {
            return false;
        }
        let (front, back) = buffer.data_mut().split_at_mut(header.len());
        front.copy_from_slice(header);
        if fragment.write(packet, back).is_none() {
            return false;
        }
        on(buffer);
    }
    true
}
