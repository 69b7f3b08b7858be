//! Header views, TCP options and what is made of whole packets: no panic on any bytes, and what is changed
//! keeps its checksum.

use wire::checksum::{self, Delta};
use wire::tcp::options;
use wire::{HeapBuf, PacketBuf, arp, ethernet, icmp, ipv4, ipv6, tcp, toa, udp, uoa, view, view_mut};

mod packets;

/// First byte: what to do; the rest: a frame, a packet, a message, or options.
pub fn run(data: &[u8]) {
    let Some((what, bytes)) = data.split_first() else { return };
    match what {
        0 => headers(bytes),
        1 => extensions(bytes),
        2 => stripping(bytes),
        3 => answering(bytes),
        4 => packets::quotes(bytes),
        5 => packets::translation(bytes),
        6 => packets::tunnels(bytes),
        7 => packets::fragments(bytes),
        9 => telling(bytes),
        _ => packets::in_place(bytes),
    }
}

fn headers(frame: &[u8]) {
    let _ = wire::build::summary(frame);
    for offset in [0, 14, 18, 34, 54] {
        let rest = frame.get(offset..).unwrap_or_default();
        if let Some(header) = view::<ethernet::Header>(frame, offset) {
            let _ = format!("{:?}", header.ether_type);
        }
        if let Some(packet) = view::<arp::Packet>(frame, offset) {
            let _ = packet.is_ipv4_over_ethernet();
        }
        if let Some(header) = view::<ipv4::Header>(frame, offset)
            && let Ok(len) = header.check(rest.len())
        {
            assert!(header.header_len() <= len && len <= rest.len());
        }
        if let Some(header) = view::<tcp::Header>(frame, offset)
            && let Ok(len) = header.check(rest.len())
        {
            assert!(len <= rest.len());
            assert_eq!(tcp::options_of(rest).map(<[u8]>::len), Some(len - tcp::HEADER_LEN));
        }
        if let Some(header) = view::<udp::Header>(frame, offset)
            && let Ok(len) = header.check(rest.len())
        {
            assert!(len <= rest.len());
        }
        if let Some(header) = view::<icmp::Header>(frame, offset) {
            let _ = (header.is_error(), header.echo_id(), header.next_hop_mtu());
        }
        decrement(rest);
    }
}

/// One hop less keeps a right IPv4 checksum right, and a wrong one wrong.
fn decrement(packet: &[u8]) {
    let mut packet = packet.to_vec();
    let Some(header) = view::<ipv4::Header>(&packet, 0) else { return };
    let len = header.header_len();
    if len < ipv4::HEADER_LEN || len > packet.len() {
        return;
    }
    let before = checksum::verify_ipv4(&packet[..len]);
    if view_mut::<ipv4::Header>(&mut packet, 0).is_some_and(ipv4::Header::decrement_ttl) {
        assert_eq!(checksum::verify_ipv4(&packet[..len]), before, "{packet:02x?}");
    }
}

fn extensions(packet: &[u8]) {
    if let Ok(upper) = ipv6::walk_extensions(packet) {
        assert!(ipv6::HEADER_LEN <= upper.offset && upper.offset <= packet.len());
    }
    if let Some(header) = view::<ipv6::Header>(packet, 0)
        && let Ok(len) = header.check(packet.len())
    {
        assert!(len <= packet.len());
    }
}

