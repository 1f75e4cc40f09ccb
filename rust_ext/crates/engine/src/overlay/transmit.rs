//! Packets out: which path a connection's packets take, the outer header in front of them where the path has transits, and the
//! batches in which they leave. A packet that a socket does not take is dropped and counted: QUIC sends again, datagrams may be lost.

use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use l4proxy_io::udp::{MtuDiscovery, Outgoing, SendBatch, Stop, UdpOptions, UdpSocket};
use l4proxy_proto::liveness::Presence;
use l4proxy_tunnel::{ConnectionState, ReturnAddress, Role, TransmitInfo, TransmitKind};
use l4proxy_wire::classify::{PacketKind, classify};
use l4proxy_wire::outer::{Labels, OuterBytes, OuterHeader};

use super::Overlay;
use super::tables::Path;

/// Segments of one batch that the kernel cuts: more gains nothing measurable, and 40 × 1,378 bytes stay below its 64 kB.
const MAX_SEGMENTS: NonZeroUsize = NonZeroUsize::new(40).expect("it is not zero");

/// Bytes of one message that the kernel cuts.
const MAX_MERGED: usize = 60_000;

/// Messages per system call.
const BATCH: usize = 64;

/// Bytes that may wait for the end of a turn; beyond, what waits is sent first. So the kernel copies them out of the cache that they were
/// written to: of a megabyte (docs/decisions/0021) it took most from memory.
const MAX_WAITING: usize = 64 << 10;

/// Receive buffer of an overlay socket: the system's default holds 256 small datagrams of a burst.
const RECV_BUFFER: usize = 4 << 20;

/// Send buffer: room for the congestion windows of several connections to leave in one turn.
const SEND_BUFFER: usize = 4 << 20;

/// One overlay socket of this worker.
#[derive(Debug)]
pub(crate) struct OverlaySocket {
    pub(super) local: SocketAddr,
    pub(super) socket: UdpSocket,
    /// The kernel or the card has refused to cut a batch into segments: they are sent one by one.
    is_unsegmented: bool,
}

impl OverlaySocket {
    /// The kernel may hand over several packets of one sender as one, also where they are for different workers: see `strays`.
    pub(super) fn new(local: SocketAddr, fd: OwnedFd) -> io::Result<Self> {
        let socket = UdpSocket::from_fd(fd)?;
        socket.apply(&UdpOptions {
            tos: true,
            gro: true,
            timestamps: true,
            recv_buffer: Some(RECV_BUFFER),
            send_buffer: Some(SEND_BUFFER),
            mtu_discovery: Some(MtuDiscovery::Probe),
            ..UdpOptions::default()
        })?;
        Ok(Self { local, socket, is_unsegmented: false })
    }
}

impl AsFd for OverlaySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A message that waits for the end of the turn: one packet, or several of equal size.
#[derive(Debug, Clone)]
struct Waiting {
    socket: usize,
    destination: SocketAddr,
    range: Range<usize>,
    segment_size: Option<NonZeroU16>,
    ecn_bits: u8,
}

/// What a flush did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flushed {
    packets: u64,
    bytes: u64,
    /// The socket was full.
    full: u64,
    /// The kernel refused the packet.
    refused: u64,
}

/// The overlay sockets of this worker and what waits to leave them.
#[derive(Debug)]
pub(super) struct Transmitter {
    sockets: Vec<OverlaySocket>,
    batch: SendBatch,
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    /// What the tunnels write a transmit into.
    scratch: Vec<u8>,
}

