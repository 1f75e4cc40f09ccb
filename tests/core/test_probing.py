"""Which link is probed how often, and what that costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.controller import Controller
from l4proxy.core.ids import LinkName, PopName, id32, path_id
from l4proxy.core.probe_uses import ProbeUses
from l4proxy.core.probing import (
    DEFAULT_BUDGET_BYTES_S,
    FAST_MS,
    LONGEST_MS,
    MAPPING_MS,
    PROBE_BYTES,
    STEADY_MS,
    SWEEP_MS,
    ProbedLink,
    Use,
    cost_bytes_s,
    least_budget_bytes_s,
    plan_probes,
    round_up_ms,
)
from l4proxy.core.samples import HandleUse, LinkSample
from l4proxy.core.topology import Fleet, Link, Pop, Transit
from l4proxy.lab.simulate.timeline import START_NS
from tests.core.fleet import World, make_app, make_fleet, rtts

S = 1_000_000_000


def name(number: int) -> LinkName:
    return LinkName(f"x/a>p{number}/a")


def many(count: int, use: Use, start: int = 0, **more: object) -> list[ProbedLink]:
    return [ProbedLink(name(start + n), use, **more) for n in range(count)]  # type: ignore[arg-type]


def test_every_link_of_a_small_fleet_is_probed_once_a_second() -> None:
    plan = plan_probes(many(20, Use.INSTALLED) + many(20, Use.NONE, 20), DEFAULT_BUDGET_BYTES_S)
    assert set(plan.intervals_ms.values()) == {STEADY_MS}
    assert plan.bytes_s == 40 * PROBE_BYTES


def test_traffic_that_nothing_else_is_heard_of_is_probed_fast() -> None:
    plan = plan_probes(
        [
            ProbedLink(name(0), Use.TRAFFIC),
            ProbedLink(name(1), Use.TRAFFIC, passive_age_ms=2_500),
            ProbedLink(name(2), Use.TRAFFIC, passive_age_ms=2_501),
            ProbedLink(name(3), Use.INSTALLED, passive_age_ms=0),
        ],
        DEFAULT_BUDGET_BYTES_S,
    )
    assert list(plan.intervals_ms.values()) == [FAST_MS, STEADY_MS, FAST_MS, SWEEP_MS]


def test_a_large_fleet_keeps_its_budget_and_what_matters_most_is_probed_most() -> None:
    """330 PoPs, three links to each, 40 in use."""
    links = many(40, Use.TRAFFIC) + many(600, Use.INSTALLED, 40) + many(347, Use.NONE, 640)
    plan = plan_probes(links, DEFAULT_BUDGET_BYTES_S)
    intervals = list(plan.intervals_ms.values())
    assert set(intervals[:40]) == {FAST_MS}
    assert len(set(intervals[40:640])) == 1
    assert STEADY_MS < intervals[40] <= 8_000
    assert set(intervals[640:]) == {SWEEP_MS}
    assert plan.bytes_s <= DEFAULT_BUDGET_BYTES_S


def hello_bits_s() -> float:
    """What one watched path costs: 20 hellos a second (docs/protocol.md section 6), every fifth padded, two reports, two links, IPv4."""
    small, padded = 24 + 2 * 16 + 8, 1_424
    headers = 20 + 8 + 20
    return 8 * 20 * (4 * (small + headers) + (padded + headers)) / 5


@pytest.mark.parametrize("heard", [None, 0.0])
def test_330_pops_with_three_links_and_40_fast_paths_cost_a_pop_less_than_3_mbit_s(
    heard: float | None,
) -> None:
    """What a PoP sends: its requests, the replies to the others', which probe as much, and the hellos of 40 watched paths."""
    links = many(40, Use.TRAFFIC, passive_age_ms=heard) + many(3 * 329 - 40, Use.INSTALLED, 40)
    probes = 8 * plan_probes(links, DEFAULT_BUDGET_BYTES_S).bytes_s
    assert probes < 0.48e6
    assert 2.4e6 < 40 * hello_bits_s() < 2.5e6
    assert probes + 40 * hello_bits_s() <= 3e6


