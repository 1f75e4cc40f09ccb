//! Packets of the datagram channel: any bytes as a header, and as the frames inside. What is read has one encoding, so that writing it
//! gives the very bytes again; nothing is read behind what cannot be.

use l4proxy_wire::DropReason;
use l4proxy_wire::channel::{
    AEAD_TAG_LENGTH, CHANNEL_HEADER_LENGTH, ChannelHeader, Frame, MAX_FRAGMENTS, frames,
};
use l4proxy_wire::repair::{FINGERPRINT_LENGTH, MAX_COVERED};

/// One packet, then its bytes as frames.
pub(crate) fn run(bytes: &[u8]) {
    header(bytes);
    let mut written = Vec::new();
    let mut is_broken = false;
    for frame in frames(bytes) {
        assert!(!is_broken, "a frame behind one that cannot be read");
        let Ok(frame) = frame else {
            is_broken = true;
            continue;
        };
        check(&frame);
        frame.encode(&mut written).expect("what was read can be written");
        assert!(bytes.starts_with(&written), "{frame:?} has two encodings");
    }
    assert!(is_broken || written == bytes, "bytes that nobody has read");
}

fn header(packet: &[u8]) {
    let is_short = packet.len() < CHANNEL_HEADER_LENGTH + AEAD_TAG_LENGTH;
    match ChannelHeader::decode(packet) {
        Ok(header) => assert!(!is_short && packet.starts_with(&header.encode())),
        Err(DropReason::ChannelTruncated) => assert!(is_short),
        Err(DropReason::UnknownType) => assert_ne!(packet[0], 9),
        Err(DropReason::ChannelVersion) => assert!(packet[1] != 1 || packet[3] != 0),
        Err(other) => panic!("{other:?} is not of a header"),
    }
}

fn check(frame: &Frame<'_>) {
    match frame {
        Frame::Fragment(piece) => {
            assert!((2..=MAX_FRAGMENTS).contains(&piece.count) && piece.index < piece.count);
        }
        Frame::OpenData { open, .. } => {
            assert!(open.app.len() <= 255 && open.origin.len() <= 255);
            assert_eq!(open.to_owned().as_open(), *open);
        }
        Frame::Repair(repair) => {
            assert!((1..=MAX_COVERED).contains(&(repair.fingerprints.len() / FINGERPRINT_LENGTH)))
        }
        Frame::Quic { ecn_bits, .. } => assert!(*ecn_bits <= 3),
        Frame::Data { .. }
        | Frame::Bound { .. }
        | Frame::SessionUnknown { .. }
        | Frame::Close { .. }
        | Frame::Refused { .. } => {}
    }
}
