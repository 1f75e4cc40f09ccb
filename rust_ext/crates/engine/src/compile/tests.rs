//! What a snapshot is refused for, and that a refusal changes nothing.

use super::*;
use crate::snapshot::{
    AccessListSpec, CertificateSpec, HandleSpec, LimitsSpec, LinkSpec, OriginSpec, PathSpec, PeerSpec,
    RoutesSpec, TlsSpec,
};
use std::net::{TcpListener, UdpSocket};

struct World {
    sockets: Sockets,
    app_states: AppStates,
    overlay_states: OverlayStates,
    has_identity: bool,
}

impl World {
    /// Two workers' sockets for tcp/`::` 25565 and udp/`::` 9000–9001, whatever port they really have.
    fn new() -> Self {
        let mut sockets = Sockets::new();
        for worker in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let held = Held::new(Protocol::Tcp, listener.into()).unwrap();
            sockets.insert(listener_key(Protocol::Tcp, "::", 25_565, worker), held);
            for port in [9000, 9001] {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let held = Held::new(Protocol::Udp, socket.into()).unwrap();
                sockets.insert(listener_key(Protocol::Udp, "::", port, worker), held);
            }
        }
        Self {
            sockets,
            app_states: AppStates::new(),
            overlay_states: OverlayStates::default(),
            has_identity: false,
        }
    }

    fn compile(&mut self, snapshot: &Snapshot) -> Result<Tables, String> {
        let compiler = Compiler {
            epoch: 1,
            workers: 2,
            has_identity: self.has_identity,
            sockets: &self.sockets,
            hasher: &RandomState::with_seeds(1, 2, 3, 4),
            app_states: &mut self.app_states,
            overlay_states: &mut self.overlay_states,
            access_lists: &mut AccessLists::new(),
        };
        compiler.compile(snapshot).map_err(|refused| refused.to_string())
    }
}

fn listen(protocol: Protocol, first: u16, last: u16) -> ListenSpec {
    ListenSpec { protocol, address: "::".into(), first, last }
}

fn app(name: &str, listens: Vec<ListenSpec>) -> AppSpec {
    let here = CandidateSpec { origin: 0, handle: None, trial: false };
    AppSpec {
        name: name.into(),
        all_listens: listens.clone(),
        listens,
        origins: vec![OriginSpec {
            name: "o:7000".into(),
            kind: OriginKind::Address,
            targets: vec![TargetSpec {
                address: "203.0.113.1".into(),
                port: Some(7000),
                ..TargetSpec::default()
            }],
        }],
        routes: RoutesSpec { tcp: vec![here], udp: vec![here] },
        idle_tcp_ms: 1,
        idle_udp_ms: 2,
        half_closed_ms: 3,
        connect_timeout_ms: 4,
        admits_egress: true,
        duplication: "off".into(),
        record_client: "full".into(),
        ..AppSpec::default()
    }
}

fn snapshot() -> Snapshot {
    let minecraft = app("minecraft", vec![listen(Protocol::Tcp, 25_565, 25_565)]);
    let voice = app("voice", vec![listen(Protocol::Udp, 9000, 9001)]);
    Snapshot {
        generation: 7,
        pop: "ams".into(),
        pop_id: 1,
        apps: vec![minecraft, voice],
        ..Snapshot::default()
    }
}

#[test]
fn every_port_of_every_range_finds_its_app_and_a_socket_per_worker() {
    let mut world = World::new();
    let tables = world.compile(&snapshot()).unwrap();
    let found: Vec<_> = tables
        .listeners
        .iter()
        .map(|listener| (listener.app.name.as_str(), listener.port, listener.sockets.len()))
        .collect();
    assert_eq!(found, [("minecraft", 25_565, 2), ("voice", 9000, 2), ("voice", 9001, 2)]);
    let keys: Vec<_> = tables.socket_keys().collect();
    assert_eq!(keys.len(), 6);
    assert!(keys.iter().all(|key| world.sockets.contains_key(key)));
    assert_eq!(tables.app("voice").unwrap().idle_udp, Duration::from_millis(2));
    assert!(tables.app("chess").is_none());
}

