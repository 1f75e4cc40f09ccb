//! Who may come and how many: access lists in pieces, rates of new flows, live flows whose client a new list
//! denies, and how fast a flow may go.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::value::{Value, map};
use crate::world::{App, Daemon, Engine, PATIENCE, eventually, loopbacks, snapshot};

/// A list, sent in pieces of one prefix each.
fn send_list(daemon: &mut Daemon, id: u64, prefixes: &[&str]) {
    let last = prefixes.len() as u64 - 1;
    for (part, text) in (0u64..).zip(prefixes) {
        let (address, length) = text.split_once('/').unwrap();
        let length: u8 = length.parse().unwrap();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        match address.parse().unwrap() {
            std::net::IpAddr::V4(address) => v4 = [&address.octets()[..], &[length]].concat(),
            std::net::IpAddr::V6(address) => v6 = [&address.octets()[..], &[length]].concat(),
        }
        let is_last = part == last;
        let body = [
            ("id", id.into()),
            ("part", part.into()),
            ("is_last", is_last.into()),
            ("v4", Value::Bytes(v4)),
            ("v6", Value::Bytes(v6)),
        ];
        daemon.say("access_list", map(body));
    }
}

fn access(default_allow: bool, lists: &[(&str, u64)]) -> Value {
    let list = |(verdict, id): &(&str, u64)| map([("verdict", (*verdict).into()), ("id", (*id).into())]);
    map([
        ("default_allow", default_allow.into()),
        ("lists", lists.iter().map(list).collect::<Vec<_>>().into()),
    ])
}

/// An engine, and an app's TCP listener and origin.
struct Tcp {
    _engine: Engine,
    daemon: Daemon,
    ours: TcpListener,
    origin: TcpListener,
}

impl Tcp {
    fn new(ip: std::net::IpAddr) -> Self {
        let engine = Engine::start(1);
        let (mut daemon, _) = engine.connect();
        let (ours, origin) = (TcpListener::bind((ip, 0)).unwrap(), TcpListener::bind((ip, 0)).unwrap());
        daemon.give_tcp(&ours, 0);
        Self { _engine: engine, daemon, ours, origin }
    }

    fn app(&self) -> App {
        App::tcp(&self.ours, self.origin.local_addr().unwrap())
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.ours.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// A flow through which a byte has gone.
    fn flow(&self) -> (TcpStream, TcpStream) {
        let mut client = self.client();
        let (mut origin, _) = self.origin.accept().unwrap();
        origin.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"x").unwrap();
        origin.read_exact(&mut [0]).unwrap();
        (client, origin)
    }

