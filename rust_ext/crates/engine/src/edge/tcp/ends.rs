//! An end of a flow: a socket of ours, plain or with a TLS session over it, or a stream of the overlay to the PoP that has the socket.
//! The relay does not care which.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use l4proxy_io::{Received, Sent, tcp};
use l4proxy_proto::relay::COPY_BUFFER;

use super::super::ending::{Ending, Side};
use super::pipes::Pipes;
use crate::overlay::{StreamKey, StreamRead, StreamWrite};
use crate::tls::{self, Plain, Session};
use crate::turn::Turn;

/// What the flows of one worker share.
pub(crate) struct Scratch {
    pub(super) buffer: Box<[u8]>,
    /// For what TLS has not decrypted yet; nothing before the first TLS flow.
    pub(super) sealed: Box<[u8]>,
    pub(super) pipes: Pipes,
    /// Bytes that flows hold in memory of their own.
    pub(super) held: usize,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; COPY_BUFFER].into_boxed_slice();
        Self { buffer, sealed: Box::default(), pipes: Pipes::default(), held: 0 }
    }

    /// The worker has a TLS flow.
    pub(super) fn prepare_for_tls(&mut self) {
        if self.sealed.is_empty() {
            self.sealed = vec![0; tls::READ].into_boxed_slice();
        }
    }
}

/// One end of a flow.
#[derive(Debug)]
pub(crate) enum End {
    /// Not there yet.
    Absent,
    /// A connection of ours.
    Socket(OwnedFd),
    /// A connection of ours that speaks TLS.
    Tls(Box<Session>),
    /// A stream to the PoP that has the connection.
    Stream(StreamKey),
}

impl End {
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Whether bytes can go through the kernel alone.
    pub(super) const fn is_plain_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// The socket, whatever is spoken over it.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(fd) => Some(fd.as_fd()),
            Self::Tls(session) => Some(session.as_fd()),
            Self::Absent | Self::Stream(_) => None,
        }
    }

    /// Whether something that was written still waits here for the kernel.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Tls(session) if session.is_full())
    }
}

/// What reading gave.
pub(super) enum Moved {
    /// So many bytes. `exhausted`: there is nothing more before the next readiness.
    Bytes {
        count: usize,
        exhausted: bool,
    },
    Blocked,
    End,
}

/// Read at most `limit` bytes into the shared buffer.
pub(super) fn receive(
    end: &mut End,
    side: Side,
    limit: usize,
    scratch: &mut Scratch,
    turn: &mut Turn<'_>,
) -> Result<Moved, Ending> {
    let buffer = &mut scratch.buffer[..limit];
    match end {
        End::Absent => Ok(Moved::Blocked),
        End::Socket(fd) => match tcp::recv(fd, buffer) {
            Ok(Received::Bytes(count)) => Ok(Moved::Bytes { count, exhausted: count < limit }),
            Ok(Received::WouldBlock) => Ok(Moved::Blocked),
            Ok(Received::End) => Ok(Moved::End),
            Err(error) => Err(Ending::of_error(side, &error)),
        },
        End::Tls(session) => match session.read(buffer, &mut scratch.sealed) {
            Ok(Plain::Bytes { count, exhausted }) => Ok(Moved::Bytes { count, exhausted }),
            Ok(Plain::Blocked) => Ok(Moved::Blocked),
            Ok(Plain::End) => Ok(Moved::End),
            Err(error) => Err(Ending::of_session(side, &error)),
        },
        // A stream tells only by "blocked" that it has nothing more.
        End::Stream(key) => match turn.overlay.read(*key, buffer) {
            StreamRead::Data(count) => Ok(Moved::Bytes { count, exhausted: false }),
            StreamRead::Blocked => Ok(Moved::Blocked),
            StreamRead::Finished => Ok(Moved::End),
            StreamRead::Reset(code) => Err(Ending::of_stream(side, code, None)),
            // An event is on its way that says why.
            StreamRead::Gone => Ok(Moved::Blocked),
        },
    }
}

/// How many bytes were taken; 0: the receiver is full.
pub(super) fn transmit(
    end: &mut End,
    side: Side,
    bytes: &[u8],
    turn: &mut Turn<'_>,
) -> Result<usize, Ending> {
    match end {
        End::Absent => Ok(0),
        End::Socket(fd) => match tcp::send(fd, bytes) {
            Ok(Sent::Bytes(count)) => Ok(count),
            Ok(Sent::WouldBlock) => Ok(0),
            Err(error) => Err(Ending::of_error(side, &error)),
        },
        End::Tls(session) => session.write(bytes).map_err(|error| Ending::of_session(side, &error)),
        End::Stream(key) => match turn.overlay.write(turn.now, *key, bytes) {
            StreamWrite::Wrote(count) => Ok(count),
            // Of a stream that is gone an event says why.
            StreamWrite::Blocked | StreamWrite::Gone => Ok(0),
        },
    }
}

/// Say that nothing more comes. Returns whether it is said: where TLS has a word for it, the socket may be full.
pub(super) fn finish(end: &mut End, side: Side, turn: &mut Turn<'_>) -> Result<bool, Ending> {
    match end {
        // A connection that is gone already says so when it is read.
        End::Socket(fd) => drop(tcp::shutdown_write(fd)),
        End::Tls(session) => return session.end().map_err(|error| Ending::of_session(side, &error)),
        End::Stream(key) => turn.overlay.finish(*key),
        End::Absent => {}
    }
    Ok(true)
}
