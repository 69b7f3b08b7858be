//! What the documentation points at is there, and other programs read the configurations made for them.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tollgate_tests::netns::Netns;
use tollgate_tests::rig::unique_prefix;
use tollgate_tests::run::Cmd;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All pages under `folder`, but those of what was built.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            pages(&path, found)?;
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Where a link may lead within a page, by GitHub's rule: lower case, spaces to hyphens, punctuation gone.
fn anchors(text: &str) -> HashSet<String> {
    let mut in_code = false;
    let mut found = HashSet::new();
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !in_code) else { continue };
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

/// The targets of `[text](target)`.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() -> Result<()> {
    let mut links = 0;
    let mut broken = Vec::new();
    let mut found = Vec::new();
    pages(&root(), &mut found)?;
    for page in found {
        let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        for target in targets(&text).filter(|target| !target.starts_with("http")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to =
                if file.is_empty() { page.clone() } else { page.parent().context("a folder")?.join(file) };
            let there = if anchor.is_empty() {
                to.exists()
            } else {
                anchors(&std::fs::read_to_string(&to)?).contains(anchor)
            };
            links += 1;
            if !there {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    ensure!(links > 50, "only {links} links were found");
    ensure!(broken.is_empty(), "links to nowhere:\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn bird_accepts_its_example() -> Result<()> {
    Cmd::new("bird").args(["-p", "-c"]).arg(root().join("configs/bird/bird.conf")).run()?;
    Ok(())
}

#[test]
fn keepalived_accepts_its_example() -> Result<()> {
    // It looks for the interfaces and the script that the file names.
    let netns = Netns::create(&format!("{}-gw", unique_prefix()))?;
    netns.ip("link add wan type veth peer name lan")?;
    let text = std::fs::read_to_string(root().join("configs/keepalived/keepalived.conf"))?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("keepalived.conf");
    // A script must be root's in folders of root, which a build's need not be.
    let script = dir.path().join("tollgate");
    std::fs::copy("/bin/true", &script)?;
    std::fs::write(&file, text.replace("/usr/bin/tollgate ", &format!("{} ", script.display())))?;
    Cmd::new("keepalived").args(["-t", "-f"]).arg(file).in_netns(&netns).run()?;
    Ok(())
}
