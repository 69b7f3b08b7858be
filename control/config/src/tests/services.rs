//! Addresses, scheduling and the other keys of a service.

use api::{
    Persistence, Protocol, ProxyVersion, Scheduler, SchedulerFlags, TcpTimestamps, ToaMode, ToaNoRoom, Uoa,
    UoaForm, VirtualRange,
};

use super::{Config, Duration, shown};
use crate::model::{CheckKind, DnsRecord, Service};

/// Two ports and a pool, each of both families.
const NETWORK: &str = r#"port = [
  { name = "wan", device = "0000:01:00.0", addresses = ["10.1.0.1/24", "2001:db8:1::1/64"] },
  { name = "lan", device = "0000:01:00.1", addresses = ["10.2.0.1/24", "2001:db8:2::1/64"] },
]
local_pool = [{ name = "inside", addresses = ["10.2.0.200", "2001:db8:2::200"] }]
[[service]]
"#;

/// What the services of these tests begin with if it does not matter.
pub(super) const WEB: &str = "listen = \"10.1.0.100:80\"\nprotocol = \"tcp\"\n";

pub(super) fn text_of(service: &str) -> String {
    format!("{NETWORK}{service}\n")
}

/// The first service of a file with the network above.
#[track_caller]
pub(super) fn loaded(service: &str) -> Service {
    let config = Config::from_str("t", &text_of(service)).unwrap_or_else(|found| panic!("{found:#?}"));
    config.services.into_iter().next().unwrap()
}

/// That there is one complaint, about what begins with `at`, which occurs once, and that it says `wanted`.
#[track_caller]
pub(super) fn refuses_text(text: &str, at: &str, wanted: &str) {
    assert_eq!(text.matches(at).count(), 1, "{at} in\n{text}");
    let offset = text.find(at).unwrap();
    let line = text[..offset].matches('\n').count() + 1;
    let column = offset - text[..offset].rfind('\n').map_or(0, |end| end + 1) + 1;
    let said = shown(Config::from_str("t", text));
    assert_eq!(said.lines().count(), 1, "more than one complaint:\n{said}");
    assert!(
        said.starts_with(&format!("t:{line}:{column}: ")),
        "wanted line {line}, column {column}:\n{said}"
    );
    assert!(said.contains(wanted), "wanted {wanted}, got:\n{said}");
}

#[track_caller]
pub(super) fn refuses(service: &str, at: &str, wanted: &str) {
    refuses_text(&text_of(service), at, wanted);
}

fn tcp(last: u8, ports: (u16, u16)) -> VirtualRange {
    VirtualRange { protocol: Protocol::Tcp, address: [10, 1, 0, last].into(), ports }
}

#[test]
fn several_addresses_and_ranges_make_one_service_named_by_the_first() {
    let service = loaded(
        "listen = [\"10.1.0.100:8000-8010\", \"10.1.0.100:80\", \"10.2.0.50:443\"]\nprotocol = \"tcp\"\n\
         real_server = [{ address = \"10.2.0.11\" }, { address = \"10.2.0.12:80\" }]",
    );
    assert_eq!(service.listen, "10.1.0.100:8000".parse().unwrap());
    assert_eq!(service.name, "10.1.0.100:8000/tcp");
    let wanted = [
        tcp(100, (8001, 8010)),
        tcp(100, (80, 80)),
        VirtualRange { address: [10, 2, 0, 50].into(), ..tcp(0, (443, 443)) },
    ];
    assert_eq!(service.also, wanted);
    let vips = [([10, 1, 0, 100].into(), "wan".to_owned()), ([10, 2, 0, 50].into(), "lan".to_owned())];
    assert_eq!(service.vips, vips);
    // Without a port: the one that the client asked for.
    assert_eq!(service.real_servers[0].address, "10.2.0.11:0".parse().unwrap());
    assert_eq!(service.real_servers[1].address, "10.2.0.12:80".parse().unwrap());
}

#[test]
fn a_real_server_without_a_port_has_that_of_its_service_if_there_is_only_one() {
    for listen in ["\"10.1.0.100:80\"", "[\"10.1.0.100:80\", \"10.1.0.101:80\"]"] {
        let service = loaded(&format!(
            "listen = {listen}\nprotocol = \"tcp\"\n\
             real_server = [{{ address = \"10.2.0.11\" }}, {{ address = \"10.2.0.12:0\" }}]"
        ));
        let addresses: Vec<String> =
            service.real_servers.iter().map(|real| real.address.to_string()).collect();
        assert_eq!(addresses, ["10.2.0.11:80", "10.2.0.12:80"], "{listen}");
    }
}

