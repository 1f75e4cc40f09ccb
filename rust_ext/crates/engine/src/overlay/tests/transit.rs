//! A PoP as a transit, among good and bad neighbours: accounting, bounds, lost links, withdrawn labels, and transit PoPs that change, drop, delay
//! or repeat what passes them.

use std::collections::VecDeque;

use l4proxy_proto::forward::wrap;
use l4proxy_wire::ids::Label;
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::outer::Labels;

use super::*;

/// Through 1 first, and directly if that is lost.
fn around_first(from: usize, to: usize) -> Vec<PathSpec> {
    if from + to == 2 { vec![path(&[from, 1, to]), path(&[from, to])] } else { direct(from, to) }
}

impl World {
    fn around(paths: fn(usize, usize) -> Vec<PathSpec>) -> Self {
        let mut world = Self::new();
        world.apply(direct);
        world.until_tunnels_are_up();
        world.apply(paths);
        world
    }

    /// A packet of `from` with these labels, as it leaves for PoP 1.
    fn outer(&self, from: usize, labels: &[u32], inner: &[u8]) -> Vec<u8> {
        let overlay = &self.pops[from].overlay;
        let keys = overlay.shared.keys.load();
        let labels: Vec<_> = labels.iter().copied().map(Label).collect();
        let key = keys.hop.find_send(PopId(2)).expect("a key with PoP 1");
        let header = wrap(overlay.tables.own, Labels::new(&labels).expect("one to three"), 0, key);
        [header.as_slice(), inner].concat()
    }

    /// From the address of `from`, whoever wrote it.
    fn inject(&self, from: usize, to: usize, packet: &[u8]) {
        self.sockets[from].send_to(packet, self.addresses[to]).expect("loopback takes it");
    }

    fn totals_of(&self, previous: usize) -> TransitTotals {
        let totals = self.pops[1].overlay.totals();
        totals.transit.get(NAMES[previous]).cloned().unwrap_or_default()
    }

    fn settle(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.until("some time", |_| Instant::now() > end);
    }
}

/// An inner packet that its receiver drops and counts: of a channel that is not there.
fn nothing(length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[..2].copy_from_slice(&[9, 1]);
    packet
}

#[test]
fn what_passes_and_what_does_not_is_accounted_to_who_sent_it() {
    let mut world = World::around(direct);
    let good = world.outer(0, &[label(1, 2)], &nothing(160));
    let unknown = world.outer(0, &[4711], &nothing(160));
    let mut forged = good.clone();
    forged[8] ^= 1;
    for packet in [&good, &good, &good, &unknown, &forged, &forged] {
        world.inject(0, 1, packet);
    }
    world.inject(2, 1, &good);

    // The epoch is as random as the key.
    let refused = |world: &World| drops_of(world, 1, "outer_tag") + drops_of(world, 1, "outer_no_key");
    world.until("all are counted", |world| refused(world) == 3);
    let totals = world.totals_of(0);
    assert_eq!((totals.packets, totals.bytes), (3, 3 * good.len() as u64));
    assert_eq!(totals.drops, HashMap::from([("outer_unknown_label", 1), ("outer_tag", 2)]));
    let other = world.totals_of(2);
    assert_eq!((other.packets, other.drops.values().sum::<u64>()), (0, 1), "sent from its address");
    world.until("the good ones arrive", |world| drops_of(world, 2, "channel_unknown") == 3);
}

#[test]
fn a_flood_of_one_pop_is_cut_to_its_rate_and_the_others_lose_nothing() {
    let mut world = World::new();
    world.transit_bytes_per_s = 100_000;
    world.apply(direct);
    world.until_tunnels_are_up();
    let flood = world.outer(0, &[label(1, 2)], &nothing(1_200));
    let small = world.outer(2, &[label(1, 0)], &nothing(60));
    let begun = Instant::now();
    for _ in 0..200 {
        for _ in 0..10 {
            world.inject(0, 1, &flood);
        }
        world.inject(2, 1, &small);
        world.turn();
    }

    world.until("all are counted", |world| {
        let totals = world.totals_of(0);
        totals.packets + totals.drops.get("transit_rate").copied().unwrap_or(0) == 2_000
            && world.totals_of(2).packets == 200
    });
    let (flooder, other) = (world.totals_of(0), world.totals_of(2));
    let earned = 131_072 + 100_000 * (begun.elapsed().as_secs() + 1);
    assert!(flooder.bytes <= earned && flooder.drops["transit_rate"] > 1_000, "{flooder:?}");
    assert!(other.drops.is_empty(), "{other:?}");
    world.until("they arrive", |world| drops_of(world, 0, "channel_unknown") == 200);
    assert_eq!(drops_of(&world, 1, "transit_rate"), flooder.drops["transit_rate"]);
}

