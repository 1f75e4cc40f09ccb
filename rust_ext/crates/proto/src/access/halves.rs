//! Many IPv6 addresses in ascending order, and whether the number of those that are not above another one is odd.
//!
//! Nearly all prefixes in use are no longer than 64 bits, and then the first halves of addresses decide, in half the memory: what
//! a lookup costs is the cache lines and pages that it touches. Second halves are looked at only where a first half is equal.

use super::changes::Changes;

/// The addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Halves {
    /// First halves, each once.
    firsts: Changes<u64>,
    /// None: all second halves are 0.
    seconds: Option<Seconds>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seconds {
    /// A bit for each first half: whether the number of addresses up to the last one that begins with it is odd.
    odd: Box<[u64]>,
    /// For each first half how many addresses come before the first one that begins with it; and at the end how many there are.
    starts: Box<[u32]>,
    /// Second halves of all addresses.
    seconds: Box<[u64]>,
}

impl Halves {
    /// Of addresses in ascending order, fewer than `2^31`.
    pub(super) fn new(addresses: &[u128]) -> Self {
        let first = |address: &u128| (address >> 64) as u64;
        let mut firsts: Vec<u64> = addresses.iter().map(first).collect();
        firsts.dedup();
        firsts.shrink_to_fit();
        let needs_seconds = addresses.iter().any(|address| *address as u64 != 0);
        let seconds = needs_seconds.then(|| Seconds::new(addresses, firsts.len()));
        Self { firsts: Changes::new(firsts), seconds }
    }

    /// Whether the number of addresses that are not above `key` is odd.
    pub(super) fn is_odd_up_to(&self, key: u128) -> bool {
        let first = (key >> 64) as u64;
        let count = self.firsts.up_to(first);
        match (&self.seconds, count.checked_sub(1)) {
            (_, None) => false,
            (None, Some(_)) => count % 2 == 1,
            (Some(seconds), Some(last)) if self.firsts.get(last) == Some(first) => {
                seconds.is_odd_within(last, key as u64)
            }
            (Some(seconds), Some(last)) => seconds.odd[last / 64] >> (last % 64) & 1 == 1,
        }
    }

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.firsts.bytes()
            + self.seconds.as_ref().map_or(0, |seconds| {
                size_of_val(&*seconds.odd) + size_of_val(&*seconds.starts) + size_of_val(&*seconds.seconds)
            })
    }
}

impl Seconds {
    fn new(addresses: &[u128], firsts: usize) -> Self {
        let mut odd = vec![0u64; firsts.div_ceil(64)];
        let mut starts = Vec::with_capacity(firsts + 1);
        let mut end = 0;
        for (index, same) in addresses.chunk_by(|one, other| one >> 64 == other >> 64).enumerate() {
            starts.push(end as u32);
            end += same.len();
            odd[index / 64] |= (end as u64 & 1) << (index % 64);
        }
        starts.push(end as u32);
        let seconds = addresses.iter().map(|address| *address as u64).collect();
        Self { odd: odd.into(), starts: starts.into(), seconds }
    }

    /// The same as [`Halves::is_odd_up_to`] for a key that begins with this first half.
    fn is_odd_within(&self, index: usize, second: u64) -> bool {
        let (begin, end) = (self.starts[index] as usize, self.starts[index + 1] as usize);
        let count = begin + self.seconds[begin..end].partition_point(|known| *known <= second);
        count % 2 == 1
    }
}
