//! Which certificate a client is shown: that of the name it asks for, exact before wildcard, and the first one for all others.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::snapshot::CertificateSpec;

/// The certificates of one app.
pub(super) struct Certificates {
    first: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Check chains and keys; what is wrong names the certificate by its place in the list.
    pub(super) fn compile(specs: &[CertificateSpec]) -> Result<Self, String> {
        let mut all = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            let key = certified_key(spec).map_err(|what| format!("tls.certificates[{index}]: {what}"))?;
            all.push(Arc::new(key));
        }
        let first = all.first().cloned().ok_or("tls.certificates: there is none")?;
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for key in &all {
            for name in names_of(key)? {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_insert_with(|| key.clone()),
                    None => exact.entry(name).or_insert_with(|| key.clone()),
                };
            }
        }
        Ok(Self { first, exact, wildcard })
    }

    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.first };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let of_parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(&name).or_else(of_parent).unwrap_or(&self.first)
    }
}

impl fmt::Debug for Certificates {
    /// Names only.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.exact.keys()).entries(self.wildcard.keys()).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()).clone())
    }
}

fn certified_key(spec: &CertificateSpec) -> Result<CertifiedKey, String> {
    if spec.cert_pem.is_empty() || spec.key_pem.is_empty() {
        return Err("a file of it is missing or empty".into());
    }
    let chain = certificates(&spec.cert_pem)?;
    // The library's reasons may quote what stands in the file.
    let key = PrivateKeyDer::from_pem_slice(&spec.key_pem).map_err(|_| "its key file holds no PEM key")?;
    let key =
        any_supported_type(&key).map_err(|_| "its key is of no supported kind (RSA, ECDSA, Ed25519)")?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|error| format!("certificate and key do not belong together: {error}"))?;
    Ok(certified)
}

/// The certificates of a PEM file; at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("its certificate file is no PEM file: {error}"))?;
    if found.is_empty() {
        return Err("its certificate file holds no certificate".into());
    }
    Ok(found)
}

/// The names that a certificate is for, in lower case; one without any serves only as the first.
fn names_of(key: &CertifiedKey) -> Result<Vec<String>, String> {
    let leaf = key.end_entity_cert().map_err(|error| error.to_string())?;
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| format!("tls.certificates: {error}"))?;
    Ok(leaf.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::pair;
    use super::*;

    fn names(certificates: &Certificates, asked: Option<&str>) -> Vec<String> {
        names_of(certificates.find(asked)).unwrap()
    }

    #[test]
    fn exact_comes_before_wildcard_and_the_first_serves_the_rest() {
        let specs = [
            pair(&["first.example"]),
            pair(&["*.example.net"]),
            pair(&["play.example.net", "first.example"]),
        ];
        let all = Certificates::compile(&specs).unwrap();
        for (asked, expected) in [
            (None, "first.example"),
            (Some("first.example"), "first.example"),
            (Some("Play.Example.Net"), "play.example.net"),
            (Some("play.example.net."), "play.example.net"),
            (Some("other.example.net"), "*.example.net"),
            (Some("deep.other.example.net"), "first.example"),
            (Some("example.net"), "first.example"),
            (Some("nobody.test"), "first.example"),
        ] {
            assert_eq!(names(&all, asked)[0], expected, "{asked:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_names_its_place_and_never_its_key() {
        let good = pair(&["a.example"]);
        let other = pair(&["b.example"]);
        let with = |cert_pem: &[u8], key_pem: &[u8]| CertificateSpec {
            cert_pem: cert_pem.to_vec(),
            key_pem: key_pem.to_vec(),
        };
        for (spec, expected) in [
            (with(&good.cert_pem, &other.key_pem), "certificate and key do not belong together"),
            (with(&good.cert_pem, b""), "missing or empty"),
            (with(b"hello", &good.key_pem), "holds no certificate"),
            (with(&good.cert_pem, b"hello"), "holds no PEM key"),
            (with(&good.key_pem, &good.key_pem), "holds no certificate"),
        ] {
            let error = Certificates::compile(&[good.clone(), spec]).unwrap_err();
            assert!(error.starts_with("tls.certificates[1]: ") && error.contains(expected), "{error}");
        }
    }
}
