//! Packets and time: QUIC datagrams in, everything out, timers. Whose turn it is to send, and who waits for what moment.

use std::num::NonZeroUsize;
use std::time::Instant;

use bytes::BytesMut;
use l4proxy_wire::channel::Frame;
use l4proxy_wire::ids::PopId;
use l4proxy_wire::repair::Repair;
use l4proxy_wire::stream::Role;
use noq_proto::{DatagramEvent, EcnCodepoint, FourTuple, Incoming, PathId};

use crate::connection::{Connection, Phase};
use crate::counters::Counters;
use crate::driver::{Tunnels, synthetic_address};
use crate::error::DropReason;
use crate::events::{TransmitInfo, TransmitKind};
use crate::repair::{Heard, Repaired};
use crate::resend::Again;

/// Datagrams shorter than this are copied before QUIC keeps slices of them: a small chunk that nobody reads would pin
/// the whole receive buffer of 64 kB it came in.
const COPY_BELOW: usize = 512;

/// Answers to packets of no connection that may wait; they are worth nothing later.
const MAX_RESPONSES: usize = 64;

impl Tunnels {
    /// Takes a QUIC packet. The caller has made sure that it came from an address of `from`, or through transits from it.
    ///
    /// # Errors
    /// Why it was dropped; counted already.
    pub fn handle_quic(
        &mut self,
        now: Instant,
        from: PopId,
        datagram: BytesMut,
        ecn_bits: u8,
    ) -> Result<(), DropReason> {
        let outcome = self.take_quic(now, from, datagram, ecn_bits);
        if let Err(reason) = outcome {
            self.counters.drop(reason);
        }
        outcome
    }

    fn take_quic(
        &mut self,
        now: Instant,
        from: PopId,
        datagram: BytesMut,
        ecn_bits: u8,
    ) -> Result<(), DropReason> {
        let endpoint = self.endpoint.as_mut().ok_or(DropReason::QuicNoIdentity)?;
        if !self.peer_names.contains_key(&from) {
            return Err(DropReason::QuicUnknownPeer);
        }
        let datagram = if datagram.len() < COPY_BELOW { BytesMut::from(&datagram[..]) } else { datagram };
        if let Some(heard) = self.heard.get_mut(&from)
            && !heard.keep(now, &datagram)
        {
            self.heard.remove(&from);
        }
        let mut response = Vec::new();
        let path = FourTuple::from_remote(synthetic_address(from));
        let event = endpoint.handle(now, path, EcnCodepoint::from_bits(ecn_bits), datagram, &mut response);
        match event {
            None => Err(DropReason::QuicUnmatched),
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let index =
                    self.by_handle.get(handle.0).copied().flatten().ok_or(DropReason::QuicUnmatched)?;
                let connection = &mut self.connections[usize::from(index)];
                connection.last_received = Some(now);
                connection.flight.end();
                connection.quic.handle_event(event);
                self.pump(now, index);
                Ok(())
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.handle_incoming(now, from, incoming),
            Some(DatagramEvent::Response(transmit)) => {
                self.respond(from, response, transmit.size);
                Err(DropReason::QuicUnmatched)
            }
        }
    }

    fn handle_incoming(&mut self, now: Instant, from: PopId, incoming: Incoming) -> Result<(), DropReason> {
        let handshakes = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.is_dialled() && connection.hello_deadline.is_some())
            .count();
        let is_full = self.connections.len() >= self.options.max_connections
            || handshakes >= self.options.max_handshakes;
        let (Some(endpoint), Some(name)) = (self.endpoint.as_mut(), self.peer_names.get(&from)) else {
            return Err(DropReason::QuicNoIdentity);
        };
        if is_full {
            endpoint.ignore(incoming);
            return Err(DropReason::QuicIncomingFull);
        }
        let name = name.clone();
        let mut response = Vec::new();
        match endpoint.accept(incoming, now, &mut response, None) {
            Ok((handle, quic)) => {
                let index = self.insert(now, handle, quic, (from, name), None, String::new());
                self.counters.connections_accepted += 1;
                self.pump(now, index);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.respond(from, response, transmit.size);
                }
                self.refused(from, &error.cause);
            }
        }
        Ok(())
    }

    fn respond(&mut self, to: PopId, mut packet: Vec<u8>, size: usize) {
        packet.truncate(size);
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
                let _ = self.handle_quic(now, from, BytesMut::from(&packet[..]), 0);
            }
        }
    }

    /// A connection was used: it may have something to send, and other timers.
    pub(crate) fn touch(&mut self, index: u16) {
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
        if let Some((peer, packet)) = self.responses.pop_front() {
            buf.extend_from_slice(&packet);
            let (size, kind) = (packet.len(), TransmitKind::Quic);
            return Some(TransmitInfo {
                connection: None,
                peer,
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
                // At the end of the queue: connections take turns.
                self.touch(index);
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
    let (key, peer) = (connection.key, connection.peer);
    if connection.recent.poll(now, buf) {
        counters.packets_resent += 1;
        return Some(TransmitInfo {
            connection: Some(key),
            peer,
            size: buf.len(),
            segment_size: None,
            ecn_bits: 0,
            kind: TransmitKind::Channel,
            is_again: true,
            is_twice: false,
        });
    }
    if let (Some(keys), Some(address)) = (connection.channel_keys.as_mut(), connection.channel_address) {
        match connection.outbox.poll_packet(keys, address, buf) {
            Ok(Some(is_twice)) => {
                connection.channel_packets_sent += 1;
                connection.recent.keep(now, buf);
                return Some(TransmitInfo {
                    connection: Some(key),
                    peer,
                    size: buf.len(),
                    segment_size: None,
                    ecn_bits: 0,
                    kind: TransmitKind::Channel,
                    is_again: false,
                    is_twice,
                });
            }
            Ok(None) => {}
            Err(reason) => {
                buf.clear();
                counters.drop(reason);
            }
        }
    }
    let quic = poll_quic(now, connection, buf, max_datagrams, counters)?;
    Some(TransmitInfo {
        connection: Some(key),
        peer,
        size: quic.size,
        segment_size: quic.segment_size,
        ecn_bits: quic.ecn_bits,
        kind: TransmitKind::Quic,
        is_again: quic.is_again,
        is_twice: false,
    })
}

/// Packets of QUIC that were written.
struct Written {
    size: usize,
    segment_size: Option<usize>,
    ecn_bits: u8,
    is_again: bool,
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
    let transmit = connection.quic.poll_transmit(now, max_datagrams, buf)?;
    if connection.phase == Phase::Handshaking {
        connection.resend.skip();
        if connection.is_dialled() && connection.last_received.is_none() {
            connection.flight.keep(now, buf, transmit.segment_size.unwrap_or(transmit.size));
        }
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
    });
    let Some(covers) = covers else {
        connection.repairer.clear();
        return;
    };
    let rtt = connection.quic.rtt(PathId::ZERO).unwrap_or_default();
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
    if !frame.is_empty() && connection.push_encoded(&frame, false, counters).is_ok() {
        counters.repairs_sent += 1;
    }
}
