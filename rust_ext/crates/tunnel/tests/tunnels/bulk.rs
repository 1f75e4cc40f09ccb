//! One large flow: how fast it goes, over how many streams, and that it ends as any other.

use std::time::Duration;

use l4proxy_tunnel::{Role, STREAM_WINDOW, StreamRead, StreamWrite, TunnelEvent, TunnelStream};
use l4proxy_wire::codes::StreamCode;

use crate::streams::{Transfer, bytes_at, opened, read_all};
use crate::world::World;

/// Two ends of an open flow over a path of so much one way.
fn far_apart(seed: u64, delay_ms: u64, loss: f64) -> (World, (TunnelStream, TunnelStream)) {
    let mut world = World::pair(seed);
    world.conditions.delay = Duration::from_millis(delay_ms);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let ends = opened(&mut world, key);
    world.conditions.loss = loss;
    (world, ends)
}

/// Mbit/s of a flow between its byte `from` and its end.
fn speed(seed: u64, (delay_ms, loss): (u64, f64), from: u64, total: u64) -> f64 {
    let (mut world, (here, there)) = far_apart(seed, delay_ms, loss);
    let mut transfer = Transfer::new((0, here), (1, there), 1, total);
    let mut since = None;
    world.run_until(Duration::from_secs(300), |world| {
        let is_done = transfer.step(world);
        if transfer.read >= from {
            since.get_or_insert((world.now, transfer.read));
        }
        is_done
    });
    let (at, read) = since.unwrap();
    (total - read) as f64 * 8e-6 / (world.now - at).as_secs_f64()
}

#[test]
fn one_flow_is_faster_than_one_stream_allows() {
    // A window of 2.5 MB is 111 Mbit/s over 180 ms, and 63 over 316 ms without any loss.
    let clean = speed(1, (90, 0.0005), 25_000_000, 50_000_000);
    assert!(clean > 200.0, "{clean}");
    // One stream takes 20 Mbit/s there.
    let lossy = speed(2, (158, 0.05), 15_000_000, 27_000_000);
    assert!(lossy > 28.0, "{lossy}");
}

#[test]
#[ignore = "half a minute; the figures of docs/decisions/0009"]
#[expect(clippy::print_stdout, reason = "it is there to print")]
fn figures() {
    for conditions in [(90, 0.0), (90, 0.0005), (90, 0.01), (158, 0.05)] {
        println!("{conditions:?}: {} Mbit/s", speed(1, conditions, 200_000_000, 400_000_000));
    }
}

#[test]
fn a_striped_flow_half_closes_and_leaves_nothing_behind() {
    let (mut world, (here, there)) = far_apart(3, 50, 0.01);
    let mut transfer = Transfer::new((0, here), (1, there), 1, 8_000_000);
    world.run_until(Duration::from_secs(60), |world| transfer.step(world));
    // The other direction goes on, and is told the end when it comes.
    let answer = bytes_at(2, 0, 9_000);
    assert_eq!(world.pops[1].tunnels.write(there, &answer), StreamWrite::Wrote(answer.len()));
    world.pops[1].tunnels.finish(there);
    let mut read = Vec::new();
    world.run_until(Duration::from_secs(10), |world| {
        let (bytes, end) = read_all(world, 0, here);
        read.extend(bytes);
        matches!(end, StreamRead::Finished | StreamRead::Gone)
    });
    assert_eq!(read, answer);
    world.run_for(Duration::from_secs(5));
    for pop in 0..2 {
        assert_eq!(world.pops[pop].tunnels.counters().streams, 0, "at {pop}");
        let ended = world.take_event(pop, |event| {
            matches!(event, TunnelEvent::StreamGone { .. } | TunnelEvent::Lost { .. }).then_some(())
        });
        assert_eq!(ended, None, "a flow that ends well ends without an event");
    }
}

#[test]
fn striped_flows_follow_each_other() {
    let mut world = World::pair(4);
    world.conditions.delay = Duration::from_millis(50);
    let (key, _) = world.connected(0, 1, Role::Flows);
    for flow in 0..4 {
        let (here, there) = opened(&mut world, key);
        let mut transfer = Transfer::new((0, here), (1, there), flow, 5_000_000);
        world.run_until(Duration::from_secs(60), |world| transfer.step(world));
        world.pops[1].tunnels.finish(there);
        world.run_for(Duration::from_secs(1));
        read_all(&mut world, 0, here);
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.pops[0].tunnels.counters().streams, 0);
        assert_eq!(world.pops[1].tunnels.counters().streams, 0);
    }
}

#[test]
fn a_reset_ends_a_striped_flow_at_both_ends_and_no_other() {
    for resetting in 0..2 {
        let (mut world, (here, there)) = far_apart(5 + resetting as u64, 50, 0.0);
        let (other, far_other) = opened(&mut world, here.connection);
        let mut transfer = Transfer::new((0, here), (1, there), 1, 100_000_000);
        world.run_until(Duration::from_secs(60), |world| {
            transfer.step(world);
            transfer.read > 8_000_000
        });
        let (stream, peer) = if resetting == 0 { (here, (1, there)) } else { (there, (0, here)) };
        world.pops[resetting].tunnels.reset(stream, StreamCode::TcpReset);
        let code = world.wait_event(peer.0, |event| match event {
            TunnelEvent::StreamGone { stream, code, .. } if *stream == peer.1 => Some(*code),
            _ => None,
        });
        assert_eq!(code, Some(StreamCode::TcpReset));
        let mut transfer = Transfer::new((0, other), (1, far_other), 2, 2_000_000);
        world.run_until(Duration::from_secs(60), |world| transfer.step(world));
    }
}

#[test]
fn a_reader_that_stops_holds_up_its_own_striped_flow_only_in_bounded_memory() {
    let (mut world, (here, there)) = far_apart(7, 50, 0.0);
    let (other, far_other) = opened(&mut world, here.connection);
    let mut slow = Transfer::new((0, here), (1, there), 1, 1 << 40);
    // It reads for a while, so that it is striped, then never again.
    world.run_until(Duration::from_secs(60), |world| {
        slow.step(world);
        slow.read > 5_000_000
    });
    let bytes = bytes_at(1, 0, 50_000);
    let mut taken = 0;
    for _ in 0..400 {
        while let StreamWrite::Wrote(count) = world.pops[0].tunnels.write(here, &bytes) {
            taken += count;
        }
        world.run_for(Duration::from_millis(20));
    }
    assert!(taken <= 17 * STREAM_WINDOW as usize, "{taken}");
    let mut transfer = Transfer::new((0, other), (1, far_other), 2, 8_000_000);
    let start = world.now;
    world.run_until(Duration::from_secs(20), |world| transfer.step(world));
    assert!(world.now - start < Duration::from_secs(4), "{:?}", world.now - start);
}
