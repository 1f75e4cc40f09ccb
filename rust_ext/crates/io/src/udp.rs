//! UDP sockets: options, batches in and out, where each datagram came to, when, and in how many segments.
//!
//! A socket of the IPv6 family may serve both families; addresses seen here are always plain, never IPv4-mapped.

mod cmsg;
mod errors;
mod options;
mod recv;
mod send;

pub use errors::QueuedError;
pub use options::{Granted, MtuDiscovery, UdpOptions};
pub use recv::{Datagram, Meta, RecvBatch};
pub use send::{MAX_SEGMENTS, Outgoing, SendBatch, SendReport, Stop};

use crate::{Received, Sent, retry, unless_blocked};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, sockopt};
use socket2::Type;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A UDP socket that knows its family.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    is_v6: bool,
}

impl UdpSocket {
    /// Wraps a socket that somebody else bound or connected, and makes it non-blocking.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a datagram socket of IPv4 or IPv6.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let family = sockopt::socket_domain(&fd)?;
        let is_v6 = family == AddressFamily::INET6;
        if !(is_v6 || family == AddressFamily::INET)
            || sockopt::socket_type(&fd)? != rustix::net::SocketType::DGRAM
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, is_v6 })
    }

    /// A bound socket, in a reuseport group if `share_port`. `::` takes IPv4 as well.
    pub fn bind(address: SocketAddr, share_port: bool) -> io::Result<Self> {
        let socket = crate::tcp::new_socket(address, Type::DGRAM)?;
        if share_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        Ok(Self { fd: socket.into(), is_v6: address.is_ipv6() })
    }

    /// A socket connected to `address`: it hears only that peer, has a port of its own, learns of its ICMP errors, and sending
    /// costs a third less. `source` binds the address before.
    pub fn connect(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<Self> {
        let socket = crate::tcp::new_socket(address, Type::DGRAM)?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        socket.connect(&address.into())?;
        Ok(Self { fd: socket.into(), is_v6: address.is_ipv6() })
    }

    /// Reads one datagram of a connected socket into the buffer; what does not fit is cut off. An empty datagram is `Bytes(0)`.
    ///
    /// # Errors
    /// `ECONNREFUSED` and the like report an ICMP error about something sent before; the socket stays usable.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let result = retry(|| rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT));
        Ok(unless_blocked(result)?.map_or(Received::WouldBlock, |(count, _)| Received::Bytes(count)))
    }

    /// Sends one datagram from a connected socket.
    ///
    /// # Errors
    /// As for [`UdpSocket::recv`]; this datagram was then not sent.
    pub fn send(&self, datagram: &[u8]) -> io::Result<Sent> {
        let result = retry(|| rustix::net::send(&self.fd, datagram, SendFlags::DONTWAIT));
        Ok(unless_blocked(result)?.map_or(Sent::WouldBlock, Sent::Bytes))
    }

    /// The socket's own address.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        crate::tcp::local_address(&self.fd)
    }

    /// Whether the socket belongs to the IPv6 family (and may serve both).
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// The pending error, taken away.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        crate::tcp::take_error(&self.fd)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
