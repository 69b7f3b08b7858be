//! Modes and tunnels: what can work with a real server and what cannot.

use std::net::IpAddr;

use api::{Mode, Tunnel, TunnelKind};

use super::services::{WEB, loaded, refuses, refuses_text, text_of};
use crate::model::Service;

fn modes(service: &Service) -> Vec<Mode> {
    service.real_servers.iter().map(|real| real.mode).collect()
}

fn tun(kind: TunnelKind, source: &str) -> Mode {
    Mode::Tun(Tunnel { kind, source: source.parse().unwrap() })
}

/// A service with one real server; `mode` are keys of the service.
fn with(mode: &str, real: &str) -> String {
    format!("{WEB}{mode}\nreal_server = [{{ address = \"{real}\" }}]")
}

const V6: &str = "listen = \"[2001:db8:1::100]:80\"\nprotocol = \"tcp\"\n";

#[test]
fn every_real_server_has_the_mode_of_its_service_or_its_own() {
    let service = loaded(&format!(
        "{WEB}mode = \"dr\"\nreal_server = [{{ address = \"10.2.0.11\" }}, {{ address = \"10.2.0.12\", mode = \"nat\" }},\n\
         {{ address = \"10.2.0.13\", mode = \"service\" }}, {{ address = \"10.2.0.14\", mode = \"fullnat\" }},\n\
         {{ address = \"10.2.0.15\", mode = \"tun\" }}]"
    ));
    let wanted = [Mode::Dr, Mode::Nat, Mode::Dr, Mode::FullNat, tun(TunnelKind::Ipip, "10.2.0.1")];
    assert_eq!(modes(&service), wanted);
    assert_eq!(modes(&loaded(&with("", "10.2.0.11"))), [Mode::FullNat]);
}

#[test]
fn the_words_of_other_tools_lead_to_ours() {
    for (word, ours) in
        [("masq", "nat"), ("gatewaying", "dr"), ("ipip", "tun"), ("FNAT", "fullnat"), ("DR", "dr")]
    {
        let word = format!("\"{word}\"");
        refuses(&format!("{WEB}mode = {word}"), &word, &format!("did you mean `{ours}`?"));
    }
    refuses(&format!("{WEB}mode = \"service\""), "\"service\"", "`service` is not known");
}

#[test]
fn tunnels_are_read_with_all_their_keys() {
    let kind = |keys: &str| modes(&loaded(&with(&format!("mode = \"tun\"\n{keys}"), "10.2.0.11")))[0];
    assert_eq!(kind(""), tun(TunnelKind::Ipip, "10.2.0.1"));
    assert_eq!(kind("tunnel = \"gre\""), tun(TunnelKind::Gre { checksum: false }, "10.2.0.1"));
    let gre = "tunnel = \"gre\"\ntunnel_checksum = true\ntunnel_source = \"10.1.0.1\"";
    assert_eq!(kind(gre), tun(TunnelKind::Gre { checksum: true }, "10.1.0.1"));
    let gue = TunnelKind::Gue { port: 6080, checksum: false };
    assert_eq!(kind("tunnel = \"gue\"\ntunnel_port = 6080"), tun(gue, "10.2.0.1"));
}

#[test]
fn a_real_server_may_have_another_tunnel_than_its_service() {
    let service = loaded(&format!(
        "{WEB}mode = \"tun\"\ntunnel = \"gue\"\ntunnel_port = 6080\nreal_server = [\n\
         {{ address = \"10.2.0.11\" }}, {{ address = \"10.2.0.12\", tunnel_port = 7000 }},\n\
         {{ address = \"10.2.0.13\", tunnel = \"ipip\" }}, {{ address = \"2001:db8:2::11\", tunnel = \"service\" }}]"
    ));
    let gue = |port| TunnelKind::Gue { port, checksum: false };
    let wanted = [
        tun(gue(6080), "10.2.0.1"),
        tun(gue(7000), "10.2.0.1"),
        tun(TunnelKind::Ipip, "10.2.0.1"),
        // The packet within is IPv4 all the same.
        tun(gue(6080), "2001:db8:2::1"),
    ];
    assert_eq!(modes(&service), wanted);
}

#[test]
fn gue_needs_a_port_and_says_so_once() {
    let text = format!(
        "{WEB}mode = \"tun\"\ntunnel = \"gue\"\n\
         real_server = [{{ address = \"10.2.0.11\" }}, {{ address = \"10.2.0.12\" }}]"
    );
    refuses(&text, "\"gue\"", "tunnel `gue` needs the UDP port on which real servers take it");
}

