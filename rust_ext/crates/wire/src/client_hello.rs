//! The server name that a TLS client asks for (SNI, RFC 6066 section 3), read from copies of the first bytes of a connection that
//! passes through. It delays and changes nothing, keeps a bounded copy only while a ClientHello is under way, and decides nothing:
//! what cannot be read is simply not TLS to us.

use crate::Malformed;
use crate::reader::Reader;

/// The largest ClientHello whose name is looked for. Those of browsers with post-quantum keys have about 2 kB.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// The longest name of a host (RFC 1035 section 2.3.4), dots included.
const MAX_NAME: usize = 253;

/// Bytes before a record's fragment: type, version, length.
const RECORD_HEADER: usize = 5;
/// Bytes before a handshake message's body: type, length.
const MESSAGE_HEADER: usize = 4;
/// The record type of handshake messages.
const RECORD_HANDSHAKE: u8 = 22;
/// The largest fragment of a record that is not encrypted.
const MAX_FRAGMENT: usize = 1 << 14;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// What is known after some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// More bytes may tell.
    Unknown,
    /// The client asks for this name, in lower case.
    Named(String),
    /// The client asks for no name, or this is no ClientHello.
    Absent,
}

/// Reads the first bytes of one connection, in pieces of any size.
#[derive(Debug, Default)]
pub struct ClientHelloReader {
    header: [u8; RECORD_HEADER],
    header_length: usize,
    /// Bytes of the present record that are still to come.
    fragment_left: usize,
    /// The handshake message so far, without records around it.
    message: Vec<u8>,
}

impl ClientHelloReader {
    /// Whether a connection that begins with these bytes could be TLS: worth a reader.
    #[must_use]
    pub fn may_begin(bytes: &[u8]) -> bool {
        bytes.first() == Some(&RECORD_HANDSHAKE)
    }

    /// Take the next bytes. After another answer than [`ServerName::Unknown`] there is nothing more to be asked.
    pub fn read(&mut self, bytes: &[u8]) -> ServerName {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.fragment_left == 0 {
                let taken = rest.len().min(RECORD_HEADER - self.header_length);
                self.header[self.header_length..][..taken].copy_from_slice(&rest[..taken]);
                (self.header_length, rest) = (self.header_length + taken, &rest[taken..]);
                if self.header_length < RECORD_HEADER {
                    break;
                }
                let [kind, major, _, high, low] = self.header;
                let length = usize::from(u16::from_be_bytes([high, low]));
                if kind != RECORD_HANDSHAKE || major != 3 || !(1..=MAX_FRAGMENT).contains(&length) {
                    return ServerName::Absent;
                }
                (self.header_length, self.fragment_left) = (0, length);
            }
            let taken = rest.len().min(self.fragment_left);
            self.message.extend_from_slice(&rest[..taken]);
            (self.fragment_left, rest) = (self.fragment_left - taken, &rest[taken..]);
            if let Some(answer) = self.answer() {
                return answer;
            }
        }
        ServerName::Unknown
    }

    fn answer(&self) -> Option<ServerName> {
        let (&[kind, high, middle, low], body) = self.message.split_first_chunk::<MESSAGE_HEADER>()?;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind != MESSAGE_CLIENT_HELLO || length > MAX_CLIENT_HELLO {
            return Some(ServerName::Absent);
        }
        let hello = body.get(..length)?;
        let name = server_name(hello).ok().flatten();
        Some(name.map_or(ServerName::Absent, ServerName::Named))
    }
}

fn server_name(hello: &[u8]) -> Result<Option<String>, Malformed> {
    let mut hello = Reader::new(hello);
    hello.u16("legacy_version")?;
    hello.array::<32>("random")?;
    let session = hello.u8("legacy_session_id")?;
    hello.bytes(usize::from(session), "legacy_session_id")?;
    hello.long_bytes("cipher_suites")?;
    let methods = hello.u8("legacy_compression_methods")?;
    hello.bytes(usize::from(methods), "legacy_compression_methods")?;
    if hello.is_empty() {
        return Ok(None);
    }
    let mut extensions = Reader::new(hello.long_bytes("extensions")?);
    while !extensions.is_empty() {
        let kind = extensions.u16("extension_type")?;
        let data = extensions.long_bytes("extension_data")?;
        if kind == EXTENSION_SERVER_NAME {
            let mut names = Reader::new(Reader::new(data).long_bytes("server_name_list")?);
            if names.u8("name_type")? != NAME_TYPE_HOST {
                return Ok(None);
            }
            return Ok(host_name(names.long_bytes("host_name")?));
        }
    }
    Ok(None)
}

