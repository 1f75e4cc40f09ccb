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
        worse: BoolArray = path_ms > np.maximum(direct_ms * (1 + WORSE_RATIO), direct_ms + WORSE_MS)
    return worse


def is_slower(path_ms: FloatArray, direct_ms: FloatArray) -> BoolArray:
    """Return which of n rows had a path that was slower than direct in the median; arguments as in `refused`."""
    path, direct, counted = _known(path_ms, direct_ms)
    return (counted > 0) & (_quantile(path, counted, 0.5) > _quantile(direct, counted, 0.5))


def refused(path_ms: FloatArray, direct_ms: FloatArray, rules: GuardRules) -> BoolArray:
    """Return which of n rows may not take their path: [intervals, n] raw values of both, NaN where one was not measured.

    Refused: slower than direct in the median, or clearly slower at the 95th percentile, or clearly slower too often.
    """
    path, direct, counted = _known(path_ms, direct_ms)
    often = is_clearly_worse(path, direct).sum(axis=0) > rules.worse_share * counted
    middle = _quantile(path, counted, 0.5) > _quantile(direct, counted, 0.5)
    tail = is_clearly_worse(_quantile(path, counted, 0.95), _quantile(direct, counted, 0.95))
    found: BoolArray = (counted > 0) & (often | middle | tail)
    return found


def _known(path_ms: FloatArray, direct_ms: FloatArray) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Both where both are known, NaN elsewhere, and in how many intervals they are. An interval of nothing stands for none."""
    if len(path_ms) == 0:
        path_ms = direct_ms = np.full((1, path_ms.shape[1]), np.nan)
    known = np.isfinite(path_ms) & np.isfinite(direct_ms)
    return np.where(known, path_ms, np.nan), np.where(known, direct_ms, np.nan), known.sum(axis=0)


def _quantile(values: FloatArray, counted: NDArray[np.int64], share: float) -> FloatArray:
    """The value at the place ceil(share · n) of those that are known, by columns (NaN sorts last); NaN where none is."""
    place = np.maximum(np.ceil(share * counted).astype(np.int64) - 1, 0)
    found: FloatArray = np.take_along_axis(np.sort(values, axis=0), place[None], axis=0)[0]
    return found
