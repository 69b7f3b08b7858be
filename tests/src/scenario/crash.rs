//! A real server that crashes and comes back while clients go on asking.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load;
use crate::rig::{Rig, URL};
use crate::wait::wait_for;

/// What the clients saw.
#[derive(Debug, Clone)]
pub struct CrashReport {
    /// From the crash to the end of new connections to the dead server.
    pub out_after: Duration,
    /// Requests made after the crash.
    pub requests: usize,
    /// Of these, those that failed.
    pub failed: usize,
    /// Of these, those that failed although they began after the server was out.
    pub failed_after_out: usize,
    /// From nginx listening again to new connections to it.
    pub back_after: Duration,
    /// Whether the server answered requests again.
    pub answers_again: bool,
}

/// One request: when it began, and whether it was answered.
type Request = (Instant, bool);

/// Crashes real server `number` while client 1 makes requests, at least `requests` of them after the crash and half of
/// these after the server is out; then starts it again.
pub fn crash_and_return(rig: &mut Rig, number: usize, requests: usize) -> Result<CrashReport> {
    let mut wanted = vec![true; rig.reals.len()];
    wanted[number] = false;
    let crashed = Instant::now();
    rig.crash_nginx(number)?;
    let is_out = AtomicBool::new(false);
    let (gateway, gw, client) = (&rig.gateway, &rig.gw, &rig.clients[0]);
    let (out, made) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut made: Vec<Request> = Vec::new();
            let mut left_after_out = requests / 2;
            // Bounded also if the server never gets out of service.
            while (made.len() < requests || left_after_out > 0) && made.len() < 100 * requests {
                left_after_out -= usize::from(is_out.load(Ordering::Acquire) && left_after_out > 0);
                let began = Instant::now();
                made.push((began, load::get(client, URL).is_ok()));
            }
            made
        });
        let out = wait_for("the crashed server out of service", Duration::from_secs(20), || {
            Ok((gateway.in_service(gw)? == wanted).then(Instant::now))
        });
        is_out.store(true, Ordering::Release);
        (out, asking.join())
    });
    let (out, made) = (out?, made.ok().context("the asking thread ended early")?);
    let failed = |request: &&Request| !request.1;
    let failed_after_out = made.iter().filter(failed).filter(|(began, _)| *began >= out).count();

    rig.start_nginx(number)?;
    let back_after = rig.wait_in_service(&vec![true; rig.reals.len()])?;
    let answers = load::get_many(&rig.clients[0], URL, 40)?;
    let name = format!("real{}", number + 1);
    Ok(CrashReport {
        out_after: out - crashed,
        requests: made.len(),
        failed: made.iter().filter(failed).count(),
        failed_after_out: failed_after_out + answers.failed as usize,
        back_after,
        answers_again: answers.of(&name) > 0,
    })
}
