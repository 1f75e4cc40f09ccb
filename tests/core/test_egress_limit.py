"""The few PoPs that may dial an app's origins: which ones, that all PoPs agree on them, and what happens when they die."""

from itertools import combinations

import numpy as np
import pytest

from l4proxy.core import explaining
from l4proxy.core.egress_limit import EgressSet, Field, decided, followed, least, lost_ms
from l4proxy.core.ids import PopName
from tests.core.fleet import World, make_app, make_fleet, rtts

AMS, IAD, LAX, SIN = (PopName(name) for name in ("ams", "iad", "lax", "sin"))
PAIRS = "ams-iad 80, ams-lax 140, ams-sin 170, iad-lax 60, iad-sin 220, lax-sin 170"
ORIGIN_MS = {"ams": 30.0, "iad": 50.0, "lax": 5.0, "sin": 9.0}


def fleet_of_four(limit: int) -> World:
    world = World(make_fleet("ams iad lax sin"), (make_app(egress_max=limit),), rtts(PAIRS))
    world.check_origins(dict(ORIGIN_MS))
    return world


def egresses(world: World) -> set[str]:
    return {world.path(pop)[-1] for pop in world.controllers}


@pytest.mark.parametrize("seed", range(40))
def test_the_few_are_within_a_hair_of_the_best_few_and_never_lose_what_all_would_reach(seed: int) -> None:
    dice = np.random.default_rng(seed)
    costs = dice.uniform(1, 300, (dice.integers(1, 9), dice.integers(1, 8)))
    costs[dice.random(costs.shape) < 0.2] = np.inf
    limit = int(dice.integers(1, 5))

    def price(columns: tuple[int, ...]) -> tuple[int, float]:
        cheapest = costs[:, columns].min(axis=1)
        return int(np.isinf(cheapest).sum()), float(cheapest[np.isfinite(cheapest)].sum())

    count = min(limit, costs.shape[1])
    unreached, best_ms = min(price(some) for some in combinations(range(costs.shape[1]), count))
    found = least(costs, limit)
    assert len(set(found)) == count
    assert price(found)[0] == unreached
    assert price(found)[1] <= 1.1 * best_ms
    assert lost_ms(costs, found) >= 0


def test_what_a_limit_costs_is_the_mean_over_ingresses_of_what_they_pay_more() -> None:
    costs = np.array([[10.0, 30.0, 50.0], [40.0, 20.0, 60.0], [90.0, 80.0, 20.0], [np.inf, np.inf, np.inf]])
    assert lost_ms(costs, (0, 1, 2)) == 0
    assert lost_ms(costs, (0, 2)) == pytest.approx(20 / 3)


def test_others_are_taken_only_if_they_are_better_by_a_margin_or_reach_more() -> None:
    names = (AMS, IAD)

    def after(ams_ms: list[float], iad_ms: list[float]) -> tuple[PopName, ...]:
        field = Field(np.array([ams_ms, iad_ms]).T, names)
        found = decided(field, 1, (AMS,), SIN, 0)
        assert found is not None
        return found.pops

    assert after([100, 100], [96, 96]) == (AMS,)
    assert after([100, 100], [94, 94]) == (IAD,)
    assert after([10, 10], [8.5, 8.5]) == (AMS,), "1.5 ms are 15 %, and next to nothing"
    assert after([10, np.inf], [300, 300]) == (IAD,), "who reaches more ingresses"
    assert decided(Field(np.zeros((2, 0)), ()), 1, (AMS,), SIN, 0) is None


def test_all_pops_use_the_same_few_and_the_first_by_name_decides() -> None:
    world = fleet_of_four(2).run(60)
    sets = {pop: controller.plan.egress_sets["echo"] for pop, controller in world.controllers.items()}  # type: ignore[union-attr,index]
    assert {(found.pops, found.decider) for found in sets.values()} == {((LAX, SIN), AMS)}
    assert egresses(world) == {"lax", "sin"}
    assert world.path("ams") == ("ams", "lax"), "it would be its own egress without the limit"
    (route, *_) = explaining.explain(world.controllers["ams"], "echo")["routes"]
    assert "not ams, egress_max: ams decided on lax, sin" in route["reason"]
    assert route["egress_max"] == {
        "egresses": ["lax", "sin"],
        "decided_by": "ams",
        "mean_lost_ms": pytest.approx((115 + 15) / 4, abs=2),
        "lost_ms": pytest.approx(115, abs=2),
    }
    there = explaining.explain(world.controllers["sin"], "echo")["routes"][0]["egress_max"]
    assert (there["lost_ms"], there["mean_lost_ms"]) == (0, None), "only who decides knows the mean"


def test_one_that_cannot_reach_the_origin_is_replaced_and_comes_back_only_if_it_is_worth_it() -> None:
    world = fleet_of_four(1).run(60)
    assert egresses(world) == {"lax"}
    for _ in range(5):
        world.check_origins(ORIGIN_MS | {"lax": None})
        world.run(2)
    assert egresses(world) == {"ams"}
    for _ in range(20):
        world.check_origins(dict(ORIGIN_MS))
        world.run(3)
    assert egresses(world) == {"lax"}


def test_when_the_decider_dies_the_next_goes_on_with_what_held() -> None:
    world = fleet_of_four(2).run(60)
    world.kill("ams")
    world.run(100)
    sets = {controller.plan.egress_sets["echo"] for controller in world.controllers.values()}  # type: ignore[union-attr,index]
    assert {(found.pops, found.decider) for found in sets} == {((LAX, SIN), IAD)}, "as before"


def test_an_ingress_that_reaches_none_of_the_few_takes_another() -> None:
    world = fleet_of_four(1).run(60)
    world.cut = {frozenset(("sin", other)) for other in ("ams", "iad", "lax")}
    world.run(30)
    assert world.path("sin") == ("sin",), "its own way to the origin, since nobody else can be reached"
    assert egresses(world) == {"lax", "sin"}


def test_who_is_not_first_follows_keeps_what_held_and_takes_over() -> None:
    app = make_app(egress_max=1)
    alive, every = (AMS, IAD), {AMS, IAD, LAX, SIN}
    held = EgressSet((LAX,), AMS)
    assert followed(app, IAD, alive, every, {AMS: {app.name: (SIN,)}}, held, 0) == EgressSet((SIN,), AMS)
    assert followed(app, IAD, alive, every, {}, held, 0) is held, (
        "the first has only just come and said nothing"
    )
    assert followed(app, IAD, (IAD,), every, {AMS: {app.name: (SIN,)}}, held, 0) is None, (
        "the first is dead: decide"
    )
    begun = followed(app, AMS, alive, every, {IAD: {app.name: (SIN,)}}, None, 0)
    assert begun is not None
    assert begun.pops == (SIN,), "who starts takes up what holds"
    assert followed(app, AMS, alive, every, {}, begun, 0) is begun
    assert followed(app, AMS, alive, {AMS, IAD, LAX}, {}, begun, 0) is None, "one of them reaches no origin"
    assert followed(app, AMS, alive, every, {}, begun, begun.due_ns) is None
