//! Every way in which a TCP flow goes and ends, each once by copying and once by splice: ends with data still to come, ends behind full
//! buffers, resets, stalls, an origin that accepts late. Whatever happens, a receiver has every byte or hears of a reset.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::world::{App, Daemon, Engine, PATIENCE, eventually, snapshot};

/// How the flow moves its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Copy,
    Splice,
}

/// Which end does it.
#[derive(Debug, Clone, Copy)]
enum By {
    Client,
    Origin,
}

/// All four.
const CASES: [(Mode, By); 4] = [
    (Mode::Copy, By::Client),
    (Mode::Copy, By::Origin),
    (Mode::Splice, By::Client),
    (Mode::Splice, By::Origin),
];

/// Enough to become a bulk transfer.
const WARM: usize = 1 << 20;
/// More than the buffers of the four sockets and a pipe hold.
const FLOOD: usize = 24 << 20;

struct World {
    _engine: Engine,
    daemon: Daemon,
    listener: TcpListener,
    origin: TcpListener,
}

fn world() -> World {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.give_tcp(&listener, 0);
    daemon.apply(&snapshot(1, &[App::tcp(&listener, origin.local_addr().unwrap())]));
    World { _engine: engine, daemon, listener, origin }
}

impl World {
    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.listener.local_addr().unwrap()).unwrap())
    }

    /// A flow that works in this mode: the end that acts, and the other.
    fn flow(&self, mode: Mode, by: By) -> (TcpStream, TcpStream) {
        let client = self.connect();
        let origin = patient(self.origin.accept().unwrap().0);
        if mode == Mode::Splice {
            for (from, to) in [(&client, &origin), (&origin, &client)] {
                pass(from, to, &pattern(WARM, 7));
            }
        }
        match by {
            By::Client => (client, origin),
            By::Origin => (origin, client),
        }
    }

    /// Wait until the flow has moved nothing for a while: all buffers are full.
    fn wait_until_full(&mut self) {
        let mut before = 0;
        eventually("the flow is full", || {
            let listed = self.daemon.list(None, 1);
            let flow = &listed.list("flows")[0];
            let now = flow.integer("bytes_to_origin") + flow.integer("bytes_to_client");
            let is_full = now > 2 * WARM as u64 && flow.integer("idle_ms") > 50 && now == before;
            before = now;
            is_full
        });
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(4 * PATIENCE)).unwrap();
    stream.set_write_timeout(Some(4 * PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn pattern(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) ^ seed) as u8 ^ (i >> 11) as u8).collect()
}

/// Send bytes and see them arrive, while they are sent.
fn pass(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(bytes).unwrap());
        let mut received = vec![0; bytes.len()];
        to.read_exact(&mut received).unwrap();
        assert!(received == bytes, "{} bytes differ", bytes.len());
    });
}

fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    received
}

/// Close with RST.
fn reset(stream: TcpStream) {
    l4proxy_io::tcp::set_reset_on_close(&stream).unwrap();
}

/// Read until the reset: what came before it. A clean end is a lie.
fn read_to_reset(mut stream: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    received
}

/// Fill a direction until nothing more is taken, on a thread of the scope's choice.
fn flood(mut stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes)
}

fn is_spliced(world: &mut World) -> bool {
    world.daemon.counters().at(&["values"]).integer("spliced_bytes") > WARM as u64
}

#[test]
fn after_one_end_the_other_direction_goes_on() {
    for (mode, by) in CASES {
        let mut world = world();
        let (first, second) = world.flow(mode, by);
        pass(&first, &second, b"last words");
        first.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(&second).is_empty());
        for size in [1, 100_000, 10, 700_000] {
            pass(&second, &first, &pattern(size, 3));
        }
        drop(second);
        assert!(read_to_end(&first).is_empty());
        assert_eq!(world.daemon.record().integer("code"), 200, "{mode:?} {by:?}");
        assert!(mode == Mode::Copy || is_spliced(&mut world));
    }
}

#[test]
fn an_end_behind_full_buffers_comes_after_the_last_byte() {
    let bytes = pattern(FLOOD, 5);
    for (mode, by) in CASES {
        let mut world = world();
        let (sender, receiver) = world.flow(mode, by);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                flood(&sender, &bytes).unwrap();
                sender.shutdown(Shutdown::Write).unwrap();
            });
            world.wait_until_full();
            assert!(read_to_end(&receiver) == bytes, "{mode:?} {by:?}");
        });
        pass(&receiver, &sender, b"thanks");
        drop((sender, receiver));
        assert_eq!(world.daemon.record().integer("code"), 200, "{mode:?} {by:?}");
    }
}

