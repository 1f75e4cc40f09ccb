//! Buckets and the table of sources in virtual time.

use proptest::prelude::*;

use super::*;

/// One moment for all tests; the clock's own value does not matter.
#[expect(clippy::disallowed_methods, reason = "there is no other way to make an instant")]
fn epoch() -> Instant {
    Instant::now()
}

fn rate(per_second: u64, burst: u64) -> Rate {
    Rate::new(NonZeroU64::new(per_second).unwrap(), NonZeroU64::new(burst).unwrap())
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn rates(max_sources: usize) -> SourceRates {
    SourceRates::new(max_sources, RandomState::with_seeds(1, 2, 3, 4))
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
    let (start, rate) = (epoch(), rate(10, 3));
    let mut bucket = Bucket::new(start);
    assert_eq!([0; 4].map(|_| bucket.take(start, rate, 1)), [true, true, true, false]);
    assert!(!bucket.take(start + ms(99), rate, 1));
    assert!(bucket.take(start + ms(100), rate, 1));
    assert!(!bucket.take(start + ms(100), rate, 1));
    assert_eq!(bucket.available(start + ms(60_000), rate), 3, "it never holds more than its burst");
}

#[test]
fn a_debt_is_paid_before_there_are_tokens_again() {
    let (start, rate) = (epoch(), rate(1_000, 1_000));
    let mut bucket = Bucket::new(start);
    bucket.charge(start, rate, 3_000);
    assert_eq!(bucket.available(start + ms(2_000), rate), 0);
    assert_eq!(bucket.available(start + ms(2_001), rate), 1);
    assert_eq!(bucket.ready_at(start, rate, 500), start + ms(2_500));
    assert_eq!(
        bucket.ready_at(start, rate, 9_999),
        start + ms(3_000),
        "more than it holds is not waited for"
    );
    assert_eq!(bucket.ready_at(start + ms(5_000), rate, 1), start + ms(5_000));
}

#[test]
fn the_largest_numbers_do_no_harm() {
    let start = epoch();
    for rate in [rate(u64::MAX, u64::MAX), rate(1, u64::MAX), rate(u64::MAX, 1), rate(1, 1)] {
        let mut bucket = Bucket::new(start);
        assert!(bucket.take(start, rate, 1));
        bucket.charge(start, rate, u64::MAX);
        bucket.charge(start, rate, u64::MAX);
        let _ = (bucket.available(start, rate), bucket.ready_at(start, rate, u64::MAX));
    }
}

#[test]
fn each_source_has_a_bucket_of_its_own() {
    let (start, rate) = (epoch(), rate(1, 2));
    let mut rates = rates(10);
    let mut take = |source, at| rates.take(start + ms(at), Source::V4(source), rate);
    assert_eq!([take(1, 0), take(1, 0), take(1, 0)], [Taken::Yes, Taken::Yes, Taken::No]);
    assert_eq!(take(2, 0), Taken::Yes);
    assert_eq!([take(1, 999), take(1, 1_000), take(1, 1_000)], [Taken::No, Taken::Yes, Taken::No]);
}

#[test]
fn a_full_table_lets_newcomers_in_and_forgets_those_whose_buckets_are_full() {
    let (start, rate) = (epoch(), rate(1, 1));
    let mut rates = rates(3);
    for source in 0..3 {
        assert_eq!(rates.take(start, Source::V4(source), rate), Taken::Yes);
    }
    assert_eq!(rates.take(start + ms(500), Source::V4(7), rate), Taken::NoPlace);
    assert_eq!(rates.take(start + ms(500), Source::V4(0), rate), Taken::No, "who has a place keeps it");
    assert_eq!(rates.len(), 3);
    // Searched just now, so not again at once; then all three have gone quiet for long enough.
    assert_eq!(rates.take(start + ms(599), Source::V4(7), rate), Taken::NoPlace);
    assert_eq!(rates.take(start + ms(1_000), Source::V4(7), rate), Taken::Yes);
    assert_eq!(rates.len(), 1);
}

proptest! {
    /// Whatever the order of takes, no stretch of time sees more than the burst and what came meanwhile.
    #[test]
    fn nobody_gets_more_than_burst_and_rate(
        per_second in 1u64..2_000,
        burst in 1u64..50,
        steps in prop::collection::vec((0u64..200, 1u64..8), 1..200),
    ) {
        let (start, rate) = (epoch(), rate(per_second, burst));
        let mut bucket = Bucket::new(start);
        let (mut now, mut taken) = (start, 0u64);
        for (wait, tokens) in steps {
            now += ms(wait);
            if bucket.take(now, rate, tokens) {
                taken += tokens;
            }
            let elapsed = now.duration_since(start).as_millis() as u64;
            // One more for what is rounded, which is nanoseconds.
            prop_assert!(taken <= burst + per_second * elapsed / 1_000 + 1);
            let (ready, wanted) = (bucket.ready_at(now, rate, tokens), tokens.min(burst));
            prop_assert!(bucket.available(ready, rate) >= wanted);
        }
    }
}

#[test]
fn a_shared_bucket_gives_what_one_that_is_not_shared_gives() {
    let (now, rate) = (epoch(), rate(1_000, 100));
    let (shared, mut own) = (SharedBucket::new(rate), Bucket::new(now));
    let mut taken = 0;
    for step in 0..2_000_u64 {
        let (at, tokens) = (now + ms(step / 7), 1 + step % 13);
        let is_taken = shared.take(at, tokens);
        assert_eq!(is_taken, own.take(at, rate, tokens), "step {step}");
        taken += u64::from(is_taken) * tokens;
    }
    assert!((100..=100 + 2_000 / 7).contains(&taken), "{taken}");
}
