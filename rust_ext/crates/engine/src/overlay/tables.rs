//! What the overlay looks up while it carries packets: links, peers, handles and labels of one snapshot, compiled once off the packet path.
//!
//! Built by [`OverlayTables::compile`] from a snapshot and never changed; only [`HandleState`] lives on from one snapshot to the next,
//! because connections belong to a handle for life.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use hashbrown::HashMap;
use l4proxy_proto::forward::{self, ForwardTable, Outgoing};
use l4proxy_proto::rate::{Rate, SharedBucket};
use l4proxy_tunnel::DatagramMode;
use l4proxy_wire::ids::{Label, LinkId, PathId, PopId};

use crate::snapshot::{DatagramsSpec, Snapshot};

/// Most labels a path can have: it crosses at most four links, and the first needs none.
const MAX_LABELS: usize = 3;

/// Number of a route handle; local to this engine.
pub(crate) type HandleId = u32;

/// An outgoing link: from which socket to which address its packets go.
#[derive(Debug, Clone)]
pub(crate) struct OutLink {
    pub(crate) id: LinkId,
    pub(crate) name: String,
    pub(crate) peer: PopId,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Where the peer is instead, if it moves.
    pub(crate) place: Option<Place>,
    pub(crate) probe_interval_ms: u32,
    /// What stands for it in outer headers; None: nobody may send over it.
    pub(crate) label: Option<Label>,
    /// The path that is this link alone.
    pub(crate) alone: Path,
    /// What copies of datagrams it may carry.
    pub(crate) copies: Arc<SharedBucket>,
    /// Bytes that were sent over it since the control thread asked last.
    pub(crate) sent: Arc<AtomicU64>,
}

/// Where a PoP is that dials out from an address which nobody knows beforehand, as far as one link goes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The incoming link over the same two transits.
    pub(crate) incoming: LinkId,
    /// Written by worker 0; `None`: it has not been heard.
    pub(crate) current: Arc<ArcSwapOption<SocketAddr>>,
}

/// An incoming link from such a PoP.
#[derive(Debug, Clone)]
pub(crate) struct MovingLink {
    pub(crate) peer: PopId,
    pub(crate) local: SocketAddr,
    /// The outgoing link over the same two transits.
    pub(crate) outgoing: usize,
}

/// An incoming link: who may send to us from where.
#[derive(Debug, Clone)]
pub(crate) struct InLink {
    pub(crate) id: LinkId,
    pub(crate) peer: PopId,
    /// Its place in [`OverlayTables::peers`].
    pub(crate) peer_index: usize,
}

/// Another PoP of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) id: PopId,
    pub(crate) name: String,
    /// This PoP dials the pair connection.
    pub(crate) dial: bool,
    /// It dials out from addresses that are not known beforehand.
    pub(crate) moves: bool,
    /// What it may send through this PoP, if that is bounded.
    pub(crate) transit: Option<Arc<SharedBucket>>,
}

impl Peer {
    /// Whether it may send so many bytes more through this PoP. Asked once the packet is known to be the peer's: nobody else can use its
    /// budget up.
    pub(crate) fn may_pass(&self, now: Instant, bytes: usize) -> bool {
        self.transit.as_ref().is_none_or(|budget| budget.take(now, bytes as u64))
    }
}

/// One way to a peer: an own link first, then the labels of the transits' links.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) id: PathId,
    pub(crate) links: Vec<String>,
    /// Index into [`OverlayTables::links`].
    pub(crate) first_link: usize,
    pub(crate) labels: Vec<Label>,
}

/// What a route handle means in this snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) id: HandleId,
    pub(crate) peer: PopId,
    pub(crate) policy: String,
    /// The primary path first, then its backups.
    pub(crate) paths: Vec<Path>,
    pub(crate) state: Arc<HandleState>,
}

impl OutLink {
    /// So many bytes leave over it. Once a batch, so that workers seldom meet.
    pub(super) fn on_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Where packets go; `None`: the peer has not been heard from.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        match &self.place {
            None => Some(self.remote),
            Some(place) => place.current.load().as_deref().copied(),
        }
    }
}

