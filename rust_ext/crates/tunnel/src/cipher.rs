//! The two keys of a channel's end: one that seals, under each number once, and one that opens. Which packets are sealed, and what a
//! number that was seen means, is decided in `channel` and `replay`.
//!
//! That no nonce is used twice does not rest on care: a [`SealKey`] can be neither copied nor made from an [`OpenKey`]; its numbers come from
//! a counter that only goes up and ends long before it could begin again; and what seals takes the number away ([`Unused`]).

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};

use crate::error::DropReason;
use crate::options::MAX_PACKET;

pub(crate) const KEY_LEN: usize = 16;

/// What the exporter gives for one direction.
pub(crate) const DIRECTION_LEN: usize = KEY_LEN + NONCE_LEN;

/// Packets that one key may seal: "endpoints that do not send packets larger than 2^11 bytes cannot protect more than 2^28 packets"
/// (RFC 9001, appendix B.1.1, for AES-GCM and an attacker's advantage of 2^-57).
pub(crate) const MAX_SEALED_PACKETS: u64 = 1 << 28;

const _: () = assert!(MAX_PACKET <= 1 << 11, "the limit is that of packets of at most 2^11 bytes");

/// Packets that may fail to open under one key (RFC 9001, section 6.6: the integrity limit of AES-128-GCM).
const MAX_FORGED_PACKETS: u64 = 1 << 52;

/// A number under which nothing has been sealed. Sealing takes it away.
#[derive(Debug)]
pub(crate) struct Unused(u64);

impl Unused {
    pub(crate) const fn number(&self) -> u64 {
        self.0
    }
}

/// A key with its IV. Memory is overwritten when it goes.
struct Key {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    #[cfg(test)]
    bytes: [u8; KEY_LEN],
}

impl Key {
    fn new(exported: &[u8; DIRECTION_LEN]) -> Self {
        let (key, exported_iv) = exported.split_at(KEY_LEN);
        let mut iv = [0; NONCE_LEN];
        iv.copy_from_slice(exported_iv);
        Self {
            key: cipher(key),
            iv,
            #[cfg(test)]
            bytes: key.try_into().expect("it was split there"),
        }
    }

    fn nonce(&self, number: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, other) in nonce[NONCE_LEN - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= other;
        }
        nonce
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // The library's keys lie within this struct and do not erase themselves: another key takes the place, and the compiler must believe
        // that somebody looks at it.
        (self.key, self.iv) = (cipher(&[0; KEY_LEN]), [0; NONCE_LEN]);
        std::hint::black_box((&self.key, &self.iv));
    }
}

fn cipher(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).expect("the key has the length of AES-128"))
}

/// The key of the direction in which this end sends.
pub(crate) struct SealKey {
    key: Key,
    next: u64,
    most: u64,
}

impl SealKey {
    /// `most`: how many packets it seals, at most [`MAX_SEALED_PACKETS`].
    pub(crate) fn new(exported: &[u8; DIRECTION_LEN], most: u64) -> Self {
        Self { key: Key::new(exported), next: 0, most: most.min(MAX_SEALED_PACKETS) }
    }

    /// Packets sealed so far, or about to be.
    pub(crate) const fn used(&self) -> u64 {
        self.next
    }

    /// The number of the next packet.
    ///
    /// # Errors
    /// [`DropReason::ChannelExhausted`] when the key has sealed all that it may.
    pub(crate) fn take_number(&mut self) -> Result<Unused, DropReason> {
        if self.next >= self.most {
            return Err(DropReason::ChannelExhausted);
        }
        let number = Unused(self.next);
        self.next += 1;
        Ok(number)
    }

    /// Seals `frames` in place, under a number that is used up with it.
    pub(crate) fn seal(&mut self, number: Unused, header: &[u8], frames: &mut [u8]) -> Tag {
        let Unused(number) = number;
        let nonce = self.key.nonce(number);
        #[cfg(test)]
        recorder::on_sealed(self.key.bytes, nonce, header, frames);
        self.key
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), frames)
            .expect("a packet is far shorter than the cipher's limit")
    }

    /// As after so many packets.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, number: u64) {
        assert!(number >= self.next, "a counter never goes back");
        (self.next, self.most) = (number, self.most.max(number + 1));
    }
}

