//! Round trips over one path of ours, told apart by the path of the peer that the report came back over.

use std::time::{Duration, Instant};

use l4proxy_wire::ids::PathId;

/// Weight of the past in the smoothed round trip, as in TCP (RFC 6298 section 2: "alpha = 1/8").
const SMOOTHING: u32 = 8;

/// Ways back that are told apart. A peer that uses more than four at once is measured over the latest four.
const MAX_WAYS_BACK: usize = 4;

/// A way back that has been silent for this long is not the fastest any more.
const FRESH: Duration = Duration::from_secs(1);

/// Weight of the past in the variation of round trips, as in TCP (RFC 6298 section 2: "beta = 1/4").
const VARIATION_SMOOTHING: u32 = 4;

/// Before so many round trips nothing is said about their variation.
const ENOUGH: u32 = 8;

/// The least round trip is that of this time at least, and of twice this time at most: a route that has changed for good is taken for
/// what it is after that.
const LEAST_OF: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
struct WayBack {
    path: PathId,
    smoothed: Duration,
    variation: Duration,
    count: u32,
    /// The least of the present [`LEAST_OF`], and of the one before.
    least: [Duration; 2],
    least_since: Instant,
    at: Instant,
}

impl WayBack {
    fn first(now: Instant, path: PathId, sample: Duration) -> Self {
        Self {
            path,
            smoothed: sample,
            variation: sample / 2,
            count: 1,
            least: [sample; 2],
            least_since: now,
            at: now,
        }
    }

    fn add(&mut self, now: Instant, sample: Duration) {
        let error = self.smoothed.abs_diff(sample);
        self.variation = (self.variation * (VARIATION_SMOOTHING - 1) + error) / VARIATION_SMOOTHING;
        self.smoothed = (self.smoothed * (SMOOTHING - 1) + sample) / SMOOTHING;
        if now.saturating_duration_since(self.least_since) >= LEAST_OF {
            (self.least, self.least_since) = ([sample, self.least[0]], now);
        }
        self.least[0] = self.least[0].min(sample);
        self.count = self.count.saturating_add(1);
        self.at = now;
    }
}

/// The smoothed round trips of one path.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    ways_back: [Option<WayBack>; MAX_WAYS_BACK],
}

impl RoundTrips {
    /// Takes one sample.
    pub(super) fn add(&mut self, now: Instant, path: PathId, sample: Duration) {
        if let Some(way) = self.ways_back.iter_mut().flatten().find(|way| way.path == path) {
            way.add(now, sample);
            return;
        }
        let oldest = self.ways_back.iter_mut().min_by_key(|way| way.map(|way| way.at));
        if let Some(place) = oldest {
            *place = Some(WayBack::first(now, path, sample));
        }
    }

    /// The round trip back over the fastest way that is still in use.
    pub(super) fn fastest(&self) -> Option<Duration> {
        self.fresh().map(|way| way.smoothed).min()
    }

    /// The round trip back over the slowest way that is still in use.
    pub(super) fn slowest(&self) -> Option<Duration> {
        self.fresh().map(|way| way.smoothed).max()
    }

    /// The least round trip of late over the way back that is fastest now.
    pub(super) fn least(&self) -> Option<Duration> {
        let fastest = self.fresh().min_by_key(|way| way.smoothed)?;
        fastest.least.into_iter().min()
    }

    /// How much round trips vary at most, over any way back in use (RFC 6298's RTTVAR); `None` before there were enough of them.
    pub(super) fn variation(&self) -> Option<Duration> {
        self.fresh().filter(|way| way.count >= ENOUGH).map(|way| way.variation).max()
    }

    /// The ways back that are in use.
    fn fresh(&self) -> impl Iterator<Item = &WayBack> {
        let newest = self.ways_back.iter().flatten().map(|way| way.at).max();
        let is_fresh = move |way: &&WayBack| {
            newest.is_some_and(|newest| newest.saturating_duration_since(way.at) < FRESH)
        };
        self.ways_back.iter().flatten().filter(is_fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn each_way_back_is_smoothed_apart_and_the_fastest_counts() {
        let (now, mut trips) = (start(), RoundTrips::default());
        assert_eq!(trips.fastest(), None);
        trips.add(now, PathId(1), ms(40));
        trips.add(now, PathId(2), ms(55));
        trips.add(now, PathId(1), ms(120));
        assert_eq!(trips.fastest(), Some(ms(50)));
    }

    #[test]
    fn a_way_back_that_fell_silent_does_not_count() {
        let (now, mut trips) = (start(), RoundTrips::default());
        trips.add(now, PathId(1), ms(40));
        trips.add(now + ms(999), PathId(2), ms(55));
        assert_eq!(trips.fastest(), Some(ms(40)));
        trips.add(now + ms(1_000), PathId(2), ms(55));
        assert_eq!(trips.fastest(), Some(ms(55)));
    }

    #[test]
    fn steady_round_trips_vary_little_and_nothing_is_said_before_there_were_eight() {
        let (now, mut trips) = (start(), RoundTrips::default());
        for count in 0..60_u64 {
            assert_eq!(trips.variation().is_some(), count >= 8, "{count}");
            trips.add(now + ms(50 * count), PathId(1), ms(40 + count % 2));
        }
        let variation = trips.variation().unwrap();
        assert!(variation < ms(1), "{variation:?}");
        trips.add(now + ms(3_000), PathId(1), ms(100));
        assert!(trips.variation().unwrap() > ms(10));
    }

    #[test]
    fn the_least_round_trip_is_forgotten_after_a_minute() {
        let (now, mut trips) = (start(), RoundTrips::default());
        trips.add(now, PathId(1), ms(40));
        for second in 1..=30 {
            trips.add(now + ms(1_000 * second), PathId(1), ms(90));
        }
        assert_eq!(trips.least(), Some(ms(40)));
        for second in 31..=60 {
            trips.add(now + ms(1_000 * second), PathId(1), ms(90));
        }
        assert_eq!(trips.least(), Some(ms(90)));
    }

    #[test]
    fn a_fifth_way_back_takes_the_place_of_the_oldest() {
        let (now, mut trips) = (start(), RoundTrips::default());
        for path in 0..5 {
            trips.add(now + ms(path), PathId(path as u32), ms(10 + path));
        }
        assert_eq!(trips.fastest(), Some(ms(11)));
    }
}