impl Path {
    /// Whether no link is in both.
    pub(crate) fn is_disjoint(&self, other: &Self) -> bool {
        !self.links.iter().any(|link| other.links.contains(link))
    }
}

impl Handle {
    /// The path that packets take now, if the handle has any.
    pub(crate) fn active_path(&self) -> Option<&Path> {
        self.path(&self.state.active).or_else(|| self.paths.first())
    }

    /// The path that all packets take as well now, because the active one may have died.
    pub(crate) fn copy_path(&self) -> Option<&Path> {
        self.path(&self.state.copy)
    }

    /// The path that packets which are to be sent twice take as well.
    pub(crate) fn second_path(&self) -> Option<&Path> {
        self.path(&self.state.second)
    }

    fn path(&self, id: &AtomicU32) -> Option<&Path> {
        let id = PathId(id.load(Ordering::Relaxed));
        self.paths.iter().find(|path| path.id == id)
    }
}

/// The part of a handle that outlives snapshots; shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct HandleState {
    /// Id of the path that packets take; one that the snapshot in force does not have (0 at first) means the primary.
    pub(crate) active: AtomicU32,
    /// Id of the path that all packets take as well; 0: none.
    pub(crate) copy: AtomicU32,
    /// Id of a living path that shares no link with the active one; 0: none.
    pub(crate) second: AtomicU32,
    /// The largest packet that passes, in bytes, without the outer header; 0: nothing is known.
    pub(crate) mtu: AtomicU16,
    /// The active path loses packets, and not by our own load.
    pub(crate) is_lossy: AtomicBool,
    /// How often packets began to take another path.
    pub(crate) path_changes: AtomicU64,
    /// How often everything that was on its way was lost, or may have been: the path that packets took had died or become suspect, whether
    /// or not there was another.
    pub(crate) outages: AtomicU64,
    /// When traffic last used it, milliseconds of the engine's monotonic clock; 0 = never.
    pub(crate) used_at_ms: AtomicU64,
    /// QUIC connections that belong to it, on all workers.
    pub(crate) connections: AtomicU32,
}

/// What is kept from one snapshot to the next.
#[derive(Debug, Default)]
pub(crate) struct OverlayStates {
    /// States of handles by what they mean.
    handles: HashMap<(PopId, String), Arc<HandleState>>,
    /// What copies each link may carry.
    copies: HashMap<LinkId, Arc<SharedBucket>>,
    /// What each link has carried.
    sent: HashMap<LinkId, Arc<AtomicU64>>,
    /// What each previous hop may send through this PoP.
    transit: HashMap<PopId, Arc<SharedBucket>>,
    /// Where peers that move are, by the incoming link.
    places: HashMap<LinkId, Arc<ArcSwapOption<SocketAddr>>>,
}

/// Everything the overlay looks up, from one snapshot.
#[derive(Debug)]
pub(crate) struct OverlayTables {
    pub(crate) own: PopId,
    pub(crate) links: Vec<OutLink>,
    incoming: HashMap<(SocketAddr, SocketAddr), InLink>,
    link_by_id: HashMap<LinkId, usize>,
    reverse: HashMap<(SocketAddr, SocketAddr), usize>,
    moving: HashMap<LinkId, MovingLink>,
    pub(crate) peers: Vec<Peer>,
    peer_by_id: HashMap<PopId, usize>,
    handles: HashMap<HandleId, Handle>,
    by_meaning: HashMap<PopId, Vec<(String, HandleId)>>,
    pub(crate) forward: ForwardTable,
    /// What carries UDP flows on connections that begin from now on.
    pub(crate) datagrams: DatagramMode,
}

