//! What has been heard from one peer: over which of its paths, how recently, and what we say to it about that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use l4proxy_wire::DropReason;
use l4proxy_wire::hello::{Hello, MAX_REPORTS, Report, Reports};
use l4proxy_wire::ids::PathId;

use crate::keys::KeyGeneration;
use crate::liveness::path::LEAST_LATENESS;
use crate::liveness::{HEARD_MEMORY, INTERVAL, MAX_PATHS};
use crate::sequence::Received;

/// A hello sent this long before the newest one of the same peer is a replay: no two paths differ that much. Shorter than
/// [`HEARD_MEMORY`], so that a path that has been forgotten cannot be replayed either.
const MAX_SENT_SPREAD_US: u64 = 2_000_000;

/// When the table is full, a path unheard for this long makes room.
const EVICT_AFTER: Duration = Duration::from_secs(1);

/// After an own pause, paths that have not been heard since are reported again once we have listened for this long.
const LISTEN_BEFORE_REPORT: Duration = INTERVAL.saturating_mul(2);

/// A path that has been unheard for this long is reported at once: two hellos are missing, as soon as a suspicion needs them.
const URGENT_AGE: Duration = INTERVAL.saturating_mul(2).saturating_add(LEAST_LATENESS);

#[derive(Debug)]
struct HeardPath {
    received: Received,
    /// When the newest came.
    at: Instant,
    /// The silence since then has been reported out of turn.
    is_urged: bool,
}

/// One peer's hellos.
#[derive(Debug, Default)]
pub(super) struct Heard {
    generation: Option<KeyGeneration>,
    newest_sent_us: u64,
    /// When the last hello came.
    pub(super) last: Option<Instant>,
    paths: BTreeMap<PathId, HeardPath>,
    /// A path whose silence was reported out of turn has been heard again.
    is_back: bool,
    /// The path reported last, where more than four take turns.
    reported: Option<PathId>,
}

impl Heard {
    /// Takes one authenticated hello, or says why not.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        generation: KeyGeneration,
        hello: &Hello,
    ) -> Result<(), DropReason> {
        if self.generation.is_some_and(|known| generation < known) {
            return Err(DropReason::HelloReplayed);
        }
        if self.generation.is_none_or(|known| generation > known) {
            // The key of a new connection: the peer may have started again, with lower sequences and another clock.
            *self = Self { generation: Some(generation), last: self.last, ..Self::default() };
        }
        if hello.sent_us.saturating_add(MAX_SENT_SPREAD_US) < self.newest_sent_us {
            return Err(DropReason::HelloReplayed);
        }
        self.note(now, hello)?;
        self.newest_sent_us = self.newest_sent_us.max(hello.sent_us);
        self.last = Some(now);
        Ok(())
    }

    fn note(&mut self, now: Instant, hello: &Hello) -> Result<(), DropReason> {
        if let Some(path) = self.paths.get_mut(&hello.path) {
            if !path.received.accept(hello.sequence) {
                return Err(DropReason::HelloReplayed);
            }
            if path.received.newest() == hello.sequence {
                self.is_back |= path.is_urged;
                (path.at, path.is_urged) = (now, false);
            }
            return Ok(());
        }
        if self.paths.len() == MAX_PATHS {
            let oldest = self.paths.iter().min_by_key(|(_, path)| path.at);
            let unheard = oldest.filter(|(_, path)| now.saturating_duration_since(path.at) >= EVICT_AFTER);
            let id = *unheard.ok_or(DropReason::HelloFull)?.0;
            self.paths.remove(&id);
        }
        let received = Received::first(hello.sequence);
        self.paths.insert(hello.path, HeardPath { received, at: now, is_urged: false });
        Ok(())
    }

    /// When a path will have been unheard for so long that the peer should know at once.
    pub(super) fn urgent_at(&self, resumed: Option<Instant>) -> Option<Instant> {
        let waiting = self.paths.values().filter(|path| !path.is_urged);
        waiting.map(|path| resumed.map_or(path.at, |resumed| resumed.max(path.at)) + URGENT_AGE).min()
    }

    /// Whether a path has just been heard again whose silence was urgent; said once.
    pub(super) fn take_back(&mut self) -> bool {
        std::mem::take(&mut self.is_back)
    }

    /// Whether a path has just been unheard for so long; said once for each silence.
    pub(super) fn take_urgent(&mut self, now: Instant, resumed: Option<Instant>) -> bool {
        let mut is_urgent = false;
        for path in self.paths.values_mut().filter(|path| !path.is_urged) {
            let from = resumed.map_or(path.at, |resumed| resumed.max(path.at));
            path.is_urged = now.saturating_duration_since(from) >= URGENT_AGE;
            is_urgent |= path.is_urged;
        }
        is_urgent
    }

    /// Reports for the next hello to this peer. Up to four paths; more take turns. `resumed` is when our own last pause ended.
    pub(super) fn reports(&mut self, now: Instant, resumed: Option<Instant>) -> Reports {
        self.paths.retain(|_, path| now.saturating_duration_since(path.at) < HEARD_MEMORY);
        let mut reports = Reports::EMPTY;
        let after = self.reported;
        let turn = self.paths.iter().filter(|(id, _)| after.is_none_or(|last| **id > last));
        let again = self.paths.iter().filter(|(id, _)| after.is_some_and(|last| **id <= last));
        for (&id, path) in turn.chain(again).take(MAX_REPORTS) {
            self.reported = Some(id);
            if let Some(age) = listened(now, path.at, resumed) {
                reports.push(Report {
                    path: id,
                    sequence: path.received.newest(),
                    heard: path.received.latest_bits(),
                    age_us: u32::try_from(age.as_micros()).unwrap_or(u32::MAX),
                });
            }
        }
        reports
    }
}

