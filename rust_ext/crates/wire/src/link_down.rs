//! LINK_DOWN (section 8): a PoP tells a neighbour that packets with these labels do not arrive at present.
//! When it is said, who passes it on and who believes it is `proto::link_down`.

use crate::classify::TYPE_LINK_DOWN;
use crate::ids::{Label, PopId};
use crate::keys::{Epoch, ProbeKey, TAG_LENGTH};
use crate::outer::{Labels, MAX_LABELS};
use crate::{DropReason, VERSION};

const FIXED_LENGTH: usize = 16;
const LABEL_LENGTH: usize = 4;

/// The longest packet, in bytes.
pub const MAX_LINK_DOWN_LENGTH: usize = FIXED_LENGTH + MAX_LABELS * LABEL_LENGTH + TAG_LENGTH;

/// What a LINK_DOWN says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkDown {
    /// Who says it: the PoP at the end of a link of the receiver.
    pub source: PopId,
    /// Higher than that of every one before from this sender to this receiver under this key.
    pub number: u64,
    /// What the receiver's packets to the sender begin their labels with when they do not arrive: the sender's own label first, that of
    /// the link that is down last.
    pub labels: Labels,
}

/// A LINK_DOWN whose tag has not been checked yet.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedLinkDown<'a> {
    /// What it claims.
    pub link_down: LinkDown,
    /// Of the key the tag was made with.
    pub epoch: Epoch,
    covered: &'a [u8],
    tag: [u8; TAG_LENGTH],
}

impl UnverifiedLinkDown<'_> {
    /// Whether the tag was made with `key`.
    pub fn verify(&self, key: &ProbeKey) -> bool {
        key.verify(&[self.covered], self.tag)
    }
}

/// An encoded LINK_DOWN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkDownBytes {
    bytes: [u8; MAX_LINK_DOWN_LENGTH],
    length: u8,
}

impl LinkDownBytes {
    /// The packet.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl LinkDown {
    /// Writes the packet with its tag.
    pub fn encode(&self, key: &ProbeKey, epoch: Epoch) -> LinkDownBytes {
        let labels = self.labels.as_slice();
        let mut bytes = [0; MAX_LINK_DOWN_LENGTH];
        bytes[..4].copy_from_slice(&[TYPE_LINK_DOWN, VERSION, 0, epoch.get() << 4 | labels.len() as u8]);
        bytes[4..8].copy_from_slice(&self.source.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        let places = bytes[FIXED_LENGTH..].as_chunks_mut::<LABEL_LENGTH>().0;
        for (place, label) in places.iter_mut().zip(labels) {
            *place = label.0.to_be_bytes();
        }
        let covered = FIXED_LENGTH + labels.len() * LABEL_LENGTH;
        let tag = key.tag(&[&bytes[..covered]]);
        bytes[covered..covered + TAG_LENGTH].copy_from_slice(&tag);
        LinkDownBytes { bytes, length: (covered + TAG_LENGTH) as u8 }
    }

    /// Reads a packet whose first byte is 0x0c.
    ///
    /// # Errors
    /// `link_down_truncated` (not exactly as long as its label count says), `link_down_version` (another version, a reserved byte set, no label
    /// or more than three).
    pub fn decode(packet: &[u8]) -> Result<UnverifiedLinkDown<'_>, DropReason> {
        let Some(fixed) = packet.first_chunk::<FIXED_LENGTH>() else {
            return Err(DropReason::LinkDownTruncated);
        };
        if fixed[0] != TYPE_LINK_DOWN {
            return Err(DropReason::UnknownType);
        }
        let count = usize::from(fixed[3] & 0x0f);
        if fixed[1] != VERSION || fixed[2] != 0 || count == 0 || count > MAX_LABELS {
            return Err(DropReason::LinkDownVersion);
        }
        if packet.len() != FIXED_LENGTH + count * LABEL_LENGTH + TAG_LENGTH {
            return Err(DropReason::LinkDownTruncated);
        }
        let (covered, tag) = packet.split_last_chunk::<TAG_LENGTH>().ok_or(DropReason::LinkDownTruncated)?;
        let mut labels = [Label(0); MAX_LABELS];
        let places = covered[FIXED_LENGTH..].as_chunks::<LABEL_LENGTH>().0;
        for (label, place) in labels.iter_mut().zip(places) {
            *label = Label(u32::from_be_bytes(*place));
        }
        let labels = Labels::new(&labels[..count]).ok_or(DropReason::LinkDownVersion)?;
        let [_, source, high, low] = *fixed.as_chunks::<4>().0 else {
            return Err(DropReason::LinkDownTruncated);
        };
        let number = u64::from(u32::from_be_bytes(high)) << 32 | u64::from(u32::from_be_bytes(low));
        let link_down = Self { source: PopId(u32::from_be_bytes(source)), number, labels };
        Ok(UnverifiedLinkDown { link_down, epoch: Epoch::new(fixed[3] >> 4), covered, tag: *tag })
    }
}
