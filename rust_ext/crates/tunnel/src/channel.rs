//! The datagram channel of one connection: sealing bundles of frames, opening packets of the peer.
//!
//! Keys come from the connection's TLS exporter, one per direction; the nonce is a counter that is never reused. A
//! connection belongs to one worker, so there is one counter and one replay window. Rekeying is by a new connection, which follows this one.

use std::collections::VecDeque;

use bytes::Bytes;
use noq_proto::Side;
use zeroize::Zeroizing;

use l4proxy_wire::DropReason as WireDrop;
use l4proxy_wire::channel::{AEAD_TAG_LENGTH, CHANNEL_HEADER_LENGTH, ChannelHeader};
use l4proxy_wire::ids::ChannelId;

use crate::cipher::{DIRECTION_LEN, OpenKey, SealKey};
use crate::error::DropReason;
use crate::options::{MAX_PACKET, MIN_PACKET};
use crate::replay::ReplayWindow;

/// The exporter's label for the channel's keys.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-l4proxy-datagram-v1";

/// What the exporter gives: a key and an IV for each direction.
pub(crate) const EXPORTED_LEN: usize = 2 * DIRECTION_LEN;

/// What a packet of the channel has besides its frames.
const OVERHEAD: usize = CHANNEL_HEADER_LENGTH + AEAD_TAG_LENGTH;

/// Packets held for a connection whose peer has not said its channel id yet.
pub(crate) const MAX_HELD: usize = 64;

/// Sealed packets that wait for transmission. A worker polls after every input, so more than one burst of the largest
/// datagrams means that it does not.
pub(crate) const MAX_SEALED: usize = 4096;

/// How much the keys of one channel are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wear {
    /// Either direction has seen so many packets: a successor is due.
    pub(crate) worn_at: u64,
    /// A direction seals no more than this.
    pub(crate) most: u64,
}

/// Both directions' keys, and what was seen of the peer's packets.
pub(crate) struct ChannelKeys {
    /// `None`: the channel is left for its successor.
    seal: Option<SealKey>,
    open: OpenKey,
    replay: ReplayWindow,
    /// `None`: it was said that the keys are worn.
    worn_at: Option<u64>,
}

impl ChannelKeys {
    /// Splits what the exporter gave, as seen from `side`.
    pub(crate) fn new(exported: &Zeroizing<[u8; EXPORTED_LEN]>, side: Side, wear: Wear) -> Self {
        let (from_client, rest) = exported.split_first_chunk().expect("it has two directions");
        let from_server = rest.first_chunk().expect("it has two directions");
        let (send, receive) = match side {
            Side::Client => (from_client, from_server),
            Side::Server => (from_server, from_client),
        };
        Self {
            seal: Some(SealKey::new(send, wear.most)),
            open: OpenKey::new(receive),
            replay: ReplayWindow::new(),
            worn_at: Some(wear.worn_at),
        }
    }

    /// Seals a packet in place: `packet` is room for the header, then the frames; the tag is appended.
    pub(crate) fn seal(
        &mut self,
        packet: &mut Vec<u8>,
        worker: u8,
        channel: ChannelId,
    ) -> Result<(), DropReason> {
        let key = self.seal.as_mut().ok_or(DropReason::ChannelExhausted)?;
        let number = key.take_number()?;
        let header = ChannelHeader { worker, channel, counter: number.number() }.encode();
        let (space, frames) = packet.split_at_mut(CHANNEL_HEADER_LENGTH);
        space.copy_from_slice(&header);
        let tag = key.seal(number, &header, frames);
        packet.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Nothing is sealed from here on; the key is erased.
    pub(crate) fn retire(&mut self) {
        (self.seal, self.worn_at) = (None, None);
    }

    /// Whether nothing is sealed any more.
    pub(crate) const fn is_retired(&self) -> bool {
        self.seal.is_none()
    }

    /// Whether the keys have been used so much that a successor is due; said once.
    pub(crate) fn take_worn(&mut self) -> bool {
        let sealed = self.seal.as_ref().map_or(0, SealKey::used);
        self.worn_at.take_if(|worn_at| sealed.max(self.replay.next()) >= *worn_at).is_some()
    }

    /// As after 2⁶⁴ packets.
    #[cfg(test)]
    pub(crate) fn exhaust(&mut self) {
        self.seal = Some(SealKey::new(&[0; DIRECTION_LEN], 0));
    }

    /// As after so many packets that nobody has seen.
    #[cfg(test)]
    pub(crate) fn skip(&mut self, packets: u64) {
        let key = self.seal.as_mut().expect("it is not retired");
        (0..packets).for_each(|_| drop(key.take_number()));
    }

    /// Opens a packet in place and returns its frames.
    pub(crate) fn open<'d>(&mut self, counter: u64, packet: &'d mut [u8]) -> Result<&'d [u8], WireDrop> {
        self.replay.check(counter)?;
        let (header, sealed) =
            packet.split_at_mut_checked(CHANNEL_HEADER_LENGTH).ok_or(WireDrop::ChannelTruncated)?;
        let frames = self.open.open(counter, header, sealed).ok_or(WireDrop::ChannelAuth)?;
        self.replay.mark(counter);
        Ok(frames)
    }
}

