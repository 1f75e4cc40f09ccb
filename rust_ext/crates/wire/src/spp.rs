//! Simple Proxy Protocol: who the client is, in 38 bytes before the payload of each datagram.
//!
//! `magic (2) = 56ec · client IP (16) · proxy IP (16) · client port (2) · proxy port (2)`, IPv4 addresses as `::ffff:a.b.c.d`
//! (Cloudflare Spectrum, "Simple Proxy Protocol"). Answers carry the header of the flow that they answer.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::Malformed;
use crate::proxy::canonical;
use crate::reader::Reader;

/// A header, in bytes.
pub const LENGTH: usize = 38;

const MAGIC: u16 = 0x56ec;

/// One header. IPv4 addresses are IPv4 addresses here, whatever they look like on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spp {
    /// The client.
    pub client: SocketAddr,
    /// What it came to.
    pub proxy: SocketAddr,
}

impl Spp {
    /// The bytes.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[2..18].copy_from_slice(&as_v6(self.client.ip()).octets());
        bytes[18..34].copy_from_slice(&as_v6(self.proxy.ip()).octets());
        bytes[34..36].copy_from_slice(&self.client.port().to_be_bytes());
        bytes[36..].copy_from_slice(&self.proxy.port().to_be_bytes());
        bytes
    }

    /// Read a datagram that begins with a header; the rest is the payload, which may be empty.
    ///
    /// # Errors
    /// Fewer bytes than a header has, or another magic number.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut reader = Reader::new(datagram);
        if reader.u16("spp magic")? != MAGIC {
            return Err(Malformed { what: "spp magic" });
        }
        let (client, proxy) = (reader.array::<16>("spp client")?, reader.array::<16>("spp proxy")?);
        let (client_port, proxy_port) = (reader.u16("spp client port")?, reader.u16("spp proxy port")?);
        let address = |ip, port| canonical(SocketAddr::new(Ipv6Addr::from(ip).into(), port));
        let header = Self { client: address(client, client_port), proxy: address(proxy, proxy_port) };
        Ok((header, &datagram[LENGTH..]))
    }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
