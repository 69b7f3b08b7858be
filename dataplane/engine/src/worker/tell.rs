//! UOA: telling the real server of a UDP flow who the client is, and keeping clients from telling it themselves.
//!
//! The first datagrams of a flow carry the address, so many as the service says, whether they are answered or not: an answer
//! proves less than in TCP, since it may be one to the flow that had the local port before.

use wire::{PacketBuf, ethernet, ipv4, uoa};

use super::Worker;
use super::forward::Refused;
use crate::conn::{Direction, flag};
use crate::counters::Counter;
use crate::parse::{Piece, Segment};
use crate::table::Found;
use crate::translate::client_address;
use crate::verdict::DropReason;

impl Worker {
    /// Puts the client's address into one of the first datagrams of a flow, which is as it leaves otherwise. One that goes
    /// without does not count as one of them.
    #[inline(never)]
    pub(super) fn tell_flow<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        segment: &Segment,
        found: Found,
        mtu: u16,
    ) -> Result<(), Refused> {
        let event = self.put_uoa(packet, segment, found, mtu);
        self.counters.event(event).add(1);
        let conn = &mut self.table.conns[found.conn as usize];
        if event == Counter::UoaInserted {
            conn.uoa_left = conn.uoa_left.saturating_sub(1);
            if conn.uoa_left == 0 {
                conn.flags &= !flag::TOA_PENDING;
            }
        } else if conn.toa_form.must {
            return Err(Refused::Drop(DropReason::ClientUntold));
        }
        Ok(())
    }

    fn put_uoa<P: PacketBuf>(&self, packet: &mut P, segment: &Segment, found: Found, mtu: u16) -> Counter {
        let conn = &self.table.conns[found.conn as usize];
        // A receiver wants address and ports in one packet.
        if segment.piece != Piece::Whole {
            return Counter::UoaNoRoom;
        }
        let len = packet.data().len() - ethernet::HEADER_LEN + client_address::uoa_len(conn);
        // What must carry it was found to fit, or is cut behind.
        if len > mtu.into() && !conn.toa_form.must {
            return Counter::UoaOverMtu;
        }
        let client = self.table.tuple(conn, Direction::Inbound).src;
        match client_address::insert_uoa(packet, conn, client) {
            Some(()) => Counter::UoaInserted,
            None => Counter::UoaNoRoom,
        }
    }

    /// What a client says of its own address in IPv4 options must not reach a real server.
    #[inline(always)]
    pub(super) fn strip_uoa<P: PacketBuf>(&self, packet: &mut P, segment: &Segment, found: Found) {
        let bare = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
        if segment.is_udp()
            && !segment.wide
            && usize::from(segment.l4) > bare
            && found.direction == Direction::Inbound
            && self.table.conns[found.conn as usize].toa_kind != 0
        {
            self.strip_ip_options(packet, segment);
        }
    }

    #[cold]
    fn strip_ip_options<P: PacketBuf>(&self, packet: &mut P, segment: &Segment) {
        let header = packet.data_mut().get_mut(ethernet::HEADER_LEN..segment.l4.into());
        if header.is_some_and(|header| uoa::strip(header).count > 0) {
            self.counters.event(Counter::UoaStripped).add(1);
        }
    }
}