/// Where a peer's packets must go, from its `HELLO`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelAddress {
    pub(crate) worker: u8,
    pub(crate) channel: ChannelId,
}

/// How the bundles of a connection leave.
pub(crate) enum Way<'k> {
    /// Not yet: the peer has not said its channel id. They are held.
    Held,
    /// Sealed, each a packet of its own.
    Sealed(&'k mut ChannelKeys, ChannelAddress),
    /// As they are: QUIC seals them.
    Quic,
}

/// What is done so that a frame arrives. Frames share packets only with others of the same kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It goes out once: by the time that its path is found dead it is worth nothing.
    Once,
    /// It goes out once more when its path turns out to be dead: see `recent`.
    #[default]
    Resent,
    /// The same, and over two paths in the first place.
    Twice,
}

/// A packet with its frames, and what is done so that it arrives.
#[derive(Default)]
struct Bundle {
    bytes: Vec<u8>,
    delivery: Delivery,
}

/// What waits to be sent on one connection's channel.
pub(crate) struct Outbox {
    /// How much the frames of one packet may fill.
    max_frames: usize,
    /// The bundle being filled: room for the header, then frames. Empty when there is none.
    bundle: Bundle,
    /// Full bundles that could not be sealed yet.
    held: VecDeque<Bundle>,
    /// Packets ready to go; for QUIC, bundles that are not sealed.
    ready: VecDeque<Bundle>,
    /// What QUIC takes in one of its frames; none: it is not asked.
    quic_limit: Option<usize>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    next_fragment_id: u32,
}

impl Default for Outbox {
    /// Empty, and with packets that pass everywhere.
    fn default() -> Self {
        Self {
            max_frames: MIN_PACKET - OVERHEAD,
            bundle: Bundle::default(),
            held: VecDeque::new(),
            ready: VecDeque::new(),
            quic_limit: None,
            spare: Vec::new(),
            next_fragment_id: 0,
        }
    }
}

impl Outbox {
    /// How much the frames of one packet may fill.
    pub(crate) fn max_frames(&self) -> usize {
        self.quic_limit.map_or(self.max_frames, |limit| limit.min(self.max_frames))
    }

    /// QUIC carries the frames, up to `limit` bytes at a time.
    pub(crate) fn give_to_quic(&mut self, limit: usize) {
        self.quic_limit = Some(limit);
    }

    /// Whether QUIC carries the frames.
    pub(crate) const fn is_for_quic(&self) -> bool {
        self.quic_limit.is_some()
    }

    /// Packets of at most `size` bytes pass from now on; what is outside the bounds of this crate is brought to the nearer one.
    pub(crate) fn set_max_packet(&mut self, size: usize) {
        self.max_frames = size.clamp(MIN_PACKET, MAX_PACKET) - OVERHEAD;
    }

    pub(crate) fn next_fragment_id(&mut self) -> u32 {
        self.next_fragment_id = self.next_fragment_id.wrapping_add(1);
        self.next_fragment_id
    }

