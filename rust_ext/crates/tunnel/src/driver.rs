//! [`Tunnels`]: every connection of one worker. This file sets it up, dials, closes and tells what there is; `packets`
//! drives it, `lifecycle` says what QUIC's events mean, `streams` and `datagrams` carry flows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use l4proxy_wire::codes::CloseCode;
use l4proxy_wire::ids::PopId;
use l4proxy_wire::stream::Role;
use noq_proto::{
    ClientConfig, Endpoint, EndpointConfig, NoneTokenStore, PathId, ServerConfig, TransportConfig, VarInt,
};
use slab::Slab;

use crate::cids::CidSource;
use crate::congestion::{ControllerConfig, Measured, PathHint};
use crate::connection::{Connection, NewConnection, Phase};
use crate::counters::Counters;
use crate::error::{ConnectError, IdentityError};
use crate::events::{ConnectionKey, ConnectionStats, ConnectionView, Loss, ReturnAddress, TunnelEvent};
use crate::identity::{Identity, SERVER_NAME};
use crate::memory::Memory;
use crate::options::{DatagramMode, TunnelOptions, transport_config};
use crate::repair::Heard;
use crate::resend::Resend;
use crate::retry::{TOKEN_LIFETIME, TokenClock, TokenKey};
use crate::stream::Stream;
use crate::verifier::PeerSet;

/// No PoP: what a stranger is until its certificate has been seen. No name has this id (a fleet file in which one had is refused).
pub const NOBODY: PopId = PopId(0);

/// Whom a QUIC packet came from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender {
    /// A PoP, by the address or by the outer header; and between which addresses it came, if it came straight.
    Peer(PopId, Option<ReturnAddress>),
    /// An address that is nobody's.
    Stranger(ReturnAddress),
}

/// All tunnels of one worker. See the crate's documentation for the loop around it.
pub struct Tunnels {
    pub(crate) options: TunnelOptions,
    pub(crate) identity: Option<Identity>,
    pub(crate) peers: PeerSet,
    pub(crate) peer_names: BTreeMap<PopId, String>,
    /// Peers whose address is not known beforehand.
    pub(crate) movable: BTreeSet<PopId>,
    /// What is known of the paths to peers that may dial.
    peer_hints: BTreeMap<PopId, PathHint>,
    cids: CidSource,
    token_key: Arc<TokenKey>,
    pub(crate) token_clock: TokenClock,
    controllers: Arc<ControllerConfig>,
    transport: Arc<TransportConfig>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) connections: Slab<Connection>,
    /// Place of a connection by the number that the QUIC endpoint has for it.
    pub(crate) by_handle: Vec<Option<u16>>,
    next_generation: u32,
    pub(crate) streams: Slab<Stream>,
    pub(crate) next_stream_generation: u32,
    pub(crate) events: VecDeque<TunnelEvent>,
    /// Connections with streams that wait for a turn to write, each at most once.
    pub(crate) turn_queue: VecDeque<u16>,
    /// The connection in which a stream was told to write and has not yet.
    pub(crate) turn_in: Option<u16>,
    /// Somebody's turn waits for the next `poll_event`.
    pub(crate) turn_due: Option<Instant>,
    /// Connections that may have something to send, each at most once.
    pub(crate) send_queue: VecDeque<u16>,
    /// Connections in which QUIC has brought frames, each at most once.
    pub(crate) framed_queue: VecDeque<u16>,
    pub(crate) responses: VecDeque<(Sender, Vec<u8>)>,
    /// The newest packets of the peers that send repairs.
    pub(crate) heard: BTreeMap<PopId, Heard>,
    pub(crate) timers: BTreeSet<(Instant, u16)>,
    pub(crate) counters: Counters,
    pub(crate) memory: Memory,
    /// Where frames are encoded.
    pub(crate) scratch: Vec<u8>,
}

