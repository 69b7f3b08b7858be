//! `make demo`: a newcomer's first look. Builds the test bed's network, runs the real programs in it, shows eight
//! things and checks each claim it makes.
#![forbid(unsafe_code)]

mod kept;
mod say;
mod steps;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use tollgate_tests::process::Bond;
use tollgate_tests::{Rig, RigOptions, rig, wait};

use crate::say::Say;

const PICTURE: &str = "\
client1 10.1.0.11 ┐                                             ┌ real1 10.2.0.11 nginx, weight 2
client2 10.1.0.12 ┴─ switch ─ wan [tollgate, DPDK] lan ─ switch ┼ real2 10.2.0.12 nginx, weight 1
                     VIP 10.1.0.100:80    LIPs 10.2.0.200-203   └ real3 10.2.0.13 nginx, weight 1";

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        None => run(),
        Some("--stop") => kept::stop(),
        Some("--sweep") => rig::sweep(),
        Some(other) => Err(anyhow::anyhow!(
            "unknown argument {other}; there are only --stop, --sweep (removes what killed tests left), and KEEP=1 in the environment"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if wait::was_interrupted() => {
            eprintln!("\ndemo: interrupted, everything is cleaned up");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    wait::catch_signals()?;
    let keep = std::env::var("KEEP").is_ok_and(|value| !value.is_empty() && value != "0");
    let mut options = RigOptions { receiver: true, ..RigOptions::demo()? };
    if keep {
        if kept::is_running()? {
            bail!("a demo was left running; end it with `make demo-stop` first");
        }
        options.prefix = Some(kept::PREFIX.to_owned());
        options.bond = Bond::Outlives;
    }
    let mut say = Say::new();
    say.note(PICTURE);
    say.note("\nEach name is a network namespace of this machine; they are joined by veths, and two DPDK ports are the gateway's ends.");
    let start = Instant::now();
    let mut rig = Rig::build(options)?;
    rig.start_gateway()?;
    say.note(format!(
        "Up after {:.1} s: dataplane with two workers, control, three nginx, tollgate-toa on their side.",
        start.elapsed().as_secs_f32()
    ));
    steps::all(&mut rig, &mut say)?;
    say.done(&format!("All of it is true. ({} s)", start.elapsed().as_secs()));
    if keep { kept::leave(rig) } else { rig.succeed() }
}
