//! Values that are written as text: addresses, networks, ranges, durations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crate::model::Device;
use crate::reader::{Fault, list_of, printable};

/// So many addresses one entry of a local pool may stand for; more is a slip of the prefix length.
const POOL_ENTRY_MAX: u128 = 65_536;

type Parsed<T> = Result<T, Fault>;

pub(crate) fn address(text: &str) -> Parsed<IpAddr> {
    text.parse().map_err(|_| {
        Fault::new(format!("`{}` is not an IP address", printable(text)), "write one like \"10.1.0.1\"")
    })
}

/// An address with a port that is not 0.
pub(crate) fn endpoint(text: &str) -> Parsed<SocketAddr> {
    let help = "write address and port, e.g. \"10.1.0.100:80\"";
    if let Ok(found) = text.parse::<SocketAddr>() {
        return if found.port() == 0 { Err(Fault::new("port 0 cannot be used", help)) } else { Ok(found) };
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(Fault::new(format!("`{text}` has no port"), help));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && host.parse::<Ipv4Addr>().is_ok()
    {
        let message = format!("`{}` is not a port", printable(port));
        return Err(Fault::new(message, "write a port from 1 to 65535"));
    }
    Err(Fault::new(format!("`{}` is not an address with a port", printable(text)), help))
}

/// An address and what is written after its last colon, if anything. IPv6 has brackets before a port.
fn host_and_port(text: &str) -> Option<(IpAddr, Option<&str>)> {
    if let Ok(address) = text.parse() {
        return Some((address, None));
    }
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let host = host.parse::<Ipv6Addr>().ok()?;
        return if rest.is_empty() {
            Some((host.into(), None))
        } else {
            Some((host.into(), Some(rest.strip_prefix(':')?)))
        };
    }
    let (host, port) = text.rsplit_once(':')?;
    Some((host.parse::<Ipv4Addr>().ok()?.into(), Some(port)))
}

/// An address that a host on a network can have.
pub(crate) fn host_address(found: IpAddr) -> Parsed<IpAddr> {
    let fault = |what: &str, help: &str| Err(Fault::new(format!("{found} is {what}"), help));
    if found.is_unspecified() || found.is_multicast() || found.is_loopback() {
        return fault("not the address of a host on a network", "write a unicast address");
    }
    match found {
        IpAddr::V4(v4) if v4.is_broadcast() => {
            fault("not the address of a host on a network", "write a unicast address")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => fault(
            "a link-local address, which has no meaning without a link",
            "write a global or unique local one",
        ),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => fault("an IPv4 address in the form of IPv6", &format!("write {v4}")),
            None => Ok(found),
        },
        IpAddr::V4(_) => Ok(found),
    }
}

/// `10.1.0.100:80` or `10.1.0.100:8000-8100`: a virtual address with first and last port. Port 0 stands alone.
pub(crate) fn virtual_range(text: &str) -> Parsed<(IpAddr, (u16, u16))> {
    let help = "write address and port, e.g. \"10.1.0.100:80\" or \"[2001:db8::100]:80\"";
    let Some((host, port)) = host_and_port(text) else {
        return Err(Fault::new(format!("`{}` is not an address with a port", printable(text)), help));
    };
    let host = host_address(host)?;
    match port {
        None => Err(Fault::new(format!("`{text}` has no port"), help)),
        Some("0") => Ok((host, (0, 0))),
        Some(ports) => Ok((host, port_range(ports)?)),
    }
}

/// `10.2.0.11:80` or `10.2.0.11`: a real server's address. Port 0 and no port are the same.
pub(crate) fn real_endpoint(text: &str) -> Parsed<(IpAddr, Option<NonZeroU16>)> {
    let help = "write address and port, e.g. \"10.2.0.11:80\" or \"[fd00::11]:80\"";
    let Some((host, port)) = host_and_port(text) else {
        return Err(Fault::new(format!("`{}` is not an address with a port", printable(text)), help));
    };
    let port = port.map_or(Ok(0), |port| {
        let fault =
            |_| Fault::new(format!("`{}` is not a port", printable(port)), "write a port from 1 to 65535");
        port.parse().map_err(fault)
    });
    Ok((host_address(host)?, NonZeroU16::new(port?)))
}

