"""When smart routing has proved that it pays, and when that is taken back."""

import pytest

from l4proxy.core.routing.proof import LEAST_PROOF, Gain, Proof
from l4proxy.core.routing.raw import INTERVALS


def proof(*parts: tuple[int, float, float]) -> Proof:
    """Return what so many intervals each of smart and off costs prove, one after the other."""
    made = Proof()
    for count, smart_ms, off_ms in parts:
        for _ in range(count):
            made.add(smart_ms, off_ms)
    return made


def test_a_gain_is_proved_after_five_minutes_and_not_before() -> None:
    assert not proof((LEAST_PROOF - 1, 100.0, 150.0)).is_proved
    assert proof((LEAST_PROOF, 100.0, 150.0)).is_proved


@pytest.mark.parametrize("off_ms", [100.0, 101.9, 104.9, 90.0])
def test_a_difference_that_may_be_chance_proves_nothing(off_ms: float) -> None:
    assert not proof((INTERVALS, 100.0, off_ms)).is_proved


def test_a_direct_path_with_a_bad_tail_is_proof_as_well() -> None:
    made = Proof()
    for number in range(INTERVALS):
        made.add(100.0, 300.0 if number % 10 == 0 else 100.0)
    assert made.is_proved
    assert made.gain() == Gain(INTERVALS, 100.0, 100.0, 100.0, 300.0)


def test_what_is_proved_ends_when_it_does_harm_and_when_it_gains_nothing_any_more() -> None:
    harmed = proof((INTERVALS, 100.0, 150.0), (4, 160.0, 150.0))
    assert harmed.is_proved
    harmed.add(160.0, 150.0)
    assert not harmed.is_proved, "the 95th percentile is clearly slower than that of off"
    assert not proof((INTERVALS, 100.0, 150.0), (INTERVALS, 100.0, 100.0)).is_proved
    assert proof((INTERVALS, 100.0, 150.0), (INTERVALS, 100.0, 103.0)).is_proved, "less is enough to stay"


def test_an_interval_in_which_one_is_not_known_says_nothing() -> None:
    made = proof((INTERVALS, float("nan"), 150.0), (INTERVALS, 100.0, float("inf")))
    assert (made.is_proved, made.gain()) == (False, Gain(0))
