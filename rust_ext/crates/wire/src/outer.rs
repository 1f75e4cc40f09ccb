//! The outer header of a packet that passes transit PoPs (section 2): reading, writing, and the one change a transit makes.
//! Labels mean nothing here, and no key is looked up: `proto::forward` does both.

use crate::classify::TYPE_OUTER;
use crate::ids::{Label, PopId};
use crate::keys::{Epoch, HopKey, TAG_LENGTH};
use crate::{DropReason, VERSION};

/// Labels of one header: a path has at most four links, and the first needs none.
pub const MAX_LABELS: usize = 3;

/// The header without its labels, in bytes.
const FIXED_LENGTH: usize = 16;

/// The longest header, in bytes.
pub const MAX_OUTER_LENGTH: usize = FIXED_LENGTH + 4 * MAX_LABELS;

/// The source route: one to three labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    labels: [Label; MAX_LABELS],
    count: u8,
}

impl Labels {
    /// Takes 1..=3 labels, else `None`.
    pub fn new(labels: &[Label]) -> Option<Self> {
        if labels.is_empty() || labels.len() > MAX_LABELS {
            return None;
        }
        let mut kept = [Label(0); MAX_LABELS];
        kept[..labels.len()].copy_from_slice(labels);
        Some(Self { labels: kept, count: labels.len() as u8 })
    }

    /// The labels in the order of the path.
    pub fn as_slice(&self) -> &[Label] {
        &self.labels[..usize::from(self.count)]
    }
}

/// All of an outer header but its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeader {
    /// How many labels are used up: 0 from the source, the number of labels at the destination.
    pub pointer: u8,
    /// Worker byte of the inner packet's receiver; transits spread their load by it.
    pub worker: u8,
    /// Of the key the tag was made with.
    pub epoch: Epoch,
    /// The PoP that the inner packet is from.
    pub source: PopId,
    /// The links after the first.
    pub labels: Labels,
}

impl OuterHeader {
    /// Reads the header of a packet whose first byte is 0x08. The tag is not checked: see [`verify_tag`].
    ///
    /// # Errors
    /// `outer_truncated` (no room for the labels and one inner byte), `outer_version`, `outer_labels`.
    pub fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        let Some(fixed) = packet.first_chunk::<FIXED_LENGTH>() else {
            return Err(DropReason::OuterTruncated);
        };
        if fixed[0] != TYPE_OUTER {
            return Err(DropReason::UnknownType);
        }
        if fixed[1] >> 4 != VERSION {
            return Err(DropReason::OuterVersion);
        }
        let pointer = fixed[1] & 0x0f;
        let count = fixed[3] & 0x0f;
        if count == 0 || usize::from(count) > MAX_LABELS || pointer > count {
            return Err(DropReason::OuterLabels);
        }
        if packet.len() <= FIXED_LENGTH + 4 * usize::from(count) {
            return Err(DropReason::OuterTruncated);
        }
        let mut labels = [Label(0); MAX_LABELS];
        let written = packet[FIXED_LENGTH..].as_chunks::<4>().0;
        for (label, bytes) in labels.iter_mut().zip(written).take(usize::from(count)) {
            *label = Label(u32::from_be_bytes(*bytes));
        }
        Ok(Self {
            pointer,
            worker: fixed[2],
            epoch: Epoch::new(fixed[3] >> 4),
            source: PopId(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]])),
            labels: Labels { labels, count },
        })
    }

    /// Length of this header, in bytes: where the inner packet begins.
    pub const fn length(&self) -> usize {
        FIXED_LENGTH + 4 * self.labels.count as usize
    }

    /// Whether the packet has arrived: all labels are used up.
    pub const fn is_at_destination(&self) -> bool {
        self.pointer == self.labels.count
    }

    /// Writes the header with its tag for the next hop.
    pub fn encode(&self, key: &HopKey) -> OuterBytes {
        let mut bytes = [0; MAX_OUTER_LENGTH];
        bytes[0] = TYPE_OUTER;
        bytes[1] = VERSION << 4 | (self.pointer & 0x0f);
        bytes[2] = self.worker;
        bytes[3] = self.epoch.get() << 4 | self.labels.count;
        bytes[4..8].copy_from_slice(&self.source.0.to_be_bytes());
        for (place, label) in
            bytes[FIXED_LENGTH..].as_chunks_mut::<4>().0.iter_mut().zip(self.labels.as_slice())
        {
            *place = label.0.to_be_bytes();
        }
        let length = self.length();
        let tag = key.tag(&[&bytes[..8], &bytes[FIXED_LENGTH..length]]);
        bytes[8..FIXED_LENGTH].copy_from_slice(&tag);
        OuterBytes { bytes, length: length as u8 }
    }
}

/// An encoded header, ready to stand before an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterBytes {
    bytes: [u8; MAX_OUTER_LENGTH],
    length: u8,
}

impl OuterBytes {
    /// The header's bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Whether the tag in `packet`, of which `header` was parsed, is the one that `key` makes.
pub fn verify_tag(packet: &[u8], header: &OuterHeader, key: &HopKey) -> bool {
    let Some((covered, labels, tag)) = split(packet, header.length()) else { return false };
    key.verify(&[covered, labels], tag)
}

/// What a transit changes in place: the pointer moves on by one, epoch and tag become those of the next hop.
/// Does nothing to a packet that has arrived already.
pub fn advance(packet: &mut [u8], header: &OuterHeader, key: &HopKey, epoch: Epoch) {
    if header.is_at_destination() || packet.len() < header.length() {
        return;
    }
    packet[1] = VERSION << 4 | (header.pointer + 1);
    packet[3] = epoch.get() << 4 | header.labels.count;
    if let Some((covered, labels, _)) = split(packet, header.length()) {
        let tag = key.tag(&[covered, labels]);
        packet[8..FIXED_LENGTH].copy_from_slice(&tag);
    }
}

/// The parts of a header: what is covered before the tag, the labels, the tag.
fn split(packet: &[u8], length: usize) -> Option<(&[u8], &[u8], [u8; TAG_LENGTH])> {
    let header = packet.get(..length)?;
    let (covered, rest) = header.split_first_chunk::<8>()?;
    let (tag, labels) = rest.split_first_chunk::<TAG_LENGTH>()?;
    Some((covered, labels, *tag))
}
