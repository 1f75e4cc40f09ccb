"""What must not be used, by what flows really got: in virtual time."""

from collections.abc import Iterable

import pytest

from l4proxy.core.disqualifier import (
    FIRST_QUIET_NS,
    FORGET_NS,
    MAX_QUIET_NS,
    MAX_WATCHED,
    TRIAL_NS,
    WINDOW_NS,
    Disqualifier,
)
from l4proxy.core.ids import AppName, Id32, LinkName, PopName
from l4proxy.core.outcomes import FlowOutcomes, PathReport

S = 1_000_000_000
START_NS = 1_700_000_000 * S
WEB = AppName("web")
AMS, IAD, SIN = (PopName(name) for name in ("ams", "iad", "sin"))
LINKS = tuple(LinkName(f"ams/a>{peer}/a") for peer in ("bom", "cdg", "fra", "iad", "lhr", "sin"))


class Scene:
    """A disqualifier, a clock, and what an app could use."""

    def __init__(self, *egresses: PopName, links: Iterable[LinkName] = LINKS) -> None:
        self.judge = Disqualifier()
        self.now_ns = START_NS
        self.egresses = {WEB: frozenset(egresses)}
        self.links = frozenset(links)
        self.probed = dict.fromkeys((*LINKS, LinkName("iad/a>sin/a")), 20.0)

    def pass_time(self, ns: int = 0) -> bool:
        self.now_ns += ns
        return self.judge.handle_time(self.now_ns, self.egresses, self.links)

    def flows(self, egress: PopName, ns: int = S // 4, **counts: int) -> bool:
        self.judge.handle_outcomes(self.now_ns + ns, [FlowOutcomes(WEB, egress, (), **counts)])
        return self.pass_time(ns)

    def carry(self, *links: LinkName, **numbers: float) -> bool:
        """A second in which a path was used."""
        self.see(*links, **numbers)
        return self.pass_time(S)

    def see(
        self, *links: LinkName, packets: int = 100, lost: int = 0, heard: int = 9_000, rtt: float = 21
    ) -> None:
        report = PathReport(SIN, "off", Id32(1), links, rtt, packets, lost, 9_000, heard)
        self.judge.handle_outcomes(self.now_ns + S, [], [report], 1_000, self.probed)

    def out(self) -> set[PopName]:
        return {egress for _, egress in self.judge.egresses}

    def trials(self) -> set[PopName]:
        return {egress for (_, egress), removal in self.judge.egresses.items() if removal.on_trial}


def test_an_egress_whose_connects_fail_is_left_at_once_and_says_why() -> None:
    scene = Scene(AMS, IAD)
    assert scene.flows(IAD, tried=1, refused=1)
    removal = scene.judge.egresses[WEB, IAD]
    assert removal.reason == "1 of 1 connects failed (1 refused)"
    assert (removal.since_ns, removal.on_trial) == (START_NS + S // 4, False)
    assert not scene.flows(AMS, connected=5), "nothing new"


@pytest.mark.parametrize(
    "bad", ["refused", "unreachable", "timed_out", "reset_early", "no_tunnel", "egress_refused"]
)
def test_every_failure_of_a_connect_counts_and_other_mistakes_do_not(bad: str) -> None:
    scene = Scene(AMS, IAD)
    scene.flows(AMS, connected=1)
    scene.flows(IAD, **{bad: 2, "connected": 2 if bad == "reset_early" else 0})
    assert scene.out() == {IAD}
    scene = Scene(AMS, IAD)
    scene.flows(IAD, tried=9, failed=9)
    assert scene.out() == set()


def test_resets_that_a_client_can_provoke_move_nothing_by_themselves() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, connected=9, reset_early=9)
    assert scene.out() == set()


def test_an_egress_that_serves_more_than_it_fails_stays() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, connected=11, refused=10)
    assert scene.out() == set()
    scene.flows(IAD, refused=2)
    assert scene.out() == {IAD}


def test_failures_are_forgotten_with_the_window() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, connected=3, refused=2)
    scene.pass_time(WINDOW_NS + S)
    scene.flows(IAD, connected=1)
    scene.flows(IAD, refused=1)
    assert scene.out() == {IAD}, "the three of long ago excuse nothing"