    #[track_caller]
    fn assert_refused(&self) {
        let error = self.client().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// The refusal of a snapshot.
fn refusal(daemon: &mut Daemon, snapshot: &Value) -> String {
    daemon.say("apply", snapshot.clone());
    daemon.wait_for("refused").text("reason").to_owned()
}

#[test]
fn who_is_denied_is_refused_before_anything_is_dialled() {
    for ip in loopbacks() {
        let mut world = Tcp::new(ip);
        let (wide, own) = if ip.is_ipv4() { ("127.0.0.0/8", "127.0.0.1/32") } else { ("::/0", "::1/128") };
        send_list(&mut world.daemon, 7, &["192.0.2.0/24", wide]);
        send_list(&mut world.daemon, 8, &[own]);
        let app = world.app().with("access", access(true, &[("deny", 7)]));
        world.daemon.apply(&snapshot(1, &[app]));
        world.assert_refused();
        let counters = world.daemon.counters();
        assert_eq!(counters.at(&["drops"]).integer("access_denied"), 1);
        let app = counters.at(&["apps", "game"]);
        assert_eq!((app.integer("refused_access_denied"), app.integer("flows_refused")), (1, 1));
        assert_eq!(counters.at(&["values"]).integer("tcp_dials"), 0);
        // The list that names the client most exactly decides.
        send_list(&mut world.daemon, 8, &[own]);
        let app = world.app().with("access", access(true, &[("deny", 7), ("allow", 8)]));
        world.daemon.apply(&snapshot(2, &[app]));
        drop(world.flow());
        let app = world.app().with("access", access(false, &[]));
        world.daemon.apply(&snapshot(3, &[app]));
        world.assert_refused();
    }
}

#[test]
fn a_snapshot_that_names_a_list_that_has_not_come_is_refused_and_changes_nothing() {
    let mut world = Tcp::new([127, 0, 0, 1].into());
    world.daemon.apply(&snapshot(1, &[world.app()]));
    let named = snapshot(2, &[world.app().with("access", access(true, &[("deny", 0xabc)]))]);
    let reason = refusal(&mut world.daemon, &named);
    assert_eq!(reason, "app game: access list abc has not come whole");
    drop(world.flow());
    send_list(&mut world.daemon, 0xabc, &["127.0.0.0/8"]);
    let named = snapshot(3, &[world.app().with("access", access(true, &[("deny", 0xabc)]))]);
    world.daemon.apply(&named);
    world.assert_refused();
}

#[test]
fn a_daemon_that_takes_over_hears_which_lists_are_here() {
    let mut world = Tcp::new([127, 0, 0, 1].into());
    let unused: Vec<_> = (1..4).collect();
    unused.iter().for_each(|&id| send_list(&mut world.daemon, id, &["192.0.2.0/24"]));
    let app = world.app().with("access", access(true, &[("deny", 2)]));
    world.daemon.apply(&snapshot(1, &[app]));
    let (_daemon, hello) = world._engine.connect();
    assert_eq!(hello.list("access_lists"), [Value::Integer(2)]);
}

#[test]
fn flows_of_a_client_that_is_denied_now_are_ended_and_no_others() {
    let mut world = Tcp::new([127, 0, 0, 1].into());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp_origin.set_read_timeout(Some(PATIENCE)).unwrap();
    world.daemon.give_udp(&udp, 0);
    let others = TcpListener::bind("127.0.0.1:0").unwrap();
    world.daemon.give_tcp(&others, 0);
    let apps = |world: &Tcp, access: Value| {
        let mut voice = App::udp(&udp, udp_origin.local_addr().unwrap()).with("access", access.clone());
        voice.name = "voice";
        let mut open = App::tcp(&others, world.origin.local_addr().unwrap());
        open.name = "open";
        [world.app().with("access", access), voice, open]
    };
    world.daemon.apply(&snapshot(1, &apps(&world, access(true, &[]))));
    // More flows than one turn looks at.
    let mut denied: Vec<_> = (0..300).map(|_| world.flow()).collect();
    let mut spared = TcpStream::connect(others.local_addr().unwrap()).unwrap();
    let (mut spared_origin, _) = world.origin.accept().unwrap();
    let player = UdpSocket::bind("127.0.0.1:0").unwrap();
    player.send_to(b"hello", udp.local_addr().unwrap()).unwrap();
    udp_origin.recv_from(&mut [0; 16]).unwrap();
    send_list(&mut world.daemon, 5, &["127.0.0.0/8"]);
    world.daemon.apply(&snapshot(2, &apps(&world, access(true, &[("deny", 5)]))));
    for (client, origin) in &mut denied {
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(origin.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    spared.write_all(b"still here").unwrap();
    spared_origin.set_read_timeout(Some(PATIENCE)).unwrap();
    spared_origin.read_exact(&mut [0; 10]).unwrap();
    let record = world.daemon.record();
    assert_eq!((record.integer("code"), record.text("reason")), (605, "access_denied"));
    let counters = world.daemon.counters();
    assert_eq!(counters.at(&["apps", "game"]).integer("flows_denied"), 300);
    assert_eq!(counters.at(&["apps", "voice"]).integer("flows_denied"), 1);
    assert_eq!(counters.at(&["apps", "open"]).integer("flows_denied"), 0);
    // The session is gone, and its client's next datagram begins none.
    player.send_to(b"again", udp.local_addr().unwrap()).unwrap();
    eventually("the datagram is refused", || {
        world.daemon.counters().at(&["apps", "voice"]).integer("refused_access_denied") == 1
    });
    assert_eq!(world.daemon.counters().at(&["values"]).integer("udp_sessions"), 0);
}

#[test]
fn a_mapped_ipv4_client_is_an_ipv4_client() {
    let Ok(ours) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) else { return };
    let port = ours.local_addr().unwrap().port();
    if TcpStream::connect(("127.0.0.1", port)).is_err() {
        return; // This machine's wildcard listeners do not take IPv4.
    }
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.give_tcp(&ours, 0);
    send_list(&mut daemon, 1, &["127.0.0.0/8"]);
    let app = App::tcp(&ours, origin.local_addr().unwrap()).with("access", access(true, &[("deny", 1)]));
    daemon.apply(&snapshot(1, &[app]));
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// With rates so low that no second bucket fills while the test runs, the counts are exact.
#[test]
fn new_flows_beyond_a_rate_are_refused_and_live_ones_stay() {
    for (limit, reason, counted) in [
        ("new_flows_per_second", "new_flow_rate", "refused_new_flow_rate"),
        ("new_flows_per_second_per_source", "source_new_flow_rate", "refused_source_new_flow_rate"),
    ] {
        let mut world = Tcp::new([127, 0, 0, 1].into());
        let limits = map([("source_prefix_v6", 64u64.into()), (limit, 1u64.into())]);
        world.daemon.apply(&snapshot(1, &[world.app().with("limits", limits)]));
        let (mut client, mut origin) = world.flow();
        // At most one a second is let in, and a burst of twenty takes far less than twenty seconds.
        for _ in 0..20 {
            let mut next = world.client();
            next.write_all(b"x").ok();
            next.set_nonblocking(false).unwrap();
        }
        // An app's count and the total are told one after the other: they agree once nobody comes any more.
        eventually(limit, || {
            let counters = world.daemon.counters();
            let refused = counters.at(&["drops"]).integer(reason);
            refused > 0 && counters.at(&["apps", "game"]).integer(counted) == refused
        });
        client.write_all(b"still here").unwrap();
        origin.read_exact(&mut [0; 10]).unwrap();
    }
}

#[test]
fn datagrams_of_clients_beyond_the_rate_begin_no_session() {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
    let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.give_udp(&ours, 0);
    let limits = map([("source_prefix_v6", 64u64.into()), ("new_flows_per_second", 1u64.into())]);
    let app = App::udp(&ours, origin.local_addr().unwrap()).with("limits", limits);
    daemon.apply(&snapshot(1, &[app]));
    let listener: SocketAddr = ours.local_addr().unwrap();
    let clients: Vec<_> = (0..50).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for client in &clients {
        client.send_to(b"hello", listener).unwrap();
    }
    eventually("every datagram is served or refused", || {
        let counters = daemon.counters();
        let app = counters.at(&["apps", "game"]);
        let (opened, refused) = (app.integer("udp_opened"), app.integer("refused_new_flow_rate"));
        let in_all = counters.at(&["drops"]).integer("new_flow_rate");
        opened >= 1 && refused >= 1 && opened + refused == 50 && in_all == refused
    });
}

fn bandwidth(bytes_per_second: u64) -> Value {
    map([("source_prefix_v6", 64u64.into()), ("bandwidth_per_flow", bytes_per_second.into())])
}

/// Time says only that it was no faster: a slow machine cannot fail this. Bytes arrive whole, by copying and by splice.
#[test]
fn a_tcp_flow_is_no_faster_than_it_may_be_and_loses_nothing() {
    const RATE: u64 = 8_000_000;
    const BYTES: usize = 4_000_000;
    let mut world = Tcp::new([127, 0, 0, 1].into());
    world.daemon.apply(&snapshot(1, &[world.app().with("limits", bandwidth(RATE))]));
    let (client, origin) = world.flow();
    let sent: Vec<u8> = (0..BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for (mut from, mut to) in [(&client, &origin), (&origin, &client)] {
            let sent = &sent;
            scope.spawn(move || {
                from.write_all(sent).unwrap();
                from.shutdown(std::net::Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut received = Vec::new();
                to.read_to_end(&mut received).unwrap();
                assert!(received == *sent, "{} bytes", received.len());
            });
        }
    });
    // All but the burst of a tenth of a second comes at the rate.
    let least = (BYTES as f64 - 0.1 * RATE as f64) / RATE as f64;
    assert!(began.elapsed().as_secs_f64() >= least, "{:?}", began.elapsed());
    let record = world.daemon.record();
    assert_eq!((record.integer("code"), record.integer("bytes_to_client")), (200, BYTES as u64));
    let counters = world.daemon.counters();
    assert!(counters.at(&["apps", "game"]).integer("bandwidth_waits") > 0);
    assert!(counters.at(&["values"]).integer("spliced_bytes") > 0, "a limit does not end splicing");
}

/// A flow that may carry next to nothing: it gets its burst and then waits, once, however much more its sender pushes; it is still
/// told of the end, and its neighbour is as fast as if it were alone.
#[test]
fn a_flow_that_waits_for_its_rate_holds_up_no_other() {
    let mut world = Tcp::new([127, 0, 0, 1].into());
    world.daemon.apply(&snapshot(1, &[world.app().with("limits", bandwidth(1))]));
    let (mut slow, mut slow_origin) = world.flow();
    let (mut other, mut other_origin) = world.flow();
    slow.write_all(&[7; 64 * 1024]).unwrap();
    // The byte of the beginning came out of the same burst.
    slow_origin.read_exact(&mut [0; 16 * 1024 - 1]).unwrap();
    eventually("it waits", || world.daemon.counters().at(&["apps", "game"]).integer("bandwidth_waits") > 0);
    for _ in 0..100 {
        slow.write_all(&[7; 100]).unwrap();
        other.write_all(b"ping").unwrap();
        other_origin.read_exact(&mut [0; 4]).unwrap();
    }
    assert_eq!(world.daemon.counters().at(&["apps", "game"]).integer("bandwidth_waits"), 1);
    // Its origin may answer meanwhile, and its end is told.
    slow_origin.write_all(b"answer").unwrap();
    slow.read_exact(&mut [0; 6]).unwrap();
    drop(slow_origin);
    assert_eq!(slow.read(&mut [0]).unwrap(), 0);
}

#[test]
fn datagrams_beyond_a_flows_bandwidth_are_dropped_and_counted() {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
    let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    origin.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.give_udp(&ours, 0);
    // So slow that nothing comes back while the test runs, and a burst of 16 kB.
    let app = App::udp(&ours, origin.local_addr().unwrap()).with("limits", bandwidth(1));
    daemon.apply(&snapshot(1, &[app]));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let datagram = [7; 8 * 1024];
    let mut session = None;
    // Two pass, the third finds the bucket empty.
    for passes in [true, true, false, false] {
        client.send_to(&datagram, ours.local_addr().unwrap()).unwrap();
        if passes {
            session = Some(origin.recv_from(&mut [0; 16_384]).unwrap().1);
        }
    }
    eventually("what is too much is counted", || daemon.counters().at(&["drops"]).integer("bandwidth") == 2);
    // The way back has a bucket of its own.
    for passes in [true, true, false] {
        origin.send_to(&datagram, session.unwrap()).unwrap();
        if passes {
            assert_eq!(client.recv_from(&mut [0; 16_384]).unwrap().0, datagram.len());
        }
    }
    eventually("in both directions", || {
        let counters = daemon.counters();
        let dropped = counters.at(&["apps", "game"]).integer("bandwidth_dropped");
        assert_eq!(dropped, counters.at(&["drops"]).integer("bandwidth"));
        dropped == 3
    });
}
