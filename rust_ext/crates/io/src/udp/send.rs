//! Sending many datagrams with one call, each with its own destination, source address, TOS byte and segment size.

use super::UdpSocket;
use super::cmsg::{Control, Writer};
use crate::retry;
use crate::sockaddr::RawAddress;
use rustix::io::Errno;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd};

/// Payload of one message, over IPv4 as over IPv6.
const MAX_MERGED: usize = 65_487;

/// Segments that the kernel makes of one message at most (`UDP_MAX_SEGMENTS`; 128 since Linux 6.9, 64 before).
pub const MAX_SEGMENTS: usize = 64;

/// One message to send.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Its bytes: one datagram, or with `segment_size` several of that size (the last may be shorter), at most 65,507 bytes together.
    pub bytes: &'a [u8],
    /// Where to; `None` on a connected socket.
    pub destination: Option<SocketAddr>,
    /// The local address that it shall come from, and the interface (0: by the routing table).
    pub source: Option<(IpAddr, u32)>,
    /// The TOS byte; `None`: the socket's own.
    pub tos: Option<u8>,
    /// Cut into segments of this size by the kernel or the card.
    pub segment_size: Option<NonZeroU16>,
}

impl<'a> Outgoing<'a> {
    /// A plain datagram.
    #[must_use]
    pub fn new(bytes: &'a [u8], destination: Option<SocketAddr>) -> Self {
        Self { bytes, destination, source: None, tos: None, segment_size: None }
    }
}

/// How far a call came.
#[derive(Debug)]
#[must_use]
pub struct SendReport {
    /// Messages that were sent: the first so many.
    pub sent: usize,
    /// Why the next one was not; `None` when all were sent.
    pub stop: Option<Stop>,
}

/// Why a message was not sent.
#[derive(Debug)]
pub enum Stop {
    /// The socket's buffer (or the interface's queue) is full; try again later or drop.
    WouldBlock,
    /// The kernel, the card or the route cannot cut this message into segments: send its segments one by one, and stop asking.
    SegmentationRefused(io::Error),
    /// This message failed (too large, no route, an ICMP error about an earlier one…); the ones after it may well succeed.
    Failed(io::Error),
}

/// Datagrams up to this size may go as segments of one message: with its headers it fits every IPv6 path, and the kernel refuses
/// segments that do not fit the way.
const MERGED_DATAGRAM: usize = 1_200;

/// After a refusal to cut segments so many calls send every datagram by itself: the way will hardly have changed sooner.
const PLAIN_CALLS: u32 = 1_000;

/// Scratch space for `sendmmsg`, used again for every call.
pub struct SendBatch {
    headers: Vec<libc::mmsghdr>,
    /// As many as a call has messages; only what a message needs is written anew.
    slots: Box<[Slot]>,
    vectors: Vec<libc::iovec>,
    /// Calls that still send every datagram by itself; the largest number: all of them.
    plain_calls: u32,
}

struct Slot {
    address: RawAddress,
    /// How many of the caller's messages it carries.
    count: usize,
    control: Control,
}

// SAFETY: the pointers inside are written anew in each call and mean nothing outside it.
unsafe impl Send for SendBatch {}

