//! When a worker that is woken for every single datagram should rather wait a moment and take several at once.
//!
//! At 20,000 datagrams a second and more the wake-up costs more than what it brings. A pause after each turn makes the next turn
//! carry several, for a delay that is bounded by the rate: a worker that is busy with other things waits the shorter time, one that
//! is crowded the longer one, because there it halves what a datagram costs. A pause pays only where datagrams come by themselves:
//! in a closed loop, where each waits for the answer to the one before, it brings none and only costs time. So pauses are tried, and
//! given up where turns stay as empty as before. No clock and no sleep here: the worker says when and how many, and is told how long.

use std::time::{Duration, Instant};

/// How long pauses are from a rate on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tier {
    /// Datagrams a second, both ways.
    from: u64,
    /// A pause is as long as so many datagrams take to come. A turn that carried twice as many was no wasted wake-up, and the worker
    /// goes on without a pause.
    wanted: u64,
    /// But no longer than this.
    longest: Duration,
}

/// From the highest rate down. Below the last a worker never pauses: wake-ups are cheap then, and delay is what players notice.
const TIERS: [Tier; 3] = [
    // More comes while a turn lasts than a pause could gather; longer ones would only hold senders up that wait for answers.
    Tier { from: 200_000, wanted: 24, longest: Duration::from_micros(120) },
    // A third of a core moves datagrams. Pauses in which those of one flow meet, to leave together for little more than one costs,
    // halve that; the delay is less than a twelfth of a tick of the busiest game servers (128 a second).
    Tier { from: 64_000, wanted: 64, longest: Duration::from_micros(600) },
    // Delay that nobody notices, and a third of what one more millisecond of jitter buffer would cost.
    Tier { from: 16_000, wanted: 24, longest: Duration::from_micros(200) },
];

/// Datagrams are counted for so long before the rate is judged: some 160 at the lowest of the rates above, few enough to follow a
/// burst.
const WINDOW: Duration = Duration::from_millis(10);

/// Less is not worth the system call.
const SHORTEST_PAUSE: Duration = Duration::from_micros(50);

/// Turns in which pauses are tried before they are judged.
const TRIAL_TURNS: u32 = 8;

/// What a turn must carry on average for pauses to go on: a closed loop has one or two under way.
const PAYING: u32 = 3;

/// After pauses did not pay they are not tried again for so long: eight turns of a closed loop in each second are late.
const REST: Duration = Duration::from_secs(1);

/// Decides on pauses of one worker.
#[derive(Debug, Clone)]
pub struct Moderation {
    window: Instant,
    in_window: u64,
    /// What the last full window allows; zero: the rate is low.
    pause: Duration,
    /// A turn that carries so many is followed by the next at once.
    full: usize,
    /// Turns after a pause since the trial began, and what they carried.
    turns: u32,
    carried: u32,
    rest_until: Option<Instant>,
}

impl Moderation {
    /// A worker that has seen nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            window: now,
            in_window: 0,
            pause: Duration::ZERO,
            full: 0,
            turns: 0,
            carried: 0,
            rest_until: None,
        }
    }

    /// A turn carried so many datagrams; how long to pause before the next one. Zero: not at all.
    pub fn after_turn(&mut self, now: Instant, datagrams: usize) -> Duration {
        self.in_window += datagrams as u64;
        let elapsed = now.saturating_duration_since(self.window);
        if elapsed >= WINDOW {
            (self.pause, self.full) = pause_at(self.in_window, elapsed);
            (self.window, self.in_window) = (now, 0);
        }
        if self.pause.is_zero() || self.rest_until.is_some_and(|until| now < until) {
            (self.turns, self.carried) = (0, 0);
            return Duration::ZERO;
        }
        self.judge(now, datagrams);
        if datagrams >= self.full || self.rest_until.is_some() { Duration::ZERO } else { self.pause }
    }

    /// Whether the pauses of the last turns brought enough.
    fn judge(&mut self, now: Instant, datagrams: usize) {
        self.rest_until = None;
        self.turns += 1;
        self.carried = self.carried.saturating_add(u32::try_from(datagrams).unwrap_or(u32::MAX));
        // The first turn had no pause before it.
        if self.turns > TRIAL_TURNS {
            if self.carried < PAYING * self.turns {
                self.rest_until = Some(now + REST);
            }
            (self.turns, self.carried) = (0, 0);
        }
    }
}

/// How long to pause at the rate of a window, and which turns are full; zero when the rate is low.
fn pause_at(datagrams: u64, elapsed: Duration) -> (Duration, usize) {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    let rate = datagrams.saturating_mul(1_000_000) / micros;
    let Some(tier) = TIERS.iter().find(|tier| rate >= tier.from) else { return (Duration::ZERO, 0) };
    // The lowest tier begins far above zero, so there were datagrams.
    let pause = Duration::from_micros(tier.wanted.saturating_mul(micros) / datagrams);
    (pause.clamp(SHORTEST_PAUSE, tier.longest), 2 * tier.wanted as usize)
}

#[cfg(test)]
mod tests;
