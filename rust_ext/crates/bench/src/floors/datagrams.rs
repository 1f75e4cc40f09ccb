//! The loop for UDP: a batch from the clients, each datagram out by the socket of its client; answers back in batches.

use super::{FloorOptions, FloorReport, Loop, MAX_FLOWS};
use crate::error::BenchError;
use l4proxy_io::epoll::{Epoll, Event, Interest};
use l4proxy_io::udp::{Outgoing, RecvBatch, SendBatch, UdpOptions, UdpSocket};
use std::collections::HashMap;
use std::net::SocketAddr;

const LISTENER: u64 = u64::MAX;
/// Datagrams of one system call.
const BATCH: usize = 64;
/// The largest datagram that the measurements send, and some room.
const LARGEST: usize = 2048;
/// The kernel's default of 208 kB holds few hundred datagrams.
const BUFFER: usize = 4 << 20;

pub(super) struct Datagrams {
    listener: UdpSocket,
    origin: SocketAddr,
    sessions: Vec<Session>,
    by_client: HashMap<SocketAddr, usize>,
    incoming: RecvBatch,
    outgoing: SendBatch,
    report: FloorReport,
}

struct Session {
    client: SocketAddr,
    socket: UdpSocket,
}

impl Datagrams {
    pub(super) fn bind(options: &FloorOptions, epoll: &Epoll) -> Result<(Self, SocketAddr), BenchError> {
        let socket = BenchError::system("UDP socket");
        let listener = UdpSocket::bind(options.listen, false).map_err(socket)?;
        let wish = UdpOptions { recv_buffer: Some(BUFFER), ..UdpOptions::default() };
        listener.apply(&wish).map_err(BenchError::system("receive buffer"))?;
        let address = listener.local_address().map_err(BenchError::system("UDP socket"))?;
        epoll.add(&listener, LISTENER, Interest::READ).map_err(BenchError::system("epoll"))?;
        let datagrams = Self {
            listener,
            origin: options.origin,
            sessions: Vec::new(),
            by_client: HashMap::new(),
            incoming: RecvBatch::new(BATCH, LARGEST),
            outgoing: SendBatch::new(BATCH),
            report: FloorReport::default(),
        };
        Ok((datagrams, address))
    }

    fn pass_to_origin(&mut self, epoll: &Epoll) {
        let Self { listener, origin, sessions, by_client, incoming, report, .. } = self;
        // An error here is an ICMP message about an earlier datagram.
        if incoming.recv(listener, BATCH).unwrap_or(0) == 0 {
            return;
        }
        for (bytes, meta) in incoming.iter() {
            let found = by_client.get(&meta.source).copied();
            let Some(index) = found.or_else(|| open(sessions, meta.source, *origin, epoll)) else {
                report.refused += 1;
                continue;
            };
            if found.is_none() {
                by_client.insert(meta.source, index);
                report.flows += 1;
            }
            // What the kernel does not take is lost, as datagrams are.
            let _ = sessions[index].socket.send(bytes);
        }
    }

    fn pass_to_client(&mut self, index: usize) {
        let Self { listener, sessions, incoming, outgoing, .. } = self;
        let Some(Session { client, socket }) = sessions.get(index) else { return };
        if incoming.recv(socket, BATCH).unwrap_or(0) == 0 {
            return;
        }
        let mut answers = [Outgoing::new(&[], None); BATCH];
        let mut count = 0;
        for (slot, (bytes, _)) in answers.iter_mut().zip(incoming.iter()) {
            *slot = Outgoing::new(bytes, Some(*client));
            count += 1;
        }
        let _ = outgoing.send(listener, &answers[..count]);
    }
}

fn open(sessions: &mut Vec<Session>, client: SocketAddr, origin: SocketAddr, epoll: &Epoll) -> Option<usize> {
    if sessions.len() >= MAX_FLOWS {
        return None;
    }
    let socket = UdpSocket::connect(origin, None).ok()?;
    epoll.add(&socket, sessions.len() as u64, Interest::READ).ok()?;
    sessions.push(Session { client, socket });
    Some(sessions.len() - 1)
}

impl Loop for Datagrams {
    fn handle(&mut self, event: Event, epoll: &Epoll) -> Result<(), BenchError> {
        if event.token == LISTENER {
            self.pass_to_origin(epoll);
        } else {
            self.pass_to_client(usize::try_from(event.token).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    fn end_turn(&mut self, _epoll: &Epoll) -> Result<bool, BenchError> {
        Ok(false)
    }

    fn report(&self) -> FloorReport {
        self.report
    }
}