#[test]
fn packets_that_only_claim_to_be_of_a_neighbour_do_not_use_up_its_rate() {
    let mut world = World::new();
    world.transit_bytes_per_s = 1;
    world.apply(direct);
    world.until_tunnels_are_up();
    let good = world.outer(0, &[label(1, 2)], &nothing(1_200));
    let mut forged = good.clone();
    forged[9] ^= 0x55;
    for _ in 0..300 {
        world.inject(0, 1, &forged);
        world.turn();
    }
    world.until("they are counted", |world| drops_of(world, 1, "outer_tag") == 300);
    for _ in 0..100 {
        world.inject(0, 1, &good);
        world.turn();
    }
    world.until("its own pass", |world| world.totals_of(0).packets == 100);
}

#[test]
fn a_withdrawn_label_carries_nothing_at_once_and_the_new_one_does() {
    let mut world = World::around(direct);
    let old = world.outer(0, &[label(1, 2)], &nothing(160));
    world.inject(0, 1, &old);
    world.until("it passes", |world| world.totals_of(0).packets == 1);

    world.relabelled = 0x10_0000;
    world.apply(direct);
    world.inject(0, 1, &old);
    world.until("it is refused", |world| drops_of(world, 1, "outer_unknown_label") == 1);
    let new = world.outer(0, &[label(1, 2) + world.relabelled], &nothing(160));
    world.inject(0, 1, &new);
    world.until("the new one passes", |world| world.totals_of(0).packets == 2);
}

#[test]
fn a_transit_that_loses_its_link_tells_the_source_which_moves() {
    let mut world = World::around(around_first);
    world.exchange(2);
    // The uses of a second, and a second of hellos over the link that is used.
    world.settle(Duration::from_millis(1_500));
    let heard = |world: &World| world.pops[0].overlay.totals().link_downs.heard;
    assert_eq!(heard(&world), 0);
    world.pops[0].reports.clear();

    world.cut = vec![(1, 2)];
    world.apply(around_first);
    let has_moved = |world: &World| {
        world.pops[0]
            .reports
            .iter()
            .any(|report| matches!(report, OverlayReport::HandleMoved { to, .. } if to.len() == 1))
    };
    world.until("the source is told and moves", |world| heard(world) > 0 && has_moved(world));
    assert!(world.pops[1].overlay.totals().link_downs.sent > 0);
    assert_eq!(drops_of(&world, 0, "link_down_tag") + drops_of(&world, 0, "link_down_no_key"), 0);
}

