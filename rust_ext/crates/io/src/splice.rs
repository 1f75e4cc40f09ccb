//! Moving bytes from socket to socket through a kernel pipe, without a copy. It pools nothing and never asks for `SPLICE_F_MORE`,
//! which has delayed the last bytes of a burst by up to a second in other proxies.

use crate::{Sent, retry};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A pipe and how many bytes it holds. The kernel's default of 64 kB is kept: bigger pipes are slower (they leave the cache).
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// What filling a pipe gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// This many bytes (at least one) moved into the pipe.
    Bytes(usize),
    /// The socket has nothing and the pipe is empty.
    SocketEmpty,
    /// The socket is empty or the pipe has no free slot; the kernel does not say which. Each segment takes a slot, so a pipe can be
    /// "full" with a third of its bytes. Drain it and fill again; until then the socket must be taken for readable.
    Unclear,
    /// The other end has closed its direction. Bytes may still be in the pipe.
    End,
}

impl Pipe {
    /// A new, empty pipe.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write, held: 0 })
    }

    /// Bytes that stand in the pipe. Only an empty pipe may serve another flow.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// The pipe's size in bytes. An unprivileged user who holds very many pipes gets 8 kB ones.
    pub fn capacity(&self) -> io::Result<usize> {
        Ok(fcntl_getpipe_size(&self.write)?)
    }

    /// Moves up to `limit` bytes from the socket into the pipe.
    pub fn fill(&mut self, socket: impl AsFd, limit: usize) -> io::Result<Filled> {
        match retry(|| splice(socket.as_fd(), None, &self.write, None, limit, Self::FLAGS)) {
            Ok(0) => Ok(Filled::End),
            Ok(count) => {
                self.held += count;
                Ok(Filled::Bytes(count))
            }
            Err(Errno::AGAIN) if self.held == 0 => Ok(Filled::SocketEmpty),
            Err(Errno::AGAIN) => Ok(Filled::Unclear),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Moves what the pipe holds into the socket, as much as fits. An empty pipe moves nothing and says so.
    pub fn drain(&mut self, socket: impl AsFd) -> io::Result<Sent> {
        if self.held == 0 {
            return Ok(Sent::Bytes(0));
        }
        let result = retry(|| splice(&self.read, None, socket.as_fd(), None, self.held, Self::FLAGS));
        match crate::unless_blocked(result)? {
            Some(count) => {
                self.held = self.held.saturating_sub(count);
                Ok(Sent::Bytes(count))
            }
            None => Ok(Sent::WouldBlock),
        }
    }

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
}
