//! Fragments through one to four workers, in any order: what leaves is what would have left of the whole packet, cut.

mod farm;
mod packets;

use std::net::SocketAddr;

use farm::Farm;
use packets::{Case, FRAGMENT_ID, Got, cut, frame, got, l4_checksum_is_right};
use wire::build::fragments_v4;

use super::*;
use crate::{WAIT_LEN_MAX, WAIT_SLOTS};

const PROTOCOLS: [u8; 2] = [ipv4::PROTO_TCP, ipv4::PROTO_UDP];

/// Whether `pieces` are pieces of `whole`; which of its bytes they hold.
fn covered(whole: &Got, pieces: &[Got]) -> Vec<bool> {
    let mut seen = vec![false; whole.payload.len()];
    for piece in pieces {
        let range = piece.offset..piece.offset + piece.payload.len();
        assert_eq!(whole.payload[range.clone()], piece.payload);
        assert_eq!(piece.more, range.end < whole.payload.len());
        let expected = Got {
            id: piece.id,
            offset: piece.offset,
            more: piece.more,
            payload: piece.payload.clone(),
            ..whole.clone()
        };
        assert_eq!(piece, &expected);
        assert_eq!(piece.id as u16, FRAGMENT_ID as u16);
        seen[range].fill(true);
    }
    seen
}

fn cases() -> impl Strategy<Value = Case> {
    let ways = prop::sample::select(vec![
        (Mode::FullNat, false, false),
        (Mode::FullNat, true, true),
        (Mode::FullNat, false, true),
        (Mode::FullNat, true, false),
        (Mode::Nat, false, false),
        (Mode::Nat, true, true),
        (Mode::Dr, false, false),
        (Mode::Dr, true, true),
        (Mode::Tun, false, false),
        (Mode::Tun, false, true),
        (Mode::Tun, true, false),
        (Mode::Tun, true, true),
    ]);
    (ways, prop::sample::select(PROTOCOLS.to_vec()), any::<bool>(), any::<bool>()).prop_map(
        |((mode, client_wide, real_wide), protocol, outbound, rebase)| Case {
            mode,
            client_wide,
            real_wide,
            protocol,
            outbound: outbound && !mode.is_one_way(),
            rebase,
        },
    )
}

proptest! {
    /// Any order, repetitions and losses. `picks` says which fragment comes in next, at which worker.
    #[test]
    fn fragments_leave_as_pieces_of_what_the_whole_packet_would_have_been(
        case in cases(),
        workers in 1u16..5,
        len in 200usize..1200,
        mtu in 100usize..200,
        picks in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4), 1..30),
    ) {
        let mut farm = Farm::new(workers, case.spec());
        let way = case.open(&mut farm);
        let payload: Vec<u8> = (0..len).map(|n| (n * 7 / 3) as u8).collect();
        let whole = frame(case.protocol, flags::ACK, way, &payload);
        let pieces = cut(&whole, mtu);
        for (pick, worker) in &picks {
            farm.send(*worker, &pieces[pick.index(pieces.len())]);
        }
        let out: Vec<Got> = farm.forwarded.drain(..).map(|frame| got(&frame)).collect();
        let drops = farm.other.len();
        prop_assert_eq!(picks.len(), out.len() + drops + farm.waiting(), "{:?}", farm.other);
        let full = farm.dropped(DropReason::FragmentBufferFull) as usize;
        prop_assert_eq!(full, drops, "{:?}", farm.other);

        farm.pass(31);
        prop_assert_eq!(farm.waiting(), 0);
        prop_assert_eq!(farm.dropped(DropReason::FragmentTimeout) as usize, farm.freed);

        let mut other = Farm::new(workers, case.spec());
        prop_assert_eq!(case.open(&mut other), way);
        other.send(0, &whole);
        let wanted = got(&other.one());
        prop_assert!(l4_checksum_is_right(&wanted));
        let seen = covered(&wanted, &out);
        let came: Vec<usize> = picks.iter().map(|(pick, _)| pick.index(pieces.len())).collect();
        if full == 0 && (0..pieces.len()).all(|n| came.contains(&n)) {
            prop_assert!(seen.iter().all(|seen| *seen));
        }
        if !came.contains(&0) {
            prop_assert!(out.is_empty());
        }
    }

    /// Whatever fragments are made of, nothing grows beyond its bound and every packet is accounted for.
    #[test]
    fn floods_of_fragments_stay_within_bounds(
        workers in 1u16..4,
        packets in prop::collection::vec((0u16..300, 0u16..9, 1usize..9, any::<bool>(), 0usize..4, any::<u8>()), 1..800),
    ) {
        let mut farm = Farm::new(workers, udp4().spec());
        for (id, offset, units, more, worker, kind) in &packets {
            let base = Ipv4Base {
                eth_dst: GATEWAY_MAC,
                src: u32be(CLIENT),
                dst: u32be(VIP),
                protocol: if kind % 8 == 0 { 6 } else { 17 },
                id: U16::new(*id),
                flags_fragment: U16::new(offset | if *more { ipv4::FLAG_MORE_FRAGMENTS } else { 0 }),
                ..Ipv4Base::default()
            };
            let mut payload = vec![*kind; units * 8 - usize::from(kind % 16 == 1)];
            if kind % 4 == 0 && payload.len() >= 6 {
                payload[..6].copy_from_slice(&[40, 0, 0, 80, 0, 30]);
            }
            farm.send(*worker, &base.frame(&payload));
            prop_assert!(farm.waiting() <= WAIT_SLOTS * WAIT_LEN_MAX * usize::from(workers));
        }
        let settled = farm.forwarded.len() + farm.other.len();
        prop_assert_eq!(settled + farm.waiting() + farm.freed, packets.len());
        farm.pass(31);
        for _ in 0..10 {
            farm.pass(0);
        }
        prop_assert_eq!(farm.waiting(), 0);
        prop_assert_eq!(settled + farm.freed, packets.len());
    }
}

