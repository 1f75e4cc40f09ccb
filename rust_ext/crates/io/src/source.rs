//! Sockets towards origins, connected from the address that the origin is to see: the kernel's choice, one address of this host, or
//! the client's own. When that address cannot be had there is no socket: another one is never taken instead.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use socket2::{Socket, Type};

use crate::tcp;
use crate::udp::UdpSocket;

/// Who the origin is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The kernel chooses.
    Any,
    /// This address, which must be one of this host's; the port is chosen at connect, so that one port serves many destinations.
    Address(IpAddr),
    /// The client itself (IP_TRANSPARENT), with its port where that is free. Answers must be routed back through this host.
    Client(SocketAddr),
}

/// Why there is no socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// Speaking as somebody else needs CAP_NET_ADMIN or CAP_NET_RAW.
    NotPermitted,
    /// The source is no address of this host.
    NotLocal(IpAddr),
    /// The source is of another family than the destination.
    OtherFamily,
    /// The kernel says why.
    Failed(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted => {
                f.write_str("speaking with a client's address needs CAP_NET_ADMIN or CAP_NET_RAW")
            }
            Self::NotLocal(ip) => write!(f, "source address {ip} is not one of this host's"),
            Self::OtherFamily => f.write_str("the source is of another family than the destination"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Starts a TCP connection. The socket becomes writable when that has ended; [`tcp::take_error`] tells how.
///
/// # Errors
/// Why it could not be begun.
pub fn connect_tcp(address: SocketAddr, source: Source) -> Result<OwnedFd, ConnectError> {
    connect(address, source, Type::STREAM).map(OwnedFd::from)
}

/// A UDP socket that hears and reaches only `address`.
///
/// # Errors
/// Why there is none.
pub fn connect_udp(address: SocketAddr, source: Source) -> Result<UdpSocket, ConnectError> {
    let socket = connect(address, source, Type::DGRAM)?;
    Ok(UdpSocket::from_fd(socket.into())?)
}

/// Whether an address is one of this host's own: what the kernel would send to itself it sends from that very address.
/// Nothing leaves the host.
#[must_use]
pub fn is_own_address(ip: IpAddr) -> bool {
    /// Any port will do, since nothing is sent: that of the discard service.
    const PORT: u16 = 9;
    let ip = ip.to_canonical();
    let socket = UdpSocket::connect(SocketAddr::new(ip, PORT), None);
    socket.and_then(|socket| socket.local_address()).is_ok_and(|own| own.ip() == ip)
}

fn connect(address: SocketAddr, source: Source, kind: Type) -> Result<Socket, ConnectError> {
    match source {
        Source::Any => {
            let socket = tcp::new_socket(address, kind)?;
            begin(&socket, address)?;
            Ok(socket)
        }
        Source::Address(ip) => {
            same_family(ip, address)?;
            let socket = tcp::new_socket(address, kind)?;
            tcp::bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::new(ip, 0).into()).map_err(|error| {
                if is(&error, Errno::ADDRNOTAVAIL) { ConnectError::NotLocal(ip) } else { error.into() }
            })?;
            begin(&socket, address)?;
            Ok(socket)
        }
        Source::Client(client) => {
            same_family(client.ip(), address)?;
            // The client's port is taken when it has another flow to this origin, or had one a moment ago: then any other.
            match connect_as(client, address, kind) {
                Err(ConnectError::Failed(error)) if is_taken(&error) && client.port() != 0 => {
                    connect_as(SocketAddr::new(client.ip(), 0), address, kind)
                }
                other => other,
            }
        }
    }
}

fn connect_as(client: SocketAddr, address: SocketAddr, kind: Type) -> Result<Socket, ConnectError> {
    let socket = tcp::new_socket(address, kind)?;
    let transparent = if address.is_ipv6() {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    };
    transparent.map_err(|error| {
        if is(&error, Errno::PERM) || is(&error, Errno::ACCESS) {
            ConnectError::NotPermitted
        } else {
            error.into()
        }
    })?;
    if client.port() == 0 {
        tcp::bind_address_no_port(&socket)?;
    } else if kind == Type::STREAM {
        // One port towards several origins. Not for UDP: there two sockets with equal ends would both be allowed.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&client.into())?;
    begin(&socket, address)?;
    Ok(socket)
}

fn begin(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.connect(&address.into()) {
        Err(error) if !is(&error, Errno::INPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn same_family(ip: IpAddr, address: SocketAddr) -> Result<(), ConnectError> {
    if ip.is_ipv6() == address.is_ipv6() { Ok(()) } else { Err(ConnectError::OtherFamily) }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

fn is_taken(error: &io::Error) -> bool {
    is(error, Errno::ADDRINUSE) || is(error, Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoll::{Epoll, Events, Interest};
    use std::net::{TcpListener, UdpSocket as StdUdp};
    use std::time::Duration;

    fn finished(fd: &OwnedFd) {
        let epoll = Epoll::new().unwrap();
        epoll.add(fd, 0, Interest::WRITE).unwrap();
        assert_eq!(epoll.wait(&mut Events::with_capacity(1), Some(Duration::from_secs(10))).unwrap(), 1);
        assert!(tcp::take_error(fd).unwrap().is_none());
    }

    #[test]
    fn the_origin_sees_the_address_of_the_pool() {
        for (own, source) in [("127.0.0.1:0", "127.0.0.7"), ("[::1]:0", "::1")] {
            let origin = TcpListener::bind(own).unwrap();
            let fd =
                connect_tcp(origin.local_addr().unwrap(), Source::Address(source.parse().unwrap())).unwrap();
            finished(&fd);
            assert_eq!(origin.accept().unwrap().1.ip().to_string(), source);
            let origin = StdUdp::bind(own).unwrap();
            let socket =
                connect_udp(origin.local_addr().unwrap(), Source::Address(source.parse().unwrap())).unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(origin.recv_from(&mut [0; 1]).unwrap().1.ip().to_string(), source);
        }
    }

    #[test]
    fn a_source_that_is_not_ours_or_of_the_other_family_gives_no_socket() {
        let to = "127.0.0.1:9".parse().unwrap();
        // TEST-NET-1: no host has it.
        let foreign: IpAddr = "192.0.2.77".parse().unwrap();
        for result in [
            connect_tcp(to, Source::Address(foreign)).map(drop),
            connect_udp(to, Source::Address(foreign)).map(drop),
        ] {
            assert!(matches!(result, Err(ConnectError::NotLocal(ip)) if ip == foreign), "{result:?}");
        }
        for source in
            [Source::Address("::1".parse().unwrap()), Source::Client("[2001:db8::1]:5".parse().unwrap())]
        {
            assert!(matches!(connect_tcp(to, source), Err(ConnectError::OtherFamily)));
            assert!(matches!(connect_udp(to, source), Err(ConnectError::OtherFamily)));
        }
    }

    #[test]
    fn own_addresses_are_known() {
        assert!(is_own_address("127.0.0.1".parse().unwrap()));
        assert!(is_own_address("::1".parse().unwrap()));
        assert!(is_own_address("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_own_address("192.0.2.77".parse().unwrap()));
    }
}
