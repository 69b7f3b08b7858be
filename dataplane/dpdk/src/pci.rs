//! What the PCI bus has, asked before DPDK is.

use crate::Error;
use std::path::Path;

/// Where Linux lists the devices.
pub(crate) const SYSFS_DEVICES: &str = "/sys/bus/pci/devices";

/// The full form of an address: `03:00.0` becomes `0000:03:00.0`.
pub(crate) fn normalise(address: &str) -> Result<String, Error> {
    let bad = || Error::BadPciAddress { address: address.to_owned() };
    let (rest, function) = address.rsplit_once('.').ok_or_else(bad)?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [bus, device] => ("0", bus, device),
        [domain, bus, device] => (domain, bus, device),
        _ => return Err(bad()),
    };
    let number = |text: &str, max: u32| match u32::from_str_radix(text, 16) {
        // from_str_radix would take a sign.
        Ok(value) if value <= max && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(value),
        _ => Err(bad()),
    };
    Ok(format!(
        "{:04x}:{:02x}:{:02x}.{:x}",
        number(domain, u32::MAX)?,
        number(bus, 0xff)?,
        number(device, 0x1f)?,
        number(function, 7)?
    ))
}

/// Checks that a device of this (full) address exists.
pub(crate) fn check_exists(devices: &Path, address: &str) -> Result<(), Error> {
    if devices.join(address).exists() {
        return Ok(());
    }
    Err(Error::UnknownPci { address: address.to_owned(), known: network_devices(devices) })
}

/// The kernel driver that has the device.
pub(crate) fn kernel_driver(devices: &Path, address: &str) -> String {
    let link = std::fs::read_link(devices.join(address).join("driver"));
    match link.ok().as_deref().and_then(Path::file_name) {
        Some(name) => format!("kernel driver {}", name.to_string_lossy()),
        None => "no kernel driver".to_owned(),
    }
}

/// Addresses of all devices of class 02 (network), sorted.
fn network_devices(devices: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(devices) else { return Vec::new() };
    let is_network = |path: &Path| {
        std::fs::read_to_string(path.join("class")).is_ok_and(|class| class.trim_start().starts_with("0x02"))
    };
    let mut found: Vec<String> = entries
        .flatten()
        .filter(|entry| is_network(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_addresses_become_the_full_form() {
        assert_eq!(normalise("03:00.0").unwrap(), "0000:03:00.0");
        assert_eq!(normalise("0000:AF:1F.7").unwrap(), "0000:af:1f.7");
        assert_eq!(normalise("10000:e1:00.0").unwrap(), "10000:e1:00.0");
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in ["", "eth0", "03:00", "03:00.8", "03:20.0", "+3:00.0", "0:0:0:0.0", "100:00.0"] {
            assert_eq!(normalise(text), Err(Error::BadPciAddress { address: text.to_owned() }), "{text}");
        }
    }

    #[test]
    fn an_unknown_address_is_named_with_the_known_network_devices() {
        let bus = tempfile::tempdir().unwrap();
        for (address, class) in [("0000:01:00.0", "0x020000\n"), ("0000:00:1f.2", "0x010601\n")] {
            std::fs::create_dir(bus.path().join(address)).unwrap();
            std::fs::write(bus.path().join(address).join("class"), class).unwrap();
        }
        assert_eq!(check_exists(bus.path(), "0000:00:1f.2"), Ok(()));
        let error = check_exists(bus.path(), "0000:09:00.0").unwrap_err();
        let known = vec!["0000:01:00.0".to_owned()];
        assert_eq!(error, Error::UnknownPci { address: "0000:09:00.0".to_owned(), known });
        assert_eq!(kernel_driver(bus.path(), "0000:01:00.0"), "no kernel driver");
    }
}