/// `255.255.255.0`: a mask of leading ones, as the number of them.
pub(crate) fn netmask(text: &str) -> Parsed<(IpAddr, u8)> {
    let mask = address(text)?;
    let ones =
        if mask.is_ipv4() { (number(mask) << 96).leading_ones() } else { number(mask).leading_ones() } as u8;
    let help = "write leading ones only, e.g. \"255.255.255.0\"";
    if ones == 0 || number(mask).count_ones() != u32::from(ones) {
        return Err(Fault::new(format!("`{text}` is not a netmask"), help));
    }
    Ok((mask, ones))
}

/// A host name as DNS has it, or "." for the root (RFC 1035 §2.3.4).
pub(crate) fn dns_name(text: &str) -> Parsed<String> {
    const BYTES_MAX: usize = 253;
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let bare = text.strip_suffix('.').unwrap_or(text);
    if text == "." || (bare.len() <= BYTES_MAX && bare.split('.').all(good)) {
        return Ok(text.to_owned());
    }
    let message = format!("`{}` is not a name in DNS", printable(text));
    Err(Fault::new(message, "write one like \"www.example.org\", or \".\" for the root"))
}

/// `0a0b0c`: bytes in hexadecimal.
pub(crate) fn hex(text: &str) -> Parsed<Vec<u8>> {
    // What fits one Ethernet frame beside the headers of IPv6 and UDP.
    const BYTES_MAX: usize = 1452;
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 && digits.len() / 2 <= BYTES_MAX => {
            Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => {
            let message = format!("`{}` is not bytes in hexadecimal", printable(text));
            Err(Fault::new(
                message,
                format!("write two digits for each of at most {BYTES_MAX} bytes, e.g. \"0a0b\""),
            ))
        }
    }
}

/// `10.1.0.0/24`: an address and a prefix length that fits it.
pub(crate) fn interface_address(text: &str) -> Parsed<(IpAddr, u8)> {
    let help = "write address and prefix length, e.g. \"10.1.0.1/24\"";
    let (host, prefix) = text
        .split_once('/')
        .ok_or_else(|| Fault::new(format!("`{}` has no prefix length", printable(text)), help))?;
    let host = address(host)?;
    let longest = bits(host);
    match prefix.parse::<u8>() {
        Ok(prefix) if prefix <= longest => Ok((host, prefix)),
        _ => {
            let message = format!("`{}` is not a prefix length", printable(prefix));
            Err(Fault::new(message, format!("write one from 0 to {longest}")))
        }
    }
}

/// A network: no bits beyond the prefix.
pub(crate) fn network(text: &str) -> Parsed<(IpAddr, u8)> {
    let (host, prefix) = interface_address(text)?;
    let base = masked(host, prefix);
    if base == host {
        return Ok((host, prefix));
    }
    let message = format!("`{text}` has bits set beyond its prefix");
    Err(Fault::new(message, format!("the network is \"{base}/{prefix}\"")))
}

/// One address, `first-last`, or a network with all its addresses.
pub(crate) fn address_set(text: &str) -> Parsed<Vec<IpAddr>> {
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (address(first.trim())?, address(last.trim())?)
    } else if text.contains('/') {
        let (base, prefix) = network(text)?;
        (base, last_of(base, prefix))
    } else {
        let only = address(text)?;
        (only, only)
    };
    if first.is_ipv4() != last.is_ipv4() {
        return Err(Fault::new(
            "a range from one address family to another",
            "write two addresses of one family",
        ));
    }
    let (low, high) = (number(first), number(last));
    if low > high {
        let help = format!("write \"{last}-{first}\"");
        return Err(Fault::new(format!("the range `{}` ends before it begins", printable(text)), help));
    }
    // Compared without the +1 that would overflow for ::/0.
    if high - low >= POOL_ENTRY_MAX {
        let help = format!("write at most {POOL_ENTRY_MAX} addresses per entry");
        return Err(Fault::new(format!("`{text}` is too many addresses"), help));
    }
    Ok((low..=high).map(|value| from_number(value, first.is_ipv4())).collect())
}

