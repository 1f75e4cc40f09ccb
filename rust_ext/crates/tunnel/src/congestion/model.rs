//! What a connection believes of its path, and so how fast it sends: the greatest rate at which the path has delivered lately, and the
//! shortest round trip. The frame is that of draft-ietf-ccwg-bbr (start, drain, then cycles of cruising and probing, now and then a
//! measurement of the round trip). Where it differs, and why:
//!
//! - **Losses** slow it down only if slowing down ends them (`losses`): paths between continents lose 1 to 5 % whatever is sent.
//! - **Probing** begins with a pulse, a few milliseconds' worth more than the path is known to carry. Only if that comes back without
//!   delay and loss is a whole round sent faster. A queue of 25 packets, or somebody's game beside a download, is not hurt by it.
//!   A queue that others keep full answers nothing, nor does a path whose delay changes all the time: there a whole round is sent faster
//!   anyway.
//! - **The start** goes on in steps of a quarter once the round trip grows (as RFC 9406 does), and everything is paced, also the first
//!   window and what follows silence.
//! - **A new path** is something that it can be told: it goes on with what it knew, bounded by what the new path is known to carry, and
//!   believes its own measurements after one round trip.
//!
//! Time is an argument; nothing here is random.

use std::time::{Duration, Instant};

use super::delivery::{Delivery, Sample};
use super::losses::{Losses, Verdict};

/// What a connection that knows nothing may send in its first round trip: 100 kB in one go.
pub(crate) const INITIAL_WINDOW: u64 = 140_000;

/// The first window is spread over this part of the round trip: slow enough to be no burst.
const INITIAL_SPREAD: f64 = 0.25;

/// Assumed until a round trip was measured (RFC 9002, section 6.2.2).
const UNKNOWN_RTT: Duration = Duration::from_millis(333);

/// What a path is sent at most in its first round trip, after another died and nothing is known of this one, or because it carried as
/// much some time ago; in bytes a second (100 Mbit/s).
const UNKNOWN_PATH_RATE: f64 = 12_500_000.0;

/// The least window, in packets: four keep acknowledgements coming.
const MIN_PACKETS: u64 = 4;

/// Doubles what is sent each round trip (4 ln 2, draft-ietf-ccwg-bbr).
const START_GAIN: f64 = 2.773;

/// The start goes on with it once the round trip grows, and probing.
const PROBE_GAIN: f64 = 1.25;

/// After losses of ours: so much less than the path seems to carry, so that others who slowed down, too, find room.
const YIELD: f64 = 0.85;

/// Empties the queue that the start has made.
const DRAIN_GAIN: f64 = 0.5;

/// Empties the queue that a probe has made.
const DOWN_GAIN: f64 = 0.8;

/// Slightly less than was measured, so that queues do not stay.
const CRUISE_GAIN: f64 = 0.97;

/// The window is so many times what the path holds: acknowledgements come late, and in bundles.
const WINDOW_GAIN: f64 = 2.0;

/// Among so many packets one finds a path that is not full as short as it is.
const SATURATED_PACKETS: u64 = 16;

/// A start is over when its rate has not grown by a quarter for three rounds, or for two if it loses packets.
const START_GROWTH: f64 = 1.25;
const START_ROUNDS: u32 = 3;

/// A probe or a careful start goes on as long as each round brings so much more.
const PROBE_GROWTH: f64 = 1.08;

/// A pulse is worth so much time at the rate that the path is known to carry, and is felt if the round trip grows by half of it.
const PULSE: Duration = Duration::from_millis(4);

/// Round trips that are longer by this all through a round mean a queue that was never empty.
const QUEUE: Duration = Duration::from_micros(1500);

/// Pulses of which nothing could be felt until a whole round is sent faster.
const MAX_PULSES: u32 = 3;

/// From one probe to the next (draft-ietf-ccwg-bbr: 2 to 3 s, so that CUBIC and Reno have time to take their share).
const PROBE_INTERVAL: Duration = Duration::from_millis(2000);

/// After so many probes, about 20 s, it is tried anew whether losses are ours: all senders on a path may have taken each other's for the
/// path's own.
const CYCLES_OF_TRUST: u32 = 8;

/// The shortest round trip is measured anew after so long; if the newest ones are as short, only after three times as long.
const MIN_RTT_LIFE: Duration = Duration::from_secs(10);

/// And for so long, or one round trip if that is longer.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);

