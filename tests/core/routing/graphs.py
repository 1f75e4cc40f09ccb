"""Small graphs for tests of routing, as text or at random, and what is true of them by trying every path."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.links import LinkTable
from l4proxy.core.routing.planned import exact_hop_ms, planned_costs
from l4proxy.core.routing.rows import MAX_LINKS


@dataclass(frozen=True)
class Edge:
    """One directed link."""

    start: str
    end: str
    cost: float
    transit: str = "a"
    is_labelled: bool = True
    is_usable: bool = True
    load: float = 0.0
    capacity: float = float("inf")
    price: float = 0.0

    @property
    def name(self) -> LinkName:
        """As the fleet file writes it."""
        return LinkName(f"{self.start}/{self.transit}>{self.end}/{self.transit}")


def table_of(edges: list[Edge], pops: str = "") -> LinkTable:
    """Return the table of some links, whose RTT is their cost."""
    names = tuple(sorted({PopName(pop) for edge in edges for pop in (edge.start, edge.end)} | set(pops)))
    edges = sorted(edges, key=lambda edge: edge.name)
    cost = np.array([edge.cost for edge in edges], np.float64)
    return LinkTable(
        pops=tuple(map(PopName, names)),
        names=tuple(edge.name for edge in edges),
        start=np.array([names.index(PopName(edge.start)) for edge in edges], np.int32),
        end=np.array([names.index(PopName(edge.end)) for edge in edges], np.int32),
        usable=np.array([edge.is_usable for edge in edges], np.bool_),
        labelled=np.array([edge.is_labelled for edge in edges], np.bool_),
        rtt_ms=cost,
        rtt_ms_now=cost,
        jitter_ms=np.zeros(len(edges)),
        loss_ratio=np.zeros(len(edges)),
        load_bits_s=np.array([edge.load for edge in edges], np.float64),
        capacity_bits_s=np.array([edge.capacity for edge in edges], np.float64),
        price=np.array([edge.price for edge in edges], np.float64),
    )


def edges_of(text: str) -> list[Edge]:
    """Read `a-b 10, b-c 5!, b-c/x 7`: links in both directions; `!`: without labels; `/x`: over another transit than `a`."""
    edges = []
    for part in text.split(","):
        pair, cost = part.split()
        pair, _, transit = pair.partition("/")
        a, b = pair.split("-")
        for start, end in ((a, b), (b, a)):
            edges.append(Edge(start, end, float(cost.rstrip("!")), transit or "a", not cost.endswith("!")))
    return edges


def graph_of(text: str) -> LinkTable:
    """`edges_of` as a table."""
    return table_of(edges_of(text))


def costs_of(table: LinkTable) -> np.ndarray:
    """Return the cost of each link: its RTT."""
    return np.where(table.usable, table.rtt_ms, np.inf)


def pops_of(table: LinkTable, row: np.ndarray) -> str:
    """Return the PoPs of a path as one word; empty: it is none."""
    links = [int(link) for link in row if link >= 0]
    if not links:
        return ""
    return "".join([table.pops[table.start[links[0]]], *(table.pops[table.end[link]] for link in links)])


def names_of(table: LinkTable, row: np.ndarray) -> list[str]:
    """Return the names of a path's links."""
    return [table.names[link] for link in row if link >= 0]


Found = tuple[float, int, tuple[int, ...]]
"""Planned cost, how many links, which."""


def every_path(
    table: LinkTable,
    source: int,
    max_links: int = MAX_LINKS,
    hop_cost_ms: float = 1.0,
    banned: np.ndarray | None = None,
) -> dict[int, list[Found]]:
    """Return all loop-free paths from a PoP by where they end, the best first, by trying every one."""
    costs, hop = planned_costs(table, costs_of(table), banned), exact_hop_ms(hop_cost_ms)
    leaving: dict[int, list[int]] = {}
    for link in range(len(table.names)):
        if costs[link] < np.inf:
            leaving.setdefault(int(table.start[link]), []).append(link)
    found: dict[int, list[Found]] = {}

    def extend(links: tuple[int, ...], passed: tuple[int, ...], cost: float) -> None:
        for link in leaving.get(passed[-1], []):
            end = int(table.end[link])
            if end in passed or (links and not table.labelled[link]):
                continue
            total = cost + float(costs[link]) + (hop if links else 0.0)
            found.setdefault(end, []).append((total, len(links) + 1, (*links, link)))
            if len(links) + 1 < max_links:
                extend((*links, link), (*passed, end), total)

    extend((), (source,), 0.0)
    return {end: sorted(paths) for end, paths in found.items()}


def transits_of(table: LinkTable, links: tuple[int, ...]) -> set[int]:
    """Return the PoPs between."""
    return {int(table.end[link]) for link in links[:-1]}


def links_of(row: np.ndarray) -> tuple[int, ...]:
    """Return a row without its padding."""
    return tuple(int(link) for link in row if link >= 0)


WHOLE = st.integers(1, 6).map(float)
"""Costs that tie often."""
REAL = st.floats(0.1, 300)


@st.composite
def tables(draw: st.DrawFn, most_pops: int = 5, transits: str = "ab") -> LinkTable:
    """Random tables: parallel and one-way links, some without labels, some dead; dense or sparse, with many ties or few."""
    pops = "abcdefg"[: draw(st.integers(2, most_pops))]
    cost = draw(st.sampled_from([WHOLE, REAL]))
    share = draw(st.integers(1, 10))
    edges = []
    for start in pops:
        for end in pops:
            for transit in transits:
                if start != end and draw(st.integers(1, 10)) <= share:
                    is_labelled, is_usable = draw(st.integers(0, 7)) > 0, draw(st.integers(0, 7)) > 0
                    edges.append(Edge(start, end, draw(cost), transit, is_labelled, is_usable))
    return table_of(edges, pops)
