//! Connections that follow each other under traffic, and packets that were recorded under one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use l4proxy_tunnel::{
    ConnectError, ConnectionKey, DropReason, PathHint, Role, SendError, TransmitKind, TunnelEvent,
};
use l4proxy_wire::DropReason as WireDrop;
use l4proxy_wire::channel::{Datagram, Frame, frames};
use l4proxy_wire::codes::{CloseCode, StreamCode};
use l4proxy_wire::ids::SessionId;

use crate::certificates::Authority;
use crate::streams::{Transfer, opened};
use crate::world::{Packet, World};

const MS: Duration = Duration::from_millis(1);

/// Two PoPs whose keys are worn after `worn` packets and seal at most `most`.
fn pair(seed: u64, worn: u64, most: u64) -> World {
    let authority = Authority::new();
    let mut world = World::new(seed);
    for name in ["ams", "iad"] {
        world.add_pop(name, authority.identity(name), |options| {
            (options.channel_worn_packets, options.channel_max_packets) = (worn, most);
        });
    }
    world.know_each_other(&["ams", "iad"]);
    world
}

/// A datagram that says how many were sent before it.
fn numbered(number: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[7; 156]].concat()
}

fn send(world: &mut World, pop: usize, key: ConnectionKey, number: u32) -> Result<(), SendError> {
    let bytes = numbered(number);
    let frame = Frame::Data { session: SessionId(1), datagram: Datagram::unmarked(&bytes) };
    world.pops[pop].tunnels.send_frame(key, &frame)
}

/// The numbers of the datagrams that have come to a PoP, in their order.
fn numbers(world: &World, pop: usize) -> Vec<u32> {
    let number = |encoded: &Vec<u8>| match frames(encoded).next() {
        Some(Ok(Frame::Data { datagram, .. })) => {
            u32::from_be_bytes(*datagram.bytes.first_chunk().expect("a number"))
        }
        other => panic!("{other:?}"),
    };
    world.pops[pop].frames.iter().map(|(_, encoded)| number(encoded)).collect()
}

/// How many came after one that was sent later.
pub(crate) fn late(numbers: &[u32]) -> usize {
    let mut newest = 0;
    let mut is_late = |number: u32| {
        newest = newest.max(number);
        newest > number
    };
    numbers.iter().filter(|&&number| is_late(number)).count()
}

/// Does what a caller does about epochs: the dialling PoP 0 makes successors, both send over the newest connection that they may use.
struct Line {
    carriers: [ConnectionKey; 2],
    rolls: [u32; 2],
    /// The connections that were followed.
    left: Vec<(usize, ConnectionKey)>,
}

impl Line {
    fn new(world: &mut World) -> Self {
        let (dialled, accepted) = world.connected(0, 1, Role::Flows);
        Self { carriers: [dialled, accepted], rolls: [0, 0], left: Vec::new() }
    }

    fn step(&mut self, world: &mut World) {
        for pop in 0..2 {
            for event in std::mem::take(&mut world.pops[pop].events) {
                match event {
                    TunnelEvent::ChannelWorn { key } if pop == 0 && key == self.carriers[0] => {
                        let now = world.now;
                        world.pops[0].tunnels.connect_following(now, key, PathHint::default()).unwrap();
                    }
                    TunnelEvent::HelloReceived { key, .. } => {
                        let tunnels = &mut world.pops[pop].tunnels;
                        let Some(older) = tunnels.connection(key).unwrap().follows else { continue };
                        assert_eq!(older, self.carriers[pop]);
                        tunnels.retire(older);
                        self.left.push((pop, older));
                        self.carriers[pop] = key;
                        self.rolls[pop] += 1;
                    }
                    TunnelEvent::Lost { reason, .. } => panic!("lost: {reason}"),
                    other => world.pops[pop].events.push_back(other),
                }
            }
        }
    }

    /// `count` datagrams each way, one each millisecond.
    fn carry(&mut self, world: &mut World, count: u32) {
        for number in 0..count {
            for pop in 0..2 {
                send(world, pop, self.carriers[pop], number).unwrap();
            }
            world.run_for(MS);
            self.step(world);
        }
        world.run_for(Duration::from_secs(1));
    }
}

