//! The other end of a memif loop: clients and real servers in one. The bench runs itself a second time for it
//! (`--load SOCKET`), tells it on its input what to do, and reads a line of JSON for each command:
//!
//! ```text
//! bench ── commands, reports ── load (CPU 0) ══ net_memif ══ gateway or testpmd (CPU 1)
//! ```
//!
//! It never answers ARP and keeps no state of connections: what it sends follows from what it receives.

mod conversation;

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use dpdk::{
    Burst, DATA_ROOM_DEFAULT, Eal, EalConfig, HugePages, Lcore, Mbuf, Mempool, Port, PortConfig,
    RX_BURST_MAX, RxQueue, TxQueue,
};
use serde::{Deserialize, Serialize};
use wire::{PacketBuf, ethernet, ipv4, udp};

use crate::case::{Case, FLOWS, FLOWS_MOST, FRAME_MIN, Family, Mode, Proto, Traffic};
use crate::flows::{DATA_MAC, Flows};
use crate::machine::OTHER_CPU;

/// DPDK's memory, in MiB.
pub(crate) const MEMORY_MIB: u32 = 96;
const MBUFS: u32 = 16 * 1024;
const DESCRIPTORS: u16 = 1024;
/// Latencies that are kept at most: a second at 16 million packets per second.
const SAMPLES_MAX: usize = 16 << 20;
/// After this long, in milliseconds, nothing that was sent comes back any more.
const DRAIN_MS: u64 = 5;
/// When the sender is late by more than this, in milliseconds, because it was off its CPU, it does not catch up.
const LATE_MAX_MS: u64 = 1;
/// Without an answer for so many milliseconds, conversations are begun anew.
const SILENCE_MS: u64 = 200;

/// Where the time stamp is in a datagram's frame: it is the payload, and a mark behind it.
const STAMP_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;
const MARK_AT: usize = STAMP_AT + 8;
const MARK: [u8; 4] = *b"load";

/// What came of sending stamped datagrams.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Datagrams that came back.
    pub(crate) received: u64,
    /// Length of the load in nanoseconds.
    pub(crate) wall_ns: u64,
    /// Median, 99th and 99.9th percentile of the time from sending to receiving, in nanoseconds.
    pub(crate) percentiles_ns: [u64; 3],
}

/// What came of short connections.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Conversations {
    /// Connections that were opened, used and closed by both sides.
    pub(crate) completed: u64,
    /// Connections that were given up because nothing came any more.
    pub(crate) stalled: u64,
    /// Length of the load in nanoseconds.
    pub(crate) wall_ns: u64,
}

/// The port and its means.
struct Load {
    rx: RxQueue,
    tx: TxQueue,
    pool: Mempool,
    hz: u64,
    /// Number of the next conversation's client.
    next_client: u32,
    _port: Port,
    _eal: Eal,
}

/// Runs until its input ends.
///
/// # Errors
/// DPDK does not start; a command is none.
pub(crate) fn serve(socket: &Path) -> Result<()> {
    let mut load = Load::start(socket)?;
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading commands")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<u64>().with_context(|| format!("`{text}` is no number"));
        let report = match words[..] {
            ["latency", per_second, ms] => {
                serde_json::to_string(&load.latency(number(per_second)?, number(ms)?)?)?
            }
            ["conversations", at_a_time, ms] => {
                serde_json::to_string(&load.conversations(number(at_a_time)?, number(ms)?)?)?
            }
            _ => bail!("no such command: `{line}`"),
        };
        writeln!(output, "{report}").context("writing a report")?;
        output.flush().context("writing a report")?;
    }
    Ok(())
}

/// The device on the load's side of `socket`, or on the other one with this MAC address.
pub(crate) fn device(socket: &Path, is_client: bool) -> String {
    let role = if is_client { "client" } else { "server" };
    format!(
        "net_memif0,role={role},id=0,socket={},socket-abstract=no,rsize=10,mac={DATA_MAC}",
        socket.display()
    )
}

/// The clients and real servers of stamped datagrams.
///
/// # Errors
/// None in fact: the case exists.
pub(crate) fn latency_flows() -> Result<Flows> {
    flows(Proto::Udp, FLOWS)
}

