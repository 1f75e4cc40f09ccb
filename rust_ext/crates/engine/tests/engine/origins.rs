//! Where flows go and from where: several addresses raced, what names may not lead to, source pools, both families mixed, the client's
//! own address.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use crate::value::{Value, map};
use crate::world::{App, Daemon, Engine, PATIENCE, eventually, snapshot, target_value};

struct Setup {
    _engine: Engine,
    daemon: Daemon,
    tcp: TcpListener,
    udp: UdpSocket,
    origin: Value,
    changes: Vec<(&'static str, Value)>,
    generation: u64,
}

fn origin(kind: &str, targets: Vec<Value>) -> Value {
    map([("name", "play.example.net".into()), ("kind", kind.into()), ("targets", targets.into())])
}

fn targets(addresses: &[SocketAddr]) -> Vec<Value> {
    addresses.iter().map(|address| target_value(*address)).collect()
}

fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// An engine with an app of each protocol, both of which have this origin.
fn setup(ip: IpAddr, origin: Value, changes: Vec<(&'static str, Value)>) -> Setup {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let (tcp, udp) = (TcpListener::bind((ip, 0)).unwrap(), bind((ip, 0)));
    daemon.give_tcp(&tcp, 0);
    daemon.give_udp(&udp, 0);
    let mut setup = Setup { _engine: engine, daemon, tcp, udp, origin, changes, generation: 0 };
    setup.apply();
    setup
}

impl Setup {
    fn apply(&mut self) {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let mut web = App::tcp(&self.tcp, nowhere).with("origins", vec![self.origin.clone()]);
        let mut game = App::udp(&self.udp, nowhere).with("origins", vec![self.origin.clone()]);
        (web.name, game.name) = ("web", "game");
        for app in [&mut web, &mut game] {
            app.changes.extend(self.changes.iter().cloned());
        }
        self.generation += 1;
        self.daemon.apply(&snapshot(self.generation, &[web, game]));
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.tcp.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn dropped(&mut self, reason: &str) -> u64 {
        self.daemon.counters().at(&["drops"]).integer(reason)
    }

    /// A TCP flow that gets no origin: its record's code and reason.
    fn refused(&mut self) -> (u64, String) {
        let mut client = self.connect();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        loop {
            let record = self.daemon.record();
            // Flows of before that went well may still be told of.
            if record.integer("code") != 200 {
                return (record.integer("code"), record.text("reason").to_owned());
            }
        }
    }
}

fn bind(address: impl std::net::ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A place that refuses, for as long as the socket is held: it is bound and does not listen.
fn refusing() -> (OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::new(loopback(), 0)).unwrap();
    let address = getsockname(&fd).unwrap().try_into().unwrap();
    (fd, address)
}

/// A listener that does not answer: its queue is full, so the kernel drops every SYN.
fn silent(ip: IpAddr) -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::from(l4proxy_io::tcp::listen(SocketAddr::new(ip, 0), 0, false).unwrap());
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)) {
        held.push(stream);
        assert!(held.len() < 100, "the queue never fills");
    }
    (listener, held)
}

fn talk(client: &mut TcpStream, origin: &TcpListener) -> SocketAddr {
    let (mut server, from) = origin.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 4];
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut buffer).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"pong");
    from
}

#[test]
fn an_address_that_is_silent_is_overtaken_by_the_next() {
    let (quiet, _held) = silent(loopback());
    let well = TcpListener::bind("127.0.0.1:0").unwrap();
    let order = [quiet.local_addr().unwrap(), well.local_addr().unwrap()];
    // Of two hosts the one of the lower number comes first, so that the silent one is always tried.
    let mut ordered = targets(&order);
    for (number, target) in ordered.iter_mut().enumerate() {
        target.set("host", number as u64);
        target.set("priority", number as u64);
    }
    let mut setup = setup(loopback(), origin("address", ordered), vec![]);
    for _ in 0..3 {
        talk(&mut setup.connect(), &well);
        assert_eq!(setup.daemon.record().integer("code"), 200);
    }
    let counters = setup.daemon.counters();
    let values = counters.at(&["values"]);
    assert_eq!((values.integer("dials_raced"), values.integer("tcp_dials")), (3, 6));
}

#[test]
fn an_address_that_refuses_costs_no_wait_and_when_all_do_the_client_is_told() {
    let well = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = [0; 3].map(|_| refusing());
    let dead = [0, 1, 2].map(|index: usize| held[index].1);
    let all = [&dead[..], &[well.local_addr().unwrap()]].concat();
    let mut setup = setup(loopback(), origin("address", targets(&all)), vec![]);
    for _ in 0..8 {
        talk(&mut setup.connect(), &well);
        setup.daemon.record();
    }
    setup.origin = origin("address", targets(&dead));
    setup.apply();
    assert_eq!(setup.refused(), (447, "refused".to_owned()));
}

