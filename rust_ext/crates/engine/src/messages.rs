//! The frames between the daemon and its engine: docs/engine-protocol.md as types, and their msgpack form.
//!
//! A frame's body is a map with one entry, its type; unknown keys are ignored, unknown types are an error. What the messages
//! mean and when they come is decided in `control`.

use std::collections::BTreeMap;
use std::net::{AddrParseError, SocketAddr};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::snapshot::{Protocol, Snapshot};

#[cfg(test)]
mod tests;

/// The version that this engine speaks. It rises whenever one side could misread the other; 2: apps with policies, origins with targets;
/// 3: `outcomes`, and candidates on trial.
pub(crate) const PROTOCOL_VERSION: u32 = 3;

/// The longest frame in either direction, in bytes, without its length field.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// What the daemon says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Down {
    Hello(DaemonHello),
    Identity(IdentityFrame),
    Socket(SocketKey),
    AccessList(AccessListFrame),
    Apply(Box<Snapshot>),
    Bus(BusFrame),
    ListFlows(ListFlows),
    Whois(Whois),
    Drain(Drain),
    Stop(Stop),
}

/// The first frame of a daemon.
#[derive(Debug, Deserialize)]
pub(crate) struct DaemonHello {
    pub(crate) protocol: u32,
    /// Whether it wants a record of every flow that has ended.
    #[serde(default = "yes")]
    pub(crate) records: bool,
}

const fn yes() -> bool {
    true
}

/// Who this PoP is, in PEM, and whom it believes no more. The key is wiped when the frame is dropped.
#[derive(Deserialize)]
pub(crate) struct IdentityFrame {
    pub(crate) fleet: String,
    pub(crate) pop: String,
    /// What stateless resets are made with, the same over restarts and renewals; empty: something of the private key.
    #[serde(default, with = "serde_bytes")]
    pub(crate) reset_key: Vec<u8>,
    /// Names of PoPs.
    #[serde(default)]
    pub(crate) revoked_pops: Vec<String>,
    /// Serial numbers of certificates, big-endian.
    #[serde(default)]
    pub(crate) revoked_serials: Vec<serde_bytes::ByteBuf>,
    #[serde(with = "serde_bytes")]
    pub(crate) ca_pem: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(crate) cert_pem: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(crate) key_pem: Vec<u8>,
}

impl Drop for IdentityFrame {
    fn drop(&mut self) {
        self.key_pem.zeroize();
        self.reset_key.zeroize();
    }
}

impl std::fmt::Debug for IdentityFrame {
    /// The key is nobody's business.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("IdentityFrame").field("pop", &self.pop).finish_non_exhaustive()
    }
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SocketRole {
    /// Clients come to it.
    Listener,
    /// Other PoPs do.
    Overlay,
}

/// What names a socket. The address is compared as text: both sides take it from the same configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct SocketKey {
    pub(crate) role: SocketRole,
    pub(crate) protocol: Protocol,
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) worker: u32,
}

impl std::fmt::Display for SocketKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let role = match self.role {
            SocketRole::Listener => "listener",
            SocketRole::Overlay => "overlay",
        };
        let (protocol, address) = (self.protocol.as_str(), &self.address);
        write!(formatter, "{role} {protocol} {address} port {} of worker {}", self.port, self.worker)
    }
}

/// A piece of an access list.
#[derive(Deserialize)]
pub(crate) struct AccessListFrame {
    /// Stands for the contents of the whole list.
    pub(crate) id: u64,
    /// Counts the pieces of the list from 0; that begins it anew.
    pub(crate) part: u32,
    /// Nothing of the list follows.
    pub(crate) is_last: bool,
    /// IPv4 prefixes of 5 bytes each: address, length.
    #[serde(with = "serde_bytes")]
    pub(crate) v4: Vec<u8>,
    /// IPv6 prefixes of 17 bytes each.
    #[serde(with = "serde_bytes")]
    pub(crate) v6: Vec<u8>,
}

impl std::fmt::Debug for AccessListFrame {
    /// Not a million prefixes.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AccessListFrame").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A control message for or of a neighbour.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BusFrame {
    pub(crate) peer: String,
    #[serde(with = "serde_bytes")]
    pub(crate) payload: Vec<u8>,
}

/// Which flows live now?
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ListFlows {
    pub(crate) request: u64,
    /// None: of all apps.
    #[serde(default)]
    pub(crate) app: Option<String>,
    pub(crate) limit: u32,
    /// None: whatever their addresses. See [`Whois`].
    #[serde(skip)]
    pub(crate) address: Option<SocketAddr>,
}

