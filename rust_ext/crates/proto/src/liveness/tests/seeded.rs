//! Faults drawn by seed, thousands of them: whatever the delays, the loss and the moment, the path that broke is given up in time, no other one
//! is, and what comes back is used again.

use super::*;

/// Of a kind of fault; more of cuts, of which there are five kinds, fewer of those that need minutes of virtual time.
const SEEDS: u64 = 300;

/// A world of paths with delays, jitter and a little loss of their own, warm, at a moment of its own.
struct Drawn {
    world: World,
    /// One way, of the longest path, and the most that jitter adds.
    longest: u64,
}

impl Drawn {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        world.reseed(seed);
        let mut longest = 0;
        for path in [1, 2, 11, 12] {
            let (delay, jitter) = (1 + world.draw(150), world.draw(10));
            let loss = world.draw(4);
            longest = longest.max(delay + jitter);
            world.ways(&[path], |way| {
                (way.delay, way.jitter, way.loss_per_mille) = (ms(delay), ms(jitter), loss);
            });
        }
        world.warm_up();
        let moment = world.draw(2_000);
        world.run(ms(moment));
        Self { world, longest }
    }

    /// The longest that it may take to give a path up: five hellos of 50 ms are missing, or six intervals of silence, their lateness, one lost
    /// report, and both ways.
    const fn soon(&self) -> u64 {
        430 + 2 * self.longest
    }

    /// The longest until a path that carries again is alive: a second of hellos, two of them lost, and both ways.
    const fn back(&self) -> u64 {
        1_200 + 2 * self.longest
    }

    fn given_up(&self, since: Instant) -> Vec<(PopId, u32)> {
        let mut found: Vec<_> =
            self.world.changes(since).0.into_iter().map(|(_, pop, path)| (pop, path)).collect();
        found.sort_unstable();
        found
    }

    fn assert_all_alive(&mut self, seed: u64) {
        for (pop, path) in [(A, 1), (A, 2), (B, 11), (B, 12)] {
            assert_eq!(self.world.state(pop, path), PathState::Alive, "seed {seed}, path {path}");
        }
    }
}

/// Who gives up which path when these are cut.
fn owners(cut: &[u32]) -> Vec<(PopId, u32)> {
    cut.iter().map(|&path| (if path < 10 { A } else { B }, path)).collect()
}

#[test]
fn what_was_cut_is_given_up_in_time_nothing_else_is_and_it_comes_back() {
    for seed in 0..3 * SEEDS {
        let cuts: [&[u32]; 5] = [&[1, 11], &[1], &[11], &[2], &[2, 12]];
        let cut = cuts[seed as usize % cuts.len()];
        let mut drawn = Drawn::new(seed);
        let since = drawn.world.now;
        drawn.world.events.clear();
        drawn.world.cut(cut);
        drawn.world.run(ms(4_000));
        assert_eq!(drawn.given_up(since), owners(cut), "seed {seed}");
        let (deaths, lives) = drawn.world.changes(since);
        assert!(deaths.iter().all(|&(at, ..)| (200..=drawn.soon()).contains(&at)), "seed {seed}: {deaths:?}");
        assert_eq!(lives, [], "seed {seed}");
        drawn.world.mend(cut);
        drawn.world.run(ms(drawn.back()));
        drawn.assert_all_alive(seed);
    }
}

#[test]
fn in_darkness_one_path_is_kept_and_the_first_that_carries_again_is_taken() {
    for seed in 0..SEEDS {
        let mut drawn = Drawn::new(seed);
        drawn.world.cut(&[1, 2, 11, 12]);
        drawn.world.run(ms(3_000));
        for (pop, paths) in [(A, [1, 2]), (B, [11, 12])] {
            let kept = paths.iter().filter(|&&path| drawn.world.state(pop, path) != PathState::Dead).count();
            assert_eq!(kept, 1, "seed {seed}");
        }
        let (back, dark) = if seed % 2 == 0 { ([1, 11], [2, 12]) } else { ([2, 12], [1, 11]) };
        drawn.world.mend(&back);
        drawn.world.run(ms(drawn.back().max(drawn.soon())));
        for ((pop, alive), dead) in [A, B].into_iter().zip(back).zip(dark) {
            let states = (drawn.world.state(pop, alive), drawn.world.state(pop, dead));
            assert_eq!(states, (PathState::Alive, PathState::Dead), "seed {seed}");
        }
    }
}

#[test]
fn a_peer_that_stands_still_costs_no_path_for_good() {
    for seed in 0..SEEDS {
        let mut drawn = Drawn::new(seed);
        let still = 200 + drawn.world.draw(4_000);
        drawn.world.pause(B, ms(still), seed % 2 == 0);
        let kept = [1, 2].iter().filter(|&&path| drawn.world.state(A, path) != PathState::Dead).count();
        assert!(kept >= 1, "seed {seed}");
        assert_eq!(
            [11, 12].map(|path| drawn.world.state(B, path)),
            [PathState::Alive; 2],
            "seed {seed}: who stood still blames nobody"
        );
        drawn.world.run(ms(drawn.back()));
        drawn.assert_all_alive(seed);
    }
}

#[test]
fn a_flapping_path_is_left_alone_and_the_other_one_never_given_up() {
    for seed in 0..SEEDS / 3 {
        let mut drawn = Drawn::new(seed);
        let since = drawn.world.now;
        // A tenth of a hertz to two.
        let half = 250 + drawn.world.draw(4_750);
        let flaps = 20_000 / (2 * half) + 1;
        for _ in 0..flaps {
            drawn.world.cut(&[1, 11]);
            drawn.world.run(ms(half));
            drawn.world.mend(&[1, 11]);
            drawn.world.run(ms(half));
        }
        let (deaths, lives) = drawn.world.changes(since);
        assert!(deaths.iter().all(|&(_, _, path)| path == 1 || path == 11), "seed {seed}: {deaths:?}");
        for pop in [A, B] {
            let comebacks = lives.iter().filter(|&&(_, who, _)| who == pop).count() as u64;
            assert!(comebacks <= flaps, "seed {seed}: {comebacks} in {flaps}");
            // Less than a second and a half of each life is not enough to come back.
            assert!(half > 800 || comebacks <= 1, "seed {seed}: {lives:?}");
        }
        drawn.world.run(ms(62_000));
        drawn.assert_all_alive(seed);
        assert!(!drawn.world.pop(A).path_quality(B, PathId(1)).is_on_probation, "seed {seed}");
    }
}

#[test]
fn a_path_that_loses_one_packet_in_five_is_left_and_the_other_one_is_not() {
    for seed in 0..SEEDS / 3 {
        let mut drawn = Drawn::new(seed);
        drawn.world.ways(&[1], |way| way.loss_per_mille = 200);
        drawn.world.run(ms(20_000));
        let worse = drawn.world.pop(A).path_quality(B, PathId(1)).is_grey;
        assert!(worse || drawn.world.state(A, 1) == PathState::Dead, "seed {seed}");
        for (pop, path) in [(A, 2), (B, 11), (B, 12)] {
            assert_eq!(drawn.world.state(pop, path), PathState::Alive, "seed {seed}, path {path}");
            let quality = drawn.world.pop(pop).path_quality(other(pop), PathId(path));
            assert!(!quality.is_grey, "seed {seed}, path {path}");
        }
    }
}
