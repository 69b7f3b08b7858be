//! The other threads, which must not end before the main thread.

use std::thread::JoinHandle;

use super::Fault;

/// What the main thread looks at to know that the others live.
pub(super) struct Threads {
    /// Workers; the slow path's lcore follows theirs.
    pub(super) workers: usize,
    /// Whether a worker, or the slow path, is still running.
    pub(super) is_running: Box<dyn Fn(usize) -> bool>,
    /// The kernel mirror.
    pub(super) mirror: JoinHandle<()>,
}

impl Threads {
    /// Nothing, or what has ended.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if let Some(dead) = (0..self.workers).find(|worker| !(self.is_running)(*worker)) {
            return Err(Fault::Worker(dead));
        }
        if !(self.is_running)(self.workers) {
            return Err(Fault::SlowPath);
        }
        // Without it the forwarding table would grow stale in silence.
        if self.mirror.is_finished() {
            return Err(Fault::Mirror);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Two workers, the slow path, of which `dead` has ended, and a mirror that lives until the sender is dropped.
    fn threads(dead: Option<usize>) -> (Threads, mpsc::Sender<()>) {
        let (life, end) = mpsc::channel::<()>();
        let mirror = std::thread::spawn(move || {
            let _ = end.recv();
        });
        (Threads { workers: 2, is_running: Box::new(move |id| Some(id) != dead), mirror }, life)
    }

    #[test]
    fn while_all_live_there_is_no_fault() {
        let (threads, _life) = threads(None);
        assert!(threads.check().is_ok());
    }

    #[test]
    fn a_worker_or_the_slow_path_that_has_ended_is_named() {
        for (dead, word) in [(1, "worker 1"), (2, "slow path")] {
            let (threads, _life) = threads(Some(dead));
            let fault = threads.check().unwrap_err().to_string();
            assert!(fault.contains(word), "{fault}");
        }
    }

    #[test]
    fn a_mirror_that_has_ended_is_a_fault() {
        let (threads, life) = threads(None);
        drop(life);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while threads.check().is_ok() {
            assert!(std::time::Instant::now() < deadline, "it goes unnoticed");
            std::thread::yield_now();
        }
        assert!(matches!(threads.check(), Err(Fault::Mirror)));
    }
}