#[test]
fn tunnel_keys_that_mean_nothing_are_refused() {
    for (keys, at, wanted) in [
        ("tunnel = \"gre\"", "\"gre\"", "this is a part of mode `tun`; set `mode = \"tun\"`"),
        ("mode = \"dr\"\ntunnel_source = \"10.2.0.1\"", "\"10.2.0.1\"", "this is a part of mode `tun`"),
        ("mode = \"tun\"\ntunnel_port = 6080", "6080", "only tunnel `gue` has a port"),
        ("mode = \"tun\"\ntunnel_checksum = true", "true", "tunnel `ipip` has no checksum"),
    ] {
        refuses(&with(keys, "10.2.0.11"), at, wanted);
        // Without a real server the default counts.
        refuses(&format!("{WEB}{keys}"), at, wanted);
    }
    let own = format!(
        "{WEB}mode = \"tun\"\nreal_server = [{{ address = \"10.2.0.11\", mode = \"dr\", tunnel = \"gre\" }}]"
    );
    refuses(&own, "\"gre\"", "this is a part of mode `tun`");
    refuses(
        &with("mode = \"tun\"\ntunnel = \"vxlan\"", "10.2.0.11"),
        "\"vxlan\"",
        "there is `ipip`, `gre` and `gue`",
    );
}

#[test]
fn a_tunnel_begins_at_the_address_nearest_to_its_end() {
    let source = |real: &str, routes: &str| {
        let service = loaded(&format!("{}\n{routes}", with("mode = \"tun\"", real)));
        let Mode::Tun(tunnel) = service.real_servers[0].mode else { panic!("no tunnel") };
        tunnel.source
    };
    let is = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(source("10.1.0.77", ""), is("10.1.0.1"));
    assert_eq!(source("2001:db8:2::77", ""), is("2001:db8:2::1"));
    let routes = "[[route]]\nnetwork = \"0.0.0.0/0\"\nvia = \"10.1.0.254\"\nport = \"wan\"\n\
                  [[route]]\nnetwork = \"192.0.2.0/24\"\nvia = \"10.2.0.254\"\nport = \"lan\"\n\
                  [[route]]\nnetwork = \"::/0\"\nvia = \"2001:db8:1::254\"\nport = \"wan\"";
    assert_eq!(source("192.0.2.9", routes), is("10.2.0.1"));
    assert_eq!(source("198.51.100.9", routes), is("10.1.0.1"));
    assert_eq!(source("2001:db8:ffff::9", routes), is("2001:db8:1::1"));
    let wanted =
        "it is not known from which address the tunnel to 192.0.2.9 begins; add `tunnel_source` with an IPv4";
    refuses(&with("mode = \"tun\"", "192.0.2.9"), "\"192.0.2.9\"", wanted);
}

#[test]
fn a_tunnel_to_itself_is_refused() {
    for (real, wanted) in [
        ("10.2.0.1", "real server 10.2.0.1 is the gateway's own on port `lan`, line 3"),
        ("10.1.0.100", "real server 10.1.0.100 is a virtual address of this gateway, line 7"),
        ("10.2.0.200", "real server 10.2.0.200 is a local address of pool `inside`"),
    ] {
        refuses(&with("mode = \"tun\"", real), &format!("\"{real}\" }}"), wanted);
    }
    let source = with("mode = \"tun\"\ntunnel_source = \"10.2.0.11\" # from", "10.2.0.11");
    refuses(&source, "\"10.2.0.11\" # from", "the tunnel to 10.2.0.11 would begin where it ends");
    let other = with("mode = \"tun\"\ntunnel_source = \"2001:db8:2::1\" # from", "10.2.0.11");
    refuses(&other, "\"2001:db8:2::1\" # from", "a tunnel from 2001:db8:2::1 cannot lead to 10.2.0.11");
}

