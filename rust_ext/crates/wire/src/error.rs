//! Errors of this crate that are not a dropped packet.

use thiserror::Error;

/// Bytes that are not what they should be. The caller knows which packet or stream they stood in and counts that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed {what}")]
pub struct Malformed {
    /// The field that was short, out of range or unknown.
    pub what: &'static str,
}

/// A value that its encoding has no room for: a fault of this PoP, never of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} of {length} bytes does not fit, at most {max}")]
pub struct EncodeError {
    /// The field.
    pub what: &'static str,
    /// How long it is, in bytes.
    pub length: usize,
    /// How long it may be, in bytes.
    pub max: usize,
}

/// What the peer wrote to a stream breaks the protocol. The connection (control stream) or the flow ends; never retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A message type that does not belong on this stream or in this place.
    #[error("message type {kind:#04x} where {expected} was expected")]
    UnexpectedType {
        /// The type byte.
        kind: u8,
        /// What could have stood there.
        expected: &'static str,
    },
    /// A message longer than its type allows.
    #[error("message of {length} bytes, at most {max}")]
    TooLong {
        /// The announced length, in bytes.
        length: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The body cannot be decoded.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}
