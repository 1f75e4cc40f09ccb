//! How good one path of ours is while it lives: how many of its latest hellos were lost, and whether that is enough to copy what goes over it,
//! or to leave it. Whether it lives at all is decided in `path`.
//!
//! Three grades, each with a threshold to enter it and a lower one, held for ten seconds, to leave it:
//! *lossy* (two in a hundred): apps that asked for it have their datagrams copied onto a second path; *grey* (twenty in a hundred, or
//! twelve times in a hundred): any other path that is not grey is better. Loss while packets wait in a queue may be made by our own load: copies would add to it, so a path does not
//! become lossy then.

use std::time::{Duration, Instant};

use crate::sequence::ahead;

/// The latest hellos that count: five seconds of them.
const WINDOW: u32 = 100;

/// A hello may still come when this many later ones have come.
const UNSETTLED: u32 = 4;

/// What is remembered of hellos: the window, and what is on its way over a long path.
const KEPT: u32 = 128;

/// A report names this many hellos.
const REPORTED: u32 = 32;

const LOSSY_FROM: u32 = 2;
const LOSSY_UNTIL: u32 = 0;

/// Two losses in so few hellos are no measure yet.
const LOSSY_LEAST_WINDOW: u32 = 40;

/// Five bursts of four hellos within five seconds: at an average of one percent of loss they come together once in some hundred hours.
const GREY_FROM: u32 = 20;

/// So many separate losses, single or in bursts, are enough as well: one packet in five lost at random makes 16, one in twenty five.
const GREY_RUNS: u32 = 12;
const GREY_UNTIL: u32 = 5;

/// A grade is left when it has been better for so long: a path that is bad every few seconds is bad.
const HOLD: Duration = Duration::from_secs(10);

/// A grade with its hysteresis.
#[derive(Clone, Copy, Debug, Default)]
struct Grade {
    is_on: bool,
    /// Since when it has been as good as it must be to leave the grade.
    better_since: Option<Instant>,
}

impl Grade {
    /// Whether this has changed it.
    fn update(&mut self, now: Instant, enters: bool, leaves: bool) -> bool {
        if !self.is_on {
            self.is_on = enters;
            self.better_since = None;
            return enters;
        }
        if !leaves {
            self.better_since = None;
            return false;
        }
        let since = *self.better_since.get_or_insert(now);
        self.is_on = now.saturating_duration_since(since) < HOLD;
        !self.is_on
    }
}

/// What became of the latest hellos of a path.
#[derive(Debug)]
pub(super) struct Quality {
    /// Bit *sequence* modulo [`KEPT`]: it was heard.
    heard: u128,
    /// The first sequence that counts.
    from: u32,
    next_sequence: u32,
    reported: Option<u32>,
    lossy: Grade,
    grey: Grade,
}

impl Quality {
    pub(super) const fn new(first_sequence: u32) -> Self {
        let grade = Grade { is_on: false, better_since: None };
        Self {
            heard: 0,
            from: first_sequence,
            next_sequence: first_sequence,
            reported: None,
            lossy: grade,
            grey: grade,
        }
    }

    /// A hello goes out.
    pub(super) fn on_sent(&mut self, sequence: u32) {
        self.heard &= !bit(sequence);
        self.next_sequence = sequence.wrapping_add(1);
    }

    /// The path was dead: only hellos from `sequence` on count.
    pub(super) fn restart(&mut self, sequence: u32) {
        self.from = sequence;
    }

    /// Takes the newest report; says whether a grade has changed.
    pub(super) fn on_report(&mut self, now: Instant, newest: u32, heard: u32, is_queueing: bool) -> bool {
        let is_gap = self.reported.and_then(|last| ahead(newest, last)).is_some_and(|by| by >= REPORTED);
        if is_gap {
            // Nobody has said what became of those in between.
            self.from = newest.wrapping_sub(REPORTED - 1);
        }
        self.reported = Some(newest);
        for back in (0..REPORTED).filter(|back| heard & (1 << back) != 0) {
            let sequence = newest.wrapping_sub(back);
            if ahead(self.next_sequence, sequence).is_some_and(|by| by > 0 && by <= KEPT) {
                self.heard |= bit(sequence);
            }
        }
        let Some((lost, of)) = self.lost() else { return false };
        let is_lossy = lost >= LOSSY_FROM && of >= LOSSY_LEAST_WINDOW && !is_queueing;
        let has_lossy_changed = self.lossy.update(now, is_lossy, lost == LOSSY_UNTIL && of == WINDOW);
        let is_grey = lost >= GREY_FROM || self.runs(of) >= GREY_RUNS;
        let has_grey_changed = self.grey.update(now, is_grey, lost <= GREY_UNTIL && of == WINDOW);
        has_lossy_changed || has_grey_changed
    }

