"""Backups: paths that live on when one link or transit PoP of a path dies, installed beside it, so that a repair waits for nobody.

The first shares no link and no transit PoP with the path, the second none with either. Two looks: paths of at most two links all at once,
which finds both wherever PoPs are joined well; then, for what that missed, the exact search, down to whatever survives one of the failures.
"""

from dataclasses import dataclass

import numpy as np

from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.detours import Detours
from l4proxy.core.routing.ground import Ground, Legs, cheapest_three, ground_of
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray, LinkTable
from l4proxy.core.routing.products import sums_of
from l4proxy.core.routing.rows import MAX_LINKS, Rows, ends, no_rows, sources, transits

QUICK_LINKS = 2
"""The quick look knows all paths of so many links."""


def backup_rows(
    table: LinkTable,
    costs: FloatArray,
    rows: Rows,
    max_links: int = MAX_LINKS,
    hop_cost_ms: float = HOP_COST_MS,
    banned: BoolArray | None = None,
) -> tuple[Rows, Rows]:
    """Return two backups of each path: one that shares no link and no transit PoP with it, and another. Rows of -1 where there is none.

    The first shares no link where PoPs cannot be avoided, and else survives at least one failure: it is there whenever another path is. The
    second covers failures that the first does not, or shares nothing with the first either. A row of -1 has no backups.
    """
    return backups_on(ground_of(table, costs, hop_cost_ms, banned), rows, max_links)


def backups_on(ground: Ground, rows: Rows, max_links: int = MAX_LINKS) -> tuple[Rows, Rows]:
    """`backup_rows` where the ground is there already."""
    first, second = no_rows(len(rows)), no_rows(len(rows))
    valid = np.flatnonzero(rows[:, 0] >= 0)
    if not len(valid):
        return first, second
    primary = rows[valid]
    quick = quick_of(ground, sources(ground.table, primary), ends(ground.table, primary), primary)
    first[valid], second[valid] = quick.first, quick.second
    search_missing(ground, rows, first, second, max_links)
    return first, second


# -- paths of at most two links ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What the quick look wants to know of each path: its ends, what it passes, and the links beside it."""

    source: IntArray
    end: IntArray
    passed: IntArray
    """Transit PoPs, [n, 3]; the number of PoPs where there is none."""
    beside: Legs
    """The cheapest link that joins the ends, other than the path itself."""
    beside_next: Legs
    """The next."""


@dataclass(frozen=True, slots=True, eq=False)
class Quick:
    """The two cheapest ways of at most two links that share nothing with the path nor with each other."""

    via: IntArray
    """[2, n]: the PoP that each passes; the end: it is a link beside the path."""
    cost: FloatArray
    """[2, n], with ranks; inf: there is none."""
    first: Rows
    second: Rows


def ask(ground: Ground, source: IntArray, end: IntArray, rows: Rows) -> Asked:
    """Return what is to be known of paths; a row of -1 passes nothing and takes no link."""
    pair = source * np.int32(ground.pops) + end
    least, second, third = cheapest_three(ground.table.pairs, ground.costs, pair)
    own = np.where(rows[:, 1] < 0, rows[:, 0], -1)
    is_least, is_second = least.link == own, second.link == own
    beside = Legs(np.where(is_least, second.cost, least.cost), np.where(is_least, second.link, least.link))
    is_among = is_least | is_second
    beside_next = Legs(
        np.where(is_among, third.cost, second.cost), np.where(is_among, third.link, second.link)
    )
    return Asked(source, end, transits(ground.table, rows), beside, beside_next)


def quick_of(ground: Ground, source: IntArray, end: IntArray, rows: Rows) -> Quick:
    """Look at all paths of at most two links beside each row; a row that is no path has none."""
    asked = ask(ground, source, end, rows)
    via = np.empty((2, len(rows)), np.int32)
    cost = np.empty((2, len(rows)))
    for part, sums in sums_of(ground.ranked, ground.toward, source, end):
        via[:, part], cost[:, part] = _least_two(sums, asked, part)
    cost[:, rows[:, 0] < 0] = np.inf
    return _named(ground, asked, via, cost)


def _named(ground: Ground, asked: Asked, via: IntArray, cost: FloatArray) -> Quick:
    """Return what was found with the links of both ways."""
    next_link = np.where(via[0] == asked.end, asked.beside_next.link, asked.beside.link)
    return Quick(
        via,
        cost,
        _rows(ground, asked, via[0], cost[0], asked.beside.link),
        _rows(ground, asked, via[1], cost[1], next_link),
    )


def _rows(ground: Ground, asked: Asked, via: IntArray, cost: FloatArray, beside: IntArray) -> Rows:
    rows = no_rows(len(via))
    is_found = cost < np.inf
    is_beside = via == asked.end
    pops = ground.pops
    first = np.where(is_beside, beside, ground.first.link[asked.source * pops + via])
    onward = np.where(is_beside, np.int32(-1), ground.onward.link[via * pops + asked.end])
    rows[:, 0] = np.where(is_found, first, -1)
    rows[:, 1] = np.where(is_found, onward, -1)
    return rows


