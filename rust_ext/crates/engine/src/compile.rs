//! From a snapshot to the tables that the workers look things up in. Whatever is wrong with a snapshot is found here, before
//! anything changes; the reason goes back to the daemon.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;
use l4proxy_proto::access::AccessTable;
use l4proxy_proto::origin_order::{Host, Target};
use l4proxy_proto::source_pool::SourcePool;
use l4proxy_wire::open::MAX_NAME_LENGTH;

use crate::admission::lists::AccessLists;
use crate::app::{App, AppState, Candidate, Listen, Origin};
use crate::edge::reach::Reach;
use crate::messages::{SocketKey, SocketRole};
use crate::overlay::{OverlayStates, OverlayTables, TableError};
use crate::policy::Policy;
use crate::snapshot::{
    AppSpec, CandidateSpec, ListenSpec, OptionsSpec, OriginKind, OriginSpec, Protocol, Snapshot, TargetSpec,
};
use crate::sockets::{Held, Sockets};

#[cfg(test)]
mod tests;

/// States of apps by name, kept across snapshots.
pub(crate) type AppStates = HashMap<String, Arc<AppState>>;

/// One snapshot as the workers use it.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    /// Counts snapshots of this engine; a daemon's generations may begin anew.
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    pub(crate) apps: Vec<Arc<App>>,
    /// Who may come to each of the apps; None: everybody. Not in the app, which its flows keep: a table is large, and flows live long.
    access: Vec<Option<Arc<AccessTable>>>,
    by_name: HashMap<String, usize>,
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// What clients may come to at this PoP, of all apps.
    pub(crate) own_listens: Vec<Listen>,
    pub(crate) overlay: Arc<OverlayTables>,
    pub(crate) overlay_sockets: Vec<OverlaySocket>,
    pub(crate) options: OptionsSpec,
    /// Goes up when clients of some app may have to go: its access table is another one.
    pub(crate) access_epoch: u64,
}

/// What clients may come to, one socket per worker.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) protocol: Protocol,
    /// As text: part of the socket's key.
    pub(crate) address: String,
    /// The same; unspecified: all addresses, of both families.
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) app: Arc<App>,
    /// Who may come; None: everybody.
    pub(crate) access: Option<Arc<AccessTable>>,
    /// By worker.
    pub(crate) sockets: Vec<Held>,
}

/// What other PoPs may send to, one socket per worker.
#[derive(Debug, Clone)]
pub(crate) struct OverlaySocket {
    pub(crate) local: SocketAddr,
    /// As text: part of the socket's key.
    pub(crate) address: String,
    /// By worker.
    pub(crate) sockets: Vec<Held>,
}

/// Why a snapshot is not put into force; for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refused {
    /// The daemon has not handed over a socket before it named it.
    #[error("there is no socket for {0}")]
    NoSocket(SocketKey),
    /// Two apps listen on the same place.
    #[error("apps {first} and {second} both listen on {protocol}/{address} port {port}", protocol = .protocol.as_str())]
    Overlap {
        /// One app.
        first: String,
        /// The other.
        second: String,
        /// Of both.
        protocol: Protocol,
        /// Of both.
        address: String,
        /// Of both.
        port: u16,
    },
    /// Something in an app makes no sense.
    #[error("app {app}: {what}")]
    App {
        /// Its name.
        app: String,
        /// What is wrong.
        what: String,
    },
    /// Two apps of one name.
    #[error("two apps are named {0}")]
    TwoApps(String),
    /// Tunnels cannot be made without an identity.
    #[error("there are peers but no identity")]
    NoIdentity,
    /// A socket's address is no address.
    #[error("{0:?} is no address of the form ip:port")]
    Address(String),
    /// The overlay's part is wrong.
    #[error(transparent)]
    Overlay(#[from] TableError),
}

/// What compiling needs besides the snapshot.
pub(crate) struct Compiler<'a> {
    pub(crate) epoch: u64,
    pub(crate) workers: usize,
    pub(crate) has_identity: bool,
    pub(crate) sockets: &'a Sockets,
    pub(crate) hasher: &'a RandomState,
    pub(crate) app_states: &'a mut AppStates,
    pub(crate) overlay_states: &'a mut OverlayStates,
    pub(crate) access_lists: &'a mut AccessLists,
}

