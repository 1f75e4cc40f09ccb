//! UDP sessions whose client came to this PoP: from a listener to an origin that is dialled here, or through the overlay to the PoP
//! that dials it; and the answers back, from the address that the client had asked.

mod arrivals;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use l4proxy_io::epoll::Interest;
use l4proxy_io::udp::{Meta, Outgoing, UdpOptions, UdpSocket};
use l4proxy_proto::bindings::{Asked, Asks, Place};
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::codes::Reason;
use l4proxy_wire::ids::{FlowId, PopId, SessionId};
use l4proxy_wire::open::{Open, Protocol as WireProtocol};

use super::super::dial::{Attempt, Plan};
use super::super::ending::DialFailure;
use super::super::reach::dial_udp;
use super::send::{dropped_by, dropped_by_dial, mark, send_one};
use super::{Key, State, UdpEdge, marking};
use crate::admission;
use crate::admission::bandwidth::Throttle;
use crate::app::Permit;
use crate::compile::Listener;
use crate::counters::{AppValue, Dropped, Fate, Value};
use crate::identity::datagrams::Announcer;
use crate::identity::heard::Sender;
use crate::messages::FlowRole;
use crate::overlay::{ChannelKey, Presence};
use crate::records::{FlowMeta, Remote};
use crate::snapshot::Protocol;
use crate::token::{Slot, Token};
use crate::turn::{Turn, frame_dropped};

/// After every candidate has failed, datagrams of the flow are dropped for this long before the first is tried again: an origin that
/// comes back is found soon, and one that does not is not asked for every datagram.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Where a session's datagrams go.
enum Way {
    /// To the origin.
    Here(ToOrigin),
    /// To the PoP that dials the origin.
    Through {
        handle: u32,
        /// Over which channel it was asked, and what number it gave.
        asked: Asked<ChannelKey>,
        /// Until when it may leave OPEN_DATA unanswered.
        deadline: Instant,
    },
    /// Nowhere, until then.
    Refused(Instant),
}

/// A socket that is connected to an origin.
struct ToOrigin {
    socket: UdpSocket,
    origin: SocketAddr,
    /// What the socket marks its datagrams with.
    tos: u8,
}

impl ToOrigin {
    fn mark(&mut self, tos: u8) {
        mark(&self.socket, &mut self.tos, tos);
    }
}

/// A session of a client.
pub(super) struct Ingress {
    pub(super) meta: FlowMeta,
    way: Way,
    plan: Plan,
    /// The listener's socket: answers leave from it.
    pub(super) listener: Arc<UdpSocket>,
    /// Where answers go to: the client, or the balancer that it came through.
    pub(super) answers_to: SocketAddr,
    /// What an origin that is dialled here is told of the client, if it is told.
    pub(super) announcer: Option<Box<Announcer>>,
    /// The address (and interface) that the client came to.
    pub(super) local: Option<(IpAddr, u32)>,
    /// How fast it may go; None: as fast as it goes.
    pub(super) throttle: Option<Box<Throttle>>,
    _permit: Permit,
}

