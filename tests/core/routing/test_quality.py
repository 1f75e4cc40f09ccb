"""Jitter and loss of slices, and what they cost."""

import numpy as np
import pytest

from l4proxy.core.routing.quality import Quality


def test_one_lost_probe_of_300_costs_nothing_and_five_per_cent_do_at_once() -> None:
    known = np.ones(2, np.bool_)
    quality = Quality.of(2).observed(None, np.array([1 / 300, 0.05]), known)
    costs = quality.costs(np.array([100.0, 100.0]), "game")
    assert costs[0] == 100
    assert costs[1] > 120


def test_loss_that_stays_is_believed_more_with_every_slice() -> None:
    known, quality, costs = np.ones(1, np.bool_), Quality.of(1), []
    for _ in range(5):
        quality = quality.observed(np.array([1.0]), np.array([0.01]), known)
        costs.append(float(quality.costs(np.array([100.0]), "game")[0]))
    assert costs == sorted(costs)
    assert quality.jitter_ms[0] == pytest.approx(1)
