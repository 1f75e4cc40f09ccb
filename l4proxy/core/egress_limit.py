"""Which PoPs may dial the origins of an app with `egress_max`: the few with which its clients lose least, the same few for the whole fleet.

One PoP decides for all: the first by name of those that live and that the app listens at. It says so in its record, and the others follow,
so that not every PoP has few egresses of its own. When it dies, the next one goes on from what it followed. Pure; which of the few an
ingress takes is decided in `egress`.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from itertools import product

import numpy as np

from l4proxy.core.app import App
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.routing.build import levels_of
from l4proxy.core.routing.ground import Ground
from l4proxy.core.routing.links import FloatArray

CHECK_EVERY_NS = 10_000_000_000
"""How often the decider looks for better ones: as often as PoPs tell each other that they live."""

CHECK_AGAIN_NS = 1_000_000_000
"""How often while one of the ingresses is out of reach of them: as often as records change."""

MARGIN_RATIO = 0.05
MARGIN_MS = 2.0
"""Others must be better by more than both, in the mean over ingresses: what is below is not even told among PoPs (`records`)."""

Told = Mapping[PopName, Mapping[AppName, tuple[PopName, ...]]]
"""What PoPs have decided, by decider and app."""


@dataclass(frozen=True, slots=True)
class EgressSet:
    """The PoPs that may dial an app's origins, in name order, and who says so."""

    pops: tuple[PopName, ...]
    decider: PopName
    lost_ms: float | None = None
    """What the limit costs in the mean over ingresses, ms of cost. Only the decider knows; None elsewhere."""
    due_ns: int = 0
    """When the decider looks again."""


@dataclass(frozen=True, slots=True)
class Field:
    """Cost of path and origin together, [ingress, egress], inf where there is none; egresses in name order."""

    costs: FloatArray
    egresses: tuple[PopName, ...]


def followed(
    app: App,
    own: PopName,
    alive: Collection[PopName],
    can_dial: Set[PopName],
    told: Told,
    before: EgressSet | None,
    now_ns: int,
) -> EgressSet | None:
    """Return the set that another PoP has decided, or the own one of before while it holds; None: this PoP is to decide now.

    `can_dial`: PoPs from which an origin answers. The own set does not hold when one of it is not among them.
    """
    first = min((pop for pop in alive if app.listens_at(pop)), default=own)
    said = {pop: told[pop][app.name] for pop in sorted(told) if pop in alive and app.name in told[pop]}
    if first != own:
        if first in said:
            return EgressSet(said[first], first)
        # It has only just come: what held goes on until it speaks.
        return before
    if before is None and said:
        return EgressSet(*next((pops, pop) for pop, pops in said.items()), due_ns=now_ns + CHECK_AGAIN_NS)
    holds = before is not None and now_ns < before.due_ns and can_dial >= set(before.pops)
    return before if holds else None


def field_of(
    app: App, ground: Ground, alive: Collection[PopName], origin_ms: Mapping[PopName, float | None]
) -> Field:
    """Return the costs for an app, of all PoPs that it listens at and all that may dial its origins, as far as they live.

    `origin_ms`: from each egress to the nearest origin that answers.
    """
    pops = ground.table.pops
    paths = levels_of(ground, app.routing.max_transits + 1).whole[-1].cost[:, : len(pops)].copy()
    np.fill_diagonal(paths, 0.0)
    ingresses = [number for number, pop in enumerate(pops) if pop in alive and app.listens_at(pop)]
    egresses = [
        number
        for number, pop in enumerate(pops)
        if pop in alive and app.admits_egress(pop) and origin_ms.get(pop) is not None
    ]
    origins = np.array([origin_ms[pops[number]] or 0.0 for number in egresses])
    costs = paths[np.ix_(ingresses, egresses)] + origins
    return Field(costs, tuple(pops[number] for number in egresses))


def decided(
    field: Field, limit: int, before: tuple[PopName, ...], own: PopName, now_ns: int
) -> EgressSet | None:
    """Return whom the fleet is to use, those of `before` unless others are better by enough; None: nobody can be used."""
    if not field.egresses:
        return None
    best = least(field.costs, limit)
    kept = tuple(place for place, pop in enumerate(field.egresses) if pop in before)
    if len(kept) == min(limit, len(field.egresses)) and not _is_better(field.costs, best, kept):
        best = kept
    pops = tuple(field.egresses[place] for place in best)
    unreached, _ = _sum(field.costs, best)
    due_ns = now_ns + (CHECK_AGAIN_NS if unreached else CHECK_EVERY_NS)
    return EgressSet(pops, own, lost_ms(field.costs, best), due_ns)


def _is_better(costs: FloatArray, new: tuple[int, ...], old: tuple[int, ...]) -> bool:
    """Whether new ones reach more ingresses, or the same for less by a margin."""
    (new_unreached, new_ms), (old_unreached, old_ms) = _sum(costs, new), _sum(costs, old)
    if new_unreached != old_unreached:
        return new_unreached < old_unreached
    reached = max(1, len(costs) - old_unreached)
    return old_ms - new_ms > reached * max(MARGIN_MS, MARGIN_RATIO * old_ms / reached)


def least(costs: FloatArray, limit: int) -> tuple[int, ...]:
    """Return at most `limit` columns with the least sum over rows of each row's cheapest one.

    They are added one by one, then exchanged while it helps: to find the very best is hard (k-median), exchanges of one at a
    time end within a factor of five at worst (Arya et al. 2004), and almost always at it. Ties go to the first columns. A row
    that none reaches counts more than any cost.
    """
    chosen: list[int] = []
    columns = range(costs.shape[1])
    for _ in range(min(limit, len(columns))):
        chosen.append(min((c for c in columns if c not in chosen), key=lambda c: _sum(costs, (*chosen, c))))
    now = _sum(costs, tuple(chosen))
    while True:
        trials = (
            (_sum(costs, tuple(other if c == old else c for c in chosen)), old, other)
            for old, other in product(chosen, columns)
            if other not in chosen
        )
        after, old, other = min(trials, default=(now, -1, -1))
        if after >= now:
            return tuple(sorted(chosen))
        now = after
        chosen[chosen.index(old)] = other


def lost_ms(costs: FloatArray, chosen: tuple[int, ...]) -> float:
    """Return how much more rows pay with these columns than with all, in the mean over the rows that these reach."""
    some, every = costs[:, chosen].min(axis=1), costs.min(axis=1)
    reached = np.isfinite(some)
    return float((some[reached] - every[reached]).mean()) if reached.any() else 0.0


def _sum(costs: FloatArray, chosen: tuple[int, ...]) -> tuple[int, float]:
    """Rows that no column reaches, and the costs of the others together."""
    cheapest = costs[:, chosen].min(axis=1)
    reached = np.isfinite(cheapest)
    return int((~reached).sum()), float(cheapest[reached].sum())
