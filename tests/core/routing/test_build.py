"""Best paths, from one PoP and of all pairs, against every path there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4proxy.core.routing.build import best_all, best_from, direct_rows
from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.links import LinkTable, TableError
from l4proxy.core.routing.planned import FULL_MS, PRICE_BAND_MS, QUANTUM_MS
from l4proxy.core.routing.rows import MAX_LINKS, price
from tests.core.routing.graphs import (
    Edge,
    costs_of,
    edges_of,
    every_path,
    graph_of,
    links_of,
    names_of,
    pops_of,
    table_of,
    tables,
)


def best(table: LinkTable, start: str, end: str, **options: object) -> np.ndarray:
    """Return the best path of a pair, after looking that one PoP and all pairs say the same."""
    source, target = table.pops.index(start), table.pops.index(end)  # type: ignore[arg-type]
    rows = best_from(table, costs_of(table), source, **options)  # type: ignore[arg-type]
    whole = best_all(table, costs_of(table), **options)  # type: ignore[arg-type]
    assert rows[target].tolist() == whole[source * len(table.pops) + target].tolist()
    return rows[target]


#   b
#  / \      a-c costs 30 directly, 10 + 5 through b, and a hop
# a---c
TRIANGLE = graph_of("a-b 10, b-c 5, a-c 30")


def test_the_cheaper_detour_wins_and_its_hop_is_charged() -> None:
    row = best(TRIANGLE, "a", "c")
    assert pops_of(TRIANGLE, row) == "abc"
    assert price(row[None], costs_of(TRIANGLE)).tolist() == [15 + HOP_COST_MS]
    assert pops_of(TRIANGLE, best(TRIANGLE, "a", "c", hop_cost_ms=15.5)) == "ac"


def test_a_link_that_its_owner_has_not_labelled_carries_nothing_for_others() -> None:
    table = graph_of("a-b 10, b-c 5!, a-c 30")
    assert pops_of(table, best(table, "a", "c")) == "ac"
    assert pops_of(table, best(table, "b", "c")) == "bc", "its owner may use it"


def test_every_hop_takes_the_better_of_its_own_parallel_links() -> None:
    table = graph_of("a-b 10, a-b/x 9, b-c 5, b-c/x 6, a-c 30, a-c/x 29")
    assert names_of(table, best(table, "a", "c")) == ["a/x>b/x", "b/a>c/a"]
    assert names_of(table, best(table, "a", "c", max_links=1)) == ["a/x>c/x"]


def test_a_parallel_link_without_a_label_is_passed_over_on_the_way_only() -> None:
    table = graph_of("a-b 10, b-c 5!, b-c/x 6, a-c 30")
    assert names_of(table, best(table, "a", "c")) == ["a/a>b/a", "b/x>c/x"]
    assert names_of(table, best(table, "b", "c")) == ["b/a>c/a"]


def test_no_path_has_more_links_than_the_outer_header_has_room_for() -> None:
    chain = graph_of("a-b 1, b-c 1, c-d 1, d-e 1, e-f 1")
    assert pops_of(chain, best(chain, "a", "e")) == "abcde"
    assert pops_of(chain, best(chain, "a", "f")) == ""
    assert pops_of(chain, best(chain, "a", "e", max_links=3)) == ""


def test_ties_are_broken_by_fewer_links_then_by_name() -> None:
    table = graph_of("a-b 5, b-c 5, a-c 11")
    assert pops_of(table, best(table, "a", "c")) == "ac"
    table = graph_of("a-c 5, c-d 5, a-b 5, b-d 5")
    assert pops_of(table, best(table, "a", "d")) == "abd"
    # a/a>c/a stands before a/x>b/x, although b stands before c.
    table = graph_of("a-b/x 5, b-d 5, a-c 5, c-d 5")
    assert pops_of(table, best(table, "a", "d")) == "acd"


def test_sums_that_differ_by_rounding_alone_are_ties() -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point, and PoPs must not find different paths for it."""
    table = graph_of("a-b 0.1, b-c 0.2, c-f 0.3, a-d 0.3, d-e 0.2, e-f 0.1")
    assert pops_of(table, best(table, "a", "f")) == "abcf"


def test_a_banned_link_is_not_used() -> None:
    banned = np.array([name == "a/a>b/a" for name in TRIANGLE.names])
    assert pops_of(TRIANGLE, best(TRIANGLE, "a", "c", banned=banned)) == "ac"
    rows = direct_rows(TRIANGLE, costs_of(TRIANGLE), 0, banned)
    assert [pops_of(TRIANGLE, row) for row in rows] == ["", "", "ac"]


