//! The error queue: ICMP errors with the address that they are about.

use super::UdpSocket;
use super::cmsg::{self, Control, Message};
use crate::sockaddr::RawAddress;
use crate::{retry, unless_blocked};
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

/// One error about a datagram that was sent earlier.
#[derive(Debug)]
pub struct QueuedError {
    /// What went wrong, such as `ECONNREFUSED` or `EMSGSIZE`.
    pub error: io::Error,
    /// Where the datagram was going.
    pub destination: Option<SocketAddr>,
    /// Whether a router or the peer said so (ICMP), rather than this host.
    pub remote: bool,
    /// The path's MTU, when the datagram was too large for it.
    pub mtu: Option<u32>,
}

impl UdpSocket {
    /// Takes the next queued error; `None` when there is none. Needs `UdpOptions::queue_errors`.
    pub fn take_queued_error(&self) -> io::Result<Option<QueuedError>> {
        let mut address = RawAddress::empty();
        let mut control = Control::EMPTY;
        // Of the datagram itself, which is returned too, nothing is wanted.
        let mut vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all-zero is a valid `msghdr`: integers and null pointers.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut address).cast();
        header.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = cmsg::SPACE;
        let result = retry(|| {
            let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
            // SAFETY: the header points to live memory of the stated lengths, which nothing else refers to during the call.
            let count = unsafe { libc::recvmsg(self.as_fd().as_raw_fd(), &raw mut header, flags) };
            usize::try_from(count)
                .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
        });
        if unless_blocked(result)?.is_none() {
            return Ok(None);
        }
        let destination = address.read(header.msg_namelen);
        let found = cmsg::read(&control, header.msg_controllen).find_map(|message| match message {
            Message::Error { errno, origin, info } => Some((errno, origin, info)),
            Message::Local { .. } | Message::Tos(_) | Message::TimestampNs(_) | Message::SegmentSize(_) => {
                None
            }
        });
        let (errno, origin, info) = found.unwrap_or((libc::EIO, libc::SO_EE_ORIGIN_NONE, 0));
        Ok(Some(QueuedError {
            error: io::Error::from_raw_os_error(errno),
            destination,
            remote: matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6),
            mtu: (errno == libc::EMSGSIZE).then_some(info),
        }))
    }
}
