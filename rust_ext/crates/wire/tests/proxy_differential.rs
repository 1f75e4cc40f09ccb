//! Our reader of PROXY headers beside two others, `ppp` and `proxy-protocol-rs`: on the vectors, and on some 60,000 bent copies of them.
//!
//! Where they differ the difference has a name here and a reason why we do as we do; a difference without one fails, and so does a
//! name that no vector bears out. The bending follows a fixed sequence, so that every run sees the same headers.

#[path = "common/headers.rs"]
mod headers;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use headers::{PROXY, vectors};
use l4proxy_wire::proxy::{self, Endpoints, Header, MAX_HEADER_LENGTH, Progress, Rejected, tlv, v2};

/// What a reader makes of bytes, as far as all three can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// A header of this length that names these two, or nobody whose address could be used.
    Done(usize, Option<(SocketAddr, SocketAddr)>),
    /// More is needed, or nothing helps any more. When that is found out is each reader's own business.
    NotDone,
}

fn ours(bytes: &[u8]) -> Verdict {
    let Ok(Progress::Done { header, length }) = proxy::decode(bytes) else { return Verdict::NotDone };
    Verdict::Done(
        length,
        match header.endpoints {
            Endpoints::Inet { source, destination } => Some((source, destination)),
            Endpoints::Local | Endpoints::Unspecified | Endpoints::Unix { .. } => None,
        },
    )
}

fn by_ppp(bytes: &[u8]) -> Verdict {
    match ppp::HeaderResult::parse(bytes) {
        ppp::HeaderResult::V1(Err(_)) | ppp::HeaderResult::V2(Err(_)) => Verdict::NotDone,
        ppp::HeaderResult::V1(Ok(header)) => Verdict::Done(
            header.header.len(),
            match header.addresses {
                ppp::v1::Addresses::Unknown => None,
                ppp::v1::Addresses::Tcp4(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                ppp::v1::Addresses::Tcp6(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
            },
        ),
        ppp::HeaderResult::V2(Ok(header)) => Verdict::Done(
            header.len(),
            match (header.command, header.addresses) {
                (ppp::v2::Command::Local, _)
                | (_, ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_)) => None,
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv4(ip)) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv6(ip)) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
            },
        ),
    }
}

fn by_proxy_protocol_rs(bytes: &[u8]) -> Verdict {
    match proxy_protocol_rs::parse(bytes) {
        Err(_) => Verdict::NotDone,
        Ok((info, length)) => Verdict::Done(length, info.source_inet().zip(info.destination_inet())),
    }
}

/// Ways in which `ppp` 2.3 and we are known to differ.
fn known_of_ppp(bytes: &[u8]) -> Option<&'static str> {
    if bytes.first() == Some(&b'P') {
        let line = &bytes[..bytes.windows(2).position(|pair| pair == b"\r\n").unwrap_or(bytes.len())];
        return if line.contains(&b'\r') || line.contains(&b'\n') {
            Some("v1: splits fields at a lone CR, and ends the search at it; only CR LF ends a line")
        } else if line.contains(&b'+') {
            Some("v1: takes +80 for a port; the specification knows digits only")
        } else if line.starts_with(b"PROXY UNKNOWN") {
            Some("v1: refuses UNKNOWN with many words or bytes that are no text; the rest is to be ignored")
        } else {
            None
        };
    }
    match (proxy::decode(bytes), bytes.get(12)) {
        (Err(Rejected::Tlv | Rejected::Checksum), _) => {
            Some("v2: does not look at TLVs and checksum unless asked")
        }
        (Ok(Progress::Done { .. }), Some(0x20)) => Some(
            "v2: wants the addresses that a LOCAL header's family promises; LOCAL is to be skipped by its length",
        ),
        _ => too_long(bytes),
    }
}

