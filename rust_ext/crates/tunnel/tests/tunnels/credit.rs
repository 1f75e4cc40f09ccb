//! What flows hold whose readers have stopped: bounded for each flow, each connection and the worker, and never at the cost of others.

use std::time::Duration;

use l4proxy_tunnel::{ConnectionKey, Role, StreamRead, StreamWrite, TunnelStream};
use l4proxy_wire::codes::{CloseCode, StreamCode};

use crate::certificates::Authority;
use crate::streams::{Transfer, bytes_at, opened, read_all};
use crate::world::World;

const MB: u64 = 1 << 20;

/// What a flow may always have under way.
const FREE: u64 = 32 << 10;

/// The way itself, and what the sender waits between two packets.
const ONE_WAY: Duration = Duration::from_millis(45);

/// Two PoPs 80 ms apart, whose workers hold at most `memory` bytes.
fn narrow(seed: u64, memory: [u64; 2]) -> World {
    let authority = Authority::new();
    let mut world = World::new(seed);
    for (name, memory) in ["ams", "iad"].into_iter().zip(memory) {
        world.add_pop(name, authority.identity(name), |options| options.max_memory_bytes = memory as usize);
    }
    world.know_each_other(&["ams", "iad"]);
    world.conditions.delay = Duration::from_millis(40);
    world
}

/// Writes to all of `flows` until none takes any more, and none of it is read; what they took in all.
fn stuff(world: &mut World, flows: &[(TunnelStream, TunnelStream)]) -> u64 {
    let block = bytes_at(1, 0, 256 << 10);
    let mut taken = 0;
    for _ in 0..60 {
        for (here, _) in flows {
            while let StreamWrite::Wrote(count) = world.pops[0].tunnels.write(*here, &block) {
                taken += count as u64;
            }
        }
        world.run_for(Duration::from_millis(100));
    }
    taken
}

/// How long a message takes from PoP 0 to PoP 1, from the moment when it is to be sent, while `goes_on` goes on.
fn message(
    world: &mut World,
    (here, there): (TunnelStream, TunnelStream),
    mut goes_on: impl FnMut(&mut World),
) -> Duration {
    let asked = world.now;
    let mut is_written = false;
    world.run_until(Duration::from_secs(5), |world| {
        goes_on(world);
        is_written = is_written || world.pops[0].tunnels.write(here, b"tick") == StreamWrite::Wrote(4);
        !read_all(world, 1, there).0.is_empty()
    });
    world.now - asked
}

#[test]
fn readers_that_stop_never_fill_what_all_flows_share() {
    let mut world = narrow(1, [1024 * MB; 2]);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let stalled: Vec<_> = (0..120).map(|_| opened(&mut world, key)).collect();
    let taken = stuff(&mut world, &stalled);
    // QUIC alone would take 2.5 MB of each, until nothing is left for anybody.
    assert!(taken > 4 * MB && taken <= 16 * MB + 120 * FREE, "{taken}");
    let small = opened(&mut world, key);
    for _ in 0..5 {
        let time = message(&mut world, small, |_| ());
        assert!(time <= ONE_WAY, "{time:?}");
    }
    // Another large flow goes on, too, with what every flow may have.
    let (here, there) = opened(&mut world, key);
    let mut transfer = Transfer::new((0, here), (1, there), 3, 400_000);
    world.run_until(Duration::from_secs(4), |world| transfer.step(world));
}

#[test]
fn beside_a_stalled_flow_and_a_bulk_flow_a_hundred_small_ones_do_not_wait() {
    let mut world = narrow(2, [1024 * MB; 2]);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let stalled = opened(&mut world, key);
    let (bulk_here, bulk_there) = opened(&mut world, key);
    let small: Vec<_> = (0..100).map(|_| opened(&mut world, key)).collect();
    let taken = stuff(&mut world, &[stalled]);
    // A reader that never begins holds little.
    assert_eq!(taken, (512 << 10) + FREE);
    world.conditions.loss = 0.01;
    (world.conditions.rate, world.conditions.queue) = (12_500_000, 100_000);
    let mut bulk = Transfer::new((0, bulk_here), (1, bulk_there), 1, 1 << 40);
    let mut times: Vec<_> =
        small.iter().map(|flow| message(&mut world, *flow, |world| _ = bulk.step(world))).collect();
    times.sort_unstable();
    assert!(bulk.read > 10_000_000, "it was busy: {}", bulk.read);
    // Within a round trip; two more for those whose packet was lost, which is one in a hundred.
    assert!(times[95] <= Duration::from_millis(80), "{times:?}");
    assert!(times[99] <= Duration::from_millis(240), "{times:?}");
}

