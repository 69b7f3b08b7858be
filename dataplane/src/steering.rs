//! How packets are brought to the worker that owns them: found out when the ports are open, and fixed from
//! then on.
//!
//! All ports are asked to hash with the same key and the same redirection table, because a connection's
//! packets may come in at any of them. What they then tell about themselves decides: where all agree and each
//! worker has a queue at each port, the NICs' hash steers ([`engine::rss`]). Else flow rules bring replies to the
//! worker whose their local address is, where a port takes such rules ([`crate::flow_rules`]). Else the receiving
//! worker hands over.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dpdk::{RssConfig, RssState};
use engine::Rss;
use engine::rss::{Hashed, KEY_LEN, RssError};

use crate::flow_rules::{Taker, Takers};
use crate::ports::{Deal, OpenPort};

/// Longest key of any known driver is 52 bytes (i40e, ice).
const WISH_KEY_LEN: usize = 64;
/// About every second key lets local ports be chosen for the usual table of 128 entries.
const KEY_TRIES_MAX: usize = 100;
/// Packets of each family that the self-test hashes twice.
const SELF_TEST_LEN: usize = 64;

/// What all ports are asked to hash with.
#[derive(Debug)]
pub(crate) struct Wish {
    key: [u8; WISH_KEY_LEN],
    /// Entries after which the redirection tables repeat; 0: there are none.
    period: u16,
}

impl Wish {
    /// A random key, so that nobody can aim all his connections at one worker; with a seed always the same.
    /// The tables repeat after the length of the shortest one, so that long and short ones say the same.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new(
        seed: Option<u64>,
        table_lens: impl Iterator<Item = u16>,
    ) -> Result<Wish, getrandom::Error> {
        let period = table_lens.filter(|len| *len > 0).min().unwrap_or(0);
        let mut state = match seed {
            Some(seed) => seed,
            None => getrandom::u64()?,
        };
        let mut wish = Wish { key: [0; WISH_KEY_LEN], period };
        for _ in 0..KEY_TRIES_MAX {
            match seed {
                Some(_) => wish.key.chunks_mut(8).for_each(|part| part.copy_from_slice(&next(&mut state))),
                None => getrandom::fill(&mut wish.key)?,
            }
            if Rss::new(&wish.key, &vec![0; period.into()], 1, Hashed::ALL).err() != Some(RssError::PoorKey) {
                break;
            }
        }
        Ok(wish)
    }

    /// The same for a port with so many queues.
    pub(crate) fn of_port(&self, queues: u16) -> RssConfig {
        let table = (0..self.period).map(|entry| entry % queues.max(1)).collect();
        RssConfig { key: self.key.to_vec(), table }
    }
}

/// Numbers without a pattern (splitmix64).
fn next(state: &mut u64) -> [u8; 8] {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31).to_ne_bytes()
}

/// What an open port tells of its receive hash.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    name: String,
    queues: u16,
    has_rss: bool,
    state: Option<RssState>,
    /// Workers instead of queues.
    table: Option<Vec<u16>>,
}

impl Told {
    pub(crate) fn by(port: &OpenPort, deal: &Deal) -> Told {
        // A driver that has the function and fails tells as little as one without it.
        let table = port.dpdk.reta().ok().flatten();
        Told {
            name: port.config.name.clone(),
            queues: port.rx_queues,
            has_rss: port.dpdk.info().rss_offloads != 0,
            state: port.dpdk.rss().ok().flatten(),
            // A queue that nobody polls is no worker's, which the engine refuses.
            table: table.map(|table| {
                table
                    .iter()
                    .map(|queue| deal.rx.get(usize::from(*queue)).copied().unwrap_or(u16::MAX))
                    .collect()
            }),
        }
    }
}

