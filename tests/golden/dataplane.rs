//! The real program on two net_pcap ports, fed in lockstep.
//!
//! A receiving net_pcap port reads a file as fast as it can, also before there is a configuration. Here the files are
//! named pipes, and the port reads whole bursts of 64: it waits until the pipe has given them all. So every step is
//! written as a full burst for both ports, filled up with frames for another station, which are dropped and counted.
//! One turn of the worker's loop is one such round, nothing depends on timing, and a round that has come in proves
//! that the one before is done with. The program's threads that wait in a pipe cost nothing.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{Request, Response, Stats, Status, frame};
use nix::sys::signal::Signal;
use tollgate_tests::process::Bond;
use tollgate_tests::wait::{wait_for, wait_until};
use tollgate_tests::{Cmd, Netns, Process, gateway, pcap};

use crate::case::Counts;
use crate::port::{Frame, Port};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at something that takes about as long.
const POLL_INTERVAL: Duration = Duration::from_micros(200);

/// Frames that a port is read at once.
const BURST_LEN: usize = 64;

/// Rounds until everything that a round leads to has left. With two workers a fragment may be handed to the keeper of its
/// packet's ports, from there to the connection's owner and to the owner of the port, and each may wait for the next turn
/// but one.
const SETTLE_ROUNDS: [usize; 2] = [1, 8];

/// A unicast frame for another station (IEEE 802 local experimental Ethernet type).
const FILLER: [u8; 14] = [0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0xfe, 0x88, 0xb5];
/// How fillers are counted, and whatever else is for another station.
const FILLER_REASON: &str = "not_our_mac";

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// A running dataplane.
pub(crate) struct Dataplane {
    // In this order: the process ends before its namespace does.
    pipes: [File; 2],
    process: Process,
    _netns: Netns,
    dir: tempfile::TempDir,
    /// A connection that is kept: the dataplane looks for new ones only now and then.
    api: Option<UnixStream>,
    workers: usize,
    /// Frames written, both ports together.
    written: u64,
    fillers: u64,
    /// Frames of cases that are counted as fillers are.
    strangers: u64,
    /// Frames that were read from the outputs.
    taken: [usize; 2],
}

impl Dataplane {
    /// Starts it and waits until it serves its API.
    pub(crate) fn start(workers: usize, connections_max: u32) -> Result<Dataplane> {
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let name = format!("tggold{}-{number}", std::process::id());
        let dir = tempfile::tempdir()?;
        let config = write_config(dir.path(), &name, workers, connections_max)?;
        // Open at both ends, or the program would wait for a writer when it starts.
        let ends = Port::ALL.map(|port| open_pipe(&pipe_path(dir.path(), port)));
        let [wan, lan] = ends;
        let pipes = [wan?, lan?];
        let netns = Netns::create(&name)?;
        let command = Cmd::new(gateway::binary("tollgate-dataplane")?).arg("--config").arg(config);
        let process = Process::spawn("dataplane", &netns, &command, dir.path(), Bond::DiesWithParent)?;
        let mut dataplane = Dataplane {
            pipes,
            process,
            _netns: netns,
            dir,
            api: None,
            workers,
            written: 0,
            fillers: 0,
            strangers: 0,
            taken: [0; 2],
        };
        let socket = dataplane.socket();
        wait_until("the dataplane answers on its socket", PATIENCE, || {
            dataplane.process.must_run()?;
            Ok(UnixStream::connect(&socket).is_ok())
        })?;
        Ok(dataplane)
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// Asks something that only the main thread has to answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Response> {
        self.process.must_run()?;
        let api = match self.api.take() {
            Some(api) => api,
            None => connect(&self.socket())?,
        };
        ask(self.api.insert(api), request).with_context(|| self.process.log_tail(20))
    }

