//! TCP and UDP frames of either address family, of a given length.

use std::net::{IpAddr, SocketAddr};

use wire::build::{Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6};
use wire::{MacAddr, U16, U32, ethernet, ipv4, ipv6, tcp, udp};

/// Bytes of the FCS, which DPDK does not see.
pub(crate) const FCS_LEN: u32 = 4;

/// Where a frame comes from and where it goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    /// Source MAC address.
    pub(crate) from: MacAddr,
    /// Destination MAC address.
    pub(crate) to: MacAddr,
    /// Source; of the destination's address family.
    pub(crate) src: SocketAddr,
    /// Destination.
    pub(crate) dst: SocketAddr,
}

impl Ends {
    /// Payload that fills a frame of `bytes` on the wire, or none.
    fn payload(&self, bytes: u32, header_len: usize) -> Vec<u8> {
        let ip_len = if self.src.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        let headers = ethernet::HEADER_LEN + ip_len + header_len;
        vec![b'x'; ((bytes - FCS_LEN) as usize).saturating_sub(headers)]
    }

    /// A TCP segment; a SYN has no payload.
    pub(crate) fn tcp(&self, flags: u8, (seq, ack): (u32, u32), bytes: u32) -> Vec<u8> {
        let is_syn = flags & tcp::flags::SYN != 0;
        let frame = TcpFrame {
            eth_dst: self.to,
            eth_src: self.from,
            src_port: U16::new(self.src.port()),
            dst_port: U16::new(self.dst.port()),
            seq: U32::new(seq),
            ack: U32::new(ack),
            flags,
            payload: if is_syn { Vec::new() } else { self.payload(bytes, tcp::HEADER_LEN) },
            pad: true,
            ..TcpFrame::default()
        };
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                TcpFrame { src: ipv4::addr(src), dst: ipv4::addr(dst), ..frame }.to_vec()
            }
            (src, dst) => {
                TcpFrame6 { src: octets(src), dst: octets(dst), tcp: frame, ..TcpFrame6::default() }.to_vec()
            }
        }
    }

    /// A UDP datagram.
    pub(crate) fn udp(&self, bytes: u32) -> Vec<u8> {
        let (src_port, dst_port) = (U16::new(self.src.port()), U16::new(self.dst.port()));
        let payload = self.payload(bytes, udp::HEADER_LEN);
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ip = Ipv4Base {
                    eth_dst: self.to,
                    eth_src: self.from,
                    src: ipv4::addr(src),
                    dst: ipv4::addr(dst),
                    ..Ipv4Base::default()
                };
                UdpFrame { ip, src_port, dst_port, payload, pad: true, ..UdpFrame::default() }.to_vec()
            }
            (src, dst) => {
                let ip = Ipv6Base {
                    eth_dst: self.to,
                    eth_src: self.from,
                    src: octets(src),
                    dst: octets(dst),
                    ..Ipv6Base::default()
                };
                UdpFrame6 { ip, src_port, dst_port, payload, ..UdpFrame6::default() }.to_vec()
            }
        }
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_length_that_was_asked_for() {
        for (src, dst, tcp_min, udp_min) in
            [("10.0.0.1:1", "10.0.0.2:2", 64, 64), ("[2001:db8::1]:1", "[2001:db8::2]:2", 78, 66)]
        {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let ends = Ends { from: MacAddr::ZERO, to: MacAddr::ZERO, src, dst };
            for bytes in [tcp_min, 1400] {
                assert_eq!(ends.tcp(tcp::flags::ACK, (1, 1), bytes).len() as u32 + FCS_LEN, bytes);
            }
            for bytes in [udp_min, 1400] {
                assert_eq!(ends.udp(bytes).len() as u32 + FCS_LEN, bytes);
            }
        }
    }
}