fn udp4() -> Case {
    Case {
        mode: Mode::FullNat,
        client_wide: false,
        real_wide: false,
        protocol: 17,
        outbound: false,
        rebase: false,
    }
}

fn datagram(len: usize) -> Vec<u8> {
    let way = (SocketAddr::new(CLIENT.into(), 4000), SocketAddr::new(VIP.into(), 80));
    frame(17, 0, way, &vec![5; len])
}

#[test]
fn a_fragment_is_handed_over_at_most_twice_and_both_workers_count_it() {
    let mut farm = Farm::new(4, udp4().spec());
    let pieces = cut(&datagram(400), 220);
    for worker in 0..4 {
        for piece in &pieces {
            farm.send(worker, piece);
        }
    }
    assert_eq!((farm.forwarded.len(), farm.waiting()), (pieces.len() * 4, 0));
    // Three of four workers do not keep the ports; the keeper may own the connection, too.
    let handed = farm.event(Counter::HandedOver) as usize;
    assert!(handed >= pieces.len() * 3 && handed <= pieces.len() * 7, "{handed}");
    assert_eq!(farm.workers.iter().map(Worker::connections).sum::<u32>(), 1);
}

#[test]
fn a_datagram_that_came_last_fragment_first_leaves_whole() {
    let mut farm = Farm::new(1, udp4().spec());
    let pieces = cut(&datagram(1000), 220);
    for piece in pieces.iter().rev() {
        farm.send(0, piece);
    }
    assert_eq!((farm.forwarded.len(), farm.waiting()), (pieces.len(), 0));
    assert_eq!(farm.event(Counter::FragmentsWaited), pieces.len() as u64 - 1);
}

#[test]
fn all_of_a_packet_is_refused_once_fragments_overlap() {
    let mut farm = Farm::new(2, udp4().spec());
    let (coarse, fine) = (cut(&datagram(1000), 420), cut(&datagram(1000), 220));
    farm.send(0, &coarse[0]);
    farm.send(0, &fine[1]);
    farm.send(0, &coarse[1]);
    assert_eq!(farm.other, [Verdict::Drop(DropReason::FragmentOverlap); 2]);
    assert_eq!((farm.forwarded.len(), farm.dropped(DropReason::FragmentOverlap)), (1, 2));
}

#[test]
fn first_fragments_hold_the_transport_header() {
    let way = (SocketAddr::new(CLIENT.into(), 4000), SocketAddr::new(VIP.into(), 80));
    let with_options = TcpFrame { options: vec![1; 12], payload: vec![0; 100], ..syn(4000) };
    let cases = [
        (cut(&frame(6, flags::SYN, way, &[0; 100]), 36), 2),
        // 24 bytes of a header of 32.
        (cut(&with_options.to_vec(), 44), 1),
        (cut(&frame(6, flags::SYN, way, &[0; 100]), 44), 0),
        (cut(&frame(17, 0, way, &[0; 100]), 28), 0),
    ];
    for (pieces, tiny) in cases {
        let mut farm = Farm::new(1, Case { protocol: pieces[0][23], ..udp4() }.spec());
        farm.send(0, &pieces[0]);
        farm.send(0, &pieces[1]);
        assert_eq!(farm.dropped(DropReason::FragmentTiny), tiny);
        assert_eq!(farm.forwarded.len(), if tiny == 0 { 2 } else { 0 });
    }
}

#[test]
fn what_follows_a_refused_first_fragment_is_refused_too() {
    let spec =
        ServiceSpec { reals: vec![RealSpec::new((REAL, 8080).into(), Mode::FullNat, 0)], ..udp4().spec() };
    let mut farm = Farm::new(1, spec);
    for piece in &cut(&datagram(400), 220) {
        farm.send(0, piece);
    }
    let stray = Verdict::Drop(DropReason::FragmentStray);
    assert_eq!(farm.other, [Verdict::Reply(CLIENT_SIDE), stray, stray]);
}

