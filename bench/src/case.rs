//! What is measured: a forwarding mode with a protocol, an address family, frames of one length, traffic in one or both
//! directions, and a number of connections; and which of all such cases a run has.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

/// Shortest frames on the wire with IPv6: Ethernet, IPv6 and TCP or UDP headers and the FCS.
const FRAME_MIN_TCP6: u32 = 78;
const FRAME_MIN_UDP6: u32 = 66;
/// Shortest frame on the wire.
pub(crate) const FRAME_MIN: u32 = 64;
/// Longest frame on the wire: with an IPv6 header around it the packet fits 1500 bytes.
pub(crate) const FRAME_MAX: u32 = 1478;
/// The long frames of a run without further arguments.
const FRAME_LONG: u32 = 1400;
const FRAME_MIDDLING: u32 = 512;
/// The most connections of a run without further arguments.
pub(crate) const FLOWS_MOST: u32 = 10_000_000;
/// Connections where nothing else is said: everything fits the second-level cache.
pub(crate) const FLOWS: u32 = 1000;

/// Forwarding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Both endpoints are replaced.
    Fullnat,
    /// The virtual endpoint is replaced by the real one.
    Nat,
    /// The destination MAC address is replaced.
    Dr,
    /// IP in IP.
    Tun,
}

impl Mode {
    /// As in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Fullnat => "fullnat",
            Mode::Nat => "nat",
            Mode::Dr => "dr",
            Mode::Tun => "tun",
        }
    }

    /// Whether the real server answers clients itself.
    pub(crate) fn is_one_way(self) -> bool {
        matches!(self, Mode::Dr | Mode::Tun)
    }
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proto {
    /// Data segments of established connections, without options.
    Tcp,
    /// Datagrams of answered connections, with a checksum.
    Udp,
}

impl Proto {
    /// As in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        }
    }
}

/// Address families of client and real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// Both IPv4.
    Ipv4,
    /// Both IPv6.
    Ipv6,
    /// IPv6 clients, IPv4 real servers.
    Nat64,
}

impl Family {
    /// As in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
            Family::Nat64 => "nat64",
        }
    }

    /// Whether clients have IPv6.
    pub(crate) fn client_is_v6(self) -> bool {
        self != Family::Ipv4
    }

    /// Whether real servers have IPv6.
    pub(crate) fn real_is_v6(self) -> bool {
        self == Family::Ipv6
    }
}

/// Which packets are replayed while the gateway is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Traffic {
    /// Clients' packets only.
    Inbound,
    /// Clients' and real servers' packets, 1:1.
    Both,
    /// Clients' first packets, each of a connection of its own; not among the throughput's cases.
    #[value(skip)]
    New,
    /// The same, into a table that is full of unanswered connections.
    #[value(skip)]
    Full,
    /// The same, to 20,000 services.
    #[value(skip)]
    Many,
}

impl Traffic {
    /// As in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Traffic::Inbound => "inbound",
            Traffic::Both => "both",
            Traffic::New => "new",
            Traffic::Full => "full",
            Traffic::Many => "many",
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    /// Forwarding mode.
    pub(crate) mode: Mode,
    /// Transport protocol.
    pub(crate) proto: Proto,
    /// Address families.
    pub(crate) family: Family,
    /// Directions.
    pub(crate) traffic: Traffic,
    /// Connections.
    pub(crate) flows: u32,
    /// Length of all frames on the wire, with the FCS.
    pub(crate) frame_bytes: u32,
    /// Workers, with a CPU and a queue each.
    pub(crate) workers: u16,
}

impl Case {
    /// A case at [`FLOWS`] with the shortest frames; `None` where there is no such thing.
    pub(crate) fn new(mode: Mode, proto: Proto, family: Family, traffic: Traffic) -> Option<Case> {
        let case = Case { mode, proto, family, traffic, flows: FLOWS, frame_bytes: FRAME_MIN, workers: 1 };
        let exists = (mode == Mode::Fullnat || family != Family::Nat64)
            && !(mode.is_one_way() && traffic == Traffic::Both);
        exists.then(|| case.with_frames(FRAME_MIN))
    }

