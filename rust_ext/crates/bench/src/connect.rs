//! New connections by the schedule: connect, one byte each way, close. Also how the other generators connect.

use crate::Stop;
use crate::clock::Clock;
use crate::error::BenchError;
use crate::latency::{Latencies, Quantiles};
use crate::pace::{Pace, Wait};
use crate::schedule::Schedule;
use l4proxy_io::epoll::Interest;
use l4proxy_io::{Received, Sent, limits, tcp};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long a set of connections may take before a run starts.
const ESTABLISH: Duration = Duration::from_secs(10);
/// Descriptors left for everything else.
const SPARE_FILES: u64 = 64;
/// Connections open at once at most; whatever is due beyond counts as an error (`too_many_open`).
const MAX_OPEN: u64 = 50_000;
/// Connections kept open at once at most, when they follow no schedule.
const MAX_IN_FLIGHT: usize = 1_000;
/// New connections in one turn before the sockets are looked at.
const CONNECTS_A_TURN: u32 = 16;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// By RST: no port stays in TIME_WAIT, so a long run does not run out of ports.
    Reset,
    /// By FIN, as most programs do. At most 28,000 connections a minute from one address to one port.
    Finish,
}

/// When a connection is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pacing {
    /// By the schedule, so many a second.
    PerSecond(f64),
    /// As soon as fewer than this many are open, as fast as it goes: 1–1,000.
    InFlight(usize),
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Who echoes a byte.
    pub target: SocketAddr,
    /// When to make the next.
    pub pacing: Pacing,
    /// How long to make new ones.
    pub duration: Duration,
    /// A connection that has not got its byte after this long is an error.
    pub timeout: Duration,
    /// How to end them.
    pub close: Close,
    /// How to wait meanwhile.
    pub wait: Wait,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConnectReport {
    /// Connections that got their byte.
    pub connections: u64,
    /// Those a second.
    pub per_second: f64,
    /// Connections that did not: the sum of the next five.
    pub errors: u64,
    /// Refused or reset.
    pub refused: u64,
    /// Closed before the byte came.
    pub closed: u64,
    /// Not done in time.
    pub timed_out: u64,
    /// Not tried, because too many were open.
    pub too_many_open: u64,
    /// Not tried, because this machine had no port or descriptor left.
    pub no_port: u64,
    /// From when a connection was due until its byte was back.
    pub latency_us: Quantiles,
    /// From when a connection was due until it was established.
    pub handshake_us: Quantiles,
    /// Connections that were begun more than 100 µs after they were due.
    pub late_sends: u64,
    /// Whether the run was stopped early.
    pub stopped: bool,
}

struct Attempt {
    fd: OwnedFd,
    due_ns: u64,
    established: bool,
}

struct Run {
    clock: Clock,
    /// By token; a token is used again once its connection is closed.
    open: Vec<Option<Attempt>>,
    free: Vec<usize>,
    /// Tokens in the order in which their time runs out, with the due time that tells whether it is still the same connection.
    deadlines: VecDeque<(u64, usize)>,
    latency: Latencies,
    handshake: Latencies,
    report: ConnectReport,
    close: Close,
    last_ns: u64,
    last_begun_ns: u64,
}

/// Measures. Takes `duration` plus at most `timeout`.
pub fn run(options: &ConnectOptions, stop: &Stop) -> Result<ConnectReport, BenchError> {
    let (rate_per_s, in_flight) = match options.pacing {
        Pacing::PerSecond(rate_per_s) => (rate_per_s, None),
        Pacing::InFlight(count) if (1..=MAX_IN_FLIGHT).contains(&count) => (1.0, Some(count)),
        Pacing::InFlight(count) => {
            let reason = format!("{count} is not between 1 and {MAX_IN_FLIGHT}");
            return Err(BenchError::Option { option: "in_flight", reason });
        }
    };
    let schedule = Schedule::new(rate_per_s, options.duration)?;
    if options.timeout.is_zero() || options.timeout > Duration::from_secs(600) {
        let reason = format!("{} s is not between 0 and 600", options.timeout.as_secs_f64());
        return Err(BenchError::Option { option: "timeout", reason });
    }
    let mut pace = Pace::new(options.wait)?;
    let mut run = Run::new(options.close);
    let timeout_ns = options.timeout.as_nanos() as u64;
    if let Some(count) = in_flight {
        return run.keep_in_flight(count, options, &mut pace, stop);
    }
    let mut next = 0;
    let mut now = run.clock.now_ns();
    while (next < schedule.count() || !run.deadlines.is_empty()) && !stop.is_set() {
        for _ in 0..CONNECTS_A_TURN {
            if next == schedule.count() || schedule.due_ns(next) > now {
                break;
            }
            run.begin(options.target, schedule.due_ns(next), now, &pace)?;
            next += 1;
            now = run.clock.now_ns();
        }
        let due = if next < schedule.count() { schedule.due_ns(next) } else { u64::MAX };
        let expiry = run.deadlines.front().map_or(u64::MAX, |(due_ns, _)| due_ns.saturating_add(timeout_ns));
        let left = pace.patience(now, due.min(expiry), run.last_begun_ns, run.free.len() < run.open.len());
        pace.wait(left, |token, _, _| {
            run.progress(token);
            Ok::<(), BenchError>(())
        })?;
        now = run.clock.now_ns();
        run.expire(now, timeout_ns);
    }
    Ok(run.finish(schedule.due_ns(next).max(1), stop.is_set()))
}

