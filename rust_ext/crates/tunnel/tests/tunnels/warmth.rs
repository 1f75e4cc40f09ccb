//! A connection that carries a trickle stays ready for a burst.

use std::time::Duration;

use l4proxy_tunnel::{Role, StreamWrite, TunnelStream};

use crate::streams::{bytes_at, opened, read_all};
use crate::world::World;

/// The first window does not leave in one go.
const SPREAD_MS: u64 = 35;

/// How long `total` bytes take from PoP 0 to PoP 1.
fn burst(world: &mut World, (here, there): (TunnelStream, TunnelStream), total: usize) -> Duration {
    let (start, bytes) = (world.now, bytes_at(1, 0, total));
    let (mut written, mut read) = (0, 0);
    world.run_until(Duration::from_secs(60), |world| {
        if written < total
            && let StreamWrite::Wrote(count) = world.pops[0].tunnels.write(here, &bytes[written..])
        {
            written += count;
        }
        read += read_all(world, 1, there).0.len();
        read == total
    });
    world.now - start
}

/// `count` messages of `size` bytes, one every `gap_ms`.
fn trickle(
    world: &mut World,
    (here, there): (TunnelStream, TunnelStream),
    size: usize,
    gap_ms: u64,
    count: u64,
) {
    for _ in 0..count {
        world.pops[0].tunnels.write(here, &vec![1; size]);
        world.run_for(Duration::from_millis(gap_ms));
        read_all(world, 1, there);
    }
    world.run_for(Duration::from_secs(1));
    read_all(world, 1, there);
}

fn far_apart(seed: u64, loss: f64) -> (World, (TunnelStream, TunnelStream)) {
    let mut world = World::pair(seed);
    world.conditions.delay = Duration::from_millis(90);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let ends = opened(&mut world, key);
    world.conditions.loss = loss;
    (world, ends)
}

#[test]
fn after_any_trickle_a_burst_is_as_fast_as_on_a_new_connection() {
    let (mut world, ends) = far_apart(120, 0.0);
    let cold = burst(&mut world, ends, 100_000);
    assert!(cold <= Duration::from_millis(90 + SPREAD_MS), "{cold:?}");
    // Keep-alives alone, somebody typing, a telnet session, a game, a voice call, a slow download.
    for (size, gap_ms, count) in
        [(0, 60_000, 1), (40, 1000, 60), (40, 200, 150), (600, 23, 1500), (160, 20, 1500), (5000, 100, 300)]
    {
        for loss in [0.0, 0.01] {
            let (mut world, ends) = far_apart(121, loss);
            trickle(&mut world, ends, size, gap_ms, count);
            let (first, second) = (burst(&mut world, ends, 100_000), burst(&mut world, ends, 1_000_000));
            // A cold connection takes 120 and 540 ms. One round trip more is granted, and another to make up for losses.
            let limits = if loss < 0.01 { (90 + SPREAD_MS, 750) } else { (300 + SPREAD_MS, 900) };
            assert!(first <= Duration::from_millis(limits.0), "{size} {gap_ms} {loss}: {first:?}");
            assert!(second <= Duration::from_millis(limits.1), "{size} {gap_ms} {loss}: {second:?}");
        }
    }
}

#[test]
fn a_window_that_was_earned_is_kept_through_silence_and_trickle() {
    let (mut world, ends) = far_apart(122, 0.0005);
    burst(&mut world, ends, 10_000_000);
    let warm = burst(&mut world, ends, 1_000_000);
    assert!(warm <= Duration::from_millis(300), "{warm:?}");
    world.run_for(Duration::from_secs(60));
    let silent = burst(&mut world, ends, 1_000_000);
    assert!(silent <= Duration::from_millis(300), "{silent:?}");
    trickle(&mut world, ends, 600, 20, 3000);
    let trickled = burst(&mut world, ends, 1_000_000);
    assert!(trickled <= Duration::from_millis(300), "{trickled:?}");
}
