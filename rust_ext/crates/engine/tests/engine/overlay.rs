//! Flows through two PoPs: client, ingress engine, a tunnel on loopback, egress engine, origin.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use l4proxy_io::udp::UdpSocket as SharedSocket;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::value::{Value, map};
use crate::world::{App, Daemon, Engine, PATIENCE, eventually, snapshot};

const NAMES: [&str; 2] = ["ams", "iad"];

pub struct Pop {
    engine: Option<Engine>,
    pub daemon: Daemon,
    address: SocketAddr,
    workers: u64,
    overlay: Vec<SharedSocket>,
    identity: Value,
    renewed: Value,
    snapshot: Value,
}

/// Two PoPs whose pair connection is up: clients come to the first.
pub struct Fleet {
    pub pops: [Pop; 2],
    generation: u64,
}

fn id_of(name: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    u64::from(u32::from_be_bytes(digest.as_ref()[..4].try_into().unwrap()))
}

/// Each PoP's identity, and the next one of the same CA.
fn identities() -> [[Value; 2]; 2] {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(format!("l4proxy://demo/{name}").try_into().unwrap())];
        let leaf_pem = leaf.signed_by(&key, &issuer).unwrap().pem();
        let bytes = |text: String| Value::Bytes(text.into_bytes());
        map([
            ("fleet", "demo".into()),
            ("pop", name.into()),
            ("ca_pem", bytes(ca_pem.clone())),
            ("cert_pem", bytes(leaf_pem)),
            ("key_pem", bytes(key.serialize_pem())),
        ])
    };
    NAMES.map(|name| [issue(name), issue(name)])
}

/// One socket per worker on one port.
fn group(workers: usize) -> (Vec<SharedSocket>, SocketAddr) {
    let first = SharedSocket::bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
    let address = first.local_address().unwrap();
    let mut sockets = vec![first];
    sockets.extend((1..workers).map(|_| SharedSocket::bind(address, true).unwrap()));
    (sockets, address)
}

/// An engine that knows who it is and has its overlay sockets.
fn start(name: &str, identity: &Value, overlay: &[SharedSocket]) -> (Engine, Daemon) {
    let engine = Engine::start_as(name, overlay.len());
    let (mut daemon, _) = engine.connect();
    daemon.say("identity", identity.clone());
    for (worker, socket) in (0..).zip(overlay) {
        let port = socket.local_address().unwrap().port();
        daemon.give_as("overlay", "udp", "127.0.0.1", port, worker, socket.as_fd());
    }
    (engine, daemon)
}

impl Fleet {
    fn new(workers: usize) -> Self {
        let identities = identities();
        let mut number = 0;
        let pops = NAMES.map(|name| {
            let [identity, renewed] = identities[number].clone();
            number += 1;
            let (overlay, address) = group(workers);
            let (engine, daemon) = start(name, &identity, &overlay);
            let (engine, workers) = (Some(engine), workers as u64);
            Pop { engine, daemon, address, workers, overlay, identity, renewed, snapshot: Value::Nil }
        });
        Self { pops, generation: 0 }
    }

    /// End the second PoP's engine and start another one with the same sockets and the same snapshot.
    fn restart_second(&mut self) {
        let pop = &mut self.pops[1];
        drop(pop.engine.take());
        let (engine, daemon) = start(NAMES[1], &pop.identity, &pop.overlay);
        (pop.engine, pop.daemon) = (Some(engine), daemon);
        pop.daemon.apply(&pop.snapshot);
    }

    /// Apps at the first and at the second PoP; routes name handle 1, which leads from each to the other.
    pub fn apply(&mut self, apps: [&[App]; 2]) {
        self.apply_with(apps, "channel");
    }

