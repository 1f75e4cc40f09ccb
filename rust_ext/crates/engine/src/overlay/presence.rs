//! What is thought of whole peers, and what that means for the connections with them. Worker 0 judges, by hellos and by what all workers
//! have heard; each worker carries it out on its own connections and tells its edges. When who is suspect, away or lost is decided in
//! `proto::liveness`; what becomes of flows, by the edges. Reasons: docs/decisions/0010.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_proto::liveness::Presence;
use l4proxy_tunnel::{ConnectionView, Role};
use l4proxy_wire::ids::PopId;

use super::keeper::Keeper;
use super::tables::OverlayTables;
use super::{ChannelKey, Overlay, OverlayEvent, OverlayReport};

/// How often the connections with a suspect peer are made to ask whether it is still the process that they were made with.
const NUDGE_EVERY: Duration = Duration::from_millis(500);

/// A connection with a lost peer on which nothing came for this long is given up: longer than QUIC's keep-alive and a round trip, so that
/// one that still works is not.
const QUIET_FOR: Duration = Duration::from_secs(6);

/// How often the connections with a lost peer are looked through again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What all workers know of one peer as a whole.
#[derive(Debug, Default)]
pub(super) struct PeerState {
    /// A [`Presence`]; written by worker 0.
    presence: AtomicU8,
    /// When packets of its connections came last, in milliseconds of the engine's clock; 0: not since there was reason to look.
    heard_at_ms: AtomicU64,
    /// How often its connections were to be nudged.
    nudges: AtomicU64,
}

/// A peer as one worker knows it.
#[derive(Debug)]
struct Known {
    state: Arc<PeerState>,
    presence: Presence,
    nudges: u64,
}

/// The peers as one worker knows them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: HashMap<PopId, Known>,
    seen_changes: u64,
    /// How many are not [`Presence::Present`]: none, nearly always.
    doubtful: usize,
    look_again: Option<Instant>,
}

impl Peers {
    /// When lost peers are to be looked at again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.look_again
    }

    /// What worker 0 thinks of a peer at this moment.
    pub(super) fn judged(&self, peer: PopId) -> Presence {
        let known = self.known.get(&peer);
        known.map_or(Presence::Present, |known| {
            Presence::from_u8(known.state.presence.load(Ordering::Acquire))
        })
    }

    /// What this worker acts on.
    pub(super) fn presence(&self, peer: PopId) -> Presence {
        if self.doubtful == 0 {
            return Presence::Present;
        }
        self.known.get(&peer).map_or(Presence::Present, |known| known.presence)
    }
}

/// What worker 0 remembers of its judging.
#[derive(Debug, Default)]
pub(super) struct Judged {
    nudge_at: HashMap<PopId, Instant>,
}

impl Overlay {
    /// A snapshot has come into force.
    pub(super) fn know_peers(&mut self) {
        let mut before = std::mem::take(&mut self.peers.known);
        for peer in &self.tables.peers {
            let known = before.remove(&peer.id).unwrap_or_else(|| Known {
                state: self.shared.peer(peer.id),
                presence: Presence::Present,
                nudges: 0,
            });
            self.peers.known.insert(peer.id, known);
        }
        self.peers.seen_changes = 0;
    }

    /// Whether some peer is not present: nearly never, and then what follows need not be asked.
    pub(crate) const fn has_doubts(&self) -> bool {
        self.peers.doubtful > 0
    }

    /// Whether new flows had better not take a handle.
    pub(crate) fn is_doubtful(&self, handle: u32) -> bool {
        self.presence(handle) >= Presence::Suspect
    }

    /// What is thought of the peer of a handle.
    pub(crate) fn presence(&self, handle: u32) -> Presence {
        if self.peers.doubtful == 0 {
            return Presence::Present;
        }
        self.peer_of(handle).map_or(Presence::Present, |peer| self.peers.presence(peer))
    }

    /// The peer of a handle.
    pub(crate) fn peer_of(&self, handle: u32) -> Option<PopId> {
        self.tables.handle(handle).map(|handle| handle.peer)
    }

    /// Have all workers ask a peer whether it is still the process that their connections were made with.
    pub(super) fn nudge_everywhere(&mut self, peer: PopId) {
        if let Some(known) = self.peers.known.get(&peer) {
            known.state.nudges.fetch_add(1, Ordering::AcqRel);
            self.shared.on_peer_change();
            self.has_alarm = true;
        }
    }

    /// Ask a peer over the pair connections with it whether it is still the process that they were made with; on worker 0, which has them.
    pub(super) fn nudge_pairs(&mut self, peer: PopId) {
        let is_pair = |view: &ConnectionView<'_>| view.peer == peer && view.role == Some(Role::Pair);
        let pairs: Vec<ChannelKey> =
            self.tunnels.connections().filter(|(_, view)| is_pair(view)).map(|(key, _)| key).collect();
        for key in pairs {
            self.tunnels.nudge(key);
        }
    }

