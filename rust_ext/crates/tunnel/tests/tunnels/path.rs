//! What happens to flows when the path beneath their connection goes dead, changes, or comes back.

use std::time::Duration;

use l4proxy_tunnel::{PathHint, Role, TunnelEvent};
use l4proxy_wire::channel::{Datagram, Frame};

use crate::streams::{Transfer, opened, read_all};
use crate::world::World;

/// How long a cut goes unnoticed.
const UNNOTICED: Duration = Duration::from_millis(150);

/// One way over the path that is taken then.
const NEW_DELAY: Duration = Duration::from_millis(30);

/// Packets that had arrived, but whose acknowledgements were lost, go out again before the first that the receiver waits for.
const PACING: Duration = Duration::from_millis(20);

/// What a receiver sees of a transfer that is cut on its way and goes on over a path of another length.
#[derive(Debug)]
struct Reroute {
    /// From the cut to the next bytes.
    gap: Duration,
    /// From the cut until five more megabytes have come.
    caught_up: Duration,
    resent: u64,
}

/// Cut a transfer after so many bytes; `is_told`: both ends are told of the change.
fn reroute(seed: u64, cut_after: u64, loss: f64, is_told: bool) -> Reroute {
    let mut world = World::pair(seed);
    world.conditions.delay = Duration::from_millis(20);
    let (key, accepted) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    let mut transfer = Transfer::new((0, here), (1, there), 1, cut_after + 8_000_000);
    world.run_until(Duration::from_secs(5), |world| {
        transfer.step(world);
        transfer.read > cut_after
    });
    assert!(!transfer.is_finished);
    world.conditions.is_cut = true;
    let cut_at = world.now;
    while world.now < cut_at + UNNOTICED {
        world.run_for(Duration::from_millis(1));
        transfer.step(&mut world);
    }
    world.conditions.is_cut = false;
    (world.conditions.delay, world.conditions.loss) = (NEW_DELAY, loss);
    if is_told {
        let now = world.now;
        world.pops[0].tunnels.handle_path_loss(now, key, PathHint::default());
        world.pops[1].tunnels.handle_path_loss(now, accepted, PathHint::default());
    }
    transfer.step(&mut world);
    let before = transfer.read;
    let (mut resumed_at, mut caught_up_at) = (None, None);
    world.run_until(Duration::from_secs(60), |world| {
        let is_done = transfer.step(world);
        if transfer.read > before {
            resumed_at.get_or_insert(world.now);
        }
        if transfer.read > before + 5_000_000 {
            caught_up_at.get_or_insert(world.now);
        }
        is_done
    });
    for pop in 0..2 {
        let ended = world.take_event(pop, |event| {
            matches!(event, TunnelEvent::StreamGone { .. } | TunnelEvent::Lost { .. }).then_some(())
        });
        assert_eq!(ended, None, "the flow never notices");
    }
    Reroute {
        gap: resumed_at.unwrap() - cut_at,
        caught_up: caught_up_at.unwrap() - cut_at,
        resent: world.pops[0].tunnels.counters().packets_resent,
    }
}

#[test]
fn what_a_dead_path_has_swallowed_is_there_as_soon_as_the_next_path_can_carry_it() {
    for (seed, cut_after) in [(100, 100_000), (101, 1_000_000), (102, 5_000_000)] {
        let told = reroute(seed, cut_after, 0.0, true);
        assert!(told.gap < UNNOTICED + NEW_DELAY + PACING, "seed {seed}: {told:?}");
        assert!(told.resent > 0);
        let untold = reroute(seed, cut_after, 0.0, false);
        assert_eq!(untold.resent, 0);
        assert!(untold.gap > told.gap + NEW_DELAY, "seed {seed}: {told:?} {untold:?}");
        // A path of which nothing is known is felt out before it is sent more than 100 Mbit/s.
        assert!(untold.caught_up + PACING > told.caught_up, "seed {seed}: {told:?} {untold:?}");
    }
}

