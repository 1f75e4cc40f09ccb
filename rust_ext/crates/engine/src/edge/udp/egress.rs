//! UDP sessions of other PoPs' clients: frames of a channel to an origin that is dialled here, and its answers back.
//!
//! A session is known by peer and flow. It may move to another channel of the same peer, and its socket to the origin stays: media
//! servers drop a client whose source changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use l4proxy_io::epoll::Interest;
use l4proxy_io::udp::{UdpOptions, UdpSocket};
use l4proxy_proto::bindings;
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::codes::Reason;
use l4proxy_wire::ids::{FlowId, PopId, SessionId};
use l4proxy_wire::open::Open;

use super::super::dial::{Attempt, Plan};
use super::super::ending::{DialFailure, Ending, Side};
use super::super::reach::dial_udp;
use super::send::{dropped_by, dropped_by_dial, mark, send_one};
use super::{BATCH, BATCHES_PER_TURN, Key, State, UdpEdge, marking};
use crate::app::Permit;
use crate::counters::{Dropped, Value};
use crate::identity::datagrams::{Announcer, payload};
use crate::messages::FlowRole;
use crate::origin::{Denied, Granted, Request, grant};
use crate::overlay::ChannelKey;
use crate::records::{FlowMeta, Remote};
use crate::snapshot::Protocol;
use crate::token::{Slot, Token};
use crate::turn::{Turn, frame_dropped};

/// The egress waits this much longer than the ingress, which says when it is over (docs/protocol.md section 5).
const IDLE_EXTRA: Duration = Duration::from_secs(30);

/// A session of another PoP's client.
pub(super) struct Egress {
    pub(super) meta: FlowMeta,
    socket: Arc<UdpSocket>,
    /// What the socket marks its datagrams with.
    tos: u8,
    /// What the origin is told of the client, if it is told.
    announcer: Option<Box<Announcer>>,
    /// Where its frames come from and go to.
    pub(super) granted: bindings::Granted<ChannelKey>,
    _permit: Permit,
}

impl Egress {
    /// Our address as the origin sees it.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        self.socket.local_address().ok()
    }

    /// Mark what is sent to the origin as it came, or as the app says.
    fn mark(&mut self, received: u8) {
        let tos = marking::outgoing(self.meta.app.policy.dscp, Some(received));
        mark(&self.socket, &mut self.tos, tos);
    }
}

/// Why a peer's flow is not begun.
enum Refusal {
    /// It is not configured here.
    Denied(Denied),
    /// It cannot be done now: what it is counted as, and what the peer is told.
    Unable(Dropped, Reason),
}

impl UdpEdge {
    fn egress(&mut self, number: u32) -> Option<&mut Egress> {
        match self.states.get_mut(number as usize)?.as_mut()? {
            State::Egress(session) => Some(session),
            State::Ingress(_) => None,
        }
    }

    /// A datagram whose ingress does not know our number for its flow, or not yet.
    pub(super) fn open_from_peer(
        &mut self,
        channel: ChannelKey,
        open: &Open<'_>,
        datagram: Datagram<'_>,
        turn: &mut Turn<'_>,
    ) {
        let Some(peer) = peer_of(channel, turn) else { return turn.drop(Dropped::TunnelGone) };
        let key = Key::Peer { peer, flow: open.flow };
        let number = match self.sessions.find(&key) {
            Some(number) => number,
            None => match self.begin_for_peer(key, channel, open, turn) {
                Ok(number) => number,
                Err(refusal) => {
                    let reason = match refusal {
                        Refusal::Denied(denied) => {
                            turn.deny(peer, &Request::of(open), denied);
                            denied.reason
                        }
                        Refusal::Unable(counted, reason) => {
                            turn.drop(counted);
                            reason
                        }
                    };
                    let frame = Frame::Refused { flow: open.flow, reason };
                    return turn.reply(channel, &frame);
                }
            },
        };
        if let Some(session) = self.bind(number, channel) {
            let frame = Frame::Bound { flow: open.flow, session, datagram: None };
            // Lost like any datagram: the next OPEN_DATA is answered again.
            turn.reply(channel, &frame);
        }
        self.handle_peer_datagram(number, datagram, turn);
    }