impl Tunnels {
    /// No connections, no identity, no peers.
    ///
    /// # Panics
    /// When `max_connections` is above 65,536: the options are the program's own.
    #[must_use]
    pub fn new(options: TunnelOptions) -> Self {
        assert!(
            options.max_connections <= 1 << 16,
            "a channel id has 16 bits for the place of its connection"
        );
        let controllers = Arc::new(ControllerConfig::default());
        let memory = Memory::new(options.max_memory_bytes as u64, options.max_connections);
        Self {
            cids: CidSource::new(options.worker, &options.seed),
            token_key: Arc::new(TokenKey::new(&options.seed)),
            token_clock: TokenClock::default(),
            transport: transport_config(memory.least(), &options, controllers.clone(), None),
            controllers,
            options,
            identity: None,
            peers: PeerSet::default(),
            peer_names: BTreeMap::new(),
            movable: BTreeSet::new(),
            peer_hints: BTreeMap::new(),
            endpoint: None,
            connections: Slab::new(),
            by_handle: Vec::new(),
            next_generation: 0,
            streams: Slab::new(),
            next_stream_generation: 0,
            events: VecDeque::new(),
            turn_queue: VecDeque::new(),
            turn_in: None,
            turn_due: None,
            send_queue: VecDeque::new(),
            framed_queue: VecDeque::new(),
            responses: VecDeque::new(),
            heard: BTreeMap::new(),
            timers: BTreeSet::new(),
            counters: Counters::default(),
            memory,
            scratch: Vec::new(),
        }
    }

    /// Sets or replaces the identity. Connections that exist keep theirs; those of peers that it revokes end with [`Self::end_revoked`].
    ///
    /// # Errors
    /// When the TLS library refuses the settings; the old identity stays.
    pub fn set_identity(&mut self, identity: Identity) -> Result<(), IdentityError> {
        let crypto = Arc::new(identity.server_config(&self.peers)?);
        let mut server = ServerConfig::new(crypto, self.token_key.clone());
        server
            .transport_config(Arc::clone(&self.transport))
            .migration(false)
            .retry_token_lifetime(TOKEN_LIFETIME)
            .time_source(Arc::new(self.token_clock.clone()));
        let server = Some(Arc::new(server));
        match &mut self.endpoint {
            Some(endpoint) => endpoint.set_server_config(server),
            None => {
                let cids = self.cids.clone();
                let mut config = EndpointConfig::new(Arc::new(identity.reset_key()));
                config
                    .cid_generator(Arc::new(move || Box::new(cids.clone())))
                    // The first byte of a packet says what it is, so QUIC's fixed bit must be set.
                    .grease_quic_bit(false)
                    .supported_versions(vec![1])
                    .rng_seed(Some(self.options.seed));
                self.endpoint = Some(Endpoint::new(Arc::new(config), server, true));
            }
        }
        self.identity = Some(identity);
        Ok(())
    }

    /// Sets what carries datagrams. Connections that exist keep what they have.
    ///
    /// # Errors
    /// As [`Self::set_identity`]; then connections of peers go on as before.
    pub fn set_datagrams(&mut self, mode: DatagramMode) -> Result<(), IdentityError> {
        if std::mem::replace(&mut self.options.datagrams, mode) == mode {
            return Ok(());
        }
        self.transport = transport_config(self.memory.least(), &self.options, self.controllers.clone(), None);
        match self.identity.take() {
            Some(identity) => self.set_identity(identity),
            None => Ok(()),
        }
    }

    /// Sets the PoPs that may be dialled and that may dial us. Connections of a PoP that is no longer among them are the
    /// caller's to close.
    pub fn set_peers(&mut self, peers: &[(PopId, String)]) {
        self.peer_names = peers.iter().cloned().collect();
        self.peers.replace(peers.iter().map(|(id, name)| (name.clone(), *id)).collect());
    }

    /// Sets which of the peers dial out from addresses that nobody knows beforehand: only they may come as strangers. Connections with one
    /// that becomes such a peer, or is none any more, are the caller's to close.
    pub fn set_movable(&mut self, peers: impl IntoIterator<Item = PopId>) {
        self.movable = peers.into_iter().collect();
    }

    /// The address that QUIC knows a PoP by. All that may come as strangers have one: which of them it is stands in their certificate, and
    /// a connection keeps the address it began with.
    pub(crate) fn address_of(&self, peer: PopId) -> SocketAddr {
        synthetic_address(if self.movable.contains(&peer) { NOBODY } else { peer })
    }