impl Run {
    fn new(close: Close) -> Self {
        let files = limits::raise_open_files().unwrap_or_else(|_| limits::open_files());
        let room = files.soft.saturating_sub(SPARE_FILES).clamp(1, MAX_OPEN) as usize;
        let nothing = Latencies::default().quantiles();
        let report = ConnectReport {
            connections: 0,
            per_second: 0.0,
            errors: 0,
            refused: 0,
            closed: 0,
            timed_out: 0,
            too_many_open: 0,
            no_port: 0,
            latency_us: nothing,
            handshake_us: nothing,
            late_sends: 0,
            stopped: false,
        };
        Self {
            clock: Clock::start(),
            open: (0..room).map(|_| None).collect(),
            free: (0..room).rev().collect(),
            deadlines: VecDeque::new(),
            latency: Latencies::default(),
            handshake: Latencies::default(),
            report,
            close,
            last_ns: 0,
            last_begun_ns: 0,
        }
    }

    fn begin(&mut self, target: SocketAddr, due_ns: u64, now_ns: u64, pace: &Pace) -> Result<(), BenchError> {
        if now_ns.saturating_sub(due_ns) > crate::rtt::LATE.as_nanos() as u64 {
            self.report.late_sends += 1;
        }
        let Some(token) = self.free.pop() else {
            self.report.too_many_open += 1;
            return Ok(());
        };
        match tcp::connect(target, None) {
            Ok(fd) => {
                self.last_begun_ns = now_ns;
                pace.add(&fd, token, Interest::READ_WRITE.edge_triggered())?;
                self.open[token] = Some(Attempt { fd, due_ns, established: false });
                self.deadlines.push_back((due_ns, token));
            }
            Err(error) => {
                self.free.push(token);
                if tcp::is_local_shortage(&error) {
                    self.report.no_port += 1;
                } else {
                    self.report.refused += 1;
                }
            }
        }
        Ok(())
    }

    /// Makes the next connection whenever fewer than `count` are open, until the time is over; then waits for the rest.
    fn keep_in_flight(
        mut self,
        count: usize,
        options: &ConnectOptions,
        pace: &mut Pace,
        stop: &Stop,
    ) -> Result<ConnectReport, BenchError> {
        let timeout_ns = options.timeout.as_nanos() as u64;
        let end_ns = options.duration.as_nanos() as u64;
        let mut now = self.clock.now_ns();
        let mut ended_ns = None;
        while !stop.is_set() {
            let open = self.open.len() - self.free.len();
            if now < end_ns {
                for _ in open..count.min(self.open.len()) {
                    self.begin(options.target, now, now, pace)?;
                    now = self.clock.now_ns();
                }
            } else {
                ended_ns = ended_ns.or(Some(now));
                if open == 0 {
                    break;
                }
            }
            // A millisecond bounds the time that a connection refused at once waits for the next.
            pace.wait(1_000_000, |token, _, _| {
                self.progress(token);
                Ok::<(), BenchError>(())
            })?;
            now = self.clock.now_ns();
            self.expire(now, timeout_ns);
        }
        Ok(self.finish(ended_ns.unwrap_or(now).max(1), stop.is_set()))
    }

    fn progress(&mut self, token: usize) {
        let Some(attempt) = self.open.get_mut(token).and_then(Option::as_mut) else { return };
        if !attempt.established {
            match tcp::send(&attempt.fd, b"x") {
                Ok(Sent::Bytes(_)) => {
                    attempt.established = true;
                    self.handshake.record_ns(self.clock.now_ns().saturating_sub(attempt.due_ns));
                }
                Ok(Sent::WouldBlock) => return,
                Err(_) => {
                    self.report.refused += 1;
                    return self.end(token);
                }
            }
        }
        match tcp::recv(&attempt.fd, &mut [0; 16]) {
            Ok(Received::WouldBlock) => {}
            Ok(Received::Bytes(_)) => {
                self.last_ns = self.clock.now_ns();
                self.latency.record_ns(self.last_ns.saturating_sub(attempt.due_ns));
                self.report.connections += 1;
                if self.close == Close::Reset {
                    // When it fails the connection ends by FIN, which no figure depends on.
                    let _ = tcp::set_reset_on_close(&attempt.fd);
                }
                self.end(token);
            }
            Ok(Received::End) => {
                self.report.closed += 1;
                self.end(token);
            }
            Err(_) => {
                self.report.refused += 1;
                self.end(token);
            }
        }
    }

