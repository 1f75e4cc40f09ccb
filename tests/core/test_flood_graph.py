"""The graph along which news travels: connected, sparse, of small diameter, the same everywhere, and hardly moved by who comes or dies."""

from collections import deque
from random import Random

import pytest

from l4proxy.core.flood_graph import SMALL, FloodGraph
from l4proxy.core.ids import PopName
from tests.core.talk import names

Edges = dict[PopName, set[PopName]]


def edges(pops: tuple[PopName, ...], connected: Edges | None = None) -> Edges:
    """Return whom each tells."""
    found = {}
    for pop in pops:
        peers = set(pops) - {pop} if connected is None else connected[pop]
        found[pop] = set(FloodGraph(pop, pops).neighbours(peers))
    return found


def hops(graph: Edges, start: PopName) -> dict[PopName, int]:
    """Return how many edges lead from one to each other that it reaches."""
    found, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for there in graph[here] - found.keys():
            found[there] = found[here] + 1
            queue.append(there)
    return found


@pytest.mark.parametrize("count", [2, 3, SMALL])
def test_in_a_small_fleet_each_tells_all(count: int) -> None:
    pops = names(count)
    assert all(len(told) == count - 1 for told in edges(pops).values())


@pytest.mark.parametrize(("count", "diameter"), [(9, 2), (30, 3), (100, 5), (330, 5)])
def test_few_edges_join_all_over_few_hops_both_ways(count: int, diameter: int) -> None:
    graph = edges(names(count))
    assert max(map(len, graph.values())) <= 6
    assert sum(map(len, graph.values())) / count > 4
    assert all(pop in graph[peer] for pop, told in graph.items() for peer in told)
    for start in graph:
        reached = hops(graph, start)
        assert len(reached) == count
        assert max(reached.values()) <= diameter


def test_a_pop_more_moves_few_edges() -> None:
    pops = names(100)
    before, after = edges(pops), edges((*pops, PopName("one-more")))
    moved = sum(len(before[pop] ^ after[pop]) for pop in pops)
    assert moved <= 3 * 2 * 2


@pytest.mark.parametrize("seed", range(20))
def test_who_lives_is_joined_whoever_is_dead(seed: int) -> None:
    pops = names(60)
    random = Random(seed)
    alive = set(random.sample(pops, random.randrange(2, 60)))
    graph = edges(pops, {pop: alive - {pop} for pop in pops})
    graph = {pop: graph[pop] for pop in alive}
    assert all(len(hops(graph, start)) == len(alive) for start in alive)
    assert all(pop in graph[peer] for pop, told in graph.items() for peer in told)


def test_each_half_of_a_partition_is_joined_in_itself() -> None:
    pops = names(60)
    one = set(pops[::2])
    connected = {pop: (one if pop in one else set(pops) - one) - {pop} for pop in pops}
    graph = edges(pops, connected)
    assert len(hops(graph, pops[0])) == len(hops(graph, pops[1])) == 30


def test_who_is_connected_with_nobody_tells_nobody() -> None:
    assert FloodGraph(PopName("p000"), names(20)).neighbours(()) == ()
