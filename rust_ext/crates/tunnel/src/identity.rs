//! This PoP's identity: the fleet's CA, our certificate and key, and the TLS settings made from them.
//!
//! It fails closed: no CA, no identity; and a certificate that every peer would refuse is refused here, where the
//! operator sees it. The private key is handed to the TLS library and then wiped; it is never printed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use noq_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::hmac;
use rustls::crypto::{CryptoProvider, ring as ring_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::error::{IdentityError, PeerCertificateError};
use crate::revocation::Revoked;
use crate::verifier::{AnyPeer, DialledPop, PeerSet, Trust};

/// The application protocol of TLS. A peer that speaks another is refused in the handshake.
pub const ALPN: &[u8] = b"l4proxy/1";

/// TLS wants a server name; ours are checked in another way, so it is this one, which cannot exist, and is not sent.
pub(crate) const SERVER_NAME: &str = "pop.invalid";

/// Who we are and whom we trust. Cheap to clone: the workers share one.
#[derive(Clone)]
pub struct Identity {
    pop: Arc<str>,
    trust: Trust,
    certified_key: Arc<CertifiedKey>,
    reset_key: hmac::Key,
    not_after: UnixTime,
    time: Arc<dyn TimeProvider>,
}

impl Identity {
    /// Reads the fleet's CA (one or several certificates), our certificate with any intermediates, and our key.
    ///
    /// # Errors
    /// Says which file is wrong and how; also when our own certificate is not signed by the CA, or does not name
    /// `l4proxy://fleet/pop`. A certificate that is expired is accepted, since the peers decide by their own clocks;
    /// see [`Self::not_after`].
    pub fn from_pem(
        fleet: &str,
        pop: &str,
        ca_pem: &[u8],
        cert_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, IdentityError> {
        Self::from_pem_at(fleet, pop, ca_pem, cert_pem, key_pem, Arc::new(DefaultTimeProvider))
    }

    /// As [`Self::from_pem`], with a wall clock of the caller's for judging certificates.
    ///
    /// # Errors
    /// See [`Self::from_pem`].
    pub fn from_pem_at(
        fleet: &str,
        pop: &str,
        ca_pem: &[u8],
        cert_pem: &[u8],
        key_pem: &[u8],
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, IdentityError> {
        let provider = Arc::new(ring_provider::default_provider());
        let roots = read_roots(ca_pem)?;
        let chain = read_certificates("certificate", cert_pem)?;
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let not_after = not_after(leaf)?;
        let revoked = Arc::default();
        let trust = Trust { fleet: fleet.into(), roots: roots.into(), revoked, provider };
        verify_own(&trust, &chain, not_after, pop)?;
        let (certified_key, reset_key) = load_key(&trust.provider, chain, key_pem)?;
        let certified_key = Arc::new(certified_key);
        Ok(Self { pop: pop.into(), trust, certified_key, reset_key, not_after, time })
    }

    /// The same identity, which believes nobody that is revoked. It is the whole list: what was revoked before and is not in it, is not
    /// any more.
    #[must_use]
    pub fn with_revoked(mut self, revoked: Revoked) -> Self {
        self.trust.revoked = Arc::new(revoked);
        self
    }

    /// The same identity, whose stateless resets are made with a secret of the caller's instead of something of the private key: so they
    /// are still known when the key was renewed. Empty: it stays.
    #[must_use]
    pub fn with_reset_key(mut self, secret: &[u8]) -> Self {
        if !secret.is_empty() {
            self.reset_key = derive_reset_key(secret);
        }
        self
    }

    /// Whether this identity believes nobody who bears the name of `pop`.
    #[must_use]
    pub fn has_revoked(&self, pop: &str) -> bool {
        self.trust.revoked.has_pop(pop)
    }

    /// The name of this PoP.
    #[must_use]
    pub fn pop(&self) -> &str {
        &self.pop
    }

    /// The name of the fleet.
    #[must_use]
    pub fn fleet(&self) -> &str {
        &self.trust.fleet
    }

    /// When our own certificate stops being valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.not_after.as_secs())
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The key of stateless resets. It comes from the private key, or from a secret that outlives it, so that an engine that was started
    /// again can tell its peers at once that it knows their connections no more.
    pub(crate) fn reset_key(&self) -> hmac::Key {
        self.reset_key.clone()
    }

    /// TLS settings for dialling `peer`: nobody else will do.
    pub(crate) fn client_config(&self, peer: &str) -> Result<QuicClientConfig, IdentityError> {
        let verifier = DialledPop { trust: self.trust.clone(), expected: peer.to_owned() };
        let mut config = rustls::ClientConfig::builder_with_details(
            Arc::clone(&self.trust.provider),
            Arc::clone(&self.time),
        )
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| IdentityError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified_key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.enable_early_data = false;
        config.resumption = rustls::client::Resumption::disabled();
        QuicClientConfig::try_from(config).map_err(|error| IdentityError::Tls(error.to_string()))
    }

    /// TLS settings for listening: any PoP among `peers` will do.
    pub(crate) fn server_config(&self, peers: &PeerSet) -> Result<QuicServerConfig, IdentityError> {
        let verifier = AnyPeer { trust: self.trust.clone(), peers: peers.clone() };
        let mut config = rustls::ServerConfig::builder_with_details(
            Arc::clone(&self.trust.provider),
            Arc::clone(&self.time),
        )
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| IdentityError::Tls(error.to_string()))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified_key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        QuicServerConfig::try_from(config).map_err(|error| IdentityError::Tls(error.to_string()))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("fleet", &self.fleet())
            .field("pop", &self.pop)
            .field("roots", &self.trust.roots.len())
            .field("revoked", &self.trust.revoked)
            .field("not_after", &self.not_after())
            .field("key", &"(secret)")
            .finish()
    }
}

fn read_certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| IdentityError::Pem { file, reason: error.to_string() })
}

