"""Samples of one link → what is known of it."""

import pytest

from l4proxy.core.estimate import LinkEstimate, LinkEstimator, light_rtt_ms
from l4proxy.core.ids import LinkName
from l4proxy.core.routing.cost import link_cost_ms
from l4proxy.core.samples import LinkSample

MS, S = 1_000_000, 1_000_000_000
LINK = LinkName("a/a>b/a")


class Scenario:
    """One link, one probe a second."""

    def __init__(self, floor_ms: float = 0.0) -> None:
        self.estimator = LinkEstimator(floor_ms)
        self.now_ns = 0
        self.sequence = self.received = 0

    def probe(self, *results: float | None) -> "Scenario":
        """RTTs in ms; None: lost on the way there."""
        for rtt_ms in results:
            self.now_ns += S
            self.sequence += 1
            if rtt_ms is None:
                sample = LinkSample(LINK, self.sequence, self.now_ns, None)
            else:
                self.received += 1
                rtt_ns = round(rtt_ms * MS)
                arrival = self.now_ns + rtt_ns // 2
                sample = LinkSample(LINK, self.sequence, self.now_ns, rtt_ns, arrival, self.received)
            self.estimator.handle_sample(self.now_ns, sample)
        return self

    @property
    def known(self) -> LinkEstimate:
        return self.estimator.estimate(self.now_ns)


def test_a_link_is_up_after_three_answers_and_down_after_three_losses() -> None:
    scenario = Scenario().probe(10, 10)
    assert not scenario.known.is_up
    assert scenario.probe(10).known.is_up
    assert scenario.probe(None, None).known.is_up
    assert not scenario.probe(None).known.is_up
    assert not scenario.probe(10, 10).known.is_up
    assert scenario.probe(10).known.is_up


def test_the_round_trip_is_smoothed_by_an_eighth() -> None:
    scenario = Scenario().probe(80, 80, 80, 160)
    assert scenario.known.rtt_ms == pytest.approx(90)
    assert scenario.known.rtt_ms_min == 80
    assert scenario.known.rtt_ms_last == 160


def test_jitter_is_one_way_and_moves_by_a_sixteenth() -> None:
    assert Scenario().probe(80, 80, 112).known.jitter_ms == pytest.approx(16 / 16)


def test_a_step_of_the_peers_clock_is_no_jitter() -> None:
    scenario = Scenario().probe(80, 80)
    scenario.estimator.handle_sample(
        scenario.now_ns, LinkSample(LINK, 99, scenario.now_ns, 80 * MS, scenario.now_ns + 3_600 * S, 3)
    )
    assert scenario.known.jitter_ms == 0


def test_loss_is_counted_by_the_peer_over_five_minutes() -> None:
    scenario = Scenario().probe(*[10.0, 10.0, 10.0, None] * 5, 10.0)
    assert scenario.known.loss_ratio == pytest.approx(5 / 20)
    assert scenario.probe(*[10.0] * 60).known.loss_ratio == pytest.approx(5 / 80)
    assert scenario.probe(*[10.0] * 250).known.loss_ratio == 0


def test_an_outage_is_not_remembered_as_loss_of_the_link_that_is_back() -> None:
    scenario = Scenario().probe(*[10.0] * 30, *[None] * 20)
    assert not scenario.known.is_up
    scenario.probe(10.0, 10.0, 10.0, 10.0)
    assert scenario.known.is_up
    assert scenario.known.loss_ratio == 0


def test_silence_brings_a_link_down() -> None:
    scenario = Scenario().probe(10, 10, 10)
    scenario.estimator.handle_time(scenario.now_ns + 3 * S)
    assert not scenario.known.is_up


def test_what_light_could_not_have_done_is_refused_and_counted() -> None:
    amsterdam, ashburn = (52.31, 4.76), (38.95, -77.45)
    floor = light_rtt_ms(amsterdam, ashburn)
    assert 60 < floor < 64, "6,200 km of fibre, there and back"
    scenario = Scenario(floor).probe(80, 80, 80, 20, -1)
    assert scenario.estimator.refused == 2
    assert scenario.known.rtt_ms == 80


def test_each_class_pays_for_what_hurts_it() -> None:
    clean = Scenario().probe(*[100.0] * 10).known
    lossy = Scenario().probe(*[100.0, 100.0, 100.0, None, 100.0] * 4).known
    for traffic in ("rtt", "game", "voip", "bulk"):
        assert link_cost_ms(clean, traffic) == pytest.approx(100)
    assert link_cost_ms(lossy, "rtt") == pytest.approx(100)
    game, voip, bulk = (link_cost_ms(lossy, traffic) for traffic in ("game", "voip", "bulk"))
    assert game is not None
    assert voip is not None
    assert bulk is not None
    assert 250 < game < 350
    assert voip > 1_000
    assert bulk > 1_000


def test_a_link_that_is_down_or_unknown_has_no_cost() -> None:
    assert link_cost_ms(Scenario().known, "rtt") is None
    assert link_cost_ms(Scenario().probe(10, 10, 10, None, None, None).known, "rtt") is None
