//! Who the client is, through one PoP: what origins are told, and what balancers tell us.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use l4proxy_wire::proxy::tlv::{self, Tlv};
use l4proxy_wire::proxy::{self, Endpoints, Progress, Transport, v1, v2};
use l4proxy_wire::spp::Spp;

use crate::value::{Value, map};
use crate::world::{App, Daemon, Engine, PATIENCE, eventually, snapshot};

const TRUSTED: &str = "127.0.0.0/8";

/// What the app's origins are told on TCP and UDP.
fn told(tcp: &str, udp: &str) -> Value {
    map([("tcp", tcp.into()), ("udp", udp.into())])
}

fn from_balancers(prefix: &str) -> Value {
    vec![Value::from(prefix)].into()
}

struct Tcp {
    _engine: Engine,
    daemon: Daemon,
    listener: SocketAddr,
    origin: TcpListener,
    _ours: TcpListener,
}

impl Tcp {
    fn new(change: impl FnOnce(App) -> App) -> Self {
        Self::with_places(1_000, change)
    }

    /// An engine for so many flows, those that wait for their headers among them.
    fn with_places(places: u64, change: impl FnOnce(App) -> App) -> Self {
        let engine = Engine::start(1);
        let (mut daemon, _) = engine.connect();
        let (ours, origin) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        daemon.give_tcp(&ours, 0);
        let mut snapshot = snapshot(1, &[change(App::tcp(&ours, origin.local_addr().unwrap()))]);
        let mut options = snapshot.at(&["options"]).clone();
        options.set("max_tcp_flows", places);
        snapshot.set("options", options);
        daemon.apply(&snapshot);
        Self { _engine: engine, daemon, listener: ours.local_addr().unwrap(), origin, _ours: ours }
    }

    fn client(&self) -> TcpStream {
        patient(TcpStream::connect(self.listener).unwrap())
    }

    fn accept(&self) -> TcpStream {
        patient(self.origin.accept().unwrap().0)
    }