impl ListFlows {
    /// Whether a flow of this app and client is asked for. Its address towards the origin costs a system call, so it comes last.
    pub(crate) fn wants(
        &self,
        app: &str,
        client: SocketAddr,
        source: impl FnOnce() -> Option<SocketAddr>,
    ) -> bool {
        self.app.as_ref().is_none_or(|wanted| wanted == app)
            && self.address.is_none_or(|wanted| wanted == client || source() == Some(wanted))
    }
}

/// Whose address is this? Of a client, or one of ours as an origin sees it. Answered like [`ListFlows`].
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Whois {
    pub(crate) request: u64,
    /// `ip:port`.
    pub(crate) address: String,
    pub(crate) limit: u32,
}

impl TryFrom<Whois> for ListFlows {
    type Error = AddrParseError;

    fn try_from(whois: Whois) -> Result<Self, Self::Error> {
        let address: SocketAddr = whois.address.parse()?;
        let address = Some(SocketAddr::new(address.ip().to_canonical(), address.port()));
        Ok(Self { request: whois.request, app: None, limit: whois.limit, address })
    }
}

/// End the flows within a time, then exit.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Drain {
    pub(crate) deadline_ms: u64,
}

/// End now.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Stop {}

/// What the engine says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Up<'a> {
    Hello(EngineHello),
    Applied {
        generation: u64,
    },
    Refused {
        generation: u64,
        reason: String,
    },
    Counters(&'a CountersFrame),
    Outcomes(&'a OutcomesFrame),
    Samples {
        samples: &'a [SampleView],
    },
    Records {
        records: &'a [FlowRecord],
    },
    Events {
        events: &'a [Event],
    },
    Bus(&'a BusFrame),
    Flows {
        request: u64,
        flows: &'a [FlowView],
        total: u64,
    },
    Drained {
        closed: u64,
    },
    /// The last words to a daemon whose frames make no sense.
    Goodbye {
        reason: String,
    },
}

/// Who the engine is and what it holds.
#[derive(Debug, Serialize)]
pub(crate) struct EngineHello {
    pub(crate) protocol: u32,
    pub(crate) version: &'static str,
    pub(crate) pid: u32,
    pub(crate) workers: usize,
    pub(crate) generation: u64,
    pub(crate) pop: String,
    pub(crate) sockets: Vec<SocketKey>,
    /// Access lists that are here whole.
    pub(crate) access_lists: Vec<u64>,
    pub(crate) has_identity: bool,
}

/// Totals since the engine's start.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CountersFrame {
    pub(crate) at_ns: u64,
    pub(crate) workers: usize,
    pub(crate) values: BTreeMap<&'static str, u64>,
    pub(crate) apps: BTreeMap<String, BTreeMap<&'static str, u64>>,
    pub(crate) drops: BTreeMap<&'static str, u64>,
    pub(crate) handles: Vec<HandleState>,
    pub(crate) peers: Vec<PeerState>,
    pub(crate) ended: Vec<EndedFlows>,
    pub(crate) transit: Vec<TransitState>,
}

/// What flows really got since the frame before.
#[derive(Debug, Default, Serialize)]
pub(crate) struct OutcomesFrame {
    pub(crate) at_ns: u64,
    /// The time that `links` and `paths` are about; 0: they are left out.
    pub(crate) elapsed_ms: u64,
    pub(crate) links: Vec<LinkLoad>,
    pub(crate) paths: Vec<PathReport>,
    pub(crate) flows: Vec<FlowOutcomes>,
}

/// What was sent over an own link, of flows of this PoP and of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LinkLoad {
    pub(crate) link: String,
    /// Of packets from the outer header on, without IP and UDP.
    pub(crate) bytes: u64,
}

/// What the tunnel connections of a handle saw of the path that they took.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PathReport {
    pub(crate) peer: String,
    pub(crate) policy: String,
    pub(crate) path_id: u32,
    pub(crate) links: Vec<String>,
    /// Smoothed round trip, each connection by the packets it sent.
    pub(crate) rtt_us: u64,
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
}

/// What became of flows of one app over one way.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FlowOutcomes {
    pub(crate) app: String,
    /// None: dialled here.
    pub(crate) egress: Option<String>,
    pub(crate) links: Vec<String>,
    /// Only what there was.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// What a previous hop has sent through this PoP.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TransitState {
    pub(crate) previous_hop: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// What was not let through, by reason.
    pub(crate) drops: BTreeMap<&'static str, u64>,
}

/// How many flows of an app have ended with a code.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EndedFlows {
    pub(crate) app: String,
    pub(crate) protocol: Protocol,
    pub(crate) code: u16,
    pub(crate) flows: u64,
}

