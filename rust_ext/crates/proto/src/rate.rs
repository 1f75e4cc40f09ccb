//! How much in how little time: token buckets, and one for each of many sources in a bounded table. Time is an argument.
//!
//! A bucket is one number: the moment at which it will be full again ("virtual scheduling", ITU-T I.371). What is taken moves it on; it is
//! empty while that moment lies further ahead than filling takes. A source whose moment has passed has a full bucket and needs no entry.

use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;

use crate::sessions::sources::Source;

#[cfg(test)]
mod tests;

/// Between two searches of a full table for sources that may be forgotten: a flood must not make each newcomer cost a search.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: NonZeroU64,
    burst: NonZeroU64,
}

impl Rate {
    /// So many tokens a second, `burst` at once.
    #[must_use]
    pub const fn new(per_second: NonZeroU64, burst: NonZeroU64) -> Self {
        Self { per_second, burst }
    }

    /// How long it takes until `tokens` have come, rounded up.
    fn time_of(self, tokens: u64) -> Duration {
        let nanoseconds = (u128::from(tokens) * 1_000_000_000).div_ceil(u128::from(self.per_second.get()));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// How many tokens come in a time.
    fn tokens_in(self, time: Duration) -> u64 {
        let tokens = time.as_nanos() * u128::from(self.per_second.get()) / 1_000_000_000;
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}

/// One bucket, full at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Whether it has been full for as long as anybody can tell.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Tokens that are there, 0 while it is in debt.
    #[must_use]
    pub fn available(&self, now: Instant, rate: Rate) -> u64 {
        let missing = self.full_at.saturating_duration_since(now);
        let whole = rate.time_of(rate.burst.get());
        rate.tokens_in(whole.saturating_sub(missing)).min(rate.burst.get())
    }

    /// Take `tokens` if so many are there.
    pub fn take(&mut self, now: Instant, rate: Rate, tokens: u64) -> bool {
        let is_enough = self.available(now, rate) >= tokens;
        if is_enough {
            self.charge(now, rate, tokens);
        }
        is_enough
    }

    /// Take `tokens` in any case: what is not there is a debt, which is paid before there are any again.
    pub fn charge(&mut self, now: Instant, rate: Rate, tokens: u64) {
        // Rounded down, so that what is rounded never adds up to a token of the burst that is not there.
        let nanoseconds = u128::from(tokens) * 1_000_000_000 / u128::from(rate.per_second.get());
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.full_at = self.full_at.max(now).checked_add(time).unwrap_or(self.full_at);
    }

    /// When `tokens` will be there, if nobody takes any; never more than the bucket holds are waited for.
    #[must_use]
    pub fn ready_at(&self, now: Instant, rate: Rate, tokens: u64) -> Instant {
        let spare = rate.time_of(rate.burst.get()).saturating_sub(rate.time_of(tokens));
        self.full_at.checked_sub(spare).unwrap_or(now).max(now)
    }
}

/// One bucket that several threads take from.
#[derive(Debug)]
pub struct SharedBucket {
    /// When something was first taken.
    origin: OnceLock<Instant>,
    /// Nanoseconds from the origin to the moment at which it will be full.
    full_at_ns: AtomicU64,
    rate: Rate,
}

impl SharedBucket {
    /// A full one.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { origin: OnceLock::new(), full_at_ns: AtomicU64::new(0), rate }
    }

    /// How fast it fills, and how much it holds.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Take `tokens` if so many are there.
    pub fn take(&self, now: Instant, tokens: u64) -> bool {
        let origin = *self.origin.get_or_init(|| now);
        let taken = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at_ns| {
            let mut bucket = Bucket { full_at: origin + Duration::from_nanos(full_at_ns) };
            let full_at = |bucket: &Bucket| bucket.full_at.saturating_duration_since(origin).as_nanos();
            bucket.take(now, self.rate, tokens).then(|| u64::try_from(full_at(&bucket)).unwrap_or(u64::MAX))
        });
        taken.is_ok()
    }
}

/// What became of a source that wanted a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It got one.
    Yes,
    /// Its bucket is empty.
    No,
    /// The table has no place for one more source. It is let in: a flood from more sources than the table holds cannot be slowed by
    /// source, and refusing would let it lock out everybody new. What bounds it is the rate of all sources together.
    NoPlace,
}

/// A bucket for each source that took a token lately, at most `max_sources` of them.
#[derive(Debug)]
pub struct SourceRates {
    buckets: HashMap<Source, Bucket, RandomState>,
    max_sources: usize,
    /// When a full table may be searched again.
    sweep_at: Option<Instant>,
}

impl SourceRates {
    /// Nobody has taken any. The hasher must be keyed with something that clients cannot know.
    #[must_use]
    pub const fn new(max_sources: usize, hasher: RandomState) -> Self {
        Self { buckets: HashMap::with_hasher(hasher), max_sources, sweep_at: None }
    }

    /// A source wants a token.
    pub fn take(&mut self, now: Instant, source: Source, rate: Rate) -> Taken {
        if let Some(bucket) = self.buckets.get_mut(&source) {
            return if bucket.take(now, rate, 1) { Taken::Yes } else { Taken::No };
        }
        if self.buckets.len() >= self.max_sources && !self.sweep(now) {
            return Taken::NoPlace;
        }
        let mut bucket = Bucket::new(now);
        bucket.charge(now, rate, 1);
        self.buckets.insert(source, bucket);
        Taken::Yes
    }

    /// Forget the sources whose buckets are full; true: there is a place.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.sweep_at.is_some_and(|at| now < at) {
            return false;
        }
        self.sweep_at = Some(now + SWEEP_EVERY);
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        self.buckets.len() < self.max_sources
    }

    /// Sources in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether nobody is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}
