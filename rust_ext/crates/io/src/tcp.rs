//! TCP sockets: accept, connect, the options every relayed socket gets, reading and writing that never blocks. It relays nothing.

use crate::{Received, Sent, retry, unless_blocked};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, sockopt};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// A silent peer is asked for the first time after this time, then every [`KEEPALIVE_INTERVAL`]; one that answers nothing ends with
/// [`USER_TIMEOUT`], which goes before the count. The kernel's two hours are longer than any flow's idle timeout.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Up to this much later for [`spread_keepalive`].
pub const KEEPALIVE_SPREAD: Duration = Duration::from_secs(16);
/// Between two questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered questions that end the connection.
pub const KEEPALIVE_COUNT: u32 = 3;
/// Bytes that stay unacknowledged, questions unanswered and a window shut for this long end the connection. The kernel ends one whose
/// peer lives and only does not read, too, so it must be longer than the minute for which a player may be paused.
pub const USER_TIMEOUT: Duration = Duration::from_secs(75);

/// What accepting gave.
#[derive(Debug)]
pub enum Accepted {
    /// A new connection and its peer (an IPv4 peer of a dual-stack listener as IPv4).
    Connection(OwnedFd, SocketAddr),
    /// No connection is waiting.
    WouldBlock,
    /// The process (or the host) has no descriptors or memory left; the connection stays in the backlog, so a level-triggered
    /// listener would wake its owner again at once.
    FdLimit,
    /// This connection died before it was accepted; the listener is well.
    Aborted(io::Error),
    /// The listener itself is broken.
    Error(io::Error),
}

/// A listening socket with SO_REUSEADDR, and SO_REUSEPORT if `share_port`. `::` takes IPv4 as well.
pub fn listen(address: SocketAddr, backlog: i32, share_port: bool) -> io::Result<OwnedFd> {
    let socket = new_socket(address, Type::STREAM)?;
    socket.set_reuse_address(true)?;
    if share_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Takes one waiting connection.
pub fn accept(listener: impl AsFd) -> Accepted {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    match retry(|| rustix::net::acceptfrom_with(listener.as_fd(), flags)) {
        Ok((fd, peer)) => match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
            Some(peer) => Accepted::Connection(fd, canonical(peer)),
            None => Accepted::Aborted(Errno::AFNOSUPPORT.into()),
        },
        Err(Errno::AGAIN) => Accepted::WouldBlock,
        Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Accepted::FdLimit,
        // accept(2): "Linux accept() passes already-pending network errors on the new socket as an error code from accept()".
        Err(
            errno @ (Errno::CONNABORTED
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::PERM),
        ) => Accepted::Aborted(errno.into()),
        Err(errno) => Accepted::Error(errno.into()),
    }
}

/// Starts to connect. The socket becomes writable when that has ended; [`take_error`] tells how.
/// `source` binds the address (port 0: any port, chosen at connect so that one port serves many destinations).
pub fn connect(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let socket = new_socket(address, Type::STREAM)?;
    if let Some(source) = source {
        bind_address_no_port(&socket)?;
        socket.bind(&source.into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// Whether a failed `connect` says that this host has no port, descriptor or memory left, and nothing about the destination.
#[must_use]
pub fn is_local_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// The pending error of a socket, taken away.
pub fn take_error(fd: impl AsFd) -> io::Result<Option<io::Error>> {
    Ok(sockopt::socket_error(fd)?.err().map(io::Error::from))
}

/// What every relayed socket gets: no Nagle, keepalive and a user timeout that end a dead connection after 75 s.
pub fn apply_relay_options(fd: impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd();
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, KEEPALIVE_COUNT)?;
    let milliseconds = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(fd, milliseconds)?)
}

/// Have this connection's first question come at a second of its own, by its descriptor's number. Thousands that were opened together
/// would all ask at one moment, the kernel's queue of received packets (`netdev_max_backlog`, 1,000) would lose most of the answers,
/// again each time, and connections whose peers live would end.
pub fn spread_keepalive(fd: impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd();
    let later_s = fd.as_raw_fd().unsigned_abs() as u64 / 2 % KEEPALIVE_SPREAD.as_secs();
    Ok(sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE + Duration::from_secs(later_s))?)
}

/// No Nagle, and nothing else of [`apply_relay_options`].
pub fn set_no_delay(fd: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(fd, true)?)
}

/// Marks what is sent from here on with this TOS byte; of TCP the kernel keeps the ECN bits to itself. A listener hands its mark on to
/// what it accepts.
///
/// # Errors
/// The kernel refuses; the mark before stays.
pub fn set_tos(fd: impl AsFd, is_v6: bool, tos: u8) -> io::Result<()> {
    crate::sockaddr::set_tos(fd.as_fd(), is_v6, tos)
}

