"""The slow estimate of a round trip: it follows a shift at once, drifts with the hours, and ignores spikes."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.bench.level_shifts import MIN_STRETCH, Trace, labels, read_traces, score, shifts
from l4proxy.core.estimate.level import LevelTracker

S = 1_000_000_000
DATA = Path(__file__).parents[1] / "data" / "ripe_atlas_labelled" / "traces.csv.xz"


class Series:
    """Round trips at a fixed interval, with a small even noise of ±0.2 ms."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.tracker = LevelTracker()
        self.interval_ns = round(interval_s * S)
        self.now_ns = 0
        self.count = 0

    def feed(self, *values: float) -> "Series":
        for value in values:
            self.now_ns += self.interval_ns
            self.count += 1
            self.tracker.handle_value(self.now_ns, value + (self.count * 7 % 5 - 2) / 10)
        return self

    @property
    def level(self) -> float:
        assert self.tracker.level_ms is not None
        return self.tracker.level_ms


@pytest.mark.parametrize("change", [-20.0, -3.0, 3.0, 9.0, 200.0])
def test_a_shift_moves_the_level_with_its_second_sample(change: float) -> None:
    series = Series(240).feed(*[50.0] * 60)
    series.feed(50 + change)
    assert series.level == pytest.approx(50, abs=0.6), "one is a spike"
    series.feed(50 + change)
    assert series.level == pytest.approx(50 + change, abs=0.25)
    assert series.tracker.shifts == 1


@pytest.mark.parametrize("change", [-20.0, 3.0, 200.0])
def test_the_first_sample_of_a_new_level_may_lie_between_both(change: float) -> None:
    series = Series(240).feed(*[50.0] * 60, 50 + change / 4, 50 + change, 50 + change)
    assert series.level == pytest.approx(50 + change, abs=0.2)


def test_spikes_move_nothing_whatever_their_height() -> None:
    series = Series(240).feed(*[50.0] * 60)
    for _ in range(40):
        series.feed(900.0, *[50.0] * 11)
    assert series.tracker.shifts == 0
    assert series.level == pytest.approx(50, abs=0.6)


@pytest.mark.parametrize(("interval_s", "burst"), [(1.0, 7), (0.2, 33)])
def test_a_queue_of_a_few_seconds_is_no_shift_and_one_of_ten_is(interval_s: float, burst: int) -> None:
    series = Series(interval_s).feed(*[50.0] * 400, *[90.0] * burst, *[50.0] * 60)
    assert series.tracker.shifts == 0
    assert series.level == pytest.approx(50, abs=1)
    series = Series(interval_s).feed(*[50.0] * 400, *[90.0] * (burst + 1))
    assert series.tracker.shifts == 1
    assert series.level == pytest.approx(90, abs=0.3)


def test_a_drift_over_hours_is_followed_without_a_jump() -> None:
    series = Series(240)
    for step in range(720):
        series.feed(50 + 20 * abs(1 - step / 360))
    assert series.tracker.shifts == 0
    assert series.level == pytest.approx(70, abs=1)


def test_a_noisy_link_needs_a_larger_shift_than_a_quiet_one() -> None:
    noise = [0.0, 6.0, 1.0, 9.0, 3.0, 0.5, 7.0, 2.0]
    series = Series().feed(*(50 + noise[i % 8] for i in range(80)))
    before = series.level
    series.feed(*(54 + noise[i % 8] for i in range(20)))
    assert series.tracker.shifts == 0
    series.feed(*(80 + noise[i % 8] for i in range(8)))
    assert series.tracker.shifts == 1
    assert series.level > before + 20


@pytest.mark.parametrize("noise_ms", [0.2, 2.0, 5.0, 20.0])
def test_noise_without_a_shift_moves_nothing_in_an_hour_at_one_probe_a_second(noise_ms: float) -> None:
    rng = random.Random(7)
    series = Series().feed(*(40 + rng.uniform(-noise_ms, noise_ms) for _ in range(3_600)))
    assert series.tracker.shifts == 0
    assert series.level == pytest.approx(40, abs=0.5 + noise_ms / 2)


@pytest.mark.parametrize(("interval_s", "samples"), [(240, 3), (1, 11)])
def test_the_end_of_a_noisy_time_is_a_shift_although_nothing_lies_below_what_was_usual(
    interval_s: float, samples: int
) -> None:
    rng = random.Random(7)
    series = Series(interval_s).feed(*(160 + rng.expovariate(1 / 25) for _ in range(100)))
    assert series.level > 165
    shifts = series.tracker.shifts
    series.feed(*[160.0] * samples)
    assert series.tracker.shifts == shifts + 1
    assert series.level == pytest.approx(160, abs=0.3)


def test_a_shift_that_goes_back_is_two() -> None:
    series = Series().feed(*[50.0] * 40, *[80.0] * 40, *[50.0] * 8)
    assert series.tracker.shifts == 2
    assert series.level == pytest.approx(50, abs=0.2)


@given(st.lists(st.tuples(st.integers(0, 400 * S), st.floats(0, 60_000)), min_size=1, max_size=120))
def test_the_level_stays_among_the_values_seen(steps: list[tuple[int, float]]) -> None:
    tracker, now_ns = LevelTracker(), 0
    for gap_ns, value in steps:
        now_ns += gap_ns
        tracker.handle_value(now_ns, value)
        assert tracker.level_ms is not None
    values = [value for _, value in steps]
    margin = max(1.0, 0.025 * max(values))
    assert min(values) - margin <= tracker.level_ms <= max(values) + margin


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return read_traces(DATA)


def test_the_recorded_traces_are_whole(traces: list[Trace]) -> None:
    assert len(traces) == 25
    assert sum(len(labels(trace)) for trace in traces) > 500
    for trace in traces:
        times = [at_ns for at_ns, _, _ in trace.samples]
        assert times == sorted(times)
        assert all(shift.at + MIN_STRETCH <= len(trace.samples) for shift in shifts(trace))


def test_labelled_shifts_are_detected_by_the_second_sample_after_and_false_moves_are_rare(
    traces: list[Trace],
) -> None:
    """The figures and the table of constants: bench/level_shifts.py."""
    scores = [score(trace) for trace in traces]
    assert sum(one.shifts for one in scores) > 200
    assert sum(one.detected for one in scores) >= 0.95 * sum(one.shifts for one in scores)
    assert sum(one.false_moves for one in scores) <= sum(one.days for one in scores)
