//! How large a packet one path of ours carries, found with padded hellos (in the manner of RFC 8899), and whether it has begun to drop large ones.
//!
//! Every fifth hello is padded. It is as long as the largest packet known to pass, to see that it still does; or a rung longer, while there is
//! one to try. Loss alone is no proof: a padded hello counts as too large only where small ones beside it were heard, and three in a row
//! must be. Sizes are those of what stands behind the outer header, as `l4proxy_tunnel` counts them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::sequence::ahead;

/// Sizes that are tried, in bytes. The first is what QUIC needs to work at all (RFC 9000, section 14); 1,350 and 1,400 pass common access
/// tunnels; the last is 1,500 less IPv6 and UDP (48) and the longest outer header (28).
const RUNGS: [u16; 5] = [1_200, 1_280, 1_350, 1_400, 1_424];

/// Every so manieth hello is padded: 4 a second and path.
const PADDED_EVERY: u32 = 5;

/// So many in a row that are missing among small ones that were heard.
const MISSES: u32 = 3;

/// So many in a row after which a path that dropped all large packets is trusted with them again.
const HITS: u32 = 3;

/// A larger size is not tried again for so long: paths seldom grow.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// A hello may still come when this many later ones have come.
const UNSETTLED: u32 = 4;

/// Padded hellos whose fate is open; more are on their way over no path.
const MAX_OPEN: usize = 32;

/// How many hellos a report names.
const REPORTED: u32 = 32;

/// What is known of one path.
#[derive(Debug)]
pub(super) struct PathMtu {
    /// The largest rung that passes.
    rung: usize,
    misses: u32,
    hits: u32,
    /// Misses of the next rung.
    tries: u32,
    /// No larger size is tried before.
    retry_at: Option<Instant>,
    /// Not even the smallest passes, and small packets do.
    drops_large: bool,
    /// Padded hellos on their way: sequence, rung.
    open: VecDeque<(u32, usize)>,
}

impl PathMtu {
    pub(super) const fn new() -> Self {
        Self {
            rung: 0,
            misses: 0,
            hits: 0,
            tries: 0,
            retry_at: None,
            drops_large: false,
            open: VecDeque::new(),
        }
    }

    /// The largest packet that passes, as far as is known, in bytes.
    pub(super) const fn size(&self) -> u16 {
        RUNGS[self.rung]
    }

    /// Whether large packets are dropped although small ones pass.
    pub(super) const fn drops_large(&self) -> bool {
        self.drops_large
    }

    /// How long the hello `sequence` is to be, if it is to be padded.
    pub(super) fn on_sent(&mut self, now: Instant, sequence: u32) -> Option<u16> {
        if !sequence.is_multiple_of(PADDED_EVERY) {
            return None;
        }
        let may_grow = self.rung + 1 < RUNGS.len() && !self.drops_large;
        let is_time = self.retry_at.is_none_or(|at| at <= now);
        // What passes is looked after in between, and first when that is in doubt.
        let is_sure = self.misses == 0 && self.hits > 0;
        let is_try = may_grow && is_time && is_sure && (sequence / PADDED_EVERY).is_multiple_of(2);
        let rung = if is_try { self.rung + 1 } else { self.rung };
        if self.open.len() == MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back((sequence, rung));
        Some(RUNGS[rung])
    }

    /// Takes a report: `newest` was heard, and of the 31 before it those whose bits are set. Says whether large packets
    /// have begun, or ceased, to be dropped.
    pub(super) fn on_report(&mut self, now: Instant, newest: u32, heard: u32) -> bool {
        let dropped_large = self.drops_large;
        let is_heard = |sequence: u32| {
            ahead(newest, sequence).is_some_and(|back| back < REPORTED && heard & (1 << back) != 0)
        };
        let open = std::mem::take(&mut self.open);
        for (sequence, rung) in open {
            let Some(back) = ahead(newest, sequence) else {
                self.open.push_back((sequence, rung));
                continue;
            };
            if is_heard(sequence) {
                self.on_hit(rung);
            } else if back < UNSETTLED {
                self.open.push_back((sequence, rung));
            } else if (1..UNSETTLED).all(|later| is_heard(sequence.wrapping_add(later))) {
                self.on_miss(now, rung);
            }
        }
        dropped_large != self.drops_large
    }

    fn on_hit(&mut self, rung: usize) {
        if rung > self.rung {
            (self.rung, self.tries, self.misses, self.hits) = (rung, 0, 0, 0);
        }
        if rung == self.rung {
            self.misses = 0;
            self.hits += 1;
            if self.hits >= HITS {
                self.drops_large = false;
            }
        }
    }

