//! The two loops for TCP: by splice, or by copying. Edges, each socket registered once.

use super::{Floor, FloorOptions, FloorReport, Loop, MAX_FLOWS};
use crate::error::BenchError;
use l4proxy_io::epoll::{Epoll, Event, Interest};
use l4proxy_io::splice::{Filled, Pipe};
use l4proxy_io::{Received, Sent, tcp};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

const LISTENER: u64 = u64::MAX;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Connections accepted before the others have their turn.
const ACCEPTS_A_TURN: usize = 64;
/// The one buffer of the copying loop.
const BUFFER: usize = 256 * 1024;
/// One splice moves at most this much: whatever the pipe takes.
const SPLICE: usize = 1 << 20;
/// Moves of one direction before the others have their turn.
const MOVES_A_TURN: usize = 64;

pub(super) struct Streams {
    floor: Floor,
    listener: OwnedFd,
    origin: SocketAddr,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    /// Pairs that ended in this turn: their tokens may still stand among its events, so they are free only afterwards.
    ended: Vec<usize>,
    /// Pairs that have more to do than one turn allows.
    again: Vec<usize>,
    buffer: Vec<u8>,
    report: FloorReport,
}

/// A client's connection (0), the origin's (1), and what goes from each to the other.
struct Pair {
    sockets: [OwnedFd; 2],
    directions: [Direction; 2],
    /// Whether the origin has answered.
    connected: bool,
}

/// From one socket to the other.
struct Direction {
    held: Held,
    readable: bool,
    /// The sender has said that it is done (RDHUP): a short read does not mean that nothing is left to hear.
    hung: bool,
    finished: bool,
}

/// Bytes on their way.
enum Held {
    Piped(Pipe),
    Copied(Vec<u8>),
}

/// How far a direction came.
enum Moved {
    /// Nothing more to do until the next event.
    Waiting,
    /// A turn's worth was moved, and there is more.
    More,
}

impl Streams {
    pub(super) fn bind(options: &FloorOptions, epoll: &Epoll) -> Result<(Self, SocketAddr), BenchError> {
        let listener =
            tcp::listen(options.listen, BACKLOG, false).map_err(BenchError::system("TCP listener"))?;
        let address = tcp::local_address(&listener).map_err(BenchError::system("TCP listener"))?;
        epoll.add(&listener, LISTENER, Interest::READ).map_err(BenchError::system("epoll"))?;
        let streams = Self {
            floor: options.floor,
            listener,
            origin: options.origin,
            pairs: Vec::new(),
            free: Vec::new(),
            ended: Vec::new(),
            again: Vec::new(),
            buffer: if options.floor == Floor::Copy { vec![0; BUFFER] } else { Vec::new() },
            report: FloorReport::default(),
        };
        Ok((streams, address))
    }

    fn accept(&mut self, epoll: &Epoll) -> Result<(), BenchError> {
        for _ in 0..ACCEPTS_A_TURN {
            match tcp::accept(&self.listener) {
                tcp::Accepted::Connection(client, _) => match self.open(client, epoll) {
                    Ok(()) => self.report.flows += 1,
                    Err(_) => self.report.refused += 1,
                },
                tcp::Accepted::Aborted(_) => {}
                tcp::Accepted::WouldBlock => break,
                tcp::Accepted::FdLimit => {
                    let source = io::Error::other("no descriptor left");
                    return Err(BenchError::System { what: "accept", source });
                }
                tcp::Accepted::Error(source) => return Err(BenchError::System { what: "accept", source }),
            }
        }
        Ok(())
    }

    fn open(&mut self, client: OwnedFd, epoll: &Epoll) -> io::Result<()> {
        let token = match self.free.pop() {
            Some(token) => token,
            None if self.pairs.len() < MAX_FLOWS => {
                self.pairs.push(None);
                self.pairs.len() - 1
            }
            None => return Err(io::ErrorKind::StorageFull.into()),
        };
        match Pair::open(self.floor, client, self.origin, token, epoll) {
            Ok(pair) => self.pairs[token] = Some(pair),
            Err(error) => {
                self.free.push(token);
                return Err(error);
            }
        }
        Ok(())
    }

    fn progress(&mut self, token: usize) {
        let Some(pair) = self.pairs.get_mut(token).and_then(Option::as_mut) else { return };
        match pair.progress(&mut self.buffer) {
            Ok(Moved::Waiting) if pair.directions.iter().all(|direction| direction.finished) => {}
            Ok(Moved::Waiting) => return,
            Ok(Moved::More) => return self.again.push(token),
            // Broken by one end: both are closed.
            Err(_) => {}
        }
        self.pairs[token] = None;
        self.ended.push(token);
    }
}

