//! What is encoded decodes to the same; what is cut short or bent is refused; no bytes make a decoder panic.

mod common;

use l4proxy_wire::channel::{CHANNEL_HEADER_LENGTH, ChannelHeader, Datagram, Fragment, Frame, frames};
use l4proxy_wire::classify::{PacketKind, classify};
use l4proxy_wire::hello::{Hello, MAX_HELLO_LENGTH};
use l4proxy_wire::ids::{ChannelId, FlowId, SessionId};
use l4proxy_wire::keys::{Epoch, HopKey, PAIR_EXPORTER_LENGTH, PairKeys, ProbeKey, Side};
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::open::{MAX_OPEN_LENGTH, Open};
use l4proxy_wire::outer::{self, MAX_OUTER_LENGTH, OuterHeader};
use l4proxy_wire::probe::Probe;
use l4proxy_wire::repair::Repair;
use l4proxy_wire::{DropReason, address};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn addresses(value in common::address(), after in vec(any::<u8>(), 0..4)) {
        let mut bytes = Vec::new();
        address::encode(value, &mut bytes);
        let length = bytes.len();
        for cut in 0..length {
            prop_assert!(address::decode(&bytes[..cut]).is_err());
        }
        bytes.extend_from_slice(&after);
        prop_assert_eq!(address::decode(&bytes), Ok((value, &after[..])));
    }

    #[test]
    fn opens(value in common::open()) {
        let mut bytes = Vec::new();
        value.as_open().encode(&mut bytes).unwrap();
        prop_assert_eq!(bytes.len(), value.as_open().encoded_length());
        prop_assert!(bytes.len() <= MAX_OPEN_LENGTH);
        prop_assert_eq!(Open::decode(&bytes).map(|open| open.to_owned()), Ok(value));
        for cut in 0..bytes.len() {
            prop_assert!(Open::decode(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        prop_assert!(Open::decode(&bytes).is_err());
    }

    #[test]
    fn outer_headers(value in common::outer(), key in common::hop_key(), inner in vec(any::<u8>(), 1..20)) {
        let header = value.encode(&key);
        prop_assert_eq!(header.as_slice().len(), value.length());
        prop_assert!(value.length() <= MAX_OUTER_LENGTH);
        let packet = [header.as_slice(), &inner].concat();
        prop_assert_eq!(classify(&packet), Ok(PacketKind::Outer));
        prop_assert_eq!(OuterHeader::parse(&packet), Ok(value));
        prop_assert!(outer::verify_tag(&packet, &value, &key));
        for cut in 0..=value.length() {
            prop_assert!(OuterHeader::parse(&packet[..cut]).is_err());
        }
    }

    #[test]
    fn a_transit_writes_what_the_source_would_have_written(
        value in common::outer(), key in common::hop_key(), next in common::hop_key(), epoch in common::epoch(),
    ) {
        let mut packet = [value.encode(&key).as_slice(), b"inner"].concat();
        outer::advance(&mut packet, &value, &next, epoch);
        let expected = if value.is_at_destination() {
            value.encode(&key)
        } else {
            OuterHeader { pointer: value.pointer + 1, epoch, ..value }.encode(&next)
        };
        prop_assert_eq!(packet, [expected.as_slice(), b"inner"].concat());
    }

    #[test]
    fn any_changed_bit_of_an_outer_header_breaks_its_tag(
        value in common::outer(), key in common::hop_key(), bit in any::<prop::sample::Index>(),
    ) {
        let mut packet = [value.encode(&key).as_slice(), b"inner"].concat();
        let bit = bit.index(value.length() * 8);
        packet[bit / 8] ^= 1 << (bit % 8);
        if let Ok(header) = OuterHeader::parse(&packet) {
            prop_assert!(!outer::verify_tag(&packet, &header, &key));
        }
    }

    #[test]
    fn hellos(value in common::hello(), key in common::probe_key(), epoch in common::epoch()) {
        let bytes = value.encode(&key, epoch);
        prop_assert!(bytes.as_slice().len() <= MAX_HELLO_LENGTH);
        prop_assert_eq!(classify(bytes.as_slice()), Ok(PacketKind::Hello));
        let decoded = Hello::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!((decoded.hello, decoded.epoch), (value, epoch));
        prop_assert!(decoded.verify(&key));
        for cut in 0..bytes.as_slice().len() {
            prop_assert_eq!(Hello::decode(&bytes.as_slice()[..cut]).err(), Some(DropReason::HelloTruncated));
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        prop_assert_eq!(Hello::decode(&longer).err(), Some(DropReason::HelloTruncated));
    }

    #[test]
    fn any_changed_bit_of_a_hello_is_noticed(
        value in common::hello(), key in common::probe_key(), epoch in common::epoch(), bit in any::<prop::sample::Index>(),
    ) {
        let mut bytes = value.encode(&key, epoch).as_slice().to_vec();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Hello::decode(&bytes).map_or(true, |hello| !hello.verify(&key)));
    }

    #[test]
    fn link_downs(value in common::link_down(), key in common::probe_key(), epoch in common::epoch()) {
        let bytes = value.encode(&key, epoch);
        let bytes = bytes.as_slice();
        prop_assert_eq!(classify(bytes), Ok(PacketKind::LinkDown));
        let decoded = LinkDown::decode(bytes).unwrap();
        prop_assert_eq!((decoded.link_down, decoded.epoch), (value, epoch));
        prop_assert!(decoded.verify(&key));
        for cut in 0..bytes.len() {
            prop_assert_eq!(LinkDown::decode(&bytes[..cut]).err(), Some(DropReason::LinkDownTruncated));
        }
        let longer = [bytes, &[0]].concat();
        prop_assert_eq!(LinkDown::decode(&longer).err(), Some(DropReason::LinkDownTruncated));
    }

    #[test]
    fn any_changed_bit_of_a_link_down_is_noticed(
        value in common::link_down(), key in common::probe_key(), epoch in common::epoch(), bit in any::<prop::sample::Index>(),
    ) {
        let mut bytes = value.encode(&key, epoch).as_slice().to_vec();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(LinkDown::decode(&bytes).map_or(true, |link_down| !link_down.verify(&key)));
    }

    #[test]
    fn probes(value in common::probe(), key in common::probe_key(), epoch in common::epoch()) {
        let bytes = value.encode(&key, epoch);
        prop_assert_eq!(classify(&bytes), Ok(PacketKind::Probe));
        let decoded = Probe::decode(&bytes).unwrap();
        prop_assert_eq!((decoded.probe, decoded.epoch), (value, epoch));
        prop_assert!(decoded.verify(&key));
        for cut in 0..bytes.len() {
            prop_assert_eq!(Probe::decode(&bytes[..cut]).err(), Some(DropReason::ProbeTruncated));
        }
    }

    #[test]
    fn any_changed_bit_of_a_probe_is_noticed(
        value in common::probe(), key in common::probe_key(), epoch in common::epoch(), bit in 0_usize..48 * 8,
    ) {
        let mut bytes = value.encode(&key, epoch);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Probe::decode(&bytes).map_or(true, |probe| !probe.verify(&key)));
    }

    #[test]
    fn channel_headers(worker: u8, channel: u32, counter: u64) {
        let value = ChannelHeader { worker, channel: ChannelId(channel), counter };
        let packet = [&value.encode()[..], &[0; 16]].concat();
        prop_assert_eq!(classify(&packet), Ok(PacketKind::Channel));
        prop_assert_eq!(ChannelHeader::decode(&packet), Ok(value));
        for cut in 0..packet.len() {
            prop_assert_eq!(ChannelHeader::decode(&packet[..cut]), Err(DropReason::ChannelTruncated));
        }
    }

    #[test]
    fn frames_in_one_packet(
        open in common::open(), reason in common::reason(), session: u32, flow: u64,
        bytes in vec(any::<u8>(), 0..200), tos: u8, count in 2_u8..=64, index: u8, fingerprints: [u8; 128],
    ) {
        let (session, flow) = (SessionId(session), FlowId(flow));
        let datagram = Datagram { tos, bytes: &bytes };
        let list = [
            Frame::Data { session, datagram },
            Frame::OpenData { open: open.as_open(), datagram },
            Frame::Bound { flow, session, datagram: Some(datagram) },
            Frame::Bound { flow, session, datagram: None },
            Frame::SessionUnknown { session },
            Frame::Close { session, reason },
            Frame::Refused { flow, reason },
            Frame::Fragment(Fragment { id: session.0, index: index % count, count, bytes: &bytes }),
            Frame::Repair(Repair { fingerprints: &fingerprints[..usize::from(count) * 2], lengths: 7, bytes: &bytes }),
        ];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for frame in &list {
            frame.encode(&mut bytes).unwrap();
            ends.push(bytes.len());
        }
        prop_assert_eq!(frames(&bytes).collect::<Result<Vec<_>, _>>(), Ok(list.to_vec()));
        for cut in (0..bytes.len()).filter(|cut| !ends.contains(cut)) {
            // Whole frames come out, then exactly one refusal, then nothing.
            let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
            let taken: Vec<_> = frames(&bytes[..cut]).collect();
            prop_assert_eq!(taken.len(), whole + 1);
            prop_assert!(taken[..whole].iter().all(Result::is_ok) && taken[whole].is_err());
        }
    }

    #[test]
    fn no_bytes_make_a_packet_decoder_panic(mut bytes in vec(any::<u8>(), 0..120), kind in 7_u8..13, key: [u8; 16]) {
        let (hop, probe) = (HopKey::new(key), ProbeKey::new(key));
        for first in [None, Some(kind)] {
            if let (Some(first), Some(place)) = (first, bytes.first_mut()) {
                *place = first;
            }
            let _ = classify(&bytes);
            if let Ok(header) = OuterHeader::parse(&bytes) {
                prop_assert!(!outer::verify_tag(&bytes, &header, &hop));
                outer::advance(&mut bytes, &header, &hop, Epoch::new(3));
            }
            prop_assert!(Hello::decode(&bytes).map_or(true, |hello| !hello.verify(&probe)));
            prop_assert!(Probe::decode(&bytes).map_or(true, |probe_packet| !probe_packet.verify(&probe)));
            prop_assert!(LinkDown::decode(&bytes).map_or(true, |link_down| !link_down.verify(&probe)));
            let _ = ChannelHeader::decode(&bytes);
            let _ = address::decode(&bytes);
            let _ = Open::decode(&bytes);
        }
    }

    #[test]
    fn no_bytes_make_the_frame_decoder_panic_or_run_on(bytes in vec(any::<u8>(), 0..300), kind in 0_u8..9) {
        let with_kind = [&[kind], &bytes[..]].concat();
        for plaintext in [&bytes, &with_kind] {
            prop_assert!(frames(plaintext).count() <= plaintext.len());
        }
    }

    #[test]
    fn both_ends_of_a_pair_connection_take_opposite_keys(exported in vec(any::<u8>(), PAIR_EXPORTER_LENGTH)) {
        let exported = exported.try_into().unwrap();
        let client = PairKeys::from_exported(&exported, Side::Client);
        let server = PairKeys::from_exported(&exported, Side::Server);
        prop_assert_eq!(&client.hop_send, &server.hop_receive);
        prop_assert_eq!(&client.hop_receive, &server.hop_send);
        prop_assert_eq!(&client.probe_send, &server.probe_receive);
        prop_assert_eq!(&client.probe_receive, &server.probe_send);
        prop_assert_eq!(client.epoch, server.epoch);
        prop_assert_eq!(client.epoch.get(), exported[64] & 0x0f);
    }
}

#[test]
fn a_tag_over_parts_is_the_tag_over_the_whole() {
    let key = HopKey::new(std::array::from_fn(|i| i as u8));
    let bytes: Vec<u8> = (0..15).collect();
    // The last vector of Appendix A of the SipHash paper: key 00..0f, message 00..0e.
    assert_eq!(key.tag(&[&bytes]), 0xa129_ca61_49be_45e5_u64.to_be_bytes());
    for cut in 0..bytes.len() {
        assert_eq!(key.tag(&[&bytes[..cut], &bytes[cut..]]), key.tag(&[&bytes]));
    }
}

#[test]
fn a_key_is_never_printed() {
    assert_eq!(format!("{:?}", HopKey::new([0xab; 16])), "HopKey(secret)");
    assert_eq!(format!("{:?}", ProbeKey::new([0xab; 16])), "ProbeKey(secret)");
    let keys = PairKeys::from_exported(&[0xab; PAIR_EXPORTER_LENGTH], Side::Client);
    assert!(!format!("{keys:?}").contains("171") && !format!("{keys:x?}").contains("ab,"));
}

#[test]
fn values_without_room_are_refused_and_leave_nothing_behind() {
    let too_long = vec![0; 65_536];
    let session = SessionId(1);
    let datagram = Datagram::unmarked(&too_long);
    let mut out = vec![7];
    for frame in [
        Frame::Data { session, datagram },
        Frame::Data { session, datagram: Datagram { tos: 1, ..datagram } },
        Frame::Bound { flow: FlowId(1), session, datagram: Some(datagram) },
        Frame::Fragment(Fragment { id: 1, index: 0, count: 2, bytes: &too_long }),
        Frame::Fragment(Fragment { id: 1, index: 0, count: 1, bytes: &[] }),
        Frame::Fragment(Fragment { id: 1, index: 2, count: 2, bytes: &[] }),
        Frame::Fragment(Fragment { id: 1, index: 0, count: 65, bytes: &[] }),
        Frame::Repair(Repair { fingerprints: &[], lengths: 0, bytes: &[] }),
        Frame::Repair(Repair { fingerprints: &[0; 3], lengths: 0, bytes: &[] }),
        Frame::Repair(Repair { fingerprints: &[0; 130], lengths: 0, bytes: &[] }),
    ] {
        assert!(frame.encode(&mut out).is_err());
        assert_eq!(out, [7], "{frame:?}");
    }
    let datagram = Datagram::unmarked(&too_long[1..]);
    assert!(Frame::Data { session, datagram }.encode(&mut out).is_ok());
}

#[test]
fn reserved_fields_and_other_versions_are_refused_by_name() {
    let header = ChannelHeader { worker: 1, channel: ChannelId(2), counter: 3 }.encode();
    for (at, value) in [(1, 2), (3, 1)] {
        let mut packet = [&header[..], &[0; 16]].concat();
        packet[at] = value;
        assert_eq!(ChannelHeader::decode(&packet), Err(DropReason::ChannelVersion));
    }
    assert_eq!(CHANNEL_HEADER_LENGTH, header.len());

    let mut outer = [0x08, 0x10, 0, 0x01, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x40];
    assert!(OuterHeader::parse(&outer).is_ok());
    for (at, value, reason) in [
        (1, 0x20, DropReason::OuterVersion),
        (1, 0x00, DropReason::OuterVersion),
        (1, 0x12, DropReason::OuterLabels),
        (3, 0x00, DropReason::OuterLabels),
        (3, 0x04, DropReason::OuterLabels),
        (3, 0x02, DropReason::OuterTruncated),
    ] {
        let before = std::mem::replace(&mut outer[at], value);
        assert_eq!(OuterHeader::parse(&outer), Err(reason), "byte {at} = {value:#04x}");
        outer[at] = before;
    }

    for (at, value) in [(1, 2), (2, 1), (3, 5)] {
        let mut hello = [0_u8; 32];
        hello[..2].copy_from_slice(&[0x0a, 1]);
        assert!(Hello::decode(&hello).is_ok());
        hello[at] = value;
        assert_eq!(Hello::decode(&hello).err(), Some(DropReason::HelloVersion));
    }

    for (at, value) in [(1, 0), (1, 3), (2, 1), (3, 1), (12, 1), (24, 1), (39, 1)] {
        let mut probe = [0_u8; 48];
        probe[..2].copy_from_slice(&[0x0b, 1]);
        assert!(Probe::decode(&probe).is_ok());
        probe[at] = value;
        assert_eq!(Probe::decode(&probe).err(), Some(DropReason::ProbeKind), "byte {at}");
    }
}
