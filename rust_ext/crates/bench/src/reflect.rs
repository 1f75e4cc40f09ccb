//! The other end: one socket that echoes datagrams, and connections that echo, swallow or send, on one thread.

mod datagrams;
mod streams;

use crate::Stop;
use crate::clock::Clock;
use crate::error::BenchError;
use crate::pace::{Pace, Wait};
use datagrams::Datagrams;
use l4proxy_io::epoll::Interest;
use l4proxy_io::tcp;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use streams::Streams;

const UDP_TOKEN: usize = 0;
const LISTENER_TOKEN: usize = 1;
/// Tokens from here on are connections.
const FIRST_STREAM: usize = 2;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Connections accepted before the others have their turn.
const ACCEPTS_A_TURN: usize = 64;

/// What was reflected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReflectReport {
    /// Datagrams sent back.
    pub datagrams: u64,
    /// Their bytes.
    pub datagram_bytes: u64,
    /// Datagrams that could not be sent back.
    pub datagrams_dropped: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were closed at once, because too many were open or no descriptor was left.
    pub connections_refused: u64,
    /// Bytes received over connections.
    pub bytes_in: u64,
    /// Bytes sent over connections.
    pub bytes_out: u64,
}

/// A reflector that is bound and does not serve yet.
#[derive(Debug)]
pub struct Reflector {
    udp: Datagrams,
    listener: OwnedFd,
    address: SocketAddr,
    /// A descriptor kept back, so that a connection can still be accepted and closed when there is no other left.
    spare: Option<OwnedFd>,
}

impl Reflector {
    /// Binds UDP and TCP to one address; port 0 takes any port that is free for both.
    ///
    /// # Errors
    /// `BenchError::System` when the address cannot be bound.
    pub fn bind(address: SocketAddr) -> Result<Self, BenchError> {
        // A port that is free for UDP may be taken for TCP.
        let tries = if address.port() == 0 { 16 } else { 1 };
        let mut last = None;
        for _ in 0..tries {
            let udp = Datagrams::bind(address).map_err(BenchError::system("UDP socket"))?;
            let bound = udp.address().map_err(BenchError::system("UDP socket"))?;
            match tcp::listen(bound, BACKLOG, false) {
                Ok(listener) => return Self::with(udp, listener, bound),
                Err(error) => last = Some(error),
            }
        }
        let source = last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
        Err(BenchError::System { what: "TCP listener", source })
    }

    fn with(udp: Datagrams, listener: OwnedFd, address: SocketAddr) -> Result<Self, BenchError> {
        let spare = listener.try_clone().map_err(BenchError::system("descriptor"))?;
        Ok(Self { udp, listener, address, spare: Some(spare) })
    }

    /// The address that was bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until somebody stops it, at most for `limit`.
    pub fn run(mut self, limit: Duration, stop: &Stop) -> Result<ReflectReport, BenchError> {
        // Each connection is a descriptor; when more is refused, the table is smaller.
        let _ = l4proxy_io::limits::raise_open_files();
        let mut pace = Pace::new(Wait::Sleep)?;
        let mut streams = Streams::new();
        let mut report = ReflectReport::default();
        pace.add(self.udp.socket(), UDP_TOKEN, Interest::READ)?;
        pace.add(&self.listener, LISTENER_TOKEN, Interest::READ)?;
        let clock = Clock::start();
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let mut ready = Vec::new();
        while clock.now_ns() < limit_ns && !stop.is_set() {
            ready.clear();
            pace.wait(u64::MAX, |token, _, _| {
                ready.push(token);
                Ok::<(), BenchError>(())
            })?;
            for &token in &ready {
                match token {
                    UDP_TOKEN => self.udp.echo(&mut report),
                    LISTENER_TOKEN => self.accept(&mut streams, &pace, &mut report)?,
                    stream => streams.progress(stream - FIRST_STREAM, &pace, &mut report)?,
                }
            }
        }
        Ok(report)
    }

    fn accept(
        &mut self,
        streams: &mut Streams,
        pace: &Pace,
        report: &mut ReflectReport,
    ) -> Result<(), BenchError> {
        for _ in 0..ACCEPTS_A_TURN {
            match tcp::accept(&self.listener) {
                tcp::Accepted::Connection(fd, _) => match streams.insert(fd) {
                    Some((token, fd)) => {
                        report.connections += 1;
                        // When the options are refused the connection is slower, and still reflects.
                        let _ = tcp::apply_relay_options(fd);
                        pace.add(fd, token + FIRST_STREAM, Interest::READ)?;
                    }
                    None => report.connections_refused += 1,
                },
                tcp::Accepted::WouldBlock => return Ok(()),
                tcp::Accepted::FdLimit => return self.refuse_one(report),
                tcp::Accepted::Aborted(_) => {}
                tcp::Accepted::Error(source) => return Err(BenchError::System { what: "accept", source }),
            }
        }
        Ok(())
    }

    /// Without a descriptor left the waiting connection would wake us for ever: it gets the spare one and is closed.
    fn refuse_one(&mut self, report: &mut ReflectReport) -> Result<(), BenchError> {
        report.connections_refused += 1;
        self.spare = None;
        drop(tcp::accept(&self.listener));
        self.spare = self.listener.try_clone().ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
