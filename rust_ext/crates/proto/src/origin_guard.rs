//! What a name may not resolve to. DNS answers are other people's data: without this table whoever controls a name reaches what only
//! this host can (its loopback services, a cloud's metadata, the network behind it). An address written in the app file is the
//! operator's word and is not asked about.
//!
//! The address is looked at without its clothing: IPv4 inside IPv6 by whichever translation is judged as the IPv4 address that is
//! reached in the end. Own listeners need to know this host's addresses, so the engine looks for those; here is only their name.
//! `l4proxy/core/origin_guard.py` is the same table for `status` and the checks; both are tested with
//! `tests/vectors/origin_guard.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Denied {
    /// "This network" (0.0.0.0/8) or `::`: a connect to it reaches this host.
    Unspecified,
    /// This host.
    Loopback,
    /// The neighbours on one wire.
    LinkLocal,
    /// A service that hands a cloud's credentials to its virtual machines.
    Metadata,
    /// A group.
    Multicast,
    /// Everybody on the wire.
    Broadcast,
    /// Given out for documentation, benchmarks or protocols, or not at all.
    Reserved,
    /// A private network, and the app does not say `allow_private_origins: true`.
    Private,
    /// A place where this proxy itself listens: the flow would come back for ever.
    OwnListener,
}

impl Denied {
    /// The name in counters and vectors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
            Self::Private => "private",
            Self::OwnListener => "own_listener",
        }
    }
}

