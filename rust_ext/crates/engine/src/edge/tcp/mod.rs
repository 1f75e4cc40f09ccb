//! TCP at the edge of one worker: the table of flows, their readiness and timers, and which of them could go on.
//!
//! | module | what |
//! | --- | --- |
//! | `accept` | listeners, bounded accepting, admission |
//! | `dialling` | how a flow gets its origin |
//! | `flow` | one flow: its two ends and the relay between them |
//! | `greeting` | TLS sessions before bytes are relayed |
//! | `hello` | the server name of TLS that passes through |
//! | `ends` | an end of a flow: a socket of ours, with TLS or without, or a stream of the overlay |
//! | `polling` | fast flows that are looked at by the clock |
//! | `racing` | several addresses of one origin, dialled one beside the other |
//! | `pipes` | the worker's kernel pipes |
//!
//! Everything a flow needs happens on this thread. Readiness is edge-triggered: a flow or listener that was stopped by the bounds
//! of a turn stands in a queue and goes on in the next one.

mod accept;
mod dialling;
mod ends;
mod flow;
mod greeting;
mod hello;
mod pipes;
mod polling;
mod racing;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_io::epoll::Event;
use l4proxy_io::tcp;
use l4proxy_proto::timers::Deadlines;
use l4proxy_wire::codes::StreamCode;
use l4proxy_wire::ids::PopId;
use slab::Slab;

use self::accept::{ACCEPT_PAUSE_MIN, Listening};
use self::ends::{End, Scratch};
use self::flow::{Flow, Outcome, Phase};
use self::polling::Polled;
use super::ending::{DialFailure, Ending, Side};
use crate::admission::recheck::LOOKS_PER_TURN;
use crate::app::App;
use crate::counters::{AppValue, Fate};
use crate::identity::greeting::Greetings;
use crate::messages::{FlowRole, FlowView, ListFlows};
use crate::overlay::{Loss, Presence, StreamKey};
use crate::records::FlowMeta;
use crate::snapshot::Protocol;
use crate::tls::TlsFault;
use crate::token::{Slot, Token};
use crate::turn::Turn;

/// Flows and listeners that go on without an event in one turn.
const RESUMES_PER_TURN: usize = 64;

/// Timers that fire in one turn.
const EXPIRIES_PER_TURN: usize = 256;

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
    greetings: Greetings,
    resumes: VecDeque<Resume>,
    scratch: Scratch,
    next_generation: u32,
    accept_pause: Duration,
    accept_again: Option<Instant>,
    polled: Polled,
}

impl TcpEdge {
    pub(crate) fn new() -> Self {
        Self {
            listeners: Slab::new(),
            flows: Slab::new(),
            streams: HashMap::new(),
            deadlines: Deadlines::new(),
            greetings: Greetings::new(),
            resumes: VecDeque::new(),
            scratch: Scratch::new(),
            next_generation: 0,
            accept_pause: ACCEPT_PAUSE_MIN,
            accept_again: None,
            polled: Polled::default(),
        }
    }

    /// Live flows.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Something may be readable or writable.
    pub(crate) fn handle_event(&mut self, token: Token, event: Event, turn: &mut Turn<'_>) {
        match token {
            Token::TcpListener(number) => self.accept(number, turn),
            Token::TcpClient(slot) => self.handle_ready(slot, Side::Client, event, turn),
            Token::TcpOrigin(slot) => self.handle_ready(slot, Side::Origin, event, turn),
            Token::TcpRace(slot) => self.handle_race(slot, turn),
            Token::TcpGreeting(slot) => {
                let greeted = self.greetings.handle_ready(slot, event, turn);
                self.welcome(greeted, turn);
            }
            Token::Waker
            | Token::UdpListener(_)
            | Token::Overlay(_)
            | Token::UdpIngress(_)
            | Token::UdpEgress(_) => {}
        }
    }

