//! The kernel behind the twins: settings, addresses, routing daemons.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use api::Mode;
use config::{Config, listed};

use super::Finding;
use super::machine::Machine;

/// Answers ARP for no address that is on the interface (Linux, Documentation/networking/ip-sysctl.rst).
const ARP_IGNORE_ALL: u32 = 8;

pub(super) fn twins(machine: &Machine, config: &Config, running: bool) -> Vec<Finding> {
    const CHECK: &str = "kernel";
    let twins = config.ports.iter().filter_map(|port| port.kernel_interface.as_deref());
    let mut found: Vec<Finding> = twins.flat_map(|twin| settings(machine, twin)).collect();
    found.extend(forwarding(machine, config));
    found.extend(neighbours(machine, config));
    found.extend(unheard_routers(machine, config));
    if running {
        found.extend(missing_vips(machine, config));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, "settings and addresses of the twins are as they should be"));
    }
    found
}

/// A setting of an interface, which the one for all may raise.
fn setting(machine: &Machine, twin: &str, name: &str) -> u32 {
    let of = |interface: &str| machine.sysctls.get(&format!("ipv4/conf/{interface}/{name}"));
    [of(twin), of("all")].into_iter().flatten().filter_map(|value| value.parse().ok()).max().unwrap_or(0)
}

fn settings(machine: &Machine, twin: &str) -> Vec<Finding> {
    const CHECK: &str = "kernel";
    let mut found = Vec::new();
    if setting(machine, twin, "rp_filter") == 1 {
        found.push(Finding::note(
            CHECK,
            format!(
                "rp_filter is strict on {twin}: the kernel drops what comes in there and is routed elsewhere"
            ),
            format!("sysctl net.ipv4.conf.{twin}.rp_filter=2"),
        ));
    }
    if setting(machine, twin, "arp_ignore") >= ARP_IGNORE_ALL {
        found.push(Finding::problem(
            CHECK,
            format!(
                "arp_ignore lets {twin} answer ARP for no address: nobody finds VIPs and local addresses"
            ),
            format!("sysctl net.ipv4.conf.{twin}.arp_ignore=0, and the one of `all`"),
        ));
    }
    found
}

/// What real servers in NAT send of their own accord is the kernel's to route.
fn forwarding(machine: &Machine, config: &Config) -> Vec<Finding> {
    let reals = config.services.iter().flat_map(|service| &service.real_servers);
    let nat: Vec<_> = reals.filter(|real| real.mode == Mode::Nat).collect();
    let is_off = |name: &str| machine.sysctls.get(name).is_some_and(|value| value == "0");
    let families = [(true, "ipv4/ip_forward"), (false, "ipv6/conf/all/forwarding")];
    let off = families
        .into_iter()
        .filter(|(v4, name)| is_off(name) && nat.iter().any(|real| real.address.is_ipv4() == *v4));
    off.map(|(_, name)| {
        let name = name.replace('/', ".");
        let text = "what real servers in mode nat send of their own accord goes nowhere: the kernel does not forward";
        Finding::note("kernel", text, format!("sysctl net.{name}=1, if they are to reach others through this gateway"))
    })
    .collect()
}

/// More real servers on the ports' networks than the kernel keeps MAC addresses of (arp(7), `gc_thresh2` and
/// `gc_thresh3`). All namespaces of a machine share the table.
fn neighbours(machine: &Machine, config: &Config) -> Vec<Finding> {
    let reals = config.services.iter().flat_map(|service| &service.real_servers);
    let reals: HashSet<IpAddr> = reals.map(|real| real.address.ip()).collect();
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        reals.into_iter().filter(|real| config.is_on_link(*real)).partition(IpAddr::is_ipv4);
    let families = [("IPv4", "ipv4", v4.len()), ("IPv6", "ipv6", v6.len())];
    let check = |(family, folder, count): (&str, &str, usize)| {
        let limit = |name: &str| -> Option<usize> {
            machine.sysctls.get(&format!("{folder}/neigh/default/{name}"))?.parse().ok()
        };
        let (soft, hard) = (limit("gc_thresh2")?, limit("gc_thresh3")?);
        if count <= soft {
            return None;
        }
        let text = format!(
            "{count} real servers are on networks of the ports, and the kernel forgets {family} neighbours above {soft} \
             and has no room for more than {hard}: next hops get lost again and again, and checks of live servers fail"
        );
        let (room, settings) = (2 * count, format!("net.{folder}.neigh.default.gc_thresh"));
        let remedy = format!("sysctl {settings}3={} {settings}2={room} {settings}1={room}", 2 * room);
        Some(if count > hard {
            Finding::problem("kernel", text, remedy)
        } else {
            Finding::note("kernel", text, remedy)
        })
    };
    families.into_iter().filter_map(check).collect()
}