/// A network: its first address and how many leading bits count.
type Net4 = (Ipv4Addr, u32);
type Net6 = (Ipv6Addr, u32);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u32) -> Net4 {
    (Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(head: [u16; 4], tail: [u16; 4], length: u32) -> Net6 {
    let ([a, b, c, d], [e, f, g, h]) = (head, tail);
    (Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

const REST: [u16; 4] = [0; 4];

/// In this order; what stands in no row may be dialled. IANA's special-purpose registry, and what clouds document.
const TABLE_V4: &[(Net4, Denied)] = &[
    // EC2 and most others; ECS and EKS credentials; Alibaba; Azure's wire server; Oracle.
    (v4(169, 254, 169, 254, 32), Denied::Metadata),
    (v4(169, 254, 170, 2, 32), Denied::Metadata),
    (v4(169, 254, 170, 23, 32), Denied::Metadata),
    (v4(100, 100, 100, 200, 32), Denied::Metadata),
    (v4(168, 63, 129, 16, 32), Denied::Metadata),
    (v4(192, 0, 0, 192, 32), Denied::Metadata),
    (v4(0, 0, 0, 0, 8), Denied::Unspecified),
    (v4(127, 0, 0, 0, 8), Denied::Loopback),
    (v4(169, 254, 0, 0, 16), Denied::LinkLocal),
    (v4(224, 0, 0, 0, 4), Denied::Multicast),
    (v4(255, 255, 255, 255, 32), Denied::Broadcast),
    (v4(240, 0, 0, 0, 4), Denied::Reserved),
    (v4(192, 0, 0, 0, 24), Denied::Reserved),
    (v4(192, 0, 2, 0, 24), Denied::Reserved),
    (v4(192, 88, 99, 0, 24), Denied::Reserved),
    (v4(198, 18, 0, 0, 15), Denied::Reserved),
    (v4(198, 51, 100, 0, 24), Denied::Reserved),
    (v4(203, 0, 113, 0, 24), Denied::Reserved),
    (v4(10, 0, 0, 0, 8), Denied::Private),
    (v4(100, 64, 0, 0, 10), Denied::Private),
    (v4(172, 16, 0, 0, 12), Denied::Private),
    (v4(192, 168, 0, 0, 16), Denied::Private),
];

/// The same; besides, only 2000::/3 is given out to hosts.
const TABLE_V6: &[(Net6, Denied)] = &[
    // EC2 (the whole of its prefix), Google.
    (v6([0xfd00, 0x0ec2, 0, 0], REST, 32), Denied::Metadata),
    (v6([0xfd20, 0x00ce, 0, 0], [0, 0, 0, 0x254], 128), Denied::Metadata),
    (v6([0, 0, 0, 0], REST, 128), Denied::Unspecified),
    (v6([0, 0, 0, 0], [0, 0, 0, 1], 128), Denied::Loopback),
    (v6([0xfe80, 0, 0, 0], REST, 10), Denied::LinkLocal),
    (v6([0xff00, 0, 0, 0], REST, 8), Denied::Multicast),
    // Unique local; site-local of old; NAT64 prefixes of one's own (RFC 8215), which lead wherever the operator says.
    (v6([0xfc00, 0, 0, 0], REST, 7), Denied::Private),
    (v6([0xfec0, 0, 0, 0], REST, 10), Denied::Private),
    (v6([0x64, 0xff9b, 1, 0], REST, 48), Denied::Private),
    (v6([0x2001, 0, 0, 0], REST, 23), Denied::Reserved),
    (v6([0x2001, 0xdb8, 0, 0], REST, 32), Denied::Reserved),
    (v6([0x3fff, 0, 0, 0], REST, 20), Denied::Reserved),
];

const GLOBAL_UNICAST: Net6 = v6([0x2000, 0, 0, 0], REST, 3);
const MAPPED: Net6 = v6([0, 0, 0, 0], [0, 0xffff, 0, 0], 96);
const COMPATIBLE: Net6 = v6([0, 0, 0, 0], REST, 96);
const NAT64: Net6 = v6([0x64, 0xff9b, 0, 0], REST, 96);
const SIX_TO_FOUR: Net6 = v6([0x2002, 0, 0, 0], REST, 16);
const TEREDO: Net6 = v6([0x2001, 0, 0, 0], REST, 32);

fn is_in_v4(ip: Ipv4Addr, (first, length): Net4) -> bool {
    (ip.to_bits() ^ first.to_bits()) >> (32 - length) == 0
}

fn is_in_v6(ip: Ipv6Addr, (first, length): Net6) -> bool {
    (ip.to_bits() ^ first.to_bits()) >> (128 - length) == 0
}

/// Whether a name may lead to `address`.
///
/// # Errors
/// Why not.
pub fn check(address: IpAddr, allow_private: bool) -> Result<(), Denied> {
    let found = match address {
        IpAddr::V4(ip) => find_v4(ip, allow_private),
        IpAddr::V6(ip) => find_v6(ip, allow_private),
    };
    found.map_or(Ok(()), Err)
}

fn find_v4(ip: Ipv4Addr, allow_private: bool) -> Option<Denied> {
    let row = TABLE_V4.iter().find(|(net, _)| is_in_v4(ip, *net));
    row.map(|(_, denied)| *denied).filter(|denied| !(allow_private && *denied == Denied::Private))
}

fn find_v6(ip: Ipv6Addr, allow_private: bool) -> Option<Denied> {
    let bits = ip.to_bits();
    let v4_at = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    if is_in_v6(ip, MAPPED) || is_in_v6(ip, NAT64) {
        return find_v4(v4_at(0), allow_private);
    }
    if is_in_v6(ip, SIX_TO_FOUR) {
        return find_v4(v4_at(80), allow_private);
    }
    if is_in_v6(ip, TEREDO) {
        // The client is reached through its server: neither may be one of ours.
        let (server, client) = (v4_at(64), Ipv4Addr::from_bits(!v4_at(0).to_bits()));
        return find_v4(client, allow_private).or_else(|| find_v4(server, allow_private));
    }
    let row = TABLE_V6.iter().find(|(net, _)| is_in_v6(ip, *net)).map(|(_, denied)| *denied);
    match row {
        Some(Denied::Private) if allow_private => None,
        Some(denied) => Some(denied),
        // Never given to a host since RFC 4291; a kernel may still take it for the IPv4 address inside.
        None if is_in_v6(ip, COMPATIBLE) => {
            Some(find_v4(v4_at(0), allow_private).unwrap_or(Denied::Reserved))
        }
        None => (!is_in_v6(ip, GLOBAL_UNICAST)).then_some(Denied::Reserved),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VECTORS: &str = include_str!("../../../../tests/vectors/origin_guard.txt");

    fn verdict(result: Result<(), Denied>) -> &'static str {
        result.map_or_else(Denied::as_str, |()| "ok")
    }

    #[test]
    fn every_vector_has_its_verdict() {
        let mut count = 0;
        for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [address, strict, private] = words[..] else { panic!("{line}") };
            let ip = address.parse().unwrap();
            let found = [verdict(check(ip, false)), verdict(check(ip, true))];
            assert_eq!(found, [strict, private], "{address}");
            count += 1;
        }
        assert!(count > 130, "{count}");
    }

    proptest! {
        /// An IPv4 address is judged alike in every clothing.
        #[test]
        fn clothing_changes_no_verdict(bits: u32, low: u64, allow: bool) {
            let plain = check(Ipv4Addr::from_bits(bits).into(), allow);
            let wide = u128::from(bits);
            for dressed in [
                0xffff_u128 << 32 | wide,
                0x0064_ff9b_u128 << 96 | wide,
                0x2002_u128 << 112 | wide << 80 | u128::from(low),
                0x2001_u128 << 112 | 0x0808_0808_u128 << 64 | u128::from(!bits),
            ] {
                prop_assert_eq!(check(Ipv6Addr::from_bits(dressed).into(), allow), plain);
            }
        }

        /// The app's word opens private networks and nothing else.
        #[test]
        fn only_private_can_be_allowed(bits: u128) {
            for ip in [IpAddr::from(Ipv6Addr::from_bits(bits)), Ipv4Addr::from_bits(bits as u32).into()] {
                match check(ip, false) {
                    Ok(()) => prop_assert_eq!(check(ip, true), Ok(())),
                    Err(Denied::Private) => prop_assert!(matches!(check(ip, true), Ok(()) | Err(Denied::Reserved))),
                    Err(denied) => prop_assert_eq!(check(ip, true), Err(denied)),
                }
            }
        }
    }
}
