use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod forwarding;
mod services;

/// What the default file says in fewer words.
const MINIMAL: &str = r#"
[[port]]
name = "wan"
device = "0000:01:00.0"
addresses = ["10.1.0.1/24", "2001:db8:1::1/64"]
[[port]]
name = "lan"
device = "0000:01:00.1"
addresses = ["10.2.0.1/24", "2001:db8:2::1/64"]
[[local_pool]]
name = "inside"
addresses = ["10.2.0.200-10.2.0.203", "10.2.0.240/30", "10.2.0.9"]
[[service]]
listen = "10.1.0.100:80"
protocol = "tcp"
mode = "fullnat"
[[service.real_server]]
address = "10.2.0.11:80"
[[service]]
listen = "10.1.0.100:8080"
protocol = "tcp"
health_check = { type = "http" }
[[service.real_server]]
address = "10.2.0.12:8080"
[[service]]
listen = ["10.1.0.101:80", "10.1.0.101:443", "10.1.0.102:8000-8100"]
protocol = "tcp"
mode = "tun"
tunnel = "gue"
tunnel_port = 6080
persistence = { netmask = "255.255.255.0" }
sorry_server = { address = "10.2.0.13" }
[[service.real_server]]
address = "10.2.0.14"
[[service]]
listen = "[2001:db8:1::100]:53"
protocol = "udp"
mode = "nat"
persistence = { prefix_len = 64 }
health_check = { type = "dns" }
[[service.real_server]]
address = "[2001:db8:2::11]:53"
health_check = { type = "udp" }
[[neighbour]]
port = "lan"
address = "10.2.0.250"
mac = "02:00:00:00:02:50"
[[route]]
network = "192.0.2.0/24"
port = "lan"
"#;

fn configs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn shown(result: Result<Config, Vec<Diagnostic>>) -> String {
    let lines: Vec<String> = result.unwrap_err().iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// `MINIMAL` with lines added at the end of the table that holds `anchor`.
fn minimal_with(anchor: &str, lines: &str) -> String {
    assert!(MINIMAL.contains(anchor), "{anchor}");
    MINIMAL.replacen(anchor, &format!("{anchor}\n{lines}"), 1)
}

#[track_caller]
fn complains(text: &str, place: &str, wanted: &str) {
    let said = shown(Config::from_str("t", text));
    let hit = said.lines().any(|line| line.starts_with(&format!("t:{place}: ")) && line.contains(wanted));
    assert!(hit, "wanted {place} {wanted}, got:\n{said}");
    assert_eq!(said.lines().count(), 1, "more than one complaint:\n{said}");
}

#[test]
fn the_default_file_loads_to_the_defaults() {
    let path = configs().join("default.toml");
    let reference = Config::load(&path).unwrap_or_else(|found| panic!("{found:#?}"));
    let minimal = Config::from_str("minimal", MINIMAL).unwrap_or_else(|found| panic!("{found:#?}"));
    assert_eq!(reference, minimal);
    assert_eq!(reference.dataplane, Dataplane::default());
    assert_eq!(reference.control, Control::default());
    assert_eq!(reference.timeouts, api::Timeouts::default());
}

#[test]
fn every_known_key_occurs_in_the_default_file() {
    let text = std::fs::read_to_string(configs().join("default.toml")).unwrap();
    let root: toml::Table = text.parse().unwrap();
    let all = |path: &[&str]| -> Vec<toml::Table> {
        path.iter().fold(vec![root.clone()], |tables, key| {
            let values = tables.iter().filter_map(|table| table.get(*key));
            values
                .flat_map(|value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]))
                .filter_map(|value| value.as_table().cloned())
                .collect()
        })
    };
    for (name, keys) in known_keys() {
        let tables = match name {
            "the file" => vec![root.clone()],
            "health_check = { … }" => {
                let mut checks = all(&["service", "health_check"]);
                checks.extend(all(&["service", "real_server", "health_check"]));
                checks
            }
            "persistence = { … }" => all(&["service", "persistence"]),
            "sorry_server = { … }" => all(&["service", "sorry_server"]),
            _ => all(&name.trim_matches(['[', ']']).split('.').collect::<Vec<_>>()),
        };
        for key in keys {
            assert!(
                tables.iter().any(|table| table.contains_key(*key)),
                "default.toml has no {key} in {name}"
            );
        }
    }
}

