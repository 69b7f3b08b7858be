//! What the demo prints: steps, figures, and claims that were checked.

use std::fmt::Display;
use std::io::IsTerminal;

use anyhow::{Result, bail};

/// How many steps there are.
const STEPS: u32 = 8;

/// The demo's voice: coloured on a terminal, plain elsewhere or with `NO_COLOR`.
#[derive(Debug)]
pub(crate) struct Say {
    colour: bool,
    step: u32,
}

impl Say {
    pub(crate) fn new() -> Say {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Say { colour: wanted && std::io::stdout().is_terminal(), step: 0 }
    }

    /// The next step's heading.
    pub(crate) fn step(&mut self, title: &str) {
        self.step += 1;
        println!("\n{} {}", self.paint("1;36", &format!("{}/{STEPS}", self.step)), self.paint("1", title));
    }

    /// Something to know.
    pub(crate) fn note(&self, text: impl Display) {
        for line in text.to_string().lines() {
            println!("    {line}");
        }
    }

    /// Something to see, e.g. the output of a command.
    pub(crate) fn show(&self, command: &str, output: &str) {
        println!("    {}", self.paint("2", &format!("$ {command}")));
        for line in output.trim_end().lines() {
            println!("    {}", self.paint("2", line));
        }
    }

    /// A claim. The demo ends with an error when it is not true.
    pub(crate) fn claim(&self, holds: bool, claim: impl Display) -> Result<()> {
        if holds {
            println!("  {} {claim}", self.paint("32", "✓"));
            return Ok(());
        }
        println!("  {} {claim}", self.paint("1;31", "✗"));
        bail!("not true: {claim}");
    }

    /// The last word.
    pub(crate) fn done(&self, text: &str) {
        println!("\n{}", self.paint("1;32", text));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
