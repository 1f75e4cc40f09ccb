//! The forwarding state of one PoP as the daemon sends it: section "Snapshot" of docs/engine-protocol.md, field for field.
//!
//! Types only. `compile` checks them and makes the tables that the workers look things up in.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Everything at once; a new one replaces the old one whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Goes up with every snapshot of one daemon.
    pub(crate) generation: u64,
    /// Name of this PoP.
    pub(crate) pop: String,
    /// Its id on the wire.
    pub(crate) pop_id: u32,
    /// Name of the fleet.
    pub(crate) fleet: String,
    /// Every app of the fleet.
    pub(crate) apps: Vec<AppSpec>,
    /// Outgoing links.
    pub(crate) links: Vec<LinkSpec>,
    /// Incoming links.
    pub(crate) links_in: Vec<IncomingLinkSpec>,
    /// The other PoPs.
    pub(crate) peers: Vec<PeerSpec>,
    /// What the route handles mean.
    pub(crate) handles: Vec<HandleSpec>,
    /// What each previous hop may send through this PoP, bytes a second; 0: no bound.
    #[serde(default)]
    pub(crate) transit_bytes_per_s: u64,
    /// What carries UDP flows between PoPs.
    #[serde(default)]
    pub(crate) datagrams: DatagramsSpec,
    /// Caps of the engine as a whole.
    pub(crate) options: OptionsSpec,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// Flows are connections.
    Tcp,
    /// Flows are sessions.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What carries UDP flows between PoPs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DatagramsSpec {
    /// The datagram channel.
    #[default]
    Channel,
    /// QUIC's own DATAGRAM frames, where both PoPs take them.
    Quic,
}

/// One app.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct AppSpec {
    pub(crate) name: String,
    /// What clients may come to at this PoP.
    pub(crate) listens: Vec<ListenSpec>,
    /// What clients may come to at any PoP: the egress computes origin ports from it.
    pub(crate) all_listens: Vec<ListenSpec>,
    pub(crate) origins: Vec<OriginSpec>,
    pub(crate) routes: RoutesSpec,
    pub(crate) idle_tcp_ms: u64,
    pub(crate) idle_udp_ms: u64,
    /// Idle time of a TCP flow of which one direction has ended.
    pub(crate) half_closed_ms: u64,
    /// Whole budget of all attempts.
    pub(crate) connect_timeout_ms: u64,
    /// This PoP may dial the origins.
    pub(crate) admits_egress: bool,
    #[serde(default)]
    pub(crate) limits: LimitsSpec,
    #[serde(default)]
    pub(crate) client_address: ClientAddressSpec,
    /// Prefixes of trusted balancers.
    #[serde(default)]
    pub(crate) accept_client_address: Vec<String>,
    #[serde(default)]
    pub(crate) access: AccessSpec,
    /// None: kept.
    #[serde(default)]
    pub(crate) dscp: Option<u8>,
    /// `off`, `on-loss`, `always`.
    #[serde(default = "off")]
    pub(crate) duplication: String,
    /// UDP flows may move to another egress or origin.
    #[serde(default)]
    pub(crate) rehome: bool,
    #[serde(default)]
    pub(crate) tls: Option<TlsSpec>,
    #[serde(default = "full")]
    pub(crate) record_client: String,
    /// Names may lead to private networks.
    #[serde(default)]
    pub(crate) allow_private_origins: bool,
    /// Addresses and prefixes from which origins are dialled; none: the kernel chooses.
    #[serde(default)]
    pub(crate) source_pool: Vec<String>,
}

fn off() -> String {
    "off".into()
}

fn full() -> String {
    "full".into()
}

/// Caps and rates; none: only the engine's own caps apply.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LimitsSpec {
    pub(crate) flows: Option<u32>,
    pub(crate) flows_per_source: Option<u32>,
    /// Length of the prefix that counts as one IPv6 client.
    pub(crate) source_prefix_v6: u8,
    pub(crate) new_flows_per_second: Option<u32>,
    pub(crate) new_flows_per_second_per_source: Option<u32>,
    /// Bytes a second, each direction by itself.
    pub(crate) bandwidth_per_flow: Option<u64>,
    /// Bytes to a client that has not proved its address, per byte from it.
    pub(crate) amplification: Option<f64>,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            flows: None,
            flows_per_source: None,
            source_prefix_v6: 64,
            new_flows_per_second: None,
            new_flows_per_second_per_source: None,
            bandwidth_per_flow: None,
            amplification: None,
        }
    }
}

/// How origins learn who the client is, in words; `policy` knows them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ClientAddressSpec {
    pub(crate) tcp: String,
    pub(crate) udp: String,
}

impl Default for ClientAddressSpec {
    fn default() -> Self {
        Self { tcp: "off".into(), udp: "off".into() }
    }
}

/// Who may come: the longest prefix wins, deny wins ties.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AccessSpec {
    pub(crate) default_allow: bool,
    pub(crate) lists: Vec<AccessListSpec>,
}

impl Default for AccessSpec {
    fn default() -> Self {
        Self { default_allow: true, lists: Vec::new() }
    }
}

