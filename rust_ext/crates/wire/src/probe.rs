//! Probe packets (section 7): 48 bytes over one link, 48 bytes back over the exact reverse link.
//! When links are probed and what the answers mean is `proto::probe`.

use crate::DropReason;
use crate::classify::TYPE_PROBE;
use crate::ids::LinkId;
use crate::keys::{Epoch, ProbeKey, TAG_LENGTH};

/// Length of requests and replies alike, in bytes: a reply is never larger than what asked for it.
pub const PROBE_LENGTH: usize = 48;

const COVERED_LENGTH: usize = PROBE_LENGTH - TAG_LENGTH;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// What asks: sent over the link that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// The link that is measured.
    pub link: LinkId,
    /// Counts the requests on this link, by one.
    pub sequence: u32,
    /// When it was sent, in ns of the prober's wall clock.
    pub sent_ns: u64,
}

/// What answers. Its first three fields are the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReply {
    /// The request that is answered.
    pub request: ProbeRequest,
    /// Requests that the responder has received on this link so far, modulo 2³².
    pub received_count: u32,
    /// When the request came, in ns of the responder's wall clock.
    pub received_ns: u64,
    /// Between the request's coming and the reply's going, in ns.
    pub residence_ns: u64,
}

/// A probe packet's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Kind 1.
    Request(ProbeRequest),
    /// Kind 2.
    Reply(ProbeReply),
}

/// A probe whose tag has not been checked yet.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedProbe<'a> {
    /// What it claims.
    pub probe: Probe,
    /// Of the key the tag was made with.
    pub epoch: Epoch,
    covered: &'a [u8; COVERED_LENGTH],
    tag: [u8; TAG_LENGTH],
}

impl UnverifiedProbe<'_> {
    /// Whether the tag was made with `key`.
    pub fn verify(&self, key: &ProbeKey) -> bool {
        key.verify(&[self.covered], self.tag)
    }
}

impl Probe {
    /// The link that is measured.
    pub const fn link(&self) -> LinkId {
        match self {
            Self::Request(request) => request.link,
            Self::Reply(reply) => reply.request.link,
        }
    }

    /// Writes the packet with its tag.
    pub fn encode(&self, key: &ProbeKey, epoch: Epoch) -> [u8; PROBE_LENGTH] {
        let mut bytes = [0; PROBE_LENGTH];
        let (kind, request) = match self {
            Self::Request(request) => (REQUEST, request),
            Self::Reply(reply) => {
                bytes[12..16].copy_from_slice(&reply.received_count.to_be_bytes());
                bytes[24..32].copy_from_slice(&reply.received_ns.to_be_bytes());
                bytes[32..40].copy_from_slice(&reply.residence_ns.to_be_bytes());
                (REPLY, &reply.request)
            }
        };
        bytes[..4].copy_from_slice(&[TYPE_PROBE, kind, 0, epoch.get() << 4]);
        bytes[4..8].copy_from_slice(&request.link.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&request.sequence.to_be_bytes());
        bytes[16..24].copy_from_slice(&request.sent_ns.to_be_bytes());
        let tag = key.tag(&[&bytes[..COVERED_LENGTH]]);
        bytes[COVERED_LENGTH..].copy_from_slice(&tag);
        bytes
    }

    /// Reads a packet whose first byte is 0x0b.
    ///
    /// # Errors
    /// `probe_truncated` (not 48 bytes), `probe_kind` (unknown kind, or a field set that must be 0).
    pub fn decode(packet: &[u8]) -> Result<UnverifiedProbe<'_>, DropReason> {
        let packet: &[u8; PROBE_LENGTH] = packet.try_into().map_err(|_| DropReason::ProbeTruncated)?;
        let Some((covered, tag)) = packet.split_first_chunk::<COVERED_LENGTH>() else {
            return Err(DropReason::ProbeTruncated);
        };
        if covered[0] != TYPE_PROBE {
            return Err(DropReason::UnknownType);
        }
        if covered[2] != 0 || covered[3] & 0x0f != 0 {
            return Err(DropReason::ProbeKind);
        }
        let [long_0, long_1, long_2] = [16, 24, 32].map(|at| u64::from_be_bytes(field(covered, at)));
        let [short_0, short_1, short_2] = [4, 8, 12].map(|at| u32::from_be_bytes(field(covered, at)));
        let request = ProbeRequest { link: LinkId(short_0), sequence: short_1, sent_ns: long_0 };
        let probe = match covered[1] {
            REQUEST if (short_2, long_1, long_2) == (0, 0, 0) => Self::Request(request),
            REPLY => Self::Reply(ProbeReply {
                request,
                received_count: short_2,
                received_ns: long_1,
                residence_ns: long_2,
            }),
            _ => return Err(DropReason::ProbeKind),
        };
        let tag = <[u8; TAG_LENGTH]>::try_from(tag).map_err(|_| DropReason::ProbeTruncated)?;
        Ok(UnverifiedProbe { probe, epoch: Epoch::new(covered[3] >> 4), covered, tag })
    }
}

/// `N` bytes of the fixed part, from a place that lies inside it.
fn field<const N: usize>(covered: &[u8; COVERED_LENGTH], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&covered[at..at + N]);
    bytes
}