#[test]
fn both_families_are_raced_and_mixed() {
    if !has_ipv6() {
        return;
    }
    let (quiet, _held) = silent("::1".parse().unwrap());
    let well = TcpListener::bind("127.0.0.1:0").unwrap();
    let both = [well.local_addr().unwrap(), quiet.local_addr().unwrap()];
    // A client of IPv6 to an origin whose IPv6 address is silent.
    let setup = setup("::1".parse().unwrap(), origin("address", targets(&both)), vec![]);
    let from = talk(&mut setup.connect(), &well);
    assert!(from.is_ipv4());
}

#[test]
fn a_client_of_one_family_reaches_an_origin_of_the_other() {
    if !has_ipv6() {
        return;
    }
    for (client_ip, origin_ip) in [("::1", "127.0.0.1"), ("127.0.0.1", "::1")] {
        let (client_ip, origin_ip): (IpAddr, IpAddr) =
            (client_ip.parse().unwrap(), origin_ip.parse().unwrap());
        let tcp = TcpListener::bind((origin_ip, 0)).unwrap();
        let udp = bind((origin_ip, tcp.local_addr().unwrap().port()));
        let setup = setup(client_ip, origin("address", targets(&[tcp.local_addr().unwrap()])), vec![]);
        assert_eq!(talk(&mut setup.connect(), &tcp).ip(), origin_ip);

        let client = bind((client_ip, 0));
        client.send_to(b"ping", setup.udp.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 16];
        let (count, from) = udp.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..count], from.ip()), (&b"ping"[..], origin_ip));
        udp.send_to(b"pong", from).unwrap();
        let (count, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..count], from), (&b"pong"[..], setup.udp.local_addr().unwrap()));
    }
}

#[test]
fn a_name_that_leads_to_this_host_is_not_dialled_and_an_address_is() {
    let well = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = well.local_addr().unwrap();
    let changes = vec![("allow_private_origins", Value::from(true))];
    let mut setup = setup(loopback(), origin("name", targets(&[at])), changes);
    assert_eq!(setup.refused(), (606, "origin_denied".to_owned()));
    assert_eq!(setup.dropped("origin_loopback"), 1);
    well.set_nonblocking(true).unwrap();
    assert_eq!(well.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody knocked");
    well.set_nonblocking(false).unwrap();

    let client = bind((loopback(), 0));
    client.send_to(b"x", setup.udp.local_addr().unwrap()).unwrap();
    eventually("the datagram is refused", || setup.dropped("origin_loopback") == 2);

    setup.origin = origin("address", targets(&[at]));
    setup.apply();
    talk(&mut setup.connect(), &well);
}

#[test]
fn every_reason_has_its_counter() {
    let rows = [
        ("0.0.0.0", "origin_unspecified"),
        ("::ffff:127.0.0.1", "origin_loopback"),
        ("169.254.1.1", "origin_link_local"),
        ("64:ff9b::a9fe:a9fe", "origin_metadata"),
        ("224.0.0.1", "origin_multicast"),
        ("255.255.255.255", "origin_broadcast"),
        ("203.0.113.1", "origin_reserved"),
        ("10.0.0.1", "origin_private"),
    ];
    let mut setup = setup(loopback(), origin("name", vec![]), vec![]);
    for (ip, counter) in rows {
        setup.origin = origin("name", targets(&[SocketAddr::new(ip.parse().unwrap(), 9)]));
        setup.apply();
        assert_eq!(setup.refused(), (606, "origin_denied".to_owned()), "{ip}");
        assert_eq!(setup.dropped(counter), 1, "{ip}");
    }
}

#[test]
fn a_name_without_an_answer_says_so() {
    let mut setup = setup(loopback(), origin("name", vec![]), vec![]);
    assert_eq!(setup.refused(), (447, "unresolved".to_owned()));
    let client = bind((loopback(), 0));
    client.send_to(b"x", setup.udp.local_addr().unwrap()).unwrap();
    eventually("both are counted", || setup.dropped("origin_unresolved") == 2);
}

#[test]
fn an_answer_that_changes_moves_new_flows_and_leaves_the_others() {
    let origins = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let at = |index: usize| targets(&[origins[index].local_addr().unwrap()]);
    let mut setup = setup(loopback(), origin("address", at(0)), vec![]);
    let mut old = setup.connect();
    let (mut server, _) = origins[0].accept().unwrap();
    setup.origin = origin("address", at(1));
    setup.apply();
    talk(&mut setup.connect(), &origins[1]);
    old.write_all(b"still").unwrap();
    let mut buffer = [0; 5];
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"still");
}

