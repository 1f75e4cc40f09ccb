//! Senders that share one link, in virtual time and without QUIC around them: quick enough to try a rule on minutes of traffic.
//! Test code only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::model::{Model, PathHint};

pub(super) const MTU: u64 = 1350;

/// The link, in one direction; the way back only delays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) bytes_per_second: f64,
    pub(super) rtt: Duration,
    pub(super) loss: f64,
    pub(super) queue_bytes: u64,
}

impl Link {
    /// `queue` in round trips' worth of bytes.
    pub(super) fn new(mbit: f64, rtt_ms: u64, loss: f64, queue: f64) -> Self {
        let bytes_per_second = mbit * 125_000.0;
        let rtt = Duration::from_millis(rtt_ms);
        Self {
            bytes_per_second,
            rtt,
            loss,
            queue_bytes: (bytes_per_second * rtt.as_secs_f64() * queue) as u64,
        }
    }

    pub(super) fn with_packets(self, packets: u64) -> Self {
        Self { queue_bytes: packets * MTU, ..self }
    }
}

/// CUBIC as of RFC 9438, without its refinements; not paced.
#[derive(Debug)]
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    greatest: f64,
    epoch: Option<Instant>,
    recovered_from: u64,
    reno: f64,
}

impl Cubic {
    pub(super) fn new() -> Self {
        Self { window: 10.0, threshold: f64::MAX, greatest: 0.0, epoch: None, recovered_from: 0, reno: 0.0 }
    }

    fn on_acked(&mut self, now: Instant, rtt: Duration) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let k = (self.greatest * 0.3 / 0.4).cbrt();
        let t = (now - epoch + rtt).as_secs_f64() - k;
        let target = (0.4 * t.powi(3) + self.greatest).clamp(self.window, self.window * 1.5);
        self.reno += 0.53 / self.window;
        self.window = (self.window + (target - self.window) / self.window).max(self.reno);
    }

    fn on_lost(&mut self, number: u64, next: u64) {
        if number >= self.recovered_from {
            self.recovered_from = next;
            self.greatest = self.window;
            self.window = (self.window * 0.7).max(2.0);
            (self.threshold, self.reno, self.epoch) = (self.window, self.window, None);
        }
    }
}

#[derive(Debug)]
pub(super) enum Control {
    Ours(Box<Model>),
    Cubic(Cubic),
}

/// One sender and what came of it.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) control: Control,
    /// Bytes that it has and has not sent.
    pub(super) backlog: u64,
    /// Every so often it gets more.
    feed: Option<(Duration, u64)>,
    tokens: f64,
    paced_at: Instant,
    wake: Option<Instant>,
    next: u64,
    outstanding: BTreeMap<u64, Instant>,
    srtt: Duration,
    heard_at: Instant,
    is_dry: bool,
    is_silent: bool,
    old_until: u64,
    pub(super) delivered: u64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) overflowed: u64,
    /// The most that went out at one moment.
    pub(super) burst: u64,
    burst_at: (Option<Instant>, u64),
    pub(super) done_at: Option<Instant>,
}

impl Flow {
    /// Packets that were sent and not acknowledged.
    pub(super) fn on_its_way(&self) -> u64 {
        self.outstanding.len() as u64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake(usize),
    Feed(usize),
    Ack(usize, u64),
}

pub(super) struct Sim {
    pub(super) now: Instant,
    pub(super) link: Link,
    pub(super) flows: Vec<Flow>,
    pub(super) is_cut: bool,
    events: BTreeSet<(Instant, u64, Event)>,
    number: u64,
    free_at: Instant,
    random: u64,
    /// Queueing delays of packets that came through, in the order of their sending.
    pub(super) delays: Vec<Duration>,
}

impl Sim {
    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    pub(super) fn new(link: Link, seed: u64) -> Self {
        let start = Instant::now() + Duration::from_secs(1000);
        Self {
            now: start,
            link,
            flows: Vec::new(),
            is_cut: false,
            events: BTreeSet::new(),
            number: 0,
            free_at: start,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            delays: Vec::new(),
        }
    }

    pub(super) fn ours(&mut self, backlog: u64) -> usize {
        self.hinted(backlog, PathHint::default())
    }

