//! How many flows each source has, so that one source cannot have them all. An IPv6 source is a prefix, a /64 unless somebody says
//! otherwise: whoever has one address of it has them all.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// Who a client is, as far as budgets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// One IPv4 address.
    V4(u32),
    /// The first bits of an IPv6 address, in two halves: one number would take more room in every flow.
    V6 {
        /// Its first 64 bits.
        high: u64,
        /// The others; those behind the prefix are 0.
        low: u64,
    },
}

impl Source {
    /// Who an address is when IPv6 clients are told apart by their first `prefix_v6` bits.
    #[must_use]
    pub fn of(ip: IpAddr, prefix_v6: u8) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => {
                let behind = 128u32.saturating_sub(prefix_v6.into());
                let bits = v6.to_bits() & u128::MAX.checked_shl(behind).unwrap_or(0);
                Self::V6 { high: (bits >> 64) as u64, low: bits as u64 }
            }
        }
    }

    /// A number that differs from source to source in its highest bits, for spreading them over a few shards. Not for keeping what
    /// clients choose apart: whoever wants to can find equal ones.
    #[must_use]
    pub const fn spread(self) -> u64 {
        /// 2^64 divided by the golden ratio: neighbours come out far apart (Knuth, The Art of Computer Programming 3, 6.4).
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let folded = match self {
            Self::V4(bits) => bits as u64,
            Self::V6 { high, low } => high ^ low,
        };
        folded.wrapping_mul(GOLDEN)
    }
}

/// A /64 of IPv6.
impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Self::of(ip, 64)
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

    #[test]
    fn ipv6_clients_are_told_apart_by_as_many_bits_as_is_said() {
        let of = |text: &str, prefix| Source::of(text.parse().unwrap(), prefix);
        assert_eq!(of("2001:db8:1::1", 48), of("2001:db8:1:ffff::2", 48));
        assert_ne!(of("2001:db8:1::1", 49), of("2001:db8:1:ffff::2", 49));
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
        assert_eq!(of("2001:db8::1", 127), of("2001:db8::", 127));
        assert_eq!(of("2001:db8::1", 0), of("::", 0));
        assert_eq!(of("192.0.2.1", 32), of("::ffff:192.0.2.1", 128));
        assert_ne!(of("192.0.2.1", 0), of("192.0.2.2", 0), "IPv4 clients are single addresses");
    }
}