#[test]
fn a_next_path_that_loses_packets_does_not_stop_it() {
    for seed in 110..113 {
        let told = reroute(seed, 3_000_000, 0.02, true);
        assert!(told.gap < UNNOTICED + NEW_DELAY * 4, "seed {seed}: {told:?}");
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
    world.pops[0].tunnels.handle_path_loss(now, key, PathHint::default());
    world.pops[1].tunnels.handle_path_loss(now, accepted, PathHint::default());
    world.run_until(Duration::from_secs(10), |world| transfer.step(world));
}

#[test]
fn a_path_change_during_the_handshake_does_no_harm() {
    let mut world = World::pair(103);
    let key = world.connect(0, 1, Role::Flows, "off");
    for _ in 0..5 {
        let now = world.now;
        world.pops[0].tunnels.handle_path_loss(now, key, PathHint::default());
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
        world.pops[0].tunnels.handle_path_loss(now, key, PathHint::default());
        world.pops[1].tunnels.handle_path_loss(now, accepted, PathHint::default());
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
        Frame::Data { session: l4proxy_wire::ids::SessionId(1), datagram: Datagram::unmarked(b"tick") };
    world.conditions.is_cut = true;
    world.pops[0].tunnels.send_frame(key, &frame).unwrap();
    world.run_for(Duration::from_millis(300));
    world.conditions.is_cut = false;
    world.pops[0].tunnels.send_frame(key, &frame).unwrap();
    world.run_for(Duration::from_millis(11));
    assert_eq!(world.pops[1].frames.len(), 1);
}

#[test]
fn datagrams_that_a_dead_path_has_swallowed_arrive_late_and_once() {
    let mut world = World::pair(106);
    world.conditions.delay = Duration::from_millis(20);
    let (key, _) = world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_millis(100));
    let tick = |world: &mut World, number: u32| {
        let session = l4proxy_wire::ids::SessionId(number);
        let frame = Frame::Data { session, datagram: Datagram::unmarked(b"tick") };
        world.pops[0].tunnels.send_frame(key, &frame).unwrap();
        world.run_for(Duration::from_millis(10));
    };
    let ticks = |world: &World| -> Vec<Vec<u8>> {
        world.pops[1].frames.iter().map(|(_, frame)| frame.clone()).collect()
    };
    (0..10).for_each(|number| tick(&mut world, number));
    world.conditions.is_cut = true;
    (10..22).for_each(|number| tick(&mut world, number));
    assert_eq!(ticks(&world).len(), 10, "what was on its way at the cut arrives, nothing after it");
    world.conditions.is_cut = false;

    let now = world.now;
    world.pops[0].tunnels.handle_path_loss(now, key, PathHint::default());
    (22..30).for_each(|number| tick(&mut world, number));
    world.run_for(Duration::from_millis(100));

    let mut found = ticks(&world);
    let late = found.split_off(10);
    assert_eq!(late.len(), 20, "all of them, and none twice");
    let numbers: Vec<u8> = late.iter().map(|frame| frame[4]).collect();
    assert_eq!(numbers, (10..30).collect::<Vec<_>>(), "in order");
    assert!(world.pops[0].tunnels.counters().packets_resent >= 12);
    let replayed = world.drops(1, l4proxy_wire::DropReason::ChannelReplayed);
    assert!(replayed > 0, "those that had arrived are known");
}

#[test]
fn who_had_little_to_send_before_a_path_loss_is_not_held_to_that_after_it() {
    let mut world = World::pair(130);
    // A thin path, of which it is known how thin it is.
    world.conditions.delay = Duration::from_millis(20);
    (world.conditions.rate, world.conditions.queue) = (60_000, 20_000);
    let (key, accepted) = world.connected(0, 1, Role::Flows);
    let (first, first_there) = opened(&mut world, key);
    let mut transfer = Transfer::new((1, first_there), (0, first), 1, 300_000);
    world.run_until(Duration::from_secs(20), |world| transfer.step(world));
    let (talk, talk_there) = opened(&mut world, key);
    for _ in 0..50 {
        world.pops[1].tunnels.write(talk_there, &[7; 60]);
        world.run_for(Duration::from_millis(100));
        read_all(&mut world, 0, talk);
    }
    // The next one carries two hundred times as much.
    (world.conditions.rate, world.conditions.queue) = (12_500_000, 500_000);
    let now = world.now;
    world.pops[0].tunnels.handle_path_loss(now, key, PathHint::default());
    world.pops[1].tunnels.handle_path_loss(now, accepted, PathHint::default());

    let (here, there) = opened(&mut world, key);
    let mut transfer = Transfer::new((1, there), (0, here), 2, 2_000_000);
    world.run_until(Duration::from_secs(1), |world| transfer.step(world));
}
