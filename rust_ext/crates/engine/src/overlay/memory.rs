//! What the paths to other PoPs have carried of late, and how long their round trips are: what a new connection starts from, and one that
//! moves to another path is told. Bounded, aged, without a clock. What a sender makes of it is decided in `tunnel::congestion`.
//!
//! The rules are those of draft-ietf-tsvwg-careful-resume and RFC 9040: what is remembered is what was seen and nothing above it, it gets
//! older and is worth less then, and the sender begins with half of it.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_tunnel::{Measured, PathHint};
use l4proxy_wire::ids::{PathId, PopId};

/// Paths that are remembered: more than forty each to a dozen peers.
const MAX_PATHS: usize = 512;

/// What was seen is worth half after this time, and half of that after as much again.
const HALVED_EVERY: Duration = Duration::from_secs(300);

/// And nothing after this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1800);

/// A lower rate replaces a higher one that is older: of several connections over one path, the one that gets most is believed.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// A round trip that was measured by hellos is believed for this long.
const RTT_FRESH: Duration = Duration::from_secs(60);

/// What a path of which nothing is known is sent at most (`tunnel::congestion`): a flow that never had more to send says that a path can carry
/// at least as much as it sent, which is worth knowing above this rate only. In bytes a second.
const WORTH_KNOWING: u64 = 12_500_000;

/// A rate that was seen, and when.
#[derive(Debug, Clone, Copy)]
struct Seen {
    bytes_per_second: u64,
    at: Instant,
}

#[derive(Debug)]
struct Remembered {
    /// What the path carried while there was more to send.
    full: Option<Seen>,
    /// What it carried at least.
    least: Option<Seen>,
    rtt: Option<(Duration, Instant)>,
    at: Instant,
}

/// What is remembered of every path.
#[derive(Debug, Default)]
pub(super) struct RouteMemory {
    paths: HashMap<(PopId, PathId), Remembered>,
    forgotten_early: u64,
}

impl RouteMemory {
    /// A connection has measured a path.
    pub(super) fn on_measured(&mut self, now: Instant, peer: PopId, path: PathId, measured: Measured) {
        let remembered = self.entry(now, peer, path);
        let seen = Seen { bytes_per_second: measured.bytes_per_second, at: now };
        if measured.is_full {
            let is_confirmed = remembered.full.is_some_and(|full| {
                full.bytes_per_second > seen.bytes_per_second
                    && now.saturating_duration_since(full.at) < CONFIRMED_WITHIN
            });
            if !is_confirmed {
                remembered.full = Some(seen);
            }
        }
        if remembered.least.is_none_or(|least| aged(now, least) <= seen.bytes_per_second) {
            remembered.least = Some(seen);
        }
    }

    /// Hellos have measured the round trip of a path.
    pub(super) fn on_round_trip(&mut self, now: Instant, peer: PopId, path: PathId, rtt: Duration) {
        self.entry(now, peer, path).rtt = Some((rtt, now));
    }

    /// What a connection over a path is told.
    pub(super) fn hint(&self, now: Instant, peer: PopId, path: PathId) -> PathHint {
        let Some(remembered) = self.paths.get(&(peer, path)) else { return PathHint::default() };
        let fresh = |at| now.saturating_duration_since(at) < RTT_FRESH;
        let full = remembered.full.map(|full| aged(now, full)).filter(|&rate| rate > 0);
        // What it carried at least, once that is more than what is sent anyway.
        let least = remembered.least.map(|least| aged(now, least)).filter(|&rate| rate > WORTH_KNOWING);
        PathHint {
            rtt: remembered.rtt.filter(|&(_, at)| fresh(at)).map(|(rtt, _)| rtt),
            bytes_per_second: full.max(least),
        }
    }

    /// Paths that were forgotten because others needed their place.
    pub(super) const fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    fn entry(&mut self, now: Instant, peer: PopId, path: PathId) -> &mut Remembered {
        if self.paths.len() >= MAX_PATHS && !self.paths.contains_key(&(peer, path)) {
            self.paths.retain(|_, path| now.saturating_duration_since(path.at) < FORGOTTEN_AFTER);
            if self.paths.len() >= MAX_PATHS
                && let Some(oldest) = self.paths.iter().min_by_key(|(_, path)| path.at).map(|(&key, _)| key)
            {
                self.paths.remove(&oldest);
                self.forgotten_early += 1;
            }
        }
        let remembered = self.paths.entry((peer, path)).or_insert(Remembered {
            full: None,
            least: None,
            rtt: None,
            at: now,
        });
        remembered.at = now;
        remembered
    }
}