impl Ingress {
    /// Our address as the origin sees it, if we dialled it.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        self.socket().and_then(|socket| socket.local_address().ok())
    }

    /// The socket towards the origin, if that is dialled here.
    pub(super) fn socket(&self) -> Option<&UdpSocket> {
        match &self.way {
            Way::Here(to) => Some(&to.socket),
            Way::Through { .. } | Way::Refused(_) => None,
        }
    }

    /// Whether the origin itself has sent it. Before the socket was connected others could reach its port.
    pub(super) fn is_from_origin(&self, source: SocketAddr) -> bool {
        match &self.way {
            Way::Here(to) => to.origin.ip() == source.ip() && to.origin.port() == source.port(),
            Way::Through { .. } | Way::Refused(_) => false,
        }
    }

    /// Forget where its datagrams went so far. Returns channel and number at the egress PoP, if it had them.
    pub(super) fn leave_way(&mut self, asks: &mut Asks<ChannelKey>) -> Option<Place<ChannelKey>> {
        match &mut self.way {
            Way::Through { asked, .. } => asks.end(FlowId(self.meta.id), asked),
            Way::Here(_) | Way::Refused(_) => None,
        }
    }

    /// The next attempt of the plan that can be begun; when there is none, nothing for a while.
    fn choose_way(&mut self, slot: Slot, turn: &Turn<'_>) {
        if turn.overlay.has_doubts() {
            self.plan.doubt(|handle| turn.overlay.is_doubtful(handle));
        }
        while let Some((attempt, deadline)) = self.plan.next(turn.now) {
            self.meta.origin = Some(attempt.origin());
            turn.note(&self.meta.app, attempt.handle(), Fate::Tried);
            match attempt {
                Attempt::Here { address, .. } => match connect(&self.meta, address, slot, turn) {
                    Ok(socket) => {
                        let origin = SocketAddr::new(address.ip().to_canonical(), address.port());
                        self.way = Way::Here(ToOrigin { socket, origin, tos: 0 });
                        (self.meta.role, self.meta.remote) = (FlowRole::Local, None);
                        self.meta.connected = Some(Duration::ZERO);
                        self.announcer = Announcer::new(&self.meta);
                        return;
                    }
                    Err(reason) => {
                        turn.drop(reason);
                        turn.note(&self.meta.app, None, outcome_of(reason));
                    }
                },
                Attempt::Through { handle, .. } => {
                    if let Some(remote) = Remote::of_handle(turn, handle) {
                        self.way = Way::Through { handle, asked: Asked::new(), deadline };
                        (self.meta.role, self.meta.remote) = (FlowRole::Ingress, Some(remote));
                        return;
                    }
                }
            }
        }
        self.way = Way::Refused(turn.now + REFUSED_FOR);
    }

    /// Whether its first datagrams went that way, and nobody has answered them.
    pub(super) fn on_channel_gone(&mut self, now: Instant, channel: ChannelKey) -> bool {
        let Way::Through { asked, deadline, .. } = &mut self.way else { return false };
        let left = asked.on_channel_gone(channel);
        if left.was_bound {
            *deadline = now + self.meta.app.connect_timeout;
        }
        left.was_asked && self.meta.connected.is_none()
    }
}

impl UdpEdge {
    /// A client that has no session.
    fn begin(
        &mut self,
        key: Key,
        socket: &Arc<UdpSocket>,
        binding: &Arc<Listener>,
        meta: Meta,
        sender: Sender,
        turn: &mut Turn<'_>,
    ) -> Result<u32, Dropped> {
        if turn.is_draining {
            return Err(Dropped::Draining);
        }
        let app = &binding.app;
        let mut permit = match admission::admit(binding, meta.source.ip(), turn) {
            Err(Dropped::AppFlowsFull) if self.make_room_in_app(app, turn) => {
                admission::admit(binding, meta.source.ip(), turn)?
            }
            other => other?,
        };
        if !self.make_room(turn) {
            return Err(Dropped::SessionsFull);
        }
        let ip = meta.local.map_or(binding.ip, |(ip, _)| ip);
        let listener = SocketAddr::new(ip, binding.port);
        let flow = FlowMeta {
            id: turn.random.next(),
            app: app.clone(),
            protocol: Protocol::Udp,
            role: FlowRole::Local,
            client: sender.client,
            listener,
            origin: None,
            remote: None,
            egress_changes: 0,
            started: turn.now,
            connected: None,
            server_name: None,
            first_byte: None,
        };
        permit.on_opened(turn.worker, Protocol::Udp);
        let number = self.sessions.insert(turn.now, key, app.idle_udp);
        let session = Ingress {
            throttle: Throttle::of(&flow, turn.now),
            meta: flow,
            way: Way::Refused(turn.now),
            plan: Plan::for_client(turn.now, app, Protocol::Udp, listener, turn.random.next()),
            listener: socket.clone(),
            answers_to: sender.answers_to,
            announcer: None,
            local: meta.local,
            _permit: permit,
        };
        self.insert_state(number, State::Ingress(session));
        self.try_next(number, DialFailure::NoRoute, turn);
        Ok(number)
    }

    fn ingress(&mut self, number: u32) -> Option<&mut Ingress> {
        match self.states.get_mut(number as usize)?.as_mut()? {
            State::Ingress(session) => Some(session),
            State::Egress(_) => None,
        }
    }

    /// Take the next way to an origin; when there is none, refuse for a while.
    fn try_next(&mut self, number: u32, failure: DialFailure, turn: &mut Turn<'_>) {
        self.leave_way(number);
        let Some(generation) = self.sessions.get(number).map(|session| session.generation) else { return };
        let slot = Slot { number, generation };
        let Some(session) = self.ingress(number) else { return };
        let flow = FlowId(session.meta.id);
        if let Some(attempt) = session.plan.current() {
            turn.note_failure(&session.meta.app, attempt.handle(), failure);
        }
        session.choose_way(slot, turn);
        match session.way {
            Way::Here(_) => {}
            Way::Through { .. } => self.asks.begin(flow, number),
            Way::Refused(_) => {
                turn.count_app(&session.meta.app, AppValue::OriginErrors, 1);
                if let Some(reason) = session.plan.failure(failure).nowhere_to_go() {
                    turn.drop(reason);
                }
                return self.firsts.forget(number);
            }
        }
        self.send_firsts_again(number, turn);
    }

