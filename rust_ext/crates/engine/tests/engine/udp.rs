//! UDP through one PoP: every size of datagram, the address that was asked, port ranges, sessions and their caps.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::value::map;
use crate::world::{App, Daemon, Engine, PATIENCE, eventually, loopbacks, snapshot};

struct Setup {
    _engine: Engine,
    daemon: Daemon,
    listener: SocketAddr,
    origin: UdpSocket,
    _ours: UdpSocket,
}

fn bind(address: impl std::net::ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn setup(ip: IpAddr, change: impl FnOnce(App) -> App) -> Setup {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let (ours, origin) = (bind((ip, 0)), bind((ip, 0)));
    daemon.give_udp(&ours, 0);
    daemon.apply(&snapshot(1, &[change(App::udp(&ours, origin.local_addr().unwrap()))]));
    Setup { _engine: engine, daemon, listener: ours.local_addr().unwrap(), origin, _ours: ours }
}

fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

/// The origin hears a datagram, and from whom.
fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(count);
    (buffer, from)
}

#[test]
fn datagrams_of_every_size_pass_whole_both_ways() {
    for ip in loopbacks() {
        let setup = setup(ip, |app| app);
        let client = bind((ip, 0));
        // What the kernel takes in one datagram: IPv6 does not count its header.
        let most = if ip.is_ipv4() { 65_507 } else { 65_527 };
        for length in [0, 1, 1_200, 1_472, 9_000, 60_000, 65_507, most, 0] {
            let datagram: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            client.send_to(&datagram, setup.listener).unwrap();
            let (heard, session) = hear(&setup.origin);
            assert!(heard == datagram, "{length} bytes to the origin");
            setup.origin.send_to(&heard, session).unwrap();
            let (answer, from) = hear(&client);
            assert!(answer == datagram, "{length} bytes to the client");
            assert_eq!(from, setup.listener);
        }
    }
}

#[test]
fn two_clients_have_two_sessions_and_get_their_own_answers() {
    let mut setup = setup(loopback(), |app| app);
    let clients = [bind((loopback(), 0)), bind((loopback(), 0))];
    let mut sessions = Vec::new();
    for (index, client) in clients.iter().enumerate() {
        client.send_to(&[index as u8], setup.listener).unwrap();
        sessions.push(hear(&setup.origin));
    }
    assert_ne!(sessions[0].1, sessions[1].1);
    for (datagram, session) in sessions.iter().rev() {
        setup.origin.send_to(datagram, session).unwrap();
    }
    for (index, client) in clients.iter().enumerate() {
        assert_eq!(hear(client).0, [index as u8]);
    }
    let listed = setup.daemon.list(None, 10);
    assert_eq!(listed.integer("total"), 2);
    let flow = &listed.list("flows")[0];
    assert_eq!((flow.integer("datagrams_to_origin"), flow.integer("datagrams_to_client")), (1, 1));
    assert_eq!((flow.text("protocol"), flow.text("role")), ("udp", "local"));
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    // A listener of all addresses, of IPv4 alone and of both families: that of IPv6 has the addresses in IPv6 clothing.
    for all in ["0.0.0.0:0", "[::]:0"].into_iter().filter(|all| UdpSocket::bind(all).is_ok()) {
        let engine = Engine::start(1);
        let (mut daemon, _) = engine.connect();
        let ours = bind(all);
        let port = ours.local_addr().unwrap().port();
        let origin = bind((loopback(), 0));
        daemon.give_udp(&ours, 0);
        daemon.apply(&snapshot(1, &[App::udp(&ours, origin.local_addr().unwrap())]));
        let client = bind("127.0.0.1:0");
        let mut sessions = Vec::new();
        for asked in ["127.0.0.2", "127.0.0.3"] {
            client.send_to(asked.as_bytes(), (asked, port)).unwrap();
            let (datagram, session) = hear(&origin);
            origin.send_to(&datagram, session).unwrap();
            sessions.push(session);
            let (answer, from) = hear(&client);
            assert_eq!(
                (answer, from),
                (asked.as_bytes().to_vec(), SocketAddr::new(asked.parse().unwrap(), port))
            );
        }
        assert_ne!(sessions[0], sessions[1], "the same client of two addresses has two sessions");
    }
}

