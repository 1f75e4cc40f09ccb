//! Connections are told of the path that their packets take: when it dies, when it is changed on purpose, and before they begin. What is told
//! comes from `memory`, and what their controllers have measured goes there.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use l4proxy_tunnel::PathHint;
use l4proxy_wire::ids::PopId;

use super::keeper::Keeper;
use super::tables::{Handle, OverlayTables};
use super::{Overlay, OverlayShared};

/// How often it is noted what paths carry.
const REMEMBER_EVERY: Duration = Duration::from_secs(1);

impl Overlay {
    /// Connections whose path has died under their packets send them again at once instead of waiting for a timer; those whose packets take
    /// another path now are told what is known of it.
    pub(super) fn follow_paths(&mut self, now: Instant) {
        let changes = self.shared.path_changes();
        let has_changed = std::mem::replace(&mut self.seen_changes, changes) != changes;
        if !std::mem::take(&mut self.has_new_paths) && !has_changed {
            return;
        }
        self.sum_paths(now);
        let tables = self.tables.clone();
        for change in self.connections.take_changes(&tables) {
            // What was measured while a path died is not what it carries.
            let measured = self.tunnels.take_measured(change.key).filter(|_| !change.is_lost);
            if let Some((before, measured)) = change.before.zip(measured) {
                let mut memory = self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.on_measured(now, change.peer, before, measured);
            }
            let hint = self.hint_of(now, change.handle.and_then(|id| tables.handle(id)));
            // First, so that what is sent again is as short as the path wants it.
            self.tunnels.set_path_mtu(change.key, self.connections.path_mtu(change.key));
            if change.is_lost {
                self.tunnels.handle_path_loss(now, change.key, hint);
                self.pass_over_losses(change.key);
            } else {
                self.tunnels.handle_path_change(change.key, hint);
            }
        }
    }

    /// What is known of the path that the packets of a handle take.
    pub(super) fn hint_of(&self, now: Instant, handle: Option<&Handle>) -> PathHint {
        let path = handle.and_then(|handle| Some((handle.peer, handle.active_path()?.id)));
        path.map_or(PathHint::default(), |(peer, path)| self.shared.hint(now, peer, path))
    }

    /// Note what the paths of this worker's connections have carried, and with what connections of peers are to begin.
    pub(super) fn remember_paths(&mut self, now: Instant) {
        if now < self.remember_at {
            return;
        }
        self.remember_at = now + REMEMBER_EVERY;
        self.sum_paths(now);
        let tables = self.tables.clone();
        if let Some(keeper) = &self.keeper {
            note_round_trips(now, keeper, &tables, &self.shared);
        }
        let mut memory = self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, peer, path) in self.connections.paths() {
            if let Some(measured) = self.tunnels.take_measured(key) {
                memory.on_measured(now, peer, path, measured);
            }
        }
        let hint = |handle: &Handle| Some(memory.hint(now, handle.peer, handle.active_path()?.id));
        let hints = tables.peers.iter().map(|peer| {
            // Which handle a peer's connection is for is known when it has begun: the most careful of what is known fits all.
            let handles = tables.handles().filter(|handle| handle.peer == peer.id);
            (peer.id, handles.filter_map(hint).reduce(PathHint::more_careful).unwrap_or_default())
        });
        let hints: Vec<(PopId, PathHint)> = hints.collect();
        drop(memory);
        self.tunnels.expect_from_peers(hints);
    }
}

/// The round trips of the paths that hellos go over.
fn note_round_trips(now: Instant, keeper: &Keeper, tables: &OverlayTables, shared: &OverlayShared) {
    let mut memory = shared.memory.lock().unwrap_or_else(PoisonError::into_inner);
    for handle in tables.handles() {
        for path in &handle.paths {
            if let Some(rtt) = keeper.liveness.path_rtt(handle.peer, path.id) {
                memory.on_round_trip(now, handle.peer, path.id, rtt);
            }
        }
    }
}
