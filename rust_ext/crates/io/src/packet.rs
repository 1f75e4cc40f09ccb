//! Raw frames of one interface (AF_PACKET). Needs CAP_NET_RAW. The peer's segmentation offload must be off, or frames larger than the MTU arrive.

use crate::{retry, sockaddr, unless_blocked};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which form frames have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With the Ethernet header.
    Ethernet,
    /// Without it: IP packets, whose destination hardware address is given apart.
    Cooked,
}

/// The part of a frame's link header that a cooked frame lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// Ethernet protocol, such as 0x0800.
    pub protocol: u16,
    /// The hardware address of the sender (received) or of the receiver (to be sent).
    pub hardware: [u8; 6],
}

/// A raw socket bound to one interface. It sees what arrives there, not what the host itself sends.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    interface: u32,
    form: Form,
}

impl PacketSocket {
    /// Opens a socket on an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` for an unknown interface.
    pub fn open(interface: &str, form: Form) -> io::Result<Self> {
        let kind = match form {
            Form::Ethernet => libc::SOCK_RAW,
            Form::Cooked => libc::SOCK_DGRAM,
        };
        // Protocol 0 receives nothing, so no frame of another interface slips in before the bind.
        // SAFETY: the call takes no pointers; the result is checked below.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let interface = rustix::net::netdevice::name_to_index(&fd, interface)?;
        let ignore: libc::c_int = 1;
        sockaddr::set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &ignore)?;
        let socket = Self { fd, interface, form };
        let address = socket.address(&LinkAddress { protocol: libc::ETH_P_ALL as u16, hardware: [0; 6] });
        // SAFETY: the pointer and the length describe one live `sockaddr_ll`, which the kernel only reads.
        let result =
            unsafe { libc::bind(socket.fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), LENGTH) };
        if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes the next frame; `None` when there is none. What does not fit into the buffer is cut off.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, LinkAddress)>> {
        let mut address = std::mem::MaybeUninit::<libc::sockaddr_ll>::zeroed();
        let result = retry(|| {
            let mut length = LENGTH;
            // SAFETY: both pointers and lengths describe live memory that the kernel may write.
            let count = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    address.as_mut_ptr().cast(),
                    &mut length,
                )
            };
            usize::try_from(count).map_err(|_| last_errno())
        });
        let Some(count) = unless_blocked(result)? else { return Ok(None) };
        // SAFETY: zeroed above, and any bits are valid for its integers.
        let address = unsafe { address.assume_init() };
        let [a, b, c, d, e, f, ..] = address.sll_addr;
        let link = LinkAddress { protocol: u16::from_be(address.sll_protocol), hardware: [a, b, c, d, e, f] };
        Ok(Some((count, link)))
    }

    /// Sends a frame; false when the interface's queue is full. `to` matters for cooked frames only.
    pub fn send(&self, frame: &[u8], to: &LinkAddress) -> io::Result<bool> {
        let address = self.address(to);
        let destination: *const libc::sockaddr = match self.form {
            Form::Ethernet => std::ptr::null(),
            Form::Cooked => std::ptr::from_ref(&address).cast(),
        };
        let length = if destination.is_null() { 0 } else { LENGTH };
        let result = retry(|| {
            // SAFETY: the frame is live and only read; the destination is null with length 0, or one live `sockaddr_ll`.
            let count = unsafe {
                let fd = self.fd.as_raw_fd();
                libc::sendto(fd, frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT, destination, length)
            };
            usize::try_from(count).map_err(|_| last_errno())
        });
        match result {
            // The interface's own queue, not this socket's buffer, was full.
            Err(Errno::NOBUFS) => Ok(false),
            other => Ok(unless_blocked(other)?.is_some()),
        }
    }

    /// How many frames found the receive buffer full since the last call.
    pub fn take_dropped(&self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe one live `tpacket_stats`; any integers the kernel writes are valid for it.
        let result = unsafe {
            let fd = self.fd.as_raw_fd();
            let value = std::ptr::from_mut(&mut statistics).cast();
            libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &mut length)
        };
        if result == 0 { Ok(statistics.tp_drops.into()) } else { Err(io::Error::last_os_error()) }
    }

    fn address(&self, link: &LinkAddress) -> libc::sockaddr_ll {
        let mut hardware = [0; 8];
        hardware[..6].copy_from_slice(&link.hardware);
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: link.protocol.to_be(),
            sll_ifindex: self.interface.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: hardware,
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
