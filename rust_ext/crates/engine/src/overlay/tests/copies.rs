//! Datagrams over two paths: when they are copied, within which budget, and that they arrive once.

use super::*;

/// Send `count` frames of one app from 0 to 2, one packet each, once paths between them are known to live.
fn send_frames(world: &mut World, duplication: Duplication, count: usize) {
    let budget = app_budget();
    let wish = Wish { duplication, budget: &budget };
    let frame = Frame::Data { session: SessionId(9), datagram: Datagram::unmarked(&[7; 160]) };
    world.pops[0].overlay.send_frame(Instant::now(), 2, &frame, wish).unwrap();
    let settled = Instant::now() + Duration::from_millis(300);
    world.until("hellos have been exchanged", |_| Instant::now() > settled);
    world.pops[2].frames.clear();
    for _ in 0..count {
        world.pops[0].overlay.send_frame(Instant::now(), 2, &frame, wish).unwrap();
        world.turn();
    }
    world.until("all frames", |world| world.pops[2].frames.len() >= count);
}

#[test]
fn a_frame_that_is_to_go_twice_takes_both_paths_and_arrives_once() {
    let mut world = World::new();
    world.apply(both);
    world.until_tunnels_are_up();
    let before = world.pops[1].overlay.totals().packets_forwarded;

    send_frames(&mut world, Duplication::Always, 50);

    assert_eq!(world.pops[0].overlay.totals().packets_copied, 50);
    world.until("the copies", |world| drops_of(world, 2, "channel_replayed") >= 50);
    assert_eq!((world.pops[2].frames.len(), drops_of(&world, 2, "channel_replayed")), (50, 50));
    assert!(world.pops[1].overlay.totals().packets_forwarded - before >= 50);
}

#[test]
fn a_path_that_loses_nothing_gets_no_copies_where_they_are_for_loss() {
    let mut world = World::new();
    world.apply(both);
    world.until_tunnels_are_up();

    send_frames(&mut world, Duplication::OnLoss, 50);
    assert_eq!(world.pops[0].overlay.totals().packets_copied, 0);

    let handle = world.pops[0].overlay.tables.handle(2).unwrap().state.clone();
    let wish = Wish { duplication: Duplication::OnLoss, budget: &app_budget() };
    let frame = Frame::Data { session: SessionId(9), datagram: Datagram::unmarked(b"x") };
    handle.is_lossy.store(true, Ordering::Relaxed);
    world.pops[0].overlay.send_frame(Instant::now(), 2, &frame, wish).unwrap();
    let now = Instant::now();
    world.pops[0].overlay.pump_tunnels(now);
    assert_eq!(world.pops[0].overlay.totals().packets_copied, 1);
}

#[test]
fn copies_keep_to_the_budget_of_their_link_and_need_a_second_path() {
    let mut world = World::new();
    // A tenth of a second's worth at once: two frames of 192 bytes.
    world.copies_bytes_per_s = 4_000;
    world.apply(both);
    world.until_tunnels_are_up();
    send_frames(&mut world, Duplication::Always, 50);
    let copied = world.pops[0].overlay.totals().packets_copied;
    // What a test of less than ten seconds can have earned.
    assert!((1..=2 + 10 * 4_000 / 192).contains(&copied) && copied < 50, "{copied}");
    assert_eq!(drops_of(&world, 0, "copy_over_budget"), 50 - copied);
    assert_eq!(world.pops[2].frames.len(), 50, "what is over it goes once");

    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    send_frames(&mut world, Duplication::Always, 50);
    assert_eq!(world.pops[0].overlay.totals().packets_copied, 0);
    assert_eq!(drops_of(&world, 0, "copy_no_path"), 51);
}
