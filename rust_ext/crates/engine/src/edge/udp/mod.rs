//! UDP at the edge of one worker: listeners, the sessions of clients and of peers, and the datagrams between them.
//!
//! | module | what |
//! | --- | --- |
//! | `ingress` | sessions whose client came here: towards an origin of ours, or through the overlay |
//! | `firsts` | first datagrams that wait for their egress PoP to answer |
//! | `answers` | answers of origins that are dialled here, gathered over a turn |
//! | `marking` | DSCP and ECN |
//! | `egress` | sessions of other PoPs' clients: between the overlay and an origin |
//! | `send` | batches out, and what each error of a datagram is counted as |
//!
//! One table holds both kinds, so that the caps of the engine are hard. Who may have a session, who makes room and who has been idle
//! is decided in `proto::sessions`; here are the sockets and the translation, in a table with the same numbers. An error is always
//! one datagram's; no session ends for it.

mod answers;
mod egress;
mod firsts;
mod ingress;
mod marking;
pub(crate) mod send;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use l4proxy_io::epoll::{Event, Interest};
use l4proxy_io::udp::{Outgoing, RecvBatch, SendBatch, UdpOptions, UdpSocket};
use l4proxy_proto::bindings::{Asks, Grants};
use l4proxy_proto::sessions::{Limits, Promotion, Room, Sessions};
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::codes::Reason;
use l4proxy_wire::ids::{FlowId, PopId};
use slab::Slab;

use self::answers::Answers;
use self::egress::Egress;
use self::firsts::Firsts;
use self::ingress::Ingress;
use self::send::send_all;
use super::ending::Ending;
use crate::admission::recheck::LOOKS_PER_TURN;
use crate::app::App;
use crate::compile::Listener;
use crate::counters::{AppValue, Dropped, Fate, Value};
use crate::messages::{EventKind, FlowView, ListFlows};
use crate::overlay::{ChannelKey, FrameArena};
use crate::records::{Carried, FlowMeta};
use crate::snapshot::Protocol;
use crate::sockets::Held;
use crate::token::{Slot, Token};
use crate::turn::Turn;

/// Datagrams of one system call.
const BATCH: usize = 64;

/// System calls per socket and event, so that one flooded listener cannot starve the others.
const BATCHES_PER_TURN: usize = 2;

/// Room for the largest datagram there is, 65,507 bytes; pages that no datagram reaches are never touched.
const MAX_DATAGRAM: usize = 65_536;

/// Receive buffer of a listener, in bytes: some 20 ms of a worker that is busy elsewhere, at 100,000 small datagrams a second.
const LISTENER_BUFFER: usize = 4 << 20;

/// Sessions that end in one turn: a flood that all expires at once must not hold the others up.
const EXPIRIES_PER_TURN: usize = 256;

/// How many of the oldest new sessions are looked at for one of an app that is full.
const EVICTION_CANDIDATES: usize = 8;

/// What finds a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// A client's.
    Client {
        /// Which listener.
        listener: u32,
        client: SocketAddr,
        /// The address of ours that it came to.
        local: IpAddr,
    },
    /// A client's of another PoP.
    Peer { peer: PopId, flow: FlowId },
}

/// Sockets and translation of one session.
enum State {
    Ingress(Ingress),
    Egress(Egress),
}

impl State {
    const fn meta(&self) -> &FlowMeta {
        match self {
            Self::Ingress(session) => &session.meta,
            Self::Egress(session) => &session.meta,
        }
    }

    /// Our address as the origin sees it, if we dialled it.
    fn source(&self) -> Option<SocketAddr> {
        match self {
            Self::Ingress(session) => session.source(),
            Self::Egress(session) => session.source(),
        }
    }
}

/// What clients come to.
struct Listening {
    binding: Arc<Listener>,
    socket: Arc<UdpSocket>,
    /// Never used again, unlike its number: sessions are found by it.
    id: u32,
}

