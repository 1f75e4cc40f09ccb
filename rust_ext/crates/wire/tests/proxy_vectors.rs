//! Good and bad PROXY and SPP headers from `tests/vectors`: every rule of the specification that is easy to get wrong has one.

#[path = "common/headers.rs"]
mod headers;

use std::collections::BTreeSet;

use headers::{PROXY, SPP, check_every_prefix, hex, vectors, verdict};
use l4proxy_wire::proxy::{self, MAX_HEADER_LENGTH, Progress, Rejected};
use l4proxy_wire::spp::{self, Spp};

#[test]
fn every_header_is_read_as_the_file_says() {
    let vectors = vectors(PROXY);
    let wrong: Vec<_> = vectors
        .iter()
        .map(|vector| (vector, verdict(&proxy::decode(&vector.bytes))))
        .filter(|(vector, got)| *got != vector.verdict)
        .map(|(vector, got)| format!("{}: {got}, not {}", vector.name, vector.verdict))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names: BTreeSet<_> = vectors.iter().map(|vector| vector.name).collect();
    assert_eq!(names.len(), vectors.len(), "two vectors of one name");
    assert!(names.len() >= 200, "only {}", names.len());
}

#[test]
fn every_reason_to_reject_has_a_vector() {
    let rejected: BTreeSet<_> = vectors(PROXY).iter().map(|vector| vector.verdict).collect();
    for reason in Rejected::ALL {
        assert!(rejected.contains(format!("reject {reason}").as_str()), "{reason}");
    }
}

#[test]
fn those_that_crashed_others_are_here() {
    let text: Vec<_> = vectors(PROXY).iter().map(|vector| vector.name).collect();
    for name in ["cve-2024-23325", "cve-2024-23327", "cve-2024-23324", "haproxy-bug-major", "cve-2021-23409"]
    {
        assert!(text.iter().any(|vector| vector.starts_with(name)), "{name}");
    }
}

#[test]
fn a_header_in_pieces_is_read_as_one_that_comes_whole() {
    for vector in vectors(PROXY) {
        check_every_prefix(&vector.bytes);
    }
}

#[test]
fn what_follows_a_header_changes_nothing() {
    for vector in vectors(PROXY).iter().filter(|vector| vector.verdict.starts_with("done")) {
        for after in [&b"\r\n"[..], b"PROXY UNKNOWN\r\n", b"\x03\0\x04\0\0\0\0", &[0xff; 300]] {
            let followed = [&vector.bytes, after].concat();
            assert_eq!(verdict(&proxy::decode(&followed)), vector.verdict, "{}", vector.name);
        }
    }
}

#[test]
fn no_header_is_waited_for_beyond_the_bound() {
    for first in [b"PROXY UNKNOWN ".to_vec(), [&proxy::v2::SIGNATURE[..], b"\x21\x11\x0f\xf0"].concat()] {
        let mut bytes = first;
        bytes.resize(MAX_HEADER_LENGTH, b'x');
        assert!(!matches!(proxy::decode(&bytes), Ok(Progress::Incomplete { .. })));
    }
}

#[test]
fn every_spp_header_is_read_and_written_as_the_file_says() {
    for vector in vectors(SPP) {
        let got = match Spp::decode(&vector.bytes) {
            Err(_) => "reject".to_owned(),
            Ok((Spp { client, proxy }, payload)) => {
                let payload = if payload.is_empty() { "-".to_owned() } else { hex(payload) };
                format!("done {client} {proxy} {payload}")
            }
        };
        assert_eq!(got, vector.verdict, "{}", vector.name);
        if let Ok((header, payload)) = Spp::decode(&vector.bytes) {
            assert_eq!([&header.encode(), payload].concat(), vector.bytes, "{}", vector.name);
            assert_eq!(vector.bytes.len(), spp::LENGTH + payload.len());
        }
    }
}
