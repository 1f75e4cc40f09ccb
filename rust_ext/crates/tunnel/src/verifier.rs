//! Who a peer is: a chain to the fleet's own CA, then exactly one URI, compared byte for byte.
//!
//! The usual name check knows only DNS names and addresses, so it is not used; TLS is told a fixed server name that
//! is never sent. What a list has revoked, by name or by serial number, is refused whatever its chain.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use l4proxy_wire::ids::PopId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use crate::error::PeerCertificateError;
use crate::revocation::Revoked;

/// The peers of the fleet file, shared with the verifier of the listening side. Swapped whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerSet(Arc<RwLock<Arc<BTreeMap<String, PopId>>>>);

impl PeerSet {
    pub(crate) fn replace(&self, peers: BTreeMap<String, PopId>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(peers);
    }

    fn load(&self) -> Arc<BTreeMap<String, PopId>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn find_id(&self, name: &str) -> Option<PopId> {
        self.load().get(name).copied()
    }
}

/// The trust of one fleet: its name, its roots, what is revoked, and the algorithms.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(crate) fleet: Arc<str>,
    pub(crate) roots: Arc<[TrustAnchor<'static>]>,
    pub(crate) revoked: Arc<Revoked>,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Verifies the chain and returns the PoP's name.
    pub(crate) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<String, PeerCertificateError> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(chain_error)?;
        certificate
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.roots,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(chain_error)?;
        let pop = self.pop_name(&certificate)?;
        self.check_revoked(&pop, std::iter::once(end_entity).chain(intermediates))?;
        Ok(pop)
    }

    /// Refuses a PoP, or a chain with a certificate, that is revoked. What cannot be read is nobody's to believe either.
    pub(crate) fn check_revoked<'c>(
        &self,
        pop: &str,
        chain: impl IntoIterator<Item = &'c CertificateDer<'c>>,
    ) -> Result<(), PeerCertificateError> {
        if self.revoked.has_pop(pop) {
            return Err(PeerCertificateError::Revoked);
        }
        for certificate in chain {
            let certificate = EndEntityCert::try_from(certificate).map_err(chain_error)?;
            if self.revoked.has_serial(certificate.serial()) {
                return Err(PeerCertificateError::Revoked);
            }
        }
        Ok(())
    }

    fn pop_name(&self, certificate: &EndEntityCert<'_>) -> Result<String, PeerCertificateError> {
        let mut names = certificate.valid_uri_names();
        let name = names.next().ok_or(PeerCertificateError::NoName)?;
        if names.next().is_some() {
            return Err(PeerCertificateError::SeveralNames);
        }
        name.strip_prefix("l4proxy://")
            .and_then(|rest| rest.strip_prefix(&*self.fleet))
            .and_then(|rest| rest.strip_prefix('/'))
            .filter(|pop| !pop.is_empty() && !pop.contains('/'))
            .map(str::to_owned)
            .ok_or_else(|| PeerCertificateError::OtherFleet {
                presented: name.to_owned(),
                fleet: self.fleet.to_string(),
            })
    }

    /// The PoP that an already verified certificate names.
    pub(crate) fn name_of(&self, end_entity: &CertificateDer<'_>) -> Result<String, PeerCertificateError> {
        self.pop_name(&EndEntityCert::try_from(end_entity).map_err(chain_error)?)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("fleet", &self.fleet).field("roots", &self.roots.len()).finish()
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum is open-ended")]
fn chain_error(error: webpki::Error) -> PeerCertificateError {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            PeerCertificateError::Expired { ago: between(not_after, time) }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            PeerCertificateError::NotValidYet { ahead: between(time, not_before) }
        }
        webpki::Error::UnknownIssuer => PeerCertificateError::OtherCa,
        // The CA of another fleet may well have the same subject: then only the signature tells.
        webpki::Error::InvalidSignatureForPublicKey => PeerCertificateError::OtherCa,
        other => PeerCertificateError::Invalid(other.to_string()),
    }
}

