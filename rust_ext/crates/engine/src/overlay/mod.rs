//! The overlay's part of one worker: tunnels, transit forwarding, probes and hellos over this worker's overlay sockets.
//!
//! It joins the sans-IO machines of `proto` and `tunnel` to sockets of `io`, and offers the edges streams and datagram frames by
//! route handle. It knows nothing of clients, apps and origins.
//!
//! | module | what |
//! | --- | --- |
//! | `tables` | what a snapshot says of links, peers, handles and labels |
//! | `receive` | packets in: who sent it, what is it, whose is it |
//! | `passage` | packets on their way through this PoP |
//! | `transit` | what each previous hop sends through it, and who is told of lost links |
//! | `strays` | packets that came to the wrong worker |
//! | `transmit` | packets out: handle → path → link → socket |
//! | `connections` | which connection belongs to which handle |
//! | `epochs`, `rolling` | when a connection is followed by one with new keys, and what that means |
//! | `memory`, `moves` | what paths have carried; connections are told of the path that their packets take |
//! | `keeper` | worker 0 only: pair connections, probes, hellos, which path is alive |
//! | `carried` | what connections saw of the paths that they took |
//! | `choice` | which of its paths a handle takes |
//! | `duplication` | which datagrams go over two paths |
//! | `pairs` | when pair connections are dialled |
//! | `outbound` | peers behind NAT: what is taken from strangers, and where such a peer is |
//! | `presence` | which peers cannot be reached at all, and what that means for connections |
//! | `streams` | what the edges call |
//! | `shared` | what all workers share |
//! | `frames` | datagram frames of one turn |
//!
//! After every input the worker calls [`Overlay::pump`], then drains [`Overlay::poll_event`] and the frames.

mod carried;
mod choice;
mod connections;
mod duplication;
mod epochs;
mod frames;
mod keeper;
mod memory;
mod moves;
mod outbound;
mod pairs;
mod passage;
mod presence;
mod receive;
mod rolling;
mod shared;
mod strays;
mod streams;
mod tables;
mod transit;
mod transmit;

#[cfg(test)]
mod drop_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::HashMap;
use l4proxy_proto::link_down::LinkDownCounters;
use l4proxy_proto::liveness::PathQuality;
use l4proxy_tunnel::{
    ConnectionState, ConnectionView, HandshakeFailure, Identity, IdentityError, NOBODY, Role, TunnelEvent,
    TunnelOptions, Tunnels,
};
use l4proxy_wire::codes::{CloseCode, Reason, StreamCode};
use l4proxy_wire::ids::{PathId, PopId};
use l4proxy_wire::open::OpenOwned;

pub(crate) use self::carried::PathCarried;
pub(crate) use self::duplication::{Wish, app_budget};
pub(crate) use self::frames::FrameArena;
pub(crate) use self::shared::OverlayShared;
pub(crate) use self::tables::{OutLink, OverlayStates, OverlayTables, TableError};
pub(crate) use self::transit::TransitTotals;
pub(crate) use l4proxy_proto::liveness::Presence;
pub(crate) use l4proxy_tunnel::{
    ConnectionKey as ChannelKey, Loss, StreamRead, StreamWrite, TunnelStream as StreamKey,
};

use self::connections::Connections;
use self::epochs::{EpochTotals, Epochs};
use self::keeper::Keeper;
use self::passage::Passage;
use self::presence::Peers;
use self::strays::Stray;
use self::transit::PreviousHops;
use self::transmit::{OverlaySocket, Transmitter};

/// Events and reports that wait for the worker. A turn makes far fewer; beyond this the oldest report is dropped and counted.
const MAX_REPORTS: usize = 65_536;

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The snapshot has no handle of that number.
    #[error("no route handle {0}")]
    NoHandle(u32),
    /// The tunnel could not be made.
    #[error("no tunnel: {0}")]
    NoTunnel(String),
}