    /// How many of the latest hellos were lost, and of how many; `None` before there was any.
    pub(super) fn lost(&self) -> Option<(u32, u32)> {
        let newest = self.reported?.wrapping_sub(UNSETTLED);
        let room = KEPT.saturating_sub(self.next_sequence.wrapping_sub(newest));
        let since = ahead(newest, self.from)? + 1;
        let of = since.min(WINDOW).min(room);
        let heard = (0..of).filter(|back| self.heard & bit(newest.wrapping_sub(*back)) != 0).count() as u32;
        (of > 0).then_some((of - heard, of))
    }

    /// How many times one or more in a row of the latest `of` hellos were lost.
    fn runs(&self, of: u32) -> u32 {
        let Some(newest) = self.reported.map(|newest| newest.wrapping_sub(UNSETTLED)) else { return 0 };
        let is_lost = |back: u32| self.heard & bit(newest.wrapping_sub(back)) == 0;
        (0..of).filter(|&back| is_lost(back) && (back + 1 == of || !is_lost(back + 1))).count() as u32
    }

    pub(super) const fn is_lossy(&self) -> bool {
        self.lossy.is_on
    }

    pub(super) const fn is_grey(&self) -> bool {
        self.grey.is_on
    }
}

const fn bit(sequence: u32) -> u128 {
    1 << (sequence % KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A path whose hellos are lost where `is_lost` says so; each that is heard is reported at once.
    struct Path {
        quality: Quality,
        start: Instant,
        sent: u32,
        heard: u64,
        changes: Vec<u32>,
    }

    impl Path {
        fn new() -> Self {
            Self { quality: Quality::new(0), start: start(), sent: 0, heard: 0, changes: Vec::new() }
        }

        fn run(&mut self, count: u32, is_queueing: bool, is_lost: impl Fn(u32) -> bool) {
            for _ in 0..count {
                let sequence = self.sent;
                self.quality.on_sent(sequence);
                self.sent += 1;
                self.heard = self.heard << 1 | u64::from(!is_lost(sequence));
                let now = self.start + Duration::from_millis(50) * sequence;
                if self.heard & 1 == 1
                    && self.quality.on_report(now, sequence, self.heard as u32, is_queueing)
                {
                    self.changes.push(sequence);
                }
            }
        }

        fn grades(&self) -> (bool, bool) {
            (self.quality.is_lossy(), self.quality.is_grey())
        }
    }

    #[test]
    fn a_clean_path_has_no_grade_and_one_loss_makes_none() {
        let mut path = Path::new();
        path.run(1_000, false, |sequence| sequence == 500);
        assert_eq!((path.grades(), path.changes.len()), ((false, false), 0));
    }

    #[test]
    fn two_in_a_hundred_are_lossy_until_ten_seconds_after_the_last() {
        let mut path = Path::new();
        path.run(300, false, |sequence| [250, 270].contains(&sequence));
        assert_eq!(path.grades(), (true, false));
        assert_eq!(path.quality.lost(), Some((2, WINDOW)));
        // The window is clean again 100 + 4 after the last loss, and stays so for 200 more.
        path.run(400, false, |_| false);
        assert_eq!(path.grades(), (false, false));
        assert_eq!(path.changes, [274, 270 + WINDOW + UNSETTLED + 200]);
    }

    #[test]
    fn loss_while_packets_queue_makes_no_path_lossy_but_it_may_be_grey() {
        let mut path = Path::new();
        path.run(300, true, |sequence| sequence % 5 == 4);
        assert_eq!(path.grades(), (false, true));
    }

    #[test]
    fn one_in_five_is_grey_within_five_seconds_and_five_in_a_hundred_keep_it_so() {
        let mut path = Path::new();
        path.run(200, false, |_| false);
        path.run(100, false, |sequence| sequence % 5 == 4);
        assert!(path.quality.is_grey());
        path.run(1_000, false, |sequence| sequence % 16 == 0);
        assert!(path.quality.is_grey());
        path.run(400, false, |sequence| sequence % 25 == 0);
        assert!(!path.quality.is_grey());
    }

    #[test]
    fn what_no_report_names_is_no_loss() {
        let mut path = Path::new();
        path.run(150, false, |_| false);
        // Reports stop for a hundred hellos that were all heard.
        for _ in 0..100 {
            path.quality.on_sent(path.sent);
            path.sent += 1;
        }
        path.heard = u64::MAX;
        path.run(100, false, |_| false);
        assert_eq!((path.grades(), path.changes.len()), ((false, false), 0));
    }

    #[test]
    fn a_path_that_comes_back_begins_afresh() {
        let mut path = Path::new();
        path.run(100, false, |sequence| (50..90).contains(&sequence));
        assert!(path.quality.is_grey());
        path.quality.restart(100);
        path.run(50, false, |_| false);
        assert_eq!(path.quality.lost(), Some((0, 50 - UNSETTLED)));
    }
}
