"""What traffic says of paths and links, what is taken out of a plan, and that a controller acts on it."""

import pytest

from l4proxy.core import explaining, views
from l4proxy.core.ids import AppName, Id32, LinkName, PopName
from l4proxy.core.outcomes import FlowOutcomes, Outcomes, PathReport
from l4proxy.core.passive import FRESH_NS, MAX_PATHS, Passive
from l4proxy.core.removal import without
from l4proxy.lab.simulate.timeline import START_NS, S
from tests.core.fleet import World, make_app, make_fleet

AMS, IAD, SIN = (PopName(name) for name in ("ams", "iad", "sin"))
DIRECT = LinkName("ams/a>iad/a")


def report(links: tuple[LinkName, ...], policy: str = "off", **numbers: float) -> PathReport:
    known = {"rtt_ms": 80.0, "packets": 100, "lost": 0, "bytes_out": 100_000, "bytes_in": 5_000} | numbers
    return PathReport(IAD, policy, Id32(7), links, **known)  # type: ignore[arg-type]


def triangle() -> World:
    """Return ams, iad and sin; the detour by sin is always longer. Both iad and sin may dial."""
    world = World(
        make_fleet("ams iad sin"),
        (make_app("echo", "iad sin"),),
        {frozenset(("ams", "iad")): 80, frozenset(("ams", "sin")): 160, frozenset(("iad", "sin")): 200},
        origin_ms={"iad": 1, "sin": 1},
    )
    return world.run(20)


def chosen(world: World) -> str:
    plan = world.controllers["ams"].plan
    assert plan is not None
    choice = plan.routes[AppName("echo"), "tcp"].chosen
    assert choice is not None
    return choice.egress


def test_handles_of_one_path_are_one_and_what_links_carry_is_a_rate() -> None:
    passive = Passive()
    reports = (report((DIRECT,), rtt_ms=80.0), report((DIRECT,), "rtt", rtt_ms=120.0, packets=300, lost=40))
    passive.handle_outcomes(
        START_NS, Outcomes(2_000, {DIRECT: 500_000, LinkName("x/a>y/a"): 9}, reports), {DIRECT}
    )
    quality = passive.path_quality[IAD, (DIRECT,)]
    assert (quality.rtt_ms, quality.loss_ratio, quality.packets) == (110.0, 0.1, 400)
    assert (quality.bits_s_out, quality.bits_s_in) == (800_000, 40_000)
    assert passive.link_load_bits_s == {DIRECT: 2_000_000}
    passive.handle_outcomes(START_NS + S, Outcomes(1_000, {}, (report((DIRECT,)),)), {DIRECT})
    assert passive.path_quality[IAD, (DIRECT,)].loss_ratio == pytest.approx(0.075)
    assert passive.link_load_bits_s == {}
    passive.handle_outcomes(START_NS + S, Outcomes(0), {DIRECT})
    assert len(passive.path_quality) == 1, "a message about flows alone says nothing of paths"
    passive.handle_time(START_NS + S + FRESH_NS + 1)
    assert not passive.path_quality


def test_a_full_table_of_paths_counts_what_it_does_not_take() -> None:
    passive = Passive()
    many = tuple(report((LinkName(f"ams/a>p{number}/a"),)) for number in range(MAX_PATHS + 2))
    passive.handle_outcomes(START_NS, Outcomes(1_000, {}, many), set())
    assert (len(passive.path_quality), passive.full) == (MAX_PATHS, 2)
    passive.handle_outcomes(START_NS, Outcomes(1_000, {}, many[:5]), set())
    assert passive.full == 2


def test_a_link_without_which_a_pop_is_out_of_reach_stays() -> None:
    world = triangle()
    controller = world.controllers["ams"]
    known = controller.known()
    removed = [DIRECT, LinkName("ams/a>sin/a"), LinkName("iad/a>sin/a"), LinkName("nobody/a>ams/a")]
    own, others, not_spared = without(AMS, world.fleet, known.own_links, known.other_links, removed)
    assert not own[DIRECT].is_up
    assert own[LinkName("ams/a>sin/a")].is_up
    assert not others[LinkName("iad/a>sin/a")].is_up
    assert not_spared == {LinkName("ams/a>sin/a")}


