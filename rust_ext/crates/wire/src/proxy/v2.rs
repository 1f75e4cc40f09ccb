//! Version 2: `signature (12) · version and command (1) · family and transport (1) · length (2) · addresses · TLVs`.
//!
//! The length is the sender's word and the only one that counts: nothing is looked at before so many bytes have come, nothing beyond
//! them is ever looked at, and what follows them is the client's.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv::{self, Tlv, Tlvs};
use super::{
    Endpoints, Header, MAX_HEADER_LENGTH, Progress, Rejected, Transport, UNIX_PATH_LENGTH, agrees, crc32c,
    of_one_family,
};
use crate::EncodeError;
use crate::reader::{Reader, check_length};

/// How every header begins; its sixth byte is NUL.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What comes before addresses and TLVs, in bytes.
pub const FIXED_LENGTH: usize = 16;

const VERSION: u8 = 0x2;
const COMMAND_LOCAL: u8 = 0x0;
const COMMAND_PROXY: u8 = 0x1;

/// Address families, by their number in the header.
#[derive(Clone, Copy)]
enum Family {
    Unspecified = 0,
    Inet = 1,
    Inet6 = 2,
    Unix = 3,
}

/// Read a header from everything that has come so far.
///
/// # Errors
/// These bytes will never be a header of version 2. Version, command, family and length are looked at as soon as they have come.
pub fn decode(bytes: &[u8]) -> Result<Progress<Header<'_>>, Rejected> {
    if !agrees(bytes, SIGNATURE) {
        return Err(Rejected::Signature);
    }
    let command = bytes.get(12).map(|&byte| parse_command(byte)).transpose()?;
    let kind = bytes.get(13).map(|&byte| parse_family(byte)).transpose()?;
    let (Some(is_proxy), Some((family, transport)), Some(&[high, low])) =
        (command, kind, bytes.get(14..16).and_then(|two| two.first_chunk()))
    else {
        return Ok(Progress::Incomplete { needed: FIXED_LENGTH });
    };
    let length = FIXED_LENGTH + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER_LENGTH {
        return Err(Rejected::Length);
    }
    if is_proxy && length < FIXED_LENGTH + family.address_length() {
        return Err(Rejected::Length);
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(Progress::Incomplete { needed: length });
    };
    let header = if is_proxy {
        parse_body(whole, family, transport)?
    } else {
        // Whatever a LOCAL header carries is skipped, its family included: it has no meaning that could be checked.
        Header { endpoints: Endpoints::Local, transport: Transport::Unspecified, tlvs: Tlvs::NONE }
    };
    Ok(Progress::Done { header, length })
}

/// Whether the command is PROXY; otherwise it is LOCAL.
fn parse_command(byte: u8) -> Result<bool, Rejected> {
    match (byte >> 4, byte & 0xf) {
        (VERSION, COMMAND_LOCAL) => Ok(false),
        (VERSION, COMMAND_PROXY) => Ok(true),
        (VERSION, _) => Err(Rejected::Command),
        _ => Err(Rejected::Version),
    }
}

fn parse_family(byte: u8) -> Result<(Family, Transport), Rejected> {
    let family = match byte >> 4 {
        0 => Family::Unspecified,
        1 => Family::Inet,
        2 => Family::Inet6,
        3 => Family::Unix,
        _ => return Err(Rejected::Family),
    };
    let transport = match byte & 0xf {
        0 => Transport::Unspecified,
        1 => Transport::Stream,
        2 => Transport::Datagram,
        _ => return Err(Rejected::Family),
    };
    Ok((family, transport))
}

impl Family {
    const fn address_length(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::Inet => 2 * (4 + 2),
            Self::Inet6 => 2 * (16 + 2),
            Self::Unix => 2 * UNIX_PATH_LENGTH,
        }
    }
}

/// Addresses and TLVs of a PROXY header that has come whole.
fn parse_body(whole: &[u8], family: Family, transport: Transport) -> Result<Header<'_>, Rejected> {
    let body = &whole[FIXED_LENGTH..];
    let (addresses, rest) = body.split_at_checked(family.address_length()).ok_or(Rejected::Length)?;
    let endpoints = match family {
        // Without a family nobody can say where addresses would end and TLVs begin.
        Family::Unspecified => {
            return Ok(Header { endpoints: Endpoints::Unspecified, transport, tlvs: Tlvs::NONE });
        }
        Family::Inet => parse_inet::<4, Ipv4Addr>(addresses)?,
        Family::Inet6 => parse_inet::<16, Ipv6Addr>(addresses)?,
        Family::Unix => {
            let mut reader = Reader::new(addresses);
            let mut path = || path_of(&mut reader);
            Endpoints::Unix { source: path()?, destination: path()? }
        }
    };
    Ok(Header { endpoints, transport, tlvs: Tlvs::check(whole, rest)? })
}