    /// The same, with what carries datagrams between the two.
    fn apply_with(&mut self, apps: [&[App]; 2], datagrams: &str) {
        self.generation += 1;
        let addresses = [self.pops[0].address, self.pops[1].address];
        for (own, apps) in apps.into_iter().enumerate() {
            let other = 1 - own;
            let mut snapshot = snapshot(self.generation, apps);
            snapshot.set("pop", NAMES[own]);
            snapshot.set("pop_id", id_of(NAMES[own]));
            let link = |from: usize, to: usize| format!("{}/a>{}/a", NAMES[from], NAMES[to]);
            let ends = |from: usize, to: usize| {
                map([
                    ("id", id_of(&link(from, to)).into()),
                    ("name", link(from, to).as_str().into()),
                    ("peer", NAMES[other].into()),
                    ("local", addresses[own].to_string().as_str().into()),
                    ("remote", addresses[other].to_string().as_str().into()),
                ])
            };
            let mut outgoing = ends(own, other);
            outgoing.set("label", 77u64 + own as u64);
            outgoing.set("probe_interval_ms", 200u64);
            snapshot.set("links", vec![outgoing]);
            snapshot.set("links_in", vec![ends(other, own)]);
            let peer = map([
                ("name", NAMES[other].into()),
                ("id", id_of(NAMES[other]).into()),
                ("dial", (own == 0).into()),
                ("adjacent", true.into()),
            ]);
            snapshot.set("peers", vec![peer]);
            let path = map([
                ("id", 9u64.into()),
                ("links", vec![link(own, other).as_str().into()].into()),
                ("first_link", id_of(&link(own, other)).into()),
                ("labels", vec![].into()),
            ]);
            let handle = map([
                ("id", 1u64.into()),
                ("peer", NAMES[other].into()),
                ("policy", "off".into()),
                ("paths", vec![path].into()),
            ]);
            snapshot.set("handles", vec![handle]);
            snapshot.set("datagrams", datagrams);
            self.pops[own].daemon.apply(&snapshot);
            self.pops[own].snapshot = snapshot;
        }
        if self.generation == 1 {
            for pop in &mut self.pops {
                pop.daemon.event("tunnel_up");
            }
        }
    }
}

/// The app as the ingress knows it: all its ways lead through the other PoP, but for those to `local` origins.
pub fn through(mut app: App, local: &[SocketAddr]) -> App {
    let remote = app.origins.len() as u64;
    app.origins.extend(local);
    let candidate = |origin: u64, handle: Value| map([("origin", origin.into()), ("handle", handle)]);
    let mut candidates: Vec<_> = (0..remote).map(|origin| candidate(origin, 1u64.into())).collect();
    candidates.extend((0..local.len() as u64).map(|index| candidate(remote + index, Value::Nil)));
    let routes = map([("tcp", candidates.clone().into()), ("udp", candidates.into())]);
    app.with("routes", routes)
}

/// The app as the egress knows it: nobody listens there.
pub fn dialled(app: App) -> App {
    app.with("listens", vec![])
}

pub struct Tcp {
    pub fleet: Fleet,
    ours: TcpListener,
    pub origin: TcpListener,
}

pub fn tcp(workers: usize, change: impl Fn(App) -> App) -> Tcp {
    tcp_at(workers, TcpListener::bind("127.0.0.1:0").unwrap(), &[], change)
}

fn tcp_at(workers: usize, origin: TcpListener, local: &[SocketAddr], change: impl Fn(App) -> App) -> Tcp {
    let mut fleet = Fleet::new(workers);
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    for worker in 0..fleet.pops[0].workers {
        fleet.pops[0].daemon.give_tcp(&ours, worker);
    }
    let app = || App::tcp(&ours, origin.local_addr().unwrap());
    fleet.apply([&[through(app(), local)], &[change(dialled(app()))]]);
    Tcp { fleet, ours, origin }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Tcp {
    pub fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.ours.local_addr().unwrap()).unwrap())
    }

    fn flow(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        (client, patient(self.origin.accept().unwrap().0))
    }

    pub fn record(&mut self, pop: usize) -> Value {
        self.fleet.pops[pop].daemon.record()
    }
}

