use proptest::prelude::*;

use super::*;
use crate::HeapBuf;
use crate::build::{Extension, UdpFrame, UdpFrame6, documentation_v6, fragments_v4, with_extensions};
use crate::checksum::{internet, verify_ipv4};
use crate::tcp::options::{iter, tests::optionish};

const V4: Client = Client { addr: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), port: U16::new(4660) };

fn v6() -> Client {
    Client { addr: IpAddr::V6(Ipv6Addr::from_octets(documentation_v6(7))), port: U16::new(4660) }
}

fn inserted(frame: &[u8], form: Form, client: Client) -> Result<Vec<u8>, NotInserted> {
    let mut packet = HeapBuf::from_frame(frame);
    let result = insert(&mut packet, 14, form, client);
    if result.is_err() {
        assert_eq!(packet.data(), frame, "what is refused stays as it is");
    }
    result.map(|()| packet.to_vec())
}

#[test]
fn the_bytes_are_those_of_the_chart() {
    let told = [31, 8, 0x12, 0x34, 203, 0, 113, 7];
    assert_eq!(encode(false, V4.addr, V4.port).as_bytes(), told);
    assert_eq!(encode(true, V4.addr, V4.port).as_bytes(), [&[0x10, 17, 0, 12], &told[..]].concat());
    let told = [&[31, 20, 0x12, 0x34], &documentation_v6(7)[..]].concat();
    assert_eq!(encode(false, v6().addr, v6().port).as_bytes(), told);
    assert_eq!(encode(true, v6().addr, v6().port).as_bytes(), [&[0x20, 17, 0, 24], &told[..]].concat());
}

#[test]
fn an_option_stands_first_in_the_header_and_the_datagram_is_what_it_was() {
    let frame = UdpFrame { payload: b"question".to_vec(), ..UdpFrame::default() }.to_vec();
    let out = inserted(&frame, Form::Option, V4).unwrap();
    assert_eq!((out[14], out.len()), (0x47, frame.len() + 8));
    assert_eq!(u16::from_be_bytes([out[16], out[17]]), 44);
    assert_eq!(out[34..42], [31, 8, 0x12, 0x34, 203, 0, 113, 7]);
    assert!(verify_ipv4(&out[14..42]));
    assert_eq!((&out[..14], &out[42..]), (&frame[..14], &frame[34..]));
    assert_eq!(find_option(&out[34..42]), Some(V4));
}

#[test]
fn a_header_stands_between_ip_and_udp() {
    let v4 = UdpFrame { payload: b"question".to_vec(), ..UdpFrame::default() }.to_vec();
    for (client, len) in [(V4, 12), (v6(), 24)] {
        let out = inserted(&v4, Form::Header, client).unwrap();
        assert_eq!((out[23], out.len()), (PROTOCOL, v4.len() + len));
        assert!(verify_ipv4(&out[14..34]));
        assert_eq!(decode_header(&out[34..]), Some((client, len)));
        assert_eq!(out[34 + len..], v4[34..]);
    }
    let frame = UdpFrame6 { payload: b"question".to_vec(), ..UdpFrame6::default() }.to_vec();
    // IPv6 has no such options.
    for form in [Form::Option, Form::Header] {
        let out = inserted(&frame, form, v6()).unwrap();
        assert_eq!((out[20], u16::from_be_bytes([out[18], out[19]])), (PROTOCOL, 40));
        assert_eq!(decode_header(&out[54..]), Some((v6(), 24)));
        assert_eq!((&out[..18], &out[78..]), (&frame[..18], &frame[54..]));
        assert_eq!(form.len(false, Family::V6), 24);
    }
}

/// A datagram behind IPv4 options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut frame = UdpFrame::default().to_vec();
    frame.splice(34..34, options.iter().copied());
    frame[14] += (options.len() / 4) as u8;
    frame[17] += options.len() as u8;
    frame[24..26].fill(0);
    let sum = internet(&frame[14..34 + options.len()]);
    frame[24..26].copy_from_slice(&sum.to_bytes());
    frame
}

#[test]
fn other_options_stay_behind_it_as_long_as_there_is_room() {
    let out = inserted(&with_options(&[1; 32]), Form::Option, V4).unwrap();
    assert_eq!(out[14], 0x4f);
    assert_eq!(out[42..74], [1; 32]);
    assert!(verify_ipv4(&out[14..74]));
    assert_eq!(inserted(&with_options(&[1; 36]), Form::Option, V4), Err(NotInserted::NoRoom));
    let out = inserted(&with_options(&[1; 36]), Form::Header, V4).unwrap();
    assert_eq!(decode_header(&out[70..]), Some((V4, 12)));
}

