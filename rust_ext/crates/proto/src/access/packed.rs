//! Prefixes as they come in `access_list` frames: address and length, one after the other, without anything between them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Prefix;

/// One IPv4 prefix: address, length.
pub const V4_BYTES: usize = 5;

/// One IPv6 prefix.
pub const V6_BYTES: usize = 17;

/// Every prefix; None in place of one that is longer than its address, and of what is left when the bytes do not come out even.
pub fn unpack<'a>(v4: &'a [u8], v6: &'a [u8]) -> impl Iterator<Item = Option<Prefix>> + 'a {
    let v4 = v4.chunks(V4_BYTES).map(|bytes| {
        let (octets, length) = bytes.split_first_chunk::<4>()?;
        Prefix::new(Ipv4Addr::from(*octets).into(), *length.first()?)
    });
    let v6 = v6.chunks(V6_BYTES).map(|bytes| {
        let (octets, length) = bytes.split_first_chunk::<16>()?;
        Prefix::new(Ipv6Addr::from(*octets).into(), *length.first()?)
    });
    v4.chain(v6)
}
