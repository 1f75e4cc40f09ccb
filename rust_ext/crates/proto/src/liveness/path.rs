//! One path of ours, as we see it from the reports of the peer at its end: alive, dead or unknown.

use std::time::{Duration, Instant};

use l4proxy_wire::hello::Report;
use l4proxy_wire::ids::PathId;

use crate::liveness::mtu::PathMtu;
use crate::liveness::quality::Quality;
use crate::liveness::questions::Questions;
use crate::liveness::rtt::RoundTrips;
use crate::liveness::{INTERVAL, PathState};
use crate::sequence::{ahead, first_sequence};

/// How many hellos' times are kept: 3.2 s, more than any round trip.
const SENT_KEPT: usize = 64;

/// This many hellos that should have come one interval or more before a report was made, and had not: the path is dead.
/// Fewer would take a burst of loss for a cut; more would keep flows waiting.
const DEAD_MISSING: usize = 5;

/// This many: it is suspect. Two in a row are lost by chance once in ten thousand at one percent of loss, and a suspicion costs only copies.
const SUSPECT_MISSING: usize = 2;

/// How late a hello may be against the one before it without being missing: five times the jitter of a bad mobile link.
const LATENESS: Duration = INTERVAL;

/// The same where little jitter has been measured, for a suspicion: what a busy machine at either end may add.
pub(super) const LEAST_LATENESS: Duration = Duration::from_millis(15);

/// How many times the variation of its round trips a hello of a path may be late before it is missed, as in TCP's timer (RFC 6298,
/// section 2: "K = 4").
const LATENESS_VARIATIONS: u32 = 4;

/// A path comes back when these of the newest [`ALIVE_WINDOW`] hellos were heard.
const ALIVE_HEARD: u32 = 19;

/// One second of hellos.
const ALIVE_WINDOW: u32 = 20;

/// A path does not come back on a report that says it has just fallen silent again.
const ALIVE_MAX_AGE: Duration = INTERVAL.saturating_mul(3);

/// Deaths that are further apart than this have nothing to do with each other.
const DEATH_MEMORY: Duration = Duration::from_secs(120);

/// A path that came back is on probation at the longest for so long.
const MAX_PROBATION: Duration = Duration::from_secs(60);

/// A transit PoP's word that a path is broken is believed for so long: longer than what the path's own hellos say of it takes to come back.
pub(super) const TOLD_MEMORY: Duration = Duration::from_millis(600);

/// What it says is not believed again for so long after its word was not borne out.
const TOLD_WRONG: Duration = Duration::from_secs(10);

/// A path that is dead shows life for so long after a hello was heard.
const LIFE_MEMORY: Duration = INTERVAL.saturating_mul(4);

/// Packets wait in a queue when the round trip is longer than its least by a quarter …
const QUEUE_SHARE: u32 = 4;

/// … and so much.
const QUEUE_LEAST: Duration = Duration::from_millis(5);

/// Round trips are only taken from hellos that were reported at once: a longer age may hide a pause of the peer.
const RTT_MAX_AGE: Duration = INTERVAL.saturating_mul(2);

/// What a report, or silence, has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Dead now; unheard for so long.
    Died(Duration),
    /// Alive now; was dead for so long, zero if it was unknown.
    Revived(Duration),
    /// Perhaps dead; unheard for so long.
    Suspected(Duration),
    /// Alive after all.
    Trusted,
    /// Better or worse than it was, but no less alive.
    Graded,
}