/// What a rate is worth by now, in bytes a second.
fn aged(now: Instant, seen: Seen) -> u64 {
    let age = now.saturating_duration_since(seen.at);
    if age >= FORGOTTEN_AFTER {
        return 0;
    }
    seen.bytes_per_second >> (age.as_secs() / HALVED_EVERY.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PopId = PopId(7);
    const PATH: PathId = PathId(70);

    fn measured(bytes_per_second: u64, is_full: bool) -> Measured {
        Measured { bytes_per_second, is_full }
    }

    fn rate(memory: &RouteMemory, now: Instant) -> Option<u64> {
        memory.hint(now, PEER, PATH).bytes_per_second
    }

    #[test]
    fn what_a_path_carried_is_worth_half_after_five_minutes_and_nothing_after_thirty() {
        let (now, mut memory) = (Instant::now(), RouteMemory::default());
        assert_eq!(memory.hint(now, PEER, PATH), PathHint::default());
        memory.on_measured(now, PEER, PATH, measured(8_000_000, true));
        for (minutes, expected) in [
            (0, Some(8_000_000)),
            (4, Some(8_000_000)),
            (5, Some(4_000_000)),
            (10, Some(2_000_000)),
            (30, None),
        ] {
            assert_eq!(rate(&memory, now + Duration::from_secs(minutes * 60)), expected, "{minutes}");
        }
        assert_eq!(memory.hint(now, PopId(8), PATH), PathHint::default(), "another peer's");
    }

    #[test]
    fn a_path_that_carries_less_than_it_did_is_known_for_that_once_nobody_confirms_the_more() {
        let (now, mut memory) = (Instant::now(), RouteMemory::default());
        memory.on_measured(now, PEER, PATH, measured(8_000_000, true));
        memory.on_measured(now + Duration::from_secs(9), PEER, PATH, measured(3_000_000, true));
        assert_eq!(
            rate(&memory, now + Duration::from_secs(9)),
            Some(8_000_000),
            "another connection's share"
        );
        memory.on_measured(now + Duration::from_secs(10), PEER, PATH, measured(3_000_000, true));
        assert_eq!(rate(&memory, now + Duration::from_secs(10)), Some(3_000_000));
        memory.on_measured(now + Duration::from_secs(11), PEER, PATH, measured(5_000_000, true));
        assert_eq!(rate(&memory, now + Duration::from_secs(11)), Some(5_000_000));
    }

    #[test]
    fn a_flow_with_little_to_send_makes_no_path_a_thin_one() {
        let (now, mut memory) = (Instant::now(), RouteMemory::default());
        memory.on_measured(now, PEER, PATH, measured(50_000, false));
        assert_eq!(rate(&memory, now), None);
        memory.on_measured(now, PEER, PATH, measured(40_000_000, false));
        assert_eq!(rate(&memory, now), Some(40_000_000), "it carries as much at least");
        memory.on_measured(now, PEER, PATH, measured(60_000_000, true));
        assert_eq!(rate(&memory, now), Some(60_000_000));
    }

    #[test]
    fn round_trips_are_believed_for_a_minute() {
        let (now, mut memory) = (Instant::now(), RouteMemory::default());
        memory.on_round_trip(now, PEER, PATH, Duration::from_millis(80));
        let rtt = |later| memory.hint(now + Duration::from_secs(later), PEER, PATH).rtt;
        assert_eq!((rtt(59), rtt(60)), (Some(Duration::from_millis(80)), None));
    }

    #[test]
    fn a_full_memory_forgets_what_was_not_heard_of_for_longest_and_counts_it() {
        let (now, mut memory) = (Instant::now(), RouteMemory::default());
        let rtt = Duration::from_millis(1);
        for path in 0..MAX_PATHS as u32 {
            memory.on_round_trip(now + Duration::from_millis(path.into()), PEER, PathId(path), rtt);
        }
        memory.on_round_trip(now + Duration::from_secs(5), PEER, PathId(0), rtt);
        assert_eq!((memory.paths.len(), memory.forgotten_early()), (MAX_PATHS, 0));
        memory.on_round_trip(now + Duration::from_secs(6), PEER, PathId(99_999), rtt);
        assert_eq!((memory.paths.len(), memory.forgotten_early()), (MAX_PATHS, 1));
        assert!(!memory.paths.contains_key(&(PEER, PathId(1))), "the oldest");
        memory.on_round_trip(now + FORGOTTEN_AFTER * 2, PEER, PathId(88_888), rtt);
        assert_eq!(
            (memory.paths.len(), memory.forgotten_early()),
            (1, 1),
            "what is worth nothing goes first"
        );
    }
}