    /// Asks something that the workers take part in: they get rounds of fillers, so that they come by.
    pub(crate) fn ask_workers(&mut self, request: &Request) -> Result<Response> {
        let socket = self.socket();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&mut connect(&socket)?, request));
            while !asked.is_finished() {
                self.process.must_run()?;
                self.write_round(&[])?;
            }
            asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Its status.
    pub(crate) fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::GetStatus)? {
            Response::Status(status) => Ok(*status),
            other => bail!("{other:?}"),
        }
    }

    /// Its counters.
    pub(crate) fn stats(&mut self) -> Result<Stats> {
        match self.ask(&Request::GetStats)? {
            Response::Stats(stats) => Ok(*stats),
            other => bail!("{other:?}"),
        }
    }

    /// Drops and events, without what every frame counts, what depends on the number of workers or the machine, and fillers.
    pub(crate) fn counts(&mut self) -> Result<Counts> {
        let (fillers, strangers) = (self.fillers, self.strangers);
        // Those of the last rounds may not have been looked at yet.
        wait_for("every filler is counted", PATIENCE, || {
            let mut counts = counts_of(&self.stats()?);
            let count = counts.entry(FILLER_REASON.to_owned()).or_default();
            // Not until all of them are counted is it known how many of the count are fillers.
            if *count < fillers + strangers {
                return Ok(None);
            }
            *count -= fillers;
            Ok(Some(counts))
        })
    }

    /// Puts frames in and waits until everything that they lead to has left the workers.
    pub(crate) fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let of = |port| frames.iter().filter(move |frame| frame.port == port).collect::<Vec<_>>();
        let (wan, lan) = (of(Port::Wan), of(Port::Lan));
        for round in 0..wan.len().max(lan.len()).div_ceil(BURST_LEN) {
            let part = |frames: &[&Frame]| -> Vec<Frame> {
                frames.iter().skip(round * BURST_LEN).take(BURST_LEN).map(|frame| (*frame).clone()).collect()
            };
            self.write_round(&[part(&wan), part(&lan)].concat())?;
        }
        for _ in 0..SETTLE_ROUNDS[self.workers - 1] {
            self.write_round(&[])?;
            self.wait_received()?;
        }
        Ok(())
    }

    /// Frames that left since the last call: of one port, then of the other.
    pub(crate) fn take_sent(&mut self) -> Result<Vec<Frame>> {
        let mut sent = Vec::new();
        for port in Port::ALL {
            let path = self.dir.path().join(format!("{}-out.pcap", port.name()));
            // The file's header is written with the first burst.
            if std::fs::metadata(&path)?.len() == 0 {
                continue;
            }
            let frames = pcap::read(&path)?;
            let new = &frames[self.taken[port as usize]..];
            sent.extend(new.iter().map(|frame| Frame { port, bytes: frame.bytes.clone() }));
            self.taken[port as usize] = frames.len();
        }
        Ok(sent)
    }

    /// Until all that was written is received. Asks in shorter turns than other tests wait in: this happens some thousand times.
    pub(crate) fn wait_received(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            let received: u64 = status.workers.iter().map(|worker| worker.rx_packets).sum();
            if received == self.written {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{received} of {} frames are received", self.written);
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// One burst for each port, so one turn of a worker: at most 64 frames of each, and fillers.
    pub(crate) fn write_round(&mut self, frames: &[Frame]) -> Result<()> {
        self.strangers += frames.iter().filter(|frame| frame.is_for_another_station()).count() as u64;
        for port in Port::ALL {
            let of_port: Vec<&[u8]> = frames
                .iter()
                .filter(|frame| frame.port == port)
                .map(|frame| frame.bytes.as_slice())
                .collect();
            let fillers = BURST_LEN - of_port.len();
            let all = of_port.into_iter().chain(std::iter::repeat_n(&FILLER[..], fillers));
            let bytes: Vec<u8> = all.flat_map(record).collect();
            self.write(port, &bytes)?;
            self.written += BURST_LEN as u64;
            self.fillers += fillers as u64;
        }
        Ok(())
    }

    /// Writes to a pipe that may be full, as long as there is somebody to empty it.
    fn write(&mut self, port: Port, mut bytes: &[u8]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match self.pipes[port as usize].write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.process.must_run()?;
                    ensure!(Instant::now() < deadline, "the pipe of {} stays full", port.name());
                    std::thread::sleep(POLL_INTERVAL);
                }
                Err(error) => bail!("{}: {error}", port.name()),
            }
        }
        Ok(())
    }

    /// Ends it in good order.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        // The workers wait in the pipes until these end.
        drop(self.pipes);
        let status = self.process.wait_exit(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", self.process.log_tail(20));
        Ok(())
    }
}

fn connect(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    frame::greet(&mut stream)?;
    Ok(stream)
}

fn ask(stream: &mut UnixStream, request: &Request) -> Result<Response> {
    frame::write(stream, request)?;
    frame::read(stream)?.context("no answer")
}

fn counts_of(stats: &Stats) -> Counts {
    let mut counts = Counts::new();
    for counter in stats.drops.iter().chain(&stats.counters) {
        let of_machine = ["turns_over_", "upkeep_over_"].iter().any(|start| counter.name.starts_with(start));
        if !of_machine
            && !["forwarded", "handed_over", "connections_expired"].contains(&counter.name.as_str())
        {
            *counts.entry(counter.name.clone()).or_default() += counter.per_worker.iter().sum::<u64>();
        }
    }
    counts
}

fn pipe_path(dir: &Path, port: Port) -> PathBuf {
    dir.join(format!("{}-in", port.name()))
}

/// A named pipe with a pcap file's header in it.
fn open_pipe(path: &Path) -> Result<File> {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let header: Vec<u8> =
        [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1].iter().flat_map(|word| word.to_le_bytes()).collect();
    pipe.write_all(&header)?;
    Ok(pipe)
}

/// A record of a pcap file.
fn record(frame: &[u8]) -> Vec<u8> {
    let len = frame.len() as u32;
    let header = [0, 0, len, len].into_iter().flat_map(u32::to_le_bytes);
    header.chain(frame.iter().copied()).collect()
}

fn write_config(dir: &Path, instance: &str, workers: usize, connections_max: u32) -> Result<PathBuf> {
    let at = dir.display();
    let port = |port: Port| {
        let name = port.name();
        format!(
            "[[port]]\nname = \"{name}\"\ndevice = \"net_pcap,rx_pcap={at}/{name}-in,tx_pcap={at}/{name}-out.pcap\"\n\
             kernel_interface = \"\"\nrx_descriptors = 64\ntx_descriptors = 64\n"
        )
    };
    let text = format!(
        "[dataplane]\nworkers = {workers}\nhuge_pages = \"never\"\nmemory_mib = 128\nmbufs = 8192\n\
         connections_max = {connections_max}\nservices_max = 512\nreal_servers_max = 512\ninstance = \"{instance}\"\n\
         api_socket = \"{at}/api.sock\"\nseed = 1\n{}{}",
        port(Port::Wan),
        port(Port::Lan)
    );
    let path = dir.join("tollgate.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}
