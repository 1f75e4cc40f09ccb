//! The options of a UDP socket, asked for together, and what the kernel granted.

use super::UdpSocket;
use crate::sockaddr::set_option;
use rustix::net::sockopt;
use std::io;
use std::os::fd::AsFd;

/// How the kernel treats datagrams that are larger than the path's MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtuDiscovery {
    /// Never "don't fragment": the kernel and routers fragment.
    Fragment,
    /// "Don't fragment" is set; too large for the known path MTU is refused with `EMSGSIZE`.
    Discover,
    /// "Don't fragment" is set and the known path MTU ignored: for senders that probe the MTU themselves.
    Probe,
}

/// What a socket is asked to do. The default asks for nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct UdpOptions {
    /// Tell which local address (and interface) each datagram came to.
    pub packet_info: bool,
    /// Tell each datagram's TOS byte (DSCP and ECN).
    pub tos: bool,
    /// Let the kernel hand over several equal datagrams of one sender as one. Buffers must then hold 64 kB.
    pub gro: bool,
    /// Stamp each datagram with the wall clock when the kernel received it.
    pub timestamps: bool,
    /// Queue ICMP errors, with the address that they are about, for [`UdpSocket::take_queued_error`].
    pub queue_errors: bool,
    /// Receive buffer in bytes; more than the system's limit only with CAP_NET_ADMIN.
    pub recv_buffer: Option<usize>,
    /// Send buffer in bytes, likewise.
    pub send_buffer: Option<usize>,
    /// What to do about the path's MTU; `None` leaves the system's default.
    pub mtu_discovery: Option<MtuDiscovery>,
}

/// What the kernel granted of the wishes that it may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Datagrams may come merged.
    pub gro: bool,
    /// Usable bytes of the receive buffer. The kernel doubles what is asked for and spends the other half on bookkeeping.
    pub recv_buffer: usize,
    /// Usable bytes of the send buffer.
    pub send_buffer: usize,
}

impl UdpSocket {
    /// Applies the options. Buffers and GRO are granted as far as the kernel allows; anything else that fails is an error.
    pub fn apply(&self, options: &UdpOptions) -> io::Result<Granted> {
        if options.packet_info {
            self.enable_everywhere(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO)?;
        }
        if options.tos {
            self.enable_everywhere(libc::IP_RECVTOS, libc::IPV6_RECVTCLASS)?;
        }
        if options.queue_errors {
            self.enable_everywhere(libc::IP_RECVERR, libc::IPV6_RECVERR)?;
        }
        if options.timestamps {
            self.enable(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
        }
        if let Some(discovery) = options.mtu_discovery {
            self.set_mtu_discovery(discovery)?;
        }
        if let Some(bytes) = options.recv_buffer {
            sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes)
                .or_else(|_| sockopt::set_socket_recv_buffer_size(&self.fd, bytes))?;
        }
        if let Some(bytes) = options.send_buffer {
            sockopt::set_socket_send_buffer_size_force(&self.fd, bytes)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&self.fd, bytes))?;
        }
        Ok(Granted {
            gro: options.gro && self.enable(libc::SOL_UDP, libc::UDP_GRO).is_ok(),
            recv_buffer: sockopt::socket_recv_buffer_size(&self.fd)? / 2,
            send_buffer: sockopt::socket_send_buffer_size(&self.fd)? / 2,
        })
    }

    /// Marks what is sent from here on with this TOS byte.
    ///
    /// # Errors
    /// The kernel refuses; the mark before stays.
    pub fn set_tos(&self, tos: u8) -> io::Result<()> {
        crate::sockaddr::set_tos(self.fd.as_fd(), self.is_v6, tos)
    }

    fn enable(&self, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
        let on: libc::c_int = 1;
        set_option(self.fd.as_fd(), level, name, &on)
    }

    /// An IPv6 socket may serve both families, so it gets both options.
    fn enable_everywhere(&self, v4: libc::c_int, v6: libc::c_int) -> io::Result<()> {
        self.enable(libc::IPPROTO_IP, v4)?;
        if self.is_v6 { self.enable(libc::IPPROTO_IPV6, v6) } else { Ok(()) }
    }

    fn set_mtu_discovery(&self, discovery: MtuDiscovery) -> io::Result<()> {
        let (v4, v6) = match discovery {
            MtuDiscovery::Fragment => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT),
            MtuDiscovery::Discover => (libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO),
            MtuDiscovery::Probe => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
        };
        set_option(self.fd.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &v4)?;
        if self.is_v6 {
            set_option(self.fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &v6)?;
        }
        Ok(())
    }
}
