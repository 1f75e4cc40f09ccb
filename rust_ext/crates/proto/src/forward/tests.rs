//! PoPs A → B → C → D → E in a row, each with real keys to its neighbours; what they do to good and to bad packets.

use l4proxy_wire::keys::Epoch;
use proptest::prelude::*;

use super::*;

const A: PopId = PopId(0xa);
const B: PopId = PopId(0xb);
const C: PopId = PopId(0xc);
const D: PopId = PopId(0xd);
const E: PopId = PopId(0xe);
const INNER: &[u8] = &[0x40, 1, 2, 3];

/// Both ends derive the same key of a direction; here from the names of its ends.
fn hop_key(from: PopId, to: PopId) -> (HopKey, Epoch) {
    (HopKey::new([(from.0 << 4 | to.0) as u8; 16]), Epoch::new((from.0 + to.0) as u8))
}

fn keys_of(own: PopId, neighbours: &[PopId]) -> HopKeys {
    let mut keys = HopKeys::new();
    for &peer in neighbours {
        let (receive, epoch) = hop_key(peer, own);
        keys.add_receive(peer, receive, epoch);
        let (send, epoch) = hop_key(own, peer);
        keys.set_send(peer, send, epoch, false);
    }
    keys
}

fn label(from: PopId, to: PopId) -> Label {
    Label(0x1000 | from.0 << 4 | to.0)
}

fn link(from: PopId, to: PopId) -> LinkId {
    LinkId(0x2000 | from.0 << 4 | to.0)
}

/// The table of a PoP with links to the given neighbours.
fn table_of(own: PopId, neighbours: &[PopId]) -> ForwardTable {
    let labels = neighbours.iter().map(|&next| (label(own, next), Outgoing { link: link(own, next), next }));
    ForwardTable::new(own, labels).expect("labels differ")
}

/// A packet from `path[0]` over all of `path`, as it leaves its source.
fn packet_over(path: &[PopId]) -> Vec<u8> {
    let labels: Vec<_> = path.windows(2).skip(1).map(|hop| label(hop[0], hop[1])).collect();
    let labels = Labels::new(&labels).expect("two to four links");
    let keys = keys_of(path[0], &path[1..2]);
    let header = wrap(path[0], labels, 5, keys.find_send(path[1]).expect("a neighbour"));
    [header.as_slice(), INNER].concat()
}

/// B, between A and C, gets `packet` from A.
fn at_b(packet: &mut [u8]) -> Verdict {
    table_of(B, &[A, C]).handle_outer(packet, A, &keys_of(B, &[A, C]))
}