fn read_roots(pem: &[u8]) -> Result<Vec<TrustAnchor<'static>>, IdentityError> {
    let certificates = read_certificates("CA", pem)?;
    if certificates.is_empty() {
        return Err(IdentityError::NoCa);
    }
    certificates
        .iter()
        .map(|certificate| {
            anchor_from_trusted_cert(certificate)
                .map(|anchor| anchor.to_owned())
                .map_err(|error| IdentityError::Certificate { file: "CA", reason: error.to_string() })
        })
        .collect()
}

/// The end of a certificate's validity. The library does not offer the field, but it says it when asked about a moment
/// that is later than any.
fn not_after(certificate: &CertificateDer<'_>) -> Result<UnixTime, IdentityError> {
    let unreadable = |reason: String| IdentityError::Certificate { file: "certificate", reason };
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| unreadable(error.to_string()))?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let outcome = parsed.verify_for_usage(
        ring_provider::default_provider().signature_verification_algorithms.all,
        &[],
        &[],
        end_of_time,
        KeyUsage::server_auth(),
        None,
        None,
    );
    match outcome {
        Err(webpki::Error::CertExpired { not_after, .. }) => Ok(not_after),
        Err(other) => Err(unreadable(other.to_string())),
        Ok(_) => Err(unreadable("it never ends".to_owned())),
    }
}

/// Whether peers of this fleet would accept us, while we are valid.
fn verify_own(
    trust: &Trust,
    chain: &[CertificateDer<'static>],
    at: UnixTime,
    pop: &str,
) -> Result<(), IdentityError> {
    let (leaf, intermediates) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        let presented = trust.verify(leaf, intermediates, at, usage).map_err(IdentityError::Own)?;
        if presented != pop {
            return Err(IdentityError::Own(PeerCertificateError::OtherPop {
                presented,
                expected: pop.to_owned(),
            }));
        }
    }
    Ok(())
}

fn load_key(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    pem: &[u8],
) -> Result<(CertifiedKey, hmac::Key), IdentityError> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| IdentityError::Key(error.to_string()))?;
    let reset_key = derive_reset_key(der.secret_der());
    // The provider wipes what it is given once it has made its own key of it.
    let loaded =
        provider.key_provider.load_private_key(der).map_err(|error| IdentityError::Key(error.to_string()))?;
    let certified_key = CertifiedKey::new(chain, loaded);
    certified_key.keys_match().map_err(|_| IdentityError::KeyMismatch)?;
    Ok((certified_key, reset_key))
}

fn derive_reset_key(secret: &[u8]) -> hmac::Key {
    let extractor = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let derived = hmac::sign(&extractor, b"l4proxy stateless reset v1");
    hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
}