    /// Closes a connection; its entry among the deadlines stays until its time.
    fn end(&mut self, token: usize) {
        self.open[token] = None;
        self.free.push(token);
    }

    /// Ends what has waited too long, and forgets the deadlines of what is done.
    fn expire(&mut self, now_ns: u64, timeout_ns: u64) {
        while let Some(&(due_ns, token)) = self.deadlines.front() {
            let same = self.open[token].as_ref().is_some_and(|attempt| attempt.due_ns == due_ns);
            if same && now_ns < due_ns.saturating_add(timeout_ns) {
                return;
            }
            self.deadlines.pop_front();
            if same {
                self.report.timed_out += 1;
                self.end(token);
            }
        }
    }

    /// A rate over the schedule's span, or until the last connection if that took longer.
    fn finish(self, span_ns: u64, stopped: bool) -> ConnectReport {
        let mut report = self.report;
        report.errors =
            report.refused + report.closed + report.timed_out + report.too_many_open + report.no_port;
        report.per_second = report.connections as f64 * 1e9 / span_ns.max(self.last_ns) as f64;
        report.latency_us = self.latency.quantiles();
        report.handshake_us = self.handshake.quantiles();
        report.stopped = stopped;
        report
    }
}

/// Opens `count` connections and waits until all are established. Their tokens are 0, 1, … .
pub(crate) fn establish(
    target: SocketAddr,
    count: usize,
    pace: &mut Pace,
    stop: &Stop,
) -> Result<Vec<OwnedFd>, BenchError> {
    let refused = |source| BenchError::Connect { target, source };
    // Many flows need more than the usual 1,024 descriptors; when that is refused, connecting says so.
    let _ = limits::raise_open_files();
    let mut sockets = Vec::with_capacity(count);
    for token in 0..count {
        let fd = tcp::connect(target, None).map_err(refused)?;
        pace.add(&fd, token, Interest::WRITE)?;
        sockets.push(fd);
    }
    let clock = Clock::start();
    let mut established = Vec::with_capacity(count);
    let mut quiet = 0;
    while quiet < count {
        if stop.is_set() || clock.now_ns() > ESTABLISH.as_nanos() as u64 {
            return Err(refused(std::io::ErrorKind::TimedOut.into()));
        }
        pace.wait(u64::MAX, |token, _, _| match sockets.get(token).map(tcp::take_error) {
            Some(Ok(Some(error)) | Err(error)) => Err(refused(error)),
            Some(Ok(None)) => {
                established.push(token);
                Ok(())
            }
            None => Ok(()),
        })?;
        // Nothing more to hear of these until the caller says what it wants.
        for &token in &established[quiet..] {
            pace.modify(&sockets[token], token, Interest::NONE)?;
        }
        quiet = established.len();
    }
    for fd in &sockets {
        tcp::apply_relay_options(fd).map_err(BenchError::system("socket options"))?;
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::Reflector;

    fn options(target: SocketAddr, pacing: Pacing) -> ConnectOptions {
        ConnectOptions {
            target,
            pacing,
            duration: Duration::from_millis(200),
            timeout: Duration::from_secs(60),
            close: Close::Reset,
            wait: Wait::Sleep,
        }
    }

    #[test]
    fn as_many_as_asked_for_are_kept_in_flight_and_all_get_their_byte() {
        let reflector = Reflector::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = options(reflector.address(), Pacing::InFlight(4));
        let stop = Stop::default();
        let (report, reflected) = std::thread::scope(|scope| {
            let reflected = scope.spawn(|| reflector.run(Duration::from_secs(60), &stop).unwrap());
            let report = run(&options, &Stop::default());
            stop.set();
            (report.unwrap(), reflected.join().unwrap())
        });
        assert_eq!(report.errors, 0, "{report:?}");
        assert!(report.connections >= 4, "{report:?}");
        assert_eq!(report.connections, reflected.connections);
    }

    #[test]
    fn nobody_there_is_counted_and_the_run_still_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let report = run(&options(address, Pacing::InFlight(2)), &Stop::default()).unwrap();
        assert_eq!(report.connections, 0);
        assert!(report.refused > 0 && report.errors == report.refused, "{report:?}");
    }

    #[test]
    fn none_in_flight_or_too_many_is_refused() {
        for count in [0, MAX_IN_FLIGHT + 1] {
            let options = options("127.0.0.1:9".parse().unwrap(), Pacing::InFlight(count));
            assert!(matches!(run(&options, &Stop::default()), Err(BenchError::Option { .. })), "{count}");
        }
    }
}
