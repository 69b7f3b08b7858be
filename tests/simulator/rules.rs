//! Rules for one packet, before and after, that need no memory.

use crate::oracle::{Broken, ensure};
use crate::packet::{
    ADDRESS_KINDS, ETH_LEN, OPTION_TYPE, SYN, Segment, icmp_error_of, ip_of, options, parse_ip,
};

/// The MSS that every host must take; only the option is taken off it.
const MSS_MIN: u16 = 536;

pub(crate) fn checksums(input: &Segment<'_>, output: &Segment<'_>) -> Result<(), Broken> {
    // Both are sums over what arrived: what was wrong stays wrong, or a corruption would be covered up. An IP header
    // of another family is a new one, and the transport checksum covers its addresses.
    let crossed = input.src.is_ipv4() != output.src.is_ipv4();
    ensure!(
        input.ip_checksum_ok == output.ip_checksum_ok || (crossed && output.ip_checksum_ok),
        "IP checksum: {} came in, {} went out",
        input.ip_checksum_ok,
        output.ip_checksum_ok
    );
    let name = if input.is_tcp() { "TCP" } else { "UDP" };
    ensure!(
        input.l4_checksum_ok == output.l4_checksum_ok,
        "{name} checksum: {} came in, {} went out",
        input.l4_checksum_ok,
        output.l4_checksum_ok
    );
    Ok(())
}

/// Everything that no translation touches.
pub(crate) fn unchanged(input: &Segment<'_>, output: &Segment<'_>) -> Result<(), Broken> {
    ensure!(input.protocol == output.protocol, "the protocol changed");
    ensure!(output.ttl.wrapping_add(1) == input.ttl, "TTL {} became {}", input.ttl, output.ttl);
    ensure!(input.tos == output.tos, "DSCP or ECN changed");
    if input.src.is_ipv4() == output.src.is_ipv4() {
        let same = input.id == output.id && input.fragment == output.fragment;
        ensure!(same, "IP identification, flags or flow label changed");
    }
    ensure!(input.seq == output.seq && input.ack == output.ack, "sequence numbers changed");
    ensure!(input.flags == output.flags, "TCP flags changed");
    ensure!(
        input.window == output.window && input.urgent == output.urgent,
        "window or urgent pointer changed"
    );
    ensure!(input.payload == output.payload, "payload changed");
    Ok(())
}

/// IP options stay, but for those in which a client of a datagram that goes to a real server says who it is.
pub(crate) fn ip_options(input: &Segment<'_>, output: &Segment<'_>, strips: bool) -> Result<(), Broken> {
    if input.src.is_ipv4() != output.src.is_ipv4() {
        return Ok(());
    }
    let mut expected = input.ip_options.to_vec();
    for option in options(input.ip_options).iter().filter(|o| strips && o.bytes[0] == OPTION_TYPE) {
        expected[option.at..option.at + option.bytes.len()].fill(1);
    }
    ensure!(
        expected == output.ip_options,
        "IP options {:02x?} became {:02x?}",
        input.ip_options,
        output.ip_options
    );
    Ok(())
}

/// The options with TOA in the space of their padding, which is where it goes when the packet must not grow. What a
/// receiver does not read is padding, and so is what is stripped.
pub(crate) fn in_padding(input: &Segment<'_>, toa: &[u8]) -> Option<Vec<u8>> {
    let mut packed = toa.to_vec();
    for option in options(input.options).iter().filter(|o| !ADDRESS_KINDS.contains(&o.bytes[0])) {
        packed.extend(option.bytes);
    }
    let fits = packed.len() <= input.options.len();
    packed.resize(input.options.len(), 1);
    fits.then_some(packed)
}

/// Where options differ there stood an address option (or Fast Open on a SYN), and stand NOPs now.
pub(crate) fn only_stripped(input: &Segment<'_>, rest: &[u8]) -> Result<(), Broken> {
    let mut expected = input.options.to_vec();
    for option in options(input.options) {
        let kind = option.bytes[0];
        if ADDRESS_KINDS.contains(&kind) || kind == 34 && input.has(SYN) {
            expected[option.at..option.at + option.bytes.len()].fill(1);
        }
    }
    ensure!(expected == rest, "options {:02x?} became {rest:02x?}", input.options);
    Ok(())
}

/// Options towards the client: as they were, but for the MSS of a SYN-ACK, which leaves room for a TOA option of
/// `toa_len` bytes. Whether that was lowered.
pub(crate) fn outbound_options(
    toa_len: Option<u16>,
    input: &Segment<'_>,
    output: &Segment<'_>,
) -> Result<bool, Broken> {
    ensure!(
        input.options.len() == output.options.len(),
        "the options' length changed on the way to the client"
    );
    let mut expected = input.options.to_vec();
    let mut lowered = false;
    if let Some(toa_len) = toa_len.filter(|_| input.has(SYN)) {
        for option in options(input.options).iter().filter(|o| o.bytes[0] == 2 && o.bytes.len() == 4) {
            let mss = u16::from_be_bytes([option.bytes[2], option.bytes[3]]);
            let less = mss.saturating_sub(toa_len).max(MSS_MIN - toa_len).min(mss);
            expected[option.at + 2..option.at + 4].copy_from_slice(&less.to_be_bytes());
            lowered |= less < mss;
        }
    }
    ensure!(expected == output.options, "options {:02x?} became {:02x?}", input.options, output.options);
    Ok(lowered)
}

/// An answer of the gateway's own: an ICMP error with right checksums, which quotes a packet of whom it goes to. The MTU
/// that it tells, if it does.
pub(crate) fn reply_is_sound(frame: &[u8]) -> Result<Option<u32>, Broken> {
    let Some(ip) = ip_of(frame) else { return Err("a reply that is no IP".into()) };
    let Some(outer) = parse_ip(ip) else { return Err("a reply cut short".into()) };
    ensure!(outer.total_len + ETH_LEN == frame.len(), "a reply with something behind it");
    let Some(error) = icmp_error_of(ip) else { return Err("a reply that is no ICMP error".into()) };
    ensure!(error.checksum_ok, "a reply with a wrong checksum");
    ensure!(error.quoted_src.ip() == error.dst, "a reply to somebody else than the sender");
    Ok(error.mtu)
}