#[test]
fn addresses_that_cannot_be_served_are_refused_with_the_reason() {
    for (listen, wanted) in [
        ("\"10.1.0.100\"", "`10.1.0.100` has no port"),
        (
            "\"2001:db8::1:80\"",
            "has no port; write address and port, e.g. \"10.1.0.100:80\" or \"[2001:db8::100]:80\"",
        ),
        ("\"10.1.0.100:90-80\"", "ends before it begins; write \"80-90\""),
        ("\"10.1.0.100:0-80\"", "port 0 cannot be used"),
        ("\"10.1.0.100:x\"", "is not a range of ports"),
        ("\"[10.1.0.100]:80\"", "is not an address with a port"),
        ("\"224.0.0.1:80\"", "not the address of a host"),
        ("\"255.255.255.255:80\"", "not the address of a host"),
        ("\"[fe80::1]:80\"", "has no meaning without a link"),
        ("\"[::ffff:10.1.0.100]:80\"", "write 10.1.0.100"),
        ("\"10.1.0.100:0\"", "port 0 stands for every port, which needs persistence"),
        ("[]", "the list is empty"),
        ("80", "this is of type integer"),
    ] {
        refuses(&format!("listen = {listen}\nprotocol = \"tcp\""), listen, wanted);
    }
}

#[test]
fn a_service_has_addresses_of_one_family() {
    let mixed = "listen = [\"10.1.0.100:80\", \"[2001:db8:1::100]:80\"]\nprotocol = \"tcp\"";
    refuses(
        mixed,
        "\"[2001:db8:1::100]:80\"",
        "a service has addresses of one family; make a service for each",
    );
}

#[test]
fn port_0_is_every_port_that_no_service_names() {
    let all = "listen = \"10.1.0.100:0\"\nprotocol = \"tcp\"\npersistence = { timeout = \"1h\" }\n";
    let service = loaded(&format!("{all}[[service]]\nlisten = \"10.1.0.100:80\"\nprotocol = \"tcp\""));
    assert_eq!(service.listen.port(), 0);
    assert_eq!(service.persistence, Some(Persistence { timeout_s: 3600, prefix_len: 32 }));
    let twice = format!(
        "{all}[[service]]\nname = \"b\"\nlisten = [\"10.1.0.99:1\", \"10.1.0.100:0\"]\nprotocol = \"tcp\"\npersistence = {{}}"
    );
    refuses(
        &twice,
        "\"10.1.0.100:0\"]",
        "all ports of tcp 10.1.0.100 belong to a service already, in line 7",
    );
}

#[test]
fn services_that_share_a_port_of_an_address_are_refused() {
    let second = |listen: &str, protocol: &str| {
        format!("{WEB}[[service]]\nname = \"second\"\nlisten = {listen}\nprotocol = \"{protocol}\"")
    };
    let wanted = "port 80 of tcp 10.1.0.100 belongs to a service already, in line 7";
    for listen in ["\"10.1.0.100:80-90\"", "[\"10.1.0.7:1\", \"10.1.0.100:80\"]"] {
        let at = if listen.starts_with('[') { "\"10.1.0.100:80\"]" } else { listen };
        refuses(&second(listen, "tcp"), at, wanted);
    }
    refuses(
        &second("\"10.1.0.100:1-1000\"", "tcp"),
        "\"10.1.0.100:1-1000\"",
        "port 80 of tcp 10.1.0.100 belongs to a service already",
    );
    refuses(
        "listen = [\"10.1.0.100:80-90\", \"10.1.0.100:85\"]\nprotocol = \"tcp\"",
        "\"10.1.0.100:85\"",
        "port 85 of tcp 10.1.0.100 belongs to a service already",
    );
    // Neither the other protocol nor the neighbouring port is in the way.
    for (listen, protocol) in [("\"10.1.0.100:80\"", "udp"), ("\"10.1.0.100:81-90\"", "tcp")] {
        assert_eq!(loaded(&second(listen, protocol)).listen.port(), 80);
    }
}

