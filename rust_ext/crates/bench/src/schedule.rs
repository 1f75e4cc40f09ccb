//! When each message is due: evenly spaced, decided in advance, without drift.

use crate::error::BenchError;
use std::time::Duration;

/// Messages of one run at most: their numbers are 32 bits in the packet, and each takes a bit of memory.
pub const MAX_MESSAGES: u64 = 100_000_000;
/// The longest run. A generator that is forgotten must end by itself.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// A fixed schedule: message `i` is due `i / rate` seconds after the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    rate_per_s: f64,
    count: u32,
}

impl Schedule {
    /// All messages of `duration` at `rate_per_s`, at least one.
    ///
    /// # Errors
    /// A rate that is not positive, a duration of zero or over a day, or more than [`MAX_MESSAGES`].
    pub fn new(rate_per_s: f64, duration: Duration) -> Result<Self, BenchError> {
        let refuse = |option, reason: String| Err(BenchError::Option { option, reason });
        if !(rate_per_s.is_finite() && rate_per_s > 0.0) {
            return refuse("rate", format!("{rate_per_s} is not a positive number"));
        }
        if duration.is_zero() || duration > MAX_DURATION {
            return refuse(
                "duration",
                format!("{} s is not between 0 and {}", duration.as_secs_f64(), MAX_DURATION.as_secs()),
            );
        }
        let count = (rate_per_s * duration.as_secs_f64()).round().max(1.0);
        if count > MAX_MESSAGES as f64 {
            return refuse("rate", format!("{count} messages in one run are more than {MAX_MESSAGES}"));
        }
        Ok(Self { rate_per_s, count: count as u32 })
    }

    /// How many messages there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// When message `index` is due, in nanoseconds after the start. Computed afresh for each, so that no rounding adds up.
    #[must_use]
    pub fn due_ns(&self, index: u32) -> u64 {
        (f64::from(index) * 1e9 / self.rate_per_s) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_millionth_message_is_as_punctual_as_the_first() {
        let schedule = Schedule::new(30_000.0, Duration::from_secs(100)).unwrap();
        assert_eq!(schedule.count(), 3_000_000);
        assert_eq!(schedule.due_ns(0), 0);
        assert_eq!(schedule.due_ns(1), 33_333);
        assert_eq!(schedule.due_ns(30_000), 1_000_000_000);
        assert_eq!(schedule.due_ns(2_999_999), 99_999_966_666);
    }

    #[test]
    fn a_short_run_has_at_least_one_message() {
        assert_eq!(Schedule::new(0.1, Duration::from_secs(1)).unwrap().count(), 1);
    }

    #[test]
    fn what_has_no_end_or_no_sense_is_refused() {
        let second = Duration::from_secs(1);
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 2e8] {
            assert!(Schedule::new(rate, second).is_err(), "{rate}");
        }
        assert!(Schedule::new(1.0, Duration::ZERO).is_err());
        assert!(Schedule::new(1.0, MAX_DURATION + second).is_err());
        assert!(Schedule::new(1e8, second).is_ok());
    }
}
