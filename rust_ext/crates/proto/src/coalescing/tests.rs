//! Which flows are polled, and when that ends, in virtual time.

use super::*;

fn start() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can only be made from a clock; its value is never looked at"
    )]
    Instant::now()
}

/// Turns of so many bytes each, evenly spaced, for a second; how many it took until the flow was polled.
fn turns_until_polled(gap: Duration, bytes: usize) -> Option<u32> {
    let mut flow = Coalescing::new(start_plus(Duration::ZERO));
    let turns = u32::try_from(Duration::from_secs(1).as_micros() / gap.as_micros()).unwrap();
    (1..=turns).find(|&turn| flow.on_turn(start_plus(gap * turn), bytes))
}

/// Every call gets the same start within one test: the first.
fn start_plus(elapsed: Duration) -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(start) + elapsed
}

#[test]
fn a_flow_that_fills_its_turns_at_a_high_rate_is_polled() {
    // The first window began with the flow; the rest of it passed before.
    assert!(turns_until_polled(Duration::from_micros(100), 64 * 1024).is_some_and(|turns| turns <= 64));
    assert!(turns_until_polled(Duration::from_micros(240), FULL_TURN).is_some());
}

#[test]
fn slow_bulk_and_fast_small_messages_are_not() {
    assert_eq!(turns_until_polled(Duration::from_micros(300), 256 * 1024), None);
    assert_eq!(turns_until_polled(Duration::from_micros(20), FULL_TURN - 1), None);
}

#[test]
fn one_small_message_among_large_ones_starts_the_count_again() {
    let mut flow = Coalescing::new(start_plus(Duration::ZERO));
    for round in 0..100 {
        for turn in 0..u32::from(BUSY_TURNS) - 1 {
            let now = start_plus(Duration::from_micros(u64::from(round * 1_000 + turn)));
            assert!(!flow.on_turn(now, FULL_TURN));
        }
        assert!(!flow.on_turn(start_plus(Duration::from_micros(u64::from(round * 1_000 + 999))), 100));
    }
}

fn polled() -> Coalescing {
    let mut flow = Coalescing::new(start_plus(Duration::ZERO));
    while !flow.on_turn(start_plus(Duration::ZERO), FULL_TURN) {}
    flow.start();
    flow
}

#[test]
fn polling_outlasts_a_receiver_that_sleeps_a_moment_and_ends_with_the_transfer() {
    let now = start_plus(Duration::ZERO);
    let mut flow = polled();
    for _ in 0..10 {
        for _ in 1..POOR_POLLS {
            assert!(flow.on_poll(now, 0));
        }
        assert!(flow.on_poll(now, FULL_TURN));
    }
    for _ in 1..POOR_POLLS {
        assert!(flow.on_poll(now, 0));
    }
    assert!(!flow.on_poll(now, 0) && !flow.is_polled());
}

#[test]
fn after_polling_the_count_begins_anew() {
    let now = start_plus(Duration::ZERO);
    let mut flow = polled();
    flow.stop(now);
    assert!(!flow.is_polled());
    for _ in 1..BUSY_TURNS {
        assert!(!flow.on_turn(now, FULL_TURN));
    }
    assert!(flow.on_turn(now, FULL_TURN));
}
