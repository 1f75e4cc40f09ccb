//! Against ends whose behaviour is known: a reflector, and echoes that lose, repeat, overtake or stall.

use super::*;
use crate::reflect::Reflector;
use std::net::UdpSocket;
use std::thread;

fn options(target: SocketAddr, protocol: Protocol) -> RttOptions {
    RttOptions {
        target,
        protocol,
        rate_pps: 2000.0,
        size: 160,
        duration: Duration::from_millis(200),
        flows: 4,
        linger: Duration::from_secs(5),
        wait: Wait::Poll,
    }
}

/// Runs against a reflector on loopback.
fn reflected(change: impl FnOnce(&mut RttOptions)) -> RttReport {
    let reflector = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut options = options(reflector.address(), Protocol::Udp);
    change(&mut options);
    let stop = Stop::default();
    thread::scope(|scope| {
        scope.spawn(|| reflector.run(Duration::from_secs(60), &stop).unwrap());
        let report = run(&options, &Stop::default());
        stop.set();
        report.unwrap()
    })
}

/// Runs against a UDP echo that treats its n-th datagram as `answer` says: what to send back, in order.
fn distorted(mut answer: impl FnMut(usize, Vec<u8>) -> Vec<Vec<u8>> + Send) -> RttReport {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    echo.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut options = options(echo.local_addr().unwrap(), Protocol::Udp);
    options.flows = 1;
    options.linger = Duration::from_millis(300);
    let stop = Stop::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            let mut number = 0;
            while !stop.is_set() {
                let Ok((length, from)) = echo.recv_from(&mut buffer) else { continue };
                for datagram in answer(number, buffer[..length].to_vec()) {
                    echo.send_to(&datagram, from).unwrap();
                }
                number += 1;
            }
        });
        let report = run(&options, &Stop::default());
        stop.set();
        report.unwrap()
    })
}

#[test]
fn every_message_comes_back_once_over_either_protocol() {
    for (protocol, size, flows) in [
        (Protocol::Udp, 160, 4),
        (Protocol::Udp, 16, 1),
        (Protocol::Udp, 65_507, 3),
        (Protocol::Tcp, 160, 4),
        (Protocol::Tcp, 16, 1),
        (Protocol::Tcp, 300_000, 3),
    ] {
        let report = reflected(|options| {
            options.protocol = protocol;
            options.size = size;
            options.flows = flows;
            options.rate_pps = 500.0;
        });
        assert_eq!(
            (report.sent, report.received, report.not_sent),
            (100, 100, 0),
            "{protocol:?} {size} {report:?}"
        );
        assert_eq!((report.loss_ratio, report.reordered, report.duplicates), (0.0, 0, 0));
        assert_eq!((report.errors, report.foreign, report.stopped), (0, 0, false));
        assert_eq!((report.rtt_us.count, report.from_send_us.count), (100, 100));
        assert!(report.rtt_us.min > 0.0 && report.rtt_us.p50 <= report.rtt_us.p99, "{report:?}");
        assert!(report.rtt_us.max >= report.from_send_us.max, "from when it was due is never less");
    }
}

#[test]
fn a_generator_that_sleeps_measures_the_same_messages() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let report = reflected(|options| {
            options.protocol = protocol;
            options.wait = Wait::Sleep;
        });
        assert_eq!((report.sent, report.received, report.not_sent), (400, 400, 0), "{report:?}");
    }
}

#[test]
fn loss_is_what_never_came_back() {
    let report = distorted(|number, datagram| if number % 10 == 3 { vec![] } else { vec![datagram] });
    assert_eq!((report.sent, report.received), (400, 360));
    assert!((report.loss_ratio - 0.1).abs() < 1e-9, "{report:?}");
    assert_eq!((report.reordered, report.duplicates), (0, 0));
}

#[test]
fn copies_and_overtaking_are_told_apart() {
    let mut held = None;
    let report = distorted(|number, datagram| match number % 10 {
        2 => vec![datagram.clone(), datagram.clone(), datagram],
        // 5 waits for 6.
        5 => {
            held = Some(datagram);
            vec![]
        }
        6 => vec![datagram, held.take().unwrap()],
        _ => vec![datagram],
    });
    assert_eq!((report.sent, report.received), (400, 400));
    assert_eq!((report.duplicates, report.reordered), (80, 40));
}

#[test]
fn what_is_not_ours_counts_as_foreign_and_as_nothing_else() {
    let report = distorted(|number, datagram| {
        let mut broken = datagram.clone();
        match number {
            0 => broken[1] ^= 1,         // another run
            1 => broken[4..8].fill(255), // no such message
            2 => broken.truncate(100),
            3 => broken.extend([0; 50]),
            _ => return vec![datagram],
        }
        vec![broken, datagram]
    });
    assert_eq!((report.received, report.foreign, report.duplicates), (400, 4, 0));
}

#[test]
fn a_stall_of_the_system_is_felt_by_every_message_that_was_due_in_it() {
    // 200 ms at 2000 messages a second, the echo sleeping 100 ms in the middle: half of them wait, 50 ms in the mean. A generator that
    // waits for answers would show one slow message.
    let report = distorted(|number, datagram| {
        if number == 100 {
            thread::sleep(Duration::from_millis(100));
        }
        vec![datagram]
    });
    assert_eq!(report.received, 400);
    assert!(report.rtt_us.max >= 100_000.0, "{report:?}");
    assert!(report.rtt_us.p90 >= 75_000.0, "{report:?}");
    assert!(report.rtt_us.mean >= 20_000.0, "{report:?}");
}

