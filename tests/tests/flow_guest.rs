//! The gateway on ports that take flow rules, in a guest: replies of real servers never have to be handed over.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tollgate_tests::flow_guest;
use tollgate_tests::gateway_guest::{self, GatewayGuest, sum_of_workers};

const NETWORKS: &str = r#"
[[local_pool]]
name = "inside"
port = "lan"
addresses = [LOCALS]

[[service]]
listen = "10.1.0.100:80"
protocol = "tcp"
port = "wan"
[[service.real_server]]
address = "10.2.0.11:80"

[[neighbour]]
port = "wan"
address = "10.1.0.11"
mac = "02:00:00:00:01:01"
[[neighbour]]
port = "lan"
address = "10.2.0.11"
mac = "02:00:00:00:02:01"
[[route]]
network = "10.1.0.0/24"
via = "on-link"
port = "wan"
[[route]]
network = "10.2.0.0/24"
via = "on-link"
port = "lan"
"#;

fn config(steering: &str, locals: usize) -> String {
    let locals: Vec<String> = (1..=locals).map(|last| format!("\"10.2.0.20{last}\"")).collect();
    let networks = NETWORKS.replace("LOCALS", &locals.join(", "));
    gateway_guest::config(2, steering, ["net_tap,iface=wan0", "net_tap,iface=lan0"], &networks)
}

/// Gives the kernel its addresses at the ports' other ends, and lets it know the gateway's.
fn join_networks(guest: &mut GatewayGuest) -> Result<()> {
    let status = guest.status()?;
    for (number, (name, net)) in [("wan", 1), ("lan", 2)].into_iter().enumerate() {
        let port = &status["dataplane"]["ports"][number];
        ensure!(port["name"] == name, "{port}");
        let mac = port["mac"].as_str().context("a MAC address")?;
        // What waits unfinished for hardware to finish it, the driver does not finish.
        guest.run(&format!("ethtool -K {name}0 tx off sg off tso off gso off gro off"))?;
        guest.run(&format!("ip link set {name}0 address 02:00:00:00:0{net}:01"))?;
        guest.run(&format!("ip address add 10.{net}.0.11/24 dev {name}0"))?;
        let gateways = if net == 1 { 100..=100 } else { 201..=204 };
        for last in gateways {
            guest.run(&format!("ip neigh add 10.{net}.0.{last} lladdr {mac} dev {name}0 nud permanent"))?;
        }
    }
    Ok(())
}

fn start_nginx(guest: &mut GatewayGuest) -> Result<()> {
    let text = "user root; worker_processes 1; error_log /nginx.log; pid /run/nginx.pid; events {} http { \
                access_log off; server { listen 10.2.0.11:80; location / { return 200 hello; } } }";
    guest.run(&format!("echo \"{text}\" >/nginx.conf && nginx -c /nginx.conf"))?;
    Ok(())
}

fn rules(guest: &mut GatewayGuest, port: &str) -> Result<usize> {
    let said = guest.run(&format!("tc filter show dev {port}0 parent 1:"))?;
    Ok(said.matches("skbedit").count())
}

/// The real server knocks at every local address, unasked and from many ports: that comes in at whatever queue the rules
/// say.
fn knock(guest: &mut GatewayGuest) -> Result<()> {
    guest.run(
        "for n in 1 2 3 4 5 6 7 8; do for last in 201 202; do curl -s --connect-timeout 0.05 --interface 10.2.0.11 \
         http://10.2.0.$last:99/; done; done; true",
    )?;
    Ok(())
}

#[test]
fn rules_bring_replies_to_the_worker_whose_local_address_it_is() -> Result<()> {
    let mut guest = flow_guest::boot()?;
    guest.start_gateway(&config("auto", 2))?;
    let status = guest.status()?;
    assert_eq!(status["dataplane"]["steering"], "flow", "{status:#}");
    let note = status["dataplane"]["steering_note"].as_str().unwrap();
    assert_eq!(note, "not by hash: port wan does not tell its RSS key");
    join_networks(&mut guest)?;
    start_nginx(&mut guest)?;
    assert_eq!((rules(&mut guest, "wan")?, rules(&mut guest, "lan")?), (2, 2));

    let fetch = "curl -sS --max-time 20 --interface 10.1.0.11 http://10.1.0.100/";
    let said = guest.run(&format!("for n in $(seq 20); do {fetch}; done"))?;
    assert_eq!(said.trim(), "hello".repeat(20));
    let said = guest.run("wrk -t1 -c8 -d2s http://10.1.0.100:80/")?;
    ensure!(said.contains("requests in") && !said.contains("Socket errors"), "{said}");

    let status = guest.status()?;
    assert_eq!(sum_of_workers(&status, "misdirected")?, 0, "{status:#}");
    // What clients send is handed over where the hash of their endpoint says so; nothing else is.
    let from_clients = status["dataplane"]["ports"][0]["rx_packets"].as_u64().unwrap();
    let from_reals = status["dataplane"]["ports"][1]["rx_packets"].as_u64().unwrap();
    ensure!(from_reals > 100 && sum_of_workers(&status, "handed_over")? < from_clients, "{status:#}");
    let opened: Vec<&Value> = status["dataplane"]["workers"].as_array().unwrap().iter().collect();
    ensure!(opened.iter().all(|worker| worker["connections"].as_u64() > Some(0)), "{status:#}");

    knock(&mut guest)?;
    assert_eq!(sum_of_workers(&guest.status()?, "misdirected")?, 0);
    // Without the rules the same packets go astray, and are counted.
    guest.run("tc filter del dev lan0 parent 1:")?;
    knock(&mut guest)?;
    let status = guest.status()?;
    ensure!(sum_of_workers(&status, "misdirected")? > 0, "{status:#}");
    guest.stop_gateway()
}

#[test]
fn rules_follow_the_local_addresses() -> Result<()> {
    let mut guest = flow_guest::boot()?;
    guest.start_gateway(&config("flow", 2))?;
    assert_eq!(guest.status()?["dataplane"]["flow_rules"], 4);
    guest.write_config(&config("flow", 4))?;
    guest.run("tollgate reload")?;
    assert_eq!(guest.status()?["dataplane"]["flow_rules"], 8);
    assert_eq!((rules(&mut guest, "wan")?, rules(&mut guest, "lan")?), (4, 4));
    guest.write_config(&config("flow", 1))?;
    let refused = guest.run_failing("tollgate reload")?;
    ensure!(refused.contains("1 of 2 workers would have no local address"), "{refused}");
    assert_eq!(guest.status()?["dataplane"]["flow_rules"], 8);
    guest.stop_gateway()?;

    guest.start_gateway(&config("auto", 1))?;
    let status = guest.status()?;
    assert_eq!(
        (&status["dataplane"]["steering"], &status["dataplane"]["flow_rules"]),
        (&"flow".into(), &0.into())
    );
    let note = status["dataplane"]["steering_note"].as_str().unwrap();
    ensure!(note.contains("all workers share 1 local address"), "{note}");
    guest.stop_gateway()
}
