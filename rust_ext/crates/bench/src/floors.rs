//! The least that a relay can do: what the figures of real ones are held against, in the same run on the same machine.
//!
//! No limits, no counters, no timers, no care for dead peers: accept, dial, move bytes. What a relay costs beyond these loops is what
//! it has decided to do; what these loops cost is the kernel's.

mod datagrams;
mod quic;
mod streams;

use crate::Stop;
use crate::clock::Clock;
use crate::error::BenchError;
use l4proxy_io::epoll::{Epoll, Event, Events};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Flows of one floor at most; whoever comes later is refused and counted. Each takes two descriptors, or one (UDP).
pub const MAX_FLOWS: usize = 12_000;

/// Descriptors handled in one turn.
const EVENTS: usize = 256;
/// No wait is longer, so that a request to stop is seen.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// Which loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// TCP through a pipe of its own per direction, never copied.
    Splice,
    /// TCP by `recv` and `send` with one buffer for all flows.
    Copy,
    /// UDP in batches, a connected socket a client.
    Udp,
    /// UDP into QUIC DATAGRAM frames and back, the end of the clients; `origin` is the other end.
    QuicIngress,
    /// The same, the end of the origin; `listen` is for the tunnel.
    QuicEgress,
}

/// What to relay.
#[derive(Debug, Clone)]
pub struct FloorOptions {
    /// How.
    pub floor: Floor,
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Where they are taken to.
    pub origin: SocketAddr,
    /// For those that encrypt: a folder with `cert.pem` and `key.pem`, the same at both ends.
    pub identity: Option<PathBuf>,
}

/// What was relayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FloorReport {
    /// Flows that were relayed.
    pub flows: u64,
    /// Flows that were not: too many, no descriptor, or the origin could not be dialled.
    pub refused: u64,
}

/// One of the loops.
trait Loop {
    /// Does what one descriptor's readiness allows.
    fn handle(&mut self, event: Event, epoll: &Epoll) -> Result<(), BenchError>;
    /// Called when all events of a turn are handled; true when there is more to do at once.
    fn end_turn(&mut self, epoll: &Epoll) -> Result<bool, BenchError>;
    /// When it wants a turn though nothing is ready.
    fn deadline(&mut self) -> Option<Instant> {
        None
    }
    fn report(&self) -> FloorReport;
}

/// A floor that is bound and does not relay yet.
pub struct Relay {
    epoll: Epoll,
    inner: Box<dyn Loop + Send>,
    address: SocketAddr,
}

impl Relay {
    /// Binds it; port 0 takes any.
    ///
    /// # Errors
    /// `BenchError::System` when the address cannot be bound.
    pub fn bind(options: &FloorOptions) -> Result<Self, BenchError> {
        let epoll = Epoll::new().map_err(BenchError::system("epoll"))?;
        let (inner, address): (Box<dyn Loop + Send>, SocketAddr) = match options.floor {
            Floor::Splice | Floor::Copy => {
                let (streams, address) = streams::Streams::bind(options, &epoll)?;
                (Box::new(streams), address)
            }
            Floor::Udp => {
                let (datagrams, address) = datagrams::Datagrams::bind(options, &epoll)?;
                (Box::new(datagrams), address)
            }
            Floor::QuicIngress => {
                let (quic, address) = quic::Quic::bind(quic::Side::Ingress, options, &epoll)?;
                (Box::new(quic), address)
            }
            Floor::QuicEgress => {
                let (quic, address) = quic::Quic::bind(quic::Side::Egress, options, &epoll)?;
                (Box::new(quic), address)
            }
        };
        Ok(Self { epoll, inner, address })
    }

    /// The address that was bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Relays until somebody stops it, at most for `limit`.
    ///
    /// # Errors
    /// `BenchError::System` when epoll or the listener fails.
    pub fn run(mut self, limit: Duration, stop: &Stop) -> Result<FloorReport, BenchError> {
        // Each flow takes descriptors; when more is refused, fewer flows fit.
        let _ = l4proxy_io::limits::raise_open_files();
        let mut events = Events::with_capacity(EVENTS);
        let clock = Clock::start();
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let mut busy = false;
        while clock.now_ns() < limit_ns && !stop.is_set() {
            let wait = self
                .inner
                .deadline()
                .map_or(LONGEST_WAIT, |at| at.saturating_duration_since(Instant::now()).min(LONGEST_WAIT));
            let patience = if busy { Duration::ZERO } else { wait };
            self.epoll.wait(&mut events, Some(patience)).map_err(BenchError::system("epoll"))?;
            for event in events.iter() {
                self.inner.handle(event, &self.epoll)?;
            }
            busy = self.inner.end_turn(&self.epoll)?;
        }
        Ok(self.inner.report())
    }
}

#[cfg(test)]
mod tests;