/// Ways in which `proxy-protocol-rs` 0.8 and we are known to differ.
fn known_of_proxy_protocol_rs(bytes: &[u8]) -> Option<&'static str> {
    if bytes.first() == Some(&b'P') {
        let line = &bytes[..bytes.windows(2).position(|pair| pair == b"\r\n").unwrap_or(bytes.len())];
        let fields: Vec<_> = line.split(|&byte| byte == b' ').collect();
        let odd_port = |port: &&[u8]| port.starts_with(b"+") || (port.len() > 1 && port.starts_with(b"0"));
        return if line.starts_with(b"PROXY UNKNOWN ") && std::str::from_utf8(line).is_err() {
            Some("v1: wants text after UNKNOWN; the rest is to be ignored, whatever it is")
        } else if fields.len() == 6 && fields[4..].iter().any(odd_port) {
            Some(
                "v1: takes +80 and 080 for ports; the specification forbids leading zeros and knows digits only",
            )
        } else {
            None
        };
    }
    match (proxy::decode(bytes), bytes.get(12), bytes.get(13)) {
        (Ok(Progress::Done { .. }), Some(0x21), Some(kind)) if kind >> 4 == 0 || kind & 0xf == 0 => Some(
            "v2: refuses PROXY with an unspecified family or transport, which every receiver must implement",
        ),
        (_, Some(0x20), _) => {
            Some("v2: takes LOCAL with families that do not exist, and checks what a LOCAL header carries")
        }
        (Ok(Progress::Done { header, .. }), ..) if has_odd_ssl(&header) => {
            Some("v2: looks into the SSL TLV, whose inside we read past")
        }
        _ => too_long(bytes),
    }
}

fn too_long(bytes: &[u8]) -> Option<&'static str> {
    let length =
        bytes.get(14..16).map(|two| v2::FIXED_LENGTH + usize::from(two[0]) * 256 + usize::from(two[1]));
    (length > Some(MAX_HEADER_LENGTH)).then_some("v2: has no bound; ours is a bound against floods")
}

fn has_odd_ssl(header: &Header<'_>) -> bool {
    header.tlvs.iter().filter(|tlv| tlv.kind == tlv::SSL).any(|ssl| {
        let mut rest = &ssl.value[5..];
        while let Some((head, after)) = rest.split_first_chunk::<3>() {
            let Some(next) = after.get(usize::from(head[1]) * 256 + usize::from(head[2])..) else {
                return true;
            };
            rest = next;
        }
        !rest.is_empty()
    })
}

/// Bent copies of the vectors: a byte changed, cut out or put in, two halves joined.
fn bent(originals: &[Vec<u8>]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % bound.max(1)
    };
    let seeds = originals.iter().filter(|bytes| !bytes.is_empty() && bytes.len() < 600).cycle();
    seeds.take(60_000).map(move |seed| {
        let mut bytes = seed.clone();
        for _ in 0..=next(2) {
            let at = next(bytes.len());
            match next(5) {
                0 => bytes[at] ^= 1 << next(8),
                1 => bytes[at] = [b' ', b'0', b'\r', b'\n', 0, 3, 4, 0x20, 0xff][next(9)],
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, [b' ', b'0', b'+', b'\r', 0, 4, 0xff][next(7)]),
                _ => {
                    let other = &originals[next(originals.len())];
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[at.min(other.len())..]);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'P');
            }
        }
        bytes
    })
}

type Reader = fn(&[u8]) -> Verdict;
type Known = fn(&[u8]) -> Option<&'static str>;

fn compare(other: Reader, known: Known, expected: usize) {
    let originals: Vec<_> = vectors(PROXY).into_iter().map(|vector| vector.bytes).collect();
    let mut borne_out = BTreeMap::new();
    for (bytes, is_vector) in
        originals.iter().cloned().map(|b| (b, true)).chain(bent(&originals).map(|b| (b, false)))
    {
        let (we, they) = (ours(&bytes), other(&bytes));
        if we == they {
            continue;
        }
        let Some(name) = known(&bytes) else {
            panic!("we: {we:?}, they: {they:?}, of {:?}", bytes.escape_ascii().to_string());
        };
        *borne_out.entry(name).or_insert(0) += usize::from(is_vector);
    }
    let without: Vec<_> = borne_out.iter().filter(|(_, count)| **count == 0).collect();
    assert!(without.is_empty(), "differences without a vector: {without:?}");
    assert_eq!(borne_out.len(), expected, "{borne_out:#?}");
}

#[test]
fn beside_ppp() {
    compare(by_ppp, known_of_ppp, 6);
}

#[test]
fn beside_proxy_protocol_rs() {
    compare(by_proxy_protocol_rs, known_of_proxy_protocol_rs, 6);
}

#[test]
fn what_is_bent_is_often_still_a_header() {
    let originals: Vec<_> = vectors(PROXY).into_iter().map(|vector| vector.bytes).collect();
    let done = bent(&originals).filter(|bytes| ours(bytes) != Verdict::NotDone).count();
    assert!(done > 3_000, "{done}: then the comparison compares nothing");
}
