//! Cases for combinations of mode, protocol and families, which their names say.

use api::Protocol;
use api::TunnelKind::{Gre, Gue, Ipip};
use wire::Family::{self, V4, V6};

use crate::case::{Case, Mode, Service, Steps};
use crate::look::GUE_PORT;

const MODES: [(&str, Mode); 8] = [
    ("fullnat", Mode::FullNat),
    ("nat", Mode::Nat),
    ("dr", Mode::Dr),
    ("tun_ipip", Mode::Tun(Ipip)),
    ("tun_gre", Mode::Tun(Gre { checksum: false })),
    ("tun_gre_checksum", Mode::Tun(Gre { checksum: true })),
    ("tun_gue", Mode::Tun(Gue { port: GUE_PORT, checksum: false })),
    ("tun_gue_checksum", Mode::Tun(Gue { port: GUE_PORT, checksum: true })),
];
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const FAMILIES: [(&str, [Family; 2]); 4] =
    [("44", [V4, V4]), ("66", [V6, V6]), ("64", [V6, V4]), ("46", [V4, V6])];

/// Names end in mode, protocol, and the families outside and inside: of client and virtual address, and of the real
/// server, in mode TUN also of the tunnel.
fn service(name: &str, prefix: &str) -> Option<Service> {
    let (rest, families) = name.strip_prefix(prefix)?.rsplit_once('_')?;
    let (mode, protocol) = rest.rsplit_once('_')?;
    let service =
        Service::new(meant(&MODES, mode)?, meant(&PROTOCOLS, protocol)?, meant(&FAMILIES, families)?);
    Some(Service { toa: Some(254), ..service })
}

fn meant<T: Copy>(all: &[(&str, T)], word: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == word).map(|(_, meant)| *meant)
}

/// A case for each name, numbered from `first` on; `of` says what it is about, and its steps for three connections.
#[expect(clippy::expect_used, reason = "a name that says nothing is a mistake in this test")]
pub(super) fn cases(
    first: u16,
    prefix: &str,
    names: &[&'static str],
    of: fn(Protocol) -> (&'static str, Steps),
) -> Vec<Case> {
    let case = |(number, &name): (u16, &&'static str)| {
        let service = service(name, prefix).expect(name);
        let (about, steps) = of(service.protocol);
        Case { name, about, number, conns: 3, service, steps }
    };
    (first..).zip(names).map(case).collect()
}
