//! Control messages: a bounded, aligned buffer per datagram, written and read without trusting its contents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes for the control messages of one datagram. All that we ask for need 176 on 64-bit Linux.
pub(super) const SPACE: usize = 256;

/// One datagram's control messages. `cmsghdr` wants the alignment of a `usize`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control(pub(super) [u8; SPACE]);

impl Control {
    pub(super) const EMPTY: Self = Self([0; SPACE]);
}

const HEADER: usize = align(size_of::<libc::cmsghdr>());

const fn align(length: usize) -> usize {
    length.next_multiple_of(size_of::<usize>())
}

/// Appends control messages to a buffer.
pub(super) struct Writer<'a> {
    control: &'a mut Control,
    length: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(control: &'a mut Control) -> Self {
        Self { control, length: 0 }
    }

    /// Bytes written so far: the message header's `msg_controllen`.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Appends one message of at most 20 bytes; the few that a datagram can have always fit.
    fn push(&mut self, level: libc::c_int, kind: libc::c_int, value: &[u8]) {
        let header_length = size_of::<libc::cmsghdr>();
        let end = self.length + HEADER + align(value.len());
        debug_assert!(end <= SPACE, "a datagram has at most three control messages");
        let slot = &mut self.control.0[self.length..end];
        slot.fill(0);
        // Field by field, in the layout of `cmsghdr`: length (size_t), level, kind.
        let size = size_of::<usize>();
        slot[..size].copy_from_slice(&(HEADER + value.len()).to_ne_bytes());
        slot[size..size + 4].copy_from_slice(&level.to_ne_bytes());
        slot[size + 4..header_length].copy_from_slice(&kind.to_ne_bytes());
        slot[HEADER..HEADER + value.len()].copy_from_slice(value);
        self.length = end;
    }

    /// The address that the datagram shall come from.
    pub(super) fn source(&mut self, ip: IpAddr, interface: u32) {
        match ip {
            IpAddr::V4(v4) => {
                // in_pktinfo: interface, address to send from, (ignored) destination.
                let mut info = [0; 12];
                info[..4].copy_from_slice(&interface.to_ne_bytes());
                info[4..8].copy_from_slice(&v4.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(v6) => {
                // in6_pktinfo: address, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&v6.octets());
                info[16..].copy_from_slice(&interface.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// The TOS byte, for a destination of the given family.
    pub(super) fn tos(&mut self, tos: u8, destination_is_v6: bool) {
        let (level, kind) = if destination_is_v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        } else {
            (libc::IPPROTO_IP, libc::IP_TOS)
        };
        self.push(level, kind, &libc::c_int::from(tos).to_ne_bytes());
    }

    /// The size of the segments into which the kernel shall cut the message.
    pub(super) fn segment_size(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
    }
}

/// One received control message that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Local {
        ip: IpAddr,
        interface: u32,
    },
    Tos(u8),
    TimestampNs(u64),
    SegmentSize(u16),
    /// `sock_extended_err`: errno, origin, info (the MTU for `EMSGSIZE`).
    Error {
        errno: i32,
        origin: u8,
        info: u32,
    },
}

/// Reads the control messages that stand in the first `length` bytes; unknown ones are passed over, broken ones end it.
pub(super) fn read(control: &Control, length: usize) -> impl Iterator<Item = Message> + '_ {
    let mut rest = &control.0[..length.min(SPACE)];
    std::iter::from_fn(move || {
        loop {
            let (level, kind, value, next) = split(rest)?;
            rest = next;
            if let Some(message) = parse(level, kind, value) {
                return Some(message);
            }
        }
    })
}

fn split(buffer: &[u8]) -> Option<(libc::c_int, libc::c_int, &[u8], &[u8])> {
    let size = size_of::<usize>();
    let length = usize::from_ne_bytes(buffer.get(..size)?.try_into().ok()?);
    let level = i32::from_ne_bytes(buffer.get(size..size + 4)?.try_into().ok()?);
    let kind = i32::from_ne_bytes(buffer.get(size + 4..size + 8)?.try_into().ok()?);
    let value = buffer.get(HEADER..length)?;
    let next = buffer.get(align(length)..).unwrap_or_default();
    Some((level, kind, value, next))
}

fn parse(level: libc::c_int, kind: libc::c_int, value: &[u8]) -> Option<Message> {
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // The second field is the local address that a reply should come from; the header's destination may be a broadcast.
            let interface = u32::from_ne_bytes(array(value, 0)?);
            let ip = Ipv4Addr::from(array::<4>(value, 4)?);
            Some(Message::Local { ip: ip.into(), interface })
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let ip = Ipv6Addr::from(array::<16>(value, 0)?);
            let interface = u32::from_ne_bytes(array(value, 16)?);
            // A dual-stack socket tells an IPv4 packet's address in both messages; the other one knows what a reply should use.
            ip.to_ipv4_mapped().is_none().then_some(Message::Local { ip: ip.into(), interface })
        }
        // One byte in this message, against four everywhere else.
        (libc::IPPROTO_IP, libc::IP_TOS) => Some(Message::Tos(*value.first()?)),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            u8::try_from(i32::from_ne_bytes(array(value, 0)?)).ok().map(Message::Tos)
        }
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
            let half = size_of::<libc::time_t>();
            let seconds = u64::try_from(libc::time_t::from_ne_bytes(array(value, 0)?)).ok()?;
            let nanoseconds = u64::try_from(libc::c_long::from_ne_bytes(array(value, half)?)).ok()?;
            Some(Message::TimestampNs(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)))
        }
        (libc::SOL_UDP, libc::UDP_GRO) => {
            u16::try_from(i32::from_ne_bytes(array(value, 0)?)).ok().map(Message::SegmentSize)
        }
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
            // sock_extended_err: errno (4), origin (1), type (1), code (1), padding (1), info (4).
            let errno = u32::from_ne_bytes(array(value, 0)?).cast_signed();
            Some(Message::Error { errno, origin: *value.get(4)?, info: u32::from_ne_bytes(array(value, 8)?) })
        }
        _ => None,
    }
}

