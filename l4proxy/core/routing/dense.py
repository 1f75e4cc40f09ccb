"""Best paths between all PoPs of a matrix with one link a pair, and the price of paths that are rows of link numbers.

The link from PoP i to PoP j of n has the number i · n + j. Costs are > 0, and inf where there is no link, on the diagonal too; so the
cheapest walk has no loop. Ties: fewer links, then the lower number of the last transit.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int32]

TIE_MS = 1e-9
"""Sums of the same costs in another order differ by less; a longer path must be better by more."""


def best_paths(
    cost_matrix: FloatArray, max_transits: int, hop_ms: float, gain_ratio: float = 0.0
) -> tuple[FloatArray, Rows]:
    """Return the cost of the best path of each pair, [n, n], and its transit PoPs in order, [n, n, max_transits], -1 after the last.

    One round of Bellman and Ford a transit: the best path with k transits is the best one with k - 1 to some PoP, and the link from there.
    A further transit is taken only for a path that is better by more than `gain_ratio` of the cost.
    """
    n = len(cost_matrix)
    best = cost_matrix.copy()
    mids = np.full((n, n, max_transits), -1, np.int32)
    into = np.ascontiguousarray(cost_matrix.T)
    sums = np.empty_like(into)
    every = np.arange(n)
    for _ in range(max_transits):
        before, before_mids = best.copy(), mids.copy()
        for source in range(n):
            np.add(into, before[source], out=sums)
            last = sums.argmin(axis=1)
            cost = sums[every, last] + hop_ms
            cost[source] = np.inf
            better = np.flatnonzero(cost < before[source] * (1 - gain_ratio) - TIE_MS)
            best[source, better] = cost[better]
            prefix = before_mids[source, last[better]]
            mids[source, better] = prefix
            mids[source, better, (prefix >= 0).sum(axis=1)] = last[better]
    return best, mids


def rows_of(cost_matrix: FloatArray, mids: Rows) -> Rows:
    """Return the paths of all pairs as rows of four link numbers; a pair without a path has none."""
    n, _, transits = mids.shape
    rows = np.full((n * n, 4), -1, np.int32)
    flat = mids.reshape(n * n, transits)
    at, end = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    for hop in range(transits):
        is_transit = flat[:, hop] >= 0
        to = np.where(is_transit, flat[:, hop], end)
        ended = at == end
        rows[:, hop] = np.where(ended, -1, at * n + to)
        at = np.where(ended, end, to)
    rows[:, transits] = np.where(at == end, -1, at * n + end)
    no_path = (rows[:, 1] < 0) & ~np.isfinite(cost_matrix.reshape(-1))
    rows[no_path] = -1
    return rows


def direct_rows(cost_matrix: FloatArray) -> Rows:
    """Return the direct path of all pairs as rows; a pair without a link has none."""
    rows = np.full((cost_matrix.size, 4), -1, np.int32)
    flat = cost_matrix.reshape(-1)
    rows[:, 0] = np.where(np.isfinite(flat), np.arange(flat.size), -1)
    return rows


def price(rows: Rows, costs: FloatArray | NDArray[np.float32], hop_ms: float) -> FloatArray:
    """Return what each row costs: its links' costs and a hop's for each transit PoP. inf: no path, or a link that cannot be used."""
    padded: FloatArray = np.append(costs.reshape(-1).astype(np.float64), 0.0)
    total = np.where(rows[:, 0] >= 0, padded[rows[:, 0]], np.inf)
    for link in range(1, rows.shape[1]):
        some = np.flatnonzero(rows[:, link] >= 0)
        if len(some) == 0:
            break
        total[some] += padded[rows[some, link]] + hop_ms
    return total


def pops_of(rows: Rows, pops: int) -> Rows:
    """Return the PoPs that each row passes, both ends included: [n, 5] numbers, -1 after the last. Rows have a path."""
    passed = np.full((len(rows), rows.shape[1] + 1), -1, np.int32)
    passed[:, 0] = rows[:, 0] // pops
    passed[:, 1:] = np.where(rows >= 0, rows % pops, -1)
    return passed
