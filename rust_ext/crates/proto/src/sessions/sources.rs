//! How many flows each source has, so that one source cannot have them all. An IPv6 source is a /64: whoever has one has them all.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// Who a client is, as far as budgets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// One IPv4 address.
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// Flows by source. It holds no source that has none, so it is never larger than the number of flows.
#[derive(Debug)]
pub struct SourceCounts {
    counts: HashMap<Source, u32, RandomState>,
}

impl SourceCounts {
    /// Nobody has any. The hasher must be keyed with something that clients cannot know.
    #[must_use]
    pub fn new(hasher: RandomState) -> Self {
        Self { counts: HashMap::with_hasher(hasher) }
    }

    /// Count one more flow of a source, unless it has `max` already. True: it was counted, [`SourceCounts::release`] must follow.
    pub fn acquire(&mut self, source: Source, max: u32) -> bool {
        match self.counts.entry(source) {
            Entry::Occupied(entry) if *entry.get() >= max => false,
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += 1;
                true
            }
            Entry::Vacant(entry) => {
                if max > 0 {
                    entry.insert(1);
                }
                max > 0
            }
        }
    }

    /// A flow that was counted has ended.
    pub fn release(&mut self, source: Source) {
        if let Entry::Occupied(mut entry) = self.counts.entry(source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// How many sources have any.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nobody has any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn counts() -> SourceCounts {
        SourceCounts::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn a_source_gets_its_budget_and_not_more() {
        let mut counts = counts();
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!([0; 4].map(|_| counts.acquire(one, 3)), [true, true, true, false]);
        assert!(counts.acquire(other, 3));
        counts.release(one);
        assert!(counts.acquire(one, 3));
        assert!(!counts.acquire(one, 3));
    }

    #[test]
    fn what_is_given_back_leaves_no_trace() {
        let mut counts = counts();
        for last in 0..=255u32 {
            assert!(counts.acquire(Source::V4(last), 1));
        }
        assert_eq!(counts.len(), 256);
        for last in 0..=255u32 {
            counts.release(Source::V4(last));
        }
        assert!(counts.is_empty());
        counts.release(Source::V4(1));
        assert!(!counts.acquire(Source::V4(1), 0));
        assert!(counts.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_mapped_ipv4_is_ipv4() {
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }
}