#[test]
fn a_reset_behind_full_buffers_is_a_reset_and_leaves_nothing_to_others() {
    let bytes = pattern(FLOOD, 9);
    for (mode, by) in CASES {
        let mut world = world();
        let (sender, receiver) = world.flow(mode, by);
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&sender, &bytes));
            world.wait_until_full();
            // It breaks the writing, too: the socket is only shut for the other thread when both have let go of it.
            l4proxy_io::tcp::set_reset_on_close(&sender).unwrap();
            sender.shutdown(Shutdown::Both).unwrap();
            assert!(flooding.join().unwrap().is_err());
        });
        reset(sender);
        let mut received = Vec::new();
        let error = (&receiver).read_to_end(&mut received).expect_err("not a clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(received.len() < bytes.len() && received == bytes[..received.len()], "{mode:?} {by:?}");
        let expected = match by {
            By::Client => 495,
            By::Origin => 444,
        };
        assert_eq!(world.daemon.record().integer("code"), expected, "{mode:?} {by:?}");
        // The next flow takes its pipes from the same pool.
        let (next, its_origin) = world.flow(Mode::Splice, By::Client);
        pass(&next, &its_origin, &pattern(3 << 20, 11));
    }
}

#[test]
fn a_quiet_flow_that_is_reset_resets_the_other_end() {
    for (mode, by) in CASES {
        let mut world = world();
        let (first, second) = world.flow(mode, by);
        pass(&first, &second, b"x");
        reset(first);
        assert!(read_to_reset(&second).is_empty());
        assert_eq!(world.daemon.record().text("reason"), "reset", "{mode:?} {by:?}");
    }
}

#[test]
fn small_segments_that_fill_a_pipe_do_not_hang_the_flow() {
    // Each takes a slot of the pipe, so it is "full" with few bytes: taken for an empty socket, the flow would stand still for ever.
    for by in [By::Client, By::Origin] {
        let world = world();
        let (mut sender, receiver) = world.flow(Mode::Splice, by);
        let bytes = pattern(400_000, 13);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in bytes.chunks(100) {
                    sender.write_all(piece).unwrap();
                }
                sender.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_to_end(&receiver) == bytes, "{by:?}");
        });
    }
}

#[test]
fn an_origin_that_accepts_late_gets_all_that_was_said_and_the_end() {
    let mut world = world();
    for size in [0, 5, 300_000] {
        let client = world.connect();
        let bytes = pattern(size, 17);
        (&client).write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        eventually("the end is on its way", || {
            world
                .daemon
                .list(None, 1)
                .list("flows")
                .first()
                .is_some_and(|flow| flow.integer("bytes_to_origin") == size as u64)
        });
        let origin = patient(world.origin.accept().unwrap().0);
        assert!(read_to_end(&origin) == bytes);
        pass(&origin, &client, b"late, and here");
        drop((origin, client));
        assert_eq!(world.daemon.record().integer("code"), 200);
    }
}

