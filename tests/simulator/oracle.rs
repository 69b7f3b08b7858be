//! What must hold for every packet that goes into the engine and comes out of it.
//!
//! The oracle keeps its own small picture of the connections, made only of packets it saw, and never asks the engine
//! what it thinks. A picture of a connection ("flow") begins when the engine forwards a SYN, or a datagram of a client
//! that it does not know. How a flow reaches its real server is told by how the packet leaves.

mod errors;
mod pieces;
mod uoa;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use engine::snapshot::{Mode, Scheduler};
use engine::{ConnState, DropReason, Spec, Verdict, WorkerId};

use crate::fragments::{Assembler, piece_of};
use crate::packet::{
    ACK, ADDRESS_KINDS, ETH_LEN, FIN, Mac, RST, SYN, Segment, Told, icmp_error_of, ip_of, options, parse,
    segment_of, toa_endpoint, toa_option, told, unwrap_tunnel,
};
use crate::rules::{
    checksums, in_padding, ip_options, only_stripped, outbound_options, reply_is_sound, unchanged,
};
use crate::topology::{server_ip, tunnel_source};
use pieces::Forwarded;
use uoa::{Configured, Telling};

/// One invariant that did not hold.
pub(crate) type Broken = String;

/// A connection as packets show it.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    pub(crate) mode: Mode,
    pub(crate) client: SocketAddr,
    pub(crate) virtual_: SocketAddr,
    /// In NAT and DR the client, in TUN where the tunnel begins, with port 0.
    pub(crate) local: SocketAddr,
    pub(crate) real: SocketAddr,
    worker: WorkerId,
    /// Initial sequence numbers of SYNs that were forwarded; the last few.
    client_isns: Vec<u32>,
    /// The one that the real server answered, whether its answer was followed by more.
    answered: Option<u32>,
    /// Client segments need TOA: the real server answered the SYN and has not gone on.
    pub(crate) toa_needed: bool,
    /// The last sequence numbers either side used.
    pub(crate) inbound_seq: u32,
    pub(crate) outbound_seq: u32,
    /// When a packet of it was forwarded last, in virtual microseconds.
    seen_us: u64,
    telling: Telling,
}

impl Flow {
    /// Bytes of the option that carries its client.
    fn toa_len(&self) -> usize {
        if self.client.is_ipv4() { 8 } else { 20 }
    }

    /// How far the real server is.
    fn note_outbound(&mut self, input: &Segment<'_>) {
        self.outbound_seq = input.seq.wrapping_add(input.span());
        // Of what is corrupt its receiver sees nothing, so it is no progress.
        if !input.l4_checksum_ok {
            return;
        }
        if input.has(SYN) && input.has(ACK) {
            let isn = input.ack.wrapping_sub(1);
            if self.client_isns.contains(&isn) && self.answered != Some(isn) {
                self.answered = Some(isn);
                self.toa_needed = true;
            }
        } else if let Some(isn) = self.answered {
            let first = isn.wrapping_add(1);
            let beyond = input.has(ACK) && (input.ack.wrapping_sub(first) as i32) > 0;
            if beyond || input.has(FIN | RST) || !input.payload.is_empty() {
                self.toa_needed = false;
            }
        }
    }
}

/// What is known about the configuration.
#[derive(Debug, Clone, Default)]
struct Service {
    toa: Option<u8>,
    scheduler: Option<Scheduler>,
    reals: HashSet<(SocketAddr, Mode)>,
    udp_timeout_us: u64,
}

