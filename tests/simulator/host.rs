//! Clients and real servers: a smoltcp TCP/IP stack each, and the programs that run on them.
//!
//! The stacks speak plain IP; the world puts the Ethernet headers on and takes them off, so no ARP is needed.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::socket::udp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};

use crate::fragments::Receiver;
use crate::packet::{Mac, Place, ip_of, parse_ip, segment_of, told, unwrap_tunnel};
use crate::preface::Preface;
use crate::rng::Rng;
use crate::stream::{Close, End, Plan, Pump, SIZE_BITS, Side, datagram, read_datagram};
use crate::topology::{LISTEN_PORTS, ROUTER, ROUTER6};

const MTU: usize = 1500;
/// Sockets that wait on each listening port.
const BACKLOG: usize = 4;
/// How long a stack tries before it gives a connection up, and how often it asks a silent peer.
const GIVE_UP: Duration = Duration::from_secs(400);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const SLOW_STEP_US: u64 = 20_000;
/// When a client asks again that got no answer, and how often.
const ASK_AGAIN_US: u64 = 700_000;
const ASKS_MAX: u32 = 400;
/// How often it asks with a long datagram.
const LONG_TRIES_MAX: u32 = 2;

thread_local! {
    /// Virtual time for TCP timestamps, which smoltcp takes from a function without argument.
    static TIMESTAMP: Cell<u32> = const { Cell::new(0) };
}

fn timestamp() -> u32 {
    TIMESTAMP.get()
}

#[derive(Debug, Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// One connection as its host sees it.
#[derive(Debug)]
pub(crate) struct Session {
    handle: SocketHandle,
    pub(crate) pump: Pump,
    /// The other end as this host sees it.
    pub(crate) remote: Option<SocketAddr>,
    /// This end; what a client's is called the world knows.
    pub(crate) local: SocketAddr,
}

/// A client's side of a UDP plan.
#[derive(Debug)]
struct Exchange {
    handle: SocketHandle,
    conn: u32,
    port: u16,
    /// The request that is to be answered.
    seq: u32,
    tries: u32,
    send_at_us: u64,
}

/// A datagram as a real server saw it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) conn: u32,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Senders and sequence numbers of the SYNs that came to any real server.
pub(crate) type Syns = Rc<RefCell<HashSet<(SocketAddr, u32)>>>;

/// A machine.
pub(crate) struct Host {
    /// Its own addresses, one of either family.
    pub(crate) ips: [IpAddr; 2],
    pub(crate) mac: Mac,
    /// A real server that expects the PROXY protocol's header where packets are translated.
    pub(crate) expects_preface: bool,
    side: Side,
    listens: Vec<u16>,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    receiver: Receiver,
    listening: Vec<(SocketHandle, u16)>,
    udp_servers: Vec<SocketHandle>,
    exchanges: Vec<Exchange>,
    /// UDP plans that are over, for good or bad.
    pub(crate) exchanged: Vec<(u32, End)>,
    pub(crate) asked: Vec<Asked>,
    /// Requests that told whom they are from, and who that was.
    pub(crate) told: Vec<(u32, SocketAddr)>,
    pub(crate) sessions: Vec<Session>,
    /// Sessions that are over, for good or bad.
    pub(crate) finished: Vec<Session>,
    next_accept: u32,
    syns: Syns,
    rng: Rng,
    buffer_len: usize,
    forgets_time_wait: bool,
    scratch: Vec<u8>,
}

fn instant(now_us: u64) -> Instant {
    Instant::from_micros(now_us as i64)
}