/// Changes the header before it is tagged for A → B, so that only what is changed can be wrong.
fn tampered(path: &[PopId], change: impl FnOnce(&mut OuterHeader)) -> Vec<u8> {
    let mut header = OuterHeader::parse(&packet_over(path)).expect("our own");
    change(&mut header);
    [header.encode(&hop_key(A, B).0).as_slice(), INNER].concat()
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn a_packet_crosses_four_links_through_three_transits_unchanged_inside() {
    let mut packet = packet_over(&[A, B, C, D, E]);
    for (transit, previous, next) in [(B, A, C), (C, B, D), (D, C, E)] {
        let table = table_of(transit, &[previous, next]);
        let keys = keys_of(transit, &[previous, next]);
        let verdict = table.handle_outer(&mut packet, previous, &keys);
        assert_eq!(verdict, Verdict::Forward { link: link(transit, next), next });
        // The copy that has been rewritten is no good for the same transit again.
        assert_ne!(table.handle_outer(&mut packet.clone(), previous, &keys), verdict);
    }
    let verdict = table_of(E, &[D]).handle_outer(&mut packet, D, &keys_of(E, &[D]));
    assert_eq!(verdict, Verdict::Deliver { source: A, inner: 28 });
    assert_eq!(&packet[28..], INNER);
    assert_eq!(packet[2], 5, "transits spread load by the worker byte and leave it alone");
}

#[test]
fn a_path_of_two_links_has_one_label() {
    let mut packet = packet_over(&[A, B, C]);
    assert_eq!(at_b(&mut packet), Verdict::Forward { link: link(B, C), next: C });
    let verdict = table_of(C, &[B]).handle_outer(&mut packet, B, &keys_of(C, &[B]));
    assert_eq!(verdict, Verdict::Deliver { source: A, inner: 20 });
}

#[test]
fn malformed_headers_are_dropped_by_reason_and_left_alone() {
    for (at, value, reason) in [
        (1, 0x20, DropReason::OuterVersion),
        (1, 0x13, DropReason::OuterLabels),
        (3, 0x70, DropReason::OuterLabels),
        (3, 0x74, DropReason::OuterLabels),
    ] {
        let mut packet = packet_over(&[A, B, C, D]);
        packet[at] = value;
        let before = packet.clone();
        assert_eq!(at_b(&mut packet), dropped(reason));
        assert_eq!(packet, before);
    }
    let mut packet = packet_over(&[A, B, C]);
    for length in 0..=20 {
        assert_eq!(at_b(&mut packet[..length]), dropped(DropReason::OuterTruncated), "{length} bytes");
    }
}

#[test]
fn only_a_neighbour_with_the_right_key_may_pass() {
    let table = table_of(B, &[A, C]);
    let mut packet = packet_over(&[A, B, C]);
    let without_a = keys_of(B, &[C]);
    assert_eq!(table.handle_outer(&mut packet, A, &without_a), dropped(DropReason::OuterNoKey));
    packet[3] ^= 0x10;
    assert_eq!(at_b(&mut packet), dropped(DropReason::OuterNoKey), "another epoch");
    packet[3] ^= 0x10;
    packet[8] ^= 1;
    assert_eq!(at_b(&mut packet), dropped(DropReason::OuterTag));
    packet[8] ^= 1;
    // D has a key with B as well, of the same epoch, but it is not A's.
    let mut keys = keys_of(B, &[A, C]);
    keys.add_receive(D, hop_key(D, B).0, hop_key(A, B).1);
    assert_eq!(table.handle_outer(&mut packet, D, &keys), dropped(DropReason::OuterTag));
    assert_eq!(table.handle_outer(&mut packet, A, &keys), Verdict::Forward { link: link(B, C), next: C });
}

#[test]
fn without_a_key_for_the_next_hop_it_is_dropped() {
    let mut packet = packet_over(&[A, B, C]);
    let verdict = table_of(B, &[A, C]).handle_outer(&mut packet, A, &keys_of(B, &[A]));
    assert_eq!(verdict, dropped(DropReason::OuterNoKey));
}

#[test]
fn a_million_guesses_of_a_label_or_a_tag_are_counted_one_by_one_and_none_passes() {
    const GUESSES: u64 = 1_000_000;
    let (table, keys) = (table_of(B, &[A, C]), keys_of(B, &[A, C]));
    let header = OuterHeader::parse(&packet_over(&[A, B, C])).expect("our own");
    let mut packet = packet_over(&[A, B, C]);
    let (mut counts, mut random) = (std::collections::BTreeMap::new(), 1_u64);
    for guess in 0..GUESSES {
        // SplitMix64's increment: each guess is another number.
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        if guess % 2 == 0 {
            // A neighbour that has the right to pass guesses labels.
            let labels = Labels::new(&[Label((random >> 32) as u32)]).expect("one label");
            let tagged = OuterHeader { labels, ..header }.encode(&hop_key(A, B).0);
            packet[..tagged.as_slice().len()].copy_from_slice(tagged.as_slice());
        } else {
            // Somebody at its address who has no key guesses tags for a label that is there.
            let tagged = header.encode(&hop_key(A, B).0);
            packet[..tagged.as_slice().len()].copy_from_slice(tagged.as_slice());
            packet[8..16].copy_from_slice(&random.to_be_bytes());
        }
        match table.handle_outer(&mut packet, A, &keys) {
            Verdict::Drop(reason) => *counts.entry(reason).or_insert(0_u64) += 1,
            passed @ (Verdict::Forward { .. } | Verdict::Deliver { .. }) => {
                panic!("guess {guess}: {passed:?}")
            }
        }
    }
    let expected = [(DropReason::OuterTag, GUESSES / 2), (DropReason::OuterUnknownLabel, GUESSES / 2)];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_withdrawn_label_is_unknown() {
    let mut packet = tampered(&[A, B, C], |header| {
        header.labels = Labels::new(&[Label(0x9999)]).expect("one label");
    });
    assert_eq!(at_b(&mut packet), dropped(DropReason::OuterUnknownLabel));
}

#[test]
fn a_route_that_returns_is_a_loop() {
    let route = |labels: &[Label]| {
        let labels = Labels::new(labels).expect("few labels");
        tampered(&[A, B, C], |header| header.labels = labels)
    };
    // A → B → A: the next hop is where it came from.
    assert_eq!(at_b(&mut route(&[label(B, A)])), dropped(DropReason::OuterLoop));
    // A → B → C → B: a second label of B stands later in the route.
    let twice = [label(B, C), label(C, B), label(B, C)];
    assert_eq!(at_b(&mut route(&twice)), dropped(DropReason::OuterLoop));
    // D → A → B → D: the next hop is the source.
    let mut packet = tampered(&[A, B, C], |header| {
        header.source = D;
        header.labels = Labels::new(&[label(A, B), label(B, D)]).expect("two labels");
        header.pointer = 1;
    });
    let verdict = table_of(B, &[A, C, D]).handle_outer(&mut packet, A, &keys_of(B, &[A, C, D]));
    assert_eq!(verdict, dropped(DropReason::OuterLoop));
    // B itself is the source.
    let mut packet = tampered(&[A, B, C], |header| header.source = B);
    assert_eq!(at_b(&mut packet), dropped(DropReason::OuterLoop));
    // It has arrived, yet has passed here before.
    let mut packet = tampered(&[A, B, C], |header| header.pointer = 1);
    assert_eq!(at_b(&mut packet), dropped(DropReason::OuterLoop));
}

#[test]
fn what_speaks_of_one_link_and_another_outer_header_do_not_travel_inside_one() {
    for kind in [TYPE_OUTER, TYPE_PROBE, TYPE_LINK_DOWN] {
        let mut packet = packet_over(&[A, B, C]);
        packet[20] = kind;
        assert_eq!(at_b(&mut packet), dropped(DropReason::OuterNested));
    }
}

#[test]
fn a_table_refuses_labels_that_tell_nothing() {
    let to = |next| Outgoing { link: link(B, next), next };
    assert_eq!(ForwardTable::new(B, [(Label(0), to(C))]).err(), Some(TableError::Zero(link(B, C))));
    let twice = [(Label(5), to(C)), (Label(4), to(A)), (Label(5), to(D))];
    assert_eq!(ForwardTable::new(B, twice).err(), Some(TableError::Twice(Label(5))));
}

proptest! {
    #[test]
    fn any_bytes_are_dropped_with_a_reason_and_left_alone(mut packet in prop::collection::vec(any::<u8>(), 0..80), like_ours: bool) {
        if like_ours && packet.len() > 3 {
            packet[..2].copy_from_slice(&[TYPE_OUTER, 0x10]);
            packet[3] = hop_key(A, B).1.get() << 4 | (packet[3] % 4);
        }
        let before = packet.clone();
        prop_assert!(matches!(at_b(&mut packet), Verdict::Drop(_)));
        prop_assert_eq!(packet, before);
    }

    #[test]
    fn any_header_of_an_authenticated_neighbour_is_judged_without_panic(
        pointer in 0_u8..5, source: u32, labels in prop::collection::vec(0x10b0_u32..0x10d0, 1..=3), kind: u8,
    ) {
        let labels: Vec<_> = labels.into_iter().map(Label).collect();
        let labels = Labels::new(&labels).expect("one to three");
        let mut packet = tampered(&[A, B, C], |header| {
            *header = OuterHeader { pointer, source: PopId(source), labels, ..*header };
        });
        if let Some(first) = packet.get_mut(12 + 4 * labels.as_slice().len() + 4) {
            *first = kind;
        }
        match at_b(&mut packet) {
            Verdict::Forward { next, .. } => prop_assert_eq!((next, pointer < 3), (C, true)),
            Verdict::Deliver { source: from, inner } => {
                prop_assert_eq!((from, inner), (PopId(source), 16 + 4 * labels.as_slice().len()));
            }
            Verdict::Drop(reason) => prop_assert!(reason.as_str().starts_with("outer_")),
        }
    }
}