/// IPv6 routers that advertise themselves to a twin that does not listen, while no route leads to any router. Linux
/// forwards or listens, unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst). That alone is no mistake: both
/// settings are usual, and so are networks without routers and routes that a daemon sets.
fn unheard_routers(machine: &Machine, config: &Config) -> Vec<Finding> {
    let has_own = config.static_routes.iter().any(|route| route.network.is_ipv6());
    if machine.ipv6_routed != Some(false) || has_own {
        return Vec::new();
    }
    let is = |twin: &str, name: &str, wanted: &str| {
        machine.sysctls.get(&format!("ipv6/conf/{twin}/{name}")).is_some_and(|value| value == wanted)
    };
    let ports =
        config.ports.iter().filter(|port| port.addresses.iter().any(|(address, _)| address.is_ipv6()));
    let twins = ports.filter_map(|port| port.kernel_interface.as_deref());
    let deaf = twins.filter(|twin| {
        machine.advertised.contains(*twin) && is(twin, "forwarding", "1") && is(twin, "accept_ra", "1")
    });
    deaf.map(|twin| {
        let text = format!(
            "IPv6 routers advertise themselves on {twin}, which ignores them because it forwards, and no IPv6 route \
             of a twin leads to a router"
        );
        let remedy = format!(
            "sysctl net.ipv6.conf.{twin}.accept_ra=2 takes routes from them; or a route of BIRD's, or a [[route]]; \
             accept_ra=0 if none is wanted"
        );
        Finding::note("kernel", text, remedy)
    })
    .collect()
}

/// So many missing VIPs are named.
const VIPS_NAMED: usize = 10;

/// VIPs that no twin has, so that the kernel answers neither ARP nor ND for them.
fn missing_vips(machine: &Machine, config: &Config) -> Option<Finding> {
    let there = machine.addresses.as_ref()?;
    let twin = |port: &str| config.ports.iter().find(|of| of.name == port)?.kernel_interface.clone();
    let vips = config.services.iter().flat_map(|service| &service.vips);
    let wanted: BTreeSet<_> = vips.filter_map(|(vip, port)| Some((twin(port)?, *vip))).collect();
    let missing: Vec<String> = wanted
        .into_iter()
        .filter(|entry| !there.contains(entry))
        .map(|(twin, vip)| format!("{vip} ({twin})"))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let text = format!("VIPs that are on no twin: {}", listed(missing.into_iter(), VIPS_NAMED));
    Some(match config.control.manage_addresses {
        true => {
            Finding::problem("kernel", text, "`journalctl -u tollgate-control` says why they cannot be added")
        }
        false => Finding::note(
            "kernel",
            text,
            "right on a standby; else keepalived or you must add them, as manage_addresses = false",
        ),
    })
}

/// Programs that announce VIPs.
const ANNOUNCERS: [&str; 5] = ["keepalived", "bird", "bgpd", "gobgpd", "exabgp"];

