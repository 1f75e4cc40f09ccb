//! The header with which a TCP connection tells a reflector what it wants. A connection that starts with anything else is echoed.

/// Bytes of the header: magic (7), mode (1), count (8, big-endian).
pub const LENGTH: usize = 16;
/// No text protocol starts with a zero byte, and our own echo messages never do.
const MAGIC: [u8; 7] = *b"\0L4BNCH";

/// The end of what a sink shall swallow, for senders that keep their direction open: many proxies (nginx by default) take FIN for the
/// end of both.
const TRAILER: [u8; 8] = *b"\0L4BEND\0";

/// The trailer after `count` bytes.
#[must_use]
pub fn trailer(count: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&TRAILER);
    bytes[8..].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// The end of a stream so far, to find a trailer in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tail {
    last: [u8; LENGTH],
    count: u64,
}

impl Tail {
    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        if let Some(last) = bytes.last_chunk::<LENGTH>() {
            self.last = *last;
            return;
        }
        self.last.rotate_left(bytes.len());
        let start = LENGTH - bytes.len();
        self.last[start..].copy_from_slice(bytes);
    }

    /// Bytes that have come, without a trailer, and whether the trailer has.
    #[must_use]
    pub fn total(&self) -> (u64, bool) {
        match self.count.checked_sub(LENGTH as u64) {
            Some(before) if self.last == trailer(before) => (before, true),
            _ => (self.count, false),
        }
    }
}

/// What the reflector shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Send back every byte.
    Echo,
    /// Swallow everything until FIN or a trailer, then answer with the number of bytes swallowed (8, big-endian, the trailer not
    /// counted) and close.
    Sink,
    /// Send this many bytes and close.
    Source(u64),
}

/// What the first bytes of a connection mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// Not enough of them yet.
    Incomplete,
    /// No header: echo, these bytes included.
    Plain,
    /// A header of [`LENGTH`] bytes.
    Header(Mode),
}

impl Mode {
    /// The header, or nothing for a plain echo.
    #[must_use]
    pub fn encode(self) -> Option<[u8; LENGTH]> {
        let (code, count) = match self {
            Self::Echo => return None,
            Self::Sink => (1, 0),
            Self::Source(count) => (2, count),
        };
        let mut header = [0; LENGTH];
        header[..7].copy_from_slice(&MAGIC);
        header[7] = code;
        header[8..].copy_from_slice(&u64::to_be_bytes(count));
        Some(header)
    }

    /// Reads the first bytes of a connection.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Parsed {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Parsed::Plain;
        }
        let Some(header) = bytes.first_chunk::<LENGTH>() else { return Parsed::Incomplete };
        let [.., a, b, c, d, e, f, g, h] = *header;
        match header[7] {
            1 => Parsed::Header(Self::Sink),
            2 => Parsed::Header(Self::Source(u64::from_be_bytes([a, b, c, d, e, f, g, h]))),
            _ => Parsed::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_however_it_is_cut() {
        for mode in [Mode::Sink, Mode::Source(0), Mode::Source(u64::MAX)] {
            let header = mode.encode().unwrap();
            for cut in 0..LENGTH {
                assert_eq!(Mode::parse(&header[..cut]), Parsed::Incomplete, "{cut}");
            }
            assert_eq!(Mode::parse(&header), Parsed::Header(mode));
            assert_eq!(Mode::parse(&[&header[..], b"more"].concat()), Parsed::Header(mode));
        }
    }

    #[test]
    fn a_trailer_is_found_however_it_is_cut_and_only_after_its_own_count() {
        for cut in 0..=LENGTH {
            let mut tail = Tail::default();
            tail.push(&[0x5a; 1000]);
            assert_eq!(tail.total(), (1000, false));
            let (first, rest) = (&trailer(1000)[..cut], &trailer(1000)[cut..]);
            tail.push(first);
            tail.push(rest);
            assert_eq!(tail.total(), (1000, true), "{cut}");
            tail.push(b"x");
            assert_eq!(tail.total(), (1017, false), "what follows was no end");
        }
        let mut tail = Tail::default();
        tail.push(&trailer(5));
        assert_eq!(tail.total(), (16, false), "another stream's trailer");
        let mut empty = Tail::default();
        empty.push(&trailer(0));
        assert_eq!(empty.total(), (0, true));
    }

    #[test]
    fn everything_else_is_echoed() {
        assert_eq!(Mode::Echo.encode(), None);
        for bytes in [&b"x"[..], b"GET / HTTP/1.1", b"\0L4BNCX", b"\0L4BNCH\x09--------", b"\xff"] {
            assert_eq!(Mode::parse(bytes), Parsed::Plain, "{bytes:?}");
        }
        assert_eq!(Mode::parse(b""), Parsed::Incomplete);
    }
}
