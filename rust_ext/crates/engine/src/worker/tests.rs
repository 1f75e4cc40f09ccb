//! What a worker's panic costs, and what it does not.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::app::tests::game;
use crate::app::{App, Candidate, Listen, Origin};
use crate::compile::Listener;
use crate::snapshot::Protocol;

const PATIENCE: Duration = Duration::from_secs(5);

/// One worker on a thread of its own, with a listener and an origin.
struct World {
    shared: Arc<Shared>,
    app: Arc<App>,
    listener: std::net::SocketAddr,
    origin: TcpListener,
}

impl World {
    fn new() -> Self {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let (listener, to) = (listening.local_addr().unwrap(), origin.local_addr().unwrap());
        let (protocol, address) = (Protocol::Tcp, listener.ip());
        let listen = Listen { protocol, address, first: listener.port(), last: listener.port() };
        let app = Arc::new(App {
            all_listens: vec![listen],
            origins: vec![Origin::at("o", &[&to.ip().to_string()], Some(to.port()))],
            tcp: vec![Candidate { origin: 0, handle: None }],
            ..game()
        });
        let shared =
            Shared::new("ams".into(), PopId(1), 1, random::hasher(), u64::MAX, Instant::now()).unwrap();
        let mut tables = Tables::empty(PopId(1));
        tables.epoch = 1;
        tables.listeners.push(Arc::new(Listener {
            protocol,
            address: address.to_string(),
            ip: address,
            port: listener.port(),
            app: app.clone(),
            sockets: vec![Held::new(protocol, listening.into()).unwrap()],
        }));
        shared.tables.store(Arc::new(tables));
        Self { shared: Arc::new(shared), app, listener, origin }
    }

    fn flow(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listener).unwrap();
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
    let world = World::new();
    let thread = {
        let shared = world.shared.clone();
        std::thread::spawn(move || run(0, &shared))
    };
    let mut flow = world.flow();
    assert_alive(&mut flow);
    world.own().must_panic.store(true, Ordering::Release);
    world.own().waker.wake().unwrap();

    let (mut client, mut origin) = flow;
    for stream in [&mut client, &mut origin] {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "not a clean end");
    }
    // The limit of the app is one flow per source: its place has come back.
    let mut next = world.flow();
    assert_alive(&mut next);
    let counters = &world.own().counters;
    assert_eq!((counters.get(Value::WorkerPanics), counters.get(Value::FlowsLostToPanics)), (1, 1));
    let sum = |value| world.app.state.counters.sum(value);
    assert_eq!((sum(crate::counters::AppValue::TcpOpened), world.app.state.flows()), (2, 1));
    assert_eq!(sum(crate::counters::AppValue::TcpClosed), 1);
    let told = world.own().take_reports().into_iter().any(|report| {
        let Report::Event(event) = report else { return false };
        matches!(event.kind, EventKind::WorkerPanicked { worker: 0, message } if message == "told to panic")
    });
    assert!(told);
    world.shared.stop();
    thread.join().unwrap();
}
