//! The daemon's side: hello, reload, take-over, drain, and what a broken daemon can do.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::value::map;
use crate::world::{App, Daemon, Engine, PATIENCE, PROTOCOL, eventually, frame, snapshot};

struct Setup {
    engine: Engine,
    daemon: Daemon,
    ours: TcpListener,
    origin: TcpListener,
}

fn setup() -> Setup {
    let engine = Engine::start(2);
    let (mut daemon, _) = engine.connect();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.give_tcp(&ours, 0);
    daemon.give_tcp(&ours, 1);
    daemon.apply(&snapshot(1, &[App::tcp(&ours, origin.local_addr().unwrap())]));
    Setup { engine, daemon, ours, origin }
}

impl Setup {
    fn flow(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.ours.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (origin, _) = self.origin.accept().unwrap();
        origin.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, origin)
    }
}

/// A byte there and one back.
fn assert_alive((client, origin): &mut (TcpStream, TcpStream)) {
    let mut byte = [0];
    client.write_all(b">").unwrap();
    origin.read_exact(&mut byte).unwrap();
    origin.write_all(b"<").unwrap();
    client.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"<");
}

#[test]
fn hello_says_who_the_engine_is_and_what_it_holds() {
    let setup = setup();
    let (_, hello) = setup.engine.connect();
    assert_eq!(
        (hello.integer("protocol"), hello.integer("workers"), hello.integer("generation")),
        (PROTOCOL, 2, 1)
    );
    assert_eq!((hello.text("pop"), hello.text("version")), ("ams", env!("CARGO_PKG_VERSION")));
    assert_eq!(hello.integer("pid"), u64::from(std::process::id()));
    let sockets = hello.list("sockets");
    assert_eq!(sockets.len(), 2);
    assert_eq!((sockets[0].text("role"), sockets[1].integer("worker")), ("listener", 1));
    assert_eq!(sockets[0].integer("port"), u64::from(setup.ours.local_addr().unwrap().port()));
}

#[test]
fn a_reload_keeps_flows_and_sockets_and_closes_what_is_not_named() {
    let mut setup = setup();
    let mut flow = setup.flow();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for worker in 0..2 {
        setup.daemon.give_tcp(&other, worker);
        setup.daemon.give_udp(&udp, worker);
    }
    let origin = setup.origin.local_addr().unwrap();
    let mut second = App::tcp(&other, origin);
    second.name = "second";
    let mut voice = App::udp(&udp, origin);
    voice.name = "voice";
    setup.daemon.apply(&snapshot(2, &[App::tcp(&setup.ours, origin), second, voice]));
    assert_alive(&mut flow);
    let client = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    let mut second_flow = (client, setup.origin.accept().unwrap().0);
    assert_alive(&mut second_flow);
    assert_alive(&mut setup.flow());

    // The second app goes: its flow stays until it ends, its listener does not.
    setup.daemon.apply(&snapshot(3, &[App::tcp(&setup.ours, origin)]));
    assert_alive(&mut second_flow);
    assert_alive(&mut flow);
    let address = other.local_addr().unwrap();
    drop(other);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let (_, hello) = setup.engine.connect();
    assert_eq!((hello.list("sockets").len(), hello.integer("generation")), (2, 3));
}

#[test]
fn a_refused_snapshot_changes_nothing_and_says_why() {
    let mut setup = setup();
    let mut flow = setup.flow();
    let mut app = App::tcp(&setup.ours, setup.origin.local_addr().unwrap());
    app.more_ports = 1;
    setup.daemon.say("apply", snapshot(2, &[app]));
    let refused = setup.daemon.wait_for("refused");
    assert_eq!(refused.integer("generation"), 2);
    assert!(refused.text("reason").starts_with("there is no socket for listener tcp 127.0.0.1 port"));
    assert_alive(&mut flow);
    assert_alive(&mut setup.flow());
    assert_eq!(setup.engine.connect().1.integer("generation"), 1);
}

#[test]
fn a_second_daemon_takes_over_and_the_first_is_cut_off() {
    let mut setup = setup();
    let mut flow = setup.flow();
    let (mut second, hello) = setup.engine.connect();
    assert_eq!(hello.integer("generation"), 1);
    assert!(setup.daemon.is_closed());
    assert_alive(&mut flow);
    second.apply(&snapshot(7, &[App::tcp(&setup.ours, setup.origin.local_addr().unwrap())]));
    assert_alive(&mut flow);
    drop(second);
    assert_alive(&mut flow);
    assert_alive(&mut setup.flow());
    // Records of what ended meanwhile wait for the next daemon.
    drop(flow);
    std::thread::sleep(Duration::from_millis(50));
    let (mut third, _) = setup.engine.connect();
    assert_eq!(third.record().integer("code"), 200);
}

#[test]
fn an_engine_without_a_daemon_goes_on() {
    let setup = setup();
    drop(setup.daemon);
    let client = TcpStream::connect(setup.ours.local_addr().unwrap()).unwrap();
    assert_alive(&mut (client, setup.origin.accept().unwrap().0));
}