fn array<const N: usize>(value: &[u8], at: usize) -> Option<[u8; N]> {
    value.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut control = Control::EMPTY;
        let mut writer = Writer::new(&mut control);
        writer.source("192.0.2.1".parse().unwrap(), 5);
        writer.tos(0xb8, false);
        writer.source("2001:db8::1".parse().unwrap(), 6);
        writer.tos(0x03, true);
        let length = writer.length();
        let messages: Vec<_> = read(&control, length).collect();
        assert_eq!(
            messages,
            [
                Message::Local { ip: "192.0.2.1".parse().unwrap(), interface: 5 },
                Message::Tos(0xb8),
                Message::Local { ip: "2001:db8::1".parse().unwrap(), interface: 6 },
                Message::Tos(0x03),
            ]
        );
    }

    #[test]
    fn the_layout_is_the_c_librarys() {
        let mut control = Control::EMPTY;
        let mut writer = Writer::new(&mut control);
        writer.segment_size(1200);
        writer.tos(1, true);
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (segment, tos, offset) = unsafe { (libc::CMSG_SPACE(2), libc::CMSG_SPACE(4), libc::CMSG_LEN(0)) };
        assert_eq!(writer.length(), (segment + tos) as usize);
        assert_eq!(HEADER, offset as usize);
    }

    #[test]
    fn broken_lengths_end_the_reading_and_never_panic() {
        for length in [0usize, 1, 15, 16, 17, SPACE, SPACE + 1, usize::MAX, usize::MAX - 7] {
            let mut control = Control([0xff; SPACE]);
            control.0[..8].copy_from_slice(&length.to_ne_bytes());
            assert!(read(&control, SPACE).count() <= SPACE / HEADER);
            assert_eq!(read(&control, 12).count(), 0);
        }
    }
}
