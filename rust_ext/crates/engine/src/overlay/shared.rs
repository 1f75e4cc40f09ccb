//! What the overlay parts of all workers share: keys of the other PoPs, and how often a handle was re-pointed.
//!
//! Worker 0 writes both (it keeps the pair connections and hears the hellos); every worker reads them on each packet, without a lock.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use l4proxy_proto::keys::KeyTable;
use l4proxy_tunnel::PathHint;
use l4proxy_wire::ids::{LinkId, PathId, PopId};
use l4proxy_wire::keys::{HopKey, PairKeys, ProbeKey};

use super::memory::RouteMemory;
use super::presence::PeerState;
use super::strays::Strays;

/// Uses of links that wait for worker 0, at most: each worker notes each pair of previous hop and link once a second.
const MAX_USES: usize = 8_192;

/// Keys with all peers, for both purposes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    pub(crate) hop: KeyTable<HopKey>,
    pub(crate) probe: KeyTable<ProbeKey>,
}

/// Incoming links of peers that move, by own and other address.
pub(super) type Found = HashMap<(SocketAddr, SocketAddr), LinkId>;

/// Shared by the workers of one engine.
#[derive(Debug)]
pub(crate) struct OverlayShared {
    /// Cloned and swapped whole when a pair connection gives new keys.
    pub(crate) keys: ArcSwap<Keys>,
    /// Counts outages and moves of handles: a worker that sees a new number looks which of its connections have lost what was on its way, and
    /// which take another path.
    path_changes: AtomicU64,
    /// What paths have carried. Locked once a second by each worker, and where a connection begins or moves.
    pub(super) memory: Mutex<RouteMemory>,
    /// What is thought of each peer. Locked only while a snapshot is put into force.
    peers: Mutex<HashMap<PopId, Arc<PeerState>>>,
    /// Counts what has changed in them.
    peer_changes: AtomicU64,
    /// Which link of a peer that moves comes to and from which addresses now. Written by worker 0, cloned and swapped whole.
    pub(super) found: ArcSwap<Found>,
    started: Instant,
    /// What the tunnels of one worker may hold.
    memory_bytes: AtomicUsize,
    /// Who has sent over which link of ours, as the workers note it; worker 0 takes them.
    uses: Mutex<Vec<(PopId, LinkId)>>,
    /// Packets that came to another worker than theirs, by the worker they are for.
    strays: Box<[Strays]>,
}

/// The tunnels of one worker hold at most so many bytes where nobody says otherwise.
const DEFAULT_MEMORY: usize = 1 << 30;

impl OverlayShared {
    /// Nothing is known yet. `now` becomes the zero of the engine's coarse clock.
    pub(crate) fn new(now: Instant, workers: usize) -> Self {
        let strays = (0..workers.max(1)).map(|_| Strays::default()).collect();
        Self {
            keys: ArcSwap::default(),
            path_changes: AtomicU64::new(0),
            memory: Mutex::default(),
            peers: Mutex::default(),
            peer_changes: AtomicU64::new(0),
            found: ArcSwap::default(),
            started: now,
            memory_bytes: AtomicUsize::new(DEFAULT_MEMORY),
            uses: Mutex::default(),
            strays,
        }
    }

    /// Workers that start from now on have tunnels that hold at most so many bytes.
    pub(crate) fn set_memory_bytes(&self, bytes: usize) {
        self.memory_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What the tunnels of one worker may hold, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Take keys of a pair connection into use: for receiving at once, for sending when the peer is known to have them. `continues`: its
    /// connection follows another one between the same two processes.
    pub(super) fn insert_keys(&self, peer: PopId, pair: PairKeys, may_send: bool, continues: bool) {
        let mut keys = Keys::clone(&self.keys.load());
        if may_send {
            keys.hop.set_send(peer, pair.hop_send, pair.epoch, continues);
            keys.probe.set_send(peer, pair.probe_send, pair.epoch, continues);
        } else if continues {
            keys.hop.add_following(peer, pair.hop_receive, pair.epoch);
            keys.probe.add_following(peer, pair.probe_receive, pair.epoch);
        } else {
            keys.hop.add_receive(peer, pair.hop_receive, pair.epoch);
            keys.probe.add_receive(peer, pair.probe_receive, pair.epoch);
        }
        self.keys.store(Arc::new(keys));
    }

    /// What the workers share of a peer.
    pub(super) fn peer(&self, peer: PopId) -> Arc<PeerState> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).entry(peer).or_default().clone()
    }

    /// How often something about a peer has changed.
    pub(super) fn peer_changes(&self) -> u64 {
        self.peer_changes.load(Ordering::Acquire)
    }

    /// Something about a peer has changed: each worker looks.
    pub(super) fn on_peer_change(&self) {
        self.peer_changes.fetch_add(1, Ordering::Release);
    }

    /// Forget what there was with a PoP that left the fleet.
    pub(super) fn remove_peer(&self, peer: PopId) {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        self.remove_keys(peer);
    }

    /// Forget the keys with a peer.
    pub(super) fn remove_keys(&self, peer: PopId) {
        let mut keys = Keys::clone(&self.keys.load());
        keys.hop.remove(peer);
        keys.probe.remove(peer);
        self.keys.store(Arc::new(keys));
    }

    /// How often a handle's path has died under its packets, or was changed, so far.
    pub(super) fn path_changes(&self) -> u64 {
        self.path_changes.load(Ordering::Acquire)
    }

    /// A handle's path has died under its packets, or they take another one.
    pub(super) fn on_path_change(&self) {
        self.path_changes.fetch_add(1, Ordering::Release);
    }

    /// What is known of a path.
    pub(super) fn hint(&self, now: Instant, peer: PopId, path: PathId) -> PathHint {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).hint(now, peer, path)
    }

    /// Paths that were forgotten because others needed their place.
    pub(super) fn paths_forgotten(&self) -> u64 {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).forgotten_early()
    }

    /// A previous hop has sent over a link. False: too many wait to be taken.
    pub(super) fn note_use(&self, previous: PopId, link: LinkId) -> bool {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = uses.len() < MAX_USES;
        if has_room {
            uses.push((previous, link));
        }
        has_room
    }

    /// What has been noted since the last call.
    pub(super) fn take_uses(&self) -> Vec<(PopId, LinkId)> {
        std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many workers the engine has.
    pub(super) const fn workers(&self) -> usize {
        self.strays.len()
    }

    /// What came to others and is for this worker.
    pub(super) fn strays(&self, worker: usize) -> &Strays {
        &self.strays[worker]
    }

    /// When the engine started.
    pub(super) const fn started(&self) -> Instant {
        self.started
    }

    /// Milliseconds of the engine's monotonic clock, never 0.
    pub(super) fn clock_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_that_nobody_takes_are_noted_up_to_the_bound() {
        let shared = OverlayShared::new(Instant::now(), 1);
        for number in 0..MAX_USES as u32 {
            assert!(shared.note_use(PopId(number), LinkId(1)));
        }
        assert!(!shared.note_use(PopId(0), LinkId(2)), "counted by the caller");
        assert_eq!(shared.take_uses().len(), MAX_USES);
        assert!(shared.note_use(PopId(0), LinkId(2)), "room again");
    }
}
