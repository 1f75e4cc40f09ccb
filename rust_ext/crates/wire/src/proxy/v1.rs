//! Version 1: one line, `PROXY TCP4 192.0.2.1 198.51.100.2 1234 443`, CR, LF.
//!
//! The line is read strictly: exactly one space between fields, no leading zeros, both addresses of the announced family, ports in
//! decimal, an end of CR LF within [`MAX_LENGTH`] bytes. A lone CR or LF ends nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv::Tlvs;
use super::{Endpoints, Header, Progress, Rejected, Transport, agrees, of_one_family};

/// The longest line, CR and LF included, in bytes.
pub const MAX_LENGTH: usize = 107;

/// The shortest line: `PROXY UNKNOWN`, CR, LF.
pub const MIN_LENGTH: usize = 15;

/// How every line begins.
pub const PREFIX: &[u8] = b"PROXY ";

const END: &[u8] = b"\r\n";

/// Read a line from everything that has come so far.
///
/// # Errors
/// These bytes will never be a line of version 1.
pub fn decode(bytes: &[u8]) -> Result<Progress<Header<'_>>, Rejected> {
    if !agrees(bytes, PREFIX) {
        return Err(Rejected::Signature);
    }
    let within = &bytes[..bytes.len().min(MAX_LENGTH)];
    let Some(end) = within.windows(END.len()).position(|pair| pair == END) else {
        if bytes.len() >= MAX_LENGTH {
            return Err(Rejected::Length);
        }
        return Ok(Progress::Incomplete { needed: MIN_LENGTH.max(bytes.len() + 1) });
    };
    // "PROXY " holds no CR, and a shorter line than it cannot hold CR LF.
    let (endpoints, transport) = parse_fields(&bytes[PREFIX.len()..end])?;
    let header = Header { endpoints, transport, tlvs: Tlvs::NONE };
    Ok(Progress::Done { header, length: end + END.len() })
}

/// What stands between `PROXY ` and the end of the line.
fn parse_fields(fields: &[u8]) -> Result<(Endpoints<'static>, Transport), Rejected> {
    // Whatever follows UNKNOWN is to be ignored, but it is a field: UNKNOWNS is no protocol.
    if fields == b"UNKNOWN" || fields.starts_with(b"UNKNOWN ") {
        return Ok((Endpoints::Unspecified, Transport::Unspecified));
    }
    let fields = std::str::from_utf8(fields).map_err(|_| Rejected::Line)?;
    let mut fields = fields.split(' ');
    let mut next = || fields.next().ok_or(Rejected::Line);
    let parse_ip = match next()? {
        "TCP4" => |text: &str| text.parse::<Ipv4Addr>().map(IpAddr::from),
        "TCP6" => |text: &str| text.parse::<Ipv6Addr>().map(IpAddr::from),
        _ => return Err(Rejected::Family),
    };
    let (source, destination, source_port, destination_port) = (next()?, next()?, next()?, next()?);
    if fields.next().is_some() {
        return Err(Rejected::Line);
    }
    let ip = |text| parse_ip(text).map_err(|_| Rejected::Address);
    let source = SocketAddr::new(ip(source)?, parse_port(source_port)?);
    let destination = SocketAddr::new(ip(destination)?, parse_port(destination_port)?);
    Ok((Endpoints::Inet { source, destination }, Transport::Stream))
}

/// Digits alone, without leading zeros: `str::parse` would take `+80` and `080`.
fn parse_port(text: &str) -> Result<u16, Rejected> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().map_err(|_| Rejected::Address) } else { Err(Rejected::Address) }
}

/// Append the line for a client and what it came to. Where the families differ, both are written as IPv6.
pub fn encode(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    use std::io::Write;
    let (source, destination) = of_one_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (Plain(source.ip()), Plain(destination.ip()));
    // Writing to memory cannot fail.
    let _ = write!(out, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
}

/// An address as version 1 writes it: for IPv6 nothing but hexadecimal digits and colons, also where the usual text has dots.
struct Plain(IpAddr);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                let [.., high, low] = v6.segments();
                write!(f, "::ffff:{high:x}:{low:x}")
            }
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip.fmt(f),
        }
    }
}
