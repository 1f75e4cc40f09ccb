//! UDP through one PoP, true to both ends: marks of datagrams, who may answer and how much, whose an error is, floods of forged
//! sources.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use l4proxy_io::udp::{Outgoing, RecvBatch, SendBatch, UdpOptions, UdpSocket as Marked};

use crate::value::{Value, map};
use crate::world::{App, Daemon, Engine, PATIENCE, eventually, loopbacks, snapshot};

struct Setup {
    _engine: Engine,
    daemon: Daemon,
    listener: SocketAddr,
    _ours: UdpSocket,
}

fn bind(address: impl std::net::ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

fn setup(ip: IpAddr, origin: SocketAddr, change: impl FnOnce(App) -> App) -> Setup {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let ours = bind((ip, 0));
    daemon.give_udp(&ours, 0);
    daemon.apply(&snapshot(1, &[change(App::udp(&ours, origin))]));
    Setup { _engine: engine, daemon, listener: ours.local_addr().unwrap(), _ours: ours }
}

fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(count);
    (buffer, from)
}

/// A socket that sees and sets TOS bytes.
struct Seeing(Marked, RecvBatch);

impl Seeing {
    fn new(ip: IpAddr) -> Self {
        let socket = Marked::bind((ip, 0).into(), false).unwrap();
        socket.apply(&UdpOptions { tos: true, ..UdpOptions::default() }).unwrap();
        Self(socket, RecvBatch::new(1, 2_000))
    }

    fn say(&self, bytes: &[u8], to: SocketAddr, tos: u8) {
        let message = Outgoing { tos: Some(tos), ..Outgoing::new(bytes, Some(to)) };
        assert_eq!(SendBatch::new(1).send(&self.0, &[message]).sent, 1);
    }

    fn hear(&mut self) -> (Vec<u8>, SocketAddr, Option<u8>) {
        let Self(socket, batch) = self;
        eventually("a datagram", || batch.recv(socket, 1).unwrap() == 1);
        let (bytes, meta) = batch.iter().next().unwrap();
        (bytes.to_vec(), meta.source, meta.tos)
    }
}

#[test]
fn dscp_and_ecn_pass_both_ways_as_they_came() {
    for ip in loopbacks() {
        let (mut client, mut origin) = (Seeing::new(ip), Seeing::new(ip));
        let setup = setup(ip, origin.0.local_address().unwrap(), |app| app);
        for tos in [0, 0xb8, 0xb9, 0x03, 0x02, 0x28, 0] {
            client.say(b"question", setup.listener, tos);
            let (heard, session, mark) = origin.hear();
            assert_eq!((heard.as_slice(), mark), (&b"question"[..], Some(tos)), "to the origin, {ip}");
            origin.say(b"answer", session, tos ^ 1);
            let (heard, from, mark) = client.hear();
            assert_eq!((heard.as_slice(), mark), (&b"answer"[..], Some(tos ^ 1)), "to the client, {ip}");
            assert_eq!(from, setup.listener);
        }
    }
}

#[test]
fn an_apps_own_dscp_replaces_what_came_and_leaves_ecn_alone() {
    for ip in loopbacks() {
        let (mut client, mut origin) = (Seeing::new(ip), Seeing::new(ip));
        let setup = setup(ip, origin.0.local_address().unwrap(), |app| app.with("dscp", 46u64));
        for (tos, expected) in [(0, 0xb8), (0x20, 0xb8), (0x03, 0xbb), (0xff, 0xbb), (0x01, 0xb9)] {
            client.say(b"q", setup.listener, tos);
            let (_, session, mark) = origin.hear();
            assert_eq!(mark, Some(expected), "to the origin, {ip}");
            origin.say(b"a", session, tos);
            assert_eq!(client.hear().2, Some(expected), "to the client, {ip}");
        }
    }
}

