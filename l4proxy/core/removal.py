"""What the disqualifier has removed, taken out of what a plan is made of; a link without which a PoP is out of reach stays. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from l4proxy.core.bus import LinkState
from l4proxy.core.estimate import LinkEstimate
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Fleet

MAX_LINKS = 4
"""What the overlay carries (docs/protocol.md, section 4)."""


def without(
    pop: PopName,
    fleet: Fleet,
    own_links: Mapping[LinkName, LinkEstimate],
    other_links: Mapping[LinkName, LinkState],
    removed: Iterable[LinkName],
) -> tuple[Mapping[LinkName, LinkEstimate], Mapping[LinkName, LinkState], frozenset[LinkName]]:
    """Return both without the removed links, which count as down, and which of them could not be spared.

    Never the last route: each, in name order, goes only if every PoP that could be reached can still be.
    """
    up = {name for name, known in own_links.items() if known.is_up and known.rtt_ms}
    up |= {name for name, state in other_links.items() if state.is_up and state.label}
    wanted = sorted(name for name in removed if name in up)
    if not wanted:
        return own_links, other_links, frozenset()
    reached = _reached(pop, fleet, up)
    gone: set[LinkName] = set()
    for name in wanted:
        if reached <= _reached(pop, fleet, up - gone - {name}):
            gone.add(name)
    own = {name: replace(known, is_up=False) if name in gone else known for name, known in own_links.items()}
    others = {
        name: replace(state, is_up=False) if name in gone else state for name, state in other_links.items()
    }
    return own, others, frozenset(wanted) - gone


def _reached(pop: PopName, fleet: Fleet, up: set[LinkName]) -> set[PopName]:
    """Return the PoPs that a path of at most four links leads to."""
    following: dict[PopName, set[PopName]] = {}
    for name in up:
        link = fleet.links.get(name)
        if link is not None and link.enabled:
            following.setdefault(link.from_pop, set()).add(link.to_pop)
    found, border = {pop}, {pop}
    for _ in range(MAX_LINKS):
        border = {to for at in border for to in following.get(at, ())} - found
        found |= border
    return found
