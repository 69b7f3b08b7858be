//! The recording of a case: `NAME.pcap` with every frame that went in and came out, and `NAME.txt` that says which is
//! which.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use api::{ServiceKey, UoaForm};
use tollgate_tests::pcap;
use wire::build::summary;

use crate::case::Case;
use crate::run::Went;

/// Cases about TOA whose recordings are conformance vectors for any gateway (tests/toa-vectors/README.md).
const VECTORS: [&str; 25] = [
    "fast_open",
    "forged_toa",
    "full_segments",
    "handshake",
    "malformed_options",
    "mss_lowered",
    "odd_payload",
    "option_space_full",
    "retransmitted_syn",
    "timestamps_and_sack",
    "toa_46",
    "toa_64",
    "toa_66",
    "toa_fin",
    "toa_kind_200",
    "toa_kind_253",
    "toa_kind_253_66",
    "toa_lost_ack",
    "toa_until_acknowledged",
    "uoa_forged",
    "uoa_header_44",
    "uoa_header_46",
    "uoa_header_64",
    "uoa_header_66",
    "uoa_option_44",
];

/// Whether a case's recording is a conformance vector.
pub(crate) fn is_vector(name: &str) -> bool {
    VECTORS.contains(&name)
}

/// Where the vectors are, and their index.
pub(crate) fn vectors_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("toa-vectors")
}

/// Where the recording of a case is.
pub(crate) fn folder(name: &str) -> PathBuf {
    if is_vector(name) { vectors_folder().join("gateways") } else { recorded_folder() }
}

fn recorded_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/recorded")
}

/// All files of recordings.
pub(crate) fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in [recorded_folder(), vectors_folder().join("gateways")] {
        for entry in std::fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The index of the vectors for gateways (TOML): for each case its files, the option's kind, and the endpoints.
pub(crate) fn vectors_index(cases: &[Case]) -> String {
    let mut index = String::from("# What a gateway must put on the wire; README.md tells how to play it.\n");
    for case in cases.iter().filter(|case| is_vector(case.name)) {
        let name = case.name;
        // Writing to a string does not fail.
        let _ = write!(
            index,
            "\n[[case]]\nname = \"{name}\"\nabout = \"{}\"\nfile = \"gateways/{name}.pcap\"\n\
                 steps = \"gateways/{name}.txt\"\n{}\nconnections = [\n",
            case.about,
            told_by(case)
        );
        for conn in case.conns() {
            let ends = [conn.client, conn.virtual_, conn.local, conn.real].map(SocketAddr::from);
            let [client, virtual_, local, real] = ends;
            let _ = writeln!(
                index,
                "  {{ client = \"{client}\", virtual = \"{virtual_}\", local = \"{local}\", real = \"{real}\" }},"
            );
        }
        index.push_str("]\n");
    }
    index
}

/// How real servers are told the clients.
fn told_by(case: &Case) -> String {
    let virtual_ = SocketAddr::from(([0; 4], 0));
    let mut service = api::Service::new(ServiceKey { protocol: case.service.protocol, virtual_ }, case.name);
    case.service.tune.into_iter().for_each(|tune| tune(&mut service));
    match service.uoa.map(|uoa| uoa.form) {
        None => format!("toa_kind = {}", case.service.toa.unwrap_or_default()),
        Some(UoaForm::Option) => "uoa = \"option\"".to_owned(),
        Some(UoaForm::Header) => "uoa = \"header\"".to_owned(),
    }
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
