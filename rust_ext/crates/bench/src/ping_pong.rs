//! One message on its way at a time: the next leaves when the last is back. What a relay adds to a way that is otherwise idle.
//!
//! A closed loop omits what it does not send while the system stalls; use [`crate::rtt`] for a system under load.

use crate::Stop;
use crate::clock::Clock;
use crate::error::BenchError;
use crate::latency::{Latencies, Quantiles};
use crate::rtt::Protocol;
use crate::schedule::MAX_DURATION;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// The largest message.
pub const MAX_SIZE: usize = 65_507;
/// The first exchanges open the flow and warm the caches; they count nowhere.
const WARM_UP_NS: u64 = 100_000_000;
/// An answer that takes longer is lost (UDP), or the end of the run (TCP).
const PATIENCE: Duration = Duration::from_millis(500);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct PingPongOptions {
    /// An echo.
    pub target: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Bytes of a message: 8–65,507.
    pub size: usize,
    /// How long to measure, after 0.1 s that do not count.
    pub duration: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PingPongReport {
    /// From a message's departure until it is back whole.
    pub round_trip_us: Quantiles,
    /// Messages that did not come back.
    pub lost: u64,
    /// Whether the run was stopped early.
    pub stopped: bool,
}

/// Measures.
///
/// # Errors
/// An option out of range, a target that refuses, or (TCP) one that closes or falls silent.
pub fn run(options: &PingPongOptions, stop: &Stop) -> Result<PingPongReport, BenchError> {
    if !(8..=MAX_SIZE).contains(&options.size) {
        let reason = format!("{} is not between 8 and {MAX_SIZE} bytes", options.size);
        return Err(BenchError::Option { option: "size", reason });
    }
    if options.duration.is_zero() || options.duration > MAX_DURATION {
        let reason =
            format!("{} s is not between 0 and {}", options.duration.as_secs_f64(), MAX_DURATION.as_secs());
        return Err(BenchError::Option { option: "duration", reason });
    }
    let target = options.target;
    let connect = |source| BenchError::Connect { target, source };
    match options.protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE * 10).map_err(connect)?;
            stream
                .set_nodelay(true)
                .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
                .map_err(connect)?;
            repeat(options, stop, |message, answer| {
                stream.write_all(message).and_then(|()| stream.read_exact(answer)).map_err(connect)?;
                Ok(true)
            })
        }
        Protocol::Udp => {
            let any: SocketAddr = match target {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).map_err(BenchError::system("UDP socket"))?;
            socket
                .connect(target)
                .and_then(|()| socket.set_read_timeout(Some(PATIENCE)))
                .map_err(BenchError::system("UDP socket"))?;
            repeat(options, stop, |message, answer| exchange(&socket, message, answer).map_err(connect))
        }
    }
}

/// Sends a datagram and waits for the same; false when it does not come. Late answers to earlier ones are read and forgotten.
fn exchange(socket: &UdpSocket, message: &[u8], answer: &mut [u8]) -> io::Result<bool> {
    socket.send(message)?;
    // Bounded by what can be late: no flow has more than one message on its way.
    for _ in 0..16 {
        match socket.recv(answer) {
            Ok(length) if answer[..length] == *message => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Repeats an exchange until the time is over.
fn repeat(
    options: &PingPongOptions,
    stop: &Stop,
    mut exchange: impl FnMut(&[u8], &mut [u8]) -> Result<bool, BenchError>,
) -> Result<PingPongReport, BenchError> {
    let mut message = vec![0x5a; options.size];
    let mut answer = vec![0; options.size];
    let mut latencies = Latencies::default();
    let mut lost = 0;
    let mut number = 0u32;
    let clock = Clock::start();
    let end_ns = WARM_UP_NS + options.duration.as_nanos() as u64;
    let mut begun_ns = clock.now_ns();
    while begun_ns < end_ns && !stop.is_set() {
        // After a first byte that no reflector takes for a mode header.
        message[1..5].copy_from_slice(&number.to_be_bytes());
        number = number.wrapping_add(1);
        let came_back = exchange(&message, &mut answer)?;
        let now = clock.now_ns();
        if begun_ns >= WARM_UP_NS {
            if came_back {
                latencies.record_ns(now - begun_ns);
            } else {
                lost += 1;
            }
        }
        begun_ns = now;
    }
    Ok(PingPongReport { round_trip_us: latencies.quantiles(), lost, stopped: stop.is_set() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::Reflector;

    fn options(target: SocketAddr, protocol: Protocol) -> PingPongOptions {
        PingPongOptions { target, protocol, size: 128, duration: Duration::from_millis(100) }
    }

    #[test]
    fn messages_come_back_one_after_the_other() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let reflector = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let options = options(reflector.address(), protocol);
            let stop = Stop::default();
            let report = std::thread::scope(|scope| {
                scope.spawn(|| reflector.run(Duration::from_secs(60), &stop).unwrap());
                let report = run(&options, &Stop::default());
                stop.set();
                report.unwrap()
            });
            assert_eq!(report.lost, 0, "{protocol:?}");
            assert!(report.round_trip_us.count > 0, "{protocol:?}");
        }
    }

    #[test]
    fn a_silent_end_loses_datagrams_and_ends_streams() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let report = run(&options(silent.local_addr().unwrap(), Protocol::Udp), &Stop::default()).unwrap();
        assert_eq!(report.round_trip_us.count, 0);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let outcome = run(&options(listener.local_addr().unwrap(), Protocol::Tcp), &Stop::default());
        assert!(matches!(outcome, Err(BenchError::Connect { .. })), "{outcome:?}");
    }

    #[test]
    fn sizes_and_durations_out_of_range_are_refused() {
        let options = options("127.0.0.1:9".parse().unwrap(), Protocol::Udp);
        for wrong in [
            PingPongOptions { size: 7, ..options },
            PingPongOptions { size: MAX_SIZE + 1, ..options },
            PingPongOptions { duration: Duration::ZERO, ..options },
        ] {
            assert!(matches!(run(&wrong, &Stop::default()), Err(BenchError::Option { .. })), "{wrong:?}");
        }
    }
}
