//! Whose turn it is to probe: as many servers as there are at one time, without those that answer having to wait for
//! those that do not.
//!
//! A probe begins in a place to start, of which there are few, so that a burst stays small. What takes long goes on in
//! another place, of which there are many. Of a server whose last probe failed late nothing better is expected: its next
//! one needs a place for slow ones before it starts. So if there are more dead servers than places to wait for them in,
//! they wait for each other, and all others go on as before.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

/// Probes at most that have just started: bounds SYNs in a burst on the kernel twin.
const STARTING_MAX: usize = 2048;

/// Probes at most that take longer, of each kind. Those over UDP have a local port each, of which the kernel has 28,000
/// by default (`net.ipv4.ip_local_port_range`).
const WAITING_MAX: usize = 8192;

/// A server that is well answers within this time, unless it is far away.
const PROMPT: Duration = Duration::from_millis(100);

/// The places that probes share.
pub(super) struct Turns {
    starting: Semaphore,
    /// For probes that take long.
    late: Semaphore,
    /// For those that were expected to.
    slow: Semaphore,
}

impl Turns {
    /// As many as there are descriptors for, of which a quarter is left to everything else.
    pub(super) fn new() -> Turns {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        Turns::of(STARTING_MAX.min(descriptors / 4), WAITING_MAX.min(descriptors / 4))
    }

    pub(super) fn of(starting: usize, waiting: usize) -> Turns {
        let [late, slow] = [waiting; 2].map(Semaphore::new);
        Turns { starting: Semaphore::new(starting), late, slow }
    }

    /// Makes a probe when it is its turn. `failed_late` is what the target's last one did, and then what this one did.
    pub(super) async fn take<T, E>(
        &self,
        failed_late: &mut bool,
        probe: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let expected = if *failed_late { Some(place(&self.slow).await) } else { None };
        let start = place(&self.starting).await;
        let begun = Instant::now();
        tokio::pin!(probe);
        let result = match timeout(PROMPT, &mut probe).await {
            Ok(result) => result,
            Err(_) if expected.is_some() => {
                drop(start);
                probe.await
            }
            Err(_) => tokio::select! {
                result = &mut probe => result,
                _late = place(&self.late) => {
                    drop(start);
                    probe.await
                }
            },
        };
        // What passes late is as well as any: a UDP check without an expected reply passes by hearing nothing.
        *failed_late = result.is_err() && begun.elapsed() >= PROMPT;
        result
    }
}

/// `None` never, as no semaphore is closed.
async fn place(of: &Semaphore) -> Option<SemaphorePermit<'_>> {
    of.acquire().await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::sleep;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    /// What a probe gets after some time.
    async fn answer(after: Duration, passes: bool) -> Result<(), ()> {
        sleep(after).await;
        if passes { Ok(()) } else { Err(()) }
    }

    /// Many targets that never answer, each probed again and again.
    fn dead(turns: &Arc<Turns>, count: usize) {
        for _ in 0..count {
            let turns = Arc::clone(turns);
            tokio::spawn(async move {
                let mut failed_late = false;
                loop {
                    let _ = turns.take(&mut failed_late, answer(TIMEOUT, false)).await;
                }
            });
        }
    }

    /// How long a prompt probe takes.
    async fn prompt(turns: &Turns) -> Duration {
        let begun = Instant::now();
        let mut failed_late = false;
        assert!(turns.take(&mut failed_late, answer(Duration::from_millis(1), true)).await.is_ok());
        assert!(!failed_late);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_does_not_wait_until_others_have_not_answered() {
        let turns = Arc::new(Turns::of(20, 200));
        dead(&turns, 180);
        sleep(Duration::from_millis(1)).await;
        // Each has a place to start for 100 ms.
        let first = prompt(&turns).await;
        assert!(first > PROMPT && first < Duration::from_secs(1), "{first:?}");
        let second = prompt(&turns).await;
        assert!(second < PROMPT, "{second:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn more_dead_servers_than_there_are_places_wait_for_each_other_only() {
        let turns = Arc::new(Turns::of(20, 200));
        dead(&turns, 3000);
        // Until each has not answered once.
        sleep(TIMEOUT * (3000 / 200 + 1)).await;
        for _ in 0..100 {
            let each = prompt(&turns).await;
            // As long as 200 take to start.
            assert!(each <= Duration::from_millis(1100), "{each:?}");
            sleep(Duration::from_millis(77)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_again_is_prompt_from_then_on() {
        let turns = Turns::of(1, 1);
        let mut failed_late = false;
        assert!(turns.take(&mut failed_late, answer(TIMEOUT, false)).await.is_err());
        assert!(failed_late);
        let all = turns.slow.acquire().await.unwrap();
        let no_place = timeout(TIMEOUT, turns.take(&mut failed_late, answer(Duration::ZERO, true))).await;
        assert!(no_place.is_err());
        drop(all);
        assert!(turns.take(&mut failed_late, answer(Duration::ZERO, true)).await.is_ok());
        assert!(!failed_late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_passes_late_does_not_wait_for_those_that_fail() {
        let turns = Arc::new(Turns::of(20, 200));
        dead(&turns, 3000);
        sleep(TIMEOUT * (3000 / 200 + 1)).await;
        let late = Duration::from_secs(1);
        let mut failed_late = false;
        for _ in 0..20 {
            let begun = Instant::now();
            assert!(turns.take(&mut failed_late, answer(late, true)).await.is_ok());
            assert!(!failed_late && begun.elapsed() <= 2 * late + PROMPT, "{:?}", begun.elapsed());
            sleep(Duration::from_millis(77)).await;
        }
    }
}
