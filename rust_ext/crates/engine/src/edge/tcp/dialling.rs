//! How a flow gets its origin: one way after the other within one budget of time, here or through another PoP, until one does.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use l4proxy_io::epoll::Interest;
use l4proxy_io::tcp;
use l4proxy_wire::codes::{Reason, StreamCode};
use l4proxy_wire::ids::{FlowId, PopId};
use l4proxy_wire::open::{Open, OpenOwned, Protocol as WireProtocol};

use super::super::dial::{Attempt, Plan};
use super::super::ending::{DialFailure, Ending};
use super::super::reach::{Unreached, dial_tcp};
use super::ends::End;
use super::flow::{Flow, Phase};
use super::racing::Racing;
use super::{TcpEdge, meta, tos_of};
use crate::app::Permit;
use crate::counters::{AppValue, Dropped, Fate, Value};
use crate::messages::FlowRole;
use crate::origin::{Request, grant};
use crate::overlay::StreamKey;
use crate::records::Remote;
use crate::snapshot::Protocol;
use crate::token::{Slot, Token};
use crate::turn::Turn;

impl TcpEdge {
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
            Err(denied) => {
                turn.deny(peer, &request, denied);
                return turn.overlay.refuse_stream(key, denied.reason);
            }
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
        let plan = Plan::for_peer(turn.now, &granted, deadline, turn.random.next());
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
    pub(super) fn dial(&mut self, number: u32, mut failure: DialFailure, turn: &mut Turn<'_>) {
        loop {
            let Some(flow) = self.flows.get_mut(number as usize) else { return };
            let Phase::Dialling { plan, deadline, race } = &mut flow.phase else { return };
            if turn.overlay.has_doubts() {
                plan.doubt(|handle| turn.overlay.is_doubtful(handle));
            }
            let Some((run, until)) = plan.next_run(turn.now) else {
                let failure = plan.failure(failure);
                return self.end(number, Ending::NotDialled(failure), turn);
            };
            let (attempt, retried) = (plan.attempt(run.start), plan.has_retried());
            *deadline = until;
            *race = (run.len() > 1).then(|| Box::new(Racing::new(turn.now, plan, run.clone(), until)));
            flow.meta.origin = Some(attempt.origin());
            turn.note(&flow.meta.app, attempt.handle(), Fate::Tried);
            flow.rewind();
            self.deadlines.set(number, until);
            let begun = match attempt {
                Attempt::Here { .. } if run.len() > 1 => {
                    if retried {
                        turn.count(Value::FlowsRetried, 1);
                    }
                    return self.drive_race(number, turn);
                }
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
                Err(next) => {
                    if let Some(flow) = self.flows.get(number as usize) {
                        turn.note_failure(&flow.meta.app, attempt.handle(), next);
                    }
                    failure = next;
                }
            }
        }
    }

    fn dial_here(
        &mut self,
        number: u32,
        address: SocketAddr,
        turn: &mut Turn<'_>,
    ) -> Result<(), DialFailure> {
        let fd = self.begin_dial(number, address, Token::TcpOrigin, turn)?;
        self.flows[number as usize].origin = End::Socket(fd);
        Ok(())
    }