/// Why a snapshot cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TableError {
    /// The daemon sent text that is no socket address.
    #[error("link {link}: {text:?} is no address of the form ip:port")]
    Address {
        /// Name of the link.
        link: String,
        /// What stood there.
        text: String,
    },
    /// A link, handle or path names a PoP that is no peer.
    #[error("{what} names the unknown PoP {peer:?}")]
    UnknownPeer {
        /// Where the name stands.
        what: String,
        /// The name.
        peer: String,
    },
    /// A path begins with a link that is not this PoP's own.
    #[error("handle {handle}: a path begins with link {link}, which is not an outgoing link of this PoP")]
    UnknownLink {
        /// Number of the handle.
        handle: HandleId,
        /// Wire id of the link.
        link: u32,
    },
    /// Two links have one label, or one has none.
    #[error(transparent)]
    Labels(#[from] forward::TableError),
    /// A path is longer than the overlay carries.
    #[error("handle {handle}: a path has {count} labels, at most {MAX_LABELS} are possible")]
    TooLong {
        /// Number of the handle.
        handle: HandleId,
        /// Labels of the path.
        count: usize,
    },
}

impl OverlayTables {
    /// Tables of a PoP that knows nobody.
    pub(crate) fn empty(own: PopId) -> Self {
        Self {
            own,
            links: Vec::new(),
            incoming: HashMap::new(),
            link_by_id: HashMap::new(),
            reverse: HashMap::new(),
            moving: HashMap::new(),
            peers: Vec::new(),
            peer_by_id: HashMap::new(),
            handles: HashMap::new(),
            by_meaning: HashMap::new(),
            forward: ForwardTable::new(own, []).expect("an empty table has no label to refuse"),
            datagrams: DatagramMode::Channel,
        }
    }

    /// Compile a snapshot; `states` gives handles of the same meaning the state they had before.
    pub(crate) fn compile(snapshot: &Snapshot, states: &mut OverlayStates) -> Result<Self, TableError> {
        let mut tables = Self::empty(PopId(snapshot.pop_id));
        tables.datagrams = match snapshot.datagrams {
            DatagramsSpec::Channel => DatagramMode::Channel,
            DatagramsSpec::Quic => DatagramMode::Quic,
        };
        for peer in &snapshot.peers {
            let id = PopId(peer.id);
            tables.peer_by_id.insert(id, tables.peers.len());
            tables.peers.push(Peer {
                id,
                name: peer.name.clone(),
                dial: peer.dial,
                moves: peer.moves,
                transit: transit_budget(snapshot.transit_bytes_per_s, id, states),
            });
        }
        tables.compile_links(snapshot, states)?;
        tables.compile_handles(snapshot, states)?;
        states
            .handles
            .retain(|_, state| Arc::strong_count(state) > 1 || state.connections.load(Ordering::Relaxed) > 0);
        states.copies.retain(|_, budget| Arc::strong_count(budget) > 1);
        states.sent.retain(|_, bytes| Arc::strong_count(bytes) > 1);
        states.transit.retain(|_, budget| Arc::strong_count(budget) > 1);
        states.places.retain(|_, place| Arc::strong_count(place) > 1);
        let labels = snapshot.links.iter().zip(&tables.links).filter(|(spec, _)| spec.label != 0);
        tables.forward = ForwardTable::new(
            tables.own,
            labels.map(|(spec, link)| (Label(spec.label), Outgoing { link: link.id, next: link.peer })),
        )?;
        Ok(tables)
    }