#[test]
fn messages_that_a_full_connection_cannot_take_are_late_and_not_lost() {
    // 20 MB within 20 ms: far more than the socket takes at once.
    let report = reflected(|options| {
        options.protocol = Protocol::Tcp;
        options.flows = 1;
        options.size = 1 << 20;
        options.rate_pps = 1000.0;
        options.duration = Duration::from_millis(20);
    });
    assert_eq!((report.sent, report.received), (20, 20));
    assert!(report.late_sends > 0 && report.late_us_max > 100.0, "{report:?}");
    assert!(report.rtt_us.max > report.from_send_us.min);
}

#[test]
fn nobody_at_home_is_a_result_over_udp_and_an_error_over_tcp() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let brief = RttOptions { linger: Duration::from_millis(50), ..options(nobody, Protocol::Udp) };
    let report = run(&brief, &Stop::default()).unwrap();
    assert_eq!((report.received, report.loss_ratio), (0, 1.0));
    assert!(report.errors > 0, "the kernel has told that nobody listens");
    let error = run(&options(nobody, Protocol::Tcp), &Stop::default()).unwrap_err();
    assert!(matches!(error, BenchError::Connect { .. }), "{error}");
}

#[test]
fn a_run_can_be_stopped_and_reports_what_it_has() {
    let stop = Stop::default();
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            stop.set();
        });
        let reflector = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options =
            RttOptions { duration: Duration::from_secs(60), ..options(reflector.address(), Protocol::Udp) };
        scope.spawn(|| reflector.run(Duration::from_secs(60), &stop).unwrap());
        run(&options, &stop).unwrap()
    });
    assert!(report.stopped && report.sent > 0 && report.not_sent > 0, "{report:?}");
    assert_eq!(report.sent + report.not_sent, 120_000);
}

#[test]
fn options_out_of_range_are_named() {
    let good = options("127.0.0.1:9".parse().unwrap(), Protocol::Udp);
    for (options, named) in [
        (RttOptions { size: 15, ..good.clone() }, "size"),
        (RttOptions { size: 65_508, ..good.clone() }, "size"),
        (RttOptions { flows: 0, ..good.clone() }, "flows"),
        (RttOptions { flows: MAX_FLOWS + 1, ..good.clone() }, "flows"),
        (RttOptions { rate_pps: 0.0, ..good.clone() }, "rate"),
        (RttOptions { duration: Duration::ZERO, ..good.clone() }, "duration"),
    ] {
        let error = run(&options, &Stop::default()).unwrap_err();
        assert!(matches!(error, BenchError::Option { option, .. } if option == named), "{error}");
    }
}

/// Runs `work` with open flows to a reflector on loopback.
fn flowing<T>(flows: usize, work: impl FnOnce(&mut Flows) -> T) -> T {
    let reflector = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut options = options(reflector.address(), Protocol::Udp);
    options.flows = flows;
    let stop = Stop::default();
    thread::scope(|scope| {
        scope.spawn(|| reflector.run(Duration::from_secs(60), &stop).unwrap());
        let outcome = work(&mut Flows::open(options).unwrap());
        stop.set();
        outcome
    })
}

#[test]
fn flows_stay_open_over_runs_and_no_run_counts_what_another_sent() {
    let runs = flowing(4, |flows| {
        [0, 1].map(|_| flows.run(2000.0, Duration::from_millis(100), &Stop::default()).unwrap())
    });
    for run in runs {
        assert_eq!((run.sent, run.received, run.foreign), (200, 200, 0));
    }
}

#[test]
fn a_flood_sends_again_whatever_comes_back() {
    let flood = Flood { window: 8, duration: Duration::from_millis(300) };
    let report = flowing(4, |flows| flows.flood(flood, &Stop::default()).unwrap());
    assert!(report.received > 32, "more than one window came back: {report:?}");
    assert!(report.sent <= report.received + report.lost + 32, "{report:?}");
    assert!(report.sent + 32 >= report.received + report.lost, "{report:?}");
}

#[test]
fn a_flood_into_silence_is_lost_and_goes_on() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = RttOptions { flows: 2, ..options(silent.local_addr().unwrap(), Protocol::Udp) };
    let flood = Flood { window: 3, duration: Duration::from_millis(200) };
    let report = Flows::open(options).unwrap().flood(flood, &Stop::default()).unwrap();
    assert_eq!(report.received, 0);
    assert!(report.lost >= 6 && report.sent == report.lost + 6, "{report:?}");
}

#[test]
fn a_flood_without_bounds_is_refused_and_tcp_flows_do_not_stay_open() {
    let nobody = "127.0.0.1:9".parse().unwrap();
    assert!(Flows::open(options(nobody, Protocol::Tcp)).is_err());
    let mut flows = Flows::open(options(nobody, Protocol::Udp)).unwrap();
    let duration = Duration::from_millis(1);
    for flood in [
        Flood { window: 0, duration },
        Flood { window: MAX_WINDOW + 1, duration },
        Flood { window: 1, duration: Duration::ZERO },
    ] {
        assert!(flows.flood(flood, &Stop::default()).is_err(), "{flood:?}");
    }
}
