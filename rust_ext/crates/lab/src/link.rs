//! What one directed link does to one packet: first its queue and rate, then loss, then delay and jitter.

use crate::error::LabError;
use crate::random::Random;

/// Longest delay or jitter, ns. A minute is ten times the slowest path on Earth and still far from an overflow.
pub const MAX_DELAY_NS: u64 = 60_000_000_000;

/// How long a link that keeps order has one extra delay, ns: the time scale of queues along a path, and a voice packet's interval.
/// With a draw for each packet the slowest one would hold up all behind it, and the delay would grow with the packet rate.
pub const JITTER_HOLD_NS: u64 = 20_000_000;

/// An exponential draw beyond this many means is cut off there, so that one packet in a billion does not hold up all behind it.
const MAX_JITTER_MEANS: f64 = 12.0;

/// How a link behaves. It can be replaced while packets are under way; those keep the times they were given.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkProperties {
    /// One-way delay, ns.
    pub delay_ns: u64,
    /// Mean of an exponentially distributed extra delay, ns. Two such delays differ by this much on average,
    /// so it is what RFC 3550 calls jitter. Unless `reorder`, it changes every [`JITTER_HOLD_NS`].
    pub jitter_ns: u64,
    /// Whether each packet has its own extra delay and may overtake others. If not, a packet waits for the one before it.
    pub reorder: bool,
    /// Share of packets lost, each on its own.
    pub loss_ratio: f64,
    /// Share of packets lost in bursts, on top of `loss_ratio`.
    pub burst_loss_ratio: f64,
    /// Mean length of a loss burst, packets, at least 1 (Gilbert's model: a good state without loss, a bad state that loses all).
    pub burst_packets: f64,
    /// Bits a second; `None`: no limit.
    pub rate_bits_s: Option<u64>,
    /// Bytes that may wait for the rate; more are dropped at the tail.
    pub queue_bytes: u64,
    /// A black hole: nothing passes, and what is under way is lost.
    pub cut: bool,
}

impl Default for LinkProperties {
    fn default() -> Self {
        Self {
            delay_ns: 0,
            jitter_ns: 0,
            reorder: false,
            loss_ratio: 0.0,
            burst_loss_ratio: 0.0,
            burst_packets: 1.0,
            rate_bits_s: None,
            // 50 ms at 200 Mbit/s: a provider's port, neither bufferbloat nor a policer.
            queue_bytes: 1_250_000,
            cut: false,
        }
    }
}

impl LinkProperties {
    /// Checks every value.
    ///
    /// # Errors
    /// The first property that cannot be had.
    pub fn validate(&self) -> Result<(), LabError> {
        for (field, value) in [("loss_ratio", self.loss_ratio), ("burst_loss_ratio", self.burst_loss_ratio)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(LabError::Ratio { field, value });
            }
        }
        for (field, value_ns) in [("delay_ns", self.delay_ns), ("jitter_ns", self.jitter_ns)] {
            if value_ns > MAX_DELAY_NS {
                return Err(LabError::TooLong { field, value_ns, max_ns: MAX_DELAY_NS });
            }
        }
        let max =
            if self.burst_packets >= 1.0 { self.burst_packets / (self.burst_packets + 1.0) } else { 0.0 };
        if self.burst_loss_ratio > max || max == 0.0 {
            return Err(LabError::Burst { packets: self.burst_packets, ratio: self.burst_loss_ratio, max });
        }
        if self.rate_bits_s == Some(0) {
            return Err(LabError::Zero { field: "rate_bits_s" });
        }
        if self.queue_bytes == 0 {
            return Err(LabError::Zero { field: "queue_bytes" });
        }
        Ok(())
    }
}

/// What became of packets on one link, since the start. `sent` is the sum of all others and of those under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets that came to the link.
    pub sent: u64,
    /// Packets handed over at its end.
    pub delivered: u64,
    /// Bytes handed over.
    pub delivered_bytes: u64,
    /// Lost on their own.
    pub lost_random: u64,
    /// Lost in bursts.
    pub lost_burst: u64,
    /// Dropped because the link's queue was full.
    pub dropped_queue: u64,
    /// Dropped because the link is cut.
    pub dropped_cut: u64,
    /// Dropped because the emulator's memory bound was reached.
    pub dropped_memory: u64,
    /// Handed over, but the host's device refused them.
    pub dropped_device: u64,
}

/// What happens to a packet that comes to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It arrives at this time, ns.
    Due(u64),
    /// It does not arrive; already counted.
    Lost,
}

