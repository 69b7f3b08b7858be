//! The budget of instructions per packet: a file in the repository that a change of the engine is held against, so that
//! nothing gets slower unnoticed. Callgrind's counts do not depend on the machine's load, only on code and compiler.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::report::Row;

/// How far a figure may be from its budget: it is the same in every build, so this is room for small changes only.
const TOLERANCE: f64 = 0.03;

const HEADER: &str = "\
# Instructions per packet of the engine alone, by callgrind: the budget. `make budget`, part of `make test`, fails
# when a figure is more than 3 % over it, and says so when one has fallen by more. For a change that is worth its
# price, make budget REASON=\"what it buys\" writes the new figures and adds the reason below. Commit this file
# together with the change. Figures edited by hand are refused: they are not those that the last reason stands for.
";

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    /// What compiled the engine when the figures were taken.
    rustc: String,
    /// Why the figures are what they are, newest last.
    history: Vec<Reason>,
    /// By the name of the case.
    per_packet: BTreeMap<String, f64>,
}

/// Why there were new figures, and which.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    /// [`digest`] of the figures.
    figures: String,
    reason: String,
}

/// How figures compare with their budget.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Comparison {
    /// What makes the check fail, one line each.
    pub(crate) failures: Vec<String>,
    /// What has become cheaper, one line each.
    pub(crate) fallen: Vec<String>,
}

impl Budget {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not there or not as it should be.
    pub(crate) fn read(path: &Path) -> Result<Budget> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a budget", path.display()))
    }

    /// Compares measured figures with it.
    pub(crate) fn compare(&self, rows: &[Row]) -> Comparison {
        let mut comparison = Comparison::default();
        let mut left = self.per_packet.clone();
        for row in rows {
            let (name, is) = (row.name(), row.value);
            let Some(budget) = left.remove(&name) else {
                comparison.failures.push(format!("{name}: {is:.1}, and no budget"));
                continue;
            };
            let change = is / budget - 1.0;
            let line = format!("{name}: {is:.1}, budget {budget:.1} ({:+.1} %)", change * 100.0);
            if change > TOLERANCE {
                comparison.failures.push(line);
            } else if change < -TOLERANCE {
                comparison.fallen.push(line);
            }
        }
        comparison.failures.extend(left.into_keys().map(|name| format!("{name}: not counted")));
        comparison
    }

    /// Whether the figures are those that the last reason stands for, and not edited by hand.
    fn is_as_reasoned(&self) -> bool {
        self.history.last().is_some_and(|last| last.figures == digest(&self.per_packet))
    }

    /// The file's new text with these figures.
    fn renewed(mut self, rows: &[Row], rustc: &str, reason: &str) -> String {
        let per_packet = rows.iter().map(|row| (row.name(), row.value)).collect();
        self.history.push(Reason { figures: digest(&per_packet), reason: reason.to_owned() });
        let mut text = format!(
            "{HEADER}\n# The compiler matters: another one may give other figures.\nrustc = {rustc:?}\n"
        );
        text +=
            "\n# Why the figures are what they are, newest last, each with a digest of the figures then.\n";
        text += "history = [\n";
        for Reason { figures, reason } in &self.history {
            let _ = writeln!(text, "    {{ figures = {figures:?}, reason = {reason:?} }},");
        }
        text += "]\n\n[per_packet]\n";
        for row in rows {
            let _ = writeln!(text, "{} = {:.1}", row.name(), row.value);
        }
        text
    }
}

