use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs a test in a network namespace of its own, whose `lo` stands for a twin.
fn in_own_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
            panic!("no network namespace can be made ({error}): run the tests as root")
        });
        // One thread: others would be in the namespace of the process.
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    thread.join().unwrap();
}

fn wanted(own: &[(&str, u8)], hosts: &[&str], remove: bool) -> Wanted {
    Wanted { twins: vec![twin("lo", own, hosts)], remove }
}

fn twin(interface: &str, own: &[(&str, u8)], hosts: &[&str]) -> Twin {
    Twin {
        interface: interface.to_owned(),
        own: own.iter().map(|(address, prefix)| (address.parse().unwrap(), *prefix)).collect(),
        hosts: hosts.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn addresses_are_added_kept_and_removed_and_the_link_is_brought_up() {
    in_own_namespace(async || {
        let mut keeper = Keeper::new().unwrap();
        let first = wanted(&[("10.1.0.1", 24), ("fd00::1", 64)], &["10.1.0.100", "fd00::100"], true);
        assert_eq!(keeper.round(&first, Some(&HashSet::new())).await.unwrap().added, 4);
        assert_eq!(keeper.round(&first, Some(&HashSet::new())).await.unwrap(), Round::default());
        let shown = ip("addr show lo");
        assert!(
            shown.contains("UP") && shown.contains("10.1.0.1/24") && shown.contains("10.1.0.100/32"),
            "{shown}"
        );
        let second = wanted(&[("10.1.0.1", 24)], &["10.1.0.101"], true);
        let round = keeper.round(&second, Some(&HashSet::new())).await.unwrap();
        assert_eq!((round.added, round.removed), (1, 3));
        let shown = ip("addr show lo");
        assert!(!shown.contains("10.1.0.100/32") && shown.contains("10.1.0.101/32"), "{shown}");
    });
}

#[test]
fn another_control_knows_the_addresses_of_the_last_one_and_touches_no_others() {
    in_own_namespace(async || {
        ip("addr add 192.0.2.7/32 dev lo");
        ip("addr add 10.1.0.100/32 dev lo");
        let mut keeper = Keeper::new().unwrap();
        keeper.round(&wanted(&[], &["10.1.0.100", "10.1.0.101"], true), None).await.unwrap();
        let mut next = Keeper::new().unwrap();
        let idle = HashSet::new();
        assert_eq!(next.round(&wanted(&[], &[], false), Some(&idle)).await.unwrap().removed, 0);
        let round = next.round(&wanted(&[], &[], true), Some(&idle)).await.unwrap();
        assert_eq!(round.removed, 1);
        let shown = ip("addr show lo");
        assert!(shown.contains("192.0.2.7/32") && shown.contains("10.1.0.100/32"), "{shown}");
        assert!(!shown.contains("10.1.0.101/32"), "{shown}");
    });
}

#[test]
fn a_twin_that_is_not_there_is_named_and_does_not_hold_up_others() {
    in_own_namespace(async || {
        let mut both = wanted(&[("10.1.0.1", 24)], &[], true);
        both.twins.insert(0, twin("wan", &[("10.3.0.1", 24)], &[]));
        let round = Keeper::new().unwrap().round(&both, None).await.unwrap();
        assert_eq!(round, Round { added: 1, missing: vec!["wan".to_owned()], ..Round::default() });
    });
}

#[test]
fn a_local_address_with_connections_stays_until_they_have_ended() {
    in_own_namespace(async || {
        let mut keeper = Keeper::new().unwrap();
        let lip: IpAddr = "10.2.0.200".parse().unwrap();
        keeper.round(&wanted(&[], &["10.2.0.200"], true), None).await.unwrap();
        let gone = wanted(&[], &[], true);
        for busy in [None, Some(HashSet::from([lip]))] {
            let round = keeper.round(&gone, busy.as_ref()).await.unwrap();
            assert_eq!((round.removed, round.stale), (0, vec![lip]), "{busy:?}");
            assert!(ip("addr show lo").contains("10.2.0.200/32"));
        }
        assert_eq!(keeper.round(&gone, Some(&HashSet::new())).await.unwrap().removed, 1);
    });
}

#[test]
fn ipv6_addresses_are_usable_at_once_and_the_kernel_speaks_from_its_own() {
    in_own_namespace(async || {
        // Detection of duplicates is not done on lo, so a veth stands for the twin here.
        ip("link add wan type veth peer name other");
        ip("link set other up");
        let real = "fd00::11";
        // More like the real server's address than the gateway's own one.
        let wanted = Wanted { twins: vec![twin("wan", &[("fd00::f000", 64)], &["fd00::10"])], remove: true };
        Keeper::new().unwrap().round(&wanted, None).await.unwrap();
        let tentative = ip("-6 addr show dev wan tentative");
        assert!(!tentative.contains("fd00::"), "{tentative}");
        let shown = ip("-6 addr show dev wan");
        assert!(shown.contains("fd00::f000/64") && shown.contains("fd00::10/128"), "{shown}");
        let route = ip(&format!("-6 route get {real}"));
        assert!(route.contains("src fd00::f000"), "{route}");
    });
}
