//! TCP connections of balancers: nothing is done for one before its header has come whole.
//!
//! The header is looked at while it is still in the socket and taken out to its last byte, so that whatever follows it, in the same
//! segment or later, is read by the relay as if there had been none. Strangers are refused before anything is read.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use l4proxy_io::epoll::{Event, Interest};
use l4proxy_io::{Received, tcp};
use l4proxy_proto::timers::Deadlines;
use l4proxy_wire::proxy::{self, MAX_HEADER_LENGTH, Progress, Transport};
use slab::Slab;

use super::{dropped_by, is_trusted};
use crate::compile::Listener;
use crate::counters::{AppValue, Dropped};
use crate::shared::TcpPlace;
use crate::token::{Slot, Token};
use crate::turn::Turn;

/// How long a header may take. The specification wants 3 s at least, which is a lost SYN and a lost segment; balancers send the
/// header at once.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of one worker that are waited for. Each is a descriptor and no memory of ours; behind trusted balancers hardly any
/// waits, so more of them are an accident that must not take the descriptors of flows.
const MAX_WAITING: usize = 1024;

/// Connections whose time is up in one turn.
const EXPIRIES_PER_TURN: usize = 256;

/// A connection whose header has not come whole.
struct Waiting {
    fd: OwnedFd,
    generation: u32,
    balancer: SocketAddr,
    binding: Arc<Listener>,
    until: Instant,
    /// It counts as a flow: the descriptors of the engine are one budget.
    _place: TcpPlace,
}

/// A connection that may be let in, by the client's word or the balancer's.
pub(crate) struct Greeted {
    pub(crate) fd: OwnedFd,
    pub(crate) client: SocketAddr,
    pub(crate) binding: Arc<Listener>,
}

/// What a connection has said so far.
enum Heard {
    /// Too little.
    Nothing,
    /// A header; who the client is.
    Client(SocketAddr),
    /// Something else.
    Refused(Dropped),
}

/// Connections of one worker that wait for their headers.
pub(crate) struct Greetings {
    waiting: Slab<Waiting>,
    deadlines: Deadlines,
    next_generation: u32,
    buffer: Box<[u8]>,
}