impl Host {
    /// Real servers also have the addresses `vips` and listen on `listens`.
    pub(crate) fn new(
        rng: &mut Rng,
        (ips, mac): ([IpAddr; 2], Mac),
        side: Side,
        number: u32,
        (vips, listens): (&[IpAddr], Vec<u16>),
        syns: &Syns,
    ) -> Host {
        let mut rng = rng.fork();
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = rng.next();
        let mut interface = Interface::new(config, &mut wire, instant(0));
        interface.update_ip_addrs(|addresses| {
            // Six at most; there is room for eight.
            for ip in ips.iter().chain(vips) {
                let _ = addresses.push(IpCidr::new((*ip).into(), if ip.is_ipv4() { 24 } else { 64 }));
            }
        });
        let _ = interface.routes_mut().add_default_ipv4_route(ROUTER);
        let _ = interface.routes_mut().add_default_ipv6_route(ROUTER6);
        let buffer_len = *rng.pick(&[2_048, 6_000, 16_384, 100_000]);
        let mut host = Host {
            ips,
            mac,
            expects_preface: false,
            side,
            listens,
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            receiver: Receiver::default(),
            listening: Vec::new(),
            udp_servers: Vec::new(),
            exchanges: Vec::new(),
            exchanged: Vec::new(),
            asked: Vec::new(),
            told: Vec::new(),
            sessions: Vec::new(),
            finished: Vec::new(),
            next_accept: number << 16,
            syns: syns.clone(),
            buffer_len,
            forgets_time_wait: rng.coin(),
            rng,
            scratch: vec![0; 4096],
        };
        for port in host.listens.clone() {
            let handle = host.add_udp(port);
            host.udp_servers.push(handle);
        }
        host
    }

