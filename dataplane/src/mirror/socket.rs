//! A blocking rtnetlink socket: subscribe, dump, send.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily as SocketFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Why the mirror cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call failed.
    #[error("cannot {what}: {errno}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// The kernel refused a request.
    #[error("the kernel refused a netlink request: {0}")]
    Refused(io::Error),
    /// A dump that does not end.
    #[error("the kernel's answer to a netlink dump did not end in time")]
    NoEnd,
    /// No thread.
    #[error("cannot start the mirror's thread: {0}")]
    Thread(io::Error),
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::System { what, errno }
}

/// What a wait ended with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Messages, already handed to the callback.
    Messages,
    /// Nothing came in time.
    Nothing,
    /// The kernel had to drop events.
    Overrun,
}

/// What a subscription tells.
pub(crate) enum Event {
    /// An object of the kernel's, and the flags of its header.
    Object(RouteNetlinkMessage, u16),
    /// The next hop object of that number was made, changed or removed.
    NextHop(u32),
}

/// Multicast groups, as bits (RTMGRP_* of linux/rtnetlink.h): link, neighbour, addresses and routes of both families, next
/// hop objects (RTNLGRP_NEXTHOP, the 32nd).
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400 | 1 << 31;

/// Bytes that the kernel may keep for us before it drops events.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// Longest datagram; the kernel builds dumps in pieces of at most 32 KiB.
const DATAGRAM_LEN_MAX: usize = 64 << 10;

const NLMSG_HEADER_LEN: usize = 16;

const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;

/// Messages about next hop objects, with a header of 8 bytes before the attributes, of which the number is one
/// (linux/nexthop.h).
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const NHMSG_LEN: usize = 8;
const NHA_ID: u16 = 1;

/// The loopback, in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// How long the kernel may keep us waiting for an answer, or for the next piece of a dump.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    /// An overrun that [`Socket::has_more`] met; the kernel tells each only once.
    overrun: bool,
}

impl Socket {
    /// A socket that receives events, waiting for each at most `wait`.
    pub(crate) fn subscribe(wait: Duration) -> Result<Socket, Error> {
        Socket::open(GROUPS, wait)
    }

    /// A socket for requests.
    pub(crate) fn request() -> Result<Socket, Error> {
        Socket::open(0, Duration::from_secs(5))
    }

    fn open(groups: u32, wait: Duration) -> Result<Socket, Error> {
        let fd = socket::socket(
            SocketFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map_err(failed("open a netlink socket"))?;
        // Beyond the system's limit this needs CAP_NET_ADMIN, which the dataplane has; less only means more re-dumps.
        let _ = socket::setsockopt(&fd, socket::sockopt::RcvBufForce, &RECEIVE_BUFFER_LEN);
        let wait = TimeVal::milliseconds(wait.as_millis() as i64);
        socket::setsockopt(&fd, socket::sockopt::ReceiveTimeout, &wait)
            .map_err(failed("set a time-out on a netlink socket"))?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))
            .map_err(failed("subscribe to netlink events"))?;
        Ok(Socket { fd, buffer: vec![0; DATAGRAM_LEN_MAX], sequence: 0, overrun: false })
    }

    /// Waits for one datagram and hands what its messages tell to `on`.
    pub(crate) fn receive(&mut self, mut on: impl FnMut(Event)) -> Result<Received, Error> {
        if std::mem::take(&mut self.overrun) {
            return Ok(Received::Overrun);
        }
        let len = match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(len) => len,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
            Err(Errno::ENOBUFS) => return Ok(Received::Overrun),
            Err(errno) => return Err(Error::System { what: "receive from netlink", errno }),
        };
        for (header, body) in Messages(&self.buffer[..len]) {
            if let RTM_NEWNEXTHOP | RTM_DELNEXTHOP = header.message_type {
                next_hop_id(body).map(Event::NextHop).into_iter().for_each(&mut on);
            } else if let Some(message) = decode(&header, body) {
                on(Event::Object(message, header.flags));
            }
        }
        Ok(Received::Messages)
    }

    /// Whether another datagram, or word of an overrun, waits.
    pub(crate) fn has_more(&mut self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match socket::recv(self.fd.as_raw_fd(), &mut [0; 1], flags) {
            Ok(_) => true,
            Err(Errno::ENOBUFS) => {
                self.overrun = true;
                true
            }
            // Other errors come again when something is received.
            Err(_) => false,
        }
    }

    /// Asks for a dump and hands each object to `on`. An inconsistent dump (the table changed meanwhile) is no
    /// error: the change itself comes as an event.
    pub(crate) fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut on: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), Error> {
        let sequence = self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut deadline = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < deadline {
            let len = match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => len,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(errno) => return Err(Error::System { what: "receive a netlink dump", errno }),
            };
            deadline = Instant::now() + ANSWER_TIMEOUT;
            for (header, body) in Messages(&self.buffer[..len]) {
                if header.sequence_number != sequence {
                    continue;
                }
                match header.message_type {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return refusal(body),
                    _ => decode(&header, body).into_iter().for_each(&mut on),
                }
            }
        }
        Err(Error::NoEnd)
    }

    /// Sends a request and waits until the kernel has carried it out.
    pub(crate) fn request_and_wait(&mut self, request: RouteNetlinkMessage) -> Result<(), Error> {
        let sequence = self.send(request, NLM_F_REQUEST | netlink_packet_core::NLM_F_ACK)?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < deadline {
            match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => {
                    for (header, body) in Messages(&self.buffer[..len]) {
                        if header.sequence_number == sequence && header.message_type == NLMSG_ERROR {
                            return refusal(body);
                        }
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(Error::System { what: "receive from netlink", errno }),
            }
        }
        Err(Error::NoEnd)
    }

    /// Waits until the kernel is through with all changes that it has told the beginning of. It changes links, addresses
    /// and what depends on them under one lock, which any request to change a link must wait for, also one that changes
    /// nothing.
    pub(crate) fn wait_for_changes(&mut self) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = LOOPBACK_INDEX;
        match self.request_and_wait(RouteNetlinkMessage::SetLink(message)) {
            // It has had its turn all the same.
            Err(Error::Refused(_)) => Ok(()),
            result => result,
        }
    }

    /// Sends a request; returns its sequence number.
    pub(crate) fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<u32, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket::send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(failed("send to netlink"))?;
        Ok(self.sequence)
    }

    /// Throws away what has come, without waiting.
    pub(crate) fn discard_answers(&mut self) {
        self.overrun = false;
        // An overrun is told once more on the way.
        while matches!(
            socket::recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT),
            Ok(_) | Err(Errno::ENOBUFS)
        ) {}
    }
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (NetlinkHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let field16 = |at: usize| Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?));
        let field32 = |at: usize| Some(u32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?));
        let len = field32(0)? as usize;
        let mut header = NetlinkHeader::default();
        header.length = len as u32;
        header.message_type = field16(4)?;
        header.flags = field16(6)?;
        header.sequence_number = field32(8)?;
        let body = self.0.get(NLMSG_HEADER_LEN..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((header, body))
    }
}

