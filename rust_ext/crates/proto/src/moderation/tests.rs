//! Whom a worker makes wait, in virtual time: open loops at many rates, closed loops, bursts.

use super::*;

fn start() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can only be made from a clock; its value is never looked at"
    )]
    Instant::now()
}

/// What a second of traffic came to.
#[derive(Debug, Default)]
struct Outcome {
    turns: u64,
    paused: u64,
    longest: Duration,
}

/// Datagrams that come evenly at a rate, whatever the worker does. A turn takes 5 µs and 1 µs for each of them.
fn open_loop(moderation: &mut Moderation, from: Instant, per_second: u64) -> Outcome {
    let gap = Duration::from_nanos(1_000_000_000 / per_second);
    let (mut outcome, mut now, mut taken) = (Outcome::default(), from, 0);
    while now < from + Duration::from_secs(1) {
        let arrived = (now - from).as_nanos() as u64 / gap.as_nanos() as u64;
        if arrived == taken {
            // Asleep until the next one.
            now = from + gap * u32::try_from(taken + 1).unwrap();
            continue;
        }
        let datagrams = (arrived - taken).min(192);
        taken += datagrams;
        now += Duration::from_micros(5 + datagrams);
        let pause = moderation.after_turn(now, datagrams as usize);
        now += pause;
        outcome.turns += 1;
        outcome.paused += u64::from(!pause.is_zero());
        outcome.longest = outcome.longest.max(pause);
    }
    outcome
}

#[test]
fn at_low_rates_nobody_waits() {
    for rate in [1, 60, 1_000, 8_000, 14_000] {
        let outcome = open_loop(&mut Moderation::new(start()), start(), rate);
        assert_eq!(outcome.paused, 0, "{rate} a second: {outcome:?}");
    }
}

#[test]
fn at_high_rates_turns_carry_several_and_no_pause_is_longer_than_the_rate_allows() {
    let rows = [
        (20_000, 6_000, TIERS[2].longest),
        (40_000, 6_000, TIERS[2].longest),
        (60_000, 6_000, TIERS[2].longest),
        (70_000, 3_000, TIERS[1].longest),
        (100_000, 3_000, TIERS[1].longest),
        (400_000, 12_000, TIERS[0].longest),
    ];
    for (rate, at_most, longest) in rows {
        let now = start();
        let outcome = open_loop(&mut Moderation::new(now), now, rate);
        assert!(outcome.turns <= at_most, "{rate} a second: {outcome:?}");
        assert!(outcome.longest <= longest && outcome.longest >= SHORTEST_PAUSE, "{rate}: {outcome:?}");
    }
}

#[test]
fn a_full_turn_is_followed_by_the_next_at_once() {
    let now = start();
    let mut moderation = Moderation::new(now);
    let mut at = now;
    for _ in 0..1_000 {
        at += Duration::from_micros(100);
        assert_eq!(moderation.after_turn(at, 128), Duration::ZERO);
    }
}

#[test]
fn a_closed_loop_is_tried_and_then_left_alone() {
    // One datagram under way and its answer after it: 35 µs each, and never more than one in a turn.
    let now = start();
    let (mut moderation, mut at, mut paused) = (Moderation::new(now), now, 0);
    while at < now + Duration::from_secs(3) {
        at += Duration::from_micros(35);
        let pause = moderation.after_turn(at, 1);
        paused += u32::from(!pause.is_zero());
        at += pause;
    }
    assert!(paused > 0, "it was tried");
    assert!(paused <= 4 * TRIAL_TURNS, "{paused} pauses in 3 s");
}

#[test]
fn after_a_closed_loop_an_open_one_is_moderated_again() {
    let now = start();
    let (mut moderation, mut at) = (Moderation::new(now), now);
    while at < now + Duration::from_millis(500) {
        at += Duration::from_micros(35);
        at += moderation.after_turn(at, 1);
    }
    open_loop(&mut moderation, at, 40_000);
    let outcome = open_loop(&mut moderation, at + Duration::from_secs(1), 40_000);
    assert!(outcome.turns < 6_000, "{outcome:?}");
}

#[test]
fn when_the_rate_falls_pauses_end_within_a_window() {
    let now = start();
    let mut moderation = Moderation::new(now);
    open_loop(&mut moderation, now, 100_000);
    let mut at = now + Duration::from_secs(1);
    let mut paused_until = at;
    for _ in 0..100 {
        at += Duration::from_millis(5);
        if !moderation.after_turn(at, 1).is_zero() {
            paused_until = at;
        }
    }
    assert!(paused_until - now <= Duration::from_secs(1) + 2 * WINDOW);
}
