"""What-if: links and PoPs less, PoPs that are not there yet, how wrong their RTTs are, and advice on sites."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from l4proxy.core.estimate import light_rtt_ms
from l4proxy.core.ids import PopName
from l4proxy.core.routing.links import LinkTable, pairs_table
from l4proxy.core.rtt_model import PlanError, RttModel
from l4proxy.core.whatif import Paths, Site, advise, change, with_pop, without

PLACES = {
    "ams": (52.3, 4.8), "fra": (50.1, 8.7), "iad": (38.9, -77.4), "lax": (33.9, -118.4), "nrt": (35.8, 140.4), "sin": (1.4, 103.9),
}  # fmt: skip
NEAR_FRA = (50.5, 9.0)


def fleet(bend: dict[str, float] | None = None, base_ms: float = 2.0, slope: float = 1.5) -> LinkTable:
    """A mesh whose RTTs are a line over light; a link's is longer by what both of its PoPs are bent by."""
    pops, bends = tuple(map(PopName, sorted(PLACES))), bend or {}
    start, end = (one.astype(np.int32) for one in np.nonzero(~np.eye(len(pops), dtype=bool)))
    rtt_ms = [
        (base_ms + slope * light_rtt_ms(PLACES[pops[a]], PLACES[pops[b]]))
        * bends.get(pops[a], 1)
        * bends.get(pops[b], 1)
        for a, b in zip(start, end, strict=True)
    ]
    return pairs_table(pops, start, end, np.array(rtt_ms))


def test_the_model_finds_the_line_that_rtts_were_made_of() -> None:
    model = RttModel.of(fleet(), PLACES)
    assert (model.base_ms, model.slope) == (pytest.approx(2, abs=0.1), pytest.approx(1.5, rel=0.01))
    modelled = dict(zip(model.pops, model.to_all(NEAR_FRA), strict=True))
    assert modelled["nrt"] == pytest.approx(2 + 1.5 * light_rtt_ms(NEAR_FRA, PLACES["nrt"]), rel=0.02)
    assert np.median(model.errors()) < 0.01


def test_one_odd_pair_moves_neither_line_nor_model() -> None:
    table = fleet()
    odd = replace(table, rtt_ms=np.where(np.arange(30) == 3, 900.0, table.rtt_ms))
    assert RttModel.of(odd, PLACES).slope == pytest.approx(1.5, rel=0.05)


def test_a_place_shares_the_detours_of_the_pops_around_it() -> None:
    model = RttModel.of(fleet({"sin": 1.6}), PLACES)
    to_sin = dict(zip(model.pops, model.to_all(NEAR_FRA), strict=True))["sin"]
    assert to_sin == pytest.approx(1.6 * (2 + 1.5 * light_rtt_ms(NEAR_FRA, PLACES["sin"])), rel=0.1)


def test_no_modelled_rtt_is_faster_than_light() -> None:
    model = RttModel.of(fleet(base_ms=0, slope=1.0), PLACES)
    for place in [(0.0, 0.0), (-33.9, 18.4), (64.1, -21.9)]:
        light = [light_rtt_ms(place, PLACES[pop]) for pop in model.pops]
        assert (model.to_all(place) >= np.array(light) - 1e-9).all()


def test_too_few_places_are_said() -> None:
    with pytest.raises(PlanError, match="places of 1 PoPs are known, three are needed"):
        RttModel.of(fleet(), {"ams": (52.3, 4.8)})


@pytest.mark.parametrize(
    ("pops", "links", "gone"),
    [
        (("ams",), (), {f"{a}/a>{b}/a" for a, b in permutations(sorted(PLACES), 2) if "ams" in (a, b)}),
        ((), ("ams-iad",), {"ams/a>iad/a", "iad/a>ams/a"}),
        ((), ("ams/a>sin/a",), {"ams/a>sin/a"}),
        ((), ("fra/a",), {f"{a}/a>{b}/a" for a, b in permutations(sorted(PLACES), 2) if "fra" in (a, b)}),
    ],
)
def test_what_is_dropped_is_what_was_named(
    pops: tuple[str, ...], links: tuple[str, ...], gone: set[str]
) -> None:
    table = fleet()
    after = without(table, pops, links)
    assert {name for name, up in zip(after.names, after.usable, strict=True) if not up} == gone


