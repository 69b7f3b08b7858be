//! `health_check`.

use std::time::Duration;

use crate::model::{CheckKind, DnsRecord, HealthCheck};
use crate::reader::{Fault, Reader, Schema, choose, printable};
use crate::value;

pub(crate) const HEALTH_CHECK: Schema = Schema {
    name: "health_check = { … }",
    keys: &[
        "type", "path", "host", "status", "name", "record", "payload", "reply", "port", "interval",
        "timeout", "rise", "fall",
    ],
    not_built: &[],
};

/// Keys that belong to one type of check.
const PARTS: [(&str, Type); 7] = [
    ("path", Type::Http),
    ("host", Type::Http),
    ("status", Type::Http),
    ("name", Type::Dns),
    ("record", Type::Dns),
    ("payload", Type::Udp),
    ("reply", Type::Udp),
];
const INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;

#[derive(Clone, Copy, PartialEq)]
enum Type {
    None,
    Tcp,
    Http,
    Dns,
    Udp,
}

impl Type {
    const ALL: [(&str, Type); 5] = [
        ("tcp", Type::Tcp),
        ("http", Type::Http),
        ("dns", Type::Dns),
        ("udp", Type::Udp),
        ("none", Type::None),
    ];
}

/// The check, `None` for `type = "none"`.
pub(crate) fn health_check(table: &Reader<'_>) -> Option<HealthCheck> {
    table.require("type", "\"tcp\"");
    let kind = table.parsed("type", "\"tcp\"", |text| match text {
        "https" | "ssl" | "smtp" | "ping" | "misc" | "bfd" => {
            Err(value::not_built("health check", text, &Type::ALL.map(|(word, _)| word)))
        }
        _ => choose(text, &Type::ALL),
    });
    let kind = kind.map(|at| at.value);
    for (key, of) in PARTS.into_iter().filter(|(key, _)| table.has(key)) {
        if kind.is_some_and(|kind| kind != of) {
            let word = Type::ALL.iter().find(|(_, kind)| *kind == of).map_or("", |(word, _)| word);
            let message = format!("this is a part of `{word}` checks");
            let fault = Fault::new(message, format!("set `type = \"{word}\"` or take the key away"));
            table.fault(&table.span, key, fault);
        }
    }
    let (http, dns, udp) = (http(table), dns(table), udp(table));
    let check = HealthCheck {
        kind: match kind {
            Some(Type::Http) => http,
            Some(Type::Dns) => dns,
            Some(Type::Udp) => udp,
            None | Some(Type::None | Type::Tcp) => CheckKind::Tcp,
        },
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
        // What would end the request line, or has no place in a request target (RFC 3986 §3.3, §3.5).
        let good = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>`".contains(&byte);
        if text.starts_with('/') && text.bytes().all(good) {
            Ok(text.to_owned())
        } else {
            let message = format!("`{}` is not a path", printable(text));
            let help = "write one like \"/health\", with `%20` for a space and so for \", #, <, > and `";
            Err(Fault::new(message, help))
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

fn dns(table: &Reader<'_>) -> CheckKind {
    let records = [
        ("a", DnsRecord::A),
        ("aaaa", DnsRecord::Aaaa),
        ("cname", DnsRecord::Cname),
        ("mx", DnsRecord::Mx),
        ("ns", DnsRecord::Ns),
        ("soa", DnsRecord::Soa),
        ("txt", DnsRecord::Txt),
    ];
    CheckKind::Dns {
        name: table
            .parsed("name", "\"www.example.org\"", value::dns_name)
            .map_or_else(|| ".".to_owned(), |at| at.value),
        record: table.choice("record", &records).map_or(DnsRecord::Soa, |at| at.value),
    }
}

fn udp(table: &Reader<'_>) -> CheckKind {
    let replies = [("optional", false), ("required", true)];
    CheckKind::Udp {
        payload: table.parsed("payload", "\"0a0b\"", value::hex).map_or_else(Vec::new, |at| at.value),
        needs_reply: table.choice("reply", &replies).is_some_and(|at| at.value),
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
