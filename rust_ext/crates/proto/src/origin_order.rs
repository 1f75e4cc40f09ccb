//! In which order one flow tries the addresses of its origin: hosts by priority and weight (RFC 2782), the addresses of a host with
//! the families in turn (RFC 8305 section 4). Pure: the random number is an argument. It opens nothing; `race` says when.

use std::net::IpAddr;

/// Where an origin may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; none: the one that the client came to.
    pub port: Option<u16>,
}

/// One host of an origin: what a name leads to, or one SRV record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Hosts with a lower number come first, always.
    pub priority: u16,
    /// Among equals: its share of being first.
    pub weight: u16,
    /// Its addresses.
    pub targets: Vec<Target>,
}

/// Numbers from one random number: as many as one order needs.
struct Draw(u64);

impl Draw {
    /// A number below `bound`, which is not 0. The bias is below 2⁻³²: weights have 16 bits and there are few hosts.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.0)) * u128::from(bound)) >> 64) as u64
    }
}

/// The finalizer of SplitMix64: every bit of the input changes every bit of the output with even chance.
pub(crate) const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The first `max` targets for a flow with this random number. A single target needs none.
#[must_use]
pub fn order(hosts: &[Host], random: u64, max: usize) -> Vec<Target> {
    if let [Host { targets, .. }] = hosts
        && targets.len() <= 1
    {
        return targets.iter().copied().take(max).collect();
    }
    let mut draw = Draw(random);
    let mut found = Vec::with_capacity(max.min(hosts.len() * 2));
    let mut rest: Vec<&Host> = hosts.iter().collect();
    // Those of weight 0 first among equals: they are chosen when the draw is 0, "a very small chance" (RFC 2782).
    rest.sort_by_key(|host| (host.priority, host.weight != 0));
    while found.len() < max && !rest.is_empty() {
        let host = rest.remove(pick(&rest, &mut draw));
        found.extend(families_in_turn(&host.targets, &mut draw));
    }
    found.truncate(max);
    found
}

/// RFC 2782: "the first RR with running sum value which is greater than or equal to the random number selected".
fn pick(sorted: &[&Host], draw: &mut Draw) -> usize {
    let same = sorted.iter().take_while(|host| host.priority == sorted[0].priority);
    let sum: u64 = same.clone().map(|host| u64::from(host.weight)).sum();
    if same.clone().count() == 1 {
        return 0;
    }
    let drawn = draw.below(sum + 1);
    let mut running = 0;
    same.map(|host| {
        running += u64::from(host.weight);
        running
    })
    .position(|running| running >= drawn)
    .unwrap_or(0)
}

/// IPv6, IPv4, IPv6 …, each family from a place of its own on, so that equal addresses share the load.
fn families_in_turn(targets: &[Target], draw: &mut Draw) -> Vec<Target> {
    let (mut v6, mut v4): (Vec<Target>, Vec<Target>) =
        targets.iter().copied().partition(|target| target.ip.is_ipv6());
    for family in [&mut v6, &mut v4] {
        if family.len() > 1 {
            let first = draw.below(family.len() as u64) as usize;
            family.rotate_left(first);
        }
    }
    let mut found = Vec::with_capacity(targets.len());
    for index in 0..v6.len().max(v4.len()) {
        found.extend(v6.get(index));
        found.extend(v4.get(index));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(text: &str) -> Target {
        Target { ip: text.parse().unwrap(), port: Some(80) }
    }

    fn host(priority: u16, weight: u16, addresses: &[&str]) -> Host {
        Host { priority, weight, targets: addresses.iter().map(|text| target(text)).collect() }
    }

    fn texts(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| target.ip.to_string()).collect()
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let hosts = [host(0, 0, &["192.0.2.1", "2001:db8::1"])];
        for random in 0..50 {
            assert_eq!(texts(&order(&hosts, random, 8)), ["2001:db8::1", "192.0.2.1"]);
        }
        let hosts = [host(0, 0, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"])];
        for random in 0..50 {
            let found = order(&hosts, random, 8);
            assert_eq!(
                found.iter().map(|target| target.ip.is_ipv6()).collect::<Vec<_>>(),
                [true, false, false, false]
            );
        }
    }

    #[test]
    fn a_lower_priority_number_always_comes_first() {
        let hosts =
            [host(20, 65_535, &["192.0.2.3"]), host(10, 0, &["192.0.2.1"]), host(10, 1, &["192.0.2.2"])];
        for random in 0..500 {
            assert_eq!(texts(&order(&hosts, random, 8))[2], "192.0.2.3");
        }
    }

    /// Over many flows the first place is shared as the weights say: weight 0 gets 1 of sum + 1, the others their weight of it.
    #[test]
    fn weights_are_shares_of_the_first_place() {
        let hosts = [host(0, 0, &["192.0.2.1"]), host(0, 10, &["192.0.2.2"]), host(0, 30, &["192.0.2.3"])];
        let mut first = [0_u32; 3];
        for random in 0..41_000 {
            let found = order(&hosts, mix(random), 8);
            assert_eq!(found.len(), 3);
            let IpAddr::V4(ip) = found[0].ip else { panic!("IPv4") };
            first[usize::from(ip.octets()[3]) - 1] += 1;
        }
        for (count, expected) in first.into_iter().zip([1_000, 10_000, 30_000]) {
            assert!(count.abs_diff(expected) < expected / 10, "{first:?}");
        }
    }

    #[test]
    fn equal_addresses_of_one_host_share_the_first_place() {
        let hosts = [host(0, 0, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"])];
        let mut first = [0_u32; 4];
        for random in 0..4_000 {
            let IpAddr::V4(ip) = order(&hosts, mix(random), 8)[0].ip else { panic!("IPv4") };
            first[usize::from(ip.octets()[3]) - 1] += 1;
        }
        assert!(first.iter().all(|count| count.abs_diff(1_000) < 150), "{first:?}");
    }

    #[test]
    fn one_target_is_itself_and_none_is_none() {
        assert_eq!(texts(&order(&[host(0, 0, &["192.0.2.1"])], 7, 8)), ["192.0.2.1"]);
        assert_eq!(order(&[host(0, 0, &[])], 7, 8), []);
        assert_eq!(order(&[], 7, 8), []);
    }

    proptest! {
        /// Nothing is lost, nothing doubled, and the same number gives the same order.
        #[test]
        fn an_order_is_a_permutation_that_the_number_decides(
            weights in proptest::collection::vec((0_u16..3, 0_u16..4), 0..8), random: u64
        ) {
            let hosts: Vec<_> = weights.iter().enumerate().map(|(index, &(priority, weight))| {
                host(priority, weight, &[&format!("192.0.2.{index}"), &format!("2001:db8::{index}")])
            }).collect();
            let found = order(&hosts, random, 64);
            prop_assert_eq!(&found, &order(&hosts, random, 64));
            let mut sorted = texts(&found);
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), 2 * hosts.len());
            prop_assert_eq!(order(&hosts, random, 3), found[..found.len().min(3)].to_vec());
        }
    }
}
