//! Whose fault losses are. A path may lose packets whatever we do; then sending less gains nothing. Or it loses them because we send too
//! much. Which it is shows when we send less: losses that stay are not ours. So the first rounds that lose more than the path is known
//! to lose by itself slow the sender down; if the rounds after that lose as much, the slowing is taken back and the path known for it.

use std::collections::VecDeque;

/// A round may lose so much more than the path does by itself: draft-ietf-ccwg-bbr has the same 2 %.
const TOLERANCE: f64 = 0.02;

/// So much if the queue was never empty meanwhile: then more was sent than the path carries.
const QUEUE_TOLERANCE: f64 = 0.004;

/// In a start, which doubles the rate each round, losses of our own are far above this, and most paths' own below.
const START_TOLERANCE: f64 = 0.15;

/// Losses are random: only what is beyond so many standard deviations counts.
const DEVIATIONS: f64 = 3.0;

/// No path is believed to lose more than this by itself.
const MAX_OWN: f64 = 0.20;

/// Of the losses before the slowing, so much must be left after it for them not to be ours.
const STAYS: f64 = 0.5;

/// So many packets after the slowing give the answer, or so many rounds if these have fewer.
const ANSWER_PACKETS: u64 = 300;
const ANSWER_ROUNDS: u64 = 4;

/// Slowed to how much: so far that losses of our own end even if others share the path, and not so far that the answer costs more than
/// it is worth.
const SLOWING: f64 = 0.75;

/// A round with fewer packets says nothing of what the path loses by itself.
const MIN_PACKETS: u64 = 20;

/// Rounds that are counted at a time: two are on their way, one is judged.
const MAX_ROUNDS: usize = 4;

/// Losses are counted over about so many packets to tell whether repairs are worth their while.
const REPAIR_MEMORY: f64 = 20_000.0;

/// Half a loss is left of one when it was followed by that many packets: a path that loses less than one in some 40,000 needs no repairs.
const REPAIR_LEAST: f64 = 0.5;

/// On a path that loses more than this, repairs are too many or too few: of 100 packets on their way one is never repaired in time.
const REPAIR_MOST: f64 = 0.01;

/// Packets of one repair lose so many on average: then two of them are lost in less than one repair of a hundred.
const REPAIR_LOSSES: f64 = 0.125;

/// So many packets share a repair: fewer cost the path more than losses do, more take longer to come than it is worth.
const REPAIR_COVERS: (f64, f64) = (16.0, 64.0);

/// What became of the packets that were sent in one round.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    number: u64,
    /// It was sent faster than the path is known to carry.
    is_probe: bool,
    arrived: u64,
    lost: u64,
}

impl Round {
    fn packets(&self) -> u64 {
        self.arrived + self.lost
    }

    fn ratio(&self) -> f64 {
        if self.lost == 0 { 0.0 } else { self.lost as f64 / self.packets() as f64 }
    }

    /// Whether it lost more than `own` and `tolerance`, and not by chance.
    fn exceeds(&self, own: f64, tolerance: f64) -> bool {
        let ratio = self.ratio();
        let deviation = (ratio.max(own) * (1.0 - ratio) / self.packets().max(1) as f64).sqrt();
        ratio > own + tolerance + DEVIATIONS * deviation
    }
}

/// The sender was slowed for losses of this ratio, beginning with a round.
#[derive(Debug, Clone, Copy)]
struct Experiment {
    ratio: f64,
    /// What was beyond the path's own.
    excess: f64,
    from_round: u64,
    /// What became of the packets since.
    since: Round,
    /// Some round since has found the queue empty.
    was_empty: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing.
    Fine,
    /// Send at this part of the rate.
    Slow(f64),
    /// The losses stayed: take the slowing back.
    NotOurs,
    /// They ended: the path carries this part of the rate before the slowing.
    Ours(f64),
}

/// The losses of one path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Losses {
    rounds: VecDeque<Round>,
    /// What the path loses by itself, as far as is known; and the most that it was shown to lose.
    own: f64,
    most_own: f64,
    experiment: Option<Experiment>,
    /// Packets, and how many were lost, while nothing was sent faster than the path carries; half of them are forgotten now and then.
    seen: (f64, f64),
}

impl Losses {
    /// How many packets should share a repair; `None`: there should be none.
    pub(crate) fn repair_covers(&self) -> Option<usize> {
        let (packets, lost) = self.seen;
        let ratio = lost / packets.max(1.0);
        let is_worth_it = lost >= REPAIR_LEAST && ratio <= REPAIR_MOST;
        is_worth_it.then(|| (REPAIR_LOSSES / ratio).clamp(REPAIR_COVERS.0, REPAIR_COVERS.1) as usize)
    }

