//! Who a peer is: a chain to the fleet's own CA, then exactly one URI, compared byte for byte.
//!
//! The usual name check knows only DNS names and addresses, so it is not used; TLS is told a fixed server name that
//! is never sent. There is no revocation list: certificates are short-lived and a PoP leaves by leaving the fleet file.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use l4proxy_wire::ids::PopId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use crate::error::PeerCertificateError;

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

/// The trust of one fleet: its name, its roots, and the algorithms.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(crate) fleet: Arc<str>,
    pub(crate) roots: Arc<[TrustAnchor<'static>]>,
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
        self.pop_name(&certificate)
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
        webpki::Error::CertExpired { .. } => PeerCertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => PeerCertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => PeerCertificateError::OtherCa,
        // The CA of another fleet may well have the same subject: then only the signature tells.
        webpki::Error::InvalidSignatureForPublicKey => PeerCertificateError::OtherCa,
        other => PeerCertificateError::Invalid(other.to_string()),
    }
}

/// Chooses the alert the peer gets, and keeps our own reason inside the error.
fn tls_error(error: PeerCertificateError) -> rustls::Error {
    let certificate_error = match error {
        PeerCertificateError::Expired => CertificateError::Expired,
        PeerCertificateError::NotValidYet => CertificateError::NotValidYet,
        PeerCertificateError::OtherCa => CertificateError::UnknownIssuer,
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
        CertificateError::Expired => PeerCertificateError::Expired,
        CertificateError::NotValidYet => PeerCertificateError::NotValidYet,
        CertificateError::UnknownIssuer => PeerCertificateError::OtherCa,
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
        45 => "peer refused our certificate: expired or not valid yet".to_owned(),
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
