//! UDP flows: frames of every size, bundles, fragments, and packets that are not what they should be.

use std::time::Duration;

use l4proxy_tunnel::{
    ConnectionKey, DatagramMode, DropReason, MAX_PACKET, MIN_PACKET, Role, SendError, TransmitKind,
};
use l4proxy_wire::DropReason as WireDrop;
use l4proxy_wire::channel::{Datagram, Frame, frames};
use l4proxy_wire::codes::Reason;
use l4proxy_wire::ids::{FlowId, SessionId};
use l4proxy_wire::open::{Open, Protocol};

use crate::world::{Packet, World};

fn data(session: u32, bytes: &[u8]) -> Frame<'_> {
    Frame::Data { session: SessionId(session), datagram: Datagram::unmarked(bytes) }
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

fn patterned(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position * 13 + position / 199) as u8).collect()
}

/// Two PoPs with a connection for flows whose `HELLO`s have both come.
fn connected(seed: u64) -> (World, ConnectionKey, ConnectionKey) {
    connected_with(seed, [DatagramMode::Channel; 2])
}

/// The same, with what each of the two wants to carry datagrams.
fn connected_with(seed: u64, modes: [DatagramMode; 2]) -> (World, ConnectionKey, ConnectionKey) {
    let mut world = World::pair_with(seed, modes);
    let (dialled, accepted) = world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_millis(100));
    (world, dialled, accepted)
}

/// What both ends may want.
const MODES: [DatagramMode; 2] = [DatagramMode::Channel, DatagramMode::Quic];

/// What came to a PoP since the last time.
fn arrived(world: &mut World, pop: usize) -> Vec<(ConnectionKey, Vec<u8>)> {
    world.run_for(Duration::from_millis(200));
    std::mem::take(&mut world.pops[pop].frames)
}

/// Sends one frame from PoP 0 and catches its packets before they arrive.
fn caught(world: &mut World, key: ConnectionKey, frame: &Frame<'_>) -> Vec<Packet> {
    world.captured = Some(Vec::new());
    world.pops[0].tunnels.send_frame(key, frame).unwrap();
    world.run_for(Duration::from_millis(200));
    world.pops[1].frames.clear();
    let captured = world.captured.take().unwrap();
    captured.into_iter().filter(|packet| packet.kind == TransmitKind::Channel).collect()
}

#[test]
fn every_kind_of_frame_arrives_as_it_was_sent() {
    for mode in MODES {
        let (mut world, here, there) = connected_with(50, [mode; 2]);
        let open = Open {
            protocol: Protocol::Udp,
            flow: FlowId(0x0102_0304_0506_0708),
            app: "voice",
            origin: "10.0.0.1:5060",
            client: "192.0.2.1:4000".parse().unwrap(),
            listener: "[2001:db8::1]:5060".parse().unwrap(),
            deadline_ms: 5000,
        };
        let sent = [
            data(1, b"hello"),
            data(1, b""),
            Frame::OpenData { open, datagram: Datagram { tos: 0xb8, bytes: b"first" } },
            Frame::Bound {
                flow: FlowId(9),
                session: SessionId(4),
                datagram: Some(Datagram { tos: 2, bytes: b"answer" }),
            },
            Frame::Bound { flow: FlowId(9), session: SessionId(4), datagram: None },
            Frame::SessionUnknown { session: SessionId(5) },
            Frame::Close { session: SessionId(5), reason: Reason::Idle },
            Frame::Refused { flow: FlowId(9), reason: Reason::Denied },
        ];
        for (from, to, key, other) in [(0, 1, here, there), (1, 0, there, here)] {
            for frame in &sent {
                world.pops[from].tunnels.send_frame(key, frame).unwrap();
            }
            let expected: Vec<_> = sent.iter().map(|frame| (other, encoded(frame))).collect();
            assert_eq!(arrived(&mut world, to), expected);
            let stats = world.pops[from].tunnels.connection_stats(key).unwrap();
            assert_eq!(stats.channel_packets_sent, 1, "what is there already shares a packet");
        }
    }
}

