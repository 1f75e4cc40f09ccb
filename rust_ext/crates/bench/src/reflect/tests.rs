//! The reflector and the generators that talk to it, on loopback.

use super::*;
use crate::connect::{self, Close, ConnectOptions};
use crate::mode::Mode;
use crate::throughput::{self, ThroughputOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;

/// Runs `work` while a reflector serves, and returns both results.
fn with_reflector<T>(work: impl FnOnce(SocketAddr) -> T) -> (T, ReflectReport) {
    let reflector = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = reflector.address();
    let stop = Stop::default();
    thread::scope(|scope| {
        let server = scope.spawn(|| reflector.run(Duration::from_secs(60), &stop).unwrap());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(address)));
        stop.set();
        let report = server.join().unwrap();
        (result.unwrap(), report)
    })
}

fn throughput_options(target: SocketAddr) -> ThroughputOptions {
    ThroughputOptions {
        target,
        flows: 3,
        duration: Duration::from_secs(20),
        bytes: Some(10_000_001),
        reverse: false,
    }
}

#[test]
fn exactly_the_bytes_that_were_asked_for_arrive_in_both_directions() {
    for reverse in [false, true] {
        let (report, reflected) = with_reflector(|target| {
            throughput::run(&ThroughputOptions { reverse, ..throughput_options(target) }, &Stop::default())
                .unwrap()
        });
        assert_eq!((report.bytes, report.flows, report.stopped), (10_000_001, 3, false));
        let expected = report.bytes as f64 * 8.0 / 1e6 / report.seconds;
        assert!((report.mbit_s - expected).abs() < 1e-6 && report.mbit_s > 0.0);
        assert!(report.mbit_s_min <= report.mbit_s_max);
        // A header before the bytes, and a trailer behind what is sent.
        let headers = 3 * crate::mode::LENGTH as u64;
        let (bytes_in, bytes_out) =
            if reverse { (headers, 10_000_001) } else { (10_000_001 + 2 * headers, 3 * 8) };
        assert_eq!(
            (reflected.bytes_in, reflected.bytes_out, reflected.connections),
            (bytes_in, bytes_out, 3)
        );
    }
}

#[test]
fn time_ends_a_run_without_a_number_of_bytes() {
    for reverse in [false, true] {
        let (report, _) = with_reflector(|target| {
            let options = ThroughputOptions {
                bytes: None,
                duration: Duration::from_millis(200),
                reverse,
                ..throughput_options(target)
            };
            throughput::run(&options, &Stop::default()).unwrap()
        });
        assert!(report.bytes > 0 && report.seconds >= 0.2 && report.seconds < 10.0, "{report:?}");
    }
}

#[test]
fn a_target_that_is_no_reflector_gives_an_error_and_no_figure() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Swallows header, bytes and trailer, closes, and tells nothing.
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 1000 + 2 * crate::mode::LENGTH]).unwrap();
        });
        let options = ThroughputOptions { flows: 1, bytes: Some(1000), ..throughput_options(target) };
        let error = throughput::run(&options, &Stop::default()).unwrap_err();
        assert!(error.to_string().contains("no reflector"), "{error}");
    });
}

#[test]
fn a_slow_reader_gets_its_whole_echo_and_the_end() {
    let sent: Vec<u8> = (0..20_000_000u32).map(|i| (i * 7) as u8 | 1).collect();
    let ((), report) = with_reflector(|target| {
        let mut stream = TcpStream::connect(target).unwrap();
        let mut writer = stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            // Nothing is read until the buffers on the way are full.
            thread::sleep(Duration::from_millis(100));
            let mut echo = Vec::new();
            stream.read_to_end(&mut echo).unwrap();
            assert!(echo == sent);
        });
    });
    assert_eq!((report.bytes_in, report.bytes_out), (20_000_000, 20_000_000));
}

