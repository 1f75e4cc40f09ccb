//! Messages of streams: the control stream's, OPEN and its answers, and stripes. However the bytes are cut, the same is read of them; what
//! is read can be written and is the very bytes again. An input is `which decoder · how the bytes are cut · the bytes`.

use l4proxy_wire::stream::{
    AnswerDecoder, ControlDecoder, ControlMessage, OpenDecoder, encode_answer, encode_bus, encode_open,
};
use l4proxy_wire::stripe::{ChunkHeader, decode_stripe, encode_stripe};

/// Everything that a decoder makes of some bytes: the messages, written again, and how it ended.
type Story = (Vec<u8>, Option<String>);

/// Hands the bytes over in pieces. `one` reads a message: `Ok(true)`, one was read and written to the end of the first argument.
fn story(pieces: &[&[u8]], mut one: impl FnMut(&mut Vec<u8>, &mut &[u8]) -> Result<bool, String>) -> Story {
    let mut written = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let before = rest.len();
            match one(&mut written, &mut rest) {
                Ok(true) => assert!(rest.len() < before, "a message of nothing"),
                Ok(false) => {
                    assert!(rest.is_empty(), "it wants more and leaves {} bytes", rest.len());
                    break;
                }
                Err(error) => return (written, Some(error)),
            }
        }
    }
    (written, None)
}

fn control(pieces: &[&[u8]]) -> Story {
    let mut decoder = ControlDecoder::new();
    story(pieces, |written, rest| match decoder.decode(rest) {
        Ok(Some(ControlMessage::Hello(hello))) => {
            hello.encode(written).expect("what was read can be written");
            Ok(true)
        }
        Ok(Some(ControlMessage::Credit(credit))) => {
            credit.encode(written);
            Ok(true)
        }
        Ok(Some(ControlMessage::Bus(payload))) => {
            encode_bus(&payload, written).expect("what was read can be written");
            Ok(true)
        }
        Ok(None) => Ok(false),
        Err(error) => Err(error.to_string()),
    })
}

fn open(pieces: &[&[u8]]) -> Story {
    let mut decoder = OpenDecoder::new();
    story(pieces, |written, rest| match decoder.decode(rest) {
        Ok(Some(open)) => {
            encode_open(&open.as_open(), written).expect("what was read can be written");
            Ok(true)
        }
        Ok(None) => Ok(false),
        Err(error) => Err(error.to_string()),
    })
}

fn answer(pieces: &[&[u8]]) -> Story {
    let mut decoder = AnswerDecoder::new();
    story(pieces, |written, rest| match decoder.decode(rest) {
        Ok(Some(answer)) => {
            encode_answer(answer, written);
            Ok(true)
        }
        Ok(None) => Ok(false),
        Err(error) => Err(error.to_string()),
    })
}

fn stripe(bytes: &[u8]) {
    if let Some(message) = bytes.first_chunk()
        && let Some(stream) = decode_stripe(message)
    {
        assert_eq!(encode_stripe(stream), *message);
    }
    if let Some(header) = bytes.first_chunk() {
        assert_eq!(ChunkHeader::decode(header).encode(), *header);
    }
}

/// One stream.
pub(crate) fn run(data: &[u8]) {
    let Some((&[which, cut], bytes)) = data.split_first_chunk() else { return };
    let decode = match which % 4 {
        0 => control,
        1 => open,
        2 => answer,
        _ => return stripe(bytes),
    };
    let whole = decode(&[bytes]);
    let cuts: Vec<&[u8]> = bytes.chunks(1 + usize::from(cut)).collect();
    assert_eq!(decode(&cuts), whole, "in pieces of {}", 1 + usize::from(cut));
    let (written, error) = whole;
    assert!(bytes.starts_with(&written), "a message has two encodings");
    assert!(error.is_none() || written.len() < bytes.len());
}
