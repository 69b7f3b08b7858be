//! What must hold for every packet that goes into the engine and comes out of it.
//!
//! The oracle keeps its own small picture of the connections, made only of packets it saw, and never asks the engine
//! what it thinks. A picture of a connection ("flow") begins when the engine forwards a SYN.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use engine::{Spec, Verdict, WorkerId};

use crate::packet::{ACK, ADDRESS_KINDS, FIN, RST, SYN, Segment, options, parse, toa_endpoint, v4};

/// One invariant that did not hold.
pub(crate) type Broken = String;

/// A connection as packets show it.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddrV4,
    pub(crate) virtual_: SocketAddrV4,
    pub(crate) local: SocketAddrV4,
    pub(crate) real: SocketAddrV4,
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
    /// A segment of the real server's, not its SYN-ACK, was seen.
    pub(crate) spoken: bool,
}

/// What is known about the configuration.
#[derive(Debug, Clone, Default)]
struct Service {
    toa: Option<u8>,
    reals: HashSet<SocketAddrV4>,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    services: HashMap<SocketAddrV4, Service>,
    pub(crate) lips: HashSet<Ipv4Addr>,
    flows: Vec<Flow>,
    by_client: HashMap<(SocketAddrV4, SocketAddrV4), usize>,
    by_local: HashMap<(SocketAddrV4, SocketAddrV4), usize>,
    /// Flows whose ends must be checked against the engine's table: they were displaced.
    displaced: Vec<usize>,
    /// For the tests of the simulator itself: look at no packet.
    pub(crate) blind: bool,
    pub(crate) seen: Seen,
}

/// How often the things happened that the simulator is for; a seed set without them tests nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) forwarded: u64,
    pub(crate) toa: u64,
    pub(crate) toa_missing_for_room: u64,
    pub(crate) forged_stripped: u64,
    pub(crate) corrupt_forwarded: u64,
    pub(crate) handed_over: u64,
    pub(crate) mss_lowered: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Seen) {
        self.forwarded += other.forwarded;
        self.toa += other.toa;
        self.toa_missing_for_room += other.toa_missing_for_room;
        self.forged_stripped += other.forged_stripped;
        self.corrupt_forwarded += other.corrupt_forwarded;
        self.handed_over += other.handed_over;
        self.mss_lowered += other.mss_lowered;
    }
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition { return Err(format!($($message)+)); }
    };
}

impl Oracle {
    pub(crate) fn new(blind: bool) -> Oracle {
        Oracle { blind, ..Oracle::default() }
    }

    /// Takes note of a configuration; former services and addresses stay known, their connections live on.
    pub(crate) fn configure(&mut self, spec: &Spec) {
        for service in &spec.services {
            self.lips.extend(service.locals.iter().filter_map(|local| match local {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            }));
            let known = self.services.entry(v4(service.virtual_)).or_default();
            known.toa = service.toa;
            known.reals.extend(service.reals.iter().map(|r| v4(r.real)));
        }
    }

    /// The gateway lost its memory.
    pub(crate) fn crash(&mut self) {
        self.flows.clear();
        self.by_client.clear();
        self.by_local.clear();
        self.displaced.clear();
    }

    pub(crate) fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// The live flow that a real server's socket belongs to.
    pub(crate) fn by_real_side(&self, local: SocketAddrV4, real: SocketAddrV4) -> Option<&Flow> {
        self.by_local.get(&(local, real)).map(|i| &self.flows[*i])
    }

    /// Flows that another took the place of since the last call.
    pub(crate) fn take_displaced(&mut self) -> Vec<Flow> {
        self.displaced.drain(..).map(|i| self.flows[i].clone()).collect()
    }

    /// One packet, before and after, and what the engine made of it.
    pub(crate) fn check(
        &mut self,
        worker: WorkerId,
        before: &[u8],
        verdict: Verdict,
        after: &[u8],
    ) -> Result<(), Broken> {
        if self.blind {
            return Ok(());
        }
        match verdict {
            Verdict::Forward(_) | Verdict::ForwardCut { .. } | Verdict::Resolve(_) => {
                self.forwarded(worker, before, after)
            }
            Verdict::HandOver(to) => {
                self.seen.handed_over += 1;
                ensure!(to != worker, "worker {worker} hands a packet to itself");
                ensure!(before == after, "a packet that is handed over was changed");
                Ok(())
            }
            Verdict::Punt(_) | Verdict::Wait(_) => {
                ensure!(before == after, "a packet that is punted or waits was changed");
                Ok(())
            }
            Verdict::Reply(_) => reply_is_sound(after),
            Verdict::Drop(_) => Ok(()),
        }
    }

    fn forwarded(&mut self, worker: WorkerId, before: &[u8], after: &[u8]) -> Result<(), Broken> {
        self.seen.forwarded += 1;
        let Some(input) = parse(before) else {
            return Err("a frame that is no whole TCP segment was forwarded".into());
        };
        let Some(output) = parse(after) else {
            return Err("what was forwarded is no whole TCP segment any more".into());
        };
        checksums(&input, &output)?;
        unchanged(&input, &output)?;
        if self.services.contains_key(&input.dst) {
            return self.inbound(worker, &input, &output);
        }
        ensure!(self.lips.contains(input.dst.ip()), "forwarded, but for no service and no local address");
        self.outbound(worker, &input, &output)
    }

