//! Greeting and frames on the wire, over any `Read`/`Write`; async users take [`encode`] and [`decode`].

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::API_VERSION;

/// Longest frame: 20,000 services with 100,000 real servers take about 12 MiB.
pub const FRAME_LEN_MAX: usize = 64 << 20;

/// Length of a [`Greeting`] on the wire.
pub const GREETING_LEN: usize = 8;

/// Length of the length field before each frame.
pub const PREFIX_LEN: usize = 4;

const MAGIC: [u8; 4] = *b"TGAT";

/// What went wrong on an API connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("API connection: {0}")]
    Io(#[from] io::Error),
    /// The other side is no Tollgate.
    #[error("the peer does not speak the Tollgate API (greeting {0:02x?})")]
    NotTollgate([u8; GREETING_LEN]),
    /// The other side speaks another version.
    #[error(
        "the peer speaks API version {theirs}, this program version {ours}; install the same Tollgate version for \
         control, dataplane and command line"
    )]
    Version {
        /// The peer's version.
        theirs: u16,
        /// Our version.
        ours: u16,
    },
    /// A frame longer than [`FRAME_LEN_MAX`].
    #[error("an API frame of {0} bytes is longer than the limit of {FRAME_LEN_MAX}")]
    TooLong(usize),
    /// The connection ended within a frame.
    #[error("the API connection ended inside a frame: {got} of {wanted} bytes came")]
    Truncated {
        /// Bytes received.
        got: usize,
        /// Bytes announced.
        wanted: usize,
    },
    /// A frame that does not decode.
    #[error("an API frame does not decode: {0}")]
    Decode(postcard::Error),
    /// A message that does not encode.
    #[error("an API message does not encode: {0}")]
    Encode(postcard::Error),
}

/// The first bytes that each side sends: magic, version (little endian), two zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// The sender's [`API_VERSION`].
    pub version: u16,
}

impl Greeting {
    /// The greeting of this build.
    pub fn ours() -> Self {
        Greeting { version: API_VERSION }
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; GREETING_LEN] {
        let mut bytes = [0; GREETING_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes
    }

    /// Reads a greeting.
    ///
    /// # Errors
    /// [`Error::NotTollgate`] when the magic is missing.
    pub fn from_bytes(bytes: [u8; GREETING_LEN]) -> Result<Self, Error> {
        if bytes[..4] != MAGIC {
            return Err(Error::NotTollgate(bytes));
        }
        Ok(Greeting { version: u16::from_le_bytes([bytes[4], bytes[5]]) })
    }

    /// Checks the peer's version against ours.
    ///
    /// # Errors
    /// [`Error::Version`] when they differ.
    pub fn check(self) -> Result<(), Error> {
        if self.version == API_VERSION {
            Ok(())
        } else {
            Err(Error::Version { theirs: self.version, ours: API_VERSION })
        }
    }
}

/// Sends our greeting, reads the peer's and checks it. Both sides do the same, so neither waits for the other.
///
/// # Errors
/// See [`Error`].
pub fn greet(stream: &mut (impl Read + Write)) -> Result<(), Error> {
    stream.write_all(&Greeting::ours().to_bytes())?;
    let mut bytes = [0; GREETING_LEN];
    stream.read_exact(&mut bytes)?;
    Greeting::from_bytes(bytes)?.check()
}

/// A message as a whole frame, length first.
///
/// # Errors
/// [`Error::Encode`], [`Error::TooLong`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut frame = postcard::to_extend(message, vec![0; PREFIX_LEN]).map_err(Error::Encode)?;
    let len = frame.len() - PREFIX_LEN;
    if len > FRAME_LEN_MAX {
        return Err(Error::TooLong(len));
    }
    frame[..PREFIX_LEN].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(frame)
}

/// The length that a frame's prefix announces.
///
/// # Errors
/// [`Error::TooLong`].
pub fn body_len(prefix: [u8; PREFIX_LEN]) -> Result<usize, Error> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len > FRAME_LEN_MAX { Err(Error::TooLong(len)) } else { Ok(len) }
}

/// The message in a frame's body.
///
/// # Errors
/// [`Error::Decode`], also when bytes are left over.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, _)) => Err(Error::Decode(postcard::Error::DeserializeBadEncoding)),
        Err(error) => Err(Error::Decode(error)),
    }
}

/// Writes one frame.
///
/// # Errors
/// See [`Error`].
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> Result<(), Error> {
    Ok(stream.write_all(&encode(message)?)?)
}

/// Reads one frame; `None` when the peer closed between two frames.
///
/// # Errors
/// See [`Error`].
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, Error> {
    let mut prefix = [0; PREFIX_LEN];
    match read_up_to(stream, &mut prefix)? {
        0 => return Ok(None),
        PREFIX_LEN => {}
        got => return Err(Error::Truncated { got, wanted: PREFIX_LEN }),
    }
    let wanted = body_len(prefix)?;
    // Grows with what arrives: an announced length alone must not take memory.
    let mut body = Vec::new();
    let got = stream.take(wanted as u64).read_to_end(&mut body)?;
    if got < wanted {
        return Err(Error::Truncated { got, wanted });
    }
    decode(&body).map(Some)
}

fn read_up_to(stream: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    let mut got = 0;
    while got < buffer.len() {
        match stream.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Request, Response};

    #[test]
    fn frames_read_back_as_they_were_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Request::GetStatus).unwrap();
        write(&mut bytes, &Response::Applied { generation: 7 }).unwrap();
        let mut stream = bytes.as_slice();
        assert_eq!(read::<Request>(&mut stream).unwrap(), Some(Request::GetStatus));
        assert_eq!(read::<Response>(&mut stream).unwrap(), Some(Response::Applied { generation: 7 }));
        assert_eq!(read::<Response>(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_cut_frame_is_truncated_at_every_length() {
        let whole = encode(&Response::Applied { generation: 300 }).unwrap();
        for len in 1..whole.len() {
            let result = read::<Response>(&mut &whole[..len]);
            assert!(matches!(result, Err(Error::Truncated { .. })), "{len} bytes: {result:?}");
        }
    }

    #[test]
    fn an_announced_giant_is_refused_before_memory_is_taken() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(matches!(read::<Request>(&mut bytes.as_slice()), Err(Error::TooLong(_))));
    }

    #[test]
    fn left_over_bytes_do_not_decode() {
        let mut body = postcard::to_stdvec(&Request::GetStatus).unwrap();
        body.push(0);
        assert!(matches!(decode::<Request>(&body), Err(Error::Decode(_))));
    }

    #[test]
    fn another_version_is_named_in_the_error() {
        let error = Greeting { version: API_VERSION + 1 }.check().unwrap_err().to_string();
        assert!(error.contains(&format!("version {}", API_VERSION + 1)), "{error}");
    }

    #[test]
    fn a_greeting_without_magic_is_no_tollgate() {
        assert!(matches!(Greeting::from_bytes(*b"GET / HT"), Err(Error::NotTollgate(_))));
    }
}
