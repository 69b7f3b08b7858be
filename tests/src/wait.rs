//! Waiting with a deadline, and being interrupted by Ctrl-C.
//!
//! Nothing in the test bed sleeps for a fixed time in the hope that something has happened by then: it asks again
//! and again until it has, and gives up at a deadline with a message that says what it waited for.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at a condition; short against everything that is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// How many [`Cleanup`]s there are.
static CLEANUPS: AtomicU32 = AtomicU32::new(0);

/// Makes Ctrl-C (and SIGTERM, SIGHUP) end every wait with an error instead of ending the process, so that what was
/// started can be ended in order.
pub fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether Ctrl-C was pressed since [`catch_signals`] and nothing is being cleaned up.
pub fn interrupted() -> bool {
    was_interrupted() && CLEANUPS.load(Ordering::Relaxed) == 0
}

/// Whether Ctrl-C was pressed since [`catch_signals`].
pub fn was_interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// While it lives, Ctrl-C does not end waits: what is being cleaned up is cleaned up to the end.
#[derive(Debug)]
pub struct Cleanup(());

impl Cleanup {
    /// Begins cleaning up.
    pub fn begin() -> Cleanup {
        CLEANUPS.fetch_add(1, Ordering::Relaxed);
        Cleanup(())
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        CLEANUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One short pause of a wait loop; an error when interrupted.
pub(crate) fn pause() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    std::thread::sleep(POLL_INTERVAL);
    Ok(())
}

/// Asks `condition` until it is true and tells how long that took; an error that names `what` when `limit` has passed.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    wait_for(what, limit, || Ok(condition()?.then(|| start.elapsed())))
}

/// Asks `probe` until it yields a value; an error that names `what` when `limit` has passed.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for: {what}");
        }
        pause()?;
    }
}
