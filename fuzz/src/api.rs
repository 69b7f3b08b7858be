//! Frames of the API: nothing but a message that can be sent again comes out, and no announced length takes memory.

use std::io::Cursor;

use api::frame::{self, Greeting};
use api::{Request, Response};
use std::fmt::Debug;

/// First byte: what to decode; the rest: the frame, or its body.
pub fn run(data: &[u8]) {
    let Some((what, bytes)) = data.split_first() else { return };
    match what % 5 {
        0 => returns_the_same::<Request>(frame::decode(bytes).ok()),
        1 => returns_the_same::<Response>(frame::decode(bytes).ok()),
        2 => read_to_the_end::<Request>(bytes),
        3 => read_to_the_end::<Response>(bytes),
        _ => greeting(bytes),
    }
}

fn read_to_the_end<T>(bytes: &[u8])
where
    T: Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let mut stream = Cursor::new(bytes);
    while let Ok(Some(message)) = frame::read::<T>(&mut stream) {
        returns_the_same(Some(message));
    }
}

/// Encoding what was decoded and decoding it again gives the same message. Compared as encoded, since NaN is not NaN.
fn returns_the_same<T>(message: Option<T>)
where
    T: Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let Some(message) = message else { return };
    let _ = format!("{message:?}");
    let sent = frame::encode(&message).expect("what came in one frame goes out in one");
    let prefix = sent[..4].try_into().expect("a frame has a prefix");
    let len = frame::body_len(prefix).expect("our own length is in the limit");
    assert_eq!(len, sent.len() - 4);
    let again: T = frame::decode(&sent[4..]).expect("our own frame decodes");
    assert_eq!(frame::encode(&again).ok(), Some(sent), "{message:?} changed");
}

fn greeting(bytes: &[u8]) {
    if let Some(Ok(greeting)) = bytes.first_chunk().map(|first| Greeting::from_bytes(*first)) {
        let _ = greeting.check().map_err(|error| error.to_string());
    }
}