    /// A socket of a flow has become ready, or broke.
    fn handle_ready(&mut self, slot: Slot, side: Side, event: Event, turn: &mut Turn<'_>) {
        let number = slot.number;
        let Some(flow) = self.flows.get_mut(number as usize).filter(|flow| slot.is_of(flow.generation))
        else {
            return;
        };
        let Some(fd) = flow.end(side).socket() else { return };
        let is_attempt = side == Side::Origin && matches!(flow.phase, Phase::Dialling { .. });
        let is_securing = is_attempt && matches!(flow.origin, End::Tls(_));
        let is_broken = event.error() || event.hang_up();
        // The kernel says "broken" of every socket with an error, one that could not be connected too.
        let error = if is_broken { tcp::take_error(fd).unwrap_or_else(Some) } else { None };
        if event.readable() || event.read_hang_up() || is_broken {
            flow.on_readable(side, event.read_hang_up() || event.hang_up());
        }
        if event.writable() {
            flow.on_writable(side);
        }
        match (error, is_attempt) {
            (None, false) => {
                self.drive(number, turn);
                self.consider_polling(number, turn);
            }
            // Whether that was all of it is found by reading.
            (None, true) if is_securing => self.drive(number, turn),
            (Some(error), false) => {
                flow.broken = Some(side);
                self.end(number, Ending::of_error(side, &error), turn);
            }
            (Some(error), true) => self.fail_attempt(number, DialFailure::of(&error), turn),
            // A connection that is gone before we looked has no error left to tell.
            (None, true) if event.hang_up() => self.fail_attempt(number, DialFailure::Reset, turn),
            (None, true) if event.writable() => self.connected(number, turn),
            (None, true) => {}
        }
    }

    /// Let a flow do what it can.
    fn drive(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        let outcome = match flow.phase {
            Phase::Relaying => flow.pump(turn, &mut self.scratch),
            Phase::Dialling { .. } if matches!(flow.origin, End::Stream(_)) => {
                flow.pump_early(turn, &mut self.scratch)
            }
            Phase::Dialling { .. } if matches!(flow.origin, End::Tls(_)) => return self.secure(number, turn),
            Phase::Dialling { .. } => return,
            Phase::Greeting { .. } => return self.greet(number, turn),
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
        if flow.must_watch_for_room() && !flow.coalescing.is_polled() {
            polling::watch(number, flow, turn);
        }
        let has_become_half_closed = flow.has_become_half_closed();
        flow.is_half_closed |= has_become_half_closed;
        if flow.has_begun_to_wait() || has_become_half_closed {
            self.deadlines.set(number, flow.deadline());
        }
    }

    /// The flow of a stream.
    fn flow_of(&mut self, key: StreamKey) -> Option<(u32, &mut Flow)> {
        let number = *self.streams.get(&key)?;
        self.flows.get_mut(number as usize).map(|flow| (number, flow))
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
        loss: Option<Loss>,
        turn: &mut Turn<'_>,
    ) {
        let Some((number, flow)) = self.flow_of(key) else { return };
        let side = flow.stream_side();
        let is_attempt = matches!(flow.phase, Phase::Dialling { .. }) && side == Side::Origin;
        if is_attempt {
            if let Phase::Dialling { plan, .. } = &mut flow.phase
                && loss.is_some()
            {
                plan.try_again();
            }
            let failure = code.map_or(DialFailure::TunnelLost, |_| DialFailure::Reset);
            self.fail_attempt(number, failure, turn);
        } else {
            self.end(number, Ending::of_stream(side, code, loss), turn);
        }
    }

    /// What is thought of a PoP has changed: flows that wait for it to reach their origin go on through another one, if they can.
    pub(crate) fn handle_presence(&mut self, peer: PopId, presence: Presence, turn: &mut Turn<'_>) {
        if presence == Presence::Present {
            return;
        }
        let waiting: Vec<u32> = self
            .flows
            .iter_mut()
            .filter_map(|(number, flow)| flow.may_leave(peer, turn).then_some(number as u32))
            .collect();
        for number in waiting {
            self.abandon_attempt(number, turn);
        }
    }

    /// When [`TcpEdge::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts =
            [self.deadlines.next(), self.greetings.poll_timeout(), self.accept_again, self.polled.next()];
        timeouts.into_iter().flatten().min()
    }