/// A link and its state.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) from_host: usize,
    pub(crate) to_host: usize,
    pub(crate) properties: LinkProperties,
    pub(crate) counters: LinkCounters,
    /// Number of cuts so far. A packet that was sent in an earlier life of the link does not arrive.
    pub(crate) life: u32,
    random: Random,
    /// Until when the sender's port is busy with what was accepted.
    busy_until_ns: u64,
    /// When the newest packet arrives, so that the next does not overtake it.
    last_due_ns: u64,
    in_burst: bool,
    extra_ns: u64,
    /// Until when `extra_ns` holds.
    extra_until_ns: u64,
}

impl Link {
    pub(crate) fn new(
        name: String,
        from_host: usize,
        to_host: usize,
        properties: LinkProperties,
        random: Random,
    ) -> Self {
        Self {
            name,
            from_host,
            to_host,
            properties,
            counters: LinkCounters::default(),
            life: 0,
            random,
            busy_until_ns: 0,
            last_due_ns: 0,
            in_burst: false,
            extra_ns: 0,
            extra_until_ns: 0,
        }
    }

    /// Decides over a packet of `length` bytes that is sent at `now_ns`.
    pub(crate) fn admit(&mut self, now_ns: u64, length: usize) -> Verdict {
        self.counters.sent += 1;
        if self.properties.cut {
            self.counters.dropped_cut += 1;
            return Verdict::Lost;
        }
        let Some(sent_ns) = self.pass_queue(now_ns, length) else {
            self.counters.dropped_queue += 1;
            return Verdict::Lost;
        };
        // Both processes draw for every packet, so that changing one ratio does not shift the other's pattern.
        let (in_burst, alone) = (self.step_burst(), self.random.chance(self.properties.loss_ratio));
        if in_burst {
            self.counters.lost_burst += 1;
            return Verdict::Lost;
        }
        if alone {
            self.counters.lost_random += 1;
            return Verdict::Lost;
        }
        let mut due_ns = sent_ns + self.properties.delay_ns + self.jitter(now_ns);
        if !self.properties.reorder {
            due_ns = due_ns.max(self.last_due_ns);
        }
        self.last_due_ns = self.last_due_ns.max(due_ns);
        Verdict::Due(due_ns)
    }

    /// Replaces the properties. Where the delay shrinks, new packets still wait behind those under way, as in a queue.
    pub(crate) fn set(&mut self, properties: LinkProperties) {
        if properties.cut && !self.properties.cut {
            // What waits or flies is lost with the link; a mended link begins with an empty port.
            self.life += 1;
            self.busy_until_ns = 0;
            self.last_due_ns = 0;
            self.in_burst = false;
        }
        self.extra_until_ns = 0;
        self.properties = properties;
    }

    /// When the last bit of the packet leaves the port, or `None` if the queue has no room for it.
    fn pass_queue(&mut self, now_ns: u64, length: usize) -> Option<u64> {
        let Some(rate) = self.properties.rate_bits_s else {
            return Some(now_ns);
        };
        let waiting_ns = self.busy_until_ns.saturating_sub(now_ns);
        let waiting_bytes = u128::from(waiting_ns) * u128::from(rate) / 8_000_000_000;
        // An idle port takes any packet: the queue is what waits behind the one being sent.
        if waiting_ns > 0 && waiting_bytes + length as u128 > u128::from(self.properties.queue_bytes) {
            return None;
        }
        let serialisation_ns = (length as u128 * 8_000_000_000 / u128::from(rate)) as u64;
        self.busy_until_ns = self.busy_until_ns.max(now_ns) + serialisation_ns;
        Some(self.busy_until_ns)
    }

    /// One step of Gilbert's two states: leaves bad with 1/length, enters bad so often that the share lost is as configured.
    fn step_burst(&mut self) -> bool {
        let share = self.properties.burst_loss_ratio;
        if share <= 0.0 {
            self.in_burst = false;
            return false;
        }
        let leave = 1.0 / self.properties.burst_packets;
        let enter = if share >= 1.0 { 1.0 } else { leave * share / (1.0 - share) };
        self.in_burst = if self.in_burst { !self.random.chance(leave) } else { self.random.chance(enter) };
        self.in_burst
    }

    /// The extra delay of a packet that is sent now.
    fn jitter(&mut self, now_ns: u64) -> u64 {
        if self.properties.jitter_ns == 0 {
            return 0;
        }
        if self.properties.reorder || now_ns >= self.extra_until_ns {
            let means = self.random.exponential().min(MAX_JITTER_MEANS);
            self.extra_ns = (means * self.properties.jitter_ns as f64) as u64;
            self.extra_until_ns = now_ns + JITTER_HOLD_NS;
        }
        self.extra_ns
    }
}