pub fn assert_reset(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn reset(stream: TcpStream) {
    l4proxy_io::tcp::set_reset_on_close(&stream).unwrap();
}

fn revoking(identity: &Value, pops: &[&str]) -> Value {
    let mut revoking = identity.clone();
    revoking.set("revoked_pops", pops.iter().map(|&pop| Value::from(pop)).collect::<Vec<_>>());
    revoking
}

#[test]
fn a_peer_that_is_revoked_loses_its_flows_its_tunnel_and_its_keys_and_comes_back_when_it_is_not_any_more() {
    for workers in [1, 2] {
        let mut tcp = tcp(workers, |app| app);
        let (mut client, mut origin) = tcp.flow();
        client.write_all(b"words").unwrap();
        origin.read_exact(&mut [0; 5]).unwrap();

        let egress = &mut tcp.fleet.pops[1];
        let revoking = revoking(&egress.identity, &["ams"]);
        egress.daemon.say("identity", revoking);
        let down = egress.daemon.event("tunnel_down");
        assert_eq!((down.text("failure"), down.text("reason")), ("revoked", "certificate revoked"));
        assert_reset(&mut client);
        assert_reset(&mut origin);
        // What is dialled again and again is refused again and again, and counted by its reason.
        let refused = egress.daemon.event("peer_refused");
        assert_eq!((refused.text("peer"), refused.text("failure")), ("ams", "revoked"));
        eventually("the refusal is counted", || {
            egress.daemon.counters().at(&["values"]).integer("overlay_handshakes_failed_revoked") > 0
        });
        eventually("probes of the revoked peer have no key", || {
            let counters = egress.daemon.counters();
            let Value::Map(drops) = counters.at(&["drops"]) else { panic!("drops is no map") };
            drops.contains_key("probe_no_key") || drops.contains_key("hello_no_key")
        });
        let told = tcp.fleet.pops[0].daemon.event("tunnel_down");
        assert_eq!(told.text("failure"), "refused_by_peer");

        let egress = &mut tcp.fleet.pops[1];
        egress.daemon.say("identity", egress.identity.clone());
        egress.daemon.event("tunnel_up");
        let (mut client, mut origin) = tcp.flow();
        client.write_all(b"words").unwrap();
        origin.read_exact(&mut [0; 5]).unwrap();
    }
}

#[test]
fn a_renewed_identity_leaves_live_flows_alone_and_serves_the_next_engine() {
    let mut tcp = tcp(1, |app| app);
    let (mut client, mut origin) = tcp.flow();
    let egress = &mut tcp.fleet.pops[1];
    egress.identity = egress.renewed.clone();
    egress.daemon.say("identity", egress.identity.clone());
    for _ in 0..10 {
        client.write_all(b"words").unwrap();
        origin.read_exact(&mut [0; 5]).unwrap();
    }
    tcp.fleet.restart_second();
    tcp.fleet.pops[1].daemon.event("tunnel_up");
    let (mut client, mut origin) = tcp.flow();
    client.write_all(b"words").unwrap();
    origin.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn ten_megabytes_pass_both_ways_through_the_tunnel() {
    for workers in [1, 2] {
        let mut tcp = tcp(workers, |app| app);
        let (client, origin) = tcp.flow();
        let (up, down): (Vec<u8>, Vec<u8>) =
            (0..10u32 << 20).map(|i| ((i ^ (i >> 9)) as u8, (i.wrapping_mul(7) >> 3) as u8)).unzip();
        std::thread::scope(|scope| {
            for (mut stream, sent, expected) in [(&client, &up, &down), (&origin, &down, &up)] {
                scope.spawn(move || {
                    stream.write_all(sent).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || {
                    let mut received = Vec::new();
                    stream.read_to_end(&mut received).unwrap();
                    assert!(received == *expected, "{} bytes", received.len());
                });
            }
        });
        let (ingress, egress) = (tcp.record(0), tcp.record(1));
        for (record, role, peer) in [(&ingress, "ingress", "iad"), (&egress, "egress", "ams")] {
            assert_eq!((record.text("role"), record.text("peer"), record.integer("code")), (role, peer, 200));
            assert_eq!((record.text("ingress"), record.text("egress")), ("ams", "iad"));
            assert_eq!(
                (record.integer("bytes_to_origin"), record.integer("bytes_to_client")),
                (10 << 20, 10 << 20)
            );
            assert_eq!(record.text("client"), client.local_addr().unwrap().to_string());
        }
        assert_eq!(ingress.text("id"), egress.text("id"));
        assert_eq!(ingress.list("path"), [Value::from("ams/a>iad/a")]);
        assert_eq!(ingress.text("policy"), "off");
    }
}

/// The most that the kernel buffers of one TCP connection, either way, in bytes.
fn kernel_buffers() -> usize {
    let most = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        text.split_whitespace().next_back().unwrap().parse::<usize>().unwrap()
    };
    most("tcp_rmem") + most("tcp_wmem")
}

#[test]
fn a_client_that_does_not_read_stops_its_origin_and_nobody_else() {
    /// What the tunnel takes of a flow of which nothing is read, and a read of each relay.
    const TUNNEL: usize = 1 << 20;
    let tcp = tcp(1, |app| app);
    let (mut client, mut origin) = tcp.flow();
    origin.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (block, mut written) = ([7; 64 << 10], 0);
    loop {
        match origin.write(&block) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(written <= 2 * kernel_buffers() + TUNNEL, "it was not stopped after {written} bytes");
    }
    let (mut other, mut other_origin) = tcp.flow();
    let mut received = [0; 100];
    for _ in 0..100 {
        other_origin.write_all(&[1; 100]).unwrap();
        other.read_exact(&mut received).unwrap();
    }
    // It goes on where it was stopped.
    drop(origin);
    let mut buffer = vec![0; 1 << 20];
    let mut read = 0;
    loop {
        match client.read(&mut buffer).unwrap() {
            0 => break,
            count => read += count,
        }
    }
    assert_eq!(read, written);
}

#[test]
fn what_the_client_says_first_arrives_first_and_its_end_after_it() {
    let tcp = tcp(1, |app| app);
    let mut client = tcp.connect();
    client.write_all(b"early words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut origin = patient(tcp.origin.accept().unwrap().0);
    let mut heard = String::new();
    origin.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "early words");
    origin.write_all(b"late answer").unwrap();
    drop(origin);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "late answer");
}

#[test]
fn when_the_other_pop_cannot_reach_the_origin_the_next_way_loses_no_early_byte() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let alive = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = tcp_at(1, dead, &[alive.local_addr().unwrap()], |app| app);
    // The origin of the other PoP is gone, the one of this PoP is there.
    let dead = std::mem::replace(&mut tcp.origin, alive);
    drop(dead);
    let mut client = tcp.connect();
    let words: Vec<u8> = (0..50_000u32).map(|i| (i % 253) as u8).collect();
    client.write_all(&words).unwrap();
    let mut origin = patient(tcp.origin.accept().unwrap().0);
    let mut heard = vec![0; words.len()];
    origin.read_exact(&mut heard).unwrap();
    assert!(heard == words);
    drop((client, origin));
    let record = tcp.record(0);
    assert_eq!((record.integer("code"), record.text("role")), (200, "local"));
    assert_eq!(record.integer("bytes_to_origin"), 50_000);
    let refused = tcp.record(1);
    assert_eq!(
        (refused.integer("code"), refused.text("reason"), refused.text("role")),
        (447, "refused", "egress")
    );
    let there = NAMES[1];
    let key = |egress: &str, what: &str| ("game".to_owned(), egress.to_owned(), what.to_owned());
    let got = tcp.fleet.pops[0].daemon.outcomes_until(|got| got.contains_key(&key("", "connected")));
    let expected = [("", "connected"), ("", "tried"), (there, "refused"), (there, "tried")];
    assert_eq!(got, expected.into_iter().map(|(egress, what)| (key(egress, what), 1)).collect());
    let counters = tcp.fleet.pops[0].daemon.counters();
    assert_eq!(counters.at(&["values"]).integer("flows_retried"), 1);
}

