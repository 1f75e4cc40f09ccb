//! Simple Proxy Protocol: a datagram is refused, or its header is these very bytes again and the payload all that follows.

use l4proxy_wire::spp::{LENGTH, Spp};

/// One datagram.
pub(crate) fn run(datagram: &[u8]) {
    let is_whole = datagram.len() >= LENGTH && datagram.starts_with(&[0x56, 0xec]);
    match Spp::decode(datagram) {
        Err(malformed) => assert!(!is_whole, "{malformed:?}"),
        Ok((header, payload)) => {
            assert!(is_whole);
            assert_eq!([&header.encode()[..], payload].concat(), datagram);
        }
    }
}
