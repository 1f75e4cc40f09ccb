"""The exact search: for each row the cheapest path without links and PoPs of its own. Slow, for what the quick look misses.

Rounds over the links that there are (Bellman and Ford), many rows at once, so that sparse graphs are cheap. Ties are broken by fewer links,
then by the number of the last link, of the one before it, and so on.
"""

from dataclasses import dataclass

import numpy as np

from l4proxy.core.routing.ground import Ground
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray
from l4proxy.core.routing.planned import TIE_MS, without_rank
from l4proxy.core.routing.rows import Rows, no_rows

SUMS_AT_ONCE = 2_000_000
"""Bound of the memory that a round takes: 16 MB a matrix of sums."""


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """The usable links in the order of the PoPs that they lead to, as rounds want them."""

    link: IntArray
    start: IntArray
    first_cost: FloatArray
    onward_cost: FloatArray
    """With the hop; inf: not labelled."""
    group: IntArray
    """Where the links to each of `ends` begin."""
    ends: IntArray
    place: IntArray
    """Place of each link of the table among these; one past the last for others, and for the number that stands for no link."""

    @classmethod
    def of(cls, ground: Ground) -> "Edges":
        """Take the links of a ground."""
        table = ground.table
        by_end = table.pairs.by_end
        link = by_end[ground.costs[by_end] < np.inf]
        ends = table.end[link]
        group = np.flatnonzero(np.append(True, ends[1:] != ends[:-1])[: len(ends)]).astype(np.int32)
        place = np.full(len(table.names) + 1, len(link), np.int32)
        place[link] = np.arange(len(link))
        ranks = TIE_MS * table.pairs.end_rank[link]
        cost = ground.costs[link]
        onward = np.where(table.labelled[link], cost + ground.hop_ms, np.inf)
        return cls(link, table.start[link], cost + ranks, onward + ranks, group, ends[group], place)


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
        """Return for each row the cheapest path from `source` to `end`; a row of -1 where there is none.

        `without_links` [rows, any]: numbers, -1 for none. `without_pops` [rows, any]: numbers, the number of PoPs for none.
        """
        found = no_rows(len(source))
        hopeful = np.flatnonzero(self._may_exist(source, end, without_links))
        if not len(hopeful):
            return found
        if self._edges is None:
            self._edges = Edges.of(self._ground)
        at_once = max(1, SUMS_AT_ONCE // len(self._edges.link))
        for begin in range(0, len(hopeful), at_once):
            part = hopeful[begin : begin + at_once]
            found[part] = _some(
                self._ground,
                self._edges,
                source[part],
                end[part],
                without_links[part],
                without_pops[part],
                max_links,
            )
        return found

    def _may_exist(self, source: IntArray, end: IntArray, without_links: IntArray) -> BoolArray:
        """Return where a usable link is left that leaves the source, and one that reaches the end. In small fleets that says it all."""
        links = np.sort(without_links, axis=1)
        links[:, 1:][links[:, 1:] == links[:, :-1]] = -1
        table = self._ground.table
        is_usable = (links >= 0) & (self._ground.costs[links] < np.inf)
        leaving = self._leaving[source] - (is_usable & (table.pairs.start[links] == source[:, None])).sum(
            axis=1
        )
        reaching = self._reaching[end] - (is_usable & (table.pairs.end[links] == end[:, None])).sum(axis=1)
        may_exist: BoolArray = (leaving > 0) & (reaching > 0)
        return may_exist


def _some(
    ground: Ground,
    edges: Edges,
    source: IntArray,
    end: IntArray,
    without_links: IntArray,
    without_pops: IntArray,
    max_links: int,
) -> Rows:
    every = np.arange(len(source))
    links = len(edges.link)
    cost = np.full((len(source), ground.pops + 1), np.inf)
    cost[every, source] = 0.0
    # The column behind the links is written to for bans of links that are not among them, and never read.
    sums = np.empty((len(source), links + 1))
    banned = edges.place[without_links]
    rounds: list[IntArray] = []
    for number in range(max_links):
        legs = edges.first_cost if number == 0 else edges.onward_cost
        np.add(cost[:, edges.start], legs, out=sums[:, :links])
        sums[every[:, None], banned] = np.inf
        least = np.minimum.reduceat(sums[:, :links], edges.group, axis=1)
        row, column, taken = _improvements(ground, edges, cost, least)
        if number == 0:
            cost[every, source] = np.inf
        is_allowed = edges.ends[column] != source[row]
        row, column = row[is_allowed], column[is_allowed]
        if not len(row):
            break
        cost = cost.copy()
        cost[row, edges.ends[column]] = without_rank(least[row, column])
        cost[every[:, None], without_pops] = np.inf
        last = np.full(cost.shape, -1, np.int32)
        last[row, edges.ends[column]] = taken[is_allowed]
        rounds.append(last)
    return _retraced(edges, rounds, cost, end)


def _improvements(
    ground: Ground, edges: Edges, cost: FloatArray, least: FloatArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Return where a PoP is reached for less than before (row, and column of `ends`), and the edge that does it: its rank tells."""
    value = without_rank(least)
    row, column = np.nonzero(value < cost[:, edges.ends])
    rank = np.rint((least[row, column] - value[row, column]) / TIE_MS).astype(np.int32)
    index = ground.table.pairs
    return row, column, edges.place[index.by_end[index.end_begin[edges.ends[column]] + rank]]


def _retraced(edges: Edges, rounds: list[IntArray], cost: FloatArray, end: IntArray) -> Rows:
    rows = no_rows(len(end))
    every = np.arange(len(end))
    at = end.copy()
    is_found: BoolArray = cost[every, end] < np.inf
    for last in reversed(rounds):
        taken = np.where(is_found, last[every, at], -1)
        row = np.flatnonzero(taken >= 0)
        rows[row, 1:] = rows[row, :-1]
        rows[row, 0] = edges.link[taken[row]]
        at[row] = edges.start[taken[row]]
    return rows