#[test]
fn what_a_path_and_its_link_carried_is_told_once_a_second_while_flows_use_them() {
    let mut tcp = tcp(1, |app| app);
    let (mut client, mut origin) = tcp.flow();
    let words = vec![7; 200_000];
    let mut heard = vec![0; words.len()];
    client.write_all(&words).unwrap();
    origin.read_exact(&mut heard).unwrap();
    let (mut sent, mut carried) = (0, 0);
    while sent < words.len() as u64 || carried < words.len() as u64 {
        let frame = tcp.fleet.pops[0].daemon.wait_for("outcomes");
        sent += frame.list("links").iter().map(|link| link.integer("bytes")).sum::<u64>();
        for path in frame.list("paths") {
            assert!(frame.integer("elapsed_ms") >= 1_000);
            assert_eq!(path.text("peer"), NAMES[1]);
            // Loopback loses nothing but what finds a buffer full.
            assert!(path.integer("lost") * 5 <= path.integer("packets"), "{path:?}");
            assert!(path.integer("rtt_us") < 1_000_000, "{path:?}");
            assert_eq!(path.list("links").len(), 1);
            carried += path.integer("bytes_out");
        }
    }
}

#[test]
fn resets_pass_through_the_tunnel_in_both_directions() {
    let mut tcp = tcp(1, |app| app);
    let (client, mut origin) = tcp.flow();
    reset(client);
    assert_reset(&mut origin);
    for pop in [0, 1] {
        let record = tcp.record(pop);
        assert_eq!((record.integer("code"), record.text("closed_by")), (495, "client"), "PoP {pop}");
    }
    let (mut client, origin) = tcp.flow();
    reset(origin);
    assert_reset(&mut client);
    for pop in [0, 1] {
        let record = tcp.record(pop);
        assert_eq!((record.integer("code"), record.text("closed_by")), (444, "origin"), "PoP {pop}");
    }
}

