//! Who owns a packet: one pure function of its headers.
//!
//! A connection's owner is the worker that its client's packets hash to. It picks local ports of its own share, so
//! that the replies, which know nothing of the client, tell their owner by their destination port.

use crate::hash::{Key, Secret, reduce};
use crate::ids::WorkerId;

/// The owner of replies to a local port (host order).
#[inline(always)]
pub fn owner_of_local_port(port: u16, workers: u16) -> WorkerId {
    WorkerId(port % workers.max(1))
}

/// The owner of packets from a client to a virtual service.
#[inline(always)]
pub(crate) fn owner_of_client(secret: Secret, key: Key, workers: u16) -> WorkerId {
    WorkerId(reduce((secret.hash(key) >> 16) as u32, workers.into()) as u16)
}