    fn add_udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 32], vec![0; 40_000]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // A fresh socket takes any port but 0.
        let _ = socket.bind(port);
        self.sockets.add(socket)
    }

    fn socket(&mut self, timestamps: bool) -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; self.buffer_len]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_timeout(Some(GIVE_UP));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_nagle_enabled(self.rng.coin());
        if timestamps {
            socket.set_tsval_generator(Some(timestamp));
        }
        socket
    }

    /// Opens a connection from `port`. A closed predecessor of the same port is forgotten.
    pub(crate) fn connect(&mut self, conn: u32, plan: &Plan, port: u16) -> Result<(), String> {
        if plan.is_udp() {
            let handle = self.add_udp(port);
            self.exchanges.push(Exchange { handle, conn, port, seq: 0, tries: 0, send_at_us: 0 });
            return Ok(());
        }
        let socket = self.socket(plan.timestamps);
        let handle = self.sockets.add(socket);
        let remote = IpEndpoint::from(plan.virtual_);
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket
            .connect(self.interface.context(), remote, port)
            .map_err(|error| format!("connection {conn} cannot be opened: {error}"))?;
        let remote = Some(plan.virtual_);
        let local = SocketAddr::new(self.ips[usize::from(plan.virtual_.is_ipv6())], port);
        self.sessions.push(Session { handle, pump: Pump::client(conn), remote, local });
        Ok(())
    }

    /// Whether a connection of this host still uses the port.
    pub(crate) fn port_in_use(&self, port: u16) -> bool {
        self.sessions.iter().any(|s| s.local.port() == port) || self.exchanges.iter().any(|e| e.port == port)
    }

    /// Of what was changed on its way no more is believed than its checksums cover, and UOA's header is under none.
    pub(crate) fn receive(&mut self, frame: &[u8], corrupt: bool) {
        let Some(ip) = ip_of(frame).and_then(|ip| self.receiver.take(ip)) else { return };
        // What is tunnelled to this host it takes as if it had come so.
        let inner = match unwrap_tunnel(&ip) {
            Some(tunnel) if self.side == Side::Server && self.ips.contains(&tunnel.dst) => tunnel.inner,
            _ => &ip,
        };
        let whole = parse_ip(inner).is_some();
        let Some(mut ip) = self.receiver.take(inner) else { return };
        if self.side == Side::Server {
            ip = self.take_told(ip, whole);
            if corrupt {
                self.told.clear();
            }
        }
        let syn = segment_of(&ip)
            .filter(|s| self.side == Side::Server && s.is_tcp() && s.is_opening() && s.l4_checksum_ok);
        if let Some(syn) = syn
            && let Some(handle) = self.connected(syn.dst, syn.src)
        {
            // smoltcp may give the SYN of an open connection to a listening socket, as if it were a new one (it takes
            // the first socket that fits), and never answers it. A double, also of one that went to another real
            // server, is lost here instead; a new one ends the
            // old connection, which the challenge of RFC 9293 §3.10.7.4 would have led to.
            if self.syns.borrow_mut().insert((syn.src, syn.seq)) {
                self.sockets.get_mut::<Socket<'_>>(handle).abort();
            }
            return;
        }
        if let Some(syn) = syn {
            self.syns.borrow_mut().insert((syn.src, syn.seq));
        }
        if parse_ip(&ip).is_some() {
            self.wire.incoming.push_back(ip);
        }
    }

    /// What a receiver of UOA leaves of a packet. One that was put together it does not take a header out of.
    fn take_told(&mut self, ip: Vec<u8>, whole: bool) -> Vec<u8> {
        let Some(told) = told(&ip).filter(|told| told.checksum_ok) else { return ip };
        let segment = segment_of(&told.bare).filter(|segment| segment.l4_checksum_ok);
        let request = segment.and_then(|segment| read_datagram(segment.payload, Side::Client).ok()?);
        if told.place == Place::Header && !whole {
            return ip;
        }
        self.told.extend(request.map(|(conn, _)| (conn, told.client)));
        told.bare
    }

    /// The socket that is connected so.
    fn connected(&self, local: SocketAddr, remote: SocketAddr) -> Option<SocketHandle> {
        let (local, remote) = (IpEndpoint::from(local), IpEndpoint::from(remote));
        let fits = |socket: &Socket<'_>| {
            socket.state() != State::Closed
                && socket.local_endpoint() == Some(local)
                && socket.remote_endpoint() == Some(remote)
        };
        let tcp = self.sockets.iter().filter_map(|(handle, socket)| match socket {
            smoltcp::socket::Socket::Tcp(socket) => Some((handle, socket)),
            smoltcp::socket::Socket::Udp(_) => None,
        });
        tcp.into_iter().find(|(_, socket)| fits(socket)).map(|(handle, _)| handle)
    }

    /// Runs stack and programs until both have nothing to do; returns what is sent.
    pub(crate) fn run(&mut self, now_us: u64, plans: &[Plan]) -> Result<Vec<Vec<u8>>, String> {
        TIMESTAMP.set((now_us / 1000) as u32);
        for _ in 0..32 {
            if self.side == Side::Server {
                self.keep_listening();
            }
            self.interface.poll(instant(now_us), &mut self.wire, &mut self.sockets);
            if self.side == Side::Server {
                self.accept();
            }
            let talked = self.answer()? | self.exchange(now_us, plans)?;
            if !self.serve(now_us, plans)? && !talked {
                break;
            }
        }
        Ok(std::mem::take(&mut self.wire.outgoing))
    }

    /// When [`Host::run`] wants to be called again.
    pub(crate) fn wake_at_us(&mut self, now_us: u64) -> Option<u64> {
        let stack = self.interface.poll_at(instant(now_us), &self.sockets).map(|at| at.total_micros() as u64);
        let slow = self.sessions.iter().map(|s| s.pump.slow_until_us).filter(|at| *at > now_us).min();
        let asks = self.exchanges.iter().map(|e| e.send_at_us).min();
        stack.into_iter().chain(slow).chain(asks).min().map(|at| at.max(now_us + 1))
    }

    fn keep_listening(&mut self) {
        for port in self.listens.clone() {
            let sockets = &self.sockets;
            let waits = |handle: SocketHandle| sockets.get::<Socket<'_>>(handle).state() == State::Listen;
            let waiting = self.listening.iter().filter(|(handle, p)| *p == port && waits(*handle)).count();
            for _ in waiting..BACKLOG {
                let timestamps = self.rng.coin();
                let mut socket = self.socket(timestamps);
                if socket.listen(port).is_ok() {
                    let handle = self.sockets.add(socket);
                    self.listening.push((handle, port));
                }
            }
        }
    }

    /// Sockets whose handshake is done become sessions.
    fn accept(&mut self) {
        let sockets = &mut self.sockets;
        let (next_accept, sessions, ips) = (&mut self.next_accept, &mut self.sessions, self.ips);
        let expects = &self.expects_preface;
        self.listening.retain(|(handle, port)| {
            let socket = sockets.get::<Socket<'_>>(*handle);
            match socket.state() {
                State::Listen | State::SynReceived => true,
                State::Closed => {
                    sockets.remove(*handle);
                    false
                }
                _ => {
                    let remote = socket.remote_endpoint().map(|e| SocketAddr::new(e.addr.into(), e.port));
                    let local = socket.local_endpoint().map(|e| SocketAddr::new(e.addr.into(), e.port));
                    let local = local.unwrap_or(SocketAddr::new(ips[0], *port));
                    let mut pump = Pump::server(*next_accept);
                    if *expects && LISTEN_PORTS.contains(port) {
                        pump.preface = Preface::Begun(Vec::new());
                    }
                    sessions.push(Session { handle: *handle, pump, remote, local });
                    *next_accept += 1;
                    false
                }
            }
        });
    }

    /// Real servers answer every datagram that is a request; whether there was one.
    fn answer(&mut self) -> Result<bool, String> {
        let mut busy = false;
        for handle in &self.udp_servers {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(*handle);
            let port = socket.endpoint().port;
            while let Ok((bytes, meta)) = socket.recv() {
                busy = true;
                // What an enemy made up is no request.
                let Some((conn, seq)) = read_datagram(bytes, Side::Client)? else { continue };
                let remote = SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port);
                let local = meta.local_address.map_or(self.ips[0], IpAddr::from);
                self.asked.push(Asked { conn, remote, local: SocketAddr::new(local, port) });
                // A full buffer loses it, as a network may; the client asks again.
                let _ = socket.send_slice(&datagram(conn, Side::Server, seq), meta);
            }
        }
        Ok(busy)
    }

    /// Clients ask, ask again, and take answers; whether something moved.
    fn exchange(&mut self, now_us: u64, plans: &[Plan]) -> Result<bool, String> {
        let mut busy = false;
        let mut i = 0;
        while i < self.exchanges.len() {
            let exchange = &mut self.exchanges[i];
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(exchange.handle);
            let plan = &plans[exchange.conn as usize];
            busy |= exchange.turn(socket, now_us, plan)?;
            let over = exchange.seq == plan.exchanges;
            if over || exchange.tries > ASKS_MAX {
                let end = if over { End::Whole } else { End::Failed };
                let exchange = self.exchanges.swap_remove(i);
                self.sockets.remove(exchange.handle);
                self.exchanged.push((exchange.conn, end));
            } else {
                i += 1;
            }
        }
        Ok(busy)
    }

    /// Requests of a plan that were answered so far, on the client's side.
    pub(crate) fn answered(&self) -> impl Iterator<Item = (u32, u32)> {
        self.exchanges.iter().map(|e| (e.conn, e.seq))
    }

    /// One turn of every session; whether the stack has something to do after it.
    fn serve(&mut self, now_us: u64, plans: &[Plan]) -> Result<bool, String> {
        let mut busy = false;
        let mut i = 0;
        while i < self.sessions.len() {
            let session = &mut self.sessions[i];
            let socket = self.sockets.get_mut::<Socket<'_>>(session.handle);
            busy |= session.turn(socket, self.side, now_us, plans, &mut self.scratch)?;
            let state = socket.state();
            // Half of the stacks forget a socket in TIME_WAIT at once, so that its port comes back early.
            let over = state == State::Closed || state == State::TimeWait && self.forgets_time_wait;
            // An aborted socket still has its RST to send, and a slow program has still to read.
            if over && !busy && !socket.can_recv() {
                session.settle(socket, plans)?;
                let session = self.sessions.swap_remove(i);
                self.sockets.remove(session.handle);
                self.finished.push(session);
            } else {
                i += 1;
            }
        }
        Ok(busy)
    }
}