def test_flows_are_steered_away_from_an_egress_within_a_plan_and_come_back_after_quiet_time() -> None:
    world = triangle()
    controller = world.controllers["ams"]
    assert chosen(world) == "iad"
    failed = FlowOutcomes(AppName("echo"), IAD, (DIRECT,), tried=1, refused=1)
    controller.handle_outcomes(world.now_ns, Outcomes(0, flows=(failed,)))
    world.drain("ams")
    world.run(0.25)
    assert chosen(world) == "sin"
    (route, *_) = explaining.explain(controller, "echo")["routes"]
    assert "not iad, disqualifier: 1 of 1 connects failed (1 refused)" in route["reason"]
    removed = [candidate for candidate in route["candidates"] if candidate["verdict"] == "removed"]
    assert {candidate["egress"] for candidate in removed} == {"iad"}
    assert removed[0]["removed"] == "1 of 1 connects failed (1 refused); since 0 s"
    (said,) = views.removed(controller)
    assert (said["app"], said["egress"], said["on_trial"]) == ("echo", "iad", False)
    app = controller.plan.snapshot.apps[0]  # type: ignore[union-attr]
    assert len(app.routes.tcp) == 2, "what was removed is tried last, not never"
    assert not any(candidate.trial for candidate in app.routes.tcp)
    world.run(11)
    app = controller.plan.snapshot.apps[0]  # type: ignore[union-attr]
    assert [candidate.trial for candidate in app.routes.tcp] == [False, True]
    assert chosen(world) == "sin"
    well = FlowOutcomes(AppName("echo"), IAD, (DIRECT,), tried=3, connected=3)
    controller.handle_outcomes(world.now_ns, Outcomes(0, flows=(well,)))
    world.drain("ams")
    world.run(12)
    assert chosen(world) == "iad"
    assert not views.removed(controller)


def test_data_that_dies_on_the_chosen_path_moves_it_while_probes_pass() -> None:
    world = triangle()
    controller = world.controllers["ams"]
    lossy = report((DIRECT,), packets=200, lost=100)
    controller.handle_outcomes(world.now_ns, Outcomes(1_000, {DIRECT: 1_000}, (lossy,)))
    world.drain("ams")
    world.run(0.25)
    handle = controller.plan.handles[IAD, "off"]  # type: ignore[union-attr]
    assert handle.primary is not None
    assert handle.primary.pops == ("ams", "sin", "iad")
    link = next(link for link in views.links(controller)["links"] if link["name"] == DIRECT)
    assert link["up"], "probes pass, and `link list` shows what they say"
    assert controller.path_quality[IAD, (DIRECT,)].loss_ratio == 0.5
    assert controller.link_load_bits_s == {DIRECT: 8_000}
    world.run(11)
    handle = controller.plan.handles[IAD, "off"]  # type: ignore[union-attr]
    assert handle.primary is not None
    assert handle.primary.names == (DIRECT,), "forgiven"


def test_a_removed_link_that_nothing_replaces_is_used_and_a_problem() -> None:
    world = World(
        make_fleet("ams iad sin", disabled=("iad>sin", "sin>iad")),
        (make_app("echo", "iad"),),
        {frozenset(("ams", "iad")): 80, frozenset(("ams", "sin")): 160, frozenset(("iad", "sin")): 200},
        origin_ms={"iad": 1},
    ).run(20)
    controller = world.controllers["ams"]
    controller.handle_outcomes(world.now_ns, Outcomes(1_000, {}, (report((DIRECT,), lost=100),)))
    world.drain("ams")
    world.run(0.25)
    assert chosen(world) == "iad"
    (problem,) = controller.problems()
    assert problem.what == (
        "link ams/a>iad/a carries badly (100% of 100 packets were lost, while probes pass)"
        " and is used still: nothing else leads there"
    )


def test_loss_on_the_chosen_path_steers_to_the_healthiest_of_the_others_not_to_the_fastest() -> None:
    rtt = {
        ("ams", "iad"): 80, ("ams", "fra"): 10, ("fra", "iad"): 85, ("ams", "sin"): 60, ("iad", "sin"): 60, ("fra", "sin"): 300,
    }  # fmt: skip
    world = World(
        make_fleet("ams fra iad sin"),
        (make_app("echo", "iad", min_gain_ms=0.0),),
        {frozenset(pair): ms for pair, ms in rtt.items()},
        origin_ms={"iad": 1},
    )
    world.loss[frozenset(("fra", "iad"))] = 0.05
    world.run(60)
    controller = world.controllers["ams"]
    policy = next(name for _, name in controller.plan.handles if name != "off")  # type: ignore[union-attr]

    def path() -> tuple[str, ...]:
        primary = controller.plan.handles[IAD, policy].primary  # type: ignore[union-attr]
        assert primary is not None
        return primary.pops

    assert path() == ("ams", "iad")
    controller.handle_outcomes(world.now_ns, Outcomes(1_000, {}, (report((DIRECT,), policy, lost=40),)))
    world.drain("ams")
    world.run(0.25)
    assert path() == ("ams", "sin", "iad"), "120 ms without loss, instead of 95 ms with 5 %"
