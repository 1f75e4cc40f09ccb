//! From what the snapshot says of an app's TLS to the configurations that its sessions are made with, shared by all workers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;

use super::certificates::{Certificates, certificates};
use super::origin::{Unchecked, host_roots, server_name};
use crate::snapshot::{AppSpec, Protocol, TlsSpec};

/// Certificates of one app.
const MAX_CERTIFICATES: usize = 1_024;

/// Origins of one app whose sessions are kept for resumption.
const ORIGIN_SESSIONS: usize = 256;

/// What is spoken to origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No TLS.
    Flexible,
    /// TLS with whoever answers.
    Full,
    /// TLS with who the origin says it is.
    Strict,
}

/// TLS of one app.
pub(crate) struct Tls {
    /// None: clients do not come in here.
    server: Option<Arc<ServerConfig>>,
    /// None: the origin is spoken to without TLS.
    client: Option<Arc<ClientConfig>>,
    tickets: Option<Arc<dyn ProducesTickets>>,
    /// Of everything that it was made of.
    fingerprint: [u8; 32],
}

impl Tls {
    /// Check and compile. The configuration that was in force before is used again when nothing has changed, and its keys for
    /// resumption in any case, so that clients resume across reloads.
    pub(crate) fn compile(app: &AppSpec, spec: &TlsSpec, kept: &TlsKept) -> Result<Arc<Self>, String> {
        let mode = match spec.mode.as_str() {
            "flexible" => Mode::Flexible,
            "full" => Mode::Full,
            "strict" => Mode::Strict,
            other => return Err(format!("tls.mode: {other:?} is not known")),
        };
        let is_ingress = app.listens.iter().any(|listen| listen.protocol == Protocol::Tcp);
        let fingerprint = fingerprint(spec, is_ingress);
        let mut kept = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = kept.as_ref().filter(|kept| kept.fingerprint == fingerprint) {
            return Ok(same.clone());
        }
        let provider = Arc::new(default_provider());
        let tickets = match (is_ingress, &spec.client_ca_pem) {
            // A resumed session would let a client in whose certificate has ended or was taken back since.
            (_, Some(_)) | (false, None) => None,
            (true, None) => match kept.as_ref().and_then(|kept| kept.tickets.clone()) {
                Some(tickets) => Some(tickets),
                None => Some(Ticketer::new().map_err(|error| format!("tls: {error}"))?),
            },
        };
        let server = is_ingress.then(|| server_config(spec, &provider, tickets.clone())).transpose()?;
        let client = client_config(mode, &provider)?;
        let compiled = Arc::new(Self { server, client, tickets, fingerprint });
        *kept = Some(compiled.clone());
        Ok(compiled)
    }

    /// For a client's session; `alpn`: the protocol that it is told, which the origin has chosen.
    pub(super) fn server(&self, alpn: Option<Vec<u8>>) -> Option<Arc<ServerConfig>> {
        let server = self.server.as_ref()?;
        let Some(alpn) = alpn else { return Some(server.clone()) };
        let mut server = ServerConfig::clone(server);
        server.alpn_protocols = vec![alpn];
        Some(Arc::new(server))
    }

    /// For an origin's session, if it has one; `alpn`: what the client has offered.
    pub(super) fn client(&self, alpn: Vec<Vec<u8>>) -> Option<Arc<ClientConfig>> {
        let client = self.client.as_ref()?;
        if alpn.is_empty() {
            return Some(client.clone());
        }
        let mut client = ClientConfig::clone(client);
        client.alpn_protocols = alpn;
        Some(Arc::new(client))
    }

    /// Whether clients are spoken to with TLS here.
    pub(crate) const fn is_for_clients(&self) -> bool {
        self.server.is_some()
    }

    /// Whether origins are spoken to with TLS.
    pub(crate) const fn is_for_origins(&self) -> bool {
        self.client.is_some()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, origins) = (self.is_for_clients(), self.is_for_origins());
        formatter
            .debug_struct("Tls")
            .field("clients", &clients)
            .field("origins", &origins)
            .finish_non_exhaustive()
    }
}

/// What an app's TLS was last, kept across snapshots.
#[derive(Debug, Default)]
pub(crate) struct TlsKept(Mutex<Option<Arc<Tls>>>);

/// The name that an origin's certificate must have, and that it is asked for.
pub(super) fn name_of(origin: &str) -> Option<ServerName<'static>> {
    server_name(origin)
}

fn server_config(
    spec: &TlsSpec,
    provider: &Arc<CryptoProvider>,
    tickets: Option<Arc<dyn ProducesTickets>>,
) -> Result<Arc<ServerConfig>, String> {
    if spec.certificates.len() > MAX_CERTIFICATES {
        let count = spec.certificates.len();
        return Err(format!("tls.certificates: {count} of them, and {MAX_CERTIFICATES} are possible"));
    }
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?;
    let builder = match &spec.client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = client_authorities(pem).map_err(|what| format!("tls.client_ca: {what}"))?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("tls.client_ca: {error}"))?)
        }
    };
    let certificates = Certificates::compile(&spec.certificates)?;
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    // Tickets hold all that is needed to resume: any worker can, and a flood of clients fills no table.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match tickets {
        Some(tickets) => config.ticketer = tickets,
        None => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}