/// UDP of one worker.
pub(crate) struct UdpEdge {
    listeners: Slab<Listening>,
    next_listener: u32,
    sessions: Sessions<Key>,
    /// By number of the session.
    states: Vec<Option<State>>,
    /// Sessions of clients here that another PoP is or may be asked for.
    asks: Asks<ChannelKey>,
    /// Sessions of peers.
    grants: Grants<ChannelKey>,
    firsts: Firsts,
    /// Taken out while they are used, so that the sessions may change meanwhile.
    batch: Option<RecvBatch>,
    /// The same for sockets that are connected.
    connected_batch: Option<RecvBatch>,
    answers: Option<Answers>,
    /// Datagrams with the headers that go before them are put together here.
    dressing: Vec<u8>,
    sender: Option<SendBatch>,
}

impl UdpEdge {
    pub(crate) fn new(hasher: ahash::RandomState) -> Self {
        Self {
            listeners: Slab::new(),
            next_listener: 0,
            sessions: Sessions::new(Limits { max_assured: 0, max_new: 0 }, hasher),
            states: Vec::new(),
            asks: Asks::default(),
            grants: Grants::default(),
            firsts: Firsts::default(),
            batch: Some(RecvBatch::new(BATCH, MAX_DATAGRAM)),
            connected_batch: Some(RecvBatch::unnamed(BATCH, MAX_DATAGRAM)),
            answers: Some(Answers::new()),
            dressing: Vec::new(),
            sender: Some(SendBatch::merging(BATCH)),
        }
    }

    /// Live sessions.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Those whose clients have proved to hear us.
    pub(crate) fn assured(&self) -> usize {
        self.sessions.assured()
    }

    /// Put the listeners and limits of a snapshot into force: the same socket goes on, and sessions stay until they end.
    pub(crate) fn apply(&mut self, turn: &mut Turn<'_>) {
        let tables = turn.tables.clone();
        let options = &tables.options;
        let share = |cap: u32| (cap as usize).div_ceil(turn.shared.workers.len());
        let max_new = share(options.max_new_sessions.min(options.max_sessions));
        let max_assured = share(options.max_sessions).saturating_sub(max_new);
        self.sessions.set_limits(Limits { max_assured, max_new });
        let mut kept = HashMap::new();
        for listener in tables.listeners.iter().filter(|listener| listener.protocol == Protocol::Udp) {
            kept.insert(listener.sockets[turn.worker].identity(), listener);
        }
        self.listeners.retain(|_, listening| {
            match kept.remove(&Held::Udp(listening.socket.clone()).identity()) {
                Some(binding) => {
                    listening.binding = binding.clone();
                    true
                }
                None => {
                    // Others may hold the same socket: letting go of ours alone would not end the watch.
                    drop(turn.epoll.remove(&*listening.socket));
                    false
                }
            }
        });
        for binding in kept.into_values() {
            self.listen(binding.clone(), turn);
        }
    }

    fn listen(&mut self, binding: Arc<Listener>, turn: &mut Turn<'_>) {
        let Some(socket) = binding.sockets[turn.worker].udp().cloned() else { return };
        let number = self.listeners.vacant_key() as u32;
        let options = UdpOptions {
            // Bound to one address, it hears and answers as no other: the kernel need not tell, nor be told for each datagram.
            packet_info: binding.ip.is_unspecified(),
            tos: true,
            recv_buffer: Some(LISTENER_BUFFER),
            ..UdpOptions::default()
        };
        let watched = socket
            .apply(&options)
            .and_then(|_| turn.epoll.add(&*socket, Token::UdpListener(number).pack(), Interest::READ));
        if let Err(error) = watched {
            let (protocol, address, port) = (binding.protocol, binding.address.clone(), binding.port);
            let (worker, reason) = (turn.worker, error.to_string());
            turn.event(EventKind::ListenerError { protocol, address, port, worker, reason });
            return;
        }
        self.next_listener = self.next_listener.wrapping_add(1);
        self.listeners.insert(Listening { binding, socket, id: self.next_listener });
    }