    /// With frames of this length, or of the shortest possible if that is more.
    pub(crate) fn with_frames(self, bytes: u32) -> Case {
        let min = match (self.family, self.proto) {
            (Family::Ipv4, _) => FRAME_MIN,
            (Family::Ipv6 | Family::Nat64, Proto::Tcp) => FRAME_MIN_TCP6,
            (Family::Ipv6 | Family::Nat64, Proto::Udp) => FRAME_MIN_UDP6,
        };
        Case { frame_bytes: bytes.max(min), ..self }
    }

    /// Whether this is one of the plain cases, beside which testpmd io and 5tswap are measured as well.
    pub(crate) fn is_plain(&self) -> bool {
        (self.mode, self.family) == (Mode::Fullnat, Family::Ipv4)
    }

    /// Whether this is one of the cases that users ask for first: the shortest frames of a few flows, which limit the
    /// packet rate, in the fullest traffic that the mode has.
    pub(crate) fn is_main(&self) -> bool {
        let is_short = *self == Case { flows: FLOWS, ..self.with_frames(FRAME_MIN) };
        let is_fullest = self.mode.is_one_way() || self.traffic == Traffic::Both;
        let is_usual = self.family == Family::Ipv4 && self.mode != Mode::Nat
            || (self.mode, self.family) == (Mode::Fullnat, Family::Ipv6);
        is_short && is_fullest && is_usual
    }

    /// For messages and file names, e.g. `fullnat-tcp-ipv4-both`.
    pub(crate) fn name(&self) -> String {
        let Case { mode, proto, family, traffic, .. } = self;
        [mode.name(), proto.name(), family.name(), traffic.name()].join("-")
    }
}

/// Dimensions that were asked for; an empty one has its default.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Selection {
    /// Forwarding modes; giving this or one of the next six replaces the usual list of cases by all combinations, what
    /// is not given being fullnat, tcp, ipv4, all traffic, 1k flows and 64 bytes.
    #[arg(long, value_delimiter = ',')]
    mode: Vec<Mode>,
    /// Transport protocols.
    #[arg(long, value_delimiter = ',')]
    proto: Vec<Proto>,
    /// Address families.
    #[arg(long, value_delimiter = ',')]
    family: Vec<Family>,
    /// Directions.
    #[arg(long, value_delimiter = ',')]
    traffic: Vec<Traffic>,
    /// Numbers of flows, e.g. 1,1k,100k,1M.
    #[arg(long, value_delimiter = ',', value_parser = parse_count)]
    flows: Vec<u32>,
    /// Lengths of frames on the wire, with the FCS; 64 means the shortest there are: 78 with TCP over IPv6, 66 with UDP.
    #[arg(long, value_delimiter = ',')]
    frame_bytes: Vec<u32>,
    /// Numbers of workers: 1 or 2.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=2))]
    workers: Vec<u16>,
}

impl Selection {
    /// The cases of a run.
    ///
    /// # Errors
    /// Nothing that exists was asked for.
    pub(crate) fn cases(&self, quick: bool) -> Result<Vec<Case>> {
        match (self.is_empty(), quick) {
            (true, true) => Ok(main_cases()),
            (true, false) => Ok(all_cases()),
            (false, _) => self.combinations(),
        }
    }

    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.mode.is_empty()
            && self.proto.is_empty()
            && self.family.is_empty()
            && self.traffic.is_empty()
            && self.flows.is_empty()
            && self.frame_bytes.is_empty()
            && self.workers.is_empty()
    }

    fn combinations(&self) -> Result<Vec<Case>> {
        let traffic = or(&self.traffic, &[Traffic::Inbound, Traffic::Both]);
        let kinds = kinds(
            or(&self.mode, &[Mode::Fullnat]),
            or(&self.proto, &[Proto::Tcp]),
            or(&self.family, &[Family::Ipv4]),
            traffic,
        );
        let (flows, lengths) = (or(&self.flows, &[FLOWS]), or(&self.frame_bytes, &[FRAME_MIN]));
        for bytes in lengths {
            ensure!(
                (FRAME_MIN..=FRAME_MAX).contains(bytes),
                "frames of {bytes} bytes: {FRAME_MIN} to {FRAME_MAX} can be measured"
            );
        }
        let mut cases = Vec::new();
        for bytes in lengths {
            for kind in &kinds {
                for workers in or(&self.workers, &[1]) {
                    let case =
                        |flows: &u32| Case { flows: *flows, workers: *workers, ..kind.with_frames(*bytes) };
                    cases.extend(flows.iter().map(case));
                }
            }
        }
        ensure!(
            !cases.is_empty(),
            "no such case: dr and tun have inbound traffic only, and nat64 exists in fullnat only"
        );
        Ok(cases)
    }
}