    fn inbound(&mut self, worker: WorkerId, input: &Segment<'_>, output: &Segment<'_>) -> Result<(), Broken> {
        let service = self.services.get(&input.dst).cloned().unwrap_or_default();
        ensure!(self.lips.contains(output.src.ip()), "{} is no local address", output.src);
        ensure!(output.src.ip() != input.src.ip(), "the real server sees the client's address");
        ensure!(service.reals.contains(&output.dst), "{} is no real server of {}", output.dst, input.dst);
        let known = self.by_client.get(&(input.src, input.dst)).copied();
        let same = known.filter(|i| self.flows[*i].local == output.src && self.flows[*i].real == output.dst);
        let is_syn = input.has(SYN) && !input.has(ACK);
        let index = match same {
            Some(index) => index,
            None if is_syn => self.begin(worker, input, output, known),
            None => {
                return Err(format!(
                    "{} without SYN goes to {} > {}, known is {:?}",
                    input.src,
                    output.src,
                    output.dst,
                    known.map(|i| &self.flows[i])
                ));
            }
        };
        let flow = &mut self.flows[index];
        ensure!(flow.worker == worker, "worker {worker} forwards for a connection of worker {}", flow.worker);
        if is_syn && input.tcp_checksum_ok && !flow.client_isns.contains(&input.seq) {
            flow.client_isns.push(input.seq);
        }
        flow.inbound_seq = input.seq.wrapping_add(input.span());
        address_options(&mut self.seen, &self.flows[index], service.toa, input, output)
    }

    /// A new flow; what stood in its place has to be gone.
    fn begin(
        &mut self,
        worker: WorkerId,
        input: &Segment<'_>,
        output: &Segment<'_>,
        known: Option<usize>,
    ) -> usize {
        let index = self.flows.len();
        self.flows.push(Flow {
            client: input.src,
            virtual_: input.dst,
            local: output.src,
            real: output.dst,
            worker,
            client_isns: Vec::new(),
            answered: None,
            toa_needed: false,
            inbound_seq: input.seq,
            outbound_seq: 0,
            spoken: false,
        });
        if let Some(old) = known {
            let (local, real) = (self.flows[old].local, self.flows[old].real);
            if self.by_local.get(&(local, real)) == Some(&old) {
                self.by_local.remove(&(local, real));
            }
        }
        self.by_client.insert((input.src, input.dst), index);
        if let Some(old) = self.by_local.insert((output.src, output.dst), index) {
            let (client, virtual_) = (self.flows[old].client, self.flows[old].virtual_);
            if self.by_client.get(&(client, virtual_)) == Some(&old) {
                self.by_client.remove(&(client, virtual_));
                self.displaced.push(old);
            }
        }
        index
    }

    fn outbound(
        &mut self,
        worker: WorkerId,
        input: &Segment<'_>,
        output: &Segment<'_>,
    ) -> Result<(), Broken> {
        let Some(index) = self.by_local.get(&(input.dst, input.src)).copied() else {
            return Err(format!("{} > {} belongs to no connection but was forwarded", input.src, input.dst));
        };
        let flow = &mut self.flows[index];
        ensure!(
            flow.worker == worker,
            "worker {worker} forwards a reply to worker {}'s connection",
            flow.worker
        );
        ensure!(output.src == flow.virtual_, "the client sees {}, not {}", output.src, flow.virtual_);
        ensure!(output.dst == flow.client, "{} gets what is {}'s", output.dst, flow.client);
        flow.outbound_seq = input.seq.wrapping_add(input.span());
        let acked = input.has(ACK).then_some(input.ack);
        if !input.tcp_checksum_ok {
            // Its receiver throws it away, so it is no progress.
        } else if input.has(SYN) && input.has(ACK) {
            let isn = input.ack.wrapping_sub(1);
            if flow.client_isns.contains(&isn) && flow.answered != Some(isn) {
                flow.answered = Some(isn);
                flow.toa_needed = true;
                flow.spoken = false;
            }
        } else if let Some(isn) = flow.answered {
            let beyond = acked.is_some_and(|ack| (ack.wrapping_sub(isn.wrapping_add(1)) as i32) > 0);
            flow.spoken = true;
            if beyond || input.has(FIN | RST) || !input.payload.is_empty() {
                flow.toa_needed = false;
            }
        }
        let toa = self.services.get(&flow.virtual_).and_then(|s| s.toa);
        let lowered = outbound_options(toa, input, output)?;
        self.seen.mss_lowered += u64::from(lowered);
        Ok(())
    }
}

