//! Two PoPs, A and B, each with two directed paths to the other, joined by a network in virtual time.
//!
//! A's paths are 1 (primary) and 2, B's are 11 and 12. Each has a delay, a jitter, and a rule that says which packets are lost.

use super::*;

mod presence;
mod properties;
mod seeded;
mod suspicion;
mod told;
mod world;

use world::{World, other};

const A: PopId = PopId(0xa);
const B: PopId = PopId(0xb);
const KEY: KeyGeneration = KeyGeneration(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

/// A hello of B without reports.
fn hello_of(path: u32, sequence: u32, sent_us: u64) -> Hello {
    let reports = l4proxy_wire::hello::Reports::EMPTY;
    Hello { source: B, path: PathId(path), sequence, sent_us, reports }
}

#[test]
fn paths_come_to_life_and_their_round_trips_are_known() {
    let mut world = World::new();
    assert_eq!(world.state(A, 1), PathState::Unknown);
    world.run(ms(500));
    for (pop, path) in [(A, 1), (A, 2), (B, 11), (B, 12)] {
        assert_eq!(world.state(pop, path), PathState::Alive, "{path}");
    }
    assert_eq!(world.changes(world.start).0, []);
    // There over the path in question, back over the faster one.
    assert_eq!(world.pop(A).path_rtt(B, PathId(1)), Some(ms(40)));
    assert_eq!(world.pop(A).path_rtt(B, PathId(2)), Some(ms(55)));
}

#[test]
fn hellos_go_out_at_twenty_hertz_per_path() {
    let mut world = World::new();
    world.run(ms(10_000));
    // Four paths, each at the beginning of each of 200 intervals, and at the end of the last.
    assert!((4 * 200..=4 * 201).contains(&world.count), "{}", world.count);
}

#[test]
fn a_primary_cut_both_ways_is_dead_within_four_hundred_milliseconds_at_both_ends() {
    let mut world = World::new();
    world.warm_up();
    let cut = world.now;
    world.cut(&[1, 11]);
    world.run(ms(5_000));
    let (deaths, lives) = world.changes(cut);
    assert_eq!(deaths.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1), (B, 11)]);
    assert!(deaths.iter().all(|&(at, ..)| (300..=400).contains(&at)), "{deaths:?}");
    assert_eq!(lives, []);
    assert_eq!((world.state(A, 2), world.state(B, 12)), (PathState::Alive, PathState::Alive));
}

#[test]
fn a_one_way_cut_is_noticed_by_the_sender_alone() {
    for (cut_path, pop) in [(1, A), (11, B), (2, A), (12, B)] {
        let mut world = World::new();
        world.warm_up();
        let cut = world.now;
        world.cut(&[cut_path]);
        world.run(ms(60_000));
        let (deaths, lives) = world.changes(cut);
        assert_eq!(deaths.len(), 1, "{deaths:?}");
        assert_eq!((deaths[0].1, deaths[0].2), (pop, cut_path));
        assert!((300..=400).contains(&deaths[0].0), "{deaths:?}");
        assert_eq!(lives, []);
    }
}

#[test]
fn a_mended_path_is_alive_again_after_a_second_and_not_before() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1, 11]);
    world.run(ms(20_000));
    world.events.clear();
    let mended = world.now;
    world.mend(&[1, 11]);
    world.run(ms(3_000));
    let (deaths, lives) = world.changes(mended);
    assert_eq!(deaths, []);
    assert_eq!(lives.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1), (B, 11)]);
    assert!(lives.iter().all(|&(at, ..)| (950..=1_100).contains(&at)), "{lives:?}");
    let first = world.events.iter().find_map(|(_, _, event)| {
        if let Event::PathAlive { silence, .. } = event { Some(*silence) } else { None }
    });
    let silence = first.expect("it came to life");
    assert!(silence > ms(20_500) && silence < ms(21_000), "{silence:?}");
}

#[test]
fn a_path_that_loses_one_in_five_does_not_come_back() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1]);
    world.run(ms(2_000));
    world.mend(&[1]);
    let mut count = 0;
    // Exactly every fifth: bursts of one, as often as the rule asks.
    for _ in 0..100 {
        world.ways(&[1], |way| way.burst_left = 1);
        world.run(ms(250));
        count += 1;
    }
    assert_eq!((count, world.state(A, 1)), (100, PathState::Dead));
    world.run(ms(1_200));
    assert_eq!(world.state(A, 1), PathState::Alive);
}

