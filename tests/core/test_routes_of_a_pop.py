"""What the table of a PoP makes of policies, of links that fill up, and of noise: plans from what is known, without a clock."""

import itertools
from dataclasses import replace

from l4proxy.core.bus import LinkState
from l4proxy.core.estimate import LinkEstimate
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.plan import Knowledge, Plan, make_plan
from l4proxy.core.route import BACKUPS_KEPT_NS, OFF, HandleRoute
from l4proxy.core.toggles import Toggles
from l4proxy.core.topology import Fleet
from l4proxy.lab.simulate.timeline import START_NS
from tests.core.fleet import S, World, make_app, make_fleet, rtts

AMS, IAD, SIN = (PopName(name) for name in ("ams", "iad", "sin"))
DETOUR = "ams-sin 250, ams-iad 80, iad-sin 90"


def know(text: str = DETOUR, fleet: Fleet | None = None, dead: str = "", **policy: object) -> Knowledge:
    """Return what ams knows of a fleet with these round trips; `dead`: links that are down."""
    rtt_ms = rtts(text)
    fleet = fleet or make_fleet(" ".join(sorted(set().union(*rtt_ms))))
    own, others = {}, {}
    for name, link in fleet.links.items():
        ms, is_up = rtt_ms[frozenset((link.from_pop, link.to_pop))], str(name) not in dead.split()
        if link.from_pop == AMS:
            own[name] = LinkEstimate(is_up, ms, ms, ms, 0.0, 0.0, 10, 0.0)
        else:
            others[name] = LinkState(name, is_up, ms, ms, 0.0, 0.0, 7)
    labels = dict.fromkeys(own, 7)
    return Knowledge(AMS, fleet, (make_app(egress="sin", **policy),), own, labels, others, {}, Toggles(AMS))


def handle(plan: Plan, peer: PopName = SIN) -> HandleRoute:
    """Return what the only policy means for a peer."""
    return next(route for (to, policy), route in plan.handles.items() if to == peer and policy != OFF)


def plan_of(known: Knowledge, previous: Plan | None = None, now_ns: int = START_NS) -> Plan:
    """Make a plan."""
    return make_plan(known, previous, 1, now_ns)


def pops(route: HandleRoute) -> tuple[str, ...]:
    """Return what the primary path passes."""
    return route.primary.pops if route.primary is not None else ()


def test_the_best_path_is_taken_and_the_direct_one_is_its_backup() -> None:
    route = handle(plan_of(know()))
    assert pops(route) == ("ams", "iad", "sin")
    assert [path.pops for path in route.backups] == [("ams", "sin")]
    assert route.direct is not None
    assert route.direct.cost_ms > route.cost_ms  # type: ignore[operator]


def test_a_policy_that_avoids_a_pop_or_transit_or_allows_no_transit_goes_direct() -> None:
    for policy in ({"avoid": frozenset({"iad"})}, {"avoid": frozenset({"iad/a"})}, {"max_transits": 0}):
        assert pops(handle(plan_of(know(**policy)))) == ("ams", "sin")


def test_a_gain_below_the_least_is_not_taken() -> None:
    assert pops(handle(plan_of(know("ams-sin 172, ams-iad 80, iad-sin 90", min_gain_ms=5.0)))) == (
        "ams",
        "sin",
    )


def test_where_the_policy_leaves_no_path_that_lives_one_outside_it_repairs() -> None:
    route = handle(plan_of(know(dead="ams/a>sin/a", avoid=frozenset({"iad"}))))
    assert pops(route) == ("ams", "iad", "sin")
    assert "outside" in route.reason


def test_a_disabled_link_carries_nothing() -> None:
    fleet = make_fleet("ams iad sin", disabled=("iad>sin",))
    assert pops(handle(plan_of(know(fleet=fleet)))) == ("ams", "sin")


def test_a_path_stays_until_another_is_better_by_enough() -> None:
    on_direct = plan_of(know("ams-sin 150, ams-iad 80, iad-sin 90"))
    better = know("ams-sin 150, ams-iad 80, iad-sin 18")
    seen = plan_of(better, on_direct, START_NS + 60 * S)
    assert pops(handle(seen)) == ("ams", "sin"), "51 ms have saved less than a change costs in a minute"
    assert "not saved yet what a change costs" in handle(seen).reason
    assert "ams>iad>sin would save 51.0 ms" in handle(seen).reason
    assert pops(handle(plan_of(better, seen, START_NS + 70 * S))) == ("ams", "iad", "sin")
    first = plan_of(know())
    back = plan_of(know("ams-sin 120, ams-iad 80, iad-sin 90"), first, START_NS + 60 * S)
    assert pops(handle(back)) == ("ams", "sin"), "direct that is clearly better is returned to at once"
    slightly = plan_of(know("ams-sin 169, ams-iad 80, iad-sin 90"), first, START_NS + 36_000 * S)
    assert pops(handle(slightly)) == ("ams", "iad", "sin"), "records of others may be wrong by as much"
    assert "not better by enough" in handle(slightly).reason
    dead = plan_of(know(dead="iad/a>sin/a"), first, START_NS + S)
    assert pops(handle(dead)) == ("ams", "sin"), "a dead path is left at once"


def test_while_a_pop_learns_its_links_it_follows_every_advantage_beyond_the_margin() -> None:
    first = plan_of(know(dead="iad/a>sin/a"))
    assert pops(handle(first)) == ("ams", "sin")
    assert pops(handle(plan_of(know(), first, START_NS + 5 * S))) == ("ams", "iad", "sin")
    assert pops(handle(plan_of(know(), first, START_NS + 61 * S))) == ("ams", "iad", "sin"), (
        "79 ms in 61 s pay"
    )


