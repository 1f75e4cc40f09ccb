//! What a REPAIR frame says (section 5): the exclusive or of some QUIC packets, and which they are. Encoding only: who sends them when,
//! and what is made of them, is in `tunnel`.

use crate::reader::{Reader, check_length, put_long_bytes};
use crate::{EncodeError, Malformed};

/// Packets that one repair covers, at most.
pub const MAX_COVERED: usize = 64;

/// Bytes by which a packet is named: the last ones of it, which are of its AEAD tag and so as good as random.
pub const FINGERPRINT_LENGTH: usize = 2;

/// The exclusive or of QUIC packets that were sent just before, shorter ones filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair<'a> {
    /// Of each packet, [`FINGERPRINT_LENGTH`] bytes, in the order in which they were sent.
    pub fingerprints: &'a [u8],
    /// The exclusive or of their lengths.
    pub lengths: u16,
    /// The exclusive or of their bytes; as long as the longest.
    pub bytes: &'a [u8],
}

impl<'a> Repair<'a> {
    pub(crate) fn append(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let count = self.fingerprints.len() / FINGERPRINT_LENGTH;
        let is_sound =
            self.fingerprints.len().is_multiple_of(FINGERPRINT_LENGTH) && (1..=MAX_COVERED).contains(&count);
        if !is_sound {
            return Err(EncodeError { what: "repair count", length: count, max: MAX_COVERED });
        }
        check_length(self.bytes, usize::from(u16::MAX), "repair")?;
        out.push(count as u8);
        out.extend_from_slice(self.fingerprints);
        out.extend_from_slice(&self.lengths.to_be_bytes());
        put_long_bytes(out, self.bytes, "repair")
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = usize::from(reader.u8("repair count")?);
        if !(1..=MAX_COVERED).contains(&count) {
            return Err(Malformed { what: "repair count" });
        }
        let fingerprints = reader.bytes(count * FINGERPRINT_LENGTH, "repair fingerprints")?;
        let lengths = reader.u16("repair lengths")?;
        Ok(Self { fingerprints, lengths, bytes: reader.long_bytes("repair")? })
    }
}
