//! OPEN: what the ingress PoP tells the egress PoP about a new flow. The body is the same on a QUIC stream (TCP)
//! and in an OPEN_DATA frame (UDP). Whether the egress grants it is decided elsewhere.

use std::net::SocketAddr;

use crate::ids::FlowId;
use crate::reader::{Reader, check_length, put_short_text};
use crate::{EncodeError, Malformed, VERSION, address};

/// The longest app or origin name, in bytes: their length stands in one byte.
pub const MAX_NAME_LENGTH: usize = u8::MAX as usize;

/// The longest body, in bytes.
pub const MAX_OPEN_LENGTH: usize = 3 + 8 + 2 * (1 + MAX_NAME_LENGTH) + 2 * address::MAX_ADDRESS_LENGTH + 4;

/// The transport protocol of a flow, by its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 6
    Tcp = 6,
    /// 17
    Udp = 17,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// OPEN as it stands in received bytes, or as it is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// What is opened.
    pub protocol: Protocol,
    /// The flow's id, drawn by the ingress.
    pub flow: FlowId,
    /// The app's name; not empty.
    pub app: &'a str,
    /// The origin as written in the app file; not empty.
    pub origin: &'a str,
    /// The client's address, as the ingress saw it.
    pub client: SocketAddr,
    /// The address and port that the client came to.
    pub listener: SocketAddr,
    /// How long the egress may take to dial, in ms.
    pub deadline_ms: u32,
}

/// OPEN that outlives the bytes it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOwned {
    /// As [`Open::protocol`].
    pub protocol: Protocol,
    /// As [`Open::flow`].
    pub flow: FlowId,
    /// As [`Open::app`].
    pub app: String,
    /// As [`Open::origin`].
    pub origin: String,
    /// As [`Open::client`].
    pub client: SocketAddr,
    /// As [`Open::listener`].
    pub listener: SocketAddr,
    /// As [`Open::deadline_ms`].
    pub deadline_ms: u32,
}

impl<'a> Open<'a> {
    /// Appends the body. On error nothing is appended.
    ///
    /// # Errors
    /// A name longer than [`MAX_NAME_LENGTH`].
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        check_length(self.app.as_bytes(), MAX_NAME_LENGTH, "app")?;
        check_length(self.origin.as_bytes(), MAX_NAME_LENGTH, "origin")?;
        out.extend_from_slice(&[VERSION, self.protocol as u8, 0]);
        out.extend_from_slice(&self.flow.0.to_be_bytes());
        put_short_text(out, self.app, "app")?;
        put_short_text(out, self.origin, "origin")?;
        address::encode(self.client, out);
        address::encode(self.listener, out);
        out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        Ok(())
    }

    /// Length of the body, in bytes.
    pub fn encoded_length(&self) -> usize {
        let address_length = |a: SocketAddr| if a.is_ipv4() { 7 } else { address::MAX_ADDRESS_LENGTH };
        3 + 8
            + (1 + self.app.len())
            + (1 + self.origin.len())
            + address_length(self.client)
            + address_length(self.listener)
            + 4
    }

    /// Reads a body that fills `body` exactly.
    ///
    /// # Errors
    /// Another version, unknown protocol, flags, an empty or non-UTF-8 name, a bad address, too few or too many bytes.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        reader.expect_u8(VERSION, "open version")?;
        let protocol = match reader.u8("open protocol")? {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return Err(Malformed { what: "open protocol" }),
        };
        reader.expect_u8(0, "open flags")?;
        let flow = FlowId(reader.u64("open flow id")?);
        let app = not_empty(reader.short_text("open app")?, "open app")?;
        let origin = not_empty(reader.short_text("open origin")?, "open origin")?;
        let client = address::read(&mut reader, "open client address")?;
        let listener = address::read(&mut reader, "open listener address")?;
        let deadline_ms = reader.u32("open deadline")?;
        reader.expect_end("open length")?;
        Ok(Self { protocol, flow, app, origin, client, listener, deadline_ms })
    }

    /// A copy of its own.
    pub fn to_owned(&self) -> OpenOwned {
        OpenOwned {
            protocol: self.protocol,
            flow: self.flow,
            app: self.app.to_owned(),
            origin: self.origin.to_owned(),
            client: self.client,
            listener: self.listener,
            deadline_ms: self.deadline_ms,
        }
    }
}

impl OpenOwned {
    /// A view for encoding.
    pub fn as_open(&self) -> Open<'_> {
        Open {
            protocol: self.protocol,
            flow: self.flow,
            app: &self.app,
            origin: &self.origin,
            client: self.client,
            listener: self.listener,
            deadline_ms: self.deadline_ms,
        }
    }
}

fn not_empty<'a>(text: &'a str, what: &'static str) -> Result<&'a str, Malformed> {
    if text.is_empty() { Err(Malformed { what }) } else { Ok(text) }
}