#[test]
fn an_app_keeps_its_state_from_one_snapshot_to_the_next() {
    let mut world = World::new();
    let first = world.compile(&snapshot()).unwrap();
    let second = world.compile(&snapshot()).unwrap();
    let state = |tables: &Tables| tables.app("voice").unwrap().state.clone();
    assert!(Arc::ptr_eq(&state(&first), &state(&second)));
    drop((first, second));
    let mut without = snapshot();
    without.apps.pop();
    world.compile(&without).unwrap();
    assert_eq!(world.app_states.len(), 1, "nothing is kept of an app that has gone with its flows");
}

/// A way to spoil a snapshot, and what is said of it.
type Row = (fn(&mut Snapshot), &'static str);

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let rows: &[Row] = &[
        (
            |s| s.apps[0].listens[0].last = 25_566,
            "there is no socket for listener tcp :: port 25566 of worker 0",
        ),
        (|s| s.apps[1].name = "minecraft".into(), "two apps are named minecraft"),
        (
            |s| s.apps[1].listens.push(listen(Protocol::Udp, 9001, 9001)),
            "apps voice and voice both listen on udp/:: port 9001",
        ),
        (
            |s| s.apps[0].listens[0].address = "home".into(),
            "app minecraft: \"home\" is no IP address to listen on",
        ),
        (|s| s.apps[0].listens[0].first = 0, "app minecraft: 0-25565 is no range of ports"),
        (|s| s.apps[0].origins[0].targets[0].address = "o".into(), "app minecraft: \"o\" is no IP address"),
        (
            |s| s.apps[0].origins[0].name = String::new(),
            "app minecraft: the name \"\" is not of 1 to 255 bytes",
        ),
        (
            |s| s.apps[1].origins[0].targets[0].port = Some(65_535),
            "app voice: origin o:7000: the ports for 9000-9001 would pass 65535",
        ),
        (|s| s.apps[0].routes.tcp[0].origin = 1, "app minecraft: a route names origin 1 of 1"),
        (
            |s| s.apps[0].routes.udp[0].handle = Some(9),
            "app minecraft: a route names handle 9, which does not exist",
        ),
        (
            |s| s.peers.push(PeerSpec { name: "iad".into(), ..PeerSpec::default() }),
            "there are peers but no identity",
        ),
        (
            |s| s.links.push(LinkSpec { local: "nowhere".into(), ..LinkSpec::default() }),
            "\"nowhere\" is no address of the form ip:port",
        ),
        (
            |s| s.links.push(LinkSpec { local: "[::1]:4600".into(), ..LinkSpec::default() }),
            "there is no socket for overlay udp ::1 port 4600 of worker 0",
        ),
    ];
    let mut world = World::new();
    for (spoil, expected) in rows {
        let mut snapshot = snapshot();
        spoil(&mut snapshot);
        assert_eq!(world.compile(&snapshot).unwrap_err(), *expected);
    }
    assert!(world.compile(&snapshot()).is_ok());
}

