//! TLS sessions of flows before bytes are relayed: the client's first, the origin's once it is dialled.
//!
//! | the client | what happens |
//! | --- | --- |
//! | offers protocols (ALPN), and an origin that speaks TLS may be dialled here | its hello waits until the origin has chosen one of them, and is answered with that |
//! | else | its handshake is finished before any origin is dialled |
//!
//! An origin that is dialled by another PoP has its session there, where nobody knows what the client offers: no protocol is chosen.

use std::time::Instant;

use super::super::ending::{DialFailure, Ending, Side};
use super::TcpEdge;
use super::ends::End;
use super::flow::Phase;
use crate::identity::stream;
use crate::tls::{HANDSHAKE_TIMEOUT, Handshake, Session, SessionError};
use crate::turn::Turn;

impl TcpEdge {
    /// A new flow of an app with TLS: nothing is dialled before the client has said something.
    pub(super) fn begin_greeting(&mut self, number: u32, turn: &mut Turn<'_>) {
        self.scratch.prepare_for_tls();
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        flow.begin_greeting(turn.now + HANDSHAKE_TIMEOUT);
        self.deadlines.set(number, flow.deadline());
    }

    /// Go on with the client's session.
    pub(super) fn greet(&mut self, number: u32, turn: &mut Turn<'_>) {
        loop {
            let Some(flow) = self.flows.get_mut(number as usize) else { return };
            let (Phase::Greeting { plan, .. }, End::Tls(session)) = (&mut flow.phase, &mut flow.client)
            else {
                return;
            };
            let app = flow.meta.app.clone();
            let Some(tls) = &app.policy.tls else { return self.end(number, Ending::Local, turn) };
            match session.shake_hands(&mut self.scratch.sealed) {
                Ok(Handshake::Waits) => return,
                Ok(Handshake::Asked) => {
                    let (name, offered) = session.asked();
                    flow.meta.server_name = name.map(String::into_boxed_str);
                    let may_choose = plan.as_ref().is_some_and(|plan| plan.may_dial_here());
                    if tls.is_for_origins() && may_choose && !offered.is_empty() {
                        return self.begin_dialling(number, turn);
                    }
                    if let Err(error) = session.answer(tls, None) {
                        return self.end(number, Ending::of_session(Side::Client, &error), turn);
                    }
                }
                Ok(Handshake::Done) if plan.is_some() => return self.begin_dialling(number, turn),
                Ok(Handshake::Done) => return self.begin_relaying(number, turn),
                Err(error) => return self.end(number, Ending::of_session(Side::Client, &error), turn),
            }
        }
    }

    fn begin_dialling(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        if let Phase::Greeting { plan, .. } = &mut flow.phase
            && let Some(mut plan) = plan.take()
        {
            // What the client took is not taken from the origin's time.
            plan.postpone(turn.now.saturating_duration_since(flow.meta.started));
            flow.phase = Phase::Dialling { plan, deadline: turn.now, race: None };
            self.dial(number, DialFailure::NoRoute, turn);
        }
    }

    /// A flow's origin has been connected. Returns whether its session comes first.
    pub(super) fn must_secure(&mut self, number: u32, turn: &mut Turn<'_>) -> bool {
        let Some(flow) = self.flows.get_mut(number as usize) else { return false };
        let app = flow.meta.app.clone();
        let (Some(tls), Some(origin)) =
            (app.policy.tls.as_ref().filter(|tls| tls.is_for_origins()), flow.meta.origin)
        else {
            return false;
        };
        match std::mem::replace(&mut flow.origin, End::Absent) {
            End::Socket(fd) => {
                let offered = match &flow.client {
                    End::Tls(client) => client.asked().1,
                    End::Absent | End::Socket(_) | End::Stream(_) => Vec::new(),
                };
                if let Err(error) = stream::say(&fd, &flow.meta, flow.client_tls()) {
                    self.fail_attempt(number, DialFailure::of(&error), turn);
                    return true;
                }
                match Session::with_origin(fd, tls, &app.origins[origin].name, offered) {
                    Ok(session) => {
                        flow.origin = End::Tls(Box::new(session));
                        // As long again as there was for connecting.
                        let until = turn.now + app.connect_timeout;
                        flow.set_dial_deadline(until);
                        self.deadlines.set(number, until);
                        self.scratch.prepare_for_tls();
                        self.secure(number, turn);
                    }
                    Err(error) => self.fail_to_secure(number, &error, turn),
                }
                true
            }
            other @ (End::Absent | End::Tls(_) | End::Stream(_)) => {
                flow.origin = other;
                false
            }
        }
    }

    /// Go on with the origin's session.
    pub(super) fn secure(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        let End::Tls(session) = &mut flow.origin else { return };
        match session.shake_hands(&mut self.scratch.sealed) {
            // An origin does not ask.
            Ok(Handshake::Waits | Handshake::Asked) => {}
            Ok(Handshake::Done) => self.reached(number, turn),
            Err(error) => {
                session.say_why(&mut self.scratch.sealed);
                self.fail_to_secure(number, &error, turn);
            }
        }
    }

    fn fail_to_secure(&mut self, number: u32, error: &SessionError, turn: &mut Turn<'_>) {
        let failure = match error {
            SessionError::Tls(fault) => {
                turn.drop(fault.counted_for_origin());
                DialFailure::Tls(*fault)
            }
            SessionError::Socket(error) => DialFailure::of(error),
        };
        self.fail_attempt(number, failure, turn);
    }

    /// A flow's origin is there. Returns whether its client still has to be answered first.
    pub(super) fn must_answer(&mut self, number: u32, turn: &mut Turn<'_>) -> bool {
        let Some(flow) = self.flows.get_mut(number as usize) else { return false };
        let app = flow.meta.app.clone();
        let (End::Tls(client), Some(tls)) = (&mut flow.client, &app.policy.tls) else { return false };
        if !client.has_asked() {
            return false;
        }
        let chosen = match &flow.origin {
            End::Tls(origin) => origin.alpn(),
            End::Absent | End::Socket(_) | End::Stream(_) => None,
        };
        let answered = client.answer(tls, chosen);
        let deadline: Instant = turn.now + HANDSHAKE_TIMEOUT;
        flow.phase = Phase::Greeting { plan: None, deadline };
        self.deadlines.set(number, deadline);
        match answered {
            Ok(()) => self.greet(number, turn),
            Err(error) => self.end(number, Ending::of_session(Side::Client, &error), turn),
        }
        true
    }
}
