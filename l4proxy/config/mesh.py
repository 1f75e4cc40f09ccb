"""The links of a fleet: those that every fleet has by default, and what the file says differently about some."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

from l4proxy.config.endpoints import split
from l4proxy.config.schema import FleetModel, LinkModel
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Link, Pop, Transit

MAX_LINKS = 100_000
"""Links of one fleet: 316 PoPs, each joined with each."""

Ends = tuple[PopName, str, PopName, str]


def count_links(model: FleetModel) -> int:
    """Return how many links the mesh makes at most, without making them; exact unless it is more than MAX_LINKS.

    Transits of different address families are not joined, nor PoPs that can both only dial out, so there may be fewer.
    """
    transits = [pop.transits.keys() for pop in model.pops.values()]
    least = len(transits) * (len(transits) - 1)
    if least > MAX_LINKS:
        return least
    if model.mesh == "all":
        return sum(map(len, transits)) ** 2 - sum(len(names) ** 2 for names in transits)
    return 2 * sum(len(here | there) for here, there in combinations(transits, 2))


def make_links(
    pops: Mapping[PopName, Pop], mesh: Literal["same", "all"], given: Sequence[LinkModel]
) -> dict[LinkName, Link]:
    """Return every link in name order. A link always has its reverse: replies to probes go over it."""
    ends: set[Ends] = set()
    for here in pops.values():
        for there in pops.values():
            if here.name != there.name and can_dial(here, there):
                ends.update(_joined(here, there, mesh))
    special = {ends_of(link): link for link in given}
    ends.update(special)
    ends.update((to_pop, to, from_pop, start) for from_pop, start, to_pop, to in tuple(ends))
    links = (_link(end, special.get(end)) for end in ends)
    return {link.name: link for link in sorted(links, key=lambda link: link.name)}


def ends_of(link: LinkModel) -> Ends:
    """Return the PoPs and transits that an entry of `links` names."""
    from_pop, _, from_transit = link.from_end.partition("/")
    to_pop, _, to_transit = link.to_end.partition("/")
    return PopName(from_pop), from_transit, PopName(to_pop), to_transit


def can_join(one: Transit, other: Transit) -> bool:
    """Whether packets can go between two transits: both have an IPv4 address, or both an IPv6 address."""
    return (":" in split(one.bind)[0]) == (":" in split(other.bind)[0])


def can_dial(one: Pop, other: Pop) -> bool:
    """Whether one of two PoPs can dial the other: not where both can only dial out."""
    return not (one.dial_outbound and other.dial_outbound)


def _joined(here: Pop, there: Pop, mesh: Literal["same", "all"]) -> Iterator[Ends]:
    """Give the links from `here` to `there`: `same` names, or to the first from one without a namesake; or `all`."""
    for transit in here.transits:
        reachable = [other for other in there.transits if can_join(transit, other)]
        chosen = reachable
        if mesh == "same":
            chosen = [other for other in reachable if other.name == transit.name] or reachable[:1]
        for other in chosen:
            yield here.name, transit.name, there.name, other.name


def _link(ends: Ends, given: LinkModel | None) -> Link:
    if given is None:
        return Link(*ends)
    return Link(
        *ends, enabled=given.enabled, capacity_bits_s=given.capacity, price=given.price, kind=given.kind
    )
