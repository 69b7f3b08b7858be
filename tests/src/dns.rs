//! A DNS server and its client: dnsmasq, dig.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::netns::Netns;
use crate::process::{Bond, Process};
use crate::run::{Cmd, Said};
use crate::wait::wait_until;

const START_LIMIT: Duration = Duration::from_secs(10);

/// dnsmasq on port 53 of a namespace, over IPv4 and IPv6. It knows one thing: the text of `who.test` is its own
/// name.
#[derive(Debug)]
pub struct Dns {
    _process: Process,
}

impl Dns {
    /// Starts it and waits until it listens.
    pub fn start(name: &str, netns: &Netns, dir: &Path) -> Result<Dns> {
        let line = format!(
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root \
             --pid-file={dir}/{name}.dnsmasq.pid --no-resolv --no-hosts --local=/test/ --txt-record=who.test,{name}",
            dir = dir.display(),
        );
        let mut process =
            Process::spawn(&format!("{name}.dns"), netns, &Cmd::line(&line), dir, Bond::DiesWithParent)?;
        wait_until(&format!("{name} listens on port 53"), START_LIMIT, || {
            process.must_run()?;
            let sockets = Cmd::line("ss -Hlun sport = :53").in_netns(netns).run()?.stdout;
            Ok(sockets.lines().count() >= 2)
        })?;
        Ok(Dns { _process: process })
    }
}

/// One query by dig, whatever comes of it.
pub fn ask(client: &Netns, server: &str, port: u16) -> Result<Said> {
    let line = format!("dig +short +time=2 +tries=1 -p {port} @{server} who.test TXT");
    Cmd::line(&line).in_netns(client).run_any()
}

/// Which server answers.
pub fn who(client: &Netns, server: &str) -> Result<String> {
    Ok(ask(client, server, 53)?.stdout.trim().trim_matches('"').to_owned())
}
