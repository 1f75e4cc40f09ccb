//! Suspicion and grades: how soon a cut is suspected, how long a false suspicion lasts, and what makes a path grey.

use super::*;

/// The longest a suspicion may take, in ms after the cut: the last hello there, two missing, their lateness, the wait for the next report and its
/// way back.
const SOON: u64 = 20 + 100 + 15 + 50 + 35 + 5;

#[test]
fn a_cut_is_suspected_before_it_is_certain_whenever_it_comes() {
    for cut in [&[1][..], &[11], &[1, 11]] {
        let mut delays = Vec::new();
        for phase in 0..50 {
            let mut world = World::new();
            world.warm_up();
            world.run(ms(phase));
            let since = world.now;
            world.cut(cut);
            world.run(ms(250));
            let doubts = world.doubts(since);
            let suspects: Vec<_> = doubts.iter().map(|&((_, _, path), _)| path).collect();
            assert_eq!(suspects, cut, "phase {phase}");
            assert!(doubts.iter().all(|&((at, ..), is_doubt)| is_doubt && at <= SOON), "{doubts:?}");
            assert_eq!(world.changes(since).0, [], "not dead yet");
            delays.extend(doubts.iter().map(|&((at, ..), _)| at));
            world.run(ms(5_000));
            let dead: Vec<_> = world.changes(since).0.into_iter().map(|(_, _, path)| path).collect();
            assert_eq!(dead, cut, "phase {phase}");
            assert_eq!(world.doubts(since).len(), cut.len(), "the dead are not suspects");
        }
        delays.sort_unstable();
        assert!(delays[delays.len() / 2] <= 160, "{delays:?}");
    }
}

#[test]
fn an_hour_of_loss_and_jitter_raises_few_suspicions_and_each_is_short() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| (way.loss_per_mille, way.jitter) = (10, ms(30)));
    world.run(ms(3_600_000));
    assert_eq!(world.changes(world.start).0, []);
    let doubts = world.doubts(world.start);
    // 72,000 hellos a path, and one in ten thousand begins a pair that is lost: some 30 for the four paths.
    assert!((4..=150).contains(&doubts.len()), "{}", doubts.len());
    for path in [1, 2, 11, 12] {
        let of_path: Vec<_> = doubts.iter().filter(|((_, _, id), _)| *id == path).collect();
        for pair in of_path.chunks(2) {
            let [((from, ..), true), ((until, ..), false)] = pair else { panic!("{pair:?}") };
            assert!(until - from <= 250, "{pair:?}");
        }
    }
}

#[test]
fn a_silent_peer_makes_the_used_path_suspect_and_no_other() {
    let mut world = World::new();
    world.warm_up();
    let since = world.now;
    world.cut(&[11, 12]);
    world.run(ms(250));
    let of_a: Vec<_> = world.doubts(since).into_iter().filter(|((_, pop, _), _)| *pop == A).collect();
    assert!(matches!(of_a[..], [((_, A, 1), true)]), "{of_a:?}");
}

fn grades(world: &World) -> Vec<(u64, u32)> {
    let grade = |&(at, _, event): &(u64, PopId, Event)| {
        if let Event::PathGraded { path, .. } = event { Some((at, path.0)) } else { None }
    };
    world.events.iter().filter_map(grade).collect()
}

#[test]
fn a_flapping_path_is_on_probation_for_longer_and_longer() {
    let mut world = World::new();
    world.warm_up();
    let mut usable_s = Vec::new();
    for _ in 0..8 {
        world.cut(&[1]);
        world.run(ms(5_000));
        world.mend(&[1]);
        let mut usable = 0;
        for _ in 0..50 {
            world.run(ms(100));
            let quality = world.pop(A).path_quality(B, PathId(1));
            usable += u32::from(world.state(A, 1) == PathState::Alive && !quality.is_on_probation);
        }
        usable_s.push(f64::from(usable) / 10.0);
    }
    // Two, one after the other: a second to come back, then a second, three, seven of probation.
    assert!((3.5..=4.1).contains(&usable_s[0]) && (2.5..=3.1).contains(&usable_s[1]), "{usable_s:?}");
    assert!((0.5..=1.1).contains(&usable_s[2]), "{usable_s:?}");
    assert_eq!(usable_s[3..], [0.0; 5], "{usable_s:?}");
    world.run(ms(61_000));
    assert!(!world.pop(A).path_quality(B, PathId(1)).is_on_probation);
}

#[test]
fn the_first_hello_after_darkness_is_a_sign_of_life() {
    let mut world = World::new();
    world.warm_up();
    // A is heard no more, and is told so.
    world.cut(&[1, 2]);
    world.run(ms(3_000));
    let shows_life =
        |world: &mut World| [1, 2].map(|path| world.pop(A).path_quality(B, PathId(path)).shows_life);
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Dead, PathState::Dead));
    assert_eq!(shows_life(&mut world), [false, false]);
    world.events.clear();
    world.mend(&[2]);
    world.run(ms(150));
    assert_eq!(shows_life(&mut world), [false, true]);
    assert_eq!(world.state(A, 2), PathState::Dead, "it takes a second to be trusted");
    assert_eq!(grades(&world).iter().filter(|(_, path)| *path == 2).count(), 1, "said once");
    world.cut(&[2]);
    world.run(ms(500));
    assert_eq!(shows_life(&mut world), [false, false]);
}

#[test]
fn one_packet_in_five_lost_is_grey_within_seconds_and_kills_nothing() {
    let mut world = World::new();
    world.warm_up();
    world.ways(&[1], |way| way.loss_per_mille = 200);
    world.run(ms(8_000));
    let quality = world.pop(A).path_quality(B, PathId(1));
    assert!(quality.is_grey && quality.is_lossy, "{quality:?}");
    assert_eq!(world.state(A, 1), PathState::Alive);
    for (pop, path) in [(A, 2), (B, 11), (B, 12)] {
        let quality = world.pop(pop).path_quality(other(pop), PathId(path));
        assert!(!quality.is_grey && !quality.is_lossy, "{path}: {quality:?}");
    }
    world.ways(&[1], |way| way.loss_per_mille = 0);
    world.run(ms(30_000));
    let quality = world.pop(A).path_quality(B, PathId(1));
    assert!(!quality.is_grey && !quality.is_lossy && quality.lost == (0, 100), "{quality:?}");
}

#[test]
fn an_hour_of_one_percent_of_loss_is_never_grey() {
    for is_bursty in [false, true] {
        let mut world = World::new();
        world.ways(&[1, 2, 11, 12], |way| {
            way.jitter = ms(30);
            if is_bursty {
                (way.burst_per_mille, way.burst_length) = (3, 4);
            } else {
                way.loss_per_mille = 10;
            }
        });
        for _ in 0..3_600 {
            world.run(ms(1_000));
            for (pop, path) in [(A, 1), (A, 2), (B, 11), (B, 12)] {
                let quality = world.pop(pop).path_quality(other(pop), PathId(path));
                assert!(!quality.is_grey, "bursts: {is_bursty}, {path}: {quality:?}");
            }
        }
        assert!(!grades(&world).is_empty(), "lossy it is, now and then");
        assert_eq!(world.changes(world.start).0, []);
    }
}