impl Tables {
    /// Before the first snapshot: nothing is listened to and nobody is known.
    pub(crate) fn empty(own: l4proxy_wire::ids::PopId) -> Self {
        Self {
            epoch: 0,
            generation: 0,
            apps: Vec::new(),
            access: Vec::new(),
            by_name: HashMap::new(),
            listeners: Vec::new(),
            own_listens: Vec::new(),
            overlay: Arc::new(OverlayTables::empty(own)),
            overlay_sockets: Vec::new(),
            options: OptionsSpec::default(),
            access_epoch: 0,
        }
    }

    /// The same for an engine that is draining: TCP clients are not listened to any more, and the sockets for it are let go.
    pub(crate) fn draining(&self) -> Self {
        let mut tables = self.clone();
        tables.epoch += 1;
        tables.listeners.retain(|listener| listener.protocol != Protocol::Tcp);
        tables
    }

    /// An app by name.
    pub(crate) fn app(&self, name: &str) -> Option<&Arc<App>> {
        self.by_name.get(name).map(|&index| &self.apps[index])
    }

    /// Who may come to an app; None: everybody, as far as is known.
    pub(crate) fn access(&self, name: &str) -> Option<&Arc<AccessTable>> {
        self.by_name.get(name).and_then(|&index| self.access[index].as_ref())
    }

    /// Whether some app's clients are held against another table than before.
    pub(crate) fn has_other_access(&self, before: &Self) -> bool {
        self.apps.iter().any(|app| {
            let (table, old) = (self.access(&app.name), before.access(&app.name));
            table.is_some() && table.map(Arc::as_ptr) != old.map(Arc::as_ptr)
        })
    }

    /// The keys of all sockets that this snapshot names.
    pub(crate) fn socket_keys(&self) -> impl Iterator<Item = SocketKey> + '_ {
        let listeners = self.listeners.iter().flat_map(|listener| {
            (0..listener.sockets.len())
                .map(|worker| listener_key(listener.protocol, &listener.address, listener.port, worker))
        });
        let overlay = self.overlay_sockets.iter().flat_map(|socket| {
            (0..socket.sockets.len()).map(|worker| overlay_key(&socket.address, socket.local.port(), worker))
        });
        listeners.chain(overlay)
    }
}

fn listener_key(protocol: Protocol, address: &str, port: u16, worker: usize) -> SocketKey {
    let worker = worker as u32;
    SocketKey { role: SocketRole::Listener, protocol, address: address.to_owned(), port, worker }
}

fn overlay_key(address: &str, port: u16, worker: usize) -> SocketKey {
    let (role, protocol) = (SocketRole::Overlay, Protocol::Udp);
    SocketKey { role, protocol, address: address.to_owned(), port, worker: worker as u32 }
}

