//! Who is let in: listeners of the snapshot in force, bounded accepting, limits.
//!
//! Without descriptors accepting pauses, longer each time it was in vain; who waits then is served later, and nothing spins.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use l4proxy_io::epoll::Interest;
use l4proxy_io::tcp::{self, Accepted};

use super::super::dial::Plan;
use super::super::ending::DialFailure;
use super::ends::End;
use super::flow::Flow;
use super::{Resume, TcpEdge, meta, tos_of};
use crate::admission;
use crate::compile::Listener;
use crate::counters::{AppValue, Dropped, Value};
use crate::identity::greeting::Greeted;
use crate::identity::has_balancers;
use crate::messages::{EventKind, FlowRole};
use crate::snapshot::Protocol;
use crate::sockets::Held;
use crate::tls::Session;
use crate::token::{Slot, Token};
use crate::turn::Turn;

/// Connections taken from one listener before the others get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// How long accepting pauses when there are no descriptors; doubled each time it was in vain.
pub(super) const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// See [`ACCEPT_PAUSE_MIN`].
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connections that a listener takes after it was named last: those that the kernel had made before, which are at most as many as its
/// queue holds (the daemon asks for 4,096), and not a stream of new ones.
const LAST_ACCEPTS: usize = 4_096;

/// What clients come to.
pub(super) struct Listening {
    binding: Arc<Listener>,
    socket: Held,
    /// Somebody may be waiting.
    pub(super) is_ready: bool,
    /// The snapshot in force does not name it: how many of those who wait it may still take before it is closed.
    leaving: Option<usize>,
}

impl TcpEdge {
    /// Put the listeners of a snapshot into force: the same socket goes on, one that is not named is closed when those who wait in it
    /// have been taken. For them the connection stands already; closing would reset it.
    pub(crate) fn apply(&mut self, turn: &mut Turn<'_>) {
        let tables = turn.tables.clone();
        let mut kept = HashMap::new();
        let named = tables.listeners.iter().filter(|listener| listener.protocol == Protocol::Tcp);
        for listener in named {
            kept.insert(listener.sockets[turn.worker].identity(), listener);
        }
        for (_, listening) in &mut self.listeners {
            match kept.remove(&listening.socket.identity()) {
                Some(binding) => {
                    if listening.binding.app.policy.dscp != binding.app.policy.dscp {
                        mark(&listening.socket, binding, turn);
                    }
                    listening.binding = binding.clone();
                    listening.leaving = None;
                }
                None => {
                    listening.leaving.get_or_insert(LAST_ACCEPTS);
                }
            }
        }
        for binding in kept.into_values() {
            self.listen(binding.clone(), turn);
        }
        let leaving = self.listeners.iter().filter(|(_, listening)| listening.leaving.is_some());
        let leaving: Vec<_> = leaving.map(|(number, _)| number as u32).collect();
        for number in leaving {
            self.accept(number, turn);
        }
    }

    /// Let go of a listener.
    fn close_listener(&mut self, number: u32, turn: &mut Turn<'_>) {
        if let Some(listening) = self.listeners.try_remove(number as usize) {
            // The daemon may hold the same socket: closing ours alone would not end the watch.
            drop(turn.epoll.remove(&listening.socket));
        }
    }

    fn listen(&mut self, binding: Arc<Listener>, turn: &mut Turn<'_>) {
        let socket = binding.sockets[turn.worker].clone();
        let number = self.listeners.vacant_key() as u32;
        // Accepted sockets inherit the options, which saves six system calls a flow.
        let watched = tcp::apply_relay_options(&socket).and_then(|()| {
            turn.epoll.add(&socket, Token::TcpListener(number).pack(), Interest::READ.edge_triggered())
        });
        if let Err(error) = watched {
            report_listener_error(turn, &binding, error.to_string());
            return;
        }
        if binding.app.policy.dscp.is_some() {
            mark(&socket, &binding, turn);
        }
        self.listeners.insert(Listening { binding, socket, is_ready: false, leaving: None });
    }

