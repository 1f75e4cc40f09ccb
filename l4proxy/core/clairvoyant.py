"""The least RTT that any sequence of tables could have had that changes no more often than the one that is judged: what is left is chance.

Whoever knew all slices beforehand would choose for each pair a path a slice so that the sum of RTTs and of what changes cost is least:
a shortest way through slices × candidate paths. The cost of a change is set so that no more are made than the judged table made.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.routing import dense
from l4proxy.core.routing.dense import FloatArray, Rows

MAX_CELLS = 300_000_000
"""Candidates × slices × pairs that are looked at: 1.2 GB. Beyond it only every k-th pair is looked at."""

MAX_LINK_VALUES = 200_000_000
"""RTTs of all slices that are kept: 800 MB. Beyond it the floor is not computed."""

MAX_SLICES = 40
"""Slices whose best paths are candidates, spread evenly; a path that is best for long is the best of one of them."""

SAMPLE_CELLS = 10_000_000
"""The price of a change is looked for on every k-th pair, so many cells: a hundredth of the work on a large fleet."""

UNKNOWN_MS = 1e6
"""Stands for a path that a slice says nothing of, or that did not answer: any other is taken before it."""

_STEPS = 20
"""Bisections of the price between a thousandth of a ms and 10⁷ ms: to 2 %."""


class FloorTally:
    """Keeps of each judged slice what the floor is computed from: RTTs of all links, and tables of every k-th pair, within bounds.

    Candidates of a pair are the best paths of up to MAX_SLICES slices, the best one by the mean of all, the direct one, and the judged ones
    of the first and the last slice.
    """

    def __init__(self, pops: int, slices: int, hop_ms: float, max_transits: int) -> None:
        self._pops = pops
        self._hop_ms = hop_ms
        self._max_transits = max_transits
        self._is_off = slices == 0 or pops * pops * slices > MAX_LINK_VALUES
        cells = pops * pops * max(1, slices) * (min(slices, MAX_SLICES) + 4)
        self._every = 1 + cells // MAX_CELLS
        self._skip = 1 + slices // MAX_SLICES
        self._costs: list[NDArray[np.float32]] = []
        self._counts: list[NDArray[np.bool_]] = []
        self._best: list[Rows] = []
        self._best_ms: list[FloatArray] = []
        self._judged: list[Rows] = []

    @property
    def pairs_ratio(self) -> float | None:
        """The share of pairs that the floor is computed on; None: on none."""
        return None if self._is_off else 1.0 / self._every

    def add(self, rows: Rows, best: Rows, costs: FloatArray, counts: NDArray[np.bool_]) -> None:
        """Take one judged slice: the table, the best paths, RTTs of links (inf: none), and the pairs that count."""
        if self._is_off:
            return
        few = slice(None, None, self._every)
        if len(self._costs) % self._skip == 0:
            self._best.append(best[few])
        self._best_ms.append(dense.price(best[few], costs, self._hop_ms))
        self._costs.append(costs.astype(np.float32))
        self._counts.append(counts[few])
        self._judged[1:] = [rows[few]] if self._judged else []
        self._judged = self._judged or [rows[few]]

    def regret_ratio(self, changes_a_pair: float) -> float | None:
        """Return the least regret with so many changes a pair in all; None: nothing judged, or too much for the bounds."""
        if self._is_off or not self._costs:
            return None
        some = np.flatnonzero(np.logical_or.reduce(self._counts))
        if len(some) == 0:
            return None
        candidates = [rows[some] for rows in (*self._best, *self._whole(), *self._judged)]
        rtt_ms = _least_rtt(candidates, self._costs, self._hop_ms, changes_a_pair * len(some))
        least = best = 0.0
        for counts, best_ms, row in zip(self._counts, self._best_ms, rtt_ms, strict=True):
            both = counts[some] & np.isfinite(row)
            least += float(row[both].sum())
            best += float(best_ms[some][both].sum())
        return (least - best) / best if best else None

    def _whole(self) -> tuple[Rows, Rows]:
        """The best path by the mean of all slices, and the direct one."""
        total, known = np.zeros(self._pops**2), np.zeros(self._pops**2)
        for costs in self._costs:
            is_known = np.isfinite(costs)
            total[is_known] += costs[is_known]
            known += is_known
        with np.errstate(invalid="ignore"):
            means = np.where(known > 0, total / known, np.inf).reshape(self._pops, self._pops)
        _, mids = dense.best_paths(means, self._max_transits, self._hop_ms)
        few = slice(None, None, self._every)
        return dense.rows_of(means, mids)[few], dense.direct_rows(means)[few]


def _least_rtt(
    candidates: Sequence[Rows], costs: Sequence[NDArray[np.float32]], hop_ms: float, max_changes: float
) -> FloatArray:
    """The RTT by slice and pair of the tables that are best with at most `max_changes` changes; inf where no path can be priced."""
    priced = np.empty((len(costs), len(candidates), len(candidates[0])), np.float32)
    for at, cost in enumerate(costs):
        for number, rows in enumerate(candidates):
            priced[at, number] = np.minimum(dense.price(rows, cost, hop_ms), UNKNOWN_MS)
    every = 1 + priced.size // SAMPLE_CELLS
    price = _price_of_change(np.ascontiguousarray(priced[:, :, ::every]), max_changes / every)
    chosen, changes = _cheapest_ways(priced, price)
    while changes > max_changes and price < UNKNOWN_MS:
        price *= 1.05
        chosen, changes = _cheapest_ways(priced, price)
    rtt_ms = np.take_along_axis(priced, chosen[:, None].astype(np.int64), axis=1)[:, 0].astype(np.float64)
    rtt_ms[rtt_ms >= UNKNOWN_MS] = np.inf
    return rtt_ms


def _price_of_change(priced: NDArray[np.float32], max_changes: float) -> float:
    low, high = 1e-3, 1e7
    if _cheapest_ways(priced, low)[1] <= max_changes:
        return low
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        if _cheapest_ways(priced, middle)[1] <= max_changes:
            high = middle
        else:
            low = middle
    return high


def _cheapest_ways(priced: NDArray[np.float32], price: float) -> tuple[NDArray[np.int8], int]:
    """The candidate of each slice and pair, and how many changes they make. Viterbi: forward by least sums, then back."""
    slices, candidates, pairs = priced.shape
    came_from = np.empty((slices, candidates, pairs), np.int8)
    total = priced[0].copy()
    own = np.arange(candidates, dtype=np.int8)[:, None]
    for at in range(1, slices):
        best = total.argmin(axis=0).astype(np.int8)
        entered = np.take_along_axis(total, best[None].astype(np.int64), axis=0) + np.float32(price)
        stays = total <= entered
        came_from[at] = np.where(stays, own, best[None])
        total = np.where(stays, total, entered) + priced[at]
    chosen = np.empty((slices, pairs), np.int8)
    chosen[-1] = total.argmin(axis=0)
    for at in range(slices - 1, 0, -1):
        chosen[at - 1] = np.take_along_axis(came_from[at], chosen[at][None].astype(np.int64), axis=0)[0]
    return chosen, int((chosen[1:] != chosen[:-1]).sum())
