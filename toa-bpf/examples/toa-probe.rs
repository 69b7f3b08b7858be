//! Plays the conformance cases against the receiver of the kernel it runs on, in the network namespace it runs in.
//!
//! Meant for guests: `toa-probe` prints a line per case and ends with 0 only when all are right.

#[path = "../tests/probe/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic)]
mod probe;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tun = match probe::set_up("toaprobe0") {
        Ok(tun) => tun,
        Err(problem) => {
            eprintln!("toa-probe: cannot set up the TUN device: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let mut wrong = 0_u32;
    let cases = probe::cases::all();
    for (index, case) in (0..).zip(&cases) {
        match probe::cases::play(&tun, case, index) {
            Ok(()) => println!("ok    {}", case.name),
            Err(problem) => {
                println!("WRONG {}: {problem}", case.name);
                wrong += 1;
            }
        }
    }
    println!("{} cases, {wrong} wrong", cases.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