impl Compiler<'_> {
    /// Check a snapshot and make its tables.
    pub(crate) fn compile(mut self, snapshot: &Snapshot) -> Result<Tables, Refused> {
        if !snapshot.peers.is_empty() && !self.has_identity {
            return Err(Refused::NoIdentity);
        }
        let mut apps = Vec::with_capacity(snapshot.apps.len());
        let mut access = Vec::with_capacity(snapshot.apps.len());
        let mut by_name = HashMap::with_capacity(snapshot.apps.len());
        for spec in &snapshot.apps {
            if by_name.insert(spec.name.clone(), apps.len()).is_some() {
                return Err(Refused::TwoApps(spec.name.clone()));
            }
            let app = self.app(spec, snapshot)?;
            let wrong = |what: String| Refused::App { app: spec.name.clone(), what };
            access.push(self.access_lists.table(&app.policy.access).map_err(wrong)?);
            apps.push(Arc::new(app));
        }
        let listeners = self.listeners(snapshot, &apps, &access)?;
        let own_listens = own_listens(snapshot)?;
        let overlay_sockets = self.overlay_sockets(snapshot)?;
        let overlay = Arc::new(OverlayTables::compile(snapshot, self.overlay_states)?);
        self.app_states.retain(|name, state| by_name.contains_key(name) || Arc::strong_count(state) > 1);
        let (epoch, generation, options) = (self.epoch, snapshot.generation, snapshot.options);
        Ok(Tables {
            epoch,
            generation,
            apps,
            access,
            by_name,
            listeners,
            own_listens,
            overlay,
            overlay_sockets,
            options,
            access_epoch: 0,
        })
    }

    fn app(&mut self, spec: &AppSpec, snapshot: &Snapshot) -> Result<App, Refused> {
        let wrong = |what: String| Refused::App { app: spec.name.clone(), what };
        check_name(&spec.name).map_err(wrong)?;
        let mut origins = Vec::with_capacity(spec.origins.len());
        for origin in &spec.origins {
            check_name(&origin.name).map_err(wrong)?;
            origins.push(compile_origin(origin).map_err(wrong)?);
        }
        let all_listens =
            spec.all_listens.iter().map(listen).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        check_offsets(&all_listens, &origins).map_err(wrong)?;
        let candidates = |candidates: &[CandidateSpec]| {
            candidates
                .iter()
                .map(|candidate| check_candidate(candidate, spec, snapshot))
                .collect::<Result<Vec<_>, _>>()
        };
        let (tcp, udp) =
            (candidates(&spec.routes.tcp).map_err(wrong)?, candidates(&spec.routes.udp).map_err(wrong)?);
        let state = self
            .app_states
            .entry(spec.name.clone())
            .or_insert_with(|| Arc::new(AppState::new(self.workers, self.hasher)))
            .clone();
        let policy = Policy::compile(spec, &state.tls).map_err(wrong)?;
        Ok(App {
            name: spec.name.clone(),
            state,
            all_listens,
            origins,
            tcp,
            udp,
            idle_tcp: Duration::from_millis(spec.idle_tcp_ms),
            idle_udp: Duration::from_millis(spec.idle_udp_ms),
            half_closed: Duration::from_millis(spec.half_closed_ms),
            connect_timeout: Duration::from_millis(spec.connect_timeout_ms),
            admits_egress: spec.admits_egress,
            policy,
            reach: reach(spec, snapshot).map_err(wrong)?,
        })
    }

    fn listeners(
        &self,
        snapshot: &Snapshot,
        apps: &[Arc<App>],
        access: &[Option<Arc<AccessTable>>],
    ) -> Result<Vec<Arc<Listener>>, Refused> {
        let mut taken: HashMap<(Protocol, &str, u16), &str> = HashMap::new();
        let mut listeners = Vec::new();
        for ((spec, app), access) in snapshot.apps.iter().zip(apps).zip(access) {
            for range in &spec.listens {
                let Listen { address: ip, .. } =
                    listen(range).map_err(|what| Refused::App { app: spec.name.clone(), what })?;
                for port in range.first..=range.last {
                    if let Some(first) = taken.insert((range.protocol, &range.address, port), &spec.name) {
                        return Err(Refused::Overlap {
                            first: first.to_owned(),
                            second: spec.name.clone(),
                            protocol: range.protocol,
                            address: range.address.clone(),
                            port,
                        });
                    }
                    let key = |worker| listener_key(range.protocol, &range.address, port, worker);
                    listeners.push(Arc::new(Listener {
                        protocol: range.protocol,
                        address: range.address.clone(),
                        ip,
                        port,
                        app: app.clone(),
                        access: access.clone(),
                        sockets: self.sockets_of(key)?,
                    }));
                }
            }
        }
        Ok(listeners)
    }

    fn overlay_sockets(&self, snapshot: &Snapshot) -> Result<Vec<OverlaySocket>, Refused> {
        let outgoing = snapshot.links.iter().map(|link| &link.local);
        let incoming = snapshot.links_in.iter().map(|link| &link.local);
        let mut found: Vec<OverlaySocket> = Vec::new();
        for text in outgoing.chain(incoming) {
            let wrong = || Refused::Address(text.clone());
            let local: SocketAddr = text.parse().map_err(|_| wrong())?;
            let address = text.rsplit_once(':').ok_or_else(wrong)?.0.trim_matches(['[', ']']);
            if found.iter().all(|socket| socket.address != address || socket.local != local) {
                let sockets = self.sockets_of(|worker| overlay_key(address, local.port(), worker))?;
                found.push(OverlaySocket { local, address: address.to_owned(), sockets });
            }
        }
        Ok(found)
    }

    /// The sockets of one place, one per worker.
    fn sockets_of(&self, key: impl Fn(usize) -> SocketKey) -> Result<Vec<Held>, Refused> {
        let find = |worker| {
            let key = key(worker);
            self.sockets.get(&key).cloned().ok_or(Refused::NoSocket(key))
        };
        (0..self.workers).map(find).collect()
    }
}