def test_the_mapping_of_a_nat_is_kept_whatever_it_costs() -> None:
    links = many(100, Use.INSTALLED, keeps_mapping=True)
    plan = plan_probes(links, 100.0)
    assert set(plan.intervals_ms.values()) == {MAPPING_MS}
    assert plan.is_over


def test_a_budget_that_does_not_pay_for_the_sweep_stretches_it_to_the_longest_window() -> None:
    links = many(987, Use.INSTALLED)
    plan = plan_probes(links, 2_000)
    assert set(plan.intervals_ms.values()) == {100_000}
    assert not plan.is_over
    starved = plan_probes(links, 100)
    assert set(starved.intervals_ms.values()) == {LONGEST_MS}
    assert starved.is_over
    assert not plan_probes(links, least_budget_bytes_s(987, 0)).is_over


def test_without_links_there_is_nothing_to_plan() -> None:
    assert plan_probes([], 1_000).intervals_ms == {}


def test_intervals_are_rounded_up_to_preferred_numbers() -> None:
    assert [round_up_ms(x) for x in (0.5, 1, 999, 1_001, 3_200, 3_201, 9_000)] == [
        1, 1, 1_000, 1_250, 3_200, 4_000, 10_000,
    ]  # fmt: skip


LINKS = st.lists(
    st.builds(
        lambda use, passive, nat: (use, passive, nat),
        st.sampled_from(Use),
        st.none() | st.floats(0, 1e6),
        st.booleans(),
    ),
    max_size=60,
)


@given(LINKS, st.floats(0, 20_000))
def test_the_budget_is_kept_if_it_can_be_and_nobody_is_forgotten(
    shape: list[tuple[Use, float | None, bool]], budget: float
) -> None:
    links = [ProbedLink(name(n), use, passive, nat) for n, (use, passive, nat) in enumerate(shape)]
    plan = plan_probes(links, budget)
    assert plan.intervals_ms.keys() == {link.link for link in links}
    assert all(FAST_MS <= interval <= LONGEST_MS for interval in plan.intervals_ms.values())
    assert all(plan.intervals_ms[link.link] <= MAPPING_MS for link in links if link.keeps_mapping)
    assert plan.bytes_s == pytest.approx(cost_bytes_s(plan.intervals_ms))
    least = least_budget_bytes_s(len(links), sum(link.keeps_mapping for link in links))
    if budget >= least:
        assert plan.bytes_s <= budget * (1 + 1e-9)
    assert plan.is_over == (plan.bytes_s > budget)
    for one in links:
        for other in links:
            same = (one.keeps_mapping, one.passive_age_ms) == (other.keeps_mapping, other.passive_age_ms)
            if same and one.use > other.use:
                assert plan.intervals_ms[one.link] <= plan.intervals_ms[other.link]


@given(LINKS, st.floats(1_000, 20_000))
def test_more_budget_never_means_fewer_probes_of_a_sweep(
    shape: list[tuple[Use, float | None, bool]], budget: float
) -> None:
    links = [ProbedLink(name(n), use, passive, nat) for n, (use, passive, nat) in enumerate(shape)]
    small, large = plan_probes(links, budget), plan_probes(links, 2 * budget)
    assert max(large.intervals_ms.values(), default=0) <= max(small.intervals_ms.values(), default=0)


def test_the_engine_says_which_links_carry_traffic_and_which_are_heard() -> None:
    """In a fleet too large for its budget, the link that flows use goes on being probed once a second for a minute after."""
    world = World(
        make_fleet("ams iad sin"), (make_app(egress="iad"),), rtts("ams-iad 80, ams-sin 160, iad-sin 220")
    )
    world.run(10)
    controller = world.controllers["ams"]
    assert controller.plan is not None
    link = LinkName("ams/a>iad/a")
    active = path_id((link,))
    uses = ProbeUses()
    now_ns = START_NS
    for is_alive, interval in ((True, STEADY_MS), (False, FAST_MS)):
        heard = uses.handle_uses(
            now_ns, [HandleUse(PopName("iad"), "off", active, True, is_alive)], controller.plan.snapshot
        )
        assert heard == ({link} if is_alive else set())
        plan = uses.plan(now_ns, PopName("ams"), world.fleet, controller.plan.snapshot)
        assert plan.intervals_ms[link] == interval
        now_ns += 3 * S
    later = uses.plan(now_ns + 61 * S, PopName("ams"), world.fleet, controller.plan.snapshot)
    assert set(later.intervals_ms.values()) == {STEADY_MS}


