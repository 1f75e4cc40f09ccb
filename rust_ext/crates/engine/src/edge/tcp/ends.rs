//! An end of a flow: a socket of ours, or a stream of the overlay to the PoP that has the socket. The relay does not care which.

use std::os::fd::OwnedFd;

use l4proxy_io::{Received, Sent, tcp};
use l4proxy_proto::relay::COPY_BUFFER;

use super::super::ending::{Ending, Side};
use super::pipes::Pipes;
use crate::overlay::{StreamKey, StreamRead, StreamWrite};
use crate::turn::Turn;

/// What the flows of one worker share.
pub(crate) struct Scratch {
    pub(super) buffer: Box<[u8]>,
    pub(super) pipes: Pipes,
    /// Bytes that flows hold in memory of their own.
    pub(super) held: usize,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; COPY_BUFFER].into_boxed_slice(), pipes: Pipes::default(), held: 0 }
    }
}

/// One end of a flow.
#[derive(Debug)]
pub(crate) enum End {
    /// Not there yet.
    Absent,
    /// A connection of ours.
    Socket(OwnedFd),
    /// A stream to the PoP that has the connection.
    Stream(StreamKey),
}

impl End {
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }
}

/// What reading gave.
pub(super) enum Moved {
    Bytes(usize),
    Blocked,
    End,
}

pub(super) fn receive(
    end: &End,
    side: Side,
    buffer: &mut [u8],
    turn: &mut Turn<'_>,
) -> Result<Moved, Ending> {
    match end {
        End::Absent => Ok(Moved::Blocked),
        End::Socket(fd) => match tcp::recv(fd, buffer) {
            Ok(Received::Bytes(count)) => Ok(Moved::Bytes(count)),
            Ok(Received::WouldBlock) => Ok(Moved::Blocked),
            Ok(Received::End) => Ok(Moved::End),
            Err(error) => Err(Ending::of_error(side, &error)),
        },
        End::Stream(key) => match turn.overlay.read(*key, buffer) {
            StreamRead::Data(count) => Ok(Moved::Bytes(count)),
            StreamRead::Blocked => Ok(Moved::Blocked),
            StreamRead::Finished => Ok(Moved::End),
            StreamRead::Reset(code) => Err(Ending::of_stream(side, code)),
            // An event is on its way that says why.
            StreamRead::Gone => Ok(Moved::Blocked),
        },
    }
}

/// How many bytes were taken; 0: the receiver is full.
pub(super) fn transmit(end: &End, side: Side, bytes: &[u8], turn: &mut Turn<'_>) -> Result<usize, Ending> {
    match end {
        End::Absent => Ok(0),
        End::Socket(fd) => match tcp::send(fd, bytes) {
            Ok(Sent::Bytes(count)) => Ok(count),
            Ok(Sent::WouldBlock) => Ok(0),
            Err(error) => Err(Ending::of_error(side, &error)),
        },
        End::Stream(key) => match turn.overlay.write(turn.now, *key, bytes) {
            StreamWrite::Wrote(count) => Ok(count),
            // Of a stream that is gone an event says why.
            StreamWrite::Blocked | StreamWrite::Gone => Ok(0),
        },
    }
}
