//! What a worker's panic costs, and what it does not; flows that are looked at by the clock, whatever their speed.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;
use crate::app::tests::game;
use crate::app::{App, AppState, Candidate, Listen, Origin};
use crate::compile::Listener;
use crate::policy::{Limits, Policy};
use crate::snapshot::Protocol;

const PATIENCE: Duration = Duration::from_secs(5);

/// Workers on threads of their own, each with a place of its own to come to, and an origin.
struct World {
    shared: Arc<Shared>,
    app: Arc<App>,
    /// By worker.
    listeners: Vec<SocketAddr>,
    origin: TcpListener,
}

impl World {
    fn new(workers: usize) -> Self {
        let listening: Vec<_> = (0..workers).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let listeners: Vec<_> = listening.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = origin.local_addr().unwrap();
        let (protocol, address) = (Protocol::Tcp, to.ip());
        let listen = |at: &SocketAddr| Listen { protocol, address, first: at.port(), last: at.port() };
        let limits = Limits { flows: 4, flows_per_source: 2, ..Limits::default() };
        let app = Arc::new(App {
            state: Arc::new(AppState::new(workers, &random::hasher())),
            all_listens: listeners.iter().map(listen).collect(),
            policy: Policy { limits, ..Policy::default() },
            origins: vec![Origin::at("o", &[&to.ip().to_string()], Some(to.port()))],
            tcp: vec![Candidate::new(0, None)],
            ..game()
        });
        let shared =
            Shared::new("ams".into(), PopId(1), workers, random::hasher(), u64::MAX, Instant::now()).unwrap();
        let mut tables = Tables::empty(PopId(1));
        tables.epoch = 1;
        tables.listeners.push(Arc::new(Listener {
            protocol,
            address: address.to_string(),
            ip: address,
            port: listeners[0].port(),
            app: app.clone(),
            access: None,
            sockets: listening
                .into_iter()
                .map(|socket| Held::new(protocol, socket.into()).unwrap())
                .collect(),
        }));
        shared.tables.store(Arc::new(tables));
        Self { shared: Arc::new(shared), app, listeners, origin }
    }

    fn start(&self, worker: usize) -> std::thread::JoinHandle<()> {
        let shared = self.shared.clone();
        std::thread::spawn(move || run(worker, &shared))
    }

    fn panic(&self, worker: usize) {
        self.shared.workers[worker].must_panic.store(true, Ordering::Release);
        self.shared.workers[worker].waker.wake().unwrap();
    }

    /// A flow of this worker.
    fn flow(&self, worker: usize) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listeners[worker]).unwrap();
        let (origin, _) = self.origin.accept().unwrap();
        for stream in [&client, &origin] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (client, origin)
    }

    fn own(&self) -> &WorkerShared {
        &self.shared.workers[0]
    }
}

