//! Running functions on worker lcores.

use crate::Eal;
use crate::Error;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How a function on an lcore ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LcoreExit {
    /// It returned, or there was none.
    Finished,
    /// It panicked; the message went to the panic hook.
    Panicked,
}

/// Return values of [`run`].
const FINISHED: c_int = 0;
const PANICKED: c_int = 1;

/// How often a waiting thread looks. DPDK's own wait would burn a CPU for as long as the worker runs.
const WAIT_STEP: Duration = Duration::from_millis(1);

type Task = Box<dyn FnOnce() + Send>;

impl Eal {
    /// Runs `f` on a worker lcore. A panic in it ends the function, not the process; [`Eal::wait`] tells.
    pub fn launch(&self, lcore: u16, f: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let workers = &self.shared().workers;
        if !workers.contains(&lcore) {
            return Err(Error::UnknownLcore { id: lcore, workers: workers.clone() });
        }
        // Two boxes: the outer one is a thin pointer that fits through C.
        let task: *mut Task = Box::into_raw(Box::new(Box::new(f)));
        // SAFETY: `run` takes the box back exactly once, on the lcore; when the launch is refused it is never run.
        let launched = unsafe { dpdk_sys::rte_eal_remote_launch(Some(run), task.cast(), u32::from(lcore)) };
        if launched != 0 {
            // SAFETY: C did not take it, so it is still ours.
            drop(unsafe { Box::from_raw(task) });
            return Err(Error::LcoreBusy { id: lcore });
        }
        Ok(())
    }

    /// Whether the lcore is running a function.
    pub fn is_running(&self, lcore: u16) -> bool {
        // SAFETY: the number is that of one of our lcores; only its state is read.
        self.shared().workers.contains(&lcore)
            && unsafe { dpdk_sys::rte_eal_get_lcore_state(u32::from(lcore)) } != dpdk_sys::WAIT
    }

    /// Waits until the lcore's function has ended; at once when there is none or the lcore is no worker.
    pub fn wait(&self, lcore: u16) -> LcoreExit {
        while self.is_running(lcore) {
            std::thread::sleep(WAIT_STEP);
        }
        if !self.shared().workers.contains(&lcore) {
            return LcoreExit::Finished;
        }
        // SAFETY: the number is that of one of our lcores.
        match unsafe { dpdk_sys::rte_eal_wait_lcore(u32::from(lcore)) } {
            PANICKED => LcoreExit::Panicked,
            _ => LcoreExit::Finished,
        }
    }
}

/// What C calls on the lcore.
unsafe extern "C" fn run(task: *mut c_void) -> c_int {
    // SAFETY: `launch` made this pointer of a box and gave it away.
    let task: Box<Task> = unsafe { Box::from_raw(task.cast()) };
    match catch_unwind(AssertUnwindSafe(task)) {
        Ok(()) => FINISHED,
        Err(panic) => {
            // Dropping a payload may panic again, and nothing may unwind into C.
            std::mem::forget(panic);
            PANICKED
        }
    }
}

/// Lcores of the running EAL, the main one included.
pub fn lcore_count(_eal: &Eal) -> u32 {
    // SAFETY: reads the EAL's configuration.
    unsafe { dpdk_sys::rte_lcore_count() }
}

/// The lcore that the calling thread is, if it is one.
pub fn current_lcore() -> Option<u16> {
    // SAFETY: reads a thread-local integer.
    let id = unsafe { dpdk_sys::rte_lcore_id() };
    u16::try_from(id).ok().filter(|_| id != dpdk_sys::LCORE_ID_ANY)
}
