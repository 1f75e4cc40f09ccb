//! Flows that are looked at by the clock while they are fast: their sockets tell nothing then but that they broke. Which flows, and for how
//! long, decides `proto::coalescing`.

#[cfg(test)]
use std::sync::atomic::Ordering;
use std::time::Instant;

use l4proxy_io::epoll::Interest;
use l4proxy_proto::coalescing::INTERVAL;

use super::super::ending::Side;
use super::TcpEdge;
use super::flow::Flow;
use crate::counters::Value;
use crate::token::{Slot, Token};
use crate::turn::Turn;

/// Flows that one worker polls. Where more are fast, one wake-up finds several of them ready, and polling saves nothing.
const MAX_POLLED: usize = 2;

/// A turn that began with more descriptors ready was no wake-up for one flow: that has two sockets.
const ALONE: usize = 2;

/// The polled flows of one worker.
#[derive(Debug, Default)]
pub(super) struct Polled {
    flows: Vec<Slot>,
    next: Option<Instant>,
}

impl Polled {
    /// When they are to be looked at.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }
}

impl TcpEdge {
    /// A flow was woken and went as far as it could.
    pub(super) fn consider_polling(&mut self, number: u32, turn: &Turn<'_>) {
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        if flow.coalescing.is_polled() {
            return;
        }
        let moved = flow.take_moved();
        let is_fast = turn.ready <= ALONE && flow.coalescing.on_turn(turn.now, moved);
        #[cfg(test)]
        let is_fast = is_fast || turn.shared.workers[turn.worker].must_poll.load(Ordering::Acquire);
        let may_be = flow.is_between_sockets() && turn.epoll.is_fine();
        if !is_fast || !may_be || self.polled.flows.len() >= MAX_POLLED {
            return;
        }
        flow.coalescing.start();
        watch(number, flow, turn);
        self.polled.flows.push(Slot { number, generation: flow.generation });
        self.polled.next.get_or_insert(turn.now + INTERVAL);
    }

    /// Look at the polled flows.
    pub(super) fn poll_flows(&mut self, turn: &mut Turn<'_>) {
        turn.count(Value::Polls, 1);
        let mut polled = std::mem::take(&mut self.polled.flows);
        polled.retain(|&slot| self.poll_flow(slot, turn));
        self.polled.next = (!polled.is_empty()).then(|| turn.now + INTERVAL);
        self.polled.flows = polled;
    }

    /// Whether polling goes on.
    fn poll_flow(&mut self, slot: Slot, turn: &mut Turn<'_>) -> bool {
        let number = slot.number;
        let Some(flow) = self.flows.get_mut(number as usize).filter(|flow| slot.is_of(flow.generation))
        else {
            return false;
        };
        for side in [Side::Client, Side::Origin] {
            flow.on_readable(side, false);
            flow.on_writable(side);
        }
        flow.take_moved();
        self.drive(number, turn);
        let Some(flow) = self.flows.get_mut(number as usize).filter(|flow| slot.is_of(flow.generation))
        else {
            return false;
        };
        let moved = flow.take_moved();
        let goes_on = flow.coalescing.on_poll(turn.now, moved);
        if !goes_on {
            watch(number, flow, turn);
        }
        goes_on
    }
}

/// Let the sockets of a flow tell what they have to tell in its present state. What is ready already is told at once.
///
/// The client's tells of room only from the first time on that it took less than there was: most flows never come to this, and a socket
/// that is not asked about room does not wake the worker for it when it is new.
pub(super) fn watch(number: u32, flow: &mut Flow, turn: &Turn<'_>) {
    flow.watches_for_room |= flow.must_watch_for_room();
    let slot = Slot { number, generation: flow.generation };
    let client = if flow.watches_for_room { Interest::READ_WRITE } else { Interest::READ };
    let sides = [
        (&flow.client, Token::TcpClient(slot), client),
        (&flow.origin, Token::TcpOrigin(slot), Interest::READ_WRITE),
    ];
    for (end, token, interest) in sides {
        if let Some(fd) = end.socket() {
            let interest = if flow.coalescing.is_polled() { Interest::NONE } else { interest };
            // Only the kernel's memory could fail this, and then the idle time ends the flow.
            drop(turn.epoll.modify(fd, token.pack(), interest.edge_triggered()));
        }
    }
}