/// One route handle.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HandleState {
    pub(crate) peer: String,
    pub(crate) policy: String,
    /// Id of the path that packets take now.
    pub(crate) active_path: Option<u32>,
    pub(crate) primary_alive: bool,
    /// Traffic used it lately.
    pub(crate) in_use: bool,
    pub(crate) connections: u32,
    pub(crate) path_rtt_us: Option<u64>,
}

/// The pair connection with a peer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PeerState {
    pub(crate) name: String,
    pub(crate) connected: bool,
    /// Wall clock; 0: never was.
    pub(crate) since_ns: u64,
}

/// The result of one probe.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SampleView {
    pub(crate) link: String,
    pub(crate) sequence: u32,
    pub(crate) sent_ns: u64,
    pub(crate) rtt_ns: Option<u64>,
    pub(crate) received_ns: Option<u64>,
    pub(crate) peer_received: Option<u32>,
}

/// What this PoP is for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FlowRole {
    /// The client came here and the origin is dialled here.
    Local,
    /// The client came here.
    Ingress,
    /// The origin is dialled here.
    Egress,
}

/// A live flow.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FlowView {
    /// 16 hex digits, the same at every PoP.
    pub(crate) id: String,
    pub(crate) app: String,
    pub(crate) protocol: Protocol,
    pub(crate) client: String,
    pub(crate) listener: String,
    pub(crate) ingress: String,
    pub(crate) egress: String,
    pub(crate) role: FlowRole,
    pub(crate) peer: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) path: Vec<String>,
    pub(crate) origin: String,
    /// Our address as the origin sees it. None: another PoP dials it, or it was never reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    pub(crate) bytes_to_origin: u64,
    pub(crate) bytes_to_client: u64,
    pub(crate) datagrams_to_origin: u64,
    pub(crate) datagrams_to_client: u64,
    pub(crate) dropped: u64,
    pub(crate) age_ms: u64,
    pub(crate) idle_ms: u64,
    pub(crate) path_changes: u64,
    /// How often it has moved to another egress.
    pub(crate) egress_changes: u32,
}

/// A flow that has ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FlowRecord {
    #[serde(flatten)]
    pub(crate) flow: FlowView,
    pub(crate) started_ns: u64,
    pub(crate) ended_ns: u64,
    pub(crate) connect_ms: Option<f64>,
    pub(crate) first_byte_ms: Option<f64>,
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) closed_by: &'static str,
    /// The name that the client asked for with TLS.
    pub(crate) sni: Option<String>,
    /// What may be written down of the client's address.
    pub(crate) record_client: &'static str,
}

/// Something an operator or the control plane must know at once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    /// Wall clock.
    pub(crate) at_ns: u64,
    #[serde(flatten)]
    pub(crate) kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum EventKind {
    TunnelUp { peer: String },
    TunnelDown { peer: String, failure: &'static str, reason: String },
    PathDead { peer: String, path_id: u32, links: Vec<String> },
    PathAlive { peer: String, path_id: u32, links: Vec<String> },
    PathGraded { peer: String, path_id: u32, links: Vec<String>, lossy: bool, grey: bool, lost: u32, of: u32 },
    HandleMoved { peer: String, policy: String, from: Vec<String>, to: Vec<String>, gap_us: u64 },
    PeerLost { peer: String, silence_us: u64 },
    PeerBack { peer: String },
    WorkerPanicked { worker: usize, message: String },
    PeerRefused { peer: String, failure: &'static str, reason: String },
    RequestDenied(RequestDenied),
    ListenerError { protocol: Protocol, address: String, port: u16, worker: usize, reason: String },
    IdentityRefused { reason: String },
}

/// A peer asked for what is not configured here.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RequestDenied {
    pub(crate) peer: String,
    pub(crate) app: String,
    pub(crate) origin: String,
    pub(crate) protocol: Protocol,
    pub(crate) reason: &'static str,
    /// How many since the last such event of this peer.
    pub(crate) count: u64,
}

/// Bytes that are not a frame of the protocol, in words for the operator.
#[derive(Debug, thiserror::Error)]
#[error("not a frame of the engine protocol: {0}")]
pub(crate) struct Malformed(String);

impl Down {
    /// Read a frame's body.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        rmp_serde::from_slice(body).map_err(|error| Malformed(error.to_string()))
    }
}

impl Up<'_> {
    /// Append the frame, its length first; false: it is longer than a frame may be, nothing was appended.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        // Writing to memory fails only for maps of unknown length, which these types have none of after `flatten` is buffered.
        let encoded = rmp_serde::encode::write_named(out, self);
        let length = out.len() - start - 4;
        let Some(length) = u32::try_from(length).ok().filter(|_| encoded.is_ok() && length <= MAX_FRAME)
        else {
            out.truncate(start);
            return false;
        };
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        true
    }
}
