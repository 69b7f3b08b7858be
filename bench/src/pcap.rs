//! Capture files, as net_pcap reads them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// The file header: microseconds, version 2.4, Ethernet, native byte order.
pub(crate) fn file_header() -> Vec<u8> {
    let mut header = Vec::with_capacity(24);
    header.extend(0xa1b2_c3d4_u32.to_ne_bytes());
    header.extend(2_u16.to_ne_bytes());
    header.extend(4_u16.to_ne_bytes());
    for word in [0_u32, 0, 65_535, 1] {
        header.extend(word.to_ne_bytes());
    }
    header
}

/// One frame with its header, at time 0.
pub(crate) fn record(frame: &[u8]) -> Vec<u8> {
    let len = frame.len() as u32;
    let mut record = Vec::with_capacity(16 + frame.len());
    for word in [0, 0, len, len] {
        record.extend(word.to_ne_bytes());
    }
    record.extend_from_slice(frame);
    record
}

/// Writes a whole file; how many frames it has.
///
/// # Errors
/// Of the file system.
pub(crate) fn write(path: &Path, frames: impl IntoIterator<Item = Vec<u8>>) -> Result<usize> {
    let context = || format!("writing {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(context)?);
    file.write_all(&file_header()).with_context(context)?;
    let mut count = 0;
    for frame in frames {
        file.write_all(&record(&frame)).with_context(context)?;
        count += 1;
    }
    file.flush().with_context(context)?;
    Ok(count)
}
