//! Packets and time: QUIC datagrams in, everything out, timers. Whose turn it is to send, and who waits for what moment.

use std::num::NonZeroUsize;
use std::time::Instant;

use bytes::BytesMut;
use l4proxy_wire::channel::Frame;
use l4proxy_wire::ids::PopId;
use l4proxy_wire::repair::Repair;
use l4proxy_wire::stream::Role;
use noq_proto::{DatagramEvent, EcnCodepoint, FourTuple, Incoming, PathId, SendDatagramError};

use crate::channel::{ChannelKeys, Delivery, Way};
use crate::connection::{Connection, Phase};
use crate::counters::Counters;
use crate::driver::{NOBODY, Sender, Tunnels, synthetic_address};
use crate::error::DropReason;
use crate::events::{ConnectionKey, ReturnAddress, TransmitInfo, TransmitKind, TunnelEvent};
use crate::options::MIN_PACKET;
use crate::repair::{Heard, Repaired};
use crate::resend::Again;
use crate::split::is_taken_by_channel;

/// Datagrams shorter than this are copied before QUIC keeps slices of them: a small chunk that nobody reads would pin
/// the whole receive buffer of 64 kB it came in.
const COPY_BELOW: usize = 512;

/// Answers to packets of no connection that may wait, as many as packets come in between two rounds of sending; they are worth nothing
/// later.
const MAX_RESPONSES: usize = 256;

/// The first bit of packets that carry their version: those of handshakes.
const LONG_HEADER: u8 = 0x80;

/// Bytes that may be sent for each that came, before an address is proved (RFC 9000, section 8.1).
const AMPLIFICATION: u64 = 3;

impl Tunnels {
    /// Takes a QUIC packet. The caller has made sure that it came from an address of `from`, or through transits from it; `straight` says
    /// between which addresses if it came through none.
    ///
    /// # Errors
    /// Why it was dropped; counted already.
    pub fn handle_quic(
        &mut self,
        now: Instant,
        from: PopId,
        straight: Option<ReturnAddress>,
        datagram: BytesMut,
        ecn_bits: u8,
    ) -> Result<(), DropReason> {
        let outcome = self.take_quic(now, Sender::Peer(from, straight), datagram, ecn_bits);
        if let Err(reason) = outcome {
            self.counters.drop(reason);
        }
        outcome
    }

    /// Takes a QUIC packet from an address that is no peer's. Only PoPs of [`Self::set_movable`] may come so: what the certificate says
    /// decides. Their answers carry `from` as [`TransmitInfo::back_to`] until something of theirs comes by [`Self::handle_quic`].
    ///
    /// # Errors
    /// Why it was dropped; counted already.
    pub fn handle_stranger(
        &mut self,
        now: Instant,
        from: ReturnAddress,
        datagram: BytesMut,
        ecn_bits: u8,
    ) -> Result<(), DropReason> {
        let outcome = self.take_quic(now, Sender::Stranger(from), datagram, ecn_bits);
        if let Err(reason) = outcome {
            self.counters.drop(reason);
        }
        outcome
    }