#[test]
fn a_narrow_range_after_a_wide_one_does_not_hide_the_wide_one() {
    let text = "listen = [\"10.1.0.100:1-1000\", \"10.1.0.100:2000\"]\nprotocol = \"tcp\"\n\
                [[service]]\nname = \"b\"\nlisten = [\"10.1.0.100:5\", \"10.1.0.100:900\"]\nprotocol = \"tcp\"";
    let said = shown(Config::from_str("t", &text_of(text)));
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("port 5 of") && said.contains("port 900 of"), "{said}");
}

#[test]
fn every_scheduler_of_ipvs_is_known() {
    for scheduler in Scheduler::ALL {
        assert_eq!(loaded(&format!("{WEB}scheduler = \"{scheduler}\"")).scheduler, scheduler);
    }
    assert_eq!(loaded(WEB).scheduler, Scheduler::Wlc);
    refuses(&format!("{WEB}scheduler = \"conhash\""), "\"conhash\"", "did you mean `mh`?");
}

#[test]
fn flags_are_those_of_the_scheduler() {
    let udp = "listen = \"10.1.0.100:443\"\nprotocol = \"udp\"\n";
    let service = loaded(&format!("{udp}scheduler = \"mh\"\nscheduler_flags = [\"mh-port\", \"quic-cid\"]"));
    let wanted = SchedulerFlags { fallback: false, port: true, quic_cid: true };
    assert_eq!(service.scheduler_flags, wanted);
    let service = loaded(&format!("{udp}scheduler = \"sh\"\nscheduler_flags = [\"sh-fallback\"]"));
    assert_eq!(service.scheduler_flags, SchedulerFlags { fallback: true, ..SchedulerFlags::default() });
    for (begin, flag, wanted) in [
        (
            format!("{udp}scheduler = \"mh\"\n"),
            "sh-port",
            "a flag of scheduler `sh`, and the scheduler is `mh`",
        ),
        (udp.to_owned(), "mh-port", "a flag of scheduler `mh`, and the scheduler is `wlc`"),
        (format!("{udp}scheduler = \"sh\"\n"), "quic-cid", "a flag of scheduler `mh`"),
        (format!("{WEB}scheduler = \"mh\"\n"), "quic-cid", "QUIC runs over UDP, and this service is TCP"),
        (format!("{WEB}scheduler = \"mh\"\n"), "mh-ports", "did you mean `mh-port`?"),
    ] {
        let flag = format!("\"{flag}\"");
        refuses(&format!("{begin}scheduler_flags = [{flag}]"), &flag, wanted);
    }
}

#[test]
fn persistence_has_a_timeout_and_a_netmask_of_the_services_family() {
    let v6 = "listen = \"[2001:db8:1::100]:80\"\nprotocol = \"tcp\"\n";
    for (begin, table, timeout_s, prefix_len) in [
        (WEB, "{}", 360, 32),
        (WEB, "{ timeout = \"744h\", netmask = \"255.255.240.0\" }", 2_678_400, 20),
        (WEB, "{ prefix_len = 24 }", 360, 24),
        (v6, "{ timeout = \"1s\" }", 1, 128),
        (v6, "{ netmask = \"ffff:ffff:ffff::\" }", 360, 48),
    ] {
        let service = loaded(&format!("{begin}persistence = {table}"));
        assert_eq!(service.persistence, Some(Persistence { timeout_s, prefix_len }), "{table}");
    }
    for (begin, at, wanted) in [
        (WEB, "\"745h\"", "745h is out of range; write one from 1s to 2678400s"),
        (WEB, "\"0s\"", "is out of range"),
    ] {
        refuses(&format!("{begin}persistence = {{ timeout = {at} }}"), at, wanted);
    }
    for (begin, at, wanted) in [
        (WEB, "\"255.0.255.0\"", "is not a netmask; write leading ones only"),
        (WEB, "\"0.0.0.0\"", "is not a netmask"),
        (WEB, "\"ffff::\"", "a mask of the other address family"),
        (
            v6,
            "\"255.255.255.0\"",
            "a mask of the other address family than the service's; write e.g. `prefix_len = 64`",
        ),
    ] {
        refuses(&format!("{begin}persistence = {{ netmask = {at} }}"), at, wanted);
    }
    refuses(&format!("{WEB}persistence = {{ prefix_len = 33 }}"), "33", "an IPv4 address has 32 bits");
    let both = format!("{WEB}persistence = {{ netmask = \"255.0.0.0\", prefix_len = 9 }}");
    refuses(&both, "9 }", "this says the same as `netmask`");
    refuses(&format!("{WEB}persistent = 300"), "persistent", "write e.g. `persistence = { timeout");
}

