"""Best paths and backups of all pairs, and how they follow a change: for replay, simulation and what-if; a daemon builds its own rows.

`follow` gives exactly what `build` would, from what was built before; with one link in a hundred changed it looks at one pair in ten.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from l4proxy.core.routing.backups import Quick, quick_of, search_missing
from l4proxy.core.routing.build import Levels, first_level, levels_of, onward_ranked, rows_of, toward_of
from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.ground import Ground, Legs, ground_after, ground_of
from l4proxy.core.routing.links import BoolArray, FloatArray, LinkTable
from l4proxy.core.routing.products import Better, Change, Level, beaten, index_of, longer_again, rest_of
from l4proxy.core.routing.rows import MAX_LINKS, Rows, transits

FOLLOWED_SHARE = 0.05
"""Where more pairs have another cheapest link than this, all is built anew: by then following has no less to look at."""


@dataclass(frozen=True, slots=True, eq=False)
class AllPairs:
    """Paths of every pair, row from * pops + to, with two backups each, and what the next change is followed from."""

    rows: Rows
    backups: tuple[Rows, Rows]
    ground: Ground
    levels: Levels
    quick: Quick

    @property
    def max_links(self) -> int:
        """How many links a path may have."""
        return len(self.levels.whole)


def build(
    table: LinkTable,
    costs: FloatArray,
    max_links: int = MAX_LINKS,
    hop_cost_ms: float = HOP_COST_MS,
    banned: BoolArray | None = None,
) -> AllPairs:
    """Build all. TableError: a cost, the hop's or how many links a path may have cannot be."""
    return _built(ground_of(table, costs, hop_cost_ms, banned), max_links)


