//! The table against a model that looks at every prefix, and the corners: the ends of the address space, ties, nesting, mapped addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
}

fn table(default_allow: bool, allow: &[&str], deny: &[&str]) -> AccessTable {
    let mut lists = Lists::default();
    allow.iter().for_each(|text| lists.add(prefix(text), true));
    deny.iter().for_each(|text| lists.add(prefix(text), false));
    lists.build(default_allow)
}

fn allows(table: &AccessTable, client: &str) -> bool {
    table.allows(client.parse().unwrap())
}

#[test]
fn without_a_prefix_the_default_holds() {
    for default in [true, false] {
        let table = table(default, &[], &[]);
        for client in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert_eq!(allows(&table, client), default, "{client}");
        }
    }
}

#[test]
fn the_longest_prefix_wins() {
    let table = table(false, &["10.0.0.0/8", "10.1.2.0/24"], &["10.1.0.0/16", "10.1.2.3/32"]);
    for (client, is_allowed) in [
        ("9.255.255.255", false),
        ("10.0.0.0", true),
        ("10.0.255.255", true),
        ("10.1.0.0", false),
        ("10.1.1.255", false),
        ("10.1.2.0", true),
        ("10.1.2.2", true),
        ("10.1.2.3", false),
        ("10.1.2.4", true),
        ("10.1.3.0", false),
        ("10.2.0.0", true),
        ("10.255.255.255", true),
        ("11.0.0.0", false),
        ("2001:db8::1", false),
    ] {
        assert_eq!(allows(&table, client), is_allowed, "{client}");
    }
}

#[test]
fn deny_wins_where_both_name_the_same_prefix() {
    let table = table(true, &["192.0.2.0/24", "::/0"], &["192.0.2.0/24", "::/0", "192.0.2.99/24"]);
    assert!(!allows(&table, "192.0.2.1"));
    assert!(!allows(&table, "2001:db8::1"));
    assert!(allows(&table, "192.0.3.1"));
}

#[test]
fn the_ends_of_the_address_space_are_addresses_like_others() {
    let table =
        table(true, &["0.0.0.0/32", "255.255.255.255/32"], &["0.0.0.0/0", "ffff::/16", "::/128", "8000::/1"]);
    for (client, is_allowed) in [
        ("0.0.0.0", true),
        ("0.0.0.1", false),
        ("255.255.255.254", false),
        ("255.255.255.255", true),
        ("::", false),
        ("::1", true),
        ("7fff::", true),
        ("8000::", false),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
    ] {
        assert_eq!(allows(&table, client), is_allowed, "{client}");
    }
}

#[test]
fn a_mapped_address_is_an_ipv4_address_in_lists_and_as_a_client() {
    let table = table(true, &[], &["192.0.2.0/24", "::ffff:198.51.100.0/120"]);
    for client in ["192.0.2.7", "::ffff:192.0.2.7", "198.51.100.9", "::ffff:198.51.100.9"] {
        assert!(!allows(&table, client), "{client}");
    }
    assert!(allows(&table, "::ffff:203.0.113.1"));
    assert!(allows(&table, "::192.0.2.7"), "an address that is only compatible is one of IPv6");
}

#[test]
fn no_prefix_is_longer_than_its_address() {
    let new = |address: &str, length| Prefix::new(address.parse().unwrap(), length).is_some();
    assert!(new("192.0.2.0", 32) && new("2001:db8::", 128) && new("::ffff:192.0.2.0", 96));
    assert!(!new("192.0.2.0", 33) && !new("2001:db8::", 129) && !new("::ffff:192.0.2.0", 129));
}

#[test]
fn neighbours_of_one_verdict_are_one() {
    let mut lists = Lists::default();
    for last in 0..=255u8 {
        lists.add(Prefix::new(IpAddr::from([192, 0, 2, last]), 32).unwrap(), false);
    }
    let table = lists.build(true);
    assert_eq!(table, self::table(true, &[], &["192.0.2.0/24"]));
}

#[test]
fn tables_of_every_size_find_every_change() {
    for count in (0..=5 * changes::FEW).chain([1_000, 5_000]) {
        let numbers: Vec<u32> = (0..count as u32).map(|number| 10 * number + 5).collect();
        let changes = Changes::new(numbers);
        for key in 0..10 * count as u32 + 10 {
            let expected = (key as usize + 5) / 10;
            assert_eq!(changes.up_to(key), expected.min(count), "{key} of {count}");
        }
    }
}

