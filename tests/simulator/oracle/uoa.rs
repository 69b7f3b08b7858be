//! What must hold of telling the clients of UDP flows: who is told, in which datagrams, and that nobody else tells it.

use std::collections::HashMap;
use std::net::SocketAddr;

use engine::snapshot::{Mode, Uoa};
use engine::{Spec, WorkerId};
use wire::uoa::Form;

use super::{Broken, Flow, Leaving, Oracle, ensure};
use crate::fragments::{Piece, piece_of};
use crate::packet::{IcmpError, OPTION_TYPE, Place, Segment, UDP, ip_of, options, parse, udp_is_right};

const IP_OPTIONS_MAX: usize = 40;
/// Times that the engine keeps are this coarse.
const TICK_US: u64 = 10_000;

/// What a configuration says, by protocol and virtual address.
type Uoas = HashMap<(u8, SocketAddr), Uoa>;

/// Which worker has which configuration.
#[derive(Debug, Default)]
pub(super) struct Configured {
    newest: Uoas,
    of_worker: HashMap<WorkerId, Uoas>,
    /// What flows were to have that the engine may know already: their first packet did not come through, or is a fragment.
    early: HashMap<(SocketAddr, SocketAddr), Option<Uoa>>,
}

/// What a flow's real server is told of its client.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Telling {
    uoa: Option<Uoa>,
    /// Datagrams that told it.
    count: u32,
    /// The engine may have forgotten the flow and begun it anew with this packet or before, or have it from another
    /// configuration.
    unsure: bool,
}

impl Telling {
    fn owes(&self) -> Option<Uoa> {
        self.uoa.filter(|uoa| !self.unsure && self.count < uoa.datagrams.into())
    }

    /// Bytes by which a datagram that tells grows; 0 when none is owed.
    fn room(&self, client: SocketAddr, leaves_wide: bool) -> usize {
        self.owes().map_or(0, |uoa| len_of(uoa, client, leaves_wide))
    }
}

fn place_of(uoa: Uoa, leaves_wide: bool) -> Place {
    if uoa.form == Form::Option && !leaves_wide { Place::Option } else { Place::Header }
}

fn len_of(uoa: Uoa, client: SocketAddr, leaves_wide: bool) -> usize {
    let option = if client.is_ipv4() { 8 } else { 20 };
    option + if place_of(uoa, leaves_wide) == Place::Header { 4 } else { 0 }
}

impl Oracle {
    /// Takes note of a configuration that workers will take.
    pub(super) fn configure_telling(&mut self, spec: &Spec) {
        self.told.newest = spec
            .services
            .iter()
            .filter_map(|service| Some(((service.protocol, service.virtual_), service.options.uoa?)))
            .collect();
    }

    /// A worker takes all that was sent to it.
    pub(crate) fn take_updates(&mut self, worker: WorkerId) {
        self.told.of_worker.insert(worker, self.told.newest.clone());
    }

    pub(super) fn forget_telling(&mut self) {
        self.told.of_worker.clear();
        self.told.early.clear();
        self.inserted = 0;
    }

    fn uoa_of(&self, worker: WorkerId, virtual_: SocketAddr) -> Option<Uoa> {
        self.told.of_worker.get(&worker)?.get(&(UDP, virtual_)).copied()
    }

    /// What a flow that begins is told.
    pub(super) fn begin_telling(
        &mut self,
        worker: WorkerId,
        input: &Segment<'_>,
        leaving: &Leaving<'_>,
    ) -> Telling {
        let before = self.told.early.remove(&(input.src, input.dst));
        if input.is_tcp() || leaving.mode != Mode::FullNat {
            return Telling::default();
        }
        let uoa = self.uoa_of(worker, input.dst);
        Telling { uoa, count: 0, unsure: self.crowded || before.is_some_and(|before| before != uoa) }
    }

    /// Whether the engine may have forgotten a UDP flow for its silence.
    fn is_over(&self, flow: &Flow) -> bool {
        let service = self.services.get(&(UDP, flow.virtual_));
        service.is_some_and(|service| self.now_us - flow.seen_us + TICK_US >= service.udp_timeout_us)
    }

    /// A client's packet that did not come through, or not yet whole, may have begun its flow.
    pub(super) fn note_early(&mut self, worker: WorkerId, before: &[u8]) {
        let whole = parse(before).filter(|input| !input.is_tcp()).map(|input| (input.src, input.dst));
        let Some(ends) = whole.or_else(|| ends_of_piece(before)) else { return };
        if !self.by_client.contains_key(&(UDP, ends.0, ends.1)) {
            let uoa = self.uoa_of(worker, ends.1);
            self.told.early.entry(ends).or_insert(uoa);
        }
    }

