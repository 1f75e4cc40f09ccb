//! [`Tunnels`]: every connection of one worker, driven from its loop. This file has what comes from and goes to the
//! loop (packets, time, events); `lifecycle` says what a QUIC event means, `streams` and `datagrams` carry flows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use l4proxy_wire::codes::CloseCode;
use l4proxy_wire::ids::PopId;
use l4proxy_wire::stream::Role;
use noq_proto::{
    ClientConfig, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, FourTuple, Incoming, NoneTokenStore,
    ServerConfig, TransportConfig, VarInt,
};
use slab::Slab;

use crate::cids::CidSource;
use crate::connection::{Connection, NewConnection, Phase};
use crate::counters::Counters;
use crate::error::{ConnectError, DropReason, IdentityError};
use crate::events::{
    ConnectionKey, ConnectionStats, ConnectionView, TransmitInfo, TransmitKind, TunnelEvent,
};
use crate::identity::{Identity, SERVER_NAME};
use crate::options::{TunnelOptions, transport_config};
use crate::streams::Stream;
use crate::verifier::PeerSet;

/// Datagrams shorter than this are copied before QUIC keeps slices of them: a small chunk that nobody reads would pin
/// the whole receive buffer of 64 kB it came in.
const COPY_BELOW: usize = 512;

/// Answers to packets of no connection that may wait; they are worth nothing later.
const MAX_RESPONSES: usize = 64;

