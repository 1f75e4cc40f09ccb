//! Receiving many datagrams with one call, each with its source, its local address, its TOS byte, its kernel timestamp and its segments.

use super::UdpSocket;
use super::cmsg::{self, Control, Message};
use crate::sockaddr::RawAddress;
use crate::{retry, unless_blocked};
use rustix::io::Errno;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// Everything about a datagram but its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Who sent it.
    pub source: SocketAddr,
    /// The address that it was sent to and the interface that it came in on, with `UdpOptions::packet_info`.
    pub local: Option<(IpAddr, u32)>,
    /// The TOS byte (DSCP in the high six bits, ECN in the low two), with `UdpOptions::tos`.
    pub tos: Option<u8>,
    /// Wall-clock nanoseconds when the kernel received it, with `UdpOptions::timestamps`.
    pub timestamp_ns: Option<u64>,
    /// Several datagrams, each of this many bytes but the last, which may be shorter. With `UdpOptions::gro`.
    pub segment_size: Option<NonZeroUsize>,
    /// The buffer was too small and the end is lost.
    pub truncated: bool,
}

/// One received datagram, or several equal ones that the kernel has merged.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Its bytes, which the receiver may change in place (to decrypt, to rewrite a header).
    pub bytes: &'a mut [u8],
    /// The rest.
    pub meta: Meta,
}

impl Datagram<'_> {
    /// The single datagrams: one, unless the kernel has merged several. An empty datagram is one, too.
    pub fn segments(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let size = self.meta.segment_size.map_or(self.bytes.len(), NonZeroUsize::get).max(1);
        let empty: Option<&mut [u8]> = if self.bytes.is_empty() { Some(&mut []) } else { None };
        empty.into_iter().chain(self.bytes.chunks_mut(size))
    }
}

/// Preallocated room for the datagrams of one `recvmmsg`, or of several sockets one after the other.
///
/// The kernel writes through pointers that stand in `headers`. The memory that they point to is held by raw pointer, never
/// by `Box` or `Vec`, so that moving the batch or borrowing a datagram invalidates none of them.
pub struct RecvBatch {
    headers: Vec<libc::mmsghdr>,
    slots: NonNull<[Slot]>,
    bytes: NonNull<[u8]>,
    size: usize,
    /// From one buffer to the next.
    stride: usize,
    filled: usize,
}

/// Buffers of a power of two would all begin in the same few lines of every cache; so much between them spreads them.
const STAGGER: usize = 320;

struct Slot {
    address: RawAddress,
    vector: libc::iovec,
    control: Control,
}

// SAFETY: the batch owns all memory behind its pointers, alone.
unsafe impl Send for RecvBatch {}

impl RecvBatch {
    /// Room for `count` (1–1024) datagrams of up to `size` bytes each. With GRO `size` must be 65,536 or merged datagrams are cut.
    #[must_use]
    pub fn new(count: usize, size: usize) -> Self {
        let count = count.clamp(1, 1024);
        let size = size.max(1);
        let stride = size + STAGGER;
        let bytes = NonNull::from(Box::leak(vec![0u8; count * stride].into_boxed_slice()));
        let mut slots: Box<[Slot]> = (0..count)
            .map(|index| Slot {
                address: RawAddress::empty(),
                vector: libc::iovec {
                    // SAFETY: `index * stride` lies within the `count * stride` bytes just allocated.
                    iov_base: unsafe { bytes.as_ptr().cast::<u8>().add(index * stride) }.cast(),
                    iov_len: size,
                },
                control: Control::EMPTY,
            })
            .collect();
        let headers = slots.iter_mut().map(Slot::header).collect();
        Self { headers, slots: NonNull::from(Box::leak(slots)), bytes, size, stride, filled: 0 }
    }

    /// The same for connected sockets, whose every datagram has one source: it is not asked for, and [`Meta::source`] says nothing.
    #[must_use]
    pub fn unnamed(count: usize, size: usize) -> Self {
        let mut batch = Self::new(count, size);
        for header in &mut batch.headers {
            header.msg_hdr.msg_name = std::ptr::null_mut();
            header.msg_hdr.msg_namelen = 0;
        }
        batch
    }

    /// How many datagrams one call can take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// How many it holds: those of the last [`RecvBatch::recv`] and what was appended since.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Lets go of all datagrams.
    pub fn clear(&mut self) {
        for header in &mut self.headers[..self.filled] {
            if !header.msg_hdr.msg_name.is_null() {
                header.msg_hdr.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
            }
            header.msg_hdr.msg_controllen = cmsg::SPACE;
        }
        self.filled = 0;
    }

    /// Takes what is waiting instead of what it holds, up to `limit` and the capacity, and returns how many; 0 means "would block".
    ///
    /// # Errors
    /// `ECONNREFUSED` and the like report an ICMP error about something sent before: the socket stays usable, read again.
    pub fn recv(&mut self, socket: &UdpSocket, limit: usize) -> io::Result<usize> {
        self.clear();
        self.append(socket, limit)
    }

