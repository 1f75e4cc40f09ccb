//! How long QUIC's packets are: the smallest that every path carries at first, then what the path carries, and less when it carries less.

use std::time::Duration;

use l4proxy_tunnel::{ConnectionKey, MAX_PACKET, PathHint, Role, TunnelStream};

use crate::streams::{Transfer, opened};
use crate::world::World;

/// Two ends of an open flow over a path 60 ms long that carries packets of so many bytes.
fn over(seed: u64, max_packet: usize) -> (World, (TunnelStream, TunnelStream)) {
    let mut world = World::pair(seed);
    world.conditions.max_packet = max_packet;
    world.conditions.delay = Duration::from_millis(30);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let ends = opened(&mut world, key);
    (world, ends)
}

/// Lets a flow of `bytes` bytes pass; after 3 MB of them `change` happens. How long the rest took, and its longest pause.
fn pass(
    world: &mut World,
    (here, there): (TunnelStream, TunnelStream),
    bytes: u64,
    change: impl FnOnce(&mut World),
) -> (Duration, Duration) {
    let mut transfer = Transfer::new((0, here), (1, there), 1, bytes);
    world.run_until(Duration::from_secs(60), |world| transfer.step(world) || transfer.read > 3_000_000);
    change(world);
    let start = world.now;
    let (mut read, mut since, mut longest) = (0, world.now, Duration::ZERO);
    world.run_until(Duration::from_secs(60), |world| {
        let is_done = transfer.step(world);
        if transfer.read > read {
            (longest, since, read) = (longest.max(world.now - since), world.now, transfer.read);
        }
        is_done
    });
    (world.now - start, longest)
}

fn packet_bytes(world: &World, key: ConnectionKey) -> u16 {
    world.pops[0].tunnels.connection(key).unwrap().packet_bytes
}

#[test]
fn packets_grow_to_what_the_path_carries() {
    // The last is an access line of 1,280 bytes over IPv6: 48 for its headers and 28 for the longest of ours.
    for (seed, carried, used) in [(1, 1_424, 1_424), (2, 1_400, 1_396), (3, 1_350, 1_339), (4, 1_204, 1_200)]
    {
        let (mut world, ends) = over(seed, carried);
        world.run_for(Duration::from_secs(4));
        let key = ends.0.connection;
        assert_eq!(packet_bytes(&world, key), used, "{carried}");
        let (time, longest) = pass(&mut world, ends, 5_000_000, |_| ());
        assert!(time < Duration::from_secs(3) && longest < Duration::from_millis(70), "{carried}: {time:?}");
        // Whatever was lost was looking for a larger size.
        let lost = world.pops[0].tunnels.connection_stats(key).unwrap().quic_packets_lost;
        assert!(lost <= 15 && (carried < 1_424 || lost == 0), "{carried}: {lost}");
    }
}

#[test]
fn no_size_is_tried_of_which_it_is_known_that_it_does_not_pass() {
    let (mut world, ends) = over(6, MAX_PACKET);
    for (pop, key) in [(0, ends.0.connection), (1, ends.1.connection)] {
        world.pops[pop].tunnels.set_path_mtu(key, 1_280);
    }
    // What was sent before anybody knew.
    world.longest_sent.fill(0);
    let (mut world, ends) = (world, ends);
    world.conditions.max_packet = 1_280;
    world.run_for(Duration::from_secs(20));
    pass(&mut world, ends, 5_000_000, |_| ());
    assert!(world.longest_sent.iter().all(|longest| *longest <= 1_280), "{:?}", world.longest_sent);
    for (pop, key) in [(0, ends.0.connection), (1, ends.1.connection)] {
        world.pops[pop].tunnels.set_path_mtu(key, MAX_PACKET as u16);
    }
    world.conditions.max_packet = MAX_PACKET;
    world.run_for(Duration::from_secs(8));
    assert_eq!(usize::from(packet_bytes(&world, ends.0.connection)), MAX_PACKET, "and it grows when it may");
}

#[test]
fn a_flow_goes_on_without_loss_over_another_path_that_carries_less() {
    let (mut world, ends) = over(5, MAX_PACKET);
    world.run_for(Duration::from_secs(4));
    let (time, longest) = pass(&mut world, ends, 20_000_000, |world| {
        (world.conditions.max_packet, world.too_long) = (1_204, 0);
        for (pop, key) in [(0, ends.0.connection), (1, ends.1.connection)] {
            let now = world.now;
            world.pops[pop].tunnels.set_path_mtu(key, 1_204);
            world.pops[pop].tunnels.handle_path_loss(now, key, PathHint::default());
        }
    });
    assert!(longest < Duration::from_millis(100), "{longest:?}");
    assert!(time < Duration::from_secs(2), "{time:?}");
    let counters = world.pops[0].tunnels.counters();
    assert!(counters.packets_split > 10_000, "{counters:?}");
    assert_eq!(world.too_long, 0, "nothing that the path does not carry was sent");
    assert_eq!(counters.drops.values().sum::<u64>(), 0, "{:?}", counters.drops);
}

#[test]
fn a_path_that_begins_to_drop_long_packets_is_survived_though_nobody_says_so() {
    let (mut world, ends) = over(7, MAX_PACKET);
    world.run_for(Duration::from_secs(4));
    let (time, longest) = pass(&mut world, ends, 20_000_000, |world| world.conditions.max_packet = 1_300);
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(time < Duration::from_secs(5), "{time:?}");
    world.run_for(Duration::from_secs(10));
    let found = packet_bytes(&world, ends.0.connection);
    assert!((1_200..=1_300).contains(&found), "{found}");
}
