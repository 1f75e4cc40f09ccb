//! The connection to one daemon: bytes and descriptors in, frames out, and the other way. What frames mean is `control`'s business.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use l4proxy_io::{Received, Sent, control};
use zeroize::Zeroize;

use crate::messages::{Down, MAX_FRAME, Malformed, PROTOCOL_VERSION, Up};

/// One read: a snapshot comes in a few of them.
const READ: usize = 256 * 1024;

/// Reads of one turn, so that a daemon that never stops talking cannot keep the control thread.
const READS_PER_TURN: usize = 64;

/// Descriptors that came and whose frames have not: each `socket` frame has one, and comes with it.
const MAX_DESCRIPTORS: usize = 64;

/// Bytes that may wait for a daemon that does not read; a connection with more is given up. Two frames of the largest size.
const MAX_WAITING: usize = 2 * (MAX_FRAME + 4);

/// Why a connection ended. Whatever the reason: another daemon may come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConnectionError {
    /// The daemon has closed it.
    #[error("the daemon closed the connection")]
    Closed,
    /// The kernel broke it.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// What the daemon sent is no frame. Its fault.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A frame longer than one may be. Its fault.
    #[error("a frame of {0} bytes, at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// A `socket` frame without a descriptor, or descriptors without frames. Its fault.
    #[error("descriptors and socket frames do not match")]
    Descriptors,
    /// It asks for something before it has said a hello of our version. Its fault.
    #[error("no hello of protocol version {PROTOCOL_VERSION} has come before")]
    NotIntroduced,
    /// It does not read what it is told.
    #[error("the daemon does not read")]
    Stuck,
}

impl ConnectionError {
    /// Whether the daemon is at fault and still listens: then it is told.
    pub(crate) const fn is_worth_telling(&self) -> bool {
        match self {
            Self::Malformed(_) | Self::TooLong(_) | Self::Descriptors | Self::NotIntroduced => true,
            Self::Closed | Self::Broken(_) | Self::Stuck => false,
        }
    }
}

/// One daemon's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    fd: OwnedFd,
    input: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    output: Vec<u8>,
    /// Of `output`, sent already.
    sent: usize,
    /// The daemon has said hello.
    pub(crate) is_introduced: bool,
}