    /// Appends one encoded frame of at most [`Self::max_frames`] bytes; the bundle goes on its way first if it would overflow, or if its frames
    /// are delivered in another way.
    pub(crate) fn push(&mut self, frame: &[u8], delivery: Delivery, way: Way<'_>) -> Result<(), DropReason> {
        let mut outcome = Ok(());
        let length = self.bundle.bytes.len();
        let overflows = length + frame.len() > CHANNEL_HEADER_LENGTH + self.max_frames();
        if length > 0 && (overflows || self.bundle.delivery != delivery) {
            outcome = self.close_bundle(way);
        }
        if self.bundle.bytes.is_empty() {
            let mut bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(MAX_PACKET));
            bytes.clear();
            bytes.resize(CHANNEL_HEADER_LENGTH, 0);
            self.bundle = Bundle { bytes, delivery };
        }
        self.bundle.bytes.extend_from_slice(frame);
        outcome
    }

    fn close_bundle(&mut self, way: Way<'_>) -> Result<(), DropReason> {
        let mut bundle = std::mem::take(&mut self.bundle);
        let (queue, most, full) = match way {
            Way::Held => (&mut self.held, MAX_HELD, DropReason::ChannelHeldFull),
            Way::Sealed(..) | Way::Quic => (&mut self.ready, MAX_SEALED, DropReason::ChannelQueueFull),
        };
        if queue.len() >= most {
            self.recycle(bundle.bytes);
            return Err(full);
        }
        if let Way::Sealed(keys, address) = way {
            keys.seal(&mut bundle.bytes, address.worker, address.channel)?;
        }
        queue.push_back(bundle);
        Ok(())
    }

    /// No more frames come: what waits is sealed.
    pub(crate) fn close(
        &mut self,
        keys: &mut ChannelKeys,
        address: ChannelAddress,
    ) -> Result<(), DropReason> {
        if self.bundle.bytes.is_empty() { Ok(()) } else { self.close_bundle(Way::Sealed(keys, address)) }
    }

    /// The peer is known: what was held goes first.
    pub(crate) fn release_held(&mut self, mut way: Way<'_>) -> Result<(), DropReason> {
        while let Some(mut bundle) = self.held.pop_front() {
            // They are fewer than may be ready.
            if let Way::Sealed(keys, address) = &mut way {
                keys.seal(&mut bundle.bytes, address.worker, address.channel)?;
            }
            self.ready.push_back(bundle);
        }
        Ok(())
    }

    /// The frames of the next bundle, for QUIC to carry.
    pub(crate) fn poll_frames(&mut self) -> Option<Bytes> {
        let bundle = self.ready.pop_front().or_else(|| {
            let bundle = std::mem::take(&mut self.bundle);
            (!bundle.bytes.is_empty()).then_some(bundle)
        })?;
        let frames = Bytes::copy_from_slice(&bundle.bytes[CHANNEL_HEADER_LENGTH..]);
        self.recycle(bundle.bytes);
        Some(frames)
    }

    /// The next packet, written to the end of `buf`; what is done so that it arrives.
    pub(crate) fn poll_packet(
        &mut self,
        keys: &mut ChannelKeys,
        address: ChannelAddress,
        buf: &mut Vec<u8>,
    ) -> Result<Option<Delivery>, DropReason> {
        if let Some(packet) = self.ready.pop_front() {
            buf.extend_from_slice(&packet.bytes);
            self.recycle(packet.bytes);
            return Ok(Some(packet.delivery));
        }
        if self.bundle.bytes.is_empty() {
            return Ok(None);
        }
        let mut packet = std::mem::take(&mut self.bundle);
        let outcome = keys.seal(&mut packet.bytes, address.worker, address.channel);
        buf.extend_from_slice(&packet.bytes);
        self.recycle(packet.bytes);
        outcome.map(|()| Some(packet.delivery))
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        /// Enough for one burst; the rest goes back to the allocator.
        const MAX_SPARE: usize = 64;
        if self.spare.len() < MAX_SPARE {
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../../docs/protocol.md");

    fn vector(name: &str) -> Vec<u8> {
        let hex =
            PAGE.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).expect("a vector");
        let pairs = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
        pairs.map(|pair| byte(pair).expect("hexadecimal")).collect()
    }

    /// Both ends of a channel whose client sends under the key and IV of the page; the other direction has others.
    fn ends() -> [ChannelKeys; 2] {
        let mut exported = Zeroizing::new([0; EXPORTED_LEN]);
        for (place, byte) in exported[..EXPORTED_LEN / 2].iter_mut().enumerate() {
            *byte = 0xa0 + place as u8;
        }
        [Side::Client, Side::Server]
            .map(|side| ChannelKeys::new(&exported, side, Wear { worn_at: 10, most: 1 << 50 }))
    }

    #[test]
    fn the_packet_on_the_page_is_the_one_that_is_sealed_here_and_opens() {
        const COUNTER: u64 = 0x0102_0304_0506;
        let frames = [vector("frame_data"), vector("frame_bound_datagram_marked")].concat();
        let [mut client, mut server] = ends();
        client.seal.as_mut().unwrap().skip_to(COUNTER);
        let mut packet = [&[0; CHANNEL_HEADER_LENGTH][..], &frames].concat();
        client.seal(&mut packet, 3, ChannelId(0x0a0b_0c0d)).unwrap();
        assert_eq!(packet, vector("sealed_packet"));
        assert_eq!(server.open(COUNTER, &mut packet), Ok(&frames[..]));
        let mut again = vector("sealed_packet");
        assert_eq!(server.open(COUNTER, &mut again), Err(WireDrop::ChannelReplayed));
    }
}
