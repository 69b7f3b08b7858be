//! Deliberate faults between engine and link, to prove that the simulator notices.

use std::net::IpAddr;

use engine::Verdict;

use crate::fragments::{finish_header, piece_of};
use crate::packet::{ACK, ETH_LEN, Place, RST, SYN, TCP, finish_checksums, parse, toa_option, told};

/// What is done to packets that the engine forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The TCP checksum is off by one.
    WrongChecksum,
    /// The TTL is kept.
    KeptTtl,
    /// Services have no PROXY protocol though real servers expect it.
    NoPreface,
    /// The TOA option is overwritten with NOPs, checksums right.
    DroppedToa,
    /// The TOA option tells another port.
    WrongToa,
    /// A second TOA option stands behind the first: a forged one got through.
    LeakedToa,
    /// Inbound segments go out with a neighbouring local port.
    SwappedPort,
    /// The real server sees the client's address.
    KeptClient,
    /// Replies reach another client's port.
    SwappedClient,
    /// A byte of payload is another, checksums right.
    WrongPayload,
    /// The corruption that came in is covered up.
    HealedChecksum,
    /// RST segments come out of the blue: every 40th inbound ACK becomes one.
    StrayRst,
    /// The last byte of later fragments is another.
    WrongFragment,
    /// The transport checksum in first fragments is off.
    WrongFragmentChecksum,
    /// UOA is taken out, checksums right.
    DroppedUoa,
    /// UOA tells another port.
    WrongUoa,
    /// What a client said of its address stands in the IP options again.
    LeakedUoa,
}

impl Fault {
    pub(crate) fn strike(self, before: &[u8], verdict: Verdict, after: &mut Vec<u8>) {
        if self == Fault::None || !matches!(verdict, Verdict::Forward(_)) {
            return;
        }
        if let Some(piece) = after.get(ETH_LEN..).and_then(piece_of) {
            let (start, end) = (after.len() - piece.payload.len(), after.len());
            let checksum_at = start + if piece.key.2 == TCP { 16 } else { 6 };
            match self {
                Fault::WrongFragment if piece.start > 0 => after[end - 1] ^= 0x40,
                Fault::WrongFragmentChecksum if piece.start == 0 => after[checksum_at] ^= 0x40,
                _ => {}
            }
            return;
        }
        self.strike_uoa(before, after);
        let (Some(input), Some(output)) = (parse(before), parse(after)) else { return };
        let both_replaced = input.src.ip() != output.src.ip() && input.dst.ip() != output.dst.ip();
        let (IpAddr::V4(client), IpAddr::V4(to)) = (input.src.ip(), input.dst.ip()) else { return };
        // What is done here is done to TCP over IPv4 in FULLNAT.
        if !both_replaced || output.src.is_ipv6() || !input.is_tcp() || !output.is_tcp() {
            return;
        }
        let inbound = to.octets()[0] == 198;
        let header_len = ETH_LEN + 20 + output.ip_options.len();
        let payload_at = header_len + 20 + output.options.len();
        let payload_len = output.payload.len();
        let has_toa = inbound && output.options.first().is_some_and(|kind| *kind >= 200);
        let (seq, flags, bad) = (output.seq, output.flags, !output.l4_checksum_ok);
        let client = client.octets();
        let forged = toa_option(254, "192.0.2.99:99".parse().unwrap());
        let mut resum = true;
        match self {
            Fault::WrongChecksum => {
                after[header_len + 17] ^= 1;
                resum = false;
            }
            Fault::KeptTtl => after[ETH_LEN + 8] += 1,
            Fault::DroppedToa if has_toa => after[header_len + 20..header_len + 28].fill(1),
            Fault::WrongToa if has_toa => after[header_len + 23] ^= 1,
            Fault::LeakedToa if has_toa && payload_at >= header_len + 36 => {
                after[header_len + 28..header_len + 36].copy_from_slice(&forged);
            }
            Fault::SwappedPort if inbound && flags & SYN == 0 => after[header_len + 1] ^= 1,
            Fault::KeptClient if inbound => after[ETH_LEN + 12..ETH_LEN + 16].copy_from_slice(&client),
            Fault::SwappedClient if !inbound => after[header_len + 3] ^= 1,
            Fault::WrongPayload if payload_len > 0 => after[payload_at] ^= 0x40,
            Fault::HealedChecksum if bad => {}
            Fault::StrayRst if inbound && flags & (SYN | RST) == 0 && flags & ACK != 0 && seq % 40 == 0 => {
                after[header_len + 13] |= RST;
            }
            _ => resum = false,
        }
        if resum {
            finish_checksums(&mut after[ETH_LEN..]);
        }
    }

    /// In datagrams towards real servers.
    fn strike_uoa(self, before: &[u8], after: &mut Vec<u8>) {
        let ip = after.get_mut(ETH_LEN..).unwrap_or_default();
        let header_len = usize::from(ip.first().map_or(0, |byte| byte & 15)) * 4;
        let told = told(ip);
        let place = told.as_ref().map(|told| told.place);
        let forged = parse(before).filter(|input| !input.is_tcp() && !input.ip_options.is_empty());
        match (self, place) {
            (Fault::DroppedUoa, Some(_)) => {
                after.truncate(ETH_LEN);
                after.extend(told.map_or(Vec::new(), |told| told.bare));
                return;
            }
            (Fault::WrongUoa, Some(Place::Option)) => ip[23] ^= 1,
            (Fault::WrongUoa, Some(Place::Header)) => {
                let port_at = if ip[0] >> 4 == 6 { 40 } else { header_len } + 7;
                ip[port_at] ^= 1;
                return;
            }
            (Fault::LeakedUoa, None) => {
                let Some(input) = forged.filter(|input| 20 + input.ip_options.len() == header_len) else {
                    return;
                };
                ip[20..header_len].copy_from_slice(input.ip_options);
            }
            _ => return,
        }
        finish_header(ip, header_len);
    }
}
