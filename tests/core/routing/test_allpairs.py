"""All pairs: what follows a change is what would be built anew."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4proxy.bench.model_fleet import changed, model_table
from l4proxy.core.routing import allpairs
from l4proxy.core.routing.allpairs import AllPairs, build, follow
from l4proxy.core.routing.backups import backup_rows
from l4proxy.core.routing.build import best_all
from l4proxy.core.routing.cost import link_costs
from l4proxy.core.routing.links import LinkTable
from l4proxy.core.routing.rows import MAX_LINKS
from tests.core.routing.graphs import REAL, WHOLE, costs_of, graph_of, pops_of, tables


def same(one: AllPairs, other: AllPairs) -> None:
    """Every path and backup, and all that later changes are followed from."""
    assert one.rows.tolist() == other.rows.tolist()
    for ours, theirs in zip(one.backups, other.backups, strict=True):
        assert ours.tolist() == theirs.tolist()
    for ours_at, theirs_at in zip(one.levels.whole, other.levels.whole, strict=True):
        assert ours_at.cost.tolist() == theirs_at.cost.tolist()
        assert ours_at.via.tolist() == theirs_at.via.tolist()
    assert one.quick.cost.tolist() == other.quick.cost.tolist()


@pytest.fixture(autouse=True)
def always_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small graphs would all be built anew: there half of the pairs change."""
    monkeypatch.setattr(allpairs, "FOLLOWED_SHARE", 1.0)


@settings(deadline=None)
@given(tables(most_pops=6), st.integers(1, MAX_LINKS), st.data())
def test_following_changes_gives_what_building_anew_gives(
    table: LinkTable, max_links: int, data: st.DataObject
) -> None:
    now = build(table, costs_of(table), max_links)
    cost = data.draw(st.sampled_from([WHOLE, REAL]))
    for _ in range(3):
        rtt_ms, usable = table.rtt_ms.copy(), table.usable.copy()
        for number in data.draw(st.lists(st.integers(0, max(0, len(table.names) - 1)), max_size=4)):
            if number < len(table.names):
                rtt_ms[number], usable[number] = data.draw(cost), data.draw(st.integers(0, 3)) > 0
        table = replace(table, rtt_ms=rtt_ms, rtt_ms_now=rtt_ms, usable=usable)
        now = follow(now, table, costs_of(table))
        same(now, build(table, costs_of(table), max_links))


@pytest.mark.parametrize("traffic", ["game", "bulk"])
def test_a_fleet_of_sixty_follows_ten_changes_one_after_the_other(traffic: str) -> None:
    table = model_table(60, 2, seed=3)
    now = build(table, link_costs(table, traffic))  # type: ignore[arg-type]
    for seed in range(10):
        table = changed(table, 0.01, seed)
        now = follow(now, table, link_costs(table, traffic))  # type: ignore[arg-type]
        same(now, build(table, link_costs(table, traffic)))  # type: ignore[arg-type]


def test_a_fleet_whose_costs_are_whole_milliseconds_ties_alike_when_it_follows() -> None:
    """Ping prints long round trips without fractions: ties are everywhere."""
    table = model_table(40, 2, seed=4)
    table = replace(table, rtt_ms=np.rint(table.rtt_ms / 20) * 20)
    now = build(table, link_costs(table, "rtt"))
    for seed in range(10):
        table = changed(table, 0.02, seed)
        table = replace(table, rtt_ms=np.rint(table.rtt_ms / 20) * 20)
        now = follow(now, table, link_costs(table, "rtt"))
        same(now, build(table, link_costs(table, "rtt")))


def test_labels_that_go_and_come_back_are_followed() -> None:
    table = model_table(30, 2, seed=5)
    labelled = table.labelled.copy()
    labelled[::7] = False
    some = replace(table, labelled=labelled)
    now = build(table, link_costs(table, "game"))
    for step in (some, changed(some, 0.01, 1), changed(some, 0.01, 2), table):
        now = follow(now, step, link_costs(step, "game"))
        same(now, build(step, link_costs(step, "game")))


def test_a_link_that_is_banned_meanwhile_is_left() -> None:
    table = graph_of("a-b 1, b-c 1, a-c 5")
    now = build(table, costs_of(table))
    banned = np.array([name == "a/a>b/a" for name in table.names])
    after = follow(now, table, costs_of(table), banned)
    assert [pops_of(table, of.rows[2]) for of in (now, after)] == ["abc", "ac"]
    same(after, build(table, costs_of(table), banned=banned))


def test_a_table_of_other_links_is_built_anew() -> None:
    now = build(graph_of("a-b 1, b-c 1, a-c 5"), costs_of(graph_of("a-b 1, b-c 1, a-c 5")))
    other = graph_of("a-b 1, a-c 5")
    same(follow(now, other, costs_of(other)), build(other, costs_of(other)))


def test_all_pairs_are_what_the_single_searches_find() -> None:
    table = model_table(25, 3, seed=6)
    costs = link_costs(table, "voip")
    found = build(table, costs)
    assert found.rows.tolist() == best_all(table, costs).tolist()
    first, second = backup_rows(table, costs, found.rows)
    assert [of.tolist() for of in found.backups] == [first.tolist(), second.tolist()]


def test_the_model_is_the_same_for_the_same_seed_and_has_detours_worth_taking() -> None:
    table, again = model_table(40, 2, seed=7), model_table(40, 2, seed=7)
    assert table.rtt_ms.tolist() == again.rtt_ms.tolist()
    rows = best_all(table, link_costs(table, "rtt"))
    reached = rows[:, 0] >= 0
    assert reached.sum() == 40 * 39
    share = (rows[reached, 1] >= 0).mean()
    assert 0.2 < share < 0.9, "recorded matrices have 17 to 74 %"