#[test]
fn a_link_down_that_is_forged_replayed_or_of_a_stranger_moves_nothing() {
    let mut world = World::around(around_first);
    world.exchange(2);
    world.settle(Duration::from_millis(300));
    let suspicions = world.pops[0].overlay.totals().suspicions;
    let keys = world.pops[1].overlay.shared.keys.load_full();
    let key = keys.probe.find_send(PopId(1)).expect("a key with PoP 0");
    let labels = Labels::new(&[Label(label(1, 2))]).unwrap();
    let message = |source: u32| LinkDown { source: PopId(source), number: 9_000_000_000, labels };
    let real = message(2).encode(&key.key, key.epoch).as_slice().to_vec();
    let mut forged = real.clone();
    forged[20] ^= 1;
    world.inject(1, 0, &forged);
    // Another PoP's words from this one's address, and this one's from another's.
    world.inject(1, 0, message(3).encode(&key.key, key.epoch).as_slice());
    world.inject(2, 0, &real);
    world.inject(1, 0, &real[..20]);
    world.until("they are counted", |world| {
        let wrong = drops_of(world, 0, "link_down_tag") + drops_of(world, 0, "link_down_no_key");
        wrong == 3 && drops_of(world, 0, "link_down_truncated") == 1
    });
    let nested = world.outer(0, &[label(1, 2)], &real);
    world.inject(0, 1, &nested);
    world.until("nor does it travel", |world| drops_of(world, 1, "outer_nested") == 1);
    assert_eq!(world.pops[0].overlay.totals().suspicions, suspicions);

    // The real one makes the path suspect, once: nothing else says that it is broken, so it stays.
    for _ in 0..3 {
        world.inject(1, 0, &real);
    }
    world.until("it is taken once", |world| drops_of(world, 0, "link_down_replayed") == 2);
    world.until("it is suspect", |world| world.pops[0].overlay.totals().suspicions > suspicions);
    world.settle(Duration::from_millis(500));
    assert_eq!(world.pops[0].overlay.totals().link_downs.heard, 1);
    let is_dead = |report: &OverlayReport| matches!(report, OverlayReport::PathDead { .. });
    assert!(!world.pops[0].reports.iter().any(is_dead));
}

/// What the transit PoP 1 does to packets for 2: some are changed inside, some lost, some delayed, some sent twice. It also reads them.
pub(super) struct Liar {
    count: usize,
    late: VecDeque<Vec<u8>>,
    changed: usize,
    seen: Vec<u8>,
}

impl Liar {
    pub(super) fn carry(&mut self, world: &World) {
        let mut buffer = [0; 65_536];
        while let Ok(length) = world._nowhere.recv(&mut buffer) {
            let packet = &mut buffer[..length];
            if self.seen.len() < 1 << 20 {
                self.seen.extend_from_slice(packet);
            }
            self.count += 1;
            match self.count % 20 {
                0 => {}
                1 => {
                    packet[length / 2] ^= 0x40;
                    self.changed += 1;
                    world.inject(1, 2, packet);
                }
                2 => self.late.push_back(packet.to_vec()),
                3 => {
                    world.inject(1, 2, packet);
                    world.inject(1, 2, packet);
                }
                _ => world.inject(1, 2, packet),
            }
            if self.count.is_multiple_of(9)
                && let Some(late) = self.late.pop_front()
            {
                world.inject(1, 2, &late);
            }
        }
    }
}

#[test]
fn a_transit_that_changes_drops_delays_and_repeats_neither_reads_nor_alters_what_arrives() {
    let mut world = World::around(around);
    world._nowhere.set_nonblocking(true).unwrap();
    world.cut = vec![(1, 2)];
    world.apply(around);
    world.liar = Some(Liar { count: 0, late: VecDeque::new(), changed: 0, seen: Vec::new() });

    // One megabyte there and back: every byte, in order.
    world.exchange(2);
    let frame =
        Frame::Data { session: SessionId(9), datagram: Datagram::unmarked(b"a secret that nobody reads") };
    let wish = Wish { duplication: Duplication::Off, budget: &app_budget() };
    for _ in 0..400 {
        world.pops[0].overlay.send_frame(Instant::now(), 2, &frame, wish).unwrap();
        world.turn();
    }
    world.settle(Duration::from_millis(100));

    let mut expected = Vec::new();
    frame.encode(&mut expected).unwrap();
    let arrived = &world.pops[2].frames;
    assert!((300..400).contains(&arrived.len()), "{}", arrived.len());
    assert!(arrived.iter().all(|(_, bytes)| *bytes == expected), "whole or not at all, and once");
    let liar = world.liar.take().expect("it is there");
    assert!(liar.changed > 20, "{}", liar.changed);
    assert!(drops_of(&world, 2, "channel_auth") > 5, "{:?}", world.drops()[2]);
    assert!(drops_of(&world, 2, "channel_replayed") > 5, "{:?}", world.drops()[2]);
    let contains = |needle: &[u8]| liar.seen.windows(needle.len()).any(|window| window == needle);
    let megabyte: Vec<u8> = (0..24u32).map(|number| (number * 7 % 251) as u8).collect();
    assert!(!contains(b"a secret") && !contains(&megabyte), "sealed from end to end");
}

