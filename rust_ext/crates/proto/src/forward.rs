//! What happens to a packet with an outer header: forward, deliver, or drop with a reason (`docs/protocol.md` section 2).
//!
//! A transit PoP keeps no state about flows: a label, two keys and the packet itself are all it looks at, and nothing is
//! allocated. Holding a hop key is the right to pass; who may use how much is accounted per previous hop, elsewhere.
//! Links that are down are not known here: the sources' hellos notice that, and `link_down` tells them.

use l4proxy_wire::DropReason;
use l4proxy_wire::classify::{TYPE_LINK_DOWN, TYPE_OUTER, TYPE_PROBE};
use l4proxy_wire::ids::{Label, LinkId, PopId};
use l4proxy_wire::keys::HopKey;
use l4proxy_wire::outer::{self, Labels, OuterBytes, OuterHeader};
use thiserror::Error;

use crate::keys::{KeyFailure, KeyTable, SendKey};

#[cfg(test)]
mod tests;

/// The keys of outer headers, by neighbour.
pub type HopKeys = KeyTable<HopKey>;

/// What a label of this PoP stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// One of this PoP's outgoing links.
    pub link: LinkId,
    /// The PoP at its other end.
    pub next: PopId,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The header has been rewritten in place: send the whole packet over `link`.
    Forward {
        /// Over this link,
        link: LinkId,
        /// to this PoP.
        next: PopId,
    },
    /// The packet has arrived: handle what begins at byte `inner` as a packet of `source`.
    Deliver {
        /// Where it set out. Claimed by the previous hop; the inner packet authenticates itself.
        source: PopId,
        /// Length of the outer header, in bytes.
        inner: usize,
    },
    /// Count the reason and forget the packet.
    Drop(DropReason),
}

/// Labels that cannot be in one table: a fault of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// Zero is not a label.
    #[error("link {0} has label 0")]
    Zero(LinkId),
    /// A label must tell one link.
    #[error("label {0} is given twice")]
    Twice(Label),
}

/// The labels of this PoP.
#[derive(Clone, Debug)]
pub struct ForwardTable {
    own: PopId,
    /// Sorted by label. A PoP has tens of links: a binary search in one cache-friendly array beats hashing.
    labels: Box<[(Label, Outgoing)]>,
}

impl ForwardTable {
    /// Builds the table of PoP `own`.
    ///
    /// # Errors
    /// Label 0, or one label for two links.
    pub fn new(own: PopId, labels: impl IntoIterator<Item = (Label, Outgoing)>) -> Result<Self, TableError> {
        let mut labels: Box<[_]> = labels.into_iter().collect();
        labels.sort_unstable_by_key(|&(label, _)| label);
        if let Some(&(Label(0), outgoing)) = labels.first() {
            return Err(TableError::Zero(outgoing.link));
        }
        match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(TableError::Twice(pair[0].0)),
            None => Ok(Self { own, labels }),
        }
    }

    /// Decides about one packet whose first byte is 0x08 and that came from the address of neighbour `previous`.
    /// Only [`Verdict::Forward`] changes the packet.
    pub fn handle_outer(&self, packet: &mut [u8], previous: PopId, keys: &HopKeys) -> Verdict {
        match self.decide(packet, previous, keys) {
            Ok(verdict) => verdict,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn decide(&self, packet: &mut [u8], previous: PopId, keys: &HopKeys) -> Result<Verdict, DropReason> {
        let header = OuterHeader::parse(packet)?;
        keys.verify(previous, header.epoch, |key| outer::verify_tag(packet, &header, key)).map_err(
            |failure| match failure {
                KeyFailure::NoKey => DropReason::OuterNoKey,
                KeyFailure::WrongTag => DropReason::OuterTag,
            },
        )?;
        if matches!(packet.get(header.length()), Some(&(TYPE_OUTER | TYPE_PROBE | TYPE_LINK_DOWN))) {
            return Err(DropReason::OuterNested);
        }
        self.refuse_return(&header)?;
        if header.is_at_destination() {
            return Ok(Verdict::Deliver { source: header.source, inner: header.length() });
        }
        let label = header.labels.as_slice()[usize::from(header.pointer)];
        let outgoing = self.find(label).ok_or(DropReason::OuterUnknownLabel)?;
        if [previous, header.source, self.own].contains(&outgoing.next) {
            return Err(DropReason::OuterLoop);
        }
        let send = keys.find_send(outgoing.next).ok_or(DropReason::OuterNoKey)?;
        outer::advance(packet, &header, &send.key, send.epoch);
        Ok(Verdict::Forward { link: outgoing.link, next: outgoing.next })
    }

    /// Refuses a packet that set out here, or whose route passes here before or after.
    fn refuse_return(&self, header: &OuterHeader) -> Result<(), DropReason> {
        let passes_elsewhere = header
            .labels
            .as_slice()
            .iter()
            .enumerate()
            .any(|(place, &label)| place != usize::from(header.pointer) && self.find(label).is_some());
        if header.source == self.own || passes_elsewhere { Err(DropReason::OuterLoop) } else { Ok(()) }
    }

    fn find(&self, label: Label) -> Option<Outgoing> {
        let place = self.labels.binary_search_by_key(&label, |&(label, _)| label).ok()?;
        Some(self.labels[place].1)
    }
}

/// The header that PoP `own` puts before a packet for a path with transit PoPs.
///
/// `labels` are those of the links after the first, `worker` is the worker byte of the packet's receiver, `first_hop` the key
/// with the PoP at the end of the first link.
pub fn wrap(own: PopId, labels: Labels, worker: u8, first_hop: &SendKey<HopKey>) -> OuterBytes {
    let header = OuterHeader { pointer: 0, worker, epoch: first_hop.epoch, source: own, labels };
    header.encode(&first_hop.key)
}
