//! The least that carrying datagrams in QUIC DATAGRAM frames can cost: two processes, UDP in → noq-proto → UDP out, and back.
//!
//! The shape of our own worker's loop (batches, GRO in, GSO out, one thread, no async runtime) around the same library. A frame is the
//! number of its flow and the datagram. No path choice, no replay window of its own, no limits.

use super::{FloorOptions, FloorReport, Loop, MAX_FLOWS};
use crate::error::BenchError;
use bytes::{Bytes, BytesMut};
use l4proxy_io::epoll::{Epoll, Event, Interest};
use l4proxy_io::udp::{Outgoing, RecvBatch, SendBatch, UdpOptions, UdpSocket};
use noq_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use noq_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, FourTuple,
    ServerConfig, TransportConfig,
};
use rustls::crypto::{CryptoProvider, ring as ring_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LISTENER: u64 = u64::MAX;
const WIRE: u64 = u64::MAX - 1;
/// Datagrams of one system call, and the largest of them with some room.
const BATCH: usize = 64;
const LARGEST: usize = 2048;
/// What the kernel merges for one call at most, and how many of those are taken at once.
const MERGED: usize = 65_536;
const WIRE_BATCH: usize = 8;
const BUFFER: usize = 4 << 20;
/// As the product's: packets of 1,350 bytes, up to 40 of them a call, idle flows kept alive.
const PACKET: u16 = 1350;
const SEGMENTS: NonZeroUsize = NonZeroUsize::new(40).expect("not zero");
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// In front of every datagram: which flow it belongs to.
const NUMBER: usize = 4;
/// The name in the certificate that the measurements make.
const NAME: &str = "relay.test";

/// Which end of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Clients' datagrams come in here; it dials the other.
    Ingress,
    /// It sends to the origin.
    Egress,
}

pub(super) struct Quic {
    side: Side,
    origin: SocketAddr,
    wire: UdpSocket,
    peer: Option<SocketAddr>,
    /// The clients' socket; the egress has none.
    listener: Option<UdpSocket>,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    /// Ingress: the clients. Egress: empty.
    clients: Vec<SocketAddr>,
    by_client: HashMap<SocketAddr, u32>,
    /// Egress: a socket to the origin for each flow, by its number.
    sessions: Vec<UdpSocket>,
    incoming: RecvBatch,
    wire_in: RecvBatch,
    outgoing: SendBatch,
    packets: Vec<u8>,
    report: FloorReport,
}

