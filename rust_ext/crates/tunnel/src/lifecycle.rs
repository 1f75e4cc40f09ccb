//! What QUIC's events mean: a connection becomes known, says `HELLO`, carries control messages, and ends.

use std::time::Instant;

use bytes::Bytes;
use l4proxy_wire::codes::CloseCode;
use l4proxy_wire::ids::{ChannelId, PopId};
use l4proxy_wire::stream::{ControlHello, ControlMessage, Role};
use noq_proto::{ConnectionError, Dir, Event, StreamEvent};
use rustls::pki_types::CertificateDer;

use crate::channel::{ChannelAddress, Outbox, Wear};
use crate::connection::{Connection, Phase};
use crate::counters::HandshakeFailure;
use crate::driver::{NOBODY, Tunnels, quic_code};
use crate::error::{DropReason, PeerCertificateError, SendError};
use crate::events::{ConnectionKey, Loss, TunnelEvent};
use crate::fragments::Reassembly;
use crate::keys::{export_channel_keys, export_pair_keys};
use crate::options::DatagramMode;
use crate::recent::Recent;
use crate::stripes::Nobodys;
use crate::turns::Turns;
use crate::verifier::{certificate_error, describe_alert};

/// TLS alerts are QUIC error codes from here on (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// The alert of who finds a certificate expired or not valid yet (RFC 8446, section 6.2; the TLS library sends it for both).
const CERTIFICATE_EXPIRED: u8 = 45;

/// Why a connection ended, for operators and for the counters.
struct Ending {
    reason: String,
    failure: HandshakeFailure,
    loss: Loss,
}

impl Ending {
    /// One that says nothing of whether the peer lives.
    const fn other(reason: String, failure: HandshakeFailure) -> Self {
        Self { reason, failure, loss: Loss::Other }
    }
}

impl Tunnels {
    /// Handles everything that QUIC has to say about a connection. Follows every input to it.
    pub(crate) fn pump(&mut self, now: Instant, index: u16) {
        self.touch(index);
        let mut is_drained = false;
        while let Some(connection) = self.connections.get_mut(usize::from(index)) {
            if let Some(event) = connection.quic.poll_endpoint_events() {
                is_drained |= event.is_drained();
                let answer = self
                    .endpoint
                    .as_mut()
                    .and_then(|endpoint| endpoint.handle_event(connection.handle, event));
                if let Some(answer) = answer {
                    connection.quic.handle_event(answer);
                }
            } else if let Some(event) = connection.quic.poll() {
                self.handle_quic_event(now, index, event);
            } else {
                break;
            }
        }
        if is_drained {
            self.remove(index);
        }
    }

    fn handle_quic_event(&mut self, now: Instant, index: u16, event: Event) {
        let connection = &self.connections[usize::from(index)];
        if let Event::ConnectionLost { reason } = event {
            self.lost(index, describe(&reason));
            return;
        }
        if connection.phase == Phase::Closed {
            return;
        }
        match event {
            Event::Connected => self.on_handshake_complete(now, index),
            Event::HandshakeConfirmed => {
                // The peer's first word after the handshake: it has accepted our certificate.
                if connection.is_dialled() {
                    self.announce(index);
                }
            }
            Event::Stream(event) => self.handle_stream_event(now, index, event),
            Event::DatagramReceived => {
                if !self.framed_queue.contains(&index) {
                    self.framed_queue.push_back(index);
                }
            }
            // None of these features is on, or the event tells us nothing new.
            Event::HandshakeDataReady
            | Event::ConnectionLost { .. }
            | Event::DatagramsUnblocked
            | Event::Path(_)
            | Event::NatTraversal(_) => {}
        }
    }

    fn on_handshake_complete(&mut self, now: Instant, index: u16) {
        if let Err(error) = self.check_identity(index) {
            let ending = Ending::other(error.to_string(), failure_of(&error));
            self.fail(now, index, CloseCode::WrongIdentity, ending);
            return;
        }
        let connection = &mut self.connections[usize::from(index)];
        connection.phase = Phase::AwaitingHello;
        connection.allowance = None;
        let wear =
            Wear { worn_at: self.options.channel_worn_packets, most: self.options.channel_max_packets };
        connection.channel_keys = export_channel_keys(&connection.quic, wear);
        if connection.wished == DatagramMode::Quic
            && let Some(limit) = connection.quic.datagrams().max_size()
        {
            connection.outbox.give_to_quic(limit);
        }
        if !connection.is_dialled() {
            return;
        }
        let control = connection.quic.streams().open(Dir::Bi);
        connection.control.id = control;
        let (key, peer) = (connection.key, connection.peer);
        if connection.role == Some(Role::Pair)
            && let Some(keys) = export_pair_keys(&connection.quic)
        {
            connection.pair_keys = Some(keys.clone());
            let continues = connection.follows.is_some();
            self.events.push_back(TunnelEvent::PairKeys { key, peer, keys, may_send: false, continues });
        }
        self.send_hello(index);
        self.open_waiting_streams(index);
    }

