//! What both gateways did, as text files in `recorded`: one per case.
//!
//! Where both did the same, a step has its lines once. Where they differ, both are told, and `why:` names
//! the heading in docs/ipvs-differences.md under which the reason stands. Writing a recording anew keeps
//! the reasons of differences that are as they were, and puts a question mark where one is missing; such a
//! recording fails.
//!
//! ```text
//! ## data with TTL 1
//!   wan to client: …
//! ## data of no connection
//! ipvs:
//!   wan to client: …
//! tollgate:
//!   (punted_stray 1)
//! why: Kernel
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::case::Case;

/// What stands where a reason is missing.
const NO_REASON: &str = "?";

/// What a step led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Did {
    pub(crate) ipvs: Vec<String>,
    pub(crate) tollgate: Vec<String>,
    /// What Tollgate says became of the packets that did not leave.
    pub(crate) notes: Vec<String>,
}

/// Where recordings are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("differential/recorded")
}

fn path(case: &Case) -> PathBuf {
    folder().join(format!("{}.txt", case.name))
}

/// The recording of a case.
fn text(case: &Case, dids: &[Did], reasons: &Reasons) -> String {
    let steps = case.steps.iter().zip(dids).map(|(step, did)| {
        let head = format!("## {}\n", step.what);
        if did.ipvs == did.tollgate {
            return head + &indented(&did.ipvs);
        }
        let notes: Vec<String> = did.notes.iter().map(|note| format!("({note})")).collect();
        let (ipvs, tollgate) = (indented(&did.ipvs), indented(&did.tollgate) + &indented(&notes));
        let difference = format!("{head}ipvs:\n{ipvs}tollgate:\n{tollgate}");
        let reason = reasons.get(&difference).map_or(NO_REASON, String::as_str);
        format!("{difference}why: {reason}\n")
    });
    format!("# {}: {}\n", case.name, case.about) + &steps.collect::<String>()
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

/// Reasons by the text of what differs: a difference of another kind needs a reason of its own.
type Reasons = BTreeMap<String, String>;

/// The reasons in a recording.
fn reasons(recorded: &str) -> Reasons {
    let mut reasons = Reasons::new();
    let mut step = String::new();
    for line in recorded.lines() {
        if let Some(reason) = line.strip_prefix("why: ") {
            reasons.insert(std::mem::take(&mut step), reason.to_owned());
            continue;
        }
        if line.starts_with("## ") {
            step.clear();
        }
        step.push_str(line);
        step.push('\n');
    }
    reasons
}

/// Compares what was done with the recording, or writes that anew.
pub(crate) fn compare(case: &Case, dids: &[Did], write: bool) -> Result<()> {
    let path = path(case);
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    let reasons = reasons(&recorded);
    let text = text(case, dids, &reasons);
    if write {
        fs::create_dir_all(folder())?;
        return fs::write(&path, text).with_context(|| path.display().to_string());
    }
    ensure!(text == recorded, "{}: not as recorded\n{}", case.name, differences(&recorded, &text));
    Ok(())
}

/// Names of cases that have a recording.
pub(crate) fn names() -> Result<BTreeSet<String>> {
    let files = fs::read_dir(folder())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    files.map(|name| name.map(|name| name.trim_end_matches(".txt").to_owned())).collect()
}

/// The reasons that a case's recording gives.
pub(crate) fn reasons_of(case: &Case) -> Result<BTreeSet<String>> {
    let path = path(case);
    let recorded = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(reasons(&recorded).into_values().collect())
}

/// The lines in which two texts differ.
fn differences(recorded: &str, now: &str) -> String {
    let (recorded, now): (Vec<&str>, Vec<&str>) = (recorded.lines().collect(), now.lines().collect());
    let same_front = recorded.iter().zip(&now).take_while(|(a, b)| a == b).count();
    let (recorded, now) = (&recorded[same_front..], &now[same_front..]);
    let same_back = recorded.iter().rev().zip(now.iter().rev()).take_while(|(a, b)| a == b).count();
    let show = |sign: char, lines: &[&str]| -> String {
        lines[..lines.len() - same_back].iter().map(|line| format!("{sign} {line}\n")).collect()
    };
    show('-', recorded) + &show('+', now)
}
