//! The testpmd command files in configs/testpmd do what they say, on a port without hardware, with the options of the
//! command lines in docs/load-tests.md.
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files: Vec<_> = std::fs::read_dir(root.join("configs/testpmd"))
        .unwrap()
        .map(|entry| format!("configs/testpmd/{}", entry.unwrap().file_name().display()))
        .collect();
    files.sort();
    let lines = documented(&std::fs::read_to_string(root.join("docs/load-tests.md")).unwrap());
    let mut started: Vec<_> = lines.iter().map(|(file, _)| file.clone()).collect();
    started.sort();
    started.dedup();
    assert_eq!(started, files, "files that docs/load-tests.md starts, and those that there are");
    for (file, options) in lines {
        let said = run(&root.join(&file), &options);
        for complaint in COMPLAINTS {
            assert!(!said.contains(complaint), "{file} with {options:?}: {complaint}\n{said}");
        }
    }
}

/// The command file and the other options for testpmd of every command line in a page.
fn documented(page: &str) -> Vec<(String, Vec<String>)> {
    let page = page.replace("\\\n", " ");
    let lines = page.lines().filter(|line| line.starts_with("dpdk-testpmd "));
    lines
        .map(|line| {
            let (_eal, options) = line.split_once(" -- ").expect("options for testpmd");
            let options = options.replace("GATEWAY-MAC", "02:00:00:00:00:01");
            let mut options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
            let last = options.pop().expect("options");
            (last.strip_prefix("--cmdline-file=").expect("the command file comes last").to_owned(), options)
        })
        .collect()
}

/// Runs testpmd with a command file until packets have left; what it said.
fn run(file: &Path, options: &[String]) -> String {
    let mut testpmd = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "stdbuf", "-oL", "dpdk-testpmd"])
        .args(["--lcores=(0-4)@(0-1)", "--no-huge", "-m", "128", "--no-pci", "--no-telemetry"])
        .arg(format!("--file-prefix=tollgate-testpmd-files-{}", std::process::id()))
        .args(["--vdev=net_null0", "--", "--total-num-mbufs=8192", "--no-lsc-interrupt"])
        .args(options)
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
