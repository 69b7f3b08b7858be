//! What holds for every frame that leaves, whatever the case says: a second opinion, taken from the bytes.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use wire::{checksum, ipv4};

use crate::case::{Case, Step};
use crate::frame::{CLIENT_MAC, Conn, Frame, LAN_MAC, Port, REAL_MAC, WAN_MAC};
use crate::run::ports_of;

/// The kinds of options that a real server might take for the client's address.
const TOA_KINDS: [u8; 6] = [254, 253, 252, 250, 249, 200];

pub(crate) fn check(frame: &Frame, step: &Step, conns: &[Conn], case: &Case) -> Result<()> {
    let bytes = &frame.bytes;
    let macs = match frame.port {
        Port::Wan => [CLIENT_MAC.0, WAN_MAC.0],
        Port::Lan => [REAL_MAC.0, LAN_MAC.0],
    };
    ensure!(bytes[..12] == macs.concat() && bytes[12..14] == [8, 0], "Ethernet header {:02x?}", &bytes[..14]);
    let ip_end = 14 + usize::from(bytes[14] & 0x0f) * 4;
    let end = 14 + usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    ensure!(end <= bytes.len(), "the IP packet ends behind the frame");
    // What came in broken must leave broken; then the case alone says how.
    let all_intact = step.input.iter().all(|frame| is_intact(&frame.bytes));
    ensure!(!all_intact || is_intact(bytes), "a checksum is wrong");
    if bytes[23] != ipv4::PROTO_TCP {
        return Ok(());
    }
    let at =
        |offset: usize| Ipv4Addr::new(bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]);
    let port = |offset: usize| u16::from_be_bytes([bytes[offset], bytes[offset + 1]]);
    let ends = [(at(26), port(ip_end)), (at(30), port(ip_end + 2))];
    let conn = conns.iter().find(|conn| ports_of(conn, frame.port) == ends);
    ensure!(conn.is_some(), "{ends:?} are the endpoints of no connection");
    let options = &bytes[ip_end + 20..ip_end + usize::from(bytes[ip_end + 12] >> 4) * 4];
    if let (Port::Lan, Some(kind), Some(conn)) = (frame.port, case.service.toa, conn) {
        check_toa(options, kind, conn)?;
    }
    Ok(())
}

/// Nothing but the true address, and that at the very front.
fn check_toa(options: &[u8], kind: u8, conn: &Conn) -> Result<()> {
    let mut offset = 0;
    while let Some(&found) = options.get(offset) {
        let len = match (found, options.get(offset + 1)) {
            (0, _) => break,
            (1, _) => 1,
            // From here on no receiver reads.
            (_, None | Some(0 | 1)) => break,
            (_, Some(len)) => usize::from(*len),
        };
        let Some(option) = options.get(offset..offset + len) else { break };
        if TOA_KINDS.contains(&found) {
            ensure!(offset == 0 && option == conn.toa(kind), "{option:02x?} at {offset} tells an address");
        }
        offset += len;
    }
    Ok(())
}

/// Whether the checksums of a frame with IPv4 in it are right.
fn is_intact(bytes: &[u8]) -> bool {
    let Some(first) = bytes.get(14) else { return false };
    let ip_end = 14 + usize::from(first & 0x0f) * 4;
    let (Some(header), Some(total_len)) = (bytes.get(14..ip_end), bytes.get(16..18)) else { return false };
    let end = 14 + usize::from(u16::from_be_bytes([total_len[0], total_len[1]]));
    let Some(payload) = bytes.get(ip_end..end) else { return false };
    let address =
        |at: usize| ipv4::addr(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]));
    let upper = match bytes[23] {
        ipv4::PROTO_TCP => checksum::verify_tcp_v4(address(26), address(30), payload),
        _ => checksum::internet(payload).get() == 0,
    };
    upper && checksum::verify_ipv4(header)
}