/// Bounds how much unsent data the kernel holds for this socket before it stops being writable, so that a backlog stays in our
/// own accounting (and in flow control) instead of in the kernel.
pub fn set_not_sent_low_water(fd: impl AsFd, bytes: u32) -> io::Result<()> {
    SockRef::from(&fd.as_fd()).set_tcp_notsent_lowat(bytes)
}

/// Closing the socket will send RST instead of FIN and throw away what is unsent.
pub fn set_reset_on_close(fd: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(fd, Some(Duration::ZERO))?)
}

/// Sends FIN; the other direction stays open. A connection that is gone already is no error.
pub fn shutdown_write(fd: impl AsFd) -> io::Result<()> {
    match rustix::net::shutdown(fd, rustix::net::Shutdown::Write) {
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads what is there, up to the buffer's length.
pub fn recv(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let result = retry(|| rustix::net::recv(fd.as_fd(), &mut *buffer, RecvFlags::DONTWAIT));
    Ok(match unless_blocked(result)? {
        Some((0, _)) => Received::End,
        Some((count, _)) => Received::Bytes(count),
        None => Received::WouldBlock,
    })
}

/// What is there, up to the buffer's length, left where it is.
pub fn peek(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let result = retry(|| rustix::net::recv(fd.as_fd(), &mut *buffer, flags));
    Ok(match unless_blocked(result)? {
        Some((0, _)) => Received::End,
        Some((count, _)) => Received::Bytes(count),
        None => Received::WouldBlock,
    })
}

/// Writes what fits. A broken connection is an error (`EPIPE`), never a signal.
pub fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<Sent> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let result = retry(|| rustix::net::send(fd.as_fd(), bytes, flags));
    Ok(unless_blocked(result)?.map_or(Sent::WouldBlock, Sent::Bytes))
}

/// The same of several pieces, which follow each other.
pub fn send_vectored(fd: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<Sent> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut none = SendAncillaryBuffer::default();
    let result = retry(|| rustix::net::sendmsg(fd.as_fd(), parts, &mut none, flags));
    Ok(unless_blocked(result)?.map_or(Sent::WouldBlock, Sent::Bytes))
}

/// The socket's own address (IPv4 of a dual-stack socket as IPv4).
pub fn local_address(fd: impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(fd)?;
    Ok(canonical(SocketAddr::try_from(address)?))
}

/// The peer's address (IPv4 of a dual-stack socket as IPv4).
pub fn peer_address(fd: impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getpeername(fd)?.ok_or(Errno::NOTCONN)?;
    Ok(canonical(SocketAddr::try_from(address)?))
}

/// What the kernel knows about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_variation: Duration,
    /// Segments retransmitted since the start.
    pub retransmits: u32,
    /// Segments sent and not acknowledged.
    pub in_flight: u32,
    /// The congestion window in segments.
    pub congestion_window: u32,
}

/// Asks the kernel about a connection.
pub fn info(fd: impl AsFd) -> io::Result<TcpInfo> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the struct; all-zero is valid for the rest of it, plain integers.
    let (result, info) = unsafe {
        let fd = fd.as_fd().as_raw_fd();
        let result =
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length);
        (result, info.assume_init())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpInfo {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        rtt_variation: Duration::from_micros(info.tcpi_rttvar.into()),
        retransmits: info.tcpi_total_retrans,
        in_flight: info.tcpi_unacked,
        congestion_window: info.tcpi_snd_cwnd,
    })
}

/// An IPv4 address in IPv6 clothing becomes IPv4, so that one client has one spelling.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => address,
        },
    }
}