#[test]
fn datagrams_of_every_size_arrive() {
    for mode in MODES {
        let (mut world, here, there) = connected_with(51, [mode; 2]);
        for length in [0, 1, 1310, 1311, 1312, 1313, 1349, 1350, 1500, 2600, 9000, 65_000, 65_507] {
            let datagram = patterned(length);
            world.pops[0].tunnels.send_frame(here, &data(3, &datagram)).unwrap();
            let frames_there = arrived(&mut world, 1);
            assert_eq!(frames_there.len(), 1, "{mode:?} {length}");
            assert!(frames_there[0] == (there, encoded(&data(3, &datagram))), "{mode:?} {length}");
        }
        let drops = world.pops[1].tunnels.counters().drops;
        assert!(drops.is_empty(), "{mode:?} {drops:?}");
    }
}

#[test]
fn small_frames_fill_packets() {
    let (mut world, here, _) = connected(52);
    world.pops[0].tunnels.set_path_mtu(here, MAX_PACKET as u16);
    let datagram = patterned(100);
    for _ in 0..1000 {
        world.pops[0].tunnels.send_frame(here, &data(3, &datagram)).unwrap();
    }
    assert_eq!(arrived(&mut world, 1).len(), 1000);
    // 13 frames of 107 bytes fit the 1,392 bytes of the longest packet.
    let stats = world.pops[0].tunnels.connection_stats(here).unwrap();
    assert_eq!(stats.channel_packets_sent, 1000u64.div_ceil(13));
}

#[test]
fn large_datagrams_survive_reordering_but_not_loss() {
    for mode in MODES {
        let (mut world, here, _) = connected_with(53, [mode; 2]);
        world.conditions.jitter = Duration::from_millis(30);
        // QUIC drops what comes behind 128 later packets: those of five datagrams are fewer.
        let count = if mode == DatagramMode::Quic { 5 } else { 10 };
        for session in 0..count {
            let datagram = patterned(20_000 + session as usize);
            world.pops[0].tunnels.send_frame(here, &data(session, &datagram)).unwrap();
        }
        // QUIC's window opens over some round trips.
        world.run_for(Duration::from_secs(1));
        assert_eq!(arrived(&mut world, 1).len(), count as usize, "{mode:?}");
        world.conditions.loss = 0.1;
        for session in 0..100 {
            world.pops[0].tunnels.send_frame(here, &data(session, &patterned(20_000))).unwrap();
            world.run_for(Duration::from_millis(100));
        }
        let whole = arrived(&mut world, 1);
        // Of eighteen pieces each; those that wait in QUIC for its window, which losses make small, may come too late for the others.
        let least = if mode == DatagramMode::Quic { 1 } else { 5 };
        assert!((least..60).contains(&whole.len()), "{mode:?} {}", whole.len());
        for (_, frame) in &whole {
            let Some(Ok(Frame::Data { datagram, .. })) = frames(frame).next() else { panic!("no data") };
            assert!(datagram.bytes == patterned(20_000), "a frame is whole or not at all");
        }
        assert!(world.drops(1, DropReason::FragmentExpired) > 20);
    }
}

#[test]
fn what_is_sent_before_the_hello_waits_within_bounds() {
    for mode in MODES {
        let mut world = World::pair_with(54, [mode; 2]);
        let here = world.connect(0, 1, Role::Flows, "off");
        let datagram = patterned(1100);
        for _ in 0..200 {
            world.pops[0].tunnels.send_frame(here, &data(1, &datagram)).unwrap();
        }
        // 64 packets are held, and the last one is still being filled.
        assert_eq!(world.drops(0, DropReason::ChannelHeldFull), 200 - 65);
        assert_eq!(arrived(&mut world, 1).len(), 65, "{mode:?}");
    }
}

#[test]
fn quic_carries_the_frames_where_both_ends_take_them_and_the_channel_where_one_does_not() {
    use DatagramMode::{Channel, Quic};
    for (modes, expected) in [
        ([Quic, Quic], Quic),
        ([Quic, Channel], Channel),
        ([Channel, Quic], Channel),
        ([Channel, Channel], Channel),
    ] {
        let (mut world, here, there) = connected_with(63, modes);
        for (pop, key, to, other) in [(0, here, 1, there), (1, there, 0, here)] {
            assert_eq!(world.pops[pop].tunnels.connection(key).unwrap().datagrams, expected, "{modes:?}");
            world.captured = Some(Vec::new());
            world.pops[pop].tunnels.send_frame_twice(key, &data(7, b"either way")).unwrap();
            assert_eq!(arrived(&mut world, to), [(other, encoded(&data(7, b"either way")))], "{modes:?}");
            let captured = world.captured.take().unwrap();
            let sealed = captured.iter().filter(|packet| packet.kind == TransmitKind::Channel).count();
            assert_eq!(sealed > 0, expected == Channel, "{modes:?}");
        }
    }
}

