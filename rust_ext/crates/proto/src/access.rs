//! Who may come: the longest prefix of a client's address that some list names decides, and where two lists name the same one, deny wins.
//!
//! A table is made once from all prefixes and never changes. It holds only the addresses at which the answer changes, in order: between
//! two neighbours the answer is one, and it alternates. So a million prefixes are at most two million numbers, and a lookup asks how many
//! of them are not above the address: odd or even is the answer. How they are counted is in `changes`, and in `halves` for IPv6.

mod changes;
mod halves;
pub mod packed;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use self::changes::Changes;
use self::halves::Halves;

/// The addresses of one family that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bits<K> {
    first: K,
    length: u8,
}

/// A prefix of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits; bits behind it do not count. None: no address is so long. A prefix of IPv4-mapped addresses is one of
    /// IPv4, since a client whose address is mapped is looked up as what it is.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        /// Bits before the IPv4 address in a mapped one.
        const MAPPED: u8 = 96;
        let canonical = address.to_canonical();
        match (address, canonical) {
            (IpAddr::V4(_), _) => (length <= 32).then_some(Self { address, length }),
            (IpAddr::V6(_), IpAddr::V4(_)) if (MAPPED..=128).contains(&length) => {
                Some(Self { address: canonical, length: length - MAPPED })
            }
            (IpAddr::V6(_), _) => (length <= 128).then_some(Self { address, length }),
        }
    }
}

/// Everything that lists say, before a table is made of it.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    v4: Vec<(Bits<u32>, bool)>,
    v6: Vec<(Bits<u128>, bool)>,
}

impl Lists {
    /// Add a prefix of a list that allows, or of one that denies.
    pub fn add(&mut self, prefix: Prefix, allow: bool) {
        let length = prefix.length;
        match prefix.address {
            IpAddr::V4(v4) => {
                let first = v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                self.v4.push((Bits { first, length }, allow));
            }
            IpAddr::V6(v6) => {
                let first = v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                self.v6.push((Bits { first, length }, allow));
            }
        }
    }

    /// Make the table. `default_allow` holds where no prefix says anything.
    #[must_use]
    pub fn build(self, default_allow: bool) -> AccessTable {
        AccessTable {
            v4: Changes::new(changes(self.v4, default_allow)),
            v6: Halves::new(&changes(self.v6, default_allow)),
            default_allow,
        }
    }
}

/// Who may come. Immutable; a new one replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTable {
    v4: Changes<u32>,
    v6: Halves,
    default_allow: bool,
}

impl AccessTable {
    /// Whether a client may come. An IPv4-mapped address is an IPv4 address.
    #[inline]
    #[must_use]
    pub fn allows(&self, client: IpAddr) -> bool {
        let has_changed = match client.to_canonical() {
            IpAddr::V4(v4) => self.v4.up_to(v4.to_bits()) % 2 == 1,
            IpAddr::V6(v6) => self.v6.is_odd_up_to(v6.to_bits()),
        };
        self.default_allow ^ has_changed
    }

    /// What it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.v4.bytes() + self.v6.bytes()
    }
}

/// An address as a number.
trait Key: Copy + Ord {
    /// The first address of all.
    const ZERO: Self;
    /// The last address of a prefix that begins here.
    fn last(self, length: u8) -> Self;
    /// The next address; None: this is the last of all.
    fn next(self) -> Option<Self>;
}

macro_rules! key {
    ($type:ty) => {
        impl Key for $type {
            const ZERO: Self = 0;

            fn last(self, length: u8) -> Self {
                self | Self::MAX.checked_shr(length.into()).unwrap_or(0)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

key!(u32);
key!(u128);

/// Where the answer changes, from the first address on, when it is `default` before.
fn changes<K: Key>(mut prefixes: Vec<(Bits<K>, bool)>, default: bool) -> Vec<K> {
    // Wider prefixes come before those inside them, and of equal ones "deny", which is the one that is kept.
    prefixes.sort_unstable();
    prefixes.dedup_by_key(|(bits, _)| *bits);
    let mut found = Changing { points: Vec::new(), answer: default };
    // Prefixes that the sweep is in, each inside the one before it: at most one of each length.
    let mut around: Vec<(K, bool)> = Vec::new();
    let outer = |around: &[(K, bool)]| around.last().map_or(default, |&(_, allow)| allow);
    for (bits, allow) in prefixes {
        while let Some((last, _)) = around.pop_if(|(last, _)| *last < bits.first) {
            // Something begins behind it, so there is a next address.
            found.set(last.next().unwrap_or(K::ZERO), outer(&around));
        }
        found.set(bits.first, allow);
        around.push((bits.first.last(bits.length), allow));
    }
    while let Some((last, _)) = around.pop() {
        if let Some(next) = last.next() {
            found.set(next, outer(&around));
        }
    }
    found.points.shrink_to_fit();
    found.points
}

/// Points at which the answer changes, of a sweep from the first address to the last.
struct Changing<K> {
    points: Vec<K>,
    answer: bool,
}

impl<K: Key> Changing<K> {
    /// From here on the answer is this.
    fn set(&mut self, from: K, answer: bool) {
        if self.answer == answer {
            return;
        }
        self.answer = answer;
        // What was said for the same place before was for no address.
        if self.points.pop_if(|last| *last == from).is_none() {
            self.points.push(from);
        }
    }
}
