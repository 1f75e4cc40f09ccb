"""Along which pairs news travels: three rings through all PoPs, each in an order of its own. Pure.

The fleet file alone decides, so every PoP knows the same graph. Telling all neighbours of a mesh costs n² messages for each change, and
a tree has no second way (RFC 9667 asks for a sparse graph too).
A ring joins all PoPs, three in independent orders are a random graph of degree 6: 330 PoPs are at most 5 hops apart. A PoP that comes or
leaves changes three places of it, and one that is dead closes each ring over itself, at both ends alike.
"""

from collections.abc import Collection
from hashlib import sha256

from l4proxy.core.ids import PopName

RINGS = 3
"""Degree 6. Two (degree 4): 330 PoPs are up to 7 hops apart, and any 4 cut one off; each ring more costs a third more messages."""

SMALL = 8
"""In a fleet of so many or fewer each tells all: six or seven others are all there are."""


def _place(ring: int, pop: PopName) -> bytes:
    return sha256(f"{ring} {pop}".encode()).digest()


class FloodGraph:
    """The graph as one PoP sees it."""

    def __init__(self, own: PopName, pops: Collection[PopName]) -> None:
        self._is_small = len(pops) <= SMALL
        self._rings: list[tuple[PopName, ...]] = []
        for ring in range(RINGS):
            order = sorted(pops, key=lambda pop: _place(ring, pop))
            at = order.index(own)
            self._rings.append((*order[at + 1 :], *order[:at]))

    def neighbours(self, connected: Collection[PopName]) -> tuple[PopName, ...]:
        """Return whom this PoP tells, in name order: in each ring the next on either side that is connected."""
        if self._is_small:
            return tuple(sorted(connected))
        reachable = frozenset(connected)
        found = set()
        for others in self._rings:
            for direction in (others, others[::-1]):
                found |= {next((pop for pop in direction if pop in reachable), None)}
        return tuple(sorted(pop for pop in found if pop is not None))
