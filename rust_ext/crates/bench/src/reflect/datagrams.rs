//! Echo of datagrams, from the address that was asked.

use super::ReflectReport;
use l4proxy_io::udp::{Outgoing, RecvBatch, SendBatch, Stop, UdpOptions, UdpSocket};
use std::io;
use std::net::SocketAddr;

/// Datagrams of one system call.
const BATCH: usize = 64;
/// The largest datagram there is.
const LARGEST: usize = 65_536;
/// Batches before the connections have their turn.
const BATCHES_A_TURN: usize = 8;
/// The kernel's default of 208 kB holds few hundred datagrams.
const BUFFER: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    incoming: RecvBatch,
    outgoing: SendBatch,
}

impl Datagrams {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address, false)?;
        let wish = UdpOptions {
            packet_info: true,
            recv_buffer: Some(BUFFER),
            send_buffer: Some(BUFFER),
            ..UdpOptions::default()
        };
        socket.apply(&wish)?;
        Ok(Self { socket, incoming: RecvBatch::new(BATCH, LARGEST), outgoing: SendBatch::new(BATCH) })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_address()
    }

    /// Sends back what has come.
    pub(super) fn echo(&mut self, report: &mut ReflectReport) {
        for _ in 0..BATCHES_A_TURN {
            // An error here is an ICMP message about an earlier answer.
            let count = self.incoming.recv(&self.socket, BATCH).unwrap_or(0);
            if count == 0 {
                return;
            }
            let answers: Vec<Outgoing<'_>> = self
                .incoming
                .iter()
                .map(|(bytes, meta)| Outgoing {
                    // The interface stays open: replies go by the routing table, as those of any server do.
                    source: meta.local.map(|(ip, _)| (ip, 0)),
                    ..Outgoing::new(bytes, Some(meta.source))
                })
                .collect();
            let mut rest = answers.as_slice();
            while !rest.is_empty() {
                let sent = self.outgoing.send(&self.socket, rest);
                report.datagrams += sent.sent as u64;
                report.datagram_bytes +=
                    rest[..sent.sent].iter().map(|answer| answer.bytes.len() as u64).sum::<u64>();
                rest = &rest[sent.sent..];
                match sent.stop {
                    None => {}
                    Some(Stop::WouldBlock) => {
                        report.datagrams_dropped += rest.len() as u64;
                        break;
                    }
                    Some(Stop::Failed(_) | Stop::SegmentationRefused(_)) => {
                        report.datagrams_dropped += 1;
                        rest = &rest[1..];
                    }
                }
            }
            if count < BATCH {
                return;
            }
        }
    }
}