/// What the edges must know.
#[derive(Debug)]
pub(crate) enum OverlayEvent {
    /// A peer opens a TCP flow: answer with `accept_stream` or `refuse_stream`.
    StreamIncoming { key: StreamKey, peer: PopId, open: OpenOwned },
    /// The egress dialled the origin.
    StreamOpened { key: StreamKey },
    /// It did not; the stream is gone.
    StreamRefused { key: StreamKey, reason: Reason },
    /// There is something to read, or the end, after `read` said `Blocked`.
    StreamReadable { key: StreamKey },
    /// There is room after `write` took less than it was given.
    StreamWritable { key: StreamKey },
    /// Reset by the peer, or gone with its connection (`loss`).
    StreamGone { key: StreamKey, code: Option<StreamCode>, loss: Option<Loss> },
    /// Sessions bound to this channel must open again, or end.
    ChannelGone { channel: ChannelKey },
    /// What is thought of a peer has changed.
    PeerPresence { peer: PopId, presence: Presence },
}

impl OverlayEvent {
    /// Whether it is about a TCP flow.
    pub(crate) const fn is_of_a_stream(&self) -> bool {
        match self {
            Self::StreamIncoming { .. }
            | Self::StreamOpened { .. }
            | Self::StreamRefused { .. }
            | Self::StreamReadable { .. }
            | Self::StreamWritable { .. }
            | Self::StreamGone { .. } => true,
            Self::ChannelGone { .. } | Self::PeerPresence { .. } => false,
        }
    }
}

/// What the daemon must know.
#[derive(Debug)]
pub(crate) enum OverlayReport {
    /// The result of one probe.
    Sample(l4proxy_proto::probe::Sample),
    /// The pair connection with a peer is up.
    TunnelUp { peer: PopId },
    /// It was lost.
    TunnelDown { peer: PopId, failure: HandshakeFailure, reason: String },
    /// A connection of a peer was refused or failed.
    PeerRefused { peer: PopId, failure: HandshakeFailure, reason: String },
    /// A path of ours does not reach its end any more.
    PathDead { peer: PopId, path: PathId, links: Vec<String> },
    /// It does again.
    PathAlive { peer: PopId, path: PathId, links: Vec<String> },
    /// A path of ours that lives became worse or better.
    PathGraded { peer: PopId, path: PathId, links: Vec<String>, quality: PathQuality },
    /// No path to a peer has worked for so long that what it carried is given up.
    PeerLost { peer: PopId, silence_us: u64 },
    /// It can be reached again.
    PeerBack { peer: PopId },
    /// Packets of a handle take another path.
    HandleMoved { peer: PopId, policy: String, from: Vec<String>, to: Vec<String>, silence_us: u64 },
    /// A message of a neighbour's control plane.
    Bus { peer: PopId, payload: Vec<u8> },
}

/// What a flow's record says of a handle.
#[derive(Debug, Clone)]
pub(crate) struct HandleView<'a> {
    pub(crate) peer: &'a str,
    pub(crate) policy: &'a str,
    /// Of the path that packets take now; 0 while there is none.
    pub(crate) path: PathId,
    pub(crate) links: &'a [String],
    pub(crate) path_changes: u64,
}

/// What a flow's record says of the other end of a stream or channel.
#[derive(Debug, Clone)]
pub(crate) struct PeerView<'a> {
    pub(crate) peer: &'a str,
    pub(crate) policy: &'a str,
}

