//! A certificate authority for tests.

use std::sync::Arc;
use std::time::Duration;

use l4proxy_tunnel::{Identity, IdentityError, TimeProvider};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    SerialNumber, date_time_ymd,
};
use rustls_pki_types::UnixTime;

/// The name of the fleet in most tests.
pub(crate) const FLEET: &str = "lab";

/// A wall clock that stands still: 1 June of a year.
#[derive(Debug)]
pub(crate) struct Year(pub(crate) u64);

impl TimeProvider for Year {
    fn current_time(&self) -> Option<UnixTime> {
        let days = (self.0 - 1970) * 365 + (self.0 - 1969) / 4 + 151;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400)))
    }
}

/// The CA of a fleet.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// What a certificate says. Valid from 2020 until 2030 unless said otherwise.
pub(crate) struct Leaf<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) years: (i32, i32),
    pub(crate) usages: &'a [ExtendedKeyUsagePurpose],
    /// Big-endian; `None`: the library's choice.
    pub(crate) serial: Option<&'a [u8]>,
}

impl<'a> Leaf<'a> {
    pub(crate) fn named(uris: &'a [&'a str]) -> Self {
        Self { uris, years: (2020, 2030), usages: &[], serial: None }
    }
}

/// PEM texts as an operator's files hold them.
pub(crate) struct Files {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "l4proxy test CA");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Files {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names =
            leaf.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_before = date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = date_time_ymd(leaf.years.1, 1, 1);
        params.extended_key_usages = leaf.usages.to_vec();
        params.serial_number = leaf.serial.map(SerialNumber::from_slice);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Files { certificate, key: key.serialize_pem() }
    }

    /// The identity of a PoP of this authority, judged in 2026.
    pub(crate) fn identity(&self, pop: &str) -> Identity {
        let files = self.issue(&Leaf::named(&[&format!("l4proxy://{FLEET}/{pop}")]));
        self.load(pop, &files, 2026).unwrap()
    }

    /// Reads files as PoP `pop`, trusting this authority.
    pub(crate) fn load(&self, pop: &str, files: &Files, year: u64) -> Result<Identity, IdentityError> {
        load(&self.pem, pop, files, year)
    }
}

/// Reads files as PoP `pop`, trusting `ca`.
pub(crate) fn load(ca: &str, pop: &str, files: &Files, year: u64) -> Result<Identity, IdentityError> {
    Identity::from_pem_at(
        FLEET,
        pop,
        ca.as_bytes(),
        files.certificate.as_bytes(),
        files.key.as_bytes(),
        Arc::new(Year(year)),
    )
}
