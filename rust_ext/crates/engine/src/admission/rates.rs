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