/// Fails closed: a file without a usable certificate would otherwise let everybody in, or nobody without a word.
fn client_authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    if pem.is_empty() {
        return Err("the file is missing or empty".into());
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("a certificate of it is not usable: {error}"))?;
    }
    Ok(roots)
}

fn client_config(mode: Mode, provider: &Arc<CryptoProvider>) -> Result<Option<Arc<ClientConfig>>, String> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?;
    let mut config = match mode {
        Mode::Flexible => return Ok(None),
        Mode::Full => {
            let verifier = Arc::new(Unchecked { provider: provider.clone() });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        Mode::Strict => builder.with_webpki_verifier(host_roots(provider)?).with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(ORIGIN_SESSIONS);
    Ok(Some(Arc::new(config)))
}

fn fingerprint(spec: &TlsSpec, is_ingress: bool) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    add(spec.mode.as_bytes());
    add(&[u8::from(is_ingress), u8::from(spec.client_ca_pem.is_some())]);
    add(spec.client_ca_pem.as_deref().unwrap_or_default());
    for pair in &spec.certificates {
        add(&pair.cert_pem);
        add(&pair.key_pem);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::snapshot::{CertificateSpec, ListenSpec};

    /// A self-signed certificate for names, and its key.
    pub(crate) fn pair(names: &[&str]) -> CertificateSpec {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        CertificateSpec {
            cert_pem: made.cert.pem().into_bytes(),
            key_pem: made.signing_key.serialize_pem().into_bytes(),
        }
    }

    /// An app that listens, or only dials.
    fn app(is_ingress: bool) -> AppSpec {
        let listen = ListenSpec { protocol: Protocol::Tcp, address: "::".into(), first: 443, last: 443 };
        AppSpec { listens: if is_ingress { vec![listen] } else { Vec::new() }, ..AppSpec::default() }
    }

    fn spec(mode: &str, certificates: Vec<CertificateSpec>) -> TlsSpec {
        TlsSpec { mode: mode.into(), certificates, client_ca_pem: None }
    }

    #[test]
    fn the_same_settings_stay_in_force_and_tickets_outlive_a_certificate() {
        let kept = TlsKept::default();
        let old = spec("flexible", vec![pair(&["a.example"])]);
        let first = Tls::compile(&app(true), &old, &kept).unwrap();
        assert!(Arc::ptr_eq(&first, &Tls::compile(&app(true), &old, &kept).unwrap()));
        let new = spec("flexible", vec![pair(&["a.example"])]);
        let second = Tls::compile(&app(true), &new, &kept).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(first.tickets.as_ref().unwrap(), second.tickets.as_ref().unwrap()));
        assert!(second.is_for_clients() && !second.is_for_origins());
        let broken =
            spec("flexible", vec![CertificateSpec { cert_pem: b"x".to_vec(), key_pem: b"y".to_vec() }]);
        assert!(Tls::compile(&app(true), &broken, &kept).is_err());
        assert!(
            Arc::ptr_eq(&second, &Tls::compile(&app(true), &new, &kept).unwrap()),
            "what was good is kept"
        );
    }

    #[test]
    fn where_no_client_comes_in_no_certificate_is_needed() {
        let empty = CertificateSpec { cert_pem: Vec::new(), key_pem: Vec::new() };
        let egress =
            Tls::compile(&app(false), &spec("full", vec![empty.clone()]), &TlsKept::default()).unwrap();
        assert!(!egress.is_for_clients() && egress.is_for_origins());
        let error = Tls::compile(&app(true), &spec("full", vec![empty]), &TlsKept::default()).unwrap_err();
        assert_eq!(error, "tls.certificates[0]: a file of it is missing or empty");
        let error = Tls::compile(&app(true), &spec("full", Vec::new()), &TlsKept::default()).unwrap_err();
        assert_eq!(error, "tls.certificates: there is none");
    }

    #[test]
    fn client_ca_fails_closed() {
        let good = pair(&["a.example"]);
        for (pem, expected) in [
            (&b""[..], "the file is missing or empty"),
            (b"\n", "its certificate file holds no certificate"),
            (b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", "is not usable"),
        ] {
            let spec = TlsSpec { client_ca_pem: Some(pem.to_vec()), ..spec("flexible", vec![good.clone()]) };
            let error = Tls::compile(&app(true), &spec, &TlsKept::default()).unwrap_err();
            assert!(error.starts_with("tls.client_ca: ") && error.contains(expected), "{error}");
        }
        let spec = TlsSpec { client_ca_pem: Some(good.cert_pem.clone()), ..spec("flexible", vec![good]) };
        let tls = Tls::compile(&app(true), &spec, &TlsKept::default()).unwrap();
        assert!(tls.tickets.is_none(), "every client proves itself anew");
    }

    #[test]
    fn settings_show_no_key() {
        let made = pair(&["a.example"]);
        let tls = Tls::compile(&app(true), &spec("full", vec![made.clone()]), &TlsKept::default()).unwrap();
        let shown = format!("{tls:?} {made:?}");
        assert!(!shown.contains("PRIVATE") && shown.contains("Tls"), "{shown}");
    }
}
