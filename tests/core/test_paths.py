"""The ways of one PoP as paths with names: what rules, snapshots and views see of the table."""

from dataclasses import replace

import numpy as np

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.paths import Path
from l4proxy.core.route import Policy, smart_routes
from l4proxy.core.routing.cost import HOP_COST_MS, link_costs
from l4proxy.core.routing.declared import DeclaredLinks
from l4proxy.core.routing.links import LinkTable
from l4proxy.core.routing.rows import MAX_LINKS
from l4proxy.core.routing.ways import Ways
from l4proxy.core.topology import Fleet, Link
from tests.core.fleet import make_fleet
from tests.core.routing.graphs import graph_of

A, B, C, D = (PopName(name) for name in "abcd")


def ways(text: str, avoid: str = "", max_links: int = MAX_LINKS, dead: str = "") -> Ways:
    """Return the ways of `a` over links as `graph_of` reads them."""
    table = graph_of(text)
    usable = np.array([name not in dead.split() for name in table.names])
    table = replace(table, usable=table.usable & usable)
    declared = declared_of(table)
    banned = declared.avoided(frozenset(avoid.split()), 0)
    return Ways(declared, table, link_costs(table, "rtt"), A, max_links, banned)


def declared_of(table: LinkTable) -> DeclaredLinks:
    """Return the fleet that has a table's links."""
    links = {}
    for name in table.names:
        start, end = (side.split("/") for side in name.split(">"))
        links[name] = Link(PopName(start[0]), start[1], PopName(end[0]), end[1])
    return DeclaredLinks.of(Fleet("test", make_fleet(" ".join(table.pops)).pops, links))


TRIANGLE = "a-b 10, b-c 5, a-c 30"


def test_paths_know_their_pops_links_and_cost() -> None:
    path = ways(TRIANGLE).best[C]
    assert (path.pops, path.transits, path.is_direct) == (("a", "b", "c"), ("b",), False)
    assert path.names == ("a/a>b/a", "b/a>c/a")
    assert path.cost_ms == 15 + HOP_COST_MS
    assert ways(TRIANGLE).direct[C].cost_ms == 30


def test_there_is_no_way_to_oneself_nor_to_who_cannot_be_reached() -> None:
    found = ways("a-b 10, c-d 5")
    assert list(found.best) == list(found.direct) == [B]


def test_what_a_policy_avoids_or_more_links_than_it_allows_are_not_used() -> None:
    assert ways(TRIANGLE, avoid="b").best[C].pops == ("a", "c")
    assert ways(TRIANGLE, avoid="b/a").best[C].pops == ("a", "c")
    assert ways(TRIANGLE, max_links=1).best[C].pops == ("a", "c")
    assert B not in ways(TRIANGLE, avoid="b").best


def test_a_path_is_priced_as_it_is_now_and_not_while_it_cannot_be_used() -> None:
    path = ways(TRIANGLE).best[C]
    now = ways("a-b 11, b-c 5, a-c 30").priced(path)
    assert now is not None
    assert now.links == path.links
    assert now.cost_ms == 16 + HOP_COST_MS
    assert ways(TRIANGLE, dead="b/a>c/a").priced(path) is None
    assert ways(TRIANGLE, avoid="b").priced(path) is None
    assert ways("a-b 10, b-c 5!, a-c 30").priced(path) is None, "its owner no longer forwards over it"
    assert ways("a-b 10, a-c 30").priced(path) is None, "it has left the fleet"


def test_backups_are_paths_to_the_same_end_best_first() -> None:
    found = ways("a-b 1, b-d 1, a-c 5, c-d 5, a-d 50, b-c 1")
    backups = found.backups({D: found.best[D]})[D]
    assert [path.pops for path in backups] == [("a", "c", "d"), ("a", "d")]
    assert [path.cost_ms for path in backups] == [10 + HOP_COST_MS, 50]


def test_a_path_of_links_that_left_the_fleet_has_no_backups() -> None:
    gone = Path((Link(A, "z", C, "z"),), 1.0)
    assert ways(TRIANGLE).backups({C: gone}) == {C: ()}


def test_links_that_died_can_be_looked_at_as_they_were_last() -> None:
    found = ways(TRIANGLE, dead="b/a>c/a a/a>c/a")
    assert C not in found.best
    dead = found.table.with_dead()
    last = Ways(found.declared, dead, link_costs(dead, "rtt"), A)
    assert last.best[C].pops == ("a", "b", "c")
    assert last.table.number(LinkName("a/a>c/a")) is not None


def test_a_direct_path_that_is_full_is_left_for_one_that_is_not_though_that_gains_nothing() -> None:
    found = ways("a-b 10, b-c 25, a-c 30")
    policy = Policy("rtt", 1.0, 3, frozenset())
    table = found.table
    load = np.where([name == "a/a>c/a" for name in table.names], 90.0, 0.0)
    full = replace(table, load_bits_s=load, capacity_bits_s=np.full(len(load), 100.0))
    for known, expected in ((table, ("a", "c")), (full, ("a", "b", "c"))):
        within = Ways(found.declared, known, found.costs, A)
        route = smart_routes(within, policy, within, {}, 0, is_calm=False)[C]
        assert route.primary is not None
        assert route.primary.pops == expected
        assert within.has_room(route.primary)
        assert within.has_room(within.direct[C]) == (known is table)