impl Quic {
    pub(super) fn bind(
        side: Side,
        options: &FloorOptions,
        epoll: &Epoll,
    ) -> Result<(Self, SocketAddr), BenchError> {
        let tls = Tls::read(options.identity.as_deref())?;
        let wish = UdpOptions { gro: true, recv_buffer: Some(BUFFER), ..UdpOptions::default() };
        let plain = UdpOptions { gro: false, ..wish };
        let socket = || BenchError::system("UDP socket");
        let (wire, listener, peer) = match side {
            Side::Ingress => {
                let listener = UdpSocket::bind(options.listen, false).map_err(socket())?;
                listener.apply(&plain).map_err(socket())?;
                epoll.add(&listener, LISTENER, Interest::READ).map_err(socket())?;
                let any = SocketAddr::new(
                    if options.origin.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() },
                    0,
                );
                (UdpSocket::bind(any, false).map_err(socket())?, Some(listener), Some(options.origin))
            }
            Side::Egress => (UdpSocket::bind(options.listen, false).map_err(socket())?, None, None),
        };
        wire.apply(&wish).map_err(socket())?;
        epoll.add(&wire, WIRE, Interest::READ).map_err(socket())?;
        let address = listener.as_ref().unwrap_or(&wire).local_address().map_err(socket())?;
        let mut floor = Self {
            side,
            origin: options.origin,
            wire,
            peer,
            listener,
            endpoint: tls.endpoint(side)?,
            connection: None,
            clients: Vec::new(),
            by_client: HashMap::new(),
            sessions: Vec::new(),
            incoming: RecvBatch::new(BATCH, LARGEST),
            wire_in: RecvBatch::new(WIRE_BATCH, MERGED),
            outgoing: SendBatch::new(BATCH),
            packets: Vec::with_capacity(MERGED),
            report: FloorReport::default(),
        };
        if let Some(peer) = floor.peer {
            let connection = floor
                .endpoint
                .connect(Instant::now(), tls.client()?, peer, NAME)
                .map_err(|error| refused("identity", &error))?;
            floor.connection = Some(connection);
            floor.pump(Instant::now());
        }
        Ok((floor, address))
    }

    /// Frames of what clients sent.
    fn read_clients(&mut self) {
        let Some(listener) = &self.listener else { return };
        if self.incoming.recv(listener, BATCH).unwrap_or(0) == 0 {
            return;
        }
        let Some((_, connection)) = &mut self.connection else { return };
        let mut frames = Vec::with_capacity(BATCH);
        let mut room = BytesMut::with_capacity(BATCH * (LARGEST / 8));
        for (bytes, meta) in self.incoming.iter() {
            let number = match self.by_client.get(&meta.source) {
                Some(number) => *number,
                None if self.clients.len() >= MAX_FLOWS => {
                    self.report.refused += 1;
                    continue;
                }
                None => {
                    let number = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
                    self.clients.push(meta.source);
                    self.by_client.insert(meta.source, number);
                    self.report.flows += 1;
                    number
                }
            };
            frames.push(frame(&mut room, number, bytes));
        }
        // Before the handshake is over there is nothing to send them in: they are lost, as datagrams are.
        let _ = connection.datagrams().send_many(&frames, true);
    }

    /// Frames of what the origin answered to one flow.
    fn read_origin(&mut self, number: usize) {
        let Some(socket) = self.sessions.get(number) else { return };
        if self.incoming.recv(socket, BATCH).unwrap_or(0) == 0 {
            return;
        }
        let Some((_, connection)) = &mut self.connection else { return };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let mut room = BytesMut::with_capacity(BATCH * (LARGEST / 8));
        let frames: Vec<_> = self.incoming.iter().map(|(bytes, _)| frame(&mut room, number, bytes)).collect();
        let _ = connection.datagrams().send_many(&frames, true);
    }

    fn read_wire(&mut self, epoll: &Epoll) {
        if self.wire_in.recv(&self.wire, WIRE_BATCH).unwrap_or(0) == 0 {
            return;
        }
        let now = Instant::now();
        let Self { wire_in, endpoint, connection, peer, .. } = self;
        let mut response = Vec::new();
        wire_in.for_each(|mut datagram| {
            let source = datagram.meta.source;
            for packet in datagram.segments() {
                let event = endpoint.handle(
                    now,
                    FourTuple::from_remote(source),
                    None,
                    BytesMut::from(&*packet),
                    &mut response,
                );
                match event {
                    Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                        if let Some((_, found)) = connection.as_mut().filter(|(own, _)| *own == handle) {
                            found.handle_event(event);
                        }
                    }
                    Some(DatagramEvent::NewConnection(incoming)) if connection.is_none() => {
                        *connection = endpoint.accept(incoming, now, &mut response, None).ok();
                        *peer = Some(source);
                    }
                    Some(DatagramEvent::NewConnection(incoming)) => endpoint.ignore(incoming),
                    Some(DatagramEvent::Response(_)) | None => {}
                }
            }
        });
        self.deliver(epoll);
    }

    /// Datagrams that have come through the tunnel.
    fn deliver(&mut self, epoll: &Epoll) {
        let Some((_, connection)) = &mut self.connection else { return };
        let mut frames: [Bytes; BATCH] = std::array::from_fn(|_| Bytes::new());
        loop {
            let count = connection.datagrams().recv_many(&mut frames);
            if count == 0 {
                return;
            }
            let numbered = frames[..count].iter().filter_map(|bytes| {
                let (number, datagram) = bytes.split_first_chunk::<NUMBER>()?;
                Some((u32::from_be_bytes(*number) as usize, datagram))
            });
            match self.side {
                Side::Ingress => {
                    let Some(listener) = &self.listener else { return };
                    let messages: Vec<_> = numbered
                        .filter_map(|(number, bytes)| {
                            Some(Outgoing::new(bytes, Some(*self.clients.get(number)?)))
                        })
                        .collect();
                    let _ = self.outgoing.send(listener, &messages);
                }
                Side::Egress => {
                    for (number, bytes) in numbered {
                        // Flows are numbered as they come, so the next one is the one after the last.
                        while self.sessions.len() <= number.min(MAX_FLOWS) {
                            let Ok(socket) = UdpSocket::connect(self.origin, None) else { return };
                            if epoll.add(&socket, self.sessions.len() as u64, Interest::READ).is_err() {
                                return;
                            }
                            self.sessions.push(socket);
                            self.report.flows += 1;
                        }
                        let _ = self.sessions.get(number).map(|socket| socket.send(bytes));
                    }
                }
            }
        }
    }

    /// Timers, events, and everything that is to be sent.
    fn pump(&mut self, now: Instant) {
        let Some((handle, connection)) = &mut self.connection else { return };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(answer);
            }
        }
        while connection.poll().is_some() {}
        loop {
            self.packets.clear();
            let Some(transmit) = connection.poll_transmit(now, SEGMENTS, &mut self.packets) else { return };
            let message = Outgoing {
                segment_size: transmit
                    .segment_size
                    .and_then(|size| NonZeroU16::new(u16::try_from(size).ok()?)),
                ..Outgoing::new(&self.packets[..transmit.size], self.peer)
            };
            let _ = self.outgoing.send(&self.wire, &[message]);
        }
    }
}

