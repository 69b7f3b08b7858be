//! Header views: Ethernet, ARP, IPv4, IPv6, TCP and its options, UDP, ICMP, ICMPv6, TOA, checksums.
#![forbid(unsafe_code)]

pub mod buf;

pub use buf::PacketBuf;
