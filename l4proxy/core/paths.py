"""Best paths over a graph of links with costs: loop-free, at most four links. Pure graph work; it knows no classes, apps or policies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from l4proxy.core.cost import HOP_COST_MS
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Link

MAX_LINKS = 4
"""The outer header has room for three labels (docs/protocol.md section 2)."""


@dataclass(frozen=True, slots=True)
class Path:
    """Links from one PoP to another, with the sum of their costs and of the hops."""

    links: tuple[Link, ...]
    cost_ms: float

    @property
    def pops(self) -> tuple[PopName, ...]:
        """The PoPs it passes, first and last included."""
        return (self.links[0].from_pop, *(link.to_pop for link in self.links))

    @property
    def names(self) -> tuple[LinkName, ...]:
        """Names of its links."""
        return tuple(link.name for link in self.links)

    @property
    def transits(self) -> tuple[PopName, ...]:
        """The PoPs between."""
        return self.pops[1:-1]

    @property
    def is_direct(self) -> bool:
        """Whether it is one link."""
        return len(self.links) == 1


@dataclass(frozen=True, slots=True)
class Edge:
    """A usable link with its cost; `is_labelled` whether others can send over it."""

    link: Link
    cost_ms: float
    is_labelled: bool


Graph = Mapping[PopName, tuple[Edge, ...]]
"""Usable links by the PoP they leave, in the order of their names."""


def best_paths(
    graph: Graph,
    source: PopName,
    max_links: int = MAX_LINKS,
    without_links: Iterable[LinkName] = (),
    without_pops: Iterable[PopName] = (),
) -> dict[PopName, Path]:
    """Return the cheapest path from `source` to every PoP that can be reached, by Bellman and Ford with at most `max_links` rounds.

    Ties are broken by fewer links, then by names, so that the same costs give the same paths everywhere.
    """
    banned_links, banned_pops = frozenset(without_links), frozenset(without_pops)
    best: dict[PopName, Path] = {}
    frontier: dict[PopName, Path | None] = {source: None}
    for _ in range(max_links):
        improved: dict[PopName, Path] = {}
        for pop in sorted(frontier):
            so_far = frontier[pop]
            for edge in graph.get(pop, ()):
                target = edge.link.to_pop
                is_banned = edge.link.name in banned_links or target in banned_pops
                if target == source or is_banned or (so_far is not None and not edge.is_labelled):
                    continue
                path = _extend(so_far, edge)
                if so_far is not None and target in so_far.pops:
                    continue
                if _is_better(path, improved.get(target, best.get(target))):
                    improved[target] = path
        best.update(improved)
        frontier = dict(improved)
    return best


def _extend(path: Path | None, edge: Edge) -> Path:
    if path is None:
        return Path((edge.link,), edge.cost_ms)
    return Path((*path.links, edge.link), path.cost_ms + edge.cost_ms + HOP_COST_MS)


def _is_better(path: Path, other: Path | None) -> bool:
    return other is None or _rank(path) < _rank(other)


def _rank(path: Path) -> tuple[float, int, tuple[LinkName, ...]]:
    return (round(path.cost_ms, 6), len(path.links), path.names)


def backups(graph: Graph, primary: Path, max_links: int = MAX_LINKS) -> tuple[Path, ...]:
    """Return up to two more paths to the same end: one that shares no link and no transit PoP, and one that shares no first link.

    Where nothing is as disjoint, the best that avoids the primary's links one by one. Cheaper first.
    """
    source, end = primary.pops[0], primary.pops[-1]
    found: list[Path] = []
    attempts = [(primary.names, primary.transits), (primary.names, ())]
    attempts += [((name,), ()) for name in primary.names]
    for links, pops in attempts:
        path = best_paths(graph, source, max_links, links, pops).get(end)
        if (
            path is not None
            and path.names != primary.names
            and path.names not in [other.names for other in found]
        ):
            found.append(path)
        if len(found) == 2:
            break
    return tuple(found)