impl Connection {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            input: Vec::new(),
            descriptors: VecDeque::new(),
            output: Vec::new(),
            sent: 0,
            is_introduced: false,
        }
    }

    /// Read what is there.
    pub(crate) fn fill(&mut self) -> Result<(), ConnectionError> {
        let mut received = Vec::new();
        for _ in 0..READS_PER_TURN {
            let start = self.input.len();
            self.input.resize(start + READ, 0);
            let result = control::recv(&self.fd, &mut self.input[start..], &mut received);
            let count = match &result {
                Ok(Received::Bytes(count)) => *count,
                Ok(Received::End | Received::WouldBlock) | Err(_) => 0,
            };
            self.input.truncate(start + count);
            self.descriptors.extend(received.drain(..));
            match result? {
                Received::Bytes(_) if self.input.len() > MAX_FRAME => return Ok(()),
                Received::Bytes(_) => {}
                Received::WouldBlock => return Ok(()),
                // Frames that came whole before the end are still handled: the next read says it again.
                Received::End if !self.input.is_empty() && self.has_frame() => return Ok(()),
                Received::End => return Err(ConnectionError::Closed),
            }
        }
        Ok(())
    }

    fn has_frame(&self) -> bool {
        matches!(self.frame_length(), Ok(Some(length)) if self.input.len() >= 4 + length)
    }

    /// Length of the next frame's body, if its length field is there.
    fn frame_length(&self) -> Result<Option<usize>, ConnectionError> {
        let Some(field) = self.input.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*field) as usize;
        if length > MAX_FRAME { Err(ConnectionError::TooLong(length)) } else { Ok(Some(length)) }
    }

    /// The next frame that has come whole, with its descriptor if it is a `socket`.
    pub(crate) fn next_frame(&mut self) -> Result<Option<(Down, Option<OwnedFd>)>, ConnectionError> {
        let Some(length) = self.frame_length()? else { return self.check_descriptors() };
        if self.input.len() < 4 + length {
            return self.check_descriptors();
        }
        let frame = Down::decode(&self.input[4..4 + length]);
        if let Ok(Down::Identity(_) | Down::Apply(_)) = &frame {
            // Private keys are in it, and these bytes are about to be nobody's.
            self.input[..4 + length].zeroize();
        }
        self.input.drain(..4 + length);
        let frame = frame?;
        let descriptor = match frame {
            Down::Socket(_) => Some(self.descriptors.pop_front().ok_or(ConnectionError::Descriptors)?),
            Down::Hello(_)
            | Down::Identity(_)
            | Down::AccessList(_)
            | Down::Apply(_)
            | Down::Bus(_)
            | Down::ListFlows(_)
            | Down::Whois(_)
            | Down::Drain(_)
            | Down::Stop(_) => None,
        };
        Ok(Some((frame, descriptor)))
    }

    fn check_descriptors(&self) -> Result<Option<(Down, Option<OwnedFd>)>, ConnectionError> {
        if self.descriptors.len() > MAX_DESCRIPTORS { Err(ConnectionError::Descriptors) } else { Ok(None) }
    }

    /// Queue a frame.
    pub(crate) fn say(&mut self, up: &Up<'_>) -> Result<(), ConnectionError> {
        if self.waiting() > MAX_WAITING {
            return Err(ConnectionError::Stuck);
        }
        // A frame that is too long is not sent; only lists can be, and they are cut before.
        up.encode(&mut self.output);
        Ok(())
    }

    /// Bytes that wait to be sent.
    pub(crate) fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Send what waits, as much as the daemon takes.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectionError> {
        while self.sent < self.output.len() {
            match control::send(&self.fd, &self.output[self.sent..], &[])? {
                Sent::Bytes(count) => self.sent += count,
                Sent::WouldBlock => return Ok(()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{BusFrame, SocketKey, SocketRole};
    use crate::snapshot::Protocol;
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, Connection) {
        let (daemon, engine) = UnixStream::pair().unwrap();
        engine.set_nonblocking(true).unwrap();
        (daemon, Connection::new(engine.into()))
    }

    fn frame(body: &impl serde::Serialize) -> Vec<u8> {
        let body = rmp_serde::to_vec_named(body).unwrap();
        [&(body.len() as u32).to_be_bytes()[..], &body].concat()
    }

    fn hello() -> Vec<u8> {
        frame(&BTreeMap::from([("hello", BTreeMap::from([("protocol", PROTOCOL_VERSION)]))]))
    }

    fn socket(port: u16) -> Vec<u8> {
        let key = SocketKey {
            role: SocketRole::Listener,
            protocol: Protocol::Udp,
            address: "::".into(),
            port,
            worker: 0,
        };
        frame(&BTreeMap::from([("socket", key)]))
    }

    fn all(connection: &mut Connection) -> Vec<(Down, Option<OwnedFd>)> {
        connection.fill().unwrap();
        std::iter::from_fn(|| connection.next_frame().unwrap()).collect()
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let (mut daemon, mut connection) = pair();
        let bytes = [hello(), hello()].concat();
        let mut count = 0;
        for byte in bytes {
            daemon.write_all(&[byte]).unwrap();
            count += all(&mut connection).len();
        }
        assert_eq!(count, 2);
        assert!(connection.input.is_empty());
    }

    #[test]
    fn each_socket_frame_gets_the_descriptor_that_came_with_it() {
        let (daemon, mut connection) = pair();
        let (first, second) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        for (port, given) in [(1, &first.0), (2, &second.0)] {
            control::send(&daemon, &socket(port), &[given.as_fd()]).unwrap();
        }
        let frames = all(&mut connection);
        assert_eq!(frames.len(), 2);
        for ((down, descriptor), mut other) in frames.into_iter().zip([first.1, second.1]) {
            let Down::Socket(key) = down else { panic!("a socket") };
            UnixStream::from(descriptor.unwrap()).write_all(&[key.port as u8]).unwrap();
            let mut byte = [0];
            other.read_exact(&mut byte).unwrap();
            assert_eq!(u16::from(byte[0]), key.port);
        }
    }

    #[test]
    fn a_socket_frame_without_a_descriptor_ends_the_connection() {
        let (mut daemon, mut connection) = pair();
        daemon.write_all(&socket(1)).unwrap();
        connection.fill().unwrap();
        assert!(matches!(connection.next_frame(), Err(ConnectionError::Descriptors)));
    }

    #[test]
    fn descriptors_without_frames_are_bounded() {
        let (daemon, mut connection) = pair();
        for _ in 0..=MAX_DESCRIPTORS {
            control::send(&daemon, &[0], &[daemon.as_fd()]).unwrap();
        }
        let result = connection.fill().and_then(|()| connection.next_frame());
        // The zero bytes are empty frames, which are malformed before anything is counted.
        assert!(matches!(result, Err(ConnectionError::Malformed(_))));
        let (daemon, mut connection) = pair();
        for _ in 0..=MAX_DESCRIPTORS {
            control::send(&daemon, b"", &[]).unwrap();
            connection.descriptors.push_back(daemon.as_fd().try_clone_to_owned().unwrap());
        }
        assert!(matches!(connection.next_frame(), Err(ConnectionError::Descriptors)));
    }

    #[test]
    fn garbage_ends_the_connection() {
        let cases: [(&[u8], &str); 3] = [
            (&[0, 0, 0, 2, 0xc1, 0xc1], "not a frame"),
            (&[0xff; 8], "a frame of"),
            (&[0, 0, 0, 1, 0x80], "not a frame"),
        ];
        for (bytes, expected) in cases {
            let (mut daemon, mut connection) = pair();
            daemon.write_all(bytes).unwrap();
            connection.fill().unwrap();
            let error = connection.next_frame().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn frames_before_the_end_are_handled_and_then_it_ends() {
        let (mut daemon, mut connection) = pair();
        daemon.write_all(&hello()).unwrap();
        drop(daemon);
        assert_eq!(all(&mut connection).len(), 1);
        assert!(matches!(connection.fill(), Err(ConnectionError::Closed)));
    }

    #[test]
    fn a_daemon_that_does_not_read_is_given_up() {
        let (_daemon, mut connection) = pair();
        let bus = BusFrame { peer: "iad".into(), payload: vec![0; 1 << 20] };
        let mut said = 0;
        let error = loop {
            match connection.say(&Up::Bus(&bus)).and_then(|()| connection.flush()) {
                Ok(()) => said += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ConnectionError::Stuck));
        assert!((32..36).contains(&said), "{said}");
    }
}
