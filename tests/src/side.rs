//! The network cards of a guest that is a gateway.

/// A card of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Towards clients.
    Wan,
    /// Towards real servers.
    Lan,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Wan, Side::Lan];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Side::Wan => "wan",
            Side::Lan => "lan",
        }
    }

    /// Where what comes in here leaves.
    pub fn other(self) -> Side {
        match self {
            Side::Wan => Side::Lan,
            Side::Lan => Side::Wan,
        }
    }

    /// Its hardware address; the same as net_pcap gives the first and the second port of a process, so that
    /// frames for a guest and for a dataplane on net_pcap ports are the same.
    pub fn mac(self) -> [u8; 6] {
        [0x02, 0x70, 0x63, 0x61, 0x70, self as u8]
    }

    /// That as it is written.
    pub(crate) fn mac_text(self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }
}
