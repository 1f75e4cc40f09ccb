//! Any bytes as two access lists: what is no prefix is found, and the table of the others says what a look at every prefix says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use l4proxy_proto::access::Lists;
use l4proxy_proto::access::packed::{V4_BYTES, V6_BYTES, unpack};

/// Prefixes that are looked at; the model is quadratic.
const MAX_PREFIXES: usize = 128;

/// A prefix as the model keeps it: addresses as 128 bits, IPv4 ones in `::ffff:0:0/96`.
struct Listed {
    first: u128,
    last: u128,
    length: u32,
    allow: bool,
}

/// The first byte is the default, the next three say how many of the others are IPv4 prefixes that allow, that deny, and IPv6 prefixes that
/// allow; the rest are IPv6 prefixes that deny.
pub(crate) fn run(data: &[u8]) {
    let Some((&[default, allowed_v4, denied_v4, allowed_v6], rest)) = data.split_first_chunk() else {
        return;
    };
    let default_allow = default % 2 == 1;
    let (allowed_v4, rest) = rest.split_at(rest.len().min(allowed_v4.into()));
    let (denied_v4, rest) = rest.split_at(rest.len().min(denied_v4.into()));
    let (allowed_v6, denied_v6) = rest.split_at(rest.len().min(allowed_v6.into()));
    let (mut lists, mut listed) = (Lists::default(), Vec::new());
    for (v4, v6, allow) in [(allowed_v4, allowed_v6, true), (denied_v4, denied_v6, false)] {
        let known = v4.chunks(V4_BYTES).map(model_v4).chain(v6.chunks(V6_BYTES).map(model_v6));
        let mut found = unpack(v4, v6);
        for known in known {
            let found = found.next().expect("as many prefixes as the bytes hold");
            assert_eq!(found.is_some(), known.is_some());
            if let (Some(prefix), Some((first, last, length))) = (found, known)
                && listed.len() < MAX_PREFIXES
            {
                lists.add(prefix, allow);
                listed.push(Listed { first, last, length, allow });
            }
        }
        assert!(found.next().is_none());
    }
    let table = lists.build(default_allow);
    let ends = listed.iter().flat_map(|prefix| {
        [prefix.first, prefix.last, prefix.first.wrapping_sub(1), prefix.last.wrapping_add(1)]
    });
    for client in ends.chain([0, u128::MAX, MAPPED, MAPPED | u128::from(u32::MAX)]) {
        let wanted = answer(&listed, client, default_allow);
        let as_v6 = Ipv6Addr::from_bits(client);
        assert_eq!(table.allows(IpAddr::V6(as_v6)), wanted, "{as_v6}");
        if let Some(v4) = as_v6.to_ipv4_mapped() {
            assert_eq!(table.allows(IpAddr::V4(v4)), wanted, "{v4}");
        }
    }
}

/// Where IPv4 addresses lie among those of IPv6.
const MAPPED: u128 = 0xffff << 32;

fn range(address: u128, length: u32) -> (u128, u128, u32) {
    let behind = u128::MAX.checked_shr(length).unwrap_or(0);
    (address & !behind, address | behind, length)
}

fn model_v4(bytes: &[u8]) -> Option<(u128, u128, u32)> {
    let &[a, b, c, d, length] = bytes else { return None };
    let address = u128::from(Ipv4Addr::new(a, b, c, d).to_bits());
    (length <= 32).then(|| range(MAPPED | address, 96 + u32::from(length)))
}

fn model_v6(bytes: &[u8]) -> Option<(u128, u128, u32)> {
    let (length, octets) = bytes.split_last()?;
    let address = u128::from_be_bytes(octets.try_into().ok()?);
    (*length <= 128).then(|| range(address, (*length).into()))
}

/// What the longest prefix that holds the client says; where two are the same, "deny".
fn answer(listed: &[Listed], client: u128, default_allow: bool) -> bool {
    let is_v4 = client >> 32 == MAPPED >> 32;
    let holds = |prefix: &&Listed| {
        // A prefix of IPv6 that is wider than all of IPv4 says nothing about it.
        (prefix.first..=prefix.last).contains(&client) && (!is_v4 || prefix.length >= 96)
    };
    let best = listed.iter().filter(holds).max_by_key(|prefix| (prefix.length, !prefix.allow));
    best.map_or(default_allow, |prefix| prefix.allow)
}
