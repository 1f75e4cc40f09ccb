//! A daemon in the tests' hands: it starts a real engine on a thread, hands it real sockets, and hears what it says.
//!
//! Every wait is bounded by [`PATIENCE`]; ports are the kernel's choice.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use l4proxy_engine::{EngineError, ServeOptions, serve};

use crate::value::{Value, map};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The version of docs/engine-protocol.md that these tests speak.
pub const PROTOCOL: u64 = 3;

/// One running engine.
pub struct Engine {
    address: UnixAddress,
    thread: Option<JoinHandle<Result<(), EngineError>>>,
}

impl Engine {
    pub fn start(workers: usize) -> Self {
        Self::start_as("ams", workers)
    }

    pub fn start_as(pop: &str, workers: usize) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("l4proxy-engine-test-{}-{number}", std::process::id());
        let address = UnixAddress::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let options = ServeOptions {
            workers: workers.try_into().unwrap(),
            pop: pop.into(),
            overlay_memory_bytes: 256 << 20,
        };
        let thread = std::thread::spawn(move || serve(listener.into(), options));
        Self { address, thread: Some(thread) }
    }

    /// A daemon that has said hello; with it what the engine answered.
    pub fn connect(&self) -> (Daemon, Value) {
        let mut daemon = self.connect_silently();
        daemon.say("hello", map([("protocol", PROTOCOL.into())]));
        let hello = daemon.wait_for("hello");
        (daemon, hello)
    }

    pub fn connect_silently(&self) -> Daemon {
        let stream = UnixStream::connect_addr(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Daemon { stream, heard: VecDeque::new() }
    }

    /// Wait until the engine has ended by itself.
    pub fn join(mut self) {
        let thread = self.thread.take().unwrap();
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            assert!(Instant::now() < until, "the engine does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().unwrap().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            if let Ok(mut stream) = UnixStream::connect_addr(&self.address) {
                // It may be ending by itself just now.
                let _ = stream.write_all(&frame("stop", map([])));
            }
            let result = thread.join();
            if !std::thread::panicking() {
                result.unwrap().unwrap();
            }
        }
    }
}

/// One daemon's connection.
pub struct Daemon {
    pub stream: UnixStream,
    heard: VecDeque<(String, Value)>,
}

impl Daemon {
    pub fn say(&mut self, kind: &str, body: Value) {
        self.stream.write_all(&frame(kind, body)).unwrap();
    }

    pub fn say_with(&mut self, kind: &str, body: Value, descriptor: BorrowedFd<'_>) {
        let bytes = frame(kind, body);
        let sent = l4proxy_io::control::send(&self.stream, &bytes, &[descriptor]).unwrap();
        assert_eq!(sent, l4proxy_io::Sent::Bytes(bytes.len()));
    }