    /// Starts a connection for the route handle (`peer`, `policy`). Streams and frames may be given at once.
    ///
    /// # Errors
    /// No identity, not a peer or a revoked one, no place left.
    pub fn connect(
        &mut self,
        now: Instant,
        peer: PopId,
        role: Role,
        policy: &str,
    ) -> Result<ConnectionKey, ConnectError> {
        self.dial(now, (peer, role, policy), PathHint::default(), None)
    }

    /// As [`Self::connect`], over a path of which something is known.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_over(
        &mut self,
        now: Instant,
        peer: PopId,
        role: Role,
        policy: &str,
        hint: PathHint,
    ) -> Result<ConnectionKey, ConnectError> {
        self.dial(now, (peer, role, policy), hint, None)
    }

    pub(crate) fn dial(
        &mut self,
        now: Instant,
        (peer, role, policy): (PopId, Role, &str),
        hint: PathHint,
        follows: Option<ConnectionKey>,
    ) -> Result<ConnectionKey, ConnectError> {
        let identity = self.identity.as_ref().ok_or(ConnectError::NoIdentity)?;
        let peer_name = self.peer_names.get(&peer).ok_or(ConnectError::UnknownPeer(peer))?.clone();
        if identity.trust().revoked.has_pop(&peer_name) {
            return Err(ConnectError::Revoked(peer));
        }
        if policy.len() > usize::from(u8::MAX) {
            return Err(ConnectError::PolicyTooLong);
        }
        if self.connections.len() >= self.options.max_connections {
            return Err(ConnectError::Full(self.connections.len()));
        }
        let address = self.address_of(peer);
        let crypto =
            identity.client_config(&peer_name).map_err(|error| ConnectError::Quic(error.to_string()))?;
        let cids = self.cids.clone();
        let mut client = ClientConfig::new(Arc::new(crypto));
        let transport = match hint.rtt {
            Some(_) => {
                transport_config(self.memory.least(), &self.options, Arc::clone(&self.controllers), hint.rtt)
            }
            None => Arc::clone(&self.transport),
        };
        self.controllers.expect(hint);
        client
            .transport_config(transport)
            .token_store(Arc::new(NoneTokenStore))
            // Our worker's number in the first packets too: all connections of one worker meet one worker of the peer.
            .initial_dst_cid_provider(Arc::new(move || cids.generate()));
        let endpoint = self.endpoint.as_mut().ok_or(ConnectError::NoIdentity)?;
        let (handle, quic) = endpoint
            .connect(now, client, address, SERVER_NAME)
            .map_err(|error| ConnectError::Quic(error.to_string()))?;
        let index = self.insert(now, handle, quic, (peer, peer_name), Some(role), policy.to_owned());
        self.connections[usize::from(index)].follows = follows;
        self.counters.connections_dialled += 1;
        Ok(self.connections[usize::from(index)].key)
    }

    /// A connection of this peer is about to be accepted.
    pub(crate) fn expect_from(&self, peer: PopId) {
        self.controllers.expect(self.peer_hints.get(&peer).copied().unwrap_or_default());
    }

    pub(crate) fn insert(
        &mut self,
        now: Instant,
        handle: noq_proto::ConnectionHandle,
        quic: noq_proto::Connection,
        (peer, peer_name): (PopId, String),
        role: Option<Role>,
        policy: String,
    ) -> u16 {
        self.memory.begin();
        let entry = self.connections.vacant_entry();
        let index = u16::try_from(entry.key()).expect("there are at most 65,536 connections");
        self.next_generation = self.next_generation.wrapping_add(1);
        if self.next_generation & 0xffff == 0 {
            // No channel has the number 0.
            self.next_generation += 1;
        }
        let key = ConnectionKey { index, generation: self.next_generation };
        entry.insert(Connection::new(NewConnection {
            key,
            handle,
            quic,
            peer,
            peer_name,
            role,
            policy,
            began: now,
            hello_deadline: now + self.options.handshake_timeout,
            max_bus_bytes: self.options.max_bus_bytes,
            window: self.memory.least(),
            wished: self.options.datagrams,
            resend: Resend::new(self.controllers.newest_ledger(), self.options.max_resend_bytes),
        }));
        if self.by_handle.len() <= handle.0 {
            self.by_handle.resize(handle.0 + 1, None);
        }
        self.by_handle[handle.0] = Some(index);
        self.touch(index);
        index
    }

    /// Forgets a connection that has drained.
    pub(crate) fn remove(&mut self, index: u16) {
        let connection = self.connections.remove(usize::from(index));
        self.memory.end(connection.receiving.granted());
        self.by_handle[connection.handle.0] = None;
        if let Some(timer) = connection.timer {
            self.timers.remove(&(timer, index));
        }
    }

    /// The place of a connection that is not over.
    pub(crate) fn find(&self, key: ConnectionKey) -> Option<u16> {
        let connection = self.connections.get(usize::from(key.index))?;
        (connection.key == key && connection.phase != Phase::Closed).then_some(key.index)
    }

    /// Ends a connection: its streams are gone, there is no `Lost`.
    pub fn close(&mut self, now: Instant, key: ConnectionKey, code: CloseCode) {
        if let Some(index) = self.find(key) {
            self.connections[usize::from(index)].quic.close(now, quic_code(code.code()), bytes::Bytes::new());
            self.end(index, Loss::Other);
            self.pump(now, index);
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        if self.events.is_empty() {
            self.grant_turn();
        }
        self.events.pop_front()
    }

    /// The path of this connection's handle has died and another is taken, or it came back: what was on its way is sent again at once.
    /// Call it once per change, at the end that moved; the peer's end moves by itself. `hint`: what is known of the path that is taken.
    pub fn handle_path_loss(&mut self, now: Instant, key: ConnectionKey, hint: PathHint) {
        let Some(index) = self.find(key) else { return };
        let connection = &mut self.connections[usize::from(index)];
        let rate =
            connection.quic.congestion_state(PathId::ZERO).and_then(|state| state.metrics().pacing_rate);
        let known = hint.bytes_per_second.unwrap_or(u64::MAX);
        connection.resend.begin(now, rate.map(|rate| rate.min(known)));
        connection.resend.tell_path(hint, false);
        connection.recent.begin(now);
        self.pump(now, index);
    }

    /// The path of this connection's handle is left for another, and what is on its way arrives: nothing is sent again.
    pub fn handle_path_change(&mut self, key: ConnectionKey, hint: PathHint) {
        if let Some(index) = self.find(key) {
            self.connections[usize::from(index)].resend.tell_path(hint, true);
        }
    }

    /// What the path of a connection has carried since this was last asked, or since it was told of another path.
    pub fn take_measured(&mut self, key: ConnectionKey) -> Option<Measured> {
        let index = self.find(key)?;
        self.connections[usize::from(index)].resend.take_measured()
    }

    /// What is known of the paths to the peers, for connections that they dial from now on.
    pub fn expect_from_peers(&mut self, hints: impl IntoIterator<Item = (PopId, PathHint)>) {
        self.peer_hints = hints.into_iter().collect();
    }

    /// What is known of a connection; `None` once it has ended.
    #[must_use]
    pub fn connection(&self, key: ConnectionKey) -> Option<ConnectionView<'_>> {
        self.connections[usize::from(self.find(key)?)].view()
    }

    /// Totals of a connection; `None` once it has ended.
    pub fn connection_stats(&mut self, key: ConnectionKey) -> Option<ConnectionStats> {
        let index = self.find(key)?;
        Some(self.connections[usize::from(index)].stats())
    }

    /// Every connection that has not ended.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionKey, ConnectionView<'_>)> {
        self.connections.iter().filter_map(|(_, connection)| Some((connection.key, connection.view()?)))
    }

    /// Totals of this worker, and what is in use now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.connections = self.connections().count();
        counters.streams = self.streams.len();
        counters.window_bytes = self.memory.granted();
        counters.sending_bytes = self.memory.sending();
        counters
    }
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnels")
            .field("worker", &self.options.worker)
            .field("connections", &self.connections.len())
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

/// The address that QUIC knows a PoP by. Real ones come and go with paths; reset tokens must not mix between PoPs.
pub(crate) fn synthetic_address(pop: PopId) -> SocketAddr {
    let PopId(id) = pop;
    let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, (id >> 16) as u16, id as u16);
    SocketAddr::new(IpAddr::V6(ip), 1)
}

/// Our codes are small numbers.
pub(crate) fn quic_code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
