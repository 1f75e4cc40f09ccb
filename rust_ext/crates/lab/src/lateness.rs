//! How much later than due packets were handed over. A measurement taken while this is high says more about the machine than about the network.

use hdrhistogram::Histogram;

/// A packet handed over later than this counts as late, µs. The shortest WAN delays that matter here are some
/// milliseconds; an error of one is where a reader would begin to draw wrong conclusions.
pub const LATE_US: u64 = 1_000;

/// Largest lateness that is told apart, µs. A minute; more is the same news.
const MAX_US: u64 = 60_000_000;

/// Lateness of every packet since the last reset.
#[derive(Debug)]
pub struct Lateness {
    histogram: Histogram<u64>,
    late: u64,
}

/// What [`Lateness`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatenessSummary {
    /// Packets counted.
    pub packets: u64,
    /// Packets later than [`LATE_US`].
    pub late_packets: u64,
    /// Median, µs.
    pub p50_us: u64,
    /// 99th percentile, µs.
    pub p99_us: u64,
    /// Latest of all, µs.
    pub max_us: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_US, 2).expect("the bounds are constants in range");
        Self { histogram, late: 0 }
    }
}

impl Lateness {
    /// Notes one packet that was due at `due_ns` and handed over at `now_ns`.
    pub fn on_delivery(&mut self, due_ns: u64, now_ns: u64) {
        let late_us = now_ns.saturating_sub(due_ns) / 1_000;
        self.histogram.saturating_record(late_us.clamp(1, MAX_US));
        self.late += u64::from(late_us > LATE_US);
    }

    /// Forgets everything: a new measurement begins.
    pub fn reset(&mut self) {
        self.histogram.reset();
        self.late = 0;
    }

    /// Summary since the last reset.
    #[must_use]
    pub fn summary(&self) -> LatenessSummary {
        if self.histogram.is_empty() {
            return LatenessSummary::default();
        }
        LatenessSummary {
            packets: self.histogram.len(),
            late_packets: self.late,
            p50_us: self.histogram.value_at_quantile(0.5),
            p99_us: self.histogram.value_at_quantile(0.99),
            max_us: self.histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_packets_are_those_beyond_the_limit() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.summary(), LatenessSummary::default());
        for _ in 0..99 {
            lateness.on_delivery(1_000_000, 1_050_000);
        }
        lateness.on_delivery(1_000_000, 9_000_000);
        let summary = lateness.summary();
        assert_eq!((summary.packets, summary.late_packets, summary.p50_us), (100, 1, 50));
        assert!((8_000..8_100).contains(&summary.max_us), "{summary:?}");
        lateness.reset();
        assert_eq!(lateness.summary().packets, 0);
    }

    #[test]
    fn exactly_the_limit_is_not_late_and_early_is_zero() {
        let mut lateness = Lateness::default();
        lateness.on_delivery(0, LATE_US * 1_000);
        lateness.on_delivery(5_000, 1_000);
        assert_eq!(lateness.summary().late_packets, 0);
    }
}