impl SendBatch {
    /// Room for `count` (1–1024) messages a system call; longer lists take several calls.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let count = count.clamp(1, 1024);
        Self {
            headers: Vec::with_capacity(count),
            slots: (0..count).map(|_| Slot::EMPTY).collect(),
            vectors: Vec::with_capacity(count),
            plain_calls: u32::MAX,
        }
    }

    /// The same, and neighbours that differ in nothing but their bytes (the last one may be shorter) go as one message that the
    /// kernel cuts again: one way through its layers instead of one each, and nothing is copied for it.
    #[must_use]
    pub fn merging(count: usize) -> Self {
        Self { plain_calls: 0, ..Self::new(count) }
    }

    /// Sends the messages in order until one cannot be sent.
    pub fn send(&mut self, socket: &UdpSocket, messages: &[Outgoing<'_>]) -> SendReport {
        let mut sent = 0;
        while sent < messages.len() {
            let chunk = &messages[sent..];
            let chunk = &chunk[..chunk.len().min(self.slots.len())];
            match self.send_chunk(socket, chunk) {
                Ok(count) => sent += count,
                Err(errno)
                    if self.slots[0].count > 1 && (is_segmentation(errno) || errno == Errno::MSGSIZE) =>
                {
                    self.plain_calls = PLAIN_CALLS;
                }
                Err(errno) => return SendReport { sent, stop: Some(Stop::new(errno, &messages[sent])) },
            }
        }
        SendReport { sent, stop: None }
    }

    /// One system call. On success at least one message was sent; an error is about the first.
    fn send_chunk(&mut self, socket: &UdpSocket, chunk: &[Outgoing<'_>]) -> Result<usize, Errno> {
        self.headers.clear();
        self.vectors.clear();
        let may_merge = self.plain_calls == 0;
        if self.plain_calls < u32::MAX {
            self.plain_calls = self.plain_calls.saturating_sub(1);
        }
        // The capacity was reserved in `new`, so the vectors do not move while the headers point to them.
        self.vectors.extend(chunk.iter().map(|message| libc::iovec {
            iov_base: message.bytes.as_ptr().cast_mut().cast(),
            iov_len: message.bytes.len(),
        }));
        let mut first = 0;
        for slot in &mut self.slots {
            let rest = &chunk[first..];
            let Some(message) = rest.first() else { break };
            slot.count = if may_merge { mergeable(rest) } else { 1 };
            let vectors = &mut self.vectors[first..first + slot.count];
            self.headers.push(slot.header(message, vectors, socket.is_v6));
            first += slot.count;
        }
        let sent = retry(|| {
            // SAFETY: each header points to a slot and to the caller's bytes, all live and unmoved for the call; the kernel only reads
            // them, but for `msg_len` in the headers themselves.
            let sent = unsafe {
                let fd = socket.as_fd().as_raw_fd();
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                let (start, count) = (self.headers.as_mut_ptr(), self.headers.len() as libc::c_uint);
                // The C library's own function is a cancellation point, which costs two atomic operations a call.
                libc::syscall(libc::SYS_sendmmsg, fd, start, count, flags)
            };
            usize::try_from(sent)
                .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
        })?;
        // The kernel never answers 0 for a list that is not empty; were it to, the loop above must still end.
        if sent == 0 {
            return Err(Errno::AGAIN);
        }
        Ok(self.slots[..sent].iter().map(|slot| slot.count).sum())
    }
}

/// Whether an error may be about cutting segments. udp(7) and the source: EIO without checksum offload, EINVAL for what cannot be
/// segmented here, OPNOTSUPP on odd routes.
fn is_segmentation(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::INVAL | Errno::OPNOTSUPP)
}

/// How many messages, from the first, can go as segments of one.
fn mergeable(messages: &[Outgoing<'_>]) -> usize {
    let first = &messages[0];
    let size = first.bytes.len();
    if size == 0 || size > MERGED_DATAGRAM || first.segment_size.is_some() {
        return 1;
    }
    let mut count = 1;
    for other in &messages[1..messages.len().min(MAX_SEGMENTS)] {
        let length = other.bytes.len();
        let is_alike = other.destination == first.destination
            && other.source == first.source
            && other.tos == first.tos
            && other.segment_size.is_none();
        // An empty one cannot be a segment: it would vanish.
        if !is_alike || length == 0 || length > size || (count + 1) * size > MAX_MERGED {
            break;
        }
        count += 1;
        if length < size {
            break;
        }
    }
    count
}

impl Slot {
    const EMPTY: Self = Self { address: RawAddress::empty(), count: 0, control: Control::EMPTY };

    fn header(
        &mut self,
        message: &Outgoing<'_>,
        vectors: &mut [libc::iovec],
        socket_is_v6: bool,
    ) -> libc::mmsghdr {
        // SAFETY: all-zero is a valid `mmsghdr`: integers and null pointers.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        if let Some(destination) = message.destination {
            header.msg_hdr.msg_namelen = self.address.write(destination, socket_is_v6);
            header.msg_hdr.msg_name = (&raw mut self.address).cast();
        }
        header.msg_hdr.msg_iov = vectors.as_mut_ptr();
        header.msg_hdr.msg_iovlen = vectors.len() as _;
        let mut control = Writer::new(&mut self.control);
        if let Some((ip, interface)) = message.source {
            control.source(ip, interface);
        }
        if let Some(tos) = message.tos {
            control.tos(tos, message.destination.map_or(socket_is_v6, |destination| destination.is_ipv6()));
        }
        if vectors.len() > 1 {
            // At most `MERGED_DATAGRAM`.
            control.segment_size(message.bytes.len() as u16);
        } else if let Some(size) = message.segment_size
            && message.bytes.len() > usize::from(size.get())
        {
            control.segment_size(size.get());
        }
        if control.length() > 0 {
            header.msg_hdr.msg_controllen = control.length();
            header.msg_hdr.msg_control = (&raw mut self.control).cast();
        }
        header
    }
}

impl Stop {
    fn new(errno: Errno, message: &Outgoing<'_>) -> Self {
        match errno {
            Errno::AGAIN | Errno::NOBUFS => Self::WouldBlock,
            _ if is_segmentation(errno) && message.segment_size.is_some() => {
                Self::SegmentationRefused(errno.into())
            }
            _ => Self::Failed(errno.into()),
        }
    }
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SendBatch").field("capacity", &self.vectors.capacity()).finish()
    }
}
