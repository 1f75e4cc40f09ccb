//! Unix stream sockets that carry bytes and descriptors: the daemon's control socket. It knows no frames.

use crate::{Received, Sent, retry, unless_blocked};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors that one call takes or gives. The kernel allows 253 a message; our senders put one in each.
pub const MAX_DESCRIPTORS: usize = 32;

/// A descriptor of our own for the one that this process inherited under a number; the number itself stays open.
///
/// # Errors
/// `EBADF` when nothing is open under it.
pub fn duplicate_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the kernel looks the number up and gives a new descriptor or an error; no memory is involved.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes one waiting connection; `None` when there is none.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    match retry(|| rustix::net::accept_with(listener.as_fd(), flags)) {
        Err(Errno::CONNABORTED) => Ok(None),
        other => unless_blocked(other),
    }
}

/// Reads bytes, and appends the descriptors that came with them.
///
/// # Errors
/// The kernel's, or `InvalidData` when more descriptors came than [`MAX_DESCRIPTORS`]; those that fitted are closed.
pub fn recv(fd: impl AsFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let result = retry(|| recvmsg(fd.as_fd(), &mut [IoSliceMut::new(buffer)], &mut ancillary, flags));
    let Some(message) = unless_blocked(result)? else {
        return Ok(Received::WouldBlock);
    };
    let first = descriptors.len();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        descriptors.truncate(first);
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors in one message"));
    }
    Ok(if message.bytes == 0 { Received::End } else { Received::Bytes(message.bytes) })
}

/// Writes bytes, and passes descriptors with the first of them. When nothing was written, nothing was passed.
///
/// # Errors
/// The kernel's, or `InvalidInput` for more than [`MAX_DESCRIPTORS`] or for descriptors without a byte to carry them.
pub fn send(fd: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<Sent> {
    if descriptors.len() > MAX_DESCRIPTORS || (bytes.is_empty() && !descriptors.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let result = retry(|| sendmsg(fd.as_fd(), &[IoSlice::new(bytes)], &mut ancillary, flags));
    Ok(unless_blocked(result)?.map_or(Sent::WouldBlock, Sent::Bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    #[test]
    fn a_connection_is_accepted_and_read_without_blocking() {
        let name = format!("l4proxy-io-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let mut daemon = UnixStream::connect_addr(&address).unwrap();
        let engine = accept(&listener).unwrap().unwrap();
        let mut buffer = [0; 16];
        let mut descriptors = Vec::new();
        assert_eq!(recv(&engine, &mut buffer, &mut descriptors).unwrap(), Received::WouldBlock);
        daemon.write_all(b"hello").unwrap();
        assert_eq!(recv(&engine, &mut buffer, &mut descriptors).unwrap(), Received::Bytes(5));
        assert_eq!((&buffer[..5], descriptors.len()), (&b"hello"[..], 0));
        drop(daemon);
        assert_eq!(recv(&engine, &mut buffer, &mut descriptors).unwrap(), Received::End);
        assert_eq!(send(&engine, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn an_inherited_number_gives_a_descriptor_of_our_own() {
        use std::os::fd::AsRawFd;
        let (mut here, there) = UnixStream::pair().unwrap();
        let ours = duplicate_inherited(there.as_raw_fd()).unwrap();
        drop(there);
        here.write_all(b"!").unwrap();
        let mut byte = [0];
        UnixStream::from(ours).read_exact(&mut byte).unwrap();
        assert_eq!(duplicate_inherited(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_descriptor_arrives_with_its_bytes_and_still_works() {
        let (daemon, engine) = UnixStream::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        assert_eq!(send(&daemon, b"frame", &[far.as_fd()]).unwrap(), Sent::Bytes(5));
        drop(far);
        let mut buffer = [0; 16];
        let mut descriptors = Vec::new();
        assert_eq!(recv(&engine, &mut buffer, &mut descriptors).unwrap(), Received::Bytes(5));
        assert_eq!(descriptors.len(), 1);
        let mut far = UnixStream::from(descriptors.pop().unwrap());
        assert!(rustix::io::fcntl_getfd(&far).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        near.write_all(b"!").unwrap();
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"!");
    }

    #[test]
    fn too_many_descriptors_are_refused_on_both_sides_and_none_leaks() {
        let (daemon, engine) = UnixStream::pair().unwrap();
        let many = vec![daemon.as_fd(); MAX_DESCRIPTORS + 1];
        assert_eq!(send(&daemon, b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&daemon, b"", &many[..1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&daemon, b"x", &many[..MAX_DESCRIPTORS]).unwrap(), Sent::Bytes(1));
        let mut descriptors = Vec::new();
        assert_eq!(recv(&engine, &mut [0; 4], &mut descriptors).unwrap(), Received::Bytes(1));
        assert_eq!(descriptors.len(), MAX_DESCRIPTORS);

        // A foreign sender with a larger message.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let more = vec![daemon.as_fd(); MAX_DESCRIPTORS + 8];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&more)));
        sendmsg(&daemon, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
        descriptors.clear();
        let error = recv(&engine, &mut [0; 4], &mut descriptors).unwrap_err();
        assert_eq!((error.kind(), descriptors.len()), (io::ErrorKind::InvalidData, 0));
    }

    #[test]
    fn a_full_socket_buffer_is_told_and_not_an_error() {
        let (daemon, _engine) = UnixStream::pair().unwrap();
        let chunk = vec![0u8; 65536];
        let mut total = 0;
        let blocked = (0..1000).any(|_| match send(&daemon, &chunk, &[]).unwrap() {
            Sent::Bytes(count) => {
                total += count;
                false
            }
            Sent::WouldBlock => true,
        });
        assert!(blocked && total > 0);
    }
}
