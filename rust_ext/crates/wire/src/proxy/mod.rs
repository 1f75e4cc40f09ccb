//! The PROXY protocol, versions 1 and 2 (haproxy/doc/proxy-protocol.txt of 2026-04-27): who the client is, written before its bytes.
//!
//! | module | what |
//! | --- | --- |
//! | [`v1`] | the line of text |
//! | [`v2`] | the binary header |
//! | [`tlv`] | what may follow the addresses of a binary header |
//! | `crc32c` | its checksum |
//!
//! Reading is incremental and without state: whoever reads a connection hands over everything that has come so far, and is told that
//! more is needed, that the header is done (and how long it is), or why it never will be. Who may send a header at all, how long it
//! may take, and what is done with it, is decided elsewhere: a header from a stranger must not even come here.

mod crc32c;
pub mod tlv;
pub mod v1;
pub mod v2;

use std::net::{IpAddr, SocketAddr};

use self::tlv::Tlvs;

/// The longest header that is read, in bytes. The addresses need at most 232; the rest is room for TLVs, of which a client
/// certificate's names are the longest that are known. The format would allow 65,551, which no sender needs and a flood would like.
pub const MAX_HEADER_LENGTH: usize = 4096;

/// What a Unix socket's path takes in a header, in bytes.
pub const UNIX_PATH_LENGTH: usize = 108;

macro_rules! rejections {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why bytes are no header. The variants are few on purpose: each is a counter that an operator reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum Rejected {
            $($(#[$doc])* #[error($name)] $variant,)*
        }

        impl Rejected {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name it is counted under.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

rejections! {
    /// The first bytes are neither those of version 1 nor those of version 2.
    Signature = "signature",
    /// A binary header of another version than 2.
    Version = "version",
    /// A command other than LOCAL and PROXY.
    Command = "command",
    /// A protocol or address family that does not exist.
    Family = "family",
    /// Longer than a header may be, or too short for its own addresses.
    Length = "length",
    /// A line that is not made as version 1 wants it: fields, spaces, end.
    Line = "line",
    /// An address or port that is none, or of another family than announced.
    Address = "address",
    /// TLVs that do not end where the header ends, or one that cannot be what it says.
    Tlv = "tlv",
    /// The checksum is there and wrong.
    Checksum = "checksum",
}

/// What became of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// Too few: asking again is of no use before there are `needed` bytes in all.
    Incomplete {
        /// Bytes from the header's first.
        needed: usize,
    },
    /// A header, and how many bytes it took; what follows is the client's.
    Done {
        /// What it says.
        header: T,
        /// Its length, in bytes.
        length: usize,
    },
}

/// TCP or UDP, as a header announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Neither is said.
    Unspecified,
    /// A connection.
    Stream,
    /// Datagrams.
    Datagram,
}

/// Whom a header speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints<'a> {
    /// The sender itself (LOCAL: a health check): the connection's own addresses hold.
    Local,
    /// Nobody that can be told (UNKNOWN, AF_UNSPEC): the connection's own addresses hold.
    Unspecified,
    /// A client and what it came to.
    Inet {
        /// The client.
        source: SocketAddr,
        /// What it came to.
        destination: SocketAddr,
    },
    /// A client on a Unix socket. Paths are as long as their field; what follows a NUL means nothing.
    Unix {
        /// The client.
        source: &'a [u8; UNIX_PATH_LENGTH],
        /// What it came to.
        destination: &'a [u8; UNIX_PATH_LENGTH],
    },
}

/// One header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Whom it speaks of.
    pub endpoints: Endpoints<'a>,
    /// Over what the client came.
    pub transport: Transport,
    /// What else it says; checked when the header was read.
    pub tlvs: Tlvs<'a>,
}

impl Header<'_> {
    /// The client, if the header names one that came over `transport`. None: the connection's own addresses hold.
    ///
    /// A client of another transport, or on a Unix socket, has no address that could be passed on; the specification has its
    /// header accepted and the addresses ignored.
    pub fn client(&self, transport: Transport) -> Option<SocketAddr> {
        match self.endpoints {
            Endpoints::Inet { source, .. } if self.transport == transport => Some(canonical(source)),
            Endpoints::Inet { .. } | Endpoints::Local | Endpoints::Unspecified | Endpoints::Unix { .. } => {
                None
            }
        }
    }
}

/// Read a header of either version from everything that has come so far.
///
/// One listener takes both: the first byte tells them apart. A header is required; its absence is an error, never "no header".
///
/// # Errors
/// These bytes will never be a header, whatever follows.
pub fn decode(bytes: &[u8]) -> Result<Progress<Header<'_>>, Rejected> {
    match bytes.first() {
        None => Ok(Progress::Incomplete { needed: v1::MIN_LENGTH }),
        Some(&first) if first == v1::PREFIX[0] => v1::decode(bytes),
        Some(&first) if first == v2::SIGNATURE[0] => v2::decode(bytes),
        Some(_) => Err(Rejected::Signature),
    }
}

/// An IPv4 address that came in IPv6's clothes, undressed: limits and access lists know it as what it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Both in one family: where they differ, the IPv4 address is written as IPv6.
pub(crate) fn of_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (mapped(source), mapped(destination))
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Whether `bytes` could begin with `prefix`.
pub(crate) fn agrees(bytes: &[u8], prefix: &[u8]) -> bool {
    let common = bytes.len().min(prefix.len());
    bytes[..common] == prefix[..common]
}
