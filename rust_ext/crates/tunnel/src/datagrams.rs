//! UDP flows: frames into the bundles of a connection's channel, and frames out of the packets of a peer.

use std::time::Instant;

use l4proxy_wire::DropReason as WireDrop;
use l4proxy_wire::channel::{ChannelHeader, FRAGMENT_OVERHEAD, Fragment, Frame, MAX_FRAGMENTS, frames};

use l4proxy_wire::stream::Role;

use crate::connection::{Connection, Phase};
use crate::counters::Counters;
use crate::driver::Tunnels;
use crate::error::{DropReason, SendError};
use crate::events::ConnectionKey;
use crate::fragments::Outcome;
use crate::lifecycle::channel_id;

/// The frames of one packet, and of the fragmented frames that it completed.
#[derive(Debug)]
pub struct Received<'d> {
    /// The connection it came over.
    pub connection: ConnectionKey,
    plaintext: &'d [u8],
    reassembled: Vec<Vec<u8>>,
}

impl Received<'_> {
    /// The whole frames, in order; never a fragment or repair.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        frames(self.plaintext)
            .chain(self.reassembled.iter().flat_map(|frame| frames(frame)))
            .filter(|frame| !matches!(frame, Ok(Frame::Fragment(_) | Frame::Repair(_))))
            // What cannot be decoded was counted when the packet came.
            .map_while(Result::ok)
    }
}

impl Tunnels {
    /// Takes a packet of the datagram channel, which is decrypted in place.
    ///
    /// # Errors
    /// Why it was dropped; counted already.
    pub fn handle_channel<'d>(
        &mut self,
        now: Instant,
        datagram: &'d mut [u8],
    ) -> Result<Received<'d>, DropReason> {
        let outcome = self.open_packet(now, datagram);
        if let Err(reason) = outcome {
            self.counters.drop(reason);
        }
        outcome
    }

    fn open_packet<'d>(&mut self, now: Instant, datagram: &'d mut [u8]) -> Result<Received<'d>, DropReason> {
        let header = ChannelHeader::decode(datagram)?;
        let place = usize::from(header.channel.0 as u16);
        let connection = self
            .connections
            .get_mut(place)
            .filter(|connection| channel_id(connection.key) == header.channel)
            .ok_or(WireDrop::ChannelUnknown)?;
        let keys = connection.channel_keys.as_mut().ok_or(WireDrop::ChannelUnknown)?;
        if connection.phase != Phase::Ready {
            return Err(DropReason::ChannelEarly);
        }
        if connection.role != Some(Role::Flows) {
            return Err(WireDrop::ChannelUnknown.into());
        }
        let plaintext: &'d [u8] = keys.open(header.counter, datagram)?;
        connection.channel_packets_received += 1;
        connection.last_received = Some(now);
        let mut received = Received { connection: connection.key, plaintext, reassembled: Vec::new() };
        let (peer, mut has_repair) = (connection.peer, false);
        for frame in frames(plaintext) {
            let fragment = match frame {
                Ok(Frame::Fragment(fragment)) => fragment,
                Ok(frame) => {
                    has_repair |= matches!(frame, Frame::Repair(_));
                    continue;
                }
                Err(_) => {
                    self.counters.drop(WireDrop::ChannelFrame.into());
                    break;
                }
            };
            let counters = &mut self.counters;
            match connection.reassembly.handle_fragment(now, fragment, |reason| counters.drop(reason)) {
                Outcome::Kept => {}
                Outcome::Dropped(reason) => self.counters.drop(reason),
                Outcome::Complete(frame) if is_one_whole_frame(&frame) => {
                    has_repair |= matches!(frames(&frame).next(), Some(Ok(Frame::Repair(_))));
                    received.reassembled.push(frame);
                }
                Outcome::Complete(_) => self.counters.drop(WireDrop::ChannelFrame.into()),
            }
        }
        if has_repair {
            for frame in frames(plaintext).chain(received.reassembled.iter().flat_map(|frame| frames(frame)))
            {
                let Ok(Frame::Repair(repair)) = frame else { continue };
                self.handle_repair(now, peer, repair);
            }
        }
        Ok(received)
    }

    /// Packets of the channel may be `size` bytes long from now on, without the outer header; 0 is ignored.
    pub fn set_path_mtu(&mut self, key: ConnectionKey, size: u16) {
        if let Some(index) = self.find(key).filter(|_| size > 0) {
            self.connections[usize::from(index)].outbox.set_max_packet(size.into());
        }
    }

    /// Sends a frame over a connection's channel. It shares a packet with others that come before the next
    /// `poll_transmit`, which never waits; one that is too large for a packet goes as fragments.
    ///
    /// # Errors
    /// The connection has ended, is a pair connection, or the frame cannot be encoded. A frame that meets a full queue is
    /// dropped and counted, as a network would, and is no error.
    pub fn send_frame(&mut self, key: ConnectionKey, frame: &Frame<'_>) -> Result<(), SendError> {
        self.queue_frame(key, frame, false)
    }

    /// The same for a frame whose packet is to go over two paths ([`TransmitInfo::is_twice`](crate::TransmitInfo::is_twice)); the
    /// receiver's replay window takes the copy away.
    ///
    /// # Errors
    /// As [`Self::send_frame`].
    pub fn send_frame_twice(&mut self, key: ConnectionKey, frame: &Frame<'_>) -> Result<(), SendError> {
        self.queue_frame(key, frame, true)
    }

    fn queue_frame(
        &mut self,
        key: ConnectionKey,
        frame: &Frame<'_>,
        is_twice: bool,
    ) -> Result<(), SendError> {
        let index = self.find(key).ok_or(SendError::Gone)?;
        if self.connections[usize::from(index)].role != Some(Role::Flows) {
            return Err(SendError::WrongRole);
        }
        self.scratch.clear();
        frame.encode(&mut self.scratch).map_err(|_| SendError::TooLarge)?;
        let encoded = std::mem::take(&mut self.scratch);
        let connection = &mut self.connections[usize::from(index)];
        let outcome = connection.push_encoded(&encoded, is_twice, &mut self.counters);
        self.scratch = encoded;
        self.touch(index);
        outcome
    }
}

