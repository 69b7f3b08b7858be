//! Who owns a packet: one pure function of its headers.
//!
//! In software a connection's owner is the worker that its client's endpoint hashes to. In FULLNAT it picks
//! local ports of its own share, so that the replies, which know nothing of the client, tell their owner by
//! their destination port. In NAT the replies are addressed to the client, so the same hash finds the owner.
//! Nothing else is asked, in particular no configuration but which addresses are local or virtual ones.
//!
//! Where NICs take flow rules, local addresses are dealt to the workers (`crate::deal`): replies tell their owner
//! by their destination address, and a rule brings them to its queue. Clients' packets are owned as in software.
//!
//! With a NIC whose hash is known ([`Rss`]), the owner is whoever the NIC gives a client's packets to, and
//! local ports are picked so that it gives the replies to the same one. Only replies in NAT name neither a
//! local nor a virtual address. So packets to a virtual address that has real servers in NAT ([`Snapshot`]:
//! `by_client`), and packets to none of our addresses, are owned as in software.

use crate::addr::Tuple;
use crate::hash::{Key, Secret, halves32, halves64, reduce};
use crate::ids::WorkerId;
use crate::rss::Rss;
use crate::snapshot::Snapshot;

/// The owner of replies to a local port (host order).
#[inline(always)]
pub fn owner_of_local_port(port: u16, workers: u16) -> WorkerId {
    WorkerId(port % workers.max(1))
}

/// The owner of what comes from or goes to a client whose endpoint has this hash.
#[inline(always)]
fn owner_of_client(hash: u64, workers: u16) -> WorkerId {
    WorkerId(reduce((hash >> 16) as u32, workers.into()) as u16)
}

/// The owner by the NIC's hash, of packets that it should bring to their owner; `None` of all others.
pub(crate) fn owner_by_rss(snapshot: &Snapshot, rss: &Rss, tuple: &Tuple) -> Option<WorkerId> {
    let to = tuple.dst.addr;
    let by_rss = || {
        snapshot.locals.contains(to) || (snapshot.virtuals.contains(to) && !snapshot.by_client.contains(to))
    };
    (rss.hashes(tuple.protocol, !to.is_v4()) && by_rss()).then(|| rss.worker(tuple))
}

/// The owner of an IPv4 packet, in software.
#[inline(always)]
pub(crate) fn owner4(snapshot: &Snapshot, secret: Secret, workers: u16, key: Key) -> WorkerId {
    let ((src, dst), (sport, dport)) = (halves64(key.addrs), halves32(key.ports));
    if snapshot.locals.contains4(dst) {
        let dealt = snapshot.dealt.get4(dst);
        return dealt.unwrap_or_else(|| owner_of_local_port(u16::from_be(dport), workers));
    }
    let (addr, port) = if snapshot.virtuals.contains4(dst) { (src, sport) } else { (dst, dport) };
    owner_of_client(secret.hash_endpoint4(addr, port), workers)
}

/// The owner of a packet of either family, in software.
#[inline(always)]
pub(crate) fn owner(snapshot: &Snapshot, secret: Secret, workers: u16, tuple: &Tuple) -> WorkerId {
    if let Some(key) = Key::of(tuple) {
        return owner4(snapshot, secret, workers, key);
    }
    if snapshot.locals.contains(tuple.dst.addr) {
        let dealt = snapshot.dealt.get(tuple.dst.addr);
        return dealt.unwrap_or_else(|| owner_of_local_port(u16::from_be(tuple.dst.port), workers));
    }
    let client = if snapshot.virtuals.contains(tuple.dst.addr) { tuple.src } else { tuple.dst };
    owner_of_client(secret.hash_endpoint(client), workers)
}
