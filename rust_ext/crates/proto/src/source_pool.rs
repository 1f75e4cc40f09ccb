//! Which address of a pool a client is seen from by origins. Servers limit and ban by address, so a client keeps its own: the choice
//! is a keyed hash of who the client is (rendezvous hashing), the same on all workers and after a restart; when the pool changes, only
//! clients of the addresses that left move, and each new address takes its share. Keyed, so that nobody can choose whose address he
//! shares. Nothing is bound here.

use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;

use crate::origin_order::mix;
use crate::sessions::sources::Source;

/// Addresses of one pool: choosing looks at each of them, a microsecond or two for so many.
pub const MAX_ADDRESSES: usize = 1024;

/// How many addresses a client may be seen from when those before cannot be used.
pub const CHOICES: usize = 3;

/// What is wrong with a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A text is no address or prefix.
    #[error("{0:?} is no address or prefix")]
    Malformed(String),
    /// Bits are set beyond the prefix length.
    #[error("{0:?} has bits set beyond its length")]
    HostBits(String),
    /// Too many addresses.
    #[error("the pool has more than {MAX_ADDRESSES} addresses")]
    TooLarge,
}

/// The source addresses of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePool {
    key: [u8; 16],
    /// With the hash of each.
    v4: Vec<(IpAddr, u64)>,
    v6: Vec<(IpAddr, u64)>,
}

impl SourcePool {
    /// A pool of addresses and prefixes, every address of which is used, the first and the last as well. The key is kept over
    /// restarts and told to nobody.
    ///
    /// # Errors
    /// What is wrong with the texts.
    pub fn new(key: [u8; 16], prefixes: &[String]) -> Result<Self, PoolError> {
        let mut pool = Self { key, v4: Vec::new(), v6: Vec::new() };
        for text in prefixes {
            let (first, count) = parse(text)?;
            if pool.len() + count > MAX_ADDRESSES {
                return Err(PoolError::TooLarge);
            }
            for offset in 0..count {
                let ip = match first {
                    IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + offset as u32).into(),
                    IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() + offset as u128).into(),
                };
                let hash = pool.hash(ip);
                let family = if ip.is_ipv6() { &mut pool.v6 } else { &mut pool.v4 };
                if !family.iter().any(|(known, _)| *known == ip) {
                    family.push((ip, hash));
                }
            }
        }
        Ok(pool)
    }

    /// How many addresses it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether it has none: the kernel chooses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The addresses for a client towards an origin of this family, its own first; the others only for when that cannot be used.
    #[must_use]
    pub fn choose(&self, client: IpAddr, is_v6: bool) -> [Option<IpAddr>; CHOICES] {
        let who = match Source::from(client) {
            Source::V4(bits) => self.hash(Ipv4Addr::from_bits(bits).into()),
            Source::V6 { high, .. } => self.hash(Ipv6Addr::from_bits(u128::from(high) << 64).into()),
        };
        let mut best: [Option<(u64, IpAddr)>; CHOICES] = [None; CHOICES];
        for &(ip, hash) in if is_v6 { &self.v6 } else { &self.v4 } {
            let score = mix(who ^ hash);
            let place = best.iter().position(|known| known.is_none_or(|(other, _)| other < score));
            if let Some(place) = place {
                best[place..].rotate_right(1);
                best[place] = Some((score, ip));
            }
        }
        best.map(|found| found.map(|(_, ip)| ip))
    }

    fn hash(&self, ip: IpAddr) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        match ip {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        hasher.finish()
    }
}

