//! What connections carry: a plan per connection, and bytes that tell which connection and place they belong to.

use std::net::SocketAddr;

use engine::Spec;
use engine::plan::ServiceSpec;

use crate::packet::UDP;
use crate::preface::Preface;
use crate::rng::{Rng, mix};
use crate::topology::REFUSED_PORT;

/// Greeting of either side: magic, and who is speaking.
pub(crate) const HELLO_LEN: usize = 8;
const MAGIC: u32 = 0x746f_6c6c;

pub(crate) fn hello(id: u32) -> [u8; HELLO_LEN] {
    let mut bytes = [0; HELLO_LEN];
    bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[4..].copy_from_slice(&id.to_be_bytes());
    bytes
}

pub(crate) fn read_hello(bytes: &[u8]) -> Option<u32> {
    let (magic, id) = bytes.split_first_chunk::<4>()?;
    (u32::from_be_bytes(*magic) == MAGIC).then_some(u32::from_be_bytes(id.try_into().ok()?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The bytes at `pos` of the stream that `side` of connection `id` sends behind its greeting.
pub(crate) fn body(id: u32, side: Side, pos: usize, out: &mut [u8]) {
    let stream = u64::from(id) << 1 | u64::from(side == Side::Server);
    let word = |n: usize| mix(stream << 32 ^ (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
    let mut current = word(pos / 8);
    for (i, byte) in out.iter_mut().enumerate() {
        let at = pos + i;
        if at.is_multiple_of(8) {
            current = word(at / 8);
        }
        *byte = current[at % 8];
    }
}

/// How long the requests of a UDP plan are; part of a datagram's number, so that its reader knows it, too.
pub(crate) const SIZE_BITS: u32 = 0xc000_0000;
const SIZE_V4: u32 = 0x4000_0000;
const SIZE_V6: u32 = 0x8000_0000;
/// Greeting and number.
const DATAGRAM_LEN_MIN: usize = HELLO_LEN + 4;

/// Datagram `seq` of `side` of connection `id`: a greeting, the number, and bytes that belong there.
pub(crate) fn datagram(id: u32, side: Side, seq: u32) -> Vec<u8> {
    let number = mix(u64::from(id) << 33 ^ u64::from(seq) << 1 ^ u64::from(side == Side::Server)) as usize;
    // As long as a host's link takes (1472 bytes over IPv4, 1452 over IPv6), or little less; answers are never.
    let len = match seq & SIZE_BITS {
        SIZE_V4 if side == Side::Client => 1_472 - DATAGRAM_LEN_MIN - number % 40,
        SIZE_V6 if side == Side::Client => 1_452 - DATAGRAM_LEN_MIN - number % 40,
        _ => number % 1_300,
    };
    let mut bytes = hello(id).to_vec();
    bytes.extend(seq.to_be_bytes());
    let at = bytes.len();
    bytes.resize(at + len, 0);
    body(id, side, seq as usize * 2_048, &mut bytes[at..]);
    bytes
}

/// Connection and number of a datagram of `side`'s; `None` when nobody here sent it, an error when it is changed.
pub(crate) fn read_datagram(bytes: &[u8], side: Side) -> Result<Option<(u32, u32)>, String> {
    let Some((greeting, rest)) = bytes.split_at_checked(HELLO_LEN) else { return Ok(None) };
    let (Some(id), Some((seq, _))) = (read_hello(greeting), rest.split_first_chunk::<4>()) else {
        return Ok(None);
    };
    let seq = u32::from_be_bytes(*seq);
    if bytes != datagram(id, side, seq) {
        return Err(format!("connection {id}: datagram {seq} of {side:?} arrives with wrong bytes"));
    }
    Ok(Some((id, seq)))
}

/// When a side ends its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// As soon as everything is sent; goes on reading (half-close).
    AfterSending,
    /// When the other side has ended too.
    AfterReading,
}

/// What one connection shall do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) protocol: u8,
    pub(crate) virtual_: SocketAddr,
    pub(crate) client: usize,
    pub(crate) start_us: u64,
    /// Bytes behind the greetings.
    pub(crate) request_len: usize,
    pub(crate) response_len: usize,
    /// The server answers only when it has the whole request.
    pub(crate) in_turn: bool,
    pub(crate) client_close: Close,
    pub(crate) server_close: Close,
    /// A side resets the connection when it has sent and received so much together.
    pub(crate) client_abort: Option<usize>,
    pub(crate) server_abort: Option<usize>,
    /// A side takes at most so many bytes in 20 ms.
    pub(crate) slow_client: Option<usize>,
    pub(crate) slow_server: Option<usize>,
    /// The client waits that long before it says anything.
    pub(crate) silence_us: u64,
    /// Nobody listens there.
    pub(crate) refused: bool,
    pub(crate) timestamps: bool,
    /// UDP: requests that are sent, each when the one before is answered, and the pause before each.
    pub(crate) exchanges: u32,
    pub(crate) pause_us: u64,
    /// UDP: how long requests are at first, among [`SIZE_BITS`].
    pub(crate) size: u32,
}

impl Plan {
    pub(crate) fn of(rng: &mut Rng, virtuals: &[(u8, SocketAddr)], clients: usize) -> Plan {
        let (protocol, virtual_) = *rng.pick(virtuals);
        let size = |rng: &mut Rng| match rng.below(10) {
            0 => 0,
            1..=5 => rng.range(1, 1_500) as usize,
            6..=8 => rng.range(1_500, 9_000) as usize,
            _ => rng.range(9_000, 50_000) as usize,
        };
        let (request_len, response_len) = (size(rng), size(rng));
        let closes = [Close::AfterSending, Close::AfterReading];
        let client_close = *rng.pick(&closes);
        // If both waited for the other's end, nobody would begin.
        let server_close =
            if client_close == Close::AfterReading { Close::AfterSending } else { *rng.pick(&closes) };
        let total = (request_len + response_len + 2 * HELLO_LEN) as u64;
        let abort = |rng: &mut Rng| rng.chance(8_000).then(|| rng.below(total + 1) as usize);
        let slow = |rng: &mut Rng| rng.chance(6_000).then(|| rng.range(300, 3_000) as usize);
        let spread = *rng.pick(&[20_000, 1_000_000, 20_000_000]);
        let start_us = rng.below(spread);
        Plan {
            protocol,
            virtual_,
            client: rng.below(clients as u64) as usize,
            start_us,
            request_len,
            response_len,
            in_turn: rng.coin(),
            client_close,
            server_close,
            client_abort: abort(rng),
            server_abort: abort(rng),
            slow_client: slow(rng),
            slow_server: slow(rng),
            silence_us: if rng.chance(10_000) { rng.below(40_000_000) } else { 0 },
            refused: virtual_.port() == REFUSED_PORT,
            timestamps: rng.chance(30_000),
            exchanges: rng.range(1, 12) as u32,
            pause_us: *rng.pick(&[0, 1_000, 300_000, 5_000_000]),
            size: 0,
        }
    }

    /// A third of the plans whose datagrams tell their client have some as long as links take.
    pub(crate) fn sized(mut self, spec: &Spec) -> Plan {
        let mine = |s: &&ServiceSpec| (s.protocol, s.virtual_) == (self.protocol, self.virtual_);
        let tells = spec.services.iter().find(mine).is_some_and(|service| service.options.uoa.is_some());
        if tells && mix(self.start_us).is_multiple_of(3) {
            self.size = if self.virtual_.is_ipv6() { SIZE_V6 } else { SIZE_V4 };
        }
        self
    }

    pub(crate) fn may_abort(&self) -> bool {
        self.refused || (!self.is_udp() && (self.client_abort.is_some() || self.server_abort.is_some()))
    }

    pub(crate) fn is_udp(&self) -> bool {
        self.protocol == UDP
    }
}

/// How one side of a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum End {
    #[default]
    Open,
    /// Everything received, and the end of it.
    Whole,
    /// The socket was reset or gave up.
    Failed,
}

/// One side's sending and receiving, checked byte by byte.
#[derive(Debug)]
pub(crate) struct Pump {
    side: Side,
    /// The connection, once known: the client knows it, the server reads it from the greeting.
    pub(crate) conn: Option<u32>,
    /// What this side's greeting says.
    greeting: u32,
    pub(crate) sent: usize,
    received: usize,
    head: [u8; HELLO_LEN],
    /// What the other's greeting said.
    pub(crate) peer: Option<u32>,
    pub(crate) ended: bool,
    pub(crate) closed: bool,
    pub(crate) end: End,
    pub(crate) slow_until_us: u64,
    pub(crate) preface: Preface,
}

impl Pump {
    pub(crate) fn client(conn: u32) -> Pump {
        Pump { conn: Some(conn), ..Pump::new(Side::Client, conn) }
    }

    pub(crate) fn server(accepted: u32) -> Pump {
        Pump::new(Side::Server, accepted)
    }

    fn new(side: Side, greeting: u32) -> Pump {
        Pump {
            side,
            conn: None,
            greeting,
            sent: 0,
            received: 0,
            head: [0; HELLO_LEN],
            peer: None,
            ended: false,
            closed: false,
            end: End::Open,
            slow_until_us: 0,
            preface: Preface::None,
        }
    }

    /// Bytes sent and received together.
    pub(crate) fn moved(&self) -> usize {
        self.sent + self.received
    }

    /// All that this side may send now, from where it stands, into `out`; how much that is.
    pub(crate) fn produce(&self, plan: Option<&Plan>, out: &mut [u8]) -> usize {
        // Half of the real servers speak first, the others wait for the client.
        if self.side == Side::Server && self.conn.is_none() && self.greeting % 2 == 1 {
            return 0;
        }
        if self.sent < HELLO_LEN {
            let left = &hello(self.greeting)[self.sent..];
            let n = left.len().min(out.len());
            out[..n].copy_from_slice(&left[..n]);
            return n;
        }
        let (Some(plan), Some(conn)) = (plan, self.conn) else { return 0 };
        if self.side == Side::Server && plan.in_turn && self.received < HELLO_LEN + plan.request_len {
            return 0;
        }
        let pos = self.sent - HELLO_LEN;
        let n = (self.send_len(plan) - pos).min(out.len());
        body(conn, self.side, pos, &mut out[..n]);
        n
    }

    fn send_len(&self, plan: &Plan) -> usize {
        if self.side == Side::Client { plan.request_len } else { plan.response_len }
    }

    fn receive_len(&self, plan: &Plan) -> usize {
        if self.side == Side::Client { plan.response_len } else { plan.request_len }
    }

    pub(crate) fn all_sent(&self, plan: &Plan) -> bool {
        self.sent == HELLO_LEN + self.send_len(plan)
    }

    pub(crate) fn all_received(&self, plan: &Plan) -> bool {
        self.received == HELLO_LEN + self.receive_len(plan)
    }

    /// Takes received bytes and says what is wrong with them.
    pub(crate) fn take(&mut self, plans: &[Plan], bytes: &[u8]) -> Result<(), String> {
        let mut bytes = self.preface.take(bytes)?;
        while self.received < HELLO_LEN && !bytes.is_empty() {
            self.head[self.received] = bytes[0];
            self.received += 1;
            bytes = &bytes[1..];
            if self.received == HELLO_LEN {
                let Some(id) = read_hello(&self.head) else {
                    return Err(format!(
                        "{:?} got a greeting that nobody sends: {:02x?}",
                        self.side, self.head
                    ));
                };
                self.peer = Some(id);
                if self.side == Side::Server {
                    self.conn = Some(id);
                }
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let plan = self.conn.and_then(|conn| plans.get(conn as usize));
        let (Some(plan), Some(conn)) = (plan, self.conn) else {
            return Err(format!(
                "{:?} was greeted by a connection that does not exist: {:?}",
                self.side, self.peer
            ));
        };
        let pos = self.received - HELLO_LEN;
        if pos + bytes.len() > self.receive_len(plan) {
            return Err(format!(
                "connection {conn}: {:?} got more than the {} bytes sent",
                self.side,
                self.receive_len(plan)
            ));
        }
        let other = if self.side == Side::Client { Side::Server } else { Side::Client };
        let mut expected = vec![0; bytes.len()];
        body(conn, other, pos, &mut expected);
        if let Some(i) = expected.iter().zip(bytes).position(|(e, b)| e != b) {
            return Err(format!("connection {conn}: {:?} got wrong bytes at {}", self.side, pos + i));
        }
        self.received += bytes.len();
        Ok(())
    }

    /// The other side's end came.
    pub(crate) fn finish(&mut self, plans: &[Plan]) -> Result<(), String> {
        self.ended = true;
        let plan = self.conn.and_then(|conn| plans.get(conn as usize));
        if plan.is_some_and(|plan| self.all_received(plan)) {
            return Ok(());
        }
        Err(format!(
            "connection {:?}: {:?} got the end after {} bytes, too early",
            self.conn, self.side, self.received
        ))
    }
}
