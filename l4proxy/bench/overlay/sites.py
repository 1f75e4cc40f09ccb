"""The places of the published experiment and how far apart they are. Pure but for reading the map that ships with the lab.

Between sites of the map a distance is what was measured between them (l4proxy/lab/data). Rabat and Lima are not on it: from there it is
estimated, great circle at the speed of light in fibre, times the median stretch of all measured pairs.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from l4proxy.lab.worldmap import Site, WorldMap, load

ORIGIN = "ams"
"""The origin is in the Netherlands."""
ACCESS_MS = 4.0
"""From a client to the data centre of its city, and that much to whatever lies behind it."""
KM_PER_MS_RTT = 100.0
"""Light in fibre goes 200 km in a millisecond, and back."""
LONG_KM = 500.0
"""Shorter pairs say more about access than about distance."""


@dataclass(frozen=True, slots=True)
class City:
    """A client's place."""

    name: str
    latitude: float
    longitude: float
    site: str | None
    """Its own site on the map, if it has one."""


CITIES = (
    City("rabat", 34.02, -6.84, None),
    City("tokyo", 35.68, 139.65, "nrt"),
    City("los-angeles", 34.05, -118.24, "lax"),
    City("lima", -12.05, -77.04, None),
)


@dataclass(frozen=True, slots=True)
class Journey:
    """How a client's bytes may travel, RTTs in ms."""

    city: str
    unproxied_ms: float
    ingress: str
    to_ingress_ms: float
    direct_ms: float
    """From the ingress PoP to the one beside the origin."""
    best: tuple[str, ...]
    """PoPs of the shortest path of one or two links."""
    best_ms: float
    middle_ms: float
    """Of the first link of the best path, when it has two."""

    @property
    def best_rtt_ms(self) -> float:
        """From the client to the origin over the shortest path."""
        return self.to_ingress_ms + self.best_ms


def distance_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the great-circle distance of two points in degrees."""
    (lat_a, long_a), (lat_b, long_b) = ((math.radians(x), math.radians(y)) for x, y in (a, b))
    cosine = math.sin(lat_a) * math.sin(lat_b) + math.cos(lat_a) * math.cos(lat_b) * math.cos(long_a - long_b)
    return 6371.0 * math.acos(max(-1.0, min(1.0, cosine)))


def stretch(world: WorldMap) -> float:
    """Return how much longer than light's the measured round trips are, the median of all long pairs."""
    ratios = []
    for ends, pair in world.pairs.items():
        a, b = (_place(world.sites[name]) for name in sorted(ends))
        if (km := distance_km(a, b)) >= LONG_KM:
            ratios.append(pair.rtt_ms / (km / KM_PER_MS_RTT))
    return statistics.median(ratios)


def journeys(world: WorldMap | None = None) -> tuple[Journey, ...]:
    """Return every client's journey to the origin."""
    world = world or load()
    factor = stretch(world)
    return tuple(_journey(world, city, factor) for city in CITIES)


def _journey(world: WorldMap, city: City, factor: float) -> Journey:
    here = city.latitude, city.longitude

    def estimated(site: str) -> float:
        return round(distance_km(here, _place(world.sites[site])) / KM_PER_MS_RTT * factor, 1)

    if city.site is not None:
        ingress, to_ingress, unproxied = city.site, 0.0, _rtt(world, city.site, ORIGIN)
    else:
        # In the nearer half of the way, the site from which the whole way is shortest.
        near = [name for name in sorted(world.sites) if estimated(name) <= estimated(ORIGIN) / 2]
        ingress = min(near, key=lambda name: estimated(name) + _rtt(world, name, ORIGIN))
        to_ingress, unproxied = estimated(ingress), estimated(ORIGIN)
    direct = _rtt(world, ingress, ORIGIN)
    paths = {(ingress, ORIGIN): direct} | {
        (ingress, middle, ORIGIN): first.rtt_ms + second.rtt_ms
        for middle in sorted(world.sites)
        if (first := world.pair(ingress, middle)) and (second := world.pair(middle, ORIGIN))
    }
    best = min(paths, key=lambda path: paths[path])
    return Journey(
        city.name,
        round(unproxied + ACCESS_MS, 1),
        ingress,
        round(to_ingress + ACCESS_MS, 1),
        round(direct, 1),
        best,
        round(paths[best], 1),
        round(_rtt(world, best[0], best[1]), 1),
    )


def _place(site: Site) -> tuple[float, float]:
    return site.latitude, site.longitude


def _rtt(world: WorldMap, a: str, b: str) -> float:
    pair = world.pair(a, b)
    if pair is None:
        raise ValueError(f"{a} and {b} are not measured")
    return pair.rtt_ms


def floors_s(found: Journey, size: int, bits_s: float) -> Mapping[str, float]:
    """Return the least that a download can take: bytes over rate and one and a half round trips, unproxied and over the best path."""
    send = size * 8 / bits_s
    return {
        "unproxied": send + 1.5 * found.unproxied_ms / 1e3,
        "best": send + 1.5 * found.best_rtt_ms / 1e3,
    }