/// With so much of what the path holds in flight; it may hold less than is believed, if others have kept its queue full until now.
const PROBE_RTT_GAIN: f64 = 0.3;

/// Whether the losses of a round may be the path's own.
#[derive(Debug, Clone, Copy, Default)]
struct Calm {
    /// It was sent no faster than the path carries.
    is_sent_within: bool,
    /// Some packet that was acknowledged in it had found the queue empty.
    is_queue_empty: bool,
}

/// What the connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Looking for the path's rate; `careful`: close to it.
    Start { careful: bool },
    /// Emptying the queue that the start has made.
    Drain,
    /// Emptying the queue that a probe has made.
    Down,
    /// Sending what the path carries.
    Cruise,
    /// Some packets more, until so many bytes have been sent.
    Pulse { until: u64, round: u64 },
    /// Waiting for what comes of them: the round trips of packets after number `from` are looked at.
    Feel { from: u64, round: u64, rtt: Option<Duration> },
    /// Sending more than the path is known to carry.
    Up,
    /// Sending less, to see the shortest round trip.
    /// `until` is known once little enough is on its way; `rtt` is the shortest so far.
    MinRtt { until: Option<Instant>, round: u64, rtt: Duration },
    /// A new path: measuring it, then probing; `is_unknown`: it was sent less than the old one, to be on the safe side.
    Relearn { round: u64, is_unknown: bool },
}

/// What the engine knows of a path before anything was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathHint {
    /// Its round-trip time.
    pub rtt: Option<Duration>,
    /// What it was seen to carry, in bytes a second.
    pub bytes_per_second: Option<u64>,
}

impl PathHint {
    /// What fits both of two paths: the longer round trip, the lower rate.
    #[must_use]
    pub fn more_careful(self, other: Self) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Self {
            rtt: self.rtt.max(other.rtt),
            bytes_per_second: least(self.bytes_per_second, other.bytes_per_second),
        }
    }
}

/// The path as one connection knows it.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    mtu: u64,
    delivery: Delivery,
    losses: Losses,
    phase: Phase,
    /// The greatest rate of the cycle before this and of this one, in bytes a second.
    cycles: [f64; 2],
    /// The greatest rate that was measured while there was more to send.
    proven: f64,
    /// Losses of ours: no faster than this until the next probe.
    slowed_to: Option<f64>,
    min_rtt: Option<Duration>,
    /// It was measured on this very path.
    is_min_rtt_own: bool,
    min_rtt_at: Instant,
    /// When it was measured while little was on its way: others' queues and ours can keep every round trip long.
    min_rtt_proven_at: Instant,
    /// Rounds: one ends when a packet arrives that was sent after it began.
    round: u64,
    round_ends_at: u64,
    /// The shortest round trip of this round and of the one before.
    round_rtt: Option<Duration>,
    last_round_rtt: Option<Duration>,
    was_app_limited: bool,
    /// The rate when the growth of a start or probe was last looked at, and the rounds without growth.
    grown_to: f64,
    stalled_rounds: u32,
    /// How the two rounds before this one were.
    calm: [Calm; 2],
    /// When the next probe is due.
    probe_at: Instant,
    pulses: u32,
    /// Probes that have ended.
    cycle: u32,
    /// When the probe began there was a queue that was not ours.
    is_beside_queue: bool,
    /// Bytes ever sent.
    sent: u64,
    pacing_rate: f64,
    window: u64,
}

impl Model {
    pub(crate) fn new(now: Instant, mtu: u16, hint: PathHint) -> Self {
        let mut model = Self {
            mtu: u64::from(mtu),
            delivery: Delivery::new(now),
            losses: Losses::default(),
            phase: Phase::Start { careful: hint.bytes_per_second.is_some() },
            // Half of what was seen: much of it may have gone to others since (draft-ietf-tsvwg-careful-resume).
            cycles: [
                hint.bytes_per_second.map_or(0.0, |rate| (rate as f64 / 2.0).min(UNKNOWN_PATH_RATE)),
                0.0,
            ],
            proven: 0.0,
            slowed_to: None,
            min_rtt: hint.rtt,
            is_min_rtt_own: false,
            // A measurement replaces the hint, whatever it says.
            min_rtt_at: now.checked_sub(MIN_RTT_LIFE * 2).unwrap_or(now),
            min_rtt_proven_at: now,
            round: 0,
            round_ends_at: 0,
            round_rtt: None,
            last_round_rtt: None,
            was_app_limited: true,
            grown_to: 0.0,
            stalled_rounds: 0,
            calm: [Calm::default(); 2],
            probe_at: now,
            pulses: 0,
            cycle: 0,
            is_beside_queue: false,
            sent: 0,
            pacing_rate: 0.0,
            window: 0,
        };
        model.losses.begin_round(0, true);
        model.update();
        model
    }

