//! Sequence numbers of hellos and probes: where they begin, how they compare, and which of the latest have been received.

use std::time::{Duration, Instant};

/// Hellos and probes of one path or link are at least this far apart: 20 Hz, the fastest that DESIGN allows.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// A new path or link begins with the number of these since the process started. Half of [`MIN_INTERVAL`]: sequences that are used up
/// at 20 Hz never overtake it, so whatever begins later begins higher, without remembering what was used before.
const FIRST_SEQUENCE_STEP: Duration = Duration::from_millis(25);

/// How many sequences, from the newest down, are told apart.
pub(crate) const WINDOW: u32 = u64::BITS;

/// Where something that begins at `now` begins to count, when the process began at `origin`.
pub(crate) fn first_sequence(origin: Instant, now: Instant) -> u32 {
    // Modulo 2³² is meant: sequences compare in a circle.
    (now.saturating_duration_since(origin).as_millis() / FIRST_SEQUENCE_STEP.as_millis()) as u32
}

/// How far `newer` is ahead of `older` in the circle of 2³²; `None` when it is behind.
pub(crate) const fn ahead(newer: u32, older: u32) -> Option<u32> {
    let distance = newer.wrapping_sub(older);
    if distance < 1 << 31 { Some(distance) } else { None }
}

/// Which of the latest sequences have been received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    newest: u32,
    /// Bit *i*: `newest − i`.
    bits: u64,
}

impl Received {
    pub(crate) const fn first(sequence: u32) -> Self {
        Self { newest: sequence, bits: 1 }
    }

    /// Notes a sequence; `false` when it was there already, or is too old to tell.
    pub(crate) fn accept(&mut self, sequence: u32) -> bool {
        if let Some(distance) = ahead(sequence, self.newest) {
            if distance == 0 {
                return false;
            }
            self.bits = self.bits.checked_shl(distance).unwrap_or(0) | 1;
            self.newest = sequence;
            return true;
        }
        let age = self.newest.wrapping_sub(sequence);
        if age >= WINDOW || self.bits >> age & 1 == 1 {
            return false;
        }
        self.bits |= 1 << age;
        true
    }

    pub(crate) const fn newest(&self) -> u32 {
        self.newest
    }

    /// Bit *i*: `newest − i` was received; of the latest 32.
    pub(crate) const fn latest_bits(&self) -> u32 {
        self.bits as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_recent_ones_once(start: u32, steps in prop::collection::vec(-70_i32..70, 1..200)) {
            let mut received = Received::first(start);
            let mut seen = BTreeSet::from([0_i64]);
            let (mut at, mut newest) = (0_i64, 0_i64);
            for step in steps {
                at += i64::from(step);
                let is_fresh = at > newest - i64::from(WINDOW) && !seen.contains(&at);
                prop_assert_eq!(received.accept(start.wrapping_add(at as u32)), is_fresh);
                if is_fresh {
                    seen.insert(at);
                    newest = newest.max(at);
                }
                prop_assert_eq!(received.newest(), start.wrapping_add(newest as u32));
                for i in 0..32 {
                    prop_assert_eq!(received.latest_bits() >> i & 1 == 1, seen.contains(&(newest - i)));
                }
            }
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn what_begins_later_begins_above_what_was_used_at_twenty_hertz() {
        let origin = Instant::now();
        let begun = first_sequence(origin, origin + Duration::from_millis(990));
        for seconds in 1..100_u32 {
            let now = origin + Duration::from_millis(990) + Duration::from_secs(seconds.into());
            assert!(ahead(first_sequence(origin, now), begun + 20 * seconds).is_some_and(|by| by > 0));
        }
    }
}
