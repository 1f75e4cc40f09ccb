"""Which rows leave their path for a better one, and the verdict on each. One small function a rule; arrays of rows, one ingress or all pairs.

A path that cannot be used is left at once. Any other change must pay for itself: it must be better by a margin, on the slow estimate and
at this moment, and what staying has cost so far must have reached what a change costs (the ski-rental rule: nobody knows how long an
advantage lasts, and one who buys when the rents paid make up the price never pays more than twice what the best decision would have).
So a large advantage is taken at once, a small one when it has lasted, and one that comes and goes by chance never.

Changes for gain have a budget besides, the largest first: what a whole fleet sees move at once is rather its own measuring than the network.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Rows = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


class Verdict(IntEnum):
    """Why a row has the path that it has after a round. What `explain` says of each stands in `WORDS`."""

    BEST = 0
    REPAIRED = 1
    MOVED = 2
    GUARDED = 3
    MIN_GAIN = 4
    MARGIN = 5
    NOT_NOW = 6
    HELD = 7
    DAMPED = 8
    NOT_YET_WORTH = 9
    BUDGET = 10
    NONE = 11
    FIRST = 12


WORDS: dict[Verdict, str] = {
    Verdict.BEST: "it is the best path",
    Verdict.FIRST: "it was the best path when the first was needed",
    Verdict.REPAIRED: "the path before could not be used any more",
    Verdict.MOVED: "it became better by enough, for long enough",
    Verdict.GUARDED: "guard: the detour was no better than direct",
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

CHANGED = frozenset({Verdict.REPAIRED, Verdict.MOVED, Verdict.GUARDED, Verdict.FIRST})
"""Verdicts with which a row's path became another one."""


@dataclass(frozen=True, slots=True)
class SwitchRules:
    """The constants of the rule, each with its reason. A round is what one new value of every link makes up: a slice, ten minutes."""

    margin_ratio: float = 0.01
    """Advantages below a hundredth are within what composing separate measurements of links is wrong by."""
    margin_ms: float = 1.0
    """One hop's cost: less is not worth any change."""
    price_ms: float = 20.0
    """What a change costs, in ms of round trip times rounds."""
    patience: float = 0.5
    """What is left of the accumulated advantage after a round in which the path was the best: evidence ages."""
    hold_down_ns: int = 10_000_000_000
    """After a change the next one for gain waits ten seconds, which is three probes of the slowest class, and the round trip of reports."""
    budget_ratio: float = 0.008
    """Of rows, changes for gain in a round: RIPE Atlas paths shift 1.1 times a day, 0.8 % of them in ten minutes."""
    budget_rounds: float = 4.0
    """Unused budget is kept for so many rounds, so that one event may move more rows than the mean."""
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
    """Changes for gain that may still be made now."""

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
            budget=0.0,
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """What a round decides from, for n rows: the best and the direct path, and what those and the present one cost. inf: not usable."""

    best: Rows
    direct: Rows
    best_ms: FloatArray
    direct_ms: FloatArray
    current_ms: FloatArray
    best_ms_now: FloatArray
    """By the newest values alone, as the next two."""
    direct_ms_now: FloatArray
    current_ms_now: FloatArray
    is_guarded: BoolArray
    """Rows whose detours the guard has taken away."""