#[test]
fn all_connections_together_hold_no_more_than_the_worker_may() {
    const MEMORY: u64 = 64 * MB;
    let mut world = narrow(3, [MEMORY, 2048 * MB]);
    let keys: Vec<ConnectionKey> = (0..8).map(|_| world.connected(0, 1, Role::Flows).0).collect();
    let all = |world: &mut World| keys.iter().map(|key| opened(world, *key)).collect::<Vec<_>>();
    let small = all(&mut world);
    let stalled: Vec<_> = (0..8).flat_map(|_| all(&mut world)).collect();
    let taken = stuff(&mut world, &stalled);
    let counters = world.pops[0].tunnels.counters();
    assert!(taken <= MEMORY / 4 + 64 * FREE, "{taken}");
    assert!(counters.sending_bytes <= MEMORY / 4 && counters.sending_bytes > MEMORY / 16, "{counters:?}");
    assert!(counters.writes_short > 0, "it says so");
    for flow in &small {
        let time = message(&mut world, *flow, |_| ());
        assert!(time <= ONE_WAY, "{time:?}");
    }
    // When it is read at last, everything is free again.
    for _ in 0..40 {
        for (_, there) in &stalled {
            read_all(&mut world, 1, *there);
        }
        world.run_for(Duration::from_millis(100));
    }
    assert_eq!(world.pops[0].tunnels.counters().sending_bytes, 0);
}

#[test]
fn windows_grow_with_their_use_as_far_as_memory_allows_and_go_with_their_connection() {
    const MEMORY: u64 = 64 * MB;
    let mut world = narrow(4, [MEMORY; 2]);
    let mut shorts = 0;
    for bytes in [24_000_000, 1_000_000, 1_000_000, 1_000_000] {
        let (key, _) = world.connected(0, 1, Role::Flows);
        let (here, there) = opened(&mut world, key);
        let mut transfer = Transfer::new((0, here), (1, there), 1, bytes);
        world.run_until(Duration::from_secs(60), |world| transfer.step(world));
        let counters = world.pops[1].tunnels.counters();
        assert!(counters.window_bytes <= MEMORY / 2, "{counters:?}");
        shorts = counters.windows_short;
    }
    assert!(shorts > 0, "and it says that it would have needed more");
    let keys: Vec<_> = world.pops[0].tunnels.connections().map(|(key, _)| key).collect();
    for key in keys {
        let now = world.now;
        world.pops[0].tunnels.close(now, key, CloseCode::Done);
    }
    world.run_for(Duration::from_secs(5));
    for pop in &world.pops {
        let counters = pop.tunnels.counters();
        assert_eq!((counters.window_bytes, counters.sending_bytes), (0, 0));
    }
}

#[test]
fn what_is_left_unread_of_a_flow_that_has_ended_is_counted_until_it_is_read() {
    let mut world = narrow(5, [1024 * MB; 2]);
    let (key, _) = world.connected(0, 1, Role::Flows);
    for is_reset in [false, true] {
        let (here, there) = opened(&mut world, key);
        let bytes = bytes_at(1, 0, 500_000);
        assert_eq!(world.pops[0].tunnels.write(here, &bytes), StreamWrite::Wrote(bytes.len()));
        world.pops[0].tunnels.finish(here);
        world.pops[1].tunnels.finish(there);
        world.run_for(Duration::from_secs(1));
        assert_eq!(read_all(&mut world, 0, here).1, StreamRead::Finished);
        assert_eq!(world.pops[0].tunnels.counters().streams, 0, "it is over at this end");
        assert_eq!(world.pops[0].tunnels.counters().sending_bytes, bytes.len() as u64 - FREE);
        if is_reset {
            world.pops[1].tunnels.reset(there, StreamCode::TcpReset);
        } else {
            assert!(read_all(&mut world, 1, there).0 == bytes);
        }
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.pops[0].tunnels.counters().sending_bytes, 0, "{is_reset}");
    }
}