    /// What was left without an answer goes the way that there is now.
    pub(super) fn send_firsts_again(&mut self, number: u32, turn: &mut Turn<'_>) {
        for (tos, bytes) in self.firsts.take(number) {
            let sent = self.carry(number, Datagram { tos, bytes: &bytes }, turn);
            let Some(session) = self.ingress(number) else { return };
            match sent {
                Ok(()) => turn.count_app(&session.meta.app, AppValue::FirstResent, 1),
                Err(reason) => self.on_dropped(number, reason, turn),
            }
        }
    }

    /// What is thought of a PoP has changed: flows that it has not answered yet go on through another one, if they can. Those that it has
    /// answered move with their next datagram ([`Self::renew_way`]): only that tells their origin the new way.
    pub(crate) fn handle_presence(&mut self, peer: PopId, presence: Presence, turn: &mut Turn<'_>) {
        if presence == Presence::Present {
            return;
        }
        let is_leaving = |session: &mut Ingress| {
            let Way::Through { handle, .. } = session.way else { return false };
            session.meta.connected.is_none()
                && turn.overlay.peer_of(handle) == Some(peer)
                && session.plan.put_off(|handle| turn.overlay.is_doubtful(handle))
        };
        let leaving: Vec<u32> = self
            .states
            .iter_mut()
            .enumerate()
            .filter_map(|(number, state)| match state {
                Some(State::Ingress(session)) => is_leaving(session).then_some(number as u32),
                Some(State::Egress(_)) | None => None,
            })
            .collect();
        for number in leaving {
            turn.count(Value::FlowsRetried, 1);
            self.try_next(number, DialFailure::TimedOut, turn);
        }
    }

    /// Move a flow to another egress, by the routes in force. False: there is none that is in touch.
    fn rehome(&mut self, number: u32, turn: &mut Turn<'_>) -> bool {
        let random = turn.random.next();
        let Some(session) = self.ingress(number) else { return false };
        let Way::Through { handle, .. } = session.way else { return false };
        let before = turn.overlay.peer_of(handle);
        let app = turn.tables.app(&session.meta.app.name).unwrap_or(&session.meta.app).clone();
        let mut plan = Plan::for_client(turn.now, &app, Protocol::Udp, session.meta.listener, random);
        plan.avoid(|handle| turn.overlay.peer_of(handle) == before);
        if !plan.doubt(|handle| turn.overlay.is_doubtful(handle)) {
            return false;
        }
        (session.plan, session.meta.app) = (plan, app);
        session.meta.egress_changes += 1;
        turn.count_app(&session.meta.app, AppValue::Rehomed, 1);
        self.try_next(number, DialFailure::TimedOut, turn);
        true
    }

    /// Forget where the session's datagrams went so far.
    fn leave_way(&mut self, number: u32) {
        if let Some(Some(State::Ingress(session))) = self.states.get_mut(number as usize) {
            session.leave_way(&mut self.asks);
        }
    }

    /// A datagram of a client towards its origin.
    fn send_to_origin(&mut self, number: u32, datagram: Datagram<'_>, turn: &mut Turn<'_>) {
        match self.carry(number, datagram, turn) {
            Ok(()) => self.on_to_origin(number, datagram.bytes.len(), turn),
            Err(reason) => self.on_dropped(number, reason, turn),
        }
    }