impl Exchange {
    fn turn(&mut self, socket: &mut udp::Socket<'_>, now_us: u64, plan: &Plan) -> Result<bool, String> {
        let mut busy = false;
        while let Ok((bytes, meta)) = socket.recv() {
            busy = true;
            let Some((conn, seq)) = read_datagram(bytes, Side::Server)? else { continue };
            // A late answer to a former user of the port may still come, but not from elsewhere.
            if conn == self.conn && meta.endpoint != IpEndpoint::from(plan.virtual_) {
                return Err(format!("connection {conn} is answered by {}", meta.endpoint));
            }
            if conn == self.conn && seq & !SIZE_BITS == self.seq {
                (self.seq, self.tries, self.send_at_us) = (self.seq + 1, 0, now_us + plan.pause_us);
            }
        }
        if self.seq < plan.exchanges && now_us >= self.send_at_us {
            // What does not get through is tried shorter, as a program does that is told what fits.
            let size = if self.tries < LONG_TRIES_MAX { plan.size } else { 0 };
            let request = datagram(self.conn, Side::Client, self.seq | size);
            // A full buffer loses it; it is sent again.
            let _ = socket.send_slice(&request, IpEndpoint::from(plan.virtual_));
            self.tries += 1;
            self.send_at_us = now_us + ASK_AGAIN_US;
            busy = true;
        }
        Ok(busy)
    }
}