/// Protocol and the two endpoints that name a flow on one of its sides.
type SideKey = (u8, SocketAddr, SocketAddr);

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    services: HashMap<(u8, SocketAddr), Service>,
    pub(crate) lips: HashSet<IpAddr>,
    flows: Vec<Flow>,
    /// By client and virtual.
    by_client: HashMap<SideKey, usize>,
    /// By local and real, of those whose replies come this way.
    by_local: HashMap<SideKey, usize>,
    /// Flows whose ends must be checked against the engine's table: they were displaced.
    displaced: Vec<usize>,
    told: Configured,
    /// Datagrams that told their client, since the gateway began.
    pub(crate) inserted: u64,
    /// Fragments that were forwarded.
    fragments: Assembler<Forwarded>,
    /// Real servers by every MAC address that they ever had.
    macs: HashMap<Mac, usize>,
    /// The present, in virtual microseconds.
    pub(crate) now_us: u64,
    /// The gateway may forget connections before their time, for want of room.
    pub(crate) crowded: bool,
    pub(crate) mtu: usize,
    /// For the tests of the simulator itself: look at no packet.
    pub(crate) blind: bool,
    pub(crate) seen: Seen,
    /// By which schedulers flows came to real servers of which mode.
    pub(crate) scheduled: HashSet<(Scheduler, Mode)>,
}

macro_rules! seen {
    ($($name:ident),* $(,)?) => {
        /// How often the things happened that the simulator is for; a seed set without them tests nothing.
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct Seen {
            $(pub(crate) $name: u64,)*
        }

        impl Seen {
            pub(crate) fn add(&mut self, other: &Seen) {
                $(self.$name += other.$name;)*
            }

            /// What never happened.
            pub(crate) fn missing(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name)),*];
                all.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect()
            }
        }
    };
}

seen! {
    forwarded, toa, toa_missing_for_room, toa_in_padding, forged_stripped, corrupt_forwarded, handed_over,
    mss_lowered, fullnat, nat, dr, tun, udp, v6, v4_to_v6, v6_to_v4, toa_v6, icmp_errors, fragments,
    fragments_waited, put_together, cut_by_us, uoa_options, uoa_headers, uoa_crossed, uoa_cut, uoa_over_mtu,
    uoa_no_room, uoa_refused, uoa_stripped, uoa_quoted,
}

/// Returns what is broken unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition { return Err(format!($($message)+)); }
    };
}
pub(crate) use ensure;

/// A packet that goes to a real server, as it leaves.
struct Leaving<'a> {
    mode: Mode,
    local: SocketAddr,
    real: SocketAddr,
    /// What the real server's stack gets.
    output: Segment<'a>,
    fragmented: bool,
    /// What tells its client, which is taken out of `output`.
    told: Option<&'a Told>,
}

/// A packet as it leaves.
struct Output<'a> {
    /// The frame, or that of the first fragment.
    after: &'a [u8],
    target: Option<IpAddr>,
    /// The packet that left in fragments, without a tunnel's headers.
    joined: Option<&'a [u8]>,
    told: Option<&'a Told>,
}

impl<'a> Output<'a> {
    /// The packet. Not resolved, its frame has no Ethernet type of its own yet where the family changed.
    fn ip(&self) -> &'a [u8] {
        self.joined.unwrap_or(self.after.get(ETH_LEN..).unwrap_or_default())
    }

    /// What a real server's stack makes of it.
    fn segment(&self) -> Option<Segment<'a>> {
        let Some(told) = self.told else { return segment_of(self.ip()) };
        Some(Segment { ip_checksum_ok: told.checksum_ok, ..segment_of(&told.bare)? })
    }
}

impl Oracle {
    pub(crate) fn new(blind: bool, crowded: bool, mtu: u16) -> Oracle {
        Oracle { blind, crowded, mtu: mtu.into(), ..Oracle::default() }
    }

    /// Takes note of a configuration; former services and addresses stay known, their connections live on.
    pub(crate) fn configure(&mut self, spec: &Spec) {
        for service in &spec.services {
            self.lips.extend(&service.locals);
            let known = self.services.entry((service.protocol, service.virtual_)).or_default();
            known.toa = service.toa;
            known.scheduler = Some(service.scheduler);
            known.udp_timeout_us = u64::from(service.timeouts.of(ConnState::Udp).0) * 10_000;
            known.reals.extend(service.reals.iter().map(|r| (r.real, r.mode)));
        }
        self.configure_telling(spec);
    }