impl Greetings {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Slab::new(),
            deadlines: Deadlines::new(),
            next_generation: 0,
            buffer: vec![0; MAX_HEADER_LENGTH].into_boxed_slice(),
        }
    }

    /// A connection was accepted for an app that has balancers. None: it waits, or was refused.
    pub(crate) fn begin(
        &mut self,
        fd: OwnedFd,
        balancer: SocketAddr,
        binding: &Arc<Listener>,
        turn: &mut Turn<'_>,
    ) -> Option<Greeted> {
        if !is_trusted(&binding.app, balancer.ip()) {
            refuse(&fd, binding, Dropped::BadProxyUntrusted, turn);
            return None;
        }
        // Balancers send the header with their first segment, so it is mostly here already.
        match hear(&mut self.buffer, &fd, balancer) {
            Heard::Client(client) => Some(Greeted { fd, client, binding: binding.clone() }),
            Heard::Refused(reason) => {
                refuse(&fd, binding, reason, turn);
                None
            }
            Heard::Nothing => {
                if let Err((fd, reason)) = self.wait(fd, balancer, binding, turn) {
                    refuse(&fd, binding, reason, turn);
                }
                None
            }
        }
    }

    fn wait(
        &mut self,
        fd: OwnedFd,
        balancer: SocketAddr,
        binding: &Arc<Listener>,
        turn: &Turn<'_>,
    ) -> Result<(), (OwnedFd, Dropped)> {
        if self.waiting.len() >= MAX_WAITING {
            return Err((fd, Dropped::ProxyHeadersFull));
        }
        if turn.shared.is_reserved(&fd) {
            return Err((fd, Dropped::FdLimit));
        }
        let Some(place) = turn.shared.tcp_place(turn.tables.options.max_tcp_flows) else {
            return Err((fd, Dropped::TcpFlowsFull));
        };
        self.next_generation = self.next_generation.wrapping_add(1);
        let (number, generation) = (self.waiting.vacant_key() as u32, self.next_generation);
        let token = Token::TcpGreeting(Slot { number, generation }).pack();
        if turn.epoll.add(&fd, token, Interest::READ.edge_triggered()).is_err() {
            return Err((fd, Dropped::FdLimit));
        }
        let until = turn.now + TIMEOUT;
        self.deadlines.set(number, until);
        let binding = binding.clone();
        self.waiting.insert(Waiting { fd, generation, balancer, binding, until, _place: place });
        Ok(())
    }

    /// More has come of a connection that waits.
    pub(crate) fn handle_ready(&mut self, slot: Slot, event: Event, turn: &mut Turn<'_>) -> Option<Greeted> {
        let number = slot.number as usize;
        let waiting = self.waiting.get(number).filter(|waiting| slot.is_of(waiting.generation))?;
        let mut heard = hear(&mut self.buffer, &waiting.fd, waiting.balancer);
        if matches!(heard, Heard::Nothing) {
            if !(event.read_hang_up() || event.hang_up() || event.error()) {
                return None;
            }
            heard = Heard::Refused(Dropped::BadProxyIncomplete);
        }
        let waiting = self.waiting.remove(number);
        self.deadlines.remove(slot.number);
        match heard {
            Heard::Client(_) if turn.is_draining => {
                refuse(&waiting.fd, &waiting.binding, Dropped::Draining, turn);
                None
            }
            Heard::Client(client) => {
                // The flow that begins now is watched under a token of its own.
                if turn.epoll.remove(&waiting.fd).is_err() {
                    refuse(&waiting.fd, &waiting.binding, Dropped::AcceptAborted, turn);
                    return None;
                }
                Some(Greeted { fd: waiting.fd, client, binding: waiting.binding })
            }
            Heard::Refused(reason) => {
                refuse(&waiting.fd, &waiting.binding, reason, turn);
                None
            }
            Heard::Nothing => None,
        }
    }

    /// When [`Greetings::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Refuse those whose time is up.
    pub(crate) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..EXPIRIES_PER_TURN {
            let Some(number) = self.deadlines.pop_due(turn.now) else { return };
            let Some(waiting) = self.waiting.get(number as usize) else { continue };
            if waiting.until > turn.now {
                self.deadlines.set(number, waiting.until);
                continue;
            }
            let waiting = self.waiting.remove(number as usize);
            refuse(&waiting.fd, &waiting.binding, Dropped::BadProxyTimeout, turn);
        }
    }
}

/// Look at what has come, and take the header out if it is whole.
fn hear(buffer: &mut [u8], fd: &OwnedFd, balancer: SocketAddr) -> Heard {
    let count = match tcp::peek(fd, buffer) {
        Ok(Received::Bytes(count)) => count,
        Ok(Received::WouldBlock) => return Heard::Nothing,
        Ok(Received::End) | Err(_) => return Heard::Refused(Dropped::BadProxyIncomplete),
    };
    let (client, length) = match proxy::decode(&buffer[..count]) {
        Ok(Progress::Incomplete { .. }) => return Heard::Nothing,
        Ok(Progress::Done { header, length }) => {
            (header.client(Transport::Stream).unwrap_or(balancer), length)
        }
        Err(reason) => return Heard::Refused(dropped_by(reason)),
    };
    match tcp::recv(fd, &mut buffer[..length]) {
        Ok(Received::Bytes(taken)) if taken == length => Heard::Client(client),
        // It was there a moment ago, so the connection has broken meanwhile.
        Ok(Received::Bytes(_) | Received::WouldBlock | Received::End) | Err(_) => {
            Heard::Refused(Dropped::BadProxyIncomplete)
        }
    }
}

/// Refuse a connection with RST.
fn refuse(fd: &OwnedFd, binding: &Listener, reason: Dropped, turn: &Turn<'_>) {
    turn.drop(reason);
    turn.count_app(&binding.app, AppValue::Refused, 1);
    // On a connection that is broken already there is nothing to be told.
    drop(tcp::set_reset_on_close(fd));
}
