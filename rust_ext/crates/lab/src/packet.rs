//! The two addresses of an IPv4 or IPv6 packet. They are all that a link is found by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who a packet is from and for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
}

const IPV4_HEADER_MIN: usize = 20;
const IPV6_HEADER: usize = 40;

impl Endpoints {
    /// Reads them from a packet's first bytes. `None`: not IP, or too short to be.
    #[must_use]
    pub fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 if packet.len() >= IPV4_HEADER_MIN => {
                let address = |at: usize| {
                    packet[at..at + 4].try_into().ok().map(|b: [u8; 4]| IpAddr::V4(Ipv4Addr::from(b)))
                };
                Some(Self { source: address(12)?, destination: address(16)? })
            }
            6 if packet.len() >= IPV6_HEADER => {
                let address = |at: usize| {
                    packet[at..at + 16].try_into().ok().map(|b: [u8; 16]| IpAddr::V6(Ipv6Addr::from(b)))
                };
                Some(Self { source: address(8)?, destination: address(24)? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoints;
    use proptest::prelude::*;

    #[test]
    fn both_families_are_read() {
        let mut v4 = vec![0u8; 20];
        v4[0] = 0x45;
        v4[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let found = Endpoints::of(&v4).unwrap();
        assert_eq!(
            (found.source.to_string(), found.destination.to_string()),
            ("10.0.0.1".into(), "10.0.0.2".into())
        );

        let mut v6 = vec![0u8; 40];
        v6[0] = 0x60;
        v6[8] = 0xfd;
        v6[23] = 1;
        v6[24] = 0xfd;
        v6[39] = 2;
        let found = Endpoints::of(&v6).unwrap();
        assert_eq!(
            (found.source.to_string(), found.destination.to_string()),
            ("fd00::1".into(), "fd00::2".into())
        );
    }

    #[test]
    fn a_truncated_header_is_no_packet() {
        assert_eq!(Endpoints::of(&[]), None);
        assert_eq!(Endpoints::of(&[0x45; 19]), None);
        assert_eq!(Endpoints::of(&[0x60; 39]), None);
        assert_eq!(Endpoints::of(&[0x55; 60]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Endpoints::of(&bytes);
        }
    }
}
