"""Which rows leave their path for a better one, and the verdict on each. Rows are those of one ingress, or all pairs.

A path that cannot be used is left at once. Any other change must pay for itself: it must be better by a margin, on the slow estimate and
at this moment, and what staying has cost so far must have reached what a change costs (the ski-rental rule: nobody knows how long an
advantage lasts, and one who buys when the rents paid make up the price never pays more than twice what the best decision would have).
So a large advantage is taken at once, a small one when it has lasted, and one that comes and goes by chance never.

An advantage counts as far as it is sure: the lesser of the slow one and this moment's, less what it may be wrong by. Changes have a budget
besides, the surest first: what many rows see at once is rather the measuring than the network. The guard's are of the same budget.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.routing.guard import is_clearly_worse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Rows = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


class Verdict(IntEnum):
    """Why a row has the path that it has after a round. What `explain` says of each stands in `WORDS`."""

    BEST = 0
    FIRST = 1
    REPAIRED = 2
    MOVED = 3
    GUARDED = 4
    MIN_GAIN = 5
    REFUSED = 6
    MARGIN = 7
    NOT_NOW = 8
    HELD = 9
    DAMPED = 10
    NOT_YET_WORTH = 11
    BUDGET = 12
    NONE = 13


WORDS: dict[Verdict, str] = {
    Verdict.BEST: "it is the best path",
    Verdict.FIRST: "it was the best path when the first was needed",
    Verdict.REPAIRED: "the path before could not be used any more",
    Verdict.MOVED: "it became better by enough, for long enough",
    Verdict.GUARDED: "guard: the detour was slower than direct, so it was taken back",
    Verdict.REFUSED: "guard: the best path was no better than direct before",
    Verdict.MIN_GAIN: "min_gain: the best path gains too little over direct",
    Verdict.MARGIN: "hysteresis: the best path is not better by enough",
    Verdict.NOT_NOW: "hysteresis: the best path is better on average, but not at this moment",
    Verdict.HELD: "hold-down: it was changed a moment ago",
    Verdict.DAMPED: "damping: it has changed too often lately",
    Verdict.NOT_YET_WORTH: "hysteresis: the best path has not saved yet what a change costs",
    Verdict.BUDGET: "hysteresis: more changes are waiting than are made at once, and others gain more",
    Verdict.NONE: "no path can be used",
}
"""One sentence a verdict, for `explain`."""

MOVES = (Verdict.REPAIRED, Verdict.MOVED, Verdict.GUARDED)
"""Verdicts with which a row left the path that it had."""


@dataclass(frozen=True, slots=True)
class SwitchRules:
    """The constants of the rule, each with its reason. A round is what one new value of every link makes up: a slice, or ten minutes."""

    margin_ratio: float = 0.01
    """Advantages below a hundredth are what composing separate measurements of links is wrong by."""
    margin_ms: float = 1.0
    """One hop's cost: less is not worth any change."""
    certainty: float = 1.0
    """Standard errors that an advantage is taken to be less by: of six that are only luck five are then told apart."""
    price_ms: float = 5.0
    """What a change costs, in ms times rounds: what iroh asks for at once, and a tenth of an RTT that pairs of a world-wide fleet have."""
    patience: float = 0.5
    """What is left of the accumulated advantage after a round without one: evidence of an hour ago counts a hundredth."""
    hold_down_ns: int = 10_000_000_000
    """After a change the next one waits ten seconds: longer than reports of the change take to come back as measurements."""
    budget_ratio: float = 0.007
    """Changes in a round, of rows that have a path: paths of RIPE Atlas shift 1.1 times a day, 0.76 % of them in ten minutes."""
    budget_rounds: float = 8.0
    """Unused budget is kept for so many rounds, and so much is there at the beginning, when the least is known and changes gain most."""
    budget_at_once: float = 0.5
    """Of the budget, spent in one round at most: what one round shows of many rows may be no more than that round."""
    flap_penalty: float = 1000.0
    """RFC 2439: added by each change."""
    flap_suppress: float = 2000.0
    """RFC 2439: from here on a row changes for gain no more."""
    flap_reuse: float = 750.0
    """RFC 2439: below it may again."""
    flap_half_life_ns: int = 900_000_000_000
    """RFC 2439: 15 minutes, the usual setting of vendors."""


