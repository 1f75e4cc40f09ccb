//! Latencies as a histogram: every value counts, within 0.1 %.

use hdrhistogram::Histogram;

/// The longest latency that is told apart; whatever is longer counts as this.
const LONGEST_NS: u64 = 60_000_000_000;
/// Significant decimal digits of every value.
const DIGITS: u8 = 3;

/// Latencies of one kind.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// The figures that are reported, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantiles {
    /// How many there are. All other figures are 0 when there are none.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Half are not above this.
    pub p50: f64,
    /// 90 % are not above this.
    pub p90: f64,
    /// 99 % are not above this.
    pub p99: f64,
    /// 99.9 % are not above this.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS);
        Self(histogram.expect("1 ≤ 60 s and 3 digits are within the library's bounds"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record_ns(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// The figures so far.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let at =
            |quantile| if self.0.is_empty() { 0.0 } else { microseconds(self.0.value_at_quantile(quantile)) };
        Quantiles {
            count: self.0.len(),
            min: if self.0.is_empty() { 0.0 } else { microseconds(self.0.min()) },
            mean: self.0.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: if self.0.is_empty() { 0.0 } else { microseconds(self.0.max()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut latencies = Latencies::default();
        for microseconds in 1..=1000 {
            latencies.record_ns(microseconds * 1000);
        }
        let figures = latencies.quantiles();
        assert_eq!(figures.count, 1000);
        for (figure, expected) in [
            (figures.min, 1.0),
            (figures.mean, 500.5),
            (figures.p50, 500.0),
            (figures.p90, 900.0),
            (figures.p99, 990.0),
            (figures.p999, 999.0),
            (figures.max, 1000.0),
        ] {
            assert!((figure - expected).abs() <= expected * 1e-3, "{figure} {expected}");
        }
    }

    #[test]
    fn no_value_gives_zeros_and_a_huge_one_is_bounded() {
        let mut latencies = Latencies::default();
        let nothing =
            Quantiles { count: 0, min: 0.0, mean: 0.0, p50: 0.0, p90: 0.0, p99: 0.0, p999: 0.0, max: 0.0 };
        assert_eq!(latencies.quantiles(), nothing);
        latencies.record_ns(u64::MAX);
        let max = latencies.quantiles().max;
        assert!((max - 60e6).abs() < 60e6 * 2e-3, "{max}");
    }
}
