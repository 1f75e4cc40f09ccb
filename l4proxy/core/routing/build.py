"""The best path of at most four links, from one PoP to every other or of all pairs. Which one is used is not decided here.

Ties are broken by fewer links, then by names, so that the same costs give the same paths on every PoP.
"""

from dataclasses import dataclass

import numpy as np

from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.ground import Ground, Legs, ground_of, padded, ranked
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray, LinkTable, TableError
from l4proxy.core.routing.planned import TIE_MS, without_rank
from l4proxy.core.routing.products import Level, longer
from l4proxy.core.routing.rows import MAX_LINKS, Rows, no_rows


def best_from(
    table: LinkTable,
    costs: FloatArray,
    source: int,
    max_links: int = MAX_LINKS,
    hop_cost_ms: float = HOP_COST_MS,
    banned: BoolArray | None = None,
) -> Rows:
    """Return the best path from one PoP to each, [pops, 4]. TableError: a cost, or how many links a path may have, cannot be."""
    return best_from_on(ground_of(table, costs, hop_cost_ms, banned), source, max_links)


def best_all(
    table: LinkTable,
    costs: FloatArray,
    max_links: int = MAX_LINKS,
    hop_cost_ms: float = HOP_COST_MS,
    banned: BoolArray | None = None,
) -> Rows:
    """Return the best path of every pair, [pops * pops, 4]. TableError as `best_from`."""
    ground = ground_of(table, costs, hop_cost_ms, banned)
    return rows_of(ground, levels_of(ground, max_links))


def direct_rows(
    table: LinkTable, costs: FloatArray, source: int | None = None, banned: BoolArray | None = None
) -> Rows:
    """Return the best single link from one PoP to each, or of every pair."""
    return direct_on(ground_of(table, costs, 0.0, banned), source)


def direct_on(ground: Ground, source: int | None = None) -> Rows:
    """`direct_rows` where the ground is there already."""
    part = slice(None) if source is None else slice(source * ground.pops, (source + 1) * ground.pops)
    rows = no_rows(len(ground.first.cost[part]))
    rows[:, 0] = np.where(ground.first.cost[part] < np.inf, ground.first.link[part], -1)
    return rows


def best_from_on(ground: Ground, source: int, max_links: int = MAX_LINKS) -> Rows:
    """`best_from` where the ground is there already: one more link in each round, from the PoPs that the round before reached."""
    check_max_links(max_links)
    pops = ground.pops
    rows = direct_on(ground, source)
    cost = ground.first.cost[source * pops : (source + 1) * pops].copy()
    toward, every = ground.toward[:, :pops], np.arange(pops)
    for links in range(2, max_links + 1):
        rank = np.empty(pops)
        rank[np.lexsort(rows.T[::-1])] = every
        sums = toward + (cost + TIE_MS * rank)
        at = sums.argmin(axis=1)
        longer_cost = without_rank(sums[every, at])
        is_better = longer_cost < cost
        is_better[source] = False
        ends = np.flatnonzero(is_better)
        if not len(ends):
            break
        middle = at[ends]
        longer_rows = rows[middle]
        longer_rows[:, links - 1] = ground.onward.link[middle * pops + ends]
        rows[ends], cost[ends] = longer_rows, longer_cost[ends]
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Best paths of all pairs by the number of links they may have."""

    whole: tuple[Level, ...]
    """Of at most 1, 2, … links."""
    onward: tuple[Level, ...]
    """The same over labelled links alone; the same objects where all are labelled."""


def levels_of(ground: Ground, max_links: int) -> Levels:
    """Return the best paths of all pairs, of at most `max_links` links and of fewer."""
    check_max_links(max_links)
    whole, onward = [first_level(ground.first, ground.pops)], [first_level(ground.onward, ground.pops)]
    ranked_onward = onward_ranked(ground)
    for links in range(2, max_links + 1):
        toward = ground.toward if links == 2 else toward_of(onward[-1], ground.hop_ms)
        whole.append(longer(ground.ranked, toward, whole[-1].cost))
        if ground.is_uniform:
            onward.append(whole[-1])
        elif links < max_links:
            onward.append(longer(ranked_onward, toward, onward[-1].cost))
    return Levels(tuple(whole), tuple(onward))


def check_max_links(max_links: int) -> None:
    """TableError unless a path may have so many links."""
    if not 1 <= max_links <= MAX_LINKS:
        raise TableError(f"paths of at most {max_links} links: take 1 to {MAX_LINKS}")


def first_level(legs: Legs, pops: int) -> Level:
    """Return the paths of one link."""
    return Level(legs.cost.reshape(pops, pops), np.full((pops, pops), -1, np.int32))


def toward_of(level: Level, hop_ms: float) -> FloatArray:
    """Return what `longer` goes on with after a first link: [to, from], with the hop, and inf in a column that stands for no PoP."""
    toward = padded(level.cost.T)
    toward += hop_ms
    return toward


def onward_ranked(ground: Ground) -> FloatArray:
    """Return costs of onward links with their ranks, as `Ground.ranked`."""
    return ground.ranked if ground.is_uniform else ranked(ground.table.pairs, ground.onward)


def rows_of(ground: Ground, levels: Levels, pair: IntArray | None = None) -> Rows:
    """Return the links of the best paths of all pairs, or of those asked for: the first link, then those of what leads on from its end."""
    pops = ground.pops
    asked = np.arange(pops * pops) if pair is None else pair
    rows = no_rows(len(asked))
    at = asked.copy()
    """The pair whose path is the rest, for each row."""
    end = asked % pops
    filled = np.zeros(len(asked), np.intp)
    for links in range(len(levels.whole), 1, -1):
        via = levels.whole[links - 1].via.take(at)
        if not ground.is_uniform:
            # A rest has fewer links than the whole: the longest level has no rests, and none of labelled links alone.
            rest = levels.onward[min(links, len(levels.onward)) - 1].via.take(at)
            via = np.where(filled > 0, rest, via)
        takes = np.flatnonzero(via >= 0)
        middle = via[takes]
        rows[takes, filled[takes]] = _link(ground, filled[takes] > 0, at[takes] // pops * pops + middle)
        filled[takes] += 1
        at[takes] = middle * pops + end[takes]
    reached = np.flatnonzero(levels.whole[-1].cost.take(asked) < np.inf)
    rows[reached, filled[reached]] = _link(ground, filled[reached] > 0, at[reached])
    return rows


def _link(ground: Ground, is_rest: BoolArray, pair: IntArray) -> IntArray:
    if ground.is_uniform:
        return ground.first.link.take(pair)
    return np.where(is_rest, ground.onward.link[pair], ground.first.link[pair])