#[test]
fn datagrams_both_ways_are_neither_lost_nor_late_while_their_keys_roll_many_times() {
    for seed in [200, 201] {
        let mut world = pair(seed, 250, 500);
        world.conditions.delay = 30 * MS;
        let mut line = Line::new(&mut world);
        const COUNT: u32 = 8_000;
        line.carry(&mut world, COUNT);
        assert!(line.rolls[0] >= 20 && line.rolls[0] == line.rolls[1], "{:?}", line.rolls);
        for pop in 0..2 {
            let numbers = numbers(&world, pop);
            assert_eq!(numbers.len(), COUNT as usize, "none is lost");
            assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), COUNT as usize, "none comes twice");
            assert!(late(&numbers) * 1_000 <= COUNT as usize, "{} late", late(&numbers));
            assert_eq!(world.pops[pop].channel_drops, []);
        }
    }
}

#[test]
fn what_arrives_is_opened_also_where_handshakes_lose_packets_and_packets_overtake_each_other() {
    for seed in 210..212 {
        let mut world = pair(seed, 300, 4_000);
        (world.conditions.delay, world.conditions.jitter) = (20 * MS, 15 * MS);
        let mut line = Line::new(&mut world);
        world.conditions.loss = 0.05;
        world.captured = Some(Vec::new());
        line.carry(&mut world, 4_000);
        assert!(line.rolls[0] >= 5, "{:?}", line.rolls);
        for pop in 0..2 {
            let captured = world.captured.as_ref().unwrap();
            let is_channel = |packet: &&Packet| packet.to == pop && packet.kind == TransmitKind::Channel;
            assert_eq!(world.pops[pop].frames.len(), captured.iter().filter(is_channel).count());
            assert_eq!(world.pops[pop].channel_drops, [], "seed {seed}");
        }
    }
}

#[test]
fn a_key_whose_successor_is_not_made_seals_no_more_than_its_limit_and_says_so() {
    let mut world = pair(220, 100, 200);
    let (dialled, accepted) = world.connected(0, 1, Role::Flows);
    for number in 0..300 {
        send(&mut world, 0, dialled, number).unwrap();
        world.run_for(MS);
    }
    world.run_for(100 * MS);
    assert_eq!(numbers(&world, 1), (0..200).collect::<Vec<_>>());
    assert_eq!(world.drops(0, DropReason::ChannelExhausted), 100);
    for (pop, key) in [(0, dialled), (1, accepted)] {
        let worn = |event: &TunnelEvent| matches!(event, TunnelEvent::ChannelWorn { .. }).then_some(());
        assert_eq!(world.take_event(pop, worn), Some(()), "both ends know");
        assert_eq!(world.take_event(pop, worn), None, "once");
        assert!(world.pops[pop].tunnels.connection(key).is_some(), "the connection itself lives on");
    }
    // A successor has a key of its own.
    let now = world.now;
    let key = world.pops[0].tunnels.connect_following(now, dialled, PathHint::default()).unwrap();
    world.wait_event(0, |event| match event {
        TunnelEvent::HelloReceived { key: ready, .. } => (*ready == key).then_some(()),
        _ => None,
    });
    send(&mut world, 0, key, 300).unwrap();
    world.run_for(100 * MS);
    assert_eq!(numbers(&world, 1).last(), Some(&300));
}

#[test]
fn a_stream_stays_on_the_connection_that_was_followed_until_it_ends() {
    let mut world = pair(230, 200, 900);
    let mut line = Line::new(&mut world);
    let first = line.carriers[0];
    let (here, there) = opened(&mut world, first);
    let mut transfer = Transfer::new((0, here), (1, there), 1, 6_000_000);
    let mut number = 0;
    world.run_until(Duration::from_secs(60), |world| {
        if number < 1_000 {
            send(world, 0, line.carriers[0], number).unwrap();
            number += 1;
        }
        line.step(world);
        transfer.step(world) && number == 1_000
    });
    assert!(line.rolls[0] >= 1, "{:?}", line.rolls);
    assert_eq!(world.pops[0].tunnels.connection(first).unwrap().streams, 1, "the way back is open");
    world.pops[0].tunnels.reset(here, StreamCode::Idle);
    assert_eq!(world.pops[0].tunnels.connection(first).unwrap().streams, 0);
    assert_eq!(send(&mut world, 0, first, 0), Err(SendError::Gone), "its channel is not sealed any more");
    let (now, count) = (world.now, world.pops[0].tunnels.counters().connections);
    for &(pop, older) in line.left.iter().filter(|(pop, _)| *pop == 0) {
        world.pops[pop].tunnels.close(now, older, CloseCode::Done);
    }
    world.run_for(Duration::from_secs(1));
    let left = [0, 1].map(|pop| world.pops[pop].tunnels.counters().connections);
    assert_eq!((left, count), ([1, 1], line.rolls[0] as usize + 1));
}

