//! Connections: echo, sink or source, by the header they begin with. Nothing is read while an answer waits to be written.

use super::ReflectReport;
use crate::error::BenchError;
use crate::mode::{LENGTH, Mode, Parsed, Tail};
use crate::pace::Pace;
use l4proxy_io::epoll::Interest;
use l4proxy_io::tcp::{recv, send, shutdown_write};
use l4proxy_io::{Received, Sent};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections open at once at most.
const MAX_STREAMS: usize = 50_000;
/// One read or write moves at most this much.
const CHUNK: usize = 128 * 1024;
/// Reads and writes of one connection before the others have their turn.
const CHUNKS_A_TURN: usize = 16;

pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

struct Stream {
    fd: OwnedFd,
    role: Role,
    /// What the kernel did not take yet; nothing is read meanwhile.
    waiting: Vec<u8>,
    /// Nothing more will come.
    ended: bool,
    /// Whether the socket is watched for room to write, rather than for bytes to read.
    writing: bool,
}

enum Role {
    /// The first bytes, which do not tell yet.
    Unknown(Vec<u8>),
    Echo,
    Sink(Tail),
    Source(u64),
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), buffer: vec![0x5a; CHUNK] }
    }

    /// Takes a connection in; `None` closes it, because the table is full.
    pub(super) fn insert(&mut self, fd: OwnedFd) -> Option<(usize, BorrowedFd<'_>)> {
        let token = match self.free.pop() {
            Some(token) => token,
            None if self.slots.len() < MAX_STREAMS => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => return None,
        };
        let role = Role::Unknown(Vec::new());
        let stream =
            self.slots[token].insert(Stream { fd, role, waiting: Vec::new(), ended: false, writing: false });
        Some((token, stream.fd.as_fd()))
    }

    /// Does what a connection's readiness allows.
    pub(super) fn progress(
        &mut self,
        token: usize,
        pace: &Pace,
        report: &mut ReflectReport,
    ) -> Result<(), BenchError> {
        let Some(stream) = self.slots.get_mut(token).and_then(Option::as_mut) else { return Ok(()) };
        match stream.turn(&mut self.buffer, report) {
            Ok(true) => {
                let writing = stream.wants_to_write();
                if writing != stream.writing {
                    stream.writing = writing;
                    let interest = if writing { Interest::WRITE } else { Interest::READ };
                    pace.modify(&stream.fd, token + super::FIRST_STREAM, interest)?;
                }
            }
            // Done, or broken by the other end: both are the end of it.
            Ok(false) | Err(_) => {
                self.slots[token] = None;
                self.free.push(token);
            }
        }
        Ok(())
    }
}

impl Stream {
    fn wants_to_write(&self) -> bool {
        !self.waiting.is_empty() || matches!(self.role, Role::Source(_))
    }

    /// Reads and writes for a while; false when the connection is done.
    fn turn(&mut self, buffer: &mut [u8], report: &mut ReflectReport) -> io::Result<bool> {
        for _ in 0..CHUNKS_A_TURN {
            if !self.flush(report)? {
                return Ok(true);
            }
            if self.ended {
                shutdown_write(&self.fd)?;
                return Ok(false);
            }
            if let Role::Source(left) = &mut self.role {
                if *left == 0 {
                    self.ended = true;
                    continue;
                }
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let Sent::Bytes(count) = send(&self.fd, &buffer[..length])? else { return Ok(true) };
                *left -= count as u64;
                report.bytes_out += count as u64;
                continue;
            }
            match recv(&self.fd, buffer)? {
                Received::WouldBlock => return Ok(true),
                Received::End => self.end(),
                Received::Bytes(count) => {
                    report.bytes_in += count as u64;
                    self.take(&buffer[..count], report)?;
                }
            }
        }
        Ok(true)
    }

    /// Writes what is waiting; false when some still waits.
    fn flush(&mut self, report: &mut ReflectReport) -> io::Result<bool> {
        while !self.waiting.is_empty() {
            let Sent::Bytes(count) = send(&self.fd, &self.waiting)? else { return Ok(false) };
            report.bytes_out += count as u64;
            self.waiting.drain(..count);
        }
        Ok(true)
    }

    fn take(&mut self, bytes: &[u8], report: &mut ReflectReport) -> io::Result<()> {
        match &mut self.role {
            Role::Sink(tail) => {
                tail.push(bytes);
                if tail.total().1 {
                    self.end();
                }
            }
            Role::Echo => {
                let Sent::Bytes(count) = send(&self.fd, bytes)? else {
                    self.waiting.extend_from_slice(bytes);
                    return Ok(());
                };
                report.bytes_out += count as u64;
                self.waiting.extend_from_slice(&bytes[count..]);
            }
            Role::Source(_) => {}
            Role::Unknown(first) => {
                first.extend_from_slice(bytes);
                let first = std::mem::take(first);
                match Mode::parse(&first) {
                    Parsed::Incomplete => self.role = Role::Unknown(first),
                    Parsed::Plain | Parsed::Header(Mode::Echo) => {
                        self.role = Role::Echo;
                        self.take(&first, report)?;
                    }
                    Parsed::Header(Mode::Sink) => {
                        self.role = Role::Sink(Tail::default());
                        self.take(&first[LENGTH..], report)?;
                    }
                    Parsed::Header(Mode::Source(count)) => self.role = Role::Source(count),
                }
            }
        }
        Ok(())
    }

    /// The other end has finished: whatever is owed to it is made ready.
    fn end(&mut self) {
        self.ended = true;
        match &mut self.role {
            Role::Unknown(first) => self.waiting = std::mem::take(first),
            Role::Sink(tail) => self.waiting = tail.total().0.to_be_bytes().to_vec(),
            Role::Echo | Role::Source(_) => {}
        }
    }
}
