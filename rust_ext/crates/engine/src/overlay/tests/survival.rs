//! What live streams bear: seconds without any path, a peer that is gone or was started again.

use super::*;

/// Everything between 0 and 2 is cut, and their stream is in use; a part of a second passes in each of some turns.
impl World {
    fn separated() -> (Self, StreamKey, StreamKey) {
        let mut world = Self::new();
        world.apply(direct);
        world.until_tunnels_are_up();
        let (here, there) = world.opened(2);
        world.pass(Duration::from_secs(2), here);
        assert!(world.minds(0).is_empty(), "nothing is wrong");
        world.cut = vec![(0, 2), (2, 0)];
        world.apply(direct);
        (world, here, there)
    }

    /// Let time pass in steps that no PoP takes for a pause, with traffic on a stream of 0.
    fn pass(&mut self, time: Duration, stream: StreamKey) {
        const STEP: Duration = Duration::from_millis(20);
        let end = self.now() + time;
        while self.now() < end {
            let now = self.now();
            self.pops[0].overlay.write(now, stream, b"x");
            self.turn();
            // What was sent arrives before time goes on.
            self.turn();
            self.skipped += STEP;
        }
    }

    /// What a PoP has come to think of others.
    fn minds(&self, pop: usize) -> Vec<(PopId, Presence)> {
        let events = self.pops[pop].events.iter();
        let minds = events.filter_map(|event| {
            let OverlayEvent::PeerPresence { peer, presence } = event else { return None };
            Some((*peer, *presence))
        });
        minds.collect()
    }

    fn gone(&self, pop: usize) -> Vec<(StreamKey, Option<Loss>)> {
        let events = self.pops[pop].events.iter();
        let gone = events.filter_map(|event| {
            let OverlayEvent::StreamGone { key, loss, .. } = event else { return None };
            Some((*key, *loss))
        });
        gone.collect()
    }
}

#[test]
fn the_streams_of_a_peer_end_ten_seconds_after_its_last_word_and_not_before() {
    let (mut world, here, there) = World::separated();
    let peer = PopId(3);
    world.pass(Duration::from_secs(3), here);
    assert_eq!(world.minds(0), [(peer, Presence::Suspect)]);
    assert!(world.pops[0].overlay.is_doubtful(2));
    assert!(!world.pops[0].overlay.is_doubtful(1), "the other one is there");
    world.pass(Duration::from_secs(6), here);
    assert_eq!(world.minds(0), [(peer, Presence::Suspect), (peer, Presence::Away)]);
    assert_eq!(world.gone(0), [], "nine seconds");

    world.pass(Duration::from_millis(1_500), here);

    assert_eq!(world.gone(0), [(here, Some(Loss::Silent))]);
    assert_eq!(world.gone(2), [(there, Some(Loss::Silent))], "both ends");
    let lost = |report: &OverlayReport| matches!(report, OverlayReport::PeerLost { peer: lost, .. } if *lost == peer);
    assert_eq!(world.pops[0].reports.iter().filter(|report| lost(report)).count(), 1);
}

#[test]
fn three_seconds_without_a_path_cost_no_stream() {
    let (mut world, here, _) = World::separated();
    world.pass(Duration::from_secs(3), here);
    world.cut.clear();
    world.apply(direct);

    world.pass(Duration::from_secs(12), here);

    let peer = PopId(3);
    assert_eq!(world.minds(0), [(peer, Presence::Suspect), (peer, Presence::Present)]);
    assert_eq!((world.gone(0), world.gone(2)), (vec![], vec![]));
    assert!(!world.pops[0].overlay.has_doubts());
}

#[test]
fn a_peer_that_was_started_again_costs_its_streams_at_once() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    let (here, _) = world.opened(2);
    world.pass(Duration::from_secs(1), here);

    world.start_again(2);
    world.apply(direct);
    world.pass(Duration::from_secs(2), here);

    assert_eq!(world.gone(0), [(here, Some(Loss::Restarted))]);
    world.opened(2);
}

#[test]
fn a_transit_finds_out_by_its_probes_that_a_neighbour_was_started_again() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    // No flow of 1 uses 2, so that no hello says anything.
    let (here, _) = world.opened(1);
    world.pass(Duration::from_secs(1), here);
    let ups = |world: &World| {
        let is_up =
            |report: &&OverlayReport| matches!(report, OverlayReport::TunnelUp { peer } if *peer == PopId(3));
        world.pops[1].reports.iter().filter(is_up).count()
    };
    assert_eq!(ups(&world), 1);

    world.start_again(2);
    world.apply(direct);
    world.pass(Duration::from_secs(2), here);

    assert_eq!(ups(&world), 2, "well before QUIC's own keep-alive asks");
}

#[test]
fn a_peer_that_is_away_is_dialled_over_its_link_as_well_as_over_the_path_that_its_handle_takes() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    let (here, _) = world.opened(2);
    world.pass(Duration::from_secs(1), here);
    // All that is left to the handle is a way through a transit that is gone for good.
    world.cut = vec![(0, 1), (1, 0), (1, 2), (2, 1)];
    world.start_again(2);
    world.apply(|from, to| if from == 0 { around(from, to) } else { direct(from, to) });

    world.pass(Duration::from_secs(3), here);

    let is_up =
        |report: &OverlayReport| matches!(report, OverlayReport::TunnelUp { peer } if *peer == PopId(3));
    assert_eq!(world.pops[0].reports.iter().filter(|report| is_up(report)).count(), 2);
    assert!(world.pops[0].overlay.totals().packets_copied > 0);
}