#[test]
fn a_datagram_from_elsewhere_never_reaches_the_client() {
    for ip in loopbacks() {
        let origin = bind((ip, 0));
        let mut setup = setup(ip, origin.local_addr().unwrap(), |app| app);
        let client = bind((ip, 0));
        client.send_to(b"question", setup.listener).unwrap();
        let (_, session) = hear(&origin);
        // Another port of the origin's host, and the origin's port on another host.
        bind((ip, 0)).send_to(b"foreign", session).unwrap();
        if ip.is_ipv4() {
            let elsewhere = bind(("127.0.0.9", origin.local_addr().unwrap().port()));
            elsewhere.send_to(b"foreign", session).unwrap();
        }
        origin.send_to(b"answer", session).unwrap();
        assert_eq!(hear(&client).0, b"answer");
        let listed = setup.daemon.list(None, 1);
        assert_eq!(listed.list("flows")[0].integer("datagrams_to_client"), 1);
    }
}

#[test]
fn an_icmp_error_is_that_sessions_and_no_others() {
    for ip in loopbacks() {
        let origin = bind((ip, 0));
        let address = origin.local_addr().unwrap();
        let mut setup = setup(ip, address, |app| app);
        let (unlucky, other) = (bind((ip, 0)), bind((ip, 0)));
        for client in [&unlucky, &other] {
            client.send_to(b"hello", setup.listener).unwrap();
            hear(&origin);
        }
        drop(origin);
        unlucky.send_to(b"lost", setup.listener).unwrap();
        let dropped = |daemon: &mut Daemon, client: &UdpSocket| {
            let own = client.local_addr().unwrap().to_string();
            let listed = daemon.list(None, 10);
            let flow = listed.list("flows").iter().find(|flow| flow.text("client") == own);
            flow.unwrap().integer("dropped")
        };
        eventually("the error arrives", || dropped(&mut setup.daemon, &unlucky) == 1);
        assert_eq!(dropped(&mut setup.daemon, &other), 0);
        let origin = bind(address);
        other.send_to(b"still here", setup.listener).unwrap();
        assert_eq!(hear(&origin).0, b"still here");
        assert_eq!(setup.daemon.counters().at(&["drops"]).integer("udp_refused"), 1);
    }
}

#[test]
fn a_client_that_changes_its_port_is_another_session() {
    let origin = bind((loopback(), 0));
    let mut setup = setup(loopback(), origin.local_addr().unwrap(), |app| app);
    let (before, after) = (bind((loopback(), 0)), bind((loopback(), 0)));
    before.send_to(b"one", setup.listener).unwrap();
    let (_, first) = hear(&origin);
    after.send_to(b"two", setup.listener).unwrap();
    let (_, second) = hear(&origin);
    assert_ne!(first, second);
    origin.send_to(b"to the first", first).unwrap();
    assert_eq!(hear(&before).0, b"to the first");
    assert_eq!(setup.daemon.list(None, 10).integer("total"), 2);
}

#[test]
fn a_burst_of_many_sessions_is_answered_to_each_its_own() {
    let origin = bind((loopback(), 0));
    let setup = setup(loopback(), origin.local_addr().unwrap(), |app| app);
    let clients: Vec<_> = (0..100).map(|_| bind((loopback(), 0))).collect();
    let mut sessions = Vec::new();
    for (index, client) in clients.iter().enumerate() {
        client.send_to(&[index as u8], setup.listener).unwrap();
        sessions.push(hear(&origin));
    }
    // All at once, three each: more than one batch holds.
    for round in 0..3 {
        for (question, session) in &sessions {
            origin.send_to(&[question[0], round], session).unwrap();
        }
    }
    for (index, client) in clients.iter().enumerate() {
        for round in 0..3 {
            assert_eq!(hear(client).0, [index as u8, round]);
        }
    }
}

fn amplification(factor: f64) -> Value {
    map([("flows", 1_000u64.into()), ("amplification", Value::Float(factor))])
}