#[test]
fn a_datagram_flow_leaves_an_address_where_nobody_is() {
    let well = bind((loopback(), 0));
    // A socket that is connected elsewhere keeps its port and hears nobody: the kernel answers for it that nobody is there.
    let held = [0; 2].map(|_| bind((loopback(), 0)));
    held.iter().for_each(|socket| socket.connect("127.0.0.1:9").unwrap());
    let dead = [0, 1].map(|index: usize| held[index].local_addr().unwrap());
    let mut ordered = targets(&[dead[0], dead[1], well.local_addr().unwrap()]);
    for (number, target) in ordered.iter_mut().enumerate() {
        target.set("host", number as u64);
        target.set("priority", number as u64);
    }
    let setup = setup(loopback(), origin("address", ordered), vec![]);
    let client = bind((loopback(), 0));
    well.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 16];
    // Each refusal loses the datagram that met it; the client asks again.
    eventually("the third address is asked", || {
        client.send_to(b"ask", setup.udp.local_addr().unwrap()).unwrap();
        well.recv_from(&mut buffer).is_ok_and(|(_, from)| well.send_to(b"answer", from).is_ok())
    });
    let (count, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"answer");
}

#[test]
fn a_client_is_seen_from_its_own_address_of_the_pool() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = bind(tcp.local_addr().unwrap());
    let pool = vec![("source_pool", Value::from(vec![Value::from("127.0.1.0/28")]))];
    let mut setup = setup(loopback(), origin("address", targets(&[tcp.local_addr().unwrap()])), pool);
    let first = talk(&mut setup.connect(), &tcp).ip();
    assert!(first.to_string().starts_with("127.0.1."), "{first}");
    for _ in 0..3 {
        assert_eq!(talk(&mut setup.connect(), &tcp).ip(), first);
    }
    // Over UDP it is the same one, and other clients spread over the pool.
    let mut seen = std::collections::BTreeSet::new();
    for last in 1..40 {
        let client = bind((IpAddr::from([127, 0, 0, last]), 0));
        client.send_to(b"x", setup.udp.local_addr().unwrap()).unwrap();
        let from = udp.recv_from(&mut [0]).unwrap().1.ip();
        assert!(last != 1 || from == first);
        seen.insert(from);
    }
    assert!(seen.len() > 5, "{seen:?}");

    // An address that this host does not have: nothing leaves from another one.
    setup.changes = vec![("source_pool", vec![Value::from("192.0.2.77")].into())];
    setup.apply();
    assert_eq!(setup.refused(), (600, "no_source".to_owned()));
    assert_eq!((setup.dropped("source_not_local"), setup.dropped("source_exhausted")), (1, 1));
    setup.changes = vec![("source_pool", vec![Value::from("::1")].into())];
    setup.apply();
    assert_eq!(setup.refused(), (600, "no_source".to_owned()));
    assert_eq!(setup.dropped("source_other_family"), 1);
}

/// With the right to do so the origin sees the client's address; without it the flow is refused, and nothing comes from the proxy's.
#[test]
fn the_origin_sees_the_client_or_nobody() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = bind(tcp.local_addr().unwrap());
    let both = map([("tcp", "transparent".into()), ("udp", "transparent".into())]);
    let changes = vec![("client_address", both)];
    let mut setup = setup(loopback(), origin("address", targets(&[tcp.local_addr().unwrap()])), changes);
    let client = bind("127.0.0.5:0");
    let may = l4proxy_io::source::connect_udp(
        udp.local_addr().unwrap(),
        l4proxy_io::source::Source::Client("127.0.0.6:0".parse().unwrap()),
    )
    .is_ok();
    if !may {
        assert_eq!(setup.refused(), (600, "no_source".to_owned()));
        client.send_to(b"x", setup.udp.local_addr().unwrap()).unwrap();
        eventually("both are counted", || setup.dropped("source_not_permitted") == 2);
        return;
    }
    client.send_to(b"x", setup.udp.local_addr().unwrap()).unwrap();
    assert_eq!(udp.recv_from(&mut [0]).unwrap().1.ip(), client.local_addr().unwrap().ip());
    assert_eq!(talk(&mut setup.connect(), &tcp).ip(), loopback());
}

#[test]
fn a_pool_that_makes_no_sense_is_refused_and_changes_nothing() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = setup(loopback(), origin("address", targets(&[tcp.local_addr().unwrap()])), vec![]);
    let app = App::tcp(&setup.tcp, tcp.local_addr().unwrap());
    let app = app.with("source_pool", vec![Value::from("10.0.0.0/8")]);
    setup.daemon.say("apply", snapshot(2, &[app]));
    let refused = setup.daemon.wait_for("refused");
    assert_eq!(refused.text("reason"), "app game: source pool: the pool has more than 1024 addresses");
    talk(&mut setup.connect(), &tcp);
}
