//! A transit PoP between A and B: its link to B is watched, it tells A when that is lost, and A is the sooner to give the path up; and what it
//! takes for A to believe it.

use super::*;
use crate::liveness::path::TOLD_MEMORY;

/// Of A's path 1 (20 ms), the part to the transit PoP.
const TO_TRANSIT: Duration = Duration::from_millis(5);

/// A and B as ever, and beside them, in step, the transit PoP and B: its link 1 is the rest of A's path 1.
struct Three {
    ends: World,
    link: World,
    /// A is told by then.
    told_at: Option<Instant>,
    tellings: usize,
    is_mute: bool,
    step: Duration,
}

impl Three {
    fn new(seed: u64, is_mute: bool) -> Self {
        let (ends, mut link) = (World::new(), World::without_paths());
        link.reseed(seed);
        link.ways(&[1, 11], |way| way.delay = ms(20) - TO_TRANSIT);
        link.set_watched(A, &[1]);
        link.set_return_paths(B, &[11, 12]);
        Self { ends, link, told_at: None, tellings: 0, is_mute, step: ms(1) }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.ends.now + duration;
        while self.ends.now < end {
            self.ends.run(self.step);
            self.link.run(self.step);
            let now = self.ends.now;
            let is_lost = self.link.pop(A).is_link_lost(B, PathId(1));
            match self.told_at {
                None if is_lost => self.told_at = Some(now + TO_TRANSIT),
                Some(_) if !is_lost => self.told_at = None,
                Some(at) if at == now && !self.is_mute => {
                    self.tellings += 1;
                    assert!(self.ends.pop(A).handle_link_down(now, B, PathId(1)));
                }
                Some(_) | None => {}
            }
        }
    }

    fn on_both(&mut self, change: impl Fn(&mut World)) {
        change(&mut self.ends);
        change(&mut self.link);
    }
}

/// How long after the cut A gives path 1 up, at moments all over the interval of hellos.
fn detections(is_mute: bool, cut: &[u32]) -> Vec<u64> {
    let of_phase = |phase: u64| {
        let mut three = Three::new(phase, is_mute);
        three.run(ms(3_000 + phase));
        // The transit PoP's hellos have nothing to do with A's.
        three.link.run(ms(phase * 7 % 50));
        three.ends.events.clear();
        let since = three.ends.now;
        three.on_both(|world| world.cut(cut));
        three.run(ms(1_000));
        let deaths = three.ends.changes(since).0;
        let of_a: Vec<_> = deaths.into_iter().filter(|(_, pop, _)| *pop == A).collect();
        assert!(matches!(of_a[..], [(_, A, 1)]), "phase {phase}: {of_a:?}");
        of_a[0].0
    };
    let mut delays: Vec<_> = (0..50).step_by(4).map(of_phase).collect();
    delays.sort_unstable();
    delays
}

#[test]
fn what_a_transit_pop_says_of_its_lost_link_takes_a_quarter_off_the_time_until_the_path_is_given_up() {
    for cut in [&[1][..], &[1, 11]] {
        let (without, with) = (detections(true, cut), detections(false, cut));
        let median = |delays: &[u64]| delays[delays.len() / 2];
        assert!(median(&with) * 4 <= median(&without) * 3, "{with:?} {without:?}");
        assert!(with.last() < without.first(), "{with:?} {without:?}");
    }
}

#[test]
fn a_single_lost_hello_or_several_in_a_row_make_no_transit_pop_speak() {
    let mut three = Three::new(1, false);
    three.run(ms(3_000));
    for burst in 1..=4 {
        three.on_both(|world| world.ways(&[1, 11], |way| way.burst_left = burst));
        three.run(ms(2_000));
    }
    assert_eq!((three.tellings, three.ends.changes(three.ends.start).0), (0, vec![]));
}

#[test]
fn in_an_hour_of_loss_bursts_and_jitter_no_path_is_given_up_for_what_a_transit_pop_says() {
    for (loss, burst) in [(10, 0), (0, 3)] {
        let mut three = Three::new(99, false);
        three.step = ms(5);
        three.on_both(|world| {
            world.ways(&[1, 2, 11, 12], |way| {
                way.jitter = ms(30);
                (way.loss_per_mille, way.burst_per_mille, way.burst_length) = (loss, burst, 4);
            });
        });
        three.run(ms(3_600_000));
        assert_eq!(three.ends.changes(three.ends.start).0, [], "{loss} {burst}, told {}", three.tellings);
    }
}

#[test]
fn a_pop_that_is_stopped_costs_no_path_for_what_transit_pops_say() {
    let mut world = World::new();
    world.warm_up();
    let since = world.now;
    world.pause(B, ms(100), true);
    let now = world.now;
    world.pop(A).handle_link_down(now, B, PathId(1));
    world.pause(B, ms(150), true);
    world.run(ms(1_000));
    assert_eq!(world.changes(since).0, []);
}

#[test]
fn a_false_word_makes_a_path_suspect_for_a_moment_and_is_not_believed_again_for_ten_seconds() {
    let mut world = World::new();
    world.warm_up();
    let since = world.now;
    for _ in 0..90 {
        let now = world.now;
        assert!(world.pop(A).handle_link_down(now, B, PathId(1)));
        world.run(ms(100));
    }
    let until = TOLD_MEMORY.as_millis() as u64;
    assert_eq!(world.doubts(since), [((0, A, 1), true), ((until, A, 1), false)]);
    assert_eq!(world.changes(since).0, []);
    world.run(ms(2_000));
    let now = world.now;
    world.pop(A).handle_link_down(now, B, PathId(1));
    assert!(world.pop(A).path_quality(B, PathId(1)).is_suspect);
}

#[test]
fn the_last_path_that_nothing_is_said_against_is_never_given_up_for_what_others_say() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[2]);
    world.run(ms(1_000));
    world.events.clear();
    let since = world.now;
    world.cut(&[1]);
    let now = world.now;
    world.pop(A).handle_link_down(now, B, PathId(1));
    world.run(ms(290));
    assert_eq!(world.changes(since).0, [], "by its own hellos it is dead a little later");
    // Both are said to be broken at once: neither is a place to go to.
    let mut world = World::new();
    world.warm_up();
    let since = world.now;
    world.cut(&[1, 2]);
    let now = world.now;
    for path in [1, 2] {
        world.pop(A).handle_link_down(now, B, PathId(path));
    }
    world.run(ms(290));
    assert_eq!(world.changes(since).0, []);
}

#[test]
fn a_path_given_up_for_what_a_transit_pop_said_comes_back_like_any_other() {
    let mut three = Three::new(3, false);
    three.run(ms(3_000));
    three.on_both(|world| world.cut(&[1]));
    three.run(ms(1_000));
    three.ends.events.clear();
    let mended = three.ends.now;
    three.on_both(|world| world.mend(&[1]));
    three.run(ms(3_000));
    let lives = three.ends.changes(mended).1;
    assert!(matches!(lives[..], [(900..=1_200, A, 1)]), "{lives:?}");
    assert!(!three.link.pop(A).is_link_lost(B, PathId(1)));
}

#[test]
fn a_word_about_a_path_that_is_not_followed_is_nothing_here() {
    let mut world = World::new();
    world.warm_up();
    let now = world.now;
    assert!(!world.pop(A).handle_link_down(now, B, PathId(77)));
    assert!(!world.pop(A).handle_link_down(now, PopId(0xc), PathId(1)));
}