    /// A datagram that goes to a real server tells its client exactly when it must, and nobody else.
    pub(super) fn telling(
        &mut self,
        index: usize,
        input: &Segment<'_>,
        leaving: &Leaving<'_>,
    ) -> Result<(), Broken> {
        let Leaving { output, told, .. } = leaving;
        if !input.is_tcp() {
            let left = options(output.ip_options).iter().any(|option| option.bytes[0] == OPTION_TYPE);
            ensure!(!left, "an IP option of type 31 that is not the gateway's");
            self.seen.uoa_stripped += u64::from(output.ip_options != input.ip_options);
        }
        let over = self.is_over(&self.flows[index]);
        let (flow, mtu) = (&mut self.flows[index], self.mtu);
        flow.telling.unsure |= over;
        flow.seen_us = self.now_us;
        let Some(told) = told else { return self.untold(index, leaving) };
        ensure!(
            !input.is_tcp() && leaving.mode == Mode::FullNat,
            "UOA where the real server sees the client"
        );
        ensure!(told.client == flow.client, "UOA says {}, the client is {}", told.client, flow.client);
        ensure!(told.at == 0, "UOA that is not the first IP option");
        ensure!(!leaving.fragmented, "UOA in a datagram that came in fragments");
        flow.telling.count += 1;
        self.inserted += 1;
        let Telling { uoa, count, unsure } = flow.telling;
        let wide = leaving.local.is_ipv6();
        match uoa {
            Some(uoa) if !unsure => {
                ensure!(
                    told.place == place_of(uoa, wide),
                    "UOA as {:?} where {:?} is wanted",
                    told.place,
                    uoa.form
                );
                ensure!(
                    count <= uoa.datagrams.into(),
                    "UOA in {count} datagrams of a flow, not {}",
                    uoa.datagrams
                );
                let fits = output.total_len + told.len <= mtu;
                ensure!(fits || uoa.must, "UOA makes a datagram longer than its link takes");
                self.seen.uoa_cut += u64::from(!fits);
            }
            None if !unsure => return Err("UOA where the service wants none".into()),
            _ => {}
        }
        self.seen.uoa_options += u64::from(told.place == Place::Option);
        self.seen.uoa_headers += u64::from(told.place == Place::Header);
        self.seen.uoa_crossed += u64::from(told.client.is_ipv4() == wide);
        Ok(())
    }

    /// A datagram without its client has a reason for that.
    fn untold(&mut self, index: usize, leaving: &Leaving<'_>) -> Result<(), Broken> {
        let flow = &self.flows[index];
        let Some(uoa) = flow.telling.owes() else { return Ok(()) };
        let wide = leaving.local.is_ipv6();
        let nth = flow.telling.count + 1;
        ensure!(!uoa.must, "a datagram without UOA, owed is number {nth}, and nothing may go untold");
        let over = leaving.output.total_len + len_of(uoa, flow.client, wide) > self.mtu;
        let full = place_of(uoa, wide) == Place::Option && is_full(flow, leaving.output.ip_options);
        let has_reason = leaving.fragmented || over || full;
        ensure!(has_reason, "a datagram without UOA, owed is number {nth} of {}", uoa.datagrams);
        self.seen.uoa_over_mtu += u64::from(over);
        self.seen.uoa_no_room += u64::from(!over);
        Ok(())
    }

    /// What is refused for want of room must tell its client, and there is none.
    pub(super) fn refused_untold(&self, worker: WorkerId, before: &[u8]) -> Result<(), Broken> {
        // A first fragment has never room.
        let Some(input) = parse(before) else { return Ok(()) };
        let known = self.by_client.get(&(input.protocol, input.src, input.dst)).map(|i| &self.flows[*i]);
        let telling = match known {
            Some(flow) => Telling { unsure: flow.telling.unsure || self.is_over(flow), ..flow.telling },
            None => Telling { uoa: self.uoa_of(worker, input.dst), count: 0, unsure: self.crowded },
        };
        let must = telling.unsure || telling.owes().is_some_and(|uoa| uoa.must);
        ensure!(must, "a datagram is dropped for want of UOA that needs none: {known:?}");
        let room = input.ip_options.len() + 8 <= IP_OPTIONS_MAX;
        ensure!(!room, "a datagram is dropped for want of UOA though there is room");
        Ok(())
    }

