"""What paths are searched on: planned costs, and the cheapest of the links that join each pair of PoPs. Made once, used by every search.

All links of a pair compete here, and every hop of a path takes the winner of its own pair.
"""

from dataclasses import dataclass

import numpy as np

from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray, LinkTable, PairIndex, one_more
from l4proxy.core.routing.planned import TIE_MS, exact_hop_ms, planned_costs


@dataclass(frozen=True, slots=True, eq=False)
class Legs:
    """The cheapest link of each pair; of equal ones that with the lowest number. Pairs are numbered from * pops + to."""

    cost: FloatArray
    """inf: no link of the pair is usable."""
    link: IntArray
    """Means nothing where the cost is inf."""


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Costs that a search starts from."""

    table: LinkTable
    costs: FloatArray
    """Planned cost of each link; one more entry for the link that is none."""
    hop_ms: float
    first: Legs
    """Links that a path may begin with."""
    onward: Legs
    """Links that it may go on with: labelled ones. The same object as `first` where all are."""
    ranked: FloatArray
    """[from, to] costs of first links with the rank of each below the last quantum: among equal sums the least is then the path whose first
    link has the lowest number. One more column, of inf, stands for no PoP."""
    toward: FloatArray
    """[to, from], with that column too: an onward link and its hop."""

    @property
    def pops(self) -> int:
        """How many PoPs there are."""
        return len(self.table.pops)

    @property
    def is_uniform(self) -> bool:
        """Whether every usable link may stand anywhere in a path."""
        return self.first is self.onward


def ground_of(
    table: LinkTable,
    costs: FloatArray,
    hop_cost_ms: float = HOP_COST_MS,
    banned: BoolArray | None = None,
) -> Ground:
    """Return what paths of these costs are searched on. TableError: a cost cannot be one."""
    hop_ms = exact_hop_ms(hop_cost_ms)
    planned = planned_costs(table, costs, banned)
    first = onward = cheapest(table.pairs, planned)
    if not _all_labelled(table, planned):
        onward = cheapest(table.pairs, np.where(one_more(table.labelled, False), planned, np.inf))
    return _ground(table, planned, hop_ms, first, onward)


def ground_after(
    before: Ground, table: LinkTable, costs: FloatArray, banned: BoolArray | None = None
) -> Ground:
    """Return what `ground_of` would, with the hop of before; where all links are labelled, only pairs whose links changed are looked at."""
    planned = planned_costs(table, costs, banned)
    if not (before.is_uniform and table.pairs is before.table.pairs and _all_labelled(table, planned)):
        return ground_of(table, costs, before.hop_ms, banned)
    moved = np.flatnonzero(planned != before.costs)
    pair = table.start[moved] * np.int32(before.pops) + table.end[moved]
    legs = Legs(before.first.cost.copy(), before.first.link.copy())
    found = cheapest(table.pairs, planned, pair)
    legs.cost[pair], legs.link[pair] = found.cost, found.link
    return _ground(table, planned, before.hop_ms, legs, legs)


def _all_labelled(table: LinkTable, planned: FloatArray) -> bool:
    return bool((table.labelled | (planned[:-1] == np.inf)).all())


def _ground(table: LinkTable, planned: FloatArray, hop_ms: float, first: Legs, onward: Legs) -> Ground:
    pops = len(table.pops)
    toward = padded(onward.cost.reshape(pops, pops).T)
    toward += hop_ms
    return Ground(table, planned, hop_ms, first, onward, ranked(table.pairs, first), toward)


def padded(square: FloatArray) -> FloatArray:
    """Return a matrix with one more column, of inf."""
    found = np.empty((len(square), len(square) + 1))
    found[:, :-1], found[:, -1] = square, np.inf
    return found


def ranked(index: PairIndex, legs: Legs) -> FloatArray:
    """Return costs of legs with their ranks, as `Ground.ranked`."""
    return padded((legs.cost + TIE_MS * (1 + index.rank.take(legs.link))).reshape(index.pops, index.pops))


def cheapest(index: PairIndex, costs: FloatArray, pair: IntArray | None = None) -> Legs:
    """Return the cheapest link of each pair, or of the pairs asked for, by planned costs."""
    slots = index.slots if pair is None else index.slots[:, pair]
    link = slots[0]
    cost = costs.take(link)
    for slot in slots[1:]:
        other = costs.take(slot)
        is_cheaper = other < cost
        cost = np.minimum(cost, other)
        link = np.where(is_cheaper, slot, link)
    return Legs(cost, link)


def cheapest_three(
    index: PairIndex, costs: FloatArray, pair: IntArray | None = None
) -> tuple[Legs, Legs, Legs]:
    """Return the three cheapest links of each pair, or of the pairs asked for; ties by number."""
    slots = index.slots if pair is None else index.slots[:, pair]
    found = [Legs(np.full(slots.shape[1], np.inf), np.full(slots.shape[1], -1, np.int32)) for _ in range(3)]
    for number, link in enumerate(slots):
        cost = costs.take(link)
        goes_in = np.zeros(len(link), np.bool_)
        for place in range(min(number + 1, 3)):
            held = found[place]
            # What has been pushed out stands before its equals: it has the lower number.
            goes_in |= cost < held.cost
            found[place] = Legs(np.where(goes_in, cost, held.cost), np.where(goes_in, link, held.link))
            cost, link = np.where(goes_in, held.cost, cost), np.where(goes_in, held.link, link)
    return found[0], found[1], found[2]