def _least_two(sums: FloatArray, asked: Asked, part: slice) -> tuple[IntArray, FloatArray]:
    """Return the best two middles of each row of sums, [2, n], and what they cost. Writes over the sums.

    A sum over a PoP that the path passes does not count. At the end's own place stands the link beside the path, without rank, so that
    it wins a tie against two links.
    """
    end = asked.end[part]
    rows = np.arange(len(end))
    sums[rows[:, None], asked.passed[part]] = np.inf
    sums[rows, end] = asked.beside.cost[part]
    first = sums.argmin(axis=1)
    first_cost = sums[rows, first]
    sums[rows, first] = np.where(first == end, asked.beside_next.cost[part], np.inf)
    second = sums.argmin(axis=1)
    return np.array((first, second), np.int32), np.array((first_cost, sums[rows, second]))


# -- the exact search -------------------------------------------------------------------------------------------------


def search_missing(ground: Ground, rows: Rows, first: Rows, second: Rows, max_links: int) -> None:
    """Fill in backups that the quick look did not find. A policy of single links says nothing of repairs: theirs may be of any length."""
    max_links = MAX_LINKS if max_links == 1 else max_links
    has_path = rows[:, 0] >= 0
    if not (has_path & (second[:, 0] < 0)).any():
        return
    search = Search(ground, Detours(ground), max_links)
    if max_links > QUICK_LINKS:
        need = np.flatnonzero(has_path & (first[:, 0] < 0))
        first[need] = search.around(rows[need], rows[need], transits(ground.table, rows[need]))
    need = np.flatnonzero(has_path & (first[:, 0] < 0))
    if len(need):
        first[need], second[need] = _partly(search, rows[need])
    need = np.flatnonzero((first[:, 0] >= 0) & (second[:, 0] < 0))
    if len(need):
        second[need] = _another(search, rows[need], first[need])


@dataclass(frozen=True, slots=True)
class Search:
    """What the exact search is made with."""

    ground: Ground
    detours: Detours
    max_links: int

    def around(self, rows: Rows, links: IntArray, pops: IntArray) -> Rows:
        """Return paths between the ends of rows, without links and PoPs."""
        if not len(rows):
            return no_rows(0)
        table = self.ground.table
        return self.detours.find(sources(table, rows), ends(table, rows), links, pops, self.max_links)


def _partly(search: Search, rows: Rows) -> tuple[Rows, Rows]:
    """Return backups of paths that no path avoids wholly: one without their links if there is one, else without one link or PoP of them.

    The second survives what the first does not: all of that if there is such a path, else one failure of it.
    """
    passed, nobody = transits(search.ground.table, rows), search.ground.pops
    first = search.around(rows, rows, np.full_like(passed, nobody))
    _one_by_one(search, rows, first, rows, passed)
    kept = _shared(search.ground, rows, first)
    links, pops = np.where(kept[:, :MAX_LINKS], rows, -1), np.where(kept[:, MAX_LINKS:], passed, nobody)
    second = no_rows(len(rows))
    asks = np.flatnonzero((first[:, 0] >= 0) & kept.any(axis=1))
    second[asks] = search.around(rows[asks], links[asks], pops[asks])
    _one_by_one(search, rows, second, links, pops)
    return first, second


def _one_by_one(search: Search, rows: Rows, found: Rows, links: IntArray, pops: IntArray) -> None:
    """Fill in, where nothing is found, the path that avoids one of the links or PoPs: the first that can be avoided."""
    no_link, no_pop = np.full_like(links[:, :1], -1), np.full_like(pops[:, :1], search.ground.pops)
    attempts = [(links[:, place : place + 1], no_pop) for place in range(links.shape[1])]
    attempts += [(no_link, pops[:, place : place + 1]) for place in range(pops.shape[1])]
    for link, pop in attempts:
        asks = (link[:, 0] >= 0) | (pop[:, 0] < search.ground.pops)
        need = np.flatnonzero((found[:, 0] < 0) & asks)
        found[need] = search.around(rows[need], link[need], pop[need])


def _shared(ground: Ground, rows: Rows, others: Rows) -> BoolArray:
    """Return which links and transit PoPs of rows, [n, 4 + 3], stand in other rows too."""
    links = (rows[:, :, None] == others[:, None, :]).any(axis=2) & (rows >= 0)
    passed, others_pass = transits(ground.table, rows), transits(ground.table, others)
    pops = (passed[:, :, None] == others_pass[:, None, :]).any(axis=2) & (passed < ground.pops)
    return np.concatenate((links, pops), axis=1)


def _another(search: Search, rows: Rows, first: Rows) -> Rows:
    """Return a path without the links of rows that shares as little as can be with their first backups."""
    found = no_rows(len(rows))
    last = first[np.arange(len(first)), (first >= 0).sum(axis=1) - 1]
    for links in (first, first[:, :1], last[:, None]):
        need = np.flatnonzero(found[:, 0] < 0)
        without = np.concatenate((rows[need], links[need]), axis=1)
        nobody = np.full((len(need), 1), search.ground.pops, np.int32)
        found[need] = search.around(rows[need], without, nobody)
    return found
