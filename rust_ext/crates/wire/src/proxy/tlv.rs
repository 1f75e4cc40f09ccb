//! What may follow the addresses of a binary header: `type (1) · length (2) · value`, one after the other, up to the header's end.
//!
//! Values are the sender's words and may be anything: they are handed on as bytes, never as text.

use super::{Rejected, crc32c};
use crate::EncodeError;
use crate::reader::{check_length, put_long_bytes};

/// The application protocol, as in ALPN.
pub const ALPN: u8 = 0x01;
/// The host name that the client asked for, as in SNI.
pub const AUTHORITY: u8 = 0x02;
/// Checksum over the whole header, taken while this field is zero.
pub const CRC32C: u8 = 0x03;
/// Padding.
pub const NOOP: u8 = 0x04;
/// An id of the flow, of at most [`MAX_UNIQUE_ID`] bytes.
pub const UNIQUE_ID: u8 = 0x05;
/// What is known of the client's TLS: `client (1) · verify (4)`, then TLVs of its own, which are read past.
pub const SSL: u8 = 0x20;
/// Name of the network namespace.
pub const NETNS: u8 = 0x30;
/// Name of the app that the client came to: of the range that everybody may use as he likes, 0xE0 to 0xEF.
pub const APP: u8 = 0xe0;

/// The longest unique id, in bytes.
pub const MAX_UNIQUE_ID: usize = 128;

/// A checksum, in bytes.
pub(super) const CHECKSUM_LENGTH: usize = 4;

/// Type and length.
const HEAD_LENGTH: usize = 3;

/// The fixed part of [`SSL`]; packed, without padding.
const SSL_FIXED_LENGTH: usize = 5;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// What it is.
    pub kind: u8,
    /// Its bytes.
    pub value: &'a [u8],
}

impl<'a> Tlv<'a> {
    /// The first of `bytes`, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[kind, high, low], rest) = bytes.split_first_chunk::<HEAD_LENGTH>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        Some((Self { kind, value }, rest))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.kind == UNIQUE_ID {
            check_length(self.value, MAX_UNIQUE_ID, "unique id")?;
        }
        out.push(self.kind);
        put_long_bytes(out, self.value, "TLV")
    }

    /// Whether the value can be what its type says.
    const fn is_sound(&self) -> bool {
        match self.kind {
            CRC32C => self.value.len() == CHECKSUM_LENGTH,
            UNIQUE_ID => self.value.len() <= MAX_UNIQUE_ID,
            SSL => self.value.len() >= SSL_FIXED_LENGTH,
            _ => true,
        }
    }
}

pub(super) fn put_empty_checksum(out: &mut Vec<u8>) {
    out.extend_from_slice(&[CRC32C, 0, CHECKSUM_LENGTH as u8]);
    out.extend_from_slice(&[0; CHECKSUM_LENGTH]);
}

/// The TLVs of one header, which were checked when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// There are none.
    pub const NONE: Self = Self(&[]);

    /// Check the TLVs in `rest`, the end of the header `whole`: each within it, each sound, the checksum right, and at most one.
    pub(super) fn check(whole: &'a [u8], rest: &'a [u8]) -> Result<Self, Rejected> {
        let mut left = rest;
        let mut checksum = None;
        while !left.is_empty() {
            let (tlv, after) = Tlv::split(left).ok_or(Rejected::Tlv)?;
            if !tlv.is_sound() || (tlv.kind == CRC32C && checksum.is_some()) {
                return Err(Rejected::Tlv);
            }
            if tlv.kind == CRC32C {
                checksum = Some(tlv.value).zip(Some(whole.len() - after.len()));
            }
            left = after;
        }
        if let Some((sum, end)) = checksum {
            let parts = [&whole[..end - CHECKSUM_LENGTH], &[0; CHECKSUM_LENGTH], &whole[end..]];
            if crc32c::of(&parts).to_be_bytes() != *sum {
                return Err(Rejected::Checksum);
            }
        }
        Ok(Self(rest))
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Tlv<'a>> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let (tlv, after) = Tlv::split(left)?;
            left = after;
            Some(tlv)
        })
    }

    /// The value of the first of a type.
    pub fn find(self, kind: u8) -> Option<&'a [u8]> {
        self.iter().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }
}