/// The clients and real servers of conversations.
///
/// # Errors
/// None in fact: the case exists.
pub(crate) fn conversation_flows() -> Result<Flows> {
    flows(Proto::Tcp, FLOWS_MOST)
}

fn flows(proto: Proto, count: u32) -> Result<Flows> {
    let case = Case::new(Mode::Fullnat, proto, Family::Ipv4, Traffic::Inbound).context("a case")?;
    Flows::new(Case { flows: count, ..case.with_frames(FRAME_MIN) })
}

impl Load {
    fn start(socket: &Path) -> Result<Load> {
        let eal = Eal::init(&EalConfig {
            main: Lcore { id: 0, cpus: vec![OTHER_CPU] },
            workers: Vec::new(),
            memory_mib: MEMORY_MIB,
            huge_pages: HugePages::Require,
            pci: Vec::new(),
            vdevs: vec![device(socket, false)],
            file_prefix: format!("tollgate-bench-load{}", std::process::id()),
            in_memory: true,
            extra_args: Vec::new(),
        })?;
        let pool = Mempool::new(&eal, "load", MBUFS, 256, DATA_ROOM_DEFAULT, None)?;
        let config = PortConfig { rx_desc: DESCRIPTORS, tx_desc: DESCRIPTORS, ..PortConfig::default() };
        let id = *Port::all(&eal).first().context("net_memif made no port")?;
        let (port, rx, tx) = Port::open(&eal, id, &config, &pool)?;
        let (Some(rx), Some(tx)) = (rx.into_iter().next(), tx.into_iter().next()) else {
            bail!("net_memif gave no queues");
        };
        let hz = dpdk::tsc_hz(&eal);
        Ok(Load { rx, tx, pool, hz, next_client: 0, _port: port, _eal: eal })
    }

    fn ticks(&self, ms: u64) -> u64 {
        self.hz / 1000 * ms
    }