impl Told {
    /// All of it in one line.
    pub(crate) fn summary(&self) -> String {
        if !self.has_rss {
            return "no receive hash".to_owned();
        }
        let table = match &self.table {
            Some(table) => format!("redirection table of {}", table.len()),
            None => "no redirection table".to_owned(),
        };
        let Some(RssState { key, tcp4, udp4, tcp6, udp6 }) = &self.state else {
            return format!("receive hash with a hidden key, {table}");
        };
        let kinds = [(tcp4, "TCP/IPv4"), (udp4, "UDP/IPv4"), (tcp6, "TCP/IPv6"), (udp6, "UDP/IPv6")];
        let hashed: Vec<&str> = kinds.iter().filter(|(is, _)| **is).map(|(_, name)| *name).collect();
        let hashed = if hashed.is_empty() { "nothing".to_owned() } else { hashed.join(", ") };
        format!("receive hash with a key of {} bytes, {table}; hashes {hashed} with ports", key.len())
    }
}

/// Why the NICs' hash does not steer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("port {name} has fewer receive queues ({queues}) than there are workers ({workers})")]
    Queues { name: String, queues: u16, workers: u16 },
    #[error("port {0} has no receive hash (RSS)")]
    NoRss(String),
    #[error("port {0} does not tell its RSS key")]
    KeyHidden(String),
    #[error("port {0} does not tell its redirection table")]
    TableHidden(String),
    #[error("ports {0} and {1} have different RSS keys")]
    KeysDiffer(String, String),
    #[error("ports {0} and {1} have different redirection tables")]
    TablesDiffer(String, String),
    #[error("the ports hash neither TCP nor UDP with its ports")]
    NothingHashed,
    #[error("port {0}: {1}")]
    Unfit(String, RssError),
    #[error("the self-test failed: DPDK hashes otherwise than Tollgate, which is a bug")]
    SelfTest,
}

/// How packets are steered, and why.
#[derive(Debug)]
pub(crate) struct Steering {
    /// "single", "rss", "flow" or "software".
    pub(crate) name: &'static str,
    /// What keeps it from being better, or is not steered so; empty: nothing.
    pub(crate) note: String,
    /// With "rss": the hash.
    pub(crate) rss: Option<Arc<Rss>>,
    /// With "flow": the ports that take rules.
    pub(crate) takers: Vec<Taker>,
    /// Whether the operator wanted what he does not get.
    pub(crate) falls_short: bool,
}

impl Steering {
    fn new(name: &'static str, note: impl Into<String>) -> Steering {
        Steering { name, note: note.into(), rss: None, takers: Vec::new(), falls_short: false }
    }
}

/// Chooses the best steering that the operator allows and the ports can do. Which take flow rules is only asked when
/// it matters.
pub(crate) fn choose(
    wanted: config::Steering,
    workers: u16,
    ports: &[Told],
    takers: impl FnOnce() -> Takers,
) -> Steering {
    if workers == 1 {
        return Steering::new("single", "");
    }
    match wanted {
        config::Steering::Software => Steering::new("software", "as configured"),
        config::Steering::Flow => by_flow_rules(takers()).unwrap_or_else(falling_short),
        config::Steering::Rss => by_hash(workers, ports).unwrap_or_else(|why| falling_short(why.to_string())),
        config::Steering::Auto => {
            by_hash(workers, ports).unwrap_or_else(|no_hash| second_choice(&no_hash, takers()))
        }
    }
}

/// Flow rules, or else software, where the hash cannot steer.
fn second_choice(no_hash: &Why, takers: Takers) -> Steering {
    match by_flow_rules(takers) {
        Ok(flow) if flow.note.is_empty() => Steering { note: format!("not by hash: {no_hash}"), ..flow },
        Ok(flow) => Steering { note: format!("not by hash: {no_hash}; {}", flow.note), ..flow },
        Err(no_flow) => Steering::new("software", format!("{no_hash}; no flow rules: {no_flow}")),
    }
}

/// Software instead of what was wanted.
fn falling_short(why: String) -> Steering {
    Steering { falls_short: true, ..Steering::new("software", why) }
}

