//! Shapes of the frames, as the daemon's side sees them.

use super::*;
use value::Value;

/// The integration tests' generic value.
#[allow(unreachable_pub, dead_code, reason = "it serves another program as well")]
#[path = "../../tests/engine/value.rs"]
mod value;

/// A frame's body back as generic JSON-like text, to compare shapes without a second set of types.
fn shape(up: &Up<'_>) -> Value {
    let mut bytes = Vec::new();
    assert!(up.encode(&mut bytes));
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    assert_eq!(length, bytes.len() - 4);
    rmp_serde::from_slice(&bytes[4..]).unwrap()
}

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
        source: None,
        bytes_to_origin: 10,
        bytes_to_client: 20,
        datagrams_to_origin: 0,
        datagrams_to_client: 0,
        dropped: 0,
        age_ms: 5,
        idle_ms: 1,
        path_changes: 0,
        egress_changes: 0,
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
        sni: Some("play.example.net".into()),
        record_client: "hash",
    };
    let value = shape(&Up::Records { records: &[record] });
    let record = value.at(&["records", "records", "0"]);
    assert_eq!(record.at(&["app"]), &Value::Text("minecraft".into()));
    assert_eq!(record.at(&["role"]), &Value::Text("local".into()));
    assert_eq!(record.at(&["peer"]), &Value::Nil);
    assert_eq!(record.at(&["code"]), &Value::Integer(200));
    assert_eq!(record.at(&["connect_ms"]), &Value::Float(0.5));
    let Value::Map(fields) = record else { panic!("a map") };
    assert_eq!(record.at(&["record_client"]), &Value::Text("hash".into()));
    assert_eq!(record.at(&["sni"]), &Value::Text("play.example.net".into()));
    assert_eq!(fields.len(), 30);
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
    assert!(matches!(
        Down::decode(&body("hello")),
        Ok(Down::Hello(DaemonHello { protocol: 1, records: true }))
    ));
    assert!(Down::decode(&body("goodbye")).is_err());
    assert!(Down::decode(&[]).is_err());
    assert!(Down::decode(&[0xc1; 40]).is_err());
}

#[test]
fn an_empty_body_is_a_struct_without_fields() {
    let body = rmp_serde::to_vec_named(&BTreeMap::from([("stop", BTreeMap::<&str, u32>::new())])).unwrap();
    assert!(matches!(Down::decode(&body), Ok(Down::Stop(Stop {}))));
}

#[test]
fn what_is_too_long_for_a_frame_is_not_sent() {
    let payload = vec![0; MAX_FRAME + 1];
    let mut out = vec![1, 2, 3];
    assert!(!Up::Bus(&BusFrame { peer: "iad".into(), payload }).encode(&mut out));
    assert_eq!(out, [1, 2, 3]);
}