    /// Ends every connection whose peer, or whose peer's certificate, the identity's list has revoked: its streams are gone, and `Lost`
    /// says why. Call it after [`Self::set_identity`]. Returns the peers, each once.
    pub fn end_revoked(&mut self, now: Instant) -> Vec<PopId> {
        let Some(identity) = &self.identity else { return Vec::new() };
        let trust = identity.trust();
        let is_revoked = |connection: &Connection| {
            let chain = peer_chain(&connection.quic).unwrap_or_default();
            trust.check_revoked(&connection.peer_name, &chain).is_err()
        };
        let revoked: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.phase != Phase::Closed && is_revoked(connection))
            .map(|(_, connection)| (connection.key.index, connection.peer))
            .collect();
        for &(index, _) in &revoked {
            let error = PeerCertificateError::Revoked;
            self.fail(
                now,
                index,
                CloseCode::WrongIdentity,
                Ending::other(error.to_string(), failure_of(&error)),
            );
            self.pump(now, index);
        }
        let mut peers: Vec<_> = revoked.into_iter().map(|(_, peer)| peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// The peer must not be revoked, and on the listening side the certificate be of the PoP that the packets came from, a stranger's of a PoP
    /// that may come as one.
    fn check_identity(&mut self, index: u16) -> Result<(), PeerCertificateError> {
        let connection = &mut self.connections[usize::from(index)];
        let (Some(chain), Some(identity)) = (peer_chain(&connection.quic), &self.identity) else {
            return Err(PeerCertificateError::NoName);
        };
        // The handshake may have begun before the list that is in force.
        identity.trust().check_revoked(&connection.peer_name, &chain)?;
        if connection.is_dialled() {
            return Ok(());
        }
        let leaf = chain.first().ok_or(PeerCertificateError::NoName)?;
        let presented = identity.trust().name_of(leaf)?;
        match self.peers.find_id(&presented) {
            Some(id) if id == connection.peer => Ok(()),
            Some(id) if connection.peer == NOBODY && self.movable.contains(&id) => {
                identity.trust().check_revoked(&presented, &chain)?;
                (connection.peer, connection.peer_name) = (id, presented);
                Ok(())
            }
            Some(_) if connection.peer == NOBODY => Err(PeerCertificateError::OtherPop {
                presented,
                expected: "one with dial: outbound".to_owned(),
            }),
            Some(_) => {
                Err(PeerCertificateError::OtherPop { presented, expected: connection.peer_name.clone() })
            }
            None => Err(PeerCertificateError::UnknownPop { presented }),
        }
    }

    fn send_hello(&mut self, index: u16) {
        let follows = self.followed_channel(index);
        let connection = &mut self.connections[usize::from(index)];
        let Some(role) = connection.role else {
            return;
        };
        let hello = ControlHello {
            role,
            channel: channel_id(connection.key),
            worker: self.options.worker,
            follows,
            policy: connection.policy.clone(),
        };
        connection.control.send_hello(&hello);
        connection.control.flush(&mut connection.quic);
    }

    fn announce(&mut self, index: u16) {
        let connection = &mut self.connections[usize::from(index)];
        if let Some(role) = connection.role
            && !connection.is_announced
        {
            connection.is_announced = true;
            let (key, peer) = (connection.key, connection.peer);
            self.events.push_back(TunnelEvent::Connected { key, peer, role });
        }
    }

    fn handle_stream_event(&mut self, now: Instant, index: u16, event: StreamEvent) {
        let connection = &mut self.connections[usize::from(index)];
        let control = connection.control.id;
        match event {
            StreamEvent::Opened { .. } => self.accept_streams(now, index),
            StreamEvent::Available { .. } => self.open_waiting_streams(index),
            StreamEvent::Readable { id } if Some(id) == control => self.read_control(now, index),
            StreamEvent::Writable { id } if Some(id) == control => {
                connection.control.flush(&mut connection.quic);
                connection.turns.is_full = false;
                self.queue_turns(index);
            }
            StreamEvent::Stopped { id, .. } | StreamEvent::Finished { id } if Some(id) == control => {
                self.protocol_error(now, index, "the control stream was closed");
            }
            StreamEvent::Readable { id } => self.on_stream_readable(index, id),
            StreamEvent::Writable { id } => self.on_stream_writable(index, id),
            StreamEvent::Stopped { id, error_code } => self.on_stream_stopped(index, id, error_code),
            StreamEvent::Finished { id } => self.on_stripe_arrived(index, id),
        }
    }

    /// Takes the streams that the peer has opened; those of flows only once its `HELLO` is here.
    pub(crate) fn accept_streams(&mut self, now: Instant, index: u16) {
        loop {
            let connection = &mut self.connections[usize::from(index)];
            let wants_control = !connection.is_dialled() && connection.control.id.is_none();
            if !wants_control && connection.phase != Phase::Ready {
                return;
            }
            let Some(id) = connection.quic.streams().accept(Dir::Bi) else {
                break;
            };
            if wants_control {
                connection.control.id = Some(id);
                self.read_control(now, index);
            } else {
                self.on_stream_accepted(index, id);
            }
        }
        while let Some(connection) = self.connections.get_mut(usize::from(index))
            && connection.phase == Phase::Ready
            && let Some(id) = connection.quic.streams().accept(Dir::Uni)
        {
            connection.nobodys.insert(id, Nobodys::default());
            self.on_stripe_readable(index, id);
        }
    }

    fn read_control(&mut self, now: Instant, index: u16) {
        let connection = &mut self.connections[usize::from(index)];
        let mut messages = Vec::new();
        let outcome = connection.control.read(&mut connection.quic, &mut messages);
        for message in messages {
            match message {
                ControlMessage::Hello(hello) => self.on_hello(now, index, hello),
                ControlMessage::Bus(payload) => self.on_bus(index, payload),
                ControlMessage::Credit(credit) => self.on_credit(now, index, credit),
            }
        }
        if let Err(error) = outcome {
            self.protocol_error(now, index, &error);
        }
    }

    fn on_hello(&mut self, now: Instant, index: u16, hello: ControlHello) {
        let ControlHello { role, channel, worker, follows, policy } = hello;
        let address = ChannelAddress { worker, channel };
        let connection = &mut self.connections[usize::from(index)];
        if connection.role.is_some_and(|ours| ours != role) {
            self.protocol_error(now, index, "HELLO has another role than ours");
            return;
        }
        connection.phase = Phase::Ready;
        connection.hello_deadline = None;
        connection.flight.end();
        connection.channel_address = Some(address);
        if !connection.is_dialled() {
            connection.role = Some(role);
            connection.policy.clone_from(&policy);
            if role == Role::Pair {
                connection.pair_keys = export_pair_keys(&connection.quic);
            }
            self.follow(index, follows);
            self.send_hello(index);
        } else if follows != self.connections[usize::from(index)].follows.map(channel_id) {
            // The peer does not know the other connection: nothing goes on.
            self.connections[usize::from(index)].follows = None;
        }
        self.begin_window(index);
        self.announce(index);
        let connection = &mut self.connections[usize::from(index)];
        let (key, peer, continues) = (connection.key, connection.peer, connection.follows.is_some());
        self.events.push_back(TunnelEvent::HelloReceived { key, policy });
        if let Some(keys) = connection.pair_keys.take() {
            if !connection.is_dialled() {
                // This side learns only here what the connection is for, so that both steps fall together.
                self.events.push_back(TunnelEvent::PairKeys {
                    key,
                    peer,
                    keys: keys.clone(),
                    may_send: false,
                    continues,
                });
            }
            self.events.push_back(TunnelEvent::PairKeys { key, peer, keys, may_send: true, continues });
        }
        let (outbox, way) = connection.outbox_and_way();
        if let Err(reason) = outbox.release_held(way) {
            self.counters.drop(reason);
        }
        self.accept_streams(now, index);
    }

    fn on_bus(&mut self, index: u16, payload: Vec<u8>) {
        let connection = &self.connections[usize::from(index)];
        if connection.phase == Phase::Closed {
            return;
        }
        self.counters.bus_received += 1;
        self.events.push_back(TunnelEvent::Bus { peer: connection.peer, payload });
    }

    /// Sends a message to the control plane of `peer`, over the newest pair connection.
    ///
    /// # Errors
    /// No pair connection is ready, the message is above 1 MiB, or too much is waiting already; all counted.
    pub fn send_bus(&mut self, peer: PopId, payload: &[u8]) -> Result<(), SendError> {
        let newest = self
            .connections
            .iter_mut()
            .map(|(_, connection)| connection)
            .filter(|connection| {
                connection.peer == peer
                    && connection.role == Some(Role::Pair)
                    && connection.phase == Phase::Ready
            })
            .max_by_key(|connection| connection.key.generation);
        let Some(connection) = newest else {
            self.counters.drop(DropReason::BusNoConnection);
            return Err(SendError::Gone);
        };
        if let Err(error) = connection.control.send_bus(payload) {
            if error == SendError::Full {
                self.counters.drop(DropReason::BusFull);
            }
            return Err(error);
        }
        connection.control.flush(&mut connection.quic);
        self.counters.bus_sent += 1;
        let index = connection.key.index;
        self.touch(index);
        Ok(())
    }

    /// The peer broke the protocol: the connection is closed.
    pub(crate) fn protocol_error(&mut self, now: Instant, index: u16, reason: &str) {
        let ending = Ending::other(format!("protocol error: {reason}"), HandshakeFailure::Other);
        self.fail(now, index, CloseCode::ProtocolError, ending);
    }

    /// The peer's `HELLO` did not come in time.
    pub(crate) fn fail_handshake(&mut self, now: Instant, index: u16) {
        let reason = "handshake timed out".to_owned();
        let ending = Ending { reason, failure: HandshakeFailure::TimedOut, loss: Loss::Silent };
        self.fail(now, index, CloseCode::Done, ending);
    }

    /// Ends a connection whose peer is known to be out of reach: `StreamGone` of its streams and `Lost` follow at once, instead of when
    /// QUIC's own idle time is over.
    pub fn give_up(&mut self, now: Instant, key: ConnectionKey) {
        if let Some(index) = self.find(key) {
            let reason = "nothing comes from the peer".to_owned();
            let ending = Ending { reason, failure: HandshakeFailure::TimedOut, loss: Loss::Silent };
            self.fail(now, index, CloseCode::Done, ending);
            self.pump(now, index);
        }
    }

    /// Has the peer answer something: an acknowledgement if it lives, a reset if its process is another one. What comes of it is seen in
    /// [`ConnectionView::last_received`](crate::ConnectionView), or is a `Lost`.
    pub fn nudge(&mut self, key: ConnectionKey) {
        if let Some(index) = self.find(key) {
            self.connections[usize::from(index)].quic.ping();
            self.touch(index);
        }
    }

    fn fail(&mut self, now: Instant, index: u16, code: CloseCode, ending: Ending) {
        let connection = &mut self.connections[usize::from(index)];
        connection.quic.close(now, quic_code(code.code()), Bytes::from(ending.reason.clone()));
        self.lost(index, ending);
    }

    fn lost(&mut self, index: u16, ending: Ending) {
        let connection = &self.connections[usize::from(index)];
        if connection.phase == Phase::Closed {
            return;
        }
        let (key, peer, role) = (connection.key, connection.peer, connection.role);
        let is_dialled = connection.is_dialled();
        if connection.phase == Phase::Ready {
            self.counters.connections_lost += 1;
        } else {
            self.counters.handshake_failed(ending.failure);
        }
        self.end(index, ending.loss);
        // What strangers fail with is counted: who they are is not known, and they may be many.
        if is_dialled || role.is_some() {
            self.events.push_back(TunnelEvent::Lost {
                key,
                peer,
                role,
                loss: ending.loss,
                failure: ending.failure,
                reason: ending.reason,
            });
        } else if peer != NOBODY {
            self.events.push_back(TunnelEvent::PeerRefused {
                peer,
                failure: ending.failure,
                reason: ending.reason,
            });
        }
    }

    /// A connection of a peer failed with its first packet.
    pub(crate) fn refused(&mut self, peer: PopId, error: &ConnectionError) {
        let ending = describe(error);
        self.counters.handshake_failed(ending.failure);
        if peer != NOBODY {
            self.events.push_back(TunnelEvent::PeerRefused {
                peer,
                failure: ending.failure,
                reason: ending.reason,
            });
        }
    }

    /// The connection is over for the caller: its streams are gone, nothing of it is sent but QUIC's goodbye.
    pub(crate) fn end(&mut self, index: u16, loss: Loss) {
        let connection = &mut self.connections[usize::from(index)];
        connection.phase = Phase::Closed;
        connection.hello_deadline = None;
        connection.channel_keys = None;
        connection.pair_keys = None;
        connection.outbox = Outbox::default();
        connection.flight.end();
        connection.recent = Recent::default();
        connection.reassembly = Reassembly::default();
        connection.control.clear();
        connection.turns = Turns::default();
        connection.stripes.clear();
        connection.nobodys.clear();
        let streams: Vec<u32> = std::mem::take(&mut connection.streams)
            .into_values()
            .chain(std::mem::take(&mut connection.waiting_streams))
            .collect();
        connection.sending.end(&mut self.memory);
        for place in streams {
            self.stream_lost_with_connection(place, loss);
        }
    }
}

/// Our number for a connection's channel: its place, and enough of its generation to tell it from the one before.
pub(crate) fn channel_id(key: ConnectionKey) -> ChannelId {
    ChannelId((key.generation & 0xffff) << 16 | u32::from(key.index))
}

/// The certificates that the peer has shown, its own first.
fn peer_chain(quic: &noq_proto::Connection) -> Option<Vec<CertificateDer<'static>>> {
    let shown = quic.crypto_session().peer_identity()?;
    shown.downcast::<Vec<CertificateDer<'static>>>().ok().map(|chain| *chain)
}

