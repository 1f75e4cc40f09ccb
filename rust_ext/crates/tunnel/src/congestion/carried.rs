//! What a path has delivered, for those who come after: bytes acknowledged in windows of time, since the connection's packets take this path.
//! The model's own rate is no such measurement: it begins with what it was told.

use std::time::{Duration, Instant};

/// Long enough that acknowledgements which come in bundles even out.
const WINDOW: Duration = Duration::from_millis(250);

/// A window with less than the believed rate divided by this says nothing of how much the path carries. What is believed follows a path that
/// has become thinner within seconds.
const FULL_PART: u64 = 2;

/// What a connection's path has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Bytes a second that have arrived.
    pub bytes_per_second: u64,
    /// The path, or who else is on it, held the connection up, and not a lack of bytes to send.
    pub is_full: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    since: Option<Instant>,
    bytes: u64,
    is_limited: bool,
}

impl Carried {
    pub(crate) fn on_acked(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// An acknowledgement is complete; `is_limited`: nothing is known of how much more the path would carry. `most`: the rate that the model
    /// believes in, which acknowledgements that were held up on their way do not raise.
    pub(crate) fn on_end_of_acks(&mut self, now: Instant, is_limited: bool, most: u64) -> Option<Measured> {
        let since = *self.since.get_or_insert(now);
        self.is_limited |= is_limited;
        let time = now.saturating_duration_since(since);
        if time < WINDOW {
            return None;
        }
        let rate = (self.bytes as f64 / time.as_secs_f64()) as u64;
        // Much less than the rate that is believed in is a path that has just died, or a receiver that does not read: both pass.
        let is_full = !self.is_limited && rate >= most / FULL_PART;
        let measured = Measured { bytes_per_second: rate.min(most), is_full };
        // A pause is no window.
        let is_whole = time < WINDOW * 4 && measured.bytes_per_second > 0;
        *self = Self { since: Some(now), ..Self::default() };
        is_whole.then_some(measured)
    }

    /// Packets take another path.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    /// An acknowledgement of 1,000 bytes every millisecond; what is measured.
    fn carry(carried: &mut Carried, from: Instant, ms: u32, is_limited: bool, most: u64) -> Vec<Measured> {
        let acks = (0..ms).filter_map(|ms| {
            carried.on_acked(1_000);
            carried.on_end_of_acks(from + MS * ms, is_limited, most)
        });
        acks.collect()
    }

    #[test]
    fn a_rate_is_measured_four_times_a_second_and_never_above_what_is_believed() {
        let (now, mut carried) = (start(), Carried::default());
        let all = carry(&mut carried, now, 1_001, false, 1_100_000);
        assert_eq!(all.len(), 4);
        assert!(
            all.iter().all(|one| one.is_full && (990_000..=1_010_000).contains(&one.bytes_per_second)),
            "{all:?}"
        );
        carried.restart();
        let all = carry(&mut carried, now, 300, false, 400_000);
        assert_eq!(all, [Measured { bytes_per_second: 400_000, is_full: true }]);
    }

    #[test]
    fn with_little_to_send_it_says_so_and_a_pause_says_nothing() {
        let (now, mut carried) = (start(), Carried::default());
        assert!(carry(&mut carried, now, 300, true, 1_000_000).iter().all(|one| !one.is_full));
        carried.restart();
        carry(&mut carried, now, 10, false, u64::MAX);
        assert_eq!(carry(&mut carried, now + MS * 5_000, 1, false, u64::MAX), []);
    }

    #[test]
    fn a_path_that_dies_is_not_taken_for_a_thin_one() {
        let (now, mut carried) = (start(), Carried::default());
        let all = carry(&mut carried, now, 300, false, 20_000_000);
        assert_eq!(all, [Measured { is_full: false, ..all[0] }]);
    }
}
