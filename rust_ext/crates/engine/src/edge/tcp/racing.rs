//! Several addresses of one origin dialled one beside the other: the sockets of a [`Race`], which decides. The first that connects
//! becomes the flow's origin, the others are closed.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use l4proxy_io::epoll::Interest;
use l4proxy_io::tcp;
use l4proxy_proto::race::{Race, Step};

use super::super::dial::{Attempt, Plan};
use super::super::ending::{DialFailure, Side};
use super::TcpEdge;
use super::ends::End;
use super::flow::Phase;
use crate::counters::Value;
use crate::token::{Slot, Token};
use crate::turn::Turn;

/// A run of attempts of one flow under way.
#[derive(Debug)]
pub(super) struct Racing {
    race: Race,
    addresses: Vec<SocketAddr>,
    /// By attempt; those that have not answered yet.
    sockets: Vec<(usize, OwnedFd)>,
    /// Why the last one failed.
    failure: DialFailure,
}

impl Racing {
    /// A race of the plan's run.
    pub(super) fn new(now: Instant, plan: &Plan, run: Range<usize>, until: Instant) -> Self {
        let addresses: Vec<_> = run
            .filter_map(|index| match plan.attempt(index) {
                Attempt::Here { address, .. } => Some(address),
                Attempt::Through { .. } => None,
            })
            .collect();
        let race = Race::new(now, addresses.len(), until);
        Self { race, addresses, sockets: Vec::new(), failure: DialFailure::TimedOut }
    }

    fn remove(&mut self, attempt: usize) -> Option<OwnedFd> {
        let place = self.sockets.iter().position(|(other, _)| *other == attempt)?;
        Some(self.sockets.remove(place).1)
    }

    /// The first socket that has connected; failed ones are taken out on the way.
    fn find_winner(&mut self, now: Instant) -> Option<OwnedFd> {
        for attempt in self.sockets.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>() {
            let place = self.sockets.iter().position(|(other, _)| *other == attempt)?;
            let fd = &self.sockets[place].1;
            match tcp::take_error(fd.as_fd()).unwrap_or_else(Some) {
                Some(error) => {
                    self.failure = DialFailure::of(&error);
                    self.remove(attempt);
                    self.race.on_failed(now, attempt);
                }
                None if tcp::peer_address(fd.as_fd()).is_ok() => return self.remove(attempt),
                None => {}
            }
        }
        None
    }
}

impl TcpEdge {
    /// Do what a flow's race says is due.
    pub(super) fn drive_race(&mut self, number: u32, turn: &mut Turn<'_>) {
        loop {
            let Some(racing) = self.racing(number) else { return };
            match racing.race.poll(turn.now) {
                Step::GiveUp(attempt) => drop(racing.remove(attempt)),
                Step::Begin(attempt) => self.begin_attempt(number, attempt, turn),
                Step::Wait(at) => {
                    if let Some(Phase::Dialling { deadline, .. }) =
                        self.flows.get_mut(number as usize).map(|flow| &mut flow.phase)
                    {
                        *deadline = at;
                        self.deadlines.set(number, at);
                    }
                    return;
                }
                Step::Lost => {
                    let failure =
                        if racing.sockets.is_empty() { racing.failure } else { DialFailure::TimedOut };
                    return self.fail_attempt(number, failure, turn);
                }
            }
        }
    }

    fn begin_attempt(&mut self, number: u32, attempt: usize, turn: &mut Turn<'_>) {
        let Some(racing) = self.racing(number) else { return };
        let address = racing.addresses[attempt];
        let begun = self.begin_dial(number, address, Token::TcpRace, turn);
        if attempt > 0 {
            turn.count(Value::DialsRaced, 1);
        }
        let Some(racing) = self.racing(number) else { return };
        match begun {
            Ok(fd) => racing.sockets.push((attempt, fd)),
            Err(failure) => {
                racing.failure = failure;
                racing.race.on_failed(turn.now, attempt);
            }
        }
    }

    /// One of the sockets of a race has become ready, or broke.
    pub(super) fn handle_race(&mut self, slot: Slot, turn: &mut Turn<'_>) {
        let number = slot.number;
        let is_of = self.flows.get(number as usize).is_some_and(|flow| slot.is_of(flow.generation));
        let Some(racing) = self.racing(number).filter(|_| is_of) else { return };
        match racing.find_winner(turn.now) {
            Some(fd) => self.win(slot, fd, turn),
            None => self.drive_race(number, turn),
        }
    }

    fn win(&mut self, slot: Slot, fd: OwnedFd, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(slot.number as usize) else { return };
        if let Phase::Dialling { race, .. } = &mut flow.phase {
            *race = None;
        }
        let token = Token::TcpOrigin(slot).pack();
        if turn.epoll.modify(&fd, token, Interest::READ_WRITE.edge_triggered()).is_err() {
            return self.fail_attempt(slot.number, DialFailure::Local, turn);
        }
        flow.origin = End::Socket(fd);
        flow.on_writable(Side::Origin);
        self.connected(slot.number, turn);
    }

    fn racing(&mut self, number: u32) -> Option<&mut Racing> {
        match &mut self.flows.get_mut(number as usize)?.phase {
            Phase::Dialling { race, .. } => race.as_deref_mut(),
            Phase::Greeting { .. } | Phase::Relaying => None,
        }
    }
}