    /// The same, without counting it.
    fn carry(&mut self, number: u32, datagram: Datagram<'_>, turn: &mut Turn<'_>) -> Result<(), Dropped> {
        let now = turn.now;
        let mut dressing = std::mem::take(&mut self.dressing);
        let Some(session) = self.ingress(number) else { return Err(Dropped::SessionsFull) };
        let mut unanswered = None;
        let sent = match &mut session.way {
            Way::Here(to) => {
                to.mark(datagram.tos);
                match &mut session.announcer {
                    None => send_one(&to.socket, datagram.bytes),
                    Some(announcer) => announcer.send(now, &to.socket, datagram.bytes, &mut dressing),
                }
            }
            Way::Through { asked, .. } if let Some((channel, place)) = asked.bound() => {
                let frame = Frame::Data { session: place, datagram };
                let wish = session.meta.app.duplication();
                turn.overlay.send_datagram(now, channel, &frame, wish).map_err(|error| frame_dropped(&error))
            }
            Way::Through { handle, asked, deadline } => {
                let left = deadline.saturating_duration_since(now).as_millis();
                let open = open_of(&session.meta, u32::try_from(left).unwrap_or(u32::MAX));
                if session.meta.connected.is_none() && session.plan.has_more() {
                    unanswered = Some(*deadline);
                }
                let frame = Frame::OpenData { open, datagram };
                let sent = turn.overlay.send_frame(now, *handle, &frame, session.meta.app.duplication());
                sent.map(|channel| asked.on_asked(channel)).map_err(|_| Dropped::TunnelGone)
            }
            Way::Refused(_) => Err(Dropped::UdpFlowRefused),
        };
        self.dressing = dressing;
        if let Some(deadline) = unanswered
            && !self.firsts.keep(number, datagram, deadline)
            && let Some(session) = self.ingress(number)
        {
            turn.count_app(&session.meta.app, AppValue::FirstUnkept, 1);
        }
        sent
    }

    /// Give up a PoP that does not answer, and begin again after a refusal has been long enough ago. A flow that its PoP has answered
    /// before stays there, and asks on, unless its app lets it move: its origin knows it by the address of that PoP.
    pub(super) fn renew_way(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(session) = self.ingress(number) else { return };
        let is_settled = session.meta.connected.is_some();
        match &mut session.way {
            Way::Through { handle, asked, deadline } if is_settled => {
                let is_unanswered = asked.bound().is_none() && *deadline <= turn.now;
                if is_unanswered {
                    *deadline = turn.now + session.meta.app.connect_timeout;
                }
                let is_away = is_unanswered || turn.overlay.presence(*handle) >= Presence::Away;
                if is_away && session.meta.app.policy.rehome {
                    self.rehome(number, turn);
                }
            }
            Way::Through { asked, deadline, .. } if asked.bound().is_none() && *deadline <= turn.now => {
                self.try_next(number, DialFailure::TimedOut, turn);
            }
            Way::Refused(until) if *until <= turn.now => {
                let meta = &mut session.meta;
                // The routes of the snapshot in force: those of the flow's beginning may lead nowhere any more.
                if let Some(app) = turn.tables.app(&meta.app.name) {
                    meta.app = app.clone();
                }
                let random = turn.random.next();
                session.plan = Plan::for_client(turn.now, &meta.app, Protocol::Udp, meta.listener, random);
                self.try_next(number, DialFailure::NoRoute, turn);
            }
            Way::Here(_) | Way::Through { .. } | Way::Refused(_) => {}
        }
    }

    /// Nobody is at the address (ICMP): a session that has had no answer goes to the next one, if there are several.
    pub(super) fn leave_dead_target(&mut self, number: u32, error: &io::Error, turn: &mut Turn<'_>) {
        let is_dead = matches!(dropped_by(error), Dropped::UdpRefused | Dropped::UdpUnreachable);
        let Some(session) = self.ingress(number).filter(|_| is_dead) else { return };
        let has_others = session.plan.has_more() || session.plan.has_retried();
        if has_others && session.meta.first_byte.is_none() {
            turn.count(Value::FlowsRetried, 1);
            self.try_next(number, DialFailure::of(error), turn);
        }
    }

    /// An answer that came through the overlay.
    pub(super) fn send_to_client(&mut self, number: u32, datagram: Datagram<'_>, turn: &mut Turn<'_>) {
        if let Some(slot) = self.slot_of(number) {
            self.send_to_their_clients(vec![(slot, datagram)], turn);
        }
    }

