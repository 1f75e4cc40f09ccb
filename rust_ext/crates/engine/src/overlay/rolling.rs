//! Connections follow each other: dialling successors, taking them into use at both ends, closing what was followed. When is decided in `epochs`.

use std::time::Instant;

use l4proxy_tunnel::{ConnectionState, Role};

use super::{ChannelKey, Overlay};

impl Overlay {
    /// Dial the successors that are due, and close what was followed long enough ago.
    pub(super) fn pump_epochs(&mut self, now: Instant) {
        while let Some(older) = self.epochs.poll_dial(now) {
            let hint = self.hint_of(now, self.connections.handle(older, &self.tables));
            match self.tunnels.connect_following(now, older, hint) {
                Ok(key) => {
                    self.connections.insert_following(key, older, &self.tables);
                    self.epochs.on_dialled(older, key);
                }
                // No place: later. Until then the older one goes on, as long as its keys may be used.
                Err(_) => self.epochs.on_failed(now, older),
            }
        }
        let tunnels = &self.tunnels;
        let streams = |key| tunnels.connection(key).map_or(0, |view| view.streams);
        for key in self.epochs.take_finished(now, streams) {
            self.close(now, key);
        }
    }

    /// Both ends of a connection know each other. If it follows another one, that one is left.
    pub(super) fn on_ready(&mut self, now: Instant, key: ChannelKey) {
        let Some(view) = self.tunnels.connection(key) else { return };
        let (peer, role, follows, is_dialled) = (view.peer, view.role, view.follows, view.dialled);
        let left = if is_dialled { self.epochs.on_ready(now, key) } else { follows };
        let Some(older) = left else { return };
        // Where the peer knows nothing of the older one, sessions there begin anew: their channel is not this one.
        self.connections.promote(key, older, follows.is_some());
        if role == Some(Role::Pair) {
            if let Some(keeper) = &mut self.keeper {
                keeper.pairs.on_followed(now, peer, older, key);
            }
        } else if follows.is_some() {
            self.tunnels.retire(older);
        }
    }

    /// Whether a connection goes on with what another living one began.
    pub(super) fn is_following(&self, key: ChannelKey) -> bool {
        let follows = self.tunnels.connection(key).and_then(|view| view.follows);
        let older = follows.and_then(|older| self.tunnels.connection(older));
        older.is_some_and(|view| view.state == ConnectionState::Ready)
    }
}
