//! A real Prometheus that scrapes control.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::netns::Netns;
use crate::process::{Bond, Process};
use crate::run::Cmd;
use crate::wait::{wait_for, wait_until};

const START_LIMIT: Duration = Duration::from_secs(30);

/// A Prometheus on 127.0.0.1:9090 of a namespace.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
}

/// One series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: serde_json::Map<String, Value>,
    /// Its value.
    pub value: f64,
}

impl Prometheus {
    /// Starts it, scraping `target` (address and port) every second, and waits until it is ready.
    pub fn start(netns: &Netns, target: &str, dir: &Path, bond: Bond) -> Result<Prometheus> {
        let config = dir.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s }}\n\
             scrape_configs:\n  - job_name: tollgate\n    static_configs: [ {{ targets: [\"{target}\"] }} ]\n"
        );
        std::fs::write(&config, text)?;
        let command = Cmd::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg("--web.listen-address=127.0.0.1:9090")
            .arg("--log.level=warn");
        let mut process = Process::spawn("prometheus", netns, &command, dir, bond)?;
        wait_until("Prometheus is ready", START_LIMIT, || {
            process.must_run()?;
            let probe = Cmd::line("curl -sf -o /dev/null http://127.0.0.1:9090/-/ready").in_netns(netns);
            Ok(probe.run_any()?.code == Some(0))
        })?;
        Ok(Prometheus { process })
    }

    /// Asks a query until its answer has a series.
    pub fn wait_for_query(&mut self, netns: &Netns, query: &str) -> Result<Vec<Sample>> {
        wait_for(&format!("an answer of Prometheus to {query}"), START_LIMIT, || {
            let samples = self.query(netns, query)?;
            Ok((!samples.is_empty()).then_some(samples))
        })
    }

    /// Asks a query through the HTTP API.
    pub fn query(&mut self, netns: &Netns, query: &str) -> Result<Vec<Sample>> {
        self.process.must_run()?;
        let said = Cmd::line("curl -sS --max-time 10 -G http://127.0.0.1:9090/api/v1/query --data-urlencode")
            .arg(format!("query={query}"))
            .in_netns(netns)
            .run()?;
        parse_answer(&said.stdout).with_context(|| format!("query `{query}`"))
    }
}

impl Sample {
    /// A label's value; empty when it has none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).and_then(Value::as_str).unwrap_or("")
    }
}

fn parse_answer(text: &str) -> Result<Vec<Sample>> {
    let answer: Value = serde_json::from_str(text).with_context(|| format!("Prometheus said: {text}"))?;
    if answer["status"] != "success" {
        bail!("Prometheus said: {text}");
    }
    let series = answer["data"]["result"].as_array().context("no result")?;
    series
        .iter()
        .map(|series| {
            let labels = series["metric"].as_object().cloned().unwrap_or_default();
            let value = series["value"][1].as_str().context("no value")?.parse()?;
            Ok(Sample { labels, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_a_refusal_is_an_error() {
        let text = r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"__name__":"up","job":"tollgate"},"value":[1.5,"1"]}]}}"#;
        let samples = parse_answer(text).unwrap();
        assert_eq!(samples[0].value, 1.0);
        assert_eq!(samples[0].labels["job"], "tollgate");
        assert!(parse_answer(r#"{"status":"error","error":"parse error"}"#).is_err());
    }
}
