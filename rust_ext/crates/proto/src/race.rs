//! Several addresses of one origin, tried one beside the other (RFC 8305 "Happy Eyeballs"): the next is begun when the last one has
//! not answered for a while or an earlier one failed; the first that connects wins. Pure: it says which to begin and which to give
//! up, and the owner of the sockets does it.

use std::time::{Duration, Instant};

/// RFC 8305 section 5, "Connection Attempt Delay": "a recommended value for a default delay is 250 milliseconds".
pub const STAGGER: Duration = Duration::from_millis(250);

/// The same: "MUST NOT be less than 10 milliseconds".
pub const MIN_STAGGER: Duration = Duration::from_millis(10);

/// Attempts under way at once. When another is due the oldest gives way: it had three staggers more than the one that follows it.
pub const MAX_AT_ONCE: usize = 4;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Give this attempt up, then ask again.
    GiveUp(usize),
    /// Begin this attempt, then ask again.
    Begin(usize),
    /// Nothing until then, unless an attempt ends before.
    Wait(Instant),
    /// All have failed, or the time is over: whatever is still under way is given up.
    Lost,
}

/// One race.
#[derive(Debug, Clone)]
pub struct Race {
    count: usize,
    /// Attempts that were begun.
    begun: usize,
    /// Those of them that are under way, oldest first.
    running: [usize; MAX_AT_ONCE],
    running_count: usize,
    stagger: Duration,
    next_at: Instant,
    until: Instant,
}

impl Race {
    /// A race of `count` attempts that has until `until`. Where time is short they follow each other faster.
    #[must_use]
    pub fn new(now: Instant, count: usize, until: Instant) -> Self {
        let share = until.saturating_duration_since(now) / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let stagger = share.clamp(MIN_STAGGER, STAGGER);
        Self { count, begun: 0, running: [0; MAX_AT_ONCE], running_count: 0, stagger, next_at: now, until }
    }

    /// What to do. Ask after every input until it says [`Step::Wait`] or [`Step::Lost`].
    pub fn poll(&mut self, now: Instant) -> Step {
        if now >= self.until || (self.running_count == 0 && self.begun == self.count) {
            return Step::Lost;
        }
        if self.begun == self.count {
            return Step::Wait(self.until);
        }
        if now < self.next_at {
            return Step::Wait(self.next_at.min(self.until));
        }
        if self.running_count == MAX_AT_ONCE {
            let oldest = self.running[0];
            self.remove(oldest);
            return Step::GiveUp(oldest);
        }
        let attempt = self.begun;
        self.begun += 1;
        self.running[self.running_count] = attempt;
        self.running_count += 1;
        self.next_at = now + self.stagger;
        Step::Begin(attempt)
    }

    /// An attempt that was begun has failed: the next need not wait.
    pub fn on_failed(&mut self, now: Instant, attempt: usize) {
        if self.remove(attempt) {
            self.next_at = now;
        }
    }