    /// A real server has this MAC address from now on; frames to the one before may be on their way.
    pub(crate) fn learn_mac(&mut self, mac: Mac, server: usize) {
        self.macs.insert(mac, server);
    }

    /// The gateway lost its memory.
    pub(crate) fn crash(&mut self) {
        self.flows.clear();
        self.by_client.clear();
        self.by_local.clear();
        self.displaced.clear();
        self.fragments.clear();
        self.forget_telling();
    }

    pub(crate) fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// The live flow that a real server's socket belongs to.
    pub(crate) fn by_real_side(&self, protocol: u8, local: SocketAddr, real: SocketAddr) -> Option<&Flow> {
        self.by_local.get(&(protocol, local, real)).map(|i| &self.flows[*i])
    }

    /// Flows that another took the place of since the last call.
    pub(crate) fn take_displaced(&mut self) -> Vec<Flow> {
        self.displaced.drain(..).map(|i| self.flows[i].clone()).collect()
    }

    /// One packet, before and after, and what the engine made of it. `target` is where the next hop of an unresolved
    /// packet leads.
    pub(crate) fn check(
        &mut self,
        worker: WorkerId,
        before: &[u8],
        verdict: Verdict,
        after: &[u8],
        target: Option<IpAddr>,
    ) -> Result<(), Broken> {
        if self.blind {
            return Ok(());
        }
        match verdict {
            Verdict::Forward(_) | Verdict::ForwardCut { .. } | Verdict::Resolve(_) => {
                let cut = matches!(verdict, Verdict::ForwardCut { .. });
                self.seen.cut_by_us += u64::from(cut);
                let len = after.len().saturating_sub(ETH_LEN);
                ensure!(cut || len <= self.mtu, "{len} bytes for a link that takes {}", self.mtu);
                self.forwarded(worker, before, after, target)
            }
            Verdict::HandOver(to) => {
                self.seen.handed_over += 1;
                ensure!(to != worker, "worker {worker} hands a packet to itself");
                ensure!(before == after, "a packet that is handed over was changed");
                Ok(())
            }
            Verdict::Punt(_) | Verdict::Wait(_) => {
                self.seen.fragments_waited += u64::from(matches!(verdict, Verdict::Wait(_)));
                ensure!(before == after, "a packet that is punted or waits was changed");
                Ok(())
            }
            Verdict::Reply(_) => {
                self.progress(before);
                self.note_early(worker, before);
                match reply_is_sound(after)? {
                    Some(mtu) => self.told_mtu(before, mtu),
                    None => Ok(()),
                }
            }
            Verdict::Drop(reason) => {
                self.progress(before);
                self.note_early(worker, before);
                if reason == DropReason::ClientUntold {
                    self.seen.uoa_refused += 1;
                    return self.refused_untold(worker, before);
                }
                Ok(())
            }
        }
    }

    /// What a real server says tells how far it is, also when it is not forwarded.
    fn progress(&mut self, before: &[u8]) {
        if let Some(piece) = ip_of(before).and_then(piece_of) {
            return self.progress_of_piece(&piece);
        }
        let Some(input) = parse(before) else { return };
        if let Some(index) = self.by_local.get(&(input.protocol, input.dst, input.src)) {
            self.flows[*index].note_outbound(&input);
        }
    }

    fn forwarded(
        &mut self,
        worker: WorkerId,
        before: &[u8],
        after: &[u8],
        target: Option<IpAddr>,
    ) -> Result<(), Broken> {
        self.seen.forwarded += 1;
        if let Some(input) = parse(before) {
            let told = told(after.get(ETH_LEN..).unwrap_or_default());
            let output = Output { after, target, joined: None, told: told.as_ref() };
            return self.packet(worker, &input, &output);
        }
        let ip = ip_of(before).unwrap_or_default();
        if let Some(piece) = piece_of(ip) {
            self.note_early(worker, before);
            return self.piece(worker, &piece, Forwarded::new(worker, before, after, target));
        }
        let Some(error) = icmp_error_of(ip) else {
            return Err("a frame that is no whole segment or datagram was forwarded".into());
        };
        self.error_message(&error, after)
    }

