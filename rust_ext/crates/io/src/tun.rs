//! TUN devices: whole IP packets to and from the kernel. Addresses, routes and MTU are set by whoever made the namespace.

use crate::{retry, unless_blocked};
use rustix::fs::{Mode, OFlags, open};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// One TUN device, without the packet-information header: a read or a write is exactly one IP packet.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
}

impl Tun {
    /// Makes a device with this name (1–15 bytes) in the calling thread's namespace, or attaches to a persistent one.
    /// It vanishes when dropped. To make it elsewhere, call this inside [`crate::netns::NetworkNamespace::run`].
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN, `ENOENT` where the kernel has no TUN, `EBUSY` for a name in use, `InvalidInput` for a bad name.
    pub fn open(name: &str) -> io::Result<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let fd = open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        // SAFETY: all-zero is a valid `ifreq`: integers, arrays and a union of those.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = from.cast_signed() as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is live for the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, name: name.to_owned() })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the next packet that the kernel sends into the device; `None` when there is none. What does not fit is cut off.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(retry(|| rustix::io::read(&self.fd, &mut *buffer)))
    }

    /// Hands a packet to the kernel; false when the device's queue is full.
    pub fn send(&self, packet: &[u8]) -> io::Result<bool> {
        Ok(unless_blocked(retry(|| rustix::io::write(&self.fd, packet)))?.is_some())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
