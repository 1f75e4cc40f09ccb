"""What the best paths of a fleet would be with PoPs or links more or less, and which new sites would gain most. Pure.

What was measured stays as it was. RTTs of a PoP that is not there yet are modelled from those of the PoPs around it (`RttModel`), and how
wrong the model is for the PoPs that are there is part of every answer. Paths are those of `routing.allpairs`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from l4proxy.core.app import TrafficClass
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing import allpairs
from l4proxy.core.routing.allpairs import AllPairs
from l4proxy.core.routing.build import levels_of
from l4proxy.core.routing.cost import link_costs
from l4proxy.core.routing.ground import ground_of
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray, LinkTable
from l4proxy.core.routing.rows import price
from l4proxy.core.rtt_model import Location, PlanError, RttModel


def without(table: LinkTable, pops: Sequence[str], links: Sequence[str]) -> LinkTable:
    """Return the table without these. PlanError: one is not there.

    `links`: `ams-iad` (all of a pair, both ways), `ams/a` (a transit) or a link's name.
    """
    gone = np.zeros(len(table.names), np.bool_)
    for pop in pops:
        number = _number(table, pop)
        gone |= (table.start == number) | (table.end == number)
    for text in links:
        gone |= _named(table, text)
    return replace(table, usable=table.usable & ~gone)


def _number(table: LinkTable, pop: str) -> int:
    if pop not in table.pops:
        raise PlanError(f"there is no PoP {pop!r}: there are {', '.join(table.pops[:10])}, …")
    return table.pop_number(PopName(pop))


def _named(table: LinkTable, text: str) -> BoolArray:
    if (number := table.number(LinkName(text))) is not None:
        one: BoolArray = np.arange(len(table.names)) == number
        return one
    for place in (place for place, letter in enumerate(text) if letter == "-"):
        a, b = text[:place], text[place + 1 :]
        if a in table.pops and b in table.pops:
            ends = {_number(table, a), _number(table, b)}
            found = np.isin(table.start, list(ends)) & np.isin(table.end, list(ends))
            return _some(found, text)
    if text.count("/") == 1 and ">" not in text:
        return _some(np.array([text in name.split(">") for name in table.names]), text)
    raise PlanError(f"there is no link {text!r}: write ams-iad, ams/a or ams/a>iad/b")


def _some(found: BoolArray, text: str) -> BoolArray:
    if not found.any():
        raise PlanError(f"no link is meant by {text!r}")
    return found


def with_pop(table: LinkTable, name: str, place: Location, model: RttModel) -> LinkTable:
    """Return the table with a PoP more, joined to every PoP of the model by one link each way. PlanError: it is there already.

    Jitter and loss of its links are the median of those that were measured.
    """
    if name in table.pops:
        raise PlanError(f"{name!r} is there already")
    if not (abs(place[0]) <= 90 and abs(place[1]) <= 180):
        raise PlanError(f"{name}: latitude is from -90 to 90, longitude from -180 to 180")
    pops = tuple(sorted({*table.pops, PopName(name)}))
    rtt_ms = np.repeat(model.to_all(place), 2)
    new = [LinkName(link) for pop in model.pops for link in (f"{name}/a>{pop}/a", f"{pop}/a>{name}/a")]
    ends = [PopName(end) for pop in model.pops for end in (name, pop, pop, name)]
    usual = {
        "jitter_ms": float(np.median(table.jitter_ms[table.usable])) if table.usable.any() else 0.0,
        "loss_ratio": float(np.median(table.loss_ratio[table.usable])) if table.usable.any() else 0.0,
    }
    names = [*table.names, *new]
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    number = {pop: place for place, pop in enumerate(pops)}
    old = np.array([number[pop] for pop in table.pops], np.int32)

    def joined(values: FloatArray, added: FloatArray | float) -> FloatArray:
        both: FloatArray = np.concatenate([values, np.broadcast_to(added, len(new))]).take(order)
        return both

    def numbered(values: IntArray, added: list[PopName]) -> IntArray:
        theirs = np.array([number[pop] for pop in added], np.int32)
        both: IntArray = np.concatenate([old[values], theirs]).take(order)
        return both

    everybody = np.ones(len(new), np.bool_)
    return LinkTable(
        pops=pops,
        names=tuple(names[place] for place in order.tolist()),
        start=numbered(table.start, ends[0::2]),
        end=numbered(table.end, ends[1::2]),
        usable=np.concatenate([table.usable, everybody])[order],
        labelled=np.concatenate([table.labelled, everybody])[order],
        rtt_ms=joined(table.rtt_ms, rtt_ms),
        rtt_ms_now=joined(table.rtt_ms_now, rtt_ms),
        jitter_ms=joined(table.jitter_ms, usual["jitter_ms"]),
        loss_ratio=joined(table.loss_ratio, usual["loss_ratio"]),
        load_bits_s=joined(table.load_bits_s, 0.0),
        capacity_bits_s=joined(table.capacity_bits_s, np.inf),
        price=joined(table.price, 0.0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Best paths and backups of all pairs of a table."""

    table: LinkTable
    built: AllPairs
    cost_ms: FloatArray
    """[pops * pops], inf: there is no path."""

    @classmethod
    def of(cls, table: LinkTable, traffic: TrafficClass, max_links: int) -> "Paths":
        """Build them."""
        costs = link_costs(table, traffic)
        built = allpairs.build(table, costs, max_links)
        return cls(table, built, price(built.rows, costs))

    def pops_of(self, pair: int) -> list[PopName]:
        """Return the PoPs of a pair's path; []: there is none."""
        numbers = [number for number in self.built.rows[pair].tolist() if number >= 0]
        if not numbers:
            return []
        at = [int(self.table.start[numbers[0]]), *(int(self.table.end[number]) for number in numbers)]
        return [self.table.pops[number] for number in at]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Pairs that are in both tables, one with itself left out: names, costs before and after, numbers of the pairs in each table."""

    pairs: list[tuple[PopName, PopName]]
    before_ms: FloatArray
    after_ms: FloatArray
    before: IntArray
    after: IntArray
    unprotected: BoolArray
    """Still reachable, and without the backup that shares no link and no PoP which they had."""


def change(before: Paths, after: Paths) -> Change:
    """Compare two."""
    common = [pop for pop in before.table.pops if pop in after.table.pops]
    pairs = [(a, b) for a in common for b in common if a != b]

    def numbers(table: LinkTable) -> IntArray:
        place = {pop: number for number, pop in enumerate(table.pops)}
        return np.array([place[a] * len(table.pops) + place[b] for a, b in pairs], np.int32)

    old, new = numbers(before.table), numbers(after.table)
    had = before.built.backups[0][old, 0] >= 0
    has = after.built.backups[0][new, 0] >= 0
    after_ms = after.cost_ms[new]
    return Change(
        pairs,
        before.cost_ms[old],
        after_ms,
        old,
        new,
        had & ~has & np.isfinite(after_ms),
    )


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a PoP could be."""

    name: str
    place: Location