    /// A whole segment or datagram, or one that left in fragments.
    fn packet(&mut self, worker: WorkerId, input: &Segment<'_>, output: &Output<'_>) -> Result<(), Broken> {
        if self.services.contains_key(&(input.protocol, input.dst)) {
            let leaving = self.leaving(input, output)?;
            checksums(input, &leaving.output)?;
            unchanged(input, &leaving.output)?;
            ip_options(input, &leaving.output, !input.is_tcp())?;
            return self.inbound(worker, input, &leaving);
        }
        let Some(output) = segment_of(output.ip()) else {
            return Err("what was forwarded is no whole segment or datagram any more".into());
        };
        checksums(input, &output)?;
        unchanged(input, &output)?;
        ip_options(input, &output, false)?;
        self.outbound(worker, input, &output)
    }

    /// How a packet of a client leaves.
    fn leaving<'a>(&self, input: &Segment<'_>, leaves: &Output<'a>) -> Result<Leaving<'a>, Broken> {
        let vport = input.dst.port();
        let (fragmented, told) = (leaves.joined.is_some(), leaves.told);
        if let Some(tunnel) = unwrap_tunnel(leaves.after.get(ETH_LEN..).unwrap_or_default())
            && let Some(output) = segment_of(leaves.joined.unwrap_or(tunnel.inner))
        {
            let wide = tunnel.dst.is_ipv6();
            ensure!(tunnel.src == tunnel_source(wide), "a tunnel from {}", tunnel.src);
            ensure!(output.dst == input.dst, "the packet in the tunnel is for {}", output.dst);
            let (local, real) = (SocketAddr::new(tunnel.src, 0), SocketAddr::new(tunnel.dst, vport));
            return Ok(Leaving { mode: Mode::Tun, local, real, output, fragmented, told });
        }
        let Some(output) = leaves.segment() else {
            return Err("what was forwarded is no whole segment or datagram any more".into());
        };
        if output.dst == input.dst {
            let to = self.macs.get(&leaves.after[..6]).map(|j| server_ip(*j, input.dst.is_ipv6()));
            let Some(to) = leaves.target.or(to) else {
                return Err("DR: to a station that is no real server".into());
            };
            let real = SocketAddr::new(to, vport);
            return Ok(Leaving { mode: Mode::Dr, local: input.src, real, output, fragmented, told });
        }
        let mode = if output.src == input.src { Mode::Nat } else { Mode::FullNat };
        Ok(Leaving { mode, local: output.src, real: output.dst, output, fragmented, told })
    }

    fn inbound(
        &mut self,
        worker: WorkerId,
        input: &Segment<'_>,
        leaving: &Leaving<'_>,
    ) -> Result<(), Broken> {
        let service = self.services.get(&(input.protocol, input.dst)).cloned().unwrap_or_default();
        let Leaving { mode, local, real, output, fragmented, .. } = leaving;
        let translated = service.reals.contains(&(*real, Mode::FullNat));
        ensure!(
            *mode != Mode::Nat || !translated || service.reals.contains(&(*real, Mode::Nat)),
            "the real server sees the client's address, and {} is no local address",
            output.src
        );
        if *mode == Mode::FullNat {
            ensure!(self.lips.contains(&output.src.ip()), "{} is no local address", output.src);
        } else {
            ensure!(output.src == input.src, "{mode:?}: the real server sees {}", output.src);
        }
        ensure!(
            service.reals.contains(&(*real, *mode)),
            "{real} is no real server of {} by {mode:?}",
            input.dst
        );
        let known = self.by_client.get(&(input.protocol, input.src, input.dst)).copied();
        let same = known.filter(|i| {
            let flow = &self.flows[*i];
            // A new connection between the endpoints of an old one may be another worker's: a first real server in NAT
            // changes who owns a virtual address's packets.
            let of_worker = flow.worker == worker || !input.is_opening();
            (flow.mode, flow.local, flow.real) == (*mode, *local, *real) && of_worker
        });
        let opens = !input.is_tcp() || input.is_opening();
        let index = match same {
            Some(index) => index,
            None if opens => self.begin(worker, input, leaving, known, &service)?,
            None => {
                return Err(format!(
                    "{} without SYN goes to {local} > {real}, known is {:?}",
                    input.src,
                    known.map(|i| &self.flows[i])
                ));
            }
        };
        let flow = &mut self.flows[index];
        ensure!(flow.worker == worker, "worker {worker} forwards for a connection of worker {}", flow.worker);
        if input.is_opening() && input.l4_checksum_ok && !flow.client_isns.contains(&input.seq) {
            flow.client_isns.push(input.seq);
        }
        flow.inbound_seq = input.seq.wrapping_add(input.span());
        self.telling(index, input, leaving)?;
        self.count(input, output, *mode);
        if *mode == Mode::FullNat && input.is_tcp() {
            return self.address_options(index, service.toa, input, (output, *fragmented));
        }
        self.only_without_addresses(input, output)
    }

