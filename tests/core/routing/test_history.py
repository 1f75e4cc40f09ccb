"""Levels: what one value a link and interval makes of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.routing.history import History, HistoryRules, both_ways, doubt, is_fresh, observed, spread

RULES = HistoryRules()
NONE = float("nan")


def seen(*series: list[float]) -> History:
    """The history of as many links as there are series, all of one length."""
    history = History.of(len(series))
    for values in zip(*series, strict=True):
        history = observed(history, np.array(values), RULES)
    return history


def noisy(level: float, count: int, seed: int) -> list[float]:
    """Values that stray by a hundredth."""
    return (level * (1 + 0.01 * np.random.default_rng(seed).standard_normal(count))).tolist()


def test_a_spike_counts_with_its_share_and_the_next_values_forget_it() -> None:
    """A link that is slow one time in five costs a fifth of that each time; and one spike is no shift."""
    spiked = noisy(100, 20, 1)
    spiked[-1] = 600.0
    after = seen(spiked)
    assert abs(after.level[0] - 200) < 3
    assert after.beyond[0] == 1
    assert abs(seen(spiked + noisy(100, 10, 2)).level[0] - 100) < 12


def test_a_shift_that_stays_is_followed_after_two_values() -> None:
    history = seen(*[noisy(100, 20, seed) + noisy(130, 2, seed) for seed in range(5)])
    assert np.all(np.abs(history.level - 130) < 5)


def test_a_shift_back_down_is_followed_as_well() -> None:
    history = seen(*[noisy(130, 20, seed) + noisy(100, 2, seed) for seed in range(5)])
    assert np.all(np.abs(history.level - 100) < 5)


def test_few_values_are_averaged_evenly() -> None:
    history = seen([100, 101, 102], [50, 50.5, 51])
    assert np.allclose(history.level, [101, 50.5])


def test_holes_change_nothing_but_the_silence() -> None:
    full, holed = seen(noisy(100, 10, 1)), seen([*noisy(100, 10, 1), NONE, NONE])
    assert full.level[0] == holed.level[0]
    assert holed.silent[0] == 2
    assert is_fresh(holed, RULES)[0]
    assert not is_fresh(observed(holed, np.array([NONE]), RULES), RULES)[0]
    assert not is_fresh(History.of(1), RULES)[0]


def test_a_wild_link_is_doubted_more_than_a_calm_one_and_each_less_with_every_value() -> None:
    wild = [100.0, 160.0, 90.0, 140.0, 85.0, 170.0, 100.0, 150.0]
    both = seen(noisy(100, 8, 1), wild)
    assert spread(both, RULES)[1] > 3 * spread(both, RULES)[0]
    assert doubt(seen(noisy(100, 8, 1)), RULES)[0] < doubt(seen(noisy(100, 2, 1)), RULES)[0]


def test_both_directions_of_a_pair_are_averaged_as_far_as_chance_explains_their_difference() -> None:
    """A round trip is the same one from either end, so one end's lucky value must not make a path look short."""
    reverse = np.array([1, 0, 3, 2], np.int32)
    near = seen(noisy(100, 6, 1), noisy(100.5, 6, 2), noisy(100, 6, 3), noisy(150, 6, 4))
    level = both_ways(near, reverse, RULES)
    assert abs(level[0] - level[1]) < abs(near.level[0] - near.level[1])
    assert abs(level[2] - near.level[2]) < 1
    assert abs(level[3] - near.level[3]) < 1


def test_a_link_without_a_reverse_keeps_its_level() -> None:
    history = seen([100.0, 101.0], [50.0, 50.0])
    assert both_ways(history, np.array([-1, -1], np.int32), RULES).tolist() == history.level.tolist()


@given(
    st.lists(
        st.lists(st.one_of(st.floats(0.01, 1e4), st.just(NONE)), min_size=3, max_size=3),
        min_size=1,
        max_size=30,
    )
)
def test_a_level_never_leaves_the_range_of_its_values(rows: list[list[float]]) -> None:
    history = History.of(3)
    for row in rows:
        history = observed(history, np.array(row), RULES)
    values = np.array(rows)
    for link in range(3):
        known = values[:, link][~np.isnan(values[:, link])]
        if len(known) == 0:
            assert np.isnan(history.level[link])
        else:
            assert known.min() - 1e-6 <= history.level[link] <= known.max() + 1e-6
            assert spread(history, RULES)[link] >= 0
