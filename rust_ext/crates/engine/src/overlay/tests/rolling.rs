//! Keys that are renewed under traffic, and moves on purpose: what nobody may notice.

use super::*;

/// A datagram that says how many were sent before it.
fn numbered(number: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[7; 100]].concat()
}

#[test]
fn keys_of_channels_and_pairs_roll_under_traffic_through_a_transit_and_nothing_is_dropped() {
    const STEP: Duration = Duration::from_millis(10);
    let mut world = World::new();
    for pop in &mut world.pops {
        pop.overlay.epochs.set_life(Duration::from_secs(2), Duration::from_secs(1));
    }
    world.apply(direct);
    world.until_tunnels_are_up();
    world.apply(around);
    let (sender, receiver) = world.opened(2);
    let first_carrier = sender.connection;
    let begun = world.drops();
    let (mut channel, mut replies) = (None, 0u32);
    let mut heard: [Vec<u32>; 2] = Default::default();
    for number in 0..1_500u32 {
        let (now, bytes) = (world.now(), numbered(number));
        let budget = app_budget();
        let wish = Wish { duplication: Duplication::Off, budget: &budget };
        let frame = Frame::Data { session: SessionId(9), datagram: Datagram::unmarked(&bytes) };
        let line = world.pops[0].overlay.send_frame(now, 2, &frame, wish).unwrap();
        assert_eq!(line, first_carrier, "a flow never notices which connection carries it");
        if let Some(channel) = channel {
            let bytes = numbered(replies);
            let frame = Frame::Data { session: SessionId(9), datagram: Datagram::unmarked(&bytes) };
            world.pops[2].overlay.send_datagram(now, channel, &frame, wish).unwrap();
            replies += 1;
        }
        for _ in 0..4 {
            world.turn();
        }
        for (end, pop) in [(0, 0), (1, 2)] {
            for (from, frame) in std::mem::take(&mut world.pops[pop].frames) {
                heard[end].push(u32::from_be_bytes(*frame[7..].first_chunk().unwrap()));
                if pop == 2 {
                    assert_eq!(*channel.get_or_insert(from), from, "nor does the other end");
                }
            }
        }
        world.skipped += STEP;
    }
    for _ in 0..20 {
        world.turn();
    }
    for pop in [0, 2] {
        heard[pop / 2].extend(
            world.pops[pop]
                .frames
                .iter()
                .map(|(_, frame)| u32::from_be_bytes(*frame[7..].first_chunk().unwrap())),
        );
    }
    let rolled: Vec<_> = world.pops.iter().map(|pop| pop.overlay.totals().epochs).collect();
    // Fifteen seconds: the connection of flows and both pair connections of the first PoP, the pair connection of the second.
    assert!(rolled[0].rolled >= 15 && rolled[1].rolled >= 5 && rolled[2].rolled == 0, "{rolled:?}");
    assert_eq!(rolled[0].failed, 0);
    assert_eq!((heard[1].len(), heard[0].len()), (1_500, replies as usize), "none is lost");
    for heard in &heard {
        let late = heard.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!(late * 1_000 <= heard.len(), "{late} late of {}", heard.len());
    }
    // Clocks that a test moves between request and reply make probes impossible.
    let drops = world.drops();
    let is_fine = |(reason, count): (&&str, &u64)| {
        *reason == "probe_impossible" || begun.iter().any(|begun| begun.get(*reason) == Some(count))
    };
    assert!(drops.iter().all(|drops| drops.iter().all(is_fine)), "{drops:?} and before {begun:?}");
    let gone = |event: &OverlayEvent| matches!(event, OverlayEvent::ChannelGone { channel } if *channel == first_carrier);
    assert!(!world.pops[0].events.iter().any(gone));
    for pop in &world.pops {
        let reports =
            |wanted: fn(&OverlayReport) -> bool| pop.reports.iter().filter(|report| wanted(report)).count();
        assert_eq!(
            reports(|report| matches!(report, OverlayReport::TunnelUp { .. })),
            2,
            "tunnels come up once"
        );
        assert_eq!(reports(|report| matches!(report, OverlayReport::TunnelDown { .. })), 0);
        assert!(!pop.reports.iter().any(|report| matches!(report, OverlayReport::PathDead { .. })));
    }
    // The first connection carries its stream still; those between it and the newest were closed.
    assert!(
        world.pops[0].overlay.totals().connections <= 8,
        "{}",
        world.pops[0].overlay.totals().connections
    );
    world.carry(0, sender, 2, receiver, &[7; 100_000]);
}

#[test]
fn a_connection_is_told_when_its_packets_take_another_path_on_purpose() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    let (here, _) = world.opened(2);
    let path_of = |world: &World| {
        let paths = world.pops[0].overlay.connections.paths();
        paths.filter(|(key, _, _)| *key == here.connection).map(|(_, _, path)| path.0).next()
    };
    assert_eq!(path_of(&world), Some(path(&[0, 2]).id));
    let peer = PopId(3);
    world.until("the round trip is known", |world| {
        let hint = world.pops[0].overlay.shared.hint(world.now(), peer, PathId(path(&[0, 2]).id));
        hint.rtt.is_some()
    });

    world.apply(around);
    world.turn();

    assert_eq!(path_of(&world), Some(path(&[0, 1, 2]).id));
    assert_eq!(world.pops[0].overlay.totals().packets_resent, 0, "what is on its way arrives");
}
