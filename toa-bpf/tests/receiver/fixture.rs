//! What each test begins with.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard};

use nix::sched::{CloneFlags, unshare};

use crate::probe::cases::{CLIENT, toa};
use crate::probe::peer::Peer;
use crate::probe::tun::Tun;
use crate::probe::{self, LIP, SERVER, TRUST, vector};

/// Control groups belong to the process, so one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A control group with this process in it, a BPF file system, and a namespace with a TUN device for this thread.
pub(crate) struct Fixture {
    pub(crate) tun: Tun,
    pub(crate) group: PathBuf,
    home: PathBuf,
    pub(crate) pins: PathBuf,
    bpffs: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    pub(crate) fn new(name: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let root = cgroup2_root();
        let home = own_group(&root);
        let group = root.join(format!("tgtoa-{name}-{}", std::process::id()));
        fs::create_dir(&group).expect("this test needs root and control groups version 2");
        fs::write(group.join("cgroup.procs"), "0").unwrap();
        // The pid keeps parallel runs of this test apart; the mount is taken away in drop.
        let bpffs = PathBuf::from(format!("/tmp/tgtoa-bpffs-{name}-{}", std::process::id()));
        fs::create_dir(&bpffs).unwrap();
        run("mount", &["-t", "bpf", "tgtoa", bpffs.to_str().unwrap()]);
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let tun = probe::set_up("tgtoa0").unwrap();
        Self { tun, group, home, pins: bpffs.join("toa"), bpffs, _turn: turn }
    }

    pub(crate) fn tool(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tollgate-toa"))
            .args(arguments)
            .arg("--pin-dir")
            .arg(&self.pins)
            .output()
            .unwrap()
    }

    pub(crate) fn attach(&self) {
        self.attach_with(&[]);
    }

    pub(crate) fn attach_with(&self, more: &[&str]) {
        let trust = TRUST.join(",");
        let arguments = ["attach", "--trust", &trust, "--cgroup", self.group.to_str().unwrap()];
        let output = self.tool(&[&arguments, more].concat());
        assert!(output.status.success(), "attach failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let output = self.tool(&["status", "--json"]);
        assert!(output.status.success(), "status failed: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Connects with the option on the final ACK and returns the address that `accept` shows.
    pub(crate) fn seen_by(&self, listener: &TcpListener, port: u16) -> SocketAddr {
        let server = SocketAddr::new(SERVER.parse().unwrap(), listener.local_addr().unwrap().port());
        let peer = Peer::open(&self.tun, lip(port), server, &[]).unwrap();
        peer.acknowledge(&toa(254, CLIENT)).unwrap();
        let (_, seen) = vector::accept(listener).unwrap();
        peer.reset().unwrap();
        seen
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.tool(&["detach"]);
        let _ = Command::new("umount").arg(&self.bpffs).status();
        let _ = fs::remove_dir(&self.bpffs);
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.group);
    }
}

pub(crate) fn lip(port: u16) -> SocketAddr {
    SocketAddr::new(LIP.parse().unwrap(), port)
}

pub(crate) fn cgroup2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(line.expect("no control groups version 2 are mounted").split(' ').nth(1).unwrap())
}

/// The group this process is in, to go back to.
fn own_group(root: &Path) -> PathBuf {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let line = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    root.join(line.trim_start_matches('/'))
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} failed");
}
