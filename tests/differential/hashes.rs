//! What must hold of schedulers that go by a hash, whichever hash it is: two gateways with different ones
//! pick different real servers, and are right all the same.

use anyhow::{Context, Result, ensure};

use crate::case::{Action, Case};

/// Clients that come again and again.
const RETURNING: usize = 40;
/// Of 120 clients, how many may come to a real server of weight 1 and of weight 2 (of 5 in all): the mean
/// and about four standard deviations.
const SHARE_OF_1: std::ops::RangeInclusive<usize> = 7..=42;
const SHARE_OF_2: std::ops::RangeInclusive<usize> = 27..=70;

/// Checks what one gateway did with a case of [`crate::cases`]`::schedulers` about sh, mh or dh; others pass.
pub(crate) fn check(case: &Case, outcomes: &[Vec<String>], stays_on_removal: bool) -> Result<()> {
    let scheduler = case.services[0].scheduler;
    if !["sh", "mh", "dh"].contains(&scheduler) {
        return Ok(());
    }
    let picks: Vec<Vec<&str>> = case.steps.iter().zip(outcomes).filter_map(picks).collect();
    let [first, ports, again, drained, removed, back] = &picks[..] else {
        anyhow::bail!("other steps than expected");
    };
    if scheduler == "dh" {
        let all_one = [first, ports, again, back].into_iter().flatten().all(|pick| *pick == first[0]);
        ensure!(all_one, "one destination goes to one real server");
        return Ok(());
    }
    check_shares(first)?;
    let flags = case.services[0].flags;
    let by_port = flags.iter().any(|flag| flag.ends_with("-port"));
    if by_port {
        ensure!(ports.iter().any(|pick| *pick != ports[0]), "ports make no difference");
        return Ok(());
    }
    ensure!(ports.iter().all(|pick| *pick == ports[0]), "ports make a difference");
    let first = first.get(..RETURNING).context("too few clients")?;
    ensure!(again == first && back == first, "a client does not return to its real server");
    let falls_back = flags.iter().any(|flag| flag.ends_with("-fallback"));
    for (pick, drained) in first.iter().zip(drained) {
        let right = match (*pick, falls_back) {
            ("1", true) => *drained != "-" && *drained != "1",
            ("1", false) => *drained == "-",
            _ => drained == pick,
        };
        ensure!(right, "while real server 1 drains, a client of {pick} comes to {drained}");
    }
    let others = first.iter().zip(removed).filter(|(pick, _)| **pick != "1");
    let (moved, all) = (others.clone().filter(|(pick, now)| pick != now).count(), others.count());
    ensure!(!stays_on_removal || moved * 5 <= all, "{moved} of {all} clients move without need");
    Ok(())
}

fn picks<'a>((step, lines): (&crate::case::Step, &'a Vec<String>)) -> Option<Vec<&'a str>> {
    matches!(step.action, Action::Pick(_)).then(|| lines.iter().flat_map(|line| line.split(' ')).collect())
}

fn check_shares(picks: &[&str]) -> Result<()> {
    let share = |real: &str| picks.iter().filter(|pick| **pick == real).count();
    for real in ["1", "2", "3"] {
        ensure!(SHARE_OF_1.contains(&share(real)), "real server {real} has {} of 120 clients", share(real));
    }
    ensure!(
        SHARE_OF_2.contains(&share("4")),
        "real server 4, of weight 2, has {} of 120 clients",
        share("4")
    );
    Ok(())
}
