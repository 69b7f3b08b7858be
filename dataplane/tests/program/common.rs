//! Starts the real program on pcap files and speaks its API.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use api::frame;
use api::{Request, Response};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// MAC addresses that net_pcap gives to the first and the second port of a process.
pub(crate) const WAN_MAC: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0x00];
pub(crate) const LAN_MAC: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0x01];

/// A dataplane and its directory; ended, if need be by force, when dropped.
pub(crate) struct Dataplane {
    child: Child,
    pub(crate) directory: PathBuf,
}

/// The `[dataplane]` of all tests.
pub(crate) fn dataplane_section(directory: &Path, workers: u16) -> String {
    format!(
        r#"
[dataplane]
workers = {workers}
huge_pages = "never"
memory_mib = 128
mbufs = 8192
idle = "adaptive"
connections_max = 1000
services_max = 16
real_servers_max = 64
instance = "test"
api_socket = "{}/api.sock"
seed = 1
"#,
        directory.display()
    )
}

/// A configuration of two net_pcap ports in `directory`; `wan` receives the frames of `wan.pcap` again and again.
pub(crate) fn write_config(directory: &Path, workers: u16) -> PathBuf {
    let at = directory.display();
    let dataplane = dataplane_section(directory, workers);
    let text = format!(
        r#"{dataplane}
[[port]]
name = "wan"
device = "net_pcap,rx_pcap={at}/wan.pcap,tx_pcap={at}/wan-out.pcap,infinite_rx=1"
kernel_interface = ""
rx_descriptors = 64
tx_descriptors = 64

[[port]]
name = "lan"
device = "net_pcap,rx_pcap={at}/lan.pcap,tx_pcap={at}/lan-out.pcap"
kernel_interface = ""
rx_descriptors = 64
tx_descriptors = 64
"#
    );
    write_text(directory, &text)
}

/// Writes a configuration.
pub(crate) fn write_text(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("tollgate.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> (ExitStatus, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate-dataplane")).args(arguments).output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

impl Dataplane {
    /// Starts it on `wan` frames and waits until it serves.
    pub(crate) fn start(directory: &Path, workers: u16, wan: &[Vec<u8>]) -> Dataplane {
        let config = write_config(directory, workers);
        Dataplane::start_with(directory, &config, wan, None)
    }

    /// The same with a configuration of the test's own, in a network namespace if need be.
    pub(crate) fn start_with(
        directory: &Path,
        config: &Path,
        wan: &[Vec<u8>],
        netns: Option<&str>,
    ) -> Dataplane {
        write_pcap(&directory.join("wan.pcap"), wan);
        write_pcap(&directory.join("lan.pcap"), &[]);
        let log = fs::File::create(directory.join("log")).unwrap();
        let program = env!("CARGO_BIN_EXE_tollgate-dataplane");
        let mut command = match netns {
            None => Command::new(program),
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns, program]);
                command
            }
        };
        let child = command.arg("--config").arg(config).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut dataplane = Dataplane { child, directory: directory.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if UnixStream::connect(dataplane.socket()).is_ok() {
                return dataplane;
            }
            let ended = dataplane.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", dataplane.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("api.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// A connection after the greeting.
    pub(crate) fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        frame::greet(&mut stream).unwrap();
        stream
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &Request) -> Response {
        let mut stream = self.connect();
        frame::write(&mut stream, request).unwrap();
        frame::read(&mut stream).unwrap().unwrap_or_else(|| panic!("no answer; {}", self.log()))
    }

    /// Asks again and again until `wanted` finds what it looks for.
    pub(crate) fn wait_for<T>(&self, request: &Request, wanted: impl Fn(&Response) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = self.ask(request);
            if let Some(found) = wanted(&response) {
                return found;
            }
            assert!(Instant::now() < deadline, "still {response:?}; {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it by a signal and waits; returns how it ended.
    pub(crate) fn stop(&mut self, signal: nix::sys::signal::Signal) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes frames as a classic pcap file.
pub(crate) fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    fs::write(path, bytes).unwrap();
}

/// The frames of a classic pcap file; a last one that is cut is left out.
pub(crate) fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.get(24..).unwrap_or(&[]);
    let mut frames = Vec::new();
    while let Some(header) = rest.first_chunk::<16>() {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some(frame) = rest.get(16..16 + len) else { break };
        frames.push(frame.to_vec());
        rest = &rest[16 + len..];
    }
    frames
}