    fn compile_links(&mut self, snapshot: &Snapshot, states: &mut OverlayStates) -> Result<(), TableError> {
        for spec in &snapshot.links {
            let rate = link_copies(spec.copies_bytes_per_s);
            let copies =
                states.copies.entry(LinkId(spec.id)).or_insert_with(|| Arc::new(SharedBucket::new(rate)));
            if copies.rate() != rate {
                *copies = Arc::new(SharedBucket::new(rate));
            }
            let peer = self.peer_named(&spec.peer, || format!("link {}", spec.name))?;
            let (local, remote) = (address(&spec.name, &spec.local)?, address(&spec.name, &spec.remote)?);
            self.link_by_id.insert(LinkId(spec.id), self.links.len());
            if !spec.moves {
                self.reverse.insert((local, remote), self.links.len());
            }
            self.links.push(OutLink {
                id: LinkId(spec.id),
                name: spec.name.clone(),
                peer,
                local,
                remote,
                place: None,
                probe_interval_ms: spec.probe_interval_ms,
                label: (spec.label != 0).then_some(Label(spec.label)),
                alone: Path {
                    id: PathId(spec.id),
                    links: vec![spec.name.clone()],
                    first_link: self.links.len(),
                    labels: Vec::new(),
                },
                copies: copies.clone(),
                sent: states.sent.entry(LinkId(spec.id)).or_default().clone(),
            });
        }
        for spec in &snapshot.links_in {
            let peer = self.peer_named(&spec.peer, || format!("link {}", spec.name))?;
            let key = (address(&spec.name, &spec.local)?, address(&spec.name, &spec.remote)?);
            if spec.moves {
                self.add_moving(LinkId(spec.id), &spec.name, peer, key.0, states);
                continue;
            }
            let peer_index = self.peer_by_id.get(&peer).copied().unwrap_or_default();
            self.incoming.insert(key, InLink { id: LinkId(spec.id), peer, peer_index });
        }
        Ok(())
    }

    /// The link of a peer that moves, joined with the one in the other direction, which it always has.
    fn add_moving(
        &mut self,
        id: LinkId,
        name: &str,
        peer: PopId,
        local: SocketAddr,
        states: &mut OverlayStates,
    ) {
        let reverse = name.split_once('>').map(|(from, to)| format!("{to}>{from}"));
        let Some(outgoing) = self.links.iter().position(|link| Some(&link.name) == reverse.as_ref()) else {
            return;
        };
        let current = states.places.entry(id).or_default().clone();
        self.links[outgoing].place = Some(Place { incoming: id, current });
        self.moving.insert(id, MovingLink { peer, local, outgoing });
    }

    fn compile_handles(&mut self, snapshot: &Snapshot, states: &mut OverlayStates) -> Result<(), TableError> {
        for spec in &snapshot.handles {
            let peer = self.peer_named(&spec.peer, || format!("handle {}", spec.id))?;
            let mut paths = Vec::with_capacity(spec.paths.len());
            for path in &spec.paths {
                let first_link = *self
                    .link_by_id
                    .get(&LinkId(path.first_link))
                    .ok_or(TableError::UnknownLink { handle: spec.id, link: path.first_link })?;
                if path.labels.len() > MAX_LABELS {
                    return Err(TableError::TooLong { handle: spec.id, count: path.labels.len() });
                }
                paths.push(Path {
                    id: PathId(path.id),
                    links: path.links.clone(),
                    first_link,
                    labels: path.labels.iter().copied().map(Label).collect(),
                });
            }
            let state = states.handles.entry((peer, spec.policy.clone())).or_default().clone();
            self.by_meaning.entry(peer).or_default().push((spec.policy.clone(), spec.id));
            self.handles
                .insert(spec.id, Handle { id: spec.id, peer, policy: spec.policy.clone(), paths, state });
        }
        Ok(())
    }

    fn peer_named(&self, name: &str, what: impl Fn() -> String) -> Result<PopId, TableError> {
        self.peers
            .iter()
            .find(|peer| peer.name == name)
            .map(|peer| peer.id)
            .ok_or_else(|| TableError::UnknownPeer { what: what(), peer: name.to_owned() })
    }

    /// The link over which a packet came, by the socket it came to and the address it came from; None = a stranger.
    pub(crate) fn incoming(&self, local: SocketAddr, remote: SocketAddr) -> Option<&InLink> {
        self.incoming.get(&(local, remote))
    }

    /// All incoming links.
    pub(crate) fn incoming_links(&self) -> impl Iterator<Item = InLink> {
        let moving = self.moving.iter().map(|(&id, link)| InLink {
            id,
            peer: link.peer,
            peer_index: self.peer_index(link.peer).unwrap_or_default(),
        });
        self.incoming.values().cloned().chain(moving)
    }

    /// A peer's place in [`Self::peers`].
    pub(crate) fn peer_index(&self, id: PopId) -> Option<usize> {
        self.peer_by_id.get(&id).copied()
    }

