//! Packets in: whose they are by the address they came from, what they are by their first byte, and who gets them.
//!
//! Nothing here answers a stranger: a packet from an address that is no link of the fleet is counted and forgotten, unless some PoP of the
//! fleet dials out from addresses that nobody knows (`outbound`).

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use l4proxy_io::udp::{Datagram, RecvBatch};
use l4proxy_proto::forward::Verdict;
use l4proxy_tunnel::{NOBODY, Received, ReturnAddress};
use l4proxy_wire::classify::{PacketKind, classify};
use l4proxy_wire::ids::PopId;

use super::Overlay;
use super::outbound::previous_hop;
use super::shared::Keys;
use super::strays::Stray;
use super::tables::OverlayTables;

/// Calls of `recvmmsg` per socket and turn, so that a flood on the overlay port cannot starve the clients of this worker.
const MAX_BATCHES: usize = 4;

/// Where a packet came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// The overlay socket's own address.
    pub(super) local: SocketAddr,
    /// The address it came from.
    pub(super) source: SocketAddr,
    /// Wall-clock nanoseconds, from the kernel where it says.
    pub(super) received_ns: u64,
    /// Wall-clock nanoseconds now.
    pub(super) handled_ns: u64,
    pub(super) ecn_bits: u8,
}

/// What packets are looked up in, the same for all of a turn.
struct Context {
    tables: Arc<OverlayTables>,
    keys: Arc<Keys>,
    /// Seconds of the engine's clock, from 1.
    second: u64,
}

/// Where in the receive batch a packet lies.
struct Place {
    place: usize,
    range: Range<usize>,
    /// Of its message.
    segment_size: usize,
}