#[test]
fn one_packet_scheduling_is_for_udp() {
    let udp = "listen = \"10.1.0.100:53\"\nprotocol = \"udp\"\none_packet = true";
    assert!(loaded(udp).one_packet);
    refuses(
        &format!("{WEB}one_packet = true"),
        "true",
        "one-packet scheduling would tear TCP connections apart",
    );
}

#[test]
fn the_switches_of_a_service_are_off_unless_set() {
    let keys = ["rebase_sequence", "expire_nodest_conn", "expire_quiescent_template", "reset_on_expiry"];
    let switches = |service: Service| {
        let Service {
            rebase_sequence, expire_nodest_conn, expire_quiescent_template, reset_on_expiry, ..
        } = service;
        [rebase_sequence, expire_nodest_conn, expire_quiescent_template, reset_on_expiry]
    };
    assert_eq!(switches(loaded(WEB)), [false; 4]);
    for (at, key) in keys.into_iter().enumerate() {
        let found = switches(loaded(&format!("{WEB}{key} = true")));
        assert_eq!(found, std::array::from_fn(|place| place == at), "{key}");
    }
}

#[test]
fn what_clients_say_of_their_address_is_taken_out_unless_another_gateway_says_it() {
    assert!(loaded(WEB).strip_toa);
    assert!(loaded(&format!("{WEB}strip_toa = true")).strip_toa);
    assert!(!loaded(&format!("{WEB}toa = \"off\"\nstrip_toa = false")).strip_toa);
    assert!(!loaded(&format!("{WEB}mode = \"dr\"\nstrip_toa = false")).strip_toa);
    refuses(
        &format!("{WEB}strip_toa = false"),
        "false",
        "another one could only be forged; set `toa = \"off\"`",
    );
}

#[test]
fn the_option_has_an_identifier_and_is_missed_only_where_that_is_wanted() {
    let plain = loaded(WEB);
    assert_eq!((plain.toa_exid, plain.toa_no_room), (false, ToaNoRoom::Pass));
    let other = loaded(&format!("{WEB}toa = 253\ntoa_exid = true\ntoa_no_room = \"drop\""));
    assert_eq!((other.toa_exid, other.toa_no_room), (true, ToaNoRoom::Drop));
    let only = "only the experimental kinds have experiment identifiers";
    refuses(&format!("{WEB}toa = 200\ntoa_exid = true"), "true", only);
    refuses(&format!("{WEB}toa = \"off\"\ntoa_exid = true"), "true", "the option is off (`toa`)");
    refuses(&format!("{WEB}toa = \"off\"\ntoa_no_room = \"drop\""), "\"drop\"", "the option is off");
}

#[test]
fn real_servers_are_told_the_clients_of_udp_flows_where_that_is_wanted() {
    let udp = "listen = \"10.1.0.100:53\"\nprotocol = \"udp\"\n";
    assert_eq!(loaded(udp).uoa, None);
    assert_eq!(loaded(&format!("{udp}uoa = \"off\"\nuoa_datagrams = 3")).uoa, None);
    let (form, no_room) = (UoaForm::Option, ToaNoRoom::Pass);
    let option = loaded(&format!("{udp}uoa = \"option\""));
    assert_eq!(option.uoa, Some(Uoa { form, datagrams: 3, no_room }));
    let header = loaded(&format!("{udp}uoa = \"header\"\nuoa_datagrams = 255\nuoa_no_room = \"drop\""));
    let (form, no_room) = (UoaForm::Header, ToaNoRoom::Drop);
    assert_eq!(header.uoa, Some(Uoa { form, datagrams: 255, no_room }));
    refuses(&format!("{WEB}uoa = \"option\""), "\"option\"", "this is for UDP");
    refuses(&format!("{udp}uoa_datagrams = 77"), "77", "datagrams tell nothing (`uoa`)");
    refuses(&format!("{udp}uoa_no_room = \"drop\""), "\"drop\"", "datagrams tell nothing (`uoa`)");
    refuses(&format!("{udp}uoa = \"option\"\nuoa_datagrams = 777"), "777", "1 to 255");
    refuses(&format!("{udp}uoa = \"toa\""), "\"toa\"", "there is `off`, `option` and `header`");
    refuses(&format!("{udp}uoa = \"header\"\nmode = \"dr\""), "\"header\"", "mode `fullnat`");
    refuses(&format!("{udp}uoa = \"header\"\nstrip_toa = false"), "false", "could only be forged");
}

