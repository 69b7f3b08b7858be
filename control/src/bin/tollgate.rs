//! The command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    control::cli::run(control::cli::Arguments::parse())
}