    pub(super) fn hinted(&mut self, backlog: u64, hint: PathHint) -> usize {
        let model = Model::new(self.now, MTU as u16, hint);
        self.add(Control::Ours(Box::new(model)), backlog)
    }

    pub(super) fn cubic(&mut self, backlog: u64) -> usize {
        self.add(Control::Cubic(Cubic::new()), backlog)
    }

    fn add(&mut self, control: Control, backlog: u64) -> usize {
        self.flows.push(Flow {
            control,
            backlog,
            feed: None,
            tokens: 0.0,
            paced_at: self.now,
            wake: None,
            next: 0,
            outstanding: BTreeMap::new(),
            srtt: self.link.rtt,
            heard_at: self.now,
            is_dry: false,
            is_silent: false,
            old_until: 0,
            delivered: 0,
            sent: 0,
            lost: 0,
            overflowed: 0,
            burst: 0,
            burst_at: (None, 0),
            done_at: None,
        });
        let flow = self.flows.len() - 1;
        self.kick(flow);
        flow
    }

    pub(super) fn give(&mut self, flow: usize, bytes: u64) {
        self.flows[flow].backlog += bytes;
        self.flows[flow].done_at = None;
        self.kick(flow);
    }

    fn kick(&mut self, flow: usize) {
        self.flows[flow].wake = Some(self.now);
        self.schedule(self.now, Event::Wake(flow));
    }

    /// `bytes` more every `every`.
    pub(super) fn feed(&mut self, flow: usize, every: Duration, bytes: u64) {
        self.flows[flow].feed = Some((every, bytes));
        self.schedule(self.now, Event::Feed(flow));
    }

    /// The path of every flow of ours is another from now on; what was on its way is lost.
    pub(super) fn change_path(&mut self, link: Link, hint: PathHint) {
        self.link = link;
        self.free_at = self.now;
        let now = self.now;
        self.events.retain(|(_, _, event)| !matches!(event, Event::Ack(..)));
        for index in 0..self.flows.len() {
            let flow = &mut self.flows[index];
            flow.old_until = flow.next;
            if let Control::Ours(model) = &mut flow.control {
                model.on_path_change(now, hint);
            }
            // What the resend ring does, without its pace: all but the burst arrives in order at the rate of the link.
            let numbers: Vec<u64> = flow.outstanding.keys().copied().collect();
            for number in numbers {
                self.transmit(index, number);
            }
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.events.insert((at, self.number, event));
    }

    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time, |_| false);
    }

    /// Runs until `done`, at the latest until `end`.
    pub(super) fn run_until(&mut self, end: Instant, mut done: impl FnMut(&Self) -> bool) {
        while let Some(&(at, number, event)) = self.events.first() {
            if at > end || done(self) {
                break;
            }
            self.events.remove(&(at, number, event));
            self.now = at;
            match event {
                Event::Wake(flow) => {
                    if self.flows[flow].wake != Some(at) {
                        continue;
                    }
                    self.flows[flow].wake = None;
                    self.time_out(flow);
                }
                Event::Feed(flow) => {
                    if let Some((every, bytes)) = self.flows[flow].feed {
                        self.flows[flow].backlog += bytes;
                        self.schedule(self.now + every, Event::Feed(flow));
                    }
                }
                Event::Ack(flow, number) => self.acknowledge(flow, number),
            }
            match event {
                Event::Wake(flow) | Event::Feed(flow) | Event::Ack(flow, _) => self.send(flow),
            }
        }
        if !done(self) {
            self.now = self.now.max(end);
        }
    }

    /// Nothing heard for long: all is lost.
    fn time_out(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        if self.now < flow.heard_at + flow.srtt * 3 || flow.outstanding.is_empty() {
            return;
        }
        let lost: Vec<u64> = std::mem::take(&mut flow.outstanding).into_keys().collect();
        flow.heard_at = self.now;
        flow.lost += lost.len() as u64;
        flow.backlog += lost.len() as u64 * MTU;
        for number in lost {
            match &mut flow.control {
                Control::Ours(model) => model.on_lost(number, number < flow.old_until),
                Control::Cubic(cubic) => cubic.on_lost(number, flow.next),
            }
        }
        // The library speaks of silence only when a second timer has run out.
        let was_silent = std::mem::replace(&mut flow.is_silent, true);
        match &mut flow.control {
            Control::Ours(model) if was_silent => model.on_silence(),
            Control::Ours(_) => {}
            Control::Cubic(cubic) => cubic.window = 2.0,
        }
    }