/// A list by its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AccessListSpec {
    /// `allow` or `deny`.
    pub(crate) verdict: String,
    pub(crate) id: u64,
}

/// TLS that ends here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TlsSpec {
    /// `flexible`, `full` or `strict`.
    pub(crate) mode: String,
    /// By server name; the first serves clients that name none.
    pub(crate) certificates: Vec<CertificateSpec>,
    /// Only clients with a certificate of these authorities come in.
    #[serde(default, with = "serde_bytes")]
    pub(crate) client_ca_pem: Option<Vec<u8>>,
}

/// A chain and its key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CertificateSpec {
    #[serde(with = "serde_bytes")]
    pub(crate) cert_pem: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(crate) key_pem: Vec<u8>,
}

impl Drop for CertificateSpec {
    /// A key is not left behind in memory that is given back.
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}

impl std::fmt::Debug for CertificateSpec {
    /// The key is nobody's business.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CertificateSpec").finish_non_exhaustive()
    }
}

/// A range of ports; `address` `::` is every address of both families.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ListenSpec {
    pub(crate) protocol: Protocol,
    pub(crate) address: String,
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// One origin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct OriginSpec {
    /// As written in the app file.
    pub(crate) name: String,
    /// Whether an address stands there or a name.
    pub(crate) kind: OriginKind,
    /// Where it may be dialled now; none: a name without an answer.
    pub(crate) targets: Vec<TargetSpec>,
}

/// What stands in the app file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OriginKind {
    /// An address: the operator's word.
    #[default]
    Address,
    /// A name: its targets are other people's word, and are checked when they are dialled.
    Name,
}

/// One address of an origin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TargetSpec {
    pub(crate) address: String,
    /// None: the listener's port.
    pub(crate) port: Option<u16>,
    /// Targets of one number, which follow each other, are addresses of one host.
    #[serde(default)]
    pub(crate) host: u16,
    /// Of the host, as in SRV records: lower ones come first.
    #[serde(default)]
    pub(crate) priority: u16,
    /// Of the host, as in SRV records: its share among those of equal priority.
    #[serde(default)]
    pub(crate) weight: u16,
}

/// Candidates in order of preference.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RoutesSpec {
    pub(crate) tcp: Vec<CandidateSpec>,
    pub(crate) udp: Vec<CandidateSpec>,
}

/// One way for a new flow.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct CandidateSpec {
    /// Index into the app's origins.
    pub(crate) origin: u32,
    /// None: dialled here.
    pub(crate) handle: Option<u32>,
    /// It failed of late: one flow in some tries it first.
    #[serde(default)]
    pub(crate) trial: bool,
}

/// An outgoing link.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LinkSpec {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) peer: String,
    pub(crate) label: u32,
    /// `ip:port` of an overlay socket.
    pub(crate) local: String,
    /// `ip:port` of the peer's overlay socket.
    pub(crate) remote: String,
    pub(crate) probe_interval_ms: u32,
    /// Copies of datagrams that it may carry as a second path, bytes a second.
    #[serde(default)]
    pub(crate) copies_bytes_per_s: u64,
    /// The peer dials out from an address that is not known beforehand; `remote` says nothing.
    #[serde(default)]
    pub(crate) moves: bool,
}

/// An incoming link: who may send to us from where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct IncomingLinkSpec {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) peer: String,
    pub(crate) local: String,
    pub(crate) remote: String,
    /// As of the outgoing link.
    #[serde(default)]
    pub(crate) moves: bool,
}

/// Another PoP.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PeerSpec {
    pub(crate) name: String,
    pub(crate) id: u32,
    /// This PoP dials the pair connection.
    pub(crate) dial: bool,
    /// A link joins the two.
    pub(crate) adjacent: bool,
    /// It dials out from addresses that are not known beforehand.
    #[serde(default)]
    pub(crate) moves: bool,
}

/// What a route handle means.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct HandleSpec {
    pub(crate) id: u32,
    pub(crate) peer: String,
    pub(crate) policy: String,
    /// The primary path first, then its backups.
    pub(crate) paths: Vec<PathSpec>,
}

/// One path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PathSpec {
    pub(crate) id: u32,
    /// Names of its links.
    pub(crate) links: Vec<String>,
    /// Id of its first link, one of this PoP.
    pub(crate) first_link: u32,
    /// Labels of the others.
    pub(crate) labels: Vec<u32>,
}

/// Caps of the engine as a whole.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OptionsSpec {
    /// UDP sessions, of either class.
    pub(crate) max_sessions: u32,
    /// UDP sessions whose client has proved nothing.
    pub(crate) max_new_sessions: u32,
    pub(crate) max_tcp_flows: u32,
    /// Decides which address of a pool a client is seen from: 16 bytes, the same after a restart, told to nobody.
    #[serde(with = "serde_bytes")]
    pub(crate) source_key: [u8; 16],
}

impl Default for OptionsSpec {
    /// What `l4proxy/core/snapshot.py` says when the operator says nothing.
    fn default() -> Self {
        Self { max_sessions: 131_072, max_new_sessions: 16_384, max_tcp_flows: 65_536, source_key: [0; 16] }
    }
}
