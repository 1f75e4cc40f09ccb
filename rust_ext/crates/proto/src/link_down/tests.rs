//! A transit PoP and its neighbours: who is told, how often, what is passed on, and what moves nothing.

use super::*;

const OWN: PopId = PopId(1);
const NEXT: PopId = PopId(2);
const FIRST: PopId = PopId(3);
const SECOND: PopId = PopId(4);
const LINK: LabelledLink = LabelledLink { id: LinkId(12), label: Label(0x1212), next: NEXT };
const OTHER: LabelledLink = LabelledLink { id: LinkId(13), label: Label(0x1313), next: FIRST };
const KEY: KeyGeneration = KeyGeneration(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn transit(now: Instant) -> LinkDowns {
    let mut transit = LinkDowns::new(OWN, now);
    transit.set_links(vec![LINK, OTHER]);
    transit
}

fn said(transit: &mut LinkDowns, now: Instant) -> Vec<(PopId, Vec<u32>)> {
    let notices = std::iter::from_fn(|| transit.poll_notice(now));
    notices
        .map(|notice| {
            assert_eq!(notice.link_down.source, OWN);
            (notice.to, notice.link_down.labels.as_slice().iter().map(|label| label.0).collect())
        })
        .collect()
}

fn message(source: PopId, number: u64, labels: &[u32]) -> LinkDown {
    let labels: Vec<_> = labels.iter().copied().map(Label).collect();
    LinkDown { source, number, labels: Labels::new(&labels).expect("one to three") }
}

#[test]
fn those_who_sent_over_a_lost_link_within_ten_seconds_are_told_and_nobody_else() {
    let now = start();
    let mut transit = transit(now);
    transit.on_use(now, FIRST, LINK.id);
    transit.on_use(now + ms(5_000), SECOND, LINK.id);
    transit.on_use(now + ms(5_000), SECOND, OTHER.id);
    assert_eq!(said(&mut transit, now + ms(5_000)), []);
    let later = now + ms(9_999);
    transit.set_down(later, LINK.id, true);
    assert_eq!(said(&mut transit, later), [(FIRST, vec![0x1212]), (SECOND, vec![0x1212])]);
    assert_eq!(said(&mut transit, later), [], "once");
    let later = later + SAY_AGAIN;
    assert_eq!(transit.poll_timeout(), Some(later));
    assert_eq!(said(&mut transit, later), [(SECOND, vec![0x1212])], "the first has fallen silent");
    assert_eq!(transit.counters().sent, 3);
}

#[test]
fn it_is_said_twice_at_once_and_then_twice_a_second_until_the_link_is_back() {
    let now = start();
    let mut transit = transit(now);
    transit.on_use(now, FIRST, LINK.id);
    transit.set_down(now, LINK.id, true);
    let times: Vec<_> = (0..2_000)
        .filter(|&at| {
            transit.set_down(now + ms(at), LINK.id, true);
            !said(&mut transit, now + ms(at)).is_empty()
        })
        .collect();
    assert_eq!(times, [0, 25, 525, 1_025, 1_525]);
    transit.set_down(now + ms(2_000), LINK.id, false);
    assert_eq!(said(&mut transit, now + ms(9_000)), []);
    assert_eq!(transit.poll_timeout(), None);
}

#[test]
fn numbers_only_grow_also_in_an_instance_that_begins_later() {
    let now = start();
    let mut newest = 0;
    for begun in [0, 700] {
        let mut transit = LinkDowns::new(OWN, now);
        transit.set_links(vec![LINK]);
        for at in begun..begun + 600 {
            let now = now + ms(at);
            transit.on_use(now, FIRST, LINK.id);
            transit.set_down(now, LINK.id, true);
            while let Some(notice) = transit.poll_notice(now) {
                assert!(notice.link_down.number > newest || newest == 0);
                newest = notice.link_down.number;
            }
        }
    }
    assert!(newest > 700_000);
}

#[test]
fn what_a_next_hop_says_is_passed_on_with_the_own_label_in_front_and_ends_after_three() {
    let now = start();
    let mut transit = transit(now);
    for previous in [FIRST, SECOND] {
        transit.on_use(now, previous, LINK.id);
    }
    transit.on_use(now, SECOND, OTHER.id);
    assert_eq!(transit.handle(now, NEXT, KEY, &message(NEXT, 1, &[7])), Ok(()));
    assert_eq!(said(&mut transit, now), [(FIRST, vec![0x1212, 7]), (SECOND, vec![0x1212, 7])]);
    assert_eq!(transit.handle(now + ms(20), NEXT, KEY, &message(NEXT, 2, &[7, 8, 9])), Ok(()));
    assert_eq!(said(&mut transit, now + ms(20)), [], "four labels are on no path");
    assert_eq!((transit.counters().passed_on, transit.counters().heard), (2, 2));
}

#[test]
fn what_is_replayed_comes_late_or_names_another_pop_moves_nothing() {
    let now = start();
    let mut transit = transit(now);
    transit.on_use(now, FIRST, LINK.id);
    assert_eq!(transit.handle(now, NEXT, KEY, &message(NEXT, 5, &[7])), Ok(()));
    said(&mut transit, now);
    let later = now + ms(1_000);
    for (from, generation, message, reason) in [
        (NEXT, KEY, message(NEXT, 5, &[7]), DropReason::LinkDownReplayed),
        (NEXT, KEY, message(NEXT, 4, &[7]), DropReason::LinkDownReplayed),
        (NEXT, KeyGeneration(0), message(NEXT, 9, &[7]), DropReason::LinkDownReplayed),
        (SECOND, KEY, message(NEXT, 9, &[7]), DropReason::LinkDownTag),
    ] {
        assert_eq!(transit.handle(later, from, generation, &message), Err(reason));
    }
    assert_eq!(said(&mut transit, later), []);
    assert_eq!(transit.handle(later, NEXT, KeyGeneration(2), &message(NEXT, 1, &[7])), Ok(()), "a newer key");
}

#[test]
fn a_neighbour_that_says_too_much_is_not_listened_to_and_the_others_are() {
    let now = start();
    let mut transit = transit(now);
    let mut taken = 0;
    for number in 1..=1_000 {
        match transit.handle(now, NEXT, KEY, &message(NEXT, number, &[7])) {
            Ok(()) => taken += 1,
            Err(reason) => assert_eq!(reason, DropReason::LinkDownLimited),
        }
    }
    assert_eq!(taken, 200);
    assert_eq!(transit.handle(now, FIRST, KEY, &message(FIRST, 1, &[7])), Ok(()));
    assert_eq!(transit.handle(now + ms(1_000), NEXT, KEY, &message(NEXT, 1_001, &[7])), Ok(()));
}

#[test]
fn a_full_table_of_uses_is_counted_and_has_room_again_after_ten_seconds() {
    let now = start();
    let mut transit = transit(now);
    for previous in 0..MAX_USES as u32 + 3 {
        transit.on_use(now, PopId(100 + previous), LINK.id);
    }
    assert_eq!((transit.uses.len(), transit.counters().uses_full), (MAX_USES, 3));
    transit.on_use(now, PopId(100), LINK.id);
    assert_eq!(transit.counters().uses_full, 3, "one that is there");
    transit.on_use(now + USE_MEMORY, FIRST, LINK.id);
    assert_eq!((transit.uses.len(), transit.counters().uses_full), (1, 3));
}

#[test]
fn more_previous_hops_than_messages_may_wait_are_counted() {
    let now = start();
    let mut transit = transit(now);
    for previous in 0..MAX_WAITING as u32 + 7 {
        transit.on_use(now, PopId(100 + previous), LINK.id);
    }
    transit.set_down(now, LINK.id, true);
    assert_eq!(said(&mut transit, now).len(), MAX_WAITING);
    assert_eq!(transit.counters().waiting_full, 7);
}

#[test]
fn what_was_said_is_remembered_up_to_the_bound_and_no_more_is_said_until_it_is_forgotten() {
    let now = start();
    let mut transit = transit(now);
    for batch in 0..(MAX_SAID / MAX_WAITING) as u32 {
        for previous in 0..MAX_WAITING as u32 {
            transit.on_use(now, PopId(1_000 * (batch + 1) + previous), LINK.id);
        }
    }
    // Labels of the next hop, so that nobody is told the same twice; what is polled makes room to wait.
    let mut told = 0;
    for number in 1..=8 {
        let _ = transit.handle(now, NEXT, KEY, &message(NEXT, number, &[number as u32]));
        told += said(&mut transit, now).len();
    }
    assert_eq!((told, transit.said.len()), (MAX_SAID, MAX_SAID), "256 at a time, four times");
    assert_eq!(transit.counters().waiting_full, (8 * MAX_SAID - MAX_SAID) as u64);
    let later = now + SPACING;
    assert_eq!(transit.handle(later, NEXT, KEY, &message(NEXT, 9, &[9])), Ok(()));
    assert_eq!(said(&mut transit, later).len(), MAX_WAITING);
}

#[test]
fn more_neighbours_than_the_bound_are_not_listened_to() {
    let now = start();
    let mut transit = transit(now);
    for neighbour in 0..MAX_HEARD as u32 {
        let from = PopId(100 + neighbour);
        assert_eq!(transit.handle(now, from, KEY, &message(from, 1, &[7])), Ok(()));
    }
    assert_eq!(
        transit.handle(now, NEXT, KEY, &message(NEXT, 1, &[7])),
        Err(DropReason::LinkDownLimited),
        "a reason that is counted"
    );
    let known = PopId(100);
    assert_eq!(transit.handle(now, known, KEY, &message(known, 2, &[7])), Ok(()));
    assert_eq!(transit.heard.len(), MAX_HEARD);
}

#[test]
fn links_in_use_are_watched_up_to_the_bound() {
    let now = start();
    let mut transit = LinkDowns::new(OWN, now);
    let link = |n: u32| LabelledLink { id: LinkId(n), label: Label(n + 1), next: NEXT };
    transit.set_links((0..30).map(link).collect());
    for n in 0..20 {
        transit.on_use(now, FIRST, LinkId(n));
    }
    assert_eq!(transit.watched(now, 40).len(), MAX_WATCHED);
    assert_eq!(transit.counters().watched_full, 4);
    assert_eq!(transit.watched(now, 3).len(), 3);
    assert_eq!(transit.watched(now + USE_MEMORY, 40), []);
}