/// A message that we cannot read (the kernel may be newer than this program) is skipped, not fatal.
fn decode(header: &NetlinkHeader, body: &[u8]) -> Option<RouteNetlinkMessage> {
    if header.message_type <= NLMSG_DONE {
        return None;
    }
    match RouteNetlinkMessage::deserialize(header, body) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::debug!("netlink message of type {} skipped: {error}", header.message_type);
            None
        }
    }
}

/// The number in a message about a next hop object.
fn next_hop_id(body: &[u8]) -> Option<u32> {
    let mut attributes = body.get(NHMSG_LEN..)?;
    while let Some(&[len, len_, kind, kind_]) = attributes.first_chunk::<4>() {
        let len = usize::from(u16::from_ne_bytes([len, len_]));
        if u16::from_ne_bytes([kind, kind_]) == NHA_ID {
            return attributes.get(4..8)?.try_into().ok().map(u32::from_ne_bytes);
        }
        // Four at least: an attribute that takes no room would be looked at for ever.
        attributes = attributes.get(len.next_multiple_of(4).max(4)..)?;
    }
    None
}

/// The result in an NLMSG_ERROR: 0 is an acknowledgement.
fn refusal(body: &[u8]) -> Result<(), Error> {
    match body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(Error::Refused(io::Error::from_raw_os_error(-code))),
        None => Err(Error::Refused(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// All links, which the rest refers to.
pub(crate) fn links_request() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Everything else that the mirror wants to know.
pub(crate) fn dump_requests() -> Vec<RouteNetlinkMessage> {
    let route = |family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        RouteNetlinkMessage::GetRoute(message)
    };
    let neighbour = |family| {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        RouteNetlinkMessage::GetNeighbour(message)
    };
    vec![
        route(AddressFamily::Inet),
        route(AddressFamily::Inet6),
        neighbour(AddressFamily::Inet),
        neighbour(AddressFamily::Inet6),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_of_the_links_finds_the_loopback() {
        let mut socket = Socket::request().unwrap();
        let mut links = Vec::new();
        socket
            .dump(links_request(), |message| {
                if let RouteNetlinkMessage::NewLink(link) = message {
                    links.push(link.header.index);
                }
            })
            .unwrap();
        assert!(links.contains(&1), "{links:?}");
    }

    #[test]
    fn an_overrun_seen_while_looking_ahead_is_still_told() {
        let mut socket = Socket::subscribe(Duration::from_millis(1)).unwrap();
        socket.overrun = true;
        assert_eq!(socket.receive(|_| {}).unwrap(), Received::Overrun);
    }

    #[test]
    fn the_number_of_a_next_hop_object_is_found_behind_other_attributes_and_never_in_a_cut_message() {
        let number = [8, 0, NHA_ID as u8, 0, 44, 1, 0, 0];
        let other = [5, 0, 9, 0, 7, 0, 0, 0];
        let message = [[0; NHMSG_LEN].as_slice(), &other, &number].concat();
        assert_eq!(next_hop_id(&message), Some(300));
        for len in 0..message.len() {
            assert_eq!(next_hop_id(&message[..len]), None, "{len} bytes");
        }
        assert_eq!(next_hop_id(&[0; 64]), None);
    }

    #[test]
    fn refusals_carry_the_kernels_reason_and_acknowledgements_none() {
        assert!(refusal(&0i32.to_ne_bytes()).is_ok());
        let error = refusal(&(-(Errno::ENODEV as i32)).to_ne_bytes()).unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");
        assert!(refusal(&[1, 2]).is_err());
    }
}
