//! A cursor over received bytes that refuses to read past their end. All decoders of this crate go through it,
//! so that none can index out of bounds.

use crate::Malformed;

/// What has not been read yet.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed { what })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed { what })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A byte string with its length before it in two bytes.
    pub(crate) fn long_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let length = self.u16(what)?;
        self.bytes(usize::from(length), what)
    }

    /// A UTF-8 string with its length before it in one byte.
    pub(crate) fn short_text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        let length = self.u8(what)?;
        let bytes = self.bytes(usize::from(length), what)?;
        std::str::from_utf8(bytes).map_err(|_| Malformed { what })
    }

    /// A field that has only one value in this version.
    pub(crate) fn expect_u8(&mut self, value: u8, what: &'static str) -> Result<(), Malformed> {
        if self.u8(what)? == value { Ok(()) } else { Err(Malformed { what }) }
    }

    /// The end of the body: bytes that nobody reads are a disagreement about the format.
    pub(crate) fn expect_end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed { what }) }
    }
}

/// Appends a byte string with its length before it in two bytes; writes nothing when it is too long.
pub(crate) fn put_long_bytes(
    out: &mut Vec<u8>,
    bytes: &[u8],
    what: &'static str,
) -> Result<(), crate::EncodeError> {
    let length = check_length(bytes, usize::from(u16::MAX), what)?;
    out.extend_from_slice(&(length as u16).to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a UTF-8 string with its length before it in one byte; writes nothing when it is too long.
pub(crate) fn put_short_text(
    out: &mut Vec<u8>,
    text: &str,
    what: &'static str,
) -> Result<(), crate::EncodeError> {
    let length = check_length(text.as_bytes(), usize::from(u8::MAX), what)?;
    out.push(length as u8);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The length, if it is at most `max`.
pub(crate) fn check_length(
    bytes: &[u8],
    max: usize,
    what: &'static str,
) -> Result<usize, crate::EncodeError> {
    let length = bytes.len();
    if length <= max { Ok(length) } else { Err(crate::EncodeError { what, length, max }) }
}