    fn on_miss(&mut self, now: Instant, rung: usize) {
        if rung > self.rung {
            self.tries += 1;
            if self.tries >= MISSES {
                (self.tries, self.retry_at) = (0, Some(now + RETRY_AFTER));
            }
        } else if rung == self.rung {
            self.hits = 0;
            self.misses += 1;
            if self.misses >= MISSES {
                // From the bottom up again: what the path carries now may be anything.
                self.drops_large |= self.rung == 0;
                (self.rung, self.misses, self.tries, self.retry_at) = (0, 0, 0, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A path that carries packets up to `limit` bytes and loses others where `is_lost` says so. Reports come at once.
    struct Path {
        mtu: PathMtu,
        start: Instant,
        sent: u32,
        heard: u64,
        /// Hellos after which the size changed.
        changes: Vec<u32>,
    }

    impl Path {
        fn new() -> Self {
            Self { mtu: PathMtu::new(), start: start(), sent: 0, heard: 0, changes: Vec::new() }
        }

        fn run(&mut self, seconds: u32, limit: u16, is_lost: impl Fn(u32) -> bool) {
            for _ in 0..seconds * 20 {
                let (sequence, now) = (self.sent, self.start + Duration::from_millis(50) * self.sent);
                let size = self.mtu.on_sent(now, sequence).unwrap_or(96);
                self.sent += 1;
                let is_heard = size <= limit && !is_lost(sequence);
                self.heard = self.heard << 1 | u64::from(is_heard);
                let (size, dropped_large) = (self.mtu.size(), self.mtu.drops_large());
                if is_heard {
                    let has_changed = self.mtu.on_report(now, sequence, self.heard as u32);
                    assert_eq!(has_changed, dropped_large != self.mtu.drops_large());
                }
                if self.mtu.size() != size {
                    self.changes.push(sequence);
                }
            }
        }
    }

    #[test]
    fn a_path_of_1500_bytes_is_found_within_three_seconds() {
        let mut path = Path::new();
        path.run(3, 1_424, |_| false);
        assert_eq!((path.mtu.size(), path.mtu.drops_large()), (1_424, false));
        assert_eq!(path.changes.len(), RUNGS.len() - 1);
    }

    #[test]
    fn a_narrower_path_gets_what_it_carries_and_is_tried_again_after_a_minute() {
        let mut path = Path::new();
        path.run(10, 1_399, |_| false);
        assert_eq!((path.mtu.size(), path.mtu.drops_large()), (1_350, false));
        path.run(50, 1_424, |_| false);
        assert_eq!(path.mtu.size(), 1_350, "not yet");
        path.run(20, 1_424, |_| false);
        assert_eq!(path.mtu.size(), 1_424);
    }

    #[test]
    fn a_black_hole_is_found_within_two_seconds_and_small_packets_go_on() {
        let mut path = Path::new();
        path.run(10, 1_424, |_| false);
        path.changes.clear();
        path.run(2, 1_300, |_| false);
        assert_eq!((path.changes[0] - 200 <= 20, path.mtu.drops_large()), (true, false));
        path.run(3, 1_300, |_| false);
        assert_eq!(path.mtu.size(), 1_280);
    }

    #[test]
    fn a_path_that_drops_all_large_packets_is_found_and_forgiven_when_it_does_not() {
        let mut path = Path::new();
        path.run(10, 1_424, |_| false);
        path.run(3, 1_000, |_| false);
        assert!(path.mtu.drops_large());
        assert_eq!(path.mtu.size(), 1_200);
        path.run(2, 1_424, |_| false);
        assert!(!path.mtu.drops_large());
        path.run(3, 1_424, |_| false);
        assert_eq!(path.mtu.size(), 1_424);
    }

    #[test]
    fn loss_of_every_size_is_no_black_hole() {
        let mut path = Path::new();
        path.run(10, 1_424, |_| false);
        // Bursts that take a padded hello and the one after it.
        path.run(60, 1_424, |sequence| sequence % 5 < 2);
        assert_eq!((path.mtu.size(), path.mtu.drops_large()), (1_424, false));
        // Silence.
        path.run(10, 1_424, |_| true);
        path.run(1, 1_424, |_| false);
        assert_eq!((path.mtu.size(), path.mtu.drops_large()), (1_424, false));
    }

    #[test]
    fn what_is_open_is_bounded() {
        let mut path = Path::new();
        path.run(600, 1_424, |_| true);
        assert_eq!(path.mtu.open.len(), MAX_OPEN);
    }
}
