"""Checks of one origin → what is known of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.estimate import OriginEstimator, wilson
from l4proxy.core.ids import AppName
from l4proxy.core.samples import CheckKind, OriginSample

S = 1_000_000_000


class Origin:
    """One origin, checked every 5 s."""

    def __init__(self) -> None:
        self.estimator = OriginEstimator()
        self.now_ns = 0

    def check(self, *results: float | None, kind: CheckKind = "tcp") -> "Origin":
        for rtt_ms in results:
            self.now_ns += 5 * S
            failure = None if rtt_ms is not None else "refused"
            sample = OriginSample(AppName("app"), "192.0.2.1:7", rtt_ms, failure, kind)
            self.estimator.handle_sample(self.now_ns, sample)
        return self


def test_an_origin_is_down_after_two_failures_and_up_with_the_next_answer() -> None:
    origin = Origin().check(10, None)
    assert origin.estimator.is_up
    assert origin.estimator.failure == "refused"
    assert not origin.check(None).estimator.is_up
    assert origin.check(11).estimator.is_up
    assert origin.estimator.failure is None


def test_what_is_known_of_an_origin() -> None:
    known = Origin().check(20, 20, 20, 28, None).estimator.estimates(26 * S)["tcp"]
    assert known.rtt_ms_smoothed == pytest.approx(21)
    assert (known.rtt_ms_min, known.rtt_ms_p95) == (20, 28)
    assert known.rtt_ms == 20, "one slow answer does not move what routes are made of"
    assert known.jitter_ms == pytest.approx(8 / 16)
    assert (known.checks, known.failure_ratio) == (5, 0.2)
    assert known.failure_ratio_upper == wilson(1, 5)[1]
    assert known.age_ms == 1_000


def test_ten_minutes_are_remembered() -> None:
    origin = Origin().check(5, None, *[20.0] * 121)
    known = origin.estimator.estimates(origin.now_ns)["tcp"]
    assert (known.rtt_ms_min, known.failure_ratio) == (20, 0)


def test_connects_and_pings_are_kept_apart_and_the_connect_speaks_for_the_origin() -> None:
    origin = Origin().check(10, 10, 10, kind="icmp").check(14, 14, 14)
    assert origin.estimator.rtt_ms == 14
    assert {kind: known.rtt_ms for kind, known in origin.estimator.estimates(origin.now_ns).items()} == {
        "icmp": 10,
        "tcp": 14,
    }
    assert not origin.check(None, None).estimator.is_up, "whatever pings say"
    assert not origin.check(10, kind="icmp").estimator.is_up


def test_a_kind_of_check_that_is_made_no_more_says_nothing_after_a_minute() -> None:
    origin = Origin().check(14, None, None).check(*[10.0] * 11, kind="icmp")
    assert not origin.estimator.is_up
    origin.check(10.0, 10.0, kind="icmp")
    assert origin.estimator.is_up
    assert origin.estimator.rtt_ms == 10


def test_an_origin_that_never_answered_is_not_known() -> None:
    assert Origin().estimator.rtt_ms is None
    assert Origin().check(None).estimator.rtt_ms is None


def test_impossible_times_are_refused_and_counted() -> None:
    origin = Origin().check(-1, float("nan"), float("inf"), 60_001)
    assert origin.estimator.refused_by_reason == {"negative": 1, "too_long": 3}
    assert origin.estimator.estimates(origin.now_ns) == {}


@given(
    st.lists(
        st.tuples(
            st.integers(-(10**18), 10**19),
            st.none() | st.floats(),
            st.sampled_from(["tcp", "icmp", "app"]),
        ),
        max_size=80,
    )
)
def test_no_order_and_no_value_makes_an_estimate_that_is_none(
    rows: list[tuple[int, float | None, CheckKind]],
) -> None:
    estimator = OriginEstimator()
    for now_ns, rtt_ms, kind in rows:
        estimator.handle_sample(now_ns, OriginSample(AppName("a"), "o", rtt_ms, None, kind))
        assert estimator.rtt_ms is None or 0 <= estimator.rtt_ms <= 60_000
        for known in estimator.estimates(now_ns).values():
            times = (known.rtt_ms, known.rtt_ms_smoothed, known.rtt_ms_min, known.rtt_ms_p95)
            assert all(value is None or 0 <= value <= 60_000 for value in times)
            assert 0 <= known.jitter_ms <= 60_000
            assert 0 <= known.failure_ratio <= known.failure_ratio_upper <= 1
            assert known.age_ms >= 0
