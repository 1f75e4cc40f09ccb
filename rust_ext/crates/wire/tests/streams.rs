//! The incremental decoders of QUIC streams: any cutting into pieces gives the same messages, what follows stays
//! untouched, memory follows what has come, and a peer that breaks the rules is refused by name.

mod common;

use l4proxy_wire::codes::Reason;
use l4proxy_wire::ids::ChannelId;
use l4proxy_wire::stream::{
    Answer, AnswerDecoder, ControlDecoder, ControlHello, ControlMessage, MAX_CONTROL_LENGTH, OpenDecoder,
    Role, encode_answer, encode_bus, encode_open,
};
use l4proxy_wire::{Malformed, StreamError};
use proptest::collection::vec;
use proptest::prelude::*;

fn hello(role: Role) -> ControlHello {
    ControlHello { role, channel: ChannelId(7), worker: 1, follows: None, policy: "off".to_owned() }
}

fn encoded(hello: &ControlHello) -> Vec<u8> {
    let mut bytes = Vec::new();
    hello.encode(&mut bytes).expect("a short policy");
    bytes
}

/// Feeds `bytes` in pieces of `size` and collects the messages.
fn control_messages(bytes: &[u8], size: usize) -> Result<Vec<ControlMessage>, StreamError> {
    let mut decoder = ControlDecoder::new();
    let mut messages = Vec::new();
    for mut piece in bytes.chunks(size) {
        while let Some(message) = decoder.decode(&mut piece)? {
            messages.push(message);
        }
        assert!(piece.is_empty(), "the decoder left bytes behind without a message");
    }
    Ok(messages)
}