#[test]
fn nothing_is_followed_that_the_other_side_does_not_know() {
    let mut world = pair(240, 1_000, 2_000);
    let (dialled, accepted) = world.connected(0, 1, Role::Flows);
    let now = world.now;
    let key = world.pops[0].tunnels.connect_following(now, dialled, PathHint::default()).unwrap();
    let again = world.pops[1].tunnels.connect_following(now, accepted, PathHint::default());
    assert_eq!(again.err(), Some(ConnectError::NothingToFollow), "only who dialled makes the next");
    // The older one ends before the newer one is known.
    world.pops[1].tunnels.close(now, accepted, CloseCode::Done);
    world.run_for(Duration::from_secs(1));
    let follows = |world: &World, pop: usize| world.pops[pop].tunnels.connections().next().unwrap().1.follows;
    assert_eq!((follows(&world, 0), follows(&world, 1)), (None, None));
    let gone = world.pops[0].tunnels.connect_following(now, dialled, PathHint::default());
    assert_eq!(gone.err(), Some(ConnectError::NothingToFollow));
    assert!(world.pops[0].tunnels.connection(key).is_some());
}

#[test]
fn the_keys_of_a_pair_connection_that_follows_another_say_so_at_both_ends() {
    let mut world = World::pair(250);
    let (dialled, _) = world.connected(0, 1, Role::Pair);
    world.run_for(100 * MS);
    let keys = |event: &TunnelEvent| match event {
        TunnelEvent::PairKeys { keys, may_send, continues, .. } => {
            Some((keys.clone(), *may_send, *continues))
        }
        _ => None,
    };
    let drain = |world: &mut World, pop: usize| -> Vec<_> {
        std::iter::from_fn(|| world.take_event(pop, keys)).collect()
    };
    let before = drain(&mut world, 0);
    assert!(before.iter().all(|(_, _, continues)| !continues));
    drain(&mut world, 1);
    let now = world.now;
    world.pops[0].tunnels.connect_following(now, dialled, PathHint::default()).unwrap();
    world.run_for(Duration::from_secs(1));
    for pop in 0..2 {
        let after = drain(&mut world, pop);
        let steps: Vec<_> = after.iter().map(|(_, may_send, continues)| (*may_send, *continues)).collect();
        assert_eq!(steps, [(false, true), (true, true)], "PoP {pop}");
        assert!(after[0].0.hop_send != before[0].0.hop_send);
    }
}

/// Packets of the channel that PoP 0 sends, as they arrive at PoP 1: `count` datagrams.
fn recorded(world: &mut World, key: ConnectionKey, count: u32) -> Vec<Packet> {
    world.captured = Some(Vec::new());
    for number in 0..count {
        send(world, 0, key, number).unwrap();
        world.run_for(MS);
    }
    world.run_for(200 * MS);
    let captured = world.captured.take().unwrap();
    let packets: Vec<_> =
        captured.into_iter().filter(|packet| packet.kind == TransmitKind::Channel).collect();
    assert_eq!(packets.len(), count as usize);
    packets
}

fn replay(world: &mut World, packets: &[Packet]) {
    for packet in packets {
        world.deliver(packet.clone());
    }
}

