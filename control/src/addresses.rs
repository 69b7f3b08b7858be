//! Addresses on the kernel twins: port addresses, LIPs and VIPs, by netlink.
//!
//! Each address that we add carries our mark (IFA_PROTO, Linux 5.18 and newer), so that a later control knows which
//! ones are its own to take away. Addresses of other origin are never touched. A LIP that is no longer wanted stays
//! while connections use it: without it, nobody would answer the real servers' ARP requests any more. Nothing is taken
//! away at the end: the dataplane goes on without us.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::{Handle, LinkUnspec};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::client::{self, Client};

/// Our mark on addresses. The kernel uses 1 to 3; the value is registered nowhere.
const OUR_MARK: AddressProtocol = AddressProtocol::Other(0x54);

/// INFINITY_LIFE_TIME of the kernel's net/addrconf.h.
const LIFETIME_INFINITE: u32 = u32::MAX;

/// While something is missing, e.g. a twin that the dataplane has not made yet.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// While all is well: an address that somebody removed comes back within this time.
const VERIFY_INTERVAL: Duration = Duration::from_secs(10);

/// While LIPs that are not wanted any more have connections.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);

/// Time for the dataplane to tell which LIPs have connections.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A kernel twin and what it shall own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// Name of the interface.
    pub interface: String,
    /// The gateway's own addresses with prefix length, which it speaks from. Added first.
    pub own: Vec<(IpAddr, u8)>,
    /// LIPs and VIPs, which the dataplane speaks from and the kernel does not.
    pub hosts: Vec<IpAddr>,
}

impl Twin {
    fn addresses(&self) -> Vec<Address> {
        let own = self.own.iter().map(|&(ip, prefix_len)| Address { ip, prefix_len, is_host: false });
        let hosts = self.hosts.iter().map(|&ip| {
            let prefix_len = if ip.is_ipv4() { 32 } else { 128 };
            Address { ip, prefix_len, is_host: true }
        });
        let mut seen = HashSet::new();
        own.chain(hosts).filter(|address| seen.insert(address.ip)).collect()
    }
}

/// An address of a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    prefix_len: u8,
    /// A LIP or VIP.
    is_host: bool,
}

/// What all twins shall own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The twins.
    pub twins: Vec<Twin>,
    /// Whether addresses of ours that are not wanted are removed.
    pub remove: bool,
}

/// What went wrong with an address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel lists no addresses or links.
    #[error("the kernel's addresses and links cannot be read: {0}")]
    List(rtnetlink::Error),
    /// An address or link cannot be changed.
    #[error("cannot {what} on {interface}: {source}")]
    Change {
        /// What was tried.
        what: String,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
}

/// What one round found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Addresses added.
    pub added: usize,
    /// Addresses of ours removed.
    pub removed: usize,
    /// Addresses of ours that are not wanted and are still there.
    pub stale: Vec<IpAddr>,
    /// Twins that do not exist (yet).
    pub missing: Vec<String>,
}

