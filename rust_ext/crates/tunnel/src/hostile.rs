//! Tests with a peer that is authentic and yet breaks the protocol: it reaches into its own tunnels to send what the
//! public calls would never send. What it does costs it its connection or its stream, and nobody else anything.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use l4proxy_wire::DropReason as WireDrop;
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::codes::StreamCode;
use l4proxy_wire::ids::{ChannelId, FlowId, PopId, SessionId};
use l4proxy_wire::open::{Open, Protocol};
use l4proxy_wire::stream::{Credit, encode_open};
use l4proxy_wire::stripe::{ChunkHeader, MAX_STRIPES, encode_stripe};
use noq_proto::{Dir, StreamId, VarInt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::channel::Delivery;
use crate::lifecycle::channel_id;
use crate::{
    ConnectionKey, DropReason, Identity, PathHint, Role, StreamRead, TransmitKind, TunnelEvent,
    TunnelOptions, Tunnels,
};

const AMS: PopId = PopId(1);
const IAD: PopId = PopId(2);

pub(crate) fn identities() -> (Identity, Identity) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let identity = |pop: &str| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![SanType::URI(format!("l4proxy://lab/{pop}").try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let key = key.serialize_pem();
        Identity::from_pem("lab", pop, ca.as_bytes(), certificate.as_bytes(), key.as_bytes()).unwrap()
    };
    (identity("ams"), identity("iad"))
}

/// The hostile PoP dials, the victim listens. Packets arrive at once.
struct Duel {
    now: Instant,
    hostile: Tunnels,
    victim: Tunnels,
    key: ConnectionKey,
    events: Vec<TunnelEvent>,
}

impl Duel {
    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn new(role: Role) -> Self {
        let (ams, iad) = identities();
        let now = Instant::now();
        let tunnels = |own: PopId, identity: Identity| {
            let mut tunnels = Tunnels::new(TunnelOptions::new(0, own, [own.0 as u8; 32]));
            tunnels.set_identity(identity).unwrap();
            tunnels.set_peers(&[(AMS, "ams".to_owned()), (IAD, "iad".to_owned())]);
            tunnels
        };
        let (mut hostile, victim) = (tunnels(AMS, ams), tunnels(IAD, iad));
        let key = hostile.connect(now, IAD, role, "off").unwrap();
        let mut duel = Self { now, hostile, victim, key, events: Vec::new() };
        duel.settle();
        assert!(duel.events.iter().any(|event| matches!(event, TunnelEvent::HelloReceived { .. })));
        duel.events.clear();
        duel
    }

    /// Exchanges packets until nobody has anything to say; 50 ms pass for what is delayed.
    fn settle(&mut self) {
        let mut buffer = Vec::new();
        for _ in 0..5 {
            loop {
                let sent = pass(self.now, &mut self.hostile, AMS, &mut self.victim, &mut buffer)
                    + pass(self.now, &mut self.victim, IAD, &mut self.hostile, &mut buffer);
                if sent == 0 {
                    break;
                }
            }
            self.now += Duration::from_millis(10);
            self.hostile.handle_timeout(self.now);
            self.victim.handle_timeout(self.now);
        }
        while let Some(event) = self.victim.poll_event() {
            self.events.push(event);
        }
    }

    /// Sends raw bytes on the control stream.
    fn send_control(&mut self, bytes: &[u8]) {
        let connection = &mut self.hostile.connections[usize::from(self.key.index)];
        let id = connection.control.id.unwrap();
        connection.quic.send_stream(id).write(bytes).unwrap();
        self.hostile.touch(self.key.index);
        self.settle();
    }

    /// QUIC's id of a flow that the victim opens.
    fn victim_stream(&mut self) -> u64 {
        let (key, _) = self.victim.connections().next().unwrap();
        let open = open();
        let stream = self.victim.open_stream(key, &open).unwrap();
        self.settle();
        u64::from(VarInt::from(self.victim.streams[stream.index as usize].id.unwrap()))
    }

    /// Opens a stream with raw bytes on it.
    fn open_raw(&mut self, bytes: &[u8], finish: bool) -> StreamId {
        let connection = &mut self.hostile.connections[usize::from(self.key.index)];
        let id = connection.quic.streams().open(Dir::Bi).unwrap();
        connection.quic.send_stream(id).write(bytes).unwrap();
        if finish {
            connection.quic.send_stream(id).finish().unwrap();
        }
        self.hostile.touch(self.key.index);
        self.settle();
        id
    }

    /// Opens a stripe with raw bytes on it.
    fn open_stripe(&mut self, bytes: &[u8], finish: bool) -> StreamId {
        let connection = &mut self.hostile.connections[usize::from(self.key.index)];
        let id = connection.quic.streams().open(Dir::Uni).unwrap();
        connection.quic.send_stream(id).write(bytes).unwrap();
        if finish {
            connection.quic.send_stream(id).finish().unwrap();
        }
        self.hostile.touch(self.key.index);
        self.settle();
        id
    }

    fn lost_reason(&mut self) -> Option<String> {
        self.events.iter().find_map(|event| {
            if let TunnelEvent::Lost { reason, .. } = event { Some(reason.clone()) } else { None }
        })
    }

    fn victim_drops(&self, reason: impl Into<DropReason>) -> u64 {
        self.victim.counters().drops.get(&reason.into()).copied().unwrap_or(0)
    }
}

fn pass(now: Instant, from: &mut Tunnels, own: PopId, to: &mut Tunnels, buffer: &mut Vec<u8>) -> usize {
    let mut sent = 0;
    while let Some(transmit) = from.poll_transmit(now, buffer, NonZeroUsize::MIN) {
        sent += 1;
        match transmit.kind {
            TransmitKind::Quic => {
                let _ = to.handle_quic(now, own, None, BytesMut::from(&buffer[..]), 0);
            }
            TransmitKind::Channel => {
                let _ = to.handle_channel(now, buffer);
            }
        }
    }
    sent
}

#[test]
fn garbage_on_the_control_stream_ends_the_connection() {
    let second_hello = [0x10, 0, 0, 0, 11, 1, 0, 0, 0, 0, 1, 0, 3, b'o', b'f', b'f'];
    let cases: [(&str, &[u8], &str); 4] = [
        ("unknown type", &[0x77, 1, 2, 3], "message type 0x77 where BUS was expected"),
        ("a second HELLO", &second_hello, "message type 0x10 where BUS was expected"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n", "message type 0x47 where BUS was expected"),
        ("too long", &[0x11, 0, 0x10, 0, 1], "message of 1048577 bytes, at most 1048576"),
    ];
    for (name, bytes, reason) in cases {
        let mut duel = Duel::new(Role::Pair);
        duel.send_control(bytes);
        assert_eq!(duel.lost_reason(), Some(format!("protocol error: {reason}")), "{name}");
        assert_eq!(duel.victim.counters().connections, 0);
        assert_eq!(duel.hostile.counters().connections, 0, "the peer is told");
    }
}

#[test]
fn messages_before_the_garbage_are_delivered() {
    let mut duel = Duel::new(Role::Pair);
    duel.send_control(&[0x11, 0, 0, 0, 2, b'o', b'k', 0xff]);
    assert!(matches!(&duel.events[0], TunnelEvent::Bus { payload, .. } if payload == b"ok"));
    assert!(duel.lost_reason().is_some());
}

#[test]
fn a_message_that_comes_byte_by_byte_is_one_message() {
    let mut duel = Duel::new(Role::Pair);
    for byte in [0x11, 0, 0, 0, 3, b'a', b'b', b'c'] {
        duel.send_control(&[byte]);
    }
    assert_eq!(duel.events.len(), 1);
    assert!(matches!(&duel.events[0], TunnelEvent::Bus { payload, .. } if payload == b"abc"));
}

#[test]
fn a_control_message_on_a_connection_for_flows_ends_it() {
    let mut duel = Duel::new(Role::Flows);
    duel.send_control(&[0x11, 0, 0, 0, 1, 0]);
    let reason = duel.lost_reason().unwrap();
    assert_eq!(reason, "protocol error: message type 0x11 where CREDIT was expected");
}

#[test]
fn credit_for_what_was_never_sent_ends_the_connection() {
    let credit = |stream, read| {
        let mut message = Vec::new();
        Credit { stream, read, window: 1 << 20 }.encode(&mut message);
        message
    };
    let mut duel = Duel::new(Role::Flows);
    // Of flows that are not there any more, or never were.
    duel.send_control(&credit(0, 5));
    duel.send_control(&credit(400, 1 << 40));
    assert!(duel.lost_reason().is_none());
    let stream = duel.victim_stream();
    duel.send_control(&credit(stream, Credit::ENDED));
    assert!(duel.lost_reason().is_none());
    duel.send_control(&credit(stream, 1));
    assert_eq!(duel.lost_reason().unwrap(), "protocol error: CREDIT does not fit what was sent");
    let mut duel = Duel::new(Role::Flows);
    duel.send_control(&credit(u64::MAX, 1));
    assert_eq!(duel.lost_reason().unwrap(), "protocol error: CREDIT names no stream");
    let mut duel = Duel::new(Role::Pair);
    duel.send_control(&credit(0, 0));
    assert_eq!(duel.lost_reason().unwrap(), "protocol error: message type 0x12 where BUS was expected");
}

#[test]
fn ending_the_control_stream_ends_the_connection() {
    type Ending = fn(&mut noq_proto::Connection, StreamId);
    let endings: [Ending; 3] = [
        |quic, id| quic.send_stream(id).finish().unwrap(),
        |quic, id| quic.send_stream(id).reset(6u32.into()).unwrap(),
        |quic, id| quic.recv_stream(id).stop(6u32.into()).unwrap(),
    ];
    for end in endings {
        let mut duel = Duel::new(Role::Pair);
        let connection = &mut duel.hostile.connections[usize::from(duel.key.index)];
        let id = connection.control.id.unwrap();
        end(&mut connection.quic, id);
        duel.hostile.touch(duel.key.index);
        duel.settle();
        assert!(duel.lost_reason().unwrap().starts_with("protocol error: the control stream"));
    }
}

#[test]
fn a_stripe_that_is_none_is_stopped_and_the_connection_stays() {
    let mut duel = Duel::new(Role::Flows);
    let cases: [(&[u8], bool); 4] = [
        (b"GET / HTTP/1.1", false),
        (&[0x23, 0, 8, 0], true),
        (&[0x23, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0], false),
        (&[0x23, 0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
    ];
    for (number, (bytes, finish)) in cases.into_iter().enumerate() {
        duel.open_stripe(bytes, finish);
        assert_eq!(duel.victim.counters().streams_malformed, number as u64 + 1, "{bytes:?}");
    }
    // One of a flow that is not there is no offence: the flow may have been reset meanwhile.
    let id = duel.open_stripe(&encode_stripe(4), false);
    assert_eq!(duel.victim.counters().streams_malformed, 4);
    let connection = &mut duel.hostile.connections[usize::from(duel.key.index)];
    assert!(connection.quic.send_stream(id).stopped().unwrap().is_some());
    assert_eq!(duel.victim.counters().connections, 1);
}

#[test]
fn chunks_that_make_no_sense_end_their_flow() {
    let chunk = |offset, bytes: &[u8]| {
        let header = ChunkHeader { offset, length: bytes.len() as u32 };
        [&header.encode()[..], bytes].concat()
    };
    // Bytes that were there already, a chunk that is cut off, offsets that go back.
    let cases = [
        (chunk(0, b"again"), false),
        (chunk(5, b"whole")[..14].to_vec(), true),
        ([chunk(5, b"right"), chunk(2, b"wrong")].concat(), false),
    ];
    for (bytes, finish) in cases {
        let mut duel = Duel::new(Role::Flows);
        let mut opening = Vec::new();
        encode_open(&open(), &mut opening).unwrap();
        let flow = duel.open_raw(&[&opening[..], b"hello"].concat(), false);
        let incoming = duel.events.iter().find_map(|event| {
            if let TunnelEvent::StreamIncoming { stream, .. } = event { Some(*stream) } else { None }
        });
        let stream = incoming.unwrap();
        assert!(duel.victim.accept(stream));
        let number = u64::from(flow);
        duel.open_stripe(&[&encode_stripe(number)[..], &bytes].concat(), finish);
        let mut buffer = [0; 100];
        let mut end = duel.victim.read(stream, &mut buffer);
        while let StreamRead::Data(_) = end {
            end = duel.victim.read(stream, &mut buffer);
        }
        assert_eq!(end, StreamRead::Reset(Some(StreamCode::ProtocolError)));
        assert_eq!(duel.victim.counters().streams, 0);
        assert_eq!(duel.victim.counters().streams_malformed, 1);
    }
}

#[test]
fn a_flow_has_no_more_stripes_than_it_may() {
    let mut duel = Duel::new(Role::Flows);
    let mut opening = Vec::new();
    encode_open(&open(), &mut opening).unwrap();
    let flow = u64::from(duel.open_raw(&opening, false));
    for _ in 0..MAX_STRIPES {
        duel.open_stripe(&encode_stripe(flow), false);
    }
    assert_eq!(duel.victim.counters().streams_malformed, 0);
    duel.open_stripe(&encode_stripe(flow), false);
    assert_eq!(duel.victim.counters().streams_malformed, 1);
}

#[test]
fn a_stream_that_does_not_begin_with_open_is_reset_and_the_connection_stays() {
    let mut duel = Duel::new(Role::Flows);
    let too_long = [0x20, 0xff, 0xff, 1];
    let cases: [(&[u8], bool); 6] = [
        (b"GET / HTTP/1.1", false),
        (&too_long, false),
        (&[0x20, 0, 3, 9, 6, 0], false),
        (&[0x21, 0, 0], false),
        (&[0x20, 0, 50, 1], true),
        (&[], true),
    ];
    for (number, (bytes, finish)) in cases.into_iter().enumerate() {
        let id = duel.open_raw(bytes, finish);
        assert_eq!(duel.victim.counters().streams_malformed, number as u64 + 1, "{bytes:?}");
        assert_eq!(duel.victim.counters().streams, 0);
        let connection = &mut duel.hostile.connections[usize::from(duel.key.index)];
        assert_eq!(connection.quic.recv_stream(id).received_reset(), Ok(Some(6u32.into())));
    }
    assert!(duel.events.is_empty(), "the caller never hears of them: {:?}", duel.events);
    assert_eq!(duel.victim.counters().connections, 1);
}

#[test]
fn flows_on_a_pair_connection_are_reset() {
    let mut duel = Duel::new(Role::Pair);
    duel.open_raw(b"anything", false);
    assert_eq!(duel.victim.counters().streams_malformed, 1);
    assert_eq!(duel.victim.counters().connections, 1);
}

#[test]
fn an_open_without_an_end_costs_no_more_than_its_place() {
    let mut duel = Duel::new(Role::Flows);
    duel.open_raw(&[0x20, 0, 40, 1, 6], false);
    assert_eq!(duel.victim.counters().streams, 1);
    assert!(duel.events.is_empty());
    let now = duel.now;
    duel.hostile.close(now, duel.key, l4proxy_wire::codes::CloseCode::Done);
    duel.settle();
    assert_eq!(duel.victim.counters().streams, 0);
    assert!(matches!(duel.events[..], [TunnelEvent::Lost { .. }]), "{:?}", duel.events);
}

fn open() -> Open<'static> {
    Open {
        protocol: Protocol::Tcp,
        flow: FlowId(1),
        app: "a",
        origin: "o",
        client: "192.0.2.1:1".parse().unwrap(),
        listener: "192.0.2.2:2".parse().unwrap(),
        deadline_ms: 1,
    }
}

/// A flow that the victim opened towards the hostile end, which answers with raw bytes after doing something else.
fn answer(
    before: impl FnOnce(&mut noq_proto::Connection, StreamId),
    bytes: &[u8],
) -> (Duel, crate::TunnelStream) {
    let mut duel = Duel::new(Role::Flows);
    let accepted = duel.victim.connections().next().unwrap().0;
    let stream = duel.victim.open_stream(accepted, &open()).unwrap();
    duel.settle();
    let connection = &mut duel.hostile.connections[usize::from(duel.key.index)];
    let id = *connection.streams.keys().next().unwrap();
    before(&mut connection.quic, id);
    connection.quic.send_stream(id).write(bytes).unwrap();
    duel.hostile.touch(duel.key.index);
    duel.settle();
    (duel, stream)
}

fn assert_only_gone(duel: &mut Duel, stream: crate::TunnelStream, code: StreamCode) {
    let is_gone = matches!(
        duel.events[..],
        [TunnelEvent::StreamGone { stream: gone, code: with, loss: None }] if gone == stream && with == Some(code)
    );
    assert!(is_gone, "{:?}", duel.events);
    assert_eq!(duel.victim.read(stream, &mut [0; 4]), StreamRead::Gone);
}

#[test]
fn an_answer_that_is_none_ends_the_flow_as_a_protocol_error() {
    // OPEN answered with OPEN, with an unknown reason, with a body too many.
    for bytes in [&[0x20, 0, 0][..], &[0x22, 0, 1, 99], &[0x21, 0, 1, 0]] {
        let (mut duel, stream) = answer(|_, _| (), bytes);
        assert_only_gone(&mut duel, stream, StreamCode::ProtocolError);
    }
}

#[test]
fn a_flow_that_is_stopped_and_then_accepted_is_gone() {
    let stop =
        |quic: &mut noq_proto::Connection, id: StreamId| quic.recv_stream(id).stop(3u32.into()).unwrap();
    let (mut duel, stream) = answer(stop, &[0x21, 0, 0]);
    assert_only_gone(&mut duel, stream, StreamCode::Idle);
}

#[test]
fn frames_that_cannot_be_decoded_are_dropped_and_counted() {
    let mut duel = Duel::new(Role::Flows);
    let mut good = Vec::new();
    Frame::Data { session: SessionId(1), datagram: Datagram::unmarked(b"good") }.encode(&mut good).unwrap();
    let push = |duel: &mut Duel, bytes: &[u8]| {
        let connection = &mut duel.hostile.connections[usize::from(duel.key.index)];
        let (outbox, way) = connection.outbox_and_way();
        outbox.push(bytes, Delivery::Resent, way).unwrap();
        duel.hostile.touch(duel.key.index);
    };
    // What stands before a broken frame is taken; what stands behind it cannot be found.
    push(&mut duel, &good);
    push(&mut duel, &[0xee, 1, 2, 3]);
    push(&mut duel, &good);
    let mut buffer = Vec::new();
    let now = duel.now;
    let transmit = duel.hostile.poll_transmit(now, &mut buffer, NonZeroUsize::MIN).unwrap();
    assert_eq!(transmit.kind, TransmitKind::Channel);
    let received = duel.victim.handle_channel(now, &mut buffer).unwrap();
    assert_eq!(received.frames().count(), 1);
    assert_eq!(duel.victim_drops(WireDrop::ChannelFrame), 1);
    // A frame in pieces that is no frame when it is whole, or one that must not come in pieces.
    for (id, whole) in [(1u8, &[0xee; 8][..]), (2, &[0x04, 0, 0, 0, 1])] {
        for (index, piece) in whole.chunks(whole.len().div_ceil(2)).enumerate() {
            let mut frame = vec![0x07, 0, 0, 0, id, index as u8, 2, 0, piece.len() as u8];
            frame.extend_from_slice(piece);
            push(&mut duel, &frame);
        }
    }
    duel.hostile.poll_transmit(now, &mut buffer, NonZeroUsize::MIN).unwrap();
    let received = duel.victim.handle_channel(now, &mut buffer).unwrap();
    assert_eq!(received.frames().count(), 0);
    assert_eq!(duel.victim_drops(WireDrop::ChannelFrame), 3);
}

#[test]
fn channel_packets_before_the_hello_are_dropped() {
    let mut duel = Duel::new(Role::Flows);
    let accepted = duel.victim.connections().next().unwrap().0;
    duel.victim.connections[usize::from(accepted.index)].phase = crate::connection::Phase::AwaitingHello;
    duel.hostile.send_frame(duel.key, &Frame::SessionUnknown { session: SessionId(1) }).unwrap();
    duel.settle();
    assert_eq!(duel.victim_drops(DropReason::ChannelEarly), 1);
}

#[test]
fn flows_that_overtake_the_hello_are_offered_after_it() {
    let mut duel = Duel::new(Role::Flows);
    let accepted = duel.victim.connections().next().unwrap().0;
    let place = usize::from(accepted.index);
    duel.victim.connections[place].phase = crate::connection::Phase::AwaitingHello;
    let mut message = Vec::new();
    encode_open(&open(), &mut message).unwrap();
    duel.open_raw(&message, false);
    assert!(duel.events.is_empty() && duel.victim.counters().streams == 0);
    duel.victim.connections[place].phase = crate::connection::Phase::Ready;
    let now = duel.now;
    duel.victim.accept_streams(now, accepted.index);
    duel.settle();
    assert!(matches!(duel.events[..], [TunnelEvent::StreamIncoming { .. }]), "{:?}", duel.events);
}

#[test]
fn a_used_up_counter_sends_no_more() {
    let mut duel = Duel::new(Role::Flows);
    let connection = &mut duel.hostile.connections[usize::from(duel.key.index)];
    connection.channel_keys.as_mut().unwrap().exhaust();
    duel.hostile.send_frame(duel.key, &Frame::SessionUnknown { session: SessionId(1) }).unwrap();
    duel.settle();
    assert_eq!(duel.hostile.counters().drops.get(&DropReason::ChannelExhausted), Some(&1));
    assert_eq!(duel.hostile.connection_stats(duel.key).unwrap().channel_packets_sent, 0);
}

/// A row for each reason that only an established channel can drop a packet for; the others are in the engine's `overlay::drop_tests`.
#[test]
fn each_reason_of_an_established_channel_has_a_packet_that_is_dropped_for_it_and_for_nothing_else() {
    type Row = (WireDrop, fn(&mut Duel));
    let rows: [Row; 4] = [
        (WireDrop::ChannelReplayed, |duel| {
            let packet = duel.channel_packet(&[0x04, 0, 0, 0, 1]);
            duel.receive(&packet);
            duel.receive(&packet);
        }),
        (WireDrop::ChannelOld, |duel| {
            let early = duel.channel_packet(&[0x04, 0, 0, 0, 1]);
            let connection = &mut duel.hostile.connections[usize::from(duel.key.index)];
            connection.channel_keys.as_mut().unwrap().skip(crate::replay::WINDOW);
            let late = duel.channel_packet(&[0x04, 0, 0, 0, 1]);
            duel.receive(&late);
            duel.receive(&early);
        }),
        (WireDrop::ChannelAuth, |duel| {
            let mut packet = duel.channel_packet(&[0x04, 0, 0, 0, 1]);
            *packet.last_mut().unwrap() ^= 1;
            duel.receive(&packet);
        }),
        (WireDrop::ChannelFrame, |duel| {
            let packet = duel.channel_packet(&[0xff; 9]);
            duel.receive(&packet);
        }),
    ];
    for (reason, provoke) in rows {
        let mut duel = Duel::new(Role::Flows);
        provoke(&mut duel);
        let drops: Vec<_> = duel.victim.counters().drops.into_iter().collect();
        assert_eq!(drops, [(DropReason::from(reason), 1)]);
    }
}

impl Duel {
    /// The hostile end's next channel packet, with these bytes for frames; it is not sent.
    fn channel_packet(&mut self, frames: &[u8]) -> Vec<u8> {
        let connection = &mut self.hostile.connections[usize::from(self.key.index)];
        let (outbox, way) = connection.outbox_and_way();
        outbox.push(frames, Delivery::Resent, way).unwrap();
        self.hostile.touch(self.key.index);
        let mut packet = Vec::new();
        let sent = self.hostile.poll_transmit(self.now, &mut packet, NonZeroUsize::MIN).unwrap();
        assert_eq!(sent.kind, TransmitKind::Channel);
        packet
    }

    fn receive(&mut self, packet: &[u8]) {
        let _ = self.victim.handle_channel(self.now, &mut packet.to_vec());
    }
}

#[test]
fn a_connection_that_claims_to_follow_one_of_another_kind_begins_anew() {
    let mut duel = Duel::new(Role::Flows);
    let (now, older) = (duel.now, duel.key);
    for (role, policy) in [(Role::Pair, "off"), (Role::Flows, "game")] {
        let key = duel.hostile.dial(now, (IAD, role, policy), PathHint::default(), Some(older)).unwrap();
        duel.settle();
        assert_eq!(duel.hostile.connection(key).unwrap().follows, None, "{role:?} {policy}");
    }
    assert!(duel.victim.connections().all(|(_, view)| view.follows.is_none()));
    // A number that no channel has, or that of the very connection that says it.
    let place = duel.victim.connections().next().unwrap().0.index;
    let own = channel_id(duel.victim.connections[usize::from(place)].key);
    for channel in [ChannelId(0xffff_ffff), own] {
        duel.victim.follow(place, Some(channel));
        assert_eq!(duel.victim.connections[usize::from(place)].follows, None, "{channel:?}");
    }
}