#[test]
fn recorded_packets_that_come_again_over_the_same_path_or_another_one_are_counted_and_deliver_nothing() {
    let mut world = World::pair(260);
    let (dialled, accepted) = world.connected(0, 1, Role::Flows);
    let packets = recorded(&mut world, dialled, 50);
    replay(&mut world, &packets);
    assert_eq!(world.drops(1, WireDrop::ChannelReplayed), 50);
    // The connection's packets take another path at both ends; what was recorded on the first comes over it.
    world.conditions.delay = 70 * MS;
    let hint = PathHint { rtt: Some(140 * MS), bytes_per_second: None };
    world.pops[0].tunnels.handle_path_change(dialled, hint);
    world.pops[1].tunnels.handle_path_change(accepted, hint);
    replay(&mut world, &packets);
    assert_eq!(world.drops(1, WireDrop::ChannelReplayed), 100);
    assert_eq!(numbers(&world, 1), (0..50).collect::<Vec<_>>());
    // To the PoP that sent them they are strangers' packets: another key, or none at all.
    for packet in &packets {
        world.deliver(Packet { from: 1, to: 0, ..packet.clone() });
    }
    let strange = world.drops(0, WireDrop::ChannelAuth) + world.drops(0, WireDrop::ChannelUnknown);
    assert_eq!((strange, world.pops[0].frames.len()), (50, 0));
}

#[test]
fn packets_recorded_before_an_epoch_change_are_counted_and_deliver_nothing_after_it() {
    let mut world = World::pair(261);
    let (dialled, _) = world.connected(0, 1, Role::Flows);
    let packets = recorded(&mut world, dialled, 50);
    let now = world.now;
    let key = world.pops[0].tunnels.connect_following(now, dialled, PathHint::default()).unwrap();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.pops[0].tunnels.connection(key).unwrap().follows, Some(dialled));
    replay(&mut world, &packets);
    assert_eq!(world.drops(1, WireDrop::ChannelReplayed), 50, "the older channel is still open");
    // Under the new channel's number they are forgeries.
    let target = recorded(&mut world, key, 1).remove(0);
    for packet in &packets {
        let mut forged = packet.clone();
        forged.bytes[2..8].copy_from_slice(&target.bytes[2..8]);
        world.deliver(forged);
    }
    // Counter 0 of the new channel has been seen; all the others fail to open.
    assert_eq!((world.drops(1, WireDrop::ChannelReplayed), world.drops(1, WireDrop::ChannelAuth)), (51, 49));
    let now = world.now;
    world.pops[0].tunnels.close(now, dialled, CloseCode::Done);
    world.run_for(Duration::from_secs(1));
    replay(&mut world, &packets);
    assert_eq!(world.drops(1, WireDrop::ChannelUnknown), 50, "and then it is closed");
    assert_eq!(world.pops[1].frames.len(), 51);
}

#[test]
fn packets_recorded_before_a_restart_are_counted_and_deliver_nothing_after_it() {
    let authority = Authority::new();
    let mut world = World::new(262);
    for name in ["ams", "iad"] {
        world.add_pop(name, authority.identity(name), |_| ());
    }
    world.know_each_other(&["ams", "iad"]);
    let (dialled, _) = world.connected(0, 1, Role::Flows);
    let packets = recorded(&mut world, dialled, 50);
    // The listening PoP starts again: the same name and certificate, even the same seed, and nothing that it knew.
    let other = world.add_pop("iad", authority.identity("iad"), |options| {
        (options.worker, options.seed) = (2, [1; 32]);
    });
    world.know_each_other(&["ams", "iad"]);
    world.pops.swap(1, other);
    world.pops.truncate(other);
    replay(&mut world, &packets);
    assert_eq!(world.drops(1, WireDrop::ChannelUnknown), 50);
    let (dialled, _) = world.connected(0, 1, Role::Flows);
    let fresh = recorded(&mut world, dialled, 1).remove(0);
    assert_eq!(fresh.bytes[4..8], packets[0].bytes[4..8], "the channel has the number that another one had");
    replay(&mut world, &packets);
    // Counter 0 has been seen, whoever sent it.
    assert_eq!((world.drops(1, WireDrop::ChannelReplayed), world.drops(1, WireDrop::ChannelAuth)), (1, 49));
    assert_eq!(numbers(&world, 1), [0]);
}