/// `1024-65535` or one port.
pub(crate) fn port_range(text: &str) -> Parsed<(u16, u16)> {
    let help = "write e.g. \"1024-65535\"";
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(0), Ok(_)) => Err(Fault::new("port 0 cannot be used", help)),
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        (Ok(first), Ok(last)) => Err(Fault::new(
            format!("the range `{text}` ends before it begins"),
            format!("write \"{last}-{first}\""),
        )),
        _ => Err(Fault::new(format!("`{}` is not a range of ports", printable(text)), help)),
    }
}

/// `500ms`, `2s`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Parsed<Duration> {
    let help = "write a whole number and ms, s, m or h, e.g. \"2s\"";
    let fault = || Fault::new(format!("`{}` is not a duration", printable(text)), help);
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| fault())?;
    let ms_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(Fault::new(format!("`{text}` has no unit"), format!("write e.g. \"{text}s\""))),
        _ => return Err(fault()),
    };
    count.checked_mul(ms_per_unit).map(Duration::from_millis).ok_or_else(fault)
}

/// A duration within bounds.
pub(crate) fn duration_within(text: &str, low: Duration, high: Duration) -> Parsed<Duration> {
    let found = duration(text)?;
    if (low..=high).contains(&found) {
        return Ok(found);
    }
    let message = format!("{text} is out of range");
    Err(Fault::new(message, format!("write one from {} to {}", shown(low), shown(high))))
}

/// A duration of whole seconds, as connection timeouts are: up to 31 days, as in ipvsadm.
pub(crate) fn seconds(text: &str) -> Parsed<u32> {
    seconds_up_to(text, Duration::from_secs(31 * 86_400))
}

/// A duration of whole seconds for what is finished soon.
pub(crate) fn seconds_up_to_an_hour(text: &str) -> Parsed<u32> {
    seconds_up_to(text, Duration::from_secs(3600))
}

fn seconds_up_to(text: &str, longest: Duration) -> Parsed<u32> {
    let found = duration_within(text, Duration::from_secs(1), longest)?;
    if found.subsec_millis() != 0 {
        return Err(Fault::new(format!("`{text}` is not whole seconds"), "write e.g. \"2s\""));
    }
    u32::try_from(found.as_secs()).map_err(|_| Fault::new("too long", ""))
}

fn shown(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 != 0 => format!("{ms}ms"),
        ms => format!("{}s", ms / 1000),
    }
}

/// `02:00:00:00:00:01`, an address of one station.
pub(crate) fn mac(text: &str) -> Parsed<[u8; 6]> {
    let fault = || {
        let message = format!("`{}` is not a MAC address", printable(text));
        Fault::new(message, "write six pairs of hexadecimal digits, e.g. \"02:00:00:00:00:01\"")
    };
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(fault)?;
    }
    if parts.next().is_some() {
        return Err(fault());
    }
    if bytes[0] & 1 == 1 || bytes == [0; 6] {
        return Err(Fault::new(
            format!("`{text}` is not the MAC address of one station"),
            "write a unicast one",
        ));
    }
    Ok(bytes)
}

/// A PCI address or a virtual device of DPDK.
pub(crate) fn device(text: &str) -> Parsed<Device> {
    let driver = text.split(',').next().unwrap_or(text);
    if driver.starts_with("net_") {
        let bare = driver.trim_end_matches(|c: char| c.is_ascii_digit());
        if bare.len() != driver.len() {
            let message = format!("`{}` numbers the virtual device", printable(driver));
            return Err(Fault::new(message, format!("write `{bare}`; the number is added by Tollgate")));
        }
        return Ok(Device::Vdev(text.to_owned()));
    }
    if is_pci(text) {
        return Ok(Device::Pci(text.to_ascii_lowercase()));
    }
    let with_domain = format!("0000:{text}");
    let help = if is_pci(&with_domain) {
        format!("write it with its domain: \"{with_domain}\"")
    } else {
        "write a PCI address such as \"0000:01:00.0\" (lspci -D lists them) or a virtual device such as \
         \"net_af_xdp,iface=eth1\""
            .to_owned()
    };
    Err(Fault::new(format!("`{}` is not a device", printable(text)), help))
}