/// The first address of a prefix, and how many it has.
fn parse(text: &str) -> Result<(IpAddr, usize), PoolError> {
    let malformed = || PoolError::Malformed(text.to_owned());
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u32>().map_err(|_| malformed())?)),
        None => (text, None),
    };
    let ip: IpAddr = address.parse().map_err(|_| malformed())?;
    let (bits, width) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let length = length.unwrap_or(width);
    let free = width.checked_sub(length).ok_or_else(malformed)?;
    let count =
        1_usize.checked_shl(free).filter(|count| *count <= MAX_ADDRESSES).ok_or(PoolError::TooLarge)?;
    if bits & (count as u128 - 1) != 0 {
        return Err(PoolError::HostBits(text.to_owned()));
    }
    Ok((ip, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(texts: &[&str]) -> SourcePool {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        SourcePool::new([7; 16], &texts).unwrap()
    }

    fn wrong(texts: &[&str]) -> PoolError {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        SourcePool::new([7; 16], &texts).unwrap_err()
    }

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0xc633_6400 + number).into()
    }

    fn own(pool: &SourcePool, client: IpAddr) -> IpAddr {
        pool.choose(client, false)[0].unwrap()
    }

    #[test]
    fn prefixes_are_expanded_whole_and_once() {
        let pool = pool(&["192.0.2.0/30", "192.0.2.1", "198.51.100.7", "2001:db8::/126"]);
        assert_eq!(pool.len(), 4 + 1 + 4);
        let mut found: Vec<_> = (0..2_000).map(|number| own(&pool, client(number))).collect();
        found.sort();
        found.dedup();
        let expected = ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.7"];
        assert_eq!(found, expected.map(|text| text.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn each_family_has_its_own_and_one_that_is_missing_has_none() {
        let pool = pool(&["2001:db8::1"]);
        assert_eq!(pool.choose(client(1), false), [None; CHOICES]);
        assert_eq!(pool.choose(client(1), true)[0], Some("2001:db8::1".parse().unwrap()));
        assert!(!pool.is_empty());
    }

    #[test]
    fn a_client_keeps_its_address_and_a_network_of_ipv6_is_one_client() {
        let pool = pool(&["192.0.2.0/26"]);
        let phone = |text: &str| own(&pool, text.parse().unwrap());
        assert_eq!(phone("2001:db8:1:2::1"), phone("2001:db8:1:2:ffff::9"));
        assert_eq!(phone("::ffff:198.51.100.1"), phone("198.51.100.1"));
        let again = SourcePool::new([7; 16], &["192.0.2.0/26".to_owned()]).unwrap();
        assert!((0..500).all(|number| own(&pool, client(number)) == own(&again, client(number))));
    }

    /// Those of an address that left move, nobody else; of an address that comes, only its share of them does.
    #[test]
    fn a_changed_pool_moves_few() {
        let (small, large) = (pool(&["192.0.2.0/27"]), pool(&["192.0.2.0/27", "192.0.2.32"]));
        let newcomer: IpAddr = "192.0.2.32".parse().unwrap();
        let mut moved = 0;
        for number in 0..6_600 {
            let (before, after) = (own(&small, client(number)), own(&large, client(number)));
            if before != after {
                assert_eq!(after, newcomer);
                moved += 1;
            }
        }
        assert!((100..320).contains(&moved), "{moved} of 6600 instead of 200");
    }

    #[test]
    fn clients_spread_evenly_and_the_next_choices_differ() {
        let pool = pool(&["192.0.2.0/28"]);
        let mut counts = [0_u32; 16];
        for number in 0..16_000 {
            let IpAddr::V4(ip) = own(&pool, client(number)) else { panic!("IPv4") };
            counts[usize::from(ip.octets()[3])] += 1;
            let [first, second, third] = pool.choose(client(number), false);
            assert!(first != second && second != third && first != third && third.is_some());
        }
        assert!(counts.iter().all(|count| count.abs_diff(1_000) < 150), "{counts:?}");
    }

    /// Without the key nobody can tell who shares an address with whom.
    #[test]
    fn another_key_is_another_choice() {
        let texts = ["192.0.2.0/26".to_owned()];
        let (one, other) =
            (SourcePool::new([1; 16], &texts).unwrap(), SourcePool::new([2; 16], &texts).unwrap());
        let same =
            (0..6_400).filter(|&number| own(&one, client(number)) == own(&other, client(number))).count();
        assert!(same < 200, "{same} of 6400 instead of 100");
    }

    #[test]
    fn a_pool_is_bounded_and_says_what_is_wrong() {
        assert_eq!(pool(&["10.0.0.0/22"]).len(), MAX_ADDRESSES);
        assert_eq!(wrong(&["10.0.0.0/22", "192.0.2.1"]), PoolError::TooLarge);
        assert_eq!(wrong(&["10.0.0.0/21"]), PoolError::TooLarge);
        assert_eq!(wrong(&["2001:db8::/64"]), PoolError::TooLarge);
        assert_eq!(wrong(&["::/0"]), PoolError::TooLarge);
        assert_eq!(wrong(&["192.0.2.1/30"]), PoolError::HostBits("192.0.2.1/30".to_owned()));
        for text in ["", "x", "192.0.2.1/33", "192.0.2.1/", "192.0.2.1/-1", "2001:db8::/129"] {
            assert_eq!(wrong(&[text]), PoolError::Malformed(text.to_owned()));
        }
    }
}