/// Names travel in OPEN, which has one byte for their length, and must not be empty.
fn check_name(name: &str) -> Result<(), String> {
    if (1..=MAX_NAME_LENGTH).contains(&name.len()) {
        return Ok(());
    }
    Err(format!("the name {name:?} is not of 1 to {MAX_NAME_LENGTH} bytes"))
}

fn own_listens(snapshot: &Snapshot) -> Result<Vec<Listen>, Refused> {
    let ranges = snapshot.apps.iter().flat_map(|app| app.listens.iter().map(move |range| (app, range)));
    ranges
        .map(|(app, range)| listen(range).map_err(|what| Refused::App { app: app.name.clone(), what }))
        .collect()
}

fn listen(spec: &ListenSpec) -> Result<Listen, String> {
    let address: IpAddr =
        spec.address.parse().map_err(|_| format!("{:?} is no IP address to listen on", spec.address))?;
    let (protocol, first, last) = (spec.protocol, spec.first, spec.last);
    if first == 0 || first > last {
        return Err(format!("{first}-{last} is no range of ports"));
    }
    Ok(Listen { protocol, address, first, last })
}

/// Targets that follow each other and have one number are one host.
fn compile_origin(spec: &OriginSpec) -> Result<Origin, String> {
    let mut hosts = Vec::new();
    for same in spec.targets.chunk_by(|one, other| one.host == other.host) {
        let target = |target: &TargetSpec| {
            let ip: IpAddr =
                target.address.parse().map_err(|_| format!("{:?} is no IP address", target.address))?;
            Ok(Target { ip: ip.to_canonical(), port: target.port })
        };
        let targets = same.iter().map(target).collect::<Result<_, String>>()?;
        hosts.push(Host { priority: same[0].priority, weight: same[0].weight, targets });
    }
    Ok(Origin { name: spec.name.clone(), is_name: spec.kind == OriginKind::Name, hosts })
}

fn reach(spec: &AppSpec, snapshot: &Snapshot) -> Result<Reach, String> {
    let pool = SourcePool::new(snapshot.options.source_key, &spec.source_pool);
    let pool = pool.map_err(|error| format!("source pool: {error}"))?;
    Ok(Reach { pool: (!pool.is_empty()).then_some(pool), allow_private: spec.allow_private_origins })
}

/// No listener's port may lead to a port at an origin that does not exist. Where a name leads is not the snapshot's fault: such
/// targets are left out when they are dialled.
fn check_offsets(listens: &[Listen], origins: &[Origin]) -> Result<(), String> {
    let written = origins.iter().filter(|origin| !origin.is_name);
    for (listen, origin) in listens.iter().flat_map(|listen| written.clone().map(move |o| (listen, o))) {
        let length = listen.last - listen.first;
        let mut ports = origin.hosts.iter().flat_map(|host| &host.targets).filter_map(|target| target.port);
        if ports.any(|port| port == 0 || port.checked_add(length).is_none()) {
            let (name, first, last) = (&origin.name, listen.first, listen.last);
            return Err(format!("origin {name}: the ports for {first}-{last} would pass 65535"));
        }
    }
    Ok(())
}

fn check_candidate(
    candidate: &CandidateSpec,
    app: &AppSpec,
    snapshot: &Snapshot,
) -> Result<Candidate, String> {
    let origin = candidate.origin as usize;
    if origin >= app.origins.len() {
        return Err(format!("a route names origin {origin} of {}", app.origins.len()));
    }
    if let Some(handle) = candidate.handle
        && snapshot.handles.iter().all(|known| known.id != handle)
    {
        return Err(format!("a route names handle {handle}, which does not exist"));
    }
    Ok(Candidate { origin, handle: candidate.handle, is_on_trial: candidate.trial })
}