/// How long we have listened since `heard`, not counting before the end of our own last pause. `None`: too short to be said.
fn listened(now: Instant, heard: Instant, resumed: Option<Instant>) -> Option<Duration> {
    match resumed.filter(|&resumed| resumed > heard) {
        None => Some(now.saturating_duration_since(heard)),
        Some(resumed) => {
            let listened = now.saturating_duration_since(resumed);
            (listened >= LISTEN_BEFORE_REPORT).then_some(listened)
        }
    }
}

#[cfg(test)]
mod tests {
    use l4proxy_wire::ids::PopId;

    use super::*;

    const KEY: KeyGeneration = KeyGeneration(1);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    fn hello(path: u32, sequence: u32, sent_ms: u64) -> Hello {
        let reports = Reports::EMPTY;
        Hello { source: PopId(1), path: PathId(path), sequence, sent_us: sent_ms * 1_000, reports }
    }

    #[test]
    fn a_report_has_the_newest_sequence_those_before_it_and_the_age() {
        let (now, mut heard) = (start(), Heard::default());
        for (at, sequence) in [(0, 10), (50, 11), (100, 13), (160, 12)] {
            heard.accept(now + ms(at), KEY, &hello(5, sequence, at)).unwrap();
        }
        let reports = heard.reports(now + ms(170), None);
        let expected = Report { path: PathId(5), sequence: 13, heard: 0b1111, age_us: 70_000 };
        assert_eq!(reports.as_slice(), [expected]);
        assert_eq!(heard.last, Some(now + ms(160)));
    }

    #[test]
    fn a_hello_counts_once() {
        let (now, mut heard) = (start(), Heard::default());
        let mut accept = |hello| heard.accept(now, KEY, &hello);
        assert_eq!(accept(hello(5, 100, 5_000)), Ok(()));
        assert_eq!(accept(hello(5, 100, 5_000)), Err(DropReason::HelloReplayed));
        assert_eq!(accept(hello(5, 36, 5_000)), Err(DropReason::HelloReplayed));
        assert_eq!(accept(hello(6, 7, 2_999)), Err(DropReason::HelloReplayed), "a forgotten path, replayed");
        assert_eq!(accept(hello(6, 7, 3_000)), Ok(()));
    }