    fn dropped(&mut self, reason: &str) -> u64 {
        self.daemon.counters().at(&["drops"]).integer(reason)
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn exactly(mut stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Read a header byte by byte, so that what follows stays in the stream.
fn read_header(stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match proxy::decode(&bytes).unwrap() {
            Progress::Incomplete { .. } => bytes.extend(exactly(stream, 1)),
            Progress::Done { length, .. } => {
                assert_eq!(length, bytes.len());
                return bytes;
            }
        }
    }
}

fn line(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    v1::encode(source, destination, &mut bytes);
    bytes
}

fn header(endpoints: Endpoints<'_>, transport: Transport) -> Vec<u8> {
    let mut bytes = Vec::new();
    let extras = v2::Extras { tlvs: &[Tlv { kind: tlv::NOOP, value: b"pad" }], checksum: true };
    v2::encode(endpoints, transport, extras, &mut bytes).unwrap();
    bytes
}

fn somebody() -> (SocketAddr, SocketAddr) {
    ("192.0.2.7:1234".parse().unwrap(), "198.51.100.2:443".parse().unwrap())
}

fn inet() -> Endpoints<'static> {
    let (source, destination) = somebody();
    Endpoints::Inet { source, destination }
}

#[test]
fn an_origin_reads_the_line_and_then_the_client() {
    let mut tcp = Tcp::new(|app| app.with("client_address", told("proxy-v1", "off")));
    let mut client = tcp.client();
    client.write_all(b"hello").unwrap();
    let mut origin = tcp.accept();
    let expected = line(client.local_addr().unwrap(), tcp.listener);
    assert_eq!(exactly(&origin, expected.len() + 5), [&expected, &b"hello"[..]].concat());
    origin.write_all(b"answer").unwrap();
    assert_eq!(exactly(&client, 6), b"answer");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(origin.read(&mut [0; 9]).unwrap(), 0);
    drop(origin);
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
    // The header is ours and not the client's.
    let record = tcp.daemon.record();
    assert_eq!((record.integer("bytes_to_origin"), record.integer("bytes_to_client")), (5, 6));
}

#[test]
fn an_origin_that_speaks_first_is_told_before() {
    for version in ["proxy-v1", "proxy-v2"] {
        let tcp = Tcp::new(|app| app.with("client_address", told(version, "off")));
        let client = tcp.client();
        let mut origin = tcp.accept();
        let header = read_header(&origin);
        let Ok(Progress::Done { header, .. }) = proxy::decode(&header) else { panic!("a header") };
        assert_eq!(header.client(Transport::Stream), Some(client.local_addr().unwrap()));
        origin.write_all(b"220 ready").unwrap();
        assert_eq!(exactly(&client, 9), b"220 ready");
    }
}

#[test]
fn a_header_of_version_2_says_app_and_flow_and_has_a_checksum() {
    let mut tcp = Tcp::new(|app| app.with("client_address", told("proxy-v2", "off")));
    let client = tcp.client();
    let origin = tcp.accept();
    let bytes = read_header(&origin);
    let Ok(Progress::Done { header, .. }) = proxy::decode(&bytes) else { panic!("a header") };
    let (source, destination) = (client.local_addr().unwrap(), tcp.listener);
    assert_eq!(header.endpoints, Endpoints::Inet { source, destination });
    let flow = tcp.daemon.list(None, 1).list("flows")[0].text("id").to_owned();
    assert_eq!(header.tlvs.find(tlv::UNIQUE_ID), Some(flow.as_bytes()));
    assert_eq!(header.tlvs.find(tlv::APP), Some(&b"game"[..]));
    assert_eq!(header.tlvs.find(tlv::CRC32C).map(<[u8]>::len), Some(4));
}

#[test]
fn a_header_survives_bulk_half_close_and_an_origin_that_was_not_there() {
    // The first origin refuses: the header belongs to the attempt that succeeds.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tcp = Tcp::new(|mut app| {
        app.origins.insert(0, gone);
        app.with("client_address", told("proxy-v2", "off"))
    });
    let mut client = tcp.client();
    let sent: Vec<u8> = (0..4 << 20_u32).map(|i: u32| (i % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut origin = tcp.accept();
        read_header(&origin);
        let mut heard = Vec::new();
        origin.read_to_end(&mut heard).unwrap();
        assert!(heard == sent, "{} of {} bytes", heard.len(), sent.len());
    });
}

#[test]
fn a_balancers_client_is_the_client_and_loses_no_byte() {
    for header in [line(somebody().0, somebody().1), header(inet(), Transport::Stream)] {
        for piece in [1, 7, header.len(), header.len() + 5] {
            let mut tcp = Tcp::new(|app| {
                let app = app.with("accept_client_address", from_balancers(TRUSTED));
                app.with("client_address", told("proxy-v1", "off"))
            });
            let mut balancer = tcp.client();
            balancer.set_nodelay(true).unwrap();
            for bytes in [&header[..], b"hello"].concat().chunks(piece) {
                balancer.write_all(bytes).unwrap();
            }
            let origin = tcp.accept();
            let expected = [&line(somebody().0, tcp.listener)[..], b"hello"].concat();
            assert_eq!(exactly(&origin, expected.len()), expected, "in pieces of {piece}");
            let flow = tcp.daemon.list(None, 1).list("flows")[0].clone();
            assert_eq!(flow.text("client"), "192.0.2.7:1234");
        }
    }
}

#[test]
fn a_balancer_that_speaks_for_itself_is_the_client() {
    for endpoints in [Endpoints::Local, Endpoints::Unspecified] {
        let mut tcp = Tcp::new(|app| app.with("accept_client_address", from_balancers(TRUSTED)));
        let mut balancer = tcp.client();
        balancer.write_all(&[&header(endpoints, Transport::Stream)[..], b"up?"].concat()).unwrap();
        assert_eq!(exactly(&tcp.accept(), 3), b"up?");
        let flow = tcp.daemon.list(None, 1).list("flows")[0].clone();
        assert_eq!(flow.text("client"), balancer.local_addr().unwrap().to_string());
    }
}