/// What tells figures from others: FNV-1a, 64 bits, over their lines in the file in order of the names.
fn digest(per_packet: &BTreeMap<String, f64>) -> String {
    let lines: String = per_packet.iter().map(|(name, figure)| format!("{name} = {figure:.1}\n")).collect();
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", lines.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Holds the figures against the file, and tells what differs.
///
/// # Errors
/// A figure is too far over its budget, or has none, or is missing, or the budget was changed without a reason.
pub(crate) fn check(path: &Path, rows: &[Row]) -> Result<()> {
    let budget = Budget::read(path)?;
    ensure!(
        budget.is_as_reasoned(),
        "the figures in {} were changed without a reason: take that back, or run make budget REASON=\"why\"",
        path.display()
    );
    let Comparison { failures, fallen } = budget.compare(rows);
    if !fallen.is_empty() {
        println!("\nCheaper than their budget by more than 3 %; lower it: make budget REASON=\"…\"");
        println!("  {}", fallen.join("\n  "));
    }
    if failures.is_empty() {
        println!("\nbudget: {} figures, none more than 3 % over {}", rows.len(), path.display());
        return Ok(());
    }
    let rustc = rustc_version()?;
    let other = if rustc == budget.rustc {
        String::new()
    } else {
        format!("\nThe budget was taken with {}, this is {rustc}: that alone may be the cause.", budget.rustc)
    };
    anyhow::bail!(
        "instructions per packet are over their budget in {}:\n  {}{other}\n\
         Profiles: callgrind_annotate target/bench/callgrind.CASE.out\n\
         If the change is worth it: make budget REASON=\"why\", and commit that file with the change.",
        path.display(),
        failures.join("\n  ")
    )
}

/// Makes the figures the new budget.
///
/// # Errors
/// Not all cases were counted, the reason says nothing, or the file cannot be written.
pub(crate) fn renew(path: &Path, rows: &[Row], cases: usize, reason: &str) -> Result<()> {
    ensure!(!reason.trim().is_empty(), "a new budget needs a reason");
    ensure!(rows.len() == cases, "only {} of {cases} cases were counted; the budget stays", rows.len());
    let old = if path.exists() { Budget::read(path)? } else { Budget::default() };
    fs::write(path, old.renewed(rows, &rustc_version()?, reason))
        .with_context(|| format!("writing {}", path.display()))?;
    println!("\nbudget: {} has the new figures", path.display());
    Ok(())
}

fn rustc_version() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("running rustc --version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, Family, Mode, Proto, Traffic};
    use crate::report::{Spread, TOLLGATE};

    fn row(mode: Mode, figure: f64) -> Row {
        let case = Case::new(mode, Proto::Tcp, Family::Ipv4, Traffic::Inbound).unwrap();
        Row::new("engine_instructions", TOLLGATE, &case, "instructions/packet", Spread::exactly(figure))
    }

    fn budget(figures: &[(&str, f64)]) -> Budget {
        let per_packet = figures.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect();
        Budget { per_packet, ..Budget::default() }
    }

    /// The file's text with one figure, as `make budget` writes it.
    fn file(figure: f64) -> String {
        Budget::default().renewed(&[row(Mode::Dr, figure)], "rustc 1", "first")
    }

    fn read(text: &str) -> Budget {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_rise_of_four_percent_fails_one_of_two_passes_and_a_fall_is_told() {
        let budget = budget(&[("dr-tcp-ipv4-inbound", 200.0), ("tun-tcp-ipv4-inbound", 200.0)]);
        let compare = |dr, tun| budget.compare(&[row(Mode::Dr, dr), row(Mode::Tun, tun)]);
        assert_eq!(compare(204.0, 196.0), Comparison::default());
        let comparison = compare(208.0, 192.0);
        assert_eq!(comparison.failures, ["dr-tcp-ipv4-inbound: 208.0, budget 200.0 (+4.0 %)"]);
        assert_eq!(comparison.fallen, ["tun-tcp-ipv4-inbound: 192.0, budget 200.0 (-4.0 %)"]);
    }

    #[test]
    fn a_check_needs_both_a_small_rise_and_a_budget_with_its_reason() {
        let path = std::env::temp_dir().join(format!("tollgate-budget-{}.toml", std::process::id()));
        let check = |text: &str, figure| {
            fs::write(&path, text).unwrap();
            check(&path, &[row(Mode::Dr, figure)]).map_err(|error| error.to_string())
        };
        let (good, raised) = (file(200.0), file(200.0).replace("inbound = 200.0", "inbound = 208.0"));
        assert_ne!(good, raised);
        assert_eq!(check(&good, 204.0), Ok(()));
        assert!(check(&good, 208.0).unwrap_err().contains("(+4.0 %)"));
        assert!(check(&raised, 208.0).unwrap_err().contains("changed without a reason"));
        renew(&path, &[row(Mode::Dr, 208.0)], 1, " ").unwrap_err();
        renew(&path, &[row(Mode::Dr, 208.0)], 1, "worth it").unwrap();
        let renewed = fs::read_to_string(&path).unwrap();
        assert_eq!(check(&renewed, 208.0), Ok(()));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn figures_edited_by_hand_added_removed_or_without_any_reason_are_noticed() {
        let good = file(200.0);
        assert!(read(&good).is_as_reasoned());
        for edited in [
            good.replace("inbound = 200.0", "inbound = 200.1"),
            good.replace("dr-tcp", "dr-udp"),
            format!("{good}more = 1.0\n"),
            good.replace("dr-tcp-ipv4-inbound = 200.0\n", ""),
        ] {
            assert_ne!(edited, good);
            assert!(!read(&edited).is_as_reasoned(), "{edited}");
        }
        assert!(!Budget::default().is_as_reasoned());
    }

    #[test]
    fn the_budget_of_the_repository_has_the_figures_of_its_last_reason() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
        assert!(Budget::read(&path).unwrap().is_as_reasoned(), "run make budget REASON=\"why\"");
    }

    #[test]
    fn a_case_without_budget_and_a_budget_without_figure_fail() {
        let comparison = budget(&[("gone", 1.0)]).compare(&[row(Mode::Dr, 1.0)]);
        assert_eq!(comparison.failures, ["dr-tcp-ipv4-inbound: 1.0, and no budget", "gone: not counted"]);
    }

    #[test]
    fn a_renewed_budget_is_read_back_with_all_reasons() {
        let rows = [row(Mode::Dr, 201.26)];
        let text = read(&file(200.0)).renewed(&rows, "rustc 2", "a \"quoted\" reason");
        let renewed = read(&text);
        assert_eq!((renewed.rustc.as_str(), renewed.history.len()), ("rustc 2", 2));
        assert_eq!(renewed.history[0].reason, "first");
        assert_eq!(renewed.history[1].reason, "a \"quoted\" reason");
        assert_eq!(renewed.per_packet["dr-tcp-ipv4-inbound"], 201.3);
        assert!(renewed.is_as_reasoned());
    }
}