def _built(ground: Ground, max_links: int) -> AllPairs:
    levels = levels_of(ground, max_links)
    rows = rows_of(ground, levels)
    pair = np.arange(len(rows), dtype=np.int32)
    quick = quick_of(ground, pair // ground.pops, pair % ground.pops, rows)
    return _finished(ground, levels, rows, quick)


def follow(
    before: AllPairs, table: LinkTable, costs: FloatArray, banned: BoolArray | None = None
) -> AllPairs:
    """Return what `build` would for other costs of the same links, with the hop and the most links of before. TableError as `build`."""
    ground = ground_after(before.ground, table, costs, banned)
    old = before.ground
    is_same_shape = table.pairs is old.table.pairs and ground.is_uniform == old.is_uniform
    if not is_same_shape:
        return _built(ground, before.max_links)
    first = _legs_change(old.first, ground.first, 0.0)
    if first.changed.mean() > FOLLOWED_SHARE:
        return _built(ground, before.max_links)
    onward = _legs_change(old.onward, ground.onward, ground.hop_ms)
    rest_first = first if ground.is_uniform else _legs_change(old.onward, ground.onward, 0.0)
    levels = _levels_after(before.levels, ground, first, rest_first, onward)
    rows = _rows_after(before, ground, levels)
    quick = _quick_after(before, ground, rows, first, onward)
    return _finished(ground, levels, rows, quick)


def _finished(ground: Ground, levels: Levels, rows: Rows, quick: Quick) -> AllPairs:
    first, second = quick.first, quick.second
    if ((rows[:, 0] >= 0) & (second[:, 0] < 0)).any():
        first, second = first.copy(), second.copy()
        search_missing(ground, rows, first, second, len(levels.whole))
    return AllPairs(rows, (first, second), ground, levels, quick)


def _legs_change(before: Legs, now: Legs, hop_ms: float) -> Change:
    """A link with another number ties in another way, even at the same cost."""
    changed = (now.cost != before.cost) | ((now.link != before.link) & (now.cost < np.inf))
    is_better = changed & (now.cost <= before.cost) & (now.cost < np.inf)
    pops = isqrt(len(changed))
    cost = (now.cost + hop_ms).reshape(pops, pops)
    return Change(changed.reshape(pops, pops), Better.of(cost, is_better))


def _costs_change(before: FloatArray, now: Level, hop_ms: float) -> Change:
    """What has fewer links than the level stands in the level below, and led on from there already."""
    return Change(now.cost != before, Better.of(now.cost + hop_ms, (now.cost < before) & (now.via >= 0)))


def _levels_after(
    before: Levels, ground: Ground, first: Change, rest_first: Change, onward: Change
) -> Levels:
    whole, rest = [first_level(ground.first, ground.pops)], [first_level(ground.onward, ground.pops)]
    rest_ranked = onward_ranked(ground)
    for place in range(1, len(before.whole)):
        toward = ground.toward if place == 1 else toward_of(rest[-1], ground.hop_ms)
        change = (
            onward if place == 1 else _costs_change(before.onward[place - 1].cost, rest[-1], ground.hop_ms)
        )
        below = before.whole[place - 1].cost
        whole.append(
            longer_again(before.whole[place], ground.ranked, toward, whole[-1].cost, below, first, change)
        )
        if ground.is_uniform:
            rest.append(whole[-1])
        elif place < len(before.onward):
            below = before.onward[place - 1].cost
            rest.append(
                longer_again(
                    before.onward[place], rest_ranked, toward, rest[-1].cost, below, rest_first, change
                )
            )
    return Levels(tuple(whole), tuple(rest))


def _rows_after(before: AllPairs, ground: Ground, levels: Levels) -> Rows:
    """Name the links again of paths that begin elsewhere, or of which a part does."""
    if not ground.is_uniform:
        return rows_of(ground, levels)
    pops, old = ground.pops, before.ground.first
    link = np.where(ground.first.cost < np.inf, ground.first.link, np.int32(-1))
    link_before = np.where(old.cost < np.inf, old.link, np.int32(-1))
    other_link = link != link_before
    changed = other_link
    for level, level_before in zip(levels.whole[1:], before.levels.whole[1:], strict=True):
        of_via = other_link.take(index_of(level.via, pops))
        of_via |= changed.take(rest_of(level.via))
        changed = np.where(level.via.ravel() >= 0, of_via, changed) | (level.via != level_before.via).ravel()
    named = np.flatnonzero(changed)
    rows = before.rows.copy()
    rows[named] = rows_of(ground, levels, named)
    return rows


def _quick_after(before: AllPairs, ground: Ground, rows: Rows, first: Change, onward: Change) -> Quick:
    """Look again at pairs whose path, links or ways around changed, and where a sum that became no worse beats the second way."""
    pops, quick = ground.pops, before.quick
    limit = quick.cost[1].reshape(pops, pops)
    pair, middle = beaten(limit, first.better, onward.better)
    # A way over a PoP that the path passes is none beside it; where the path changed it is looked at anyway.
    is_beside = (transits(ground.table, rows[pair]) != middle[:, None]).all(axis=1)
    again = _differ(before.rows, rows)
    again[pair[is_beside]] = True
    for via, cost in zip(quick.via, quick.cost, strict=True):
        square = via.reshape(pops, pops)
        passes = first.changed.take(index_of(square, pops)) | onward.changed.take(rest_of(square))
        again |= passes & (cost < np.inf)
    moved = np.flatnonzero(ground.costs != before.ground.costs)
    pair = ground.table.start[moved] * np.int32(pops) + ground.table.end[moved]
    is_used = (quick.first[pair, 0] == moved) | (quick.second[pair, 0] == moved)
    again[pair[is_used | (ground.costs[moved] <= quick.cost[1, pair])]] = True
    flagged = np.flatnonzero(again).astype(np.int32)
    found = quick_of(ground, flagged // pops, flagged % pops, rows[flagged])
    after = Quick(quick.via.copy(), quick.cost.copy(), quick.first.copy(), quick.second.copy())
    after.via[:, flagged], after.cost[:, flagged] = found.via, found.cost
    after.first[flagged], after.second[flagged] = found.first, found.second
    return after


def _differ(rows: Rows, others: Rows) -> BoolArray:
    """Return which rows are not equal."""
    ours, theirs = rows.view(np.int64), others.view(np.int64)
    differs: BoolArray = (ours[:, 0] != theirs[:, 0]) | (ours[:, 1] != theirs[:, 1])
    return differs
