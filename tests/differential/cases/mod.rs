//! The cases, by what they are about. Every case has a number of its own, from which its ports follow.

mod changes;
mod datagrams;
mod errors;
mod flow;
mod forwarding;
mod schedulers;
mod states;

use crate::case::Case;

/// All of them, in the order in which they run.
pub(crate) fn all() -> Vec<Case> {
    [
        forwarding::cases(),
        errors::cases(),
        states::cases(),
        changes::cases(),
        datagrams::cases(),
        schedulers::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