/// The key of the direction in which the peer sends.
pub(crate) struct OpenKey {
    key: Key,
    failed: u64,
}

impl OpenKey {
    pub(crate) fn new(exported: &[u8; DIRECTION_LEN]) -> Self {
        Self { key: Key::new(exported), failed: 0 }
    }

    /// Opens a packet in place and returns its frames; `None`: it was not sealed with the peer's key, or too many were not.
    pub(crate) fn open<'d>(&mut self, number: u64, header: &[u8], sealed: &'d mut [u8]) -> Option<&'d [u8]> {
        if self.failed >= MAX_FORGED_PACKETS {
            return None;
        }
        let nonce = Nonce::assume_unique_for_key(self.key.nonce(number));
        let opened = self.key.key.open_in_place(nonce, Aad::from(header), sealed);
        self.failed += u64::from(opened.is_err());
        opened.ok().map(|frames| &*frames)
    }
}

/// Everything that was ever sealed in a test's thread, by key and nonce.
#[cfg(test)]
pub(crate) mod recorder {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::{KEY_LEN, NONCE_LEN};

    type Sealed = BTreeMap<([u8; KEY_LEN], [u8; NONCE_LEN]), Vec<u8>>;

    thread_local! {
        static SEALED: RefCell<Sealed> = const { RefCell::new(BTreeMap::new()) };
    }

    pub(super) fn on_sealed(key: [u8; KEY_LEN], nonce: [u8; NONCE_LEN], header: &[u8], frames: &[u8]) {
        SEALED.with_borrow_mut(|sealed| {
            let before = sealed.insert((key, nonce), [header, frames].concat());
            assert_eq!(before, None, "a nonce was used twice");
        });
    }

    /// How many packets were sealed under how many keys since this was last asked.
    pub(crate) fn take() -> (usize, usize) {
        let sealed = SEALED.take();
        let keys: std::collections::BTreeSet<_> = sealed.keys().map(|(key, _)| key).collect();
        (sealed.len(), keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTED: [u8; DIRECTION_LEN] = [7; DIRECTION_LEN];

    #[test]
    fn a_key_seals_as_many_packets_as_it_may_and_none_more() {
        let mut key = SealKey::new(&EXPORTED, 3);
        let numbers: Vec<_> = std::iter::from_fn(|| key.take_number().ok()).map(|one| one.number()).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(key.take_number().err(), Some(DropReason::ChannelExhausted));
        assert_eq!(key.used(), 3);
    }

    #[test]
    fn no_setting_makes_a_key_seal_more_than_the_cipher_allows() {
        let mut key = SealKey::new(&EXPORTED, u64::MAX);
        key.next = MAX_SEALED_PACKETS - 1;
        assert_eq!(key.take_number().map(|one| one.number()), Ok(MAX_SEALED_PACKETS - 1));
        assert_eq!(key.take_number().err(), Some(DropReason::ChannelExhausted));
    }

    #[test]
    fn what_fails_to_open_too_often_is_not_tried_any_more() {
        let (mut seal, mut open) = (SealKey::new(&EXPORTED, 9), OpenKey::new(&EXPORTED));
        let mut sealed = |frames: &[u8]| {
            let number = seal.take_number().unwrap();
            let (counter, mut packet) = (number.number(), frames.to_vec());
            let tag = seal.seal(number, b"header", &mut packet);
            packet.extend_from_slice(tag.as_ref());
            (counter, packet)
        };
        let (first, second) = (sealed(b"one"), sealed(b"two"));
        open.failed = MAX_FORGED_PACKETS - 1;
        assert_eq!(open.open(first.0, b"header", &mut first.1.clone()), Some(&b"one"[..]));
        assert_eq!(open.open(first.0, b"forged", &mut first.1.clone()), None);
        assert_eq!(open.open(second.0, b"header", &mut second.1.clone()), None, "the limit is reached");
        recorder::take();
    }
}
