"""Best paths over a matrix, against trying every path."""

from itertools import pairwise, permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l4proxy.core.routing import dense

HOP_MS = 1.0


def brute(costs: np.ndarray, source: int, end: int, max_transits: int) -> float:
    """The cheapest of all paths without a loop."""
    others = [pop for pop in range(len(costs)) if pop not in (source, end)]
    found = [float(costs[source, end])]
    for transits in range(1, max_transits + 1):
        for mids in permutations(others, transits):
            stops = (source, *mids, end)
            links = [costs[a, b] for a, b in pairwise(stops)]
            found.append(float(sum(links)) + transits * HOP_MS)
    return min(found)


costs_of_six = arrays(
    np.float64, (6, 6), elements=st.one_of(st.integers(1, 300).map(float), st.just(float("inf")))
)


@given(costs_of_six, st.integers(0, 3))
def test_the_best_path_of_every_pair_is_the_cheapest_of_all_and_has_no_loop(
    matrix: np.ndarray, max_transits: int
) -> None:
    np.fill_diagonal(matrix, np.inf)
    cost, mids = dense.best_paths(matrix, max_transits, HOP_MS)
    rows = dense.rows_of(cost, mids)
    assert np.allclose(dense.price(rows, matrix, HOP_MS), np.where(rows[:, 0] >= 0, cost.reshape(-1), np.inf))
    for source in range(6):
        for end in range(6):
            if source == end:
                assert rows[source * 6 + end, 0] == -1
                continue
            assert np.isclose(cost[source, end], brute(matrix, source, end, max_transits)) or (
                np.isinf(cost[source, end]) and np.isinf(brute(matrix, source, end, max_transits))
            )
            if np.isinf(cost[source, end]):
                assert rows[source * 6 + end, 0] == -1
                continue
            passed = [pop for pop in dense.pops_of(rows, 6)[source * 6 + end].tolist() if pop >= 0]
            assert (passed[0], passed[-1]) == (source, end)
            assert len(set(passed)) == len(passed)


def test_of_equal_paths_the_one_with_fewer_links_and_then_with_lower_transits_is_taken() -> None:
    """Two PoPs with the same records must find the same path."""
    matrix = np.full((4, 4), 10.0)
    np.fill_diagonal(matrix, np.inf)
    matrix[0, 3] = 21.0
    _, mids = dense.best_paths(matrix, 2, HOP_MS)
    assert mids[0, 3].tolist() == [-1, -1]
    matrix[0, 3] = 30.0
    _, mids = dense.best_paths(matrix, 2, HOP_MS)
    assert mids[0, 3].tolist() == [1, -1]
