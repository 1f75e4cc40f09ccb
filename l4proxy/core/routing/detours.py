"""The exact search: for each row the cheapest path without links and PoPs of its own. Slow, for what the quick look misses.

Rounds over the pairs that links join (Bellman and Ford), many rows at once: the first from the source alone, the last to the end alone.
Where a row may not use the best link of a pair it has the next. Ties are broken by fewer links, then by the PoP before the end, and so on.
"""

from dataclasses import dataclass

import numpy as np

from l4proxy.core.routing.ground import Ground, Legs, cheapest_three
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray, one_more
from l4proxy.core.routing.planned import TIE_MS, without_rank
from l4proxy.core.routing.rows import Rows, no_rows

SUMS_AT_ONCE = 2_000_000
"""Bound of the memory that a round takes: 16 MB a matrix of sums."""


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """The pairs that onward links join, in the order of the PoPs that they lead to, as rounds want them."""

    start: IntArray
    cost: FloatArray
    """With the hop, and with the rank of the start among those of the same end."""
    rank: FloatArray
    """That rank alone."""
    group: IntArray
    """Where the pairs to each of `ends` begin."""
    ends: IntArray
    place: IntArray
    """Place of each pair, from * pops + to, among these; one past the last for others, and for the pair -1 that is none."""

    @classmethod
    def of(cls, ground: Ground) -> "Edges":
        """Take the onward links of a ground."""
        pops = ground.pops
        toward = ground.toward[:, :pops].ravel()
        pair = np.flatnonzero(toward < np.inf)
        end, start = pair // pops, pair % pops
        group = np.flatnonzero(np.append(True, end[1:] != end[:-1])[: len(end)])
        size = np.diff(np.append(group, len(end)))
        rank: FloatArray = np.multiply(TIE_MS, np.arange(len(end)) - np.repeat(group, size))
        place = np.full(pops * pops + 1, len(pair))
        place[start * pops + end] = np.arange(len(pair))
        return cls(start, toward[pair] + rank, rank, group, end[group], place)


@dataclass(frozen=True, slots=True, eq=False)
class Bans:
    """What some rows may not use, and what they use instead of a link: the cheapest other one of its pair."""

    pair: IntArray
    """[rows, any] pairs of banned links; -1 for none."""
    first: Legs
    """What stands there for the first link of a path, [rows, any]."""
    onward: Legs
    """The same for later ones."""
    pops: IntArray
    """[rows, any]; the number of PoPs for none."""

    @classmethod
    def of(cls, ground: Ground, links: IntArray, pops: IntArray) -> "Bans":
        """Look for other links where some are banned."""
        index = ground.table.pairs
        pair = np.where(
            links >= 0, index.start[links] * np.int32(ground.pops) + index.end[links], np.int32(-1)
        )
        first = _instead(ground, ground.costs, pair, links)
        if ground.is_uniform:
            return cls(pair, first, first, pops)
        onward_costs = np.where(one_more(ground.table.labelled, False), ground.costs, np.inf)
        return cls(pair, first, _instead(ground, onward_costs, pair, links), pops)

    def link(self, default: IntArray, pair: IntArray, row: IntArray, *, is_first: bool) -> IntArray:
        """Return the links that rows use for a pair each: the default, or what stands instead of it."""
        legs = self.first if is_first else self.onward
        is_here = self.pair[row] == pair[:, None]
        instead = legs.link[row, is_here.argmax(axis=1)]
        return np.where(is_here.any(axis=1), instead, default)


def _instead(ground: Ground, costs: FloatArray, pair: IntArray, links: IntArray) -> Legs:
    """A path has one link of a pair, and so has its backup: the third is always free."""
    found = Legs(np.full(pair.shape, np.inf), np.full(pair.shape, -1, np.int32))
    for legs in reversed(cheapest_three(ground.table.pairs, costs, pair.ravel())):
        cost, link = legs.cost.reshape(pair.shape), legs.link.reshape(pair.shape)
        is_free = (link[:, :, None] != links[:, None, :]).all(axis=2)
        np.copyto(found.cost, cost, where=is_free)
        np.copyto(found.link, link, where=is_free)
    return found


