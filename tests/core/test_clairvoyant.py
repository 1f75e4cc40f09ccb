"""The clairvoyant floor: against trying every sequence of paths."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core import clairvoyant
from l4proxy.core.clairvoyant import FloorTally
from l4proxy.core.routing import dense


def tally_of(matrices: list[np.ndarray], hop_ms: float = 1.0) -> FloorTally:
    """A tally of these slices; the judged table is always direct."""
    pops = len(matrices[0])
    tally = FloorTally(pops, len(matrices), hop_ms, 1)
    for matrix in matrices:
        costs, mids = dense.best_paths(matrix, 1, hop_ms)
        tally.add(
            dense.direct_rows(matrix),
            dense.rows_of(costs, mids),
            matrix.reshape(-1),
            np.isfinite(matrix.reshape(-1)),
        )
    return tally


def random_matrices(seed: int, pops: int = 4, slices: int = 4) -> list[np.ndarray]:
    """Costs that change from slice to slice."""
    dice = np.random.default_rng(seed)
    found = dice.uniform(1, 100, (slices, pops, pops))
    for matrix in found:
        np.fill_diagonal(matrix, np.inf)
    return list(found)


@given(st.integers(0, 200))
def test_with_as_many_changes_as_one_likes_there_is_no_regret_and_without_any_that_of_the_best_single_path(
    seed: int,
) -> None:
    matrices = random_matrices(seed)
    tally = tally_of(matrices)
    free, fixed = tally.regret_ratio(100.0), tally.regret_ratio(0.0)
    assert free == pytest.approx(0, abs=1e-6)
    best = least = 0.0
    for source, end in product(range(4), range(4)):
        if source == end:
            continue
        paths = [[(source, end)]] + [
            [(source, mid), (mid, end)] for mid in range(4) if mid not in (source, end)
        ]
        sums = [sum(sum(m[link] for link in path) + len(path) - 1 for m in matrices) for path in paths]
        least += min(sums)
        best += sum(min(sum(m[link] for link in path) + len(path) - 1 for path in paths) for m in matrices)
    # Candidates are each slice's best paths: what is never the best of a slice nor of all may be missing.
    assert fixed is not None
    assert fixed >= least / best - 1 - 1e-6


def test_a_fleet_beyond_the_bounds_is_sampled_and_beyond_that_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrices = random_matrices(1, pops=6)
    monkeypatch.setattr(clairvoyant, "MAX_CELLS", 600)
    tally = tally_of(matrices)
    assert tally.pairs_ratio is not None
    assert 0 < tally.pairs_ratio < 1
    assert tally.regret_ratio(1.0) is not None
    monkeypatch.setattr(clairvoyant, "MAX_LINK_VALUES", 10)
    tally = tally_of(matrices)
    assert (tally.pairs_ratio, tally.regret_ratio(1.0)) == (None, None)


def test_nothing_judged_has_no_floor() -> None:
    assert FloorTally(3, 0, 1.0, 1).regret_ratio(0.0) is None