def decided(
    state: SwitchState, now_ns: int, offer: Offer, min_gain_ms: float, rules: SwitchRules, rounds: float = 1.0
) -> tuple[SwitchState, NDArray[np.int8]]:
    """Return the rows that are used from here on, and a verdict a row. `rounds`: how much time has passed, in rounds."""
    count = len(state.rows)
    penalty, is_damped = _aged(state, now_ns, rules)
    target, target_ms, target_ms_now, gains_too_little = _target(state, offer, min_gain_ms)
    has_path = state.rows[:, 0] >= 0
    is_lost = has_path & ~np.isfinite(offer.current_ms)
    is_same = (target == state.rows).all(axis=1)
    is_detour = state.rows[:, 1] >= 0
    is_taken_back = has_path & is_detour & offer.is_guarded & np.isfinite(offer.direct_ms) & ~is_lost

    advantage = np.where(has_path & ~is_lost & ~is_same, offer.current_ms - target_ms, 0.0)
    enough = advantage > np.maximum(rules.margin_ms, rules.margin_ratio * offer.current_ms)
    better_now = offer.current_ms_now > target_ms_now
    owed = np.where(advantage > 0, state.owed_ms + rounds * advantage, state.owed_ms * rules.patience**rounds)
    is_held = now_ns - state.changed_ns < rules.hold_down_ns
    is_worth = owed >= rules.price_ms

    verdict = np.full(count, Verdict.BEST, np.int8)
    verdict[gains_too_little] = Verdict.MIN_GAIN
    moving = has_path & ~is_lost & ~is_same & ~is_taken_back
    for rule, code in (
        (enough, Verdict.MARGIN),
        (better_now, Verdict.NOT_NOW),
        (~is_held, Verdict.HELD),
        (~is_damped, Verdict.DAMPED),
        (is_worth, Verdict.NOT_YET_WORTH),
    ):
        verdict[moving & ~rule] = code
        moving &= rule
    budget = min(state.budget + rounds * rules.budget_ratio * count, max(1.0, rules.budget_rounds * rules.budget_ratio * count))
    admitted, budget = _admitted(moving, owed, budget)
    verdict[moving & ~admitted] = Verdict.BUDGET
    verdict[admitted] = Verdict.MOVED
    verdict[is_taken_back] = Verdict.GUARDED
    can_be = np.isfinite(target_ms)
    verdict[is_lost & can_be] = Verdict.REPAIRED
    verdict[~has_path & can_be] = Verdict.FIRST
    gone = (is_lost | ~has_path) & ~can_be
    verdict[gone] = Verdict.NONE

    rows = np.where(np.isin(verdict, [Verdict.MOVED, Verdict.REPAIRED, Verdict.FIRST])[:, None], target, state.rows)
    rows = np.where(is_taken_back[:, None], offer.direct, rows)
    rows[gone] = -1
    changed = np.isin(verdict, [Verdict.MOVED, Verdict.REPAIRED, Verdict.GUARDED])
    penalty = penalty + np.where(changed, rules.flap_penalty, 0.0)
    return (
        SwitchState(
            rows=rows.astype(np.int32),
            changed_ns=np.where(changed, now_ns, state.changed_ns),
            owed_ms=np.where(changed, 0.0, owed),
            penalty=penalty,
            is_damped=is_damped | (penalty > rules.flap_suppress),
            at_ns=now_ns,
            budget=budget,
        ),
        verdict,
    )


def _aged(state: SwitchState, now_ns: int, rules: SwitchRules) -> tuple[FloatArray, BoolArray]:
    """RFC 2439: the penalty halves in each half-life, and a damped row is free again below the reuse limit."""
    elapsed = max(0, now_ns - state.at_ns) / rules.flap_half_life_ns
    penalty = state.penalty * 0.5**elapsed
    return penalty, state.is_damped & (penalty >= rules.flap_reuse)


def _target(state: SwitchState, offer: Offer, min_gain_ms: float) -> tuple[Rows, FloatArray, FloatArray, BoolArray]:
    """The path to have, were there no hysteresis: the best one; but direct while that is used, and no detour gains `min_gain`."""
    on_direct = (state.rows[:, 1] < 0) & np.isfinite(offer.direct_ms)
    is_detour = offer.best[:, 1] >= 0
    too_little = on_direct & is_detour & ~(offer.direct_ms - offer.best_ms >= min_gain_ms)
    stays_direct = too_little | (offer.is_guarded & np.isfinite(offer.direct_ms))
    return (
        np.where(stays_direct[:, None], offer.direct, offer.best),
        np.where(stays_direct, offer.direct_ms, offer.best_ms),
        np.where(stays_direct, offer.direct_ms_now, offer.best_ms_now),
        too_little,
    )


def _admitted(moving: BoolArray, owed: FloatArray, budget: float) -> tuple[BoolArray, float]:
    """As many of the rows that would move as the budget has changes for, those that are owed most first; ties by number."""
    waiting = np.flatnonzero(moving)
    order = waiting[np.argsort(-owed[waiting], kind="stable")][: int(budget)]
    admitted = np.zeros(len(moving), np.bool_)
    admitted[order] = True
    return admitted, budget - len(order)
