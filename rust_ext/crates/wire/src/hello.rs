//! Hello packets (section 6): "I am here, over this path, and this is what I have heard of yours."
//! When they are sent and what follows from them is `proto::liveness`.

use crate::classify::TYPE_HELLO;
use crate::ids::{PathId, PopId};
use crate::keys::{Epoch, ProbeKey, TAG_LENGTH};
use crate::reader::Reader;
use crate::{DropReason, Malformed, VERSION};

/// Reports in one hello, at most.
pub const MAX_REPORTS: usize = 4;

const FIXED_LENGTH: usize = 24;
const REPORT_LENGTH: usize = 16;

/// In the report count's half byte: zeros stand between the reports and the tag, so that the packet is as long as a full one.
const PADDED: u8 = 0x08;

/// The longest hello without padding, in bytes.
pub const MAX_HELLO_LENGTH: usize = FIXED_LENGTH + MAX_REPORTS * REPORT_LENGTH + TAG_LENGTH;

/// What the sender of a hello has heard over one path of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The receiver's path.
    pub path: PathId,
    /// The newest sequence heard on it.
    pub sequence: u32,
    /// Bit *i*: `sequence − i` was heard. Bit 0 is always set.
    pub heard: u32,
    /// How long the sender has listened since that newest one came, in µs.
    pub age_us: u32,
}

/// Up to four reports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reports {
    reports: [Report; MAX_REPORTS],
    count: u8,
}

impl Reports {
    /// None yet.
    pub const EMPTY: Self = Self {
        reports: [Report { path: PathId(0), sequence: 0, heard: 0, age_us: 0 }; MAX_REPORTS],
        count: 0,
    };

    /// Adds one; `false` when there are four already.
    pub fn push(&mut self, report: Report) -> bool {
        let Some(place) = self.reports.get_mut(usize::from(self.count)) else { return false };
        *place = report;
        self.count += 1;
        true
    }

    /// Those added so far.
    pub fn as_slice(&self) -> &[Report] {
        &self.reports[..usize::from(self.count)]
    }
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// The contents of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who sent it.
    pub source: PopId,
    /// The path it was sent over.
    pub path: PathId,
    /// Counts the hellos of this path, by one.
    pub sequence: u32,
    /// When it was sent, in µs of the sender's monotonic clock.
    pub sent_us: u64,
    /// What the sender has heard over paths of the receiver.
    pub reports: Reports,
}

/// A hello whose tag has not been checked yet.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedHello<'a> {
    /// What it claims.
    pub hello: Hello,
    /// Of the key the tag was made with.
    pub epoch: Epoch,
    covered: &'a [u8],
    tag: [u8; TAG_LENGTH],
}

impl UnverifiedHello<'_> {
    /// Whether the tag was made with `key`.
    pub fn verify(&self, key: &ProbeKey) -> bool {
        key.verify(&[self.covered], self.tag)
    }
}

/// An encoded hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloBytes {
    bytes: [u8; MAX_HELLO_LENGTH],
    length: u8,
}

impl HelloBytes {
    /// The packet.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Hello {
    /// Writes the packet with its tag.
    pub fn encode(&self, key: &ProbeKey, epoch: Epoch) -> HelloBytes {
        let mut bytes = [0; MAX_HELLO_LENGTH];
        bytes[0] = TYPE_HELLO;
        bytes[1] = VERSION;
        bytes[3] = epoch.get() << 4 | self.reports.count;
        bytes[4..8].copy_from_slice(&self.source.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.path.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sent_us.to_be_bytes());
        let places = bytes[FIXED_LENGTH..].as_chunks_mut::<REPORT_LENGTH>().0;
        for (place, report) in places.iter_mut().zip(self.reports.as_slice()) {
            place[..4].copy_from_slice(&report.path.0.to_be_bytes());
            place[4..8].copy_from_slice(&report.sequence.to_be_bytes());
            place[8..12].copy_from_slice(&report.heard.to_be_bytes());
            place[12..].copy_from_slice(&report.age_us.to_be_bytes());
        }
        let covered = FIXED_LENGTH + usize::from(self.reports.count) * REPORT_LENGTH;
        let tag = key.tag(&[&bytes[..covered]]);
        bytes[covered..covered + TAG_LENGTH].copy_from_slice(&tag);
        HelloBytes { bytes, length: (covered + TAG_LENGTH) as u8 }
    }

    /// Writes the packet with zeros before its tag, `length` bytes in all; without them if it is longer anyway.
    pub fn encode_padded(&self, key: &ProbeKey, epoch: Epoch, length: usize) -> Vec<u8> {
        let mut bytes = self.encode(key, epoch).as_slice().to_vec();
        if length > bytes.len() {
            bytes[3] |= PADDED;
            bytes.truncate(bytes.len() - TAG_LENGTH);
            bytes.resize(length - TAG_LENGTH, 0);
            let tag = key.tag(&[&bytes]);
            bytes.extend_from_slice(&tag);
        }
        bytes
    }

    /// Reads a packet whose first byte is 0x0a.
    ///
    /// # Errors
    /// `hello_truncated` (not exactly as long as its report count says, or shorter if it is padded), `hello_version`.
    pub fn decode(packet: &[u8]) -> Result<UnverifiedHello<'_>, DropReason> {
        let Some(fixed) = packet.first_chunk::<FIXED_LENGTH>() else {
            return Err(DropReason::HelloTruncated);
        };
        if fixed[0] != TYPE_HELLO {
            return Err(DropReason::UnknownType);
        }
        let is_padded = fixed[3] & PADDED != 0;
        let count = usize::from(fixed[3] & 0x0f & !PADDED);
        if fixed[1] != VERSION || fixed[2] != 0 || count > MAX_REPORTS {
            return Err(DropReason::HelloVersion);
        }
        let covered_length = FIXED_LENGTH + count * REPORT_LENGTH;
        let least = covered_length + TAG_LENGTH;
        if if is_padded { packet.len() <= least } else { packet.len() != least } {
            return Err(DropReason::HelloTruncated);
        }
        let (covered, tag) = packet.split_last_chunk::<TAG_LENGTH>().ok_or(DropReason::HelloTruncated)?;
        let hello = read(&covered[..covered_length], count).map_err(|_| DropReason::HelloTruncated)?;
        if hello.reports.as_slice().iter().any(|report| report.heard & 1 == 0) {
            return Err(DropReason::HelloVersion);
        }
        Ok(UnverifiedHello { hello, epoch: Epoch::new(fixed[3] >> 4), covered, tag: *tag })
    }
}

fn read(covered: &[u8], count: usize) -> Result<Hello, Malformed> {
    let mut reader = Reader::new(covered);
    reader.array::<4>("hello")?;
    let source = PopId(reader.u32("source")?);
    let path = PathId(reader.u32("path")?);
    let sequence = reader.u32("sequence")?;
    let sent_us = reader.u64("sent")?;
    let mut reports = Reports::EMPTY;
    for _ in 0..count {
        reports.push(Report {
            path: PathId(reader.u32("report path")?),
            sequence: reader.u32("report sequence")?,
            heard: reader.u32("report heard")?,
            age_us: reader.u32("report age")?,
        });
    }
    Ok(Hello { source, path, sequence, sent_us, reports })
}