    pub(crate) fn take_quic(
        &mut self,
        now: Instant,
        from: Sender,
        datagram: BytesMut,
        ecn_bits: u8,
    ) -> Result<(), DropReason> {
        let (is_known, address) = match from {
            Sender::Peer(peer, _) => (self.peer_names.contains_key(&peer), self.address_of(peer)),
            Sender::Stranger(_) => (!self.movable.is_empty(), synthetic_address(NOBODY)),
        };
        let endpoint = self.endpoint.as_mut().ok_or(DropReason::QuicNoIdentity)?;
        if !is_known {
            return Err(DropReason::QuicUnknownPeer);
        }
        let datagram = if datagram.len() < COPY_BELOW { BytesMut::from(&datagram[..]) } else { datagram };
        if let Sender::Peer(peer, _) = from
            && let Some(heard) = self.heard.get_mut(&peer)
            && !heard.keep(now, &datagram)
        {
            self.heard.remove(&peer);
        }
        if datagram.first().is_some_and(|first| first & LONG_HEADER != 0) {
            self.token_clock.set(now);
        }
        let (mut response, length) = (Vec::new(), datagram.len());
        let path = FourTuple::from_remote(address);
        let event = endpoint.handle(now, path, EcnCodepoint::from_bits(ecn_bits), datagram, &mut response);
        match event {
            None => Err(DropReason::QuicUnmatched),
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let index =
                    self.by_handle.get(handle.0).copied().flatten().ok_or(DropReason::QuicUnmatched)?;
                let connection = &mut self.connections[usize::from(index)];
                match from {
                    Sender::Peer(peer, straight) => {
                        if peer == connection.peer {
                            connection.back_to = None;
                        }
                        connection.came_straight = straight.or(connection.came_straight);
                        connection.last_received = Some(now);
                        connection.flight.answered();
                    }
                    // It may be anybody who has seen the connection's id: no sign of life of the peer.
                    Sender::Stranger(_) => {}
                }
                let is_from_there = match from {
                    Sender::Peer(..) => true,
                    Sender::Stranger(back) => connection.back_to == Some(back),
                };
                if let Some(allowance) = &mut connection.allowance
                    && is_from_there
                {
                    *allowance += AMPLIFICATION * length as u64;
                }
                connection.quic.handle_event(event);
                self.pump(now, index);
                if self.connections.contains(usize::from(index)) {
                    self.judge_window(now, index);
                }
                Ok(())
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.handle_incoming(now, from, incoming, length),
            Some(DatagramEvent::Response(transmit)) => {
                self.respond(from, response, transmit.size, length);
                Err(DropReason::QuicUnmatched)
            }
        }
    }