fn failure_of(error: &PeerCertificateError) -> HandshakeFailure {
    match error {
        PeerCertificateError::Expired { .. } | PeerCertificateError::NotValidYet { .. } => {
            HandshakeFailure::NotInTime
        }
        PeerCertificateError::Revoked => HandshakeFailure::Revoked,
        PeerCertificateError::OtherCa => HandshakeFailure::OtherCa,
        PeerCertificateError::NoName
        | PeerCertificateError::SeveralNames
        | PeerCertificateError::OtherFleet { .. }
        | PeerCertificateError::OtherPop { .. }
        | PeerCertificateError::UnknownPop { .. } => HandshakeFailure::WrongName,
        PeerCertificateError::Invalid(_) => HandshakeFailure::Other,
    }
}

fn describe(error: &ConnectionError) -> Ending {
    let other = |reason: String| Ending::other(reason, HandshakeFailure::Other);
    match error {
        ConnectionError::TransportError(transport) => {
            let certificate = transport
                .crypto
                .as_ref()
                .and_then(|crypto| crypto.downcast_ref::<rustls::Error>())
                .and_then(certificate_error);
            match certificate {
                Some(error) => Ending::other(error.to_string(), failure_of(&error)),
                None => other(transport.to_string()),
            }
        }
        ConnectionError::ConnectionClosed(close) => {
            let code = u64::from(close.error_code);
            if CRYPTO_ERRORS.contains(&code) {
                let alert = (code - CRYPTO_ERRORS.start) as u8;
                let failure = match alert {
                    CERTIFICATE_EXPIRED => HandshakeFailure::NotInTimeThere,
                    _ => HandshakeFailure::RefusedByPeer,
                };
                Ending::other(describe_alert(alert), failure)
            } else {
                other(format!("aborted by peer: {close}"))
            }
        }
        ConnectionError::ApplicationClosed(close) => describe_close(close),
        ConnectionError::TimedOut => {
            Ending { reason: "timed out".to_owned(), failure: HandshakeFailure::TimedOut, loss: Loss::Silent }
        }
        ConnectionError::Reset => {
            Ending { loss: Loss::Restarted, ..other("the peer has started again".to_owned()) }
        }
        ConnectionError::VersionMismatch
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => other(error.to_string()),
    }
}

fn describe_close(close: &noq_proto::ApplicationClose) -> Ending {
    let said = String::from_utf8_lossy(&close.reason);
    let code = CloseCode::try_from(u64::from(close.error_code)).ok();
    let other = |reason: String| Ending::other(reason, HandshakeFailure::Other);
    match code {
        Some(CloseCode::Done) => other("closed by peer".to_owned()),
        Some(CloseCode::WrongIdentity) => {
            Ending::other(format!("peer refused our certificate: {said}"), HandshakeFailure::RefusedByPeer)
        }
        Some(CloseCode::ProtocolError) => other(format!("closed by peer: {said}")),
        Some(CloseCode::ShuttingDown) => {
            Ending { loss: Loss::Stopped, ..other("peer is shutting down".to_owned()) }
        }
        None => other(format!("closed by peer with code {}", close.error_code)),
    }
}
