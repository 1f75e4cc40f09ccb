//! Conversions between `SocketAddr` and the kernel's `sockaddr`, and plain integer socket options. Shared by the modules with raw calls.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for the address of either family, in the kernel's layout.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union RawAddress {
    pub(crate) family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    pub(crate) const fn empty() -> Self {
        // SAFETY: all-zero is valid for every member: integers and arrays of them.
        unsafe { std::mem::zeroed() }
    }

    /// Writes `address` for a socket of the given family and returns its length. An IPv6 socket gets IPv4 in mapped form.
    pub(crate) fn write(&mut self, address: SocketAddr, socket_is_v6: bool) -> libc::socklen_t {
        match address {
            SocketAddr::V4(v4) if socket_is_v6 => {
                self.write_v6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
            }
            SocketAddr::V4(v4) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(v6) => self.write_v6(v6),
        }
    }

    fn write_v6(&mut self, address: SocketAddrV6) -> libc::socklen_t {
        self.v6 = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: address.port().to_be(),
            sin6_flowinfo: address.flowinfo(),
            sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
            sin6_scope_id: address.scope_id(),
        };
        size_of::<libc::sockaddr_in6>() as libc::socklen_t
    }

    /// Reads an address of `length` bytes; mapped IPv4 becomes IPv4. `None` for any other family.
    pub(crate) fn read(&self, length: libc::socklen_t) -> Option<SocketAddr> {
        let length = length as usize;
        if length < size_of::<libc::sa_family_t>() {
            return None;
        }
        // SAFETY: the union was zeroed before the kernel wrote into it, so every member is initialised.
        let family = libc::c_int::from(unsafe { self.family });
        if family == libc::AF_INET && length >= size_of::<libc::sockaddr_in>() {
            // SAFETY: as above; any bits are valid integers.
            let v4 = unsafe { self.v4 };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            return Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))));
        }
        if family == libc::AF_INET6 && length >= size_of::<libc::sockaddr_in6>() {
            // SAFETY: as above; any bits are valid integers.
            let v6 = unsafe { self.v6 };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let address = SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id);
            return Some(crate::tcp::canonical(SocketAddr::V6(address)));
        }
        None
    }
}

/// Sets a socket option whose value is a plain C struct or integer.
pub(crate) fn set_option<T: Copy>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe one live value of type T, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The TOS byte of everything that the socket sends from here on.
pub(crate) fn set_tos(fd: BorrowedFd<'_>, is_v6: bool, tos: u8) -> io::Result<()> {
    let tos = libc::c_int::from(tos);
    if is_v6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos)?;
    }
    // Also of an IPv6 socket: it may send to IPv4.
    set_option(fd, libc::IPPROTO_IP, libc::IP_TOS, &tos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_survives_the_way_through_the_kernels_form() {
        for (text, socket_is_v6) in [("1.2.3.4:5", false), ("1.2.3.4:5", true), ("[2001:db8::7]:65535", true)]
        {
            let address: SocketAddr = text.parse().unwrap();
            let mut raw = RawAddress::empty();
            let length = raw.write(address, socket_is_v6);
            assert_eq!(raw.read(length), Some(address));
        }
        let scoped = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 3));
        let mut raw = RawAddress::empty();
        let length = raw.write(scoped, true);
        assert_eq!(raw.read(length), Some(scoped));
    }

    #[test]
    fn an_address_that_is_cut_short_or_of_another_family_is_refused() {
        let mut raw = RawAddress::empty();
        let length = raw.write("1.2.3.4:5".parse().unwrap(), false);
        assert_eq!(raw.read(length - 1), None);
        assert_eq!(raw.read(0), None);
        raw.family = libc::AF_UNIX as libc::sa_family_t;
        assert_eq!(raw.read(length), None);
    }
}