@dataclass(frozen=True, slots=True)
class SwitchState:
    """What the rule remembers of n rows. `rows` are paths as link numbers, -1 after the last; all -1: none."""

    rows: Rows
    changed_ns: IntArray
    """When the row last changed; a long time ago where never."""
    owed_ms: FloatArray
    """What staying has cost so far, in ms times rounds."""
    penalty: FloatArray
    """RFC 2439's figure of merit, as of `at_ns`."""
    is_damped: BoolArray
    at_ns: int
    budget: float
    """Changes that may still be made now; at the beginning as many as can be kept."""

    @classmethod
    def of(cls, count: int) -> "SwitchState":
        """Return the state of rows that have no path yet."""
        return cls(
            rows=np.full((count, 4), -1, np.int32),
            changed_ns=np.full(count, -(1 << 62), np.int64),
            owed_ms=np.zeros(count),
            penalty=np.zeros(count),
            is_damped=np.zeros(count, np.bool_),
            at_ns=0,
            budget=float("inf"),
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """What one path a row costs: by the slow estimate, and by the newest values alone. inf: not usable."""

    slow_ms: FloatArray
    now_ms: FloatArray


@dataclass(frozen=True, slots=True)
class Offer:
    """What a round decides from, for n rows: the best path and the direct one, and what those and the present one cost."""

    best: Rows
    direct: Rows
    best_cost: Costs
    direct_cost: Costs
    current_cost: Costs
    doubt_ms: FloatArray
    """Standard error of the difference between the present path and the best one; that links of both count twice errs towards staying."""
    is_refused: BoolArray
    """Whether the guard refuses the best path."""
    is_slower: BoolArray
    """Whether the guard has seen the present path to be slower than direct."""


def decided(
    state: SwitchState,
    now_ns: int,
    offer: Offer,
    min_gain_ms: float | FloatArray,
    rules: SwitchRules,
    rounds: float = 1.0,
) -> tuple[SwitchState, NDArray[np.int8]]:
    """Return the rows that are used from here on, and a verdict a row. `rounds`: how much time has passed, in rounds."""
    current = offer.current_cost
    penalty, is_damped = _aged(state, now_ns, rules)
    target, target_cost, verdict = _target(state, offer, min_gain_ms)
    has_path = state.rows[:, 0] >= 0
    is_lost = has_path & ~np.isfinite(current.slow_ms)
    is_kept = has_path & ~is_lost
    is_taken_back = (
        is_kept & (state.rows[:, 1] >= 0) & offer.is_slower & np.isfinite(offer.direct_cost.slow_ms)
    )

    moving = is_kept & ~is_taken_back & (target != state.rows).any(axis=1)
    advantage = _less(current.slow_ms, target_cost.slow_ms, moving) - rules.certainty * np.where(
        moving, offer.doubt_ms, 0.0
    )
    advantage_now = _less(current.now_ms, target_cost.now_ms, moving)
    sure = np.minimum(advantage, advantage_now)
    owed = np.where(sure > 0, state.owed_ms + rounds * sure, state.owed_ms * rules.patience**rounds)
    is_back = _is_clearly_back(offer, target, rules)
    for is_passed, code in (
        (advantage > np.maximum(rules.margin_ms, rules.margin_ratio * current.slow_ms), Verdict.MARGIN),
        (advantage_now > 0, Verdict.NOT_NOW),
        (now_ns - state.changed_ns >= rules.hold_down_ns, Verdict.HELD),
        (is_back | ~is_damped, Verdict.DAMPED),
        (is_back | (owed >= rules.price_ms), Verdict.NOT_YET_WORTH),
    ):
        verdict[moving & ~is_passed] = code
        moving &= is_passed

    loss = _less(current.slow_ms, offer.direct_cost.slow_ms, is_taken_back)
    rank = np.where(is_taken_back, np.maximum(loss, rules.margin_ms), sure)
    budget = _budget(state.budget, int(is_kept.sum()), rounds, rules) if has_path.any() else state.budget
    verdict[moving | is_taken_back] = Verdict.BUDGET
    admitted = _admitted(moving | is_taken_back, rank, _at_once(budget, rules))
    budget -= int(admitted.sum())
    verdict[admitted] = np.where(is_taken_back, Verdict.GUARDED, Verdict.MOVED)[admitted]
    can_be = np.isfinite(target_cost.slow_ms)
    verdict[is_lost & can_be] = Verdict.REPAIRED
    verdict[~has_path & can_be] = Verdict.FIRST
    verdict[~is_kept & ~can_be] = Verdict.NONE
    return _after(state, now_ns, offer, target, verdict, owed, penalty, is_damped, budget, rules), verdict


def _is_clearly_back(offer: Offer, target: Rows, rules: SwitchRules) -> BoolArray:
    """Whether the move is one to the direct path, and that beyond doubt and now the clearly better one.

    It is no bet on anything: whoever stays is worse off than without smart routing. So neither what a change costs holds it up nor damping,
    which is to keep a row that flaps on the direct path, not away from it.
    """
    doubt_ms = rules.certainty * np.nan_to_num(offer.doubt_ms, posinf=0.0)
    current, direct = offer.current_cost, offer.direct_cost
    is_direct = (target[:, 1] < 0) & (target == offer.direct).all(axis=1)
    is_worse = is_clearly_worse(current.slow_ms - doubt_ms, direct.slow_ms)
    found: BoolArray = is_direct & is_worse & is_clearly_worse(current.now_ms, direct.now_ms)
    return found


def _after(
    state: SwitchState,
    now_ns: int,
    offer: Offer,
    target: Rows,
    verdict: NDArray[np.int8],
    owed: FloatArray,
    penalty: FloatArray,
    is_damped: BoolArray,
    budget: float,
    rules: SwitchRules,
) -> SwitchState:
    """What is remembered after a round with these verdicts."""
    takes = np.isin(verdict, [Verdict.MOVED, Verdict.REPAIRED, Verdict.FIRST])
    rows = np.where(takes[:, None], target, state.rows)
    rows[verdict == Verdict.GUARDED] = offer.direct[verdict == Verdict.GUARDED]
    rows[verdict == Verdict.NONE] = -1
    changed = np.isin(verdict, MOVES)
    penalty = penalty + np.where(changed, rules.flap_penalty, 0.0)
    return SwitchState(
        rows=rows.astype(np.int32),
        changed_ns=np.where(changed, now_ns, state.changed_ns),
        owed_ms=np.where(changed, 0.0, owed),
        penalty=penalty,
        is_damped=is_damped | (penalty > rules.flap_suppress),
        at_ns=now_ns,
        budget=budget,
    )


def _less(current_ms: FloatArray, other_ms: FloatArray, where: BoolArray) -> FloatArray:
    """By how much another path is better, 0 where nobody asks; a path that cannot be used is worse than any."""
    with np.errstate(invalid="ignore"):
        return np.where(where, np.nan_to_num(current_ms - other_ms, nan=-np.inf), 0.0)


def _aged(state: SwitchState, now_ns: int, rules: SwitchRules) -> tuple[FloatArray, BoolArray]:
    """RFC 2439: the penalty halves in each half-life, and a damped row is free again below the reuse limit."""
    elapsed = max(0, now_ns - state.at_ns) / rules.flap_half_life_ns
    penalty = state.penalty * 0.5**elapsed
    return penalty, state.is_damped & (penalty >= rules.flap_reuse)


def _target(
    state: SwitchState, offer: Offer, min_gain_ms: float | FloatArray
) -> tuple[Rows, Costs, NDArray[np.int8]]:
    """The path to have, were there no hysteresis, and why it is not the best one where it is not.

    Direct while that is used and no detour gains `min_gain`, and where the guard refuses the best path.
    """
    has_direct = np.isfinite(offer.direct_cost.slow_ms)
    is_detour = offer.best[:, 1] >= 0
    on_direct = has_direct & (state.rows[:, 1] < 0)
    with np.errstate(invalid="ignore"):
        gains = offer.direct_cost.slow_ms - offer.best_cost.slow_ms >= min_gain_ms
    too_little = on_direct & is_detour & ~gains
    refused = has_direct & is_detour & offer.is_refused
    verdict = np.full(len(state.rows), Verdict.BEST, np.int8)
    verdict[refused] = Verdict.REFUSED
    verdict[too_little] = Verdict.MIN_GAIN
    is_direct = too_little | refused
    cost = Costs(
        np.where(is_direct, offer.direct_cost.slow_ms, offer.best_cost.slow_ms),
        np.where(is_direct, offer.direct_cost.now_ms, offer.best_cost.now_ms),
    )
    return np.where(is_direct[:, None], offer.direct, offer.best), cost, verdict


def _budget(left: float, count: int, rounds: float, rules: SwitchRules) -> float:
    """Changes that may be made now: one a round at least, so that a PoP with few peers is never held up for long."""
    a_round = max(1.0, rules.budget_ratio * count)
    return min(left + rounds * a_round, rules.budget_rounds * a_round)


def _at_once(budget: float, rules: SwitchRules) -> int:
    """Changes that may be made in one round; without rows none are asked for, and the budget is what it was at the beginning."""
    return 0 if budget < 1 or np.isinf(budget) else max(1, int(rules.budget_at_once * budget))


def _admitted(waiting: BoolArray, rank: FloatArray, most: int) -> BoolArray:
    """As many of the rows that would move as may, the surest first; ties by number."""
    places = np.flatnonzero(waiting)
    admitted = np.zeros(len(waiting), np.bool_)
    admitted[places[np.argsort(-rank[places], kind="stable")][:most]] = True
    return admitted
