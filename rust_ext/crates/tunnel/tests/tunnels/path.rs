//! What happens to flows when the path beneath their connection goes dead, changes, or comes back.

use std::time::Duration;

use l4proxy_tunnel::{Role, TunnelEvent};

use crate::streams::{Transfer, opened};
use crate::world::World;

/// A transfer that is cut after a second for 150 ms, then goes on over a path of another length; `helps`: both ends are
/// told of the change. How long the receiver heard nothing.
fn gap_over_a_reroute(seed: u64, helps: bool) -> Duration {
    let mut world = World::pair(seed);
    world.conditions.delay = Duration::from_millis(20);
    let (key, accepted) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    let mut transfer = Transfer::new((0, here), (1, there), 1, 15_000_000);
    let start = world.now;
    world.run_until(Duration::from_secs(5), |world| {
        transfer.step(world);
        transfer.read > 5_000_000
    });
    assert!(!transfer.is_finished && world.now > start);
    world.conditions.is_cut = true;
    let cut_at = world.now;
    world.run_for(Duration::from_millis(150));
    world.conditions.is_cut = false;
    world.conditions.delay = Duration::from_millis(30);
    if helps {
        let now = world.now;
        world.pops[0].tunnels.handle_path_change(now, key);
        world.pops[1].tunnels.handle_path_change(now, accepted);
    }
    transfer.step(&mut world);
    let before = transfer.read;
    let mut resumed_at = None;
    world.run_until(Duration::from_secs(60), |world| {
        let is_done = transfer.step(world);
        if transfer.read > before && resumed_at.is_none() {
            resumed_at = Some(world.now);
        }
        is_done
    });
    for pop in 0..2 {
        let ended = world.take_event(pop, |event| {
            matches!(event, TunnelEvent::StreamGone { .. } | TunnelEvent::Lost { .. }).then_some(())
        });
        assert_eq!(ended, None, "the flow never notices");
    }
    resumed_at.unwrap() - cut_at
}

#[test]
fn a_flow_survives_a_reroute_and_recovers_sooner_when_told() {
    for seed in [100, 101] {
        let (told, untold) = (gap_over_a_reroute(seed, true), gap_over_a_reroute(seed, false));
        assert!(told <= untold, "{told:?} {untold:?}");
        assert!(told < Duration::from_millis(350), "{told:?}");
    }
}

#[test]
fn a_flow_survives_ten_seconds_of_darkness() {
    let mut world = World::pair(102);
    let (key, accepted) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    let mut transfer = Transfer::new((0, here), (1, there), 1, 3_000_000);
    world.run_until(Duration::from_secs(5), |world| {
        transfer.step(world);
        transfer.read > 200_000
    });
    world.conditions.is_cut = true;
    world.run_for(Duration::from_secs(10));
    world.conditions.is_cut = false;
    let now = world.now;
    world.pops[0].tunnels.handle_path_change(now, key);
    world.pops[1].tunnels.handle_path_change(now, accepted);
    world.run_until(Duration::from_secs(10), |world| transfer.step(world));
}

#[test]
fn a_path_change_during_the_handshake_does_no_harm() {
    let mut world = World::pair(103);
    let key = world.connect(0, 1, Role::Flows, "off");
    for _ in 0..5 {
        let now = world.now;
        world.pops[0].tunnels.handle_path_change(now, key);
        world.run_for(Duration::from_millis(7));
    }
    world.wait_event(0, |event| matches!(event, TunnelEvent::Connected { .. }).then_some(()));
}

#[test]
fn many_path_changes_do_not_use_up_the_connection() {
    let mut world = World::pair(104);
    let (key, accepted) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    for _ in 0..200 {
        let now = world.now;
        world.pops[0].tunnels.handle_path_change(now, key);
        world.pops[1].tunnels.handle_path_change(now, accepted);
        world.run_for(Duration::from_millis(5));
    }
    let mut transfer = Transfer::new((0, here), (1, there), 1, 1_000_000);
    world.run_until(Duration::from_secs(10), |world| transfer.step(world));
}

#[test]
fn datagrams_go_on_over_the_new_path_at_once() {
    let mut world = World::pair(105);
    let (key, _) = world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_millis(100));
    let frame =
        l4proxy_wire::channel::Frame::Data { session: l4proxy_wire::ids::SessionId(1), datagram: b"tick" };
    world.conditions.is_cut = true;
    world.pops[0].tunnels.send_frame(key, &frame).unwrap();
    world.run_for(Duration::from_millis(300));
    world.conditions.is_cut = false;
    world.pops[0].tunnels.send_frame(key, &frame).unwrap();
    world.run_for(Duration::from_millis(11));
    assert_eq!(world.pops[1].frames.len(), 1);
}