    /// Something is readable.
    pub(crate) fn handle_event(&mut self, token: Token, _event: Event, turn: &mut Turn<'_>) {
        match token {
            Token::UdpListener(number) => self.read_listener(number, turn),
            Token::UdpIngress(slot) => self.gather_answers(slot, turn),
            Token::UdpEgress(slot) => self.read_origin_for_peer(slot, turn),
            Token::Waker
            | Token::TcpListener(_)
            | Token::Overlay(_)
            | Token::TcpGreeting(_)
            | Token::TcpClient(_)
            | Token::TcpOrigin(_)
            | Token::TcpRace(_) => {}
        }
    }

    /// The datagram frames that came in during this turn.
    pub(crate) fn handle_frames(&mut self, arena: &FrameArena, turn: &mut Turn<'_>) {
        let (mut to_clients, mut to_origins) = (Vec::new(), Vec::new());
        for (channel, frame) in arena.iter() {
            match frame {
                Frame::Data { session, datagram } => {
                    let place = (channel, session);
                    if let Some(slot) = self.asks.find(place).and_then(|number| self.slot_of(number)) {
                        to_clients.push((slot, datagram));
                    } else if let Some(slot) = self.grants.find(place).and_then(|number| self.slot_of(number))
                    {
                        to_origins.push((slot, datagram));
                    } else {
                        turn.drop(Dropped::FrameUnexpected);
                        turn.reply(channel, &Frame::SessionUnknown { session });
                    }
                }
                Frame::OpenData { open, datagram } => self.open_from_peer(channel, &open, datagram, turn),
                Frame::Bound { flow, session, datagram } => {
                    self.on_bound(channel, flow, session, datagram, turn);
                }
                // The ingress has forgotten the session, and its CLOSE was lost.
                Frame::SessionUnknown { session } => self.on_close(channel, session, Reason::Idle, turn),
                Frame::Close { session, reason } => self.on_close(channel, session, reason, turn),
                Frame::Refused { flow, reason } => self.on_refused(channel, flow, reason, turn),
                // The tunnels put fragments together and use repairs before frames come here.
                Frame::Quic { .. } | Frame::Fragment(_) | Frame::Repair(_) => {
                    turn.drop(Dropped::FrameUnexpected)
                }
            }
        }
        self.send_for_peers(to_origins, turn);
        self.send_to_their_clients(to_clients, turn);
    }