@pytest.mark.parametrize(
    ("pops", "links"), [(("nowhere",), ()), ((), ("ams-nowhere",)), ((), ("ams/z",)), ((), ("x",))]
)
def test_what_is_not_there_cannot_be_dropped(pops: tuple[str, ...], links: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="no "):
        without(fleet(), pops, links)


def test_a_new_pop_is_joined_to_all_and_changes_nothing_that_was_measured() -> None:
    table = fleet()
    model = RttModel.of(table, PLACES)
    after = with_pop(table, "cpt", (-33.9, 18.4), model)
    assert len(after.names) == len(table.names) + 2 * len(table.pops)
    for name, rtt_ms in zip(table.names, table.rtt_ms, strict=True):
        assert after.rtt_ms[after.number(name) or 0] == rtt_ms
    for pop, rtt_ms in zip(model.pops, model.to_all((-33.9, 18.4)), strict=True):
        for name in (f"cpt/a>{pop}/a", f"{pop}/a>cpt/a"):
            number = after.names.index(name)  # type: ignore[arg-type]
            assert after.rtt_ms[number] == pytest.approx(rtt_ms)
            assert after.pops[after.start[number]] == name[:3]
            assert after.pops[after.end[number]] == name.split(">")[1][:3]
    with pytest.raises(PlanError, match="there already"):
        with_pop(table, "ams", (0, 0), model)
    with pytest.raises(PlanError, match="latitude"):
        with_pop(table, "new", (91, 0), model)


def test_a_change_tells_who_pays_more_who_is_cut_off_and_who_loses_the_backup() -> None:
    line = [(a, b) for a, b in permutations(range(4), 2) if abs(a - b) == 1 or {a, b} == {0, 3}]
    pops = tuple(map(PopName, ("a", "b", "c", "d")))
    ring = pairs_table(
        pops, *(np.array(ends, np.int32) for ends in zip(*line, strict=True)), np.full(8, 10.0)
    )
    before = Paths.of(ring, "rtt", 4)
    found = change(before, Paths.of(without(ring, (), ("a-b",)), "rtt", 4))
    told = dict(
        zip(found.pairs, zip(found.before_ms, found.after_ms, found.unprotected, strict=True), strict=True)
    )
    assert told["a", "b"] == (10, pytest.approx(32), True), (
        "the other way round the ring, and no way beside it"
    )
    assert told["a", "d"] == (10, 10, True)
    cut = change(before, Paths.of(without(ring, ("b", "d"), ()), "rtt", 4))
    lost = {pair for pair, after_ms in zip(cut.pairs, cut.after_ms, strict=True) if np.isinf(after_ms)}
    assert ("a", "c") in lost
    assert Paths.of(ring, "rtt", 4).pops_of(2) in (["a", "b", "c"], ["a", "d", "c"])


def test_the_best_site_is_the_one_that_a_search_over_all_finds_and_the_next_adds_to_it() -> None:
    table = fleet()
    model = RttModel.of(table, PLACES)
    slow = [name in ("ams/a>sin/a", "fra/a>sin/a", "iad/a>nrt/a", "ams/a>nrt/a") for name in table.names]
    table = replace(table, rtt_ms=np.where(slow, 2.5 * table.rtt_ms, table.rtt_ms))
    sites = [
        Site("ruh", (24.7, 46.7)),
        Site("cpt", (-33.9, 18.4)),
        Site("hnl", (21.3, -157.9)),
        Site("yul", (45.5, -73.6)),
    ]

    def mean_ms(grown: LinkTable) -> float:
        paths, n = Paths.of(grown, "rtt", 3), len(grown.pops)
        kept = [grown.pop_number(pop) for pop in table.pops]
        return float(np.mean([paths.cost_ms[a * n + b] for a, b in permutations(kept, 2)]))

    alone = {
        site.name: mean_ms(table) - mean_ms(with_pop(table, site.name, site.place, model)) for site in sites
    }
    found = advise(table, model, sites, 4)
    assert found[0].site.name == max(alone, key=alone.__getitem__)
    assert found[0].mean_ms == pytest.approx(max(alone.values()))
    assert [one.mean_ms for one in found] == sorted((one.mean_ms for one in found), reverse=True)
    assert all(one.mean_ms > 0 for one in found)
    assert found == advise(table, model, sites[::-1], 4), "whatever order they come in"
    assert advise(table, model, [], 3) == []