impl Connection {
    /// Puts an encoded frame into the next packet of the channel, or into several if it is larger than one.
    ///
    /// # Errors
    /// It is larger than the most fragments that there may be.
    pub(crate) fn push_encoded(
        &mut self,
        encoded: &[u8],
        is_twice: bool,
        counters: &mut Counters,
    ) -> Result<(), SendError> {
        let max_frames = self.outbox.max_frames();
        if encoded.len() <= max_frames {
            self.push_frame(encoded, is_twice, counters);
            return Ok(());
        }
        let pieces = encoded.chunks(max_frames - FRAGMENT_OVERHEAD);
        let count = u8::try_from(pieces.len()).unwrap_or(u8::MAX);
        if count > MAX_FRAGMENTS {
            return Err(SendError::TooLarge);
        }
        let id = self.outbox.next_fragment_id();
        let mut fragment = Vec::with_capacity(max_frames);
        for (piece, bytes) in pieces.enumerate() {
            fragment.clear();
            let piece = Fragment { id, index: piece as u8, count, bytes };
            Frame::Fragment(piece).encode(&mut fragment).map_err(|_| SendError::TooLarge)?;
            self.push_frame(&fragment, is_twice, counters);
        }
        Ok(())
    }

    fn push_frame(&mut self, encoded: &[u8], is_twice: bool, counters: &mut Counters) {
        let ready = self.channel_keys.as_mut().zip(self.channel_address);
        if let Err(reason) = self.outbox.push(encoded, is_twice, ready) {
            counters.drop(reason);
        }
    }
}

/// Only DATA, OPEN_DATA, BOUND and REPAIR may come in pieces, each alone.
fn is_one_whole_frame(bytes: &[u8]) -> bool {
    let mut all = frames(bytes);
    matches!(
        (all.next(), all.next()),
        (
            Some(Ok(Frame::Data { .. } | Frame::OpenData { .. } | Frame::Bound { .. } | Frame::Repair(_))),
            None
        )
    )
}
