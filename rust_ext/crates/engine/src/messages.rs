//! The frames between the daemon and its engine: docs/engine-protocol.md as types, and their msgpack form.
//!
//! A frame's body is a map with one entry, its type; unknown keys are ignored, unknown types are an error. What the messages
//! mean and when they come is decided in `control`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::snapshot::{Protocol, Snapshot};

/// The version that this engine speaks.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// The longest frame in either direction, in bytes, without its length field.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// What the daemon says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Down {
    Hello(DaemonHello),
    Identity(IdentityFrame),
    Socket(SocketKey),
    Apply(Box<Snapshot>),
    Bus(BusFrame),
    ListFlows(ListFlows),
    Drain(Drain),
    Stop(Stop),
}

/// The first frame of a daemon.
#[derive(Debug, Deserialize)]
pub(crate) struct DaemonHello {
    pub(crate) protocol: u32,
}

/// Who this PoP is, in PEM.
#[derive(Deserialize)]
pub(crate) struct IdentityFrame {
    pub(crate) fleet: String,
    pub(crate) pop: String,
    #[serde(with = "serde_bytes")]
    pub(crate) ca_pem: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(crate) cert_pem: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(crate) key_pem: Vec<u8>,
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
    Applied { generation: u64 },
    Refused { generation: u64, reason: String },
    Counters(&'a CountersFrame),
    Samples { samples: &'a [SampleView] },
    Records { records: &'a [FlowRecord] },
    Events { events: &'a [Event] },
    Bus(&'a BusFrame),
    Flows { request: u64, flows: &'a [FlowView], total: u64 },
    Drained { closed: u64 },
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
    pub(crate) bytes_to_origin: u64,
    pub(crate) bytes_to_client: u64,
    pub(crate) datagrams_to_origin: u64,
    pub(crate) datagrams_to_client: u64,
    pub(crate) dropped: u64,
    pub(crate) age_ms: u64,
    pub(crate) idle_ms: u64,
    pub(crate) path_changes: u64,
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
    TunnelDown { peer: String, reason: String },
    PathDead { peer: String, path_id: u32, links: Vec<String> },
    PathAlive { peer: String, path_id: u32, links: Vec<String> },
    HandleMoved { peer: String, policy: String, from: Vec<String>, to: Vec<String>, gap_us: u64 },
    WorkerPanicked { worker: usize, message: String },
    PeerRefused { peer: String, reason: String },
    ListenerError { protocol: Protocol, address: String, port: u16, worker: usize, reason: String },
    IdentityRefused { reason: String },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame's body back as generic JSON-like text, to compare shapes without a second set of types.
    fn shape(up: &Up<'_>) -> Value {
        let mut bytes = Vec::new();
        assert!(up.encode(&mut bytes));
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(length, bytes.len() - 4);
        rmp_serde::from_slice(&bytes[4..]).unwrap()
    }

    /// Just enough of a generic value.
    mod rmpv_like {
        use serde::Deserialize;
        use std::collections::BTreeMap;

        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(untagged)]
        pub(super) enum Value {
            Nil(()),
            Bool(bool),
            Integer(u64),
            Float(f64),
            Text(String),
            List(Vec<Value>),
            Map(BTreeMap<String, Value>),
        }

        impl Value {
            pub(super) fn at(&self, path: &[&str]) -> &Value {
                path.iter().fold(self, |value, &key| match value {
                    Value::Map(map) => &map[key],
                    Value::List(list) => &list[key.parse::<usize>().unwrap()],
                    _ => panic!("{value:?} has no {key}"),
                })
            }
        }
    }
    use rmpv_like::Value;

    fn flow() -> FlowView {
        FlowView {
            id: "0123456789abcdef".into(),
            app: "minecraft".into(),
            protocol: Protocol::Tcp,
            client: "192.0.2.7:50000".into(),
            listener: "198.51.100.1:25565".into(),
            ingress: "ams".into(),
            egress: "ams".into(),
            role: FlowRole::Local,
            peer: None,
            policy: None,
            path: vec![],
            origin: "203.0.113.10:25565".into(),
            bytes_to_origin: 10,
            bytes_to_client: 20,
            datagrams_to_origin: 0,
            datagrams_to_client: 0,
            dropped: 0,
            age_ms: 5,
            idle_ms: 1,
            path_changes: 0,
        }
    }

    #[test]
    fn a_record_is_a_flow_with_its_end_in_one_map() {
        let record = FlowRecord {
            flow: flow(),
            started_ns: 1,
            ended_ns: 2,
            connect_ms: Some(0.5),
            first_byte_ms: None,
            code: 200,
            reason: "finished",
            closed_by: "client",
        };
        let value = shape(&Up::Records { records: &[record] });
        let record = value.at(&["records", "records", "0"]);
        assert_eq!(record.at(&["app"]), &Value::Text("minecraft".into()));
        assert_eq!(record.at(&["role"]), &Value::Text("local".into()));
        assert_eq!(record.at(&["peer"]), &Value::Nil(()));
        assert_eq!(record.at(&["code"]), &Value::Integer(200));
        assert_eq!(record.at(&["connect_ms"]), &Value::Float(0.5));
        let Value::Map(fields) = record else { panic!("a map") };
        assert_eq!(fields.len(), 27);
    }

    #[test]
    fn an_event_names_its_kind_beside_its_time() {
        let kind = EventKind::WorkerPanicked { worker: 1, message: "why".into() };
        let value = shape(&Up::Events { events: &[Event { at_ns: 9, kind }] });
        let event = value.at(&["events", "events", "0"]);
        assert_eq!(event.at(&["kind"]), &Value::Text("worker_panicked".into()));
        assert_eq!((event.at(&["at_ns"]), event.at(&["worker"])), (&Value::Integer(9), &Value::Integer(1)));
    }

    #[test]
    fn unknown_keys_are_ignored_and_unknown_types_are_not() {
        let body = |kind: &str| {
            let fields: BTreeMap<&str, u32> = [("protocol", 1), ("colour", 7)].into();
            rmp_serde::to_vec_named(&BTreeMap::from([(kind, fields)])).unwrap()
        };
        assert!(matches!(Down::decode(&body("hello")), Ok(Down::Hello(DaemonHello { protocol: 1 }))));
        assert!(Down::decode(&body("goodbye")).is_err());
        assert!(Down::decode(&[]).is_err());
        assert!(Down::decode(&[0xc1; 40]).is_err());
    }

    #[test]
    fn an_empty_body_is_a_struct_without_fields() {
        let body =
            rmp_serde::to_vec_named(&BTreeMap::from([("stop", BTreeMap::<&str, u32>::new())])).unwrap();
        assert!(matches!(Down::decode(&body), Ok(Down::Stop(Stop {}))));
    }

    #[test]
    fn what_is_too_long_for_a_frame_is_not_sent() {
        let payload = vec![0; MAX_FRAME + 1];
        let mut out = vec![1, 2, 3];
        assert!(!Up::Bus(&BusFrame { peer: "iad".into(), payload }).encode(&mut out));
        assert_eq!(out, [1, 2, 3]);
    }
}