    fn count(&mut self, input: &Segment<'_>, output: &Segment<'_>, mode: Mode) {
        let seen = &mut self.seen;
        let of_mode = match mode {
            Mode::FullNat => &mut seen.fullnat,
            Mode::Nat => &mut seen.nat,
            Mode::Dr => &mut seen.dr,
            Mode::Tun => &mut seen.tun,
        };
        *of_mode += 1;
        seen.udp += u64::from(!input.is_tcp());
        seen.v6 += u64::from(input.src.is_ipv6());
        seen.v4_to_v6 += u64::from(input.src.is_ipv4() && output.src.is_ipv6());
        seen.v6_to_v4 += u64::from(input.src.is_ipv6() && output.src.is_ipv4());
        seen.corrupt_forwarded += u64::from(!input.l4_checksum_ok);
    }

    /// A new flow; what stood in its place has to be gone.
    fn begin(
        &mut self,
        worker: WorkerId,
        input: &Segment<'_>,
        leaving: &Leaving<'_>,
        known: Option<usize>,
        service: &Service,
    ) -> Result<usize, Broken> {
        let index = self.flows.len();
        let Leaving { mode, local, real, .. } = *leaving;
        let protocol = input.protocol;
        if let Some(old) = known {
            let old_flow = &self.flows[old];
            let silent_us = self.now_us - old_flow.seen_us;
            ensure!(
                input.is_tcp() || self.crowded || silent_us >= service.udp_timeout_us,
                "a datagram of {} goes to {local} > {real} after {silent_us} us of silence, known is {old_flow:?}",
                input.src
            );
            let key = (protocol, old_flow.local, old_flow.real);
            if self.by_local.get(&key) == Some(&old) {
                self.by_local.remove(&key);
            }
        }
        self.scheduled.extend(service.scheduler.map(|scheduler| (scheduler, mode)));
        let telling = self.begin_telling(worker, input, leaving);
        self.flows.push(Flow {
            protocol,
            mode,
            client: input.src,
            virtual_: input.dst,
            local,
            real,
            worker,
            client_isns: Vec::new(),
            answered: None,
            toa_needed: false,
            inbound_seq: input.seq,
            outbound_seq: 0,
            seen_us: self.now_us,
            telling,
        });
        self.by_client.insert((protocol, input.src, input.dst), index);
        if mode.is_one_way() {
            return Ok(index);
        }
        if let Some(old) = self.by_local.insert((protocol, local, real), index) {
            let key = (protocol, self.flows[old].client, self.flows[old].virtual_);
            if self.by_client.get(&key) == Some(&old) {
                self.by_client.remove(&key);
                self.displaced.push(old);
            }
        }
        Ok(index)
    }