#[test]
fn what_is_no_whole_datagram_is_given_nothing() {
    let frame = UdpFrame { payload: vec![7; 100], ..UdpFrame::default() };
    let mut may_cut = frame.clone();
    may_cut.ip.flags_fragment = U16::ZERO;
    for form in [Form::Option, Form::Header] {
        for fragment in fragments_v4(&may_cut.to_vec(), 68) {
            assert_eq!(inserted(&fragment, form, V4), Err(NotInserted::NotUdp));
        }
        let extended =
            with_extensions(&UdpFrame6::default().to_vec(), &[Extension::empty(ipv6::NEXT_DESTINATION)]);
        assert_eq!(inserted(&extended, form, v6()), Err(NotInserted::NotUdp));
        assert_eq!(inserted(&[0; 40], form, V4), Err(NotInserted::NotUdp));
        let mut long = frame.to_vec();
        long[16..18].copy_from_slice(&[0xff, 0xf8]);
        assert_eq!(inserted(&long, form, V4), Err(NotInserted::NoRoom));
        let mut packet = HeapBuf::with_room(&frame.to_vec(), 7, 0);
        assert_eq!(insert(&mut packet, 14, form, V4), Err(NotInserted::NoHeadroom));
        assert_eq!(packet.data(), frame.to_vec());
    }
}

#[test]
fn only_exactly_what_is_in_the_chart_is_read() {
    let good = encode(true, V4.addr, V4.port).as_bytes().to_vec();
    assert_eq!(decode_header(&good), Some((V4, 12)));
    for at in [0, 1, 2, 3, 4, 5] {
        let mut other = good.clone();
        other[at] ^= 1;
        assert_eq!(decode_header(&other), None, "byte {at}");
    }
    assert_eq!(decode_header(&good[..11]), None);
    assert_eq!(decode_option(&good[4..11]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_told_is_what_is_read(
        addr in any::<u32>(), addr6 in any::<[u8; 16]>(), port in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..50)
    ) {
        let v4 = UdpFrame { payload: payload.clone(), ..UdpFrame::default() }.to_vec();
        let v6 = UdpFrame6 { payload, ..UdpFrame6::default() }.to_vec();
        for addr in [IpAddr::V4(Ipv4Addr::from_bits(addr)), IpAddr::V6(Ipv6Addr::from_octets(addr6))] {
            let client = Client { addr, port: U16::new(port) };
            let is_v4 = addr.is_ipv4();
            let out = inserted(&v4, Form::Option, client).unwrap();
            prop_assert_eq!(out.len() - v4.len(), Form::Option.len(is_v4, Family::V4));
            let l4 = 14 + usize::from(out[14] & 15) * 4;
            prop_assert!(verify_ipv4(&out[14..l4]));
            prop_assert_eq!(find_option(&out[34..l4]), Some(client));
            prop_assert_eq!(&out[l4..], &v4[34..]);
            for (frame, l4, family) in [(&v4, 34, Family::V4), (&v6, 54, Family::V6)] {
                let out = inserted(frame, Form::Header, client).unwrap();
                let len = Form::Header.len(is_v4, family);
                prop_assert_eq!(decode_header(&out[l4..]), Some((client, len)));
                prop_assert_eq!(&out[l4 + len..], &frame[l4..]);
            }
        }
    }

    #[test]
    fn after_stripping_no_receiver_finds_a_client_and_the_checksum_holds(options in optionish(), kinds in any::<u64>()) {
        let mut options = options;
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        // Some of the kinds become ours.
        let all: Vec<_> = iter(&options).flatten().map(|opt| opt.offset).collect();
        for (nth, at) in all.into_iter().enumerate() {
            if kinds >> (nth & 63) & 1 == 1 {
                options[at] = OPTION_TYPE;
            }
        }
        let frame = with_options(&options);
        let mut header = frame[14..34 + options.len()].to_vec();
        let stripped = strip(&mut header);
        prop_assert!(verify_ipv4(&header));
        prop_assert_eq!(find_option(&header[20..]), None);
        let is_ours = |opt: &options::Opt| opt.kind == OPTION_TYPE;
        prop_assert_eq!(usize::from(stripped.count), iter(&options).flatten().filter(is_ours).count());
        let others = |bytes: &[u8]| -> Vec<_> { iter(bytes).flatten().filter(|opt| !is_ours(opt)).collect() };
        prop_assert_eq!(others(&options), others(&header[20..]));
    }

    #[test]
    fn noise_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), l3 in 0usize..30, header in any::<bool>()) {
        let form = if header { Form::Header } else { Form::Option };
        let mut packet = HeapBuf::with_room(&bytes, 24, 0);
        let _ = insert(&mut packet, l3, form, V4);
        let _ = (decode_option(&bytes), decode_header(&bytes), find_option(&bytes));
        let mut bytes = bytes;
        let _ = strip(&mut bytes);
    }
}
