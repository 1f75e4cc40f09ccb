//! Moving bytes from socket to socket through a kernel pipe, without a copy. It pools nothing and never asks for `SPLICE_F_MORE`,
//! which has delayed the last bytes of a burst by up to a second in other proxies.

use crate::{Sent, retry};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A pipe and how many bytes it holds.
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
    /// A new, empty pipe of the kernel's default size, 64 kB.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write, held: 0 })
    }

    /// Bytes that stand in the pipe. Only an empty pipe may serve another flow.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// The pipe's size, as the kernel counts: 4 kB a slot. A slot takes one fragment, so a pipe is full with less than this (small
    /// segments) or holds more (large ones). An unprivileged user who has very many pipes gets some of 8 kB.
    pub fn capacity(&self) -> io::Result<usize> {
        Ok(fcntl_getpipe_size(&self.write)?)
    }

    /// Makes the pipe hold at least so many bytes.
    ///
    /// # Errors
    /// An unprivileged user has too many large pipes already (`/proc/sys/fs/pipe-user-pages-soft`); the pipe stays as it is.
    pub fn grow(&self, capacity: usize) -> io::Result<()> {
        fcntl_setpipe_size(&self.write, capacity)?;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
        }
        (client, server)
    }

    #[test]
    fn the_kernel_is_never_told_to_wait_for_more() {
        assert!(!Pipe::FLAGS.contains(SpliceFlags::MORE));
    }

    #[test]
    fn a_stream_passes_whole_through_the_pipe_and_ends_after_its_last_byte() {
        let (mut client, inward) = pair();
        let (outward, mut origin) = pair();
        for socket in [&inward, &outward] {
            socket.set_nonblocking(true).unwrap();
        }
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        let mut pipe = Pipe::new().unwrap();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.write_all(&sent).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
            });
            scope.spawn(|| origin.read_to_end(&mut received).unwrap());
            let mut ended = false;
            while !(ended && pipe.held() == 0) {
                match pipe.fill(&inward, 1 << 20).unwrap() {
                    Filled::Bytes(_) | Filled::Unclear => {}
                    Filled::SocketEmpty => std::thread::yield_now(),
                    Filled::End => ended = true,
                }
                let _ = pipe.drain(&outward).unwrap();
            }
            outward.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(received == sent);
    }

    #[test]
    fn a_full_pipe_is_not_taken_for_an_empty_socket() {
        let (mut client, inward) = pair();
        inward.set_nonblocking(true).unwrap();
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(&inward, 65536).unwrap(), Filled::SocketEmpty);
        client.set_nonblocking(true).unwrap();
        while client.write(&[7; 65536]).is_ok() {}
        while let Filled::Bytes(_) = pipe.fill(&inward, 1 << 20).unwrap() {}
        assert_eq!(pipe.fill(&inward, 1 << 20).unwrap(), Filled::Unclear);
        assert!(pipe.held() > 0);
        // After draining, the rest is still there: nothing told us so but trying again.
        let (outward, _origin) = pair();
        while pipe.held() > 0 {
            assert_ne!(pipe.drain(&outward).unwrap(), Sent::WouldBlock);
        }
        assert!(matches!(pipe.fill(&inward, 1 << 20).unwrap(), Filled::Bytes(_)));
    }

    #[test]
    fn the_end_is_told_while_bytes_still_stand_in_the_pipe() {
        let (mut client, inward) = pair();
        let mut pipe = Pipe::new().unwrap();
        client.write_all(b"last words").unwrap();
        drop(client);
        assert_eq!(pipe.fill(&inward, 65536).unwrap(), Filled::Bytes(10));
        assert_eq!(pipe.fill(&inward, 65536).unwrap(), Filled::End);
        assert_eq!(pipe.held(), 10);
        let (outward, mut origin) = pair();
        assert_eq!(pipe.drain(&outward).unwrap(), Sent::Bytes(10));
        assert_eq!(pipe.drain(&outward).unwrap(), Sent::Bytes(0));
        drop(outward);
        let mut words = String::new();
        origin.read_to_string(&mut words).unwrap();
        assert_eq!(words, "last words");
    }

    #[test]
    fn a_broken_receiver_is_an_error_and_keeps_the_bytes_counted() {
        let (mut client, inward) = pair();
        let (outward, origin) = pair();
        client.write_all(b"x").unwrap();
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(&inward, 1).unwrap(), Filled::Bytes(1));
        outward.shutdown(std::net::Shutdown::Write).unwrap();
        drop(origin);
        // The shell must have SIGPIPE ignored, as Rust programs (and Python) have.
        assert_eq!(pipe.drain(&outward).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(pipe.held(), 1);
    }
}
