//! Sockets that the daemon has bound and handed over. They belong to the engine, never to a worker: one that panics loses its flows
//! and finds its sockets again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hashbrown::HashMap;
use l4proxy_io::udp::UdpSocket;

use crate::messages::SocketKey;
use crate::snapshot::Protocol;

/// All sockets, by key.
pub(crate) type Sockets = HashMap<SocketKey, Held>;

/// One socket, shared by the table of them and the worker that uses it.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    /// Listening.
    Tcp(Arc<OwnedFd>),
    /// Bound.
    Udp(Arc<UdpSocket>),
}

impl Held {
    /// Take a descriptor that came with a key.
    pub(crate) fn new(protocol: Protocol, fd: OwnedFd) -> io::Result<Self> {
        match protocol {
            Protocol::Tcp => {
                // A worker that waits in `accept` serves nobody.
                rustix::io::ioctl_fionbio(&fd, true)?;
                Ok(Self::Tcp(Arc::new(fd)))
            }
            Protocol::Udp => Ok(Self::Udp(Arc::new(UdpSocket::from_fd(fd)?))),
        }
    }

    /// Tells this socket from every other one that is held now.
    pub(crate) fn identity(&self) -> usize {
        match self {
            Self::Tcp(fd) => Arc::as_ptr(fd) as usize,
            Self::Udp(socket) => Arc::as_ptr(socket) as usize,
        }
    }

    /// As a UDP socket.
    pub(crate) const fn udp(&self) -> Option<&Arc<UdpSocket>> {
        match self {
            Self::Udp(socket) => Some(socket),
            Self::Tcp(_) => None,
        }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(fd) => fd.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}
