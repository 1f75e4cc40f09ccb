"""Backups: what they share with the path and with each other, against every path there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4proxy.core.routing import detours
from l4proxy.core.routing.backups import backup_rows
from l4proxy.core.routing.build import best_all, best_from
from l4proxy.core.routing.links import LinkTable
from l4proxy.core.routing.rows import MAX_LINKS, no_rows
from tests.core.routing.graphs import (
    costs_of,
    every_path,
    graph_of,
    links_of,
    names_of,
    pops_of,
    tables,
    transits_of,
)


def around(table: LinkTable, start: str, end: str, max_links: int = MAX_LINKS) -> list[str]:
    """Return the PoPs of the best path of a pair and of its backups."""
    source, target = table.pops.index(start), table.pops.index(end)  # type: ignore[arg-type]
    rows = best_from(table, costs_of(table), source, max_links)
    first, second = backup_rows(table, costs_of(table), rows, max_links)
    return [pops_of(table, of[target]) for of in (rows, first, second)]


def test_the_first_backup_shares_no_link_and_no_transit_with_the_path_and_the_second_none_with_either() -> (
    None
):
    assert around(graph_of("a-b 1, b-d 1, a-c 5, c-d 5, a-d 50, b-c 1"), "a", "d") == ["abd", "acd", "ad"]


def test_a_parallel_link_is_a_backup_of_a_single_link() -> None:
    table = graph_of("a-b 10, a-b/x 11, a-b/y 12")
    rows = best_from(table, costs_of(table), 0)
    first, second = backup_rows(table, costs_of(table), rows)
    assert [names_of(table, of[1]) for of in (rows, first, second)] == [["a/a>b/a"], ["a/x>b/x"], ["a/y>b/y"]]


def test_the_parallel_link_that_is_in_use_is_not_its_own_backup_though_it_is_no_longer_the_cheapest() -> None:
    table = graph_of("a-b 10, a-b/x 11, a-b/y 12")
    rows = no_rows(1)
    rows[0, 0] = table.names.index("a/x>b/x")  # type: ignore[arg-type]
    first, second = backup_rows(table, costs_of(table), rows)
    assert [names_of(table, of[0]) for of in (first, second)] == [["a/a>b/a"], ["a/y>b/y"]]


def test_a_backup_may_be_longer_than_two_links_where_nothing_shorter_is_apart() -> None:
    assert around(graph_of("a-b 1, b-e 1, a-c 1, c-d 1, d-e 1"), "a", "e")[:2] == ["abe", "acde"]


def test_where_no_path_avoids_the_pops_the_backup_avoids_the_links() -> None:
    table = graph_of("a-b 1, a-b/x 2, b-c 1, b-c/x 2")
    rows = best_from(table, costs_of(table), 0)
    first, second = backup_rows(table, costs_of(table), rows)
    end = table.pops.index("c")  # type: ignore[arg-type]
    assert names_of(table, first[end]) == ["a/x>b/x", "b/x>c/x"]
    assert names_of(table, second[end]) == []


def test_failures_that_no_single_backup_survives_are_shared_out_among_two() -> None:
    """Nothing avoids both b-c links and all of a-b, but each of them alone can be avoided."""
    table = graph_of("a-b 1, a-b/x 2, b-c 1, b-d 5, d-c 5")
    rows = best_from(table, costs_of(table), 0)
    first, second = backup_rows(table, costs_of(table), rows)
    end = table.pops.index("c")  # type: ignore[arg-type]
    assert names_of(table, first[end]) == ["a/x>b/x", "b/a>d/a", "d/a>c/a"]
    assert names_of(table, second[end]) == []
    table = graph_of("a-b 1, b-c 1, b-d 5, d-c 5, a-b/x 9!, c-e 1")
    rows = best_from(table, costs_of(table), 0)
    first, second = backup_rows(table, costs_of(table), rows, 4)
    end = table.pops.index("e")  # type: ignore[arg-type]
    assert pops_of(table, rows[end]) == "abce"
    assert names_of(table, first[end]) == ["a/x>b/x", "b/a>c/a", "c/a>e/a"]
    assert pops_of(table, second[end]) == "abdce"


def test_a_path_without_transits_by_policy_may_be_repaired_through_others() -> None:
    table = graph_of("a-b 9, a-c 1, c-d 1, d-b 1")
    assert around(table, "a", "b", 1) == ["ab", "acdb", ""]


def test_where_there_is_one_path_or_none_there_is_no_backup() -> None:
    table = graph_of("a-b 1, c-d 1")
    rows = best_all(table, costs_of(table))
    first, second = backup_rows(table, costs_of(table), rows)
    assert (first == -1).all()
    assert (second == -1).all()


@settings(deadline=None)
@given(tables(), st.sampled_from([2, 3, 4]), st.data())
def test_backups_are_as_far_apart_as_paths_can_be(
    table: LinkTable, max_links: int, data: st.DataObject
) -> None:
    banned = np.array([data.draw(st.integers(0, 9)) == 0 for _ in table.names], np.bool_)
    rows = best_all(table, costs_of(table), max_links, banned=banned)
    first, second = backup_rows(table, costs_of(table), rows, max_links, banned=banned)
    pops = len(table.pops)
    for source in range(pops):
        paths = every_path(table, source, max_links, banned=banned)
        for end in range(pops):
            pair = source * pops + end
            primary, one, two = (links_of(of[pair]) for of in (rows, first, second))
            known = [links for _, _, links in paths.get(end, [])]
            check(table, known, primary, one, two)


def check(
    table: LinkTable,
    known: list[tuple[int, ...]],
    primary: tuple[int, ...],
    one: tuple[int, ...],
    two: tuple[int, ...],
) -> None:
    """Hold the backups of one path against all `known` paths of its pair: loop-free, alive, allowed, and of the same ends."""
    others = [links for links in known if links != primary]
    assert bool(one) == bool(others), "none only where there is no other way"
    assert not (two and not one)
    assert all(links in others for links in (one, two) if links)
    assert not one or one != two
    apart = [links for links in others if not set(links) & set(primary)]
    wholly = [links for links in apart if not transits_of(table, links) & transits_of(table, primary)]
    if apart:
        assert one in apart, "it shares no link"
    if wholly:
        assert one in wholly, "and no transit"
    if two and one in wholly:
        assert two in apart
    thirds = [links for links in apart if not set(links) & set(one)]
    if one in wholly and thirds:
        assert two
        assert not set(two) & set(one), "the second shares no link with the first where one does not"
    if one and one not in wholly:
        kept = (set(primary) & set(one)) | {
            -1 - pop for pop in transits_of(table, primary) & transits_of(table, one)
        }
        saved = [
            links for links in others if kept - set(links) - {-1 - pop for pop in transits_of(table, links)}
        ]
        assert bool(two) or not saved, "a failure that the first does not survive is left to the second"


@settings(deadline=None)
@given(tables(most_pops=6, transits="abc"))
def test_the_first_is_the_cheapest_of_at_most_two_links_that_is_apart(table: LinkTable) -> None:
    rows = best_all(table, costs_of(table))
    first, _ = backup_rows(table, costs_of(table), rows)
    pops = len(table.pops)
    for source in range(pops):
        for end, paths in every_path(table, source, 2).items():
            primary = links_of(rows[source * pops + end])
            apart = [
                found
                for found in paths
                if not set(found[2]) & set(primary)
                and not transits_of(table, found[2]) & transits_of(table, primary)
            ]
            if apart:
                assert links_of(first[source * pops + end]) == apart[0][2]


@settings(deadline=None)
@given(tables())
def test_rows_of_one_pop_and_of_all_pairs_have_the_same_backups(table: LinkTable) -> None:
    costs = costs_of(table)
    rows = best_all(table, costs)
    whole = backup_rows(table, costs, rows)
    pops = len(table.pops)
    for source in range(pops):
        part = slice(source * pops, (source + 1) * pops)
        found = backup_rows(table, costs, rows[part])
        assert [of.tolist() for of in found] == [of[part].tolist() for of in whole]


def test_a_search_of_many_rows_is_made_in_parts_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring with chords: most pairs have no backup of two links."""
    pops = "abcdefghij"
    ring = [f"{a}-{b} {number}" for number, (a, b) in enumerate(zip(pops, pops[1:] + "a", strict=True), 3)]
    table = graph_of(", ".join([*ring, "a-f 20", "c-h 9"]))
    rows = best_all(table, costs_of(table))
    whole = backup_rows(table, costs_of(table), rows)
    monkeypatch.setattr(detours, "SUMS_AT_ONCE", 1)
    parts = backup_rows(table, costs_of(table), rows)
    assert [of.tolist() for of in parts] == [of.tolist() for of in whole]
    assert (whole[0][rows[:, 0] >= 0, 2] >= 0).any(), "some have three links and more"