#[test]
fn a_source_that_has_proved_nothing_gets_few_times_what_it_sent() {
    let origin = bind((loopback(), 0));
    let address = origin.local_addr().unwrap();
    let mut setup = setup(loopback(), address, |app| app.with("limits", amplification(3.0)));
    let client = bind((loopback(), 0));
    client.send_to(&[1; 100], setup.listener).unwrap();
    let (_, session) = hear(&origin);
    // 301 bytes would be too many; then 300, and not one more; an empty one weighs nothing.
    for length in [301, 200, 100, 1, 0] {
        origin.send_to(&vec![2; length], session).unwrap();
    }
    assert_eq!([200, 100, 0].map(|_| hear(&client).0.len()), [200, 100, 0]);
    assert_eq!(setup.daemon.counters().at(&["drops"]).integer("amplification"), 2);
    // It sends again after an answer: it hears us.
    client.send_to(b"x", setup.listener).unwrap();
    hear(&origin);
    origin.send_to(&[3; 9_000], session).unwrap();
    assert_eq!(hear(&client).0.len(), 9_000);
    assert_eq!(setup.daemon.counters().at(&["drops"]).integer("amplification"), 2);
}

/// An address of 127.0.0.0/8 that nobody else uses: a forged source as far as the PoP can tell.
fn forged(number: u32) -> UdpSocket {
    let [_, a, b, _] = number.to_be_bytes();
    let last = 1 + (number & 0x7f) as u8;
    UdpSocket::bind((IpAddr::from([127, 64 + a, b, last]), 0)).unwrap()
}

#[test]
fn a_flood_of_forged_sources_that_the_origin_answers_harms_no_assured_session() {
    const PLAYERS: usize = 20;
    const SOURCES: u32 = 2_000;
    let origin = bind((loopback(), 0));
    let address = origin.local_addr().unwrap();
    let mut setup = setup(loopback(), address, |app| {
        app.with("limits", map([("flows", 100_000u64.into()), ("flows_per_source", 100_000u64.into())]))
    });
    // Answers everything with what it heard, until it hears "end" from the test itself.
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            let (count, from) = origin.recv_from(&mut buffer).unwrap();
            if &buffer[..count] == b"end" {
                return;
            }
            // A flood's session may be gone by now: an error tells of that.
            drop(origin.send_to(&buffer[..count], from));
        }
    });
    let players: Vec<_> = (0..PLAYERS).map(|_| bind((loopback(), 0))).collect();
    let one_plays = |index: usize, listener: SocketAddr| {
        players[index].send_to(&[index as u8, 7], listener).unwrap();
        assert_eq!(hear(&players[index]).0, [index as u8, 7]);
    };
    let play = |listener: SocketAddr| (0..PLAYERS).for_each(|index| one_plays(index, listener));
    play(setup.listener);
    play(setup.listener);
    std::thread::sleep(Duration::from_millis(1_050));
    play(setup.listener);
    assert_eq!(setup.daemon.counters().at(&["values"]).integer("sessions_assured"), PLAYERS as u64);
    for number in 0..SOURCES {
        // Twice: a source that goes on proves nothing by it before it was answered, and not within a second.
        let source = forged(number);
        source.send_to(b"flood", setup.listener).unwrap();
        source.send_to(b"flood", setup.listener).unwrap();
        // Never more under way than the smallest receive buffer holds: what the kernel throws away proves nothing.
        if number % 20 == 0 {
            one_plays(number as usize / 20 % PLAYERS, setup.listener);
        }
    }
    play(setup.listener);
    let values = setup.daemon.counters();
    let values = values.at(&["values"]);
    assert_eq!(values.integer("udp_sessions_assured"), PLAYERS as u64, "none was evicted, none promoted");
    assert!(values.integer("udp_sessions") <= 500 + PLAYERS as u64);
    assert!(values.integer("sessions_evicted") >= 1_000);
    // A newcomer is served at once.
    let newcomer = bind((loopback(), 0));
    newcomer.send_to(b"me too", setup.listener).unwrap();
    assert_eq!(hear(&newcomer).0, b"me too");
    bind((loopback(), 0)).send_to(b"end", address).unwrap();
    echo.join().unwrap();
}
