//! Sockets and nothing else: the only crate with `unsafe`. It decides nothing; every call is one kernel facility with a safe face.
//!
//! Rules of the house: every descriptor made here is non-blocking and close-on-exec, "nothing there yet" is a value and never an
//! error, an interrupted call is repeated here and never seen outside, and lengths and addresses from the kernel are checked before
//! they are believed. What to do about any of it is the caller's business.

pub mod allocations;
pub mod control;
pub mod epoll;
pub mod limits;
pub mod netns;
pub mod packet;
pub mod source;
pub mod splice;
pub mod steer;
pub mod tcp;
pub mod threads;
pub mod tun;
pub mod udp;

mod sockaddr;

use rustix::io::Errno;

/// What reading from a stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// This many bytes (at least one) stand in the buffer.
    Bytes(usize),
    /// The other end has closed its direction; nothing will follow.
    End,
    /// Nothing there yet.
    WouldBlock,
}

/// What writing to a stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// This many bytes were taken, maybe fewer than offered.
    Bytes(usize),
    /// The socket's buffer is full.
    WouldBlock,
}

/// Repeats a call for as long as a signal interrupts it.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Turns "would block" into a value.
fn unless_blocked<T>(result: Result<T, Errno>) -> std::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Says why a test proves nothing here.
#[cfg(test)]
#[allow(clippy::print_stderr, reason = "the only way to tell who runs the tests")]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}
