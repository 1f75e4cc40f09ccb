//! When a bulk flow is looked at by the clock, instead of its sockets telling of every few segments.
//!
//! A fast flow wakes its worker thousands of times a second, each time for what a few segments brought. Looked at every [`INTERVAL`], it
//! moves as much with fewer wake-ups, and other flows of the worker do not wait for it, as they would if the worker slept. What a network
//! card's driver does with its interrupts, one layer higher. No clock and no socket here: the worker says when and how much.

use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How often a polled flow is looked at: bulk that waits for so long has lost nothing that a long path would not cost a hundred times, and
/// its sender's window covers it.
pub const INTERVAL: Duration = Duration::from_micros(400);

/// Wake-ups are counted for so long before their rate is judged.
const WINDOW: Duration = Duration::from_millis(4);

/// So many turns in a window, each with [`FULL_TURN`] or more, and polling saves wake-ups: it makes ten in the same time.
const BUSY_TURNS: u16 = 16;

/// Turns with less are not what bulk looks like: they may be questions whose answers somebody waits for. Bytes.
const FULL_TURN: usize = 8 * 1024;

/// Polls in a row with less than a full turn that end the polling: a receiver that is not scheduled for a millisecond is no change.
const POOR_POLLS: u8 = 4;

/// One flow's.
#[derive(Debug, Clone)]
pub struct Coalescing {
    window: Instant,
    turns: u16,
    poor: u8,
    is_polled: bool,
}

impl Coalescing {
    /// A flow that tells by itself.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { window: now, turns: 0, poor: 0, is_polled: false }
    }

    /// Whether the flow is looked at by the clock.
    #[must_use]
    pub const fn is_polled(&self) -> bool {
        self.is_polled
    }

    /// The flow was woken and moved so many bytes; whether polling it would save wake-ups.
    pub fn on_turn(&mut self, now: Instant, bytes: usize) -> bool {
        let elapsed = now.saturating_duration_since(self.window);
        if bytes < FULL_TURN || elapsed > WINDOW {
            (self.window, self.turns) = (now, 0);
        }
        self.turns += u16::from(bytes >= FULL_TURN);
        self.turns >= BUSY_TURNS
    }

    /// The flow is polled from here on.
    pub const fn start(&mut self) {
        (self.is_polled, self.turns, self.poor) = (true, 0, 0);
    }

    /// The flow was looked at and moved so many bytes; whether polling goes on.
    pub fn on_poll(&mut self, now: Instant, bytes: usize) -> bool {
        self.poor = if bytes < FULL_TURN { self.poor + 1 } else { 0 };
        if self.poor >= POOR_POLLS {
            self.stop(now);
        }
        self.is_polled
    }

    /// The flow tells by itself again.
    pub const fn stop(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}