pub(super) fn routing_daemons(machine: &Machine) -> Finding {
    const CHECK: &str = "announcing";
    let running: Vec<&str> = ANNOUNCERS.into_iter().filter(|name| machine.programs.contains(*name)).collect();
    match running.is_empty() {
        false => Finding::ok(CHECK, format!("{} runs", running.join(", "))),
        true => Finding::note(
            CHECK,
            "neither VRRP nor BGP runs: VIPs are reached by ARP alone, and nobody takes over",
            "keepalived or BIRD, with the examples of configs/, where there are several gateways",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::config;
    use super::super::{Verdict, worst};
    use super::*;

    fn machine(sysctls: &[(&str, &str)], vips: &[&str]) -> Machine {
        let there = vips.iter().map(|vip| ("wan".to_owned(), vip.parse::<IpAddr>().unwrap()));
        Machine {
            sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            addresses: Some(there.collect()),
            ..Machine::default()
        }
    }

    fn said(machine: &Machine) -> (Verdict, String) {
        let found = twins(machine, &config(""), true);
        (worst(&found), found.iter().map(|finding| finding.remedy.as_str()).collect())
    }

    #[test]
    fn settings_that_hide_packets_or_addresses_are_told() {
        assert_eq!(said(&machine(&[("ipv4/ip_forward", "1")], &["10.1.0.100"])).0, Verdict::Ok);
        let cases = [
            (("ipv4/conf/all/rp_filter", "1"), Verdict::Note, "rp_filter=2"),
            (("ipv4/conf/wan/arp_ignore", "8"), Verdict::Problem, "arp_ignore=0"),
            (("ipv4/ip_forward", "0"), Verdict::Note, "ip_forward=1"),
        ];
        for (setting, verdict, remedy) in cases {
            let (is, text) = said(&machine(&[setting], &["10.1.0.100"]));
            assert!(is == verdict && text.contains(remedy), "{is:?} {text}");
        }
        let loose = [
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/wan/rp_filter", "2"),
            ("ipv4/conf/lan/rp_filter", "2"),
        ];
        assert_eq!(said(&machine(&loose, &["10.1.0.100"])).0, Verdict::Ok);
    }

    #[test]
    fn more_neighbours_than_the_kernel_keeps_are_told() {
        let mut config = config("");
        config.ports[1].addresses =
            vec![("10.2.0.1".parse().unwrap(), 16), ("fd00:2::1".parse().unwrap(), 64)];
        let said = |config: &Config, family: &str, soft: &str, hard: &str| {
            let limits = ["gc_thresh2", "gc_thresh3"].map(|name| format!("{family}/neigh/default/{name}"));
            let found =
                neighbours(&machine(&[(limits[0].as_str(), soft), (limits[1].as_str(), hard)], &[]), config);
            (worst(&found), found.iter().map(|finding| finding.remedy.clone()).collect::<String>())
        };
        let sample = config.services[0].real_servers[0].clone();
        let real = |address: &str| config::RealServer { address: address.parse().unwrap(), ..sample.clone() };
        // One of them twice, and one behind a router.
        config.services[0].real_servers =
            ["10.2.0.11:80", "10.2.0.11:81", "10.2.0.12:80", "192.0.2.1:80"].map(real).into();
        config.services[0].real_servers.push(real("[fd00:2::11]:80"));
        assert_eq!(said(&config, "ipv4", "2", "4").0, Verdict::Ok);
        assert_eq!(said(&config, "ipv4", "1", "2").0, Verdict::Note);
        let (verdict, remedy) = said(&config, "ipv4", "1", "1");
        let wanted = "sysctl net.ipv4.neigh.default.gc_thresh3=8 net.ipv4.neigh.default.gc_thresh2=4 \
                      net.ipv4.neigh.default.gc_thresh1=4";
        assert_eq!((verdict, remedy.as_str()), (Verdict::Problem, wanted));
        assert_eq!(said(&config, "ipv6", "1", "1").0, Verdict::Ok);
        assert_eq!(said(&config, "ipv6", "0", "0").0, Verdict::Problem);
        assert!(neighbours(&machine(&[], &[]), &config).is_empty(), "the kernel does not tell");
    }

    #[test]
    fn a_router_that_a_forwarding_twin_does_not_hear_is_told_where_no_ipv6_route_leads_on() {
        let with = |accept_ra: &str, forwarding: &str| {
            let settings = [("ipv6/conf/wan/accept_ra", accept_ra), ("ipv6/conf/wan/forwarding", forwarding)];
            let advertised = ["wan".to_owned()].into();
            Machine { advertised, ipv6_routed: Some(false), ..machine(&settings, &[]) }
        };
        let mut config = config("");
        config.ports[0].addresses = vec![("2001:db8:1::1".parse().unwrap(), 64)];
        let found = unheard_routers(&with("1", "1"), &config);
        assert_eq!((found.len(), worst(&found)), (1, Verdict::Note));
        assert!(found[0].remedy.starts_with("sysctl net.ipv6.conf.wan.accept_ra=2"), "{found:?}");
        let fine = [
            with("1", "0"),
            with("0", "1"),
            with("2", "1"),
            machine(&[], &[]),
            Machine { ipv6_routed: Some(true), ..with("1", "1") },
            Machine { ipv6_routed: None, ..with("1", "1") },
            Machine { advertised: ["lan".to_owned()].into(), ..with("1", "1") },
        ];
        for machine in fine {
            assert_eq!(unheard_routers(&machine, &config), [], "{machine:?}");
        }
        let mut routed = config.clone();
        routed.static_routes = vec![api::StaticRoute {
            network: "::".parse().unwrap(),
            prefix_len: 0,
            via: Some("2001:db8:1::fe".parse().unwrap()),
            port: "wan".to_owned(),
        }];
        assert_eq!(unheard_routers(&with("1", "1"), &routed), []);
        config.ports[0].addresses = vec![("10.1.0.1".parse().unwrap(), 24)];
        assert_eq!(unheard_routers(&with("1", "1"), &config), []);
    }

    #[test]
    fn a_vip_that_is_nowhere_is_a_problem_if_control_should_have_added_it() {
        let (verdict, text) = said(&machine(&[], &[]));
        assert!(verdict == Verdict::Problem && text.contains("tollgate-control"), "{text}");
        let mut unmanaged = config("");
        unmanaged.control.manage_addresses = false;
        assert_eq!(worst(&twins(&machine(&[], &[]), &unmanaged, true)), Verdict::Note);
        assert_eq!(worst(&twins(&machine(&[], &[]), &config(""), false)), Verdict::Ok);
        let vip = |last: u8| (IpAddr::from([10, 3, 0, last]), "wan".to_owned());
        unmanaged.services[0].vips = (1..=30).map(vip).collect();
        let text = missing_vips(&machine(&[], &[]), &unmanaged).unwrap().text;
        assert!(text.ends_with("10.3.0.10 (wan), and 20 more"), "{text}");
    }

    #[test]
    fn whoever_announces_is_named() {
        let programs = ["bird".to_owned()].into();
        assert!(routing_daemons(&Machine { programs, ..Machine::default() }).text.contains("bird runs"));
        assert_eq!(routing_daemons(&Machine::default()).verdict, Verdict::Note);
    }
}
