//! What the CPU that there is can do: code for its level (the build is for any x86-64, a worker's loop is compiled for
//! newer ones as well), and waiting without a system call.

/// What [`run`] runs. For a copy of its own per CPU level everything below must be inlined: mark the implementation
/// `#[inline(always)]`, and what it calls for every packet.
pub trait Job {
    /// The work.
    fn run(self);
}

/// Levels that there is code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Any CPU of the architecture.
    Base,
    /// x86-64-v3: AVX2, BMI, MOVBE and others, in Intel CPUs since 2013, in AMD's since 2015.
    V3,
}

impl Level {
    /// That of this CPU.
    #[must_use]
    pub fn of_cpu() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let v3 = has!("avx2")
                && has!("bmi1")
                && has!("bmi2")
                && has!("f16c")
                && has!("fma")
                && has!("lzcnt")
                && has!("movbe")
                && has!("popcnt");
            if v3 {
                return Level::V3;
            }
        }
        Level::Base
    }

    /// As GCC and LLVM call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Level::Base => "base",
            Level::V3 => "x86-64-v3",
        }
    }
}

/// Runs a job by the code for this CPU.
pub fn run(job: impl Job) {
    match Level::of_cpu() {
        Level::Base => job.run(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has every feature that `run_v3` is compiled with.
        Level::V3 => unsafe { run_v3(job) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::V3 => job.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,f16c,fma,lzcnt,movbe,popcnt")]
fn run_v3(job: impl Job) {
    job.run();
}

/// How a thread waits some microseconds without a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// TPAUSE (WAITPKG, Intel since 2020): the core saves power and leaves its means to the other hyper-thread.
    Tpause,
    /// PAUSE again and again: the other hyper-thread gets more of the core, which saves little power.
    Pause,
}

impl Wait {
    /// The best that this CPU can do.
    #[must_use]
    pub fn of_cpu() -> Wait {
        let mut can = dpdk_sys::rte_cpu_intrinsics::default();
        // SAFETY: it writes to `can`, which lives and is of the type that it expects.
        unsafe { dpdk_sys::rte_cpu_get_intrinsics_support(&mut can) };
        if can.power_pause() != 0 { Wait::Tpause } else { Wait::Pause }
    }

    /// As in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Wait::Tpause => "TPAUSE",
            Wait::Pause => "PAUSE",
        }
    }

    /// Waits until [`crate::tsc`] is `tsc`, or a little longer; the operating system may make TPAUSE end sooner.
    pub fn until(self, tsc: u64) {
        match self {
            Wait::Tpause => {
                // SAFETY: `of_cpu` found that the CPU has the instruction; where it has not, the call does nothing.
                unsafe { dpdk_sys::rte_power_pause(tsc) };
            }
            Wait::Pause => {
                while (tsc.wrapping_sub(crate::tsc()) as i64) > 0 {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_lasts_as_long_as_asked_whatever_the_cpu_can() {
        for wait in [Wait::Pause, Wait::of_cpu()] {
            let (begin, end) = (crate::tsc(), crate::tsc() + 100_000);
            while (end.wrapping_sub(crate::tsc()) as i64) > 0 {
                wait.until(end);
            }
            assert!(crate::tsc() - begin >= 100_000, "{}", wait.name());
            wait.until(begin);
        }
    }

    struct Sum<'a>(&'a mut u64);

    impl Job for Sum<'_> {
        #[inline(always)]
        fn run(self) {
            *self.0 = (0..100).sum();
        }
    }

    #[test]
    fn a_job_is_run_once_whatever_the_level() {
        let mut sum = 0;
        run(Sum(&mut sum));
        assert_eq!(sum, 4950);
        assert!(!Level::of_cpu().name().is_empty());
    }
}