#[test]
fn fragments_that_are_not_ours_go_to_the_kernel_in_order_or_not() {
    let mut farm = Farm::new(1, udp4().spec());
    let way = (SocketAddr::new(CLIENT.into(), 53), SocketAddr::new([10, 1, 0, 1].into(), 5353));
    let pieces = cut(&frame(17, 0, way, &[0; 400]), 220);
    for piece in pieces.iter().rev() {
        farm.send(0, piece);
    }
    assert_eq!(farm.other, [Verdict::Punt(PuntClass::Local); 3]);
    let echo = Ipv4Base {
        protocol: 1,
        flags_fragment: U16::new(0x2000),
        eth_dst: GATEWAY_MAC,
        ..Ipv4Base::default()
    };
    farm.send(0, &echo.frame(&[8; 64]));
    assert_eq!(farm.other[3], Verdict::Punt(PuntClass::Icmp));
}

#[test]
fn a_datagram_without_checksum_stays_without_and_cannot_become_ipv6() {
    let bare = |frame: Vec<u8>| {
        let mut frame = frame;
        frame[40..42].fill(0);
        frame
    };
    let mut farm = Farm::new(1, udp4().spec());
    farm.send(0, &cut(&bare(datagram(400)), 220)[0]);
    assert_eq!(farm.one()[40..42], [0, 0]);
    let mut farm = Farm::new(1, Case { real_wide: true, ..udp4() }.spec());
    farm.send(0, &cut(&bare(datagram(400)), 220)[0]);
    assert_eq!(farm.other, [Verdict::Drop(DropReason::FragmentNoChecksum)]);
}

#[test]
fn a_segment_in_fragments_carries_no_client_address_and_none_of_its_own() {
    let mut rig = Rig::new();
    let lport = rig.inbound(&syn(5555)).header.src_port.get();
    rig.outbound(&syn_ack(lport));
    let forged = toa::encode_v4(253, U32::new(0x0102_0304), U16::new(5)).to_vec();
    let data =
        TcpFrame { options: forged, payload: vec![7; 200], flags_fragment: U16::ZERO, ..from_client(5555) };
    let pieces = fragments_v4(&data.to_vec(), 120);
    let sent: Vec<Got> = pieces.iter().map(|piece| got(&rig.send(CLIENT_SIDE, piece).1)).collect();
    assert_eq!((rig.event(Counter::ToaNoRoom), rig.event(Counter::ToaStripped)), (1, 1));
    let payload: Vec<u8> = sent.iter().flat_map(|piece| piece.payload.clone()).collect();
    let whole = Got { payload, ..sent[0].clone() };
    assert!(l4_checksum_is_right(&whole));
    assert_eq!(toa::find(&whole.payload[20..28]), None);
    // The next whole segment tells.
    assert!(rig.inbound(&ack(5555)).toa().is_some());
}

#[test]
fn a_fragmented_syn_opens_a_connection_and_a_fragmented_rst_ends_it() {
    let mut rig = Rig::new();
    let with_data = |frame: TcpFrame| {
        let frame = TcpFrame { payload: vec![3; 100], flags_fragment: U16::ZERO, ..frame };
        fragments_v4(&frame.to_vec(), 84)
    };
    for piece in with_data(syn(5555)) {
        assert_eq!(rig.send(CLIENT_SIDE, &piece).0, Verdict::Forward(SERVER_SIDE));
    }
    assert_eq!(rig.states(), [ConnState::SynRecv]);
    rig.open(5555);
    assert_eq!(rig.states(), [ConnState::Established]);
    for piece in with_data(TcpFrame { flags: flags::RST, seq: U32::new(CLIENT_ISN + 1), ..from_client(5555) })
    {
        assert_eq!(rig.send(CLIENT_SIDE, &piece).0, Verdict::Forward(SERVER_SIDE));
    }
    assert_eq!(rig.states(), [ConnState::Close]);
}

#[test]
fn no_two_workers_use_an_identification_at_the_same_time() {
    for workers in [1, 2, 3, 64] {
        let ids = (0..workers).map(|worker| PacketId::new(WorkerId(worker), workers));
        let each = usize::from(u16::MAX / workers);
        let mut all: Vec<u16> = ids.flat_map(|id| (0..3 * each).map(move |_| id.next())).collect();
        let first: Vec<u16> =
            all.chunks(3 * each).flat_map(|of_worker| &of_worker[..each]).copied().collect();
        let used = |mut ids: Vec<u16>| {
            ids.sort_unstable();
            ids.dedup();
            ids.len()
        };
        assert_eq!(used(first), each * usize::from(workers), "one is used again too early");
        let owners = all.chunks_mut(3 * each).map(|of_worker| used(of_worker.to_vec())).sum::<usize>();
        assert_eq!(owners, used(all), "two workers use the same");
    }
}
