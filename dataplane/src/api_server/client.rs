//! One client's conversation.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use api::frame::{self, Error};
use api::{Refusal, Request, Response};
use crossbeam_channel::Sender;

use crate::state::Inbox;

/// How long a client may take for a whole greeting, or for a whole frame that it has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one read waits, and so how late a deadline is noticed; between two frames a client may be silent for ever.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// Talks to the client until it leaves or breaks the rules.
pub(super) fn serve(stream: UnixStream, inbox: &Sender<Inbox>) -> Result<(), Error> {
    converse(stream, inbox, FRAME_TIMEOUT)
}

fn converse(mut stream: UnixStream, inbox: &Sender<Inbox>, limit: Duration) -> Result<(), Error> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    // Sends our greeting before it reads the other's, so a client of another version learns ours.
    let deadline = Some(Instant::now() + limit);
    frame::greet(&mut Patient { stream: &mut stream, limit, deadline })?;
    loop {
        let mut patient = Patient { stream: &mut stream, limit, deadline: None };
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

/// Waits for a frame's first byte as long as it takes, for all the rest together only `limit`.
struct Patient<'a> {
    stream: &'a mut UnixStream,
    limit: Duration,
    /// Set by the first byte.
    deadline: Option<Instant>,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Looked at before each read: a client that sends a byte now and then never makes one wait in vain.
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a greeting or request was begun and not finished in time",
                ));
            }
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(len) => {
                    self.deadline.get_or_insert_with(|| Instant::now() + self.limit);
                    return Ok(len);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's end of a conversation with a server thread that answers every request with generation 1.
    fn conversation() -> UnixStream {
        conversation_within(FRAME_TIMEOUT)
    }

    fn conversation_within(limit: Duration) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let (inbox, requests) = crossbeam_channel::unbounded();
        std::thread::spawn(move || converse(server, &inbox, limit));
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

    /// Sends a byte whenever nothing has come for 20 ms, at most 500; returns how many were sent when the server closed,
    /// or `None` if it answered.
    fn drip(client: &mut UnixStream) -> Option<usize> {
        client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        for sent in 0..500 {
            match client.read(&mut [0; 1]) {
                Ok(0) => return Some(sent),
                Ok(_) => return None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Some(sent),
            }
            if client.write_all(&[0]).is_err() {
                return Some(sent);
            }
        }
        None
    }

    #[test]
    fn a_request_that_trickles_in_is_cut_off() {
        let mut client = conversation_within(Duration::from_millis(200));
        frame::greet(&mut client).unwrap();
        client.write_all(&600u32.to_le_bytes()).unwrap();
        assert!(drip(&mut client).is_some(), "the server waited for the whole request");
    }

    #[test]
    fn a_client_that_does_not_finish_its_greeting_is_cut_off() {
        let mut client = conversation_within(Duration::from_millis(200));
        client.read_exact(&mut [0; frame::GREETING_LEN]).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.write_all(&frame::Greeting::ours().to_bytes()[..3]).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
}
