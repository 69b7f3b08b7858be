//! The kernel mirror: what Linux knows about the twins (link, addresses, neighbours, routes), told as changes.
//!
//! A thread of its own subscribes to rtnetlink's multicast groups, then dumps everything, and from then on turns each
//! event into [`Change`]s. Where the kernel loses events (an overrun) or changes things without telling (it flushes
//! routes silently when a link goes down or an address leaves), everything is dumped again and compared.
//!
//! Only the main table counts, of it the routes through twins and those that lead nowhere (blackholes), and only
//! neighbours on twins.

pub(crate) mod ask;
mod parse;
mod repeat;
mod socket;
mod table;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use engine::PortId;
use netlink_packet_route::RouteNetlinkMessage;

pub(crate) use ask::Asker;
pub(crate) use socket::Error;
pub(crate) use table::{Change, LinkState};

use crate::state::Inbox;
use repeat::Repeat;
use socket::{Event, Received, Socket};
use table::{Kernel, Need};

/// A port's kernel twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Twin {
    /// The DPDK port that it stands for.
    pub(crate) port: PortId,
    /// Interface name.
    pub(crate) name: String,
    /// Interface index.
    pub(crate) index: u32,
}

/// How long one wait for events lasts at most, and so how late a stop is noticed.
const WAIT: Duration = Duration::from_millis(100);

/// How often stale neighbours are looked for.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Neighbours that are asked for again in one interval at most.
const REFRESH_MAX: usize = 256;

/// How long to wait before another try when the kernel cannot be asked.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Datagrams of the kernel's that are taken before what they told is handed on.
const DATAGRAMS_MAX: usize = 4096;

/// Starts the mirror's thread. Changes go to `inbox`; the first batch is the result of the first dump.
///
/// # Errors
/// When the netlink sockets cannot be opened.
pub(crate) fn spawn(
    twins: Vec<Twin>,
    inbox: Sender<Inbox>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, Error> {
    let mirror = Mirror {
        events: Socket::subscribe(WAIT)?,
        requests: Socket::request()?,
        asker: Asker::new(&twins)?,
        kernel: Kernel::new(&twins),
        inbox,
        stop,
    };
    std::thread::Builder::new().name("mirror".to_owned()).spawn(move || mirror.run()).map_err(Error::Thread)
}

struct Mirror {
    events: Socket,
    requests: Socket,
    asker: Asker,
    kernel: Kernel,
    inbox: Sender<Inbox>,
    stop: Arc<AtomicBool>,
}

/// What one wait brought.
#[derive(Debug, Default)]
struct Heard {
    changes: Vec<Change>,
    /// Next hop objects that were made, changed or removed.
    objects: HashSet<u32>,
    /// Nothing more was there.
    is_all: bool,
}

impl Mirror {
    fn run(mut self) {
        let mut need = Need::Resync;
        let (mut repeat, mut is_fresh) = (Repeat::new(), false);
        let mut refreshed = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            if need == Need::Resync || repeat.is_due(began) {
                need = Need::Resync;
                repeat.begins();
                if !self.resync() {
                    std::thread::sleep(RETRY_INTERVAL);
                    continue;
                }
                repeat.took(Instant::now(), began.elapsed());
                is_fresh = true;
            }
            let mut heard = Heard::default();
            need = self.wait(&mut heard);
            if need == Need::Nothing && self.kernel.names_any(&heard.objects) {
                repeat.soon(Instant::now());
            }
            if is_fresh && heard.is_all {
                is_fresh = false;
                // What came by now came while the dump went on.
                let may_lack = self.kernel.may_lack_routes();
                if may_lack {
                    tracing::debug!("IPv6 routes were deleted while they were dumped; dumping again soon");
                }
                repeat.dumped(Instant::now(), may_lack);
            }
            if !self.tell(heard.changes) {
                return;
            }
            if refreshed.elapsed() >= REFRESH_INTERVAL {
                refreshed = Instant::now();
                self.refresh();
            }
        }
    }

    /// Waits for events and takes those that are there, up to a bound.
    fn wait(&mut self, heard: &mut Heard) -> Need {
        let mut need = Need::Nothing;
        let kernel = &mut self.kernel;
        for _ in 0..DATAGRAMS_MAX {
            let received = self.events.receive(|event| match event {
                Event::Object(message, flags) => {
                    need = need.max(kernel.event(&message, flags, &mut heard.changes));
                }
                Event::NextHop(object) => {
                    heard.objects.insert(object);
                }
            });
            match received {
                // The first wait blocks; what else is there by now belongs to the same batch.
                Ok(Received::Messages) if self.events.has_more() => {}
                Ok(Received::Messages | Received::Nothing) => {
                    heard.is_all = true;
                    return need;
                }
                Ok(Received::Overrun) => {
                    tracing::info!("the kernel lost netlink events; dumping everything again");
                    return Need::Resync;
                }
                Err(error) => {
                    tracing::warn!("netlink: {error}");
                    std::thread::sleep(RETRY_INTERVAL);
                    return Need::Resync;
                }
            }
        }
        need
    }

    /// Dumps everything and tells what differs. `false`: to be tried again.
    fn resync(&mut self) -> bool {
        // After an overrun the kernel drops events in silence until the queue is empty, and what waits there is older
        // than what was lost.
        self.events.discard_answers();
        let mut fresh = self.kernel.emptied();
        if let Err(error) = self.dump(&mut fresh) {
            tracing::warn!("netlink dump: {error}");
            // The kernel refuses another dump on a socket as long as one has not been read to its end.
            match Socket::request() {
                Ok(socket) => self.requests = socket,
                Err(error) => tracing::warn!("netlink: {error}"),
            }
            return false;
        }
        let changes = self.kernel.replace_by(fresh);
        self.tell(changes)
    }

    /// Dumps everything into `fresh`.
    ///
    /// The kernel tells that a link or an address changes before it changes the routes that depend on it, and a dump of the
    /// routes does not wait until that is done (6.18; those of links and addresses still do). So we wait, after the links: a
    /// link that changes later differs from what was dumped, and is dumped for again when its event comes.
    fn dump(&mut self, fresh: &mut Kernel) -> Result<(), Error> {
        let mut take = |message: RouteNetlinkMessage| {
            fresh.event(&message, 0, &mut Vec::new());
        };
        self.requests.dump(socket::links_request(), &mut take)?;
        self.requests.wait_for_changes()?;
        for request in socket::dump_requests() {
            self.requests.dump(request, &mut take)?;
        }
        Ok(())
    }

    fn tell(&self, changes: Vec<Change>) -> bool {
        changes.is_empty() || self.inbox.send(Inbox::Kernel(changes)).is_ok()
    }

    /// Has the kernel verify neighbours that it has not heard from: a dead one is noticed, a live one is not
    /// collected as garbage, although the kernel itself sends it nothing.
    fn refresh(&mut self) {
        for (port, address) in self.kernel.stale(REFRESH_MAX) {
            self.asker.ask(port, address);
        }
    }
}
