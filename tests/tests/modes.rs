//! Every forwarding mode through the whole gateway, between real programs.
#![forbid(unsafe_code)]

use anyhow::Result;
use tollgate_tests::dns;
use tollgate_tests::lab::Lab;
use tollgate_tests::load::Answers;

/// Services in turn (rr) of real1 and real2 on one VIP of each family: HTTP and DNS.
fn web_and_dns(mode: &str) -> String {
    let mut text = String::new();
    for (vip, net) in [("10.1.0.100", "10.2.0."), ("[2001:db8:1::100]", "[2001:db8:2::")] {
        let end = if net.starts_with('[') { "]" } else { "" };
        for (protocol, port) in [("tcp", 80), ("udp", 53)] {
            text += &format!(
                "[[service]]\nlisten = \"{vip}:{port}\"\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n\
                 scheduler = \"rr\"\nreal_server = [{{ address = \"{net}11{end}:{port}\" }}, \
                 {{ address = \"{net}12{end}:{port}\" }}]\n"
            );
        }
    }
    text
}

/// Both real servers answer over TCP and UDP, IPv4 and IPv6, each its share.
fn web_and_dns_answer(lab: &Lab) -> Result<()> {
    for vip in ["10.1.0.100", "[2001:db8:1::100]"] {
        assert_eq!(lab.get(&format!("http://{vip}/"), 20)?, shared(20), "{vip}");
        let mut answers = Answers::default();
        for _ in 0..10 {
            let server = dns::who(lab.client(), vip.trim_matches(['[', ']']))?;
            *answers.by_server.entry(server).or_default() += 1;
        }
        assert_eq!(answers, shared(10), "{vip}");
    }
    Ok(())
}

/// What real1 and real2 answer in turn.
fn shared(count: u32) -> Answers {
    let by_server = ["real1", "real2"].map(|server| (server.to_owned(), count / 2));
    Answers { by_server: by_server.into(), failed: 0 }
}

#[test]
fn direct_routing_over_tcp_and_udp_and_both_families() -> Result<()> {
    let mut lab = Lab::build(&web_and_dns("dr"))?;
    lab.answer_directly(&["10.1.0.100", "2001:db8:1::100"])?;
    lab.start_gateway()?;
    web_and_dns_answer(&lab)?;
    lab.succeed()
}

#[test]
fn fullnat_over_tcp_and_udp_and_both_families() -> Result<()> {
    let lab = Lab::start(&web_and_dns("fullnat"))?;
    web_and_dns_answer(&lab)?;
    lab.succeed()
}