/// A path over which we send hellos.
#[derive(Debug)]
pub(super) struct OwnPath {
    pub(super) id: PathId,
    pub(super) state: PathState,
    /// When the next hello is due in its turn.
    pub(super) next_send: Instant,
    is_hastened: bool,
    /// When the first hello was sent.
    pub(super) started: Option<Instant>,
    /// When the peer mentioned it first.
    pub(super) first_reported: Option<Instant>,
    first_sequence: u32,
    next_sequence: u32,
    /// When hello `sequence % SENT_KEPT` was sent; the latest [`SENT_KEPT`] of them.
    sent: [Option<Instant>; SENT_KEPT],
    /// The newest sequence that a report has named: an older report came by a slower way.
    pub(super) reported: Option<u32>,
    /// Since when it is dead, and the first sequence sent after that.
    died: Option<(Instant, u32)>,
    /// When one of the hellos sent since was heard, last.
    sign_of_life: Option<Instant>,
    /// How often it died of late, and when last.
    deaths: (u32, Option<Instant>),
    /// It has come back, and too often before.
    pub(super) probation_until: Option<Instant>,
    /// It is alive, but may have died: what goes over it goes over another one as well.
    pub(super) is_suspect: bool,
    /// Since when the peer has not heard it, as it says itself, while it is suspect.
    unheard_since: Option<Instant>,
    /// Others send over it, and are told when it is lost.
    pub(super) questions: Questions,
    /// Until when a transit PoP is believed that says it is broken.
    told_until: Option<Instant>,
    /// Until when none is believed: it was not.
    disbelieved_until: Option<Instant>,
    pub(super) quality: Quality,
    pub(super) mtu: PathMtu,
    round_trips: RoundTrips,
}

impl OwnPath {
    pub(super) fn new(id: PathId, origin: Instant, now: Instant, first_send: Instant) -> Self {
        let first_sequence = first_sequence(origin, now);
        Self {
            id,
            state: PathState::Unknown,
            next_send: first_send,
            is_hastened: false,
            started: None,
            first_reported: None,
            first_sequence,
            next_sequence: first_sequence,
            sent: [None; SENT_KEPT],
            reported: None,
            died: None,
            sign_of_life: None,
            deaths: (0, None),
            probation_until: None,
            is_suspect: false,
            unheard_since: None,
            questions: Questions::default(),
            told_until: None,
            disbelieved_until: None,
            quality: Quality::new(first_sequence),
            mtu: PathMtu::new(),
            round_trips: RoundTrips::default(),
        }
    }

    /// Takes the next sequence, as sent at `now`, and how long its hello is to be if it is to be padded. What a pause has made late is not
    /// caught up with in a burst.
    pub(super) fn send(&mut self, now: Instant) -> (u32, Option<u16>) {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        self.sent[sequence as usize % SENT_KEPT] = Some(now);
        self.quality.on_sent(sequence);
        self.started.get_or_insert(now);
        self.is_hastened = false;
        if self.next_send <= now {
            let next = self.next_send + INTERVAL;
            self.next_send = if next > now { next } else { now + INTERVAL };
        }
        (sequence, self.mtu.on_sent(now, sequence))
    }

    /// A hello goes at once, out of turn.
    pub(super) fn hasten(&mut self) {
        self.is_hastened = true;
    }