def test_when_all_egresses_fail_none_is_removed_and_the_origin_is_the_problem() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(AMS, refused=4)
    assert scene.out() == {AMS}
    scene.flows(IAD, refused=4)
    assert scene.out() == set()
    ((what, since_ns, _),) = scene.judge.problems()
    assert (what, since_ns) == ("app web: connects to the origin fail through every egress", scene.now_ns)
    for _ in range(100):
        assert not scene.flows(AMS, refused=1), "no going round in circles"
        assert not scene.flows(IAD, refused=1)
    assert scene.judge.problems()[0][1] == since_ns
    scene.flows(IAD, connected=1)
    scene.flows(AMS, refused=1)
    assert scene.out() == {AMS}, "now one is better"
    assert scene.judge.problems() == []


def test_a_problem_of_the_origin_ends_when_nobody_comes_any_more() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(AMS, refused=1)
    scene.flows(IAD, refused=1)
    scene.pass_time(WINDOW_NS + S)
    assert scene.judge.problems() == []


def test_the_only_egress_is_never_removed() -> None:
    scene = Scene(IAD)
    for _ in range(50):
        scene.flows(IAD, timed_out=3)
        assert scene.out() == set()


def test_of_three_egresses_two_may_go_and_the_last_one_stays() -> None:
    scene = Scene(AMS, IAD, SIN)
    scene.flows(AMS, refused=1)
    scene.flows(SIN, timed_out=1)
    assert scene.out() == {AMS, SIN}
    scene.flows(IAD, refused=1)
    assert scene.out() == set()


def test_after_the_quiet_time_few_flows_try_it_and_when_they_do_well_all_may() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, refused=1)
    scene.pass_time(FIRST_QUIET_NS - 1)
    assert (scene.out(), scene.trials()) == ({IAD}, set())
    assert scene.pass_time(1)
    assert (scene.out(), scene.trials()) == ({IAD}, {IAD})
    scene.flows(IAD, connected=2)
    assert scene.out() == {IAD}
    assert scene.flows(IAD, connected=1)
    assert scene.out() == set()


def test_on_trial_one_failure_among_many_is_enough() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, refused=1)
    scene.pass_time(FIRST_QUIET_NS)
    scene.flows(IAD, connected=9, timed_out=1)
    assert scene.judge.egresses[WEB, IAD].reason == "1 of 10 connects failed (1 timed out)"
    assert not scene.trials()


def test_a_trial_that_fails_doubles_the_quiet_time_up_to_its_end() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, refused=1)
    quiet = FIRST_QUIET_NS
    for _ in range(8):
        removal = scene.judge.egresses[WEB, IAD]
        assert removal.until_ns - scene.now_ns == quiet
        assert removal.since_ns == START_NS + S // 4, "out since the first time"
        scene.pass_time(quiet)
        assert scene.trials() == {IAD}
        scene.flows(IAD, refused=1)
        quiet = min(MAX_QUIET_NS, 2 * quiet)
    assert quiet == MAX_QUIET_NS


def test_a_trial_without_flows_ends_well_and_long_ago_is_forgotten() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, refused=1)
    scene.pass_time(FIRST_QUIET_NS)
    scene.pass_time(TRIAL_NS)
    assert scene.out() == set()
    scene.flows(IAD, refused=1)
    assert scene.judge.egresses[WEB, IAD].until_ns - scene.now_ns == 2 * FIRST_QUIET_NS
    scene.pass_time(2 * FIRST_QUIET_NS)
    scene.pass_time(TRIAL_NS)
    scene.pass_time(FORGET_NS)
    scene.flows(IAD, refused=1)
    assert scene.judge.egresses[WEB, IAD].until_ns - scene.now_ns == FIRST_QUIET_NS


def test_udp_that_hears_nothing_counts_only_where_others_are_answered() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, connected=9, silent=9)
    assert scene.out() == set(), "an app may be one that never answers"
    scene.flows(AMS, answered=1)
    assert scene.out() == {IAD}
    scene = Scene(AMS, IAD)
    scene.flows(AMS, answered=1)
    scene.flows(IAD, silent=9, answered=1)
    assert scene.out() == set()


def test_an_app_or_egress_that_has_left_is_forgotten() -> None:
    scene = Scene(AMS, IAD)
    scene.flows(IAD, refused=1)
    scene.egresses = {WEB: frozenset({AMS})}
    assert scene.pass_time(1)
    assert scene.out() == set()


