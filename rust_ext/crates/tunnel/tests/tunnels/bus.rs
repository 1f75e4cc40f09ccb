//! Messages of the control planes over the control stream, and peers that misuse it.

use std::time::Duration;

use l4proxy_tunnel::{DropReason, Role, SendError, TunnelEvent};
use l4proxy_wire::ids::PopId;

use crate::world::{World, pop_id};

fn bus(event: &TunnelEvent) -> Option<(PopId, Vec<u8>)> {
    match event {
        TunnelEvent::Bus { peer, payload } => Some((*peer, payload.clone())),
        _ => None,
    }
}

fn patterned(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position * 7 + position / 251) as u8).collect()
}

#[test]
fn messages_go_both_ways_in_order() {
    let mut world = World::pair(30);
    world.connected(0, 1, Role::Pair);
    for number in 0..50u8 {
        world.pops[0].tunnels.send_bus(pop_id("iad"), &[number, 1]).unwrap();
        world.pops[1].tunnels.send_bus(pop_id("ams"), &[number, 2]).unwrap();
    }
    for number in 0..50u8 {
        assert_eq!(world.wait_event(1, bus), (pop_id("ams"), vec![number, 1]));
        assert_eq!(world.wait_event(0, bus), (pop_id("iad"), vec![number, 2]));
    }
    let counters = world.pops[0].tunnels.counters();
    assert_eq!((counters.bus_sent, counters.bus_received), (50, 50));
}

#[test]
fn a_message_may_be_empty_or_one_mebibyte_and_no_more() {
    let mut world = World::pair(31);
    world.conditions.loss = 0.01;
    world.connected(0, 1, Role::Pair);
    let large = patterned(1 << 20);
    let iad = pop_id("iad");
    world.pops[0].tunnels.send_bus(iad, &large).unwrap();
    world.pops[0].tunnels.send_bus(iad, &[]).unwrap();
    assert_eq!(world.pops[0].tunnels.send_bus(iad, &patterned((1 << 20) + 1)), Err(SendError::TooLarge));
    assert!(world.wait_event(1, bus).1 == large);
    assert_eq!(world.wait_event(1, bus).1, b"");
}

#[test]
fn a_full_queue_refuses_and_counts_and_empties_again() {
    let mut world = World::pair(32);
    world.connected(0, 1, Role::Pair);
    let iad = pop_id("iad");
    let message = patterned(1_000_000);
    let mut taken = 0;
    // QUIC itself takes the first two and a half; then the queue of 4 MiB fills.
    let full = loop {
        match world.pops[0].tunnels.send_bus(iad, &message) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10, "the queue has a bound");
    };
    assert_eq!((full, taken), (SendError::Full, 6));
    assert_eq!(world.drops(0, DropReason::BusFull), 1);
    for _ in 0..taken {
        assert!(world.wait_event(1, bus).1 == message);
    }
    world.pops[0].tunnels.send_bus(iad, b"again").unwrap();
    assert_eq!(world.wait_event(1, bus).1, b"again");
}

#[test]
fn a_message_needs_a_pair_connection() {
    let mut world = World::pair(33);
    world.connected(0, 1, Role::Flows);
    assert_eq!(world.pops[0].tunnels.send_bus(pop_id("iad"), b"x"), Err(SendError::Gone));
    assert_eq!(world.drops(0, DropReason::BusNoConnection), 1);
}

#[test]
fn the_newest_pair_connection_carries_the_messages() {
    let mut world = World::pair(34);
    let (old, _) = world.connected(0, 1, Role::Pair);
    let (new, _) = world.connected(0, 1, Role::Pair);
    world.run_for(Duration::from_secs(1));
    let before = world.pops[0].tunnels.connection_stats(old).unwrap().quic_bytes_sent;
    let before_new = world.pops[0].tunnels.connection_stats(new).unwrap().quic_bytes_sent;
    world.pops[0].tunnels.send_bus(pop_id("iad"), &patterned(100_000)).unwrap();
    world.wait_event(1, bus);
    assert!(world.pops[0].tunnels.connection_stats(old).unwrap().quic_bytes_sent - before < 1000);
    assert!(world.pops[0].tunnels.connection_stats(new).unwrap().quic_bytes_sent - before_new > 100_000);
}
