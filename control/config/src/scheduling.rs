//! `scheduler`, its flags, `one_packet` and `persistence`.

use std::net::IpAddr;

use api::{Persistence, Protocol, Scheduler, SchedulerFlags};

use crate::reader::{Fault, Reader, Schema, choose};
use crate::value;

pub(crate) const PERSISTENCE: Schema = Schema {
    name: "persistence = { … }",
    keys: &["timeout", "netmask", "prefix_len"],
    not_built: &[("pe", "persistence engines are not built yet; the client's address is what counts")],
};

/// keepalived's persistence_timeout.
const TIMEOUT_DEFAULT_S: u32 = 360;

/// What the table says of scheduling.
pub(crate) struct Scheduling {
    pub(crate) scheduler: Scheduler,
    pub(crate) flags: SchedulerFlags,
    pub(crate) one_packet: bool,
    pub(crate) persistence: Option<Persistence>,
    /// Something is said of persistence that cannot be read.
    pub(crate) persistence_broken: bool,
}

/// `is_ipv4` is the family of the service, if it is known.
pub(crate) fn scheduling(
    table: &Reader<'_>,
    protocol: Option<Protocol>,
    is_ipv4: Option<bool>,
) -> Scheduling {
    let scheduler = table.parsed("scheduler", "\"wrr\"", scheduler).map(|at| at.value);
    let one_packet = table.boolean("one_packet").unwrap_or(false);
    if one_packet && protocol == Some(Protocol::Tcp) {
        let help = "set `protocol = \"udp\"` or take the key away";
        table.unfit("one_packet", "one-packet scheduling would tear TCP connections apart", help);
    }
    let persistence = table.table_or_word("persistence", "none", &PERSISTENCE);
    let persistence_broken =
        persistence.is_none() && table.has("persistence") && !table.is_word("persistence", "none");
    Scheduling {
        scheduler: scheduler.unwrap_or(Scheduler::Wlc),
        flags: flags(table, scheduler, protocol),
        one_packet,
        persistence: persistence.map(|table| persistence_of(&table, is_ipv4)),
        persistence_broken,
    }
}

fn scheduler(text: &str) -> Result<Scheduler, Fault> {
    match text {
        "conhash" => {
            Err(Fault::new("`conhash` is not known", "did you mean `mh`? Its flags are in `scheduler_flags`"))
        }
        _ => choose(text, &Scheduler::ALL.map(|scheduler| (scheduler.name(), scheduler))),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Flag {
    Fallback,
    Port,
    QuicCid,
}

fn flags(table: &Reader<'_>, scheduler: Option<Scheduler>, protocol: Option<Protocol>) -> SchedulerFlags {
    let names = [
        ("sh-fallback", (Scheduler::Sh, Flag::Fallback)),
        ("sh-port", (Scheduler::Sh, Flag::Port)),
        ("mh-fallback", (Scheduler::Mh, Flag::Fallback)),
        ("mh-port", (Scheduler::Mh, Flag::Port)),
        ("quic-cid", (Scheduler::Mh, Flag::QuicCid)),
    ];
    let mut flags = SchedulerFlags::default();
    for at in table.parsed_list("scheduler_flags", "[\"mh-port\"]", |text| choose(text, &names)) {
        let (fitting, flag) = at.value;
        let complain = |message: String, help: String| {
            table.fault(&at.span, "scheduler_flags", Fault::new(message, help));
        };
        // Without `scheduler` it is the default, which has no flags.
        let actual = scheduler.unwrap_or(Scheduler::Wlc);
        if actual != fitting && (scheduler.is_some() || !table.has("scheduler")) {
            complain(
                format!("this is a flag of scheduler `{fitting}`, and the scheduler is `{actual}`"),
                format!("set `scheduler = \"{fitting}\"` or take the flag away"),
            );
        }
        if flag == Flag::QuicCid && protocol == Some(Protocol::Tcp) {
            let message = "QUIC runs over UDP, and this service is TCP".to_owned();
            complain(message, "set `protocol = \"udp\"` or take the flag away".to_owned());
        }
        match flag {
            Flag::Fallback => flags.fallback = true,
            Flag::Port => flags.port = true,
            Flag::QuicCid => flags.quic_cid = true,
        }
    }
    flags
}

fn persistence_of(table: &Reader<'_>, is_ipv4: Option<bool>) -> Persistence {
    let timeout = table.parsed("timeout", "\"6m\"", value::seconds);
    let netmask = table.parsed("netmask", "\"255.255.255.0\"", value::netmask).map(|at| at.value);
    let prefix_len = table.integer::<u8>("prefix_len", 1..=128).map(|at| at.value);
    let longest = if is_ipv4 == Some(false) { 128 } else { 32 };
    if table.has("netmask") && table.has("prefix_len") {
        table.unfit("prefix_len", "this says the same as `netmask`", "take one of the two away");
    }
    let is_other = |mask: IpAddr| is_ipv4.is_some_and(|is_ipv4| is_ipv4 != mask.is_ipv4());
    if netmask.is_some_and(|(mask, _)| is_other(mask)) {
        let help = if longest == 32 {
            "write e.g. \"255.255.255.0\""
        } else {
            "write e.g. `prefix_len = 64` instead"
        };
        table.unfit("netmask", "this is a mask of the other address family than the service's", help);
    }
    if prefix_len.is_some_and(|len| len > 32 && is_ipv4 == Some(true)) {
        table.unfit("prefix_len", "an IPv4 address has 32 bits", "write a whole number from 1 to 32");
    }
    Persistence {
        timeout_s: timeout.map_or(TIMEOUT_DEFAULT_S, |at| at.value),
        prefix_len: prefix_len.or(netmask.map(|(_, len)| len)).unwrap_or(longest),
    }
}