/// `dddd:bb:dd.f` in hexadecimal.
fn is_pci(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 12
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b':',
            10 => *byte == b'.',
            11 => (b'0'..=b'7').contains(byte),
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A name of a port, pool or instance: what can stand in a metric label and a file name without quoting.
pub(crate) fn name(text: &str) -> Parsed<String> {
    const CHARS_MAX: usize = 64;
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !text.is_empty() && text.len() <= CHARS_MAX && text.chars().all(good) && !text.starts_with(['-', '.'])
    {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` cannot be a name", printable(text)),
        format!("write 1 to {CHARS_MAX} letters, digits, `_`, `-` or `.`, beginning with a letter or digit"),
    ))
}

/// A name of a service: free text on one line.
pub(crate) fn service_name(text: &str) -> Parsed<String> {
    const CHARS_MAX: usize = 128;
    if !text.trim().is_empty() && text.chars().count() <= CHARS_MAX && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    let message = format!("`{}` cannot be a name", printable(text));
    Err(Fault::new(message, format!("write 1 to {CHARS_MAX} characters without control characters")))
}

/// A name that Linux accepts for an interface (dev_valid_name).
pub(crate) fn interface_name(text: &str) -> Parsed<String> {
    const BYTES_MAX: usize = 15;
    let good = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if !text.is_empty() && text.len() <= BYTES_MAX && text.chars().all(good) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    let message = format!("`{}` cannot be the name of a kernel interface", printable(text));
    Err(Fault::new(message, format!("write 1 to {BYTES_MAX} characters without space, `/` or `:`")))
}

/// An absolute path that fits into the address of a unix socket.
pub(crate) fn socket_path(text: &str) -> Parsed<std::path::PathBuf> {
    const BYTES_MAX: usize = 107;
    if text.starts_with('/') && text.len() <= BYTES_MAX && !text.contains('\0') {
        return Ok(text.into());
    }
    let message = format!("`{}` cannot be the path of a socket", printable(text));
    Err(Fault::new(message, format!("write an absolute path of at most {BYTES_MAX} bytes")))
}

/// What the programs' logging accepts: a level, or directives as in `RUST_LOG`.
pub(crate) fn log_filter(text: &str) -> Parsed<String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Fault::new(
            format!("`{}` is not a log filter: {}", printable(text), printable(&error.to_string())),
            "write error, warn, info, debug or trace, or e.g. \"info,control::health=debug\"",
        )),
    }
}

/// `200` or `200-299`: HTTP status codes.
pub(crate) fn status_range(text: &str) -> Parsed<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => {
            let message = format!("`{}` is not a range of HTTP status codes", printable(text));
            Err(Fault::new(message, "write e.g. \"200-299\", within 100 to 599"))
        }
    }
}

/// The words of a feature that is planned, for a message that says so.
pub(crate) fn not_built(what: &str, text: &str, built: &[&str]) -> Fault {
    Fault::new(format!("{what} `{text}` is not built yet"), format!("what exists is {}", list_of(built)))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(value: u128, is_ipv4: bool) -> IpAddr {
    match u32::try_from(value) {
        Ok(value) if is_ipv4 => Ipv4Addr::from(value).into(),
        _ => Ipv6Addr::from(value).into(),
    }
}

/// The bits of an address that may differ within a network.
fn host_mask(address: IpAddr, prefix: u8) -> u128 {
    let host_bits = bits(address).saturating_sub(prefix);
    1_u128.checked_shl(u32::from(host_bits)).map_or(u128::MAX, |bit| bit - 1)
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    from_number(number(address) & !host_mask(address, prefix), address.is_ipv4())
}

fn last_of(base: IpAddr, prefix: u8) -> IpAddr {
    from_number(number(base) | host_mask(base, prefix), base.is_ipv4())
}

/// Whether the network of an interface address contains an address.
pub(crate) fn contains((host, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    host.is_ipv4() == address.is_ipv4() && masked(host, prefix) == masked(address, prefix)
}
