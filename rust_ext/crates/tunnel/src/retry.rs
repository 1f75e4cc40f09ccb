//! Address validation of peers' first packets (RFC 9000, section 8.1): the key that tokens are sealed with, and the clock that they age by.
//!
//! Whether a first packet is asked for a token is decided in `packets`. Nothing here is kept per packet: what must be remembered of an
//! address that has proved nothing travels in the token itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use noq_proto::TimeSource;
use noq_proto::crypto::{CryptoError, HandshakeTokenKey};
use ring::{aead, hmac};

/// A token is as good as new for this long: a few round trips of the slowest path, with what is lost on it sent again.
pub(crate) const TOKEN_LIFETIME: Duration = Duration::from_secs(15);

/// Seals the tokens of one worker. It comes from the worker's own seed and not from the identity, so that an identity that is replaced
/// meanwhile invalidates no token: a client follows only one `Retry`.
pub(crate) struct TokenKey(hmac::Key);

impl TokenKey {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed), b"l4proxy retry token v1");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Key and nonce of one token. The library draws 128 random bits for each, so that both are used once.
    fn cipher(&self, token_nonce: u128) -> Result<(aead::LessSafeKey, aead::Nonce), CryptoError> {
        let derived = hmac::sign(&self.0, &token_nonce.to_be_bytes());
        let (key, rest) = derived.as_ref().split_first_chunk::<16>().ok_or(CryptoError)?;
        let nonce = rest.first_chunk::<{ aead::NONCE_LEN }>().ok_or(CryptoError)?;
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, key).map_err(|_| CryptoError)?;
        Ok((aead::LessSafeKey::new(key), aead::Nonce::assume_unique_for_key(*nonce)))
    }
}

impl HandshakeTokenKey for TokenKey {
    fn seal(&self, token_nonce: u128, data: &mut Vec<u8>) -> Result<(), CryptoError> {
        let (key, nonce) = self.cipher(token_nonce)?;
        key.seal_in_place_append_tag(nonce, aead::Aad::empty(), data).map_err(|_| CryptoError)
    }

    fn open<'a>(&self, token_nonce: u128, data: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
        let (key, nonce) = self.cipher(token_nonce)?;
        key.open_in_place(nonce, aead::Aad::empty(), data).map(|opened| &*opened).map_err(|_| CryptoError)
    }
}

/// What the library takes for the wall clock: seconds since the first packet. Only the age of tokens is read from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenClock {
    began: Option<Instant>,
    elapsed_s: Arc<AtomicU64>,
}

impl TokenClock {
    /// The time that tokens are made and judged at from now on.
    pub(crate) fn set(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        self.elapsed_s.store(now.saturating_duration_since(began).as_secs(), Ordering::Relaxed);
    }
}

impl TimeSource for TokenClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.elapsed_s.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_only_with_its_key_and_nonce_and_unchanged() {
        let (key, other) = (TokenKey::new(&[1; 32]), TokenKey::new(&[2; 32]));
        let mut sealed = b"address".to_vec();
        assert!(key.seal(7, &mut sealed).is_ok());
        assert_eq!(key.open(7, &mut sealed.clone()).ok(), Some(&b"address"[..]));
        assert!(key.open(8, &mut sealed.clone()).is_err());
        assert!(other.open(7, &mut sealed.clone()).is_err());
        sealed[0] ^= 1;
        assert!(key.open(7, &mut sealed).is_err());
        assert!(key.open(7, &mut []).is_err());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn tokens_age_by_the_time_that_is_given() {
        let (mut clock, now) = (TokenClock::default(), Instant::now());
        let shared = clock.clone();
        clock.set(now);
        let first = shared.now();
        clock.set(now + TOKEN_LIFETIME);
        assert_eq!(shared.now().duration_since(first).ok(), Some(TOKEN_LIFETIME));
    }
}
