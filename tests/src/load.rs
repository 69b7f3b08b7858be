//! Clients: curl and wrk.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::Netns;
use crate::run::Cmd;

/// What came of many requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// How often each real server answered.
    pub by_server: BTreeMap<String, u32>,
    /// Requests without a right answer.
    pub failed: u32,
    /// What curl said of them.
    pub complaints: Vec<String>,
}

impl Answers {
    /// How often this server answered.
    pub fn of(&self, server: &str) -> u32 {
        self.by_server.get(server).copied().unwrap_or(0)
    }

    /// All answers.
    pub fn answered(&self) -> u32 {
        self.by_server.values().sum()
    }

    /// Adds those of another client.
    pub fn add(&mut self, other: Answers) {
        self.failed += other.failed;
        self.complaints.extend(other.complaints);
        for (server, count) in other.by_server {
            *self.by_server.entry(server).or_default() += count;
        }
    }
}

/// One request by curl on a connection of its own; the answer's body, or what went wrong.
pub fn get(client: &Netns, url: &str) -> Result<String> {
    Ok(Cmd::line("curl -sS --fail --max-time 5").arg(url).in_netns(client).run()?.stdout.trim().to_owned())
}

/// `count` requests by curl, one after the other, each on a connection of its own.
pub fn get_many(client: &Netns, url: &str, count: u32) -> Result<Answers> {
    const SCRIPT: &str =
        r#"i=0; while [ $i -lt "$1" ]; do curl -sS --fail --max-time 3 "$2" || echo; i=$((i+1)); done"#;
    let limit = Duration::from_secs(10) + Duration::from_secs(3) * count;
    let command = Cmd::line("sh -c").arg(SCRIPT).arg("requests").arg(count.to_string()).arg(url);
    let said = command.limit(limit).in_netns(client).run_any()?;
    let complaints = said.stderr.lines().map(str::to_owned).collect();
    let mut answers = Answers { complaints, ..Answers::default() };
    for line in said.stdout.lines().filter(|line| !line.is_empty()) {
        *answers.by_server.entry(line.to_owned()).or_default() += 1;
    }
    let answered = answers.answered();
    answers.failed =
        count.checked_sub(answered).with_context(|| format!("{answered} answers to {count} requests"))?;
    Ok(answers)
}

/// How wrk shall load a service.
#[derive(Debug, Clone, Copy)]
pub struct Wrk {
    /// Connections at a time.
    pub connections: u32,
    /// How long.
    pub duration: Duration,
    /// Whether each request has a connection of its own.
    pub close: bool,
}

/// What wrk found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WrkReport {
    /// Requests answered.
    pub requests: u64,
    /// Requests answered per second.
    pub per_second: f64,
    /// Average and 99th percentile of the latency, as wrk prints them.
    pub latency: (String, String),
    /// Socket errors of any kind, and answers other than 2xx or 3xx.
    pub errors: u64,
}

impl Wrk {
    /// The command.
    pub fn command(&self, url: &str) -> Cmd {
        let Wrk { connections, duration, .. } = self;
        let line = format!("wrk --latency -t1 -c{connections} -d{}s --timeout 5s", duration.as_secs());
        let command = Cmd::line(&line).limit(*duration + Duration::from_secs(20));
        if self.close { command.arg("-H").arg("Connection: close").arg(url) } else { command.arg(url) }
    }

    /// Runs it in `client`; says which errors there were, if any.
    pub fn run(&self, client: &Netns, url: &str) -> Result<WrkReport> {
        let command = self.command(url).in_netns(client);
        let said = command.run()?.stdout;
        let report = parse_wrk(&said)?;
        if report.errors > 0 {
            eprintln!("{command}\n{said}");
        }
        Ok(report)
    }
}

/// Reads what wrk has printed.
pub fn parse_wrk(text: &str) -> Result<WrkReport> {
    let mut report = WrkReport::default();
    let mut complete = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            ["Latency", average, _, _, _] => report.latency.0 = (*average).to_owned(),
            ["99%", value] => report.latency.1 = (*value).to_owned(),
            [count, "requests", "in", ..] => report.requests = count.parse()?,
            ["Requests/sec:", value] => {
                report.per_second = value.parse()?;
                complete = true;
            }
            ["Socket", "errors:", rest @ ..] => {
                report.errors += rest.iter().filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
            }
            ["Non-2xx", "or", "3xx", "responses:", count] => report.errors += count.parse::<u64>()?,
            _ => {}
        }
    }
    if !complete {
        bail!("wrk did not finish:\n{text}");
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_that_wrk_prints_is_counted() {
        let text = "Running 10s test @ http://10.1.0.100/\n  1 threads and 32 connections\n\
            Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   481.34us  470.50us   7.17ms   95.41%\n\
            Req/Sec    59.10k     2.64k   62.45k    88.24%\n  Latency Distribution\n     50%  400.00us\n     99%    2.10ms\n\
            300941 requests in 5.10s, 43.91MB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n\
            Non-2xx or 3xx responses: 5\nRequests/sec:  59027.72\nTransfer/sec:      8.61MB\n";
        let report = parse_wrk(text).unwrap();
        assert_eq!(report.requests, 300_941);
        assert_eq!(report.errors, 15);
        assert_eq!(report.latency, ("481.34us".to_owned(), "2.10ms".to_owned()));
    }

    #[test]
    fn a_wrk_that_was_cut_off_is_an_error() {
        assert!(parse_wrk("Running 10s test @ http://10.1.0.100/\n").is_err());
    }
}
