//! What is written is read back as what it was; what is bent or random makes no reader panic.

mod common;
#[path = "common/headers.rs"]
mod headers;

use std::net::SocketAddr;

use headers::check_every_prefix;
use l4proxy_wire::proxy::tlv::{self, Tlv};
use l4proxy_wire::proxy::v2::Extras;
use l4proxy_wire::proxy::{self, Endpoints, MAX_HEADER_LENGTH, Progress, Rejected, Transport, v1, v2};
use l4proxy_wire::spp::Spp;
use proptest::collection::vec;
use proptest::prelude::*;

fn transport() -> impl Strategy<Value = Transport> {
    proptest::sample::select(&[Transport::Unspecified, Transport::Stream, Transport::Datagram][..])
}

/// How headers begin, so that random bytes get beyond that.
const STARTS: &[&[u8]] = &[
    b"",
    v1::PREFIX,
    b"PROXY TCP4 ",
    b"PROXY TCP6 ::1 ",
    v2::SIGNATURE,
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0",
];

/// A TLV that may be written: any type but the checksum's, a value that its type allows.
fn tlv() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (
        any::<u8>().prop_filter("the checksum is not written by hand", |&kind| kind != tlv::CRC32C),
        vec(any::<u8>(), 5..100),
    )
}

/// Both addresses as the wire has them: of one family.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V6(_) => address,
    };
    if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    }
}

proptest! {
    #[test]
    fn lines(source in common::address(), destination in common::address(), after in vec(any::<u8>(), 0..40)) {
        let mut bytes = b"before".to_vec();
        v1::encode(source, destination, &mut bytes);
        let mut bytes = bytes.split_off(6);
        let length = bytes.len();
        prop_assert!(length <= v1::MAX_LENGTH);
        bytes.extend_from_slice(&after);
        let (source, destination) = same_family(source, destination);
        let Ok(Progress::Done { header, length: read }) = proxy::decode(&bytes) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!(read, length);
        prop_assert_eq!(header.endpoints, Endpoints::Inet { source, destination });
        prop_assert_eq!(header.transport, Transport::Stream);
        check_every_prefix(&bytes);
    }

    #[test]
    fn headers_of_version_2(
        source in common::address(), destination in common::address(), transport in transport(),
        tlvs in vec(tlv(), 0..6), checksum in any::<bool>(), after in vec(any::<u8>(), 0..40),
    ) {
        let tlvs: Vec<_> = tlvs.iter().map(|(kind, value)| Tlv { kind: *kind, value }).collect();
        let mut bytes = b"before".to_vec();
        let endpoints = Endpoints::Inet { source, destination };
        v2::encode(endpoints, transport, Extras { tlvs: &tlvs, checksum }, &mut bytes).unwrap();
        let mut bytes = bytes.split_off(6);
        let length = bytes.len();
        bytes.extend_from_slice(&after);
        let (source, destination) = same_family(source, destination);
        let Ok(Progress::Done { header, length: read }) = proxy::decode(&bytes) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!(read, length);
        prop_assert_eq!(header.endpoints, Endpoints::Inet { source, destination });
        prop_assert_eq!(header.transport, transport);
        let read: Vec<_> = header.tlvs.iter().collect();
        prop_assert_eq!(read.len(), tlvs.len() + usize::from(checksum));
        prop_assert_eq!(&read[..tlvs.len()], &tlvs[..]);
        check_every_prefix(&bytes);
        // What the checksum covers: here the addresses and itself. (Another type or length makes other TLVs of the rest.)
        if checksum {
            let addresses = if source.is_ipv4() { 12 } else { 36 };
            for at in (v2::FIXED_LENGTH..v2::FIXED_LENGTH + addresses).chain(length - 4..length) {
                bytes[at] ^= 1;
                prop_assert_eq!(proxy::decode(&bytes), Err(Rejected::Checksum), "byte {}", at);
                bytes[at] ^= 1;
            }
        }
    }

    #[test]
    fn headers_of_nobody(is_local in any::<bool>(), transport in transport()) {
        let endpoints = if is_local { Endpoints::Local } else { Endpoints::Unspecified };
        let mut bytes = Vec::new();
        let noop = [Tlv { kind: tlv::NOOP, value: b"" }];
        v2::encode(endpoints, transport, Extras { tlvs: &noop, checksum: true }, &mut bytes).unwrap();
        prop_assert_eq!(bytes.len(), v2::FIXED_LENGTH, "no addresses that nobody can read, and nothing after them");
        let Ok(Progress::Done { header, length }) = proxy::decode(&bytes) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!((header.endpoints, length), (endpoints, v2::FIXED_LENGTH));
        prop_assert_eq!(header.client(Transport::Stream), None);
    }

    #[test]
    fn nothing_makes_the_reader_panic(
        start in proptest::sample::select(STARTS),
        rest in vec(any::<u8>(), 0..200),
    ) {
        let bytes = [start, &rest].concat();
        check_every_prefix(&bytes);
        if let Ok(Progress::Done { header, length }) = proxy::decode(&bytes) {
            prop_assert!(length <= bytes.len().min(MAX_HEADER_LENGTH));
            let _ = header.tlvs.iter().count();
        }
    }

    #[test]
    fn spp(client in common::address(), proxy in common::address(), payload in vec(any::<u8>(), 0..100)) {
        let header = Spp { client, proxy };
        let datagram = [&header.encode()[..], &payload].concat();
        let (read, rest) = Spp::decode(&datagram).unwrap();
        prop_assert_eq!(rest, &payload[..]);
        prop_assert_eq!(read.encode(), header.encode());
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        prop_assert_eq!(read, Spp { client: plain(client), proxy: plain(proxy) });
        for cut in 0..l4proxy_wire::spp::LENGTH {
            prop_assert!(Spp::decode(&datagram[..cut]).is_err());
        }
    }
}

fn inet() -> Endpoints<'static> {
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    Endpoints::Inet { source: address, destination: address }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let long = vec![0; MAX_HEADER_LENGTH];
    for (kind, value) in [(tlv::UNIQUE_ID, &long[..129]), (tlv::NOOP, &long)] {
        let mut bytes = b"before".to_vec();
        let extras = Extras { tlvs: &[Tlv { kind, value }], checksum: true };
        assert!(v2::encode(inet(), Transport::Stream, extras, &mut bytes).is_err());
        assert_eq!(bytes, b"before");
    }
}

#[test]
fn a_mapped_client_is_known_by_its_ipv4_address() {
    let source: SocketAddr = "[::ffff:192.0.2.7]:9".parse().unwrap();
    let mut bytes = Vec::new();
    v1::encode(source, "[2001:db8::1]:80".parse().unwrap(), &mut bytes);
    assert_eq!(bytes, b"PROXY TCP6 ::ffff:c000:207 2001:db8::1 9 80\r\n");
    let Ok(Progress::Done { header, .. }) = proxy::decode(&bytes) else { panic!("not read") };
    assert_eq!(header.client(Transport::Stream), Some("192.0.2.7:9".parse().unwrap()));
    assert_eq!(header.client(Transport::Datagram), None);
}
