//! The packets of one connection.

use std::net::{IpAddr, SocketAddr};

use wire::tcp::flags::{ACK, FIN, RST, SYN};

use crate::case::{Mode, Service};
use crate::frame::{Frame, Packet, tcp, udp};

const CLIENT_ISN: u32 = 1_000;
const REAL_ISN: u32 = 500_000;

/// A client, a service, and the real server that the client comes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    pub(super) client: SocketAddr,
    pub(super) virtual_: SocketAddr,
    pub(super) real: SocketAddr,
    /// Which real server.
    pub(super) n: u8,
}

impl Flow {
    /// To the first real server of a service, from this port.
    pub(super) fn new(service: &Service, client: IpAddr, port: u16) -> Flow {
        let real = service.reals.first().map_or(service.virtual_, |real| real.real);
        Flow { client: SocketAddr::new(client, port), virtual_: service.virtual_, real, n: 1 }
    }

    /// To another real server.
    pub(super) fn to(self, service: &Service, n: u8) -> Flow {
        Flow { real: service.reals[usize::from(n) - 1].real, n, ..self }
    }

    pub(super) fn syn(&self) -> Packet {
        tcp(self.client, self.virtual_, SYN, CLIENT_ISN, 0).options(&[2, 4, 0x05, 0xb4])
    }

    /// From the client, who has sent and received so much.
    pub(super) fn client_ack(&self, sent: u32, received: u32) -> Packet {
        tcp(self.client, self.virtual_, ACK, CLIENT_ISN + 1 + sent, REAL_ISN + 1 + received)
    }

    pub(super) fn client_fin(&self, sent: u32, received: u32) -> Packet {
        tcp(self.client, self.virtual_, FIN | ACK, CLIENT_ISN + 1 + sent, REAL_ISN + 1 + received)
    }

    pub(super) fn client_rst(&self, sent: u32) -> Packet {
        tcp(self.client, self.virtual_, RST, CLIENT_ISN + 1 + sent, 0)
    }

    pub(super) fn syn_ack(&self) -> Packet {
        tcp(self.real, self.client, SYN | ACK, REAL_ISN, CLIENT_ISN + 1).options(&[2, 4, 0x05, 0xb4])
    }

    pub(super) fn real_ack(&self, sent: u32, received: u32) -> Packet {
        tcp(self.real, self.client, ACK, REAL_ISN + 1 + sent, CLIENT_ISN + 1 + received)
    }

    pub(super) fn real_fin(&self, sent: u32, received: u32) -> Packet {
        tcp(self.real, self.client, FIN | ACK, REAL_ISN + 1 + sent, CLIENT_ISN + 1 + received)
    }

    pub(super) fn real_rst(&self, sent: u32, received: u32) -> Packet {
        tcp(self.real, self.client, RST | ACK, REAL_ISN + 1 + sent, CLIENT_ISN + 1 + received)
    }

    pub(super) fn client_udp(&self) -> Packet {
        udp(self.client, self.virtual_)
    }

    pub(super) fn real_udp(&self) -> Packet {
        udp(self.real, self.client)
    }

    /// What a client's packet is when it has reached a real server that is reached by NAT.
    pub(super) fn translated(&self, packet: &Packet) -> Packet {
        Packet { dst: self.real, ..packet.clone() }
    }

    /// What a real server's packet is when it has reached the client.
    pub(super) fn translated_back(&self, packet: &Packet) -> Packet {
        Packet { src: self.virtual_, ..packet.clone() }
    }

    /// A whole handshake, as far as it comes by the gateway.
    pub(super) fn handshake(&self, mode: Mode) -> Vec<Packet> {
        let mut packets = vec![self.syn(), self.client_ack(0, 0)];
        if mode == Mode::Nat {
            packets.insert(1, self.syn_ack());
        }
        packets
    }

    /// As their senders send them.
    pub(super) fn frames<'a>(&self, packets: impl IntoIterator<Item = &'a Packet>) -> Vec<Frame> {
        let frame = |packet: &Packet| {
            if packet.dst == self.virtual_ { packet.by_client() } else { packet.by_real(self.n) }
        };
        packets.into_iter().map(frame).collect()
    }

    /// As a client sends it.
    pub(super) fn inbound(&self, packet: &Packet) -> [Frame; 1] {
        [packet.by_client()]
    }

    /// As the real server sends it.
    pub(super) fn outbound(&self, packet: &Packet) -> [Frame; 1] {
        [packet.by_real(self.n)]
    }
}
