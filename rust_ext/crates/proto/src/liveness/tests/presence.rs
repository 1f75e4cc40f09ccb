//! How long a peer has been out of touch, as the whole of its paths, and what is thought of it then.

use super::*;
use crate::liveness::Presence::{Away, Lost, Present, Suspect};

impl World {
    /// What A thinks of B when nothing but hellos comes of it.
    fn presence(&mut self) -> Presence {
        self.presence_with(None)
    }

    fn presence_with(&mut self, traffic: Option<Instant>) -> Presence {
        let now = self.now;
        self.pop(A).out_of_touch(now, B, traffic).map_or(Present, Presence::after)
    }

    /// The milliseconds from now on at which A changes its mind, looking every 50 ms.
    fn minds(&mut self, duration: Duration) -> Vec<(u64, Presence)> {
        let start = self.now;
        let mut minds = vec![(0, self.presence())];
        while self.now - start < duration {
            self.run(ms(50));
            let presence = self.presence();
            if minds.last().is_some_and(|(_, before)| *before != presence) {
                minds.push(((self.now - start).as_millis() as u64, presence));
            }
        }
        minds
    }
}

#[test]
fn a_peer_whose_paths_are_all_cut_is_suspect_then_away_then_lost() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1, 2, 11, 12]);
    let minds = world.minds(ms(12_000));
    let expected = [Present, Suspect, Away, Lost];
    assert_eq!(minds.iter().map(|&(_, presence)| presence).collect::<Vec<_>>(), expected, "{minds:?}");
    assert!((300..=400).contains(&minds[1].0), "{minds:?}");
    assert!((4_000..=4_100).contains(&minds[2].0), "{minds:?}");
    assert!((10_000..=10_100).contains(&minds[3].0), "{minds:?}");
}

#[test]
fn three_seconds_without_any_path_cost_no_flow_its_egress() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1, 2, 11, 12]);
    world.run(ms(3_000));
    assert_eq!(world.presence(), Suspect);
    world.mend(&[2, 12]);
    let minds = world.minds(ms(20_000));
    assert_eq!(
        minds.iter().map(|&(_, presence)| presence).collect::<Vec<_>>(),
        [Suspect, Present],
        "{minds:?}"
    );
    assert!(minds[1].0 <= 150, "as soon as hellos pass: {minds:?}");
}

#[test]
fn one_path_that_works_is_enough_whatever_the_others_do() {
    for (cut, what) in
        [(&[1, 11][..], "the primary"), (&[1, 12], "one way of each"), (&[2, 11], "the others")]
    {
        let mut world = World::new();
        world.warm_up();
        world.cut(cut);
        assert_eq!(world.minds(ms(30_000)), [(0, Present)], "{what}");
    }
}

#[test]
fn a_loss_of_one_in_five_on_all_paths_is_no_absence() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| way.loss_per_mille = 200);
    world.warm_up();
    let minds = world.minds(ms(600_000));
    assert!(minds.iter().all(|&(_, presence)| presence <= Suspect), "{minds:?}");
    assert!(minds.len() <= 3, "{minds:?}");
}

#[test]
fn a_peer_that_hears_nothing_of_us_is_out_of_touch_though_it_speaks() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1, 2]);
    let minds = world.minds(ms(11_000));
    assert_eq!(minds.last().map(|&(_, presence)| presence), Some(Lost), "{minds:?}");
    assert!((300..=450).contains(&minds[1].0), "{minds:?}");
}

#[test]
fn a_peer_that_cannot_follow_our_paths_is_present_while_its_traffic_comes() {
    let mut world = World::new();
    world.warm_up();
    // It sends no hellos, as if its table were full.
    world.set_paths(B, &[]);
    world.run(ms(20_000));
    assert_eq!(world.presence(), Lost);
    let lately = world.now - ms(200);
    assert_eq!(world.presence_with(Some(lately)), Present);
    assert_eq!(world.presence_with(Some(lately - ms(4_000))), Away);
}

#[test]
fn a_pause_of_our_own_is_no_absence_of_the_peer() {
    for reads_first in [true, false] {
        let mut world = World::new();
        world.warm_up();
        world.pause(A, ms(15_000), reads_first);
        assert_eq!(world.minds(ms(5_000)), [(0, Present)], "{reads_first}");
    }
}

#[test]
fn a_peer_that_is_stopped_for_less_than_ten_seconds_is_not_lost() {
    let mut world = World::new();
    world.warm_up();
    world.pause(B, ms(9_000), true);
    assert_eq!(world.presence(), Away);
    world.run(ms(500));
    assert_eq!(world.presence(), Present);
}

#[test]
fn nothing_is_said_of_a_peer_that_is_not_watched_or_was_never_heard() {
    let mut world = World::new();
    world.cut(&[1, 2, 11, 12]);
    world.run(ms(30_000));
    assert_eq!(world.presence(), Present, "never heard");

    let mut world = World::new();
    world.warm_up();
    world.set_paths(A, &[]);
    world.cut(&[1, 2, 11, 12]);
    world.run(ms(30_000));
    assert_eq!(world.presence(), Present, "not watched");
    // Traffic begins: it has the time of two long round trips to show itself.
    world.set_paths(A, &[1, 2]);
    let minds = world.minds(ms(12_000));
    assert!((1_000..=1_100).contains(&minds[1].0), "{minds:?}");
    assert_eq!(minds.last().map(|&(_, presence)| presence), Some(Lost), "{minds:?}");
}

#[test]
fn a_path_that_another_has_left_behind_is_overdue_before_it_is_dead() {
    let overdue = |world: &mut World, path| {
        let now = world.now;
        world.pop(A).is_overdue(now, B, PathId(path))
    };
    let mut world = World::new();
    world.cut(&[1]);
    world.run(ms(300));
    assert!(!overdue(&mut world, 1), "the other has just been heard of");
    world.run(ms(150));
    assert!(overdue(&mut world, 1) && !overdue(&mut world, 2));
    assert_eq!(world.state(A, 1), PathState::Unknown);
    // A path that is only slower than the other is not.
    let mut world = World::new();
    world.ways(&[1], |way| way.delay = ms(250));
    while world.state(A, 1) == PathState::Unknown {
        world.run(ms(10));
        assert!(!overdue(&mut world, 1));
        assert!(world.now - world.start < ms(500));
    }
}

#[test]
fn a_presence_survives_its_number() {
    for presence in [Present, Suspect, Away, Lost] {
        assert_eq!(Presence::from_u8(presence.as_u8()), presence);
    }
}