#[test]
fn every_key_of_the_default_file_is_explained_above_it() {
    let text = std::fs::read_to_string(configs().join("default.toml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let is_key = pair[1].contains(" = ") && pair[1].starts_with(|c: char| c.is_ascii_lowercase());
        assert!(!is_key || pair[0].starts_with("# "), "not explained: {}", pair[1]);
    }
}

#[test]
fn every_example_is_valid() {
    let examples = std::fs::read_dir(configs().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let toml = examples.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    for path in toml.chain([configs().join("demo.toml")]) {
        Config::load(&path).unwrap_or_else(|found| panic!("{found:#?}"));
    }
}

#[test]
fn the_configurations_in_the_readme_load() {
    let readme = std::fs::read_to_string(configs().join("../README.md")).unwrap();
    let blocks: Vec<&str> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "README.md shows no configuration");
    for block in blocks {
        let config =
            Config::from_str("README.md", block).unwrap_or_else(|found| panic!("{found:#?}\n{block}"));
        assert!(!config.services.is_empty(), "{block}");
    }
}

/// The keys of every `key = value` within a line of a page.
fn keys_named(page: &str) -> impl Iterator<Item = &str> {
    let prose = page.split("```").step_by(2);
    let spans = prose.flat_map(|part| part.split('`').skip(1).step_by(2));
    let pairs = spans.flat_map(|span| span.split(['{', ','])).filter_map(|piece| piece.split_once(" = "));
    pairs.map(|(key, _)| key.trim()).filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

#[test]
fn every_key_that_the_documentation_sets_is_one() {
    let default = std::fs::read_to_string(configs().join("default.toml")).unwrap();
    let lines = default.lines().filter(|line| !line.starts_with('#'));
    let known: HashSet<&str> =
        lines.flat_map(|line| line.split(|c: char| c != '_' && !c.is_ascii_alphanumeric())).collect();
    let docs = std::fs::read_dir(configs().join("../docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut found = 0;
    for path in pages.chain([configs().join("../README.md")]) {
        let page = std::fs::read_to_string(&path).unwrap();
        for key in keys_named(&page) {
            assert!(known.contains(key), "{} sets `{key}`, which is no key", path.display());
            found += 1;
        }
    }
    assert!(found > 50, "only {found} were found");
}

#[test]
fn references_left_out_are_filled_in() {
    let config = Config::from_str("t", MINIMAL).unwrap();
    assert_eq!(config.services[0].vips, [([10, 1, 0, 100].into(), "wan".to_owned())]);
    assert_eq!(config.services[0].local_pool, "inside");
    assert_eq!(config.services[0].name, "10.1.0.100:80/tcp");
    assert_eq!(config.local_pools[0].port, "lan");
    assert_eq!(config.ports[1].kernel_interface.as_deref(), Some("lan"));
    let expected: Vec<IpAddr> =
        [200, 201, 202, 203, 240, 241, 242, 243, 9].map(|n| [10, 2, 0, n].into()).into();
    assert_eq!(config.local_pools[0].addresses, expected);
}

#[test]
fn a_real_server_inherits_the_check_of_its_service_unless_it_has_its_own() {
    let own = minimal_with(
        "address = \"10.2.0.12:8080\"",
        "health_check = { type = \"tcp\", interval = \"500ms\" }\n\
         [[service.real_server]]\naddress = \"10.2.0.13:8080\"\n\
         [[service.real_server]]\naddress = \"10.2.0.14:8080\"\nhealth_check = { type = \"none\" }",
    );
    let config = Config::from_str("t", &own).unwrap();
    let [first, second, third] = config.services[1].real_servers.as_slice() else { panic!("three servers") };
    assert_eq!(first.health_check.as_ref().unwrap().kind, CheckKind::Tcp);
    assert_eq!(first.health_check.as_ref().unwrap().interval, Duration::from_millis(500));
    assert_eq!(second.health_check, config.services[1].health_check);
    assert_eq!(third.health_check, None);
}

#[test]
fn timeouts_of_a_service_start_from_those_of_the_file() {
    let text = format!(
        "[timeouts]\nfin_wait = \"30s\"\n{}",
        minimal_with("mode = \"fullnat\"", "timeouts = { established = \"1h\" }")
    );
    let config = Config::from_str("t", &text).unwrap();
    let wanted = api::Timeouts { established_s: 3600, fin_wait_s: 30, ..api::Timeouts::default() };
    assert_eq!(config.services[0].timeouts, Some(wanted));
    assert_eq!(config.services[1].timeouts, None);
}

#[test]
fn a_file_full_of_mistakes_is_answered_with_all_of_them() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/testdata/mistakes.toml");
    let text = std::fs::read_to_string(path).unwrap();
    insta::assert_snapshot!(shown(Config::from_str("mistakes.toml", &text)));
}

#[test]
fn broken_syntax_is_told_with_what_is_wrong_elsewhere_but_without_consequences() {
    let text = "[dataplane]\nworkers = = 2\nmemory_mb = 64\n[[port]\nname = \"wan\"\n[control]\nlog = 7\n";
    insta::assert_snapshot!(shown(Config::from_str("broken.toml", text)));
}

#[test]
fn an_empty_file_lacks_a_port() {
    complains("", "1:1", "there is no [[port]]");
}

#[test]
fn columns_count_characters() {
    let text = MINIMAL
        .replace("health_check = { type = \"http\" }", "health_check = { \"é\" = 1, type = \"http\" }");
    complains(&text, "22:18", "unknown key `é`");
}

#[test]
fn overlapping_addresses_are_refused() {
    let vip_in_pool = MINIMAL.replace("10.2.0.9\"", "10.1.0.100\"");
    let said = shown(Config::from_str("t", &vip_in_pool));
    assert_eq!(
        said.lines().filter(|line| line.contains("is a local address of pool `inside`")).count(),
        2,
        "{said}"
    );
    complains(
        &MINIMAL.replace("10.2.0.14", "10.2.0.1"),
        "34:11",
        "real server 10.2.0.1 is the gateway's own on port `lan`, line 9",
    );
    complains(
        &MINIMAL.replace("10.2.0.9\"", "10.2.0.1\""),
        "12:56",
        "is the gateway's own on port `lan`, line 9",
    );
    complains(&MINIMAL.replace("10.2.0.9\"", "10.2.0.240\""), "12:56", "in pool `inside` already");
    complains(
        &MINIMAL.replace("10.2.0.11:80", "10.1.0.100:80"),
        "18:11",
        "is a virtual address of this gateway",
    );
}

#[test]
fn limits_of_the_dataplane_are_checked_against_the_services() {
    let text = format!("[dataplane]\nservices_max = 1\n{MINIMAL}");
    complains(&text, "1:1", "raise `services_max` in [dataplane] to at least 4");
}

#[test]
fn what_is_not_built_says_so_and_names_what_exists() {
    let sctp = MINIMAL.replacen("\"tcp\"", "\"sctp\"", 1);
    complains(&sctp, "15:12", "protocol `sctp` is not built yet; what exists is `tcp` and `udp`");
    let proxy = minimal_with("mode = \"fullnat\"", "syn_proxy = true");
    complains(&proxy, "17:1", "the SYN proxy is not built yet");
}

#[test]
fn a_port_is_in_one_vlan_or_in_none() {
    let vlan = |value: &str| minimal_with("name = \"wan\"", &format!("vlan = {value}"));
    for (value, read) in [("1", Some(1)), ("4094", Some(4094)), ("\"none\"", None)] {
        assert_eq!(Config::from_str("t", &vlan(value)).unwrap().ports[0].vlan, read, "{value}");
    }
    for value in ["0", "4095"] {
        complains(&vlan(value), "4:8", "4094");
    }
}

#[test]
fn steering_is_one_of_four() {
    let with = |steering: &str| format!("[dataplane]\nsteering = \"{steering}\"\n{MINIMAL}");
    complains(&with("rte_flow"), "2:12", "flow");
    let all = [
        ("auto", Steering::Auto),
        ("rss", Steering::Rss),
        ("flow", Steering::Flow),
        ("software", Steering::Software),
    ];
    for (text, wanted) in all {
        assert_eq!(Config::from_str("t", &with(text)).unwrap().dataplane.steering, wanted);
    }
}

#[test]
fn a_log_filter_that_is_none_is_a_mistake_with_its_place() {
    for wrong in ["a=b=c", "info,tollgate=loud", "[unclosed=info"] {
        complains(&format!("[control]\nlog = \"{wrong}\"\n{MINIMAL}"), "2:7", "is not a log filter");
    }
    for right in ["debug", "info,control::health=trace"] {
        let config = Config::from_str("t", &format!("[control]\nlog = \"{right}\"\n{MINIMAL}")).unwrap();
        assert_eq!(config.control.log, right);
    }
}

#[test]
fn one_socket_for_both_programs_is_a_mistake_where_it_is_given() {
    let same = "[dataplane]\napi_socket = \"/run/a.sock\"\n[control]\nsocket = \"/run/a.sock\"\n";
    complains(&format!("{same}{MINIMAL}"), "4:10", "this is `api_socket` in [dataplane] too");
    let default = "[dataplane]\napi_socket = \"/run/tollgate/control.sock\"\n";
    complains(&format!("{default}{MINIMAL}"), "2:14", "this is `socket` in [control] too");
}

#[test]
fn a_missing_file_is_a_mistake_with_its_name() {
    let said = shown(Config::load("/nonexistent/tollgate.toml"));
    assert!(said.starts_with("/nonexistent/tollgate.toml: the file cannot be read"), "{said}");
}

#[test]
fn twenty_thousand_services_are_read_in_seconds() {
    let mut text = "[dataplane]\nservices_max = 20000\nreal_servers_max = 100000\n".to_owned();
    text.push_str(&MINIMAL[..MINIMAL.find("[[service]]").unwrap()]);
    for n in 0..20_000_u32 {
        let (high, low) = (n / 250, n % 250);
        text.push_str(&format!(
            "[[service]]\nlisten = \"10.3.{high}.{low}:80\"\nprotocol = \"tcp\"\nmode = \"fullnat\"\n"
        ));
        for real in 1..=5 {
            text.push_str(&format!("[[service.real_server]]\naddress = \"10.4.{high}.{low}:{real}\"\n"));
        }
    }
    let begun = std::time::Instant::now();
    let config = Config::from_str("large", &text).unwrap();
    assert_eq!(config.services.len(), 20_000);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// Cuts, joins and swaps of a valid file: much nearer to what operators write than random bytes.
fn mutated() -> impl Strategy<Value = String> {
    let default = std::fs::read_to_string(configs().join("default.toml")).unwrap();
    let lines: Vec<String> =
        default.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    prop::collection::vec((0..lines.len(), any::<prop::sample::Index>(), "[\\PC]{0,8}"), 1..40).prop_map(
        move |edits| {
            let mut lines = lines.clone();
            for (at, cut, insert) in edits {
                let line = &mut lines[at];
                let cuts: Vec<usize> = line.char_indices().map(|(at, _)| at).chain([line.len()]).collect();
                let at = *cut.get(&cuts);
                line.insert_str(at, &insert);
            }
            lines.join("\n")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = Config::from_str("any", &text);
    }

    #[test]
    fn arbitrary_toml_values_never_panic(value in "(\"[0-9a-f.:/-]{0,20}\"|[0-9_xob.e-]{1,24}|\\[[0-9\", ]{0,9}\\])") {
        for (_, keys) in known_keys() {
            for key in keys {
                let _ = Config::from_str("any", &format!("[dataplane]\n{key} = {value}"));
                let _ = Config::from_str("any", &format!("[[port]]\n{key} = {value}\n[[service]]\n{key} = {value}"));
                let _ = Config::from_str("any", &format!("[[local_pool]]\n{key} = {value}\n[[route]]\n{key} = {value}"));
            }
        }
    }

    #[test]
    fn mutations_of_the_default_file_never_panic_and_place_their_complaints_in_it(text in mutated()) {
        if let Err(found) = Config::from_str("any", &text) {
            prop_assert!(!found.is_empty());
            for diagnostic in found {
                prop_assert!(diagnostic.line >= 1 && diagnostic.line <= text.lines().count() + 1, "{diagnostic}");
            }
        }
    }
}
