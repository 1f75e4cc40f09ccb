//! Connections that begin with a stranger's packet: who may come so, where answers go, and how many at once.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;
use l4proxy_tunnel::{
    DropReason, HandshakeFailure, NOBODY, ReturnAddress, Role, TransmitKind, TunnelEvent, TunnelOptions,
    Tunnels,
};

use crate::certificates::Authority;
use crate::world::{Nat, World, pop_id};

/// `ams` is behind NAT, as `movable` is told; nobody knows where.
fn behind_nat(seed: u64, movable: &str) -> World {
    let mut world = World::pair(seed);
    for pop in &mut world.pops {
        pop.tunnels.set_movable([pop_id(movable)]);
    }
    world.nat = Some(Nat { pop: 0, port: 7, known: None });
    world
}

#[test]
fn who_a_stranger_is_stands_in_its_certificate() {
    let mut world = behind_nat(1, "ams");
    let (key, accepted) = world.connected(0, 1, Role::Pair);
    assert_eq!(world.pops[1].tunnels.connection(accepted).unwrap().peer, pop_id("ams"));
    assert!(world.pops[0].tunnels.connection(key).is_some());
    let keys = world.take_event(1, |event| match event {
        TunnelEvent::PairKeys { peer, .. } => Some(*peer),
        _ => None,
    });
    assert_eq!(keys, Some(pop_id("ams")));
}

#[test]
fn a_pop_whose_address_is_known_may_not_come_as_a_stranger() {
    let mut world = behind_nat(2, "sin");
    world.connect(0, 1, Role::Pair, "off");
    world.run_for(Duration::from_secs(3));
    let counters = world.pops[1].tunnels.counters();
    assert_eq!(counters.handshakes_failed.get(&HandshakeFailure::WrongName), Some(&1), "{counters:?}");
    assert_eq!(world.take_event(1, |_| Some(())), None, "strangers are counted and not told of");
}

#[test]
fn in_a_fleet_without_such_a_pop_strangers_are_not_heard() {
    let mut world = World::pair(3);
    world.nat = Some(Nat { pop: 0, port: 7, known: None });
    world.connect(0, 1, Role::Pair, "off");
    world.run_for(Duration::from_secs(3));
    assert!(world.drops(1, DropReason::QuicUnknownPeer) > 3);
    assert_eq!(world.pops[1].tunnels.counters().connections, 0);
}

/// The first packet of a handshake, by another `Tunnels` each time.
fn first_packet(authority: &Authority, number: u8) -> Vec<u8> {
    let mut tunnels = Tunnels::new(TunnelOptions::new(1, pop_id("ams"), [number; 32]));
    tunnels.set_identity(authority.identity("ams")).unwrap();
    tunnels.set_peers(&[(pop_id("iad"), "iad".to_owned())]);
    let now = World::new(0).now;
    tunnels.connect(now, pop_id("iad"), Role::Pair, "off").unwrap();
    let mut buffer = Vec::new();
    let segment = tunnels.poll_transmit(now, &mut buffer, NonZeroUsize::MIN).unwrap();
    assert_eq!((segment.kind, segment.back_to), (TransmitKind::Quic, None));
    buffer
}

#[test]
fn strangers_at_once_are_asked_to_prove_their_addresses_get_little_before_and_take_no_peers_place() {
    let authority = Authority::new();
    let mut world = World::new(4);
    world.add_pop("iad", authority.identity("iad"), |options| options.max_stranger_handshakes = 5);
    world.add_pop("sin", authority.identity("sin"), |_| ());
    let tunnels = &mut world.pops[0].tunnels;
    tunnels.set_peers(&[(pop_id("ams"), "ams".to_owned()), (pop_id("sin"), "sin".to_owned())]);
    tunnels.set_movable([pop_id("ams")]);
    let local: SocketAddr = "192.0.2.1:4600".parse().unwrap();
    let mut buffer = Vec::new();
    for number in 0..12 {
        let from =
            ReturnAddress { local, remote: SocketAddr::from(([203, 0, 113, 9], 1000 + u16::from(number))) };
        let packet = first_packet(&authority, number);
        let outcome = tunnels.handle_stranger(world.now, from, BytesMut::from(&packet[..]), 0);
        assert_eq!(outcome, Ok(()));
        let mut answered = 0;
        while let Some(info) = tunnels.poll_transmit(world.now, &mut buffer, NonZeroUsize::MIN) {
            assert_eq!((info.back_to, info.peer), (Some(from), NOBODY), "nowhere but there");
            answered += info.size;
        }
        assert!(answered <= 3 * packet.len(), "{answered} for {}", packet.len());
    }
    let counters = tunnels.counters();
    assert_eq!(
        (counters.connections_accepted, counters.retries),
        (2, 10),
        "half of the places are for those who have"
    );
    let packet = first_packet(&authority, 77);
    assert_eq!(tunnels.handle_quic(world.now, pop_id("sin"), None, BytesMut::from(&packet[..]), 0), Ok(()));
    world.run_for(Duration::from_secs(15));
    let tunnels = &mut world.pops[0].tunnels;
    let from = ReturnAddress { local, remote: SocketAddr::from(([203, 0, 113, 9], 9)) };
    let packet = first_packet(&authority, 78);
    let outcome = tunnels.handle_stranger(world.now, from, BytesMut::from(&packet[..]), 0);
    assert_eq!(outcome, Ok(()), "those that came to nothing have made room");
}

#[test]
fn a_peers_handshake_is_answered_the_way_it_came_and_over_the_path_by_turns() {
    let authority = Authority::new();
    let mut world = World::new(5);
    world.add_pop("iad", authority.identity("iad"), |_| ());
    let tunnels = &mut world.pops[0].tunnels;
    tunnels.set_peers(&[(pop_id("ams"), "ams".to_owned())]);
    let way =
        ReturnAddress { local: "192.0.2.1:4600".parse().unwrap(), remote: "192.0.2.7:4600".parse().unwrap() };
    let mut buffer = Vec::new();
    for straight in [Some(way), None] {
        let packet = first_packet(&authority, 1 + u8::from(straight.is_none()));
        let (peer, began) = (pop_id("ams"), world.now);
        tunnels.handle_quic(began, peer, straight, BytesMut::from(&packet[..]), 0).unwrap();
        let mut ways = Vec::new();
        for quarter in 0..8 {
            let now = began + Duration::from_millis(450) * quarter;
            tunnels.handle_timeout(now);
            tunnels.handle_quic(now, peer, None, BytesMut::from(&packet[..]), 0).unwrap();
            while let Some(info) = tunnels.poll_transmit(now, &mut buffer, NonZeroUsize::MIN) {
                ways.push((quarter / 2 % 2, info.back_to));
            }
        }
        let is_straight = |turn: u32| if turn == 0 { straight } else { None };
        assert!(ways.iter().all(|&(turn, back_to)| back_to == is_straight(turn)), "{ways:?}");
        assert!([0, 1].iter().all(|turn| ways.iter().any(|(of, _)| of == turn)), "{ways:?}");
        world.now += Duration::from_secs(60);
        tunnels.handle_timeout(world.now);
        while tunnels.poll_transmit(world.now, &mut buffer, NonZeroUsize::MIN).is_some() {}
    }
}
