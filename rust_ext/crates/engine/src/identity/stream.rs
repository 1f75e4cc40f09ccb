//! The header that a TCP origin reads before the client's first byte.

use std::io;
use std::os::fd::OwnedFd;

use l4proxy_io::{Sent, tcp};
use l4proxy_wire::proxy::tlv::{self, Tlv};
use l4proxy_wire::proxy::{Endpoints, Transport, v1, v2};

use crate::policy::AnnounceTcp;
use crate::records::FlowMeta;

/// Bits of what a header says of the client's TLS: there is some; it came with a certificate, on this connection and in this session.
const HAS_TLS: u8 = 0x01;
const HAS_CERTIFICATE: u8 = 0x02 | 0x04;

/// The first of the values within [`tlv::SSL`]: the version, as text.
const VERSION: u8 = 0x21;

/// What was agreed on with a client whose TLS ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientTls {
    /// "TLSv1.2" or "TLSv1.3".
    pub(crate) version: &'static str,
    /// It showed a certificate, which was verified: else there would be no session.
    pub(crate) has_certificate: bool,
}

/// The header for a flow; None: its app's origins are not told, or see it from the client's address itself.
pub(crate) fn header(meta: &FlowMeta, tls: Option<ClientTls>) -> Option<Vec<u8>> {
    let mut header = Vec::new();
    match meta.app.policy.announce_tcp {
        AnnounceTcp::Off | AnnounceTcp::Transparent => return None,
        AnnounceTcp::ProxyV1 => v1::encode(meta.client, meta.listener, &mut header),
        AnnounceTcp::ProxyV2 => put_v2(meta, tls, &mut header),
    }
    Some(header)
}

/// Say the header at once, on a new connection to an origin that speaks TLS: it goes in the clear, before our hello.
pub(crate) fn say(fd: &OwnedFd, meta: &FlowMeta, tls: Option<ClientTls>) -> io::Result<()> {
    let Some(header) = header(meta, tls) else { return Ok(()) };
    match tcp::send(fd, &header)? {
        Sent::Bytes(count) if count == header.len() => Ok(()),
        // A new connection has room for some kilobytes, unless the host is out of memory.
        Sent::Bytes(_) | Sent::WouldBlock => Err(io::ErrorKind::OutOfMemory.into()),
    }
}

/// App and flow travel with the addresses: `l4proxy flow list` and flow records know the flow by the same id. Where the client's TLS
/// ends here, its version and the name that it asked for do, too.
fn put_v2(meta: &FlowMeta, tls: Option<ClientTls>, header: &mut Vec<u8>) {
    let id = format!("{:016x}", meta.id);
    let ssl = tls.map(ssl);
    let name = meta.server_name.as_deref().filter(|_| meta.app.policy.tls.is_some());
    let mut tlvs = vec![
        Tlv { kind: tlv::UNIQUE_ID, value: id.as_bytes() },
        Tlv { kind: tlv::APP, value: meta.app.name.as_bytes() },
    ];
    tlvs.extend(name.map(|name| Tlv { kind: tlv::AUTHORITY, value: name.as_bytes() }));
    tlvs.extend(ssl.as_deref().map(|value| Tlv { kind: tlv::SSL, value }));
    let endpoints = Endpoints::Inet { source: meta.client, destination: meta.listener };
    let extras = v2::Extras { tlvs: &tlvs, checksum: true };
    v2::encode(endpoints, Transport::Stream, extras, header)
        .expect("names of at most 255 bytes, an id of 16 and a dozen of TLS fit a header");
}

/// `client (1) · verify (4) · version`; verify is 0 for a certificate that was verified, and 1 where there was none.
fn ssl(tls: ClientTls) -> Vec<u8> {
    let (certificate, verify) = if tls.has_certificate { (HAS_CERTIFICATE, 0) } else { (0, 1_u32) };
    let mut value = vec![HAS_TLS | certificate];
    value.extend_from_slice(&verify.to_be_bytes());
    value.extend_from_slice(&[VERSION, 0, tls.version.len() as u8]);
    value.extend_from_slice(tls.version.as_bytes());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_says_of_tls() {
        let with = |has_certificate| ssl(ClientTls { version: "TLSv1.3", has_certificate });
        assert_eq!(with(false), b"\x01\0\0\0\x01\x21\0\x07TLSv1.3");
        assert_eq!(with(true), b"\x07\0\0\0\0\x21\0\x07TLSv1.3");
    }
}