    fn handle_incoming(
        &mut self,
        now: Instant,
        from: Sender,
        incoming: Incoming,
        length: usize,
    ) -> Result<(), DropReason> {
        let (peer, name, back_to, came_straight) = match from {
            Sender::Peer(peer, straight) => (peer, self.peer_names.get(&peer).cloned(), None, straight),
            Sender::Stranger(back) => (NOBODY, Some(String::new()), Some(back), None),
        };
        let (most, max_unproved) = match from {
            Sender::Peer(..) => (self.options.max_handshakes, self.options.max_unproved),
            Sender::Stranger(_) => {
                (self.options.max_stranger_handshakes, self.options.max_stranger_handshakes / 2)
            }
        };
        let is_proved = incoming.remote_address_validated();
        let (mut handshakes, mut unproved) = (0, 0);
        for (_, connection) in &self.connections {
            let is_alike = connection.back_to.is_some() == back_to.is_some();
            if is_alike && !connection.is_dialled() && connection.hello_deadline.is_some() {
                handshakes += 1;
                unproved += usize::from(connection.allowance.is_some());
            }
        }
        self.expect_from(peer);
        let (Some(endpoint), Some(name)) = (self.endpoint.as_mut(), name) else {
            return Err(DropReason::QuicNoIdentity);
        };
        if self.connections.len() >= self.options.max_connections || handshakes >= most {
            endpoint.ignore(incoming);
            return Err(DropReason::QuicIncomingFull);
        }
        let mut response = Vec::new();
        if !is_proved && unproved >= max_unproved {
            return match endpoint.retry(incoming, &mut response) {
                Ok(transmit) => {
                    self.counters.retries += 1;
                    self.respond(from, response, transmit.size, length);
                    Ok(())
                }
                Err(refused) => {
                    endpoint.ignore(refused.into_incoming());
                    Err(DropReason::QuicIncomingFull)
                }
            };
        }
        match endpoint.accept(incoming, now, &mut response, None) {
            Ok((handle, quic)) => {
                let index = self.insert(now, handle, quic, (peer, name), None, String::new());
                let connection = &mut self.connections[usize::from(index)];
                connection.came_straight = came_straight;
                connection.allowance = (!is_proved).then_some(AMPLIFICATION * length as u64);
                if back_to.is_some() {
                    connection.back_to = back_to;
                    connection.hello_deadline = Some(now + self.options.stranger_handshake_timeout);
                }
                self.counters.connections_accepted += 1;
                self.pump(now, index);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.respond(from, response, transmit.size, length);
                }
                self.refused(peer, &error.cause);
            }
        }
        Ok(())
    }

    /// Whether a connection's peer is known to get what is sent to it: before that, nothing goes there more than once.
    #[must_use]
    pub fn is_proved(&self, key: ConnectionKey) -> bool {
        self.find(key).is_some_and(|index| self.connections[usize::from(index)].allowance.is_none())
    }

    /// Answers a packet of `length` bytes that belongs to no connection. Never with more bytes than it had: who sent it need not be who
    /// gets the answer.
    fn respond(&mut self, to: Sender, mut packet: Vec<u8>, size: usize, length: usize) {
        packet.truncate(size);
        if packet.len() > length {
            return;
        }
        if self.responses.len() < MAX_RESPONSES {
            self.responses.push_back((to, packet));
        } else {
            self.counters.drop(DropReason::QuicResponseFull);
        }
    }

    /// Makes the packet that is missing of those that a repair of `from` covers, and takes it as if it had come.
    pub(crate) fn handle_repair(&mut self, now: Instant, from: PopId, repair: Repair<'_>) {
        // Only peers come this far, so there are no more entries than peers.
        match self.heard.entry(from).or_insert_with(|| Heard::new(now)).repair(now, repair) {
            Repaired::Unneeded => {}
            Repaired::TooFew => self.counters.drop(DropReason::RepairTooFew),
            Repaired::Invalid => self.counters.drop(DropReason::RepairInvalid),
            Repaired::Packet(packet) => {
                self.counters.packets_repaired += 1;
                // Refusals are counted.
                let _ = self.handle_quic(now, from, None, BytesMut::from(&packet[..]), 0);
            }
        }
    }

    /// A connection was used: it may have something to send, and other timers.
    pub(crate) fn touch(&mut self, index: u16) {
        if let Some(connection) = self.connections.get_mut(usize::from(index)) {
            connection.has_quic_work = true;
            self.queue(index);
        }
    }

    /// A connection has something to send; whether QUIC has, is known already.
    pub(crate) fn queue(&mut self, index: u16) {
        if let Some(connection) = self.connections.get_mut(usize::from(index))
            && !connection.is_queued
        {
            connection.is_queued = true;
            self.send_queue.push_back(index);
        }
    }

    /// Writes what is to be sent next into `buf`, which is cleared first: one channel packet, or up to `max_datagrams`
    /// QUIC packets of one connection. `None`: nothing, for now.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_datagrams: NonZeroUsize,
    ) -> Option<TransmitInfo> {
        buf.clear();
        if let Some((to, packet)) = self.responses.pop_front() {
            let (peer, back_to) = match to {
                Sender::Peer(peer, straight) => (peer, straight),
                Sender::Stranger(back) => (NOBODY, Some(back)),
            };
            buf.extend_from_slice(&packet);
            let (size, kind) = (packet.len(), TransmitKind::Quic);
            return Some(TransmitInfo {
                connection: None,
                peer,
                back_to,
                size,
                segment_size: None,
                ecn_bits: 0,
                kind,
                is_again: false,
                is_twice: false,
            });
        }
        while let Some(index) = self.send_queue.pop_front() {
            let Some(connection) = self.connections.get_mut(usize::from(index)) else {
                continue;
            };
            connection.is_queued = false;
            let info = poll_connection(now, connection, buf, max_datagrams, &mut self.counters);
            if info.is_some() {
                if connection.channel_keys.as_mut().is_some_and(ChannelKeys::take_worn) {
                    self.events.push_back(TunnelEvent::ChannelWorn { key: connection.key });
                }
                // At the end of the queue: connections take turns.
                self.queue(index);
                return info;
            }
            self.rearm(index);
        }
        self.pass_turn(now);
        None
    }

    fn rearm(&mut self, index: u16) {
        let Some(connection) = self.connections.get_mut(usize::from(index)) else {
            return;
        };
        let next = connection.next_timeout();
        if connection.timer == next {
            return;
        }
        if let Some(old) = std::mem::replace(&mut connection.timer, next) {
            self.timers.remove(&(old, index));
        }
        if let Some(next) = next {
            self.timers.insert((next, index));
        }
    }

    /// When [`Self::handle_timeout`] must be called at the latest. It changes after every other call.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        // Connections that were not polled to the end have not renewed their timers.
        for position in 0..self.send_queue.len() {
            self.rearm(self.send_queue[position]);
        }
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.turn_due).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<u16> =
            self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, index)| *index).collect();
        for index in due {
            let Some(connection) = self.connections.get_mut(usize::from(index)) else {
                continue;
            };
            let again = [connection.resend.poll_timeout(), connection.recent.poll_timeout()];
            let is_resend_due = again.into_iter().flatten().any(|due| due <= now);
            let is_repair_due = connection.repairer.poll_timeout().is_some_and(|due| due <= now);
            if is_repair_due {
                send_repair(connection, &mut self.counters);
            }
            if connection.flight.handle_timeout(now) || is_resend_due || is_repair_due {
                self.touch(index);
            }
            let connection = &mut self.connections[usize::from(index)];
            if connection.hello_deadline.is_some_and(|deadline| deadline <= now) {
                connection.hello_deadline = None;
                self.fail_handshake(now, index);
            } else {
                connection.quic.handle_timeout(now);
            }
            self.pump(now, index);
            self.rearm(index);
        }
    }
}

