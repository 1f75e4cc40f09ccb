//! Floors in front of a reflector, and in front of nobody.

use super::*;
use crate::reflect::Reflector;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};

const ANY: &str = "127.0.0.1:0";
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `work` with the address of a floor in front of a reflector.
fn behind(floor: Floor, work: impl FnOnce(SocketAddr)) -> FloorReport {
    let reflector = Reflector::bind(ANY.parse().unwrap()).unwrap();
    let origin = reflector.address();
    let relay =
        Relay::bind(&FloorOptions { floor, listen: ANY.parse().unwrap(), origin, identity: None }).unwrap();
    let address = relay.address();
    let stop = Stop::default();
    std::thread::scope(|scope| {
        scope.spawn(|| reflector.run(PATIENCE, &stop).unwrap());
        let relayed = scope.spawn(|| relay.run(PATIENCE, &stop).unwrap());
        // Whatever happens in `work`, the threads must end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(address)));
        stop.set();
        outcome.unwrap();
        relayed.join().unwrap()
    })
}

#[test]
fn both_tcp_loops_carry_every_byte_and_both_ends() {
    for floor in [Floor::Splice, Floor::Copy] {
        let report = behind(floor, |address| {
            let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i ^ (i >> 7)) as u8 | 1).collect();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut back = Vec::new();
            let mut writer = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                stream.read_to_end(&mut back).unwrap();
            });
            assert!(back == sent, "{floor:?}: {} of {} bytes", back.len(), sent.len());
        });
        assert_eq!(report, FloorReport { flows: 1, refused: 0 });
    }
}

#[test]
fn the_udp_loop_answers_each_client_on_its_own() {
    let report = behind(Floor::Udp, |address| {
        let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind(ANY).unwrap()).collect();
        for (number, client) in (0u8..).zip(&clients) {
            client.connect(address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send(&[b'a' + number; 160]).unwrap();
        }
        for (number, client) in (0u8..).zip(&clients) {
            let mut buffer = [0; 200];
            assert_eq!(client.recv(&mut buffer).unwrap(), 160);
            assert_eq!(buffer[..160], [b'a' + number; 160]);
        }
    });
    assert_eq!(report, FloorReport { flows: 3, refused: 0 });
}

#[test]
fn a_client_whose_origin_refuses_is_closed() {
    let listener = std::net::TcpListener::bind(ANY).unwrap();
    let origin = listener.local_addr().unwrap();
    drop(listener);
    let floor = FloorOptions { floor: Floor::Copy, listen: ANY.parse().unwrap(), origin, identity: None };
    let relay = Relay::bind(&floor).unwrap();
    let address = relay.address();
    let stop = Stop::default();
    std::thread::scope(|scope| {
        scope.spawn(|| relay.run(PATIENCE, &stop).unwrap());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let outcome = stream.read(&mut [0; 1]);
        stop.set();
        let waited = outcome.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waited && !matches!(outcome, Ok(1..)), "{outcome:?}");
    });
}
