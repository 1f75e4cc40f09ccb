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
//! | `strays` | packets that came to the wrong worker |
//! | `transmit` | packets out: handle → path → link → socket |
//! | `connections` | which connection belongs to which handle |
//! | `keeper` | worker 0 only: pair connections, probes, hellos, which path is alive |
//! | `choice` | which of its paths a handle takes |
//! | `duplication` | which datagrams go over two paths |
//! | `pairs` | when pair connections are dialled |
//! | `presence` | which peers cannot be reached at all, and what that means for connections |
//! | `streams` | what the edges call |
//! | `shared` | what all workers share |
//! | `frames` | datagram frames of one turn |
//!
//! After every input the worker calls [`Overlay::pump`], then drains [`Overlay::poll_event`] and the frames.

mod choice;
mod connections;
mod duplication;
mod frames;
mod keeper;
mod pairs;
mod passage;
mod presence;
mod receive;
mod shared;
mod strays;
mod streams;
mod tables;
mod transmit;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::HashMap;
use l4proxy_proto::liveness::PathQuality;
use l4proxy_tunnel::{
    ConnectionState, ConnectionView, HandshakeFailure, Identity, IdentityError, PathHint, Role, TunnelEvent,
    TunnelOptions, Tunnels,
};
use l4proxy_wire::codes::{CloseCode, Reason, StreamCode};
use l4proxy_wire::ids::{PathId, PopId};
use l4proxy_wire::open::OpenOwned;

pub(crate) use self::duplication::{Wish, app_budget};
pub(crate) use self::frames::FrameArena;
pub(crate) use self::shared::OverlayShared;
pub(crate) use self::tables::{OverlayStates, OverlayTables, TableError};
pub(crate) use l4proxy_proto::liveness::Presence;
pub(crate) use l4proxy_tunnel::{
    ConnectionKey as ChannelKey, Loss, StreamRead, StreamWrite, TunnelStream as StreamKey,
};

use self::connections::Connections;
use self::keeper::Keeper;
use self::passage::Passage;
use self::presence::Peers;
use self::strays::Stray;
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
    pub(crate) connections: u64,
    pub(crate) handshakes_failed: BTreeMap<HandshakeFailure, u64>,
    pub(crate) drops: HashMap<&'static str, u64>,
}

/// The overlay's part of one worker.
pub(crate) struct Overlay {
    shared: Arc<OverlayShared>,
    tables: Arc<OverlayTables>,
    tunnels: Tunnels,
    connections: Connections,
    transmitter: Transmitter,
    passage: Passage,
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
    seen_outages: u64,
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
        Self {
            seen_outages: shared.outages(),
            is_alone: shared.workers() == 1,
            has_alarm: false,
            keeper: (worker == 0).then(|| Keeper::new(own, now, shared.started())),
            shared,
            tables: Arc::new(OverlayTables::empty(own)),
            tunnels: Tunnels::new(TunnelOptions::new(worker, own, seed)),
            peers: Peers::default(),
            connections: Connections::default(),
            transmitter: Transmitter::default(),
            passage: Passage::default(),
            astray: Vec::new(),
            to_wake: Vec::new(),
            worker: worker.into(),
            arena: FrameArena::default(),
            events: VecDeque::new(),
            reports: VecDeque::new(),
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
        self.tables = tables;
        let peers: Vec<_> = self.tables.peers.iter().map(|peer| (peer.id, peer.name.clone())).collect();
        self.tunnels.set_peers(&peers);
        let left: Vec<_> = self
            .tunnels
            .connections()
            .filter(|(_, view)| self.tables.peer(view.peer).is_none())
            .map(|(key, _)| key)
            .collect();
        for key in left {
            self.tunnels.close(now, key, CloseCode::Done);
            self.forget(key);
        }
        self.connections.rebind(&self.tables);
        self.know_peers();
        if let Some(keeper) = &mut self.keeper {
            keeper.apply(now, &self.tables, &self.shared);
        }
    }

    /// Send what is due: after every input, and when the deadline of [`Self::poll_timeout`] has come.
    pub(crate) fn pump(&mut self, now: Instant, wall_clock_ns: u64) {
        self.follow_outages(now);
        self.follow_peers(now);
        self.pump_tunnels(now);
        self.pump_keeper(now, wall_clock_ns);
        self.follow_outages(now);
        self.follow_peers(now);
        self.pump_tunnels(now);
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

    /// Connections whose path has died under their packets send them again at once instead of waiting for a timer.
    fn follow_outages(&mut self, now: Instant) {
        let outages = self.shared.outages();
        if std::mem::replace(&mut self.seen_outages, outages) == outages {
            return;
        }
        for key in self.connections.take_struck() {
            self.tunnels.handle_path_loss(now, key, PathHint::default());
        }
    }

    fn on_tunnel_event(&mut self, now: Instant, event: TunnelEvent) {
        match event {
            TunnelEvent::Connected { key, peer, role } => {
                self.connections.insert_plain(key, peer, &self.tables);
                if role == Role::Pair {
                    // It may be another process than the one that older connections were made with.
                    self.nudge_everywhere(peer);
                    self.report(OverlayReport::TunnelUp { peer });
                }
            }
            TunnelEvent::HelloReceived { key, policy } => {
                self.connections.set_policy(key, &policy, &self.tables);
            }
            TunnelEvent::PairKeys { peer, keys, may_send, .. } => {
                self.shared.insert_keys(peer, keys, may_send);
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
                self.forget(key);
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
    fn forget(&mut self, key: ChannelKey) {
        self.connections.remove(key);
        self.events.push_back(OverlayEvent::ChannelGone { channel: key });
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
        [self.tunnels.poll_timeout(), keeper, self.peers.poll_timeout()].into_iter().flatten().min()
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
        (totals.packets_resent, totals.packets_unkept) = (tunnels.packets_resent, tunnels.packets_unkept);
        (totals.repairs_sent, totals.packets_repaired) = (tunnels.repairs_sent, tunnels.packets_repaired);
        totals.handshakes_failed = tunnels.handshakes_failed;
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
            links: handle.active_path().map_or(&[], |path| &path.links),
            path_changes: handle.state.path_changes.load(Ordering::Relaxed),
        })
    }

    /// What a flow's record says of the connection that carries a stream or channel.
    pub(crate) fn describe_channel(&self, channel: ChannelKey) -> Option<PeerView<'_>> {
        let view = self.tunnels.connection(channel)?;
        Some(PeerView { peer: view.peer_name, policy: view.policy })
    }
}