/// Totals of this worker since it started.
#[derive(Debug, Clone, Default)]
pub(crate) struct OverlayTotals {
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) packets_forwarded: u64,
    /// Came to another worker than theirs, because the kernel had merged them with its packets.
    pub(crate) packets_stray: u64,
    pub(crate) bytes_forwarded: u64,
    /// How often a peer behind NAT was found at another address than before.
    pub(crate) address_moves: u64,
    /// Sent again because a path died under them.
    pub(crate) packets_resent: u64,
    /// Sent over a second path as well, because the first may have died.
    pub(crate) packets_copied: u64,
    /// How often a path became suspect.
    pub(crate) suspicions: u64,
    /// Repairs that were sent after packets that may have been lost.
    pub(crate) repairs_sent: u64,
    /// Packets that were lost and made of a repair.
    pub(crate) packets_repaired: u64,
    /// Too much was on its way for them to be kept for that.
    pub(crate) packets_unkept: u64,
    /// QUIC packets that went in pieces, because their path carries less.
    pub(crate) packets_split: u64,
    /// Bytes that peers may send unread; that were sent and not read; and how often the ceiling held somebody up.
    pub(crate) memory_granted: u64,
    pub(crate) memory_sending: u64,
    pub(crate) memory_full: u64,
    pub(crate) connections: u64,
    pub(crate) epochs: EpochTotals,
    /// Paths whose memory made room for others: a number of the whole engine, told by worker 0.
    pub(crate) paths_forgotten: u64,
    pub(crate) handshakes_failed: BTreeMap<HandshakeFailure, u64>,
    /// First packets of peers that were asked to prove their address.
    pub(crate) retries: u64,
    pub(crate) drops: HashMap<&'static str, u64>,
    /// What was said and heard of lost links.
    pub(crate) link_downs: LinkDownCounters,
    /// What each previous hop has sent through this PoP, by name.
    pub(crate) transit: HashMap<String, TransitTotals>,
}

/// The overlay's part of one worker.
pub(crate) struct Overlay {
    shared: Arc<OverlayShared>,
    tables: Arc<OverlayTables>,
    tunnels: Tunnels,
    connections: Connections,
    epochs: Epochs,
    transmitter: Transmitter,
    passage: Passage,
    previous: PreviousHops,
    /// Packets of this receive batch that are for other workers.
    astray: Vec<(usize, Stray)>,
    to_wake: Vec<usize>,
    worker: usize,
    /// Worker 0 keeps what there is once per PoP.
    keeper: Option<Keeper>,
    arena: FrameArena,
    events: VecDeque<OverlayEvent>,
    reports: VecDeque<OverlayReport>,
    totals: OverlayTotals,
    /// What connections saw of their paths, for the worker to take.
    carried: Vec<PathCarried>,
    seen_changes: u64,
    /// The snapshot is another one since connections were last told of their paths.
    has_new_paths: bool,
    /// When it is looked again what the paths of connections have carried.
    remember_at: Instant,
    /// The other workers must learn at once what has changed: packets were lost, or a peer.
    has_alarm: bool,
    peers: Peers,
    /// There is no other worker that a packet could be for.
    is_alone: bool,
}

impl Overlay {
    /// The overlay of worker `worker`; `seed` is secret and fresh.
    pub(crate) fn new(
        now: Instant,
        worker: u8,
        own: PopId,
        seed: [u8; 32],
        shared: Arc<OverlayShared>,
    ) -> Self {
        let mut options = TunnelOptions::new(worker, own, seed);
        options.max_memory_bytes = shared.memory_bytes();
        Self {
            seen_changes: shared.path_changes(),
            has_new_paths: false,
            remember_at: now,
            is_alone: shared.workers() == 1,
            has_alarm: false,
            keeper: (worker == 0).then(|| Keeper::new(own, now, shared.started())),
            shared,
            tables: Arc::new(OverlayTables::empty(own)),
            tunnels: Tunnels::new(options),
            peers: Peers::default(),
            connections: Connections::default(),
            epochs: Epochs::default(),
            transmitter: Transmitter::default(),
            passage: Passage::default(),
            previous: PreviousHops::default(),
            astray: Vec::new(),
            to_wake: Vec::new(),
            worker: worker.into(),
            arena: FrameArena::default(),
            events: VecDeque::new(),
            reports: VecDeque::new(),
            carried: Vec::new(),
            totals: OverlayTotals::default(),
        }
    }

