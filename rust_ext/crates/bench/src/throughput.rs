//! How much fits through: connections that send (or fetch) as fast as they can, counted where the bytes arrive.

use crate::Stop;
use crate::clock::Clock;
use crate::connect::establish;
use crate::error::BenchError;
use crate::mode::{Mode, trailer};
use crate::pace::{Pace, Wait};
use crate::schedule::MAX_DURATION;
use l4proxy_io::epoll::Interest;
use l4proxy_io::tcp::{recv, send};
use l4proxy_io::{Received, Sent};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Connections of one run at most.
pub const MAX_FLOWS: usize = 1_000;
/// One system call moves at most this much, as iperf3 does.
const CHUNK: usize = 128 * 1024;
/// Chunks of one flow before the others have their turn.
const CHUNKS_A_TURN: usize = 16;
/// What still stands in buffers when sending ends may take this long to arrive.
const DRAIN: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Debug, Clone)]
pub struct ThroughputOptions {
    /// A reflector.
    pub target: SocketAddr,
    /// Connections: 1–1,000.
    pub flows: usize,
    /// How long to send. With `bytes`, the most that may take.
    pub duration: Duration,
    /// Send so much over all flows, then end.
    pub bytes: Option<u64>,
    /// From the target to us.
    pub reverse: bool,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThroughputReport {
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the first byte's departure until the last had arrived.
    pub seconds: f64,
    /// The quotient, 10^6 bits a second.
    pub mbit_s: f64,
    /// Connections.
    pub flows: u64,
    /// The least that one flow had, 10^6 bits a second.
    pub mbit_s_min: f64,
    /// The most that one flow had.
    pub mbit_s_max: f64,
    /// Segments that the kernel of the sending side had to send again; `None` when that is not us.
    pub retransmits: Option<u64>,
    /// Whether the run was stopped early.
    pub stopped: bool,
}

struct Flow {
    fd: OwnedFd,
    header: [u8; crate::mode::LENGTH],
    header_sent: usize,
    /// Bytes still to be sent or fetched; `u64::MAX` when only time ends it.
    left: u64,
    /// Bytes sent, and how much of the trailer after them.
    sent: u64,
    trailer_sent: usize,
    /// Bytes that have arrived.
    moved: u64,
    /// What the sink answers in the end: how much has arrived.
    answer: [u8; 8],
    answered: usize,
    finished: bool,
    done_ns: Option<u64>,
}

/// Measures.
pub fn run(options: &ThroughputOptions, stop: &Stop) -> Result<ThroughputReport, BenchError> {
    check(options)?;
    let mut pace = Pace::new(Wait::Sleep)?;
    let mut flows = open(options, &mut pace, stop)?;
    let target = options.target;
    let mut buffer = vec![0x5a; CHUNK];
    let clock = Clock::start();
    let end_ns = options.duration.as_nanos() as u64;
    for (token, flow) in flows.iter_mut().enumerate() {
        pace.modify(&flow.fd, token, Interest::READ_WRITE.edge_triggered())?;
    }
    // With edges a socket is told of once; whoever has more to do than one turn allows stays in this list.
    let mut busy = vec![true; flows.len()];
    let mut ending = false;
    // When there was still something to send.
    let mut sent_ns = 0;
    loop {
        let now = clock.now_ns();
        if !ending && (now >= end_ns || stop.is_set()) {
            ending = true;
            busy.fill(true);
        }
        for (flow, busy) in flows.iter_mut().zip(&mut busy).filter(|(_, busy)| **busy) {
            *busy =
                if options.reverse { flow.fetch(&mut buffer, ending) } else { flow.push(&buffer, ending) }
                    .map_err(|source| BenchError::Connect { target, source })?;
            if flow.done_ns.is_none() && flow.is_done(options.reverse, ending) {
                flow.done_ns = Some(clock.now_ns());
            }
        }
        if flows.iter().all(|flow| flow.done_ns.is_some()) || (ending && options.reverse) {
            break;
        }
        if flows.iter().any(|flow| !flow.finished) && !ending {
            sent_ns = now;
        }
        if now > sent_ns.saturating_add(DRAIN.as_nanos() as u64) {
            let source =
                std::io::Error::other("no reflector, or too slow: it never told how much had arrived");
            return Err(BenchError::Connect { target, source });
        }
        let left = if busy.contains(&true) { 0 } else { u64::MAX };
        pace.wait(left.min(end_ns.saturating_sub(now).max(1_000_000)), |token, _, _| {
            if let Some(busy) = busy.get_mut(token) {
                *busy = true;
            }
            Ok::<(), BenchError>(())
        })?;
    }
    Ok(report(&flows, options, clock.now_ns(), stop.is_set()))
}

fn check(options: &ThroughputOptions) -> Result<(), BenchError> {
    let refuse = |option, reason: String| Err(BenchError::Option { option, reason });
    if !(1..=MAX_FLOWS).contains(&options.flows) {
        return refuse("flows", format!("{} is not between 1 and {MAX_FLOWS}", options.flows));
    }
    if options.duration.is_zero() || options.duration > MAX_DURATION {
        return refuse(
            "duration",
            format!("{} s is not between 0 and {}", options.duration.as_secs_f64(), MAX_DURATION.as_secs()),
        );
    }
    if options.bytes.is_some_and(|bytes| bytes < options.flows as u64) {
        return refuse("bytes", "less than one byte a flow".to_owned());
    }
    Ok(())
}

fn open(options: &ThroughputOptions, pace: &mut Pace, stop: &Stop) -> Result<Vec<Flow>, BenchError> {
    let sockets = establish(options.target, options.flows, pace, stop)?;
    let flows = options.flows as u64;
    Ok((0..)
        .zip(sockets)
        .map(|(number, fd)| {
            let left =
                options.bytes.map_or(u64::MAX, |bytes| bytes / flows + u64::from(number < bytes % flows));
            let mode = if options.reverse { Mode::Source(left) } else { Mode::Sink };
            let header = mode.encode().expect("only a plain echo has no header");
            Flow {
                fd,
                header,
                header_sent: 0,
                left,
                sent: 0,
                trailer_sent: 0,
                moved: 0,
                answer: [0; 8],
                answered: 0,
                finished: false,
                done_ns: None,
            }
        })
        .collect())
}

impl Flow {
    /// Sends the header; true when it is out.
    fn greet(&mut self) -> std::io::Result<bool> {
        while self.header_sent < self.header.len() {
            match send(&self.fd, &self.header[self.header_sent..])? {
                Sent::Bytes(count) => self.header_sent += count,
                Sent::WouldBlock => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Sends; in the end hears how much has arrived. True when it has more to do at once.
    fn push(&mut self, chunk: &[u8], ending: bool) -> std::io::Result<bool> {
        if !self.greet()? {
            return Ok(false);
        }
        for _ in 0..CHUNKS_A_TURN {
            if self.finished {
                return self.hear();
            }
            if ending || self.left == 0 || self.trailer_sent > 0 {
                let trailer = trailer(self.sent);
                let Sent::Bytes(count) = send(&self.fd, &trailer[self.trailer_sent..])? else {
                    return Ok(false);
                };
                self.trailer_sent += count;
                self.finished = self.trailer_sent == trailer.len();
                continue;
            }
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(chunk.len());
            match send(&self.fd, &chunk[..length])? {
                Sent::Bytes(count) => {
                    self.sent += count as u64;
                    self.left -= if self.left == u64::MAX { 0 } else { count as u64 };
                }
                Sent::WouldBlock => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads the sink's answer. Its last byte is the end of the run; the FIN behind it may take its time.
    fn hear(&mut self) -> std::io::Result<bool> {
        while self.answered < self.answer.len() {
            match recv(&self.fd, &mut self.answer[self.answered..])? {
                Received::Bytes(count) => self.answered += count,
                Received::WouldBlock => return Ok(false),
                Received::End => {
                    return Err(std::io::Error::other("no reflector: it did not tell how much had arrived"));
                }
            }
        }
        self.moved = u64::from_be_bytes(self.answer);
        Ok(false)
    }

    /// Fetches. True when it has more to do at once.
    fn fetch(&mut self, buffer: &mut [u8], ending: bool) -> std::io::Result<bool> {
        if !self.greet()? {
            return Ok(false);
        }
        for _ in 0..CHUNKS_A_TURN {
            if ending || self.finished {
                return Ok(false);
            }
            match recv(&self.fd, buffer)? {
                Received::Bytes(count) => self.moved += count as u64,
                Received::WouldBlock => return Ok(false),
                Received::End => self.finished = true,
            }
        }
        Ok(true)
    }

    fn is_done(&self, reverse: bool, ending: bool) -> bool {
        if reverse { self.finished || ending } else { self.answered == self.answer.len() }
    }
}

fn report(flows: &[Flow], options: &ThroughputOptions, now_ns: u64, stopped: bool) -> ThroughputReport {
    let seconds = |flow: &Flow| flow.done_ns.unwrap_or(now_ns).max(1) as f64 / 1e9;
    let mbit_s = |bytes: u64, seconds: f64| bytes as f64 * 8.0 / 1e6 / seconds;
    let rates = flows.iter().map(|flow| mbit_s(flow.moved, seconds(flow)));
    let bytes = flows.iter().map(|flow| flow.moved).sum();
    let span = flows.iter().map(seconds).fold(0.0, f64::max);
    let retransmits = flows
        .iter()
        .map(|flow| l4proxy_io::tcp::info(&flow.fd).ok().map(|info| u64::from(info.retransmits)))
        .sum();
    ThroughputReport {
        bytes,
        seconds: span,
        mbit_s: mbit_s(bytes, span),
        flows: flows.len() as u64,
        mbit_s_min: rates.clone().fold(f64::INFINITY, f64::min),
        mbit_s_max: rates.fold(0.0, f64::max),
        retransmits: if options.reverse { None } else { retransmits },
        stopped,
    }
}
