//! Without descriptors: nobody is served badly, nothing spins, and it goes on when there are some again. A program of its own, because
//! the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(unreachable_pub, dead_code, reason = "modules that another test program shares")]

#[path = "engine/value.rs"]
mod value;
#[path = "engine/world.rs"]
mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use world::{App, Engine, eventually, snapshot};

/// Clients that wait: more than there are descriptors for.
const CLIENTS: usize = 60;

/// Descriptors that the engine may have besides what is open before it accepts.
const SPARE: u64 = 30;

fn open_descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").unwrap().count() as u64
}

/// In one test: all change the limit of the whole process.
#[test]
fn without_descriptors_nothing_spins_and_the_daemon_still_gets_in() {
    accepting_pauses_and_goes_on_when_there_are_some();
    who_waits_for_an_app_that_is_removed_is_served();
    flows_leave_some_to_the_daemon();
}

fn accepting_pauses_and_goes_on_when_there_are_some() {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ours.local_addr().unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let before = getrlimit(Resource::Nofile);
    let limit = open_descriptors() + SPARE;
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();
    daemon.give_tcp(&ours, 0);
    daemon.apply(&snapshot(1, &[App::tcp(&ours, origin.local_addr().unwrap())]));

    let refused = |daemon: &mut world::Daemon| daemon.counters().at(&["drops"]).integer("fd_limit");
    eventually("the limit is met", || refused(&mut daemon) > 0);
    std::thread::sleep(Duration::from_millis(200));
    let count = |daemon: &mut world::Daemon, name: &str| daemon.counters().at(&["values"]).integer(name);
    let (wakeups, flows) = (count(&mut daemon, "wakeups"), count(&mut daemon, "tcp_flows"));
    assert!(flows > 0 && flows < CLIENTS as u64, "{flows} flows");
    std::thread::sleep(Duration::from_millis(300));
    let more = count(&mut daemon, "wakeups") - wakeups;
    assert!(more < 40, "woken {more} times in 0.3 s: it spins");

    // Clients leave, others are served, down to the last one: also those that were left waiting while accepting paused.
    eventually("all were served and are gone", || {
        clients.pop();
        while let Ok(accepted) = {
            origin.set_nonblocking(true).unwrap();
            origin.accept()
        } {
            drop(accepted);
        }
        count(&mut daemon, "tcp_accepted") == CLIENTS as u64 && count(&mut daemon, "tcp_flows") == 0
    });
    setrlimit(Resource::Nofile, before).unwrap();
}

/// A reload takes an app away while clients stand in its queue: for them the connection stands.
fn who_waits_for_an_app_that_is_removed_is_served() {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ours.local_addr().unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    daemon.give_tcp(&ours, 0);
    daemon.counters();
    // Not one is left, so nobody can be accepted.
    let before = getrlimit(Resource::Nofile);
    let limit = open_descriptors() + SPARE;
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| ours.try_clone().ok()).collect();
    daemon.apply(&snapshot(1, &[App::tcp(&ours, origin.local_addr().unwrap())]));
    eventually("the limit is met", || daemon.counters().at(&["drops"]).integer("fd_limit") > 0);
    daemon.apply(&snapshot(2, &[]));
    assert_eq!(daemon.counters().at(&["values"]).integer("tcp_accepted"), 0, "they wait");

    drop((ours, taken));
    origin.set_nonblocking(true).unwrap();
    setrlimit(Resource::Nofile, before).unwrap();
    let mut seen: Vec<_> = clients
        .iter()
        .zip(0..)
        .map(|(mut client, index)| {
            client.write_all(&[index]).unwrap();
            let (mut reached, mut byte) = (None, [0]);
            eventually("the origin is reached", || {
                reached = origin.accept().ok();
                reached.is_some()
            });
            let accepted = &mut reached.unwrap().0;
            accepted.set_nonblocking(false).unwrap();
            accepted.read_exact(&mut byte).unwrap();
            byte[0]
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..CLIENTS as u8));
    eventually("nobody listens there", || TcpStream::connect(address).is_err());
}

fn flows_leave_some_to_the_daemon() {
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ours.local_addr().unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    // 64 are reserved; what the engine itself needs is a dozen.
    let limit = Some(open_descriptors() + 64 + 12 + SPARE);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    daemon.give_tcp(&ours, 0);
    daemon.apply(&snapshot(1, &[App::tcp(&ours, origin.local_addr().unwrap())]));
    eventually("some are refused", || {
        let counters = daemon.counters();
        counters.at(&["values"]).integer("tcp_accepted") == CLIENTS as u64
            && counters.at(&["drops"]).integer("fd_limit") > 0
    });
    let flows = daemon.list(None, 100).integer("total");
    assert!(flows > 0 && flows < CLIENTS as u64, "{flows} flows");
    let mut refused = 0;
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        let read = client.read(&mut [0]);
        refused += u64::from(read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    assert_eq!(refused, CLIENTS as u64 - flows);
    let (_, hello) = engine.connect();
    assert_eq!(hello.integer("generation"), 1);
}
