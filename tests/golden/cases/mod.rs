//! The cases, by what they are about.

mod cells;
mod fragments;
mod handshake;
mod limits;
mod malformed;
mod matrix;
mod options;
mod others;
mod proxy;
mod states;
mod themes;
mod toa;
mod uoa;

use crate::case::Case;

/// Every case that any dataplane runs, with one worker or with two, in order.
pub(crate) fn all() -> Vec<Case> {
    [
        handshake::cases(),
        options::cases(),
        states::cases(),
        malformed::cases(),
        limits::cases(),
        others::cases(),
        toa::cases(),
        uoa::cases(),
        proxy::cases(),
        of_modes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Those about modes, protocols and families.
pub(crate) fn of_modes() -> Vec<Case> {
    [themes::cases(), matrix::cases(), fragments::cases()].into_iter().flatten().collect()
}

pub(crate) use fragments::lost;
pub(crate) use limits::{TABLE_LEN, exhausted, full_table};
