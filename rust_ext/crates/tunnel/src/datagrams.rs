//! UDP flows: frames into the bundles of a connection's channel, and frames out of the packets of a peer.

use std::time::Instant;

use bytes::Bytes;
use l4proxy_wire::DropReason as WireDrop;
use l4proxy_wire::channel::{ChannelHeader, FRAGMENT_OVERHEAD, Fragment, Frame, MAX_FRAGMENTS, frames};

use l4proxy_wire::stream::Role;

use crate::channel::{ChannelKeys, Delivery};
use crate::connection::{Connection, Phase};
use crate::counters::Counters;
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
    plaintext: Plaintext<'d>,
    reassembled: Vec<Vec<u8>>,
}

/// Frames as they were sent.
#[derive(Debug)]
enum Plaintext<'d> {
    /// Where the packet lies.
    Opened(&'d [u8]),
    /// Out of a packet of QUIC.
    Quic(Bytes),
}

impl Plaintext<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Opened(bytes) => bytes,
            Self::Quic(bytes) => bytes,
        }
    }
}

impl Received<'_> {
    /// The whole frames of flows, in order; never a fragment, a repair, or a packet of QUIC.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.all_frames()
            .filter(|frame| !matches!(frame, Frame::Fragment(_) | Frame::Quic { .. } | Frame::Repair(_)))
    }

    fn all_frames(&self) -> impl Iterator<Item = Frame<'_>> {
        frames(self.plaintext.bytes())
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
        connection.last_received = Some(now);
        if keys.take_worn() {
            self.events.push_back(TunnelEvent::ChannelWorn { key: connection.key });
        }
        let peer = connection.peer;
        let mut quic_packets = Vec::new();
        let plaintext = Plaintext::Opened(plaintext);
        let received = take_frames(now, connection, plaintext, &mut quic_packets, &mut self.counters);
        for (ecn_bits, packet) in quic_packets.iter().filter_map(|frame| quic_packet(frame)) {
            if let Err(reason) = self.take_quic(now, Sender::Peer(peer, None), packet.into(), ecn_bits) {
                self.counters.drop(reason);
            }
        }
        for frame in received.all_frames() {
            if let Frame::Repair(repair) = frame {
                self.handle_repair(now, peer, repair);
            }
        }
        Ok(received)
    }

    /// Frames that came in packets of QUIC ([`DatagramMode::Quic`](crate::DatagramMode)); call it until `None` after each [`Self::handle_quic`].
    pub fn poll_received(&mut self, now: Instant) -> Option<Received<'static>> {
        while let Some(&index) = self.framed_queue.front() {
            let Some(connection) = self.connections.get_mut(usize::from(index)) else {
                self.framed_queue.pop_front();
                continue;
            };
            let Some(bytes) = connection.quic.datagrams().recv() else {
                self.framed_queue.pop_front();
                continue;
            };
            match (connection.phase, connection.role) {
                (Phase::Ready, Some(Role::Flows)) => {
                    // QUIC's own packets never go in its frames: see `packets`.
                    let (plaintext, mut none) = (Plaintext::Quic(bytes), Vec::new());
                    let received = take_frames(now, connection, plaintext, &mut none, &mut self.counters);
                    none.iter().for_each(|_| self.counters.drop(WireDrop::ChannelFrame.into()));
                    return Some(received);
                }
                (Phase::Ready | Phase::Closed, _) => self.counters.drop(WireDrop::ChannelUnknown.into()),
                (Phase::Handshaking | Phase::AwaitingHello, _) => {
                    self.counters.drop(DropReason::ChannelEarly)
                }
            }
        }
        None
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
        self.queue_frame(key, frame, Delivery::Resent)
    }

    /// The same for a frame whose packet is to go over two paths ([`TransmitInfo::is_twice`](crate::TransmitInfo::is_twice)); the
    /// receiver's replay window takes the copy away. Where QUIC carries the frames ([`DatagramMode::Quic`](crate::DatagramMode)), it
    /// goes over one.
    ///
    /// # Errors
    /// As [`Self::send_frame`].
    pub fn send_frame_twice(&mut self, key: ConnectionKey, frame: &Frame<'_>) -> Result<(), SendError> {
        self.queue_frame(key, frame, Delivery::Twice)
    }

    fn queue_frame(
        &mut self,
        key: ConnectionKey,
        frame: &Frame<'_>,
        delivery: Delivery,
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
        let connection = &mut self.connections[usize::from(index)];
        let outcome = connection.push_encoded(&encoded, delivery, &mut self.counters);
        self.scratch = encoded;
        self.queue(index);
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
        delivery: Delivery,
        counters: &mut Counters,
    ) -> Result<(), SendError> {
        let max_frames = self.outbox.max_frames();
        if encoded.len() <= max_frames {
            self.push_frame(encoded, delivery, counters);
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
            self.push_frame(&fragment, delivery, counters);
        }
        Ok(())
    }

    fn push_frame(&mut self, encoded: &[u8], delivery: Delivery, counters: &mut Counters) {
        let (outbox, way) = self.outbox_and_way();
        // A packet of QUIC goes one way: twice the same would be two packets of which each may carry other things as well.
        let delivery = if outbox.is_for_quic() { Delivery::default() } else { delivery };
        if let Err(reason) = outbox.push(encoded, delivery, way) {
            counters.drop(reason);
        }
    }
}

/// A packet of QUIC that came in pieces, and the ECN bits that it was to have.
fn quic_packet(frame: &[u8]) -> Option<(u8, &[u8])> {
    match frames(frame).next() {
        Some(Ok(Frame::Quic { ecn_bits, packet })) => Some((ecn_bits, packet)),
        Some(_) | None => None,
    }
}

/// Puts fragments together, and counts what cannot be decoded.
fn take_frames<'d>(
    now: Instant,
    connection: &mut Connection,
    plaintext: Plaintext<'d>,
    quic_packets: &mut Vec<Vec<u8>>,
    counters: &mut Counters,
) -> Received<'d> {
    connection.channel_packets_received += 1;
    let mut reassembled = Vec::new();
    for frame in frames(plaintext.bytes()) {
        let fragment = match frame {
            Ok(Frame::Fragment(fragment)) => fragment,
            Ok(_) => continue,
            Err(_) => {
                counters.drop(WireDrop::ChannelFrame.into());
                break;
            }
        };
        match connection.reassembly.handle_fragment(now, fragment, |reason| counters.drop(reason)) {
            Outcome::Kept => {}
            Outcome::Dropped(reason) => counters.drop(reason),
            Outcome::Complete(frame) if quic_packet(&frame).is_some() => quic_packets.push(frame),
            Outcome::Complete(frame) if is_one_whole_frame(&frame) => reassembled.push(frame),
            Outcome::Complete(_) => counters.drop(WireDrop::ChannelFrame.into()),
        }
    }
    Received { connection: connection.key, plaintext, reassembled }
}

/// Only DATA, OPEN_DATA, BOUND and REPAIR may come in pieces, and QUIC's own packets; each alone.
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
