"""The guard: which detours are refused."""

import numpy as np
import pytest

from l4proxy.core.routing.guard import GuardRules, is_clearly_worse, is_slower, refused

RULES = GuardRules()


def verdict(path: list[float], direct: list[float]) -> bool:
    """Whether a detour with these values of the last intervals is refused."""
    return bool(refused(np.array(path)[:, None], np.array(direct)[:, None], RULES)[0])


@pytest.mark.parametrize(
    ("path", "direct", "is_refused"),
    [
        ([80.0] * 12, [100.0] * 12, False),
        ([101.0] * 12, [100.0] * 12, True),
        ([80.0] * 10 + [120.0] * 2, [100.0] * 12, True),
        ([80.0] * 11 + [120.0], [100.0] * 12, True),
        ([80.0] * 11 + [104.0], [100.0] * 12, False),
        ([80.0] * 11 + [1000.0], [100.0] * 11 + [1000.0], False),
        ([float("nan")] * 12, [100.0] * 12, False),
        ([80.0] * 6 + [float("nan")] * 6, [100.0] * 12, False),
    ],
)
def test_a_detour_is_refused_when_it_was_slower_in_the_middle_the_tail_or_too_often(
    path: list[float], direct: list[float], is_refused: bool
) -> None:
    assert verdict(path, direct) is is_refused


def test_clearly_worse_is_five_per_cent_and_two_milliseconds() -> None:
    path, direct = np.array([104.0, 106.0, 11.9, 12.1, np.nan]), np.array([100.0, 100.0, 10.0, 10.0, 1.0])
    assert is_clearly_worse(path, direct).tolist() == [False, True, False, True, False]


def test_without_a_window_nothing_is_refused() -> None:
    assert not refused(np.zeros((0, 3)), np.zeros((0, 3)), RULES).any()


def test_a_detour_is_slower_when_it_is_in_the_median() -> None:
    path, direct = np.array([[80.0, 101.0, np.nan]] * 3 + [[500.0, 80.0, np.nan]]), np.full((4, 3), 100.0)
    assert is_slower(path, direct).tolist() == [False, True, False]
