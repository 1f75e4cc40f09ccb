//! One TLS session over one connected socket: the handshake, then plain bytes in and out, and both ends of it said and heard.
//!
//! Bounds: at most one read of ciphertext that the reader had no room for ([`READ`]), one record that is incomplete, one record of
//! plain bytes, and [`SEALED`] bytes that the socket has not taken. Nothing is read before plain bytes are asked for, so a slow
//! receiver slows the sender down. Readiness is edge-triggered: every call goes on until the socket blocks.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use l4proxy_io::{Received, Sent, tcp};
use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{ClientConnection, Connection, ProtocolVersion};

use super::fault::{SessionError, TlsFault};
use super::settings::{Tls, name_of};
use crate::identity::stream::ClientTls;

/// Ciphertext read at a time: the shared buffer of a worker.
pub(crate) const READ: usize = 64 * 1024;

/// Ciphertext that may wait for the socket before no more plain bytes are taken.
const SEALED: usize = 64 * 1024;

/// The least that is read at a time, however little room there is.
const LEAST_READ: usize = 4 * 1024;

/// Reads of what nobody wants any more, when a session has failed.
const LEFTOVER_READS: usize = 4;

/// Protocols of a client's offer that are passed on.
const MAX_ALPN: usize = 32;

/// How far a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// It waits for the other side.
    Waits,
    /// The client has said what it wants: [`Session::answer`] goes on.
    Asked,
    /// The session is there.
    Done,
}

/// What reading gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// So many bytes. `exhausted`: there is nothing more before the socket is ready again.
    Bytes {
        /// How many.
        count: usize,
        /// Nothing more is there.
        exhausted: bool,
    },
    /// None are there yet.
    Blocked,
    /// The other side has said that this is the end.
    End,
}

enum State {
    /// The client's hello is not complete.
    Hello(Box<Acceptor>),
    /// It is, and has not been answered.
    Asked(Box<Accepted>),
    /// From the answer on, or an origin's session from its beginning.
    Open(Box<Connection>),
    /// It has failed; the alert that says so is on its way.
    Failed(Option<AcceptedAlert>),
}