fn poll_connection(
    now: Instant,
    connection: &mut Connection,
    buf: &mut Vec<u8>,
    max_datagrams: NonZeroUsize,
    counters: &mut Counters,
) -> Option<TransmitInfo> {
    let (key, peer, back_to) = (connection.key, connection.peer, connection.answers_to(now));
    if connection.recent.poll(now, buf) {
        counters.packets_resent += 1;
        return Some(TransmitInfo {
            connection: Some(key),
            peer,
            back_to,
            size: buf.len(),
            segment_size: None,
            ecn_bits: 0,
            kind: TransmitKind::Channel,
            is_again: true,
            is_twice: false,
        });
    }
    loop {
        let (outbox, way) = connection.outbox_and_way();
        match way {
            Way::Held => {}
            Way::Quic => give_frames_to_quic(connection, counters),
            Way::Sealed(keys, address) => match outbox.poll_packet(keys, address, buf) {
                Ok(Some(delivery)) => {
                    connection.channel_packets_sent += 1;
                    if delivery != Delivery::Once {
                        connection.recent.keep(now, buf);
                    }
                    return Some(TransmitInfo {
                        connection: Some(key),
                        peer,
                        back_to,
                        size: buf.len(),
                        segment_size: None,
                        ecn_bits: 0,
                        kind: TransmitKind::Channel,
                        is_again: false,
                        is_twice: delivery == Delivery::Twice,
                    });
                }
                Ok(None) => {}
                Err(reason) => {
                    buf.clear();
                    counters.drop(reason);
                }
            },
        }
        // Asking QUIC costs more than a packet of the channel.
        if !connection.has_quic_work {
            return None;
        }
        let Some(quic) = poll_quic(now, connection, buf, max_datagrams, counters) else {
            connection.has_quic_work = false;
            return None;
        };
        if is_taken_by_channel(connection, buf, &quic, counters) {
            buf.clear();
            continue;
        }
        return Some(TransmitInfo {
            connection: Some(key),
            peer,
            back_to,
            size: quic.size,
            segment_size: quic.segment_size,
            ecn_bits: quic.ecn_bits,
            kind: TransmitKind::Quic,
            is_again: quic.is_again,
            is_twice: false,
        });
    }
}

/// Frames that wait become DATAGRAM frames of the packets that are written next. What QUIC has no room for is lost, as datagrams are on a
/// network that is full.
fn give_frames_to_quic(connection: &mut Connection, counters: &mut Counters) {
    while let Some(frames) = connection.outbox.poll_frames() {
        connection.has_quic_work = true;
        match connection.quic.datagrams().send(frames, false) {
            Ok(()) => connection.channel_packets_sent += 1,
            Err(SendDatagramError::Blocked(_)) => counters.drop(DropReason::ChannelQueueFull),
            Err(
                SendDatagramError::TooLarge
                | SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled,
            ) => counters.drop(DropReason::QuicFramesRefused),
        }
    }
}