@settings(deadline=None)
@given(tables(), st.integers(1, MAX_LINKS), st.sampled_from([0.0, 1.0, 2.5]), st.data())
def test_the_best_path_is_the_cheapest_of_all_then_the_shortest_then_the_first_by_name(
    table: LinkTable, max_links: int, hop_cost_ms: float, data: st.DataObject
) -> None:
    """What is tried one by one has no loop, no dead or banned link, and no link without label after the first: so has what is found."""
    banned = np.array([data.draw(st.integers(0, 9)) == 0 for _ in table.names], np.bool_)
    pops = len(table.pops)
    whole = best_all(table, costs_of(table), max_links, hop_cost_ms, banned)
    for source in range(pops):
        paths = every_path(table, source, max_links, hop_cost_ms, banned)
        rows = best_from(table, costs_of(table), source, max_links, hop_cost_ms, banned)
        expected = [paths[end][0][2] if end in paths else () for end in range(pops)]
        assert [links_of(row) for row in rows] == expected
        assert [links_of(row) for row in whole[source * pops : (source + 1) * pops]] == expected


@settings(deadline=None)
@given(tables())
def test_direct_rows_are_the_best_single_links(table: LinkTable) -> None:
    costs = costs_of(table)
    assert direct_rows(table, costs).tolist() == best_all(table, costs, 1).tolist()


# -- capacity and price -----------------------------------------------------------------------------------------------


def test_a_full_link_gets_no_paths_while_there_is_another_way_however_long() -> None:
    edges = [Edge("a", "c", 1.0, load=81.0, capacity=100.0), Edge("a", "b", 900.0), Edge("b", "c", 900.0)]
    assert pops_of(table_of(edges), best(table_of(edges), "a", "c")) == "abc"
    assert pops_of(table_of(edges[:1]), best(table_of(edges[:1]), "a", "c")) == "ac", "it is the only way"


def test_a_link_below_its_share_or_without_declared_capacity_is_not_full() -> None:
    for load, capacity in ((80.0, 100.0), (1e12, float("inf"))):
        table = table_of([Edge("a", "c", 1.0, load=load, capacity=capacity), Edge("a", "c", 2.0, "b")])
        assert names_of(table, best(table, "a", "c")) == ["a/a>c/a"]


def test_the_worst_path_without_a_full_link_is_better_than_the_best_with_one() -> None:
    edges = [Edge("a", "e", 0.0, load=1.0, capacity=1.0)]
    edges += [Edge(start, end, 1e9) for start, end in ("ab", "bc", "cd", "de")]
    table = table_of(edges)
    assert pops_of(table, best(table, "a", "e", hop_cost_ms=20_000.0)) == "abcde"
    assert 4 * (FULL_MS + 400_000) + 3 * 20_000 + 4 * PRICE_BAND_MS < 2**53 * QUANTUM_MS / 2**14


def test_of_near_equal_paths_the_cheaper_by_price_is_taken_and_no_other() -> None:
    def taken(dear_ms: float, price_cheap: float = 0.0) -> list[str]:
        table = table_of([Edge("a", "b", dear_ms, price=5.0), Edge("a", "b", 10.0, "z", price=price_cheap)])
        return names_of(table, best(table, "a", "b"))

    assert taken(10.0 - 0.9 * PRICE_BAND_MS) == ["a/z>b/z"]
    assert taken(10.0 - 1.1 * PRICE_BAND_MS) == ["a/a>b/a"]
    assert taken(10.0 - 0.9 * PRICE_BAND_MS, price_cheap=5.0) == ["a/a>b/a"], "equal prices decide nothing"


def test_a_price_decides_and_is_not_counted_as_cost() -> None:
    table = table_of([Edge("a", "b", 10.0, price=5.0)])
    assert price(best(table, "a", "b")[None], costs_of(table)).tolist() == [10.0]


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [float("nan"), -1.0, float("inf"), float("-inf")])
def test_a_cost_that_cannot_be_is_refused_with_the_links_name(wrong: float) -> None:
    costs = costs_of(TRIANGLE)
    costs[TRIANGLE.names.index("b/a>c/a")] = wrong  # type: ignore[arg-type]
    for build in (lambda: best_all(TRIANGLE, costs), lambda: best_from(TRIANGLE, costs, 0)):
        with pytest.raises(TableError, match=r"link b/a>c/a costs .* ban a link that must not be used"):
            build()


def test_costs_of_other_links_a_hop_cost_or_a_length_that_cannot_be_are_refused() -> None:
    with pytest.raises(TableError, match="there are 6 links"):
        best_all(TRIANGLE, np.ones(5))
    for hop in (-1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(TableError, match="hop cost"):
            best_all(TRIANGLE, costs_of(TRIANGLE), hop_cost_ms=hop)
    for links in (0, 5):
        with pytest.raises(TableError, match="take 1 to 4"):
            best_from(TRIANGLE, costs_of(TRIANGLE), 0, links)


def test_a_link_that_is_dead_may_cost_nothing_that_can_be_said() -> None:
    edges = edges_of("a-b 10, b-c 5, a-c 30")
    dead = [Edge(e.start, e.end, float("inf"), is_usable=False) if e.name == "b/a>c/a" else e for e in edges]
    table = table_of(dead)
    assert pops_of(table, best(table, "a", "c")) == "ac"
