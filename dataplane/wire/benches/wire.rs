//! What the pieces of the packet path cost: views and checks, checksums full and incremental, options.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wire::build::TcpFrame;
use wire::checksum::Delta;
use wire::tcp::options;
use wire::{U16, U32, checksum, ethernet, ipv4, tcp, toa, view};

/// Options by name: what real traffic carries, and what a forger sends.
fn option_sets() -> [(&'static str, Vec<u8>); 4] {
    let forged = toa::encode_v4(254, U32::new(0xcb00_7107), U16::new(4660));
    [
        ("none", Vec::new()),
        ("timestamps", vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
        ("syn", vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7]),
        ("forged toa", [&forged[..], &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]].concat()),
    ]
}

/// Ethernet, IPv4 and TCP, as the engine's first stage reads them.
#[inline]
fn parse(frame: &[u8]) -> Option<(U32, U32, U16, U16, u8)> {
    let ethernet: &ethernet::Header = view(frame, 0)?;
    if ethernet.ether_type != ethernet::ETHERTYPE_IPV4 {
        return None;
    }
    let ip: &ipv4::Header = view(frame, ethernet::HEADER_LEN)?;
    let header_len = ip.check(frame.len() - ethernet::HEADER_LEN).ok()?;
    if ip.protocol != ipv4::PROTO_TCP || ip.is_fragment() {
        return None;
    }
    let tcp: &tcp::Header = view(frame, ethernet::HEADER_LEN + header_len)?;
    tcp.check(usize::from(ip.total_len.get()) - header_len).ok()?;
    Some((ip.src, ip.dst, tcp.src_port, tcp.dst_port, tcp.flags))
}

fn bench_parse(c: &mut Criterion) {
    let frame = TcpFrame { pad: true, ..TcpFrame::default() }.to_vec();
    assert!(parse(&frame).is_some());
    c.bench_function("parse/ethernet_ipv4_tcp", |b| b.iter(|| parse(black_box(&frame))));
    c.bench_function("parse/verify_ipv4", |b| b.iter(|| checksum::verify_ipv4(black_box(&frame[14..34]))));
}

fn bench_checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum/internet");
    for len in [20, 64, 576, 1460] {
        let bytes = vec![0xa5; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &bytes, |b, bytes| {
            b.iter(|| checksum::internet(black_box(bytes)));
        });
    }
    group.finish();
    // What FULLNAT does to a segment: both addresses and both ports, one delta for two checksums.
    let (old, new) =
        ([U32::new(0xcb00_7107), U32::new(0xc633_6401)], [U32::new(0x0a09_0002), U32::new(0x0a09_0101)]);
    let ports = (U32::new(0x1234_0050), U32::new(0x8765_1f90));
    c.bench_function("checksum/delta_fullnat", |b| {
        b.iter(|| {
            let (old, new, ports) = black_box((old, new, ports));
            let addresses = Delta::ZERO.replace32(old[0], new[0]).replace32(old[1], new[1]);
            let segment = addresses.replace32(ports.0, ports.1);
            (addresses.apply(U16::new(0x1111)), segment.apply(U16::new(0x2222)))
        });
    });
    c.bench_function("checksum/apply_stored", |b| {
        b.iter(|| Delta::from_folded(black_box(0x4321)).apply(black_box(U16::new(0x1111))));
    });
}

fn bench_options(c: &mut Criterion) {
    let mut group = c.benchmark_group("toa/strip");
    for (name, set) in option_sets() {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut room = [0u8; 40];
                let options = &mut room[..set.len()];
                options.copy_from_slice(&set);
                toa::strip(black_box(options))
            });
        });
    }
    group.finish();
    let syn = option_sets()[2].1.clone();
    c.bench_function("options/lower_mss", |b| {
        b.iter(|| {
            let mut room = [0u8; 20];
            room.copy_from_slice(&syn);
            options::lower_mss(black_box(&mut room), 8, 88)
        });
    });
    c.bench_function("options/find_window_scale", |b| b.iter(|| options::window_scale(black_box(&syn))));
}

criterion_group!(benches, bench_parse, bench_checksum, bench_options);
criterion_main!(benches);
