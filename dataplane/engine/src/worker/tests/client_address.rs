//! What real servers are told of clients, and what clients cannot do about it.

use wire::build::fragments_v4;

use super::families::{Case, Packet};
use super::*;

#[test]
fn a_handshake_passes_between_client_and_real_server() {
    let mut rig = Rig::new();
    let out = rig.inbound(&syn(5555));
    assert_eq!((out.ip.src, out.ip.dst), (u32be(LIP), u32be(REAL)));
    assert_eq!(out.header.dst_port.get(), 8080);
    assert_eq!((out.eth.src, out.eth.dst), (GATEWAY_MAC, REAL_MAC));
    assert_eq!(out.ip.ttl, 63);
    assert_eq!(out.toa(), None, "TOA never stands on a SYN");

    let back = rig.outbound(&syn_ack(out.header.src_port.get()));
    assert_eq!((back.ip.src, back.ip.dst), (u32be(VIP), u32be(CLIENT)));
    assert_eq!((back.header.src_port.get(), back.header.dst_port.get()), (80, 5555));
    assert_eq!((back.eth.src, back.eth.dst), (GATEWAY_MAC, CLIENT_MAC));
    assert_eq!(options::mss(&back.options), Some(1460 - 8));
    assert_eq!(rig.states(), [ConnState::SynRecv]);

    assert_eq!(rig.inbound(&ack(5555)).toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(rig.states(), [ConnState::Established]);
}

#[test]
fn toa_stands_on_every_segment_until_the_real_server_has_acknowledged_or_spoken() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let data = TcpFrame { payload: b"GET / HTTP/1.0\r\n".to_vec(), ..from_client(5555) };
    let out = rig.inbound(&data);
    assert_eq!(out.toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(out.payload, data.payload);
    assert_eq!(rig.inbound(&data).toa(), Some((CLIENT.into(), 5555)), "a retransmission carries it too");
    rig.outbound(&from_real(lport)); // acknowledges only the SYN
    assert!(rig.inbound(&data).toa().is_some());
    rig.outbound(&TcpFrame { ack: U32::new(CLIENT_ISN + 1 + 16), ..from_real(lport) });
    assert_eq!(rig.inbound(&data).toa(), None);
}

#[test]
fn a_server_that_speaks_first_ends_toa() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    rig.outbound(&TcpFrame { payload: b"220 hello\r\n".to_vec(), ..from_real(lport) });
    assert_eq!(rig.inbound(&ack(5555)).toa(), None);
}

#[test]
fn a_client_cannot_forge_its_address() {
    let mut rig = Rig::new();
    rig.inbound(&syn(5555));
    let forged = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53));
    let other = toa::encode_v4(200, U32::new(0x0808_0808), U16::new(53));
    let out = rig.inbound(&TcpFrame { options: [forged, other].concat(), ..from_client(5555) });
    let walked: Vec<_> = options::iter(&out.options).filter_map(|opt| Some(opt.ok()?.kind)).collect();
    assert_eq!(walked.iter().filter(|kind| toa::is_toa_kind(**kind)).count(), 1);
    assert_eq!(out.toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(rig.event(Counter::ToaStripped), 1);
}

#[test]
fn toa_and_fast_open_are_stripped_from_a_syn() {
    let mut rig = Rig::new();
    let forged = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53));
    let mut opts = vec![options::KIND_FAST_OPEN, 2];
    opts.extend(forged);
    let out = rig.inbound(&TcpFrame { options: opts, ..syn(5555) });
    assert!(out.options.iter().all(|byte| *byte == options::KIND_NOP || *byte == options::KIND_END));
    assert_eq!(rig.event(Counter::FastOpenStripped), 1);
}

#[test]
fn without_room_in_the_header_the_segment_passes_without_toa_and_is_counted() {
    let mut rig = Rig::new();
    rig.open(5555);
    let full = TcpFrame {
        options: [vec![8, 10], vec![0; 8], vec![30, 28], vec![0; 26]].concat(),
        ..from_client(5555)
    };
    assert_eq!(rig.inbound(&full).toa(), None);
    assert_eq!(rig.event(Counter::ToaNoRoom), 1);
}