    /// A socket on its way to an address of the flow's origin, watched with a token of this kind.
    pub(super) fn begin_dial(
        &mut self,
        number: u32,
        address: SocketAddr,
        token: fn(Slot) -> Token,
        turn: &mut Turn<'_>,
    ) -> Result<OwnedFd, DialFailure> {
        turn.count(Value::TcpDials, 1);
        let flow = &mut self.flows[number as usize];
        let slot = Slot { number, generation: flow.generation };
        let origin = flow.meta.origin.ok_or(DialFailure::Local)?;
        let begun = dial_tcp(&flow.meta.app, origin, address, flow.meta.client, turn).and_then(|fd| {
            if let Some(dscp) = flow.meta.app.policy.dscp {
                // A mark that the kernel refuses is no reason not to serve.
                drop(tcp::set_tos(&fd, address.is_ipv6(), tos_of(dscp)));
            }
            let watched = tcp::set_no_delay(&fd).and_then(|()| {
                turn.epoll.add(&fd, token(slot).pack(), Interest::READ_WRITE.edge_triggered())
            });
            watched.map(|()| fd).map_err(Unreached::Failed)
        });
        match begun {
            Ok(fd) => {
                if flow.meta.role == FlowRole::Ingress {
                    flow.meta.role = FlowRole::Local;
                    flow.meta.remote = None;
                }
                Ok(fd)
            }
            Err(unreached) => {
                if let Unreached::Refused(reason, _) = unreached {
                    turn.drop(reason);
                }
                Err(unreached.failure())
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

    /// The present attempt has come to nothing.
    pub(super) fn fail_attempt(&mut self, number: u32, failure: DialFailure, turn: &mut Turn<'_>) {
        if let Some(flow) = self.flows.get_mut(number as usize) {
            if let End::Stream(key) = flow.origin {
                self.streams.remove(&key);
            }
            flow.origin = End::Absent;
            if let Phase::Dialling { race, plan, .. } = &mut flow.phase {
                *race = None;
                if let Some(attempt) = plan.current() {
                    turn.note_failure(&flow.meta.app, attempt.handle(), failure);
                }
            }
        }
        self.dial(number, failure, turn);
    }

    /// The other PoP has reached the origin.
    pub(crate) fn handle_opened(&mut self, key: StreamKey, turn: &mut Turn<'_>) {
        let Some(&number) = self.streams.get(&key) else { return };
        self.connected(number, turn);
    }

    pub(super) fn connected(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        if !matches!(flow.phase, Phase::Dialling { .. }) {
            return;
        }
        if !self.must_secure(number, turn) {
            self.reached(number, turn);
        }
    }

    /// The origin is there, its TLS session too if it has one.
    pub(super) fn reached(&mut self, number: u32, turn: &mut Turn<'_>) {
        if !self.must_answer(number, turn) {
            self.begin_relaying(number, turn);
        }
    }

    /// Both ends are there.
    pub(super) fn begin_relaying(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        if let End::Stream(key) = flow.client {
            turn.overlay.accept_stream(key);
        }
        if let Err(ending) = flow.begin_relaying(turn, &mut self.scratch) {
            return self.end(number, ending, turn);
        }
        flow.meta.note(turn, Fate::Connected);
        self.deadlines.set(number, flow.deadline());
        self.drive(number, turn);
    }

    /// The other PoP could not reach the origin, or would not.
    pub(crate) fn handle_refused(&mut self, key: StreamKey, reason: Reason, turn: &mut Turn<'_>) {
        if let Some(&number) = self.streams.get(&key) {
            self.fail_attempt(number, DialFailure::Peer(reason), turn);
        }
    }

    /// The present attempt has used up its time.
    pub(super) fn abandon_attempt(&mut self, number: u32, turn: &mut Turn<'_>) {
        if let Some(Flow { phase: Phase::Dialling { race: Some(_), .. }, .. }) =
            self.flows.get(number as usize)
        {
            // It may only be the next address that is due.
            return self.drive_race(number, turn);
        }
        if let Some(Flow { origin: End::Stream(key), .. }) = self.flows.get(number as usize) {
            turn.overlay.reset(*key, StreamCode::TimedOut);
        }
        self.fail_attempt(number, DialFailure::TimedOut, turn);
    }
}

/// The ingress PoP of a flow, as this one knows it.
fn remote_of_peer(turn: &Turn<'_>, key: StreamKey, peer: PopId) -> Remote {
    let view = turn.overlay.describe_channel(key.connection);
    let name = view.as_ref().map_or_else(|| peer.to_string(), |view| view.peer.to_owned());
    let policy = view.map(|view| view.policy.to_owned()).unwrap_or_default();
    Remote { peer: name, policy, path: Vec::new(), handle: None }
}
