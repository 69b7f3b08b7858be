//! `health_check`.

use std::time::Duration;

use crate::model::{CheckKind, HealthCheck};
use crate::reader::{Fault, Reader, Schema, printable};
use crate::value;

pub(crate) const HEALTH_CHECK: Schema = Schema {
    name: "health_check = { … }",
    keys: &["type", "path", "host", "status", "port", "interval", "timeout", "rise", "fall"],
    not_built: &[],
};

const HTTP_ONLY: [&str; 3] = ["path", "host", "status"];
const INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;

#[derive(Clone, Copy, PartialEq)]
enum Type {
    None,
    Tcp,
    Http,
}

/// The check, `None` for `type = "none"`.
pub(crate) fn health_check(table: &Reader<'_>) -> Option<HealthCheck> {
    table.require("type", "\"tcp\"");
    let kind = table.parsed("type", "\"tcp\"", |text| match text {
        "https" | "ssl" | "smtp" | "dns" | "ping" | "misc" | "udp" | "bfd" => {
            Err(value::not_built("health check", text, &["tcp", "http", "none"]))
        }
        _ => crate::reader::choose(text, &[("tcp", Type::Tcp), ("http", Type::Http), ("none", Type::None)]),
    });
    let kind = kind.map(|at| at.value);
    for key in HTTP_ONLY.into_iter().filter(|key| table.has(key)) {
        if matches!(kind, Some(Type::Tcp | Type::None)) {
            let fault =
                Fault::new("this is a part of HTTP checks", "set `type = \"http\"` or take the key away");
            table.fault(&table.span, key, fault);
        }
    }
    let http = http(table);
    let check = HealthCheck {
        kind: if kind == Some(Type::Http) { http } else { CheckKind::Tcp },
        port: table.integer_or_word("port", 1..=65_535, "real"),
        interval: duration(table, "interval", 100).unwrap_or(INTERVAL_DEFAULT),
        timeout: duration(table, "timeout", 10).unwrap_or(TIMEOUT_DEFAULT),
        rise: table.integer("rise", 1..=1000).map_or(RISE_DEFAULT, |at| at.value),
        fall: table.integer("fall", 1..=1000).map_or(FALL_DEFAULT, |at| at.value),
    };
    (kind != Some(Type::None)).then_some(check)
}

fn http(table: &Reader<'_>) -> CheckKind {
    let path = table.parsed("path", "\"/health\"", |text| {
        // What would end the request line, or is no printable ASCII, cannot stand in a request target.
        if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(text.to_owned())
        } else {
            let message = format!("`{}` is not a path", printable(text));
            Err(Fault::new(message, "write one like \"/health\", without spaces"))
        }
    });
    let host = if table.is_word("host", "real") {
        None
    } else {
        table.parsed("host", "\"www.example.org\"", |text| {
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
                Ok(text.to_owned())
            } else {
                let message = format!("`{}` cannot be a Host header", printable(text));
                Err(Fault::new(message, "write a host name like \"www.example.org\""))
            }
        })
    };
    CheckKind::Http {
        path: path.map_or_else(|| "/".to_owned(), |at| at.value),
        host: host.map(|at| at.value),
        status: status(table),
    }
}

fn status(table: &Reader<'_>) -> Vec<(u16, u16)> {
    let example = "[\"200-299\", 301]";
    let Some(items) = table.list("status", example) else { return vec![(200, 299)] };
    if items.is_empty() {
        let fault = Fault::new("the list is empty, so no answer could pass", format!("write e.g. {example}"));
        table.fault(&table.span, "status", fault);
    }
    let read = items.iter().filter_map(|item| {
        if item.is_integer() {
            item.integer::<u16>(100..=599).map(|at| (at.value, at.value))
        } else {
            item.parsed(example, value::status_range).map(|at| at.value)
        }
    });
    read.collect()
}

fn duration(table: &Reader<'_>, key: &'static str, low_ms: u64) -> Option<Duration> {
    let (low, high) = (Duration::from_millis(low_ms), Duration::from_secs(3600));
    table.parsed(key, "\"2s\"", |text| value::duration_within(text, low, high)).map(|at| at.value)
}