    fn acknowledge(&mut self, index: usize, number: u64) {
        let flow = &mut self.flows[index];
        (flow.heard_at, flow.is_silent) = (self.now, false);
        let Some(sent_at) = flow.outstanding.remove(&number) else { return };
        let rtt = self.now - sent_at;
        flow.srtt = (flow.srtt * 7 + rtt) / 8;
        flow.delivered += MTU;
        match &mut flow.control {
            Control::Ours(model) => {
                model.on_acked(self.now, number);
                model.on_end_of_acks(self.now, flow.is_dry, number < flow.old_until);
            }
            Control::Cubic(cubic) => cubic.on_acked(self.now, rtt),
        }
        while let Some((&oldest, _)) = flow.outstanding.first_key_value() {
            if oldest + 3 > number {
                break;
            }
            flow.outstanding.remove(&oldest);
            flow.lost += 1;
            flow.backlog += MTU;
            match &mut flow.control {
                Control::Ours(model) => model.on_lost(oldest, oldest < flow.old_until),
                Control::Cubic(cubic) => cubic.on_lost(oldest, flow.next),
            }
        }
        if flow.backlog == 0 && flow.outstanding.is_empty() {
            flow.done_at = Some(self.now);
        }
    }

    fn send(&mut self, index: usize) {
        loop {
            let now = self.now;
            let flow = &mut self.flows[index];
            if flow.backlog == 0 {
                flow.is_dry = true;
                break;
            }
            let in_flight = flow.outstanding.len() as u64 * MTU;
            flow.is_dry = false;
            match &mut flow.control {
                Control::Ours(model) => {
                    if in_flight + MTU > model.window() {
                        break;
                    }
                    // As the library's pacer does it: 2 ms at a time, but ten packets, but no more than 10 ms.
                    let rate = model.pacing_rate().max(1) as f64;
                    let most = (rate * 0.002).max(10.0 * MTU as f64).min((rate * 0.010).max(MTU as f64));
                    flow.tokens = (flow.tokens + rate * (now - flow.paced_at).as_secs_f64()).min(most);
                    flow.paced_at = now;
                    if flow.tokens < MTU as f64 {
                        let wait = (MTU as f64 - flow.tokens) / rate;
                        let at = now + Duration::from_secs_f64(wait) + Duration::from_nanos(1);
                        if flow.wake.is_none_or(|wake| wake > at) {
                            flow.wake = Some(at);
                            self.schedule(at, Event::Wake(index));
                        }
                        return;
                    }
                    flow.tokens -= MTU as f64;
                    model.on_sent(now, flow.next, MTU);
                }
                Control::Cubic(cubic) => {
                    if (flow.outstanding.len() as f64) >= cubic.window {
                        break;
                    }
                }
            }
            if flow.outstanding.is_empty() {
                flow.heard_at = now;
            }
            let number = flow.next;
            flow.next += 1;
            flow.sent += 1;
            flow.backlog = flow.backlog.saturating_sub(MTU);
            flow.burst_at =
                if flow.burst_at.0 == Some(now) { (Some(now), flow.burst_at.1 + 1) } else { (Some(now), 1) };
            flow.burst = flow.burst.max(flow.burst_at.1);
            flow.outstanding.insert(number, now);
            self.transmit(index, number);
        }
        let flow = &mut self.flows[index];
        if !flow.outstanding.is_empty() && flow.wake.is_none() {
            let at = self.now + flow.srtt * 3;
            flow.wake = Some(at);
            self.schedule(at, Event::Wake(index));
        }
    }

    fn transmit(&mut self, index: usize, number: u64) {
        if self.is_cut {
            return;
        }
        self.free_at = self.free_at.max(self.now);
        let wait = self.free_at - self.now;
        if wait.as_secs_f64() * self.link.bytes_per_second + MTU as f64
            > self.link.queue_bytes as f64 + MTU as f64
        {
            self.flows[index].overflowed += 1;
            return;
        }
        self.free_at += Duration::from_secs_f64(MTU as f64 / self.link.bytes_per_second);
        if self.random() < self.link.loss {
            return;
        }
        self.delays.push(wait);
        self.schedule(self.free_at + self.link.rtt, Event::Ack(index, number));
    }
}