#[test]
fn limits_count_the_clients_and_not_the_balancer() {
    let limits = map([("flows", Value::Nil), ("flows_per_source", 1u64.into())]);
    let mut tcp =
        Tcp::new(|app| app.with("accept_client_address", from_balancers(TRUSTED)).with("limits", limits));
    let begin = |tcp: &Tcp, client: &str| {
        let mut balancer = tcp.client();
        balancer.write_all(&line(client.parse().unwrap(), tcp.listener)).unwrap();
        balancer
    };
    let _first = begin(&tcp, "192.0.2.1:1");
    let _their_origin = tcp.accept();
    let _second = begin(&tcp, "192.0.2.2:1");
    let _its_origin = tcp.accept();
    let mut again = begin(&tcp, "192.0.2.1:2");
    assert_eq!(again.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(tcp.dropped("source_flows_full"), 1);
}

/// The balancer writes something that is no header, and is refused.
fn assert_refused(tcp: &mut Tcp, bytes: &[u8], reason: &str) {
    let before = tcp.dropped(reason);
    let mut balancer = tcp.client();
    balancer.write_all(bytes).unwrap();
    assert_eq!(balancer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{reason}");
    assert_eq!(tcp.dropped(reason), before + 1);
}

#[test]
fn what_is_no_header_is_refused_by_name_and_reaches_no_origin() {
    let mut tcp = Tcp::new(|app| app.with("accept_client_address", from_balancers(TRUSTED)));
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "signature"),
        (b"\r\n\r\n\0\r\nQUIT\n\x11", "version"),
        (b"\r\n\r\n\0\r\nQUIT\n\x2f", "command"),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "length"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.256 1 2\r\n", "address"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0dabcdefghijkl\x04", "tlv"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13abcdefghijkl\x03\0\x04abcd", "checksum"),
    ] {
        assert_refused(&mut tcp, bytes, &format!("bad_proxy_header_{reason}"));
    }
    assert_eq!(tcp.daemon.list(None, 1).integer("total"), 0);
    tcp.origin.set_nonblocking(true).unwrap();
    assert_eq!(tcp.origin.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_connection_that_ends_within_its_header_is_counted() {
    let mut tcp = Tcp::new(|app| app.with("accept_client_address", from_balancers(TRUSTED)));
    for part in [&b""[..], b"PROXY TCP4 192.0.2.1"] {
        let before = tcp.dropped("bad_proxy_header_incomplete");
        let mut balancer = tcp.client();
        balancer.write_all(part).unwrap();
        balancer.shutdown(Shutdown::Write).unwrap();
        eventually("counted", || tcp.dropped("bad_proxy_header_incomplete") == before + 1);
    }
}

#[test]
fn a_stranger_is_refused_before_it_has_said_anything() {
    let mut tcp = Tcp::new(|app| app.with("accept_client_address", from_balancers("10.0.0.0/8")));
    let mut stranger = tcp.client();
    assert_eq!(stranger.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(tcp.dropped("bad_proxy_header_untrusted"), 1);
    assert_eq!(tcp.dropped("bad_proxy_header_signature"), 0);
}

#[test]
fn a_header_that_does_not_come_is_waited_for_five_seconds() {
    let mut tcp = Tcp::new(|app| app.with("accept_client_address", from_balancers(TRUSTED)));
    let mut balancer = tcp.client();
    balancer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    balancer.write_all(b"PROXY TCP4 192.0.2.1 198.51").unwrap();
    assert_eq!(balancer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(tcp.dropped("bad_proxy_header_timeout"), 1);
}

/// As many as one worker waits for.
const MAX_WAITING: usize = 1024;

#[test]
fn more_connections_than_may_wait_for_their_headers_are_refused_and_room_comes_back() {
    // Both ends of each are descriptors of this process.
    l4proxy_io::limits::raise_open_files().unwrap();
    let trusting = |app: App| app.with("accept_client_address", from_balancers(TRUSTED));
    let mut tcp = Tcp::with_places(2 * MAX_WAITING as u64, trusting);
    let mut waiting = Vec::new();
    while tcp.dropped("proxy_headers_full") == 0 {
        // On a machine that is so slow that the first have been given up meanwhile, it takes a few more.
        assert!(waiting.len() < 4 * MAX_WAITING, "there is no bound");
        waiting.extend((0..64).map(|_| tcp.client()));
    }
    assert!(waiting.len() >= MAX_WAITING, "only {} may wait", waiting.len());
    let mut last = waiting.pop().unwrap();
    assert_eq!(last.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // They go without a word, and whoever comes then is heard.
    drop(waiting);
    let (source, destination) = somebody();
    tcp.origin.set_nonblocking(true).unwrap();
    let mut balancers = Vec::new();
    eventually("there is room again", || {
        let mut balancer = tcp.client();
        // Reset at once while there is none.
        drop(balancer.write_all(&line(source, destination)));
        balancers.push(balancer);
        tcp.origin.accept().is_ok()
    });
}

struct Udp {
    _engine: Engine,
    daemon: Daemon,
    listener: SocketAddr,
    origin: UdpSocket,
    _ours: UdpSocket,
}

impl Udp {
    fn new(change: impl FnOnce(App) -> App) -> Self {
        let engine = Engine::start(1);
        let (mut daemon, _) = engine.connect();
        let (ours, origin) = (bind(), bind());
        daemon.give_udp(&ours, 0);
        daemon.apply(&snapshot(1, &[change(App::udp(&ours, origin.local_addr().unwrap()))]));
        Self { _engine: engine, daemon, listener: ours.local_addr().unwrap(), origin, _ours: ours }
    }

    fn send(&self, client: &UdpSocket, datagram: &[u8]) {
        client.send_to(datagram, self.listener).unwrap();
    }

    fn dropped(&mut self, reason: &str) -> u64 {
        self.daemon.counters().at(&["drops"]).integer(reason)
    }
}

fn bind() -> UdpSocket {
    let socket = UdpSocket::bind((IpAddr::from([127, 0, 0, 1]), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(count);
    (buffer, from)
}

fn plain(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let endpoints = Endpoints::Inet { source, destination };
    v2::encode(endpoints, Transport::Datagram, v2::Extras::default(), &mut bytes).unwrap();
    bytes
}

#[test]
fn every_datagram_carries_its_header_and_answers_come_as_they_are() {
    let mut udp = Udp::new(|app| app.with("client_address", told("off", "proxy-v2-every")));
    let client = bind();
    let header = plain(client.local_addr().unwrap(), udp.listener);
    for payload in [&b"one"[..], b"", b"three", &[7; 1_400]] {
        udp.send(&client, payload);
        let (heard, session) = hear(&udp.origin);
        assert_eq!(heard, [&header, payload].concat());
        udp.origin.send_to(&heard, session).unwrap();
        assert_eq!(hear(&client).0, heard, "an answer is the origin's own");
    }
    let flow = udp.daemon.list(None, 1).list("flows")[0].clone();
    assert_eq!(flow.integer("bytes_to_origin"), 3 + 5 + 1_400, "the header is not the client's");
}

#[test]
fn spp_comes_before_every_datagram_and_off_its_answers() {
    let udp = Udp::new(|app| app.with("client_address", told("off", "spp")));
    let client = bind();
    let own = Spp { client: client.local_addr().unwrap(), proxy: udp.listener };
    let other = Spp { client: udp.listener, ..own }.encode();
    for payload in [&b"ping"[..], b"", b"again"] {
        udp.send(&client, payload);
        let (heard, session) = hear(&udp.origin);
        assert_eq!(heard, [&own.encode(), payload].concat());
        for (answer, expected) in [
            ([&own.encode()[..], b"pong"].concat(), b"pong".to_vec()),
            (b"bare".to_vec(), b"bare".to_vec()),
            (own.encode().to_vec(), vec![]),
            (other.to_vec(), other.to_vec()),
        ] {
            udp.origin.send_to(&answer, session).unwrap();
            assert_eq!(hear(&client).0, expected);
        }
    }
}

#[test]
fn a_burst_keeps_its_order_and_each_datagram_its_header() {
    for word in ["spp", "proxy-v2-every"] {
        let udp = Udp::new(|app| app.with("client_address", told("off", word)));
        let client = bind();
        for number in 0..200_u32 {
            udp.send(&client, &number.to_be_bytes());
        }
        for number in 0..200_u32 {
            let heard = hear(&udp.origin).0;
            assert!(heard.ends_with(&number.to_be_bytes()) && heard.len() > 4 + 20, "{word} {number}");
        }
    }
}

#[test]
fn what_fits_no_more_with_its_header_is_dropped_by_name() {
    for (word, header) in [("spp", 38), ("proxy-v2-every", 28)] {
        let mut udp = Udp::new(|app| app.with("client_address", told("off", word)));
        let client = bind();
        udp.send(&client, &vec![1; 65_507 - header + 1]);
        eventually("dropped", || udp.dropped("udp_no_room_for_header") == 1);
        udp.send(&client, &vec![2; 65_507 - header]);
        assert_eq!(hear(&udp.origin).0.len(), 65_507);
    }
}

#[test]
fn an_origin_that_answers_is_told_once_and_one_that_was_restarted_again() {
    let udp = Udp::new(|app| app.with("client_address", told("off", "proxy-v2-first")));
    let client = bind();
    let header = plain(client.local_addr().unwrap(), udp.listener);
    udp.send(&client, b"first");
    let (heard, session) = hear(&udp.origin);
    assert_eq!(heard, [&header[..], b"first"].concat());
    for number in 0..5_u8 {
        udp.origin.send_to(b"pong", session).unwrap();
        assert_eq!(hear(&client).0, b"pong");
        udp.send(&client, &[number]);
        assert_eq!(hear(&udp.origin).0, [number]);
    }
    // It goes, which ICMP tells, and somebody comes who has never heard of the client.
    let address = udp.origin.local_addr().unwrap();
    drop(udp.origin);
    client.send_to(b"lost", udp.listener).unwrap();
    eventually("the datagram is gone", || is_empty(&client));
    let restarted = UdpSocket::bind(address).unwrap();
    restarted.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut heard = Vec::new();
    eventually("told again", || {
        client.send_to(b"again", udp.listener).unwrap();
        let mut buffer = [0; 100];
        heard = restarted.recv_from(&mut buffer).map_or(Vec::new(), |(count, _)| buffer[..count].to_vec());
        heard == [&header[..], b"again"].concat()
    });
}

/// Nothing waits to be read: what was sent to nobody is not answered either.
fn is_empty(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let result = socket.peek_from(&mut [0]).is_err();
    socket.set_nonblocking(false).unwrap();
    result
}

#[test]
fn a_balancers_datagrams_are_its_clients_and_answers_go_back_through_it() {
    let mut udp = Udp::new(|app| {
        let app = app.with("accept_client_address", from_balancers(TRUSTED));
        app.with("client_address", told("off", "proxy-v2-every"))
    });
    let balancer = bind();
    let mut sessions = Vec::new();
    for client in ["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::7]:9"] {
        let client: SocketAddr = client.parse().unwrap();
        udp.send(&balancer, &[&plain(client, udp.listener)[..], b"ping"].concat());
        let (heard, session) = hear(&udp.origin);
        assert_eq!(heard, [&plain(client, udp.listener)[..], b"ping"].concat());
        udp.origin.send_to(client.to_string().as_bytes(), session).unwrap();
        assert_eq!(hear(&balancer).0, client.to_string().as_bytes());
        sessions.push(session);
    }
    assert_ne!(sessions[0], sessions[1], "two clients of one balancer have two sessions");
    assert_eq!(udp.daemon.list(None, 9).integer("total"), 3);
    // Without a header nothing passes.
    udp.send(&balancer, b"ping");
    eventually("counted", || udp.dropped("bad_proxy_header_signature") == 1);
    udp.send(&balancer, b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0cshort");
    eventually("counted", || udp.dropped("bad_proxy_header_incomplete") == 1);
}

#[test]
fn a_strangers_datagram_is_dropped() {
    let mut udp = Udp::new(|app| app.with("accept_client_address", from_balancers("10.0.0.0/8")));
    let stranger = bind();
    udp.send(&stranger, &[&plain(somebody().0, udp.listener)[..], b"ping"].concat());
    eventually("counted", || udp.dropped("bad_proxy_header_untrusted") == 1);
    assert_eq!(udp.daemon.list(None, 9).integer("total"), 0);
}