#[test]
fn the_proxy_protocol_takes_the_place_of_the_option() {
    assert_eq!(loaded(WEB).proxy_protocol, None);
    assert_eq!(loaded(&format!("{WEB}proxy_protocol = \"off\"")).toa, ToaMode::Option { kind: 254 });
    for (text, version) in [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)] {
        let service = loaded(&format!("{WEB}proxy_protocol = \"{text}\""));
        assert_eq!((service.proxy_protocol, service.toa), (Some(version), ToaMode::Off));
    }
    let v2 = format!("{WEB}proxy_protocol = \"v2\"\n");
    assert!(loaded(&format!("{v2}mode = \"nat\"")).proxy_protocol.is_some());
    refuses(
        &format!("{v2}toa = 253"),
        "253",
        "`proxy_protocol` tells real servers the client's address already",
    );
    refuses(&format!("{v2}strip_toa = false"), "false", "another one could only be forged");
    refuses(&format!("{v2}mode = \"dr\""), "\"v2\"", "only real servers of mode `fullnat` or `nat`");
    refuses(&format!("{WEB}send_proxy = true"), "send_proxy", "write `proxy_protocol`");
}

#[test]
fn what_is_tcps_is_refused_for_udp() {
    let udp = "listen = \"10.1.0.100:53\"\nprotocol = \"udp\"\n";
    for (key, value) in [
        ("toa", "253"),
        ("toa_exid", "true"),
        ("toa_no_room", "\"drop\""),
        ("proxy_protocol", "\"v1\""),
        ("tcp_timestamps", "\"strip\""),
        ("rebase_sequence", "true"),
        ("reset_on_expiry", "true"),
    ] {
        refuses(&format!("{udp}{key} = {value}"), value, "this is a part of TCP, and the service is UDP");
    }
    assert_eq!(loaded(udp).toa, ToaMode::Off);
    assert!(!loaded(&format!("{udp}strip_toa = false")).strip_toa);
}

#[test]
fn what_is_fullnats_is_refused_without_a_fullnat_real_server() {
    let dr = format!("{WEB}mode = \"dr\"\n");
    let wanted = "only real servers of mode `fullnat` have a use for it, and there is none";
    for (key, value) in [
        ("local_pool", "\"inside\""),
        ("toa", "253"),
        ("toa_exid", "true"),
        ("toa_no_room", "\"drop\""),
        ("tcp_timestamps", "\"rewrite\""),
        ("rebase_sequence", "true"),
    ] {
        // Also where the pool has the same name.
        let text = format!("{dr}{key} = {value}").replace("\"inside\"", "\"inside\" # here");
        let at = if key == "local_pool" { "\"inside\" # here".to_owned() } else { value.to_owned() };
        refuses(&text, &at, wanted);
        let mixed =
            format!("{dr}{key} = {value}\nreal_server = [{{ address = \"10.2.0.11\", mode = \"fullnat\" }}]");
        assert_eq!(loaded(&mixed).local_pool, "inside");
    }
    let service = loaded(&format!("{dr}toa = \"off\"\ntcp_timestamps = \"keep\""));
    assert_eq!((service.toa, service.tcp_timestamps), (ToaMode::Off, TcpTimestamps::Keep));
    assert_eq!(service.local_pool, "", "a pool without use");
}

#[test]
fn thresholds_and_times_of_real_servers_are_read() {
    let service = loaded(&format!(
        "{WEB}slow_start = \"30s\"\ndrain_deadline = \"10m\"\nreal_server = [\n\
         {{ address = \"10.2.0.11\", upper_threshold = 1000, lower_threshold = 800 }},\n\
         {{ address = \"10.2.0.12\", drain_deadline = \"1h\" }},\n\
         {{ address = \"10.2.0.13\", drain_deadline = \"none\" }},\n]"
    ));
    assert_eq!(service.slow_start, Some(Duration::from_secs(30)));
    let [first, second, third] = service.real_servers.as_slice() else { panic!("three servers") };
    assert_eq!((first.upper_threshold, first.lower_threshold), (1000, 800));
    assert_eq!((second.upper_threshold, second.lower_threshold), (0, 0));
    let deadlines = [first, second, third].map(|real| real.drain_deadline.map(|time| time.as_secs()));
    assert_eq!(deadlines, [Some(600), Some(3600), None]);
    for (thresholds, at) in
        [("upper_threshold = 5, lower_threshold = 6", "6 }"), ("lower_threshold = 1", "1 }")]
    {
        let text = format!("{WEB}real_server = [{{ address = \"10.2.0.22\", {thresholds} }}]");
        refuses(&text, at, "is above the upper threshold");
    }
}

