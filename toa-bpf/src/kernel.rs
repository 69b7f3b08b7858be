//! Looks at the kernel before anything is attached: its version, and whether another receiver is loaded.

use std::fs;

const RELEASE: &str = "/proc/sys/kernel/osrelease";
const MODULES: &str = "/proc/modules";
/// Socket storage for these programs came with 5.11; 5.8 and 5.10 lack parts.
const OLDEST: (u32, u32) = (5, 11);
/// Kernel modules that show the client's address as well: ours, and public ones by the names that they have.
const OTHER_RECEIVERS: [&str; 5] = ["tollgate_toa", "toa", "ttoa", "vtoa", "hw_toa"];

/// Why this kernel will not do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Too old.
    #[error(
        "Linux {release} is too old: {}.{} or newer is needed; the module (toa-kmod) may be for you",
        OLDEST.0,
        OLDEST.1
    )]
    Version {
        /// As the kernel tells it.
        release: String,
    },
    /// Two receivers would both change what servers see.
    #[error(
        "the kernel module {0} is loaded, which is a TOA receiver, too; `rmmod {0}` first, or use it alone"
    )]
    OtherReceiver(String),
}

/// Checks the running kernel. What cannot be read is not held against it: loading will tell.
pub(crate) fn check() -> Result<(), Error> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    check_release(read(RELEASE).trim())?;
    check_modules(&read(MODULES))
}

fn check_release(release: &str) -> Result<(), Error> {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < OLDEST => {
            Err(Error::Version { release: release.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The first word of each line is a module's name.
fn check_modules(list: &str) -> Result<(), Error> {
    let names = list.lines().filter_map(|line| line.split(' ').next());
    match names.into_iter().find(|name| OTHER_RECEIVERS.contains(name)) {
        Some(name) => Err(Error::OtherReceiver(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_refused_with_its_version() {
        let error = check_release("5.10.0-30-amd64").unwrap_err().to_string();
        assert!(error.contains("5.10.0-30-amd64") && error.contains("5.11 or newer"), "{error}");
        assert!(check_release("4.19.0").is_err());
    }

    #[test]
    fn newer_and_unreadable_versions_are_taken() {
        for release in ["5.11.0", "6.1.0-56-amd64", "6.12.117+deb12-amd64", "10.0", "", "next"] {
            assert_eq!(check_release(release), Ok(()), "{release}");
        }
    }

    #[test]
    fn a_loaded_receiver_is_named_with_the_remedy() {
        let list = "tls 151552 0 - Live 0x0\ntoa 20480 0 - Live 0x0 (OE)\n";
        assert_eq!(check_modules(list), Err(Error::OtherReceiver("toa".to_owned())));
        assert!(check_modules(list).unwrap_err().to_string().contains("rmmod toa"));
        assert_eq!(check_modules("toa_unrelated 1 0 - Live 0x0\n"), Ok(()));
    }
}
