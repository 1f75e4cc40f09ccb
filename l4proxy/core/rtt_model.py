"""RTTs of a PoP that is not there yet, modelled from those between the PoPs that are: robust, and with its own error. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from l4proxy.core.estimate import light_rtt_ms
from l4proxy.core.ids import PopName
from l4proxy.core.routing.links import FloatArray, LinkTable
from l4proxy.errors import L4ProxyError

NEAREST = 3
"""PoPs around a site whose detours from the straight line it is taken to share: their median survives one that is odd."""

MIN_LIGHT_MS = 0.5
"""PoPs of one city: what is nearer says nothing of how far cables go round (50 km)."""

MAX_FITTED = 400
"""Pairs of PoPs that the line is fitted through: 80,000 slopes have a sharp median, and those of all pairs would take minutes."""

Location = tuple[float, float]


class PlanError(L4ProxyError):
    """A question that cannot be answered, and why."""


@dataclass(frozen=True, slots=True, eq=False)
class RttModel:
    """RTTs between places: a line over the RTT of light, bent by how the PoPs around a site differ from it."""

    pops: tuple[PopName, ...]
    places: tuple[Location, ...]
    rtt_ms: FloatArray
    """[pops, pops], NaN where not measured: the cheaper direction."""
    light_ms: FloatArray
    base_ms: float
    slope: float

    @classmethod
    def of(cls, table: LinkTable, locations: Mapping[str, Location]) -> "RttModel":
        """Fit it to all PoPs whose place is known. PlanError: there are too few."""
        pops = tuple(pop for pop in table.pops if pop in locations)
        if len(pops) < 3:
            raise PlanError(
                f"the places of {len(pops)} PoPs are known, three are needed: give locations (fleet file or --locations)"
            )
        places = tuple(locations[pop] for pop in pops)
        rtt_ms = _matrix(table, pops)
        light = np.array([[max(MIN_LIGHT_MS, light_rtt_ms(a, b)) for b in places] for a in places])
        base_ms, slope = _line(light, rtt_ms)
        return cls(pops, places, rtt_ms, light, base_ms, slope)

    def to_all(self, place: Location, without: int | None = None) -> FloatArray:
        """Return the RTT from a place to each PoP of the model, ms. `without`: as if this PoP were not there."""
        light = np.array([max(MIN_LIGHT_MS, light_rtt_ms(place, other)) for other in self.places])
        straight = self.base_ms + self.slope * light
        bend = self.rtt_ms / (self.base_ms + self.slope * self.light_ms)
        order = np.argsort(light, kind="stable")
        found = np.empty(len(light))
        for pop in range(len(light)):
            around = [q for q in order.tolist() if q not in (pop, without) and np.isfinite(bend[q, pop])][
                :NEAREST
            ]
            found[pop] = straight[pop] * (float(np.median(bend[around, pop])) if around else 1.0)
        modelled: FloatArray = np.maximum(found, light)
        return modelled

    def errors(self) -> FloatArray:
        """Return for each measured pair how far off it would be modelled, as a ratio, if one of its PoPs were the new one."""
        found = []
        for number, place in enumerate(self.places):
            modelled, measured = self.to_all(place, without=number), self.rtt_ms[number]
            known = np.isfinite(measured)
            known[number] = False
            found.append(np.abs(modelled[known] / measured[known] - 1))
        return np.concatenate(found)


def _matrix(table: LinkTable, pops: tuple[PopName, ...]) -> FloatArray:
    """The least RTT of the usable links of each pair, either way."""
    n, place = len(table.pops), [table.pop_number(pop) for pop in pops]
    whole = np.full(n * n, np.inf)
    some = table.usable & np.isfinite(table.rtt_ms)
    np.minimum.at(whole, table.start[some].astype(np.int64) * n + table.end[some], table.rtt_ms[some])
    part = whole.reshape(n, n)[np.ix_(place, place)]
    least = np.minimum(part, part.T)
    return np.where(np.isfinite(least), least, np.nan)


def _line(light: FloatArray, rtt_ms: FloatArray) -> tuple[float, float]:
    """The median slope through all pairs of points far enough apart, and the median of what it leaves (Theil 1950, Sen 1968)."""
    upper = np.triu_indices(len(light), 1)
    x, y = light[upper], rtt_ms[upper]
    known = np.isfinite(y)
    step = -(-int(known.sum()) // MAX_FITTED) or 1
    x, y = x[known][::step], y[known][::step]
    slopes = [
        (y[b] - y[a]) / (x[b] - x[a]) for a, b in combinations(range(len(x)), 2) if abs(x[b] - x[a]) > 1
    ]
    slope = max(1.0, float(np.median(slopes))) if slopes else 1.5
    return max(0.0, float(np.median(y - slope * x))) if len(x) else 0.0, slope
