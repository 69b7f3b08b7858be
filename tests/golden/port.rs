//! The gateway's two ports and frames at them, for all tests that drive the whole program on net_pcap.

use wire::MacAddr;

/// What net_pcap calls the first and the second port of a process.
pub(crate) const WAN_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x00]);
pub(crate) const LAN_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x01]);
/// All clients are behind one station.
pub(crate) const CLIENT_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 1, 0x11]);

/// A port of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Port {
    Wan,
    Lan,
}

impl Port {
    pub(crate) const ALL: [Port; 2] = [Port::Wan, Port::Lan];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Port::Wan => "wan",
            Port::Lan => "lan",
        }
    }

    /// Its own hardware address.
    pub(crate) fn mac(self) -> MacAddr {
        match self {
            Port::Wan => WAN_MAC,
            Port::Lan => LAN_MAC,
        }
    }
}

/// A frame at a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame {
    pub(crate) port: Port,
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    /// Whether it is for one station that is not the gateway; the lowest bit of the first byte marks groups.
    pub(crate) fn is_for_another_station(&self) -> bool {
        let header = self.bytes.get(..14);
        header.is_some_and(|header| header[0] & 1 == 0 && header[..6] != self.port.mac().0)
    }
}