    fn begin_for_peer(
        &mut self,
        key: Key,
        channel: ChannelKey,
        open: &Open<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<u32, Refusal> {
        if turn.is_draining {
            return Err(Refusal::Unable(Dropped::Draining, Reason::Draining));
        }
        let request = Request::of(open);
        if request.protocol != Protocol::Udp {
            return Err(Refusal::Unable(Dropped::EgressDenied, Reason::ProtocolError));
        }
        let granted = grant(turn.tables, &request).map_err(Refusal::Denied)?;
        let full = |counted| Refusal::Unable(counted, Reason::LimitReached);
        let mut permit = match Permit::for_peer(&granted.app) {
            Err(Dropped::AppFlowsFull) if self.make_room_in_app(&granted.app, turn) => {
                Permit::for_peer(&granted.app).map_err(full)?
            }
            other => other.map_err(full)?,
        };
        if !self.make_room(turn) {
            return Err(full(Dropped::SessionsFull));
        }
        let random = turn.random.next();
        let socket = connect(&granted, open, random, turn)
            .map_err(|(counted, reason)| Refusal::Unable(counted, reason))?;
        let number = self.sessions.insert(turn.now, key, granted.app.idle_udp + IDLE_EXTRA);
        let slot = self.sessions.get(number).map(|session| Slot { number, generation: session.generation });
        let watched = slot.map(|slot| turn.epoll.add(&socket, Token::UdpEgress(slot).pack(), Interest::READ));
        if !matches!(watched, Some(Ok(()))) {
            self.sessions.remove(number);
            return Err(full(Dropped::FdLimit));
        }
        permit.on_opened(turn.worker, Protocol::Udp);
        let meta = meta_of(granted, channel, open, turn);
        let socket = Arc::new(socket);
        let announcer = Announcer::new(&meta);
        let session =
            Egress { meta, socket, tos: 0, announcer, granted: bindings::Granted::new(), _permit: permit };
        self.insert_state(number, State::Egress(session));
        Ok(number)
    }

    /// The session's number in this channel; given now if it has none there.
    fn bind(&mut self, number: u32, channel: ChannelKey) -> Option<SessionId> {
        let Some(Some(State::Egress(session))) = self.states.get_mut(number as usize) else { return None };
        Some(self.grants.bind(number, &mut session.granted, channel))
    }

    /// Datagrams that name their sessions by our numbers, those of a session and one mark together.
    pub(super) fn send_for_peers(&mut self, mut found: Vec<(Slot, Datagram<'_>)>, turn: &mut Turn<'_>) {
        found.sort_by_key(|(slot, _)| slot.number);
        for datagrams in found.chunk_by(|(slot, one), (other, next)| slot == other && one.tos == next.tos) {
            let number = self.number_of(datagrams[0].0);
            let Some((number, session)) = number.and_then(|number| Some((number, self.egress(number)?)))
            else {
                turn.drop_many(Dropped::FrameUnexpected, datagrams.len() as u64);
                continue;
            };
            session.granted.on_data();
            if datagrams.len() > 1 && session.announcer.is_none() {
                session.mark(datagrams[0].1.tos);
                let socket = session.socket.clone();
                self.send_batch(&socket, datagrams, turn, Self::on_to_origin);
            } else {
                for &(_, datagram) in datagrams {
                    self.handle_peer_datagram(number, datagram, turn);
                }
            }
        }
    }

    fn handle_peer_datagram(&mut self, number: u32, datagram: Datagram<'_>, turn: &mut Turn<'_>) {
        let mut dressing = std::mem::take(&mut self.dressing);
        let Some(session) = self.egress(number) else { return };
        session.mark(datagram.tos);
        let sent = match &mut session.announcer {
            None => send_one(&session.socket, datagram.bytes),
            Some(announcer) => announcer.send(turn.now, &session.socket, datagram.bytes, &mut dressing),
        };
        self.dressing = dressing;
        match sent {
            Ok(()) => self.on_to_origin(number, datagram.bytes.len(), turn),
            Err(reason) => self.on_dropped(number, reason, turn),
        }
    }

    /// Answers of an origin.
    pub(super) fn read_origin_for_peer(&mut self, slot: Slot, turn: &mut Turn<'_>) {
        let Some(number) = self.number_of(slot) else { return };
        let Some(mut batch) = self.connected_batch.take() else { return };
        for _ in 0..BATCHES_PER_TURN {
            let Some(session) = self.egress(number) else { break };
            let (granted, flow) = (session.granted, FlowId(session.meta.id));
            let app = session.meta.app.clone();
            let received = batch.recv(&session.socket, BATCH);
            let header = session.announcer.as_mut().and_then(|announcer| {
                announcer.on_received(&received);
                announcer.answer_header()
            });
            let count = match received {
                Ok(count) => count,
                Err(error) => {
                    self.on_dropped(number, dropped_by(&error), turn);
                    continue;
                }
            };
            turn.count(Value::DatagramsReceived, count as u64);
            for (datagram, meta) in batch.iter() {
                let bytes = payload(datagram, header.as_ref());
                let datagram = Datagram { tos: meta.tos.unwrap_or(0), bytes };
                let sent = granted.place().ok_or(Dropped::TunnelGone).and_then(|(channel, session)| {
                    let frame = if granted.is_used() {
                        Frame::Data { session, datagram }
                    } else {
                        Frame::Bound { flow, session, datagram: Some(datagram) }
                    };
                    let sent = turn.overlay.send_datagram(turn.now, channel, &frame, app.duplication());
                    sent.map_err(|error| frame_dropped(&error))
                });
                match sent {
                    Ok(()) => self.on_to_client(number, bytes.len(), turn),
                    Err(reason) => self.on_dropped(number, reason, turn),
                }
            }
            if count < BATCH {
                break;
            }
        }
        self.connected_batch = Some(batch);
    }

    /// One of the two PoPs says that a session is over.
    pub(super) fn on_close(
        &mut self,
        channel: ChannelKey,
        session: SessionId,
        reason: Reason,
        turn: &mut Turn<'_>,
    ) {
        if let Some(number) = self.grants.find((channel, session)) {
            let ending =
                if reason == Reason::Idle { Ending::Idle } else { Ending::Peer(Side::Client, reason) };
            // The ingress has said it: nobody needs to be told.
            if let Some(Some(State::Egress(state))) = self.states.get_mut(number as usize) {
                self.grants.end(&mut state.granted);
            }
            self.end(number, ending, turn);
        } else {
            self.unbind(channel, session, turn);
        }
    }
}

/// A socket towards the granted origin.
fn connect(
    granted: &Granted,
    open: &Open<'_>,
    random: u64,
    turn: &Turn<'_>,
) -> Result<UdpSocket, (Dropped, Reason)> {
    let deadline = Duration::from_millis(open.deadline_ms.into());
    let mut plan = Plan::for_peer(turn.now, granted, deadline, random);
    let failure = plan.failure(DialFailure::NoRoute);
    let mut last = (failure.nowhere_to_go().unwrap_or(Dropped::NoRoute), failure);
    while let Some((Attempt::Here { origin, address }, _)) = plan.next(turn.now) {
        match dial_udp(&granted.app, origin, address, open.client, turn) {
            Ok(socket) => {
                // Without it answers come without their marks, which is no reason to have none.
                drop(socket.apply(&UdpOptions { tos: true, ..UdpOptions::default() }));
                return Ok(socket);
            }
            Err(unreached) => last = (dropped_by_dial(&unreached), unreached.failure()),
        }
        if last.1 == DialFailure::Shortage {
            break;
        }
    }
    Err((last.0, last.1.wire_reason()))
}

fn peer_of(channel: ChannelKey, turn: &Turn<'_>) -> Option<PopId> {
    let name = turn.overlay.describe_channel(channel)?.peer;
    turn.tables.overlay.peers.iter().find(|peer| peer.name == name).map(|peer| peer.id)
}

fn meta_of(granted: Granted, channel: ChannelKey, open: &Open<'_>, turn: &Turn<'_>) -> FlowMeta {
    let remote = turn.overlay.describe_channel(channel).map(|view| Remote {
        peer: view.peer.to_owned(),
        policy: view.policy.to_owned(),
        path: Vec::new(),
        handle: None,
    });
    let (client, listener): (SocketAddr, SocketAddr) = (open.client, open.listener);
    FlowMeta {
        id: open.flow.0,
        app: granted.app,
        protocol: Protocol::Udp,
        role: FlowRole::Egress,
        client,
        listener,
        origin: Some(granted.origin),
        remote,
        egress_changes: 0,
        started: turn.now,
        connected: Some(Duration::ZERO),
        server_name: None,
        first_byte: None,
    }
}
