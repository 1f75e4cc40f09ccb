//! UDP flows: frames into the bundles of a connection's channel, and frames out of the packets of a peer.

use std::time::Instant;

use l4proxy_wire::DropReason as WireDrop;
use l4proxy_wire::channel::{ChannelHeader, FRAGMENT_OVERHEAD, Fragment, Frame, MAX_FRAGMENTS, frames};

use l4proxy_wire::stream::Role;

use crate::channel::ChannelKeys;
use crate::connection::Phase;
use crate::driver::{Sender, Tunnels};
use crate::error::{DropReason, SendError};
use crate::events::{ConnectionKey, TunnelEvent};
use crate::fragments::Outcome;
use crate::lifecycle::channel_id;
use crate::options::MIN_PACKET;

/// The frames of one packet, and of the fragmented frames that it completed.
#[derive(Debug)]
pub struct Received<'d> {
    /// The connection it came over.
    pub connection: ConnectionKey,
    plaintext: &'d [u8],
    reassembled: Vec<Vec<u8>>,
}

impl Received<'_> {
    /// The whole frames of flows, in order; never a fragment.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        frames(self.plaintext)
            .filter(|frame| !matches!(frame, Ok(Frame::Fragment(_) | Frame::Quic { .. })))
            .chain(self.reassembled.iter().flat_map(|frame| frames(frame)))
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
        // The listening side sends as soon as it has our `HELLO`; its own may be lost on the way.
        let is_heard = connection.phase == Phase::AwaitingHello && connection.quic.side().is_client();
        if connection.phase != Phase::Ready && !is_heard {
            return Err(DropReason::ChannelEarly);
        }
        if connection.role != Some(Role::Flows) {
            return Err(WireDrop::ChannelUnknown.into());
        }
        let plaintext: &'d [u8] = keys.open(header.counter, datagram)?;
        connection.channel_packets_received += 1;
        connection.last_received = Some(now);
        if keys.take_worn() {
            self.events.push_back(TunnelEvent::ChannelWorn { key: connection.key });
        }
        let mut received = Received { connection: connection.key, plaintext, reassembled: Vec::new() };
        let peer = connection.peer;
        let mut quic_packets = Vec::new();
        for frame in frames(plaintext) {
            let fragment = match frame {
                Ok(Frame::Fragment(fragment)) => fragment,
                Ok(_) => continue,
                Err(_) => {
                    self.counters.drop(WireDrop::ChannelFrame.into());
                    break;
                }
            };
            let counters = &mut self.counters;
            match connection.reassembly.handle_fragment(now, fragment, |reason| counters.drop(reason)) {
                Outcome::Kept => {}
                Outcome::Dropped(reason) => self.counters.drop(reason),
                Outcome::Complete(frame) if quic_packet(&frame).is_some() => quic_packets.push(frame),
                Outcome::Complete(frame) if is_one_whole_frame(&frame) => received.reassembled.push(frame),
                Outcome::Complete(_) => self.counters.drop(WireDrop::ChannelFrame.into()),
            }
        }
        for (ecn_bits, packet) in quic_packets.iter().filter_map(|frame| quic_packet(frame)) {
            if let Err(reason) = self.take_quic(now, Sender::Peer(peer), packet.into(), ecn_bits) {
                self.counters.drop(reason);
            }
        }
        Ok(received)
    }

    /// The path of this connection's handle carries packets of `size` bytes, without the outer header; 0 is ignored. Those of the channel
    /// may be so long from now on, QUIC's may grow to it, and those that are longer go in pieces.
    pub fn set_path_mtu(&mut self, key: ConnectionKey, size: u16) {
        if let Some(index) = self.find(key).filter(|_| size > 0) {
            let connection = &mut self.connections[usize::from(index)];
            connection.outbox.set_max_packet(size.into());
            connection.path_packet = usize::from(size).max(MIN_PACKET);
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
        let connection = &self.connections[usize::from(index)];
        if connection.role != Some(Role::Flows) {
            return Err(SendError::WrongRole);
        }
        if connection.channel_keys.as_ref().is_some_and(ChannelKeys::is_retired) {
            return Err(SendError::Gone);
        }
        self.scratch.clear();
        frame.encode(&mut self.scratch).map_err(|_| SendError::TooLarge)?;
        let encoded = std::mem::take(&mut self.scratch);
        let outcome = if encoded.len() <= self.connections[usize::from(index)].outbox.max_frames() {
            self.push_frame(index, &encoded, is_twice);
            Ok(())
        } else {
            self.push_fragments(index, &encoded, is_twice)
        };
        self.scratch = encoded;
        self.touch(index);
        outcome
    }

    fn push_frame(&mut self, index: u16, encoded: &[u8], is_twice: bool) {
        let connection = &mut self.connections[usize::from(index)];
        let ready = connection.channel_keys.as_mut().zip(connection.channel_address);
        if let Err(reason) = connection.outbox.push(encoded, is_twice, ready) {
            self.counters.drop(reason);
        }
    }

    fn push_fragments(&mut self, index: u16, encoded: &[u8], is_twice: bool) -> Result<(), SendError> {
        let max_frames = self.connections[usize::from(index)].outbox.max_frames();
        let pieces = encoded.chunks(max_frames - FRAGMENT_OVERHEAD);
        let count = u8::try_from(pieces.len()).unwrap_or(u8::MAX);
        if count > MAX_FRAGMENTS {
            return Err(SendError::TooLarge);
        }
        let id = self.connections[usize::from(index)].outbox.next_fragment_id();
        let mut fragment = Vec::with_capacity(max_frames);
        for (piece, bytes) in pieces.enumerate() {
            fragment.clear();
            let piece = Fragment { id, index: piece as u8, count, bytes };
            Frame::Fragment(piece).encode(&mut fragment).map_err(|_| SendError::TooLarge)?;
            self.push_frame(index, &fragment, is_twice);
        }
        Ok(())
    }
}

/// A packet of QUIC that came in pieces, and the ECN bits that it was to have.
fn quic_packet(frame: &[u8]) -> Option<(u8, &[u8])> {
    match frames(frame).next() {
        Some(Ok(Frame::Quic { ecn_bits, packet })) => Some((ecn_bits, packet)),
        Some(_) | None => None,
    }
}

/// Only DATA, OPEN_DATA and BOUND may come in pieces, each alone.
fn is_one_whole_frame(bytes: &[u8]) -> bool {
    let mut all = frames(bytes);
    matches!(
        (all.next(), all.next()),
        (Some(Ok(Frame::Data { .. } | Frame::OpenData { .. } | Frame::Bound { .. })), None)
    )
}