    fn read_frame(&mut self) -> Option<(String, Value)> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body).ok()?;
        let Value::Map(entries) = rmp_serde::from_slice(&body).unwrap() else { panic!("a frame is a map") };
        assert_eq!(entries.len(), 1);
        entries.into_iter().next()
    }

    /// The next message of a kind. Those of other kinds are kept for later waits.
    #[track_caller]
    pub fn wait_for(&mut self, kind: &str) -> Value {
        if let Some(place) = self.heard.iter().position(|(heard, _)| heard == kind) {
            return self.heard.remove(place).unwrap().1;
        }
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let (heard, body) =
                self.read_frame().unwrap_or_else(|| panic!("the engine is silent; wanted {kind}"));
            if heard == kind {
                return body;
            }
            self.heard.push_back((heard, body));
        }
        panic!("no {kind} within {PATIENCE:?}");
    }

    /// The next event of a kind. Those of other kinds that come before it are dropped.
    #[track_caller]
    pub fn event(&mut self, kind: &str) -> Value {
        loop {
            let mut events = self.wait_for("events").list("events").to_vec();
            if let Some(place) = events.iter().position(|event| event.text("kind") == kind) {
                let rest = events.split_off(place + 1);
                if !rest.is_empty() {
                    self.heard.push_front(("events".into(), map([("events", rest.into())])));
                }
                return events.remove(place);
            }
        }
    }

    /// The next record of an ended flow.
    #[track_caller]
    pub fn record(&mut self) -> Value {
        let mut records = self.wait_for("records").list("records").to_vec();
        let first = records.remove(0);
        if !records.is_empty() {
            self.heard.push_front(("records".into(), map([("records", records.into())])));
        }
        first
    }

    /// Messages of a kind that came while others were waited for.
    pub fn heard(&mut self, kind: &str) -> Vec<Value> {
        let mut of_kind = Vec::new();
        self.heard.retain(|(heard, body)| {
            if heard == kind {
                of_kind.push(body.clone());
            }
            heard != kind
        });
        of_kind
    }

    /// Counters as they stand now: a hello is followed by them.
    pub fn counters(&mut self) -> Value {
        self.say("hello", map([("protocol", PROTOCOL.into())]));
        self.wait_for("hello");
        self.heard.retain(|(kind, _)| kind != "counters");
        self.wait_for("counters")
    }

    /// What became of flows, summed over frames until `is_enough` says so: by app, egress ("" for this PoP) and what.
    pub fn outcomes_until(
        &mut self,
        is_enough: impl Fn(&BTreeMap<(String, String, String), u64>) -> bool,
    ) -> BTreeMap<(String, String, String), u64> {
        let mut sums = BTreeMap::new();
        while !is_enough(&sums) {
            let frame = self.wait_for("outcomes");
            for row in frame.list("flows") {
                let is_here = row.at(&["egress"]) == &Value::Nil;
                let egress = if is_here { "" } else { row.text("egress") };
                let Value::Map(counts) = row.at(&["counts"]) else { panic!("counts are a map") };
                for (name, count) in counts {
                    let Value::Integer(count) = count else { panic!("{name} is a count") };
                    let key = (row.text("app").to_owned(), egress.to_owned(), name.clone());
                    *sums.entry(key).or_default() += count;
                }
            }
        }
        sums
    }

    /// Whether the engine closes the connection, whatever it said before.
    pub fn is_closed(&mut self) -> bool {
        while let Some(frame) = self.read_frame() {
            self.heard.push_back(frame);
        }
        let mut byte = [0];
        matches!(self.stream.read(&mut byte), Ok(0))
    }

    /// Hand over a listening socket under a key of its own address.
    pub fn give_tcp(&mut self, listener: &TcpListener, worker: u64) {
        self.give("tcp", listener.local_addr().unwrap(), worker, listener.as_fd());
    }

    pub fn give_udp(&mut self, socket: &UdpSocket, worker: u64) {
        self.give("udp", socket.local_addr().unwrap(), worker, socket.as_fd());
    }

    fn give(&mut self, protocol: &str, address: SocketAddr, worker: u64, fd: BorrowedFd<'_>) {
        self.give_as("listener", protocol, &address.ip().to_string(), address.port(), worker, fd);
    }

    pub fn give_as(
        &mut self,
        role: &str,
        protocol: &str,
        address: &str,
        port: u16,
        worker: u64,
        fd: BorrowedFd<'_>,
    ) {
        let key = map([
            ("role", role.into()),
            ("protocol", protocol.into()),
            ("address", address.into()),
            ("port", port.into()),
            ("worker", worker.into()),
        ]);
        self.say_with("socket", key, fd);
    }

    #[track_caller]
    pub fn apply(&mut self, snapshot: &Value) {
        self.say("apply", snapshot.clone());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let (kind, body) = self.read_frame().expect("an answer");
            match kind.as_str() {
                "applied" => return assert_eq!(body.integer("generation"), snapshot.integer("generation")),
                "refused" => panic!("refused: {}", body.text("reason")),
                _ => self.heard.push_back((kind, body)),
            }
        }
        panic!("no answer");
    }

    pub fn list(&mut self, app: Option<&str>, limit: u64) -> Value {
        let app = app.map_or(Value::Nil, Value::from);
        self.say("list_flows", map([("request", 9u64.into()), ("app", app), ("limit", limit.into())]));
        self.wait_for("flows")
    }
}