#[test]
fn a_drain_lets_flows_end_and_then_exits() {
    let mut setup = setup();
    let mut flow = setup.flow();
    setup.daemon.say("drain", map([("deadline_ms", 60_000u64.into())]));
    let listener = setup.ours.local_addr().unwrap();
    // The daemon lets go of its listeners as well.
    drop(setup.ours);
    eventually("nobody is let in", || TcpStream::connect_timeout(&listener, PATIENCE).is_err());
    assert_alive(&mut flow);
    // Whoever came in time waits here, accepted by nobody.
    drop(setup.origin);
    drop(flow);
    assert_eq!(setup.daemon.wait_for("drained").integer("closed"), 0);
    assert!(setup.daemon.is_closed());
    setup.engine.join();
}

#[test]
fn a_drain_cuts_what_is_left_at_its_deadline_and_counts_it() {
    let mut setup = setup();
    let flows = [setup.flow(), setup.flow()];
    let began = Instant::now();
    setup.daemon.say("drain", map([("deadline_ms", 150u64.into())]));
    assert_eq!(setup.daemon.wait_for("drained").integer("closed"), 2);
    assert!(began.elapsed() >= Duration::from_millis(150));
    for (mut client, mut origin) in flows {
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(origin.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let record = setup.daemon.record();
    assert_eq!((record.integer("code"), record.text("reason")), (604, "drain_deadline"));
    setup.engine.join();
}

#[test]
fn stop_ends_at_once() {
    let mut setup = setup();
    let (mut client, _origin) = setup.flow();
    setup.daemon.say("stop", map([]));
    setup.engine.join();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn garbage_closes_the_connection_and_the_engine_lives() {
    let setup = setup();
    let mut flow = setup.flow();
    let hello = |protocol: u64| frame("hello", map([("protocol", protocol.into())]));
    let cases: [(Vec<u8>, &str); 8] = [
        (vec![0xff; 64], "a frame of 4294967295 bytes"),
        (vec![0, 0, 0, 3, 0xc1, 0xc1, 0xc1], "not a frame of the engine protocol"),
        (vec![0, 0, 0, 0], "not a frame of the engine protocol"),
        (frame("goodbye", map([])), "unknown variant `goodbye`"),
        // Before hello.
        (frame("apply", snapshot(9, &[])), "no hello of protocol version 3 has come before"),
        // Without its descriptor.
        ([hello(PROTOCOL), frame("socket", map([("role", "listener".into())]))].concat(), "missing field"),
        // A daemon of another version.
        ([hello(1), frame("apply", snapshot(9, &[]))].concat(), "no hello of protocol version 3"),
        // One that says it is of this version, and whose snapshots are not.
        ([hello(PROTOCOL), frame("apply", map([("generation", 9u64.into())]))].concat(), "missing field"),
    ];
    for (garbage, reason) in cases {
        let mut daemon = setup.engine.connect_silently();
        daemon.stream.write_all(&garbage).unwrap();
        let said = daemon.wait_for("goodbye").text("reason").to_owned();
        assert!(said.contains(reason), "{said}");
        assert!(daemon.is_closed(), "{garbage:?}");
    }
    assert_alive(&mut flow);
    assert_eq!(setup.engine.connect().1.integer("generation"), 1);
}

#[test]
fn a_daemon_of_another_version_is_answered_and_may_end_the_engine() {
    let setup = setup();
    let mut daemon = setup.engine.connect_silently();
    daemon.say("hello", map([("protocol", 1u64.into())]));
    assert_eq!(daemon.wait_for("hello").integer("protocol"), PROTOCOL);
    daemon.say("stop", map([]));
    setup.engine.join();
}

#[test]
fn counters_come_every_second_with_everything_that_was_counted() {
    let mut setup = setup();
    assert_alive(&mut setup.flow());
    let mut counters = setup.daemon.counters();
    // The flow has just been dropped: its end may be counted a second later than its beginning.
    for _ in 0..3 {
        if counters.at(&["apps", "game"]).integer("tcp_closed") == 0 {
            counters = setup.daemon.wait_for("counters");
        }
    }
    assert_eq!(counters.integer("workers"), 2);
    let game = counters.at(&["apps", "game"]);
    assert_eq!((game.integer("tcp_opened"), game.integer("tcp_closed")), (1, 1));
    assert_eq!((game.integer("tcp_bytes_to_origin"), game.integer("tcp_bytes_to_client")), (1, 1));
    assert_eq!(counters.at(&["values"]).integer("tcp_accepted"), 1);
    assert_eq!(counters.at(&["drops"]).integer("fd_limit"), 0);
    assert!(counters.at(&["values"]).integer("wakeups") > 0);
    let next = setup.daemon.wait_for("counters");
    let apart = next.integer("at_ns") - counters.integer("at_ns");
    assert!(apart >= 900_000_000, "{apart} ns");
}

#[test]
fn a_wrong_identity_is_told_and_not_kept() {
    let mut setup = setup();
    let bytes = || crate::value::Value::Bytes(b"not PEM".to_vec());
    let identity = map([
        ("fleet", "demo".into()),
        ("pop", "ams".into()),
        ("ca_pem", bytes()),
        ("cert_pem", bytes()),
        ("key_pem", bytes()),
    ]);
    setup.daemon.say("identity", identity);
    setup.daemon.event("identity_refused");
    assert_eq!(setup.engine.connect().1.at(&["has_identity"]), &false.into());
}