fn by_hash(workers: u16, ports: &[Told]) -> Result<Steering, Why> {
    let (rss, hashed) = agree(workers, ports)?;
    Ok(Steering { rss: Some(Arc::new(rss)), ..Steering::new("rss", not_hashed(hashed)) })
}

fn by_flow_rules(Takers { takers, refusals }: Takers) -> Result<Steering, String> {
    let refusals = refusals.join("; ");
    if takers.is_empty() {
        return Err(refusals);
    }
    Ok(Steering { takers, ..Steering::new("flow", refusals) })
}

/// What all ports hash with, if they agree.
fn agree(workers: u16, ports: &[Told]) -> Result<(Rss, Hashed), Why> {
    let mut longest: Option<(&Told, &[u8], &[u16])> = None;
    let mut hashed = Hashed::ALL;
    for port in ports {
        let name = || port.name.clone();
        if port.queues < workers {
            return Err(Why::Queues { name: name(), queues: port.queues, workers });
        }
        if !port.has_rss {
            return Err(Why::NoRss(name()));
        }
        let state = port.state.as_ref().ok_or_else(|| Why::KeyHidden(name()))?;
        let table = port.table.as_deref().ok_or_else(|| Why::TableHidden(name()))?;
        let short = || Why::Unfit(name(), RssError::KeyTooShort(state.key.len()));
        let key = state.key.get(..KEY_LEN).ok_or_else(short)?;
        let RssState { tcp4, udp4, tcp6, udp6, .. } = *state;
        hashed = hashed.and(Hashed { tcp4, udp4, tcp6, udp6 });
        if let Some((other, other_key, other_table)) = longest {
            if key != other_key {
                return Err(Why::KeysDiffer(other.name.clone(), name()));
            }
            if !say_the_same(table, other_table) {
                return Err(Why::TablesDiffer(other.name.clone(), name()));
            }
        }
        if longest.is_none_or(|(_, _, other_table)| table.len() > other_table.len()) {
            longest = Some((port, key, table));
        }
    }
    // A configuration has at least one port.
    let (port, key, table) = longest.ok_or(Why::NothingHashed)?;
    if hashed == Hashed::default() {
        return Err(Why::NothingHashed);
    }
    let rss = Rss::new(key, table, workers, hashed).map_err(|error| Why::Unfit(port.name.clone(), error))?;
    if self_test(&rss, key) { Ok((rss, hashed)) } else { Err(Why::SelfTest) }
}

/// Whether two tables, of which the shorter one's length divides the longer one's, name the same worker for
/// every hash.
fn say_the_same(a: &[u16], b: &[u16]) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    !short.is_empty() && long.len() % short.len() == 0 && long.chunks(short.len()).all(|chunk| chunk == short)
}

/// Whether the engine's hash is DPDK's, under this key.
fn self_test(rss: &Rss, key: &[u8]) -> bool {
    let mut state = 0;
    let mut random = || u64::from_ne_bytes(next(&mut state));
    (0..2 * SELF_TEST_LEN).all(|round| {
        let mut address = || match round % 2 {
            0 => IpAddr::from((random() as u32).to_be_bytes()),
            // From 2000::/3, so never a mapped one.
            _ => IpAddr::from((u128::from(random() | 1 << 61) << 64 | u128::from(random())).to_be_bytes()),
        };
        let (src, dst) = (address(), address());
        let (src, dst) = (SocketAddr::new(src, random() as u16), SocketAddr::new(dst, random() as u16));
        rss.hash(src, dst) == dpdk::softrss(&words(src, dst), key)
    })
}

/// What is hashed of a packet, as [`dpdk::softrss`] takes it.
fn words(src: SocketAddr, dst: SocketAddr) -> Vec<u32> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let addresses = [octets(src.ip()), octets(dst.ip())].concat();
    let addresses =
        addresses.chunks(4).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
    addresses.chain([u32::from(src.port()) << 16 | u32::from(dst.port())]).collect()
}