/// UOA in a packet, of either form: what a client says is gone, what the gateway says is read, and nothing else changes. A
/// right IPv4 checksum stays right, a wrong one wrong.
fn telling(packet: &[u8]) {
    let _ = (uoa::decode_option(packet), uoa::decode_header(packet));
    let client = uoa::Client { addr: [203, 0, 113, 7].into(), port: 4660.into() };
    for form in [uoa::Form::Option, uoa::Form::Header] {
        let mut buffer = HeapBuf::with_room(packet, uoa::LEN_MAX, 0);
        let header_len = view::<ipv4::Header>(packet, 0)
            .filter(|ip| ip.version() == 4)
            .and_then(|ip| ip.check(packet.len()).ok());
        if let Some(len) = header_len {
            let header = &mut buffer.data_mut()[..len];
            uoa::strip(header);
            assert_eq!(uoa::find_option(&header[ipv4::HEADER_LEN..]), None, "{packet:02x?}");
            assert_eq!(checksum::verify_ipv4(header), checksum::verify_ipv4(&packet[..len]), "{packet:02x?}");
        }
        let before = buffer.to_vec();
        if uoa::insert(&mut buffer, 0, form, client).is_err() {
            assert_eq!(buffer.data(), before, "{packet:02x?}");
            continue;
        }
        let Some(len) = header_len else { continue };
        let after = buffer.data();
        let (old, new) = (&before[..len], &after[..usize::from(after[0] & 0x0f) * 4]);
        let told = match form {
            uoa::Form::Option => uoa::find_option(&new[ipv4::HEADER_LEN..]),
            uoa::Form::Header => uoa::decode_header(&after[new.len()..]).map(|(client, _)| client),
        };
        assert_eq!(told, Some(client), "{packet:02x?}");
        assert_eq!(checksum::verify_ipv4(new), checksum::verify_ipv4(old), "{packet:02x?}");
        assert!(after.ends_with(&before[len..]), "{packet:02x?}");
    }
}

/// Every change of options tells the checksum's change rightly, and does what it is for.
fn stripping(options_given: &[u8]) {
    let given = &options_given[..options_given.len().min(tcp::OPTIONS_LEN_MAX)];
    walk(given);
    let _ = (options::mss(given), options::window_scale(given), options::timestamps(given));

    changed(
        given,
        |options| Some(toa::strip(options).delta),
        |after| {
            assert_eq!(toa::find(after), None, "a forged address is left: {given:02x?}");
            let left = options::iter(after).map_while(Result::ok).any(|opt| toa::is_toa_kind(opt.kind));
            assert!(!left, "a TOA option is left: {given:02x?}");
        },
    );
    changed(
        given,
        |options| Some(toa::strip_fast_open(options).delta),
        |after| {
            assert_eq!(options::find(after, options::KIND_FAST_OPEN), None);
        },
    );
    changed(
        given,
        |options| Some(options::strip_timestamps(options).delta),
        |after| {
            assert_eq!(options::find(after, options::KIND_TIMESTAMPS), None);
        },
    );
    changed(given, |options| Some(options::map_sack(options, 0x1234_5678)), walk);
    changed(given, |options| Some(options::shift_timestamps(options, 1, 2)), walk);
    changed(given, |options| options::put_first(options, &[254, 4, 1, 2]), walk);
    changed(
        given,
        |options| options::lower_mss(options, 8, 500).map(|lowered| lowered.delta),
        |after| {
            let (before, after) = (options::mss(given), options::mss(after));
            assert!(after <= before, "{before:?} became {after:?}");
        },
    );
}

fn walk(options: &[u8]) {
    let mut end = 0;
    for opt in options::iter(options).map_while(Result::ok) {
        assert!(opt.offset >= end && opt.len >= 2 && opt.offset + opt.len <= options.len());
        assert_eq!(opt.bytes(options).len(), opt.len);
        let _ = toa::decode(opt.bytes(options));
        end = opt.offset + opt.len;
    }
}

fn changed(given: &[u8], change: impl Fn(&mut [u8]) -> Option<Delta>, check: impl Fn(&[u8])) {
    // A word in front keeps the sum away from the one value that ones' complement has two forms of.
    let mut message = vec![0x12, 0x34];
    message.extend_from_slice(given);
    let before = checksum::internet(&message);
    let delta = change(&mut message[2..]).unwrap_or(Delta::ZERO);
    assert_eq!(delta.apply(before), checksum::internet(&message), "{given:02x?} became {message:02x?}");
    check(&message[2..]);
    assert_eq!(message.len(), given.len() + 2);
}

/// An ICMP error about any packet is a right ICMP message.
fn answering(packet: &[u8]) {
    let _ = icmp::may_answer_v4(packet);
    let mut out = [0; 576];
    if let Some(len) = icmp::error_v4(3, 4, icmp::rest_of_mtu(1400), packet, &mut out) {
        assert_eq!(checksum::internet(&out[..len]).get(), 0, "{packet:02x?}");
    }
}
