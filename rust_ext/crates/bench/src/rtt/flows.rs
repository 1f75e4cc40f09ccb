//! Datagram flows that stay open over several runs, so that what it costs to open them is in the figures of the first run only; and
//! the one run that knows no schedule, a flood.

use super::udp::Datagrams;
use super::{Protocol, RttOptions, RttReport, check, drive};
use crate::Stop;
use crate::clock::Clock;
use crate::error::BenchError;
use crate::pace::Pace;
use crate::schedule::MAX_DURATION;
use l4proxy_io::udp::{Outgoing, RecvBatch, SendBatch};
use std::time::Duration;

/// Datagrams of one flow on their way at most.
pub const MAX_WINDOW: usize = 64;
/// A flow that has heard nothing for this long takes what is on its way for lost and sends afresh.
const LOST_AFTER_NS: u64 = 50_000_000;

/// Open flows to one target.
pub struct Flows {
    options: RttOptions,
    datagrams: Datagrams,
}

/// As fast as it goes: every flow keeps so many datagrams on their way, and sends the next when one is back.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// Datagrams of one flow on their way: 1–64.
    pub window: usize,
    /// How long.
    pub duration: Duration,
}

/// What a flood has moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloodReport {
    /// Datagrams that left.
    pub sent: u64,
    /// Datagrams that came back.
    pub received: u64,
    /// Datagrams that did not.
    pub lost: u64,
    /// Those that came back, a second.
    pub per_second: f64,
    /// Whether the run was stopped early.
    pub stopped: bool,
}

impl Flows {
    /// Opens the sockets. Each is a flow of its own: a port of its own.
    ///
    /// # Errors
    /// As for [`super::run`]; and anything but UDP.
    pub fn open(options: RttOptions) -> Result<Self, BenchError> {
        check(&options)?;
        if options.protocol != Protocol::Udp {
            let reason = "only datagrams need no connection to stay open".to_owned();
            return Err(BenchError::Option { option: "protocol", reason });
        }
        let _ = l4proxy_io::limits::raise_open_files();
        let datagrams = Datagrams::open(&options)?;
        Ok(Self { options, datagrams })
    }

    /// Measures round trips by a schedule, as [`super::run`] does.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn run(&mut self, rate_pps: f64, duration: Duration, stop: &Stop) -> Result<RttReport, BenchError> {
        let options = RttOptions { rate_pps, duration, ..self.options.clone() };
        let mut pace = self.pace()?;
        drive(&mut self.datagrams, &options, &mut pace, stop)
    }

    /// Sends as fast as answers come.
    ///
    /// # Errors
    /// A window or duration out of range, or epoll fails.
    pub fn flood(&mut self, flood: Flood, stop: &Stop) -> Result<FloodReport, BenchError> {
        let Flood { window, duration } = flood;
        if !(1..=MAX_WINDOW).contains(&window) {
            let reason = format!("{window} is not between 1 and {MAX_WINDOW}");
            return Err(BenchError::Option { option: "window", reason });
        }
        if duration.is_zero() || duration > MAX_DURATION {
            let reason =
                format!("{} s is not between 0 and {}", duration.as_secs_f64(), MAX_DURATION.as_secs());
            return Err(BenchError::Option { option: "duration", reason });
        }
        let mut pace = self.pace()?;
        let mut wave = Wave::new(self.datagrams.sockets.len(), window, self.options.size);
        let clock = Clock::start();
        let end_ns = duration.as_nanos() as u64;
        let mut now = clock.now_ns();
        while now < end_ns && !stop.is_set() {
            wave.resend_lost(&self.datagrams, now);
            pace.wait(end_ns - now, |flow, readable, _| {
                if readable {
                    wave.answer(flow, &self.datagrams, clock.now_ns());
                }
                Ok::<(), BenchError>(())
            })?;
            now = clock.now_ns();
        }
        // What is still on its way is neither back nor lost.
        let FlowCounts { sent, received, lost } = wave.counts;
        let per_second = received as f64 * 1e9 / now.max(1) as f64;
        Ok(FloodReport { sent, received, lost, per_second, stopped: stop.is_set() })
    }

    fn pace(&self) -> Result<Pace, BenchError> {
        let pace = Pace::new(self.options.wait)?;
        self.datagrams.watch(&pace)?;
        Ok(pace)
    }
}

#[derive(Debug, Default)]
struct FlowCounts {
    sent: u64,
    received: u64,
    lost: u64,
}

/// What a flood has on its way.
struct Wave {
    window: usize,
    /// Per flow: datagrams on their way, and when the last one came back.
    flows: Vec<(usize, u64)>,
    /// When flows were last looked through for silence.
    looked_ns: Option<u64>,
    message: Vec<u8>,
    incoming: RecvBatch,
    outgoing: SendBatch,
    counts: FlowCounts,
}

impl Wave {
    fn new(flows: usize, window: usize, size: usize) -> Self {
        Self {
            window,
            flows: vec![(0, 0); flows],
            looked_ns: None,
            message: vec![0x5a; size],
            incoming: RecvBatch::new(MAX_WINDOW, size),
            outgoing: SendBatch::new(MAX_WINDOW),
            counts: FlowCounts::default(),
        }
    }

    /// Begins, and begins again with the flows that have heard nothing.
    fn resend_lost(&mut self, datagrams: &Datagrams, now_ns: u64) {
        let first = self.looked_ns.is_none();
        if self.looked_ns.is_some_and(|looked_ns| now_ns < looked_ns + LOST_AFTER_NS) {
            return;
        }
        self.looked_ns = Some(now_ns);
        for flow in 0..self.flows.len() {
            let (on_way, heard_ns) = self.flows[flow];
            if first || now_ns >= heard_ns + LOST_AFTER_NS {
                self.counts.lost += on_way as u64;
                self.flows[flow] = (0, now_ns);
                self.fill(flow, datagrams);
            }
        }
    }

    /// Takes what has come on a flow, and sends as many again.
    fn answer(&mut self, flow: usize, datagrams: &Datagrams, now_ns: u64) {
        // An error here is an ICMP message about an earlier datagram, which will count as lost.
        let count = self.incoming.recv(&datagrams.sockets[flow], MAX_WINDOW).unwrap_or(0);
        if count == 0 {
            return;
        }
        let (on_way, heard_ns) = &mut self.flows[flow];
        // More than are on their way are those that were taken for lost, late.
        let late = count.saturating_sub(*on_way) as u64;
        self.counts.lost = self.counts.lost.saturating_sub(late);
        self.counts.received += count as u64;
        *on_way = on_way.saturating_sub(count);
        *heard_ns = now_ns;
        self.fill(flow, datagrams);
    }

    /// Sends until the window is full or the kernel takes no more.
    fn fill(&mut self, flow: usize, datagrams: &Datagrams) {
        let missing = self.window - self.flows[flow].0;
        let messages = [Outgoing::new(&self.message, None); MAX_WINDOW];
        let sent = self.outgoing.send(&datagrams.sockets[flow], &messages[..missing]).sent;
        self.flows[flow].0 += sent;
        self.counts.sent += sent as u64;
    }
}