    /// Takes what is waiting beside what it holds, up to `limit` and the room that is left, and returns how many; 0 means "would
    /// block", or that there is no room.
    ///
    /// # Errors
    /// As for [`RecvBatch::recv`]. What it holds stays.
    pub fn append(&mut self, socket: &UdpSocket, limit: usize) -> io::Result<usize> {
        let free = &mut self.headers[self.filled..];
        let count = limit.min(free.len()) as libc::c_uint;
        if count == 0 {
            return Ok(0);
        }
        let result = retry(|| {
            // SAFETY: `count` headers are live, and each points to a live name, vector, buffer and control space of the stated
            // lengths, to which nothing else holds a reference while `self` is borrowed mutably.
            let received = unsafe {
                let fd = socket.as_fd().as_raw_fd();
                let forever = std::ptr::null_mut::<libc::timespec>();
                // The C library's own function is a cancellation point, which costs two atomic operations a call.
                libc::syscall(libc::SYS_recvmmsg, fd, free.as_mut_ptr(), count, libc::MSG_DONTWAIT, forever)
            };
            usize::try_from(received)
                .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
        });
        let received = unless_blocked(result)?.unwrap_or(0);
        self.filled += received;
        Ok(received)
    }

    /// Datagram `index` of those that it holds.
    ///
    /// # Panics
    /// When `index` is not below [`RecvBatch::len`].
    pub fn get(&mut self, index: usize) -> Datagram<'_> {
        let length = self.length(index);
        let meta = self.meta(index);
        // SAFETY: the range lies within the allocation (`length ≤ size`, `index < count`), it was initialised at allocation, and the
        // mutable borrow of `self` keeps everybody else (and the next receive) away for as long as the slice lives.
        let bytes = unsafe {
            let start = self.bytes.as_ptr().cast::<u8>().add(index * self.stride);
            std::slice::from_raw_parts_mut(start, length)
        };
        Datagram { bytes, meta }
    }

    /// The bytes of datagram `index`, to read only.
    ///
    /// # Panics
    /// When `index` is not below [`RecvBatch::len`].
    #[must_use]
    pub fn bytes(&self, index: usize) -> &[u8] {
        let length = self.length(index);
        // SAFETY: as in `get`, with a shared borrow: nobody writes while it lives.
        unsafe {
            let start = self.bytes.as_ptr().cast::<u8>().add(index * self.stride);
            std::slice::from_raw_parts(start, length)
        }
    }

    /// The datagrams that it holds, to read only; several can be used at once.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], Meta)> {
        (0..self.filled).map(|index| (self.bytes(index), self.meta(index)))
    }

    /// Calls `work` with each datagram that it holds, in order.
    pub fn for_each(&mut self, mut work: impl FnMut(Datagram<'_>)) {
        for index in 0..self.filled {
            work(self.get(index));
        }
    }

    fn length(&self, index: usize) -> usize {
        (self.headers[..self.filled][index].msg_len as usize).min(self.size)
    }

    fn meta(&self, index: usize) -> Meta {
        let header = &self.headers[..self.filled][index].msg_hdr;
        // SAFETY: the slots are initialised, and the kernel writes to them only inside `recv`, which borrows `self` mutably.
        let slot = unsafe { &self.slots.as_ref()[index] };
        // A connected or unconnected UDP socket always names the sender; anything else would be a kernel that we do not know.
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut meta = Meta {
            source: slot.address.read(header.msg_namelen).unwrap_or(nobody),
            local: None,
            tos: None,
            timestamp_ns: None,
            segment_size: None,
            truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        };
        for message in cmsg::read(&slot.control, header.msg_controllen) {
            match message {
                Message::Local { ip, interface } => meta.local = Some((ip, interface)),
                Message::Tos(tos) => meta.tos = Some(tos),
                Message::TimestampNs(timestamp) => meta.timestamp_ns = Some(timestamp),
                Message::SegmentSize(size) => meta.segment_size = NonZeroUsize::new(size.into()),
                Message::Error { .. } => {}
            }
        }
        meta
    }
}

impl Slot {
    fn header(&mut self) -> libc::mmsghdr {
        // SAFETY: all-zero is a valid `mmsghdr`: integers and null pointers.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_name = (&raw mut self.address).cast();
        header.msg_hdr.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
        header.msg_hdr.msg_iov = &raw mut self.vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = (&raw mut self.control).cast();
        header.msg_hdr.msg_controllen = cmsg::SPACE;
        header
    }
}

impl Drop for RecvBatch {
    fn drop(&mut self) {
        // SAFETY: both were leaked from boxes in `new`, are freed only here, and no borrow of them can outlive `self`.
        unsafe {
            drop(Box::from_raw(self.slots.as_ptr()));
            drop(Box::from_raw(self.bytes.as_ptr()));
        }
    }
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RecvBatch")
            .field("capacity", &self.capacity())
            .field("len", &self.filled)
            .finish()
    }
}
