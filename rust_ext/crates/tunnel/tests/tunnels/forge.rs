//! Somebody who is no PoP and speaks QUIC: makes any first packet (RFC 9000, section 17.2.2), with keys that everybody can derive from
//! its connection id (RFC 9001, section 5.2).

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::quic::{ClientConnection, Keys, Version};
use rustls::{CipherSuite, ClientConfig, RootCertStore, Side};

/// The smallest datagram that a first packet may come in.
pub(crate) const FULL: usize = 1_200;

/// Length of a packet's AEAD tag.
const TAG: usize = 16;

/// What a first packet says. The fields stand as they are, sensible or not.
#[derive(Debug, Clone)]
pub(crate) struct Initial<'a> {
    pub(crate) destination: &'a [u8],
    pub(crate) source: &'a [u8],
    pub(crate) token: &'a [u8],
    /// Frames; padding fills the packet up.
    pub(crate) frames: Vec<u8>,
    /// Length of the whole packet; less than it needs means no padding.
    pub(crate) length: usize,
}

impl Initial<'_> {
    /// The packet, sealed.
    pub(crate) fn seal(&self) -> Vec<u8> {
        const NUMBER: [u8; 4] = [0; 4];
        let mut packet = vec![0xc0 | (NUMBER.len() as u8 - 1), 0, 0, 0, 1];
        for id in [self.destination, self.source] {
            packet.push(id.len() as u8);
            packet.extend_from_slice(id);
        }
        packet.extend_from_slice(&varint(self.token.len()));
        packet.extend_from_slice(self.token);
        let before = packet.len() + 2 + NUMBER.len() + TAG;
        let mut payload = self.frames.clone();
        payload.resize(payload.len().max(self.length.saturating_sub(before)), 0);
        packet.extend_from_slice(&varint(NUMBER.len() + payload.len() + TAG));
        let number = packet.len();
        packet.extend_from_slice(&NUMBER);
        let keys = keys(self.destination);
        let tag = keys.local.packet.encrypt_in_place(0, &packet, &mut payload).unwrap();
        packet.extend_from_slice(&payload);
        packet.extend_from_slice(tag.as_ref());
        let (header, rest) = packet.split_at_mut(number + NUMBER.len());
        let (first, header) = header.split_first_mut().unwrap();
        let sample = &rest[..16];
        keys.local.header.encrypt_in_place(sample, first, &mut header[number - 1..]).unwrap();
        packet
    }
}

fn keys(destination: &[u8]) -> Keys {
    let provider = default_provider();
    let suite =
        provider.cipher_suites.iter().find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let suite = suite.unwrap().tls13().unwrap();
    Keys::initial(Version::V1, suite, suite.quic.unwrap(), destination, Side::Client)
}

/// Always of two bytes, which hold 16,383.
fn varint(value: usize) -> [u8; 2] {
    (0x4000 | u16::try_from(value).unwrap()).to_be_bytes()
}

/// The frames of a first packet that any server of ours would go on with: a `ClientHello` for our protocol.
pub(crate) fn client_hello(source: &[u8]) -> Vec<u8> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let mut config = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"l4proxy/1".to_vec()];
    const INITIAL_SOURCE_CONNECTION_ID: u8 = 0x0f;
    let parameters = [&[INITIAL_SOURCE_CONNECTION_ID, source.len() as u8][..], source].concat();
    let name = "l4proxy".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), Version::V1, name, parameters).unwrap();
    let mut hello = Vec::new();
    client.write_hs(&mut hello);
    crypto_frame(&hello)
}

/// A CRYPTO frame at offset 0.
pub(crate) fn crypto_frame(bytes: &[u8]) -> Vec<u8> {
    [&[0x06, 0][..], &varint(bytes.len()), bytes].concat()
}

/// The token of a `Retry` and the connection id to go on with.
pub(crate) fn read_retry(packet: &[u8]) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(packet[0] & 0xf0, 0xf0, "no Retry");
    let source = 6 + usize::from(packet[5]);
    let token = source + 1 + usize::from(packet[source]);
    (packet[token..packet.len() - TAG].to_vec(), packet[source + 1..token].to_vec())
}
