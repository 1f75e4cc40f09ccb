//! Who is behind an address: a client's own, and the one that an origin sees.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::value::{Value, map};
use crate::world::{App, Daemon, Engine, PATIENCE, eventually, loopbacks, snapshot};

/// What the engine says of an address.
fn whois(daemon: &mut Daemon, address: &str) -> Value {
    daemon
        .say("whois", map([("request", 5u64.into()), ("address", address.into()), ("limit", 10u64.into())]));
    daemon.wait_for("flows")
}

/// Both addresses of a flow lead to it, and to nothing else.
fn assert_found(daemon: &mut Daemon, protocol: &str, client: SocketAddr, source: SocketAddr) {
    for address in [client, source] {
        let answer = whois(daemon, &address.to_string());
        let [flow] = answer.list("flows") else { panic!("{address} has one flow: {answer:?}") };
        assert_eq!((answer.integer("request"), answer.integer("total")), (5, 1));
        assert_eq!(flow.text("protocol"), protocol);
        assert_eq!(flow.text("client"), client.to_string());
        assert_eq!(flow.text("source"), source.to_string());
    }
}

#[test]
fn a_tcp_flow_is_found_by_both_its_addresses() {
    for ip in loopbacks() {
        let engine = Engine::start(2);
        let (mut daemon, _) = engine.connect();
        let (ours, origin) = (TcpListener::bind((ip, 0)).unwrap(), TcpListener::bind((ip, 0)).unwrap());
        for worker in 0..2 {
            daemon.give_tcp(&ours, worker);
        }
        daemon.apply(&snapshot(1, &[App::tcp(&ours, origin.local_addr().unwrap())]));
        let clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect(ours.local_addr().unwrap()).unwrap()).collect();
        let seen: Vec<_> = clients.iter().map(|_| origin.accept().unwrap()).collect();
        eventually("all flows are listed", || daemon.list(None, 10).integer("total") == 3);
        for (_, source) in &seen {
            let client = whois(&mut daemon, &source.to_string());
            let client: SocketAddr = client.list("flows")[0].text("client").parse().unwrap();
            assert!(clients.iter().any(|known| known.local_addr().unwrap() == client));
            assert_found(&mut daemon, "tcp", client, *source);
        }
    }
}

#[test]
fn a_udp_session_is_found_by_both_its_addresses() {
    for ip in loopbacks() {
        let engine = Engine::start(1);
        let (mut daemon, _) = engine.connect();
        let bind = || UdpSocket::bind((ip, 0)).unwrap();
        let (ours, origin, client) = (bind(), bind(), bind());
        origin.set_read_timeout(Some(PATIENCE)).unwrap();
        daemon.give_udp(&ours, 0);
        daemon.apply(&snapshot(1, &[App::udp(&ours, origin.local_addr().unwrap())]));
        client.send_to(b"move", ours.local_addr().unwrap()).unwrap();
        let (_, source) = origin.recv_from(&mut [0; 16]).unwrap();
        assert_found(&mut daemon, "udp", client.local_addr().unwrap(), source);
        let mapped = match source {
            SocketAddr::V4(v4) => format!("[::ffff:{}]:{}", v4.ip(), v4.port()),
            SocketAddr::V6(v6) => v6.to_string(),
        };
        assert_eq!(whois(&mut daemon, &mapped).integer("total"), 1, "IPv4 inside IPv6 is IPv4");
    }
}

#[test]
fn the_record_of_an_ended_flow_says_what_the_origin_saw() {
    for ip in loopbacks() {
        let engine = Engine::start(1);
        let (mut daemon, _) = engine.connect();
        let (ours, origin) = (TcpListener::bind((ip, 0)).unwrap(), TcpListener::bind((ip, 0)).unwrap());
        daemon.give_tcp(&ours, 0);
        let target = origin.local_addr().unwrap();
        daemon.apply(&snapshot(1, &[App::tcp(&ours, target)]));
        // Each end has closed it once, in order and with a reset: the address is still known.
        for (is_reset, by_client) in [(false, true), (false, false), (true, true), (true, false)] {
            let mut client = TcpStream::connect(ours.local_addr().unwrap()).unwrap();
            let (mut seen, source) = origin.accept().unwrap();
            // A flow that carries something is one that was reached.
            client.write_all(b"x").unwrap();
            seen.read_exact(&mut [0]).unwrap();
            let closing = if by_client { &client } else { &seen };
            if is_reset {
                l4proxy_io::tcp::set_reset_on_close(closing).unwrap();
            }
            drop(if by_client { (client, seen) } else { (seen, client) });
            assert_eq!(daemon.record().text("source"), source.to_string(), "{is_reset} {by_client}");
        }
        drop(origin);
        drop(TcpStream::connect(ours.local_addr().unwrap()).unwrap());
        let record = daemon.record();
        assert_eq!(record.integer("code"), 447);
        let Value::Map(fields) = record else { panic!("a record is a map") };
        assert!(!fields.contains_key("source"), "nobody was reached");
    }
}

#[test]
fn nobody_is_behind_other_addresses() {
    let engine = Engine::start(1);
    let (mut daemon, _) = engine.connect();
    daemon.apply(&snapshot(1, &[]));
    for address in ["192.0.2.1:1", "[2001:db8::1]:65535", "192.0.2.1", "nobody", ""] {
        let answer = whois(&mut daemon, address);
        assert_eq!((answer.integer("total"), answer.list("flows").len()), (0, 0), "{address:?}");
    }
}