fn between(earlier: UnixTime, later: UnixTime) -> Duration {
    Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()))
}

/// Chooses the alert the peer gets, and keeps our own reason inside the error.
fn tls_error(error: PeerCertificateError) -> rustls::Error {
    let certificate_error = match error {
        // The moments stand in the error for how far they are apart: that is what is told of them.
        PeerCertificateError::Expired { ago } => CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(ago),
            not_after: UnixTime::since_unix_epoch(Duration::ZERO),
        },
        PeerCertificateError::NotValidYet { ahead } => CertificateError::NotValidYetContext {
            time: UnixTime::since_unix_epoch(Duration::ZERO),
            not_before: UnixTime::since_unix_epoch(ahead),
        },
        PeerCertificateError::OtherCa => CertificateError::UnknownIssuer,
        PeerCertificateError::Revoked => CertificateError::Revoked,
        PeerCertificateError::Invalid(_)
        | PeerCertificateError::NoName
        | PeerCertificateError::SeveralNames
        | PeerCertificateError::OtherFleet { .. }
        | PeerCertificateError::OtherPop { .. }
        | PeerCertificateError::UnknownPop { .. } => CertificateError::Other(OtherError(Arc::new(error))),
    };
    rustls::Error::InvalidCertificate(certificate_error)
}

/// Our own reason inside an error of the TLS library, if it is about the peer's certificate.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum is open-ended")]
pub(crate) fn certificate_error(error: &rustls::Error) -> Option<PeerCertificateError> {
    let rustls::Error::InvalidCertificate(certificate_error) = error else {
        return None;
    };
    Some(match certificate_error {
        CertificateError::ExpiredContext { time, not_after } => {
            PeerCertificateError::Expired { ago: between(*not_after, *time) }
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            PeerCertificateError::NotValidYet { ahead: between(*time, *not_before) }
        }
        CertificateError::UnknownIssuer => PeerCertificateError::OtherCa,
        CertificateError::Revoked => PeerCertificateError::Revoked,
        CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<PeerCertificateError>() {
            Some(ours) => ours.clone(),
            None => PeerCertificateError::Invalid(inner.to_string()),
        },
        other => PeerCertificateError::Invalid(other.to_string()),
    })
}

/// What a TLS alert of the peer says about *our* certificate.
pub(crate) fn describe_alert(alert: u8) -> String {
    match alert {
        42 | 46 => "peer refused our certificate: wrong name or invalid".to_owned(),
        44 => "peer refused our certificate: revoked".to_owned(),
        45 => "peer refused our certificate: expired or not valid yet by the peer's clock".to_owned(),
        48 => "peer refused our certificate: signed by another CA".to_owned(),
        51 => "peer refused our certificate: bad signature".to_owned(),
        116 => "peer wants a certificate".to_owned(),
        120 => "peer speaks another protocol".to_owned(),
        other => format!("TLS alert {other}"),
    }
}

/// On the dialling side: the certificate must be that of the PoP that was dialled.
#[derive(Debug)]
pub(crate) struct DialledPop {
    pub(crate) trust: Trust,
    pub(crate) expected: String,
}

impl ServerCertVerifier for DialledPop {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented =
            self.trust.verify(end_entity, intermediates, now, KeyUsage::server_auth()).map_err(tls_error)?;
        if presented != self.expected {
            return Err(tls_error(PeerCertificateError::OtherPop {
                presented,
                expected: self.expected.clone(),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is off".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// On the listening side: the certificate must be that of some PoP of the fleet file.
#[derive(Debug)]
pub(crate) struct AnyPeer {
    pub(crate) trust: Trust,
    pub(crate) peers: PeerSet,
}

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let presented =
            self.trust.verify(end_entity, intermediates, now, KeyUsage::client_auth()).map_err(tls_error)?;
        if self.peers.find_id(&presented).is_none() {
            return Err(tls_error(PeerCertificateError::UnknownPop { presented }));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is off".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}