#[test]
fn flows_of_a_lost_tunnel_end_with_a_reset_and_say_so() {
    let mut tcp = tcp(1, |app| app);
    let (mut client, mut origin) = tcp.flow();
    client.write_all(b"x").unwrap();
    origin.read_exact(&mut [0]).unwrap();
    drop(tcp.fleet.pops[1].engine.take());
    assert_reset(&mut client);
    assert_reset(&mut origin);
    let record = tcp.record(0);
    assert_eq!((record.integer("code"), record.text("reason")), (608, "peer_stopped"));
    tcp.fleet.pops[0].daemon.event("tunnel_down");
}

#[test]
fn a_slow_reader_behind_the_tunnel_slows_the_sender() {
    let tcp = tcp(1, |app| app);
    let (mut client, mut origin) = tcp.flow();
    client.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let chunk = vec![7; 1 << 20];
    let mut sent = 0;
    let error = loop {
        match client.write(&chunk) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < 200 << 20, "somebody takes without end");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    origin.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), sent);
}

pub struct Udp {
    pub fleet: Fleet,
    ours: Vec<SharedSocket>,
    pub listener: SocketAddr,
    pub origin: UdpSocket,
    pub client: UdpSocket,
}

fn bind() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub fn udp(workers: usize, idle_ms: u64) -> Udp {
    udp_over(workers, idle_ms, "channel")
}

fn udp_over(workers: usize, idle_ms: u64, datagrams: &str) -> Udp {
    let mut fleet = Fleet::new(workers);
    let origin = bind();
    let (ours, listener) = group(workers);
    for (worker, socket) in (0..).zip(&ours) {
        fleet.pops[0].daemon.give_as("listener", "udp", "127.0.0.1", listener.port(), worker, socket.as_fd());
    }
    let app = || App::new("udp", listener, origin.local_addr().unwrap()).with("idle_udp_ms", idle_ms);
    fleet.apply_with([&[through(app(), &[])], &[dialled(app())]], datagrams);
    Udp { fleet, ours, listener, origin, client: bind() }
}

fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(count);
    (buffer, from)
}

impl Udp {
    /// A datagram to the origin and back; the address that the origin saw.
    fn echo(&self, datagram: &[u8]) -> SocketAddr {
        self.client.send_to(datagram, self.listener).unwrap();
        let (heard, session) = hear(&self.origin);
        assert!(heard == datagram, "{} bytes to the origin", datagram.len());
        self.origin.send_to(&heard, session).unwrap();
        let (answer, from) = hear(&self.client);
        assert!(answer == datagram, "{} bytes to the client", datagram.len());
        assert_eq!(from, self.listener);
        session
    }
}

#[test]
fn datagrams_of_every_size_pass_through_the_tunnel_on_one_session() {
    for (workers, datagrams) in [(1, "channel"), (2, "channel"), (1, "quic"), (2, "quic")] {
        let mut udp = udp_over(workers, 60_000, datagrams);
        let mut sessions = Vec::new();
        for length in [5, 0, 1, 1_200, 1_472, 9_000, 60_000, 65_507, 3] {
            sessions.push(udp.echo(&vec![length as u8; length]));
        }
        sessions.dedup();
        assert_eq!(sessions.len(), 1, "one socket towards the origin");
        for (pop, role) in [(0, "ingress"), (1, "egress")] {
            let listed = udp.fleet.pops[pop].daemon.list(None, 10);
            assert_eq!(listed.integer("total"), 1);
            let flow = &listed.list("flows")[0];
            assert_eq!((flow.text("role"), flow.integer("datagrams_to_origin")), (role, 9));
            assert_eq!(flow.integer("datagrams_to_client"), 9);
        }
    }
}

#[test]
fn when_the_client_is_idle_both_pops_forget_the_session() {
    let mut udp = udp(1, 300);
    let first = udp.echo(b"one");
    for pop in [0, 1] {
        let record = udp.fleet.pops[pop].daemon.record();
        assert_eq!((record.integer("code"), record.text("reason")), (603, "idle"), "PoP {pop}");
        assert_eq!((record.integer("bytes_to_origin"), record.integer("bytes_to_client")), (3, 3));
    }
    assert_ne!(udp.echo(b"two"), first, "another session");
}

#[test]
fn sessions_live_on_when_the_configuration_would_not_allow_new_ones() {
    let mut udp = udp(1, 60_000);
    let session = udp.echo(b"one");
    let app = || App::new("udp", udp.listener, udp.origin.local_addr().unwrap());
    let apps = [through(app(), &[]), dialled(app()).with("admits_egress", false)];
    udp.fleet.apply([&apps[..1], &apps[1..]]);
    assert_eq!(udp.echo(b"two"), session);
}

#[test]
fn an_egress_that_was_started_again_is_asked_again_and_the_client_keeps_its_flow() {
    let mut udp = udp(1, 60_000);
    udp.echo(b"before");
    let id_of = |daemon: &mut Daemon| daemon.list(None, 1).list("flows")[0].text("id").to_owned();
    let before = id_of(&mut udp.fleet.pops[0].daemon);
    assert_eq!(before, id_of(&mut udp.fleet.pops[1].daemon), "one flow, one id");
    // The first datagrams are lost with the old tunnel; a game goes on sending.
    udp.fleet.restart_second();
    udp.client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    udp.origin.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    eventually("datagrams pass again", || {
        udp.client.send_to(b"after", udp.listener).unwrap();
        let Ok((_, session)) = udp.origin.recv_from(&mut [0; 8]) else { return false };
        udp.origin.send_to(b"world", session).unwrap();
        udp.client.recv_from(&mut [0; 8]).is_ok()
    });
    assert_eq!(before, id_of(&mut udp.fleet.pops[0].daemon));
    assert_eq!(before, id_of(&mut udp.fleet.pops[1].daemon));
    assert!(!udp.ours.is_empty());
}