    /// Fragments of clients tell nothing, neither what the gateway says nor what a client does.
    pub(super) fn piece_tells_nothing(
        &mut self,
        input: &Piece<'_>,
        output: &Piece<'_>,
    ) -> Result<(), Broken> {
        let inbound = input.key.2 == UDP && self.services.keys().any(|(_, to)| to.ip() == input.key.1);
        if !inbound || !output.key.0.is_ipv4() {
            return Ok(());
        }
        let left = options(&output.header[20..]).iter().any(|option| option.bytes[0] == OPTION_TYPE);
        ensure!(!left, "an IP option of type 31 in a fragment of a client");
        Ok(())
    }

    /// The MTU that a client of a flow is told is what just fits.
    pub(super) fn told_mtu(&self, before: &[u8], mtu: u32) -> Result<(), Broken> {
        let Some(input) = parse(before) else { return Ok(()) };
        ensure!((mtu as usize) < input.total_len, "told to send {mtu} bytes, and sent {}", input.total_len);
        let Some(index) = self.by_client.get(&(input.protocol, input.src, input.dst)) else { return Ok(()) };
        let flow = &self.flows[*index];
        let known = !flow.telling.unsure && !self.is_over(flow);
        let exact = flow.mode == Mode::FullNat && !input.is_tcp() && known;
        if !exact || !input.ip_options.is_empty() {
            return Ok(());
        }
        let wide = flow.local.is_ipv6();
        let must = flow.telling.owes().is_some_and(|uoa| uoa.must);
        let room = if must { flow.telling.room(flow.client, wide) } else { 0 };
        let longest =
            mtu as usize + room + if wide { 40 } else { 20 } - if input.src.is_ipv6() { 40 } else { 20 };
        ensure!(
            longest == self.mtu,
            "told to send {mtu} bytes, which become {longest} over a link of {}",
            self.mtu
        );
        Ok(())
    }

    /// What an error of a real server's side quotes is what the client sent.
    pub(super) fn quote_is_untold(
        &mut self,
        flow: Option<usize>,
        input: &IcmpError<'_>,
        output: &IcmpError<'_>,
    ) -> Result<(), Broken> {
        ensure!(output.told.is_none(), "an error still quotes the header of UOA");
        if input.protocol != UDP {
            return Ok(());
        }
        let len = input.quoted.len().min(output.quoted.len());
        let same =
            |range: std::ops::Range<usize>| input.quoted.get(range.clone()) == output.quoted.get(range);
        ensure!(len < 6 || same(4..6), "a quoted datagram has another length");
        ensure!(len < 8 || same(8..len), "a quoted datagram has another payload");
        let right =
            |error: &IcmpError<'_>| udp_is_right(error.quoted_src.ip(), error.quoted_dst.ip(), error.quoted);
        let cut = output.quoted.len() < input.quoted.len();
        ensure!(cut || !right(input) || right(output), "a quoted datagram's checksum became wrong");
        let Some(flow) = flow.map(|index| &self.flows[index]) else { return Ok(()) };
        let telling = flow.telling;
        ensure!(
            input.told.is_none() || flow.mode == Mode::FullNat,
            "an error quotes UOA where none is sent, and was forwarded"
        );
        let crossed = flow.client.is_ipv4() != flow.local.is_ipv4();
        if let (Some(told), Some(mtu)) = (output.mtu, input.mtu)
            && flow.mode == Mode::FullNat
            && !telling.unsure
            && !crossed
        {
            let room = telling.room(flow.client, flow.local.is_ipv6()) as u32;
            let least = if flow.client.is_ipv6() { 1280 } else { 1 };
            let wanted = if room == 0 { mtu } else { (mtu - room).max(least) };
            ensure!(told == wanted, "the client is told an MTU of {told}, not {wanted}");
        }
        self.seen.uoa_quoted += u64::from(input.told.is_some());
        Ok(())
    }
}

fn ends_of_piece(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let piece = piece_of(ip_of(frame)?).filter(|piece| piece.key.2 == UDP)?;
    let (from, to) = piece.ports()?;
    Some((SocketAddr::new(piece.key.0, from), SocketAddr::new(piece.key.1, to)))
}

fn is_full(flow: &Flow, ip_options: &[u8]) -> bool {
    ip_options.len() + if flow.client.is_ipv4() { 8 } else { 20 } > IP_OPTIONS_MAX
}
