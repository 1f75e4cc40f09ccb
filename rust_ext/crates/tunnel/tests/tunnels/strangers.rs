//! Packets that no PoP has sent although their addresses say so, or that a PoP has sent and mean nothing: what they cost, and what they get.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;
use l4proxy_tunnel::{DropReason, Role, TunnelEvent, TunnelOptions};
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::ids::SessionId;

use crate::certificates::Authority;
use crate::forge::{FULL, Initial, client_hello, crypto_frame, read_retry};
use crate::world::{World, pop_id};

/// Two PoPs, `ams` (0) and `iad` (1); `adjust` is for `iad`, which the strangers write to.
fn world(seed: u64, adjust: impl FnOnce(&mut TunnelOptions)) -> World {
    let authority = Authority::new();
    let mut world = World::new(seed);
    world.add_pop("ams", authority.identity("ams"), |_| ());
    world.add_pop("iad", authority.identity("iad"), adjust);
    world.know_each_other(&["ams", "iad"]);
    world
}

/// Hands `iad` a datagram that says it is from `ams`; its length.
fn forge(world: &mut World, datagram: &[u8]) -> usize {
    let now = world.now;
    let _ = world.pops[1].tunnels.handle_quic(now, pop_id("ams"), None, BytesMut::from(datagram), 0);
    datagram.len()
}

/// What `iad` has to say now, which reaches nobody.
fn answers(world: &mut World) -> Vec<Vec<u8>> {
    let (mut answers, mut buffer) = (Vec::new(), Vec::new());
    let many = NonZeroUsize::new(10).unwrap();
    while let Some(sent) = world.pops[1].tunnels.poll_transmit(world.now, &mut buffer, many) {
        answers.extend(buffer.chunks(sent.segment_size.unwrap_or(sent.size)).map(<[u8]>::to_vec));
    }
    answers
}

/// What `iad` says within some time although nobody answers.
fn answers_within(world: &mut World, time: Duration) -> Vec<Vec<u8>> {
    let (mut all, end) = (answers(world), world.now + time);
    while let Some(next) = world.pops[1].tunnels.poll_timeout().filter(|next| *next <= end) {
        world.now = next.max(world.now);
        world.pops[1].tunnels.handle_timeout(world.now);
        all.extend(answers(world));
    }
    world.now = end;
    all
}

fn bytes(packets: &[Vec<u8>]) -> usize {
    packets.iter().map(Vec::len).sum()
}

/// A connection id of a stranger that names `iad`'s worker, as a good dialler's does.
fn id(number: u32) -> [u8; 8] {
    let [a, b, c, d] = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
    [2, a, b, c, d, 1, 2, 3]
}

fn first_packet(number: u32, hello: &[u8]) -> Vec<u8> {
    let frames = hello.to_vec();
    Initial { destination: &id(number), source: &SOURCE, token: &[], frames, length: FULL }.seal()
}

const SOURCE: [u8; 8] = [1, 9, 9, 9, 9, 9, 9, 9];

/// How long a dialled connection takes until the peer's `HELLO`, and what it was asked for.
fn handshake(seed: u64, loss: f64, max_unproved: usize) -> (Duration, u64) {
    let mut world = world(seed, |options| options.max_unproved = max_unproved);
    world.conditions.loss = loss;
    let began = world.now;
    let dialled = world.connect(0, 1, Role::Pair, "off");
    let ended = world.wait_event(0, |event| match event {
        TunnelEvent::HelloReceived { key, .. } => Some(*key),
        TunnelEvent::Lost { reason, .. } => panic!("seed {seed}: {reason}"),
        _ => None,
    });
    assert_eq!(ended, dialled);
    (world.now - began, world.pops[1].tunnels.counters().retries)
}

#[test]
fn a_peer_proves_its_address_only_while_many_handshakes_are_unproved_and_it_costs_one_round_trip() {
    let round_trip = Duration::from_millis(20);
    let (usual, no_retries) = handshake(1, 0.0, 64);
    let (asked, retries) = handshake(1, 0.0, 0);
    assert_eq!((no_retries, retries), (0, 1));
    assert_eq!(asked, usual + round_trip);
}

