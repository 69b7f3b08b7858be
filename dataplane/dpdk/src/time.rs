//! The CPU's time-stamp counter.

use crate::Eal;

/// The time-stamp counter; compare values of one machine only, and convert with [`tsc_hz`].
#[inline(always)]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 CPU has RDTSC, and Linux lets user space run it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: reads a counter register.
    unsafe {
        dpdk_sys::rte_rdtsc()
    }
}

/// Ticks of [`tsc`] per second, as the EAL measured it when it started.
pub fn tsc_hz(_eal: &Eal) -> u64 {
    // SAFETY: reads a number that rte_eal_init set, and an `Eal` exists only after it.
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}