/// All tunnels of one worker. See the crate's documentation for the loop around it.
pub struct Tunnels {
    pub(crate) options: TunnelOptions,
    pub(crate) identity: Option<Identity>,
    pub(crate) peers: PeerSet,
    peer_names: BTreeMap<PopId, String>,
    cids: CidSource,
    transport: Arc<TransportConfig>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) connections: Slab<Connection>,
    /// Place of a connection by the number that the QUIC endpoint has for it.
    by_handle: Vec<Option<u16>>,
    next_generation: u32,
    pub(crate) streams: Slab<Stream>,
    pub(crate) next_stream_generation: u32,
    pub(crate) events: VecDeque<TunnelEvent>,
    /// Connections that may have something to send, each at most once.
    send_queue: VecDeque<u16>,
    responses: VecDeque<(PopId, Vec<u8>)>,
    timers: BTreeSet<(Instant, u16)>,
    pub(crate) counters: Counters,
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
        Self {
            cids: CidSource::new(options.worker, &options.seed),
            transport: transport_config(),
            options,
            identity: None,
            peers: PeerSet::default(),
            peer_names: BTreeMap::new(),
            endpoint: None,
            connections: Slab::new(),
            by_handle: Vec::new(),
            next_generation: 0,
            streams: Slab::new(),
            next_stream_generation: 0,
            events: VecDeque::new(),
            send_queue: VecDeque::new(),
            responses: VecDeque::new(),
            timers: BTreeSet::new(),
            counters: Counters::default(),
            scratch: Vec::new(),
        }
    }

    /// Sets or replaces the identity. Connections that exist keep theirs.
    ///
    /// # Errors
    /// When the TLS library refuses the settings; the old identity stays.
    pub fn set_identity(&mut self, identity: Identity) -> Result<(), IdentityError> {
        let mut server = ServerConfig::with_crypto(Arc::new(identity.server_config(&self.peers)?));
        server.transport_config(Arc::clone(&self.transport)).migration(false);
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
                self.endpoint = Some(Endpoint::new(Arc::new(config), server, false));
            }
        }
        self.identity = Some(identity);
        Ok(())
    }

    /// Sets the PoPs that may be dialled and that may dial us. Connections of a PoP that is no longer among them are the
    /// caller's to close.
    pub fn set_peers(&mut self, peers: &[(PopId, String)]) {
        self.peer_names = peers.iter().cloned().collect();
        self.peers.replace(peers.iter().map(|(id, name)| (name.clone(), *id)).collect());
    }

    /// Starts a connection for the route handle (`peer`, `policy`). Streams and frames may be given at once.
    ///
    /// # Errors
    /// No identity, not a peer, no place left.
    pub fn connect(
        &mut self,
        now: Instant,
        peer: PopId,
        role: Role,
        policy: &str,
    ) -> Result<ConnectionKey, ConnectError> {
        let identity = self.identity.as_ref().ok_or(ConnectError::NoIdentity)?;
        let peer_name = self.peer_names.get(&peer).ok_or(ConnectError::UnknownPeer(peer))?.clone();
        if policy.len() > usize::from(u8::MAX) {
            return Err(ConnectError::PolicyTooLong);
        }
        if self.connections.len() >= self.options.max_connections {
            return Err(ConnectError::Full(self.connections.len()));
        }
        let crypto =
            identity.client_config(&peer_name).map_err(|error| ConnectError::Quic(error.to_string()))?;
        let cids = self.cids.clone();
        let mut client = ClientConfig::new(Arc::new(crypto));
        client
            .transport_config(Arc::clone(&self.transport))
            .token_store(Arc::new(NoneTokenStore))
            // Our worker's number in the first packets too: all connections of one worker meet one worker of the peer.
            .initial_dst_cid_provider(Arc::new(move || cids.generate()));
        let endpoint = self.endpoint.as_mut().ok_or(ConnectError::NoIdentity)?;
        let (handle, quic) = endpoint
            .connect(now, client, synthetic_address(peer), SERVER_NAME)
            .map_err(|error| ConnectError::Quic(error.to_string()))?;
        let index = self.insert(now, handle, quic, (peer, peer_name), Some(role), policy.to_owned());
        self.counters.connections_dialled += 1;
        Ok(self.connections[usize::from(index)].key)
    }

    fn insert(
        &mut self,
        now: Instant,
        handle: noq_proto::ConnectionHandle,
        quic: noq_proto::Connection,
        (peer, peer_name): (PopId, String),
        role: Option<Role>,
        policy: String,
    ) -> u16 {
        let entry = self.connections.vacant_entry();
        let index = u16::try_from(entry.key()).expect("there are at most 65,536 connections");
        self.next_generation = self.next_generation.wrapping_add(1);
        let key = ConnectionKey { index, generation: self.next_generation };
        entry.insert(Connection::new(NewConnection {
            key,
            handle,
            quic,
            peer,
            peer_name,
            role,
            policy,
            hello_deadline: now + self.options.handshake_timeout,
            max_bus_bytes: self.options.max_bus_bytes,
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
            self.end(index);
            self.pump(now, index);
        }
    }

    /// Takes a QUIC packet. The caller has made sure that it came from an address of `from`, or through transits from it.
    ///
    /// # Errors
    /// Why it was dropped; counted already.
    pub fn handle_quic(
        &mut self,
        now: Instant,
        from: PopId,
        datagram: BytesMut,
        ecn_bits: u8,
    ) -> Result<(), DropReason> {
        let outcome = self.take_quic(now, from, datagram, ecn_bits);
        if let Err(reason) = outcome {
            self.counters.drop(reason);
        }
        outcome
    }

    fn take_quic(
        &mut self,
        now: Instant,
        from: PopId,
        datagram: BytesMut,
        ecn_bits: u8,
    ) -> Result<(), DropReason> {
        let endpoint = self.endpoint.as_mut().ok_or(DropReason::QuicNoIdentity)?;
        if !self.peer_names.contains_key(&from) {
            return Err(DropReason::QuicUnknownPeer);
        }
        let datagram = if datagram.len() < COPY_BELOW { BytesMut::from(&datagram[..]) } else { datagram };
        let mut response = Vec::new();
        let path = FourTuple::from_remote(synthetic_address(from));
        let event = endpoint.handle(now, path, EcnCodepoint::from_bits(ecn_bits), datagram, &mut response);
        match event {
            None => Err(DropReason::QuicUnmatched),
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let index =
                    self.by_handle.get(handle.0).copied().flatten().ok_or(DropReason::QuicUnmatched)?;
                self.connections[usize::from(index)].quic.handle_event(event);
                self.pump(now, index);
                Ok(())
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.handle_incoming(now, from, incoming),
            Some(DatagramEvent::Response(transmit)) => {
                self.respond(from, response, transmit.size);
                Err(DropReason::QuicUnmatched)
            }
        }
    }

    fn handle_incoming(&mut self, now: Instant, from: PopId, incoming: Incoming) -> Result<(), DropReason> {
        let handshakes = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.is_dialled() && connection.hello_deadline.is_some())
            .count();
        let is_full = self.connections.len() >= self.options.max_connections
            || handshakes >= self.options.max_handshakes;
        let (Some(endpoint), Some(name)) = (self.endpoint.as_mut(), self.peer_names.get(&from)) else {
            return Err(DropReason::QuicNoIdentity);
        };
        if is_full {
            endpoint.ignore(incoming);
            return Err(DropReason::QuicIncomingFull);
        }
        let name = name.clone();
        let mut response = Vec::new();
        match endpoint.accept(incoming, now, &mut response, None) {
            Ok((handle, quic)) => {
                let index = self.insert(now, handle, quic, (from, name), None, String::new());
                self.counters.connections_accepted += 1;
                self.pump(now, index);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.respond(from, response, transmit.size);
                }
                self.refused(from, &error.cause);
            }
        }
        Ok(())
    }

    fn respond(&mut self, to: PopId, mut packet: Vec<u8>, size: usize) {
        packet.truncate(size);
        if self.responses.len() < MAX_RESPONSES {
            self.responses.push_back((to, packet));
        } else {
            self.counters.drop(DropReason::QuicResponseFull);
        }
    }

    /// A connection was used: it may have something to send, and other timers.
    pub(crate) fn touch(&mut self, index: u16) {
        if let Some(connection) = self.connections.get_mut(usize::from(index))
            && !connection.is_queued
        {
            connection.is_queued = true;
            self.send_queue.push_back(index);
        }
    }

    /// Writes what is to be sent next into `buf`, which is cleared first: one channel packet, or up to `max_datagrams`
    /// QUIC packets of one connection. `None`: nothing, for now.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_datagrams: NonZeroUsize,
    ) -> Option<TransmitInfo> {
        buf.clear();
        if let Some((peer, packet)) = self.responses.pop_front() {
            buf.extend_from_slice(&packet);
            let (size, kind) = (packet.len(), TransmitKind::Quic);
            return Some(TransmitInfo {
                connection: None,
                peer,
                size,
                segment_size: None,
                ecn_bits: 0,
                kind,
            });
        }
        while let Some(index) = self.send_queue.pop_front() {
            let Some(connection) = self.connections.get_mut(usize::from(index)) else {
                continue;
            };
            connection.is_queued = false;
            let info = poll_connection(now, connection, buf, max_datagrams, &mut self.counters);
            if info.is_some() {
                // At the end of the queue: connections take turns.
                self.touch(index);
                return info;
            }
            self.rearm(index);
        }
        None
    }

    fn rearm(&mut self, index: u16) {
        let Some(connection) = self.connections.get_mut(usize::from(index)) else {
            return;
        };
        let next = connection.next_timeout();
        if connection.timer == next {
            return;
        }
        if let Some(old) = std::mem::replace(&mut connection.timer, next) {
            self.timers.remove(&(old, index));
        }
        if let Some(next) = next {
            self.timers.insert((next, index));
        }
    }

    /// When [`Self::handle_timeout`] must be called at the latest. It changes after every other call.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        // Connections that were not polled to the end have not renewed their timers.
        for position in 0..self.send_queue.len() {
            self.rearm(self.send_queue[position]);
        }
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<u16> =
            self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, index)| *index).collect();
        for index in due {
            let Some(connection) = self.connections.get_mut(usize::from(index)) else {
                continue;
            };
            if connection.hello_deadline.is_some_and(|deadline| deadline <= now) {
                connection.hello_deadline = None;
                self.fail_handshake(now, index);
            } else {
                connection.quic.handle_timeout(now);
            }
            self.pump(now, index);
            self.rearm(index);
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        self.events.pop_front()
    }

    /// The path of this connection's handle has changed, or came back: retransmit soon, forget the back-off. Call it once
    /// per change, at the end that moved; the peer's end moves by itself.
    pub fn handle_path_change(&mut self, now: Instant, key: ConnectionKey) {
        if let Some(index) = self.find(key) {
            self.connections[usize::from(index)].quic.handle_network_change(None, now);
            self.pump(now, index);
        }
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

fn poll_connection(
    now: Instant,
    connection: &mut Connection,
    buf: &mut Vec<u8>,
    max_datagrams: NonZeroUsize,
    counters: &mut Counters,
) -> Option<TransmitInfo> {
    let (key, peer) = (connection.key, connection.peer);
    if let (Some(keys), Some(address)) = (connection.channel_keys.as_mut(), connection.channel_address) {
        match connection.outbox.poll_packet(keys, address, buf) {
            Ok(Some(size)) => {
                connection.channel_packets_sent += 1;
                return Some(TransmitInfo {
                    connection: Some(key),
                    peer,
                    size,
                    segment_size: None,
                    ecn_bits: 0,
                    kind: TransmitKind::Channel,
                });
            }
            Ok(None) => {}
            Err(reason) => {
                buf.clear();
                counters.drop(reason);
            }
        }
    }
    let transmit = connection.quic.poll_transmit(now, max_datagrams, buf)?;
    Some(TransmitInfo {
        connection: Some(key),
        peer,
        size: transmit.size,
        segment_size: transmit.segment_size,
        ecn_bits: transmit.ecn.map_or(0, |ecn| ecn as u8),
        kind: TransmitKind::Quic,
    })
}

/// The address that QUIC knows a PoP by. Real ones come and go with paths; reset tokens must not mix between PoPs.
fn synthetic_address(pop: PopId) -> SocketAddr {
    let PopId(id) = pop;
    let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, (id >> 16) as u16, id as u16);
    SocketAddr::new(IpAddr::V6(ip), 1)
}

/// Our codes are small numbers.
pub(crate) fn quic_code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
