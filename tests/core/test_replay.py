"""Replay: tables from earlier slices alone, and figures as they are defined."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.replay import Figures, Judged, Tally, replayed
from l4proxy.core.replay_policies import POLICIES, Ours, Settings, Slice, policy_of
from l4proxy.core.routing import dense

NAN, INF = float("nan"), float("inf")
DETERMINISTIC = [name for name in POLICIES if name != "oracle"]


def slice_of(rtt_ms: np.ndarray) -> Slice:
    """A slice without jitter and loss; the diagonal does not count."""
    matrix = np.array(rtt_ms, np.float64)
    np.fill_diagonal(matrix, NAN)
    return Slice(matrix)


def noisy(pops: int, count: int, seed: int) -> list[Slice]:
    """Random matrices with holes, silences and spikes."""
    dice = np.random.default_rng(seed)
    base = dice.uniform(5, 200, (pops, pops))
    slices = []
    for _ in range(count):
        matrix = base * np.exp(dice.normal(0, 0.1, base.shape))
        matrix = np.where(dice.random(base.shape) < 0.05, matrix * 10, matrix)
        matrix = np.where(dice.random(base.shape) < 0.05, NAN, matrix)
        slices.append(slice_of(np.where(dice.random(base.shape) < 0.05, INF, matrix)))
    return slices


def all_of(slices: list[Slice], **settings: object) -> tuple[list[Judged], Figures]:
    """Replay, and sum up."""
    given = Settings(**settings)  # type: ignore[arg-type]
    tally = Tally(given, len(slices[0].rtt_ms), len(slices))
    judged = list(replayed(slices, given))
    for one in judged:
        tally.add(one)
    return judged, tally.figures()


@pytest.mark.parametrize("name", DETERMINISTIC)
@given(seed=st.integers(0, 1000), at=st.integers(1, 5))
def test_a_table_does_not_depend_on_its_slice_or_later_ones(name: str, seed: int, at: int) -> None:
    """Whatever a replay knows of the slice that it judges makes its figures worthless."""
    known, other = noisy(6, 6, seed), noisy(6, 6, seed + 5000)
    mixed = known[:at] + other[at:]
    settings = Settings(policy=name)
    before = [one.rows for one in replayed(known, settings)][:at]
    after = [one.rows for one in replayed(mixed, settings)][:at]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@given(seed=st.integers(0, 1000), transits=st.integers(0, 3), name=st.sampled_from(list(POLICIES)))
def test_every_path_goes_from_its_pair_to_its_end_without_a_loop(seed: int, transits: int, name: str) -> None:
    for one in replayed(noisy(6, 5, seed), Settings(policy=name, max_transits=transits)):
        for pair in one.routed_pairs.tolist():
            passed = [pop for pop in dense.pops_of(one.rows[pair : pair + 1], 6)[0].tolist() if pop >= 0]
            assert (passed[0], passed[-1]) == divmod(pair, 6)
            assert len(set(passed)) == len(passed) <= transits + 2
            ends = [link % 6 for link in one.rows[pair].tolist() if link >= 0]
            starts = [link // 6 for link in one.rows[pair].tolist() if link >= 0]
            assert starts[1:] == ends[:-1]


def test_the_same_slices_give_the_same_tables() -> None:
    slices = noisy(8, 6, 3)
    first, second = ([one.rows for one in replayed(slices, Settings())] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


LINE = np.array([[NAN, 100, 30], [100, NAN, 40], [30, 40, NAN]])
"""The first two PoPs reach each other faster through the third: 30 + 40 + 1 ms."""


def test_figures_are_what_their_definitions_say() -> None:
    worse = LINE.copy()
    worse[0, 2] = 90
    _, found = all_of([slice_of(LINE), slice_of(worse), slice_of(LINE)], traffic="rtt", policy="last")
    # Slice 2: 0→1 goes over 2 and takes 131 where direct takes 100; 1→0 takes 71. Slice 3: both were decided from slice 2.
    best = (100 + 71 + 90 + 40 + 30 + 40) + (71 + 71 + 30 + 40 + 30 + 40)
    direct = (100 + 100 + 90 + 40 + 30 + 40) + (100 + 100 + 30 + 40 + 30 + 40)
    chosen = (131 + 71 + 90 + 40 + 30 + 40) + (100 + 71 + 30 + 40 + 30 + 40)
    assert found.regret_ratio == pytest.approx(chosen / best - 1)
    assert found.direct_regret_ratio == pytest.approx(direct / best - 1)
    assert found.gain_captured_ratio == pytest.approx((direct - chosen) / (direct - best))
    assert found.changed_ratio == pytest.approx(1 / 6)
    assert found.worse_than_direct_ratio == pytest.approx(1 / 12)
    assert (found.slices, found.pairs) == (3, 6)


def test_the_oracle_has_no_regret_and_direct_captures_nothing() -> None:
    slices = noisy(8, 5, 1)
    assert all_of(slices, policy="oracle")[1].regret_ratio == 0
    found = all_of(slices, policy="direct")[1]
    assert found.gain_captured_ratio == 0
    assert found.regret_ratio == found.direct_regret_ratio


def test_on_a_still_matrix_all_gain_is_captured_and_nothing_changes() -> None:
    upper = np.triu(noisy(12, 1, 5)[0].rtt_ms, 1)
    _, found = all_of([slice_of(upper + upper.T)] * 6, traffic="rtt")
    assert found.gain_captured_ratio == pytest.approx(1)
    assert found.regret_ratio == pytest.approx(0)
    assert found.changed_ratio == 0


def test_where_directions_differ_for_good_little_gain_is_lost() -> None:
    """Of one value a direction nobody can tell whether they differ by chance."""
    _, found = all_of([noisy(12, 1, 5)[0]] * 6, traffic="rtt")
    assert found.gain_captured_ratio is not None
    assert found.gain_captured_ratio > 0.995


def test_min_gain_keeps_pairs_on_direct() -> None:
    judged, _ = all_of([slice_of(LINE)] * 3, traffic="rtt", min_gain_ms=30.0)
    assert all((one.rows[one.routed_pairs, 1] < 0).all() for one in judged)
    judged, _ = all_of([slice_of(LINE)] * 3, traffic="rtt", min_gain_ms=29.0)
    assert all((one.rows[one.routed_pairs, 1] >= 0).sum() == 2 for one in judged)


def test_a_pair_that_did_not_answer_is_led_around() -> None:
    dead = LINE.copy()
    dead[0, 2] = INF
    judged, _ = all_of([slice_of(LINE), slice_of(dead), slice_of(dead)], traffic="rtt")
    assert judged[0].unanswered == 1
    assert judged[1].rows[1].tolist() == [1, -1, -1, -1]
    assert (judged[1].changed, judged[1].changed_without_need) == (2, 0)
    assert judged[1].rows[2].tolist() == [1, 5, -1, -1]


def test_a_hole_moves_nothing_and_an_absence_does() -> None:
    hole = LINE.copy()
    hole[0, 2] = NAN
    judged, _ = all_of([slice_of(LINE)] + [slice_of(hole)] * 5, traffic="rtt")
    over_third = [one.rows[1].tolist() == [2, 7, -1, -1] for one in judged]
    assert over_third == [True, True, True, False, False]
    assert [one.unmeasured for one in judged] == [1, 1, 1, 0, 0]


def test_a_new_pop_has_no_path_before_it_was_seen() -> None:
    absent = LINE.copy()
    absent[:, 1] = absent[1, :] = NAN
    judged, _ = all_of([slice_of(absent), slice_of(LINE), slice_of(LINE)])
    assert [one.unrouted for one in judged] == [4, 0]


def test_loss_counts_in_the_classes_that_feel_it() -> None:
    loss = np.zeros((3, 3))
    loss[0, 2] = 0.05
    rtt = np.array([[NAN, 20, 30], [20, NAN, 20], [30, 20, NAN]])
    lossy = [Slice(rtt, np.zeros((3, 3)), loss)] * 3
    for traffic, expected in (("rtt", [2, -1, -1, -1]), ("voip", [1, 5, -1, -1]), ("game", [1, 5, -1, -1])):
        judged, found = all_of(lossy, traffic=traffic)
        assert judged[0].rows[2].tolist() == expected
        assert found.loss_removed_ratio == pytest.approx(0 if traffic == "rtt" else 1)
        assert found.lossy_pairs == 2


def spiked(count: int) -> list[Slice]:
    """A calm matrix, in which one link of a detour has a single spike."""
    spike = LINE.copy()
    spike[0, 2] = 60
    return [slice_of(LINE)] * 5 + [slice_of(spike)] + [slice_of(LINE)] * count


def test_a_spike_below_what_direct_takes_moves_nothing() -> None:
    judged, _ = all_of(spiked(4), traffic="rtt")
    assert sum(one.changed for one in judged) == 0


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_policy_answers_before_and_after_slices(name: str) -> None:
    policy = policy_of(Settings(policy=name))
    assert policy is not None
    assert len(policy.rows()) == len(policy.had_to()) == 0
    policy.observe(slice_of(LINE))
    assert policy.rows().shape == (9, 4)
    assert policy.had_to().shape == (9,)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no policy best"):
        policy_of(Settings(policy="best"))


def test_changes_a_slice_stay_within_the_budget() -> None:
    rules = Ours(Settings()).rules.changes
    dice = np.random.default_rng(2)
    base = dice.uniform(5, 200, (20, 20))
    slices = [slice_of(base * np.exp(dice.normal(0, 0.3, base.shape))) for _ in range(30)]
    judged, _ = all_of(slices, traffic="rtt")
    pairs = 20 * 19
    most = rules.budget_ratio * pairs * (rules.budget_rounds + len(judged))
    assert 0 < sum(one.changed for one in judged) <= most


@given(seed=st.integers(0, 300))
def test_the_clairvoyant_floor_is_below_what_was_had(seed: int) -> None:
    slices = noisy(7, 8, seed)
    run: Callable[..., tuple[list[Judged], Figures]] = all_of
    judged, found = run(
        [Slice(np.where(np.isinf(one.rtt_ms), 500.0, one.rtt_ms)) for one in slices], traffic="rtt"
    )
    assert found.regret_ratio is not None
    assert found.clairvoyant_regret_ratio is not None
    assert found.clairvoyant_pairs_ratio == 1
    if len({one.rows.tobytes() for one in judged}) <= 2 and not found.unmeasured:
        assert -1e-6 <= found.clairvoyant_regret_ratio <= found.regret_ratio + 1e-6
