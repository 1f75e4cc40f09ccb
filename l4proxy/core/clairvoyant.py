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
"""Candidates × slices × pairs that are looked at: 1.2 GB. Beyond it the floor is not computed."""

SAMPLE_CELLS = 10_000_000
"""The price of a change is looked for on every k-th pair, so many cells: a hundredth of the work on a large fleet."""

UNKNOWN_MS = 1e6
"""Stands for a path that a slice says nothing of, or that did not answer: any other is taken before it."""

_STEPS = 24
"""Bisections of the price between a thousandth of a ms and 10⁷ ms: to 0.2 %."""


def least_rtt(
    candidates: Sequence[Rows], costs: Sequence[FloatArray], hop_ms: float, max_changes: int
) -> FloatArray | None:
    """Return the RTT by slice and pair, [slices, pairs], of the tables that are best with at most `max_changes` changes in all.

    `costs` are the RTTs of the slices, inf where there are none; each of `candidates` is one row a pair. inf where no path can be priced.
    None: too large to compute.
    """
    pairs, slices = len(candidates[0]), len(costs)
    if pairs * slices * len(candidates) > MAX_CELLS:
        return None
    priced = np.empty((slices, len(candidates), pairs), np.float32)
    for at, cost in enumerate(costs):
        for number, rows in enumerate(candidates):
            priced[at, number] = np.minimum(dense.price(rows, cost, hop_ms), UNKNOWN_MS)
    every = max(1, priced.size // SAMPLE_CELLS)
    price = _price_of_change(np.ascontiguousarray(priced[:, :, ::every]), max_changes / every)
    chosen, changes = _cheapest_ways(priced, price)
    while changes > max_changes and price < UNKNOWN_MS:
        price *= 1.05
        chosen, changes = _cheapest_ways(priced, price)
    rtt_ms = np.take_along_axis(priced, chosen[:, None], axis=1)[:, 0].astype(np.float64)
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
    """The candidate of each slice and pair, and how many changes they make (Viterbi: forward by least sums, back by where they came from)."""
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