#[test]
fn an_hour_of_loss_kills_nothing() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| way.loss_per_mille = 10);
    world.run(ms(3_600_000));
    assert_eq!(world.changes(world.start).0, []);
}

#[test]
fn an_hour_of_bursts_and_jitter_kills_nothing() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| {
        way.jitter = ms(30);
        // Up to 200 ms without a packet, some fifteen times a minute and path.
        (way.burst_per_mille, way.burst_length) = (13, 4);
    });
    world.run(ms(3_600_000));
    assert_eq!(world.changes(world.start).0, []);
}

#[test]
fn whatever_chance_does_half_an_hour_of_loss_and_jitter_kills_nothing() {
    for seed in 1..=8 {
        let mut world = World::new();
        world.reseed(seed);
        world.ways(&[1, 2, 11, 12], |way| (way.loss_per_mille, way.jitter) = (10, ms(30)));
        world.run(ms(1_800_000));
        assert_eq!(world.changes(world.start).0, [], "seed {seed}");
    }
}

#[test]
fn with_jitter_a_cut_is_still_found_in_time() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| way.jitter = ms(30));
    world.warm_up();
    let cut = world.now;
    world.cut(&[1]);
    world.run(ms(2_000));
    let (deaths, _) = world.changes(cut);
    assert_eq!(deaths.len(), 1);
    assert!((250..=450).contains(&deaths[0].0), "{deaths:?}");
}

#[test]
fn a_stopped_pop_kills_no_path_of_its_own_and_the_peer_keeps_one() {
    for reads_first in [true, false] {
        let mut world = World::new();
        world.warm_up();
        let stopped = world.now;
        world.pause(B, ms(2_000), reads_first);
        let (deaths, _) = world.changes(stopped);
        assert_eq!(deaths.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1)]);
        assert!((280..=320).contains(&deaths[0].0), "{deaths:?}");
        assert_eq!(world.state(A, 2), PathState::Alive, "the last one is kept");
        world.events.clear();
        world.run(ms(5_000));
        let (deaths, lives) = world.changes(stopped);
        assert_eq!(deaths, [], "reads first: {reads_first}");
        assert_eq!(lives.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1)]);
        let rtt = world.pop(A).path_rtt(B, PathId(1)).expect("measured");
        assert!(rtt < ms(45), "a pause is no round trip: {rtt:?}");
    }
}

#[test]
fn a_peer_that_vanishes_leaves_every_pop_one_path_to_try() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[11, 12]);
    world.run(ms(60_000));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Dead, PathState::Alive));
    // B still hears A, and is told that A hears nothing: both are dead by report.
    assert_eq!((world.state(B, 11), world.state(B, 12)), (PathState::Dead, PathState::Dead));
    world.mend(&[11, 12]);
    world.run(ms(3_000));
    for (pop, path) in [(A, 1), (A, 2), (B, 11), (B, 12)] {
        assert_eq!(world.state(pop, path), PathState::Alive, "{path}");
    }
}

#[test]
fn a_single_path_is_never_given_up_for_silence() {
    let mut world = World::without_paths();
    world.set_paths(A, &[1]);
    world.set_paths(B, &[11]);
    world.warm_up();
    world.cut(&[1, 11]);
    world.run(ms(30_000));
    assert_eq!(world.changes(world.start).0, []);
    assert_eq!(world.state(A, 1), PathState::Alive);
}

#[test]
fn a_path_that_is_dead_from_the_beginning_is_found_and_the_other_lives() {
    let mut world = World::new();
    world.cut(&[1]);
    world.run(ms(2_000));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Dead, PathState::Alive));
    let (deaths, _) = world.changes(world.start);
    assert!((1_000..=1_200).contains(&deaths[0].0), "{deaths:?}");
}

#[test]
fn a_peer_that_has_never_been_heard_leaves_paths_unknown() {
    let mut world = World::without_paths();
    world.set_paths(A, &[1, 2]);
    world.run(ms(60_000));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Unknown, PathState::Unknown));
    assert_eq!(world.pop(A).last_heard(B), None);
    assert_eq!(world.events, []);
    // It comes up late: what was sent before it listened is not held against the paths.
    world.set_paths(B, &[11, 12]);
    world.run(ms(500));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Alive, PathState::Alive));
    assert_eq!(world.changes(world.start).0, []);
}

