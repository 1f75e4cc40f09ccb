//! Waiting for sockets and for the next due message, without being late for it.

use crate::error::BenchError;
use l4proxy_io::epoll::{Epoll, Events, Interest};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// The last stretch before a message is due is spent polling: a timer's wake-up on a virtual machine is that inexact.
/// Above about 15,000 messages a second the generator thus takes a whole core.
const SPIN_NS: u64 = 60_000;
/// No wait is longer, so that a request to stop is seen.
const LONGEST_NS: u64 = 50_000_000;
/// Descriptors handled in one turn.
const EVENTS: usize = 256;

pub(crate) struct Pace {
    epoll: Epoll,
    events: Events,
}

impl Pace {
    /// Also makes the calling thread's timers exact: the kernel's default lets them be 50 µs late.
    pub(crate) fn new() -> Result<Self, BenchError> {
        l4proxy_io::threads::make_timers_exact().map_err(BenchError::system("timer slack"))?;
        let epoll = Epoll::new().map_err(BenchError::system("epoll"))?;
        Ok(Self { epoll, events: Events::with_capacity(EVENTS) })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: usize, interest: Interest) -> Result<(), BenchError> {
        self.epoll.add(fd, token as u64, interest).map_err(BenchError::system("epoll"))
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: usize, interest: Interest) -> Result<(), BenchError> {
        self.epoll.modify(fd, token as u64, interest).map_err(BenchError::system("epoll"))
    }

    /// Waits for sockets, but not beyond `left_ns`, and calls `handle` for each that is ready with (token, readable, writable).
    pub(crate) fn wait<E: From<BenchError>>(
        &mut self,
        left_ns: u64,
        mut handle: impl FnMut(usize, bool, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let timeout = Duration::from_nanos(left_ns.saturating_sub(SPIN_NS).min(LONGEST_NS));
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