    #[test]
    fn a_newer_key_begins_afresh_and_ends_the_older_one() {
        let (now, mut heard) = (start(), Heard::default());
        heard.accept(now, KEY, &hello(5, 9_000, 900_000)).unwrap();
        heard.accept(now, KeyGeneration(2), &hello(5, 1, 10)).unwrap();
        assert_eq!(heard.accept(now, KEY, &hello(5, 9_001, 900_050)), Err(DropReason::HelloReplayed));
        assert_eq!(heard.reports(now, None).as_slice()[0].sequence, 1);
    }

    #[test]
    fn more_than_four_paths_take_turns() {
        let (now, mut heard) = (start(), Heard::default());
        for path in 0..6 {
            heard.accept(now, KEY, &hello(path, 1, 0)).unwrap();
        }
        let mut next = || heard.reports(now, None).as_slice().iter().map(|r| r.path.0).collect::<Vec<_>>();
        assert_eq!(next(), [0, 1, 2, 3]);
        assert_eq!(next(), [4, 5, 0, 1]);
        assert_eq!(next(), [2, 3, 4, 5]);
    }

    #[test]
    fn an_unheard_path_is_reported_for_ten_seconds() {
        let (now, mut heard) = (start(), Heard::default());
        heard.accept(now, KEY, &hello(5, 1, 0)).unwrap();
        assert_eq!(heard.reports(now + ms(9_999), None).as_slice()[0].age_us, 9_999_000);
        assert_eq!(heard.reports(now + ms(10_000), None).as_slice(), []);
    }

    #[test]
    fn an_own_pause_is_no_part_of_an_age() {
        let (now, mut heard) = (start(), Heard::default());
        heard.accept(now, KEY, &hello(5, 1, 0)).unwrap();
        let resumed = Some(now + ms(3_000));
        assert_eq!(heard.reports(now + ms(3_099), resumed).as_slice(), []);
        assert_eq!(heard.reports(now + ms(3_100), resumed).as_slice()[0].age_us, 100_000);
        heard.accept(now + ms(3_100), KEY, &hello(5, 2, 50)).unwrap();
        assert_eq!(heard.reports(now + ms(3_110), resumed).as_slice()[0].age_us, 10_000);
    }

    #[test]
    fn a_silence_is_urgent_once_and_a_pause_is_no_part_of_it() {
        let (now, mut heard) = (start(), Heard::default());
        assert_eq!(heard.urgent_at(None), None);
        heard.accept(now, KEY, &hello(5, 1, 0)).unwrap();
        assert_eq!(heard.urgent_at(None), Some(now + ms(115)));
        assert!(!heard.take_urgent(now + ms(114), None));
        assert!(!heard.take_urgent(now + ms(115), Some(now + ms(50))));
        assert!(heard.take_urgent(now + ms(115), None));
        assert!(!heard.take_urgent(now + ms(200), None));
        assert_eq!(heard.urgent_at(None), None);
        heard.accept(now + ms(250), KEY, &hello(5, 6, 250)).unwrap();
        assert!(heard.take_urgent(now + ms(365), None));
    }

    #[test]
    fn a_full_table_refuses_until_a_path_has_been_unheard_for_a_second() {
        let (now, mut heard) = (start(), Heard::default());
        for path in 0..MAX_PATHS as u32 {
            heard.accept(now + ms(path.into()), KEY, &hello(path, 1, 0)).unwrap();
        }
        let late = hello(99, 1, 0);
        assert_eq!(heard.accept(now + ms(999), KEY, &late), Err(DropReason::HelloFull));
        assert_eq!(heard.accept(now + ms(1_000), KEY, &late), Ok(()));
        assert_eq!(heard.paths.len(), MAX_PATHS);
        assert!(!heard.paths.contains_key(&PathId(0)));
    }
}