    /// Bytes a second that the next packets may be sent at.
    pub(crate) fn pacing_rate(&self) -> u64 {
        self.pacing_rate as u64
    }

    /// Bytes that may be on their way.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// What the path is known to carry, in bytes a second; 0: nothing is known.
    pub(crate) fn bandwidth(&self) -> u64 {
        self.rate() as u64
    }

    /// Whether its rate is one that the path has shown, and not one on the way there.
    pub(crate) const fn knows_path(&self) -> bool {
        !matches!(self.phase, Phase::Start { .. } | Phase::Relearn { .. })
    }

    /// How many packets should share a repair; `None`: what the path loses is not worth any, or too much for any.
    pub(crate) fn repair_covers(&self) -> Option<usize> {
        self.losses.repair_covers()
    }

    fn rate(&self) -> f64 {
        let greatest = self.cycles[0].max(self.cycles[1]);
        self.slowed_to.map_or(greatest, |slowed| greatest.min(slowed))
    }

    /// Bytes that the path holds without a queue.
    fn held(&self) -> u64 {
        (self.rate() * self.min_rtt.unwrap_or(UNKNOWN_RTT).as_secs_f64()) as u64
    }

    pub(crate) fn on_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.update();
    }

    pub(crate) fn on_sent(&mut self, now: Instant, number: u64, size: u64) {
        if self.delivery.in_flight <= MIN_PACKETS * self.mtu
            && self.phase == (Phase::Start { careful: false })
            && self.proven >= self.rate() * 0.9
            && self.proven > 0.0
        {
            // A start that had not come to its end when there was nothing more to send is not gone on with in one leap.
            self.grow_from(Phase::Start { careful: true });
            self.update();
        }
        self.delivery.on_sent(now, number, size, self.round);
        self.sent += size;
        if let Phase::Pulse { until, round } = self.phase
            && self.sent >= until
        {
            self.phase = Phase::Feel { from: number, round, rtt: None };
            self.update();
        }
    }

    pub(crate) fn on_acked(&mut self, now: Instant, number: u64) {
        if let Some(sent) = self.delivery.on_acked(now, number) {
            self.losses.on_acked(sent.round);
        }
    }

    /// `is_excused`: the loss says nothing about this path.
    pub(crate) fn on_lost(&mut self, number: u64, is_excused: bool) {
        if let Some(sent) = self.delivery.on_lost(number)
            && !is_excused
        {
            self.losses.on_lost(sent.round);
        }
    }

    /// An acknowledgement is complete; `is_dry`: there is nothing more to send; `is_old`: it is of packets of a path that died.
    pub(crate) fn on_end_of_acks(&mut self, now: Instant, is_dry: bool, is_old: bool) {
        let Some(sample) = self.delivery.on_end_of_acks(now, is_dry, self.min_rtt) else { return };
        if is_old {
            return;
        }
        self.was_app_limited |= sample.is_app_limited;
        self.round_rtt = Some(self.round_rtt.map_or(sample.rtt, |rtt| rtt.min(sample.rtt)));
        if let Some(rate) = sample.rate
            && (!sample.is_app_limited || rate > self.cycles[1])
        {
            self.cycles[1] = self.cycles[1].max(rate);
            if !sample.is_app_limited {
                self.proven = self.proven.max(rate);
            }
        }
        self.measure_min_rtt(now, sample);
        let is_new_round = sample.prior_delivered >= self.round_ends_at;
        if is_new_round {
            if self.is_saturated() && matches!(self.phase, Phase::Start { .. }) {
                // Whoever fills the queue all through a round sends what the path carries, however little is left to send.
                self.was_app_limited = false;
                self.proven = self.proven.max(self.cycles[1]);
            }
            self.begin_round();
        }
        self.advance(now, sample, is_new_round);
        if is_new_round {
            self.judge();
            (self.last_round_rtt, self.round_rtt) = (self.round_rtt, None);
            self.was_app_limited = sample.is_app_limited;
        }
        self.update();
    }

    fn begin_round(&mut self) {
        self.round += 1;
        self.round_ends_at = self.delivery.delivered;
        self.losses.begin_round(self.round, self.is_probing());
    }

    fn is_probing(&self) -> bool {
        matches!(
            self.phase,
            Phase::Start { .. }
                | Phase::Up
                | Phase::Pulse { .. }
                | Phase::Feel { .. }
                | Phase::Relearn { .. }
                | Phase::Drain
        )
    }

    fn measure_min_rtt(&mut self, now: Instant, sample: Sample) {
        // A packet that was sent while little was on its way has met no queue of ours.
        let met_no_queue = sample.is_app_limited || sample.prior_in_flight <= self.held() / 2;
        if let Phase::MinRtt { rtt, .. } = &mut self.phase {
            *rtt = sample.rtt.min(*rtt);
        }
        let passed = |since| now.saturating_duration_since(since);
        let is_old =
            passed(self.min_rtt_at) > MIN_RTT_LIFE || passed(self.min_rtt_proven_at) > MIN_RTT_LIFE * 3;
        let is_near = self.min_rtt.is_none_or(|least| sample.rtt <= least + least / 50);
        let is_least = self.min_rtt.is_none_or(|least| sample.rtt <= least);
        if is_least || (is_near && passed(self.min_rtt_at) > MIN_RTT_LIFE) || (is_old && met_no_queue) {
            (self.min_rtt, self.min_rtt_at, self.is_min_rtt_own) = (Some(sample.rtt), now, true);
        }
        if met_no_queue {
            self.min_rtt_proven_at = now;
        } else if is_old && self.is_settled() {
            self.phase = Phase::MinRtt { until: None, round: self.round, rtt: sample.rtt };
        }
    }

    fn is_settled(&self) -> bool {
        matches!(
            self.phase,
            Phase::Cruise | Phase::Down | Phase::Up | Phase::Pulse { .. } | Phase::Feel { .. }
        )
    }

    fn advance(&mut self, now: Instant, sample: Sample, is_new_round: bool) {
        match self.phase {
            Phase::Start { careful } => self.advance_start(now, careful, is_new_round),
            Phase::Drain | Phase::Down => {
                if self.delivery.in_flight <= self.held() {
                    self.phase = Phase::Cruise;
                }
            }
            Phase::Cruise => {
                if is_new_round && now >= self.probe_at && !self.was_app_limited {
                    self.probe(now);
                }
            }
            Phase::Pulse { .. } => {}
            Phase::Feel { .. } => self.feel(sample, is_new_round),
            Phase::Up => self.advance_up(is_new_round),
            Phase::MinRtt { until, round, rtt } => {
                let is_low = self.delivery.in_flight <= self.window;
                match until {
                    None if is_low => {
                        let until = Some(now + PROBE_RTT_TIME);
                        self.phase = Phase::MinRtt { until, round: self.round + 1, rtt };
                    }
                    Some(until) if now >= until && self.round > round => {
                        (self.min_rtt, self.min_rtt_at, self.min_rtt_proven_at) = (Some(rtt), now, now);
                        self.phase = Phase::Cruise;
                    }
                    None | Some(_) => {}
                }
            }
            Phase::Relearn { round, is_unknown } => {
                if is_new_round && self.round > round + 1 && self.cycles[1] > 0.0 {
                    // What was only believed is forgotten; what was measured stays.
                    let believed = std::mem::take(&mut self.cycles[0]);
                    let is_wide = is_unknown && self.cycles[1] > believed * 0.8;
                    self.grow_from(if is_wide { Phase::Start { careful: false } } else { Phase::Down });
                    self.probe_at = now;
                }
            }
        }
    }

    fn advance_start(&mut self, now: Instant, careful: bool, is_new_round: bool) {
        let rate = self.rate();
        if self.losses.is_flooding(self.round.saturating_sub(1), true) {
            return self.end_start(now);
        }
        if !is_new_round || self.was_app_limited {
            return;
        }
        let growth = if careful { PROBE_GROWTH } else { START_GROWTH };
        if rate >= self.grown_to * growth {
            (self.grown_to, self.stalled_rounds) = (rate, 0);
        } else {
            self.stalled_rounds += 1;
            let is_lossy = self.losses.is_lossy(self.round.saturating_sub(2));
            let rounds = match careful {
                true if self.has_queue(self.round_rtt) => 1,
                true => 2,
                false if is_lossy => 2,
                false => START_ROUNDS,
            };
            if self.stalled_rounds >= rounds {
                return self.end_start(now);
            }
        }
        if self.has_grown() {
            self.phase = Phase::Start { careful: true };
        }
    }

    /// Whether even the shortest round trip of the round is longer than those of an empty path.
    fn has_grown(&self) -> bool {
        // RFC 9406, section 4.2: an eighth of the round trip, between 4 and 16 ms.
        matches!((self.min_rtt, self.round_rtt), (Some(least), Some(rtt)) if rtt >= least + (least / 8).clamp(PULSE, PULSE * 4))
    }

    /// The same, in a round with packets enough for it not to be the path's own unrest.
    /// After a change of path that is not enough: the shortest round trip must have been measured on this one.
    fn is_saturated(&self) -> bool {
        self.is_min_rtt_own
            && self.has_grown()
            && self.delivery.delivered - self.round_ends_at >= SATURATED_PACKETS * self.mtu
    }

    fn end_start(&mut self, now: Instant) {
        // What was only believed is forgotten; what was measured stays.
        if self.cycles[1] > 0.0 {
            self.cycles[0] = 0.0;
        }
        self.phase = Phase::Drain;
        self.probe_at = now + PROBE_INTERVAL;
    }

    fn grow_from(&mut self, phase: Phase) {
        (self.grown_to, self.stalled_rounds) = (self.rate(), 0);
        self.phase = phase;
    }

    fn probe(&mut self, now: Instant) {
        self.probe_at = now + PROBE_INTERVAL;
        // The slowing was for one cycle: whether its cause has gone is seen now.
        self.slowed_to = None;
        let has_queue = self.has_queue(self.last_round_rtt);
        self.is_beside_queue = has_queue;
        if has_queue || self.pulses >= MAX_PULSES {
            self.pulses = 0;
            self.grow_from(Phase::Up);
        } else {
            let bytes = self.rate() * PULSE.as_secs_f64() * PROBE_GAIN / (PROBE_GAIN - 1.0);
            self.grow_from(Phase::Pulse {
                until: self.sent + (bytes as u64).max(10 * self.mtu),
                round: self.round,
            });
        }
        self.losses.mark_probe();
    }

    fn feel(&mut self, sample: Sample, is_new_round: bool) {
        let Phase::Feel { from, round, rtt } = &mut self.phase else { return };
        if sample.number > *from {
            *rtt = Some(rtt.map_or(sample.rtt, |rtt| rtt.min(sample.rtt)));
        }
        let (round, rtt) = (*round, *rtt);
        // What was sent in the round of the pulse has been heard of when the next but one begins.
        if !is_new_round || self.round < round + 2 {
            return;
        }
        let rise = match (self.last_round_rtt, rtt) {
            (Some(before), Some(rtt)) => rtt.saturating_sub(before),
            _ => PULSE,
        };
        // More than the pulse can have made is the path's own unrest, in which nothing can be felt.
        self.pulses = if rise > PULSE * 2 { self.pulses + 1 } else { 0 };
        if rise > PULSE / 2 || self.losses.is_flooding(round, false) {
            self.end_cycle();
        } else {
            self.pulses = 0;
            self.grow_from(Phase::Up);
            self.losses.mark_probe();
        }
    }

    fn advance_up(&mut self, is_new_round: bool) {
        if self.losses.is_flooding(self.round, false) || self.losses.is_flooding(self.round - 1, false) {
            if self.is_beside_queue {
                self.cycles = [0.0, self.grown_to * YIELD];
            }
            return self.end_cycle();
        }
        if !is_new_round || self.was_app_limited {
            return;
        }
        if self.rate() >= self.grown_to * PROBE_GROWTH {
            (self.grown_to, self.stalled_rounds) = (self.rate(), 0);
        } else {
            self.stalled_rounds += 1;
            // The first round's packets are heard of in the second.
            let has_made_queue = !self.is_beside_queue && self.has_queue(self.round_rtt);
            if self.stalled_rounds >= 2 || has_made_queue {
                self.end_cycle();
            }
        }
    }

    /// A probe is over: from here on the greatest rate of the cycle before last is forgotten.
    fn end_cycle(&mut self) {
        self.cycles = [self.cycles[1], 0.0];
        self.cycle += 1;
        if self.cycle.is_multiple_of(CYCLES_OF_TRUST) {
            self.losses.doubt();
        }
        self.phase = Phase::Down;
    }

    /// Whether the shortest round trip of a round says that the queue was never empty.
    fn has_queue(&self, rtt: Option<Duration>) -> bool {
        matches!((self.min_rtt, rtt), (Some(least), Some(rtt)) if rtt > least + QUEUE)
    }

    fn judge(&mut self) {
        let Some(number) = self.round.checked_sub(2) else { return };
        // How fast the round was sent was decided then; the queue that it left is felt in the rounds after it.
        let newest = Calm {
            is_sent_within: self.was_app_limited || !self.is_probing(),
            is_queue_empty: !self.has_queue(self.round_rtt),
        };
        let [oldest, last] = self.calm;
        self.calm = [last, newest];
        if oldest.is_sent_within && last.is_queue_empty && newest.is_queue_empty {
            self.losses.see(number);
        }
        match self.losses.judge(number, self.has_queue(self.round_rtt)) {
            Verdict::Fine => {}
            Verdict::Slow(part) => self.slowed_to = Some(self.rate() * part),
            Verdict::NotOurs => self.slowed_to = None,
            Verdict::Ours(part) => {
                self.slowed_to = None;
                self.cycles = [self.rate() * part * YIELD, 0.0];
            }
        }
    }

    /// The network says that its queue is full, once in a round.
    pub(crate) fn on_congestion_mark(&mut self) {
        self.slowed_to = Some(self.rate() * 0.85);
        self.update();
    }

    /// Nothing at all has arrived for a while: half of what was known is a fair guess, and the way up from there is quick.
    pub(crate) fn on_silence(&mut self) {
        self.cycles = [self.rate() / 2.0, 0.0];
        self.slowed_to = None;
        self.grow_from(Phase::Start { careful: false });
        self.update();
    }

    /// Packets take another path from now on.
    pub(crate) fn on_path_change(&mut self, now: Instant, hint: PathHint) {
        let known = hint.bytes_per_second.map(|rate| rate as f64);
        let (before, most) = (self.rate(), known.unwrap_or(UNKNOWN_PATH_RATE));
        self.delivery.restart(now);
        self.losses.restart();
        self.slowed_to = None;
        (self.min_rtt, self.is_min_rtt_own) = (hint.rtt.or(self.min_rtt), false);
        self.min_rtt_at = now.checked_sub(MIN_RTT_LIFE * 2).unwrap_or(now);
        (self.round_rtt, self.last_round_rtt) = (None, None);
        self.round += 1;
        self.round_ends_at = self.delivery.delivered;
        self.losses.begin_round(self.round, true);
        // What is believed is in the older cycle, so that measurements can take its place.
        self.cycles = [before.min(most), 0.0];
        if self.was_app_limited {
            // That rate is what there was to send: the path may carry far more, and a probe now and then would take long to find it.
            self.grow_from(Phase::Start { careful: false });
        } else if !matches!(self.phase, Phase::Start { .. }) {
            self.phase = Phase::Relearn { round: self.round, is_unknown: known.is_none() && before > most };
        }
        self.update();
    }

    /// Pacing and window follow from everything else.
    fn update(&mut self) {
        let rate = self.rate();
        let (pacing, window) = match self.phase {
            Phase::Start { careful: false } => (START_GAIN, WINDOW_GAIN),
            Phase::Start { careful: true } | Phase::Up | Phase::Pulse { .. } => {
                (PROBE_GAIN, WINDOW_GAIN + 0.25)
            }
            Phase::Drain => (DRAIN_GAIN, WINDOW_GAIN),
            Phase::Down => (DOWN_GAIN, WINDOW_GAIN),
            // The queue that a pulse has made stays until it was felt.
            Phase::Feel { .. } => (1.0, WINDOW_GAIN),
            Phase::Cruise | Phase::Relearn { .. } => (CRUISE_GAIN, WINDOW_GAIN),
            Phase::MinRtt { .. } => (CRUISE_GAIN, PROBE_RTT_GAIN),
        };
        let quantum = (rate * 0.002) as u64 + 3 * self.mtu;
        self.window = ((self.held() as f64 * window) as u64 + quantum).max(MIN_PACKETS * self.mtu);
        self.pacing_rate = rate * pacing;
        if matches!(self.phase, Phase::Start { .. }) {
            let spread = self.min_rtt.unwrap_or(UNKNOWN_RTT).as_secs_f64() * INITIAL_SPREAD;
            self.window = self.window.max(INITIAL_WINDOW);
            self.pacing_rate = self.pacing_rate.max(INITIAL_WINDOW as f64 / spread.max(0.000_1));
        }
        // A rate that is all but nothing would take for ever to find out that there is more.
        self.pacing_rate = self.pacing_rate.max(self.mtu as f64 * 4.0);
    }
}
