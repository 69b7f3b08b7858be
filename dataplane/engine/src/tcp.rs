//! States of connections as IPVS has them: for TCP a table indexed [direction][flag class][state] (ip_vs_proto_tcp),
//! for UDP a single state; and their timeouts.
//!
//! The state only decides how long a connection is remembered and how it is counted; it never decides whether a
//! segment is forwarded. Two rules stand before the table (see `Worker`): a RST or FIN outside the window and an ACK
//! that does not acknowledge the SYN-ACK do not move the state (RFC 9293 §3.10.7.4, RFC 5961 §3).

use wire::tcp::flags;
use zerocopy::{Immutable, IntoBytes};

use crate::time::Ticks;

/// State of a connection, in IPVS's names. TCP's come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoBytes, Immutable)]
#[repr(u8)]
pub enum ConnState {
    /// Just created.
    None,
    /// Handshake done.
    Established,
    /// A SYN was seen from the real server's side only.
    SynSent,
    /// A SYN was seen from the client.
    SynRecv,
    /// The real server closed first.
    FinWait,
    /// Both closed, or the client closed after the real server.
    TimeWait,
    /// Reset.
    Close,
    /// The client closed first.
    CloseWait,
    /// The client closed first and the real server followed.
    LastAck,
    /// Not reached by forwarded connections; kept for the table's sake.
    Listen,
    /// Used by the SYN proxy and secure_tcp.
    SynAck,
    /// Every UDP connection.
    Udp,
}

use ConnState::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI, None as NO,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW, Udp,
};

impl ConnState {
    /// All states, in the table's order.
    pub const ALL: [ConnState; ConnState::COUNT] = [NO, ES, SS, SR, FW, TW, CL, CW, LA, LI, SA, Udp];
    /// How many there are.
    pub const COUNT: usize = 12;
    /// How many of them are TCP's; they are the first.
    pub const TCP_COUNT: usize = 11;

    /// The name that ipvsadm prints.
    pub fn name(self) -> &'static str {
        match self {
            NO => "NONE",
            ES => "ESTABLISHED",
            SS => "SYN_SENT",
            SR => "SYN_RECV",
            FW => "FIN_WAIT",
            TW => "TIME_WAIT",
            CL => "CLOSE",
            CW => "CLOSE_WAIT",
            LA => "LAST_ACK",
            LI => "LISTEN",
            SA => "SYNACK",
            Udp => "UDP",
        }
    }

    /// Whether IPVS counts it in ActiveConn.
    #[inline(always)]
    pub fn is_active(self) -> bool {
        matches!(self, ES | SS | SR | SA)
    }

    /// Whether the handshake is unfinished.
    #[inline(always)]
    pub fn is_embryonic(self) -> bool {
        matches!(self, NO | SS | SR | SA)
    }

    /// Whether a SYN with a new sequence number starts a new connection (IPVS conn_reuse_mode 1).
    #[inline(always)]
    pub fn may_be_reused(self) -> bool {
        matches!(self, TW | CL)
    }
}

/// What a segment's flags say; the first that is set counts, in this order (IPVS: rst > syn > fin > ack).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FlagClass {
    Syn,
    Fin,
    Ack,
    Rst,
    /// None of the four.
    Other,
}

impl FlagClass {
    #[inline(always)]
    pub(crate) fn of(flags: u8) -> FlagClass {
        if flags & flags::RST != 0 {
            FlagClass::Rst
        } else if flags & flags::SYN != 0 {
            FlagClass::Syn
        } else if flags & flags::FIN != 0 {
            FlagClass::Fin
        } else if flags & flags::ACK != 0 {
            FlagClass::Ack
        } else {
            FlagClass::Other
        }
    }
}

type Row = [ConnState; ConnState::TCP_COUNT];

/// [direction; one way last][flag class] → new state by old state.
const TABLE: [[Row; 5]; 3] = [
    // Inbound: IPVS INPUT.
    [
        //  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        // SYN: a new handshake; in an open connection it is a stray, the real server answers it.
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        // FIN: the client closes; if the real server closed before, that was the last.
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
        // ACK: ends the handshake; acknowledges the real server's FIN in LAST_ACK.
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        // RST: over, but in SYN_RECV it may be forged cheaply and is left to the short timeout.
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
        // No flag at all: IPVS sends it to CLOSE; such segments are dropped before they come here.
        [CL; ConnState::TCP_COUNT],
    ],
    // Outbound: IPVS OUTPUT.
    [
        //  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        // SYN: the SYN-ACK leaves SYN_RECV as it is until the client acknowledges.
        [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
        // FIN: the real server closes; in CLOSE_WAIT the client had closed before.
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        // ACK: nothing new, except from states that had seen less.
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        // RST: over.
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
        [CL; ConnState::TCP_COUNT],
    ],
    // One way: IPVS INPUT-ONLY. What the real server answers is not seen, so the client's segments alone tell.
    [
        //  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        // SYN: as inbound.
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        // FIN: the client closes; the real server may still send, so ESTABLISHED goes to FIN_WAIT.
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        // ACK: as inbound.
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        // RST: as inbound.
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
        [CL; ConnState::TCP_COUNT],
    ],
];

/// What of a connection is seen: the row of the state table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Seen {
    Inbound = 0,
    Outbound = 1,
    InboundOnly = 2,
}

