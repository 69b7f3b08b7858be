//! Capturing packets in a namespace, and reading TOA out of them.
//!
//! The few header fields that are needed are read here by hand, on purpose not with Tollgate's own parser: a test
//! that checks Tollgate's packets must not share its mistakes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::netns::Netns;
use crate::pcap::{self, Frame};
use crate::process::{Bond, Process};
use crate::run::Cmd;

const START_LIMIT: Duration = Duration::from_secs(10);

/// TCP flag bits (RFC 9293, 3.1).
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    path: PathBuf,
}

impl Capture {
    /// Starts to capture what passes `interface` and matches `filter`.
    pub fn start(netns: &Netns, interface: &str, filter: &str, dir: &Path) -> Result<Capture> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("capture{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let path = dir.join(format!("{name}.pcap"));
        let command = Cmd::line(&format!("tcpdump -Z root --immediate-mode -U -n -i {interface} -w"))
            .arg(&path)
            .arg(filter);
        let mut process = Process::spawn(&name, netns, &command, dir, Bond::DiesWithParent)?;
        process.wait_log("listening on", START_LIMIT)?;
        Ok(Capture { process, path })
    }

    /// The TCP segments captured so far.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        Ok(pcap::read(&self.path)?.iter().filter_map(Segment::parse).collect())
    }

    /// The capture file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends tcpdump; the file is complete then.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate()
    }
}

/// A TCP segment over IPv4 or IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// See [`flag`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// The TCP options: kind and what follows the length byte.
    pub options: Vec<(u8, Vec<u8>)>,
    /// Bytes of payload.
    pub payload_len: usize,
}

impl Segment {
    /// `None`: not TCP right behind an IP header, or cut off.
    pub fn parse(frame: &Frame) -> Option<Segment> {
        let ethernet = frame.bytes.get(..14)?;
        let ip = frame.bytes.get(14..)?;
        let (src, dst, tcp) = match ethernet[12..] {
            [0x08, 0x00] => ipv4_tcp(ip)?,
            [0x86, 0xdd] => ipv6_tcp(ip)?,
            _ => return None,
        };
        let tcp_header_len = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Segment {
            from: SocketAddr::new(src, u16_at(tcp, 0)?),
            to: SocketAddr::new(dst, u16_at(tcp, 2)?),
            flags: tcp[13],
            sequence: u32_at(tcp, 4)?,
            options: options(tcp.get(20..tcp_header_len)?),
            payload_len: tcp.len() - tcp_header_len,
        })
    }

    /// The client that a TOA option of this kind names: of 8 bytes with IPv4, of 20 bytes with IPv6.
    pub fn toa(&self, kind: u8) -> Option<SocketAddr> {
        self.options.iter().filter(|(found, _)| *found == kind).find_map(|(_, value)| {
            let address = match value.len() {
                6 => IpAddr::V4(u32_at(value, 2)?.into()),
                18 => IpAddr::V6(ipv6_at(value, 2)?),
                _ => return None,
            };
            Some(SocketAddr::new(address, u16_at(value, 0)?))
        })
    }

    /// Whether exactly these of SYN, ACK, FIN and RST are set.
    pub fn has_flags(&self, flags: u8) -> bool {
        self.flags & (flag::SYN | flag::ACK | flag::FIN | flag::RST) == flags
    }
}

fn ipv4_tcp(ip: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header_len = usize::from(ip.first()? & 0x0f) * 4;
    if ip[0] >> 4 != 4 || *ip.get(9)? != 6 {
        return None;
    }
    let tcp = ip.get(header_len..usize::from(u16_at(ip, 2)?))?;
    let address = |at| Some(IpAddr::V4(Ipv4Addr::from(u32_at(ip, at)?)));
    Some((address(12)?, address(16)?, tcp))
}

fn ipv6_tcp(ip: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    if ip.first()? >> 4 != 6 || *ip.get(6)? != 6 {
        return None;
    }
    let tcp = ip.get(40..40 + usize::from(u16_at(ip, 4)?))?;
    Some((IpAddr::V6(ipv6_at(ip, 8)?), IpAddr::V6(ipv6_at(ip, 24)?), tcp))
}

fn options(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        match bytes {
            [] | [0, ..] => return found,
            [1, rest @ ..] => bytes = rest,
            [kind, len, ..] if usize::from(*len) >= 2 && usize::from(*len) <= bytes.len() => {
                let (option, rest) = bytes.split_at(usize::from(*len));
                found.push((*kind, option[2..].to_vec()));
                bytes = rest;
            }
            _ => return found,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toa_is_found_behind_other_options() {
        let mut bytes = vec![0; 12];
        bytes.extend([0x08, 0x00]);
        bytes.extend([0x45, 0, 0, 20 + 32, 0, 0, 0, 0, 64, 6, 0, 0, 10, 2, 0, 200, 10, 2, 0, 11]);
        bytes.extend([0x04, 0x00, 0, 80, 0, 0, 0, 5, 0, 0, 0, 6, 0x80, flag::ACK, 0, 0, 0, 0, 0, 0]);
        bytes.extend([1, 1, 254, 8, 0x30, 0x39, 10, 1, 0, 11, 0, 0]);
        let segment = Segment::parse(&Frame { time_ns: 0, bytes }).unwrap();
        assert_eq!(segment.from, "10.2.0.200:1024".parse().unwrap());
        assert_eq!(segment.toa(254), Some("10.1.0.11:12345".parse().unwrap()));
        assert_eq!(segment.toa(253), None);
        assert!(segment.has_flags(flag::ACK));
        assert_eq!(segment.payload_len, 0);
    }

    #[test]
    fn an_ipv6_client_is_found_in_a_segment_over_ipv6() {
        let mut bytes = vec![0; 12];
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20 + 20, 6, 64]);
        for last in [9, 11] {
            bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        bytes.extend([0x04, 0x00, 0, 80, 0, 0, 0, 5, 0, 0, 0, 6, 0xa0, flag::ACK, 0, 0, 0, 0, 0, 0]);
        bytes.extend([254, 20, 0x30, 0x39, 0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11]);
        let segment = Segment::parse(&Frame { time_ns: 0, bytes }).unwrap();
        assert_eq!(segment.from, "[2001:db8:2::9]:1024".parse().unwrap());
        assert_eq!(segment.to, "[2001:db8:2::b]:80".parse().unwrap());
        assert_eq!(segment.toa(254), Some("[2001:db8:1::b]:12345".parse().unwrap()));
    }

    #[test]
    fn broken_options_end_the_list() {
        assert_eq!(options(&[254, 1, 0, 0]), []);
        assert_eq!(options(&[2, 4, 5, 180, 254, 8, 1]), [(2, vec![5, 180])]);
    }
}
