//! Which route handle each of this worker's connections belongs to, for life, and to which line of connections. Decides over which path a
//! connection's packets go; sends nothing.
//!
//! Connections that follow each other, each with keys of its own, are a **line**. Flows of datagrams belong to a line, which has the key of its
//! first connection: they never notice that another one carries them. A TCP flow belongs to one connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use l4proxy_tunnel::ConnectionKey;
use l4proxy_wire::ids::{PathId, PopId};

use super::carried::Told;
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
    /// The path that its packets took when it was last told.
    path: Option<PathId>,
    /// Flows of ours may use it: it was dialled here for a handle.
    dialled_for: Option<HandleId>,
    line: ConnectionKey,
    /// What it had carried when that was last summed.
    told: Told,
}

/// What has happened to the path of a connection.
#[derive(Debug)]
pub(super) struct PathChange {
    pub(super) key: ConnectionKey,
    pub(super) peer: PopId,
    pub(super) handle: Option<HandleId>,
    /// The path that packets took before.
    pub(super) before: Option<PathId>,
    /// What was on its way was lost; otherwise it arrives.
    pub(super) is_lost: bool,
}

/// The connections of one worker by handle.
#[derive(Debug, Default)]
pub(super) struct Connections {
    members: HashMap<ConnectionKey, Member>,
    by_handle: HashMap<HandleId, ConnectionKey>,
    /// The connection that carries a line's datagrams, where it is not the first.
    lines: HashMap<ConnectionKey, ConnectionKey>,
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
        let path = handle.and_then(Handle::active_path).map(|path| path.id);
        let handle = handle.map(|handle| handle.id);
        let seen_outages = outages(state.as_ref());
        let member = Member {
            peer,
            policy,
            handle,
            state,
            seen_outages,
            path,
            dialled_for,
            line: key,
            told: Told::default(),
        };
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

    /// A connection that is being made to follow `older`: the same handle, the same line. Nothing uses it before [`Self::promote`].
    pub(super) fn insert_following(
        &mut self,
        key: ConnectionKey,
        older: ConnectionKey,
        tables: &OverlayTables,
    ) {
        let Some(followed) = self.members.get(&older) else { return };
        let (peer, policy, line) = (followed.peer, followed.policy.clone(), followed.line);
        let (handle, dialled_for) = (followed.handle.and_then(|id| tables.handle(id)), followed.dialled_for);
        self.insert(key, peer, policy, handle, dialled_for);
        if let Some(member) = self.members.get_mut(&key) {
            member.line = line;
        }
    }

    /// What was carried by `older` is carried by `key` from here on: new flows of its handle and, if `is_line`, the datagrams of its line.
    pub(super) fn promote(&mut self, key: ConnectionKey, older: ConnectionKey, is_line: bool) {
        let Some(line) = self.members.get(&older).map(|older| older.line) else { return };
        let Some(member) = self.members.get_mut(&key) else { return };
        if is_line {
            member.line = line;
            self.lines.insert(line, key);
        } else {
            member.line = key;
        }
        if let Some(used) = member.dialled_for.and_then(|handle| self.by_handle.get_mut(&handle))
            && *used == older
        {
            *used = key;
        }
    }

    /// The connection that carries the datagrams of a line now.
    pub(super) fn carrier(&self, line: ConnectionKey) -> ConnectionKey {
        if self.lines.is_empty() { line } else { self.lines.get(&line).copied().unwrap_or(line) }
    }

    /// The line that a connection belongs to.
    pub(super) fn line(&self, key: ConnectionKey) -> ConnectionKey {
        self.members.get(&key).map_or(key, |member| member.line)
    }

    /// A connection has ended. Returns the line that has ended with it, if it carried its datagrams.
    pub(super) fn remove(&mut self, key: ConnectionKey) -> Option<ConnectionKey> {
        let line = self.line(key);
        let has_ended = self.carrier(line) == key;
        if has_ended {
            self.lines.remove(&line);
        }
        self.remove_member(key);
        has_ended.then_some(line)
    }

    fn remove_member(&mut self, key: ConnectionKey) {
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

    /// What has happened to the paths of connections since this was last asked.
    pub(super) fn take_changes(&mut self, tables: &OverlayTables) -> Vec<PathChange> {
        let mut changes = Vec::new();
        for (&key, member) in &mut self.members {
            let outages = outages(member.state.as_ref());
            let is_lost = std::mem::replace(&mut member.seen_outages, outages) != outages;
            let handle = member.handle.and_then(|id| tables.handle(id));
            let path = handle.and_then(Handle::active_path).map(|path| path.id);
            let before = std::mem::replace(&mut member.path, path);
            if is_lost || (path != before && path.is_some()) {
                changes.push(PathChange { key, peer: member.peer, handle: member.handle, before, is_lost });
            }
        }
        changes
    }

    /// Every connection with its handle, the path that its packets take as far as it was told, and what it had carried.
    pub(super) fn for_each_told(
        &mut self,
        mut each: impl FnMut(ConnectionKey, Option<HandleId>, Option<PathId>, &mut Told),
    ) {
        for (&key, member) in &mut self.members {
            each(key, member.handle, member.path, &mut member.told);
        }
    }

    /// What a connection has carried was looked at.
    pub(super) fn set_told(&mut self, key: ConnectionKey, told: Told) {
        if let Some(member) = self.members.get_mut(&key) {
            member.told = told;
        }
    }

    /// Every connection with the path that its packets take, as far as it was told.
    pub(super) fn paths(&self) -> impl Iterator<Item = (ConnectionKey, PopId, PathId)> {
        self.members.iter().filter_map(|(&key, member)| Some((key, member.peer, member.path?)))
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