/// `source IP · destination IP · source port · destination port`.
fn parse_inet<const N: usize, Ip>(addresses: &[u8]) -> Result<Endpoints<'static>, Rejected>
where
    Ip: From<[u8; N]> + Into<std::net::IpAddr>,
{
    let mut reader = Reader::new(addresses);
    let mut read = || -> Result<_, crate::Malformed> {
        let (source, destination) = (reader.array::<N>("source")?, reader.array::<N>("destination")?);
        let (source_port, destination_port) = (reader.u16("source port")?, reader.u16("destination port")?);
        let source = SocketAddr::new(Ip::from(source).into(), source_port);
        Ok(Endpoints::Inet {
            source,
            destination: SocketAddr::new(Ip::from(destination).into(), destination_port),
        })
    };
    read().map_err(|_| Rejected::Length)
}

fn path_of<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8; UNIX_PATH_LENGTH], Rejected> {
    let path = reader.bytes(UNIX_PATH_LENGTH, "path").map_err(|_| Rejected::Length)?;
    path.first_chunk().ok_or(Rejected::Length)
}

/// What a header that is written says besides the addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras<'a> {
    /// TLVs, in this order; none of them [`tlv::CRC32C`].
    pub tlvs: &'a [Tlv<'a>],
    /// Add a checksum over the whole header, as the last TLV.
    pub checksum: bool,
}

/// Append a header. Where the families of the two addresses differ, both are written as IPv6. On error nothing is appended.
///
/// # Errors
/// A TLV longer than its length can say, a unique id longer than [`tlv::MAX_UNIQUE_ID`], or a header longer than
/// [`MAX_HEADER_LENGTH`].
pub fn encode(
    endpoints: Endpoints<'_>,
    transport: Transport,
    extras: Extras<'_>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(SIGNATURE);
    let command = match endpoints {
        Endpoints::Local => COMMAND_LOCAL,
        Endpoints::Unspecified | Endpoints::Inet { .. } | Endpoints::Unix { .. } => COMMAND_PROXY,
    };
    // Family, transport and length are known later.
    out.extend_from_slice(&[VERSION << 4 | command, 0, 0, 0]);
    let family = put_addresses(endpoints, out);
    let written = match family {
        // Nobody could tell TLVs from addresses.
        Family::Unspecified => Ok(()),
        Family::Inet | Family::Inet6 | Family::Unix => extras.tlvs.iter().try_for_each(|tlv| tlv.encode(out)),
    };
    let has_checksum = extras.checksum && !matches!(family, Family::Unspecified);
    if has_checksum {
        tlv::put_empty_checksum(out);
    }
    let length = out.len() - start;
    if let Err(error) = written.and_then(|()| check_length(&out[start..], MAX_HEADER_LENGTH, "PROXY header"))
    {
        out.truncate(start);
        return Err(error);
    }
    out[start + 13] = (family as u8) << 4 | transport.number();
    out[start + 14..start + 16].copy_from_slice(&((length - FIXED_LENGTH) as u16).to_be_bytes());
    if has_checksum {
        let sum = crc32c::of(&[&out[start..]]);
        let at = out.len() - tlv::CHECKSUM_LENGTH;
        out[at..].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

fn put_addresses(endpoints: Endpoints<'_>, out: &mut Vec<u8>) -> Family {
    match endpoints {
        Endpoints::Local | Endpoints::Unspecified => Family::Unspecified,
        Endpoints::Unix { source, destination } => {
            out.extend_from_slice(source);
            out.extend_from_slice(destination);
            Family::Unix
        }
        Endpoints::Inet { source, destination } => {
            let (source, destination) = of_one_family(source, destination);
            for address in [source, destination] {
                match address {
                    SocketAddr::V4(v4) => out.extend_from_slice(&v4.ip().octets()),
                    SocketAddr::V6(v6) => out.extend_from_slice(&v6.ip().octets()),
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
            if source.is_ipv4() { Family::Inet } else { Family::Inet6 }
        }
    }
}

impl Transport {
    const fn number(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::Stream => 1,
            Self::Datagram => 2,
        }
    }
}
