//! The testpmd command files in configs/testpmd do what they say, on a port without hardware.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
/// What testpmd says of a command that it does not know or cannot carry out.
const COMPLAINTS: [&str; 4] = ["Command not found", "Bad arguments", "Ambiguous command", "Invalid"];

#[test]
fn every_command_is_known_and_packets_leave() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/testpmd");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let said = run(&file);
        for complaint in COMPLAINTS {
            assert!(!said.contains(complaint), "{}: {complaint}\n{said}", file.display());
        }
    }
}

/// Runs testpmd with a command file until packets have left; what it said.
fn run(file: &Path) -> String {
    let mut testpmd = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "stdbuf", "-oL", "dpdk-testpmd"])
        .args(["--lcores=0@(0-1),1@(0-1)", "--no-huge", "-m", "128", "--no-pci", "--no-telemetry"])
        .arg(format!("--file-prefix=tollgate-testpmd-files-{}", std::process::id()))
        .args(["--vdev=net_null0", "--", "--interactive", "--total-num-mbufs=4096", "--no-lsc-interrupt"])
        .arg(format!("--cmdline-file={}", file.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("testpmd starts");
    let mut input = testpmd.stdin.take().unwrap();
    let output = BufReader::new(testpmd.stdout.take().unwrap());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
    });
    let (deadline, mut said, mut sent) = (Instant::now() + LIMIT, String::new(), 0);
    while sent == 0 && Instant::now() < deadline && testpmd.try_wait().unwrap().is_none() {
        writeln!(input, "show port stats 0").ok();
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(200)) {
            let count =
                line.trim_start().strip_prefix("TX-packets:").and_then(|rest| rest.split_whitespace().next());
            sent = count.map_or(sent, |count| count.parse().unwrap());
            said += &line;
            said += "\n";
        }
    }
    writeln!(input, "stop\nquit").ok();
    while testpmd.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    testpmd.kill().ok();
    testpmd.wait().unwrap();
    assert!(sent > 0, "{}: no packet has left\n{said}", file.display());
    said
}
