//! The kernel behind the twins: settings, addresses, routing daemons.

use std::collections::BTreeSet;

use api::Mode;
use config::Config;

use super::Finding;
use super::machine::Machine;

/// Answers ARP for no address that is on the interface (Linux, Documentation/networking/ip-sysctl.rst).
const ARP_IGNORE_ALL: u32 = 8;

pub(super) fn twins(machine: &Machine, config: &Config, running: bool) -> Vec<Finding> {
    const CHECK: &str = "kernel";
    let twins = config.ports.iter().filter_map(|port| port.kernel_interface.as_deref());
    let mut found: Vec<Finding> = twins.flat_map(|twin| settings(machine, twin)).collect();
    found.extend(forwarding(machine, config));
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
    let text = format!("VIPs that are on no twin: {}", missing.join(", "));
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
    use std::net::IpAddr;

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
    fn a_vip_that_is_nowhere_is_a_problem_if_control_should_have_added_it() {
        let (verdict, text) = said(&machine(&[], &[]));
        assert!(verdict == Verdict::Problem && text.contains("tollgate-control"), "{text}");
        let mut unmanaged = config("");
        unmanaged.control.manage_addresses = false;
        assert_eq!(worst(&twins(&machine(&[], &[]), &unmanaged, true)), Verdict::Note);
        assert_eq!(worst(&twins(&machine(&[], &[]), &config(""), false)), Verdict::Ok);
    }

    #[test]
    fn whoever_announces_is_named() {
        let programs = ["bird".to_owned()].into();
        assert!(routing_daemons(&Machine { programs, ..Machine::default() }).text.contains("bird runs"));
        assert_eq!(routing_daemons(&Machine::default()).verdict, Verdict::Note);
    }
}