    /// Take connections from a listener, as many as a turn allows.
    pub(super) fn accept(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(listening) = self.listeners.get_mut(number as usize) else { return };
        listening.is_ready = true;
        if self.accept_again.is_some() {
            return;
        }
        let (socket, binding) = (listening.socket.clone(), listening.binding.clone());
        let most = listening.leaving.unwrap_or(ACCEPTS_PER_TURN).min(ACCEPTS_PER_TURN);
        for _ in 0..most {
            match tcp::accept(&socket) {
                Accepted::Connection(fd, client) => {
                    self.accept_pause = ACCEPT_PAUSE_MIN;
                    turn.count(Value::TcpAccepted, 1);
                    if has_balancers(&binding.app) {
                        let greeted = self.greetings.begin(fd, client, &binding, turn);
                        self.welcome(greeted, turn);
                    } else {
                        self.admit(fd, client, &binding, turn);
                    }
                }
                Accepted::WouldBlock => return self.on_nobody_waits(number, turn),
                Accepted::FdLimit => {
                    turn.drop(Dropped::FdLimit);
                    self.accept_again = Some(turn.now + self.accept_pause);
                    self.accept_pause = (self.accept_pause * 2).min(ACCEPT_PAUSE_MAX);
                    return;
                }
                Accepted::Aborted(_) => turn.drop(Dropped::AcceptAborted),
                Accepted::Error(error) => {
                    self.on_nobody_waits(number, turn);
                    report_listener_error(turn, &binding, error.to_string());
                    return;
                }
            }
        }
        let Some(listening) = self.listeners.get_mut(number as usize) else { return };
        if let Some(left) = &mut listening.leaving {
            *left -= most;
            if *left == 0 {
                return self.close_listener(number, turn);
            }
        }
        self.resumes.push_back(Resume::Listener(number));
    }

    fn on_nobody_waits(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(listening) = self.listeners.get_mut(number as usize) else { return };
        listening.is_ready = false;
        if listening.leaving.is_some() {
            self.close_listener(number, turn);
        }
    }

    /// Let a client in that its balancer has announced.
    pub(super) fn welcome(&mut self, greeted: Option<Greeted>, turn: &mut Turn<'_>) {
        if let Some(Greeted { fd, client, binding }) = greeted {
            self.admit(fd, client, &binding, turn);
        }
    }

    /// Let a client in, or refuse it with RST.
    fn admit(&mut self, fd: OwnedFd, client: SocketAddr, binding: &Listener, turn: &mut Turn<'_>) {
        let app = &binding.app;
        let place = if turn.shared.is_reserved(&fd) {
            Err(Dropped::FdLimit)
        } else {
            turn.shared.tcp_place(turn.tables.options.max_tcp_flows).ok_or(Dropped::TcpFlowsFull)
        };
        let admitted = place.and_then(|place| Ok((place, admission::admit(binding, client.ip(), turn)?)));
        let (place, mut permit) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                turn.drop(reason);
                turn.count_app(app, AppValue::Refused, 1);
                drop(tcp::set_reset_on_close(&fd));
                return;
            }
        };
        // Only for wildcard listeners the kernel must be asked; a connection that is gone already has no address.
        let listener = if binding.ip.is_unspecified() {
            match tcp::local_address(&fd) {
                Ok(listener) => listener,
                Err(_) => return turn.drop(Dropped::AcceptAborted),
            }
        } else {
            SocketAddr::new(binding.ip, binding.port)
        };
        let plan = Plan::for_client(turn.now, app, Protocol::Tcp, listener, turn.random.next());
        let meta = meta(turn.random.next(), app.clone(), FlowRole::Local, client, listener, turn.now);
        let generation = self.next_generation();
        let number = self.flows.vacant_key() as u32;
        let slot = Slot { number, generation };
        let speaks_tls = app.policy.tls.as_ref().is_some_and(|tls| tls.is_for_clients());
        // A TLS session writes when it reads, too.
        let interest = if speaks_tls { Interest::READ_WRITE } else { Interest::READ }.edge_triggered();
        if turn.epoll.add(&fd, Token::TcpClient(slot).pack(), interest).is_err() {
            return turn.drop(Dropped::FdLimit);
        }
        permit.on_opened(turn.worker, Protocol::Tcp);
        let client = if speaks_tls { End::Tls(Box::new(Session::with_client(fd))) } else { End::Socket(fd) };
        self.flows.insert(Flow::new(turn.now, generation, client, plan, meta, permit, place));
        if speaks_tls {
            self.begin_greeting(number, turn);
        } else {
            self.dial(number, DialFailure::NoRoute, turn);
        }
    }
}

/// Mark what a listener's connections send with the app's DSCP: they inherit it, and so the answer to the first packet has it already.
fn mark(socket: &Held, binding: &Listener, turn: &mut Turn<'_>) {
    let tos = tos_of(binding.app.policy.dscp.unwrap_or(0));
    if let Err(error) = tcp::set_tos(socket, binding.ip.is_ipv6(), tos) {
        report_listener_error(turn, binding, error.to_string());
    }
}

fn report_listener_error(turn: &mut Turn<'_>, binding: &Listener, reason: String) {
    let (protocol, address, port) = (binding.protocol, binding.address.clone(), binding.port);
    let worker = turn.worker;
    turn.event(EventKind::ListenerError { protocol, address, port, worker, reason });
}
