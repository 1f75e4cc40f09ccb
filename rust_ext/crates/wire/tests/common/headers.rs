//! The files of `tests/vectors` that say what a strict reader makes of PROXY headers: also read by the strict receivers in Python.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unreachable_pub, reason = "a module of tests, compiled into each of them")]

use std::fmt::Write;

use l4proxy_wire::proxy::{self, Endpoints, Header, Progress, Rejected, Transport, v2};

pub const PROXY: &str = include_str!("../../../../../tests/vectors/proxy_headers.txt");
pub const SPP: &str = include_str!("../../../../../tests/vectors/spp_headers.txt");

/// One line of a file.
pub struct Vector {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub verdict: &'static str,
}

/// All of a file.
pub fn vectors(file: &'static str) -> Vec<Vector> {
    let lines = file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &'static str| {
        let (name, rest) = line.split_once(" | ").expect("a name");
        let (bytes, verdict) = rest.rsplit_once(" | ").expect("a verdict");
        Vector { name, bytes: parse_bytes(bytes), verdict }
    };
    lines.map(read).collect()
}

fn parse_bytes(notation: &str) -> Vec<u8> {
    if let Some(text) = notation.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return unescape(text);
    }
    let mut bytes = Vec::new();
    for word in notation.split_whitespace() {
        match (word, word.split_once('*')) {
            ("SIG", _) => bytes.extend_from_slice(v2::SIGNATURE),
            ("-", _) => {}
            (_, Some((byte, count))) => bytes.extend(unhex(byte).repeat(count.parse().expect("a count"))),
            (_, None) => bytes.extend(unhex(word)),
        }
    }
    bytes
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, if byte == b'\\' { rest.next() } else { None }) {
            (_, None) => byte,
            (_, Some(b'r')) => b'\r',
            (_, Some(b'n')) => b'\n',
            (_, Some(b't')) => b'\t',
            (_, Some(b'0')) => 0,
            (_, Some(b'x')) => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                unhex(std::str::from_utf8(&digits).expect("ASCII"))[0]
            }
            (_, Some(other)) => panic!("\\{} is no escape", char::from(other)),
        });
    }
    bytes
}

pub fn unhex(digits: &str) -> Vec<u8> {
    let (pairs, odd) = digits.as_bytes().as_chunks::<2>();
    assert!(odd.is_empty(), "an odd number of digits: {digits}");
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    pairs.iter().map(|pair| byte(&pair[..])).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("memory");
        text
    })
}

/// What the reader makes of bytes, in the words of the files.
pub fn verdict(read: &Result<Progress<Header<'_>>, Rejected>) -> String {
    let (header, length) = match read {
        Err(reason) => return format!("reject {reason}"),
        Ok(Progress::Incomplete { needed }) => return format!("incomplete {needed}"),
        Ok(Progress::Done { header, length }) => (header, length),
    };
    let transport = match header.transport {
        Transport::Unspecified => "any",
        Transport::Stream => "stream",
        Transport::Datagram => "datagram",
    };
    let whom = match header.endpoints {
        Endpoints::Local => return format!("done {length} local"),
        Endpoints::Unspecified => return format!("done {length} unspecified"),
        Endpoints::Inet { source, destination } => format!("{source} {destination}"),
        Endpoints::Unix { source, destination } => format!("unix {} {}", path(source), path(destination)),
    };
    let tlvs = header.tlvs.iter().fold(String::new(), |mut text, tlv| {
        write!(text, " {:02x}={}", tlv.kind, hex(tlv.value)).expect("memory");
        text
    });
    format!("done {length} {transport} {whom}{tlvs}")
}

fn path(field: &[u8]) -> &str {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    if end == 0 { "-" } else { std::str::from_utf8(&field[..end]).expect("text") }
}

/// Whether reading is incremental: nothing is said of a part that the whole would contradict.
pub fn check_every_prefix(bytes: &[u8]) {
    let whole = proxy::decode(bytes);
    for cut in 0..bytes.len() {
        match (proxy::decode(&bytes[..cut]), &whole) {
            (Ok(Progress::Incomplete { needed }), whole) => {
                assert!(needed > cut, "{cut} bytes, and it wants {needed}");
                if let Ok(Progress::Done { length, .. }) = whole {
                    assert!(needed <= *length, "{cut} bytes of {length}, and it wants {needed}");
                }
            }
            (early @ (Ok(Progress::Done { .. }) | Err(_)), whole) => {
                assert_eq!(&early, whole, "{cut} bytes of {}", bytes.len());
            }
        }
    }
}
