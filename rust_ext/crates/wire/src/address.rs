//! An address on the wire: `family (1: 4 or 6) · IP (4 or 16) · port (2)`.
//! Flow label and scope of an IPv6 address mean nothing at another PoP and are not carried.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Malformed;
use crate::reader::Reader;

/// The longest encoded address (IPv6), in bytes.
pub const MAX_ADDRESS_LENGTH: usize = 1 + 16 + 2;

/// Appends an address.
pub fn encode(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.ip().octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// Reads one address from the front of `bytes`; the rest comes back with it.
///
/// # Errors
/// An unknown family, or fewer bytes than the family needs.
pub fn decode(bytes: &[u8]) -> Result<(SocketAddr, &[u8]), Malformed> {
    let mut reader = Reader::new(bytes);
    let address = read(&mut reader, "address")?;
    let used = if address.is_ipv4() { 1 + 4 + 2 } else { MAX_ADDRESS_LENGTH };
    Ok((address, &bytes[used..]))
}

pub(crate) fn read(reader: &mut Reader<'_>, what: &'static str) -> Result<SocketAddr, Malformed> {
    match reader.u8(what)? {
        4 => {
            let ip = Ipv4Addr::from(reader.array::<4>(what)?);
            Ok(SocketAddr::from((ip, reader.u16(what)?)))
        }
        6 => {
            let ip = Ipv6Addr::from(reader.array::<16>(what)?);
            Ok(SocketAddr::from((ip, reader.u16(what)?)))
        }
        _ => Err(Malformed { what }),
    }
}
