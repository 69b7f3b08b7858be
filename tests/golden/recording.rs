//! The recording of a case: `NAME.pcap` with every frame that went in and came out, and `NAME.txt` that says which is
//! which.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tollgate_tests::pcap;
use wire::build::summary;

use crate::case::Case;
use crate::run::Went;

/// Where the recordings are.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/recorded")
}

/// The files in it.
pub(crate) fn names() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

pub(crate) struct Recording {
    frames: Vec<Vec<u8>>,
    index: String,
}

impl Recording {
    pub(crate) fn of(case: &Case, went: &[Went]) -> Recording {
        let mut frames = Vec::new();
        let mut index = format!("{}: {}\n", case.name, case.about);
        for Went { step, sent } in went {
            // Writing to a string does not fail.
            let _ = writeln!(index, "\n{}", step.what);
            for (way, frame) in
                step.input.iter().map(|frame| ("in ", frame)).chain(sent.iter().map(|frame| ("out", frame)))
            {
                frames.push(frame.bytes.clone());
                let text = summary(&frame.bytes);
                let _ = writeln!(index, "  {:>3} {way} {} {text}", frames.len(), frame.port.name());
            }
            for (name, n) in &step.counts {
                let _ = writeln!(index, "      {name} +{n}");
            }
            if let Some((_, state)) = step.listed {
                let _ = writeln!(index, "      then in {state}");
            }
        }
        Recording { frames, index }
    }

    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<()> {
        pcap::write(&folder.join(format!("{name}.pcap")), &self.frames)?;
        std::fs::write(folder.join(format!("{name}.txt")), &self.index)?;
        Ok(())
    }

    pub(crate) fn compare(&self, folder: &Path, name: &str) -> Result<()> {
        let remedy = "if the change is meant, run the test with UPDATE_GOLDEN=1 and read the difference";
        let path = folder.join(format!("{name}.pcap"));
        let recorded = pcap::read(&path).context(remedy)?;
        ensure!(
            recorded.len() == self.frames.len(),
            "{} has {} frames, now there are {}; {remedy}",
            path.display(),
            recorded.len(),
            self.frames.len()
        );
        for (number, (recorded, now)) in recorded.iter().zip(&self.frames).enumerate() {
            ensure!(
                recorded.bytes == *now,
                "frame {} of {} was\n  {}\nand is now\n  {}\n{remedy}",
                number + 1,
                path.display(),
                summary(&recorded.bytes),
                summary(now)
            );
        }
        let path = path.with_extension("txt");
        let index = std::fs::read_to_string(&path).context(remedy)?;
        ensure!(index == self.index, "{} is out of date; {remedy}", path.display());
        Ok(())
    }
}