    /// An incoming link whose far end moves.
    pub(crate) fn moving(&self, id: LinkId) -> Option<&MovingLink> {
        self.moving.get(&id)
    }

    /// Whether there is any: else nothing is taken from strangers.
    pub(crate) fn has_moving(&self) -> bool {
        !self.moving.is_empty()
    }

    /// A path towards `peer` by its id, whichever handle has it, or a link to it.
    pub(crate) fn path(&self, peer: PopId, id: PathId) -> Option<&Path> {
        let own = self.by_meaning.get(&peer).into_iter().flatten();
        let handles = own.filter_map(|(_, handle)| self.handles.get(handle));
        let links = self.links.iter().filter(|link| link.peer == peer).map(|link| &link.alone);
        handles.flat_map(|handle| &handle.paths).chain(links).find(|path| path.id == id)
    }

    /// Names of the links of a path; empty if no handle has it any more.
    pub(crate) fn links_of_path(&self, peer: PopId, id: PathId) -> Vec<String> {
        self.path(peer, id).map(|path| path.links.clone()).unwrap_or_default()
    }

    /// The outgoing link over the same two addresses as an incoming packet's.
    pub(crate) fn reverse_link(&self, local: SocketAddr, remote: SocketAddr) -> Option<usize> {
        self.reverse.get(&(local, remote)).copied()
    }

    /// Index of an outgoing link.
    pub(crate) fn link_index(&self, id: LinkId) -> Option<usize> {
        self.link_by_id.get(&id).copied()
    }

    /// A peer by its wire id.
    pub(crate) fn peer(&self, id: PopId) -> Option<&Peer> {
        self.peer_by_id.get(&id).and_then(|&index| self.peers.get(index))
    }

    /// A handle by its number.
    pub(crate) fn handle(&self, id: HandleId) -> Option<&Handle> {
        self.handles.get(&id)
    }

    /// The handle towards `peer` with this policy, else its `off` handle.
    pub(crate) fn handle_for(&self, peer: PopId, policy: &str) -> Option<&Handle> {
        let handles = self.by_meaning.get(&peer)?;
        let find = |wanted: &str| handles.iter().find(|(policy, _)| policy == wanted);
        find(policy).or_else(|| find("off")).and_then(|(_, id)| self.handles.get(id))
    }

    /// All handles, in no particular order.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &Handle> + Clone {
        self.handles.values()
    }

    /// Any own link that leads straight to `peer`: how the very first packets travel, before paths are known.
    pub(crate) fn direct_link(&self, peer: PopId) -> Option<usize> {
        self.links.iter().position(|link| link.peer == peer)
    }
}

/// The budget of a previous hop; the one that it had, if the rate is still the same. A tenth of a second's packets at once, 128 kB at least: what
/// one sender's batch holds twice.
fn transit_budget(bytes_per_s: u64, peer: PopId, states: &mut OverlayStates) -> Option<Arc<SharedBucket>> {
    const LEAST_BURST: NonZeroU64 = NonZeroU64::new(131_072).expect("it is not zero");
    let per_second = NonZeroU64::new(bytes_per_s)?;
    let burst = NonZeroU64::new(bytes_per_s / 10).map_or(LEAST_BURST, |tenth| tenth.max(LEAST_BURST));
    let rate = Rate::new(per_second, burst);
    let budget = states.transit.entry(peer).or_insert_with(|| Arc::new(SharedBucket::new(rate)));
    if budget.rate() != rate {
        *budget = Arc::new(SharedBucket::new(rate));
    }
    Some(budget.clone())
}

/// A tenth of a second's copies at once.
fn link_copies(bytes_per_s: u64) -> Rate {
    let per_second = NonZeroU64::new(bytes_per_s).unwrap_or(NonZeroU64::MIN);
    Rate::new(per_second, NonZeroU64::new(bytes_per_s / 10).unwrap_or(NonZeroU64::MIN))
}

fn address(link: &str, text: &str) -> Result<SocketAddr, TableError> {
    text.parse().map_err(|_| TableError::Address { link: link.to_owned(), text: text.to_owned() })
}