impl Session {
    fn turn(
        &mut self,
        socket: &mut Socket<'_>,
        side: Side,
        now_us: u64,
        plans: &[Plan],
        scratch: &mut [u8],
    ) -> Result<bool, String> {
        let moved = self.pump.moved();
        self.read(socket, side, now_us, plans)?;
        let plan = self.pump.conn.and_then(|conn| plans.get(conn as usize));
        self.write(socket, side, now_us, plan, scratch);
        let mut busy = self.pump.moved() != moved;
        if let Some(plan) = plan
            && !self.pump.closed
        {
            let abort_at = if side == Side::Client { plan.client_abort } else { plan.server_abort };
            let close = if side == Side::Client { plan.client_close } else { plan.server_close };
            let connected = socket.state() != State::SynSent;
            if abort_at.is_some_and(|at| connected && self.pump.moved() >= at) {
                socket.abort();
                self.pump.closed = true;
                busy = true;
            } else if self.pump.all_sent(plan) && (close == Close::AfterSending || self.pump.ended) {
                socket.close();
                self.pump.closed = true;
                busy = true;
            }
        }
        Ok(busy)
    }

    fn read(
        &mut self,
        socket: &mut Socket<'_>,
        side: Side,
        now_us: u64,
        plans: &[Plan],
    ) -> Result<(), String> {
        let plan = self.pump.conn.and_then(|conn| plans.get(conn as usize));
        let slow = plan.and_then(|p| if side == Side::Client { p.slow_client } else { p.slow_server });
        let mut left = match slow {
            Some(_) if now_us < self.pump.slow_until_us => return Ok(()),
            Some(step) => step,
            None => usize::MAX,
        };
        while left > 0 && !self.pump.ended {
            let pump = &mut self.pump;
            let read = socket.recv(|bytes| {
                let n = bytes.len().min(left);
                (n, (n, pump.take(plans, &bytes[..n])))
            });
            match read {
                Ok((0, _)) => break,
                Ok((n, result)) => {
                    result?;
                    left -= n;
                }
                Err(RecvError::Finished) => self.pump.finish(plans)?,
                Err(RecvError::InvalidState) => break,
            }
        }
        if slow.is_some() && left == 0 {
            self.pump.slow_until_us = now_us + SLOW_STEP_US;
        }
        Ok(())
    }

    fn write(
        &mut self,
        socket: &mut Socket<'_>,
        side: Side,
        now_us: u64,
        plan: Option<&Plan>,
        scratch: &mut [u8],
    ) {
        if let Some(plan) = plan.filter(|_| side == Side::Client && self.pump.sent == 0)
            && now_us < plan.start_us + plan.silence_us
        {
            self.pump.slow_until_us = plan.start_us + plan.silence_us;
            return;
        }
        while !self.pump.closed && socket.can_send() {
            let n = self.pump.produce(plan, scratch);
            let Ok(sent) = socket.send_slice(&scratch[..n]) else { break };
            self.pump.sent += sent;
            if sent == 0 {
                break;
            }
        }
    }

    /// Says how it ended, for a socket that is closed and has nothing to read any more.
    fn settle(&mut self, socket: &mut Socket<'_>, plans: &[Plan]) -> Result<(), String> {
        if !self.pump.ended && socket.recv(|_| (0, ())) == Err(RecvError::Finished) {
            self.pump.finish(plans)?;
        }
        self.pump.end = if self.pump.ended { End::Whole } else { End::Failed };
        Ok(())
    }
}
