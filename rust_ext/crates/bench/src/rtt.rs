//! Round trips: messages leave by the schedule, whatever comes back, and each is measured from when it was due.

mod flows;
mod message;
mod tcp;
mod udp;

pub use flows::{Flood, FloodReport, Flows, MAX_WINDOW};

use crate::Stop;
use crate::clock::Clock;
use crate::error::BenchError;
use crate::latency::{Latencies, Quantiles};
use crate::pace::{Pace, Wait};
use crate::schedule::Schedule;
use crate::sequence::{Arrival, Sequence};
use message::{Echo, RunId};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Flows of one run at most: each takes a descriptor.
pub const MAX_FLOWS: usize = 10_000;
/// A message that left later than this after it was due is counted in `late_sends`: the generator itself, or the way into the
/// system, was slower than the schedule. Its latency counts from when it was due all the same.
pub const LATE: Duration = Duration::from_micros(100);
/// Messages sent in one turn before the sockets are looked at, so that a generator that has fallen behind still listens.
const SENDS_A_TURN: u32 = 32;
/// The schedule is given up when the generator is this much behind it; the rest counts as `not_sent`.
const GIVE_UP: Duration = Duration::from_secs(1);

/// Which kind of socket carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A message is a datagram; what is lost is lost.
    Udp,
    /// A message is so many bytes of a connection.
    Tcp,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct RttOptions {
    /// Who sends everything back.
    pub target: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Messages a second, over all flows.
    pub rate_pps: f64,
    /// Bytes of a message: 16–65,507 (udp), 16–1,048,576 (tcp).
    pub size: usize,
    /// How long to send.
    pub duration: Duration,
    /// Flows that take turns: 1–10,000.
    pub flows: usize,
    /// How long to wait for the last answers.
    pub linger: Duration,
    /// How to wait meanwhile.
    pub wait: Wait,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RttReport {
    /// Messages that left.
    pub sent: u64,
    /// Different messages that came back.
    pub received: u64,
    /// Messages that left a second, measured.
    pub rate_pps: f64,
    /// From when a message was due until it was back.
    pub rtt_us: Quantiles,
    /// From when a message really left until it was back: what a closed-loop tool would show.
    pub from_send_us: Quantiles,
    /// The share of the sent messages that did not come back.
    pub loss_ratio: f64,
    /// Messages that came back after a later one of their flow.
    pub reordered: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
    /// Messages that left more than [`LATE`] after they were due.
    pub late_sends: u64,
    /// The latest of them.
    pub late_us_max: f64,
    /// Messages of the schedule that never left.
    pub not_sent: u64,
    /// What the kernel refused to send, or reported as refused by the other end (ICMP).
    pub errors: u64,
    /// What came and was not ours.
    pub foreign: u64,
    /// Whether the run was stopped early.
    pub stopped: bool,
}

/// How the messages of a run travel.
trait Transport {
    /// Takes message `index` over. What cannot leave at once leaves by `progress`.
    fn send(&mut self, index: u32, run: &mut Run) -> Result<(), BenchError>;
    /// Reads what has come on flow `flow`, and sends what is waiting.
    fn progress(
        &mut self,
        flow: usize,
        readable: bool,
        writable: bool,
        run: &mut Run,
    ) -> Result<(), BenchError>;
}

/// One run's books.
struct Run {
    clock: Clock,
    schedule: Schedule,
    id: RunId,
    flows: u32,
    sequences: Vec<Sequence>,
    from_due: Latencies,
    from_send: Latencies,
    sent: u64,
    last_sent_ns: u64,
    received: u64,
    late: u64,
    late_ns_max: u64,
    errors: u64,
    foreign: u64,
}

impl Run {
    fn new(options: &RttOptions) -> Result<Self, BenchError> {
        let schedule = Schedule::new(options.rate_pps, options.duration)?;
        let flows = options.flows as u32;
        let count_of = |flow: u32| (schedule.count() + flows - 1 - flow) / flows;
        Ok(Self {
            clock: Clock::start(),
            schedule,
            id: RunId::new(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos())),
            flows,
            sequences: (0..flows).map(|flow| Sequence::new(count_of(flow))).collect(),
            from_due: Latencies::default(),
            from_send: Latencies::default(),
            sent: 0,
            last_sent_ns: 0,
            received: 0,
            late: 0,
            late_ns_max: 0,
            errors: 0,
            foreign: 0,
        })
    }

    fn flow_of(&self, index: u32) -> usize {
        (index % self.flows) as usize
    }

    /// Notes that message `index` leaves at `now_ns`.
    fn note_sent(&mut self, index: u32, now_ns: u64) {
        self.sent += 1;
        self.last_sent_ns = now_ns;
        let late_ns = now_ns.saturating_sub(self.schedule.due_ns(index));
        if late_ns > LATE.as_nanos() as u64 {
            self.late += 1;
        }
        self.late_ns_max = self.late_ns_max.max(late_ns);
    }

    /// Notes what has come on flow `flow` at `now_ns`.
    fn note_received(&mut self, flow: usize, bytes: &[u8], now_ns: u64) {
        let echo = self.id.read(bytes).filter(|echo| self.flow_of(echo.index) == flow);
        let Some(Echo { index, sent_ns }) = echo else {
            self.foreign += 1;
            return;
        };
        match self.sequences[flow].note(index / self.flows) {
            Arrival::InOrder | Arrival::Reordered => {
                self.received += 1;
                self.from_due.record_ns(now_ns.saturating_sub(self.schedule.due_ns(index)));
                self.from_send.record_ns(now_ns.saturating_sub(sent_ns));
            }
            Arrival::Duplicate => {}
            Arrival::Unknown => self.foreign += 1,
        }
    }

    /// How long to wait at `now_ns` for what is due at `due_ns`.
    fn patience(&self, pace: &Pace, now_ns: u64, due_ns: u64) -> u64 {
        pace.patience(now_ns, due_ns, self.last_sent_ns, self.received < self.sent)
    }

    fn sum(&self, figure: impl Fn(&Sequence) -> u32) -> u64 {
        self.sequences.iter().map(|sequence| u64::from(figure(sequence))).sum()
    }

    fn report(&self, sending_ns: u64, stopped: bool) -> RttReport {
        RttReport {
            sent: self.sent,
            received: self.received,
            rate_pps: self.sent as f64 * 1e9 / sending_ns.max(1) as f64,
            rtt_us: self.from_due.quantiles(),
            from_send_us: self.from_send.quantiles(),
            loss_ratio: if self.sent == 0 { 0.0 } else { 1.0 - self.received as f64 / self.sent as f64 },
            reordered: self.sum(Sequence::reordered),
            duplicates: self.sum(Sequence::duplicates),
            late_sends: self.late,
            late_us_max: self.late_ns_max as f64 / 1e3,
            not_sent: u64::from(self.schedule.count()) - self.sent,
            errors: self.errors,
            foreign: self.foreign,
            stopped,
        }
    }
}