/// A session and its socket.
pub(crate) struct Session {
    fd: OwnedFd,
    state: State,
    /// Ciphertext that was read and found no room.
    unread: Vec<u8>,
    /// We have said that nothing more comes.
    is_ended: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Session {
    /// With a client: it speaks first.
    pub(crate) fn with_client(fd: OwnedFd) -> Self {
        Self::new(fd, State::Hello(Box::default()))
    }

    /// With an origin, by its name as written; `alpn`: what the client has offered.
    pub(crate) fn with_origin(
        fd: OwnedFd,
        tls: &Tls,
        origin: &str,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, SessionError> {
        let failed = SessionError::Tls(TlsFault::BadCertificate);
        let (Some(config), Some(name)) = (tls.client(alpn), name_of(origin)) else { return Err(failed) };
        let mut connection = ClientConnection::new(config, name).map_err(|error| fault(&error, false))?;
        connection.set_buffer_limit(Some(SEALED));
        Ok(Self::new(fd, State::Open(Box::new(connection.into()))))
    }

    const fn new(fd: OwnedFd, state: State) -> Self {
        Self { fd, state, unread: Vec::new(), is_ended: false }
    }

    /// Whether the client's hello waits for [`Session::answer`].
    pub(crate) const fn has_asked(&self) -> bool {
        matches!(self.state, State::Asked(_))
    }

    /// What the client asks for, once it has: the name of a server, and protocols in its order.
    pub(crate) fn asked(&self) -> (Option<String>, Vec<Vec<u8>>) {
        let State::Asked(accepted) = &self.state else { return (None, Vec::new()) };
        let hello = accepted.client_hello();
        let alpn = hello.alpn().map(|offered| offered.take(MAX_ALPN).map(<[u8]>::to_vec).collect());
        (hello.server_name().map(str::to_ascii_lowercase), alpn.unwrap_or_default())
    }

    /// The protocol that both sides have agreed on.
    pub(crate) fn alpn(&self) -> Option<Vec<u8>> {
        match &self.state {
            State::Open(connection) => connection.alpn_protocol().map(<[u8]>::to_vec),
            State::Hello(_) | State::Asked(_) | State::Failed(_) => None,
        }
    }

    /// What an origin may be told of the client's session, once the handshake is done.
    pub(crate) fn agreed(&self) -> Option<ClientTls> {
        let State::Open(connection) = &self.state else { return None };
        if connection.is_handshaking() {
            return None;
        }
        let agreed = connection.protocol_version()?;
        // Nothing older is agreed on here.
        let version = if agreed == ProtocolVersion::TLSv1_3 { "TLSv1.3" } else { "TLSv1.2" };
        Some(ClientTls { version, has_certificate: connection.peer_certificates().is_some() })
    }

    /// Answer the client's hello. `alpn`: the protocol that the origin has chosen.
    pub(crate) fn answer(&mut self, tls: &Tls, alpn: Option<Vec<u8>>) -> Result<(), SessionError> {
        match std::mem::replace(&mut self.state, State::Failed(None)) {
            State::Asked(accepted) => {
                let config = tls.server(alpn).ok_or(SessionError::Tls(TlsFault::Handshake))?;
                match accepted.into_connection(config) {
                    Ok(mut connection) => {
                        connection.set_buffer_limit(Some(SEALED));
                        self.state = State::Open(Box::new(connection.into()));
                        Ok(())
                    }
                    Err((error, alert)) => Err(self.fail(&error, alert)),
                }
            }
            other @ (State::Hello(_) | State::Open(_) | State::Failed(_)) => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// Go on with the handshake; `buffer` is for ciphertext.
    pub(crate) fn shake_hands(&mut self, buffer: &mut [u8]) -> Result<Handshake, SessionError> {
        loop {
            self.flush()?;
            match &self.state {
                State::Open(connection) if !connection.is_handshaking() => return Ok(Handshake::Done),
                State::Asked(_) => return Ok(Handshake::Asked),
                State::Hello(_) | State::Open(_) | State::Failed(_) => {}
            }
            if !self.unread.is_empty() {
                let unread = std::mem::take(&mut self.unread);
                self.take_in(&unread)?;
                continue;
            }
            match tcp::recv(&self.fd, buffer)? {
                Received::Bytes(count) => self.take_in(&buffer[..count])?,
                Received::WouldBlock => return Ok(Handshake::Waits),
                Received::End => return Err(SessionError::Tls(TlsFault::Handshake)),
            }
        }
    }

    /// Bytes of the handshake; what comes after a step of it is kept for the next.
    fn take_in(&mut self, mut bytes: &[u8]) -> Result<(), SessionError> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Hello(acceptor) => {
                    let taken = acceptor.read_tls(&mut bytes).unwrap_or(0);
                    match acceptor.accept() {
                        Ok(None) => taken,
                        Ok(Some(accepted)) => {
                            self.state = State::Asked(Box::new(accepted));
                            break;
                        }
                        Err((error, alert)) => return Err(self.fail(&error, alert)),
                    }
                }
                State::Open(connection) => {
                    let taken = connection.read_tls(&mut bytes).unwrap_or(0);
                    connection.process_new_packets().map_err(|error| fault(&error, false))?;
                    if !connection.is_handshaking() {
                        break;
                    }
                    taken
                }
                State::Asked(_) | State::Failed(_) => break,
            };
            // Nothing is taken of a handshake that is too long, or after the other side has said goodbye in the middle of it.
            if taken == 0 {
                return Err(SessionError::Tls(TlsFault::Handshake));
            }
        }
        self.unread.extend_from_slice(bytes);
        Ok(())
    }

    fn fail(&mut self, error: &rustls::Error, alert: AcceptedAlert) -> SessionError {
        self.state = State::Failed(Some(alert));
        fault(error, false)
    }

    /// Read plain bytes; `buffer` is for ciphertext.
    pub(crate) fn read(&mut self, plain: &mut [u8], buffer: &mut [u8]) -> Result<Plain, SessionError> {
        let (mut count, mut is_dry) = (0, false);
        loop {
            let has_ended = self.take_plain(plain, &mut count);
            if count == plain.len() || (has_ended && count > 0) {
                return Ok(Plain::Bytes { count, exhausted: false });
            }
            if has_ended {
                return Ok(Plain::End);
            }
            if !self.unread.is_empty() {
                let unread = std::mem::take(&mut self.unread);
                self.open(&unread, plain, &mut count)?;
                continue;
            }
            if is_dry {
                let bytes = Plain::Bytes { count, exhausted: true };
                return Ok(if count > 0 { bytes } else { Plain::Blocked });
            }
            // What comes then fits, but for the record that was incomplete before.
            let length = buffer.len().min((plain.len() - count).max(LEAST_READ));
            match tcp::recv(&self.fd, &mut buffer[..length])? {
                Received::Bytes(received) => {
                    is_dry = received < length;
                    self.open(&buffer[..received], plain, &mut count)?;
                }
                Received::WouldBlock => is_dry = true,
                // The socket says so again.
                Received::End if count > 0 => return Ok(Plain::Bytes { count, exhausted: false }),
                Received::End => return Err(SessionError::Tls(TlsFault::Truncated)),
            }
        }
    }

    /// Plain bytes that are there already. Returns whether they are followed by the end.
    fn take_plain(&mut self, plain: &mut [u8], count: &mut usize) -> bool {
        let State::Open(connection) = &mut self.state else { return false };
        while *count < plain.len() {
            match connection.reader().read(&mut plain[*count..]) {
                Ok(0) => return true,
                Ok(read) => *count += read,
                Err(_) => return false,
            }
        }
        false
    }

    /// Decrypt, as far as there is room for it; the rest is kept.
    fn open(&mut self, mut bytes: &[u8], plain: &mut [u8], count: &mut usize) -> Result<(), SessionError> {
        while !bytes.is_empty() && *count < plain.len() {
            let State::Open(connection) = &mut self.state else { break };
            // After the end that the other side has said nothing is taken, and nothing counts.
            if connection.read_tls(&mut bytes).unwrap_or(0) == 0 {
                return Ok(());
            }
            if let Err(error) = connection.process_new_packets() {
                return Err(fault(&error, true));
            }
            self.take_plain(plain, count);
        }
        self.unread.extend_from_slice(bytes);
        // Answers of the library itself: new keys, tickets. What the socket does not take goes with what we write next.
        self.flush().map(drop)
    }

    /// Encrypt and send; returns how many plain bytes were taken, 0 when the socket is full.
    pub(crate) fn write(&mut self, plain: &[u8]) -> Result<usize, SessionError> {
        let mut taken = 0;
        while taken < plain.len() && self.flush()? {
            let State::Open(connection) = &mut self.state else { break };
            taken += connection.writer().write(&plain[taken..])?;
        }
        self.flush()?;
        Ok(taken)
    }

    /// Send what waits. Returns whether nothing waits any more.
    pub(crate) fn flush(&mut self) -> Result<bool, SessionError> {
        let mut sink = Sink(self.fd.as_fd());
        let sent = match &mut self.state {
            State::Open(connection) => loop {
                if !connection.wants_write() {
                    return Ok(true);
                }
                if let Err(error) = connection.write_tls(&mut sink) {
                    break Err(error);
                }
            },
            State::Failed(Some(alert)) => alert.write_all(&mut sink),
            State::Hello(_) | State::Asked(_) | State::Failed(None) => Ok(()),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether something waits for the socket.
    pub(crate) fn is_full(&self) -> bool {
        matches!(&self.state, State::Open(connection) if connection.wants_write())
    }

    /// Say that nothing more comes. Returns whether it is said: the socket may be full, then ask again when it is not.
    pub(crate) fn end(&mut self) -> Result<bool, SessionError> {
        if let (State::Open(connection), false) = (&mut self.state, self.is_ended) {
            connection.send_close_notify();
            self.is_ended = true;
        }
        let is_said = self.flush()?;
        if is_said {
            // A connection that is gone already says so when it is read.
            drop(tcp::shutdown_write(&self.fd));
        }
        Ok(is_said)
    }

    /// Send what says why this is over, as far as the socket takes it, and then FIN. What has come and nobody has read is thrown away:
    /// the kernel would answer it with RST, which could overtake the reason. `buffer` is for that.
    pub(crate) fn say_why(&mut self, buffer: &mut [u8]) {
        drop(self.flush());
        drop(tcp::shutdown_write(&self.fd));
        for _ in 0..LEFTOVER_READS {
            if !matches!(tcp::recv(&self.fd, buffer), Ok(Received::Bytes(_))) {
                break;
            }
        }
    }
}

fn fault(error: &rustls::Error, is_established: bool) -> SessionError {
    SessionError::Tls(TlsFault::of(error, is_established))
}

/// The socket as the library writes to it.
struct Sink<'a>(BorrowedFd<'a>);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match tcp::send_vectored(self.0, parts)? {
            Sent::Bytes(count) => Ok(count),
            Sent::WouldBlock => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