/// The state after a segment.
#[inline(always)]
pub(crate) fn next(seen: Seen, class: FlagClass, state: ConnState) -> ConnState {
    let row = &TABLE[seen as usize][class as usize];
    row.get(state as usize).copied().unwrap_or(state)
}

/// How long a silent connection is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// By [`ConnState`].
    pub states: [Ticks; ConnState::COUNT],
}

impl Timeouts {
    /// The timeout of a state.
    #[inline(always)]
    pub fn of(&self, state: ConnState) -> Ticks {
        self.states[state as usize]
    }

    /// With another timeout for one state.
    #[must_use]
    pub fn with(mut self, state: ConnState, timeout: Ticks) -> Timeouts {
        self.states[state as usize] = timeout;
        self
    }
}

impl Default for Timeouts {
    /// IPVS's: NONE 2, ESTABLISHED 900, SYN_SENT 120, SYN_RECV 60, FIN_WAIT 120, TIME_WAIT 120, CLOSE 10,
    /// CLOSE_WAIT 60, LAST_ACK 30, LISTEN 120, SYNACK 120, UDP 300 seconds.
    fn default() -> Self {
        Timeouts { states: [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300].map(Ticks::from_secs) }
    }
}

/// Whether `seq` lies in the receiver's window: at most `window` ahead of what it acknowledged, and not behind.
#[inline]
pub(crate) fn in_window(seq: u32, acked: u32, window: u32) -> bool {
    seq.wrapping_sub(acked) <= window
}

/// Whether sequence number `a` is later than `b` (RFC 9293 §3.4).
#[inline(always)]
pub(crate) fn later(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(steps: &[(Seen, u8)]) -> ConnState {
        steps.iter().fold(NO, |state, (seen, flags)| next(*seen, FlagClass::of(*flags), state))
    }

    const IN: Seen = Seen::Inbound;
    const OUT: Seen = Seen::Outbound;
    const ONLY: Seen = Seen::InboundOnly;
    const SYN_ACK: u8 = flags::SYN | flags::ACK;
    const FIN_ACK: u8 = flags::FIN | flags::ACK;

    #[test]
    fn a_handshake_ends_in_established() {
        assert_eq!(walk(&[(IN, flags::SYN)]), SR);
        assert_eq!(walk(&[(IN, flags::SYN), (OUT, SYN_ACK)]), SR);
        assert_eq!(walk(&[(IN, flags::SYN), (OUT, SYN_ACK), (IN, flags::ACK)]), ES);
    }

    #[test]
    fn a_close_by_the_client_goes_through_close_wait_to_time_wait() {
        let open = [(IN, flags::SYN), (OUT, SYN_ACK), (IN, flags::ACK)];
        let closing = [open.as_slice(), &[(IN, FIN_ACK)]].concat();
        assert_eq!(walk(&closing), CW);
        assert_eq!(walk(&[closing.as_slice(), &[(OUT, FIN_ACK)]].concat()), TW);
    }

    #[test]
    fn a_close_by_the_real_server_goes_through_fin_wait_to_time_wait() {
        let open = [(IN, flags::SYN), (OUT, SYN_ACK), (IN, flags::ACK)];
        let closing = [open.as_slice(), &[(OUT, FIN_ACK)]].concat();
        assert_eq!(walk(&closing), FW);
        assert_eq!(walk(&[closing.as_slice(), &[(IN, FIN_ACK)]].concat()), TW);
    }

    #[test]
    fn one_way_a_close_by_the_client_goes_through_fin_wait() {
        let open = [(ONLY, flags::SYN), (ONLY, flags::ACK)];
        assert_eq!(walk(&open), ES);
        let closing = [open.as_slice(), &[(ONLY, FIN_ACK)]].concat();
        assert_eq!(walk(&closing), FW);
        assert_eq!(walk(&[closing.as_slice(), &[(ONLY, flags::ACK)]].concat()), FW);
    }

    #[test]
    fn rst_outranks_every_other_flag() {
        assert_eq!(FlagClass::of(0xff), FlagClass::Rst);
        assert_eq!(FlagClass::of(SYN_ACK), FlagClass::Syn);
        assert_eq!(FlagClass::of(flags::PSH), FlagClass::Other);
    }

    #[test]
    fn the_window_test_holds_across_the_wrap() {
        assert!(in_window(5, u32::MAX - 5, 100));
        assert!(!in_window(u32::MAX - 6, u32::MAX - 5, 100));
        assert!(later(3, u32::MAX));
    }
}