#[test]
fn a_header_that_comes_byte_by_byte_is_understood_and_a_broken_one_echoed() {
    with_reflector(|target| {
        let mut stream = TcpStream::connect(target).unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in Mode::Sink.encode().unwrap() {
            stream.write_all(&[byte]).unwrap();
        }
        stream.write_all(&[9; 1000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, 1000u64.to_be_bytes());

        // A sender that keeps its direction open gets its answer, too.
        let mut stream = TcpStream::connect(target).unwrap();
        stream
            .write_all(&[&Mode::Sink.encode().unwrap()[..], &[9; 50], &crate::mode::trailer(50)].concat())
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, 50u64.to_be_bytes());

        // The beginning of a header and no more.
        let mut stream = TcpStream::connect(target).unwrap();
        stream.write_all(b"\0L4B").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"\0L4B");
    });
}

#[test]
fn datagrams_come_back_from_the_address_that_was_asked() {
    let reflector = Reflector::bind("[::]:0".parse().unwrap()).unwrap();
    let port = reflector.address().port();
    let stop = Stop::default();
    thread::scope(|scope| {
        let server = scope.spawn(|| reflector.run(Duration::from_secs(60), &stop).unwrap());
        for (ours, asked) in [("127.0.0.1:0", "127.0.0.8"), ("[::1]:0", "::1")] {
            let socket = UdpSocket::bind(ours).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            // Connected: an answer from another address would not get through.
            socket.connect((asked, port)).unwrap();
            for length in [0, 1, 1400, 60_000] {
                socket.send(&vec![4; length]).unwrap();
                let mut answer = vec![0; 65_536];
                assert_eq!(socket.recv(&mut answer).unwrap(), length);
            }
        }
        stop.set();
        let report = server.join().unwrap();
        assert_eq!((report.datagrams, report.datagram_bytes, report.datagrams_dropped), (8, 2 * 61_401, 0));
    });
}

#[test]
fn every_connection_gets_its_byte_however_it_is_closed() {
    for close in [Close::Reset, Close::Finish] {
        let (report, reflected) = with_reflector(|target| {
            let options = ConnectOptions {
                target,
                pacing: connect::Pacing::PerSecond(500.0),
                duration: Duration::from_millis(200),
                timeout: Duration::from_secs(10),
                close,
                wait: Wait::Poll,
            };
            connect::run(&options, &Stop::default()).unwrap()
        });
        assert_eq!((report.connections, report.errors), (100, 0), "{report:?}");
        assert_eq!((report.latency_us.count, report.handshake_us.count), (100, 100));
        assert!(report.handshake_us.p50 <= report.latency_us.p50);
        assert!(report.per_second > 0.0 && report.per_second <= 500.1, "{report:?}");
        assert_eq!((reflected.connections, reflected.bytes_in, reflected.bytes_out), (100, 100, 100));
    }
}

fn connect_options(target: SocketAddr) -> ConnectOptions {
    ConnectOptions {
        target,
        pacing: connect::Pacing::PerSecond(200.0),
        duration: Duration::from_millis(100),
        timeout: Duration::from_millis(200),
        close: Close::Reset,
        wait: Wait::Sleep,
    }
}

#[test]
fn refused_closed_and_silent_targets_are_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    // Silent: the backlog takes the connections and nobody answers.
    let report = connect::run(&connect_options(target), &Stop::default()).unwrap();
    assert_eq!((report.connections, report.timed_out, report.errors), (0, 20, 20), "{report:?}");
    assert_eq!(report.handshake_us.count, 20);

    thread::scope(|scope| {
        scope.spawn(|| {
            // The 20 dead connections of the first run wait in the backlog as well.
            for stream in listener.incoming().take(40) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1]);
            }
        });
        let report = connect::run(&connect_options(target), &Stop::default()).unwrap();
        assert_eq!((report.connections, report.closed, report.errors), (0, 20, 20), "{report:?}");
    });
    drop(listener);
    let report = connect::run(&connect_options(target), &Stop::default()).unwrap();
    assert_eq!((report.connections, report.refused, report.errors), (0, 20, 20), "{report:?}");
}

#[test]
fn a_reflector_ends_by_itself() {
    let reflector = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let report = reflector.run(Duration::from_millis(10), &Stop::default()).unwrap();
    assert_eq!(report, ReflectReport::default());
}

#[test]
fn an_address_in_use_is_an_error_that_says_so() {
    let first = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = Reflector::bind(first.address()).unwrap_err();
    assert!(
        matches!(&error, BenchError::System { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse),
        "{error}"
    );
}