#[test]
fn a_client_cannot_hide_behind_a_header_full_of_padding_or_forged_options() {
    let mut rig = Rig::new();
    rig.open(5555);
    let timestamps = [vec![8, 10], vec![3; 8]].concat();
    let forged = [vec![249, 40], vec![9; 38]].concat();
    for opts in
        [vec![1; 40], forged, [timestamps.clone(), vec![1; 26]].concat(), [vec![1; 29], timestamps].concat()]
    {
        let out =
            rig.inbound(&TcpFrame { options: opts.clone(), payload: b"x".to_vec(), ..from_client(5555) });
        assert_eq!(out.toa(), Some((CLIENT.into(), 5555)), "{opts:?}");
        assert_eq!(options::timestamps(&out.options).is_some(), opts.contains(&3));
        assert_eq!(out.payload, b"x");
    }
    assert_eq!(rig.event(Counter::ToaNoRoom), 0);
}

#[test]
fn toa_does_not_push_a_packet_over_the_mtu() {
    let mut rig = Rig::new();
    rig.open(5555);
    let full = TcpFrame { payload: vec![7; 1460], ..from_client(5555) };
    let out = rig.inbound(&full);
    assert_eq!((out.toa(), out.payload.len()), (None, 1460));
    assert_eq!(rig.event(Counter::ToaOverMtu), 1);
    let fits = TcpFrame { payload: vec![7; 1452], ..from_client(5555) };
    assert_eq!(rig.inbound(&fits).ip.total_len.get(), 1500);
}

/// A service that forwards nothing without TOA that should carry it.
fn telling_or_nothing() -> Rig {
    let mut spec = service(&[(REAL, 1)]);
    spec.options.toa_form.must = true;
    Rig::with(1000, spec)
}

#[test]
fn a_client_whose_segments_have_no_room_for_toa_is_told_what_fits() {
    let mut rig = telling_or_nothing();
    rig.open(5555);
    let full = TcpFrame { payload: vec![7; 1453], ..from_client(5555) };
    let (verdict, out) = rig.send(CLIENT_SIDE, &full.to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let error: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((error.code, error.rest.get()), (icmp::CODE_FRAGMENTATION_NEEDED, 1492));
    assert_eq!(rig.event(Counter::ToaOverMtu), 1);
    let fits = rig.inbound(&TcpFrame { payload: vec![7; 1452], ..from_client(5555) });
    assert_eq!((fits.toa(), fits.ip.total_len.get()), (Some((CLIENT.into(), 5555)), 1500));
}

#[test]
fn what_may_be_cut_carries_toa_and_is_cut() {
    let mut rig = telling_or_nothing();
    rig.open(5555);
    let mut frame = TcpFrame { payload: vec![7; 1460], ..from_client(5555) }.to_vec();
    // May be fragmented.
    frame[20] = 0;
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_bytes());
    let (verdict, out) = rig.send(CLIENT_SIDE, &frame);
    assert_eq!(verdict, Verdict::ForwardCut { port: SERVER_SIDE, mtu: 1500 });
    let out = TcpView::new(&out);
    assert_eq!((out.toa(), out.payload.len()), (Some((CLIENT.into(), 5555)), 1460));
}

#[test]
fn a_full_header_is_dropped_where_nothing_goes_without_toa() {
    let mut rig = telling_or_nothing();
    let lport = rig.open(5555);
    let full = TcpFrame {
        options: [vec![8, 10], vec![0; 8], vec![30, 28], vec![0; 26]].concat(),
        ..from_client(5555)
    };
    assert_eq!(rig.send(CLIENT_SIDE, &full.to_vec()).0, Verdict::Drop(DropReason::ClientUntold));
    assert_eq!((rig.event(Counter::ToaNoRoom), rig.dropped(DropReason::ClientUntold)), (1, 1));
    // What the real server has been told needs no more room.
    rig.outbound(&TcpFrame { payload: b"220 hello".to_vec(), ..from_real(lport) });
    assert_eq!(rig.inbound(&full).toa(), None);
}

