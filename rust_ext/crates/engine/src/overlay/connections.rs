//! Which route handle each of this worker's connections belongs to, for life. Decides over which path a connection's packets go; sends nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use l4proxy_tunnel::ConnectionKey;
use l4proxy_wire::ids::PopId;

use super::tables::{Handle, HandleId, HandleState, OverlayTables};

/// One connection's place among the handles.
#[derive(Debug)]
struct Member {
    peer: PopId,
    policy: String,
    /// The handle that this peer and policy have in the snapshot in force.
    handle: Option<HandleId>,
    state: Option<Arc<HandleState>>,
    /// The outages of the handle that this connection knows of.
    seen_outages: u64,
    /// Flows of ours may use it: it was dialled here for a handle.
    dialled_for: Option<HandleId>,
}

/// The connections of one worker by handle.
#[derive(Debug, Default)]
pub(super) struct Connections {
    members: HashMap<ConnectionKey, Member>,
    by_handle: HashMap<HandleId, ConnectionKey>,
}

impl Connections {
    /// The connection that flows of a handle use, if there is one.
    pub(super) fn of_handle(&self, handle: HandleId) -> Option<ConnectionKey> {
        self.by_handle.get(&handle).copied()
    }

    /// A connection dialled for `handle`.
    pub(super) fn insert_dialled(&mut self, key: ConnectionKey, handle: &Handle) {
        self.by_handle.insert(handle.id, key);
        self.insert(key, handle.peer, handle.policy.clone(), Some(handle), Some(handle.id));
    }

    /// A connection that carries no flows of ours: a pair connection, or one that `peer` dialled. Its packets take the `off` handle
    /// until [`Self::set_policy`].
    pub(super) fn insert_plain(&mut self, key: ConnectionKey, peer: PopId, tables: &OverlayTables) {
        if !self.members.contains_key(&key) {
            self.insert(key, peer, String::from("off"), tables.handle_for(peer, "off"), None);
        }
    }

    fn insert(
        &mut self,
        key: ConnectionKey,
        peer: PopId,
        policy: String,
        handle: Option<&Handle>,
        dialled_for: Option<HandleId>,
    ) {
        let state = handle.map(|handle| handle.state.clone());
        count(state.as_ref(), true);
        let handle = handle.map(|handle| handle.id);
        let seen_outages = outages(state.as_ref());
        let member = Member { peer, policy, handle, state, seen_outages, dialled_for };
        if let Some(replaced) = self.members.insert(key, member) {
            count(replaced.state.as_ref(), false);
        }
    }

    /// The dialling side has named the policy of its handle: answer over the own handle of that name.
    pub(super) fn set_policy(&mut self, key: ConnectionKey, policy: &str, tables: &OverlayTables) {
        if let Some(member) = self.members.get_mut(&key)
            && member.dialled_for.is_none()
        {
            policy.clone_into(&mut member.policy);
            member.rebind(tables);
        }
    }

    /// A new snapshot is in force: handles may have come, gone, or taken other numbers.
    pub(super) fn rebind(&mut self, tables: &OverlayTables) {
        for member in self.members.values_mut() {
            member.rebind(tables);
        }
        let members = &self.members;
        self.by_handle.retain(|&id, key| {
            tables.handle(id).is_some_and(|handle| {
                members
                    .get(key)
                    .is_some_and(|member| member.peer == handle.peer && member.policy == handle.policy)
            })
        });
    }

    /// A connection has ended.
    pub(super) fn remove(&mut self, key: ConnectionKey) {
        if let Some(member) = self.members.remove(&key) {
            count(member.state.as_ref(), false);
            if let Some(handle) = member.dialled_for
                && self.by_handle.get(&handle) == Some(&key)
            {
                self.by_handle.remove(&handle);
            }
        }
    }

    /// The handle whose path a connection's packets take.
    pub(super) fn handle<'a>(&self, key: ConnectionKey, tables: &'a OverlayTables) -> Option<&'a Handle> {
        self.members.get(&key).and_then(|member| member.handle).and_then(|id| tables.handle(id))
    }

    /// Traffic of a flow uses the connection: its handle's paths are worth watching closely. Returns what is known of the largest packet
    /// that passes, 0 if nothing is.
    pub(super) fn on_used(&self, key: ConnectionKey, clock_ms: u64) -> u16 {
        let Some(state) = self.members.get(&key).and_then(|member| member.state.as_ref()) else { return 0 };
        state.used_at_ms.store(clock_ms, Ordering::Relaxed);
        state.mtu.load(Ordering::Relaxed)
    }

    /// What is known of the largest packet that passes over the path of a connection's handle, 0 if nothing is.
    pub(super) fn path_mtu(&self, key: ConnectionKey) -> u16 {
        self.members
            .get(&key)
            .and_then(|member| member.state.as_ref())
            .map_or(0, |state| state.mtu.load(Ordering::Relaxed))
    }

    /// The connections whose packets were lost with a path, since this was last asked.
    pub(super) fn take_struck(&mut self) -> Vec<ConnectionKey> {
        let mut struck = Vec::new();
        for (&key, member) in &mut self.members {
            let outages = outages(member.state.as_ref());
            if std::mem::replace(&mut member.seen_outages, outages) != outages {
                struck.push(key);
            }
        }
        struck
    }
}

impl Member {
    fn rebind(&mut self, tables: &OverlayTables) {
        let handle = tables.handle_for(self.peer, &self.policy);
        let state = handle.map(|handle| handle.state.clone());
        count(state.as_ref(), true);
        count(self.state.as_ref(), false);
        self.handle = handle.map(|handle| handle.id);
        let is_same = state.as_ref().map(Arc::as_ptr) == self.state.as_ref().map(Arc::as_ptr);
        self.state = state;
        if !is_same {
            self.seen_outages = outages(self.state.as_ref());
        }
    }
}

fn outages(state: Option<&Arc<HandleState>>) -> u64 {
    state.map_or(0, |state| state.outages.load(Ordering::Acquire))
}

fn count(state: Option<&Arc<HandleState>>, added: bool) {
    if let Some(state) = state {
        if added {
            state.connections.fetch_add(1, Ordering::Relaxed);
        } else {
            state.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
