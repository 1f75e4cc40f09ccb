"""What `route explain` and `route gain` say of a fleet in virtual time."""

from dataclasses import replace
from typing import Any

import pytest

from l4proxy.core.explaining import MAX_SHOWN, explain, gain
from l4proxy.core.guarding import MAX_CHANGES
from tests.core.fleet import World, make_app, make_fleet, rtts

PAIRS = "ams-sin 250, ams-iad 80, iad-sin 90, ams-lhr 10, lhr-sin 300, iad-lhr 75"


def world(seconds: float = 30, **policy: object) -> World:
    """Four PoPs with one app that leaves the fleet at sin; seen from ams."""
    made = World(make_fleet("ams iad lhr sin"), (make_app(egress="sin", **policy),), rtts(PAIRS))
    return made.run(seconds)


def route_of(made: World, why_not: str | None = None) -> dict[str, Any]:
    """Return what is said of TCP."""
    routes = explain(made.controllers["ams"], "echo", why_not)["routes"]
    return next(route for route in routes if route["protocol"] == "tcp")


def because(made: World, path: str) -> str:
    """Return why a path is not taken."""
    return str(route_of(made, path)["why_not"]["because"])


def test_candidates_have_their_terms_and_what_the_rules_said() -> None:
    chosen = route_of(world(200))["candidates"][0]
    assert chosen["path"] == ["ams", "iad", "sin"]
    assert chosen["verdict"] == "chosen"
    assert "gains 7" in chosen["decided"]
    assert chosen["hop_cost_ms"] == 1
    first, second = chosen["links"]
    assert first["name"] == "ams/a>iad/a"
    assert 80 <= first["rtt_ms"] <= 81
    assert 0 <= first["age_ms"] <= 2_000
    assert second["age_ms"] is not None
    assert chosen["guard"]["intervals"] >= 12
    assert 170 < chosen["guard"]["ms_p50"] <= chosen["guard"]["ms_p95"] < 173


def test_the_guard_says_nothing_of_what_it_has_seen_too_little_of() -> None:
    assert route_of(world(60))["candidates"][0]["guard"] is None


def test_why_not_another_path() -> None:
    made = world()
    assert because(made, "ams>iad>sin") == "it is taken"
    assert "ms more than ams>iad>sin" in because(made, "ams>sin")
    assert "ms more" in because(made, "ams › lhr › iad › sin")
    assert because(made, "ams>iad") == "iad may not be an egress of echo (routing.egress)"
    made.cut.add(frozenset(("lhr", "sin")))
    made.run(10)
    assert because(made, "ams>lhr>sin").startswith("no link from lhr to sin is up")


def test_why_not_a_better_one_is_what_hysteresis_says() -> None:
    made = world(90)
    made.rtt_ms |= rtts("ams-lhr 10, lhr-sin 110")
    made.run(30)
    said = because(made, "ams>lhr>sin")
    assert "ms less than ams>iad>sin, but:" in said
    assert "not saved yet what a change costs" in said


def test_why_not_a_path_that_the_app_file_rules_out() -> None:
    made = world(max_transits=1, avoid=frozenset({"lhr"}))
    assert because(made, "ams>lhr>iad>sin") == "it has 2 transits, more than routing.max_transits 1"
    assert because(made, "ams>lhr>sin") == "lhr is in routing.avoid"
    assert because(world(avoid=frozenset({"iad/a"})), "ams>iad>sin").endswith("is in routing.avoid")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("ams>xyz", "no PoP 'xyz'"),
        ("iad>sin", "begins with ams"),
        ("ams>iad>ams", "twice"),
        ("", "no PoP ''"),
    ],
)
def test_what_is_no_path_is_said_so(path: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        route_of(world(5), path)


def test_the_last_changes_are_told_newest_first_and_there_are_never_more_than_fit() -> None:
    made = world()
    ams = made.controllers["ams"]
    made.cut.add(frozenset(("iad", "sin")))
    made.run(10)
    newest = explain(ams, "echo")["changes"][0]
    assert (newest["before"], newest["after"]) == (["ams", "iad", "sin"], ["ams", "sin"])
    assert "could not be used any more" in newest["reason"]
    assert newest["age_ms"] < 10_000
    ams.guarding.changes.extend([ams.guarding.changes[-1]] * 2 * MAX_CHANGES)
    assert len(ams.guarding.changes) == MAX_CHANGES
    assert len(explain(ams, "echo")["changes"]) == MAX_SHOWN


def test_gain_has_direct_beside_chosen_for_every_pair() -> None:
    made = world(200)
    fleet = made.fleet
    places = {"ams": (52.3, 4.9), "sin": (1.35, 103.8)}
    pops = {name: replace(pop, location=places.get(name)) for name, pop in fleet.pops.items()}
    ams = made.controllers["ams"]
    ams.fleet = replace(fleet, pops=pops)
    pairs = {(pair["to"], pair["policy"].split(",")[0]): pair for pair in gain(ams)["pairs"]}
    pair = next(pair for (to, _), pair in pairs.items() if to == "sin")
    assert pair["path"] == ["ams", "iad", "sin"]
    assert 250 <= pair["direct"]["rtt_ms_p50"] <= pair["direct"]["rtt_ms_p95"] <= 251
    assert 170 <= pair["chosen"]["rtt_ms_p50"] <= 171
    assert 79 <= pair["gain_ms"] <= 81
    assert 1.5 < pair["chosen"]["times_light"] < 1.8, "10,500 km take 105 ms there and back"
    assert pair["chosen"]["loss_ratio"] is not None
    assert next(pair for (to, _), pair in pairs.items() if to == "iad")["gain_ms"] == 0