/// However unevenly the numbers lie, every one and its neighbours are found, and what stands above them stays small.
#[test]
fn clusters_inside_clusters_find_every_change() {
    let powers = (0..64).map(|bit| 1u64 << bit);
    let beside_powers = powers.clone().flat_map(|power| (0..40).map(move |step| power.saturating_add(step)));
    let clusters =
        (0..1_000u64).flat_map(|far| (0..20u64).map(move |near| (far * far) << 40 | near << (far % 30)));
    let ends = (0..100u64).chain((0..100).map(|step| u64::MAX - step));
    let sorted = |numbers: Vec<u64>| numbers.into_iter().collect::<std::collections::BTreeSet<_>>();
    for numbers in [powers.collect(), beside_powers.collect(), clusters.collect(), ends.collect()].map(sorted)
    {
        let changes = Changes::new(numbers.iter().copied().collect());
        for (index, &number) in numbers.iter().enumerate() {
            assert_eq!(changes.up_to(number), index + 1, "{number:x}");
            assert_eq!(
                changes.up_to(number.saturating_sub(1)),
                index + usize::from(number == 0),
                "{number:x} - 1"
            );
        }
        assert!(changes.bytes() <= 4 * numbers.len() * size_of::<u64>(), "{} bytes", changes.bytes());
    }
}

/// Second halves count only where the first half is the same, many of them as well.
#[test]
fn addresses_of_one_64_bit_network_are_told_apart() {
    let addresses: Vec<u128> =
        (1..5u128).flat_map(|high| (0..50u128).map(move |low| (high << 64) | (low * 10 + 5))).collect();
    let halves = Halves::new(&addresses);
    for high in 0..6u128 {
        for low in (0..510u128).chain([u64::MAX.into()]) {
            let key = (high << 64) | low;
            let count = addresses.iter().filter(|address| **address <= key).count();
            assert_eq!(halves.is_odd_up_to(key), count % 2 == 1, "{key:x}");
        }
    }
}

/// What the longest prefix that holds the client says.
fn model(default: bool, prefixes: &[(IpAddr, u8, bool)], client: IpAddr) -> bool {
    let client = client.to_canonical();
    let holds = |address: IpAddr, length: u8| match (address, client) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (one.to_bits() ^ other.to_bits()).leading_zeros() >= length.into()
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            (one.to_bits() ^ other.to_bits()).leading_zeros() >= length.into()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    };
    let matching = prefixes.iter().filter(|(address, length, _)| holds(*address, *length));
    let best = matching.max_by_key(|(_, length, allow)| (*length, !allow));
    best.map_or(default, |(_, _, allow)| *allow)
}

/// Addresses that are close to each other, so that prefixes nest and touch; some are anywhere.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..64).prop_map(|low| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low))),
        (0u32..64).prop_map(|low| IpAddr::V4(Ipv4Addr::from_bits(u32::MAX - low))),
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        (0u128..64).prop_map(|low| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | low))),
        (0u128..64, 0u128..4).prop_map(|(high, low)| {
            IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | high << 64 | low))
        }),
        (0u128..64).prop_map(|low| IpAddr::V6(Ipv6Addr::from_bits(u128::MAX - low))),
    ]
}

fn listed() -> impl Strategy<Value = (IpAddr, u8, bool)> {
    (address(), 0u8..=128, any::<bool>()).prop_map(|(address, length, allow)| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        // Mostly long ones: a short prefix covers all that the test asks about.
        (address, if length <= bits { bits - length / 4 } else { length - bits }.min(bits), allow)
    })
}

proptest! {
    #[test]
    fn the_table_says_what_a_look_at_every_prefix_says(
        default in any::<bool>(),
        prefixes in prop::collection::vec(listed(), 0..60),
        clients in prop::collection::vec(address(), 1..60),
    ) {
        let mut lists = Lists::default();
        for &(address, length, allow) in &prefixes {
            lists.add(Prefix::new(address, length).unwrap(), allow);
        }
        let table = lists.build(default);
        for client in clients.into_iter().chain(prefixes.iter().map(|(address, ..)| *address)) {
            prop_assert_eq!(table.allows(client), model(default, &prefixes, client), "{}", client);
        }
    }
}