/// Names what is handed over all the same.
fn not_hashed(hashed: Hashed) -> String {
    let kinds = [
        (hashed.tcp4, "TCP over IPv4"),
        (hashed.udp4, "UDP over IPv4"),
        (hashed.tcp6, "TCP over IPv6"),
        (hashed.udp6, "UDP over IPv6"),
    ];
    let missing: Vec<&str> = kinds.iter().filter(|(is, _)| !is).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return String::new();
    }
    format!("the ports do not hash {} with its ports: handed over in software", missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, workers: u16, entries: u16) -> Told {
        let wish = Wish::new(Some(7), [128, entries].into_iter()).unwrap();
        let RssConfig { key, table } = wish.of_port(workers);
        Told {
            name: name.to_owned(),
            queues: workers,
            has_rss: true,
            state: Some(RssState { key: key[..40].to_vec(), tcp4: true, udp4: true, tcp6: true, udp6: true }),
            table: Some(table.into_iter().cycle().take(entries.into()).collect()),
        }
    }

    /// No port takes flow rules.
    fn nobody() -> Takers {
        Takers {
            refusals: vec!["port wan cannot".to_owned(), "port lan cannot".to_owned()],
            ..Takers::default()
        }
    }

    /// One port does.
    fn lan_alone() -> Takers {
        Takers { takers: vec![Taker::default()], refusals: vec!["port wan cannot".to_owned()] }
    }

    #[test]
    fn what_a_port_tells_of_its_hash_is_summed_up() {
        let port = told("wan", 2, 128);
        let all = "receive hash with a key of 40 bytes, redirection table of 128; hashes TCP/IPv4, UDP/IPv4, TCP/IPv6, \
                   UDP/IPv6 with ports";
        assert_eq!(port.summary(), all);
        let hidden = Told { state: None, table: None, ..port.clone() };
        assert_eq!(hidden.summary(), "receive hash with a hidden key, no redirection table");
        assert_eq!(Told { has_rss: false, ..port }.summary(), "no receive hash");
    }

    #[test]
    fn flow_rules_are_the_second_choice() {
        let good = [told("wan", 3, 128), told("lan", 3, 128)];
        let mut hidden = good.clone();
        hidden[1].state = None;
        let unasked = || -> Takers { panic!("flow rules are tried without need") };
        assert_eq!(choose(config::Steering::Auto, 3, &good, unasked).name, "rss");
        assert_eq!(choose(config::Steering::Rss, 3, &hidden, unasked).name, "software");
        let steering = choose(config::Steering::Auto, 3, &hidden, lan_alone);
        assert_eq!((steering.name, steering.takers.len(), steering.falls_short), ("flow", 1, false));
        assert_eq!(steering.note, "not by hash: port lan does not tell its RSS key; port wan cannot");
    }

    #[test]
    fn flow_rules_can_be_asked_for() {
        let good = [told("wan", 3, 128), told("lan", 3, 128)];
        let steering = choose(config::Steering::Flow, 3, &good, lan_alone);
        assert_eq!((steering.name, steering.note.as_str()), ("flow", "port wan cannot"));
        let steering = choose(config::Steering::Flow, 3, &good, nobody);
        assert_eq!((steering.name, steering.falls_short), ("software", true));
        assert_eq!(steering.note, "port wan cannot; port lan cannot");
    }

    fn why(change: impl Fn(&mut Told)) -> String {
        let mut ports = [told("wan", 3, 128), told("lan", 3, 128)];
        change(&mut ports[1]);
        let steering = choose(config::Steering::Auto, 3, &ports, nobody);
        assert_eq!((steering.name, steering.rss.is_none(), steering.falls_short), ("software", true, false));
        assert!(
            steering.note.ends_with("; no flow rules: port wan cannot; port lan cannot"),
            "{}",
            steering.note
        );
        assert!(choose(config::Steering::Rss, 3, &ports, nobody).falls_short);
        steering.note
    }

    #[test]
    fn ports_that_agree_steer_by_their_hash_whatever_the_lengths_of_their_tables() {
        for workers in 2..=64 {
            let steering = choose(
                config::Steering::Auto,
                workers,
                &[told("wan", workers, 128), told("lan", workers, 512)],
                nobody,
            );
            assert_eq!((steering.name, steering.note.as_str()), ("rss", ""), "{workers} workers");
            assert!(steering.rss.is_some() && !steering.falls_short);
        }
    }

    #[test]
    fn what_keeps_the_hash_from_steering_is_said() {
        type Change = (&'static str, fn(&mut Told));
        let changes: [Change; 9] = [
            ("port lan has fewer receive queues (2) than there are workers (3)", |port| port.queues = 2),
            ("port lan has no receive hash", |port| port.has_rss = false),
            ("port lan does not tell its RSS key", |port| port.state = None),
            ("port lan does not tell its redirection table", |port| port.table = None),
            ("ports wan and lan have different RSS keys", |port| port.state.as_mut().unwrap().key[39] ^= 1),
            ("ports wan and lan have different redirection tables", |port| {
                port.table.as_mut().unwrap()[5] ^= 1
            }),
            ("ports wan and lan have different redirection tables", |port| port.table = Some(Vec::new())),
            ("port lan: its RSS key has 20 bytes", |port| port.state.as_mut().unwrap().key.truncate(20)),
            ("neither TCP nor UDP", |port| {
                let key = port.state.as_ref().unwrap().key.clone();
                port.state = Some(RssState { key, tcp4: false, udp4: false, tcp6: false, udp6: false });
            }),
        ];
        for (wanted, change) in changes {
            let note = why(change);
            assert!(note.contains(wanted), "{note}");
        }
    }

    #[test]
    fn a_queue_that_nobody_polls_keeps_the_hash_from_steering() {
        let mut port = told("wan", 2, 128);
        port.table.as_mut().unwrap()[3] = u16::MAX;
        assert!(choose(config::Steering::Auto, 2, &[port], nobody).note.contains("names worker 65535 of 2"));
    }

    #[test]
    fn what_is_not_hashed_is_named() {
        let mut port = told("wan", 2, 128);
        port.state.as_mut().unwrap().udp6 = false;
        let steering = choose(config::Steering::Rss, 2, &[port], nobody);
        assert_eq!((steering.name, steering.falls_short), ("rss", false));
        assert!(steering.note.contains("do not hash UDP over IPv6 with its ports"), "{}", steering.note);
    }

    #[test]
    fn one_worker_needs_no_steering_and_software_can_be_asked_for() {
        assert_eq!(choose(config::Steering::Rss, 1, &[told("wan", 1, 128)], nobody).name, "single");
        let steering = choose(config::Steering::Software, 2, &[told("wan", 2, 128)], nobody);
        assert_eq!((steering.name, steering.note.as_str()), ("software", "as configured"));
    }

    #[test]
    fn a_wrong_hash_fails_the_self_test() {
        let key: Vec<u8> = (1..=40).collect();
        let rss = Rss::new(&key, &[0; 1], 1, Hashed::ALL).unwrap();
        assert!(self_test(&rss, &key));
        for changed in 0..40 {
            let mut other = key.clone();
            other[changed] ^= 0x80;
            assert!(!self_test(&rss, &other), "byte {changed}");
        }
    }

    #[test]
    fn keys_are_secret_but_with_a_seed() {
        let key = |seed| Wish::new(seed, [128].into_iter()).unwrap().key;
        assert_eq!(key(Some(1)), key(Some(1)));
        assert_ne!(key(Some(1)), key(Some(2)));
        assert_ne!(key(None), key(None));
    }
}
