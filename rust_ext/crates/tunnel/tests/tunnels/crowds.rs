//! Many flows in one connection, and small ones beside a large one on a link that has a rate.

use std::time::{Duration, Instant};

use l4proxy_tunnel::{Role, StreamWrite, TunnelEvent, TunnelStream};

use crate::streams::{Transfer, bytes_at, open, opened, read_all};
use crate::world::World;

/// Flows that one connection carries at once with ease; it may carry twice as many.
const MANY: usize = 5_000;

#[test]
fn five_thousand_flows_of_one_connection_carry_messages_both_ways() {
    let mut world = World::pair(41);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let here: Vec<TunnelStream> = (0..MANY as u64)
        .map(|flow| {
            if flow % 500 == 0 {
                world.run_for(Duration::from_millis(30));
            }
            world.pops[0].tunnels.open_stream(key, &open(flow)).unwrap()
        })
        .collect();
    world.run_for(Duration::from_secs(1));
    let mut there = vec![None; MANY];
    for event in std::mem::take(&mut world.pops[1].events) {
        if let TunnelEvent::StreamIncoming { stream, open, .. } = event {
            assert!(world.pops[1].tunnels.accept(stream));
            there[open.flow.0 as usize] = Some(stream);
        }
    }
    let there: Vec<TunnelStream> = there.into_iter().map(Option::unwrap).collect();
    world.run_for(Duration::from_secs(1));
    for round in 0..3u64 {
        for (flow, (here, there)) in here.iter().zip(&there).enumerate() {
            for (pop, stream) in [(0, *here), (1, *there)] {
                let bytes = bytes_at(flow as u64 * 2 + pop as u64, round * 100, 100);
                assert_eq!(world.pops[pop].tunnels.write(stream, &bytes), StreamWrite::Wrote(100));
            }
        }
        world.run_for(Duration::from_millis(500));
        for (flow, (here, there)) in here.iter().zip(&there).enumerate() {
            for (pop, stream) in [(1, *there), (0, *here)] {
                let expected = bytes_at(flow as u64 * 2 + (1 - pop) as u64, round * 100, 100);
                assert!(read_all(&mut world, pop, stream).0 == expected, "flow {flow} at {pop}");
            }
        }
        for pop in &mut world.pops {
            pop.events.clear();
        }
    }
    assert_eq!(world.pops[0].tunnels.counters().streams, MANY);
}

/// One-way times of messages of 100 bytes, 50 a second, beside a bulk flow over 100 Mbit/s and 60 ms, sorted.
fn beside_bulk(seed: u64) -> Vec<Duration> {
    let mut world = World::pair(seed);
    world.conditions.delay = Duration::from_millis(30);
    // A queue of one bandwidth-delay product: 60 ms.
    (world.conditions.rate, world.conditions.queue) = (12_500_000, 750_000);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let (small, small_there) = opened(&mut world, key);
    let (here, there) = opened(&mut world, key);
    let mut bulk = Transfer::new((0, here), (1, there), 1, 1 << 40);
    let until = |world: &mut World, bulk: &mut Transfer, end: Instant| {
        world.run_until(Duration::from_secs(20), |world| {
            bulk.step(world);
            world.now >= end
        });
    };
    let start = world.now + Duration::from_secs(3);
    until(&mut world, &mut bulk, start);
    let read_before = bulk.read;
    let mut times = Vec::new();
    for number in 0..200 {
        let asked = start + Duration::from_millis(20) * number;
        until(&mut world, &mut bulk, asked);
        let asked = world.now;
        let mut is_written = false;
        world.run_until(Duration::from_secs(5), |world| {
            bulk.step(world);
            let tunnels = &mut world.pops[0].tunnels;
            is_written = is_written || tunnels.write(small, &[7; 100]) == StreamWrite::Wrote(100);
            !read_all(world, 1, small_there).0.is_empty()
        });
        times.push(world.now - asked);
    }
    let rate = (bulk.read - read_before) as f64 * 8e-6 / (world.now - start).as_secs_f64();
    assert!(rate > 80.0, "the bulk flow had what it could: {rate} Mbit/s");
    times.sort_unstable();
    times
}

#[test]
fn a_bulk_flow_does_not_delay_small_ones_by_more_than_its_probes_queue() {
    let times = beside_bulk(42);
    // The controller tries a quarter more than the path carries for one round trip at a time: 15 ms that wait. Mostly there is no queue.
    assert!(times[100] <= Duration::from_millis(33), "{times:?}");
    assert!(times[197] <= Duration::from_millis(45), "{times:?}");
}