#[test]
fn a_listener_for_both_families_serves_both() {
    if loopbacks().len() < 2 {
        return;
    }
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let ours = UdpSocket::bind("[::]:0").unwrap();
    let port = ours.local_addr().unwrap().port();
    let origin = bind((loopback(), 0));
    daemon.give_udp(&ours, 0);
    daemon.apply(&snapshot(1, &[App::udp(&ours, origin.local_addr().unwrap())]));
    for ip in ["127.0.0.1", "::1"] {
        let client = bind((ip, 0));
        client.send_to(b"hello", (ip, port)).unwrap();
        let (_, session) = hear(&origin);
        origin.send_to(b"hi", session).unwrap();
        assert_eq!(hear(&client), (b"hi".to_vec(), SocketAddr::new(ip.parse().unwrap(), port)));
    }
    let mut clients: Vec<_> =
        daemon.list(None, 9).list("flows").iter().map(|flow| flow.text("listener").to_owned()).collect();
    clients.sort();
    assert_eq!(clients, [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
}

/// Three ports in a row that are free now.
fn three_ports() -> [UdpSocket; 3] {
    for _ in 0..100 {
        let first = bind((loopback(), 0));
        let port = first.local_addr().unwrap().port();
        let others = (1..3).map(|offset| UdpSocket::bind((loopback(), port.checked_add(offset)?)).ok());
        if let Some(others) = others.collect::<Option<Vec<_>>>() {
            let [second, third] = <[UdpSocket; 2]>::try_from(others).unwrap();
            for socket in [&second, &third] {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            return [first, second, third];
        }
    }
    panic!("no three free ports in a row");
}

#[test]
fn a_port_range_keeps_its_offset_at_the_origin() {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let (ours, origins) = (three_ports(), three_ports());
    for socket in &ours {
        daemon.give_udp(socket, 0);
    }
    let mut app = App::udp(&ours[0], origins[0].local_addr().unwrap());
    app.more_ports = 2;
    daemon.apply(&snapshot(1, &[app]));
    let client = bind((loopback(), 0));
    for (index, (listener, origin)) in ours.iter().zip(&origins).enumerate() {
        client.send_to(&[index as u8], listener.local_addr().unwrap()).unwrap();
        assert_eq!(hear(origin).0, [index as u8]);
    }
}

#[test]
fn a_flood_of_new_sessions_stays_within_the_cap_and_an_assured_one_lives() {
    let mut setup = setup(loopback(), |app| app);
    let player = bind((loopback(), 0));
    let play = |setup: &Setup| {
        player.send_to(b"move", setup.listener).unwrap();
        let (_, session) = hear(&setup.origin);
        setup.origin.send_to(b"world", session).unwrap();
        assert_eq!(hear(&player).0, b"world");
        session
    };
    let session = play(&setup);
    play(&setup);
    std::thread::sleep(Duration::from_millis(1_050));
    play(&setup);
    // 600 strangers from 600 ports against a cap of 500.
    setup.origin.set_nonblocking(true).unwrap();
    for _ in 0..600 {
        bind((loopback(), 0)).send_to(b"flood", setup.listener).unwrap();
        std::thread::sleep(Duration::from_micros(200));
        while setup.origin.recv_from(&mut [0; 16]).is_ok() {}
    }
    eventually("the flood has passed", || {
        while setup.origin.recv_from(&mut [0; 16]).is_ok() {}
        let counters = setup.daemon.counters();
        counters.at(&["apps", "game"]).integer("datagrams_to_origin") == 603
    });
    let counters = setup.daemon.counters();
    let values = counters.at(&["values"]);
    assert_eq!(values.integer("udp_sessions_assured"), 1);
    assert_eq!(values.integer("udp_sessions"), 501);
    // Some strangers get a port that another one had before.
    let opened = counters.at(&["apps", "game"]).integer("udp_opened");
    assert!(opened > 550);
    assert_eq!(values.integer("sessions_evicted"), opened - 501);
    while setup.origin.recv_from(&mut [0; 16]).is_ok() {}
    setup.origin.set_nonblocking(false).unwrap();
    assert_eq!(play(&setup), session, "the player's session and its port towards the origin are the same");
}

#[test]
fn one_source_gets_its_budget() {
    let mut setup = setup(loopback(), |app| app.with("limits", map([("flows_per_source", 2u64.into())])));
    let clients: Vec<_> = (0..3).map(|_| bind((loopback(), 0))).collect();
    for client in &clients {
        client.send_to(b"x", setup.listener).unwrap();
    }
    hear(&setup.origin);
    hear(&setup.origin);
    setup.origin.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(setup.origin.recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(setup.daemon.counters().at(&["drops"]).integer("source_flows_full"), 1);
}

#[test]
fn an_idle_session_ends_with_a_record_and_the_next_datagram_begins_another() {
    let mut setup = setup(loopback(), |app| app.with("idle_udp_ms", 100u64));
    let client = bind((loopback(), 0));
    client.send_to(b"one", setup.listener).unwrap();
    let (_, first) = hear(&setup.origin);
    let record = setup.daemon.record();
    assert_eq!(
        (record.integer("code"), record.text("reason"), record.text("protocol")),
        (603, "idle", "udp")
    );
    assert_eq!((record.integer("bytes_to_origin"), record.integer("datagrams_to_origin")), (3, 1));
    assert_eq!(record.text("source"), first.to_string());
    client.send_to(b"two", setup.listener).unwrap();
    let (datagram, second) = hear(&setup.origin);
    assert_eq!(datagram, b"two");
    assert_ne!(first, second);
}

#[test]
fn an_origin_that_is_not_there_yet_costs_datagrams_and_not_the_session() {
    let mut setup = setup(loopback(), |app| app);
    let address = setup.origin.local_addr().unwrap();
    let client = bind((loopback(), 0));
    client.send_to(b"before", setup.listener).unwrap();
    let (_, session) = hear(&setup.origin);
    drop(std::mem::replace(&mut setup.origin, bind((loopback(), 0))));
    for _ in 0..3 {
        client.send_to(b"lost", setup.listener).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    setup.origin = bind(address);
    client.send_to(b"after", setup.listener).unwrap();
    assert_eq!(hear(&setup.origin), (b"after".to_vec(), session));
    let counters = setup.daemon.counters();
    assert!(counters.at(&["drops"]).integer("udp_refused") >= 1);
    assert_eq!(counters.at(&["values"]).integer("udp_sessions"), 1);
}