/// Keeps the twins as the watch says, until the sender is gone. `wake` starts a round at once; `dataplane` is its
/// socket, where LIPs in use are asked for.
pub async fn run(mut wanted: watch::Receiver<Wanted>, wake: Arc<Notify>, dataplane: PathBuf) {
    let mut keeper = match Keeper::new() {
        Ok(keeper) => keeper,
        Err(error) => {
            warn!(%error, "addresses are not managed");
            return;
        }
    };
    let mut said = String::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        let (pause, trouble) = match rounds(&mut keeper, &now, &dataplane).await {
            Ok(round) if !round.missing.is_empty() => {
                (RETRY_INTERVAL, format!("waiting for the kernel twin {}", round.missing.join(", ")))
            }
            Ok(round) if now.remove && !round.stale.is_empty() => (BUSY_INTERVAL, String::new()),
            Ok(_) => (VERIFY_INTERVAL, String::new()),
            Err(error) => (RETRY_INTERVAL, error.to_string()),
        };
        if trouble != said && !trouble.is_empty() {
            warn!("{trouble}");
        }
        said = trouble;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = wake.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

/// A round, and a second one if there is something to remove that has no connections.
async fn rounds(keeper: &mut Keeper, wanted: &Wanted, dataplane: &Path) -> Result<Round, Error> {
    let first = keeper.round(wanted, None).await?;
    if first.stale.is_empty() || !wanted.remove {
        return Ok(first);
    }
    // Without an answer nothing is removed: the dataplane may be busy, and its connections alive.
    match lips_in_use(dataplane).await {
        Ok(busy) => keeper.round(wanted, Some(&busy)).await,
        Err(_) => Ok(first),
    }
}

async fn lips_in_use(dataplane: &Path) -> Result<HashSet<IpAddr>, client::Error> {
    let stats = Client::connect(dataplane).await?.stats(ASK_TIMEOUT).await?;
    Ok(stats.local_ports.iter().filter(|pair| pair.in_use > 0).map(|pair| pair.local).collect())
}

/// Compares what the kernel has with what is wanted, and changes the difference.
pub struct Keeper {
    handle: Handle,
    /// Every twin ever wanted: ours to clean even when it is no longer named.
    interfaces: HashSet<String>,
}

impl Keeper {
    /// Opens a netlink socket in the network namespace of the thread.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn new() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Keeper { handle, interfaces: HashSet::new() })
    }

    /// One round over all twins. Goes on after a failure and tells the first one. `busy` are LIPs with connections,
    /// which are not removed; if unknown, nothing is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn round(&mut self, wanted: &Wanted, busy: Option<&HashSet<IpAddr>>) -> Result<Round, Error> {
        let twins = &wanted.twins;
        self.interfaces.extend(twins.iter().map(|twin| twin.interface.clone()));
        if self.interfaces.is_empty() {
            return Ok(Round::default());
        }
        let links = self.links().await?;
        let present: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(Error::List)?;
        let mut round = Round::default();
        let mut first_error = None;
        for name in &self.interfaces {
            let twin = twins.iter().find(|twin| twin.interface == *name);
            let Some(link) = links.iter().find(|link| link.name == *name) else {
                round.missing.extend(twin.map(|twin| twin.interface.clone()));
                continue;
            };
            let on_link: Vec<_> =
                present.iter().filter(|message| message.header.index == link.index).collect();
            let addresses = twin.map(Twin::addresses).unwrap_or_default();
            if twin.is_some() && !link.is_up {
                first_error = first_error.or(self.bring_up(link).await.err());
            }
            let result = self.add_missing(link, &addresses, &on_link, &mut round).await;
            first_error = first_error.or(result.err());
            // Removed only after others are added: an address that stays must not lose its place in between.
            let busy = busy.filter(|_| wanted.remove);
            let result = self.remove_ours(link, &addresses, &on_link, busy, &mut round).await;
            first_error = first_error.or(result.err());
        }
        round.missing.sort();
        first_error.map_or(Ok(round), Err)
    }

    async fn links(&self) -> Result<Vec<Link>, Error> {
        let links = self.handle.link().get().execute().try_filter_map(async |link| {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            let (index, is_up) = (link.header.index, link.header.flags.contains(LinkFlags::Up));
            Ok(name.map(|name| Link { name, index, is_up }))
        });
        links.try_collect().await.map_err(Error::List)
    }

    async fn bring_up(&self, link: &Link) -> Result<(), Error> {
        let up = LinkUnspec::new_with_index(link.index).up().build();
        self.handle.link().set(up).execute().await.map_err(link.error(|| "bring the link up".to_owned()))
    }

    async fn add_missing(
        &self,
        link: &Link,
        wanted: &[Address],
        on_link: &[&AddressMessage],
        round: &mut Round,
    ) -> Result<(), Error> {
        let have: HashSet<_> = on_link.iter().filter_map(|message| address_of(message)).collect();
        let mut first_error = None;
        for address in wanted.iter().filter(|address| !have.contains(&(address.ip, address.prefix_len))) {
            let Address { ip, prefix_len, .. } = address;
            match self.add(link.index, address).await {
                Ok(()) => {
                    info!("{ip}/{prefix_len} added to {}", link.name);
                    round.added += 1;
                }
                Err(error) if is_exists(&error) => {}
                Err(error) => {
                    let what = || format!("add {ip}/{prefix_len}");
                    first_error = first_error.or(Some(link.error(what)(error)));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn remove_ours(
        &self,
        link: &Link,
        wanted: &[Address],
        on_link: &[&AddressMessage],
        busy: Option<&HashSet<IpAddr>>,
        round: &mut Round,
    ) -> Result<(), Error> {
        let wanted: HashSet<_> = wanted.iter().map(|address| (address.ip, address.prefix_len)).collect();
        let mut first_error = None;
        for message in on_link {
            let ours = message.attributes.contains(&AddressAttribute::Protocol(OUR_MARK));
            let Some((address, prefix_len)) = address_of(message).filter(|it| ours && !wanted.contains(it))
            else {
                continue;
            };
            if busy.is_none_or(|busy| busy.contains(&address)) {
                round.stale.push(address);
                continue;
            }
            match self.handle.address().del((*message).clone()).execute().await {
                Ok(()) => {
                    info!("{address}/{prefix_len} removed from {}", link.name);
                    round.removed += 1;
                }
                Err(error) => {
                    let what = || format!("remove {address}/{prefix_len}");
                    first_error = first_error.or(Some(link.error(what)(error)));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn add(&self, index: u32, address: &Address) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.address().add(index, address.ip, address.prefix_len);
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::Protocol(OUR_MARK));
        if address.ip.is_ipv6() {
            // Usable at once: for a second or two the kernel would not answer for it otherwise (RFC 4862 §5.4).
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        if address.ip.is_ipv6() && address.is_host {
            // Deprecated (RFC 6724 §5 rule 3): the kernel would speak from the address that is most like the one it
            // speaks to, and the answers would be for the dataplane.
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, LIFETIME_INFINITE);
            attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        request.execute().await
    }
}

struct Link {
    name: String,
    index: u32,
    is_up: bool,
}

impl Link {
    fn error(&self, what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> Error {
        let interface = self.name.clone();
        move |source| Error::Change { what: what(), interface, source }
    }
}

/// The interface's own address: IFA_LOCAL, or IFA_ADDRESS where there is none (IPv6).
fn address_of(message: &AddressMessage) -> Option<(IpAddr, u8)> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    found.map(|address| (address, message.header.prefix_len))
}

fn is_exists(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.to_io().kind() == io::ErrorKind::AlreadyExists)
}

#[cfg(test)]
mod tests;
