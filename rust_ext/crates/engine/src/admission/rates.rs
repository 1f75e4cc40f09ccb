//! New flows per second of one app, all workers together: of everybody, and of each source by itself.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Mutex;
use std::time::Instant;

use ahash::RandomState;
use l4proxy_proto::rate::{Bucket, Rate, SourceRates, Taken};
use l4proxy_proto::sessions::sources::Source;

use crate::policy::Limits;
use crate::shared::lock;

/// Locks over the sources of one app: new flows on different workers seldom want the same one.
const SHARDS: usize = 16;

/// Sources that are told apart in each shard, 65,536 in all: some 4 MB of an app under a flood.
const SOURCES_PER_SHARD: usize = 4_096;

/// What the rates of one app remember. It outlives snapshots: a reload gives nobody a full bucket.
#[derive(Debug)]
pub(crate) struct NewFlows {
    all: Mutex<Option<Bucket>>,
    sources: [Mutex<SourceRates>; SHARDS],
}

impl NewFlows {
    /// Nobody has come yet. The hasher is keyed with something that clients cannot know.
    pub(crate) fn new(hasher: &RandomState) -> Self {
        let shard = |_| Mutex::new(SourceRates::new(SOURCES_PER_SHARD, hasher.clone()));
        Self { all: Mutex::new(None), sources: std::array::from_fn(shard) }
    }

    /// Count a new flow of the app; false: it had as many as it may in this second.
    pub(crate) fn take(&self, now: Instant, limits: &Limits) -> bool {
        let Some(per_second) = limits.new_flows_per_second else { return true };
        lock(&self.all).get_or_insert(Bucket::new(now)).take(now, rate(per_second), 1)
    }

    /// Count a new flow of a source.
    pub(crate) fn take_of_source(&self, now: Instant, source: Source, limits: &Limits) -> Taken {
        let Some(per_second) = limits.new_flows_per_second_per_source else { return Taken::Yes };
        // The highest bits differ from source to source.
        let shard = (source.spread() >> 60) as usize % SHARDS;
        lock(&self.sources[shard]).take(now, source, rate(per_second))
    }
}

/// A second's worth may come at once: players come back together when a round ends.
fn rate(per_second: NonZeroU32) -> Rate {
    let tokens = NonZeroU64::from(per_second);
    Rate::new(tokens, tokens)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;

    /// A flood from more sources than there are places: it is let in on the app's rate alone, and no shard grows beyond its bound.
    #[test]
    fn a_full_table_of_sources_says_so_and_empties_by_itself() {
        let new_flows = NewFlows::new(&RandomState::with_seeds(1, 2, 3, 4));
        let limits = Limits { new_flows_per_second_per_source: NonZeroU32::new(1), ..Limits::default() };
        let now = Instant::now();
        let source = |number: u32| Source::of(IpAddr::V4(Ipv4Addr::from_bits(number)), 64);
        let count = 2 * (SHARDS * SOURCES_PER_SHARD) as u32;
        let taken: Vec<_> =
            (0..count).map(|number| new_flows.take_of_source(now, source(number), &limits)).collect();
        assert!(!taken.contains(&Taken::No));
        let held: Vec<_> = new_flows.sources.iter().map(|shard| lock(shard).len()).collect();
        assert_eq!(held, [SOURCES_PER_SHARD; SHARDS], "sources are spread over all shards");
        let no_place = taken.iter().filter(|taken| **taken == Taken::NoPlace).count();
        assert_eq!(no_place, SHARDS * SOURCES_PER_SHARD);
        // Who has a place is still held to its rate; when all buckets are full again there is room.
        let known = taken.iter().position(|taken| *taken == Taken::Yes).unwrap() as u32;
        assert_eq!(new_flows.take_of_source(now, source(known), &limits), Taken::No);
        let later = now + Duration::from_secs(1);
        assert_eq!(new_flows.take_of_source(later, source(count), &limits), Taken::Yes);
    }
}
