"""Best paths and backups over graphs of links."""

from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.cost import HOP_COST_MS
from l4proxy.core.ids import PopName
from l4proxy.core.paths import MAX_LINKS, Edge, Graph, Path, backups, best_paths
from l4proxy.core.topology import Link

POPS = [PopName(name) for name in "abcdefg"]


def graph_of(text: str) -> Graph:
    """Read `a-b 10, b-c 5!`: links in both directions; `!` means without labels."""
    edges: dict[PopName, list[Edge]] = {}
    for part in text.split(","):
        pair, cost = part.split()
        a, b = pair.split("-")
        for x, y in ((a, b), (b, a)):
            link = Link(PopName(x), "a", PopName(y), "a")
            edges.setdefault(PopName(x), []).append(
                Edge(link, float(cost.rstrip("!")), not cost.endswith("!"))
            )
    return {pop: tuple(sorted(found, key=lambda edge: edge.link.name)) for pop, found in edges.items()}


#   b
#  / \      a-c costs 30 directly, 10 + 5 through b, and a hop
# a---c
TRIANGLE = graph_of("a-b 10, b-c 5, a-c 30")


def test_the_cheaper_detour_wins_and_its_hop_is_charged() -> None:
    path = best_paths(TRIANGLE, PopName("a"))[PopName("c")]
    assert path.pops == ("a", "b", "c")
    assert path.cost_ms == 15 + HOP_COST_MS


def test_a_link_that_its_owner_has_not_labelled_carries_nothing_for_others() -> None:
    graph = graph_of("a-b 10, b-c 5!, a-c 30")
    assert best_paths(graph, PopName("a"))[PopName("c")].pops == ("a", "c")
    assert best_paths(graph, PopName("b"))[PopName("c")].pops == ("b", "c"), "its owner may use it"


def test_no_path_has_more_links_than_the_outer_header_has_room_for() -> None:
    chain = graph_of("a-b 1, b-c 1, c-d 1, d-e 1, e-f 1")
    found = best_paths(chain, PopName("a"))
    assert found[PopName("e")].pops == ("a", "b", "c", "d", "e")
    assert PopName("f") not in found


def test_the_first_backup_shares_no_link_and_no_transit_with_the_primary() -> None:
    graph = graph_of("a-b 1, b-d 1, a-c 5, c-d 5, a-d 50, b-c 1")
    primary = best_paths(graph, PopName("a"))[PopName("d")]
    others = backups(graph, primary)
    assert primary.pops == ("a", "b", "d")
    assert others[0].pops == ("a", "c", "d")
    assert len(others) == 2


def test_ties_are_broken_by_fewer_links_then_by_name() -> None:
    assert best_paths(graph_of("a-b 5, b-c 5, a-c 11"), PopName("a"))[PopName("c")].pops == ("a", "c")
    assert best_paths(graph_of("a-c 5, c-d 5, a-b 5, b-d 5"), PopName("a"))[PopName("d")].pops == (
        "a",
        "b",
        "d",
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random graphs of up to seven PoPs, one-way links included."""
    edges: dict[PopName, tuple[Edge, ...]] = {}
    for a in POPS:
        costs = {b: draw(st.none() | st.floats(0.1, 300)) for b in POPS if b != a}
        edges[a] = tuple(
            Edge(Link(a, "a", b, "a"), cost, draw(st.booleans()))
            for b, cost in costs.items()
            if cost is not None
        )
    return edges


def every_path(graph: Graph, source: PopName, end: PopName) -> list[Path]:
    """All loop-free paths, by trying every one."""
    found: list[Path] = []

    def extend(path: Path | None, at: PopName) -> None:
        for edge in graph[at]:
            target = edge.link.to_pop
            if target == source or (path is not None and (target in path.pops or not edge.is_labelled)):
                continue
            longer = (
                Path((edge.link,), edge.cost_ms)
                if path is None
                else Path((*path.links, edge.link), path.cost_ms + edge.cost_ms + HOP_COST_MS)
            )
            if target == end:
                found.append(longer)
            elif len(longer.links) < MAX_LINKS:
                extend(longer, target)

    extend(None, source)
    return found


@given(graphs())
def test_the_best_path_is_the_cheapest_of_all_and_loop_free(graph: Graph) -> None:
    found = best_paths(graph, POPS[0])
    for end in POPS[1:]:
        all_paths = every_path(graph, POPS[0], end)
        assert (end in found) == bool(all_paths)
        if all_paths:
            best = found[end]
            assert abs(best.cost_ms - min(path.cost_ms for path in all_paths)) < 1e-6
            assert len(set(best.pops)) == len(best.pops)
            assert (best.pops[0], best.pops[-1]) == (POPS[0], end)


@given(graphs())
def test_backups_are_other_paths_to_the_same_end_and_survive_the_first_link(graph: Graph) -> None:
    for end, primary in best_paths(graph, POPS[0]).items():
        for backup in backups(graph, primary):
            assert backup.names != primary.names
            assert (backup.pops[0], backup.pops[-1]) == (POPS[0], end)
            assert len(set(backup.pops)) == len(backup.pops)
        others = [path for path in every_path(graph, POPS[0], end) if path.names != primary.names]
        assert bool(backups(graph, primary)) == any(set(primary.names) - set(path.names) for path in others)