@dataclass(frozen=True, slots=True)
class Advice:
    """A site, and what the fleet gains by it after those before it: cost of the best paths between the PoPs that are there, as transit."""

    site: Site
    mean_ms: float
    """Over all pairs."""
    pairs: int
    """That gain 1 ms or more."""
    p95_ms: float
    """Of those, the gain that one in twenty exceeds."""


def advise(
    table: LinkTable,
    model: RttModel,
    candidates: Sequence[Site],
    count: int,
    traffic: TrafficClass = "rtt",
    max_links: int = 3,
) -> list[Advice]:
    """Return the sites that gain most, one after the other, each with those before it in place; fewer where nothing more is gained.

    Greedy: the gain of sets of sites is not additive, and the best set is not searched. Ties go to the first name.
    """
    n = len(table.pops)
    found: list[Advice] = []
    left = sorted(candidates, key=lambda site: site.name)
    now, now_ms = table, _distances(table, table.pops, traffic, max_links)
    while left and len(found) < count:
        best: tuple[float, Site, LinkTable, FloatArray] | None = None
        for site in left:
            trial = with_pop(now, site.name, site.place, model)
            trial_ms = _distances(trial, table.pops, traffic, max_links)
            gain = _gains(now_ms, trial_ms).sum() / (n * (n - 1))
            if best is None or gain > best[0]:
                best = (float(gain), site, trial, trial_ms)
        assert best is not None  # noqa: S101 (there is one left)
        mean_ms, site, trial, trial_ms = best
        gains = _gains(now_ms, trial_ms)
        some = gains[gains >= 1.0]
        if mean_ms <= 0:
            break
        p95 = float(np.quantile(some, 0.95)) if len(some) else 0.0
        found.append(Advice(site, mean_ms, len(some), p95))
        now, now_ms = trial, trial_ms
        left.remove(site)
    return found


def _distances(
    table: LinkTable, pops: tuple[PopName, ...], traffic: TrafficClass, max_links: int
) -> FloatArray:
    """Costs of the best paths between these PoPs."""
    ground = ground_of(table, link_costs(table, traffic))
    places = [table.pop_number(pop) for pop in pops]
    costs = levels_of(ground, max_links).whole[-1].cost
    return costs[np.ix_(places, places)]


def _gains(before: FloatArray, after: FloatArray) -> FloatArray:
    known = np.isfinite(before) & np.isfinite(after)
    np.fill_diagonal(known, False)
    return np.maximum(0.0, before[known] - after[known])
