//! One client's conversation.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use api::frame::{self, Error};
use api::{Refusal, Request, Response};
use crossbeam_channel::Sender;

use crate::state::Inbox;

/// How long a client may take for a greeting, or for a frame that it has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one read waits; between two frames a client may be silent for ever.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// Talks to the client until it leaves or breaks the rules.
pub(super) fn serve(mut stream: UnixStream, inbox: &Sender<Inbox>) -> Result<(), Error> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(FRAME_TIMEOUT))?;
    stream.set_read_timeout(Some(FRAME_TIMEOUT))?;
    // Sends our greeting before it reads the other's, so a client of another version learns ours.
    frame::greet(&mut stream)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    loop {
        let mut patient = Patient { stream: &mut stream, deadline: None };
        let request = match frame::read::<Request>(&mut patient) {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => request,
            // The frame's end is known, so the conversation can go on.
            Err(Error::Decode(error)) => {
                let refusal = Refusal::Malformed(error.to_string());
                frame::write(&mut stream, &Response::Refused(refusal))?;
                continue;
            }
            Err(error @ (Error::TooLong(_) | Error::Truncated { .. })) => {
                // The client may still read, even if it has closed its sending side.
                let _ = frame::write(&mut stream, &Response::Refused(Refusal::Malformed(error.to_string())));
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let (reply, answer) = crossbeam_channel::bounded(1);
        let ended = || io::Error::other("the dataplane is ending");
        inbox.send(Inbox::Request(request, reply)).map_err(|_| ended())?;
        let response = answer.recv().map_err(|_| ended())?;
        frame::write(&mut stream, &response)?;
        stream.flush()?;
    }
}

/// Waits for a frame's first byte as long as it takes, for the rest only [`FRAME_TIMEOUT`].
struct Patient<'a> {
    stream: &'a mut UnixStream,
    deadline: Option<Instant>,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.deadline {
                    Some(deadline) if Instant::now() >= deadline => {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "a frame was begun and not finished",
                        ));
                    }
                    _ => {}
                },
                Ok(len) => {
                    self.deadline.get_or_insert_with(|| Instant::now() + FRAME_TIMEOUT);
                    return Ok(len);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's end of a conversation with a server thread that answers every request with generation 1.
    fn conversation() -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let (inbox, requests) = crossbeam_channel::unbounded();
        std::thread::spawn(move || serve(server, &inbox));
        std::thread::spawn(move || {
            for message in requests {
                if let Inbox::Request(_, reply) = message {
                    let _ = reply.send(Response::Applied { generation: 1 });
                }
            }
        });
        client
    }

    #[test]
    fn requests_are_answered_in_order() {
        let mut client = conversation();
        frame::greet(&mut client).unwrap();
        for _ in 0..2 {
            frame::write(&mut client, &Request::GetStatus).unwrap();
            let response = frame::read::<Response>(&mut client).unwrap();
            assert_eq!(response, Some(Response::Applied { generation: 1 }));
        }
    }

    #[test]
    fn another_version_is_told_ours_and_then_closed() {
        let mut client = conversation();
        client.write_all(&frame::Greeting { version: 999 }.to_bytes()).unwrap();
        let mut bytes = [0; frame::GREETING_LEN];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(frame::Greeting::from_bytes(bytes).unwrap(), frame::Greeting::ours());
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_frame_that_does_not_decode_is_refused_and_the_next_is_served() {
        let mut client = conversation();
        frame::greet(&mut client).unwrap();
        client.write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff]).unwrap();
        let refused = frame::read::<Response>(&mut client).unwrap();
        assert!(matches!(refused, Some(Response::Refused(Refusal::Malformed(_)))), "{refused:?}");
        frame::write(&mut client, &Request::GetStatus).unwrap();
        assert!(matches!(frame::read(&mut client).unwrap(), Some(Response::Applied { .. })));
    }

    #[test]
    fn a_truncated_frame_is_refused_and_ends_the_conversation() {
        let mut client = conversation();
        frame::greet(&mut client).unwrap();
        client.write_all(&[100, 0, 0, 0, 1, 2, 3]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let refused = frame::read::<Response>(&mut client).unwrap();
        assert!(matches!(refused, Some(Response::Refused(Refusal::Malformed(_)))), "{refused:?}");
        assert_eq!(frame::read::<Response>(&mut client).unwrap(), None);
    }
}