#[test]
fn a_connection_keeps_what_carries_its_datagrams_and_the_next_one_has_the_new_way() {
    let (mut world, old, _) = connected(64);
    for pop in &mut world.pops {
        pop.tunnels.set_datagrams(DatagramMode::Quic).unwrap();
    }
    let (new, _) = world.connected(0, 1, Role::Flows);
    let mode = |key| world.pops[0].tunnels.connection(key).unwrap().datagrams;
    assert_eq!([mode(old), mode(new)], MODES);
    for key in [old, new] {
        world.pops[0].tunnels.send_frame(key, &data(1, b"heard")).unwrap();
    }
    assert_eq!(arrived(&mut world, 1).len(), 2);
}

#[test]
fn what_quic_has_no_room_for_is_dropped_and_counted() {
    let (mut world, here, _) = connected_with(65, [DatagramMode::Quic; 2]);
    let datagram = patterned(1100);
    for _ in 0..5000 {
        world.pops[0].tunnels.send_frame(here, &data(1, &datagram)).unwrap();
    }
    let came = arrived(&mut world, 1).len() as u64 + world.drops(0, DropReason::ChannelQueueFull);
    assert_eq!(came, 5000, "each arrives or is counted: the network loses none");
    assert!(
        world.drops(0, DropReason::ChannelQueueFull) > 5000 - 4097,
        "more than the channel's queue drops"
    );
}

#[test]
fn the_queue_of_sealed_packets_is_bounded() {
    let (mut world, here, _) = connected(55);
    let datagram = patterned(1100);
    for _ in 0..5000 {
        world.pops[0].tunnels.send_frame(here, &data(1, &datagram)).unwrap();
    }
    assert_eq!(world.drops(0, DropReason::ChannelQueueFull), 5000 - 4097);
    assert_eq!(arrived(&mut world, 1).len(), 4097);
}

#[test]
fn packets_are_as_long_as_the_path_is_known_to_carry_and_never_longer() {
    let (mut world, here, _) = connected(58);
    let longest = |world: &mut World| {
        let packets = caught(world, here, &data(1, &patterned(10_000)));
        packets.iter().map(|packet| packet.bytes.len()).max().unwrap()
    };
    assert_eq!(longest(&mut world), MIN_PACKET, "nothing is known yet");
    for (size, expected) in [(1_350, 1_350), (0, 1_350), (9_000, MAX_PACKET), (100, MIN_PACKET)] {
        world.pops[0].tunnels.set_path_mtu(here, size);
        assert_eq!(longest(&mut world), expected, "{size}");
    }
}

#[test]
fn a_replayed_packet_is_dropped() {
    let (mut world, here, _) = connected(56);
    let packets = caught(&mut world, here, &data(1, b"once"));
    assert_eq!(packets.len(), 1);
    world.deliver(packets[0].clone());
    world.deliver(packets[0].clone());
    assert_eq!(world.pops[1].channel_drops, [WireDrop::ChannelReplayed.into(); 2]);
    assert_eq!(world.drops(1, WireDrop::ChannelReplayed), 2);
    assert!(world.pops[1].frames.is_empty());
}

#[test]
fn a_packet_older_than_the_window_is_dropped() {
    let (mut world, here, _) = connected(57);
    let old = caught(&mut world, here, &data(1, b"old")).remove(0);
    // Another 65,536 counters, sent and lost or not, push it out of the window.
    for _ in 0..66 {
        for _ in 0..1000 {
            world.pops[0].tunnels.send_frame(here, &data(1, &[0; 1100])).unwrap();
        }
        world.run_for(Duration::from_millis(20));
    }
    world.deliver(old);
    assert_eq!(world.pops[1].channel_drops, [WireDrop::ChannelOld.into()]);
}