impl Overlay {
    /// Read what waits at an overlay socket. Returns whether more may wait: then call again in the next turn.
    pub(crate) fn handle_readable(
        &mut self,
        now: Instant,
        wall_clock_ns: u64,
        index: usize,
        batch: &mut RecvBatch,
    ) -> io::Result<bool> {
        let second = now.saturating_duration_since(self.shared.started()).as_secs() + 1;
        let context = Context { tables: self.tables.clone(), keys: self.shared.keys.load_full(), second };
        for _ in 0..MAX_BATCHES {
            let Some(socket) = self.transmitter.socket(index) else { return Ok(false) };
            let local = socket.local;
            let count = batch.recv(&socket.socket, usize::MAX)?;
            for place in 0..count {
                self.handle_datagram(now, wall_clock_ns, &context, local, place, batch.get(place));
            }
            self.send_passage(batch);
            self.hand_over();
            if count < batch.capacity() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn handle_datagram(
        &mut self,
        now: Instant,
        wall_clock_ns: u64,
        context: &Context,
        local: SocketAddr,
        place: usize,
        mut datagram: Datagram<'_>,
    ) {
        const ECN_MASK: u8 = 0b11;
        let arrival = Arrival {
            local,
            source: datagram.meta.source,
            received_ns: datagram.meta.timestamp_ns.unwrap_or(wall_clock_ns),
            handled_ns: wall_clock_ns,
            ecn_bits: datagram.meta.tos.unwrap_or(0) & ECN_MASK,
        };
        self.totals.bytes_in += datagram.bytes.len() as u64;
        let Some(sender) = self.sender_of(&context.tables, arrival) else {
            let segments = datagram.segments().count();
            self.totals.packets_in += segments as u64;
            *self.totals.drops.entry("stranger").or_default() += segments as u64;
            return;
        };
        let segment_size = datagram.meta.segment_size.map_or(datagram.bytes.len(), NonZeroUsize::get);
        let mut start = 0;
        for packet in datagram.segments() {
            self.totals.packets_in += 1;
            let range = start..start + packet.len();
            start = range.end;
            match classify(packet) {
                Ok(PacketKind::Outer) => {
                    let from = Place { place, range, segment_size };
                    match previous_hop(&context.tables, sender, packet) {
                        Some(previous) => self.handle_outer(now, context, previous, arrival, from, packet),
                        None => self.drop_packet("stranger"),
                    }
                }
                Ok(kind) => {
                    self.handle_inner(now, sender.peer, kind, Some(arrival), arrival.ecn_bits, packet)
                }
                Err(reason) => self.drop_packet(reason.as_str()),
            }
        }
    }

    /// A packet that passes transits: it goes on, or is taken out when it has arrived.
    fn handle_outer(
        &mut self,
        now: Instant,
        context: &Context,
        previous: usize,
        arrival: Arrival,
        from: Place,
        packet: &mut [u8],
    ) {
        let peer = &context.tables.peers[previous];
        match context.tables.forward.handle_outer(packet, peer.id, &context.keys.hop) {
            Verdict::Forward { link, .. } => match context.tables.link_index(link) {
                Some(_) if !peer.may_pass(now, packet.len()) => {
                    self.drop_passing(previous, "transit_rate");
                }
                Some(index) => {
                    self.note_passage(previous, index, link, packet.len(), context.second);
                    self.passage.push(from.place, from.range, index, from.segment_size, arrival.ecn_bits);
                }
                None => self.drop_passing(previous, "no_path"),
            },
            Verdict::Deliver { source, inner } => {
                let inner = &mut packet[inner..];
                match classify(inner) {
                    Ok(kind) => self.handle_inner(now, source, kind, None, arrival.ecn_bits, inner),
                    Err(reason) => self.drop_packet(reason.as_str()),
                }
            }
            Verdict::Drop(reason) => self.drop_passing(previous, reason.as_str()),
        }
    }

    /// A packet of `peer`, or of nobody known, for this PoP. `arrival` is known when it came straight over one link.
    pub(super) fn handle_inner(
        &mut self,
        now: Instant,
        peer: PopId,
        kind: PacketKind,
        arrival: Option<Arrival>,
        ecn_bits: u8,
        packet: &mut [u8],
    ) {
        if let Some(worker) = self.other_worker(packet) {
            return self.set_aside(worker, Stray { peer, arrival, ecn_bits, bytes: packet.to_vec() });
        }
        match kind {
            PacketKind::Quic if peer == NOBODY => self.handle_strange_quic(now, arrival, ecn_bits, packet),
            // Refusals are counted by the tunnels.
            PacketKind::Quic => {
                let straight =
                    arrival.map(|arrival| ReturnAddress { local: arrival.local, remote: arrival.source });
                let _ = self.tunnels.handle_quic(now, peer, straight, BytesMut::from(&*packet), ecn_bits);
                while let Some(received) = self.tunnels.poll_received(now) {
                    self.keep_frames(now, &received);
                }
            }
            PacketKind::Channel => self.handle_channel(now, packet),
            PacketKind::Hello => self.handle_hello(now, arrival, packet),
            PacketKind::Probe => match arrival {
                Some(arrival) => self.handle_probe(now, peer, arrival, packet),
                None => self.drop_packet("probe_link"),
            },
            PacketKind::LinkDown if arrival.is_some() => self.handle_link_down(now, peer, packet),
            // What speaks of one link does not travel inside another packet.
            PacketKind::LinkDown | PacketKind::Outer => self.drop_packet("outer_nested"),
        }
    }

    fn handle_channel(&mut self, now: Instant, packet: &mut [u8]) {
        if let Ok(received) = self.tunnels.handle_channel(now, packet) {
            self.keep_frames(now, &received);
        }
    }

    /// The edge takes them at the end of the turn.
    fn keep_frames(&mut self, now: Instant, received: &Received<'_>) {
        let mut full = 0;
        let line = self.connections.line(received.connection);
        for frame in received.frames() {
            if !self.arena.push(line, &frame) {
                full += 1;
            }
        }
        self.used(received.connection, now);
        if full > 0 {
            *self.totals.drops.entry("frames_full").or_default() += full;
        }
    }
}