    /// Deadlines have come.
    pub(crate) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        // The rest is still due, and the next turn begins at once.
        for _ in 0..EXPIRIES_PER_TURN {
            let Some(number) = self.deadlines.pop_due(turn.now) else { break };
            let Some(flow) = self.flows.get_mut(number as usize) else { continue };
            flow.look_after(turn.now);
            let may_go_on = flow.end_wait(turn.now);
            let deadline = flow.deadline();
            if may_go_on {
                self.deadlines.set(number, deadline);
                self.drive(number, turn);
            } else if deadline > turn.now {
                self.deadlines.set(number, deadline);
            } else {
                match flow.phase {
                    Phase::Greeting { .. } => {
                        self.end(number, Ending::Tls(Side::Client, TlsFault::TimedOut), turn);
                    }
                    Phase::Dialling { .. } => self.abandon_attempt(number, turn),
                    Phase::Relaying => {
                        let ending = flow.idle_ending();
                        self.end(number, ending, turn);
                    }
                }
            }
        }
        if self.polled.next().is_some_and(|at| at <= turn.now) {
            self.poll_flows(turn);
        }
        self.greetings.handle_timeout(turn);
        if self.accept_again.is_some_and(|at| at <= turn.now) {
            self.accept_again = None;
            let ready = self.listeners.iter().filter(|(_, listening)| listening.is_ready);
            self.resumes.extend(ready.map(|(number, _)| Resume::Listener(number as u32)));
        }
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

    fn next_generation(&mut self) -> u32 {
        self.next_generation = self.next_generation.wrapping_add(1);
        self.next_generation
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
        if let Some(value) = ending.lost() {
            turn.count_app(&flow.meta.app, value, 1);
            flow.meta.note(turn, Fate::PathLost);
        }
        if ending == Ending::Reset(Side::Origin) {
            let has_heard = flow.meta.first_byte.is_some();
            flow.meta.note(turn, if has_heard { Fate::OriginReset } else { Fate::ResetEarly });
        }
        if let Ending::Tls(side, fault) = ending {
            turn.drop(match side {
                Side::Client => fault.counted(),
                Side::Origin => fault.counted_for_origin(),
            });
        }
        if let Ending::NotDialled(failure) = ending
            && let Some(reason) = failure.nowhere_to_go()
        {
            turn.drop(reason);
        }
        flow.meta.tell_end(turn, flow.carried(), flow.last_used, ending, || flow.source());
    }

    /// End every flow; returns how many there were.
    pub(crate) fn close_all(&mut self, ending: Ending, turn: &mut Turn<'_>) -> u64 {
        let numbers: Vec<_> = self.flows.iter().map(|(number, _)| number as u32).collect();
        for &number in &numbers {
            self.end(number, ending, turn);
        }
        numbers.len() as u64
    }

    /// End flows of clients that are denied now, among the next few places from `from` on; returns where to go on.
    pub(crate) fn end_denied(&mut self, from: usize, turn: &mut Turn<'_>) -> Option<usize> {
        let until = from + LOOKS_PER_TURN;
        for number in from..until.min(self.flows.capacity()) {
            let denied = self.flows.get(number).map(|flow| &flow.meta).filter(|meta| meta.is_denied(turn));
            if let Some(meta) = denied {
                turn.count_app(&meta.app, AppValue::FlowsDenied, 1);
                self.end(number as u32, Ending::AccessDenied, turn);
            }
        }
        (until < self.flows.capacity()).then_some(until)
    }

    /// Append the flows that a request asks for, up to its limit; returns how many there are.
    pub(crate) fn list(&self, request: &ListFlows, views: &mut Vec<FlowView>, turn: &Turn<'_>) -> u64 {
        let mut total = 0;
        for (_, flow) in &self.flows {
            if request.wants(&flow.meta.app.name, flow.meta.client, || flow.source()) {
                total += 1;
                if views.len() < request.limit as usize {
                    views.push(flow.meta.view(turn, flow.carried(), flow.last_used, flow.source()));
                }
            }
        }
        total
    }
}

/// DSCP stands in the high six bits of the TOS byte; the low two are ECN's, which TCP sets itself.
const fn tos_of(dscp: u8) -> u8 {
    dscp << 2
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
        egress_changes: 0,
        started: now,
        connected: None,
        server_name: None,
        first_byte: None,
    })
}