/// A way to spoil an app, and what is said of it.
type Spoiled = (fn(&mut AppSpec), &'static str);

fn tls(certificates: &[(&str, &str)]) -> Option<TlsSpec> {
    let pair = |&(cert, key): &(&str, &str)| CertificateSpec { cert_pem: cert.into(), key_pem: key.into() };
    Some(TlsSpec {
        mode: "full".into(),
        certificates: certificates.iter().map(pair).collect(),
        client_ca_pem: None,
    })
}

/// TLS is for clients of TCP listeners.
fn set_tls(app: &mut AppSpec, tls: Option<TlsSpec>) {
    app.listens[0].protocol = Protocol::Tcp;
    app.tls = tls;
}

#[test]
fn a_policy_that_makes_no_sense_names_the_app_and_the_field() {
    let rows: &[Spoiled] = &[
        (|app| app.client_address.tcp = "spp".into(), "client_address.tcp: \"spp\" is not known"),
        (|app| app.client_address.udp = "proxy-v1".into(), "client_address.udp: \"proxy-v1\" is not known"),
        (
            |app| app.accept_client_address.push("10.0.0.0".into()),
            "accept_client_address: \"10.0.0.0\" is no prefix",
        ),
        (
            |app| app.accept_client_address = vec!["10.0.0.0/8".into(); 257],
            "accept_client_address: 257 prefixes, and 256 are possible",
        ),
        (|app| app.dscp = Some(64), "dscp: 64 is more than 63"),
        (|app| app.duplication = "twice".into(), "duplication: \"twice\" is not known"),
        (|app| app.record_client = "some".into(), "record_client: \"some\" is not known"),
        (
            |app| app.access.lists.push(AccessListSpec { verdict: "maybe".into(), id: 1 }),
            "access.lists[0].verdict: \"maybe\" is neither allow nor deny",
        ),
        (
            |app| app.access.lists = vec![AccessListSpec { verdict: "deny".into(), id: 1 }; 65],
            "access.lists: 65 lists, and 64 are possible",
        ),
        (|app| app.limits.new_flows_per_second = Some(0), "limits.new_flows_per_second: 0 passes nothing"),
        (
            |app| app.limits.new_flows_per_second_per_source = Some(0),
            "limits.new_flows_per_second_per_source: 0 passes nothing",
        ),
        (|app| app.limits.bandwidth_per_flow = Some(0), "limits.bandwidth_per_flow: 0 passes nothing"),
        (
            |app| app.limits.amplification = Some(f64::NAN),
            "limits.amplification: NaN is not a positive number",
        ),
        (|app| app.limits.source_prefix_v6 = 129, "limits.source_prefix_v6: 129 is not from 1 to 128"),
        (|app| set_tls(app, tls(&[])), "tls.certificates: there is none"),
        (
            |app| set_tls(app, tls(&[("c", ""), ("c", "k")])),
            "tls.certificates[0]: a file of it is missing or empty",
        ),
        (
            |app| set_tls(app, tls(&[("c", "k")]).map(|tls| TlsSpec { mode: "off".into(), ..tls })),
            "tls.mode: \"off\" is not known",
        ),
        (
            |app| set_tls(app, tls(&[("c", "k")]).map(|tls| TlsSpec { client_ca_pem: Some(vec![]), ..tls })),
            "tls.client_ca: the file is missing or empty",
        ),
    ];
    let mut world = World::new();
    for (spoil, expected) in rows {
        let mut snapshot = snapshot();
        spoil(&mut snapshot.apps[1]);
        assert_eq!(world.compile(&snapshot).unwrap_err(), format!("app voice: {expected}"));
    }
}

#[test]
fn what_is_not_limited_has_no_limit() {
    let mut world = World::new();
    let mut snapshot = snapshot();
    snapshot.apps[0].limits = LimitsSpec { flows: Some(5), ..LimitsSpec::default() };
    let tables = world.compile(&snapshot).unwrap();
    let limits = |name: &str| tables.app(name).unwrap().policy.limits;
    assert_eq!((limits("minecraft").flows, limits("minecraft").flows_per_source), (5, u32::MAX));
    assert_eq!(limits("voice").flows, u32::MAX);
}

#[test]
fn the_overlays_part_is_checked_as_well() {
    let mut world = World::new();
    world.has_identity = true;
    let mut snapshot = snapshot();
    let paths = vec![PathSpec { first_link: 5, ..PathSpec::default() }];
    snapshot.peers.push(PeerSpec { name: "iad".into(), id: 2, ..PeerSpec::default() });
    snapshot.handles.push(HandleSpec { id: 1, peer: "iad".into(), policy: "off".into(), paths });
    let reason = world.compile(&snapshot).unwrap_err();
    assert!(reason.contains("link"), "{reason}");
}