/// A small generator of its own: the same stalls each time.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Write in pieces with pauses; at `cut` the writer resets the flow.
fn write_with_stalls(stream: TcpStream, bytes: &[u8], seed: u64, cut: Option<usize>) {
    let (mut state, mut at) = (seed, 0);
    while at < bytes.len() {
        if cut.is_some_and(|cut| at >= cut) {
            return reset(stream);
        }
        let size = 1 + next_random(&mut state) as usize % 90_000;
        let end = bytes.len().min(at + size);
        (&stream).write_all(&bytes[at..end]).unwrap();
        at = end;
        if next_random(&mut state).is_multiple_of(4) {
            std::thread::sleep(Duration::from_micros(next_random(&mut state) % 3_000));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    // The other direction ends when its sender says so.
    assert!(read_to_end(&stream).is_empty());
}

/// Read with pauses: everything up to the end (true), or up to the reset.
fn read_with_stalls(mut stream: &TcpStream, seed: u64) -> (Vec<u8>, bool) {
    let (mut state, mut received, mut buffer) = (seed, Vec::new(), vec![0; 70_000]);
    loop {
        let size = 1 + next_random(&mut state) as usize % buffer.len();
        match stream.read(&mut buffer[..size]) {
            Ok(0) => return (received, true),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return (received, false);
            }
        }
        if next_random(&mut state).is_multiple_of(16) {
            std::thread::sleep(Duration::from_micros(next_random(&mut state) % 3_000));
        }
    }
}

#[test]
fn under_stalls_and_cuts_every_flow_is_exact_or_reset() {
    let world = world();
    let flows: Vec<_> = (0..12u64).map(|seed| (seed, world.flow(Mode::Copy, By::Client))).collect();
    std::thread::scope(|scope| {
        for (seed, (client, origin)) in flows {
            let bytes = pattern(3 << 20, seed as u32);
            let sent = bytes.clone();
            let cut = seed.is_multiple_of(3).then_some(1 << (16 + seed % 5));
            let (sender, receiver) = if seed.is_multiple_of(2) { (client, origin) } else { (origin, client) };
            scope.spawn(move || write_with_stalls(sender, &sent, seed + 1, cut));
            scope.spawn(move || {
                let (received, is_whole) = read_with_stalls(&receiver, seed + 100);
                assert_eq!(is_whole, cut.is_none(), "flow {seed}");
                assert!(received.len() <= bytes.len() && received == bytes[..received.len()], "flow {seed}");
                assert!(!is_whole || received.len() == bytes.len(), "flow {seed}: {}", received.len());
            });
        }
    });
}

/// An address as `/proc/net/tcp` writes it.
fn in_proc(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("IPv4 is enough here") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// Whether the kernel's keepalive timer runs for the socket with these addresses.
fn has_keepalive(local: SocketAddr, peer: SocketAddr) -> bool {
    const KEEPALIVE_TIMER: &str = "02:";
    let (local, peer) = (in_proc(local), in_proc(peer));
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(1..3) == Some(&[local.as_str(), peer.as_str()]) && fields[5].starts_with(KEEPALIVE_TIMER)
    })
}

#[test]
fn both_ends_of_a_flow_that_lasts_are_asked_whether_they_live() {
    let world = world();
    let (client, origin) = world.flow(Mode::Copy, By::Client);
    eventually("the client's socket has a keepalive timer", || {
        has_keepalive(client.peer_addr().unwrap(), client.local_addr().unwrap())
    });
    eventually("the origin's socket has one, too", || {
        has_keepalive(origin.peer_addr().unwrap(), origin.local_addr().unwrap())
    });
}

/// An app of this name from a listener to an origin.
fn app(name: &'static str, listener: &TcpListener, origin: &TcpListener) -> App {
    App { name, ..App::tcp(listener, origin.local_addr().unwrap()) }
}

#[test]
fn a_reload_leaves_other_flows_alone_and_loses_nobody_who_waits() {
    let mut world = world();
    let [second, third] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let other_origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let (client, origin) = world.flow(Mode::Splice, By::Client);
    let bytes = pattern(200_000, 19);
    for round in 0..10 {
        let generation = 2 + 3 * round;
        // One app more; those who came to its socket before the engine had it are served.
        let early = patient(TcpStream::connect(second.local_addr().unwrap()).unwrap());
        world.daemon.give_tcp(&second, 0);
        let games = |world: &World| app("game", &world.listener, &world.origin);
        let added = [games(&world), app("two", &second, &other_origin)];
        world.daemon.apply(&snapshot(generation, &added));
        let early_origin = patient(other_origin.accept().unwrap().0);
        pass(&early, &early_origin, b"early");
        // Changed: it has another origin from here on, and its flow goes on with the one it has.
        let changed = [games(&world), app("two", &second, &third)];
        world.daemon.apply(&snapshot(generation + 1, &changed));
        let late = patient(TcpStream::connect(second.local_addr().unwrap()).unwrap());
        pass(&late, &patient(third.accept().unwrap().0), b"changed");
        pass(&early_origin, &early, &bytes);
        // Removed: who comes now waits in the socket, which somebody else still holds, until it is named again.
        world.daemon.apply(&snapshot(generation + 2, &[games(&world)]));
        pass(&client, &origin, &bytes);
        pass(&origin, &client, &bytes);
    }
    let listed = world.daemon.list(Some("game"), 10);
    assert_eq!(listed.integer("total"), 1, "the first flow has lived through all of it");
}