#[test]
fn packets_recorded_on_the_way_and_sent_again_are_delivered_once() {
    let mut world = World::around(around);
    world._nowhere.set_nonblocking(true).unwrap();
    world.cut = vec![(1, 2)];
    world.apply(around);
    let frame = Frame::Data { session: SessionId(9), datagram: Datagram::unmarked(&[7; 160]) };
    let wish = Wish { duplication: Duplication::Off, budget: &app_budget() };
    world.liar = Some(Liar { count: 3, late: VecDeque::new(), changed: 0, seen: Vec::new() });
    world.pops[0].overlay.send_frame(Instant::now(), 2, &frame, wish).unwrap();
    world.until("one frame", |world| !world.pops[2].frames.is_empty());
    world.liar = None;

    for _ in 0..10 {
        world.pops[0].overlay.send_frame(Instant::now(), 2, &frame, wish).unwrap();
        world.turn();
    }
    let mut recorded = Vec::new();
    let mut buffer = [0; 65_536];
    world.settle(Duration::from_millis(50));
    while let Ok(length) = world._nowhere.recv(&mut buffer) {
        // Only those of the datagram channel: hellos and QUIC are counted elsewhere. A path that swallows everything is suspect soon, and some
        // of them go out again.
        let packet = buffer[..length].to_vec();
        if packet[20] == 9 && !recorded.contains(&packet) {
            recorded.push(packet);
        }
    }
    assert_eq!(recorded.len(), 10);
    world.pops[2].frames.clear();
    for packet in recorded.iter().chain(&recorded).chain(&recorded) {
        world.inject(1, 2, packet);
    }
    world.until("each twice too often", |world| drops_of(world, 2, "channel_replayed") == 20);
    assert_eq!(world.pops[2].frames.len(), 10);
    // Over another path: the tag is that of PoP 1, and of no other.
    let before = drops_of(&world, 2, "outer_tag") + drops_of(&world, 2, "outer_no_key");
    for packet in &recorded {
        world.inject(0, 2, packet);
    }
    world.until("none passes", |world| {
        drops_of(world, 2, "outer_tag") + drops_of(world, 2, "outer_no_key") == before + 10
    });
    assert_eq!(world.pops[2].frames.len(), 10);
}

#[test]
fn a_pop_that_was_started_again_gets_its_answers_where_its_peers_would_reach_it_only_through_each_other() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    // Each of the others is the transit of the other's path, and neither has a key with the new process yet.
    world.start_again(0);
    world.apply(|from, to| if to == 0 { vec![path(&[from, 3 - from, 0])] } else { direct(from, to) });
    for pop in &mut world.pops {
        pop.reports.clear();
    }

    for _ in 0..100 {
        world.turn();
        world.turn();
        world.skipped += Duration::from_millis(20);
    }

    let is_up = |report: &&OverlayReport| matches!(report, OverlayReport::TunnelUp { .. });
    let ups: Vec<_> = world.pops.iter().map(|pop| pop.reports.iter().filter(is_up).count()).collect();
    assert_eq!(ups, [2, 1, 1]);
}

#[test]
fn a_pop_that_was_started_again_beside_a_link_that_is_dead_one_way_gets_its_answers_through_a_transit() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    world.start_again(0);
    world.cut = vec![(1, 0)];
    world.apply(|from, to| if (from, to) == (1, 0) { vec![path(&[1, 2, 0])] } else { direct(from, to) });
    for pop in &mut world.pops {
        pop.reports.clear();
    }

    for _ in 0..200 {
        world.turn();
        world.turn();
        world.skipped += Duration::from_millis(20);
    }

    let is_up = |report: &&OverlayReport| matches!(report, OverlayReport::TunnelUp { .. });
    let ups: Vec<_> = world.pops.iter().map(|pop| pop.reports.iter().filter(is_up).count()).collect();
    assert_eq!(ups, [2, 1, 1]);
}
