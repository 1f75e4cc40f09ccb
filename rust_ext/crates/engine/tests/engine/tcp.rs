//! TCP through one PoP: bytes whole and in order, ends and resets as they were, a slow reader's pace, limits, timers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::value::{Value, map};
use crate::world::{App, Daemon, Engine, PATIENCE, PROTOCOL, eventually, loopbacks, snapshot};

/// An engine with one app, and the origin's listener.
struct Setup {
    engine: Engine,
    daemon: Daemon,
    listener: SocketAddr,
    origin: TcpListener,
    _ours: TcpListener,
}

fn setup(change: impl FnOnce(App) -> App) -> Setup {
    setup_at(["127.0.0.1:0", "127.0.0.1:0"], change)
}

fn setup_at([listener, origin]: [&str; 2], change: impl FnOnce(App) -> App) -> Setup {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let ours = TcpListener::bind(listener).unwrap();
    let origin = TcpListener::bind(origin).unwrap();
    daemon.give_tcp(&ours, 0);
    daemon.apply(&snapshot(1, &[change(App::tcp(&ours, origin.local_addr().unwrap()))]));
    Setup { engine, daemon, listener: ours.local_addr().unwrap(), origin, _ours: ours }
}

impl Setup {
    /// A client and the origin's end of its flow.
    fn flow(&self) -> (TcpStream, TcpStream) {
        let client = connect(self.listener);
        let (origin, _) = self.origin.accept().unwrap();
        origin.set_read_timeout(Some(PATIENCE)).unwrap();
        origin.set_write_timeout(Some(PATIENCE)).unwrap();
        (client, origin)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

fn pattern(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) ^ seed) as u8 ^ (i >> 11) as u8).collect()
}

/// Close with RST.
fn reset(stream: TcpStream) {
    l4proxy_io::tcp::set_reset_on_close(&stream).unwrap();
}

