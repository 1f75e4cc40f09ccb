//! Packets that are lost and made of others, and what that does for a flow.

use std::time::Duration;

use l4proxy_tunnel::{Role, TunnelStream};

use crate::streams::{bytes_at, opened, read_all};
use crate::world::World;

/// What a stream of messages saw.
#[derive(Debug)]
struct Seen {
    /// Times that nothing could be read for longer than half a round trip.
    gaps: u64,
    /// Packets that QUIC took for lost.
    lost: u64,
    sent: u64,
    repairs: u64,
    repaired: u64,
}

/// 10 Mbit/s over 160 ms for so many seconds.
fn stream(world: &mut World, (here, there): (TunnelStream, TunnelStream), seconds: u64) -> Seen {
    let message = bytes_at(1, 0, 1_250);
    let before = stats(world, here);
    let (mut gaps, mut heard_at) = (0, world.now);
    for _ in 0..seconds * 1000 {
        world.pops[0].tunnels.write(here, &message);
        world.run_for(Duration::from_millis(1));
        if !read_all(world, 1, there).0.is_empty() {
            gaps += u64::from(world.now - heard_at > Duration::from_millis(80));
            heard_at = world.now;
        }
    }
    let after = stats(world, here);
    Seen {
        gaps: gaps.saturating_sub(1),
        lost: after.0 - before.0,
        sent: after.1 - before.1,
        repairs: after.2 - before.2,
        repaired: after.3 - before.3,
    }
}

fn stats(world: &mut World, here: TunnelStream) -> (u64, u64, u64, u64) {
    let quic = world.pops[0].tunnels.connection_stats(here.connection).unwrap();
    let (sender, receiver) = (world.pops[0].tunnels.counters(), world.pops[1].tunnels.counters());
    (quic.quic_packets_lost, quic.quic_packets_sent, sender.repairs_sent, receiver.packets_repaired)
}

fn streamed(seed: u64, loss: f64, seconds: u64) -> Seen {
    let mut world = World::pair(seed);
    world.conditions.delay = Duration::from_millis(80);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let ends = opened(&mut world, key);
    world.conditions.loss = loss;
    // It takes a loss or two to be worth it.
    stream(&mut world, ends, 5);
    stream(&mut world, ends, seconds)
}

#[test]
fn a_flow_does_not_stand_still_for_a_lost_packet() {
    for seed in 1..4 {
        let seen = streamed(seed, 0.002, 30);
        assert!(seen.lost > 30, "{seen:?}");
        assert!(seen.repaired * 10 >= seen.lost * 8, "{seen:?}");
        assert!(seen.gaps * 5 <= seen.lost, "{seen:?}");
    }
}

#[test]
fn repairs_cost_a_twentieth_at_most_and_nothing_where_they_would_not_help() {
    assert_eq!(streamed(5, 0.0, 20).repairs, 0, "nothing is lost");
    let seen = streamed(6, 0.002, 20);
    assert!(seen.repairs > 0 && seen.repairs * 20 <= seen.sent, "{seen:?}");
    let seen = streamed(7, 0.05, 20);
    assert!(seen.repairs * 200 <= seen.sent, "too much is lost: {seen:?}");
}

#[test]
fn a_size_that_the_path_does_not_carry_is_never_made_known_by_a_repair() {
    const CARRIED: usize = 1_300;
    let mut world = World::pair(8);
    world.conditions.delay = Duration::from_millis(80);
    world.conditions.max_packet = CARRIED;
    let (key, _) = world.connected(0, 1, Role::Flows);
    let ends = opened(&mut world, key);
    world.conditions.loss = 0.002;
    // Sizes are searched while lost packets are repaired, and once more later.
    let seen = stream(&mut world, ends, 15);
    assert!(seen.repaired > 10 && world.too_long > 0, "{seen:?}, {} too long", world.too_long);
    let found = world.pops[0].tunnels.connection(key).unwrap().packet_bytes;
    assert!((1_200..=CARRIED as u16).contains(&found), "{found}");
}
