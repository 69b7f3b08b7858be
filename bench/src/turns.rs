//! Measuring again and again until enough of it was undisturbed. What is chosen is chosen by how much the machine disturbed
//! it, never by what came out.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cores::Cores;
use crate::machine::forwarding_cpus;

/// Turns in which a forwarding thread had less of its core than this are made up for.
pub(crate) const WHOLE_CORE: f64 = 0.95;
/// How many times as many turns as are wanted there may be for that.
const STRETCH_MAX: usize = 4;

/// What was measured in one turn, and how undisturbed it was: 1 at best.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    /// Mostly the least share of a core that a forwarding thread had.
    pub(crate) calm: f64,
    /// The figures.
    pub(crate) figures: T,
}

/// How often to measure.
#[derive(Clone)]
pub(crate) struct Patience {
    /// Turns wanted.
    pub(crate) turns: usize,
    /// Time left in this run for more than these.
    pub(crate) rest: Rc<Cell<Duration>>,
}

impl Patience {
    /// For one of so many parts, which together have at least as many turns.
    pub(crate) fn part(&self, parts: usize) -> Patience {
        Patience { turns: self.turns.div_ceil(parts), ..self.clone() }
    }

    /// Takes turns until as many as are wanted were as calm as `enough`, or patience ends; the calmest ones.
    ///
    /// # Errors
    /// The first of a turn that is wanted.
    pub(crate) fn turns<T>(
        &self,
        enough: f64,
        turn: impl FnMut() -> Result<Turn<T>>,
    ) -> Result<Vec<Turn<T>>> {
        Ok(self.calmest(enough, self.all(enough, turn)?))
    }

    /// [`Patience::turns`], and all of them.
    ///
    /// # Errors
    /// The first of a turn that is wanted.
    pub(crate) fn all<T>(
        &self,
        enough: f64,
        mut turn: impl FnMut() -> Result<Turn<T>>,
    ) -> Result<Vec<Turn<T>>> {
        let mut turns: Vec<Turn<T>> = Vec::new();
        loop {
            let (start, is_extra) = (Instant::now(), turns.len() >= self.turns);
            match turn() {
                Ok(turn) => turns.push(turn),
                // What there is is enough.
                Err(error) if is_extra => {
                    eprintln!("a further turn failed: {error:#}");
                    return Ok(turns);
                }
                Err(error) => return Err(error),
            }
            if is_extra {
                self.rest.set(self.rest.get().saturating_sub(start.elapsed()));
            }
            let calm = turns.iter().filter(|turn| turn.calm >= enough).count();
            let is_over = turns.len() >= STRETCH_MAX * self.turns || self.rest.get().is_zero();
            if calm >= self.turns || is_over && turns.len() >= self.turns {
                return Ok(turns);
            }
        }
    }

    /// As many as are wanted; of those that are calm enough the first.
    pub(crate) fn calmest<T>(&self, enough: f64, mut turns: Vec<Turn<T>>) -> Vec<Turn<T>> {
        let calm = |turn: &Turn<T>| turn.calm.min(enough);
        turns.sort_by(|one, other| calm(other).total_cmp(&calm(one)));
        turns.truncate(self.turns);
        turns
    }
}

/// Of the least calm one.
pub(crate) fn least_calm<T>(turns: &[Turn<T>]) -> Option<f64> {
    turns.iter().map(|turn| turn.calm).reduce(f64::min)
}

/// Looks at the cores between the windows of one turn.
pub(crate) struct Looks<'a> {
    cores: &'a Cores,
    cpus: Vec<usize>,
    least: f64,
    /// What the last two looks saw.
    last: (f64, f64),
}

impl<'a> Looks<'a> {
    /// The first look, at the CPUs of so many workers.
    ///
    /// # Errors
    /// As [`Cores::share`].
    pub(crate) fn begin(cores: &'a Cores, workers: u16) -> Result<Looks<'a>> {
        let mut looks =
            Looks { cores, cpus: forwarding_cpus(workers), least: f64::INFINITY, last: (0.0, 0.0) };
        looks.look()?;
        Ok(looks)
    }

    /// One more; nothing may run on these CPUs.
    ///
    /// # Errors
    /// As [`Cores::share`].
    pub(crate) fn look(&mut self) -> Result<()> {
        self.last = (self.last.1, self.cores.share(&self.cpus)?);
        self.least = self.least.min(self.last.1);
        Ok(())
    }

    /// The least share of a core that a CPU had since the look before the last one.
    pub(crate) fn between(&self) -> f64 {
        self.last.0.min(self.last.1)
    }

    /// What was measured between them.
    pub(crate) fn end<T>(self, figures: T) -> Turn<T> {
        Turn { calm: self.least, figures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(calm: &[f64], wanted: usize, rest: Duration) -> Vec<usize> {
        let mut made = calm.iter().enumerate().map(|(figures, calm)| Turn { calm: *calm, figures });
        let patience = Patience { turns: wanted, rest: Rc::new(Cell::new(rest)) };
        let turns = patience.turns(0.95, || made.next().ok_or_else(|| anyhow::anyhow!("too many turns")));
        turns.unwrap().into_iter().map(|turn| turn.figures).collect()
    }

    #[test]
    fn disturbed_turns_are_made_up_for_until_patience_ends() {
        let long = Duration::from_secs(100);
        assert_eq!(run(&[0.96, 1.0], 2, long), [0, 1]);
        assert_eq!(run(&[0.6, 0.96, 0.7, 1.0], 2, long), [1, 3]);
        assert_eq!(
            run(&[0.6, 0.96, 0.7, 1.0], 2, Duration::ZERO),
            [1, 0],
            "as many as are wanted in any case"
        );
        assert_eq!(
            run(&[0.5, 0.6, 0.7, 0.8, 0.9, 0.5, 0.6, 0.7], 2, long),
            [4, 3],
            "four times as many at most"
        );
    }
}