/// Measures. Takes `duration` plus at most `linger`, and the time to connect (tcp).
pub fn run(options: &RttOptions, stop: &Stop) -> Result<RttReport, BenchError> {
    check(options)?;
    let mut pace = Pace::new(options.wait)?;
    match options.protocol {
        Protocol::Udp => {
            let mut datagrams = udp::Datagrams::open(options)?;
            datagrams.watch(&pace)?;
            drive(&mut datagrams, options, &mut pace, stop)
        }
        Protocol::Tcp => drive(&mut tcp::Streams::open(options, &mut pace, stop)?, options, &mut pace, stop),
    }
}

fn check(options: &RttOptions) -> Result<(), BenchError> {
    let largest = match options.protocol {
        Protocol::Udp => 65_507,
        Protocol::Tcp => 1 << 20,
    };
    if !(message::HEADER..=largest).contains(&options.size) {
        let reason = format!("{} is not between {} and {largest} bytes", options.size, message::HEADER);
        return Err(BenchError::Option { option: "size", reason });
    }
    if !(1..=MAX_FLOWS).contains(&options.flows) {
        let reason = format!("{} is not between 1 and {MAX_FLOWS}", options.flows);
        return Err(BenchError::Option { option: "flows", reason });
    }
    Ok(())
}

fn drive(
    transport: &mut impl Transport,
    options: &RttOptions,
    pace: &mut Pace,
    stop: &Stop,
) -> Result<RttReport, BenchError> {
    let mut run = Run::new(options)?;
    let mut next = 0;
    let count = run.schedule.count();
    let give_up_ns = run.schedule.due_ns(count) + GIVE_UP.as_nanos() as u64;
    let mut now = run.clock.now_ns();
    while next < count && now < give_up_ns && !stop.is_set() {
        for _ in 0..SENDS_A_TURN {
            if next == count || run.schedule.due_ns(next) > now {
                break;
            }
            transport.send(next, &mut run)?;
            next += 1;
            now = run.clock.now_ns();
        }
        let left = if next < count { run.patience(pace, now, run.schedule.due_ns(next)) } else { 0 };
        pace.wait(left, |flow, readable, writable| transport.progress(flow, readable, writable, &mut run))?;
        now = run.clock.now_ns();
    }
    let sending_ns = now.max(run.schedule.due_ns(next));
    let end_ns = now + u64::try_from(options.linger.as_nanos()).unwrap_or(u64::MAX / 2);
    while run.received + run.errors < u64::from(next) && now < end_ns && !stop.is_set() {
        let left = run.patience(pace, now, end_ns);
        pace.wait(left, |flow, readable, writable| transport.progress(flow, readable, writable, &mut run))?;
        now = run.clock.now_ns();
    }
    Ok(run.report(sending_ns, stop.is_set()))
}

#[cfg(test)]
mod tests;
