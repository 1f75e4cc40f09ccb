"""The fleet of a simulation: PoPs at real sites, links between them, and what each link is like when nothing happens.

Round trips, jitter and loss are those that were measured between the sites (`lab/data`). Pairs without a measurement, further links of a
pair and PoPs beyond the number of sites are made from these, never faster than light in fibre.
"""

from dataclasses import dataclass
from math import exp
from random import Random

from l4proxy.core.estimate import light_rtt_ms
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Fleet, Link, Pop, Transit
from l4proxy.lab.worldmap import Site, WorldMap

DETOUR_OF_CABLES = 1.6
"""Round trips between sites of the shipped data are 1.6 times the time of light in the median; pairs that were not measured get that."""

TRANSIT_SPREAD = 0.15
"""Natural logarithm of how providers of one pair differ, one deviation: WonderNetwork's two years of one pair differ by a seventh."""

SAME_CITY_MS = 1.0
"""Between two data centres of one city."""

PLACE_JITTER_DEGREES = 0.5
"""A PoP at a site that is taken stands some 50 km beside it."""

LOSS_MEAN = 0.0019
"""Mean loss of a path in the RIPE Atlas traces; half of all paths have a third of it."""


@dataclass(frozen=True, slots=True)
class Usual:
    """One directed link when nothing happens: one-way delay and jitter (RFC 3550) in ms, share of packets lost."""

    delay_ms: float
    jitter_ms: float
    loss_ratio: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A fleet and how its links are."""

    fleet: Fleet
    usual: dict[LinkName, Usual]


def make_scene(world: WorldMap, pops: int, links: int, seed: int) -> Scene:
    """Return a full mesh of so many PoPs with so many links a pair, one over each transit `a`, `b` … ."""
    dice = Random(f"{seed} scene")
    sites = _sites(world, pops, dice)
    names = sorted(sites)
    transits = [chr(ord("a") + number) for number in range(links)]
    fleet_pops = {
        PopName(name): Pop(
            PopName(name),
            tuple(_transit(transit, number, place) for number, transit in enumerate(transits)),
            (sites[name].latitude, sites[name].longitude),
        )
        for place, name in enumerate(names)
    }
    found: list[Link] = []
    usual: dict[LinkName, Usual] = {}
    for first, here in enumerate(names):
        for there in names[first + 1 :]:
            for number, transit in enumerate(transits):
                one, other = _pair(world, sites[here], sites[there], number, dice)
                for start, end, state in ((here, there, one), (there, here, other)):
                    link = Link(PopName(start), transit, PopName(end), transit)
                    found.append(link)
                    usual[link.name] = state
    fleet = Fleet("simulated", fleet_pops, {link.name: link for link in sorted(found, key=_name)})
    return Scene(fleet, dict(sorted(usual.items())))


def _name(link: Link) -> LinkName:
    return link.name


def _transit(name: str, number: int, place: int) -> Transit:
    address = f"10.{number}.{place // 250}.{place % 250 + 1}:4600"
    return Transit(name, address, address)


def _sites(world: WorldMap, count: int, dice: Random) -> dict[str, Site]:
    """So many sites by the names of PoPs: all different ones first."""
    known = [world.sites[name] for name in sorted(world.sites)]
    found: dict[str, Site] = {}
    turn = 1
    while len(found) < count:
        for site in dice.sample(known, min(len(known), count - len(found))):
            if turn == 1:
                found[site.name] = site
                continue
            latitude = max(-85.0, min(85.0, site.latitude + dice.uniform(-1, 1) * PLACE_JITTER_DEGREES))
            longitude = site.longitude + dice.uniform(-1, 1) * PLACE_JITTER_DEGREES
            found[f"{site.name}{turn}"] = Site(site.name, site.city, latitude, longitude)
        turn += 1
    return found


def _pair(world: WorldMap, here: Site, there: Site, number: int, dice: Random) -> tuple[Usual, Usual]:
    """One line between two PoPs, both directions."""
    floor_ms = light_rtt_ms((here.latitude, here.longitude), (there.latitude, there.longitude))
    measured = world.pair(here.name, there.name)
    if measured is not None:
        rtt_ms, jitter_ms, loss = measured.rtt_ms, measured.jitter_ms, measured.loss_ratio / 2
    else:
        rtt_ms, jitter_ms, loss = max(SAME_CITY_MS, DETOUR_OF_CABLES * floor_ms), 0.2, 0.0
    if number > 0:
        rtt_ms *= exp(abs(dice.gauss(0.0, TRANSIT_SPREAD)))
        loss = 0.0 if dice.random() < 0.5 else min(0.05, dice.expovariate(2 / LOSS_MEAN))
    # Above light by a twentieth, so that noise is never taken for what cannot be.
    rtt_ms = max(rtt_ms, 1.05 * floor_ms, SAME_CITY_MS)
    share = dice.uniform(0.45, 0.55)
    jitter_ms = max(0.05, jitter_ms)
    return Usual(rtt_ms * share, jitter_ms, loss), Usual(rtt_ms * (1 - share), jitter_ms, loss)
