"""One more link: the min-plus product of first links and of what is known to lead on from where they end.

A path of k links is a first link and the best path of k - 1 labelled links from its end, so that ties are broken by the first link's
number, then by the second's, as the order of names wants it. `longer` is the whole product, `longer_again` the same after few changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray
from l4proxy.core.routing.planned import without_rank

ROWS_AT_ONCE = 256
"""Pairs whose sums are made together: at 330 PoPs 0.7 MB, which stay in a cache of 1 MB."""

SINGLE_ERROR = 1e-6
"""Relative: single precision has 24 bits, 6e-8, and a sum of two rounded numbers is off by three times that at most. The same in ms for
what stands below a quantum."""

SingleArray = NDArray[np.float32]
NONE = np.zeros(0, np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Best paths of at most so many links, [from, to]."""

    cost: FloatArray
    """inf: there is none."""
    via: IntArray
    """Where the first link of the best path ends, if it needs as many links as the level has; -1: it has fewer, see the level below."""


@dataclass(frozen=True, slots=True, eq=False)
class Better:
    """A matrix, [from, to], in single precision, and its entries that are no worse than they were."""

    cost: SingleArray
    turned: SingleArray
    """[to, from]."""
    start: IntArray
    end: IntArray
    better: SingleArray
    """What each of those entries is."""

    @classmethod
    def of(cls, cost: FloatArray, is_better: BoolArray) -> "Better":
        """Take a matrix without a column for no PoP."""
        single = cost.astype(np.float32)
        at = np.flatnonzero(is_better)
        start, end = np.divmod(at, len(cost))
        return cls(single, np.ascontiguousarray(single.T), start, end, single.take(at))


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Which entries of a matrix are not what they were, and the matrix with those that are no worse."""

    changed: BoolArray
    better: Better


def longer(ranked: FloatArray, toward: FloatArray, base: FloatArray) -> Level:
    """Return the best paths with one link more than `base` has.

    `ranked`: first links, [from, to], with ranks. `toward`: [to, from], the hop and the best way on, of as many links as `base` has.
    """
    pops = len(base)
    best = np.empty_like(base)
    via = np.empty(base.shape, np.int32)
    sums = np.empty_like(toward)
    rows = np.arange(pops)
    for source in range(pops):
        np.add(toward, ranked[source], out=sums)
        at = sums.argmin(axis=1)
        best[source] = sums[rows, at]
        via[source] = at
    return _improved(without_rank(best), via, base)


def longer_again(
    before: Level,
    ranked: FloatArray,
    toward: FloatArray,
    base: FloatArray,
    base_before: FloatArray,
    first: Change,
    onward: Change,
) -> Level:
    """Return what `longer` would, from what it returned before: only pairs whose best path may have changed are looked at.

    These are pairs whose path uses an entry that changed, that had no need of the link and have lost what they had, or that a sum which
    became no worse now beats or equals.
    """
    pops = len(base)
    via = before.via.ravel()
    # -1 reads another pair's entry, which does not count; indices below 0 count from the end.
    uses_changed = first.changed.take(index_of(before.via, pops))
    uses_changed |= onward.changed.take(rest_of(before.via))
    has_via = via >= 0
    again = (base > base_before).ravel()
    np.copyto(again, uses_changed, where=has_via)
    pair, middle = beaten(before.cost, first.better, onward.better)
    sums = without_rank(ranked[pair // pops, middle] + toward[pair % pops, middle])
    # A sum that is no better than what fewer links give will not be taken.
    again[pair[sums < base.ravel()[pair]]] = True
    flagged = np.flatnonzero(again)
    cost = np.where(has_via, before.cost.ravel(), np.inf)
    via = via.copy()
    cost[flagged], via[flagged] = _searched(ranked, toward, flagged // pops, flagged % pops)
    return _improved(cost.reshape(base.shape), via.reshape(base.shape), base)


def index_of(via: IntArray, pops: int) -> IntArray:
    """Return the pair (from, via) of each pair (from, to), flat."""
    return (via + pops * np.arange(pops, dtype=np.int32)[:, None]).ravel()


def rest_of(via: IntArray) -> IntArray:
    """Return the pair (via, to) of each pair (from, to), flat."""
    pairs: IntArray = np.add(via * len(via), np.arange(len(via), dtype=np.int32))
    return pairs.ravel()


def _improved(cost: FloatArray, via: IntArray, base: FloatArray) -> Level:
    """Return paths of these costs where they are better than `base`. Writes over them."""
    is_no_better = cost >= base
    np.fill_diagonal(is_no_better, True)
    np.copyto(cost, base, where=is_no_better)
    np.copyto(via, np.int32(-1), where=is_no_better)
    return Level(cost, via)


def _searched(
    ranked: FloatArray, toward: FloatArray, source: IntArray, end: IntArray
) -> tuple[FloatArray, IntArray]:
    best = np.empty(len(source))
    via = np.empty(len(source), np.int32)
    for part, sums in sums_of(ranked, toward, source, end):
        at = sums.argmin(axis=1)
        best[part] = sums[np.arange(len(at)), at]
        via[part] = at
    return without_rank(best), via


def sums_of(
    ranked: FloatArray, toward: FloatArray, source: IntArray, end: IntArray
) -> Iterator[tuple[slice, FloatArray]]:
    """Yield the sums of pairs over every PoP between, [pairs, from], some pairs at a time.

    They stand in the same memory each time, and may be written over: to ask for fresh memory takes ten times as long as the sums do.
    """
    pairs = min(ROWS_AT_ONCE, len(source))
    sums, onward = np.empty((pairs, ranked.shape[1])), np.empty((pairs, ranked.shape[1]))
    for begin in range(0, len(source), ROWS_AT_ONCE):
        part = slice(begin, min(begin + ROWS_AT_ONCE, len(source)))
        some, more = sums[: part.stop - begin], onward[: part.stop - begin]
        ranked.take(source[part], axis=0, out=some, mode="clip")
        toward.take(end[part], axis=0, out=more, mode="clip")
        some += more
        yield part, some


def beaten(limit: FloatArray, first: Better, onward: Better) -> tuple[IntArray, IntArray]:
    """Return the pairs, flat, and middles of sums with a better entry of `first` or `onward` that cost at most `limit`.

    A pair may stand there several times, and sums that cost a little more may be among them: half the bytes are half the time, so sums are
    made in single precision, and limits raised by more than that can be wrong.
    """
    pops = len(limit)
    single = np.minimum(limit * (1 + SINGLE_ERROR) + SINGLE_ERROR, np.finfo(np.float32).max).astype(
        np.float32
    )
    pairs, middles = [], []
    for row, column, part in _least(onward.cost, first.end, first.better, single, first.start):
        pairs.append(first.start[part][row] * pops + column)
        middles.append(first.end[part][row])
    by_end = np.ascontiguousarray(single.T)
    for row, column, part in _least(first.turned, onward.start, onward.better, by_end, onward.end):
        pairs.append(column * pops + onward.end[part][row])
        middles.append(onward.start[part][row])
    return np.concatenate((*pairs, NONE)), np.concatenate((*middles, NONE))


def _least(
    known: SingleArray, which: IntArray, more: SingleArray, limit: SingleArray, whose: IntArray
) -> Iterator[tuple[IntArray, IntArray, slice]]:
    """Yield where `known[which] + more` is at most `limit[whose]`: row and column of each part of `which`."""
    shape = (min(ROWS_AT_ONCE, len(which)), known.shape[1])
    sums, most, is_least = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.bool_)
    for begin in range(0, len(which), ROWS_AT_ONCE):
        part = slice(begin, min(begin + ROWS_AT_ONCE, len(which)))
        rows = part.stop - begin
        known.take(which[part], axis=0, out=sums[:rows], mode="clip")
        limit.take(whose[part], axis=0, out=most[:rows], mode="clip")
        sums[:rows] += more[part, None]
        np.less_equal(sums[:rows], most[:rows], out=is_least[:rows])
        row, column = np.divmod(np.flatnonzero(is_least[:rows]), known.shape[1])
        yield row, column, part