    /// Answers that came through the overlay, those that leave from one listener together.
    pub(super) fn send_to_their_clients(
        &mut self,
        mut answers: Vec<(Slot, Datagram<'_>)>,
        turn: &mut Turn<'_>,
    ) {
        answers.retain(|&(slot, datagram)| {
            let bytes = datagram.bytes.len();
            self.number_of(slot).is_some_and(|number| self.is_admitted(number, bytes, turn))
        });
        let states = &self.states;
        let session_of = |slot: Slot| match states[slot.number as usize].as_ref() {
            Some(State::Ingress(session)) => Some(session),
            Some(State::Egress(_)) | None => None,
        };
        let listener_of = |slot: Slot| session_of(slot).map(|session| Arc::as_ptr(&session.listener));
        // Those of a client stand together and in their order: equal neighbours leave as one message that the kernel cuts.
        answers.sort_by_key(|(slot, _)| (listener_of(*slot), slot.number));
        let mut batches = Vec::new();
        for answers in answers.chunk_by(|(one, _), (other, _)| listener_of(*one) == listener_of(*other)) {
            let Some(listener) = session_of(answers[0].0).map(|session| session.listener.clone()) else {
                continue;
            };
            let (mut numbers, mut messages) = (Vec::new(), Vec::new());
            for &(slot, datagram) in answers {
                if let Some(session) = session_of(slot) {
                    let message = Outgoing::new(datagram.bytes, Some(session.answers_to));
                    let tos = marking::outgoing(session.meta.app.policy.dscp, Some(datagram.tos));
                    let tos = marking::on_message(tos);
                    numbers.push(slot.number);
                    messages.push(Outgoing { source: session.local, tos, ..message });
                }
            }
            batches.push((listener, numbers, messages));
        }
        for (listener, numbers, messages) in batches {
            self.send_messages(&listener, &messages, |index| numbers[index], turn, Self::on_to_client);
        }
    }

    /// The egress PoP has a session for one of our flows.
    pub(super) fn on_bound(
        &mut self,
        channel: ChannelKey,
        flow: FlowId,
        given: SessionId,
        datagram: Option<Datagram<'_>>,
        turn: &mut Turn<'_>,
    ) {
        let Some(number) = self.asks.of_flow(flow) else { return turn.drop(Dropped::FrameUnexpected) };
        let Some(Some(State::Ingress(session))) = self.states.get_mut(number as usize) else { return };
        let Way::Through { asked, .. } = &mut session.way else { return };
        if !self.asks.on_bound(number, asked, (channel, given)) {
            return turn.drop(Dropped::FrameUnexpected);
        }
        let is_first = session.meta.connected.is_none();
        session.meta.connected.get_or_insert(turn.now.saturating_duration_since(session.meta.started));
        if is_first {
            session.meta.note(turn, Fate::Connected);
            self.firsts.forget(number);
        }
        if let Some(datagram) = datagram {
            self.send_to_client(number, datagram, turn);
        }
    }

    /// The egress PoP does not know the session any more: the next datagram opens it again.
    pub(super) fn unbind(&mut self, channel: ChannelKey, session: SessionId, turn: &Turn<'_>) {
        let Some(number) = self.asks.take((channel, session)) else { return };
        if let Some(Ingress { way: Way::Through { asked, deadline, .. }, meta, .. }) = self.ingress(number) {
            asked.unbind();
            *deadline = turn.now + meta.app.connect_timeout;
        }
    }

    /// The egress PoP would not, or could not.
    pub(super) fn on_refused(
        &mut self,
        channel: ChannelKey,
        flow: FlowId,
        reason: Reason,
        turn: &mut Turn<'_>,
    ) {
        let Some(number) = self.asks.of_flow(flow) else { return turn.drop(Dropped::FrameUnexpected) };
        match self.ingress(number) {
            Some(Ingress { way: Way::Through { asked, .. }, .. }) if asked.is_asked(channel) => {
                self.try_next(number, DialFailure::Peer(reason), turn);
            }
            Some(_) | None => turn.drop(Dropped::FrameUnexpected),
        }
    }
}

/// A socket towards an origin, watched for its answers.
fn connect(meta: &FlowMeta, address: SocketAddr, slot: Slot, turn: &Turn<'_>) -> Result<UdpSocket, Dropped> {
    let origin = meta.origin.ok_or(Dropped::NoRoute)?;
    let dialled = dial_udp(&meta.app, origin, address, meta.client, turn);
    let socket = dialled.map_err(|unreached| dropped_by_dial(&unreached))?;
    if socket.apply(&UdpOptions { tos: true, ..UdpOptions::default() }).is_err() {
        return Err(Dropped::UdpSendFailed);
    }
    let watched = turn.epoll.add(&socket, Token::UdpIngress(slot).pack(), Interest::READ);
    watched.map(|()| socket).map_err(|_| Dropped::FdLimit)
}

/// What a socket that could not be had says of dialling from here.
const fn outcome_of(dropped: Dropped) -> Fate {
    if matches!(dropped, Dropped::UdpUnreachable) { Fate::Unreachable } else { Fate::Failed }
}

fn open_of(meta: &FlowMeta, deadline_ms: u32) -> Open<'_> {
    Open {
        protocol: WireProtocol::Udp,
        flow: FlowId(meta.id),
        app: &meta.app.name,
        origin: meta.origin.map_or("", |origin| &meta.app.origins[origin].name),
        client: meta.client,
        listener: meta.listener,
        deadline_ms,
    }
}