class Detours:
    """The exact search on one ground; what it needs of the links is sorted once, when first needed."""

    __slots__ = ("_edges", "_ground", "_leaving", "_reaching")

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._edges: Edges | None = None
        table, pops = ground.table, ground.pops
        is_usable = ground.costs[:-1] < np.inf
        self._leaving = np.bincount(table.start[is_usable], minlength=pops)
        self._reaching = np.bincount(table.end[is_usable], minlength=pops)

    def find(
        self,
        source: IntArray,
        end: IntArray,
        without_links: IntArray,
        without_pops: IntArray,
        max_links: int,
    ) -> Rows:
        """Return for each row the cheapest path from `source` to `end` of at most `max_links` (2 to 4); a row of -1 where there is none.

        `without_links` [rows, any]: numbers, -1 for none, at most two of a pair; `without_pops` [rows, any]: the number of PoPs for none.
        """
        found = no_rows(len(source))
        hopeful = np.flatnonzero(self._may_exist(source, end, without_links))
        if not len(hopeful):
            return found
        if self._edges is None:
            self._edges = Edges.of(self._ground)
        at_once = max(1, SUMS_AT_ONCE // max(1, len(self._edges.start)))
        for begin in range(0, len(hopeful), at_once):
            part = hopeful[begin : begin + at_once]
            bans = Bans.of(self._ground, without_links[part], without_pops[part])
            found[part] = _some(self._ground, self._edges, source[part], end[part], bans, max_links)
        return found

    def _may_exist(self, source: IntArray, end: IntArray, without_links: IntArray) -> BoolArray:
        """Return where a usable link is left that leaves the source, and one that reaches the end. In small fleets that says it all."""
        links = np.sort(without_links, axis=1)
        links[:, 1:][links[:, 1:] == links[:, :-1]] = -1
        index = self._ground.table.pairs
        is_usable = (links >= 0) & (self._ground.costs[links] < np.inf)
        leaving = self._leaving[source] - (is_usable & (index.start[links] == source[:, None])).sum(axis=1)
        reaching = self._reaching[end] - (is_usable & (index.end[links] == end[:, None])).sum(axis=1)
        may_exist: BoolArray = (leaving > 0) & (reaching > 0)
        return may_exist


def _some(ground: Ground, edges: Edges, source: IntArray, end: IntArray, bans: Bans, max_links: int) -> Rows:
    pops, every = ground.pops, np.arange(len(source))
    cost = _first_round(ground, source, bans)
    before: list[IntArray] = []
    for _ in range(max_links - 2):
        last = _next_round(ground, edges, cost, bans, source)
        if last is None:
            break
        cost, came_from = last
        before.append(came_from)
    total, middle = _last_round(ground, cost, end, bans)
    is_longer = total < cost[every, end]
    rows = no_rows(len(source))
    at = np.where(is_longer, middle, end)
    is_found = is_longer | (cost[every, end] < np.inf)
    _prepend(ground, bans, rows, np.flatnonzero(is_longer), middle, end)
    for came_from in reversed(before):
        start = np.where(is_found, came_from[every, at], -1)
        row = np.flatnonzero(start >= 0)
        _prepend(ground, bans, rows, row, start, at)
        at[row] = start[row]
    row = np.flatnonzero(is_found)
    pair = source[row] * pops + at[row]
    rows[row, 1:] = rows[row, :-1]
    rows[row, 0] = bans.link(ground.first.link[pair], pair, row, is_first=True)
    return rows


def _prepend(ground: Ground, bans: Bans, rows: Rows, row: IntArray, start: IntArray, end: IntArray) -> None:
    """Write before what some rows have the link from `start` to `end`."""
    pair = start[row] * ground.pops + end[row]
    rows[row, 1:] = rows[row, :-1]
    rows[row, 0] = bans.link(ground.onward.link[pair], pair, row, is_first=False)


def _first_round(ground: Ground, source: IntArray, bans: Bans) -> FloatArray:
    """Return what one link costs from the source to each PoP, and inf in a column that stands for no PoP."""
    pops = ground.pops
    cost = np.full((len(source), pops + 1), np.inf)
    cost[:, :pops] = ground.first.cost.reshape(pops, pops)[source]
    row, column = np.nonzero((bans.pair >= 0) & (bans.pair // pops == source[:, None]))
    cost[row, bans.pair[row, column] % pops] = bans.first.cost[row, column]
    cost[np.arange(len(source))[:, None], bans.pops] = np.inf
    return cost


def _next_round(
    ground: Ground, edges: Edges, cost: FloatArray, bans: Bans, source: IntArray
) -> tuple[FloatArray, IntArray] | None:
    """Return costs with one link more, and the PoP before each that is reached for less than without it; None: none is."""
    if not len(edges.start) or not (cost < np.inf).any():
        return None
    rows, pops = np.arange(len(cost))[:, None], ground.pops
    # The column behind the pairs is written to for bans of pairs that are not among them, and never read.
    sums = np.empty((len(cost), len(edges.start) + 1))
    np.add(cost.take(edges.start, axis=1), edges.cost, out=sums[:, :-1])
    place = edges.place[bans.pair]
    instead = cost[rows, bans.pair // pops] + bans.onward.cost + ground.hop_ms
    sums[rows, place] = instead + one_more(edges.rank, 0.0)[place]
    least = np.minimum.reduceat(sums[:, :-1], edges.group, axis=1)
    value = without_rank(least)
    row, column = np.nonzero(value < cost[:, edges.ends])
    is_other = edges.ends[column] != source[row]
    row, column = row[is_other], column[is_other]
    if not len(row):
        return None
    rank = np.rint((least[row, column] - value[row, column]) / TIE_MS).astype(np.int64)
    came_from = np.full(cost.shape, -1, np.int32)
    came_from[row, edges.ends[column]] = edges.start[edges.group[column] + rank]
    after = cost.copy()
    after[row, edges.ends[column]] = value[row, column]
    after[rows, bans.pops] = np.inf
    return after, came_from


def _last_round(ground: Ground, cost: FloatArray, end: IntArray, bans: Bans) -> tuple[FloatArray, IntArray]:
    """Return what the end costs with one link more, and the PoP before it."""
    rows, pops = np.arange(len(end)), ground.pops
    onward = ground.toward[end]
    row, column = np.nonzero((bans.pair >= 0) & (bans.pair % pops == end[:, None]))
    onward[row, bans.pair[row, column] // pops] = bans.onward.cost[row, column] + ground.hop_ms
    sums = cost + onward
    middle = sums.argmin(axis=1)
    return sums[rows, middle], middle.astype(np.int32)