fn or<'a, T>(given: &'a [T], default: &'a [T]) -> &'a [T] {
    if given.is_empty() { default } else { given }
}

/// All combinations that exist, at [`FLOWS`] with the shortest frames.
pub(crate) fn kinds(
    modes: &[Mode],
    protos: &[Proto],
    families: &[Family],
    traffics: &[Traffic],
) -> Vec<Case> {
    let mut kinds = Vec::new();
    for mode in modes {
        for family in families {
            for proto in protos {
                kinds.extend(
                    traffics.iter().filter_map(|traffic| Case::new(*mode, *proto, *family, *traffic)),
                );
            }
        }
    }
    kinds
}

/// Every mode, protocol and family with short frames, every mode and family with long ones, and the main ones with
/// middling ones and with few and many flows. Long frames come in one kind of traffic only, the fullest that the mode has.
fn all_cases() -> Vec<Case> {
    use Family::{Ipv4, Ipv6};
    use Mode::{Dr, Fullnat, Nat, Tun};
    use Proto::{Tcp, Udp};
    let every = kinds(
        Mode::value_variants(),
        Proto::value_variants(),
        Family::value_variants(),
        Traffic::value_variants(),
    );
    let mut cases = every.clone();
    let fullest = |case: &&Case| case.mode.is_one_way() || case.traffic == Traffic::Both;
    // What the protocol costs is seen with short frames; with long ones it is mostly copying.
    let long = |case: &&Case| fullest(case) && (case.proto == Tcp || case.is_plain());
    cases.extend(every.iter().filter(long).map(|case| case.with_frames(FRAME_LONG)));
    let of = |kinds: &[(Mode, Proto, Family)]| {
        let is = |case: &&Case| fullest(case) && kinds.contains(&(case.mode, case.proto, case.family));
        every.iter().filter(is).copied().collect::<Vec<Case>>()
    };
    let middling = of(&[
        (Fullnat, Tcp, Ipv4),
        (Fullnat, Udp, Ipv4),
        (Nat, Tcp, Ipv4),
        (Dr, Tcp, Ipv4),
        (Tun, Tcp, Ipv4),
    ]);
    cases.extend(middling.iter().map(|case| case.with_frames(FRAME_MIDDLING)));
    let swept = every.iter().filter(|case| {
        case.family == Ipv4
            && [(Fullnat, Tcp), (Fullnat, Udp), (Dr, Tcp)].contains(&(case.mode, case.proto))
            && (case.proto == Tcp || fullest(case))
    });
    for case in swept {
        cases.extend([1, 100_000, 1_000_000].map(|flows| Case { flows, ..*case }));
    }
    let many = of(&[(Fullnat, Tcp, Ipv6), (Nat, Tcp, Ipv4), (Tun, Tcp, Ipv4)]);
    cases.extend(many.iter().map(|case| Case { flows: 1_000_000, ..*case }));
    let most = of(&[(Fullnat, Udp, Ipv4), (Dr, Tcp, Ipv4)]);
    cases.extend(most.iter().map(|case| Case { flows: FLOWS_MOST, ..*case }));
    cases.extend(two_workers());
    cases
}