def test_minutes_of_probes_of_twelve_pops_with_three_links_cost_what_the_budget_says() -> None:
    """One controller in virtual time; what an engine would send is sent at the intervals of the snapshot in force."""
    budget = 1_500
    pops = {
        PopName(f"p{n:02}"): Pop(
            PopName(f"p{n:02}"),
            tuple(Transit(t, f"10.{i}.0.{n}:1", f"10.{i}.0.{n}:1") for i, t in enumerate("abc")),
        )
        for n in range(12)
    }
    here = PopName("p00")
    ends = [(a, b) for a in pops for b in pops if a != b and here in (a, b)]
    links = sorted((Link(a, t, b, t) for a, b in ends for t in "abc"), key=lambda link: link.name)
    fleet = Fleet("f", pops, {link.name: link for link in links}, probe_budget_bytes_s=budget)
    controller = Controller(here, fleet, (make_app(),), START_NS, lambda: 7, epoch=1)
    busy = LinkName("p00/a>p01/a")
    used = HandleUse(PopName("p01"), "off", path_id((busy,)), True, True)
    due = {link.name: START_NS + n * 3_000_000 for n, link in enumerate(fleet.links_from(here))}
    sent: dict[LinkName, list[int]] = {name: [] for name in due}
    tick_ns = START_NS
    while min(due.values()) < START_NS + 90 * S:
        now_ns, link = min((at_ns, name) for name, at_ns in due.items())
        sent[link].append(now_ns)
        count = len(sent[link])
        controller.handle_samples(
            now_ns, [LinkSample(link, count, now_ns, 80_000_000, now_ns + 40_000_000, count)]
        )
        if now_ns >= tick_ns:
            tick_ns += S
            controller.handle_uses(now_ns, [used])
        while controller.poll_output() is not None:
            pass
        assert controller.plan is not None
        for spec in controller.plan.snapshot.links:
            next_ns = now_ns + spec.probe_interval_ms * 1_000_000
            due[spec.name] = next_ns if spec.name == link else min(due[spec.name], next_ns)
        if now_ns > START_NS + 60 * S:
            assert all(estimator.is_up for estimator in controller.estimators.values())
    for start_ns in (START_NS + 30 * S, START_NS + 60 * S):
        count = sum(start_ns <= at_ns < start_ns + 30 * S for times in sent.values() for at_ns in times)
        assert 0.7 * budget < count * PROBE_BYTES / 30 <= 1.02 * budget
    assert len(sent[busy]) >= 85, "traffic is on it"
    assert min(map(len, sent.values())) >= 3, "every link is swept"


def test_handles_that_are_idle_or_unknown_say_nothing() -> None:
    world = World(make_fleet("ams iad"), (make_app(),), rtts("ams-iad 80")).run(10)
    plan = world.controllers["ams"].plan
    assert plan is not None
    uses = [
        HandleUse(PopName("iad"), "off", path_id((LinkName("ams/a>iad/a"),)), False, True),
        HandleUse(PopName("iad"), "off", None, True, True),
        HandleUse(PopName("iad"), "off", id32("another path"), True, True),
        HandleUse(PopName("nobody"), "off", path_id((LinkName("ams/a>iad/a"),)), True, True),
    ]
    assert ProbeUses().handle_uses(START_NS, uses, plan.snapshot) == frozenset()


def test_the_snapshot_says_how_often_and_silence_is_judged_by_it() -> None:
    world = World(make_fleet("ams iad sin"), (make_app(),), rtts("ams-iad 80, ams-sin 160, iad-sin 220")).run(
        10
    )
    controller = world.controllers["ams"]
    link = LinkName("ams/a>iad/a")
    use = HandleUse(PopName("iad"), "off", path_id((link,)), True, False)
    controller.handle_uses(world.now_ns, [use])
    world.run(2)
    assert controller.plan is not None
    intervals = {spec.name: spec.probe_interval_ms for spec in controller.plan.snapshot.links}
    assert intervals == {link: FAST_MS, LinkName("ams/a>sin/a"): STEADY_MS}
    assert controller.estimators[link].interval_ns == FAST_MS * 1_000_000
