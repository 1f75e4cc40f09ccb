//! Whether an origin's certificate is good enough: any will do (`full`), or it must be of an authority that this host trusts and for
//! the origin's name (`strict`).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Takes every certificate. Only that the origin has the key of the one that it shows is checked.
#[derive(Debug)]
pub(super) struct Unchecked {
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks against the authorities that this host trusts: its bundle, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name instead.
pub(super) fn host_roots(provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    // A bundle may have certificates that cannot be used; the others count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("tls.mode: strict needs the authorities that this host trusts, and it has none \
                    (install ca-certificates, or set SSL_CERT_FILE)"
            .into());
    }
    WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| format!("tls.mode: {error}"))
}

/// The name that an origin must have, by its address or name as written, port or not.
pub(super) fn server_name(origin: &str) -> Option<ServerName<'static>> {
    let host = match origin.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or(bracketed),
        // More than one colon: an IPv6 address without a port.
        None if origin.matches(':').count() == 1 => origin.split(':').next().unwrap_or(origin),
        None => origin,
    };
    // An SRV name's own certificate is for the name behind the service labels (RFC 6125 section 6.2.1).
    let host = host.trim_start_matches("srv:").trim_end_matches('.');
    let host = host.splitn(3, '.').last().filter(|_| host.starts_with('_')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_asked_for_by_its_host_alone() {
        for (origin, expected) in [
            ("play.example.net", Some("play.example.net")),
            ("play.example.net:25565", Some("play.example.net")),
            ("play.example.net.:25565", Some("play.example.net")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("_minecraft._tcp.example.net", Some("example.net")),
            ("not a name", None),
        ] {
            let found = server_name(origin).map(|name| name.to_str().into_owned());
            assert_eq!(found.as_deref(), expected, "{origin}");
        }
    }
}
