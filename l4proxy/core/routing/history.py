"""One value a link and interval → the level that routes are built on, for any number of links at once.

This is the slow estimate of `route replay` and of recorded histories, where a value already stands for minutes: the mean of what was
seen since the level last shifted. A spike counts with its share and no less, because spikes are part of what a link costs; that one spike
moves no path is the switching rule's business. It does not detect outages: the data plane does, in a second.
A link's own values say how far it strays, and while there are few of them, what is common in the fleet does.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]


FIRST_COMMON_MAX = 0.03
"""Directions that differ by more in the median are rather different paths than chance: pings of one pair agree to 0.1 % (Vultr, 4 runs)."""


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """What the levels are made by. Deviations are mean absolute deviations from the level."""

    weight: float = 0.2
    """Of a new value, once there are many; before, all count alike (1 / n). Half of what is known is then from the last three values."""
    far: float = 3.0
    """Deviations from the level that are far: 1 in 60 values of Gaussian noise is as far, and most spikes are."""
    shift_after: int = 2
    """Far values in a row, on one side, before the level is taken to have shifted there: one is a spike, two in a row are rarely two."""
    common: float = 4.0
    """The fleet's common deviation counts as so many values of the link's own: after four of them the link's own weigh as much."""
    stale_after: int = 3
    """Intervals without a value before a link is taken as not measured. A hole or two is normal; three are an absence."""


@dataclass(frozen=True, slots=True)
class History:
    """What is known of n links: arrays of one length. NaN in `level` and `last`: never measured."""

    level: FloatArray
    last: FloatArray
    deviation: FloatArray
    """Mean absolute deviation of the link's own values."""
    count: IntArray
    """Values since the first, or since the last shift."""
    seen: IntArray
    """Values since the first."""
    beyond: IntArray
    """Far values in a row; negative: below the level."""
    silent: IntArray
    """Intervals since the last value."""
    common: float
    """The fleet's common deviation as a ratio of the level; NaN until a link has two values."""

    @classmethod
    def of(cls, links: int) -> "History":
        """Return the history of links that were never measured."""
        nothing, zero = np.full(links, np.nan), np.zeros(links, np.int32)
        return cls(nothing, nothing, np.zeros(links), zero, zero, zero, zero, float("nan"))


def observed(history: History, values: FloatArray, rules: HistoryRules) -> History:
    """Return the history after one more value a link; NaN: none came in this interval. Values are finite and positive."""
    known = ~np.isnan(values)
    first = known & (history.seen == 0)
    again = known & ~first
    error = np.where(again, values - history.level, 0.0)
    common = _common(history, error, again, rules)
    limit = rules.far * _spread(history.level, history.deviation, history.seen, common, rules)
    side = np.where(again & (np.abs(error) > limit), np.sign(error), 0).astype(np.int32)
    beyond = np.where(side == 0, 0, np.where(np.sign(history.beyond) == side, history.beyond + side, side))
    shifted = again & (np.abs(beyond) >= rules.shift_after)
    count = np.where(known, np.where(shifted, min(2, rules.shift_after), history.count + 1), history.count)
    share = np.maximum(1.0 / np.maximum(count, 1), rules.weight)
    level = np.where(again, history.level + share * error, history.level)
    level = np.where(shifted, (values + history.last) / 2 if rules.shift_after > 1 else values, level)
    level = np.where(first, values, level)
    seen = history.seen + known.astype(np.int32)
    share_deviation = np.maximum(1.0 / np.maximum(seen - 1, 1), rules.weight)
    deviation = history.deviation + np.where(
        again, share_deviation * (np.minimum(np.abs(error), limit) - history.deviation), 0.0
    )
    return History(
        level=level,
        last=np.where(known, values, history.last),
        deviation=deviation,
        count=count.astype(np.int32),
        seen=seen,
        beyond=np.where(known, np.where(shifted, 0, beyond), history.beyond).astype(np.int32),
        silent=np.where(known, 0, history.silent + 1).astype(np.int32),
        common=common,
    )


def _common(history: History, error: FloatArray, again: NDArray[np.bool_], rules: HistoryRules) -> float:
    """The median link's relative deviation: no spike of a link, and no link that is always wild, moves what is common."""
    if not again.any():
        return history.common
    newest = float(np.median(np.abs(error[again]) / history.level[again]))
    if np.isnan(history.common):
        return newest
    return history.common + max(1.0 / float(history.seen.max()), rules.weight) * (newest - history.common)


def _spread(
    level: FloatArray, deviation: FloatArray, seen: IntArray, common: float, rules: HistoryRules
) -> FloatArray:
    if np.isnan(common):
        return np.zeros_like(level)
    own = np.maximum(seen - 1, 0)
    return (own * deviation + rules.common * common * level) / (own + rules.common)


def spread(history: History, rules: HistoryRules) -> FloatArray:
    """Return how far each link's values stray from its level, as a mean absolute deviation in ms; NaN: never measured."""
    return _spread(history.level, history.deviation, history.seen, history.common, rules)


def doubt(history: History, rules: HistoryRules) -> FloatArray:
    """Return the standard error of each level in ms: Gaussian deviation (1.25 mean absolute ones) over the root of the count."""
    effective = np.maximum(1.0 / np.maximum(history.count, 1), rules.weight / (2 - rules.weight))
    return 1.25 * spread(history, rules) * np.sqrt(effective)


def both_ways(history: History, reverse: IntArray, rules: HistoryRules) -> FloatArray:
    """Return the levels with what the reverse links know: a round trip A → B → A is B → A → B as well, so each is a second measurement.

    `reverse` is the number of each link's reverse, -1: none. The two are averaged as far as their difference is what their doubts
    explain, ½ min(1, doubts² / difference²): a pair that really differs keeps its difference.
    """
    other = np.where(reverse >= 0, history.level[reverse], np.nan)
    difference = other - history.level
    if np.isnan(history.common):
        history = replace(history, common=first_common(history, reverse))
    variance = doubt(history, rules) ** 2
    both = variance + variance[reverse]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 0.5 * np.minimum(1.0, both / difference**2)
    return np.where(
        np.isnan(difference) | (difference == 0), history.level, history.level + share * difference
    )


def is_fresh(history: History, rules: HistoryRules) -> NDArray[np.bool_]:
    """Whether a link was measured lately enough to be planned with."""
    return (history.seen > 0) & (history.silent < rules.stale_after)


def first_common(history: History, reverse: IntArray) -> float:
    """Return the fleet's common deviation by the differences of directions, from one value of each: what there is before a second."""
    other = np.where(reverse >= 0, history.level[reverse], np.nan)
    difference = other - history.level
    pairs = ~np.isnan(difference)
    common = (
        float(np.median(np.abs(difference[pairs]) / history.level[pairs])) / 2**0.5 if pairs.any() else 0.0
    )
    return min(common, FIRST_COMMON_MAX)


def common_doubt(history: History, reverse: IntArray, rules: HistoryRules) -> float:
    """Return the standard error of a level that is common in the fleet, as a ratio of it."""
    common = first_common(history, reverse) if np.isnan(history.common) else history.common
    count = float(max(1, history.seen.max(initial=1)))
    return 1.25 * common * float(np.sqrt(max(1.0 / count, rules.weight / (2 - rules.weight))))