    /// False: it was not under way.
    fn remove(&mut self, attempt: usize) -> bool {
        let Some(place) = self.running[..self.running_count].iter().position(|&other| other == attempt)
        else {
            return false;
        };
        self.running.copy_within(place + 1..self.running_count, place);
        self.running_count -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn epoch() -> Instant {
        Instant::now()
    }

    /// Everything that is to be done at one moment, and then what it waits for.
    fn drain(race: &mut Race, now: Instant) -> (Vec<Step>, Step) {
        let mut steps = Vec::new();
        loop {
            match race.poll(now) {
                last @ (Step::Wait(_) | Step::Lost) => return (steps, last),
                step @ (Step::Begin(_) | Step::GiveUp(_)) => steps.push(step),
            }
        }
    }

    #[test]
    fn attempts_begin_a_stagger_apart_while_none_answers() {
        let start = epoch();
        let mut race = Race::new(start, 3, start + MS(5_000));
        assert_eq!(drain(&mut race, start), (vec![Step::Begin(0)], Step::Wait(start + MS(250))));
        assert_eq!(drain(&mut race, start + MS(249)), (vec![], Step::Wait(start + MS(250))));
        assert_eq!(drain(&mut race, start + MS(250)), (vec![Step::Begin(1)], Step::Wait(start + MS(500))));
        assert_eq!(drain(&mut race, start + MS(510)), (vec![Step::Begin(2)], Step::Wait(start + MS(5_000))));
        assert_eq!(drain(&mut race, start + MS(5_000)), (vec![], Step::Lost));
    }

    #[test]
    fn a_failure_brings_the_next_one_at_once() {
        let start = epoch();
        let mut race = Race::new(start, 3, start + MS(5_000));
        drain(&mut race, start);
        race.on_failed(start + MS(3), 0);
        assert_eq!(drain(&mut race, start + MS(3)), (vec![Step::Begin(1)], Step::Wait(start + MS(253))));
        race.on_failed(start + MS(4), 1);
        assert_eq!(drain(&mut race, start + MS(4)), (vec![Step::Begin(2)], Step::Wait(start + MS(5_000))));
        race.on_failed(start + MS(5), 2);
        assert_eq!(drain(&mut race, start + MS(5)), (vec![], Step::Lost));
    }

    #[test]
    fn a_failure_that_is_not_of_this_race_changes_nothing() {
        let start = epoch();
        let mut race = Race::new(start, 2, start + MS(5_000));
        drain(&mut race, start);
        race.on_failed(start + MS(1), 7);
        assert_eq!(drain(&mut race, start + MS(1)), (vec![], Step::Wait(start + MS(250))));
    }

    #[test]
    fn the_oldest_gives_way_when_as_many_as_may_are_under_way() {
        let start = epoch();
        let mut race = Race::new(start, 6, start + MS(5_000));
        let steps: Vec<_> = (0..6).flat_map(|turn| drain(&mut race, start + MS(250) * turn).0).collect();
        let begin = |range: std::ops::Range<usize>| range.map(Step::Begin).collect::<Vec<_>>();
        let expected =
            [begin(0..4), vec![Step::GiveUp(0), Step::Begin(4), Step::GiveUp(1), Step::Begin(5)]].concat();
        assert_eq!(steps, expected);
    }

    #[test]
    fn where_time_is_short_every_address_still_gets_its_turn() {
        let start = epoch();
        let mut race = Race::new(start, 4, start + MS(100));
        let steps: Vec<_> = (0..4).flat_map(|turn| drain(&mut race, start + MS(25) * turn).0).collect();
        assert_eq!(steps, (0..4).map(Step::Begin).collect::<Vec<_>>());
        assert_eq!(Race::new(start, 4, start + MS(8)).stagger, MIN_STAGGER);
        assert_eq!(drain(&mut Race::new(start, 0, start + MS(8)), start).1, Step::Lost);
    }

    proptest! {
        /// However attempts fail: each is begun at most once and in order, never more than the bound at once, and it always ends.
        #[test]
        fn a_race_is_bounded_and_ends(count in 0_usize..12, failures in proptest::collection::vec((0_u64..300, 0_usize..12), 0..40)) {
            let start = epoch();
            let until = start + MS(5_000);
            let mut race = Race::new(start, count, until);
            let (mut now, mut next, mut running) = (start, 0, Vec::new());
            for (after, failed) in failures.into_iter().chain([(5_000, 0)]) {
                loop {
                    match race.poll(now) {
                        Step::Begin(attempt) => {
                            prop_assert_eq!(attempt, next);
                            next += 1;
                            running.push(attempt);
                            prop_assert!(running.len() <= MAX_AT_ONCE);
                        }
                        Step::GiveUp(attempt) => {
                            prop_assert!(running.contains(&attempt));
                            running.retain(|other| *other != attempt);
                        }
                        Step::Wait(at) => { prop_assert!(at > now && at <= until); break }
                        Step::Lost => break,
                    }
                }
                race.on_failed(now, failed);
                running.retain(|other| *other != failed);
                now += MS(after);
            }
            prop_assert_eq!(race.poll(now), Step::Lost);
        }
    }
}