/// Beside which the same case with one worker is measured as well.
fn two_workers() -> Vec<Case> {
    use Family::Ipv4;
    use Proto::{Tcp, Udp};
    let kinds = [
        Case::new(Mode::Fullnat, Tcp, Ipv4, Traffic::Both),
        Case::new(Mode::Fullnat, Udp, Ipv4, Traffic::Both),
        Case::new(Mode::Dr, Tcp, Ipv4, Traffic::Inbound),
    ];
    let mut cases: Vec<Case> = kinds.into_iter().flatten().map(|case| Case { workers: 2, ..case }).collect();
    cases.extend(cases.get(1).map(|udp| Case { flows: 1_000_000, ..*udp }));
    cases
}

/// What is looked at first.
fn main_cases() -> Vec<Case> {
    use Family::{Ipv4, Ipv6};
    use Mode::{Dr, Fullnat, Tun};
    use Proto::{Tcp, Udp};
    let two_way = [(Fullnat, Tcp, Ipv4), (Fullnat, Udp, Ipv4), (Fullnat, Tcp, Ipv6)];
    let one_way = [(Dr, Tcp, Ipv4), (Tun, Tcp, Ipv4)];
    let case = |traffic: Traffic| move |(mode, proto, family)| Case::new(mode, proto, family, traffic);
    let mut cases: Vec<Case> = two_way.into_iter().filter_map(case(Traffic::Both)).collect();
    cases.extend(one_way.into_iter().filter_map(case(Traffic::Inbound)));
    let plainest = cases[0];
    cases.push(Case { flows: 100_000, ..plainest });
    cases.push(Case { workers: 2, ..plainest });
    cases
}

/// Reads 1, 1000, 100k, 1M.
fn parse_count(item: &str) -> Result<u32> {
    let digits = item.trim().trim_end_matches(['k', 'M']);
    let factor = match item.trim().strip_prefix(digits) {
        Some("k") => 1000,
        Some("M") => 1_000_000,
        _ => 1,
    };
    let number: u32 = digits.parse().with_context(|| format!("`{item}` is no number of flows"))?;
    number.checked_mul(factor).with_context(|| format!("`{item}` flows are too many"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_flows_have_suffixes() {
        let read = ["1", "1k", " 100k", "1M"].map(|text| parse_count(text).unwrap());
        assert_eq!(read, [1, 1000, 100_000, 1_000_000]);
        assert!(parse_count("many").is_err());
        assert!(parse_count("5000M").is_err());
    }

    #[test]
    fn a_run_has_every_mode_protocol_and_family_and_none_twice() {
        let cases = all_cases();
        for (i, case) in cases.iter().enumerate() {
            assert!(!cases[..i].contains(case), "{case:?} twice");
        }
        for mode in Mode::value_variants() {
            for proto in Proto::value_variants() {
                let shortest = if *proto == Proto::Tcp { 78 } else { 66 };
                for (family, bytes) in [(Family::Ipv4, 64), (Family::Ipv6, shortest)] {
                    let is = |case: &&Case| {
                        (case.mode, case.proto, case.family, case.frame_bytes)
                            == (*mode, *proto, family, bytes)
                    };
                    assert!(cases.iter().any(|case| is(&case)), "{mode:?} {proto:?} {family:?} {bytes}");
                }
            }
            assert!(cases.iter().any(|case| case.mode == *mode && case.frame_bytes == 1400), "{mode:?}");
        }
    }

    #[test]
    fn asked_dimensions_are_combined_and_what_does_not_exist_is_left_out() {
        let selection = Selection {
            mode: vec![Mode::Fullnat, Mode::Dr],
            family: vec![Family::Nat64, Family::Ipv6],
            ..Selection::default()
        };
        let names: Vec<String> = selection.cases(true).unwrap().iter().map(Case::name).collect();
        assert_eq!(
            names,
            [
                "fullnat-tcp-nat64-inbound",
                "fullnat-tcp-nat64-both",
                "fullnat-tcp-ipv6-inbound",
                "fullnat-tcp-ipv6-both",
                "dr-tcp-ipv6-inbound"
            ]
        );
        let none = Selection { mode: vec![Mode::Tun], traffic: vec![Traffic::Both], ..Selection::default() };
        assert!(none.cases(false).is_err());
        let long = Selection { frame_bytes: vec![9000], ..Selection::default() };
        assert!(long.cases(false).is_err());
    }
}
