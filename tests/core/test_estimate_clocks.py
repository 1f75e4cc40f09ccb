"""Clocks that nobody has set alike: jitter, one-way differences of parallel links, and steps of either clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.estimate import LinkEstimator, OneWayDifferences, OwnLinks
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.samples import LinkSample
from l4proxy.core.topology import Fleet, Link, Pop, Transit

MS, S = 1_000_000, 1_000_000_000
START_NS = 1_700_000_000 * S
A, B = LinkName("x/a>y/a"), LinkName("x/b>y/b")


def make_fleet(providers: str = "a b") -> Fleet:
    names = providers.split()
    pops = {
        PopName(pop): Pop(
            PopName(pop),
            tuple(Transit(name, f"10.{n}.0.{m}:4600", f"10.{n}.0.{m}:4600") for m, name in enumerate(names)),
        )
        for n, pop in enumerate("xy")
    }
    links = [Link(PopName(a), name, PopName(b), name) for a, b in ("xy", "yx") for name in names]
    return Fleet("f", pops, {link.name: link for link in sorted(links, key=lambda link: link.name)})


class Pair:
    """Two PoPs, two links with known times each way, and two clocks; one probe a second over each link."""

    def __init__(self, there: tuple[float, float], back: tuple[float, float], offset_ms: float = 0) -> None:
        self.links = OwnLinks()
        self.links.handle_fleet(PopName("x"), make_fleet())
        self.there, self.back = dict(zip((A, B), there, strict=True)), dict(zip((A, B), back, strict=True))
        self.own_ns, self.peer_ns = 0, round(offset_ms * MS)
        self.drift = 0.0
        self.now_ns = START_NS
        self.sequence = 0

    def run(self, seconds: int, wait_ms: tuple[float, ...] = (0.0,)) -> "Pair":
        """`wait_ms`: queues on the way there, one value after the other."""
        for _ in range(seconds):
            self.now_ns += S
            self.sequence += 1
            self.peer_ns += round(self.drift * S)
            for number, link in enumerate((A, B)):
                there = self.there[link] + wait_ms[(self.sequence + number) % len(wait_ms)]
                sent = self.now_ns + self.own_ns
                arrived = self.now_ns + self.peer_ns + round(there * MS)
                rtt = round((there + self.back[link]) * MS)
                self.links.handle_samples(
                    self.now_ns, [LinkSample(link, self.sequence, sent, rtt, arrived, self.sequence)]
                )
        return self

    @property
    def judged(self) -> tuple[float, float]:
        """The round trips by which a route in this direction is chosen."""
        estimates = self.links.estimates(self.now_ns)
        first, second = estimates[A].rtt_ms_there, estimates[B].rtt_ms_there
        assert first is not None
        assert second is not None
        return first, second


def test_links_of_equal_round_trips_differ_by_twice_their_times_there() -> None:
    for offset_ms in (0, -7_200_000, 3.5):
        first, second = Pair(there=(30, 50), back=(50, 30), offset_ms=offset_ms).run(20).judged
        assert second - first == pytest.approx(40, abs=0.01)
        assert (first + second) / 2 == pytest.approx(80)


def test_each_direction_is_judged_by_itself_and_both_together_are_the_round_trip() -> None:
    there = Pair(there=(30, 60), back=(45, 20)).run(20).judged
    back = Pair(there=(45, 20), back=(30, 60)).run(20).judged
    assert there[1] - there[0] == pytest.approx(2 * 30, abs=0.01)
    assert back[1] - back[0] == pytest.approx(2 * -25, abs=0.01)
    assert [one + other for one, other in zip(there, back, strict=True)] == pytest.approx([2 * 75, 2 * 80])


def test_queues_do_not_count_if_some_samples_did_not_wait() -> None:
    first, second = Pair(there=(30, 50), back=(50, 30)).run(60, wait_ms=(0, 25, 60, 0, 8)).judged
    assert second - first == pytest.approx(40, abs=8.5), "the level itself sees the queues"
    pair = OneWayDifferences()
    for number in range(60):
        for link, there, back in ((A, 30, 50), (B, 50, 30)):
            wait = (number * (7 if link == A else 11)) % 5 * 10
            pair.handle_sample(number * S, link, (there + wait) * MS, (there + back + wait) * MS, 80 * MS)
    assert pair.difference_ms(59 * S, B, A) == pytest.approx(20, abs=0.01)
    assert pair.difference_ms(59 * S, A, B) == pytest.approx(-20, abs=0.01)


def test_a_drifting_clock_does_not_pull_links_apart() -> None:
    pair = Pair(there=(30, 50), back=(50, 30))
    pair.drift = 20e-6
    first, second = pair.run(600).judged
    assert second - first == pytest.approx(40, abs=0.05)


@pytest.mark.parametrize("step_ms", [200.0, -200.0, 3_600_000.0, -86_400_000.0])
@pytest.mark.parametrize("whose", ["own_ns", "peer_ns"])
def test_a_step_of_either_clock_is_counted_and_spoils_neither_jitter_nor_differences_nor_loss(
    step_ms: float, whose: str
) -> None:
    pair = Pair(there=(30, 50), back=(50, 30)).run(30)
    setattr(pair, whose, getattr(pair, whose) + round(step_ms * MS))
    pair.run(5)
    first, second = pair.judged
    assert second - first == pytest.approx(40, abs=0.01)
    for estimator in pair.links.estimators.values():
        assert estimator.clock_steps == 1
        assert estimator.jitter_ms == pytest.approx(0, abs=1e-6)
    for estimate in pair.links.estimates(pair.now_ns).values():
        assert (estimate.loss_ratio, estimate.rtt_ms) == (0, 80)
    assert pair.links.refusals() == {(A, "clock_step"): 1, (B, "clock_step"): 1}


def test_a_way_that_becomes_longer_is_no_step_of_a_clock() -> None:
    pair = Pair(there=(30, 50), back=(50, 30)).run(30)
    pair.there[A] = 90.0
    pair.run(20)
    assert pair.links.refusals() == {}
    first, second = pair.judged
    assert first - second == pytest.approx(2 * (90 - 50), abs=0.01), "a shift restarts what it makes void"


def test_a_correction_never_makes_a_link_faster_than_light() -> None:
    estimator = LinkEstimator(floor_ms=78)
    for number in range(5):
        estimator.handle_sample(number * S, LinkSample(A, number, 0, 80 * MS, 40 * MS, number))
    assert estimator.estimate(5 * S, one_way_ms=-40.0).rtt_ms_there == 78
    assert estimator.estimate(5 * S, one_way_ms=40.0).rtt_ms_there == 120


def test_differences_that_the_round_trips_do_not_allow_are_refused() -> None:
    pair = OneWayDifferences()
    pair.handle_sample(0, A, 0, 80 * MS, 80 * MS)
    pair.handle_sample(S, B, 81 * MS, 80 * MS, 80 * MS)
    assert pair.impossible == 1
    assert pair.difference_ms(S, A, B) is None
    assert pair.corrections_ms(S) == {A: 0, B: 0}


def test_what_was_measured_too_far_apart_is_not_compared_and_old_differences_are_forgotten() -> None:
    pair = OneWayDifferences()
    pair.handle_sample(0, A, 30 * MS, 80 * MS, 80 * MS)
    pair.handle_sample(11 * S, B, 50 * MS, 80 * MS, 80 * MS)
    assert pair.difference_ms(11 * S, A, B) is None
    pair.handle_sample(12 * S, A, 30 * MS, 80 * MS, 80 * MS)
    assert pair.difference_ms(312 * S, B, A) == 20
    assert pair.difference_ms(313 * S, B, A) is None


def test_a_pair_compares_no_more_links_than_it_has_room_for_and_counts_the_others() -> None:
    pair = OneWayDifferences()
    for number in range(66):
        pair.handle_sample(number, LinkName(f"x/{number}>y/a"), 30 * MS, 80 * MS, 80 * MS)
    assert pair.full == 2
    assert len(pair.corrections_ms(66)) == 64


def test_links_that_leave_the_fleet_are_forgotten_and_those_that_stay_are_not() -> None:
    links = OwnLinks()
    links.handle_fleet(PopName("x"), make_fleet())
    links.handle_samples(0, [LinkSample(A, 1, 0, 80 * MS)] * 3)
    links.handle_fleet(PopName("x"), make_fleet("a"))
    assert list(links.estimators) == [A]
    assert links.estimators[A].samples == 3
    links.handle_samples(0, [LinkSample(B, 1, 0, 80 * MS)])
    assert links.unknown == 1


HOSTILE = st.integers(0, 2**64 - 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B]),
            st.integers(-(10**18), 10**19),
            st.integers(0, 2**32 - 1),
            HOSTILE,
            st.none() | st.integers(-(10**10), 10**12),
            st.none() | HOSTILE,
            st.none() | st.integers(0, 2**33),
        ),
        max_size=60,
    )
)
def test_no_order_of_samples_and_no_clock_makes_an_estimate_that_is_none(
    rows: list[tuple[LinkName, int, int, int, int | None, int | None, int | None]],
) -> None:
    links = OwnLinks()
    links.handle_fleet(PopName("x"), make_fleet())
    for link, now_ns, sequence, sent_ns, rtt_ns, received_ns, count in rows:
        links.handle_samples(now_ns, [LinkSample(link, sequence, sent_ns, rtt_ns, received_ns, count)])
        links.handle_time(now_ns)
        for estimate in links.estimates(now_ns).values():
            times = (estimate.rtt_ms, estimate.rtt_ms_min, estimate.rtt_ms_last, estimate.rtt_ms_smoothed)
            known = (*times, estimate.rtt_ms_p95, estimate.jitter_ms, estimate.age_ms, estimate.rtt_ms_there)
            assert all(value is None or 0 <= value < float("inf") for value in known)
            assert 0 <= estimate.loss_ratio <= 1
            assert 0 <= estimate.route_loss_ratio <= 1
            assert all(0 <= window.lost <= window.sent for window in estimate.loss_windows)