    fn outbound(
        &mut self,
        worker: WorkerId,
        input: &Segment<'_>,
        output: &Segment<'_>,
    ) -> Result<(), Broken> {
        let Some(index) = self.by_local.get(&(input.protocol, input.dst, input.src)).copied() else {
            return Err(format!("{} > {} belongs to no connection but was forwarded", input.src, input.dst));
        };
        let now_us = self.now_us;
        let flow = &mut self.flows[index];
        ensure!(
            flow.worker == worker,
            "worker {worker} forwards a reply to worker {}'s connection",
            flow.worker
        );
        ensure!(output.src == flow.virtual_, "the client sees {}, not {}", output.src, flow.virtual_);
        ensure!(output.dst == flow.client, "{} gets what is {}'s", output.dst, flow.client);
        flow.note_outbound(input);
        flow.seen_us = now_us;
        let service = self.services.get(&(flow.protocol, flow.virtual_));
        let toa = service.and_then(|s| s.toa).filter(|_| flow.mode == Mode::FullNat && input.is_tcp());
        let lowered = outbound_options(toa.map(|_| flow.toa_len() as u16), input, output)?;
        self.seen.mss_lowered += u64::from(lowered);
        Ok(())
    }

    /// Options towards the real server: ours and only ours says who the client is.
    fn address_options(
        &mut self,
        index: usize,
        toa: Option<u8>,
        input: &Segment<'_>,
        (output, fragmented): (&Segment<'_>, bool),
    ) -> Result<(), Broken> {
        let Some(kind) = toa else {
            return self.only_without_addresses(input, output);
        };
        let (flow, seen) = (&self.flows[index], &mut self.seen);
        let found: Vec<_> =
            options(output.options).into_iter().filter(|o| ADDRESS_KINDS.contains(&o.bytes[0])).collect();
        let never = output.has(SYN | RST);
        for option in &found {
            ensure!(!never, "an address option on a SYN or RST");
            ensure!(option.at == 0, "an address option that is not the first option");
            ensure!(option.bytes[0] == kind, "an address option of kind {}, not {kind}", option.bytes[0]);
            let says = toa_endpoint(option.bytes);
            ensure!(says == Some(flow.client), "TOA says {says:?}, the client is {}", flow.client);
        }
        let (inserted, toa_len) = (found.len(), flow.toa_len());
        ensure!(inserted <= 1, "{inserted} address options");
        // The other fragments say where they belong, so nothing can be put in.
        ensure!(!fragmented || inserted == 0, "an address option in a fragment");
        seen.toa += inserted as u64;
        seen.toa_v6 += u64::from(inserted == 1 && flow.client.is_ipv6());
        let padded = in_padding(input, &toa_option(kind, flow.client));
        if inserted == 0 && flow.toa_needed && !never && !fragmented {
            let no_room = input.options.len() + toa_len > 40 || output.total_len + toa_len > self.mtu;
            ensure!(no_room, "a client segment without TOA before the real server went on");
            ensure!(padded.is_none(), "no TOA though there was padding to put it into");
            seen.toa_missing_for_room += 1;
        }
        if inserted == 1 && output.options.len() == input.options.len() {
            ensure!(
                padded.as_deref() == Some(output.options),
                "TOA is not in the padding of the other options"
            );
            seen.toa_in_padding += 1;
        } else {
            let rest = &output.options[toa_len * inserted..];
            ensure!(rest.len() == input.options.len(), "the options' length changed");
            only_stripped(input, rest)?;
        }
        let forged = options(input.options).iter().any(|o| ADDRESS_KINDS.contains(&o.bytes[0]));
        seen.forged_stripped += u64::from(forged);
        Ok(())
    }

    /// Options towards the real server where the gateway adds none: what the client says of its address has become padding.
    fn only_without_addresses(&mut self, input: &Segment<'_>, output: &Segment<'_>) -> Result<(), Broken> {
        let mut expected = input.options.to_vec();
        for option in options(input.options).iter().filter(|o| ADDRESS_KINDS.contains(&o.bytes[0])) {
            expected[option.at..option.at + option.bytes.len()].fill(1);
        }
        ensure!(expected == output.options, "options changed, and not only the client's addresses");
        self.seen.forged_stripped += u64::from(expected != input.options);
        Ok(())
    }
}