    /// Take an identity into use; connections that exist keep theirs, but for those of peers that it revokes: they end, and with them the
    /// keys of those peers' probes and outer headers.
    pub(crate) fn set_identity(&mut self, now: Instant, identity: Identity) -> Result<(), IdentityError> {
        let revoked: Vec<_> = self
            .tables
            .peers
            .iter()
            .filter(|peer| identity.has_revoked(&peer.name))
            .map(|peer| peer.id)
            .collect();
        self.tunnels.set_identity(identity)?;
        self.tunnels.end_revoked(now);
        if self.keeper.is_some() {
            // Also with those who have no connection just now. Keys from a certificate that is revoked go with its connection.
            revoked.into_iter().for_each(|peer| self.shared.remove_keys(peer));
        }
        Ok(())
    }

    /// Take a bound overlay socket into use; returns what to watch for readability. Equal addresses replace.
    pub(crate) fn add_socket(&mut self, local: SocketAddr, fd: OwnedFd) -> std::io::Result<usize> {
        Ok(self.transmitter.add_socket(OverlaySocket::new(local, fd)?))
    }

    /// The descriptor of a socket that [`Self::add_socket`] gave a number.
    pub(crate) fn socket(&self, index: usize) -> Option<&OverlaySocket> {
        self.transmitter.socket(index)
    }

    /// Put a snapshot into force.
    pub(crate) fn apply(&mut self, now: Instant, tables: Arc<OverlayTables>) {
        for peer in &self.tables.peers {
            if self.keeper.is_some() && tables.peer(peer.id).is_none() {
                self.shared.remove_peer(peer.id);
            }
        }
        let before = std::mem::replace(&mut self.tables, tables);
        let peers: Vec<_> = self.tables.peers.iter().map(|peer| (peer.id, peer.name.clone())).collect();
        self.tunnels.set_peers(&peers);
        self.tunnels.set_movable(self.tables.peers.iter().filter(|peer| peer.moves).map(|peer| peer.id));
        let moves = |tables: &OverlayTables, peer| tables.peer(peer).map(|peer| peer.moves);
        // The identity that it takes into use again was taken before.
        drop(self.tunnels.set_datagrams(self.tables.datagrams));
        let left: Vec<_> = self
            .tunnels
            .connections()
            // A stranger that has not said yet who it is may be a peer still.
            .filter(|(_, view)| view.peer != NOBODY)
            // One that has left, or that QUIC knows by another address from here on.
            .filter(|(_, view)| {
                let after = moves(&self.tables, view.peer);
                after.is_none() || after != moves(&before, view.peer)
            })
            .map(|(key, _)| key)
            .collect();
        for key in left {
            self.close(now, key);
        }
        self.connections.rebind(&self.tables);
        self.has_new_paths = true;
        self.know_peers();
        self.previous.apply(&self.tables);
        if let Some(keeper) = &mut self.keeper {
            keeper.apply(now, &self.tables, &self.shared);
        }
    }

    /// Send what is due: after every input, and when the deadline of [`Self::poll_timeout`] has come.
    pub(crate) fn pump(&mut self, now: Instant, wall_clock_ns: u64) {
        self.follow_paths(now);
        self.follow_peers(now);
        self.pump_tunnels(now);
        self.pump_epochs(now);
        self.pump_keeper(now, wall_clock_ns);
        self.follow_paths(now);
        self.follow_peers(now);
        self.pump_tunnels(now);
        self.remember_paths(now);
        self.flush();
    }