pub(crate) fn new_socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    // socket2 sets close-on-exec by itself.
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    if address.is_ipv6() {
        // Only the unspecified address serves both families; elsewhere the flag would change nothing.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

pub(crate) fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    crate::sockaddr::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoll::{Epoll, Events, Interest};
    use std::net::TcpStream;

    /// A client (blocking, from the standard library) and our accepted end.
    fn pair() -> (TcpStream, OwnedFd) {
        let listener = listen("127.0.0.1:0".parse().unwrap(), 16, false).unwrap();
        let client = TcpStream::connect(local_address(&listener).unwrap()).unwrap();
        let Accepted::Connection(ours, peer) = accept(&listener) else { panic!("a connection waits") };
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(matches!(accept(&listener), Accepted::WouldBlock));
        (client, ours)
    }

    fn wait_until_ready(fd: impl AsFd, interest: Interest) {
        let epoll = Epoll::new().unwrap();
        epoll.add(fd, 0, interest).unwrap();
        assert_eq!(epoll.wait(&mut Events::with_capacity(1), Some(Duration::from_secs(10))).unwrap(), 1);
    }

    #[test]
    fn bytes_half_close_and_end_pass_without_ever_blocking() {
        use std::io::{Read, Write};
        let (mut client, ours) = pair();
        let mut buffer = [0; 8];
        assert_eq!(recv(&ours, &mut buffer).unwrap(), Received::WouldBlock);
        client.write_all(b"ping").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        wait_until_ready(&ours, Interest::READ);
        assert_eq!(recv(&ours, &mut buffer).unwrap(), Received::Bytes(4));
        wait_until_ready(&ours, Interest::READ);
        assert_eq!(recv(&ours, &mut buffer).unwrap(), Received::End);
        // The other direction is still open.
        assert_eq!(send(&ours, b"po").unwrap(), Sent::Bytes(2));
        let parts = [IoSlice::new(b"n"), IoSlice::new(b""), IoSlice::new(b"g")];
        assert_eq!(send_vectored(&ours, &parts).unwrap(), Sent::Bytes(2));
        shutdown_write(&ours).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"pong");
        let info = info(&ours).unwrap();
        assert!(info.rtt > Duration::ZERO && info.congestion_window > 0, "{info:?}");
    }

    #[test]
    fn a_full_send_buffer_is_told_and_not_an_error() {
        let (_client, ours) = pair();
        let chunk = vec![0; 1 << 20];
        assert!((0..1000).any(|_| send(&ours, &chunk).unwrap() == Sent::WouldBlock));
    }

    #[test]
    fn reset_on_close_reaches_the_peer_as_a_reset() {
        use std::io::Read;
        let (mut client, ours) = pair();
        set_reset_on_close(&ours).unwrap();
        drop(ours);
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn connecting_ends_writable_and_a_refusal_is_found_in_the_error() {
        let listener = listen("[::1]:0".parse().unwrap(), 1, true).unwrap();
        let address = local_address(&listener).unwrap();
        let ours = connect(address, Some("[::1]:0".parse().unwrap())).unwrap();
        wait_until_ready(&ours, Interest::WRITE);
        assert!(take_error(&ours).unwrap().is_none());
        assert_eq!(peer_address(&ours).unwrap(), address);
        drop((ours, listener));

        let refused = connect(address, None).unwrap();
        wait_until_ready(&refused, Interest::WRITE);
        let error = take_error(&refused).unwrap().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(take_error(&refused).unwrap().is_none(), "it was taken away");
        assert!(shutdown_write(&refused).is_ok(), "a connection that is gone is no error");
    }

    #[test]
    fn relay_options_are_in_force() {
        let (_client, ours) = pair();
        apply_relay_options(&ours).unwrap();
        set_not_sent_low_water(&ours, 131_072).unwrap();
        let socket = SockRef::from(&ours);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_COUNT);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 131_072);
        assert!(
            USER_TIMEOUT >= KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT,
            "keepalive must be able to finish"
        );
    }

    #[test]
    fn connections_that_were_opened_together_do_not_ask_together() {
        let pairs: Vec<_> = (0..32).map(|_| pair()).collect();
        let mut seconds = std::collections::BTreeSet::new();
        for (_, ours) in &pairs {
            apply_relay_options(ours).unwrap();
            spread_keepalive(ours).unwrap();
            let idle = SockRef::from(ours).tcp_keepalive_time().unwrap();
            assert!((KEEPALIVE_IDLE..KEEPALIVE_IDLE + KEEPALIVE_SPREAD).contains(&idle));
            seconds.insert(idle);
        }
        assert!(seconds.len() >= 8, "{seconds:?}");
        assert!(USER_TIMEOUT >= KEEPALIVE_IDLE + KEEPALIVE_SPREAD + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT);
    }

    #[test]
    fn a_dual_stack_listener_shows_an_ipv4_client_as_ipv4() {
        let listener = listen("[::]:0".parse().unwrap(), 1, false).unwrap();
        let port = local_address(&listener).unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let Accepted::Connection(ours, peer) = accept(&listener) else { panic!("a connection waits") };
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(local_address(&ours).unwrap(), client.peer_addr().unwrap());
        // An IPv6 address of its own leaves the IPv4 port free for another listener.
        let v6_only = listen("[::1]:0".parse().unwrap(), 1, false).unwrap();
        let port = local_address(&v6_only).unwrap().port();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