#[test]
fn peers_that_must_prove_their_address_connect_through_heavy_loss() {
    for seed in 0..50 {
        let (took, retries) = handshake(seed, 0.3, 0);
        assert!(retries >= 1 && took < Duration::from_secs(10), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_flood_of_first_packets_takes_bounded_places_and_a_peer_connects_in_its_midst() {
    const FLOOD: u32 = 20_000;
    const EACH: u32 = 50;
    let mut world = world(1, |_| ());
    let (established, _) = world.connected(0, 1, Role::Flows);
    let hello = client_hello(&SOURCE);
    let (mut most, mut sent) = (0, 0);
    let mut dialled = None;
    for number in 0..FLOOD {
        forge(&mut world, &first_packet(number, &hello));
        if number % EACH != 0 {
            continue;
        }
        let datagram = Datagram { tos: 0, bytes: b"move" };
        let frame = Frame::Data { session: SessionId(7), datagram };
        world.pops[0].tunnels.send_frame(established, &frame).unwrap();
        sent += 1;
        if number == FLOOD / 2 {
            dialled = Some(world.connect(0, 1, Role::Pair, "off"));
        }
        world.run_for(Duration::from_millis(10));
        most = most.max(world.pops[1].tunnels.counters().connections);
        // What the strangers' handshakes came to is told, and forgotten when it was.
        world.pops[1].events.clear();
    }
    world.run_for(Duration::from_secs(1));
    let dialled = dialled.unwrap();
    let connected = |event: &TunnelEvent| match event {
        TunnelEvent::HelloReceived { key, .. } => (*key == dialled).then_some(()),
        _ => None,
    };
    assert!(world.take_event(0, connected).is_some(), "a peer gets through");
    assert_eq!(world.pops[1].frames.len(), sent, "what is established goes on");
    assert!(most <= 64 + 2, "{most} connections");
    let counters = world.pops[1].tunnels.counters();
    assert_eq!(counters.connections_accepted + counters.retries, u64::from(FLOOD) + 3, "{counters:?}");
    assert!(counters.retries > u64::from(FLOOD) / 2);
    world.run_for(Duration::from_secs(21));
    assert_eq!(world.pops[1].tunnels.counters().connections, 2, "the strangers' are over");
}

#[test]
fn answers_to_a_burst_of_strangers_are_bounded_and_the_rest_is_counted() {
    let mut world = world(1, |options| options.max_unproved = 0);
    let hello = client_hello(&SOURCE);
    for number in 0..300 {
        forge(&mut world, &first_packet(number, &hello));
    }
    assert_eq!(world.drops(1, DropReason::QuicResponseFull), 300 - 256);
    assert_eq!(answers(&mut world).len(), 256);
    assert_eq!(world.pops[1].tunnels.counters().connections, 0);
}

#[test]
fn a_token_is_good_for_the_address_that_it_was_sent_to_and_for_a_short_time() {
    let hello = client_hello(&SOURCE);
    let retried = |world: &mut World| {
        forge(world, &first_packet(1, &hello));
        read_retry(&answers(world)[0])
    };
    let again = |(token, destination): &(Vec<u8>, Vec<u8>)| {
        Initial { destination, source: &SOURCE, token, frames: hello.clone(), length: FULL }.seal()
    };
    let accepted = |world: &World| world.pops[1].tunnels.counters().connections_accepted;

    let mut right = world(1, |options| options.max_unproved = 0);
    let token = retried(&mut right);
    forge(&mut right, &again(&token));
    assert_eq!(accepted(&right), 1);

    let mut late = world(1, |options| options.max_unproved = 0);
    let token = retried(&mut late);
    late.now += Duration::from_secs(17);
    forge(&mut late, &again(&token));
    assert_eq!((accepted(&late), late.pops[1].tunnels.counters().retries), (0, 1));

    let mut elsewhere = world(1, |options| options.max_unproved = 0);
    elsewhere.know_each_other(&["ams", "iad", "nrt"]);
    let token = retried(&mut elsewhere);
    let now = elsewhere.now;
    let packet = BytesMut::from(&again(&token)[..]);
    let _ = elsewhere.pops[1].tunnels.handle_quic(now, pop_id("nrt"), None, packet, 0);
    assert_eq!(accepted(&elsewhere), 0);

    let mut unreadable = world(1, |options| options.max_unproved = 0);
    let (mut token, destination) = retried(&mut unreadable);
    token[3] ^= 1;
    forge(&mut unreadable, &again(&(token, destination)));
    assert_eq!((accepted(&unreadable), unreadable.pops[1].tunnels.counters().retries), (0, 2));
}

#[test]
fn an_identity_that_is_replaced_leaves_tokens_good() {
    let authority = Authority::new();
    let mut world = World::new(1);
    world.add_pop("ams", authority.identity("ams"), |_| ());
    world.add_pop("iad", authority.identity("iad"), |options| options.max_unproved = 0);
    world.know_each_other(&["ams", "iad"]);
    let hello = client_hello(&SOURCE);
    forge(&mut world, &first_packet(1, &hello));
    let (token, destination) = read_retry(&answers(&mut world)[0]);
    world.pops[1].tunnels.set_identity(authority.identity("iad")).unwrap();
    let again =
        Initial { destination: &destination, source: &SOURCE, token: &token, frames: hello, length: FULL };
    forge(&mut world, &again.seal());
    assert_eq!(world.pops[1].tunnels.counters().connections_accepted, 1);
}

/// What somebody may send who wants somebody else to get more: a name, and the datagrams.
fn shapes() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let hello = client_hello(&SOURCE);
    let usual = |destination: &[u8], token: &[u8], frames: &[u8], length| {
        Initial { destination, source: &SOURCE, token, frames: frames.to_vec(), length }.seal()
    };
    let whole = usual(&id(1), &[], &hello, FULL);
    let short = usual(&id(1), &[], &hello, 0);
    let padded = [&short[..], &vec![0; FULL - short.len()]].concat();
    let garbage = |first: u8, length: usize| {
        let mut state = u32::from(first) << 16 | length as u32 | 1;
        let mut bytes = vec![first];
        bytes.resize_with(length, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        bytes
    };
    let version = |length: usize| {
        let mut bytes = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 0, 0];
        bytes.resize(bytes.len().max(length), 0);
        bytes
    };
    let mut handshake = usual(&id(1), &[], &hello, FULL);
    handshake[0] |= 0x20;
    vec![
        ("a first packet", vec![whole.clone()]),
        ("the same over and over", vec![whole.clone(); 20]),
        ("as large as they come", vec![usual(&id(1), &[], &hello, 1_424)]),
        ("not padded", vec![short.clone()]),
        ("padded outside the packet", vec![padded]),
        ("several in one datagram", vec![[&short[..], &short, &short, &short].concat()]),
        ("another id behind it", vec![[&short[..], &usual(&id(2), &[], &hello, 900)].concat()]),
        ("with a token of nobody", vec![usual(&id(1), &[7; 60], &hello, FULL)]),
        ("an id too short", vec![usual(&[2, 1, 2], &[], &hello, FULL)]),
        ("no id at all", vec![usual(&[], &[], &hello, FULL)]),
        ("an id of 20 bytes", vec![usual(&[2; 20], &[], &hello, FULL)]),
        ("TLS that is none", vec![usual(&id(1), &[], &crypto_frame(&[0xff; 600]), FULL)]),
        ("a frame that is none", vec![usual(&id(1), &[], &[0x3f], FULL)]),
        ("only padding", vec![usual(&id(1), &[], &[], FULL)]),
        ("half a hello, and no more", vec![usual(&id(1), &[], &crypto_frame(&hello[4..100]), FULL)]),
        ("changed on its way", vec![[&whole[..600], &[whole[600] ^ 1], &whole[601..]].concat()]),
        ("a handshake packet of nothing", vec![handshake]),
        ("a version that nobody speaks", vec![version(FULL)]),
        ("the same, tiny", vec![version(0); 50]),
        ("short headers of every length", (1..1_424).map(|length| garbage(0x41, length)).collect()),
        ("long headers of every length", (1..1_424).map(|length| garbage(0xc3, length)).collect()),
        ("retries of every length", (1..1_424).map(|length| garbage(0xf0, length)).collect()),
    ]
}

#[test]
fn before_an_address_is_proved_it_gets_at_most_three_times_what_came_from_it() {
    for (is_asked, max_unproved) in [(false, 64), (true, 0)] {
        for (name, datagrams) in shapes() {
            let mut world = world(1, |options| options.max_unproved = max_unproved);
            let (mut came, mut went) = (0, 0);
            for datagram in &datagrams {
                came += forge(&mut world, datagram);
                went += bytes(&answers(&mut world));
                let most = if world.pops[1].tunnels.counters().connections_accepted > 0 { 3 } else { 1 };
                assert!(went <= most * came, "{name}: {went} bytes for {came}");
            }
            // Timers send again what nobody answers, and stop at the same bound.
            went += bytes(&answers_within(&mut world, Duration::from_secs(30)));
            assert!(went <= 3 * came, "{name}: {went} bytes for {came}");
            let counters = world.pops[1].tunnels.counters();
            assert_eq!(counters.connections, 0, "{name}");
            if is_asked {
                assert_eq!(counters.connections_accepted, 0, "{name}");
                assert!(went <= came, "{name}: {went} bytes for {came}");
            } else if name == "a first packet" {
                assert!(went > came, "the bound is a bound of something");
            }
        }
    }
}

#[test]
fn garbage_from_a_peers_address_is_counted_and_keeps_nothing() {
    const PACKETS: u64 = 20_000;
    let mut world = world(1, |_| ());
    let (established, _) = world.connected(0, 1, Role::Flows);
    let counted = |world: &World| {
        let counters = world.pops[1].tunnels.counters();
        counters.drops.values().sum::<u64>() + counters.handshakes_failed.values().sum::<u64>()
    };
    let (mut came, mut went) = (0, 0);
    for _ in 0..PACKETS {
        let length = 1 + (world.random() * 1_423.0) as usize;
        let mut garbage: Vec<u8> = (0..length).map(|_| (world.random() * 256.0) as u8).collect();
        // Both kinds of header, and now and then the version, so that some get further than the first look.
        garbage[0] |= 0x40;
        if world.random() < 0.5 && length > 5 {
            garbage[0] |= 0x80;
            garbage[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        came += forge(&mut world, &garbage);
        went += bytes(&answers(&mut world));
    }
    assert_eq!(counted(&world), PACKETS);
    assert!(went <= came, "{went} bytes for {came}");
    let counters = world.pops[1].tunnels.counters();
    assert_eq!((counters.connections, counters.connections_accepted), (1, 1));
    let frame = Frame::Data { session: SessionId(7), datagram: Datagram { tos: 0, bytes: b"move" } };
    world.pops[0].tunnels.send_frame(established, &frame).unwrap();
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.pops[1].frames.len(), 1);
}

#[test]
fn garbage_under_the_ids_of_a_connection_does_not_end_it() {
    let mut world = world(1, |_| ());
    world.captured = Some(Vec::new());
    let (established, _) = world.connected(0, 1, Role::Flows);
    let real: Vec<Vec<u8>> = world
        .captured
        .take()
        .unwrap()
        .into_iter()
        .filter(|packet| packet.to == 1 && packet.bytes.len() >= 30)
        .map(|packet| packet.bytes)
        .collect();
    assert!(real.len() >= 2, "{} packets", real.len());
    for packet in real.iter().cycle().take(2_000) {
        let mut changed = packet.clone();
        // Anything behind the connection id.
        let place = 20 + (world.random() * (changed.len() - 20) as f64) as usize;
        changed[place] ^= 1 << (world.random() * 8.0) as u8;
        forge(&mut world, &changed);
    }
    let frame = Frame::Data { session: SessionId(7), datagram: Datagram { tos: 0, bytes: b"move" } };
    world.pops[0].tunnels.send_frame(established, &frame).unwrap();
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.pops[1].frames.len(), 1);
    assert_eq!(world.pops[1].tunnels.counters().connections, 1);
}
