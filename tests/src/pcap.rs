//! Reading and writing classic pcap files, for golden tests and for captures.
//!
//! Not pcapng. Reads both byte orders, micro- and nanoseconds; writes little-endian microseconds. Link type Ethernet.

use std::path::Path;

use anyhow::{Context, Result, bail};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
/// The longest packet that is believed; libpcap has the same limit.
const SNAP_LEN: u32 = 262_144;

/// A captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Writes frames one microsecond apart.
pub fn write(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let mut out = Vec::with_capacity(
        FILE_HEADER_LEN + frames.iter().map(|f| f.len() + RECORD_HEADER_LEN).sum::<usize>(),
    );
    // Magic, version 2.4, time zone, accuracy, longest packet, link type.
    out.extend(MAGIC_MICROSECONDS.to_le_bytes());
    out.extend(2_u16.to_le_bytes());
    out.extend(4_u16.to_le_bytes());
    for word in [0, 0, SNAP_LEN, LINKTYPE_ETHERNET] {
        out.extend(word.to_le_bytes());
    }
    for (number, frame) in frames.iter().enumerate() {
        let number = u32::try_from(number)?;
        let len = u32::try_from(frame.len())?;
        for word in [number / 1_000_000, number % 1_000_000, len, len] {
            out.extend(word.to_le_bytes());
        }
        out.extend(frame);
    }
    std::fs::write(path, out).with_context(|| format!("{} cannot be written", path.display()))
}

/// Reads every frame of a file. A record that is cut off at the end of the file (it may still be written to) is left
/// out.
pub fn read(path: &Path) -> Result<Vec<Frame>> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is no pcap file that can be read here", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Frame>> {
    let Some((header, mut rest)) = bytes.split_at_checked(FILE_HEADER_LEN) else { bail!("no file header") };
    let little = [MAGIC_MICROSECONDS, MAGIC_NANOSECONDS].contains(&word(header, 0, true));
    let magic = word(header, 0, little);
    let nanoseconds_per_tick = match magic {
        MAGIC_MICROSECONDS => 1_000,
        MAGIC_NANOSECONDS => 1,
        _ => bail!("magic number {magic:#010x}"),
    };
    if word(header, 20, little) != LINKTYPE_ETHERNET {
        bail!("link type {} instead of Ethernet", word(header, 20, little));
    }
    let mut frames = Vec::new();
    while let Some((record, after)) = rest.split_at_checked(RECORD_HEADER_LEN) {
        let len = word(record, 8, little);
        if len > SNAP_LEN {
            bail!("record {} claims {len} bytes", frames.len());
        }
        let Some((frame, after)) = after.split_at_checked(len as usize) else { break };
        let ticks = u64::from(word(record, 4, little));
        let time_ns = u64::from(word(record, 0, little)) * 1_000_000_000 + ticks * nanoseconds_per_tick;
        frames.push(Frame { time_ns, bytes: frame.to_vec() });
        rest = after;
    }
    Ok(frames)
}

/// The 32-bit word at `at`, which the caller knows to lie within `bytes`.
fn word(bytes: &[u8], at: usize, little: bool) -> u32 {
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if little { u32::from_le_bytes(word) } else { u32::from_be_bytes(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let frames = vec![vec![1; 60], vec![], vec![2; 1514]];
        write(&path, &frames).unwrap();
        let read: Vec<_> = read(&path).unwrap().into_iter().map(|frame| frame.bytes).collect();
        assert_eq!(read, frames);
    }

    #[test]
    fn big_endian_nanoseconds_are_understood() {
        let mut bytes = Vec::new();
        for word in [MAGIC_NANOSECONDS, 0x0002_0004, 0, 0, 65_535, 1, 7, 9, 2, 2] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend([0xab, 0xcd]);
        assert_eq!(parse(&bytes).unwrap(), [Frame { time_ns: 7_000_000_009, bytes: vec![0xab, 0xcd] }]);
    }

    #[test]
    fn a_cut_off_record_is_left_out_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        write(&path, &[vec![1; 60], vec![2; 60]]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(parse(&bytes[..bytes.len() - 1]).unwrap().len(), 1);
        assert!(parse(&bytes[..20]).is_err());
        assert!(parse(&[0; 40]).is_err());
    }
}