fn assert_alive((client, origin): &mut (TcpStream, TcpStream)) {
    client.write_all(b">").unwrap();
    origin.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_panic_costs_the_workers_flows_and_nothing_else() {
    let world = World::new(2);
    let threads = [world.start(0), world.start(1)];
    let (mut flow, mut other) = (world.flow(0), world.flow(1));
    assert_alive(&mut flow);
    assert_alive(&mut other);
    world.panic(0);

    let (mut client, mut origin) = flow;
    for stream in [&mut client, &mut origin] {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "not a clean end");
    }
    assert_alive(&mut other);
    // The limit of the app is two flows per source: the place of the one that was lost has come back.
    let mut next = world.flow(0);
    assert_alive(&mut next);
    assert_alive(&mut other);
    assert_eq!(world.shared.workers[1].counters.get(Value::WorkerPanics), 0);
    let counters = &world.own().counters;
    assert_eq!((counters.get(Value::WorkerPanics), counters.get(Value::FlowsLostToPanics)), (1, 1));
    let sum = |value| world.app.state.counters.sum(value);
    assert_eq!((sum(crate::counters::AppValue::TcpOpened), world.app.state.flows()), (3, 2));
    assert_eq!(sum(crate::counters::AppValue::TcpClosed), 1);
    let told = world.own().take_reports().into_iter().any(|report| {
        let Report::Event(event) = report else { return false };
        matches!(event.kind, EventKind::WorkerPanicked { worker: 0, message } if message == "told to panic")
    });
    assert!(told);
    world.shared.stop();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn while_memory_is_short_new_flows_are_refused_and_live_ones_go_on() {
    let world = World::new(1);
    let thread = world.start(0);
    let mut live = world.flow(0);
    assert_alive(&mut live);
    world.shared.is_short_of_memory.store(true, Ordering::Relaxed);
    let mut refused = TcpStream::connect(world.listeners[0]).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_alive(&mut live);
    assert_eq!(world.app.state.counters.sum(crate::counters::AppValue::RefusedMemory), 1);
    world.shared.is_short_of_memory.store(false, Ordering::Relaxed);
    assert_alive(&mut world.flow(0));
    world.shared.stop();
    thread.join().unwrap();
}

/// A world whose worker polls every flow as soon as it is woken.
fn polling_world() -> (World, std::thread::JoinHandle<()>) {
    let world = World::new(1);
    world.own().must_poll.store(true, Ordering::Release);
    let thread = world.start(0);
    (world, thread)
}

fn stop(world: &World, thread: std::thread::JoinHandle<()>) {
    assert!(world.own().counters.get(Value::Polls) > 0);
    world.shared.stop();
    thread.join().unwrap();
}

#[test]
fn a_polled_flow_carries_everything_both_ways_and_its_ends() {
    let (world, thread) = polling_world();
    let (mut client, mut origin) = world.flow(0);
    let sent: Vec<u8> = (0..8_000_000u32).map(|i| (i ^ (i >> 7)) as u8).collect();
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&sent).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        origin.read_to_end(&mut received).unwrap();
    });
    assert!(received == sent, "what went to the origin");
    let mut answered = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || origin.write_all(&sent).unwrap());
        client.read_to_end(&mut answered).unwrap();
    });
    assert!(answered == received, "what came back after the client's end");
    stop(&world, thread);
}

#[test]
fn a_flow_that_falls_silent_while_it_is_polled_is_heard_again() {
    let (world, thread) = polling_world();
    let mut flow = world.flow(0);
    for _ in 0..20 {
        assert_alive(&mut flow);
        // Long enough for polling to end at times, and for it to go on at others.
        std::thread::sleep(Duration::from_millis(1));
    }
    stop(&world, thread);
}

#[test]
fn a_reset_passes_through_a_polled_flow() {
    let (world, thread) = polling_world();
    let mut flow = world.flow(0);
    while world.own().counters.get(Value::Polls) == 0 {
        assert_alive(&mut flow);
    }
    assert_alive(&mut flow);
    let (client, mut origin) = flow;
    l4proxy_io::tcp::set_reset_on_close(&client).unwrap();
    drop(client);
    assert_eq!(origin.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    stop(&world, thread);
}

#[test]
fn a_receiver_without_room_stops_a_polled_flow_and_loses_nothing() {
    let (world, thread) = polling_world();
    let (mut client, mut origin) = world.flow(0);
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = [7; 65_536];
    let mut sent = 0;
    while let Ok(count) = client.write(&chunk) {
        sent += count;
    }
    drop(client);
    let mut received = Vec::new();
    origin.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), sent);
    stop(&world, thread);
}

/// For `bench/reliability/panic.py`, which reads the figures: a test of time is none of `make test`.
#[test]
#[ignore = "a figure of time"]
#[allow(clippy::print_stderr, reason = "its figures are what it is for")]
fn a_worker_that_panicked_accepts_again_within_a_tenth_of_a_second() {
    let world = World::new(1);
    let thread = world.start(0);
    let times = (0..20).map(|_| {
        let mut flow = world.flow(0);
        assert_alive(&mut flow);
        world.panic(0);
        assert_eq!(flow.0.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let began = Instant::now();
        let mut next = world.flow(0);
        assert_alive(&mut next);
        began.elapsed()
    });
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "accepts again: panics={} median_us={} worst_us={}",
        times.len(),
        median.as_micros(),
        worst.as_micros()
    );
    assert!(median <= Duration::from_millis(100), "{times:?}");
    world.shared.stop();
    thread.join().unwrap();
}