/// Whatever stands there goes into records and lists, so only what names of hosts are made of is a name.
fn host_name(bytes: &[u8]) -> Option<String> {
    let is_name = (1..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    let text = is_name.then(|| str::from_utf8(bytes).ok()).flatten()?;
    Some(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ClientHello that asks for a name, `padding` bytes of another extension before that, in records of `fragment` bytes.
    fn hello(name: Option<&[u8]>, padding: usize, fragment: usize) -> Vec<u8> {
        fn counted(bytes: &[u8]) -> Vec<u8> {
            [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
        }
        let mut extensions = [&21_u16.to_be_bytes()[..], &counted(&vec![0; padding])].concat();
        if let Some(name) = name {
            let entry = [&[NAME_TYPE_HOST][..], &counted(name)].concat();
            extensions.extend([&[0, 0][..], &counted(&counted(&entry))].concat());
        }
        let mut body = [&[3, 3][..], &[7; 32], &[0], &counted(&[0x13, 1]), &[1, 0]].concat();
        body.extend(counted(&extensions));
        let length = (body.len() as u32).to_be_bytes();
        let message = [&[MESSAGE_CLIENT_HELLO][..], &length[1..], &body].concat();
        message
            .chunks(fragment)
            .flat_map(|part| [&[RECORD_HANDSHAKE, 3, 1][..], &counted(part)].concat())
            .collect()
    }

    fn read_in_pieces(bytes: &[u8], size: usize) -> ServerName {
        let mut reader = ClientHelloReader::default();
        let mut answers = bytes.chunks(size).map(|piece| reader.read(piece));
        answers.find(|answer| *answer != ServerName::Unknown).unwrap_or(ServerName::Unknown)
    }

    #[test]
    fn the_name_is_found_however_the_hello_is_cut() {
        let named = ServerName::Named("play.example.net".into());
        for fragment in [1, 3, 64, MAX_FRAGMENT] {
            for padding in [0, 1_500] {
                let bytes = hello(Some(b"Play.Example.NET"), padding, fragment);
                for size in [1, 5, 7, 1_400, bytes.len()] {
                    assert_eq!(read_in_pieces(&bytes, size), named, "{fragment} {padding} {size}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_hello_or_has_no_usable_name_is_absent() {
        let long = [b'a'; MAX_NAME + 1];
        for bytes in [
            hello(None, 10, MAX_FRAGMENT),
            hello(Some(b""), 0, MAX_FRAGMENT),
            hello(Some(b"evil\n\"name"), 0, MAX_FRAGMENT),
            hello(Some(&long), 0, MAX_FRAGMENT),
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00".to_vec(),
            b"\x16\x03\x01\x00\x00".to_vec(),
            b"\x16\x03\x01\xff\xff".to_vec(),
            b"\x16\x02\x01\x00\x10".to_vec(),
            b"SSH-2.0-OpenSSH".to_vec(),
        ] {
            assert_eq!(read_in_pieces(&bytes, 3), ServerName::Absent, "{bytes:02x?}");
        }
        assert!(!ClientHelloReader::may_begin(b"SSH-2.0"));
        assert!(!ClientHelloReader::may_begin(b""));
    }

    #[test]
    fn a_hello_of_the_largest_size_is_read_and_a_larger_one_is_not_kept() {
        let overhead = hello(Some(b"a.b"), 0, MAX_FRAGMENT).len() - RECORD_HEADER - MESSAGE_HEADER;
        let largest = hello(Some(b"a.b"), MAX_CLIENT_HELLO - overhead, 4_096);
        assert_eq!(read_in_pieces(&largest, 1_000), ServerName::Named("a.b".into()));
        let larger = hello(Some(b"a.b"), MAX_CLIENT_HELLO - overhead + 1, 4_096);
        let mut reader = ClientHelloReader::default();
        assert_eq!(reader.read(&larger[..RECORD_HEADER + MESSAGE_HEADER]), ServerName::Absent);
        assert!(reader.message.len() <= MESSAGE_HEADER);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_say_the_same_as_in_one_and_never_panic(
            start in prop_oneof![
                Just(Vec::new()),
                Just(hello(Some(b"play.example.net"), 40, 50)),
                Just(hello(None, 3, MAX_FRAGMENT)),
            ],
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            tail in prop::collection::vec(any::<u8>(), 0..64),
            size in 1_usize..80,
        ) {
            let mut bytes = start;
            for (index, value) in flips {
                if !bytes.is_empty() {
                    let at = index.index(bytes.len());
                    bytes[at] = value;
                }
            }
            bytes.extend(tail);
            let whole = read_in_pieces(&bytes, bytes.len().max(1));
            prop_assert_eq!(read_in_pieces(&bytes, size), whole);
        }
    }
}