    fn pump_tunnels(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.tunnels.poll_event() {
                self.on_tunnel_event(now, event);
            }
            if !self.transmit_one(now) {
                break;
            }
        }
    }

    fn on_tunnel_event(&mut self, now: Instant, event: TunnelEvent) {
        match event {
            TunnelEvent::Connected { key, peer, role } => {
                self.connections.insert_plain(key, peer, &self.tables);
                if role == Role::Pair && !self.is_following(key) {
                    // It may be another process than the one that older connections were made with.
                    self.nudge_everywhere(peer);
                    self.report(OverlayReport::TunnelUp { peer });
                }
            }
            TunnelEvent::HelloReceived { key, policy } => {
                self.connections.set_policy(key, &policy, &self.tables);
                self.on_ready(now, key);
            }
            TunnelEvent::ChannelWorn { key } => self.epochs.on_worn(now, key),
            TunnelEvent::PairKeys { peer, keys, may_send, continues, .. } => {
                self.shared.insert_keys(peer, keys, may_send, continues);
                if let Some(keeper) = &mut self.keeper {
                    keeper.set_probed_links(now, &self.tables, &self.shared);
                }
            }
            TunnelEvent::Lost { key, peer, role, loss, failure, reason } => {
                if loss == Loss::Restarted {
                    self.nudge_everywhere(peer);
                }
                if let Some(keeper) = &mut self.keeper {
                    keeper.pairs.on_lost(now, peer, key);
                }
                // A new process may have dialled before the end of the old connection was seen.
                if role == Some(Role::Pair) && !self.has_pair(peer) {
                    self.forget_keys_if_revoked(peer, failure);
                    self.report(OverlayReport::TunnelDown { peer, failure, reason });
                }
                self.forget(now, key);
            }
            TunnelEvent::PeerRefused { peer, failure, reason } => {
                self.forget_keys_if_revoked(peer, failure);
                self.report(OverlayReport::PeerRefused { peer, failure, reason });
            }
            TunnelEvent::Bus { peer, payload } => self.report(OverlayReport::Bus { peer, payload }),
            TunnelEvent::StreamIncoming { stream, peer, open } => {
                self.used(stream.connection, now);
                self.events.push_back(OverlayEvent::StreamIncoming { key: stream, peer, open });
            }
            TunnelEvent::StreamOpened { stream } => {
                self.events.push_back(OverlayEvent::StreamOpened { key: stream })
            }
            TunnelEvent::StreamRefused { stream, reason } => {
                self.events.push_back(OverlayEvent::StreamRefused { key: stream, reason });
            }
            TunnelEvent::StreamReadable { stream } => {
                self.used(stream.connection, now);
                self.events.push_back(OverlayEvent::StreamReadable { key: stream });
            }
            TunnelEvent::StreamWritable { stream } => {
                self.events.push_back(OverlayEvent::StreamWritable { key: stream });
            }
            TunnelEvent::StreamGone { stream, code, loss } => {
                self.events.push_back(OverlayEvent::StreamGone { key: stream, code, loss });
            }
        }
    }

    /// Keys outlive the connection that they come from; those with a peer that is revoked must not.
    fn forget_keys_if_revoked(&self, peer: PopId, failure: HandshakeFailure) {
        if failure == HandshakeFailure::Revoked && self.keeper.is_some() && !self.has_pair(peer) {
            self.shared.remove_keys(peer);
        }
    }

    fn has_pair(&self, peer: PopId) -> bool {
        let is_pair = |view: &ConnectionView<'_>| view.peer == peer && view.role == Some(Role::Pair);
        self.tunnels.connections().any(|(_, view)| is_pair(&view) && view.state == ConnectionState::Ready)
    }

    /// A connection has ended: no handle and no session may name it any more.
    fn forget(&mut self, now: Instant, key: ChannelKey) {
        if let Some(line) = self.connections.remove(key) {
            self.events.push_back(OverlayEvent::ChannelGone { channel: line });
        }
        if let Some(useless) = self.epochs.on_gone(now, key) {
            self.close(now, useless);
        }
    }

    /// End a connection that is of no use any more.
    fn close(&mut self, now: Instant, key: ChannelKey) {
        self.tunnels.close(now, key, CloseCode::Done);
        self.forget(now, key);
    }

    /// A connection carries traffic. Returns what is known of the largest packet that passes, 0 if nothing is.
    fn used(&self, connection: ChannelKey, now: Instant) -> u16 {
        self.connections.on_used(connection, self.shared.clock_ms(now))
    }

    fn report(&mut self, report: OverlayReport) {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop_front();
            self.drop_packet("overlay_reports_full");
        }
        self.reports.push_back(report);
    }

    fn drop_packet(&mut self, reason: &'static str) {
        *self.totals.drops.entry(reason).or_default() += 1;
    }

    /// What the edges must know next.
    pub(crate) fn poll_event(&mut self) -> Option<OverlayEvent> {
        self.events.pop_front()
    }

    /// What the daemon must know next.
    pub(crate) fn poll_report(&mut self) -> Option<OverlayReport> {
        self.reports.pop_front()
    }

    /// Whether all workers are to be woken, because connections of theirs must send again at once.
    pub(crate) fn take_alarm(&mut self) -> bool {
        std::mem::take(&mut self.has_alarm)
    }

    /// The frames of this turn; give them back with [`Self::give_back`].
    pub(crate) fn take_frames(&mut self) -> FrameArena {
        std::mem::take(&mut self.arena)
    }

    /// Return the arena so that its memory is used again.
    pub(crate) fn give_back(&mut self, mut arena: FrameArena) {
        arena.clear();
        self.arena = arena;
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let keeper = self.keeper.as_ref().and_then(Keeper::poll_timeout);
        let epochs = self.epochs.poll_timeout();
        [self.tunnels.poll_timeout(), keeper, epochs, self.peers.poll_timeout()].into_iter().flatten().min()
    }

    /// A deadline has come. Follow with [`Self::pump`].
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.tunnels.poll_timeout().is_some_and(|at| at <= now) {
            self.tunnels.handle_timeout(now);
        }
    }

    /// Send a control message to a neighbour; false: there is no pair connection, or its queue is full (counted).
    pub(crate) fn send_bus(&mut self, peer: PopId, payload: &[u8]) -> bool {
        self.tunnels.send_bus(peer, payload).is_ok()
    }

    /// Close every connection, telling the peers why.
    pub(crate) fn shut_down(&mut self, now: Instant) {
        let keys: Vec<_> = self.tunnels.connections().map(|(key, _)| key).collect();
        for key in keys {
            self.tunnels.close(now, key, CloseCode::ShuttingDown);
        }
        while self.transmit_one(now) {}
        self.flush();
    }

    /// Totals since the worker started.
    pub(crate) fn totals(&self) -> OverlayTotals {
        let mut totals = self.totals.clone();
        let tunnels = self.tunnels.counters();
        totals.connections = tunnels.connections as u64;
        totals.retries = tunnels.retries;
        totals.epochs = self.epochs.totals();
        if self.keeper.is_some() {
            totals.paths_forgotten = self.shared.paths_forgotten();
        }
        (totals.packets_resent, totals.packets_unkept) = (tunnels.packets_resent, tunnels.packets_unkept);
        totals.packets_split = tunnels.packets_split;
        (totals.memory_granted, totals.memory_sending) = (tunnels.window_bytes, tunnels.sending_bytes);
        totals.memory_full = tunnels.windows_short + tunnels.writes_short;
        (totals.repairs_sent, totals.packets_repaired) = (tunnels.repairs_sent, tunnels.packets_repaired);
        totals.handshakes_failed = tunnels.handshakes_failed;
        let known = |(name, totals): (&str, &TransitTotals)| (name.to_owned(), totals.clone());
        totals.transit = self.previous.totals().map(known).collect();
        for (reason, count) in tunnels.drops {
            *totals.drops.entry(reason.as_str()).or_default() += count;
        }
        totals
    }

    /// What a flow's record says of a handle.
    pub(crate) fn describe_handle(&self, handle: u32) -> Option<HandleView<'_>> {
        let handle = self.tables.handle(handle)?;
        Some(HandleView {
            peer: &self.tables.peer(handle.peer)?.name,
            policy: &handle.policy,
            path: handle.active_path().map_or(PathId(0), |path| path.id),
            links: handle.active_path().map_or(&[], |path| &path.links),
            path_changes: handle.state.path_changes.load(Ordering::Relaxed),
        })
    }

    /// What a flow's record says of the connection that carries a stream or channel.
    pub(crate) fn describe_channel(&self, channel: ChannelKey) -> Option<PeerView<'_>> {
        let view = self.tunnels.connection(self.connections.carrier(channel))?;
        Some(PeerView { peer: view.peer_name, policy: view.policy })
    }
}