    /// Whether a hello is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_hastened || self.next_send <= now
    }

    /// Whether a path that is dead has been heard of late: not enough to trust it, but more than there is for others that are dead.
    pub(super) fn shows_life(&self, now: Instant) -> bool {
        let since = self.sign_of_life.map(|at| now.saturating_duration_since(at));
        self.state == PathState::Dead && since.is_some_and(|since| since < LIFE_MEMORY)
    }

    /// The smoothed time there and back over the fastest path of the peer.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.round_trips.fastest()
    }

    /// The same over its slowest: an answer that has not come by then is late. As long as any round trip while nothing is known.
    pub(super) fn slowest(&self) -> Duration {
        self.round_trips.slowest().unwrap_or(INTERVAL * 20)
    }

    /// Takes a report about this path that came back over path `over` of the peer. `resumed` is when our own last pause ended.
    pub(super) fn on_report(
        &mut self,
        now: Instant,
        resumed: Option<Instant>,
        over: PathId,
        report: &Report,
    ) -> Option<Change> {
        let is_ours = ahead(report.sequence, self.first_sequence).is_some()
            && ahead(self.next_sequence, report.sequence).is_some_and(|by| by > 0);
        let is_newest = self.reported.is_none_or(|newest| ahead(report.sequence, newest).is_some());
        if !is_ours || !is_newest {
            return None;
        }
        self.reported = Some(report.sequence);
        if let Some(sent) = self.sent_at(report.sequence) {
            self.questions.on_heard(sent);
        }
        self.first_reported.get_or_insert(now);
        let age = Duration::from_micros(report.age_us.into());
        self.measure(now, resumed, over, report.sequence, age);
        let mut has_graded = self.quality.on_report(now, report.sequence, report.heard, self.is_queueing());
        has_graded |= self.mtu.on_report(now, report.sequence, report.heard);
        match self.state {
            PathState::Unknown | PathState::Alive if self.is_missing(report.sequence, age) => {
                self.die(now);
                Some(Change::Died(age))
            }
            PathState::Unknown => {
                self.state = PathState::Alive;
                Some(Change::Revived(Duration::ZERO))
            }
            PathState::Alive => {
                let lateness = self.lateness();
                let missing = self.missing(report.sequence, age, lateness);
                let is_long = age >= INTERVAL * SUSPECT_MISSING as u32 + lateness;
                let is_unheard = is_long && missing >= SUSPECT_MISSING;
                if is_unheard {
                    self.unheard_since = now.checked_sub(age);
                }
                let doubt = match self.is_suspect {
                    false if is_unheard => self.suspect(age),
                    true if missing == 0 => self.trust(),
                    _ => None,
                };
                doubt.or(has_graded.then_some(Change::Graded))
            }
            PathState::Dead => self.revive(now, report, age),
        }
    }

    /// Becomes suspect if it is alive and was not. What a transit PoP has said before is news no more.
    pub(super) fn suspect(&mut self, silence: Duration) -> Option<Change> {
        let is_new = self.state == PathState::Alive && !std::mem::replace(&mut self.is_suspect, true);
        (is_new && self.told_until.is_none()).then_some(Change::Suspected(silence))
    }

    /// Is not suspect any more, if no transit PoP is believed to know better.
    pub(super) fn trust(&mut self) -> Option<Change> {
        let was_suspect = std::mem::take(&mut self.is_suspect);
        self.unheard_since = None;
        (was_suspect && self.told_until.is_none()).then_some(Change::Trusted)
    }

    /// A transit PoP on this path says that its next link is lost: suspect at once, and dead when its own hellos raise the same suspicion.
    pub(super) fn on_told(&mut self, now: Instant) -> Option<Change> {
        let is_disbelieved = self.disbelieved_until.is_some_and(|until| now < until);
        if self.state != PathState::Alive || is_disbelieved || self.told_until.is_some() {
            return None;
        }
        self.told_until = Some(now + TOLD_MEMORY);
        (!self.is_suspect).then_some(Change::Suspected(Duration::ZERO))
    }

    /// Forgets what a transit PoP said a while ago and was not borne out.
    pub(super) fn expire_told(&mut self, now: Instant) -> Option<Change> {
        self.told_until.filter(|&until| until <= now)?;
        self.told_until = None;
        self.disbelieved_until = Some(now + TOLD_WRONG);
        (self.state == PathState::Alive && !self.is_suspect).then_some(Change::Trusted)
    }

    /// When [`Self::expire_told`] has something to do.
    pub(super) const fn told_until(&self) -> Option<Instant> {
        self.told_until
    }

    /// Whether there is any reason to doubt it.
    pub(super) const fn is_doubted(&self) -> bool {
        self.is_suspect || self.told_until.is_some()
    }

    /// For how long it has been unheard, if the peer says that it does not hear it, and a transit PoP that it is broken. The silence of a peer
    /// that may be stopped is not enough.
    pub(super) fn confirmed(&self, now: Instant) -> Option<Duration> {
        let is_told = self.told_until.is_some_and(|until| now < until);
        let since =
            self.unheard_since.filter(|_| self.state == PathState::Alive && self.is_suspect && is_told)?;
        Some(now.saturating_duration_since(since))
    }

    pub(super) fn die(&mut self, now: Instant) {
        self.state = PathState::Dead;
        self.is_suspect = false;
        self.unheard_since = None;
        self.told_until = None;
        self.died = Some((now, self.next_sequence));
        self.sign_of_life = None;
        let (count, last) = self.deaths;
        let is_again = last.is_some_and(|last| now.saturating_duration_since(last) < DEATH_MEMORY);
        self.deaths = (if is_again { count.saturating_add(1) } else { 1 }, Some(now));
    }

    fn revive(&mut self, now: Instant, report: &Report, age: Duration) -> Option<Change> {
        let (died, first_after) = self.died?;
        let is_sign = ahead(report.sequence, first_after).is_some() && age <= ALIVE_MAX_AGE;
        let is_first_sign = is_sign && !self.shows_life(now);
        if is_sign {
            self.sign_of_life = Some(now);
        }
        let oldest = report.sequence.wrapping_sub(ALIVE_WINDOW - 1);
        let window = report.heard & ((1 << ALIVE_WINDOW) - 1);
        let is_heard = ahead(oldest, first_after).is_some() && window.count_ones() >= ALIVE_HEARD;
        if !is_heard || age > ALIVE_MAX_AGE {
            return is_first_sign.then_some(Change::Graded);
        }
        self.state = PathState::Alive;
        self.died = None;
        self.quality.restart(first_after);
        // None after the first death, then 1, 3, 7 … seconds: a flapping path is left alone sooner than it can do harm again.
        let doubled = 1_u64.checked_shl(self.deaths.0.saturating_sub(1)).unwrap_or(u64::MAX) - 1;
        self.probation_until = Some(now + Duration::from_secs(doubled).min(MAX_PROBATION));
        Some(Change::Revived(now.saturating_duration_since(died)))
    }

    /// Whether so many hellos after `newest` are missing, and for so long, that the path is dead. Hellos out of turn make it no shorter.
    fn is_missing(&self, newest: u32, age: Duration) -> bool {
        age >= INTERVAL * DEAD_MISSING as u32 + LATENESS
            && self.missing(newest, age, LATENESS) >= DEAD_MISSING
    }

    /// How many hellos after `newest` should have been heard when the report was made, `age` after the arrival of `newest`.
    ///
    /// A hello sent *d* after `newest` should have come *d* after it, or `lateness` later: neither the clocks nor the delay of the path are
    /// needed, and hellos that a pause of ours has not sent are not missed.
    fn missing(&self, newest: u32, age: Duration, lateness: Duration) -> usize {
        let sent_since = self.next_sequence.wrapping_sub(newest) - 1;
        let Some(base) = self.sent_at(newest) else {
            // Heard so long ago that its time is forgotten, and the peer has listened for all of that time.
            return if age >= INTERVAL * SENT_KEPT as u32 { SENT_KEPT } else { 0 };
        };
        let Some(due) = age.checked_sub(lateness).map(|age| base + age) else { return 0 };
        let after = (1..=sent_since.min(SENT_KEPT as u32)).map(|n| self.sent_at(newest.wrapping_add(n)));
        after.flatten().filter(|&sent| sent <= due).count()
    }

    /// How late a hello may be before it raises a suspicion.
    pub(super) fn lateness(&self) -> Duration {
        let measured =
            self.round_trips.variation().map_or(LATENESS, |variation| variation * LATENESS_VARIATIONS);
        measured.clamp(LEAST_LATENESS, LATENESS)
    }

    /// Whether packets wait in a queue on the way: the round trip is well above the least of late.
    fn is_queueing(&self) -> bool {
        let (Some(now), Some(least)) = (self.round_trips.fastest(), self.round_trips.least()) else {
            return false;
        };
        now > least + least / QUEUE_SHARE + QUEUE_LEAST
    }

    fn measure(
        &mut self,
        now: Instant,
        resumed: Option<Instant>,
        over: PathId,
        sequence: u32,
        age: Duration,
    ) {
        let sent = self.sent_at(sequence).filter(|&sent| resumed.is_none_or(|resumed| sent >= resumed));
        let (Some(sent), true) = (sent, age <= RTT_MAX_AGE) else { return };
        if let Some(sample) = now.saturating_duration_since(sent).checked_sub(age) {
            self.round_trips.add(now, over, sample);
        }
    }

    /// When a sequence was sent, if that is still known.
    fn sent_at(&self, sequence: u32) -> Option<Instant> {
        let back = self.next_sequence.wrapping_sub(sequence);
        if back == 0 || back as usize > SENT_KEPT { None } else { self.sent[sequence as usize % SENT_KEPT] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peer's path that reports come back over.
    const BACK: PathId = PathId(11);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    fn report(sequence: u32, heard: u32, age_ms: u64) -> Report {
        Report { path: PathId(1), sequence, heard, age_us: age_ms as u32 * 1_000 }
    }

    /// A path that has sent `count` hellos, every 50 ms from `origin` on: hello *n* has sequence *n*.
    fn path_after(origin: Instant, count: u64) -> OwnPath {
        let mut path = OwnPath::new(PathId(1), origin, origin, origin);
        for n in 0..count {
            assert_eq!(path.send(origin + ms(50 * n)).0, n as u32);
            assert_eq!(path.next_send, origin + ms(50 * (n + 1)));
        }
        path
    }

    /// Reports at the end of a 20 ms path: the last hello's time and 40 ms.
    fn at(origin: Instant, sequence: u64) -> Instant {
        origin + ms(50 * sequence + 40)
    }

    #[test]
    fn the_first_report_brings_a_path_to_life() {
        let origin = start();
        let mut path = path_after(origin, 3);
        assert_eq!(path.on_report(at(origin, 2), None, BACK, &report(2, 1, 0)), Some(Change::Revived(ms(0))));
        assert_eq!(path.state, PathState::Alive);
        assert_eq!(path.rtt(), Some(ms(40)));
    }

    #[test]
    fn it_dies_of_five_missing_hellos_and_not_of_four() {
        let origin = start();
        let mut path = path_after(origin, 30);
        path.on_report(at(origin, 10), None, BACK, &report(10, 1, 0));
        let doubt = path.on_report(at(origin, 15), None, BACK, &report(10, 1, 299));
        assert_eq!(doubt, Some(Change::Suspected(ms(299))));
        assert_eq!(
            path.on_report(at(origin, 16), None, BACK, &report(10, 1, 300)),
            Some(Change::Died(ms(300)))
        );
        assert_eq!(path.on_report(at(origin, 17), None, BACK, &report(10, 1, 350)), None, "dies once");
    }

    #[test]
    fn two_missing_hellos_are_a_suspicion_that_the_next_one_ends() {
        let origin = start();
        let mut path = path_after(origin, 60);
        // Before its jitter is known, a hello may be late by an interval.
        path.on_report(at(origin, 3), None, BACK, &report(3, 1, 0));
        assert_eq!(path.on_report(at(origin, 5), None, BACK, &report(3, 1, 149)), None);
        let doubt = path.on_report(at(origin, 6), None, BACK, &report(3, 1, 150));
        assert_eq!((doubt, path.is_suspect), (Some(Change::Suspected(ms(150))), true));
        assert_eq!(path.on_report(at(origin, 7), None, BACK, &report(3, 1, 160)), None, "suspected once");
        assert_eq!(path.on_report(at(origin, 8), None, BACK, &report(7, 1, 0)), Some(Change::Trusted));
        for sequence in 8..40 {
            assert_eq!(
                path.on_report(at(origin, sequence), None, BACK, &report(sequence as u32, 1, 0)),
                None
            );
        }
        assert_eq!(path.lateness(), LEAST_LATENESS, "it does not vary");
        assert_eq!(path.on_report(at(origin, 42), None, BACK, &report(39, 1, 114)), None);
        let doubt = path.on_report(at(origin, 42), None, BACK, &report(39, 1, 115));
        assert_eq!(doubt, Some(Change::Suspected(ms(115))));
        assert!(path.on_report(at(origin, 46), None, BACK, &report(39, 1, 300)).is_some());
        assert_eq!((path.state, path.is_suspect), (PathState::Dead, false));
    }

    #[test]
    fn hellos_that_were_never_sent_are_not_missed() {
        let origin = start();
        let mut path = path_after(origin, 5);
        path.on_report(at(origin, 4), None, BACK, &report(4, 1, 0));
        let resumed = origin + ms(5_000);
        for n in 0..4 {
            path.send(resumed + ms(50 * n));
        }
        // The peer truthfully reports five seconds of silence.
        assert_eq!(path.on_report(resumed + ms(200), Some(resumed), BACK, &report(4, 1, 4_800)), None);
        assert_eq!(path.state, PathState::Alive);
    }

    #[test]
    fn it_comes_back_after_a_second_with_at_most_one_hello_missing() {
        let origin = start();
        let mut path = path_after(origin, 20);
        path.on_report(at(origin, 10), None, BACK, &report(10, 1, 0));
        assert!(path.on_report(at(origin, 19), None, BACK, &report(10, 1, 450)).is_some());
        for n in 20..60 {
            path.send(origin + ms(50 * n));
        }
        let full = u32::MAX;
        assert_eq!(
            path.on_report(at(origin, 38), None, BACK, &report(38, full, 0)),
            Some(Change::Graded),
            "19 of 20 sent since: no more than a sign of life"
        );
        assert_eq!(
            path.on_report(at(origin, 39), None, BACK, &report(39, full ^ 0b11000, 0)),
            None,
            "two missing"
        );
        assert_eq!(
            path.on_report(at(origin, 40), None, BACK, &report(40, full ^ 0b100, 151)),
            None,
            "silent again"
        );
        let back = path.on_report(at(origin, 41), None, BACK, &report(41, full ^ 0b100, 0));
        assert_eq!(back, Some(Change::Revived(ms(50 * 22))));
    }

    #[test]
    fn reports_of_another_life_or_overtaken_ones_are_ignored() {
        let origin = start();
        let mut path = path_after(origin, 0);
        path.first_sequence = 1_000;
        path.next_sequence = 1_000;
        for n in 0..20 {
            path.send(origin + ms(50 * n));
        }
        for sequence in [999, 1_020, 5, u32::MAX] {
            assert_eq!(
                path.on_report(at(origin, 19), None, BACK, &report(sequence, 1, 0)),
                None,
                "{sequence}"
            );
            assert_eq!(path.state, PathState::Unknown);
        }
        path.on_report(at(origin, 19), None, BACK, &report(1_018, 1, 0));
        assert_eq!(path.on_report(at(origin, 19), None, BACK, &report(1_002, 1, 700)), None);
        assert_eq!(path.state, PathState::Alive);
    }

    #[test]
    fn silence_longer_than_the_memory_of_sent_hellos_is_still_silence() {
        let origin = start();
        let mut path = path_after(origin, 200);
        assert_eq!(
            path.on_report(at(origin, 199), None, BACK, &report(3, 1, 3_199)),
            Some(Change::Revived(ms(0)))
        );
        assert_eq!(
            path.on_report(at(origin, 199), None, BACK, &report(3, 1, 3_200)),
            Some(Change::Died(ms(3_200)))
        );
    }

    #[test]
    fn the_round_trip_leaves_out_the_peers_waiting_and_everybodys_pauses() {
        let origin = start();
        let mut path = path_after(origin, 3);
        path.on_report(origin + ms(60), None, BACK, &report(0, 1, 20));
        assert_eq!(path.rtt(), Some(ms(40)));
        path.on_report(origin + ms(50 + 120), None, BACK, &report(1, 1, 0));
        assert_eq!(path.rtt(), Some(ms(50)));
        path.on_report(origin + ms(900), None, BACK, &report(2, 1, 101));
        path.on_report(origin + ms(900), Some(origin + ms(500)), BACK, &report(2, 1, 0));
        assert_eq!(path.rtt(), Some(ms(50)), "reported late, sent before a pause of ours");
    }
}