    /// Carry out what has changed about peers.
    pub(super) fn follow_peers(&mut self, now: Instant) {
        let changes = self.shared.peer_changes();
        let is_due = self.peers.look_again.is_some_and(|at| at <= now);
        if self.peers.seen_changes == changes && !is_due {
            return;
        }
        self.peers.seen_changes = changes;
        let mut nudged = Vec::new();
        for (&peer, known) in &mut self.peers.known {
            let nudges = known.state.nudges.load(Ordering::Acquire);
            if std::mem::replace(&mut known.nudges, nudges) != nudges {
                nudged.push(peer);
            }
            let presence = Presence::from_u8(known.state.presence.load(Ordering::Acquire));
            if std::mem::replace(&mut known.presence, presence) != presence {
                self.events.push_back(OverlayEvent::PeerPresence { peer, presence });
            }
        }
        let count = |least| self.peers.known.values().filter(|known| known.presence >= least).count();
        let (doubtful, lost) = (count(Presence::Suspect), count(Presence::Lost));
        self.peers.doubtful = doubtful;
        self.peers.look_again = (lost > 0).then_some(now + LOOK_AGAIN);
        self.nudge(&nudged);
        if lost > 0 {
            self.give_up(now, |peers, view| {
                let quiet = now.saturating_duration_since(view.last_received.unwrap_or(view.began));
                peers.presence(view.peer) == Presence::Lost && quiet >= QUIET_FOR
            });
        }
    }

    /// Nudge the connections with these peers, and say what came of earlier nudges.
    fn nudge(&mut self, peers: &[PopId]) {
        let mut nudged: Vec<ChannelKey> = Vec::new();
        for (key, view) in self.tunnels.connections().filter(|(_, view)| peers.contains(&view.peer)) {
            nudged.push(key);
            if let (Some(at), Some(known)) = (view.last_received, self.peers.known.get(&view.peer)) {
                known.state.heard_at_ms.fetch_max(self.shared.clock_ms(at), Ordering::AcqRel);
            }
        }
        for key in nudged {
            self.tunnels.nudge(key);
        }
    }

    /// Give up these connections: their flows are told at once.
    fn give_up(&mut self, now: Instant, is_over: impl Fn(&Peers, &ConnectionView<'_>) -> bool) {
        let over: Vec<ChannelKey> = self
            .tunnels
            .connections()
            .filter(|(_, view)| is_over(&self.peers, view))
            .map(|(key, _)| key)
            .collect();
        for key in over {
            self.tunnels.give_up(now, key);
        }
    }

    /// Judge every peer, on worker 0.
    pub(super) fn judge_peers(&mut self, now: Instant, keeper: &mut Keeper) {
        let tables: Arc<OverlayTables> = self.tables.clone();
        keeper.judged.nudge_at.retain(|peer, _| tables.peer(*peer).is_some());
        for peer in &tables.peers {
            let Some(known) = self.peers.known.get(&peer.id) else { continue };
            let heard_at_ms = known.state.heard_at_ms.load(Ordering::Acquire);
            let traffic =
                (heard_at_ms > 0).then(|| self.shared.started() + Duration::from_millis(heard_at_ms));
            let silence = keeper.liveness.out_of_touch(now, peer.id, traffic);
            let presence = silence.map_or(Presence::Present, Presence::after);
            let before = Presence::from_u8(known.state.presence.swap(presence.as_u8(), Ordering::AcqRel));
            if before != presence {
                self.shared.on_peer_change();
                self.has_alarm = true;
            }
            let is_lost = |presence: Presence| presence == Presence::Lost;
            match (is_lost(before), is_lost(presence)) {
                (false, true) => {
                    let silence_us = silence.map_or(0, |silence| silence.as_micros());
                    let silence_us = u64::try_from(silence_us).unwrap_or(u64::MAX);
                    self.report(OverlayReport::PeerLost { peer: peer.id, silence_us });
                }
                (true, false) if silence.is_some() => self.report(OverlayReport::PeerBack { peer: peer.id }),
                (true, _) | (false, false) => {}
            }
            if presence == Presence::Present {
                keeper.judged.nudge_at.remove(&peer.id);
            } else if keeper.judged.nudge_at.get(&peer.id).is_none_or(|&at| at <= now) {
                keeper.judged.nudge_at.insert(peer.id, now + NUDGE_EVERY);
                self.nudge_everywhere(peer.id);
            }
        }
    }
}
