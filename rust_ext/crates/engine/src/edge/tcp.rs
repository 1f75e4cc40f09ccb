//! TCP at the edge of one worker: who is let in, the table of flows, their dials and timers, and which of them could go on.
//!
//! Everything a flow needs happens on this thread. Readiness is edge-triggered: a flow or listener that was stopped by the bounds
//! of a turn stands in a queue and goes on in the next one. Without descriptors accepting pauses, longer each time; it never spins.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_io::epoll::{Event, Interest};
use l4proxy_io::tcp::{self, Accepted};
use l4proxy_proto::timers::Deadlines;
use l4proxy_wire::codes::{Reason, StreamCode};
use l4proxy_wire::ids::{FlowId, PopId};
use l4proxy_wire::open::{Open, OpenOwned, Protocol as WireProtocol};
use slab::Slab;

use super::dial::{Attempt, Plan};
use super::ending::{DialFailure, Ending, Side};
use super::tcp_flow::{End, Flow, Outcome, Phase, Scratch};
use crate::app::{App, Permit};
use crate::compile::Listener;
use crate::counters::{AppValue, Dropped, Value};
use crate::messages::{EventKind, FlowRole, FlowView, ListFlows};
use crate::origin::{Request, grant};
use crate::overlay::StreamKey;
use crate::records::{FlowMeta, Remote};
use crate::shared::Report;
use crate::snapshot::Protocol;
use crate::sockets::Held;
use crate::token::{Slot, Token};
use crate::turn::Turn;

/// Connections taken from one listener before the others get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Flows and listeners that go on without an event in one turn.
const RESUMES_PER_TURN: usize = 64;

/// How long accepting pauses when there are no descriptors; doubled each time it was in vain.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// See [`ACCEPT_PAUSE_MIN`].
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What clients come to.
struct Listening {
    binding: Listener,
    socket: Held,
    /// Somebody may be waiting.
    is_ready: bool,
}

/// Something that could go on.
#[derive(Clone, Copy)]
enum Resume {
    Flow(Slot),
    Listener(u32),
}

/// TCP of one worker.
pub(crate) struct TcpEdge {
    listeners: Slab<Listening>,
    flows: Slab<Flow>,
    streams: HashMap<StreamKey, u32>,
    deadlines: Deadlines,
    resumes: VecDeque<Resume>,
    scratch: Scratch,
    next_generation: u32,
    accept_pause: Duration,
    accept_again: Option<Instant>,
}

impl TcpEdge {
    pub(crate) fn new() -> Self {
        Self {
            listeners: Slab::new(),
            flows: Slab::new(),
            streams: HashMap::new(),
            deadlines: Deadlines::new(),
            resumes: VecDeque::new(),
            scratch: Scratch::new(),
            next_generation: 0,
            accept_pause: ACCEPT_PAUSE_MIN,
            accept_again: None,
        }
    }

    /// Live flows.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Put the listeners of a snapshot into force: the same socket goes on, one that is not named is closed.
    pub(crate) fn apply(&mut self, turn: &mut Turn<'_>) {
        let tables = turn.tables.clone();
        let mut kept = HashMap::new();
        let named = tables.listeners.iter().filter(|listener| listener.protocol == Protocol::Tcp);
        for listener in named {
            kept.insert(listener.sockets[turn.worker].identity(), listener);
        }
        self.listeners.retain(|_, listening| match kept.remove(&listening.socket.identity()) {
            Some(binding) => {
                listening.binding = binding.clone();
                true
            }
            None => {
                // The daemon may hold the same socket: closing ours alone would not end the watch.
                drop(turn.epoll.remove(&listening.socket));
                false
            }
        });
        for binding in kept.into_values() {
            self.listen(binding.clone(), turn);
        }
    }

