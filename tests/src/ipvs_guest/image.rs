//! What the guest boots: the programs that configure IPVS, and the modules that it needs.

use std::path::Path;

use anyhow::Result;

use crate::guest_image::{self, Contents, program};

pub(super) use crate::guest_image::Image;

/// Modules that are loaded, besides those that they need.
const MODULES: [&str; 18] = [
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    // Used by libcrc32c, by a name that is not among what it says it needs.
    "crc32c_generic",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_dh",
    "ip_vs_sh",
    "ip_vs_sed",
    "ip_vs_nq",
    "ip_vs_mh",
    "ip_vs_fo",
    "ip_vs_ovf",
];

/// Makes it in `dir`; the kernel is fetched if there is none.
pub(super) fn make(dir: &Path) -> Result<Image> {
    // Debian's packages iproute2 and ipvsadm.
    let programs = [program("ip")?, program("ipvsadm")?];
    let prepare = include_bytes!("prepare.sh");
    guest_image::make(dir, &Contents { prepare, programs: &programs, plug_ins: &[], modules: &MODULES })
}
