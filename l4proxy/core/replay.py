"""Slices in time order → what a policy would have chosen before each, and what that was worth. The table for a slice never saw the slice.

A pair counts in a slice if its direct path was measured there and the chosen path can be priced from what was measured. Paths that the
slice says nothing of, or that did not answer in it, are counted apart.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from l4proxy.core.replay_policies import Direct, Ours, Policy, Settings, Slice, Smoothed, as_costs
from l4proxy.core.routing import dense, guard
from l4proxy.core.routing.dense import Rows

POLICIES = {
    "ours": "what the daemon does",
    "last": "the best path of the last slice",
    "ewma": "the best path by a mean with weight 0.25 of the newest slice",
    "ewma-hysteresis": "the same, left only for a path that is better by 5 % and 2 ms",
    "direct": "never a detour",
    "oracle": "the best path of the slice itself",
}
"""Names and what they are."""


def policy_of(settings: Settings) -> Policy | None:
    """Return a new policy by name; None: the oracle, which sees what it is judged on."""
    match settings.policy:
        case "ours":
            return Ours(settings)
        case "last":
            return Smoothed(settings, weight=1.0)
        case "ewma":
            return Smoothed(settings, weight=0.25)
        case "ewma-hysteresis":
            return Smoothed(settings, weight=0.25, margin_ratio=0.05, margin_ms=2.0)
        case "direct":
            return Direct(settings)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Judged:
    """Sums over the pairs of one slice that count."""

    number: int
    rows: Rows
    pairs: int
    chosen_ms: float
    best_ms: float
    direct_ms: float
    changed: int
    rows_before: int
    worse: int
    unknown: int
    unanswered: int


def replayed(slices: Iterable[Slice], settings: Settings, policy: Policy | None = None) -> Iterator[Judged]:
    """Judge each slice after the first."""
    policy = policy if policy is not None else policy_of(settings)
    before: Rows | None = None
    for number, seen in enumerate(slices):
        costs = as_costs(seen.rtt_ms)
        if number > 0:
            best_ms, mids = dense.best_paths(costs, settings.max_transits, settings.hop_ms)
            rows = dense.rows_of(costs, mids) if policy is None else policy.rows()
            yield _judged(number, rows, before, costs, seen, best_ms.reshape(-1), settings)
            before = rows
        if policy is not None:
            policy.observe(seen)


def _judged(number, rows, before, costs, seen, best_ms, settings):
    direct_ms = costs.reshape(-1)
    chosen_ms = dense.price(rows, costs, settings.hop_ms)
    is_pair = np.isfinite(direct_ms)
    counts = is_pair & np.isfinite(chosen_ms)
    changed = np.zeros(len(rows), bool) if before is None else (rows != before).any(axis=1) & (rows[:, 0] >= 0) & (before[:, 0] >= 0)
    return Judged(number, rows, int(counts.sum()), chosen_ms[counts].sum(), best_ms[counts].sum(), direct_ms[counts].sum(),
        int(changed.sum()), 0 if before is None else int((before[:, 0] >= 0).sum()),
        int(guard.is_clearly_worse(chosen_ms[counts], direct_ms[counts]).sum()), int((is_pair & ~counts).sum()), 0)
