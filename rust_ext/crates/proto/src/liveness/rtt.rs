//! Round trips over one path of ours, told apart by the path of the peer that the report came back over.

use std::time::{Duration, Instant};

use l4proxy_wire::ids::PathId;

/// Weight of the past in the smoothed round trip, as in TCP (RFC 6298 section 2: "alpha = 1/8").
const SMOOTHING: u32 = 8;

/// Ways back that are told apart. A peer that uses more than four at once is measured over the latest four.
const MAX_WAYS_BACK: usize = 4;

/// A way back that has been silent for this long is not the fastest any more.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct WayBack {
    path: PathId,
    smoothed: Duration,
    at: Instant,
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
            way.smoothed = (way.smoothed * (SMOOTHING - 1) + sample) / SMOOTHING;
            way.at = now;
            return;
        }
        let oldest = self.ways_back.iter_mut().min_by_key(|way| way.map(|way| way.at));
        if let Some(place) = oldest {
            *place = Some(WayBack { path, smoothed: sample, at: now });
        }
    }

    /// The round trip back over the fastest way that is still in use.
    pub(super) fn fastest(&self) -> Option<Duration> {
        let newest = self.ways_back.iter().flatten().map(|way| way.at).max()?;
        let fresh = self.ways_back.iter().flatten();
        fresh.filter(|way| newest.saturating_duration_since(way.at) < FRESH).map(|way| way.smoothed).min()
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
    fn a_fifth_way_back_takes_the_place_of_the_oldest() {
        let (now, mut trips) = (start(), RoundTrips::default());
        for path in 0..5 {
            trips.add(now + ms(path), PathId(path as u32), ms(10 + path));
        }
        assert_eq!(trips.fastest(), Some(ms(11)));
    }
}
