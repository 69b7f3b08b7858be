use api::{Mode, Tunnel, TunnelKind};

use super::*;

const TEXT: &str = r#"
port = [
  { name = "wan", device = "0000:01:00.0", addresses = ["10.1.0.1/24", "2001:db8:1::1/64"] },
  { name = "lan", device = "0000:01:00.1", addresses = ["10.2.0.1/24", "2001:db8:2::1/64"] },
]
local_pool = [{ name = "inside", port = "lan", addresses = ["10.2.0.200", "2001:db8:2::200"], ports = "2000-3000" }]
[[service]]
listen = ["10.1.0.100:80", "10.1.0.100:443", "10.2.0.50:80"]
protocol = "tcp"
mode = "dr"
scheduler = "sh"
scheduler_flags = ["sh-port"]
persistence = { timeout = "1m" }
sorry_server = { address = "10.2.0.99", mode = "tun" }
expire_nodest_conn = true
real_server = [{ address = "10.2.0.11", weight = 3, upper_threshold = 9, lower_threshold = 7 }]
[[service]]
listen = "[2001:db8:1::100]:80"
protocol = "tcp"
tcp_timestamps = "strip"
rebase_sequence = true
real_server = [{ address = "10.2.0.11" }, { address = "2001:db8:2::11" }]
"#;

fn config() -> Config {
    Config::from_str("t", TEXT).unwrap_or_else(|found| panic!("{found:#?}"))
}

fn up(_: TargetId, _: &config::Service, real: &config::RealServer) -> Now {
    Now { up: true, ramp_percent: 40, end_connections: real.weight == 3 }
}

#[test]
fn all_that_a_service_asks_for_is_passed_on() {
    let state = state(&config(), up);
    let [group, v6] = state.services.as_slice() else { panic!("two services") };
    assert_eq!(group.also, config().services[0].also);
    assert_eq!(group.also.len(), 2);
    assert_eq!((group.scheduler, group.scheduler_flags.port), (api::Scheduler::Sh, true));
    assert_eq!(group.persistence, Some(api::Persistence { timeout_s: 60, prefix_len: 32 }));
    assert!(group.expire_nodest_conn && !group.expire_quiescent_template);
    assert_eq!(group.local_addresses, [] as [IpAddr; 0], "nobody needs them");
    let wanted = RealServer {
        mode: Mode::Dr,
        weight: 3,
        ramp_percent: 40,
        upper_threshold: 9,
        lower_threshold: 7,
        end_connections: true,
        ..RealServer::new("10.2.0.11:0".parse().unwrap())
    };
    assert_eq!(group.real_servers, [wanted]);
    let tunnel = Tunnel { kind: TunnelKind::Ipip, source: [10, 2, 0, 1].into() };
    let sorry = RealServer { mode: Mode::Tun(tunnel), ..RealServer::new("10.2.0.99:0".parse().unwrap()) };
    assert_eq!(group.sorry_server, Some(sorry));
    assert_eq!((v6.tcp_timestamps, v6.rebase_sequence), (api::TcpTimestamps::Strip, true));
    // Real servers of both families, so local addresses of both.
    assert_eq!(v6.local_addresses, config().local_pools[0].addresses);
    assert_eq!(v6.local_ports, (2000, 3000));
    assert!(v6.real_servers.iter().all(|real| real.mode == Mode::FullNat && !real.end_connections));
}

#[test]
fn every_vip_of_a_group_is_on_the_twin_of_its_network() {
    let config = config();
    let twins = twins(&config, Some(&config)).twins;
    let hosts = |of: usize| twins[of].hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts(0), ["10.1.0.100", "2001:db8:1::100"]);
    assert_eq!(hosts(1), ["10.2.0.200", "2001:db8:2::200", "10.2.0.50"]);
    assert_eq!(twins[1].own, config.ports[1].addresses);
}

#[test]
fn vips_wait_for_a_state_that_has_all_addresses_of_the_services() {
    let old = config();
    let new = Config::from_str("t", &TEXT.replace("10.2.0.50:80", "10.2.0.51:80")).unwrap();
    assert!(has_addresses_of(&state(&old, up), &old));
    // The first address, by which services are known, is the same.
    assert!(!has_addresses_of(&state(&old, up), &new));
    let before = twins(&new, None);
    assert!(!before.remove && before.twins.iter().all(|twin| !twin.hosts.contains(&[10, 2, 0, 51].into())));
}

#[test]
fn a_new_api_socket_asks_for_a_restart_of_both_programs_however_often_it_is_reloaded() {
    let (old, mut new) = (config(), config());
    new.dataplane.api_socket = "/run/other.sock".into();
    for running in [&old, &new] {
        let found = start_only_changes(running, &old, &new);
        let [only] = found.as_slice() else { panic!("{found:?}") };
        assert!(only.starts_with("api_socket in [dataplane]"), "{only}");
        assert!(only.contains("restart tollgate-dataplane and tollgate-control"), "{only}");
    }
    assert_eq!(start_only_changes(&new, &old, &old), [] as [String; 0]);
}
