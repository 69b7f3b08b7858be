//! The few bytes of a pcap file: classic, little-endian, microseconds, whole IP packets (link type RAW).

use std::io;
use std::path::Path;

const MAGIC: u32 = 0xa1b2_c3d4;
const LINKTYPE_RAW: u32 = 101;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
const SNAP_LEN: u32 = 65_535;

/// A file's bytes; the packets are a millisecond apart.
pub fn write(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_le_bytes());
    out.extend(2_u16.to_le_bytes());
    out.extend(4_u16.to_le_bytes());
    for word in [0, 0, SNAP_LEN, LINKTYPE_RAW] {
        out.extend(word.to_le_bytes());
    }
    for (number, packet) in (0_u32..).zip(packets) {
        let length = u32::try_from(packet.len()).unwrap();
        for word in [0, number * 1_000, length, length] {
            out.extend(word.to_le_bytes());
        }
        out.extend(packet);
    }
    out
}

/// The packets of a file that [`write`] made, or another program in the same form.
pub fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(path)?;
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    if word(0) != Some(MAGIC) || word(20) != Some(LINKTYPE_RAW) {
        return Err(odd("not a little-endian pcap of raw IP packets"));
    }
    let mut packets = Vec::new();
    let mut at = FILE_HEADER_LEN;
    while at < bytes.len() {
        let length = word(at + 8).ok_or_else(|| odd("cut short"))? as usize;
        at += RECORD_HEADER_LEN;
        packets.push(bytes.get(at..at + length).ok_or_else(|| odd("cut short"))?.to_vec());
        at += length;
    }
    Ok(packets)
}
