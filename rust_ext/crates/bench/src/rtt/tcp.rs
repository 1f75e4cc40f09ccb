//! Round trips in streams: one connection a flow. Messages that the connection cannot take wait; the clock does not wait with them.

use super::{RttOptions, Run, Transport};
use crate::Stop;
use crate::connect::establish;
use crate::error::BenchError;
use crate::pace::Pace;
use l4proxy_io::epoll::Interest;
use l4proxy_io::tcp::{recv, send};
use l4proxy_io::{Received, Sent};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// One read takes at most this many bytes.
const READ: usize = 256 * 1024;

pub(super) struct Streams {
    target: SocketAddr,
    streams: Vec<Stream>,
    size: usize,
    incoming: Vec<u8>,
}

struct Stream {
    fd: OwnedFd,
    /// Messages that are due and have not left whole: the next one's place in the schedule, and how many.
    next: u32,
    waiting: u32,
    /// The message that is leaving, and how much of it has left. Its header is written when its first byte leaves.
    message: Vec<u8>,
    written: usize,
    /// The beginning of a message whose end has not come.
    partial: Vec<u8>,
}

impl Streams {
    pub(super) fn open(options: &RttOptions, pace: &mut Pace, stop: &Stop) -> Result<Self, BenchError> {
        let sockets = establish(options.target, options.flows, pace, stop)?;
        let mut streams = Vec::with_capacity(options.flows);
        for (next, fd) in (0..).zip(sockets) {
            // Edges only: a socket is nearly always writable and that is no news.
            pace.modify(&fd, next as usize, Interest::READ_WRITE.edge_triggered())?;
            let message = vec![0x5a; options.size];
            streams.push(Stream {
                fd,
                next,
                waiting: 0,
                message,
                written: 0,
                partial: Vec::with_capacity(options.size),
            });
        }
        Ok(Self { target: options.target, streams, size: options.size, incoming: vec![0; READ] })
    }
}

impl Stream {
    fn write(&mut self, run: &mut Run) -> std::io::Result<()> {
        while self.waiting > 0 {
            if self.written == 0 {
                let now = run.clock.now_ns();
                run.id.write(&mut self.message, self.next, now);
            }
            match send(&self.fd, &self.message[self.written..])? {
                Sent::WouldBlock => return Ok(()),
                Sent::Bytes(count) => self.written += count,
            }
            if self.written == self.message.len() {
                run.note_sent(self.next, run.clock.now_ns());
                self.next += run.flows;
                self.waiting -= 1;
                self.written = 0;
            }
        }
        Ok(())
    }

    /// Cuts what has come into messages.
    fn take(&mut self, flow: usize, mut bytes: &[u8], size: usize, run: &mut Run) {
        let now = run.clock.now_ns();
        if !self.partial.is_empty() {
            let missing = (size - self.partial.len()).min(bytes.len());
            self.partial.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.partial.len() < size {
                return;
            }
            run.note_received(flow, &self.partial, now);
            self.partial.clear();
        }
        let mut messages = bytes.chunks_exact(size);
        for message in &mut messages {
            run.note_received(flow, message, now);
        }
        self.partial.extend_from_slice(messages.remainder());
    }
}

impl Transport for Streams {
    fn send(&mut self, index: u32, run: &mut Run) -> Result<(), BenchError> {
        let target = self.target;
        let stream = &mut self.streams[run.flow_of(index)];
        stream.waiting += 1;
        stream.write(run).map_err(|source| BenchError::Connect { target, source })
    }

    fn progress(
        &mut self,
        flow: usize,
        readable: bool,
        writable: bool,
        run: &mut Run,
    ) -> Result<(), BenchError> {
        let target = self.target;
        let broken = |source| BenchError::Connect { target, source };
        let stream = &mut self.streams[flow];
        if writable {
            stream.write(run).map_err(broken)?;
        }
        if !readable {
            return Ok(());
        }
        loop {
            match recv(&stream.fd, &mut self.incoming).map_err(broken)? {
                Received::Bytes(count) => stream.take(flow, &self.incoming[..count], self.size, run),
                Received::WouldBlock => return Ok(()),
                Received::End => {
                    return Err(BenchError::Closed { target, when: "while messages were exchanged" });
                }
            }
        }
    }
}