    fn listen(&mut self, binding: Listener, turn: &mut Turn<'_>) {
        let socket = binding.sockets[turn.worker].clone();
        let number = self.listeners.vacant_key() as u32;
        // Accepted sockets inherit the options, which saves six system calls a flow.
        let watched = tcp::apply_relay_options(&socket).and_then(|()| {
            turn.epoll.add(&socket, Token::TcpListener(number).pack(), Interest::READ.edge_triggered())
        });
        if let Err(error) = watched {
            report_listener_error(turn, &binding, error.to_string());
            return;
        }
        self.listeners.insert(Listening { binding, socket, is_ready: false });
    }

    /// Something may be readable or writable.
    pub(crate) fn handle_event(&mut self, token: Token, event: Event, turn: &mut Turn<'_>) {
        match token {
            Token::TcpListener(number) => self.accept(number, turn),
            Token::TcpClient(slot) => self.handle_ready(slot, Side::Client, event, turn),
            Token::TcpOrigin(slot) => self.handle_ready(slot, Side::Origin, event, turn),
            Token::Waker
            | Token::UdpListener(_)
            | Token::Overlay(_)
            | Token::UdpIngress(_)
            | Token::UdpEgress(_) => {}
        }
    }

    /// Take connections from a listener, as many as a turn allows.
    fn accept(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(listening) = self.listeners.get_mut(number as usize) else { return };
        listening.is_ready = true;
        if self.accept_again.is_some() {
            return;
        }
        let (socket, binding) = (listening.socket.clone(), listening.binding.clone());
        for _ in 0..ACCEPTS_PER_TURN {
            match tcp::accept(&socket) {
                Accepted::Connection(fd, client) => {
                    self.accept_pause = ACCEPT_PAUSE_MIN;
                    turn.count(Value::TcpAccepted, 1);
                    self.admit(fd, client, &binding, turn);
                }
                Accepted::WouldBlock => {
                    self.set_ready(number, false);
                    return;
                }
                Accepted::FdLimit => {
                    turn.drop(Dropped::FdLimit);
                    self.accept_again = Some(turn.now + self.accept_pause);
                    self.accept_pause = (self.accept_pause * 2).min(ACCEPT_PAUSE_MAX);
                    return;
                }
                Accepted::Aborted(_) => turn.drop(Dropped::AcceptAborted),
                Accepted::Error(error) => {
                    self.set_ready(number, false);
                    report_listener_error(turn, &binding, error.to_string());
                    return;
                }
            }
        }
        self.resumes.push_back(Resume::Listener(number));
    }

    fn set_ready(&mut self, number: u32, is_ready: bool) {
        if let Some(listening) = self.listeners.get_mut(number as usize) {
            listening.is_ready = is_ready;
        }
    }