#[test]
fn dr_and_tun_cannot_translate_ports() {
    for mode in ["dr", "tun"] {
        let keys = format!("mode = \"{mode}\"");
        let wanted = format!(
            "mode `{mode}` cannot translate ports, and the real server has port 8080, the service 80"
        );
        refuses(&with(&keys, "10.2.0.11:8080"), "\"10.2.0.11:8080\"", &wanted);
        assert_eq!(loaded(&with(&keys, "10.2.0.11:80")).real_servers[0].address.port(), 80);
        let group = with(&keys, "10.2.0.11:80")
            .replace("\"10.1.0.100:80\"", "[\"10.1.0.100:80\", \"10.1.0.100:443\"]");
        let wanted =
            format!("mode `{mode}` cannot translate ports, and the service has several; leave the port out");
        refuses(&group, "\"10.2.0.11:80\"", &wanted);
    }
    for mode in ["nat", "fullnat"] {
        let service = loaded(&with(&format!("mode = \"{mode}\""), "10.2.0.11:8080"));
        assert_eq!(service.real_servers[0].address.port(), 8080);
    }
}

#[test]
fn dr_and_nat_cannot_change_the_family_and_the_others_can() {
    let other = "real_server = [{ address = \"10.2.0.11\" }]";
    let wanted = "mode `nat` cannot change the address family, and the real server is IPv4, the service IPv6; \
                  take mode `fullnat`, which can";
    refuses(&format!("{V6}mode = \"nat\"\n{other}"), "\"10.2.0.11\"", wanted);
    let wanted = "mode `dr` cannot change the address family, and the real server is IPv6, the service IPv4; \
                  take mode `fullnat` or `tun`, which can";
    refuses(&with("mode = \"dr\"", "2001:db8:2::11"), "\"2001:db8:2::11\"", wanted);
    assert_eq!(modes(&loaded(&format!("{V6}mode = \"fullnat\"\n{other}"))), [Mode::FullNat]);
    let tunnel = modes(&loaded(&format!("{V6}mode = \"tun\"\n{other}")));
    assert_eq!(tunnel, [tun(TunnelKind::Ipip, "10.2.0.1")]);
    for mode in ["dr", "nat", "fullnat"] {
        let service =
            loaded(&format!("{V6}mode = \"{mode}\"\nreal_server = [{{ address = \"2001:db8:2::11\" }}]"));
        assert_eq!(service.real_servers[0].address, "[2001:db8:2::11]:80".parse().unwrap(), "{mode}");
    }
}

#[test]
fn dr_reaches_neighbours_only() {
    let far = with("mode = \"dr\"", "192.0.2.11");
    let wanted = "mode `dr` reaches real servers on a network of a port only, and 192.0.2.11 is on none";
    refuses(&far, "\"192.0.2.11\"", wanted);
    let route = |via: &str| format!("{far}\n[[route]]\nnetwork = \"192.0.2.0/24\"\nport = \"lan\"\n{via}");
    assert_eq!(modes(&loaded(&route(""))), [Mode::Dr], "an on-link route is a network of the port");
    refuses(&route("via = \"10.2.0.254\""), "\"192.0.2.11\"", wanted);
    // Where the ports' addresses are not known here, the kernel's decide.
    let bare = text_of(&far).replace(", addresses = [\"10.1.0.1/24\", \"2001:db8:1::1/64\"]", "");
    let bare = bare.replace("\"10.2.0.1/24\", ", "");
    assert!(crate::Config::from_str("t", &bare).is_ok());
}

#[test]
fn fullnat_needs_a_local_address_of_the_real_servers_family() {
    let pool_of = |addresses: &str, real: &str| {
        text_of(&with("", real)).replace("\"10.2.0.200\", \"2001:db8:2::200\"", addresses)
    };
    for (addresses, real, wanted) in [
        (
            "\"10.2.0.200\"",
            "2001:db8:2::11",
            "local pool `inside` has no IPv6 address, which real server 2001:db8:2::11",
        ),
        (
            "\"2001:db8:2::200\"",
            "10.2.0.11",
            "local pool `inside` has no IPv4 address, which real server 10.2.0.11",
        ),
    ] {
        refuses_text(&pool_of(addresses, real), "[[service]]", wanted);
    }
    for real in ["10.2.0.11", "2001:db8:2::11"] {
        assert_eq!(loaded(&with("", real)).local_pool, "inside");
    }
}

#[test]
fn without_fullnat_no_pool_is_needed() {
    let text = text_of(&with("mode = \"nat\"", "10.2.0.11"));
    let pool = text.lines().find(|line| line.starts_with("local_pool")).unwrap();
    let without = text.replace(pool, "");
    assert_eq!(crate::Config::from_str("t", &without).unwrap().services[0].local_pool, "");
    let fullnat = without.replace("mode = \"nat\"", "mode = \"fullnat\"");
    refuses_text(&fullnat, "[[service]]", "mode `fullnat` needs a local pool, and there is none");
}