pub fn frame(kind: &str, body: Value) -> Vec<u8> {
    let body = rmp_serde::to_vec_named(&map([(kind, body)])).unwrap();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

/// An app as the tests build it.
pub struct App {
    pub name: &'static str,
    pub protocol: &'static str,
    pub listener: SocketAddr,
    /// Ports after the first.
    pub more_ports: u16,
    pub origins: Vec<SocketAddr>,
    pub changes: Vec<(&'static str, Value)>,
}

impl App {
    pub fn tcp(listener: &TcpListener, origin: SocketAddr) -> Self {
        Self::new("tcp", listener.local_addr().unwrap(), origin)
    }

    pub fn udp(listener: &UdpSocket, origin: SocketAddr) -> Self {
        Self::new("udp", listener.local_addr().unwrap(), origin)
    }

    pub fn new(protocol: &'static str, listener: SocketAddr, origin: SocketAddr) -> Self {
        Self { name: "game", protocol, listener, more_ports: 0, origins: vec![origin], changes: vec![] }
    }

    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.changes.push((key, value.into()));
        self
    }

    fn value(&self) -> Value {
        let listens = Value::from(vec![map([
            ("protocol", self.protocol.into()),
            ("address", self.listener.ip().to_string().as_str().into()),
            ("first", self.listener.port().into()),
            ("last", (self.listener.port() + self.more_ports).into()),
        ])]);
        let origins: Vec<_> = self.origins.iter().map(|origin| origin_value(*origin)).collect();
        let candidates = (0..self.origins.len() as u64)
            .map(|origin| map([("origin", origin.into()), ("handle", Value::Nil)]))
            .collect::<Vec<_>>();
        let none = Value::from(vec![]);
        let routes = match self.protocol {
            "tcp" => map([("tcp", candidates.into()), ("udp", none)]),
            _ => map([("tcp", none), ("udp", candidates.into())]),
        };
        let mut app = map([
            ("name", self.name.into()),
            ("listens", listens.clone()),
            ("all_listens", listens),
            ("origins", origins.into()),
            ("routes", routes),
            ("idle_tcp_ms", 60_000u64.into()),
            ("idle_udp_ms", 60_000u64.into()),
            ("half_closed_ms", 60_000u64.into()),
            ("connect_timeout_ms", 2_000u64.into()),
            ("admits_egress", true.into()),
        ]);
        for (key, value) in &self.changes {
            app.set(key, value.clone());
        }
        app
    }
}

fn origin_value(origin: SocketAddr) -> Value {
    map([
        ("name", origin.to_string().as_str().into()),
        ("kind", "address".into()),
        ("targets", vec![target_value(origin)].into()),
    ])
}

/// Where an origin may be dialled.
pub fn target_value(target: SocketAddr) -> Value {
    map([("address", target.ip().to_string().as_str().into()), ("port", target.port().into())])
}

pub fn snapshot(generation: u64, apps: &[App]) -> Value {
    map([
        ("generation", generation.into()),
        ("pop", "ams".into()),
        ("pop_id", 1u64.into()),
        ("fleet", "demo".into()),
        ("apps", apps.iter().map(App::value).collect::<Vec<_>>().into()),
        ("links", vec![].into()),
        ("links_in", vec![].into()),
        ("peers", vec![].into()),
        ("handles", vec![].into()),
        (
            "options",
            map([
                ("max_sessions", 1_000u64.into()),
                ("max_new_sessions", 500u64.into()),
                ("max_tcp_flows", 1_000u64.into()),
            ]),
        ),
    ])
}

/// Both loopback addresses, as far as this machine has them.
pub fn loopbacks() -> Vec<IpAddr> {
    let candidates: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    candidates.into_iter().filter(|ip| UdpSocket::bind((*ip, 0)).is_ok()).collect()
}

/// Poll until something is true.
#[track_caller]
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
