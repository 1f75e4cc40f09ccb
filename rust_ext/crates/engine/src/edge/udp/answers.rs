//! Answers of origins that are dialled here, on their way to clients: gathered over a turn, from many sessions, and sent with one
//! system call for each listener, from the very bytes into which they were received.

use std::sync::Arc;

use l4proxy_io::udp::{Meta, Outgoing, RecvBatch, UdpSocket};
use l4proxy_proto::relay::Way;

use super::send::dropped_by;
use super::{BATCH, MAX_DATAGRAM, State, UdpEdge, marking};
use crate::counters::{AppValue, Dropped, Value};
use crate::identity::datagrams::payload;
use crate::token::Slot;
use crate::turn::Turn;

/// Answers of one session that one event takes: so many leave room for the other sessions of the turn.
const ANSWERS_PER_EVENT: usize = 16;

/// What has come from origins during this turn.
pub(super) struct Answers {
    batch: RecvBatch,
    /// Whose each datagram of the batch is.
    owners: Vec<Slot>,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { batch: RecvBatch::new(BATCH, MAX_DATAGRAM), owners: Vec::with_capacity(BATCH) }
    }

    fn is_full(&self) -> bool {
        self.owners.len() >= BATCH
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.owners.clear();
    }
}

impl UdpEdge {
    /// Take what an origin that is dialled here has said. It leaves with [`UdpEdge::flush`].
    pub(super) fn gather_answers(&mut self, slot: Slot, turn: &mut Turn<'_>) {
        let Some(number) = self.number_of(slot) else { return };
        if self.answers.as_ref().is_some_and(Answers::is_full) {
            self.flush(turn);
        }
        let Some(Some(State::Ingress(session))) = self.states.get_mut(number as usize) else { return };
        let (Some(socket), Some(answers)) = (session.socket(), self.answers.as_mut()) else { return };
        let received = answers.batch.append(socket, ANSWERS_PER_EVENT);
        if let Some(announcer) = &mut session.announcer {
            announcer.on_received(&received);
        }
        match received {
            Ok(count) => {
                answers.owners.resize(answers.owners.len() + count, slot);
                turn.count(Value::DatagramsReceived, count as u64);
            }
            // An ICMP error about something sent before. What waits behind it is read in the next turn.
            Err(error) => {
                self.on_dropped(number, dropped_by(&error), turn);
                self.leave_dead_target(number, &error, turn);
            }
        }
    }

    /// Send the answers of this turn.
    pub(crate) fn flush(&mut self, turn: &mut Turn<'_>) {
        let Some(mut answers) = self.answers.take_if(|answers| !answers.owners.is_empty()) else { return };
        let mut messages = Vec::with_capacity(answers.owners.len());
        let mut numbers = Vec::with_capacity(answers.owners.len());
        let mut listener: Option<Arc<UdpSocket>> = None;
        for (&owner, (bytes, meta)) in answers.owners.iter().zip(answers.batch.iter()) {
            let Some((to, message)) = self.answer_of(owner, bytes, meta, turn) else { continue };
            // Nearly always one listener: where several are busy, each run of answers takes a call of its own.
            if listener.as_ref().is_some_and(|before| !Arc::ptr_eq(before, &to)) {
                self.send_answers(listener.as_ref(), &mut messages, &mut numbers, turn);
            }
            listener = Some(to);
            messages.push(message);
            numbers.push(owner.number);
        }
        self.send_answers(listener.as_ref(), &mut messages, &mut numbers, turn);
        drop(messages);
        answers.clear();
        self.answers = Some(answers);
    }

    /// What becomes of one answer: from which listener, and to whom. None: it goes nowhere, and is counted.
    fn answer_of<'a>(
        &mut self,
        owner: Slot,
        bytes: &'a [u8],
        meta: Meta,
        turn: &Turn<'_>,
    ) -> Option<(Arc<UdpSocket>, Outgoing<'a>)> {
        let Some(number) = self.number_of(owner) else {
            // Its session has made room for another one in this very turn.
            turn.drop(Dropped::SessionsFull);
            return None;
        };
        let Some(Some(State::Ingress(session))) = self.states.get(number as usize) else { return None };
        if !session.is_from_origin(meta.source) {
            self.on_dropped(number, Dropped::UdpForeign, turn);
            return None;
        }
        let (source, listener) = (session.local, session.listener.clone());
        let (client, dscp) = (session.answers_to, session.meta.app.policy.dscp);
        let header = session.announcer.as_ref().and_then(|announcer| announcer.answer_header());
        if !self.is_admitted(number, bytes.len(), turn) {
            return None;
        }
        let bytes = payload(bytes, header.as_ref());
        let tos = marking::on_message(marking::outgoing(dscp, meta.tos));
        Some((listener, Outgoing { source, tos, ..Outgoing::new(bytes, Some(client)) }))
    }

    /// Whether an answer is within what its client may get for what it sent; else it is counted.
    pub(super) fn is_admitted(&mut self, number: u32, bytes: usize, turn: &Turn<'_>) -> bool {
        let factor = self.state(number).and_then(|state| state.meta().app.policy.limits.amplification);
        let is_admitted = factor.is_none_or(|factor| self.sessions.admits_answer(number, bytes, factor));
        if !is_admitted {
            self.on_dropped(number, Dropped::Amplification, turn);
        }
        is_admitted && self.is_within_bandwidth(number, Way::ToClient, bytes, turn)
    }

    /// Whether a datagram is within what its flow may carry; else it is counted.
    pub(super) fn is_within_bandwidth(
        &mut self,
        number: u32,
        way: Way,
        bytes: usize,
        turn: &Turn<'_>,
    ) -> bool {
        let Some(Some(State::Ingress(session))) = self.states.get_mut(number as usize) else { return true };
        let Some(throttle) = &mut session.throttle else { return true };
        let passes = throttle.passes(way, bytes, turn.now);
        if !passes {
            turn.count_app(&session.meta.app, AppValue::BandwidthDropped, 1);
            self.on_dropped(number, Dropped::Bandwidth, turn);
        }
        passes
    }

    fn send_answers(
        &mut self,
        listener: Option<&Arc<UdpSocket>>,
        messages: &mut Vec<Outgoing<'_>>,
        numbers: &mut Vec<u32>,
        turn: &Turn<'_>,
    ) {
        if let Some(listener) = listener.filter(|_| !messages.is_empty()) {
            self.send_messages(listener, messages, |index| numbers[index], turn, Self::on_to_client);
        }
        messages.clear();
        numbers.clear();
    }
}