def test_a_link_on_which_data_dies_while_probes_pass_is_removed_and_forgiven() -> None:
    scene = Scene(AMS)
    scene.carry(LINKS[0])
    assert scene.carry(LINKS[5], packets=60, lost=30)
    (removal,) = scene.judge.links.values()
    assert list(scene.judge.links) == [LINKS[5]]
    assert removal.reason == "50% of 60 packets were lost, while probes pass"
    scene.pass_time(FIRST_QUIET_NS - 1)
    assert LINKS[5] in scene.judge.links
    assert scene.pass_time(1)
    assert not scene.judge.links
    scene.carry(LINKS[5], packets=60, lost=30)
    assert scene.judge.links[LINKS[5]].until_ns - scene.now_ns == 2 * FIRST_QUIET_NS


def test_little_loss_few_packets_and_a_busy_path_say_nothing_against_a_link() -> None:
    scene = Scene(AMS)
    for _ in range(20):
        scene.carry(LINKS[0], packets=100, lost=15)
        assert not scene.judge.links
    scene = Scene(AMS)
    scene.carry(LINKS[0], packets=40, lost=30)
    assert not scene.judge.links
    scene = Scene(AMS)
    scene.carry(LINKS[0], packets=53, lost=12)
    assert not scene.judge.links, "a link that loses one in ten loses so many now and then"
    scene.carry(LINKS[0], packets=200, lost=60)
    assert set(scene.judge.links) == {LINKS[0]}


def test_a_path_that_hears_nothing_is_dead_however_little_was_sent() -> None:
    scene = Scene(AMS)
    scene.carry(LINKS[2], packets=20, heard=0)
    assert list(scene.judge.links) == [LINKS[2]]


def test_a_link_that_probes_find_down_themselves_is_not_this_ones_to_judge() -> None:
    scene = Scene(AMS)
    del scene.probed[LINKS[2]]
    scene.carry(LINKS[2], packets=100, lost=100, heard=0)
    assert not scene.judge.links


def test_data_that_takes_far_longer_than_probes_removes_a_link_that_carries_little() -> None:
    scene = Scene(AMS)
    for _ in range(8):
        scene.carry(LINKS[1], rtt=200)
        assert not scene.judge.links, "not yet sure"
    for _ in range(3):
        scene.carry(LINKS[1], rtt=200)
    assert scene.judge.links[LINKS[1]].reason == "data takes 200 ms there and back, probes 20 ms"
    busy = Scene(AMS)
    for _ in range(20):
        busy.carry(LINKS[1], rtt=200, heard=1_000_000)
        assert not busy.judge.links, "it waits in its own queue"


def test_a_link_that_carries_well_elsewhere_is_not_to_blame() -> None:
    scene = Scene(AMS)
    first, second = LINKS[3], LinkName("iad/a>sin/a")
    scene.see(first)
    scene.carry(first, second, lost=60)
    assert list(scene.judge.links) == [second]


def test_more_than_a_third_of_the_links_do_not_fail_together_the_observer_is_sick() -> None:
    scene = Scene(AMS)
    scene.see(LINKS[0], lost=60)
    scene.carry(LINKS[1], lost=60)
    assert len(scene.judge.links) == 2, "two of six"
    scene.carry(LINKS[2], lost=60)
    assert not scene.judge.links
    ((what, _, fix),) = scene.judge.problems()
    assert what.startswith("data dies on 3 links at once (ams/a>bom/a, ")
    assert "this host" in fix


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_link_may_go_of_few_and_never_the_last(count: int) -> None:
    scene = Scene(AMS, links=LINKS[:count])
    scene.carry(LINKS[0], lost=60)
    assert len(scene.judge.links) == (0 if count == 1 else 1)
    scene.carry(LINKS[1], lost=60)
    assert len(scene.judge.links) <= 1


def test_full_tables_go_on_with_what_they_know_and_count_the_rest() -> None:
    judge = Disqualifier()
    many = [FlowOutcomes(WEB, PopName(f"p{number}"), (), connected=1) for number in range(MAX_WATCHED + 3)]
    judge.handle_outcomes(START_NS, many)
    assert judge.full == 3
    judge.handle_outcomes(START_NS, [FlowOutcomes(WEB, PopName("p0"), (), refused=5)])
    assert judge.full == 3
    judge.handle_time(START_NS, {WEB: frozenset({PopName("p0"), PopName("p1")})}, frozenset())
    assert list(judge.egresses) == [(WEB, PopName("p0"))]