impl Loop for Quic {
    fn handle(&mut self, event: Event, epoll: &Epoll) -> Result<(), BenchError> {
        match event.token {
            LISTENER => self.read_clients(),
            WIRE => self.read_wire(epoll),
            number => self.read_origin(usize::try_from(number).unwrap_or(usize::MAX)),
        }
        Ok(())
    }

    fn end_turn(&mut self, _epoll: &Epoll) -> Result<bool, BenchError> {
        self.pump(Instant::now());
        Ok(false)
    }

    fn deadline(&mut self) -> Option<Instant> {
        self.connection.as_mut()?.1.poll_timeout()
    }

    fn report(&self) -> FloorReport {
        self.report
    }
}

fn frame(room: &mut BytesMut, number: u32, datagram: &[u8]) -> Bytes {
    room.extend_from_slice(&number.to_be_bytes());
    room.extend_from_slice(datagram);
    room.split().freeze()
}

/// A certificate that both ends have, and its key.
struct Tls {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    fn read(folder: Option<&Path>) -> Result<Self, BenchError> {
        let folder = folder.ok_or_else(|| refused("identity", &"a floor over QUIC needs one"))?;
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        Ok(Self {
            certificate: CertificateDer::from_pem_file(certificate)
                .map_err(|error| refused("identity", &error))?,
            key: PrivateKeyDer::from_pem_file(key).map_err(|error| refused("identity", &error))?,
            // The cipher of our own channel: what is compared is not AES-256 with AES-128.
            provider: Arc::new(CryptoProvider {
                cipher_suites: vec![ring_provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
                ..ring_provider::default_provider()
            }),
        })
    }

    fn endpoint(&self, side: Side) -> Result<Endpoint, BenchError> {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a floor resets nothing");
        let server = match side {
            Side::Ingress => None,
            Side::Egress => Some(Arc::new(self.server()?)),
        };
        Ok(Endpoint::new(Arc::new(EndpointConfig::new(Arc::new(key))), server, false))
    }

    fn server(&self) -> Result<ServerConfig, BenchError> {
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            })
            .map_err(|error| refused("identity", &error))?;
        let crypto = QuicServerConfig::try_from(config).map_err(|error| refused("identity", &error))?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport());
        Ok(server)
    }

    fn client(&self) -> Result<ClientConfig, BenchError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|error| refused("identity", &error))?;
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| refused("identity", &error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let crypto = QuicClientConfig::try_from(config).map_err(|error| refused("identity", &error))?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(transport());
        Ok(client)
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .datagram_receive_buffer_size(Some(BUFFER))
        .datagram_send_buffer_size(BUFFER)
        .initial_mtu(PACKET)
        .min_mtu(PACKET)
        .mtu_discovery_config(None)
        .keep_alive_interval(Some(KEEP_ALIVE));
    Arc::new(transport)
}

fn refused(option: &'static str, reason: &dyn std::fmt::Display) -> BenchError {
    BenchError::Option { option, reason: reason.to_string() }
}
