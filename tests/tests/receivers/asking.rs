//! Clients, what they speak, and how the real server's kernel proves that it took part.

use anyhow::{Result, ensure};
use tollgate_tests::Cmd;
use tollgate_tests::netns::Netns;

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// By plain TCP.
    Plainly,
    /// By TLS of this version at most, which the guest's kernel encrypts.
    Tls(&'static str),
    /// By MPTCP.
    Mptcp,
}

impl Asking {
    /// What comes from `url` is of no importance: nginx's log is looked at.
    pub(crate) fn get(self, client: &Netns, url: &str) -> Result<()> {
        let curl = |arguments: &[&str]| Cmd::line("curl -sS --fail --max-time 20").args(arguments).arg(url);
        let command = match self {
            Asking::Plainly => curl(&[]),
            Asking::Tls(version) => curl(&["-k", "--tls-max", version]),
            Asking::Mptcp => Cmd::line("python3 -c").arg(MPTCP_CLIENT).arg(url),
        };
        let said = command.in_netns(client).run()?.stdout;
        ensure!(said.ends_with("guest"), "the answer from {url} is {said:?}");
        Ok(())
    }

    /// A file of the guest with a counter that has to go up meanwhile, and the counter's name.
    pub(crate) fn proof(self) -> Option<(&'static str, &'static str)> {
        match self {
            Asking::Plainly => None,
            Asking::Tls(_) => Some(("/proc/net/tls_stat", "TlsTxSw")),
            Asking::Mptcp => Some(("/proc/net/netstat", "MPCapableACKRX")),
        }
    }
}

/// Asks a URL whose host is an address, with a port. 262 is IPPROTO_MPTCP.
const MPTCP_CLIENT: &str = r#"
import socket, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
family = socket.AF_INET6 if ":" in url.hostname else socket.AF_INET
client = socket.socket(family, socket.SOCK_STREAM, 262)
client.settimeout(20)
client.connect((url.hostname, url.port))
client.sendall(f"GET {url.path} HTTP/1.0\r\n\r\n".encode())
answer = b""
while more := client.recv(4096):
    answer += more
sys.stdout.write(answer.decode())
"#;

/// The value of a counter in a file of either form: `NAME VALUE`, or a line of names above one of values.
pub(crate) fn counter(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let (row, column) = (0..)
        .zip(&lines)
        .find_map(|(row, words)| Some((row, words.iter().position(|word| *word == name)?)))?;
    let value = if column == 0 { lines[row].get(1) } else { lines.get(row + 1)?.get(column) };
    value?.parse().ok()
}