def test_the_way_back_from_a_path_that_was_forced_waits_only_for_the_hold_down() -> None:
    first = plan_of(know())
    cut = plan_of(know(dead="iad/a>sin/a"), first, START_NS + 100 * S)
    assert "could not be used any more" in handle(cut).reason
    back = plan_of(know(), cut, START_NS + 105 * S)
    assert pops(handle(back)) == ("ams", "sin")
    assert "hold-down" in handle(back).reason
    assert pops(handle(plan_of(know(), back, START_NS + 111 * S))) == ("ams", "iad", "sin")


def test_a_path_that_dies_again_and_again_is_returned_to_no_more() -> None:
    plan, now_ns = plan_of(know()), START_NS
    for _ in range(2):
        plan = plan_of(know(dead="iad/a>sin/a"), plan, now_ns := now_ns + 30 * S)
        plan = plan_of(know(), plan, now_ns := now_ns + 30 * S)
    assert "damping" in handle(plan).reason
    assert pops(handle(plan)) == ("ams", "sin")
    dead = plan_of(know(dead="ams/a>sin/a"), plan, now_ns + S)
    assert pops(handle(dead)) == ("ams", "iad", "sin"), "but a dead path is left at once"


def test_what_is_remembered_of_a_path_outlives_a_change_of_the_fleet() -> None:
    first = plan_of(know())
    larger = know("ams-sin 165, ams-iad 80, iad-sin 90, ams-fra 8, fra-iad 90, fra-sin 170")
    second = plan_of(larger, first, START_NS + 120 * S)
    assert pops(handle(second)) == ("ams", "iad", "sin"), "165 ms direct is better, not for long enough"
    assert handle(second).changed_ns == START_NS
    memory = next(iter(second.memories.values()))
    assert memory.since_ns[second.table.pop_number(SIN)] == START_NS
    smaller = plan_of(know(fleet=make_fleet("ams sin")), second, START_NS + 121 * S)
    assert pops(handle(smaller)) == ("ams", "sin")


def test_backups_stay_while_no_link_comes_or_goes_and_not_for_ever() -> None:
    near = "ams-sin 10, ams-iad {}, iad-sin 80, ams-lhr {}, lhr-sin 80"
    pairs = near + ", iad-lhr 500"
    fleet = make_fleet("ams iad lhr sin")
    first = plan_of(know(pairs.format(80, 81), fleet))
    before = [path.pops for path in handle(first).backups]
    assert before == [("ams", "iad", "sin"), ("ams", "lhr", "sin")]

    other = know(pairs.format(82, 81), fleet)
    soon = plan_of(other, first, START_NS + BACKUPS_KEPT_NS - 1)
    assert [path.pops for path in handle(soon).backups] == before
    assert [path.cost_ms for path in handle(soon).backups] == [163, 162], "at their present cost"
    late = plan_of(other, soon, START_NS + BACKUPS_KEPT_NS)
    assert [path.pops for path in handle(late).backups] == before[::-1]

    cut = know(pairs.format(80, 81), fleet, dead="iad/a>sin/a")
    again = plan_of(cut, first, START_NS + 1)
    assert handle(again).backups[0].pops == ("ams", "lhr", "sin")


def test_noise_tells_the_engine_of_other_backups_every_ten_seconds_at_most() -> None:
    names = "ams fra iad lhr sin"
    pairs = ", ".join(f"{a}-{b} 80" for a, b in itertools.combinations(names.split(), 2))
    made = World(make_fleet(names), (make_app(egress="sin"),), rtts(pairs), 1).run(60)
    before = len(made.applied["ams"])
    made.run(60)
    told = [apply.snapshot.handles for apply in made.applied["ams"][before - 1 :]]
    for number in range(len(told[0])):
        paths = [handles[number].paths for handles in told]
        assert sum(one != other for one, other in itertools.pairwise(paths)) <= 7


def test_the_same_knowledge_gives_the_same_plan_whatever_the_order_of_records() -> None:
    known = know("ams-sin 10, ams-iad 10, iad-sin 10, ams-lhr 10, lhr-sin 10, iad-lhr 10")
    turned = replace(
        known,
        own_links=dict(reversed(known.own_links.items())),
        other_links=dict(reversed(known.other_links.items())),
        fleet=replace(
            known.fleet,
            pops=dict(reversed(known.fleet.pops.items())),
            links=dict(reversed(known.fleet.links.items())),
        ),
    )
    assert plan_of(known).handles == plan_of(turned).handles


def test_the_table_is_of_this_fleet_and_another_fleet_makes_another() -> None:
    first = plan_of(know())
    assert plan_of(know(fleet=first.declared.fleet), first).declared is first.declared
    smaller = make_fleet("ams sin")
    second = plan_of(know(fleet=smaller), first)
    assert second.table.names == (LinkName("ams/a>sin/a"), LinkName("sin/a>ams/a"))
    assert pops(handle(second)) == ("ams", "sin")


def test_a_pop_without_apps_has_a_plan_and_apps_that_come_and_go_keep_their_memory() -> None:
    known = know()
    empty = plan_of(replace(known, apps=()))
    assert empty.routes == {}
    one = plan_of(known, empty, START_NS + S)
    two = plan_of(replace(known, apps=(make_app("aaa", egress="sin"), *known.apps)), one, START_NS + 2 * S)
    since = dict(zip(two.egress_memory.keys, two.egress_memory.since_ns.tolist(), strict=True))
    assert since["echo", "tcp"] == START_NS + S
    assert since["aaa", "tcp"] == START_NS + 2 * S