proptest! {
    #[test]
    fn control_streams_in_pieces_of_any_size(
        channel: u32, worker: u8, follows: u32, policy in "[a-z,=0-9]{0,255}", size in 1_usize..50,
        payloads in vec(vec(any::<u8>(), 0..300), 0..5),
    ) {
        let follows = Some(ChannelId(follows)).filter(|channel| channel.0 != 0);
        let hello = ControlHello { role: Role::Pair, channel: ChannelId(channel), worker, follows, policy };
        let mut bytes = encoded(&hello);
        let mut expected = vec![ControlMessage::Hello(hello)];
        for payload in payloads {
            encode_bus(&payload, &mut bytes).unwrap();
            expected.push(ControlMessage::Bus(payload));
        }
        prop_assert_eq!(control_messages(&bytes, size), Ok(expected));
    }

    #[test]
    fn opens_leave_the_flows_first_bytes_alone(open in common::open(), data in vec(any::<u8>(), 0..50), cut: prop::sample::Index) {
        let mut bytes = Vec::new();
        encode_open(&open.as_open(), &mut bytes).unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(&data);
        let (mut first, mut second) = bytes.split_at(cut.index(length));
        let mut decoder = OpenDecoder::new();
        prop_assert_eq!(decoder.decode(&mut first), Ok(None));
        prop_assert!(first.is_empty());
        prop_assert_eq!(decoder.decode(&mut second), Ok(Some(open)));
        prop_assert_eq!(second, &data[..]);
    }

    #[test]
    fn answers_leave_the_flows_first_bytes_alone(
        reason in prop::option::of(common::reason()), data in vec(any::<u8>(), 0..9), cut: prop::sample::Index,
    ) {
        let answer = reason.map_or(Answer::Ok, Answer::Fail);
        let mut bytes = Vec::new();
        encode_answer(answer, &mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(&data);
        let (mut first, mut second) = bytes.split_at(cut.index(length));
        let mut decoder = AnswerDecoder::new();
        prop_assert_eq!(decoder.decode(&mut first), Ok(None));
        prop_assert_eq!(decoder.decode(&mut second), Ok(Some(answer)));
        prop_assert_eq!(second, &data[..]);
    }

    #[test]
    fn no_bytes_make_a_stream_decoder_panic(
        first in prop::sample::select(vec![0x10_u8, 0x11, 0x20, 0x21, 0x22, 0x00]), bytes in vec(any::<u8>(), 0..600), size in 1_usize..99,
    ) {
        let bytes = [&[first, 0][..], &bytes].concat();
        let _ = control_messages(&bytes, size);
        let after_hello = [&encoded(&hello(Role::Pair))[..], &bytes].concat();
        let _ = control_messages(&after_hello, size);
        let (mut opens, mut answers) = (OpenDecoder::new(), AnswerDecoder::new());
        for piece in bytes.chunks(size) {
            if opens.decode(&mut { piece }).is_err() || answers.decode(&mut { piece }).is_err() {
                break;
            }
        }
    }
}

#[test]
fn hello_comes_first_and_once_and_bus_only_on_pair_connections() {
    let (pair, flows) = (encoded(&hello(Role::Pair)), encoded(&hello(Role::Flows)));
    let mut bus = Vec::new();
    encode_bus(b"x", &mut bus).unwrap();
    let refused = |bytes: &[u8]| control_messages(bytes, 4096).unwrap_err();
    let unexpected = |kind, expected| StreamError::UnexpectedType { kind, expected };
    assert_eq!(refused(&bus), unexpected(0x11, "HELLO"));
    assert_eq!(refused(&[&pair[..], &pair].concat()), unexpected(0x10, "BUS"));
    assert_eq!(refused(&[&flows[..], &bus].concat()), unexpected(0x11, "CREDIT"));
    assert_eq!(refused(&[&pair[..], &[0x20]].concat()), unexpected(0x20, "BUS"));
    assert!(control_messages(&[&pair[..], &bus, &bus].concat(), 3).is_ok());
}

#[test]
fn the_longest_bus_message_passes_and_one_byte_more_is_refused_from_its_length_alone() {
    let payload = vec![0xa5; MAX_CONTROL_LENGTH];
    let mut bytes = encoded(&hello(Role::Pair));
    let start = bytes.len();
    encode_bus(&payload, &mut bytes).unwrap();
    let messages = control_messages(&bytes, 65_536).unwrap();
    assert_eq!(messages[1], ControlMessage::Bus(payload));

    assert!(encode_bus(&vec![0; MAX_CONTROL_LENGTH + 1], &mut Vec::new()).is_err());
    bytes.truncate(start);
    bytes.extend_from_slice(&[0x11, 0x00, 0x10, 0x00, 0x01]);
    let too_long = StreamError::TooLong { length: MAX_CONTROL_LENGTH + 1, max: MAX_CONTROL_LENGTH };
    assert_eq!(control_messages(&bytes, 1), Err(too_long));
}

#[test]
fn an_oversized_first_message_is_refused_before_it_comes() {
    assert!(matches!(
        control_messages(&[0x10, 0, 0, 1, 12], 1),
        Err(StreamError::TooLong { length: 268, max: 267 })
    ));
    assert!(matches!(
        OpenDecoder::new().decode(&mut &[0x20, 0xff, 0xff][..]),
        Err(StreamError::TooLong { .. })
    ));
    assert!(matches!(AnswerDecoder::new().decode(&mut &[0x21, 0, 1][..]), Err(StreamError::TooLong { .. })));
    assert!(matches!(AnswerDecoder::new().decode(&mut &[0x22, 0, 2][..]), Err(StreamError::TooLong { .. })));
}

#[test]
fn a_bad_body_is_named() {
    let fail = |body: &[u8]| AnswerDecoder::new().decode(&mut { body });
    let malformed = |what| Err(StreamError::Malformed(Malformed { what }));
    assert_eq!(fail(&[0x22, 0, 0]), malformed("reason"));
    assert_eq!(fail(&[0x22, 0, 1, 14]), malformed("reason"));
    assert_eq!(fail(&[0x22, 0, 1, 9]), Ok(Some(Answer::Fail(Reason::Draining))));
    let mut bytes = encoded(&hello(Role::Pair));
    bytes[5] = 2;
    assert_eq!(control_messages(&bytes, 64), Err(Malformed { what: "hello version" }.into()));
}