#[test]
fn who_is_heard_answers_over_its_return_paths_until_ten_seconds_after() {
    let mut world = World::without_paths();
    world.set_return_paths(B, &[11, 12]);
    assert_eq!(world.pop(B).poll_timeout(), None);
    world.set_paths(A, &[1, 2]);
    world.run(ms(1_000));
    assert_eq!((world.state(A, 1), world.state(B, 11)), (PathState::Alive, PathState::Alive));
    world.set_paths(A, &[]);
    world.run(ms(9_900));
    assert!(world.pop(B).poll_timeout().is_some());
    world.run(ms(200));
    assert_eq!(world.pop(B).poll_timeout(), None);
    assert_eq!(world.state(B, 11), PathState::Unknown);
}

#[test]
fn a_path_that_stays_in_use_keeps_its_state_and_one_that_returns_begins_anew() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1]);
    world.run(ms(1_000));
    world.set_paths(A, &[2, 1]);
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Dead, PathState::Alive));
    world.set_paths(A, &[2]);
    world.mend(&[1]);
    world.set_paths(A, &[1, 2]);
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Unknown, PathState::Alive));
    world.run(ms(200));
    assert_eq!(world.state(A, 1), PathState::Alive, "its sequences are above those of its former life");
}

#[test]
fn a_peer_that_starts_again_is_heard_at_once_under_its_new_key() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    let hello = |sequence, sent_us| hello_of(11, sequence, sent_us);
    assert_eq!(liveness.handle_hello(now, KEY, &hello(9_000, 450_000_000)), Ok(()));
    assert_eq!(liveness.handle_hello(now, KEY, &hello(0, 0)), Err(DropReason::HelloReplayed));
    assert_eq!(liveness.handle_hello(now, KeyGeneration(2), &hello(0, 0)), Ok(()));
    let stale = liveness.handle_hello(now, KEY, &hello(9_001, 450_050_000));
    assert_eq!(stale, Err(DropReason::HelloReplayed));
}

#[test]
fn forty_paths_are_followed_and_the_rest_waits_for_room() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    let paths: Vec<_> = (0..30).map(PathId).collect();
    liveness.set_paths(now, B, &paths);
    liveness.set_paths(now, PopId(0xc), &paths);
    assert_eq!(liveness.counters().paths_full, 20);
    let later = now + ms(49);
    let sent = std::iter::from_fn(|| liveness.poll_hello(later)).count();
    assert_eq!(sent, MAX_PATHS);
    liveness.set_paths(later, B, &paths[..5]);
    assert_eq!(liveness.counters().paths_full, 20, "counted once");
    let sent = std::iter::from_fn(|| liveness.poll_hello(later + ms(50))).count();
    assert_eq!(sent, 35);
}

#[test]
fn the_table_of_peers_is_bounded_and_forgets_the_silent() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    let hello = |source: u32| Hello { source: PopId(source), ..hello_of(1, 1, 0) };
    for source in 0..MAX_PEERS as u32 {
        assert_eq!(liveness.handle_hello(now, KEY, &hello(source)), Ok(()));
    }
    let late = hello(MAX_PEERS as u32);
    assert_eq!(liveness.handle_hello(now, KEY, &late), Err(DropReason::HelloFull));
    liveness.set_paths(now, late.source, &[PathId(1)]);
    assert_eq!(liveness.counters().peers_full, 1);
    assert_eq!(liveness.handle_hello(now + ms(10_000), KEY, &late), Ok(()));
}

#[test]
fn events_that_nobody_polls_make_room_for_newer_ones() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    for n in 0..MAX_EVENTS as u32 + 3 {
        liveness.push_event(B, PathId(n), Change::Died(SILENCE));
    }
    assert_eq!(liveness.counters().events_full, 3);
    let oldest = Event::PathDead { peer: B, path: PathId(3), silence: SILENCE };
    assert_eq!(liveness.poll_event(), Some(oldest));
    assert_eq!(std::iter::from_fn(|| liveness.poll_event()).count(), MAX_EVENTS - 1);
}
