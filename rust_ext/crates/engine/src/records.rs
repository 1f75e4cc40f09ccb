//! What is said of a flow, while it lives and when it has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::counters::Fate;
use crate::edge::ending::Ending;
use crate::messages::{FlowRecord, FlowRole, FlowView};
use crate::shared::Report;
use crate::snapshot::Protocol;
use crate::turn::Turn;

/// The other PoP of a flow, as it was when the flow went that way.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) peer: String,
    pub(crate) policy: String,
    /// Names of the links towards it; empty at the egress, which does not choose the way.
    pub(crate) path: Vec<String>,
    /// The handle, at the ingress, and how often its path had changed before.
    pub(crate) handle: Option<(u32, u64)>,
}

impl Remote {
    /// By a handle of ours.
    pub(crate) fn of_handle(turn: &Turn<'_>, handle: u32) -> Option<Self> {
        turn.overlay.describe_handle(handle).map(|view| Self {
            peer: view.peer.to_owned(),
            policy: view.policy.to_owned(),
            path: view.links.to_vec(),
            handle: Some((handle, view.path_changes)),
        })
    }

    /// How often the path has changed since, and what it is now. After the handle has gone: what was known.
    fn now(&self, turn: &Turn<'_>) -> (Vec<String>, u64) {
        let view = self.handle.and_then(|(handle, before)| {
            let view = turn.overlay.describe_handle(handle).filter(|view| view.peer == self.peer)?;
            Some((view.links.to_vec(), view.path_changes.saturating_sub(before)))
        });
        view.unwrap_or_else(|| (self.path.clone(), 0))
    }
}

/// What a flow is, from its beginning to its record.
#[derive(Debug)]
pub(crate) struct FlowMeta {
    pub(crate) id: u64,
    pub(crate) app: Arc<App>,
    pub(crate) protocol: Protocol,
    pub(crate) role: FlowRole,
    pub(crate) client: SocketAddr,
    pub(crate) listener: SocketAddr,
    /// Index into the app's origins; None before the first attempt.
    pub(crate) origin: Option<usize>,
    pub(crate) remote: Option<Remote>,
    /// How often it has moved to another egress.
    pub(crate) egress_changes: u32,
    pub(crate) started: Instant,
    /// The name that the client asks for with TLS.
    pub(crate) server_name: Option<Box<str>>,
    /// How long it took to reach the origin.
    pub(crate) connected: Option<Duration>,
    /// How long until the origin's first byte.
    pub(crate) first_byte: Option<Duration>,
}

/// What a flow has carried so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Carried {
    pub(crate) bytes_to_origin: u64,
    pub(crate) bytes_to_client: u64,
    pub(crate) datagrams_to_origin: u64,
    pub(crate) datagrams_to_client: u64,
    pub(crate) dropped: u64,
}

impl FlowMeta {
    /// Count what became of the flow by the way that it went.
    pub(crate) fn note(&self, turn: &Turn<'_>, outcome: Fate) {
        let handle = match (self.role, &self.remote) {
            // The client's PoP knows the way; here it is an origin that is dialled from here.
            (FlowRole::Local | FlowRole::Egress, _) => None,
            (FlowRole::Ingress, Some(Remote { handle: Some((handle, _)), .. })) => Some(*handle),
            (FlowRole::Ingress, _) => return,
        };
        turn.note(&self.app, handle, outcome);
    }

    /// For `list_flows` and records; `source` is our address towards the origin.
    pub(crate) fn view(
        &self,
        turn: &Turn<'_>,
        carried: Carried,
        last_used: Instant,
        source: Option<SocketAddr>,
    ) -> FlowView {
        let own = &turn.shared.pop;
        let peer = self.remote.as_ref().map(|remote| remote.peer.clone());
        let other = || peer.clone().unwrap_or_else(|| own.clone());
        let (ingress, egress) = match self.role {
            FlowRole::Local => (own.clone(), own.clone()),
            FlowRole::Ingress => (own.clone(), other()),
            FlowRole::Egress => (other(), own.clone()),
        };
        let (path, path_changes) =
            self.remote.as_ref().map_or_else(|| (Vec::new(), 0), |remote| remote.now(turn));
        FlowView {
            id: format!("{:016x}", self.id),
            app: self.app.name.clone(),
            protocol: self.protocol,
            client: self.client.to_string(),
            listener: self.listener.to_string(),
            ingress,
            egress,
            role: self.role,
            policy: self.remote.as_ref().map(|remote| remote.policy.clone()),
            peer,
            path,
            origin: self.origin.map(|origin| self.app.origins[origin].name.clone()).unwrap_or_default(),
            source: source.map(|address| address.to_string()),
            bytes_to_origin: carried.bytes_to_origin,
            bytes_to_client: carried.bytes_to_client,
            datagrams_to_origin: carried.datagrams_to_origin,
            datagrams_to_client: carried.datagrams_to_client,
            dropped: carried.dropped,
            age_ms: milliseconds(turn.now.saturating_duration_since(self.started)),
            idle_ms: milliseconds(turn.now.saturating_duration_since(last_used)),
            path_changes,
            egress_changes: self.egress_changes,
        }
    }

    /// Whether the lists in force deny the client. One who came to another PoP is that one's to judge.
    pub(crate) fn is_denied(&self, turn: &Turn<'_>) -> bool {
        let came_here = match self.role {
            FlowRole::Local | FlowRole::Ingress => true,
            FlowRole::Egress => false,
        };
        let table = turn.tables.access(&self.app.name).filter(|_| came_here);
        table.is_some_and(|table| !table.allows(self.client.ip()))
    }

    /// The flow has ended: count it, and write its record if the daemon wants one. `source` is our address towards the origin; it costs
    /// a system call.
    pub(crate) fn tell_end(
        &self,
        turn: &mut Turn<'_>,
        carried: Carried,
        last_used: Instant,
        ending: Ending,
        source: impl FnOnce() -> Option<SocketAddr>,
    ) {
        self.app.state.counters.add_ended(turn.worker, self.protocol, ending.code());
        if turn.shared.wants_records.load(Ordering::Relaxed) {
            let record = self.record(turn, self.view(turn, carried, last_used, source()), ending);
            turn.reports.push(Report::Record(Box::new(record)));
        }
    }

    /// What is written of it.
    fn record(&self, turn: &Turn<'_>, flow: FlowView, ending: Ending) -> FlowRecord {
        FlowRecord {
            flow,
            started_ns: turn.wall_clock_of(self.started),
            ended_ns: turn.wall_ns,
            connect_ms: self.connected.map(fine_milliseconds),
            first_byte_ms: self.first_byte.map(fine_milliseconds),
            code: ending.code(),
            reason: ending.reason(),
            closed_by: ending.closed_by(),
            sni: self.server_name.as_deref().map(str::to_owned),
            record_client: self.app.policy.record_client.as_str(),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// To the microsecond.
fn fine_milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}