fn checksums(input: &Segment<'_>, output: &Segment<'_>) -> Result<(), Broken> {
    // Both are sums over what arrived: what was wrong stays wrong, or a corruption would be covered up.
    ensure!(
        input.ip_checksum_ok == output.ip_checksum_ok,
        "IP checksum: {} came in, {} went out",
        input.ip_checksum_ok,
        output.ip_checksum_ok
    );
    ensure!(
        input.tcp_checksum_ok == output.tcp_checksum_ok,
        "TCP checksum: {} came in, {} went out",
        input.tcp_checksum_ok,
        output.tcp_checksum_ok
    );
    Ok(())
}

/// Everything that no translation touches.
fn unchanged(input: &Segment<'_>, output: &Segment<'_>) -> Result<(), Broken> {
    ensure!(output.ttl.wrapping_add(1) == input.ttl, "TTL {} became {}", input.ttl, output.ttl);
    ensure!(input.tos == output.tos, "DSCP or ECN changed");
    ensure!(input.id == output.id && input.fragment == output.fragment, "IP identification or flags changed");
    ensure!(input.ip_options == output.ip_options, "IP options changed");
    ensure!(input.seq == output.seq && input.ack == output.ack, "sequence numbers changed");
    ensure!(input.flags == output.flags, "TCP flags changed");
    ensure!(
        input.window == output.window && input.urgent == output.urgent,
        "window or urgent pointer changed"
    );
    ensure!(input.payload == output.payload, "payload changed");
    Ok(())
}

/// Options towards the real server: ours and only ours says who the client is.
fn address_options(
    seen: &mut Seen,
    flow: &Flow,
    toa: Option<u8>,
    input: &Segment<'_>,
    output: &Segment<'_>,
) -> Result<(), Broken> {
    let Some(kind) = toa else {
        ensure!(input.options == output.options, "options changed though TOA is off");
        return Ok(());
    };
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
    let inserted = found.len();
    ensure!(inserted <= 1, "{inserted} address options");
    seen.toa += inserted as u64;
    if inserted == 0 && flow.toa_needed && !never {
        let no_room = input.options.len() + 8 > 40 || input.total_len + 8 > 1500;
        ensure!(no_room, "a client segment without TOA before the real server went on");
        seen.toa_missing_for_room += 1;
    }
    let rest = &output.options[8 * inserted..];
    ensure!(rest.len() == input.options.len(), "the options' length changed");
    only_stripped(input, rest)?;
    let forged = options(input.options).iter().any(|o| ADDRESS_KINDS.contains(&o.bytes[0]));
    seen.forged_stripped += u64::from(forged);
    seen.corrupt_forwarded += u64::from(!input.tcp_checksum_ok);
    Ok(())
}

/// Where options differ there stood an address option (or Fast Open on a SYN), and stand NOPs now.
fn only_stripped(input: &Segment<'_>, rest: &[u8]) -> Result<(), Broken> {
    let mut expected = input.options.to_vec();
    for option in options(input.options) {
        let kind = option.bytes[0];
        if ADDRESS_KINDS.contains(&kind) || kind == 34 && input.has(SYN) {
            expected[option.at..option.at + option.bytes.len()].fill(1);
        }
    }
    ensure!(expected == rest, "options {:02x?} became {rest:02x?}", input.options);
    Ok(())
}

/// Options towards the client: as they were, but for the MSS of a SYN-ACK. Whether that was lowered.
fn outbound_options(toa: Option<u8>, input: &Segment<'_>, output: &Segment<'_>) -> Result<bool, Broken> {
    ensure!(
        input.options.len() == output.options.len(),
        "the options' length changed on the way to the client"
    );
    let mut expected = input.options.to_vec();
    let mut lowered = false;
    if toa.is_some() && input.has(SYN) {
        for option in options(input.options).iter().filter(|o| o.bytes[0] == 2 && o.bytes.len() == 4) {
            let mss = u16::from_be_bytes([option.bytes[2], option.bytes[3]]);
            // Never below what every host must take.
            let less = mss.saturating_sub(8).max(528).min(mss);
            expected[option.at + 2..option.at + 4].copy_from_slice(&less.to_be_bytes());
            lowered |= less < mss;
        }
    }
    ensure!(expected == output.options, "options {:02x?} became {:02x?}", input.options, output.options);
    Ok(lowered)
}

/// An answer of the gateway's own: an ICMP error with a valid IP header.
fn reply_is_sound(frame: &[u8]) -> Result<(), Broken> {
    ensure!(frame.len() >= 14 + 20 + 8, "a reply of {} bytes", frame.len());
    ensure!(frame[12..14] == [8, 0] && frame[14] == 0x45, "a reply that is no IPv4");
    let total_len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    ensure!(total_len <= frame.len() - 14, "a reply cut short");
    let sum = |bytes: &[u8]| {
        let sum: u64 =
            bytes.chunks(2).map(|c| u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0))).sum();
        sum.is_multiple_of(0xffff)
    };
    ensure!(sum(&frame[14..34]), "a reply with a wrong IP checksum");
    ensure!(frame[23] == 1, "a reply of protocol {}", frame[23]);
    ensure!(sum(&frame[34..14 + total_len]), "a reply with a wrong ICMP checksum");
    Ok(())
}
