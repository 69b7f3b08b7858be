use super::*;

/// A service with two real servers.
fn config(weight: u16, times: &str) -> Config {
    let text = format!(
        "port = [{{ name = \"wan\", device = \"0000:01:00.0\" }}]\n[[service]]\nlisten = \"10.1.0.100:80\"\n\
         protocol = \"tcp\"\nmode = \"nat\"\n{times}\nreal_server = [{{ address = \"10.2.0.11\", weight = {weight} }},\n\
         {{ address = \"10.2.0.12\" }}]"
    );
    Config::from_str("t", &text).unwrap_or_else(|found| panic!("{found:#?}"))
}

fn id(config: &Config, real: usize) -> TargetId {
    let service = &config.services[0];
    TargetId { service: service_key(service), real: service.real_servers[real].address }
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_server_that_comes_back_gets_its_weight_in_even_steps() {
    let config = config(1, "slow_start = \"8s\"");
    let (slow_start, first, second) = (config.services[0].slow_start, id(&config, 0), id(&config, 1));
    let begun = Instant::now();
    let mut pace = Pace::default();
    pace.follow(&config, begun);
    assert_eq!(pace.ramp_percent(first, slow_start, begun), 100, "at the start");
    pace.came_back(first, begun);
    let at = |ms| pace.ramp_percent(first, slow_start, begun + Duration::from_millis(ms));
    assert_eq!([0, 999, 1000, 2000, 4500, 7999].map(at), [1, 1, 12, 25, 50, 87]);
    assert_eq!([8000, 100_000].map(at), [100, 100]);
    assert_eq!(pace.ramp_percent(second, slow_start, begun), 100, "the other one");
    assert_eq!(pace.next_change(&config, begun), Some(begun + secs(1)));
    assert_eq!(pace.next_change(&config, begun + secs(8)), None);
}

#[test]
fn a_server_that_goes_down_again_begins_anew_and_without_slow_start_there_is_none() {
    let config = config(1, "slow_start = \"10s\"");
    let (slow_start, first) = (config.services[0].slow_start, id(&config, 0));
    let begun = Instant::now();
    let mut pace = Pace::default();
    pace.came_back(first, begun);
    pace.went_down(first);
    pace.came_back(first, begun + secs(9));
    assert_eq!(pace.ramp_percent(first, slow_start, begun + secs(10)), 10);
    assert_eq!(pace.ramp_percent(first, None, begun + secs(10)), 100);
}

#[test]
fn a_reload_keeps_ramps_that_run_and_revives_none_that_have_ended() {
    let short = config(1, "slow_start = \"10s\"");
    let long = config(1, "slow_start = \"100s\"");
    let (slow_start, first, second) = (long.services[0].slow_start, id(&long, 0), id(&long, 1));
    let begun = Instant::now();
    let mut pace = Pace::default();
    pace.came_back(first, begun);
    pace.came_back(second, begun + secs(15));
    pace.follow(&short, begun + secs(20));
    pace.follow(&long, begun + secs(20));
    assert_eq!(pace.ramp_percent(first, slow_start, begun + secs(20)), 100);
    assert_eq!(pace.ramp_percent(second, slow_start, begun + secs(20)), 5);
}

#[test]
fn connections_of_a_draining_server_end_with_its_deadline() {
    let busy = config(1, "drain_deadline = \"60s\"");
    let draining = config(0, "drain_deadline = \"60s\"");
    let real = &draining.services[0].real_servers[0];
    let first = id(&draining, 0);
    let begun = Instant::now();
    let mut pace = Pace::default();
    pace.follow(&busy, begun);
    assert_eq!(pace.next_change(&busy, begun), None);
    pace.follow(&draining, begun + secs(10));
    // Another reload does not start the clock again.
    pace.follow(&draining, begun + secs(40));
    assert_eq!(pace.next_change(&draining, begun + secs(40)), Some(begun + secs(70)));
    assert!(!pace.ends_connections(first, real, begun + secs(69)));
    assert!(pace.ends_connections(first, real, begun + secs(70)));
    assert_eq!(pace.next_change(&draining, begun + secs(70)), None);
    // Before a reload that gives it weight again is in force, its state is tried with the old clock.
    assert!(!pace.ends_connections(first, &busy.services[0].real_servers[0], begun + secs(99)));
    pace.follow(&busy, begun + secs(100));
    pace.follow(&draining, begun + secs(101));
    assert!(!pace.ends_connections(first, real, begun + secs(102)), "a new drain has its whole time");
}

#[test]
fn without_a_deadline_a_drain_takes_as_long_as_it_takes() {
    let draining = config(0, "");
    let begun = Instant::now();
    let mut pace = Pace::default();
    pace.follow(&draining, begun);
    let later = begun + secs(1_000_000);
    assert!(!pace.ends_connections(id(&draining, 0), &draining.services[0].real_servers[0], later));
    assert_eq!(pace.next_change(&draining, begun), None);
}