fn assert_reset(stream: &mut TcpStream) {
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn ten_megabytes_pass_both_ways_at_once_and_each_end_is_said_on() {
    for ip in loopbacks() {
        let address = SocketAddr::new(ip, 0).to_string();
        let mut setup = setup_at([&address, &address], |app| app);
        let (client, origin) = setup.flow();
        let (up, down) = (pattern(10 << 20, 1), pattern(10 << 20, 2));
        std::thread::scope(|scope| {
            let sides = [(&client, &up, &down), (&origin, &down, &up)];
            for (mut stream, sent, expected) in sides {
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
        let record = setup.daemon.record();
        assert_eq!(
            (record.integer("bytes_to_origin"), record.integer("bytes_to_client")),
            (10 << 20, 10 << 20)
        );
        assert_eq!(
            (record.integer("code"), record.text("reason"), record.text("role")),
            (200, "finished", "local")
        );
        assert_eq!(record.text("client"), client.local_addr().unwrap().to_string());
        assert_eq!(record.text("listener"), setup.listener.to_string());
        assert_eq!(record.text("origin"), setup.origin.local_addr().unwrap().to_string());
        let counters = setup.daemon.counters();
        assert!(counters.at(&["values"]).integer("spliced_bytes") > 1 << 20, "a bulk transfer is spliced");
        assert_eq!(counters.at(&["values"]).integer("tcp_flows"), 0);
    }
}

#[test]
fn after_the_clients_end_the_origin_may_still_talk() {
    let mut setup = setup(|app| app);
    let (mut client, mut origin) = setup.flow();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    origin.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    origin.write_all(b"a long ").unwrap();
    let mut answer = [0; 7];
    client.read_exact(&mut answer).unwrap();
    origin.write_all(b"answer").unwrap();
    drop(origin);
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!((&answer, rest.as_str()), (b"a long ", "answer"));
    let record = setup.daemon.record();
    assert_eq!((record.integer("code"), record.text("closed_by")), (200, "client"));
}

#[test]
fn a_reset_is_passed_on_as_a_reset_in_both_directions() {
    let mut setup = setup(|app| app);
    let (mut client, mut origin) = setup.flow();
    client.write_all(b"x").unwrap();
    origin.read_exact(&mut [0]).unwrap();
    reset(client);
    assert_reset(&mut origin);
    let record = setup.daemon.record();
    assert_eq!((record.integer("code"), record.text("closed_by")), (495, "client"));

    let (mut client, mut origin) = setup.flow();
    client.write_all(b"x").unwrap();
    origin.read_exact(&mut [0]).unwrap();
    reset(origin);
    assert_reset(&mut client);
    let record = setup.daemon.record();
    assert_eq!((record.integer("code"), record.text("closed_by")), (444, "origin"));
}

#[test]
fn an_origin_that_refuses_gives_the_client_a_reset() {
    let mut setup = setup(|app| app);
    let refused = setup.origin.local_addr().unwrap();
    // The port is free now, and nobody listens.
    setup.origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = connect(setup.listener);
    assert_reset(&mut client);
    let record = setup.daemon.record();
    assert_eq!((record.integer("code"), record.text("reason")), (447, "refused"));
    assert_eq!(record.text("origin"), refused.to_string());
    assert_eq!(record.at(&["connect_ms"]), &Value::Nil);
}

#[test]
fn when_the_first_origin_refuses_the_next_is_tried_and_nothing_is_lost() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut setup = setup(|mut app| {
        app.origins.insert(0, dead);
        app
    });
    let mut client = connect(setup.listener);
    client.write_all(b"early").unwrap();
    let (mut origin, _) = setup.origin.accept().unwrap();
    let mut bytes = [0; 5];
    origin.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"early");
    drop((client, origin));
    assert_eq!(setup.daemon.record().integer("code"), 200);
    assert_eq!(setup.daemon.counters().at(&["values"]).integer("flows_retried"), 1);
}

#[test]
fn a_reader_that_stops_stops_the_sender_and_nothing_is_heaped_up() {
    let setup = setup(|app| app);
    let (mut client, origin) = setup.flow();
    client.set_nonblocking(true).unwrap();
    let chunk = pattern(1 << 20, 3);
    let (mut sent, mut quiet_since) = (0usize, Instant::now());
    // Until nothing more is taken for a while: the kernel's buffers of four sockets are full, and one read of ours.
    while quiet_since.elapsed() < Duration::from_millis(300) {
        match client.write(&chunk[sent % chunk.len()..]) {
            Ok(count) => (sent, quiet_since) = (sent + count, Instant::now()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(sent < 100 << 20, "somebody takes without end");
    }
    client.set_nonblocking(false).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    (&origin).read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), sent);
    assert!(received.iter().zip(chunk.iter().cycle()).all(|(a, b)| a == b));
}

#[test]
fn ended_flows_are_counted_when_nobody_wants_their_records() {
    let mut setup = setup(|app| app);
    setup.daemon.say("hello", map([("protocol", PROTOCOL.into()), ("records", false.into())]));
    setup.daemon.wait_for("hello");
    for _ in 0..3 {
        drop(setup.flow());
    }
    let mut ended = Value::Nil;
    eventually("three ended flows are counted", || {
        let counters = setup.daemon.wait_for("counters");
        ended = counters.list("ended").first().cloned().unwrap_or(Value::Nil);
        ended != Value::Nil && ended.integer("flows") == 3
    });
    assert_eq!((ended.text("app"), ended.text("protocol"), ended.integer("code")), ("game", "tcp", 200));
    // Whoever wants them again gets those of the flows that end from then on, and of no other.
    setup.daemon.say("hello", map([("protocol", PROTOCOL.into())]));
    setup.daemon.wait_for("hello");
    let (client, origin) = setup.flow();
    let address = client.local_addr().unwrap().to_string();
    drop((client, origin));
    assert_eq!(setup.daemon.record().text("client"), address);
}

#[test]
fn many_flows_live_side_by_side_and_can_be_listed() {
    let mut setup = setup(|app| app);
    let flows: Vec<_> = (0..50).map(|_| setup.flow()).collect();
    for (index, (client, _)) in flows.iter().enumerate() {
        (&*client).write_all(&[index as u8]).unwrap();
    }
    // Which origin connection belongs to which client only the bytes tell.
    let mut seen: Vec<_> = flows
        .iter()
        .map(|(_, origin)| {
            let mut byte = [0];
            (&*origin).read_exact(&mut byte).unwrap();
            byte[0]
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..50));
    let listed = setup.daemon.list(Some("game"), 10);
    assert_eq!((listed.integer("total"), listed.list("flows").len()), (50, 10));
    assert_eq!(listed.list("flows")[0].integer("bytes_to_origin"), 1);
    assert_eq!(setup.daemon.list(Some("chess"), 10).integer("total"), 0);
    assert_eq!(setup.daemon.list(None, 1_000).list("flows").len(), 50);
}

#[test]
fn over_the_limits_clients_are_reset_and_counted() {
    let mut setup = setup(|app| app.with("limits", map([("flows_per_source", 3u64.into())])));
    let flows: Vec<_> = (0..3).map(|_| setup.flow()).collect();
    assert_reset(&mut connect(setup.listener));
    let counters = setup.daemon.counters();
    assert_eq!(counters.at(&["drops"]).integer("source_flows_full"), 1);
    assert_eq!(counters.at(&["apps", "game"]).integer("flows_refused"), 1);
    assert_eq!(counters.at(&["apps", "game"]).integer("flows"), 3);
    drop(flows);
    eventually("places come back", || {
        let mut client = connect(setup.listener);
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    });
}

#[test]
fn the_engines_own_limit_holds_for_all_apps() {
    let engine = Engine::start(2);
    let (mut daemon, _) = engine.connect();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.give_tcp(&ours, 0);
    daemon.give_tcp(&ours, 1);
    let mut snapshot = snapshot(1, &[App::tcp(&ours, origin.local_addr().unwrap())]);
    let mut options = snapshot.at(&["options"]).clone();
    options.set("max_tcp_flows", 2u64);
    snapshot.set("options", options);
    daemon.apply(&snapshot);
    let address = ours.local_addr().unwrap();
    let flows: Vec<_> = (0..2).map(|_| (connect(address), origin.accept().unwrap())).collect();
    assert_reset(&mut connect(address));
    assert_eq!(daemon.counters().at(&["drops"]).integer("tcp_flows_full"), 1);
    drop(flows);
}

#[test]
fn idle_and_half_closed_flows_end_after_their_times() {
    let mut setup = setup(|app| app.with("idle_tcp_ms", 300u64).with("half_closed_ms", 100u64));
    let (mut client, origin) = setup.flow();
    let began = Instant::now();
    assert_reset(&mut client);
    assert!(began.elapsed() >= Duration::from_millis(290));
    let record = setup.daemon.record();
    assert_eq!((record.integer("code"), record.text("reason")), (603, "idle"));
    drop(origin);

    let (client, mut origin) = setup.flow();
    client.shutdown(Shutdown::Write).unwrap();
    let began = Instant::now();
    assert_eq!(origin.read(&mut [0]).unwrap(), 0);
    let record = setup.daemon.record();
    assert!(began.elapsed() < Duration::from_millis(280), "{:?}", began.elapsed());
    assert_eq!((record.integer("code"), record.text("reason")), (603, "half_closed_idle"));
    assert!(origin.write(b"anybody?").is_err(), "reset");
}

#[test]
fn a_client_that_leaves_while_the_origin_is_dialled_ends_the_flow() {
    // A listener whose backlog is full takes no more: the connect hangs.
    let mut setup = setup(|app| app.with("connect_timeout_ms", 60_000u64));
    let full = l4proxy_io::tcp::listen("127.0.0.1:0".parse().unwrap(), 0, false).unwrap();
    let address = l4proxy_io::tcp::local_address(&full).unwrap();
    let fillers: Vec<_> = (0..4).map(|_| l4proxy_io::tcp::connect(address, None).unwrap()).collect();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    setup.daemon.give_tcp(&ours, 0);
    setup.daemon.apply(&snapshot(2, &[App::tcp(&ours, address).with("connect_timeout_ms", 60_000u64)]));
    let client = connect(ours.local_addr().unwrap());
    eventually("the flow is dialling", || setup.daemon.list(None, 1).integer("total") == 1);
    reset(client);
    let record = setup.daemon.record();
    assert_eq!((record.integer("code"), record.text("closed_by")), (495, "client"));
    drop((fillers, full));
}

#[test]
fn an_origin_that_does_not_answer_is_given_up_in_time() {
    let full = l4proxy_io::tcp::listen("127.0.0.1:0".parse().unwrap(), 0, false).unwrap();
    let address = l4proxy_io::tcp::local_address(&full).unwrap();
    let fillers: Vec<_> = (0..4).map(|_| l4proxy_io::tcp::connect(address, None).unwrap()).collect();
    let mut setup = setup(|mut app| {
        app.origins.insert(0, address);
        app.with("connect_timeout_ms", 2_000u64)
    });
    let began = Instant::now();
    let (mut client, mut origin) = setup.flow();
    assert!(began.elapsed() >= Duration::from_millis(990), "the first origin has half of the time");
    client.write_all(b"x").unwrap();
    origin.read_exact(&mut [0]).unwrap();
    drop((client, origin));
    assert_eq!(setup.daemon.record().text("origin"), setup.origin.local_addr().unwrap().to_string());
    drop((fillers, full, setup.engine));
}

/// The TOS bytes of established connections that the kernel shows for a port of ours, those of its own sockets apart from those that
/// lead to it. None: there is no `ss` here.
fn marks_by_port(port: u16) -> Option<(Vec<String>, Vec<String>)> {
    let of = |which: &str| {
        let arguments = ["-tnH", "--tos", "state", "established", which, "=", &format!(":{port}")];
        let shown = std::process::Command::new("ss").args(arguments).output().ok()?.stdout;
        let text = String::from_utf8(shown).unwrap();
        Some(text.split_whitespace().filter(|word| word.starts_with("tos:")).map(str::to_owned).collect())
    };
    Some((of("sport")?, of("dport")?))
}

#[test]
#[allow(clippy::print_stderr, reason = "the only way to tell who runs the tests")]
fn an_apps_dscp_marks_both_connections_and_goes_with_a_reload() {
    let mut setup = setup(|app| app.with("dscp", 46u64));
    let flow = setup.flow();
    let origin = setup.origin.local_addr().unwrap();
    let Some((clients, _)) = marks_by_port(setup.listener.port()) else {
        return eprintln!("skipped: no ss command (iproute2)");
    };
    // 46 is Expedited Forwarding, 0xb8 in the byte. The peers' own sockets say nothing.
    assert_eq!(clients, ["tos:0xb8"]);
    assert_eq!(marks_by_port(origin.port()).unwrap().1, ["tos:0xb8"]);
    drop(flow);
    let app = App { origins: vec![origin], ..App::tcp(&setup._ours, origin) };
    setup.daemon.apply(&snapshot(2, &[app]));
    eventually("the reload is in force", || {
        let (client, _origin) = setup.flow();
        let port = client.local_addr().unwrap().port();
        marks_by_port(port).unwrap().1.iter().all(|tos| tos == "tos:0")
    });
}
