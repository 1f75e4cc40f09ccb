"""Loss of a link on the way there: windows, bounds, what the peer's count says, and what routes are charged with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.estimate import wilson
from l4proxy.core.estimate.loss import LossCounter, for_routes

S = 1_000_000_000
TOP = 1 << 32


class Way:
    """A link that is probed at a fixed interval, from some sequence and some count on."""

    def __init__(self, interval_s: float = 1.0, sequence: int = 0, received: int = 0) -> None:
        self.counter = LossCounter()
        self.interval_ns = round(interval_s * S)
        self.now_ns = 0
        self.sequence, self.received = sequence, received

    def probe(self, pattern: str) -> "Way":
        """`.` answered, `x` lost on the way there, `b` lost on the way back."""
        for fate in pattern:
            self.now_ns += self.interval_ns
            self.sequence = (self.sequence + 1) % TOP
            if fate != "x":
                self.received = (self.received + 1) % TOP
            if fate == ".":
                self.counter.handle_answer(self.now_ns, self.sequence, self.received)
            else:
                self.counter.handle_lost(self.now_ns, self.sequence)
        return self

    @property
    def counts(self) -> list[tuple[int, int]]:
        """Sent and lost in each window."""
        return [(window.sent, window.lost) for window in self.counter.windows(self.now_ns)]

    @property
    def for_routes(self) -> float:
        return for_routes(self.counter.windows(self.now_ns))


def test_wilson_bounds_are_those_of_the_formula() -> None:
    """Of the closed forms: 0 of n gives z² / (n + z²); the example of 8 of 300 was worked out by hand."""
    z = 1.645
    assert wilson(0, 300)[1] == pytest.approx(z * z / (300 + z * z))
    assert wilson(300, 300)[0] == pytest.approx(300 / (300 + z * z))
    lower, upper = wilson(8, 300)
    assert (lower, upper) == (pytest.approx(0.01509, abs=1e-5), pytest.approx(0.04671, abs=1e-5))
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(0, 5_000), st.integers(0, 5_000))
def test_bounds_enclose_the_ratio_and_stay_between_0_and_1(one: int, other: int) -> None:
    lost, sent = min(one, other), max(one, other, 1)
    lower, upper = wilson(lost, sent)
    assert 0 <= lower <= lost / sent <= upper <= 1


def test_four_windows_say_what_was_lost_in_1_10_60_and_300_seconds() -> None:
    way = Way().probe("..xx" * 5).probe("." * 302)
    assert way.counts == [(2, 0), (11, 0), (61, 0), (301, 0)]
    way.probe("x" * 5 + ".")
    assert way.counts == [(6, 5), (11, 5), (61, 5), (301, 5)]


def test_only_what_is_lost_on_the_way_there_counts() -> None:
    assert Way().probe("." + ".b.b.b.x.x" * 3 + ".").counts[-1] == (32, 6)


def test_losses_count_before_the_next_answer_says_which_way_they_were_lost() -> None:
    assert Way().probe("....bb").counts[-1] == (6, 2)
    assert Way().probe("....bb.").counts[-1] == (7, 0)


def test_losses_that_are_known_late_are_not_counted_twice() -> None:
    """At fast probes the time-out of one ends after others were answered."""
    way = Way().probe("...")
    way.counter.handle_answer(way.now_ns, 5, 4)
    way.counter.handle_lost(way.now_ns, 4)
    assert way.counts[-1] == (5, 1)


def test_what_was_overtaken_on_the_way_there_was_not_lost() -> None:
    way = Way().probe("...")
    way.counter.handle_answer(way.now_ns, 5, 4)
    assert way.counts[-1] == (5, 1)
    way.counter.handle_answer(way.now_ns, 4, 5)
    assert way.counts[-1] == (5, 0)
    way.counter.handle_answer(way.now_ns, 6, 6)
    assert way.counts[-1] == (6, 0)


def test_what_was_overtaken_on_the_way_back_changes_nothing() -> None:
    way = Way().probe("...")
    way.counter.handle_answer(way.now_ns, 5, 5)
    way.counter.handle_answer(way.now_ns, 4, 4)
    assert way.counts[-1] == (5, 0)


@pytest.mark.parametrize(("sequence", "received"), [(TOP - 10, 7), (3, TOP - 5), (TOP - 10, TOP - 5)])
def test_sequences_and_counts_go_round(sequence: int, received: int) -> None:
    way = Way(1.0, sequence, received).probe("...x" * 10 + ".")
    assert way.counts[-1] == (41, 10)
    assert way.counter.restarts == 0


def test_a_peer_that_was_started_again_counts_anew_and_nothing_was_lost() -> None:
    way = Way(received=5_000).probe("." * 20)
    way.received = 0
    way.probe("." * 20)
    assert way.counts[-1] == (40, 0)
    assert way.counter.restarts == 1


def test_a_prober_that_begins_elsewhere_counts_anew_and_nothing_was_lost() -> None:
    for sequence in (40_000, 0):
        way = Way(sequence=20_000).probe("." * 20)
        way.sequence = sequence
        way.probe("." * 20)
        assert way.counts[-1] == (40, 0)
        assert way.counter.restarts == 1


def test_a_link_without_loss_is_charged_nothing_however_seldom_it_is_probed() -> None:
    for interval_s in (0.2, 1.0, 30.0):
        assert Way(interval_s).probe("." * 20).for_routes == 0


def test_steady_loss_is_charged_with_a_little_more_than_it_is() -> None:
    """2.5 % at one probe a second: the upper bound of 7 of 301, less that of none."""
    way = Way().probe(("." * 39 + "x") * 10)
    assert way.counts[-1] == (301, 8)
    assert way.for_routes == pytest.approx(wilson(8, 301)[1] - wilson(0, 301)[1])
    assert 0.025 < way.for_routes < 0.04


def test_a_minute_without_loss_does_not_make_a_lossy_link_clean() -> None:
    """Decision 3: sixty probes miss 2.5 % in one window of five; routes must not move for that."""
    way = Way().probe(("." * 39 + "x") * 10).probe("." * 62)
    assert way.counts[2] == (61, 0)
    assert 0.015 < way.for_routes < 0.035


def test_loss_that_begins_is_charged_within_seconds() -> None:
    way = Way(0.2).probe("." * 1_500)
    assert way.for_routes == 0
    way.probe("....x" * 10)
    assert 0.2 < way.for_routes < 0.3, "20 % for ten seconds"


def test_loss_that_has_ended_is_forgiven_after_a_minute_that_proves_it() -> None:
    way = Way(0.2).probe("....x" * 300).probe("." * 250)
    assert way.for_routes > 0.02, "ten quiet seconds between two bursts prove nothing, nor fifty"
    assert way.probe("." * 60).for_routes == 0


@given(st.text("...xb", min_size=1, max_size=200), st.sampled_from([0.05, 0.2, 1.0, 30.0]))
def test_counts_are_what_really_happened_and_the_charge_is_a_ratio(pattern: str, interval_s: float) -> None:
    way = Way(interval_s, sequence=TOP - 50, received=TOP - 20).probe("." + pattern + ".")
    spans = [1, 10, 60, 300]
    for (sent, lost), seconds in zip(way.counts, spans, strict=True):
        assert 0 <= lost <= sent <= len(pattern) + 2
        if (len(pattern) + 1) * interval_s < seconds:
            assert (sent, lost) == (len(pattern) + 2, pattern.count("x"))
    assert 0 <= way.for_routes <= 1
