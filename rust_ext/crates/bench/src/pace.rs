//! Waiting for sockets and for the next due message, without being late for it.

use crate::error::BenchError;
use l4proxy_io::epoll::{Epoll, Events, Interest};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// The last stretch before a message is due is spent polling: a timer's wake-up on a virtual machine is that inexact.
const SPIN_NS: u64 = 60_000;
/// So is the first stretch after one has left: an answer that comes this soon is measured without this machine's own wake-up,
/// which takes 5 to 50 µs on a virtual machine and says nothing about the system. Above 3,000 messages a second the generator thus takes
/// a whole core.
const HOT_NS: u64 = 250_000;
/// No wait is longer, so that a request to stop is seen.
const LONGEST_NS: u64 = 50_000_000;
/// Descriptors handled in one turn.
const EVENTS: usize = 256;

/// How a generator waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// By polling, shortly before a message is due and for a while after it has left. Takes a core, which nothing else in the test may
    /// need.
    Poll,
    /// By sleeping. Latencies then hold this machine's own wake-ups.
    Sleep,
}

pub(crate) struct Pace {
    epoll: Epoll,
    events: Events,
    wait: Wait,
}

impl Pace {
    /// Also makes the calling thread's timers exact: the kernel's default lets them be 50 µs late.
    pub(crate) fn new(wait: Wait) -> Result<Self, BenchError> {
        l4proxy_io::threads::make_timers_exact().map_err(BenchError::system("timer slack"))?;
        let epoll = Epoll::new().map_err(BenchError::system("epoll"))?;
        Ok(Self { epoll, events: Events::with_capacity(EVENTS), wait })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: usize, interest: Interest) -> Result<(), BenchError> {
        self.epoll.add(fd, token as u64, interest).map_err(BenchError::system("epoll"))
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: usize, interest: Interest) -> Result<(), BenchError> {
        self.epoll.modify(fd, token as u64, interest).map_err(BenchError::system("epoll"))
    }

    /// How long there is to wait at `now_ns` for something that is due at `due_ns`: not at all while an answer may come at any moment.
    pub(crate) fn patience(&self, now_ns: u64, due_ns: u64, last_sent_ns: u64, awaits_answer: bool) -> u64 {
        match self.wait {
            Wait::Poll if awaits_answer && now_ns.saturating_sub(last_sent_ns) < HOT_NS => 0,
            Wait::Poll => due_ns.saturating_sub(now_ns).saturating_sub(SPIN_NS),
            Wait::Sleep => due_ns.saturating_sub(now_ns),
        }
    }

    /// Waits for sockets, but not beyond `left_ns`, and calls `handle` for each that is ready with (token, readable, writable).
    pub(crate) fn wait<E: From<BenchError>>(
        &mut self,
        left_ns: u64,
        mut handle: impl FnMut(usize, bool, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let timeout = Duration::from_nanos(left_ns.min(LONGEST_NS));
        let waited: io::Result<usize> = self.epoll.wait(&mut self.events, Some(timeout));
        waited.map_err(BenchError::system("epoll"))?;
        for event in self.events.iter() {
            let token = usize::try_from(event.token).unwrap_or(usize::MAX);
            // An error or a hang-up is found out by reading, or by writing where nothing is ever read.
            let broken = event.error() || event.hang_up();
            handle(token, event.readable() || broken, event.writable() || broken)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_lasts_while_an_answer_may_come_soon_and_before_a_message_is_due() {
        let pace = Pace::new(Wait::Poll).unwrap();
        assert_eq!(pace.patience(1_000, 1_000_000, 1_000, true), 0);
        assert_eq!(pace.patience(1_000, 1_000_000, 1_000, false), 999_000 - SPIN_NS);
        assert_eq!(pace.patience(1_000 + HOT_NS, 1_000_000, 1_000, true), 999_000 - HOT_NS - SPIN_NS);
        assert_eq!(pace.patience(1_000_000 - SPIN_NS, 1_000_000, 0, true), 0);
    }

    #[test]
    fn sleeping_lasts_until_a_message_is_due() {
        let pace = Pace::new(Wait::Sleep).unwrap();
        assert_eq!(pace.patience(1_000, 1_000_000, 1_000, true), 999_000);
        assert_eq!(pace.patience(2_000_000, 1_000_000, 0, true), 0, "what is overdue does not wait");
    }
}