/// Packets of QUIC that were written.
pub(crate) struct Written {
    pub(crate) size: usize,
    pub(crate) segment_size: Option<usize>,
    pub(crate) ecn_bits: u8,
    pub(crate) is_again: bool,
}

/// Packets of QUIC, first those that a dead path has swallowed: what is sent after them is acknowledged after them, so that nothing takes
/// them for lost.
fn poll_quic(
    now: Instant,
    connection: &mut Connection,
    buf: &mut Vec<u8>,
    max_datagrams: NonZeroUsize,
    counters: &mut Counters,
) -> Option<Written> {
    connection.resend.settle();
    match connection.resend.poll(now, buf, max_datagrams.get()) {
        Again::Packets { segment_size } => {
            counters.packets_resent += buf.len().div_ceil(segment_size) as u64;
            let (size, segment_size) = (buf.len(), (buf.len() > segment_size).then_some(segment_size));
            return Some(Written { size, segment_size, ecn_bits: 0, is_again: true });
        }
        Again::Later | Again::Nothing => {}
    }
    if connection.flight.poll(buf) {
        counters.packets_resent += 1;
        return Some(Written { size: buf.len(), segment_size: None, ecn_bits: 0, is_again: true });
    }
    let max_datagrams = match connection.allowance {
        None => max_datagrams,
        Some(allowance) => {
            let packets = usize::try_from(allowance / MIN_PACKET as u64).unwrap_or(usize::MAX);
            max_datagrams.min(NonZeroUsize::new(packets)?)
        }
    };
    let transmit = connection.quic.poll_transmit(now, max_datagrams, buf)?;
    if let Some(allowance) = &mut connection.allowance {
        *allowance = allowance.saturating_sub(transmit.size as u64);
    }
    if connection.is_dialled() && connection.hello_deadline.is_some() {
        connection.flight.keep(now, buf, transmit.segment_size.unwrap_or(transmit.size));
    }
    if connection.phase == Phase::Handshaking {
        connection.resend.skip();
    } else if !connection.resend.keep(buf, transmit.segment_size.unwrap_or(transmit.size)) {
        counters.packets_unkept +=
            transmit.size.div_ceil(transmit.segment_size.unwrap_or(transmit.size)) as u64;
    }
    cover(now, connection, buf, transmit.segment_size.unwrap_or(transmit.size), counters);
    Some(Written {
        size: transmit.size,
        segment_size: transmit.segment_size,
        ecn_bits: transmit.ecn.map_or(0, |ecn| ecn as u8),
        is_again: false,
    })
}

/// Has packets that were written just now repaired, if they are of flows and their path is worth it.
fn cover(
    now: Instant,
    connection: &mut Connection,
    packets: &[u8],
    segment_size: usize,
    counters: &mut Counters,
) {
    let covers = connection.resend.repair_covers().filter(|_| {
        connection.role == Some(Role::Flows)
            && connection.phase == Phase::Ready
            && connection.channel_address.is_some()
            && connection.channel_keys.as_ref().is_some_and(|keys| !keys.is_retired())
            && !connection.outbox.is_for_quic()
    });
    let Some(covers) = covers else {
        connection.repairer.clear();
        return;
    };
    let rtt = connection.quic.rtt(PathId::ZERO).unwrap_or_default();
    // One that asks whether the path carries so long a packet must not arrive in any other way.
    if segment_size > usize::from(connection.quic.current_mtu()) {
        return;
    }
    for packet in packets.chunks(segment_size) {
        if connection.repairer.add(now, rtt, packet, covers) {
            send_repair(connection, counters);
        }
    }
}

fn send_repair(connection: &mut Connection, counters: &mut Counters) {
    let mut frame = Vec::new();
    connection.repairer.take(|repair| {
        // It covers no more packets than fit, each shorter than 64 kB: it can be encoded.
        let _ = Frame::Repair(repair).encode(&mut frame);
    });
    if !frame.is_empty() && connection.push_encoded(&frame, Delivery::Once, counters).is_ok() {
        counters.repairs_sent += 1;
    }
}