    /// Every packet of a round has been heard of; it was sent no faster than the path carries, and left no queue.
    pub(crate) fn see(&mut self, number: u64) {
        let Some(round) = self.rounds.iter().copied().find(|round| round.number == number) else { return };
        self.seen.0 += round.packets() as f64;
        self.seen.1 += round.lost as f64;
        if self.seen.0 > REPAIR_MEMORY {
            self.seen = (self.seen.0 / 2.0, self.seen.1 / 2.0);
        }
    }

    /// What the path loses by itself.
    #[cfg(test)]
    pub(crate) fn own(&self) -> f64 {
        self.own
    }

    /// A round begins. Packets of it are sent from now on; `is_probe`: faster than the path is known to carry.
    pub(crate) fn begin_round(&mut self, number: u64, is_probe: bool) {
        if self.rounds.len() >= MAX_ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Round { number, is_probe, ..Round::default() });
    }

    /// The round that is being sent goes on faster than the path is known to carry.
    pub(crate) fn mark_probe(&mut self) {
        if let Some(round) = self.rounds.back_mut() {
            round.is_probe = true;
        }
    }

    pub(crate) fn on_acked(&mut self, round: u64) {
        if let Some(round) = self.find(round) {
            round.arrived += 1;
        }
    }

    pub(crate) fn on_lost(&mut self, round: u64) {
        if let Some(round) = self.find(round) {
            round.lost += 1;
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Round> {
        self.rounds.iter_mut().rev().find(|round| round.number == number)
    }

    /// Whether the packets of a round that have been heard of so far were lost for being too many. `is_start`: the rate doubles.
    pub(crate) fn is_flooding(&self, number: u64, is_start: bool) -> bool {
        let tolerance = if is_start { START_TOLERANCE } else { TOLERANCE };
        self.rounds.iter().any(|round| round.number == number && round.exceeds(self.own, tolerance))
    }

    /// Whether a round of a start lost more than is tolerated without doubt.
    pub(crate) fn is_lossy(&self, number: u64) -> bool {
        self.rounds.iter().any(|round| round.number == number && round.exceeds(self.own, TOLERANCE))
    }

    /// Every packet of a round has been heard of.
    /// `has_queue`: no packet of the round found the path's queue empty.
    pub(crate) fn judge(&mut self, number: u64, has_queue: bool) -> Verdict {
        let tolerance = if has_queue { QUEUE_TOLERANCE } else { TOLERANCE };
        let Some(round) = self.rounds.iter().copied().find(|round| round.number == number) else {
            return Verdict::Fine;
        };
        if round.is_probe || self.experiment.is_some_and(|experiment| number < experiment.from_round) {
            return Verdict::Fine;
        }
        if let Some(verdict) = self.answer(round, has_queue) {
            return verdict;
        }
        if round.exceeds(self.own, tolerance) {
            let excess = round.ratio() - self.own;
            // Packets that are sent from now on are sent slower, and the next round's are the first of which all are.
            let from_round = self.rounds.back().map_or(number, |round| round.number) + 1;
            let since = Round::default();
            self.experiment =
                Some(Experiment { ratio: round.ratio(), excess, from_round, since, was_empty: false });
            return Verdict::Slow((1.0 - excess) * SLOWING);
        }
        if round.packets() >= MIN_PACKETS {
            // Never more than was shown: what comes on top of it little by little is ours.
            self.own = (self.own + (round.ratio() - self.own) / 8.0).min(self.most_own);
        }
        Verdict::Fine
    }

    /// What a round after the slowing says; `None`: the sender was not slowed.
    fn answer(&mut self, round: Round, has_queue: bool) -> Option<Verdict> {
        let experiment = self.experiment.as_mut()?;
        experiment.was_empty |= !has_queue;
        experiment.since.arrived += round.arrived;
        experiment.since.lost += round.lost;
        let (since, ratio) = (experiment.since, experiment.since.ratio());
        if since.packets() < ANSWER_PACKETS && round.number + 1 < experiment.from_round + ANSWER_ROUNDS {
            return Some(Verdict::Fine);
        }
        let carried = 1.0 - experiment.excess;
        // Many who share a full queue see no difference when one of them sends less: it stays full, and its losses stay ours.
        let stays = ratio >= experiment.ratio * STAYS && experiment.was_empty;
        self.experiment = None;
        // What is too much for any path is ours, and may take several steps.
        if !stays || ratio > MAX_OWN {
            return Some(Verdict::Ours(carried));
        }
        (self.own, self.most_own) = (ratio, ratio);
        Some(Verdict::NotOurs)
    }

    /// What was shown once need not be so for ever.
    pub(crate) fn doubt(&mut self) {
        (self.own, self.most_own) = (0.0, 0.0);
    }

    /// The path is another: nothing is known of it.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of 500 packets, of which so many are lost, judged two rounds later.
    fn run(losses: &mut Losses, from: u64, lost: &[u64]) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for (number, lost) in (from..).zip(lost) {
            losses.begin_round(number, false);
            (0..500 - lost).for_each(|_| losses.on_acked(number));
            (0..*lost).for_each(|_| losses.on_lost(number));
            verdicts.push(if number < 2 { Verdict::Fine } else { losses.judge(number - 2, false) });
        }
        verdicts
    }

    fn slowings(verdicts: &[Verdict]) -> usize {
        verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Slow(_))).count()
    }

    #[test]
    fn losses_that_stay_when_we_send_less_are_the_paths_own() {
        let mut losses = Losses::default();
        let verdicts = run(&mut losses, 0, &[25; 20]);
        assert_eq!(slowings(&verdicts), 1, "{verdicts:?}");
        assert!(verdicts.contains(&Verdict::NotOurs));
        assert!((0.04..0.06).contains(&losses.own()));
        // More than these are ours until shown otherwise.
        assert_eq!(slowings(&run(&mut losses, 20, &[100, 100, 25, 25, 25])), 1);
    }

    #[test]
    fn losses_that_end_when_we_send_less_were_ours() {
        let mut losses = Losses::default();
        let verdicts = run(&mut losses, 0, &[0, 100, 100, 100, 0, 0, 0, 0]);
        assert_eq!(slowings(&verdicts), 1, "{verdicts:?}");
        assert!(!verdicts.contains(&Verdict::NotOurs));
        assert!(losses.own() < 0.01);
        let Verdict::Slow(part) = verdicts[3] else { panic!("{verdicts:?}") };
        assert!((part - 0.8 * SLOWING).abs() < 0.01, "what was lost, and a little more: {part}");
    }

    #[test]
    fn a_handful_of_losses_is_chance() {
        let mut losses = Losses::default();
        losses.begin_round(0, false);
        (0..8).for_each(|_| losses.on_acked(0));
        (0..2).for_each(|_| losses.on_lost(0));
        assert_eq!(losses.judge(0, false), Verdict::Fine);
        assert!(losses.own() < 0.001, "too few to learn from");
    }

    #[test]
    fn a_path_is_not_believed_to_lose_everything_by_itself() {
        let mut losses = Losses::default();
        let verdicts = run(&mut losses, 0, &[250; 30]);
        assert!(!verdicts.contains(&Verdict::NotOurs));
        assert!(slowings(&verdicts) > 5);
    }

    #[test]
    fn probes_are_judged_by_those_who_probe() {
        let mut losses = Losses::default();
        losses.begin_round(0, true);
        (0..200).for_each(|_| losses.on_acked(0));
        assert!(!losses.is_flooding(0, false));
        (0..50).for_each(|_| losses.on_lost(0));
        assert!(losses.is_flooding(0, false) && !losses.is_flooding(0, true) && losses.is_lossy(0));
        assert_eq!(losses.judge(0, false), Verdict::Fine);
    }

    #[test]
    fn losses_that_stay_in_a_queue_that_is_never_empty_are_ours() {
        for has_queue in [false, true] {
            let mut losses = Losses::default();
            let mut verdicts = Vec::new();
            for number in 0..20 {
                losses.begin_round(number, false);
                (0..475).for_each(|_| losses.on_acked(number));
                (0..25).for_each(|_| losses.on_lost(number));
                verdicts.extend(number.checked_sub(2).map(|number| losses.judge(number, has_queue)));
            }
            assert_eq!(verdicts.contains(&Verdict::NotOurs), !has_queue, "{verdicts:?}");
        }
    }

    #[test]
    fn repairs_are_for_paths_that_lose_little() {
        for (lost_in_ten_thousand, covers) in
            [(0, None), (5, Some(64)), (40, Some(31)), (90, Some(16)), (300, None)]
        {
            let mut losses = Losses::default();
            for number in 0..8 {
                losses.begin_round(number, false);
                (0..10_000 - lost_in_ten_thousand).for_each(|_| losses.on_acked(number));
                (0..lost_in_ten_thousand).for_each(|_| losses.on_lost(number));
                losses.see(number);
            }
            assert_eq!(losses.repair_covers(), covers, "{lost_in_ten_thousand}");
            for number in 8..12 {
                losses.begin_round(number, false);
                (0..20_000).for_each(|_| losses.on_acked(number));
                losses.see(number);
            }
            assert_eq!(
                losses.repair_covers(),
                (lost_in_ten_thousand >= 40).then_some(64),
                "forgotten when nothing is lost"
            );
        }
    }
}