    fn ns(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000_000 / u128::from(self.hz)) as u64
    }

    /// Throws away what an earlier command left.
    fn drain(&mut self) {
        let mut burst = Burst::new();
        let end = dpdk::tsc() + self.ticks(DRAIN_MS);
        while dpdk::tsc() < end {
            self.rx.receive(&mut burst);
            Mbuf::free_bulk(&mut burst);
        }
    }

    /// Sends stamped datagrams evenly, so many per second, or with 0 as many as it can.
    fn latency(&mut self, per_second: u64, ms: u64) -> Result<Latencies> {
        let mut frames: Vec<Vec<u8>> = latency_flows()?.first_frames(FLOWS).collect();
        frames.iter_mut().for_each(|frame| mark(frame));
        let interval = self.hz.checked_div(per_second).unwrap_or(0);
        let late_max = self.ticks(LATE_MAX_MS);
        self.drain();
        let mut samples: Vec<u64> = Vec::with_capacity((per_second * ms / 1000 + 1024) as usize);
        let (mut report, mut at) = (Latencies::default(), 0);
        let start = dpdk::tsc();
        let (end, mut next) = (start + self.ticks(ms), start);
        let mut burst = Burst::new();
        loop {
            let now = dpdk::tsc();
            if now > end + self.ticks(DRAIN_MS) {
                break;
            }
            if now < end && now >= next {
                let due = (now - next).checked_div(interval).map_or(RX_BURST_MAX, |n| n as usize + 1);
                let due = due.min(RX_BURST_MAX);
                report.sent += self.send_stamped(&frames, &mut at, due, &mut burst);
                next += interval * due as u64;
                if now.saturating_sub(next) > late_max {
                    next = now;
                }
            }
            self.rx.receive(&mut burst);
            let now = dpdk::tsc();
            for stamp in burst.iter().filter_map(|mbuf| stamp_of(mbuf.data())).filter(|stamp| *stamp >= start)
            {
                report.received += 1;
                if samples.len() < SAMPLES_MAX {
                    samples.push(now.saturating_sub(stamp));
                }
            }
            Mbuf::free_bulk(&mut burst);
        }
        report.wall_ns = self.ns(end - start);
        samples.sort_unstable();
        let at = |share: f64| samples.get((samples.len() as f64 * share) as usize).copied().unwrap_or(0);
        report.percentiles_ns = [0.5, 0.99, 0.999].map(|share| self.ns(at(share)));
        Ok(report)
    }

    /// Sends the next `count` frames with the time in them; how many there was room for.
    fn send_stamped(&mut self, frames: &[Vec<u8>], at: &mut usize, count: usize, burst: &mut Burst) -> u64 {
        self.pool.alloc_burst(burst, count);
        for mbuf in burst.iter_mut() {
            let fits = mbuf.copy_from_slice(&frames[*at]);
            debug_assert!(fits, "a short frame fits");
            *at = if *at + 1 == frames.len() { 0 } else { *at + 1 };
            if let Some(stamp) = mbuf.data_mut().get_mut(STAMP_AT..MARK_AT) {
                stamp.copy_from_slice(&dpdk::tsc().to_be_bytes());
            }
        }
        let sent = self.tx.send(burst);
        Mbuf::free_bulk(burst);
        sent as u64
    }

    /// Keeps so many short TCP connections going at a time.
    fn conversations(&mut self, at_a_time: u64, ms: u64) -> Result<Conversations> {
        ensure!(
            (1..=u64::from(DESCRIPTORS)).contains(&at_a_time),
            "1 to {DESCRIPTORS} conversations at a time"
        );
        let flows = conversation_flows()?;
        self.drain();
        let mut report = Conversations::default();
        let (mut received, mut answers) = (Burst::new(), Burst::new());
        let start = dpdk::tsc();
        let end = start + self.ticks(ms);
        let (mut heard, mut begin) = (start, at_a_time);
        loop {
            let now = dpdk::tsc();
            if now > end {
                break;
            }
            if now - heard > self.ticks(SILENCE_MS) {
                report.stalled += at_a_time;
                (begin, heard) = (at_a_time, now);
            }
            while begin > 0 {
                let first = conversation::first(&flows, self.next_client);
                self.next_client = (self.next_client + 1) % FLOWS_MOST;
                self.push(first, &mut answers);
                begin -= 1;
            }
            if self.rx.receive(&mut received).packets > 0 {
                heard = now;
            }
            for mbuf in &received {
                let step = conversation::answer(mbuf.data());
                if step.is_last {
                    report.completed += 1;
                    begin += 1;
                }
                for segment in step.segments {
                    self.push(segment, &mut answers);
                }
            }
            Mbuf::free_bulk(&mut received);
            self.flush(&mut answers);
        }
        report.wall_ns = self.ns(end - start);
        Ok(report)
    }

    /// Puts a segment into the burst, which is sent when it is full.
    fn push(&mut self, segment: conversation::Segment, burst: &mut Burst) {
        if burst.remaining_capacity() == 0 {
            self.flush(burst);
        }
        if let Some(mut mbuf) = self.pool.alloc()
            && mbuf.copy_from_slice(&segment.frame())
        {
            burst.push(mbuf);
        }
    }

    /// Sends all; what the ring has no room for is lost, as on a wire.
    fn flush(&mut self, burst: &mut Burst) {
        if !burst.is_empty() {
            self.tx.send(burst);
            Mbuf::free_bulk(burst);
        }
    }
}

/// Puts the mark into a datagram, and no checksum, so that stamps need none either.
fn mark(frame: &mut [u8]) {
    if let Some(mark) = frame.get_mut(MARK_AT..MARK_AT + MARK.len()) {
        mark.copy_from_slice(&MARK);
    }
    if let Some(checksum) = frame.get_mut(STAMP_AT - 2..STAMP_AT) {
        checksum.fill(0);
    }
}

/// The time stamp of a frame of ours.
fn stamp_of(frame: &[u8]) -> Option<u64> {
    if frame.get(MARK_AT..MARK_AT + MARK.len())? != MARK {
        return None;
    }
    let bytes = frame.get(STAMP_AT..MARK_AT)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_from_marked_frames_only() {
        let mut frame = latency_flows().unwrap().first_frames(1).next().unwrap();
        assert_eq!(stamp_of(&frame), None);
        mark(&mut frame);
        frame[STAMP_AT..MARK_AT].copy_from_slice(&77_u64.to_be_bytes());
        assert_eq!(stamp_of(&frame), Some(77));
        assert_eq!(frame.len() as u32, FRAME_MIN - 4);
    }
}