#[test]
fn truncated_corrupted_and_misdirected_packets_are_dropped_with_their_reason() {
    let (mut world, here, _) = connected(58);
    let good = caught(&mut world, here, &data(1, b"datagram")).remove(0);
    let mut expect = |change: &dyn Fn(&mut Vec<u8>), reason: WireDrop| {
        let mut packet = good.clone();
        change(&mut packet.bytes);
        world.pops[1].channel_drops.clear();
        world.deliver(packet);
        assert_eq!(world.pops[1].channel_drops, [reason.into()], "{reason}");
    };
    expect(&|bytes| bytes.truncate(31), WireDrop::ChannelTruncated);
    expect(&|bytes| bytes.truncate(1), WireDrop::ChannelTruncated);
    expect(&|bytes| bytes[1] = 2, WireDrop::ChannelVersion);
    expect(&|bytes| bytes[3] = 1, WireDrop::ChannelVersion);
    expect(&|bytes| bytes[4] ^= 1, WireDrop::ChannelUnknown);
    expect(&|bytes| bytes[7] ^= 1, WireDrop::ChannelUnknown);
    // A forged counter neither opens nor moves the window.
    expect(&|bytes| bytes[8] = 0x7f, WireDrop::ChannelAuth);
    expect(&|bytes| bytes[15] = 200, WireDrop::ChannelAuth);
    let last = good.bytes.len() - 1;
    expect(&|bytes| bytes.truncate(last), WireDrop::ChannelReplayed);
    expect(&|bytes| (bytes[15], bytes[last]) = (201, 0), WireDrop::ChannelAuth);
    world.pops[0].tunnels.send_frame(here, &data(1, b"next")).unwrap();
    assert_eq!(arrived(&mut world, 1).len(), 1);
}

#[test]
fn a_packet_does_not_open_in_another_direction_or_connection() {
    let (mut world, here, there) = connected(59);
    let (other, other_there) = world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_millis(100));
    // The same session id in two connections: each frame comes out of its own.
    world.pops[0].tunnels.send_frame(here, &data(1, b"first")).unwrap();
    world.pops[0].tunnels.send_frame(other, &data(1, b"second")).unwrap();
    let mut frames_there = arrived(&mut world, 1);
    frames_there.sort();
    let mut expected =
        vec![(there, encoded(&data(1, b"first"))), (other_there, encoded(&data(1, b"second")))];
    expected.sort();
    assert_eq!(frames_there, expected);
    // Written for one channel, addressed to the other.
    let second = caught(&mut world, other, &data(1, b"second")).remove(0);
    let mut mixed = caught(&mut world, here, &data(1, b"first")).remove(0);
    mixed.bytes[4..8].copy_from_slice(&second.bytes[4..8]);
    mixed.bytes[15] = 77;
    world.deliver(mixed);
    assert_eq!(world.pops[1].channel_drops, [WireDrop::ChannelAuth.into()]);
    // Sent back to who sent it.
    let mut reflected = second;
    reflected.to = 0;
    world.deliver(reflected);
    assert!(matches!(
        world.pops[0].channel_drops[..],
        [DropReason::Wire(WireDrop::ChannelAuth | WireDrop::ChannelUnknown)]
    ));
}

#[test]
fn packets_for_a_connection_that_has_ended_are_unknown() {
    let (mut world, here, there) = connected(60);
    let packet = caught(&mut world, here, &data(1, b"late")).remove(0);
    let now = world.now;
    world.pops[1].tunnels.close(now, there, l4proxy_wire::codes::CloseCode::Done);
    world.deliver(packet.clone());
    world.run_for(Duration::from_secs(5));
    world.deliver(packet.clone());
    // Its place is taken by another connection.
    world.connected(0, 1, Role::Flows);
    world.deliver(packet);
    assert_eq!(world.pops[1].channel_drops, [WireDrop::ChannelUnknown.into(); 3]);
    assert_eq!(world.pops[0].tunnels.send_frame(here, &data(1, b"x")), Err(SendError::Gone));
}

#[test]
fn a_pair_connection_has_no_channel() {
    let mut world = World::pair(61);
    let (here, _) = world.connected(0, 1, Role::Pair);
    assert_eq!(world.pops[0].tunnels.send_frame(here, &data(1, b"x")), Err(SendError::WrongRole));
}

#[test]
fn a_frame_that_cannot_be_encoded_is_refused() {
    for mode in MODES {
        let (mut world, here, _) = connected_with(62, [mode; 2]);
        let frame = data(1, &[0; 65_536]);
        assert_eq!(world.pops[0].tunnels.send_frame(here, &frame), Err(SendError::TooLarge));
    }
}
