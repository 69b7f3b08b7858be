//! ICMP errors that the gateway itself sends (RFC 792, RFC 1812 §4.3, RFC 4443), built in the buffer of their cause.

use wire::icmp::Error;
use wire::{PacketBuf, ethernet, icmp, icmpv6, ipv4, ipv6, view};

/// Whether an error about this frame's packet may be sent at all.
pub(crate) fn may_answer(data: &[u8], wide: bool, error: Error) -> bool {
    let packet = data.get(ethernet::HEADER_LEN..).unwrap_or_default();
    if wide { icmpv6::may_answer_v6(error.v6().0, packet) } else { icmp::may_answer_v4(packet) }
}

/// Turns the packet into the error about it, addressed to its sender, from the address it was sent to. `false`, and no
/// change, when the buffer has no room.
pub(crate) fn answer<P: PacketBuf>(packet: &mut P, wide: bool, error: Error) -> bool {
    let at = ethernet::HEADER_LEN;
    if wide {
        let Some(to) = view::<ipv6::Header>(packet.data(), at).map(|ip| ip.dst) else { return false };
        return icmpv6::answer_in_place(packet, at, &to, error.v6());
    }
    let Some(to) = view::<ipv4::Header>(packet.data(), at).map(|ip| ip.dst) else { return false };
    icmp::answer_in_place(packet, at, to, error.v4())
}
