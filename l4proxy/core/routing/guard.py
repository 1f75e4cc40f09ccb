"""Never worse than direct: a detour that was no better than the direct path over the last intervals is refused, whatever the estimates say.

The guard looks at raw values and at none of the estimates that routes are chosen by, so it does not share their mistakes. It compares
the median and the tail of both paths, and how often the detour was clearly the slower one. It never adds a route.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

WORSE_RATIO = 0.05
WORSE_MS = 2.0
"""Clearly slower: by more than a twentieth and two milliseconds, what RON and Babel call a difference at all."""


@dataclass(frozen=True, slots=True)
class GuardRules:
    """How much evidence speaks against a detour."""

    window: int = 12
    """Intervals that are looked at: two hours of ten minutes, half of what a labelled level lasts in the median (5.6 hours)."""
    worse_share: float = 0.1
    """Share of the intervals in which a detour may have been clearly slower than direct."""


def is_clearly_worse(path_ms: FloatArray, direct_ms: FloatArray) -> BoolArray:
    """Whether a path was slower than direct by more than chance: over a twentieth and two milliseconds. False where one is not known."""
    with np.errstate(invalid="ignore"):
        return path_ms > np.maximum(direct_ms * (1 + WORSE_RATIO), direct_ms + WORSE_MS)


def refused(path_ms: FloatArray, direct_ms: FloatArray, rules: GuardRules) -> BoolArray:
    """Return which of n rows may not take their path: [intervals, n] raw values of both, NaN where one was not measured.

    Refused: slower than direct in the median, or clearly slower at the 95th percentile, or clearly slower too often.
    """
    if len(path_ms) == 0:
        return np.zeros(path_ms.shape[1], np.bool_)
    known = np.isfinite(path_ms) & np.isfinite(direct_ms)
    path, direct = np.where(known, path_ms, np.nan), np.where(known, direct_ms, np.nan)
    counted = known.sum(axis=0)
    often = is_clearly_worse(path, direct).sum(axis=0) > rules.worse_share * counted
    middle = _quantile(path, counted, 0.5) > _quantile(direct, counted, 0.5)
    tail = is_clearly_worse(_quantile(path, counted, 0.95), _quantile(direct, counted, 0.95))
    return (counted > 0) & (often | middle | tail)


def _quantile(values: FloatArray, counted: NDArray[np.int64], share: float) -> FloatArray:
    """The value at the place ceil(share · n) of those that are known, by columns (NaN sorts last); NaN where none is."""
    place = np.maximum(np.ceil(share * counted).astype(np.int64) - 1, 0)
    return np.take_along_axis(np.sort(values, axis=0), place[None], axis=0)[0]