impl Loop for Streams {
    fn handle(&mut self, event: Event, epoll: &Epoll) -> Result<(), BenchError> {
        if event.token == LISTENER {
            return self.accept(epoll);
        }
        let (token, side) = ((event.token >> 1) as usize, (event.token & 1) as usize);
        let Some(pair) = self.pairs.get_mut(token).and_then(Option::as_mut) else { return Ok(()) };
        let broken = event.hang_up() || event.error();
        let direction = &mut pair.directions[side];
        direction.readable |= event.readable() || broken;
        direction.hung |= event.read_hang_up() || broken;
        pair.connected |= side == 1;
        if pair.connected {
            self.progress(token);
        }
        Ok(())
    }

    fn end_turn(&mut self, _epoll: &Epoll) -> Result<bool, BenchError> {
        self.free.append(&mut self.ended);
        for token in std::mem::take(&mut self.again) {
            self.progress(token);
        }
        Ok(!self.again.is_empty())
    }

    fn report(&self) -> FloorReport {
        self.report
    }
}

impl Pair {
    fn open(
        floor: Floor,
        client: OwnedFd,
        origin: SocketAddr,
        token: usize,
        epoll: &Epoll,
    ) -> io::Result<Self> {
        let sockets = [client, tcp::connect(origin, None)?];
        for (side, socket) in (0..).zip(&sockets) {
            tcp::set_no_delay(socket)?;
            epoll.add(socket, (token as u64) << 1 | side, Interest::READ_WRITE.edge_triggered())?;
        }
        let directions = [Direction::new(floor)?, Direction::new(floor)?];
        Ok(Self { sockets, directions, connected: false })
    }

    fn progress(&mut self, buffer: &mut [u8]) -> io::Result<Moved> {
        let [client, origin] = &self.sockets;
        let [to_origin, to_client] = &mut self.directions;
        let moved =
            [to_origin.progress(client, origin, buffer)?, to_client.progress(origin, client, buffer)?];
        Ok(if moved.iter().any(|moved| matches!(moved, Moved::More)) { Moved::More } else { Moved::Waiting })
    }
}

impl Direction {
    fn new(floor: Floor) -> io::Result<Self> {
        let held = match floor {
            Floor::Splice => Held::Piped(Pipe::new()?),
            Floor::Copy | Floor::Udp | Floor::QuicIngress | Floor::QuicEgress => Held::Copied(Vec::new()),
        };
        Ok(Self { held, readable: false, hung: false, finished: false })
    }

    fn progress(&mut self, from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> io::Result<Moved> {
        for _ in 0..MOVES_A_TURN {
            if self.finished || !self.flush(to)? || !self.readable {
                return Ok(Moved::Waiting);
            }
            let ended = match &mut self.held {
                Held::Piped(pipe) => match pipe.fill(from, SPLICE)? {
                    Filled::Bytes(_) | Filled::Unclear => false,
                    Filled::SocketEmpty => {
                        self.readable = false;
                        false
                    }
                    Filled::End => true,
                },
                Held::Copied(waiting) => match tcp::recv(from, buffer)? {
                    Received::Bytes(count) => {
                        // An edge comes with the next byte, so a read that did not fill the buffer needs no second one.
                        self.readable = count == buffer.len() || self.hung;
                        let taken = match tcp::send(to, &buffer[..count])? {
                            Sent::Bytes(taken) => taken,
                            Sent::WouldBlock => 0,
                        };
                        waiting.extend_from_slice(&buffer[taken..count]);
                        false
                    }
                    Received::WouldBlock => {
                        self.readable = false;
                        false
                    }
                    Received::End => true,
                },
            };
            if ended {
                self.finished = true;
                tcp::shutdown_write(to)?;
            }
        }
        Ok(Moved::More)
    }

    /// Writes what is held; false when some still waits.
    fn flush(&mut self, to: &OwnedFd) -> io::Result<bool> {
        match &mut self.held {
            Held::Piped(pipe) => {
                while pipe.held() > 0 {
                    if pipe.drain(to)? == Sent::WouldBlock {
                        return Ok(false);
                    }
                }
            }
            Held::Copied(waiting) => {
                while !waiting.is_empty() {
                    let Sent::Bytes(count) = tcp::send(to, waiting)? else { return Ok(false) };
                    waiting.drain(..count);
                }
            }
        }
        Ok(true)
    }
}