#[test]
fn an_option_with_an_experiment_identifier_has_its_room_in_the_mss() {
    let mut spec = service(&[(REAL, 1)]);
    spec.options.toa_form.with_exid = true;
    let mut rig = Rig::with(1000, spec);
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    let back = rig.outbound(&syn_ack(lport));
    assert_eq!(options::mss(&back.options), Some(1460 - 12));
    let told = rig.inbound(&ack(5555));
    assert_eq!(told.toa(), Some((CLIENT.into(), 5555)));
    assert_eq!(told.options[..6], [1, 1, 254, 10, b'T', b'G']);
}

/// Every TCP case without TOA of the gateway's own, and what its real server gets of options that a client forged, on a
/// SYN, an ACK and data.
fn forged_options(pass_toa: bool) -> Vec<(Case, Packet, Packet)> {
    let mut all = Vec::new();
    for case in Case::all().into_iter().filter(|case| !case.udp) {
        let mut rig = case.rig(10);
        let mut spec = ServiceSpec { toa: None, ..case.spec() };
        spec.options.pass_toa = pass_toa;
        rig.configure(vec![spec]);
        let forged = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53)).to_vec();
        let other = [vec![options::KIND_FAST_OPEN, 2, 1, 1], vec![200, 8, 0, 53, 8, 8, 8, 8]].concat();
        let options = [forged, other].concat();
        let syn = Packet { flags: flags::SYN, seq: CLIENT_ISN, ack: 0, ..case.sent(5555) };
        let data = Packet { payload: b"hello".to_vec(), ..case.sent(5555) };
        for (nth, packet) in [syn, case.sent(5555), data].into_iter().enumerate() {
            let sent = Packet { options: options.clone(), ..packet };
            let got = rig.pass_in(case, &sent);
            assert_eq!(rig.event(Counter::ToaStripped), if pass_toa { 0 } else { nth as u64 + 1 });
            all.push((case, sent, got));
        }
        assert_eq!(rig.event(Counter::FastOpenStripped), 0);
    }
    all
}

#[test]
fn nobody_forges_an_address_where_the_gateway_tells_none_either() {
    for (case, sent, got) in forged_options(false) {
        let fast_open = [vec![1; 8], vec![options::KIND_FAST_OPEN, 2, 1, 1], vec![1; 8]].concat();
        assert_eq!(got.options, fast_open, "{case:?}");
        assert_eq!((got.flags, got.payload), (sent.flags, sent.payload));
    }
}

#[test]
fn an_address_that_another_gateway_tells_passes_where_that_is_wanted() {
    for (case, sent, got) in forged_options(true) {
        assert_eq!((got.options, got.payload), (sent.options, sent.payload), "{case:?}");
    }
}

#[test]
fn nobody_forges_an_address_in_fragments() {
    for case in Case::all().into_iter().filter(|case| !case.udp && !case.client_v6) {
        let mut rig = case.rig(10);
        rig.configure(vec![ServiceSpec { toa: None, ..case.spec() }]);
        case.open(&mut rig, 5555);
        let options = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53)).to_vec();
        let packet = Packet { options, payload: vec![7; 300], ..case.sent(5555) };
        let mut whole = packet.frame();
        // May be fragmented.
        whole[20] = 0;
        let mut fragments = fragments_v4(&whole, 100);
        fragments.rotate_left(1);
        let mut out: Vec<Vec<u8>> = Vec::new();
        for fragment in fragments {
            let (verdict, frame) = rig.send(CLIENT_SIDE, &fragment);
            if verdict == Verdict::Forward(SERVER_SIDE) {
                out.push(frame);
            }
        }
        let holds = |frame: &Vec<u8>| frame.windows(8).any(|bytes| bytes == [254, 8, 0, 53, 8, 8, 8, 8]);
        assert!(!out.is_empty() && !out.iter().any(holds), "{case:?}");
        assert_eq!(rig.event(Counter::ToaStripped), 1);
    }
}