    /// Let a client in, or refuse it with RST.
    fn admit(&mut self, fd: OwnedFd, client: SocketAddr, binding: &Listener, turn: &mut Turn<'_>) {
        let app = &binding.app;
        let place = if turn.shared.is_reserved(&fd) {
            Err(Dropped::FdLimit)
        } else {
            turn.shared.tcp_place(turn.tables.options.max_tcp_flows).ok_or(Dropped::TcpFlowsFull)
        };
        let admitted = place.and_then(|place| Ok((place, Permit::for_client(app, client.ip())?)));
        let (place, mut permit) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                turn.drop(reason);
                turn.count_app(app, AppValue::Refused, 1);
                drop(tcp::set_reset_on_close(&fd));
                return;
            }
        };
        // Only for wildcard listeners the kernel must be asked; a connection that is gone already has no address.
        let listener = match binding.address.parse() {
            Ok(ip) if !std::net::IpAddr::is_unspecified(&ip) => SocketAddr::new(ip, binding.port),
            _ => match tcp::local_address(&fd) {
                Ok(listener) => listener,
                Err(_) => return turn.drop(Dropped::AcceptAborted),
            },
        };
        let plan = Plan::for_client(turn.now, app, Protocol::Tcp, listener);
        let meta = meta(turn.random.next(), app.clone(), FlowRole::Local, client, listener, turn.now);
        let generation = self.next_generation();
        let number = self.flows.vacant_key() as u32;
        let slot = Slot { number, generation };
        let interest = Interest::READ_WRITE.edge_triggered();
        if turn.epoll.add(&fd, Token::TcpClient(slot).pack(), interest).is_err() {
            return turn.drop(Dropped::FdLimit);
        }
        permit.on_opened(turn.worker, Protocol::Tcp);
        self.flows.insert(Flow::new(turn.now, generation, End::Socket(fd), plan, meta, permit, place));
        self.dial(number, DialFailure::NoRoute, turn);
    }

    fn next_generation(&mut self) -> u32 {
        self.next_generation = self.next_generation.wrapping_add(1);
        self.next_generation
    }

    /// Another PoP opens a flow to an origin of ours.
    pub(crate) fn handle_incoming(
        &mut self,
        key: StreamKey,
        peer: PopId,
        open: &OpenOwned,
        turn: &mut Turn<'_>,
    ) {
        let refuse = |turn: &mut Turn<'_>, counted, reason| {
            turn.drop(counted);
            turn.overlay.refuse_stream(key, reason);
        };
        if turn.is_draining {
            return refuse(turn, Dropped::Draining, Reason::Draining);
        }
        let request = Request::of(&open.as_open());
        let granted = match grant(turn.tables, &request) {
            Ok(granted) if request.protocol == Protocol::Tcp => granted,
            Ok(_) => return refuse(turn, Dropped::EgressDenied, Reason::ProtocolError),
            Err(denied) => return refuse(turn, denied.counted, denied.reason),
        };
        let place = turn.shared.tcp_place(turn.tables.options.max_tcp_flows).ok_or(Dropped::TcpFlowsFull);
        let (place, mut permit) = match place.and_then(|place| Ok((place, Permit::for_peer(&granted.app)?))) {
            Ok(admitted) => admitted,
            Err(counted) => {
                turn.count_app(&granted.app, AppValue::Refused, 1);
                return refuse(turn, counted, Reason::LimitReached);
            }
        };
        let deadline = Duration::from_millis(open.deadline_ms.into());
        let plan = Plan::for_peer(turn.now, &granted.app, granted.origin, granted.port, deadline);
        let app = granted.app;
        let mut meta = meta(open.flow.0, app.clone(), FlowRole::Egress, open.client, open.listener, turn.now);
        meta.remote = Some(remote_of_peer(turn, key, peer));
        let generation = self.next_generation();
        permit.on_opened(turn.worker, Protocol::Tcp);
        let flow = Flow::new(turn.now, generation, End::Stream(key), plan, meta, permit, place);
        let number = self.flows.insert(flow) as u32;
        self.streams.insert(key, number);
        self.dial(number, DialFailure::NoRoute, turn);
    }

    /// Try the next way to the origin; `failure` is why the last one did not do.
    fn dial(&mut self, number: u32, mut failure: DialFailure, turn: &mut Turn<'_>) {
        loop {
            let Some(flow) = self.flows.get_mut(number as usize) else { return };
            let Phase::Dialling { plan, deadline } = &mut flow.phase else { return };
            let Some((attempt, until)) = plan.next(turn.now) else {
                return self.end(number, Ending::NotDialled(failure), turn);
            };
            let retried = plan.has_retried();
            *deadline = until;
            flow.meta.origin = Some(attempt.origin());
            flow.rewind();
            self.deadlines.set(number, until);
            let begun = match attempt {
                Attempt::Here { address, .. } => self.dial_here(number, address, turn),
                Attempt::Through { handle, .. } => self.dial_through(number, handle, until, turn),
            };
            match begun {
                Ok(()) => {
                    if retried {
                        turn.count(Value::FlowsRetried, 1);
                    }
                    return;
                }
                Err(next) => failure = next,
            }
        }
    }

    fn dial_here(
        &mut self,
        number: u32,
        address: SocketAddr,
        turn: &mut Turn<'_>,
    ) -> Result<(), DialFailure> {
        turn.count(Value::TcpDials, 1);
        let flow = &mut self.flows[number as usize];
        let slot = Slot { number, generation: flow.generation };
        let begun = tcp::connect(address, None).and_then(|fd| {
            tcp::apply_relay_options(&fd)?;
            turn.epoll.add(&fd, Token::TcpOrigin(slot).pack(), Interest::READ_WRITE.edge_triggered())?;
            Ok(fd)
        });
        match begun {
            Ok(fd) if turn.shared.is_reserved(&fd) => {
                turn.drop(Dropped::FdLimit);
                Err(DialFailure::Shortage)
            }
            Ok(fd) => {
                flow.origin = End::Socket(fd);
                if flow.meta.role == FlowRole::Ingress {
                    flow.meta.role = FlowRole::Local;
                    flow.meta.remote = None;
                }
                Ok(())
            }
            Err(error) => {
                let failure = DialFailure::of(&error);
                if failure == DialFailure::Shortage {
                    turn.drop(Dropped::FdLimit);
                }
                Err(failure)
            }
        }
    }

    fn dial_through(
        &mut self,
        number: u32,
        handle: u32,
        until: Instant,
        turn: &mut Turn<'_>,
    ) -> Result<(), DialFailure> {
        let flow = &mut self.flows[number as usize];
        let origin = flow.meta.origin.ok_or(DialFailure::Local)?;
        let deadline_ms = until.saturating_duration_since(turn.now).as_millis();
        let open = Open {
            protocol: WireProtocol::Tcp,
            flow: FlowId(flow.meta.id),
            app: &flow.meta.app.name,
            origin: &flow.meta.app.origins[origin].name,
            client: flow.meta.client,
            listener: flow.meta.listener,
            deadline_ms: u32::try_from(deadline_ms).unwrap_or(u32::MAX),
        };
        let key = turn.overlay.open_stream(turn.now, handle, &open).map_err(|_| DialFailure::TunnelLost)?;
        flow.origin = End::Stream(key);
        flow.meta.role = FlowRole::Ingress;
        flow.meta.remote = Remote::of_handle(turn, handle);
        self.streams.insert(key, number);
        self.drive(number, turn);
        Ok(())
    }

    /// A socket of a flow has become ready, or broke.
    fn handle_ready(&mut self, slot: Slot, side: Side, event: Event, turn: &mut Turn<'_>) {
        let number = slot.number;
        let Some(flow) = self.flows.get_mut(number as usize).filter(|flow| slot.is_of(flow.generation))
        else {
            return;
        };
        let End::Socket(fd) = flow.end(side) else { return };
        let is_dialling = matches!(flow.phase, Phase::Dialling { .. });
        let is_broken = event.error() || event.hang_up();
        let error = if is_broken || (is_dialling && side == Side::Origin) {
            tcp::take_error(fd.as_fd()).unwrap_or_else(Some)
        } else {
            None
        };
        if event.readable() || event.read_hang_up() || is_broken {
            flow.on_readable(side, event.read_hang_up() || event.hang_up());
        }
        if event.writable() {
            flow.on_writable(side);
        }
        match (error, is_dialling && side == Side::Origin) {
            (None, false) => self.drive(number, turn),
            (Some(error), false) => self.end(number, Ending::of_error(side, &error), turn),
            (Some(error), true) => self.fail_attempt(number, DialFailure::of(&error), turn),
            // A connection that is gone before we looked has no error left to tell.
            (None, true) if event.hang_up() => self.fail_attempt(number, DialFailure::Reset, turn),
            (None, true) if event.writable() => self.connected(number, turn),
            (None, true) => {}
        }
    }

    /// The present attempt has come to nothing.
    fn fail_attempt(&mut self, number: u32, failure: DialFailure, turn: &mut Turn<'_>) {
        if let Some(flow) = self.flows.get_mut(number as usize) {
            if let End::Stream(key) = flow.origin {
                self.streams.remove(&key);
            }
            flow.origin = End::Absent;
        }
        self.dial(number, failure, turn);
    }

    /// Let a flow do what it can.
    fn drive(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        let outcome = match flow.phase {
            Phase::Relaying => flow.pump(turn, &mut self.scratch),
            Phase::Dialling { .. } if matches!(flow.origin, End::Stream(_)) => {
                flow.pump_early(turn, &mut self.scratch)
            }
            Phase::Dialling { .. } => return,
        };
        match outcome {
            Outcome::Wait => {}
            Outcome::Again => {
                if !flow.is_queued {
                    flow.is_queued = true;
                    let slot = Slot { number, generation: flow.generation };
                    self.resumes.push_back(Resume::Flow(slot));
                }
            }
            Outcome::Ended(ending) => return self.end(number, ending, turn),
        }
        if flow.has_become_half_closed() {
            flow.is_half_closed = true;
            self.deadlines.set(number, flow.deadline());
        }
    }

    /// The flow of a stream.
    fn flow_of(&mut self, key: StreamKey) -> Option<(u32, &mut Flow)> {
        let number = *self.streams.get(&key)?;
        self.flows.get_mut(number as usize).map(|flow| (number, flow))
    }

    /// The other PoP has reached the origin.
    pub(crate) fn handle_opened(&mut self, key: StreamKey, turn: &mut Turn<'_>) {
        let Some(&number) = self.streams.get(&key) else { return };
        self.connected(number, turn);
    }

    fn connected(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        if !matches!(flow.phase, Phase::Dialling { .. }) {
            return;
        }
        if let End::Stream(key) = flow.client {
            turn.overlay.accept_stream(key);
        }
        flow.begin_relaying(turn, &mut self.scratch);
        self.deadlines.set(number, flow.deadline());
        self.drive(number, turn);
    }

    /// The other PoP could not reach the origin, or would not.
    pub(crate) fn handle_refused(&mut self, key: StreamKey, reason: Reason, turn: &mut Turn<'_>) {
        if let Some(&number) = self.streams.get(&key) {
            self.fail_attempt(number, DialFailure::Peer(reason), turn);
        }
    }

    /// A stream has something to read.
    pub(crate) fn handle_stream_readable(&mut self, key: StreamKey, turn: &mut Turn<'_>) {
        if let Some((number, flow)) = self.flow_of(key) {
            flow.on_readable(flow.stream_side(), false);
            self.drive(number, turn);
        }
    }

    /// A stream takes more.
    pub(crate) fn handle_stream_writable(&mut self, key: StreamKey, turn: &mut Turn<'_>) {
        if let Some((number, flow)) = self.flow_of(key) {
            flow.on_writable(flow.stream_side());
            self.drive(number, turn);
        }
    }

    /// A stream was reset by the other PoP, or lost with its connection.
    pub(crate) fn handle_stream_gone(
        &mut self,
        key: StreamKey,
        code: Option<StreamCode>,
        turn: &mut Turn<'_>,
    ) {
        let Some((number, flow)) = self.flow_of(key) else { return };
        let side = flow.stream_side();
        let is_attempt = matches!(flow.phase, Phase::Dialling { .. }) && side == Side::Origin;
        if is_attempt {
            let failure = code.map_or(DialFailure::TunnelLost, |_| DialFailure::Reset);
            self.fail_attempt(number, failure, turn);
        } else {
            self.end(number, Ending::of_stream(side, code), turn);
        }
    }

    /// When [`TcpEdge::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.deadlines.next(), self.accept_again].into_iter().flatten().min()
    }

    /// Deadlines have come.
    pub(crate) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        while let Some(number) = self.deadlines.pop_due(turn.now) {
            let Some(flow) = self.flows.get(number as usize) else { continue };
            let deadline = flow.deadline();
            if deadline > turn.now {
                self.deadlines.set(number, deadline);
            } else if matches!(flow.phase, Phase::Relaying) {
                let ending = flow.idle_ending();
                self.end(number, ending, turn);
            } else {
                self.abandon_attempt(number, turn);
            }
        }
        if self.accept_again.is_some_and(|at| at <= turn.now) {
            self.accept_again = None;
            let ready = self.listeners.iter().filter(|(_, listening)| listening.is_ready);
            self.resumes.extend(ready.map(|(number, _)| Resume::Listener(number as u32)));
        }
    }

    /// The present attempt has used up its time.
    fn abandon_attempt(&mut self, number: u32, turn: &mut Turn<'_>) {
        if let Some(Flow { origin: End::Stream(key), .. }) = self.flows.get(number as usize) {
            turn.overlay.reset(*key, StreamCode::TimedOut);
        }
        self.fail_attempt(number, DialFailure::TimedOut, turn);
    }

    /// Whether something could go on without waiting.
    pub(crate) fn has_work(&self) -> bool {
        !self.resumes.is_empty()
    }

    /// Go on with what the bounds of an earlier turn stopped.
    pub(crate) fn resume(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..self.resumes.len().min(RESUMES_PER_TURN) {
            match self.resumes.pop_front() {
                Some(Resume::Listener(number)) => self.accept(number, turn),
                Some(Resume::Flow(slot)) => {
                    let flow = self.flows.get_mut(slot.number as usize);
                    if let Some(flow) = flow.filter(|flow| slot.is_of(flow.generation)) {
                        flow.is_queued = false;
                        self.drive(slot.number, turn);
                    }
                }
                None => return,
            }
        }
    }

    /// A flow is over: tell both ends, write its record, forget it.
    fn end(&mut self, number: u32, ending: Ending, turn: &mut Turn<'_>) {
        let Some(mut flow) = self.flows.try_remove(number as usize) else { return };
        self.deadlines.remove(number);
        if let Some(key) = flow.stream() {
            self.streams.remove(&key);
        }
        flow.close(ending, turn, &mut self.scratch);
        if ending.is_origins() {
            turn.count_app(&flow.meta.app, AppValue::OriginErrors, 1);
        }
        if ending == Ending::NotDialled(DialFailure::NoRoute) {
            turn.drop(Dropped::NoRoute);
        }
        let record = flow.meta.record(turn, flow.carried(), flow.last_used, ending);
        turn.reports.push(Report::Record(Box::new(record)));
    }

    /// End every flow; returns how many there were.
    pub(crate) fn close_all(&mut self, ending: Ending, turn: &mut Turn<'_>) -> u64 {
        let numbers: Vec<_> = self.flows.iter().map(|(number, _)| number as u32).collect();
        for &number in &numbers {
            self.end(number, ending, turn);
        }
        numbers.len() as u64
    }

    /// Append the flows that a request asks for, up to its limit; returns how many there are.
    pub(crate) fn list(&self, request: &ListFlows, views: &mut Vec<FlowView>, turn: &Turn<'_>) -> u64 {
        let mut total = 0;
        for (_, flow) in &self.flows {
            if request.app.as_ref().is_none_or(|app| *app == flow.meta.app.name) {
                total += 1;
                if views.len() < request.limit as usize {
                    views.push(flow.meta.view(turn, flow.carried(), flow.last_used));
                }
            }
        }
        total
    }
}

fn meta(
    id: u64,
    app: Arc<App>,
    role: FlowRole,
    client: SocketAddr,
    listener: SocketAddr,
    now: Instant,
) -> Box<FlowMeta> {
    Box::new(FlowMeta {
        id,
        app,
        protocol: Protocol::Tcp,
        role,
        client,
        listener,
        origin: None,
        remote: None,
        started: now,
        connected: None,
        first_byte: None,
    })
}

/// The ingress PoP of a flow, as this one knows it.
fn remote_of_peer(turn: &Turn<'_>, key: StreamKey, peer: PopId) -> Remote {
    let view = turn.overlay.describe_channel(key.connection);
    let name = view.as_ref().map_or_else(|| peer.to_string(), |view| view.peer.to_owned());
    let policy = view.map(|view| view.policy.to_owned()).unwrap_or_default();
    Remote { peer: name, policy, path: Vec::new(), handle: None }
}

fn report_listener_error(turn: &mut Turn<'_>, binding: &Listener, reason: String) {
    let (protocol, address, port) = (binding.protocol, binding.address.clone(), binding.port);
    let worker = turn.worker;
    turn.event(EventKind::ListenerError { protocol, address, port, worker, reason });
}
