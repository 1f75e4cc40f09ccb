//! PROXY headers of both versions. Whatever comes: no panic, no header from bytes that are not one, nothing said of a part that the whole
//! contradicts, nothing taken from what follows, and what is read can be written and read again.

use l4proxy_wire::proxy::v2::Extras;
use l4proxy_wire::proxy::{self, Endpoints, Header, MAX_HEADER_LENGTH, Progress, Rejected, Transport};

type Read<'a> = Result<Progress<Header<'a>>, Rejected>;

/// Prefixes of an input that are looked at one by one; of a longer one only the last few more.
const PREFIXES: usize = 160;

/// Version 1.
pub(crate) fn v1(bytes: &[u8]) {
    let read = proxy::v1::decode(bytes);
    if let Ok(Progress::Done { length, header }) = read {
        assert!((proxy::v1::MIN_LENGTH..=proxy::v1::MAX_LENGTH).contains(&length));
        assert!(bytes[..length].ends_with(b"\r\n") && bytes.starts_with(proxy::v1::PREFIX));
        if let Endpoints::Inet { source, destination } = header.endpoints {
            let mut written = Vec::new();
            proxy::v1::encode(source, destination, &mut written);
            let Ok(Progress::Done { header: again, length }) = proxy::v1::decode(&written) else {
                panic!("what was read is written as {written:?}, which is no header")
            };
            assert_eq!((again, length), (header, written.len()));
        }
    }
    if let Ok(Progress::Incomplete { needed }) = read {
        assert!(needed <= proxy::v1::MAX_LENGTH, "a line of {needed} bytes");
    }
    check(bytes, &read, proxy::v1::decode);
}

/// Version 2.
pub(crate) fn v2(bytes: &[u8]) {
    let read = proxy::v2::decode(bytes);
    if let Ok(Progress::Done { length, header }) = read {
        let said = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        assert_eq!(length, proxy::v2::FIXED_LENGTH + said);
        assert!(length <= MAX_HEADER_LENGTH && bytes.starts_with(proxy::v2::SIGNATURE));
        let mut written = Vec::new();
        let extras = Extras { tlvs: &[], checksum: true };
        proxy::v2::encode(header.endpoints, header.transport, extras, &mut written).expect("it is short");
        let Ok(Progress::Done { header: again, length }) = proxy::v2::decode(&written) else {
            panic!("what was read is written as {written:?}, which is no header")
        };
        assert_eq!(length, written.len());
        assert_eq!((again.endpoints, again.transport), (header.endpoints, header.transport));
    }
    check(bytes, &read, proxy::v2::decode);
}

/// What holds for both versions.
fn check<'a>(bytes: &'a [u8], read: &Read<'a>, decode: fn(&[u8]) -> Read<'_>) {
    if bytes.first() == Some(&proxy::v1::PREFIX[0]) || bytes.first() == Some(&proxy::v2::SIGNATURE[0]) {
        // The version is told by the first byte, so one of the two decoders is asked through the door of both.
        let through_the_door = proxy::decode(bytes);
        assert!(through_the_door == *read || read.is_err(), "{through_the_door:?} is not {read:?}");
    }
    let cuts = (0..bytes.len()).filter(|&cut| cut < PREFIXES || cut + 3 > bytes.len());
    for cut in cuts {
        check_prefix(cut, &decode(&bytes[..cut]), read);
    }
    match read {
        Err(_) => {}
        Ok(Progress::Incomplete { needed }) => assert!(
            (bytes.len() + 1..=MAX_HEADER_LENGTH).contains(needed),
            "{} bytes, and {needed}",
            bytes.len()
        ),
        Ok(Progress::Done { header, length }) => {
            let followed = [&bytes[..*length], &[0xff; 9]].concat();
            let again = Progress::Done { header: *header, length: *length };
            assert_eq!(decode(&followed).map(|read| read == again), Ok(true));
            // Reading what it says is safe, too.
            let said: usize = header.tlvs.iter().map(|tlv| tlv.value.len()).sum();
            assert!(said <= *length);
            for over in [Transport::Stream, Transport::Datagram] {
                let client = header.client(over);
                assert!(client.is_none() || matches!(header.endpoints, Endpoints::Inet { .. }));
            }
        }
    }
}

fn check_prefix(cut: usize, early: &Read<'_>, whole: &Read<'_>) {
    match (early, whole) {
        (Ok(Progress::Incomplete { needed }), whole) => {
            assert!(*needed > cut, "{cut} bytes, and it wants {needed}");
            if let Ok(Progress::Done { length, .. }) = whole {
                assert!(needed <= length, "{cut} bytes of {length}, and it wants {needed}");
            }
        }
        (Ok(Progress::Done { .. }) | Err(_), whole) => assert_eq!(early, whole, "of {cut} bytes"),
    }
}
