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
    assert scenario.known.rtt_ms_smoothed == pytest.approx(90)
    assert scenario.known.rtt_ms_min == 80
    assert scenario.known.rtt_ms_last == 160


def test_least_and_95th_percentile_are_those_of_five_minutes() -> None:
    scenario = Scenario().probe(50, *[100.0] * 18, 200)
    assert (scenario.known.rtt_ms_min, scenario.known.rtt_ms_p95) == (50, 100)
    scenario.probe(*[90.0] * 300)
    assert (scenario.known.rtt_ms_min, scenario.known.rtt_ms_p95) == (90, 90)


def test_a_full_window_lets_the_oldest_go_and_counts_them() -> None:
    scenario = Scenario().probe(1.0)
    for number in range(2_048):
        scenario.estimator.handle_sample(scenario.now_ns + number, LinkSample(LINK, 2 + number, 0, 2 * MS))
    assert scenario.estimator.window_full == 1
    assert scenario.known.rtt_ms_min == 2


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
    assert scenario.known.loss_ratio == pytest.approx(5 / 21)
    assert scenario.probe(*[10.0] * 60).known.loss_ratio == pytest.approx(5 / 81)
    assert scenario.probe(*[10.0] * 250).known.loss_ratio == 0


def test_an_outage_is_not_remembered_as_loss_of_the_link_that_is_back() -> None:
    scenario = Scenario().probe(*[10.0] * 30, *[None] * 20)
    assert not scenario.known.is_up
    scenario.probe(10.0, 10.0, 10.0, 10.0)
    assert scenario.known.is_up
    assert scenario.known.loss_ratio == 0


def test_what_records_are_made_of_is_worked_out_anew_for_each_sample_and_each_second() -> None:
    estimator = Scenario().probe(10, 10, 10).estimator
    first = estimator.recent_estimate(3 * S)
    assert estimator.recent_estimate(4 * S - 1) is first
    assert estimator.recent_estimate(4 * S) is not first
    estimator.handle_sample(4 * S, LinkSample(LINK, 4, 4 * S, 30 * MS))
    assert estimator.recent_estimate(4 * S).rtt_ms_last == 30
    estimator.handle_time(9 * S)
    assert not estimator.recent_estimate(9 * S).is_up


def test_silence_brings_a_link_down() -> None:
    scenario = Scenario().probe(10, 10, 10)
    scenario.estimator.handle_time(scenario.now_ns + 3 * S)
    assert not scenario.known.is_up


def test_a_link_that_is_probed_seldom_may_be_silent_for_three_of_its_intervals() -> None:
    scenario = Scenario().probe(10, 10, 10)
    scenario.estimator.handle_interval(0, 30 * S)
    scenario.estimator.handle_time(scenario.now_ns + 89 * S)
    assert scenario.known.is_up
    scenario.estimator.handle_time(scenario.now_ns + 90 * S)
    assert not scenario.known.is_up


def test_a_link_that_is_probed_more_often_from_now_on_was_not_silent_before() -> None:
    estimator = Scenario().probe(10, 10, 10).estimator
    estimator.handle_interval(3 * S, 30 * S)
    estimator.handle_interval(32 * S, S)
    estimator.handle_time(35 * S - 1)
    assert estimator.is_up
    estimator.handle_interval(35 * S - 1, S)
    estimator.handle_time(35 * S)
    assert not estimator.is_up


def test_a_link_that_is_swept_every_30_s_is_down_and_up_again_soon_after_the_first_sign() -> None:
    """When probes end is what the engine's prober does with such a link, in milliseconds: its test has the same figures."""
    estimator = LinkEstimator(interval_ns=30 * S)
    ended = [(20, 1), (520, 1), (1_020, 1), (1_520, 1), (32_500, 0), (33_500, 0), (34_000, 0), (34_500, 0)]
    ended += [(64_500, 0), (93_520, 1), (94_020, 1), (94_520, 1), (95_020, 1)]
    turned = []
    for sequence, (at_ms, is_answered) in enumerate(ended):
        was_up = estimator.is_up
        estimator.handle_sample(at_ms * MS, LinkSample(LINK, sequence, 0, 20 * MS if is_answered else None))
        estimator.handle_time(at_ms * MS)
        if estimator.is_up != was_up:
            turned.append(at_ms)
    assert turned == [1_020, 34_000, 95_020]


def test_what_passes_without_a_probe_ends_silence_and_age() -> None:
    scenario = Scenario().probe(10, 10, 10)
    scenario.estimator.handle_heard(scenario.now_ns + 2 * S)
    scenario.estimator.handle_time(scenario.now_ns + 4 * S)
    assert scenario.estimator.estimate(scenario.now_ns + 4 * S).age_ms == 2_000
    assert scenario.known.is_up


def test_a_burst_of_loss_at_fast_probes_is_no_outage_before_a_second_and_a_half() -> None:
    scenario = Scenario().probe(10, 10, 10)
    for number in range(8):
        assert scenario.estimator.is_up, f"after {number * 200} ms"
        scenario.estimator.handle_sample(
            scenario.now_ns + number * 200 * MS, LinkSample(LINK, 10 + number, 0, None)
        )
    scenario.estimator.handle_sample(scenario.now_ns + 1_500 * MS, LinkSample(LINK, 18, 0, None))
    assert not scenario.estimator.is_up


def test_a_link_that_was_down_is_up_after_answers_for_as_long() -> None:
    scenario = Scenario().probe(10, 10, 10, None, None, None)
    for number in range(8):
        scenario.estimator.handle_sample(
            scenario.now_ns + number * 200 * MS, LinkSample(LINK, 10 + number, 0, 10 * MS)
        )
        assert not scenario.estimator.is_up, f"after {number * 200} ms"
    scenario.estimator.handle_sample(scenario.now_ns + 1_500 * MS, LinkSample(LINK, 18, 0, 10 * MS))
    assert scenario.estimator.is_up


def test_what_light_could_not_have_done_is_refused_and_counted() -> None:
    amsterdam, ashburn = (52.31, 4.76), (38.95, -77.45)
    floor = light_rtt_ms(amsterdam, ashburn)
    assert 60 < floor < 64, "6,200 km of fibre, there and back"
    scenario = Scenario(floor).probe(80, 80, 80, 20, -1, 60_001)
    assert scenario.estimator.refused_by_reason == {"below_light": 1, "negative": 1, "too_long": 1}
    assert scenario.estimator.refused == 3
    assert scenario.known.rtt_ms == 80
    assert scenario.known.samples == 3


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
    assert lossy.loss_ratio == 0.2
    assert 0.2 < lossy.route_loss_ratio < 0.32, "an upper bound, less what none of 20 would show"
    assert game == pytest.approx(100 + 1_000 * lossy.route_loss_ratio)
    assert voip > 1_000
    assert bulk > 1_000


def test_a_link_that_is_down_or_unknown_has_no_cost() -> None:
    assert link_cost_ms(Scenario().known, "rtt") is None
    assert link_cost_ms(Scenario().probe(10, 10, 10, None, None, None).known, "rtt") is None