    /// Send the datagrams of one session from its connected socket.
    fn send_batch(
        &mut self,
        socket: &UdpSocket,
        datagrams: &[(Slot, Datagram<'_>)],
        turn: &Turn<'_>,
        on_sent: fn(&mut Self, u32, usize, &Turn<'_>),
    ) {
        let messages: Vec<_> =
            datagrams.iter().map(|(_, datagram)| Outgoing::new(datagram.bytes, None)).collect();
        self.send_messages(socket, &messages, |index| datagrams[index].0.number, turn, on_sent);
    }

    /// Send messages from one socket and count each for its session.
    fn send_messages(
        &mut self,
        socket: &UdpSocket,
        messages: &[Outgoing<'_>],
        number_of: impl Fn(usize) -> u32,
        turn: &Turn<'_>,
        on_sent: fn(&mut Self, u32, usize, &Turn<'_>),
    ) {
        let Some(mut sender) = self.sender.take() else { return };
        send_all(&mut sender, socket, messages, |index, result| match result {
            Ok(()) => on_sent(self, number_of(index), messages[index].bytes.len(), turn),
            Err(reason) => self.on_dropped(number_of(index), reason, turn),
        });
        self.sender = Some(sender);
    }

    /// A channel has ended: sessions bound to it open again with their next datagram.
    pub(crate) fn handle_channel_gone(&mut self, channel: ChannelKey, turn: &mut Turn<'_>) {
        self.asks.on_channel_gone(channel);
        self.grants.on_channel_gone(channel);
        let mut unanswered = Vec::new();
        for (number, state) in self.states.iter_mut().enumerate() {
            match state {
                Some(State::Ingress(session)) => {
                    let is_unanswered = session.on_channel_gone(turn.now, channel);
                    unanswered.extend(is_unanswered.then_some(number as u32));
                }
                Some(State::Egress(session)) => session.granted.on_channel_gone(channel),
                None => {}
            }
        }
        // What was under way on it has come nowhere. Each channel that ends so took a handshake's time, and the way has its deadline.
        for number in unanswered {
            self.send_firsts_again(number, turn);
        }
    }

    /// When [`UdpEdge::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.sessions.poll_timeout(), self.firsts.poll_timeout()].into_iter().flatten().min()
    }

    /// Sessions have been idle for too long.
    pub(crate) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        // The rest is still due, and the next turn begins at once.
        for _ in 0..EXPIRIES_PER_TURN {
            let Some(number) = self.sessions.poll_expired(turn.now) else { break };
            self.end(number, Ending::Idle, turn);
        }
        for _ in 0..EXPIRIES_PER_TURN {
            let Some(number) = self.firsts.pop_due(turn.now) else { break };
            self.renew_way(number, turn);
        }
    }

    /// Make room for one more session; false: there is none.
    fn make_room(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.sessions.room() {
            Room::Free => true,
            Room::AfterEviction(number) => {
                self.evict(number, turn);
                true
            }
            Room::Full => false,
        }
    }

    /// Make room for one more session of a full app; false: none of the oldest new sessions is the app's.
    fn make_room_in_app(&mut self, app: &App, turn: &mut Turn<'_>) -> bool {
        let oldest = self.sessions.iter_new().take(EVICTION_CANDIDATES);
        let found = oldest.into_iter().find(|&number| {
            self.state(number).is_some_and(|state| Arc::ptr_eq(&state.meta().app.state, &app.state))
        });
        if let Some(number) = found {
            self.evict(number, turn);
        }
        found.is_some()
    }

    fn evict(&mut self, number: u32, turn: &mut Turn<'_>) {
        turn.count(Value::SessionsEvicted, 1);
        self.end(number, Ending::Evicted, turn);
    }

    fn state(&self, number: u32) -> Option<&State> {
        self.states.get(number as usize)?.as_ref()
    }

    /// The session that a descriptor's token names, if it still lives.
    fn number_of(&self, slot: Slot) -> Option<u32> {
        self.sessions.get(slot.number).filter(|session| slot.is_of(session.generation)).map(|_| slot.number)
    }

    fn slot_of(&self, number: u32) -> Option<Slot> {
        self.sessions.get(number).map(|session| Slot { number, generation: session.generation })
    }

    fn insert_state(&mut self, number: u32, state: State) {
        let index = number as usize;
        if index >= self.states.len() {
            self.states.resize_with(index + 1, || None);
        }
        self.states[index] = Some(state);
    }

    /// A datagram went towards the origin.
    fn on_to_origin(&mut self, number: u32, bytes: usize, turn: &Turn<'_>) {
        match self.sessions.on_to_origin(turn.now, number, bytes) {
            Promotion::None => {}
            Promotion::Assured => turn.count(Value::SessionsAssured, 1),
            Promotion::Refused => turn.count(Value::AssuredFull, 1),
        }
        if let Some(state) = self.state(number) {
            turn.count_app(&state.meta().app, AppValue::DatagramsToOrigin, 1);
            turn.count_app(&state.meta().app, AppValue::UdpBytesToOrigin, bytes as u64);
        }
    }

    /// An answer went towards the client.
    fn on_to_client(&mut self, number: u32, bytes: usize, turn: &Turn<'_>) {
        self.sessions.on_to_client(turn.now, number, bytes);
        let Some(Some(state)) = self.states.get_mut(number as usize) else { return };
        let meta = match state {
            State::Ingress(session) => &mut session.meta,
            State::Egress(session) => &mut session.meta,
        };
        if meta.first_byte.is_none() {
            meta.first_byte = Some(turn.now.saturating_duration_since(meta.started));
            meta.note(turn, Fate::Answered);
        }
        turn.count_app(&meta.app, AppValue::DatagramsToClient, 1);
        turn.count_app(&meta.app, AppValue::UdpBytesToClient, bytes as u64);
    }

    /// A datagram of a session did not pass.
    fn on_dropped(&mut self, number: u32, reason: Dropped, turn: &Turn<'_>) {
        turn.drop(reason);
        self.sessions.on_dropped(number);
        if let Some(state) = self.state(number) {
            turn.count_app(&state.meta().app, AppValue::DatagramsDropped, 1);
        }
    }

    fn carried(&self, number: u32) -> (Carried, Option<Instant>) {
        let Some(session) = self.sessions.get(number) else { return (Carried::default(), None) };
        let carried = Carried {
            bytes_to_origin: session.to_origin.bytes,
            bytes_to_client: session.to_client.bytes,
            datagrams_to_origin: session.to_origin.datagrams,
            datagrams_to_client: session.to_client.datagrams,
            dropped: session.dropped,
        };
        (carried, Some(session.last_used))
    }

    /// A session is over: tell the other PoP, write the record, forget it.
    fn end(&mut self, number: u32, ending: Ending, turn: &mut Turn<'_>) {
        let (carried, last_used) = self.carried(number);
        let Some(session) = self.sessions.remove(number) else { return };
        let Some(mut state) = self.states.get_mut(number as usize).and_then(Option::take) else { return };
        let place = match &mut state {
            State::Ingress(ingress) => {
                self.firsts.forget(number);
                ingress.leave_way(&mut self.asks)
            }
            State::Egress(egress) => self.grants.end(&mut egress.granted),
        };
        if let Some((channel, session)) = place {
            turn.reply(channel, &Frame::Close { session, reason: ending.wire_reason() });
        }
        let meta = state.meta();
        if meta.first_byte.is_none() && carried.datagrams_to_origin > 0 && ending != Ending::Evicted {
            meta.note(turn, Fate::Silent);
        }
        // One record for each forged source of a flood would drown the others; evictions are counted elsewhere.
        if ending != Ending::Evicted || session.answered.is_some() {
            let last_used = last_used.unwrap_or(turn.now);
            meta.tell_end(turn, carried, last_used, ending, || state.source());
        }
    }

    /// End every session; returns how many there were.
    pub(crate) fn close_all(&mut self, ending: Ending, turn: &mut Turn<'_>) -> u64 {
        let numbers: Vec<_> = self.sessions.iter().map(|(number, _)| number).collect();
        for &number in &numbers {
            self.end(number, ending, turn);
        }
        numbers.len() as u64
    }

    /// End sessions of clients that are denied now, among the next few places from `from` on; returns where to go on.
    pub(crate) fn end_denied(&mut self, from: usize, turn: &mut Turn<'_>) -> Option<usize> {
        let until = from + LOOKS_PER_TURN;
        for number in from..until.min(self.states.len()) {
            let denied = self.state(number as u32).map(State::meta).filter(|meta| meta.is_denied(turn));
            if let Some(meta) = denied {
                turn.count_app(&meta.app, AppValue::FlowsDenied, 1);
                self.end(number as u32, Ending::AccessDenied, turn);
            }
        }
        (until < self.states.len()).then_some(until)
    }

    /// Append the sessions that a request asks for, up to its limit; returns how many there are.
    pub(crate) fn list(&self, request: &ListFlows, views: &mut Vec<FlowView>, turn: &Turn<'_>) -> u64 {
        let mut total = 0;
        for (number, session) in self.sessions.iter() {
            let Some(state) = self.state(number) else { continue };
            let meta = state.meta();
            if request.wants(&meta.app.name, meta.client, || state.source()) {
                total += 1;
                if views.len() < request.limit as usize {
                    views.push(meta.view(turn, self.carried(number).0, session.last_used, state.source()));
                }
            }
        }
        total
    }
}