#[test]
fn slow_start_needs_a_scheduler_that_looks_at_weights() {
    for scheduler in ["rr", "lc", "dh", "fo"] {
        let text = format!("{WEB}scheduler = \"{scheduler}\"\nslow_start = \"30s\"");
        refuses(&text, "\"30s\"", &format!("scheduler `{scheduler}` "));
    }
    refuses(&format!("{WEB}slow_start = \"2h\""), "\"2h\"", "is out of range; write one from 1s to 3600s");
}

#[test]
fn a_sorry_server_takes_its_mode_from_the_service_and_is_none_of_the_real_servers() {
    let service = loaded(&format!(
        "{WEB}mode = \"nat\"\nsorry_server = {{ address = \"10.2.0.99\" }}\n\
         real_server = [{{ address = \"10.2.0.11\" }}]"
    ));
    let sorry = service.sorry_server.unwrap();
    assert_eq!((sorry.address, sorry.mode), ("10.2.0.99:80".parse().unwrap(), api::Mode::Nat));
    assert_eq!(sorry.health_check, None);
    let twice = format!(
        "{WEB}sorry_server = {{ address = \"10.2.0.11:80\" }}\nreal_server = [{{ address = \"10.2.0.11\" }}]"
    );
    refuses(&twice, "\"10.2.0.11:80\"", "this service has the real server 10.2.0.11:80 already, in line 10");
    let checked =
        format!("{WEB}sorry_server = {{ address = \"10.2.0.99\", health_check = {{ type = \"tcp\" }} }}");
    refuses(&checked, "health_check", "a sorry server counts as up always");
}

#[test]
fn udp_services_have_checks_of_their_own() {
    let udp = "listen = \"10.1.0.100:53\"\nprotocol = \"udp\"\n";
    let kind = |check: &str| loaded(&format!("{udp}health_check = {check}")).health_check.unwrap().kind;
    let dns = CheckKind::Dns { name: ".".to_owned(), record: DnsRecord::Soa };
    assert_eq!(kind("{ type = \"dns\" }"), dns);
    let dns = CheckKind::Dns { name: "www.example.org".to_owned(), record: DnsRecord::Aaaa };
    assert_eq!(kind("{ type = \"dns\", name = \"www.example.org\", record = \"aaaa\" }"), dns);
    assert_eq!(kind("{ type = \"udp\" }"), CheckKind::Udp { payload: vec![], needs_reply: false });
    let payload = CheckKind::Udp { payload: vec![0x0a, 0xff], needs_reply: true };
    assert_eq!(kind("{ type = \"udp\", payload = \"0aFF\", reply = \"required\" }"), payload);
    assert_eq!(kind("{ type = \"tcp\", port = 8080 }"), CheckKind::Tcp);
    for (check, at, wanted) in [
        ("{ type = \"tcp\", name = \"a\" }", "{ type", "this is a part of `dns` checks"),
        ("{ type = \"dns\", payload = \"00\" }", "{ type", "this is a part of `udp` checks"),
        ("{ type = \"dns\", name = \"a..b\" }", "\"a..b\"", "is not a name in DNS"),
        ("{ type = \"dns\", record = \"ptr\" }", "\"ptr\"", "there is `a`, `aaaa`"),
        ("{ type = \"udp\", payload = \"0a0\" }", "\"0a0\"", "is not bytes in hexadecimal"),
    ] {
        refuses(&format!("{udp}health_check = {check}"), at, wanted);
    }
}

#[test]
fn a_check_of_a_real_server_without_a_port_needs_one() {
    let group = "listen = [\"10.1.0.100:80\", \"10.1.0.100:443\"]\nprotocol = \"tcp\"\n";
    let with =
        |check: &str| format!("{group}health_check = {check}\nreal_server = [{{ address = \"10.2.0.11\" }}]");
    refuses(&with("{ type = \"tcp\" }"), "\"10.2.0.11\"", "its health check has no port to ask");
    assert_eq!(loaded(&with("{ type = \"tcp\", port = 80 }")).real_servers.len(), 1);
}
