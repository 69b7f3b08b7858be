//! Which CPUs the threads run on, and whether workers have theirs to themselves.

use std::time::Duration;

use config::{Dataplane, Idle};

use crate::worker::IdleMode;

/// The CPUs of every thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// For the main thread, the slow path and all helpers.
    pub(crate) main: Vec<usize>,
    /// By worker.
    pub(crate) workers: Vec<Vec<usize>>,
    /// Whether a worker shares a CPU with any other thread of ours.
    pub(crate) shared: bool,
}

/// Lays the threads out over the `allowed` CPUs; `wanted` is the operator's list, one CPU per worker, or empty.
///
/// By itself each worker takes a CPU of its own, all but the first, when there are enough. On a smaller machine all
/// threads may run everywhere, and the kernel shares the CPUs out.
pub(crate) fn lay_out(workers: u16, wanted: &[u32], allowed: &[usize]) -> Layout {
    let workers = usize::from(workers);
    if !wanted.is_empty() {
        let chosen: Vec<usize> = wanted.iter().map(|cpu| *cpu as usize).collect();
        let rest: Vec<usize> = allowed.iter().copied().filter(|cpu| !chosen.contains(cpu)).collect();
        let twice = chosen.iter().enumerate().any(|(i, cpu)| chosen[..i].contains(cpu));
        return Layout {
            shared: rest.is_empty() || twice,
            main: if rest.is_empty() { allowed.to_vec() } else { rest },
            workers: chosen.into_iter().map(|cpu| vec![cpu]).collect(),
        };
    }
    match allowed.split_first() {
        Some((first, others)) if others.len() >= workers => Layout {
            main: vec![*first],
            workers: others.iter().take(workers).map(|cpu| vec![*cpu]).collect(),
            shared: false,
        },
        _ => Layout { main: allowed.to_vec(), workers: vec![allowed.to_vec(); workers], shared: true },
    }
}

/// What workers do without packets.
pub(crate) fn idle_mode(dataplane: &Dataplane, layout: &Layout) -> IdleMode {
    match dataplane.idle {
        Idle::Poll => IdleMode::Poll,
        Idle::Pause => IdleMode::Pause(Duration::from_micros(dataplane.idle_pause_max_us.into())),
        Idle::Adaptive => IdleMode::Adaptive,
        Idle::Auto if layout.shared => IdleMode::Adaptive,
        Idle::Auto => IdleMode::Poll,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(idle: Idle, layout: &Layout) -> IdleMode {
        idle_mode(&Dataplane { idle, idle_pause_max_us: 7, ..Dataplane::default() }, layout)
    }

    #[test]
    fn with_enough_cpus_each_worker_has_its_own_and_the_first_is_left_to_the_rest() {
        let layout = lay_out(2, &[], &[0, 1, 2, 3]);
        assert_eq!(layout, Layout { main: vec![0], workers: vec![vec![1], vec![2]], shared: false });
        assert_eq!(mode(Idle::Auto, &layout), IdleMode::Poll);
    }

    #[test]
    fn on_a_small_machine_all_share_and_idle_workers_sleep() {
        let layout = lay_out(2, &[], &[0, 1]);
        assert_eq!(layout.workers, [[0, 1], [0, 1]]);
        assert_eq!(mode(Idle::Auto, &layout), IdleMode::Adaptive);
        assert_eq!(mode(Idle::Poll, &layout), IdleMode::Poll);
        assert_eq!(mode(Idle::Pause, &layout), IdleMode::Pause(Duration::from_micros(7)));
    }

    #[test]
    fn the_operators_list_is_followed_and_its_cpus_are_kept_free_of_others() {
        let layout = lay_out(2, &[2, 3], &[0, 1, 2, 3]);
        assert_eq!(layout, Layout { main: vec![0, 1], workers: vec![vec![2], vec![3]], shared: false });
        assert!(lay_out(2, &[1, 1], &[0, 1]).shared);
        assert!(lay_out(2, &[0, 1], &[0, 1]).shared);
    }
}
