//! Round trips in datagrams: one connected socket a flow.

use super::{RttOptions, Run, Transport};
use crate::error::BenchError;
use crate::pace::Pace;
use l4proxy_io::epoll::Interest;
use l4proxy_io::udp::{UdpOptions, UdpSocket};
use l4proxy_io::{Received, Sent};

/// The kernel's default of 208 kB overflows in 20 ms at 10,000 datagrams a second.
const RECV_BUFFER: usize = 4 << 20;
/// Datagrams read from one flow before the others have their turn.
const READS_A_TURN: usize = 32;

pub(super) struct Datagrams {
    pub(super) sockets: Vec<UdpSocket>,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Datagrams {
    pub(super) fn open(options: &RttOptions) -> Result<Self, BenchError> {
        let mut sockets = Vec::with_capacity(options.flows);
        for _ in 0..options.flows {
            let socket = UdpSocket::connect(options.target, None)
                .map_err(|source| BenchError::Connect { target: options.target, source })?;
            let wish = UdpOptions { recv_buffer: Some(RECV_BUFFER), ..UdpOptions::default() };
            socket.apply(&wish).map_err(BenchError::system("receive buffer"))?;
            sockets.push(socket);
        }
        // One byte more than a message, so that a longer datagram is not taken for ours.
        Ok(Self { sockets, outgoing: vec![0x5a; options.size], incoming: vec![0; options.size + 1] })
    }

    /// Has the flows waited for: a flow's number is its token.
    pub(super) fn watch(&self, pace: &Pace) -> Result<(), BenchError> {
        self.sockets.iter().enumerate().try_for_each(|(flow, socket)| pace.add(socket, flow, Interest::READ))
    }
}

impl Transport for Datagrams {
    fn send(&mut self, index: u32, run: &mut Run) -> Result<(), BenchError> {
        let socket = &self.sockets[run.flow_of(index)];
        let now = run.clock.now_ns();
        run.id.write(&mut self.outgoing, index, now);
        match socket.send(&self.outgoing) {
            Ok(Sent::Bytes(_)) => run.note_sent(index, now),
            // The kernel tells here what became of an earlier datagram (ICMP), or that its buffer is full: open loop, so no second try.
            Ok(Sent::WouldBlock) | Err(_) => run.errors += 1,
        }
        Ok(())
    }

    fn progress(
        &mut self,
        flow: usize,
        readable: bool,
        _writable: bool,
        run: &mut Run,
    ) -> Result<(), BenchError> {
        if !readable {
            return Ok(());
        }
        for _ in 0..READS_A_TURN {
            match self.sockets[flow].recv(&mut self.incoming) {
                Ok(Received::Bytes(length)) => {
                    let now = run.clock.now_ns();
                    if length == self.outgoing.len() {
                        run.note_received(flow, &self.incoming[..length], now);
                    } else {
                        run.foreign += 1;
                    }
                }
                Ok(Received::End | Received::WouldBlock) => break,
                Err(_) => run.errors += 1,
            }
        }
        Ok(())
    }
}