impl Default for Transmitter {
    fn default() -> Self {
        Self {
            sockets: Vec::new(),
            batch: SendBatch::new(BATCH),
            bytes: Vec::new(),
            waiting: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

impl Transmitter {
    /// Take a socket into use; one of the same address is replaced. Returns its number.
    pub(super) fn add_socket(&mut self, socket: OverlaySocket) -> usize {
        if let Some(index) = self.socket_at(socket.local) {
            self.sockets[index] = socket;
            return index;
        }
        self.sockets.push(socket);
        self.sockets.len() - 1
    }

    pub(super) fn socket(&self, index: usize) -> Option<&OverlaySocket> {
        self.sockets.get(index)
    }

    pub(super) const fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    /// Send messages through one socket at once.
    pub(super) fn send_now(&mut self, index: usize, messages: &[Outgoing<'_>], flushed: &mut Flushed) {
        if let Some(socket) = self.sockets.get_mut(index) {
            send_all(socket, &mut self.batch, messages, flushed);
        }
    }

    fn socket_at(&self, local: SocketAddr) -> Option<usize> {
        self.sockets.iter().position(|socket| socket.local == local)
    }

    /// Append packets of `segment_size` bytes each, `header` in front of every one.
    fn push(
        &mut self,
        to: Destination,
        header: &[u8],
        packets: &[u8],
        segment_size: Option<usize>,
        ecn_bits: u8,
    ) {
        let start = self.bytes.len();
        let size = segment_size.unwrap_or(packets.len()).max(1);
        let one = size + header.len();
        let length = packets.len() + packets.len().div_ceil(size) * header.len();
        for packet in packets.chunks(size) {
            self.bytes.extend_from_slice(header);
            self.bytes.extend_from_slice(packet);
        }
        let merged = self.waiting.last_mut().filter(|last| {
            let (before, whole) = (last.range.len(), last.range.len() + length);
            last.socket == to.socket
                && last.destination == to.address
                && last.ecn_bits == ecn_bits
                && last.range.end == start
                && last.segment_size.map_or(before, |size| usize::from(size.get())) == one
                && before.is_multiple_of(one)
                && whole <= MAX_MERGED
                && whole.div_ceil(one) <= MAX_SEGMENTS.get()
        });
        if let Some(last) = merged {
            // Packets as long as those before them: the kernel takes them as one.
            last.range.end = self.bytes.len();
            last.segment_size = u16::try_from(one).ok().and_then(NonZeroU16::new);
            return;
        }
        let segment_size = segment_size.and_then(|_| NonZeroU16::new(u16::try_from(one).ok()?));
        self.waiting.push(Waiting {
            socket: to.socket,
            destination: to.address,
            range: start..self.bytes.len(),
            segment_size,
            ecn_bits,
        });
    }

    fn flush(&mut self) -> Flushed {
        let mut flushed = Flushed::default();
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            let mut messages = Vec::with_capacity(self.waiting.len());
            for waiting in self.waiting.iter().filter(|waiting| waiting.socket == index) {
                let whole = Outgoing {
                    bytes: &self.bytes[waiting.range.clone()],
                    destination: Some(waiting.destination),
                    source: None,
                    tos: (waiting.ecn_bits != 0).then_some(waiting.ecn_bits),
                    segment_size: waiting.segment_size,
                };
                if socket.is_unsegmented { messages.extend(segments(whole)) } else { messages.push(whole) }
            }
            send_all(socket, &mut self.batch, &messages, &mut flushed);
        }
        self.bytes.clear();
        self.waiting.clear();
        flushed
    }
}

/// The packets of a message, each as its own.
fn segments(message: Outgoing<'_>) -> impl Iterator<Item = Outgoing<'_>> {
    let size = message.segment_size.map_or(message.bytes.len(), |size| usize::from(size.get())).max(1);
    message.bytes.chunks(size).map(move |bytes| Outgoing { bytes, segment_size: None, ..message })
}

fn count_segments(message: &Outgoing<'_>) -> u64 {
    let size = message.segment_size.map_or(message.bytes.len(), |size| usize::from(size.get())).max(1);
    message.bytes.len().div_ceil(size) as u64
}

fn send_all(
    socket: &mut OverlaySocket,
    batch: &mut SendBatch,
    messages: &[Outgoing<'_>],
    flushed: &mut Flushed,
) {
    let mut rest = messages;
    while !rest.is_empty() {
        let report = batch.send(&socket.socket, rest);
        for message in &rest[..report.sent] {
            flushed.packets += count_segments(message);
            flushed.bytes += message.bytes.len() as u64;
        }
        rest = &rest[report.sent..];
        match report.stop {
            None => break,
            Some(Stop::WouldBlock) => {
                flushed.full += rest.iter().map(count_segments).sum::<u64>();
                break;
            }
            Some(Stop::SegmentationRefused(_)) => {
                socket.is_unsegmented = true;
                let single: Vec<_> = rest.iter().flat_map(|message| segments(*message)).collect();
                send_all(socket, batch, &single, flushed);
                break;
            }
            Some(Stop::Failed(_)) => {
                flushed.refused += 1;
                rest = &rest[1..];
            }
        }
    }
}

/// Which socket a packet leaves, and where to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination {
    socket: usize,
    address: SocketAddr,
}

impl Overlay {
    /// Let the tunnels write one transmit and queue it; false when they have none.
    pub(super) fn transmit_one(&mut self, now: Instant) -> bool {
        let mut scratch = std::mem::take(&mut self.transmitter.scratch);
        let info = self.tunnels.poll_transmit(now, &mut scratch, MAX_SEGMENTS);
        if let Some(info) = &info {
            self.send_by_handle(info, &scratch[..info.size]);
        }
        self.transmitter.scratch = scratch;
        info.is_some()
    }

    /// Send packets of a connection over the path that its handle means now.
    fn send_by_handle(&mut self, info: &TransmitInfo, packets: &[u8]) {
        if let Some(ReturnAddress { local, remote }) = info.back_to {
            return self.send_to(local, remote, packets, info.segment_size, info.ecn_bits);
        }
        let tables = self.tables.clone();
        let handle = info
            .connection
            .and_then(|key| self.connections.handle(key, &tables))
            .or_else(|| tables.handle_for(info.peer, "off"));
        if let (Some(key), Some(handle)) = (info.connection, handle) {
            // In time for the next packets; QUIC sends again what may be too long among these.
            self.tunnels.set_path_mtu(key, handle.state.mtu.load(Ordering::Relaxed));
        }
        // What answers a packet that anybody may have sent goes out once.
        let copy = handle.and_then(|handle| handle.copy_path());
        let copy = copy.filter(|_| info.connection.is_some_and(|key| self.tunnels.is_proved(key)));
        if let Some(copy) = copy {
            self.totals.packets_copied +=
                packets.len().div_ceil(info.segment_size.unwrap_or(packets.len()).max(1)) as u64;
            self.send_over(copy, packets, info.segment_size, info.ecn_bits);
            // What goes out again has been over the other path.
            if info.is_again {
                return;
            }
        } else if info.is_twice
            && let Some(second) = handle.and_then(|handle| handle.second_path())
        {
            self.totals.packets_copied += 1;
            self.send_over(second, packets, info.segment_size, info.ecn_bits);
        }
        match handle.and_then(|handle| handle.active_path()) {
            Some(path) => {
                self.send_over(path, packets, info.segment_size, info.ecn_bits);
                if !path.labels.is_empty() && self.wants_greeting(info) {
                    self.greet(info, packets);
                }
            }
            // Before any path is known the pair connections must begin somewhere.
            None => match tables.direct_link(info.peer) {
                Some(link) => self.send_over_link(link, &[], packets, info.segment_size, info.ecn_bits),
                None => self.drop_packet("no_path"),
            },
        }
    }

    /// Whether a packet of a connection by which a peer that is not present may become so is to go over the direct link as well: a peer
    /// that was started again has no keys yet with the transit PoPs of the path. What answers a handshake goes the way that it came.
    fn wants_greeting(&self, info: &TransmitInfo) -> bool {
        self.has_doubts()
            && info.kind == TransmitKind::Quic
            && self.peers.presence(info.peer) != Presence::Present
            && info.connection.and_then(|key| self.tunnels.connection(key)).is_some_and(|view| {
                let is_ready = view.state == ConnectionState::Ready;
                if view.dialled {
                    view.role == Some(Role::Pair) || !is_ready
                } else {
                    is_ready && view.role == Some(Role::Pair)
                }
            })
    }

    fn greet(&mut self, info: &TransmitInfo, packets: &[u8]) {
        if let Some(link) = self.tables.direct_link(info.peer) {
            self.totals.packets_copied += 1;
            self.send_over_link(link, &[], packets, info.segment_size, info.ecn_bits);
        }
    }

    /// Send packets, all for the same worker of the same PoP, over a path.
    pub(super) fn send_over(
        &mut self,
        path: &Path,
        packets: &[u8],
        segment_size: Option<usize>,
        ecn_bits: u8,
    ) {
        if path.labels.is_empty() {
            self.send_over_link(path.first_link, &[], packets, segment_size, ecn_bits);
            return;
        }
        match self.outer_header(path, worker_byte(packets)) {
            Some(header) => {
                self.send_over_link(path.first_link, header.as_slice(), packets, segment_size, ecn_bits);
            }
            None => self.drop_packet("no_hop_key"),
        }
    }

    fn outer_header(&self, path: &Path, worker: u8) -> Option<OuterBytes> {
        let next = self.tables.links.get(path.first_link)?.peer;
        let keys = self.shared.keys.load();
        let key = keys.hop.find_send(next)?;
        let labels = Labels::new(&path.labels)?;
        let header = OuterHeader { pointer: 0, worker, epoch: key.epoch, source: self.tables.own, labels };
        Some(header.encode(&key.key))
    }

    /// Send packets over an own link.
    pub(super) fn send_over_link(
        &mut self,
        link: usize,
        header: &[u8],
        packets: &[u8],
        segment_size: Option<usize>,
        ecn_bits: u8,
    ) {
        let tables = self.tables.clone();
        let Some(link) = tables.links.get(link) else { return };
        let Some(remote) = link.destination() else { return self.drop_packet("no_address") };
        let Some(socket) = self.transmitter.socket_at(link.local) else {
            self.drop_packet("no_overlay_socket");
            return;
        };
        let destination = Destination { socket, address: remote };
        let headers = packets.len().div_ceil(segment_size.unwrap_or(packets.len()).max(1)) * header.len();
        link.on_sent(packets.len() + headers);
        self.transmitter.push(destination, header, packets, segment_size, ecn_bits);
        if self.transmitter.bytes.len() >= MAX_WAITING {
            self.flush();
        }
    }

    /// Send packets from one of our addresses to an address that is no link's.
    pub(super) fn send_to(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        packets: &[u8],
        segment_size: Option<usize>,
        ecn_bits: u8,
    ) {
        match self.transmitter.socket_at(local) {
            Some(socket) => {
                let destination = Destination { socket, address: remote };
                self.transmitter.push(destination, &[], packets, segment_size, ecn_bits);
            }
            None => self.drop_packet("no_overlay_socket"),
        }
    }

    /// Send everything that waits.
    pub(super) fn flush(&mut self) {
        if self.transmitter.waiting.is_empty() {
            return;
        }
        let flushed = self.transmitter.flush();
        self.count_flushed(flushed);
    }

    pub(super) fn count_flushed(&mut self, flushed: Flushed) {
        self.totals.packets_out += flushed.packets;
        self.totals.bytes_out += flushed.bytes;
        for (reason, count) in
            [("overlay_send_full", flushed.full), ("overlay_send_refused", flushed.refused)]
        {
            if count > 0 {
                *self.totals.drops.entry(reason).or_default() += count;
            }
        }
    }
}

/// The byte by which a packet finds the worker of its receiver; docs/protocol.md section 1, "Steering".
pub(super) fn worker_byte(packet: &[u8]) -> u8 {
    const LONG_HEADER: u8 = 0x80;
    let at = match (classify(packet), packet.first()) {
        (Ok(PacketKind::Quic), Some(first)) if first & LONG_HEADER != 0 => 6,
        (Ok(PacketKind::Quic), _) => 1,
        _ => 2,
    };
    packet.get(at).copied().unwrap_or(0)
}
