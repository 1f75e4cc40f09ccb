"""Slices in time order → the tables that a policy would have decided before each, and what they were worth. No table sees its slice.

A pair counts in a slice if the slice has its direct path and every link of the chosen one. A pair whose chosen path has a link that was
not measured, or that did not answer, is counted apart, and so is one without a path: `unmeasured`, `unanswered`, `unrouted`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.clairvoyant import FloorTally
from l4proxy.core.replay_policies import Policy, Settings, Slice, as_costs, policy_of
from l4proxy.core.routing import dense, guard
from l4proxy.core.routing.dense import FloatArray, Rows

LOSSY_RATIO = 0.01
"""A pair that loses so much on its direct path: beyond VIA's 1.2 % calls are poor, and three lost pings of 300 are no chance."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One slice with the table that was decided before it. Sums are over the `pairs` that count."""

    number: int
    """Of the slice, from 0; the first is never judged."""
    rows: Rows
    best: Rows
    costs: FloatArray
    """RTTs of the slice by link, inf where there is none."""
    counts: NDArray[np.bool_]
    pairs: int
    chosen_ms: float
    best_ms: float
    direct_ms: float
    routed: int
    """Pairs that had a path in the table before this one and have one; 0: this is the first table."""
    changed: int
    """Of those, the ones whose path is another."""
    changed_without_need: int
    """Of those, the ones that the policy did not have to move (`Policy.had_to`)."""
    worse: int
    """Pairs that count and were clearly slower than direct: by more than 5 % and 2 ms."""
    unmeasured: int
    unanswered: int
    unrouted: int
    lossy: "Lossy"

    @property
    def routed_pairs(self) -> NDArray[np.int64]:
        """Numbers of the pairs that have a path in the table."""
        return np.flatnonzero(self.rows[:, 0] >= 0)


@dataclass(frozen=True, slots=True)
class Lossy:
    """Sums over pairs whose direct path lost 1 % or more in the slice: RTT, and loss ratios with each pair as one."""

    pairs: int = 0
    direct_loss: float = 0.0
    chosen_loss: float = 0.0
    direct_ms: float = 0.0
    chosen_ms: float = 0.0


def replayed(slices: Iterable[Slice], settings: Settings, policy: Policy | None = None) -> Iterator[Judged]:
    """Judge each slice after the first, with the policy that `settings` names or the one that is given."""
    if policy is None:
        policy = policy_of(settings)
    before: Rows | None = None
    for number, seen in enumerate(slices):
        if number > 0:
            costs = as_costs(seen.rtt_ms)
            _, mids = dense.best_paths(costs, settings.max_transits, settings.hop_ms)
            best = dense.rows_of(costs, mids)
            rows = best if policy is None else policy.rows()
            yield _judged(number, rows, best, before, seen, costs, settings, policy)
            before = rows
        if policy is not None:
            policy.observe(seen)


def _judged(
    number: int,
    rows: Rows,
    best: Rows,
    before: Rows | None,
    seen: Slice,
    costs: FloatArray,
    settings: Settings,
    policy: Policy | None,
) -> Judged:
    flat = costs.reshape(-1)
    chosen_ms = dense.price(rows, flat, settings.hop_ms)
    best_ms = dense.price(best, flat, settings.hop_ms)
    is_pair = np.isfinite(flat)
    counts = is_pair & np.isfinite(chosen_ms)
    is_silent = dense.price(rows, np.where(np.isinf(seen.rtt_ms), np.inf, 0.0), 0.0) == np.inf
    is_routed = rows[:, 0] >= 0
    changed, needed, routed = _changes(rows, before, policy)
    return Judged(
        number=number,
        rows=rows,
        best=best,
        costs=flat,
        counts=counts,
        pairs=int(counts.sum()),
        chosen_ms=float(chosen_ms[counts].sum()),
        best_ms=float(best_ms[counts].sum()),
        direct_ms=float(flat[counts].sum()),
        routed=routed,
        changed=int(changed.sum()),
        changed_without_need=int((changed & ~needed).sum()),
        worse=int(guard.is_clearly_worse(chosen_ms[counts], flat[counts]).sum()),
        unmeasured=int((is_pair & ~counts & is_routed & ~is_silent).sum()),
        unanswered=int((is_pair & ~counts & is_routed & is_silent).sum()),
        unrouted=int((is_pair & ~is_routed).sum()),
        lossy=_lossy(rows, seen, flat, chosen_ms, counts),
    )


def _changes(
    rows: Rows, before: Rows | None, policy: Policy | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Which pairs changed their path, which of them had to, and how many had one before and have one."""
    if before is None:
        nothing = np.zeros(len(rows), np.bool_)
        return nothing, nothing, 0
    both = (rows[:, 0] >= 0) & (before[:, 0] >= 0)
    changed = both & (rows != before).any(axis=1)
    needed = np.zeros_like(changed) if policy is None else policy.had_to()
    return changed, needed, int(both.sum())


def _lossy(
    rows: Rows, seen: Slice, direct_ms: FloatArray, chosen_ms: FloatArray, counts: NDArray[np.bool_]
) -> Lossy:
    if seen.loss_ratio is None:
        return Lossy()
    loss = np.nan_to_num(seen.loss_ratio.reshape(-1), nan=0.0)
    some = np.flatnonzero(counts & (loss >= LOSSY_RATIO))
    if len(some) == 0:
        return Lossy()
    # A path delivers what every one of its links delivers: logarithms add up as costs do.
    with np.errstate(divide="ignore"):
        chosen_loss = 1 - np.exp(-dense.price(rows[some], -np.log1p(-loss), 0.0))
    return Lossy(
        pairs=len(some),
        direct_loss=float(loss[some].sum()),
        chosen_loss=float(chosen_loss.sum()),
        direct_ms=float(direct_ms[some].sum()),
        chosen_ms=float(chosen_ms[some].sum()),
    )


_SUMMED = (
    "best_ms",
    "chosen_ms",
    "direct_ms",
    "pairs",
    "routed",
    "changed",
    "changed_without_need",
    "worse",
    "unmeasured",
    "unanswered",
    "unrouted",
)
_SUMMED_LOSSY = ("pairs", "direct_loss", "chosen_loss", "direct_ms", "chosen_ms")


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out, over all judged slices; ratios as `l4proxy route replay --help` defines them. None: nothing to divide by."""

    slices: int
    pairs: int
    """Pairs that count in at least one slice."""
    regret_ratio: float | None
    direct_regret_ratio: float | None
    gain_captured_ratio: float | None
    changed_ratio: float | None
    changed_without_need_ratio: float | None
    worse_than_direct_ratio: float | None
    clairvoyant_regret_ratio: float | None
    clairvoyant_pairs_ratio: float | None
    """The share of pairs that it was computed on."""
    unmeasured: int
    unanswered: int
    unrouted: int
    lossy_pairs: int
    """Pairs and slices with 1 % loss or more on the direct path."""
    loss_removed_ratio: float | None
    lossy_rtt_ratio: float | None
    """Chosen over direct RTT of those."""


class Tally:
    """Adds judged slices up, and keeps of them what the clairvoyant floor needs: a bounded part."""

    def __init__(self, settings: Settings, pops: int, slices: int) -> None:
        self._settings = settings
        self._sums = dict.fromkeys(_SUMMED, 0.0)
        self._lossy = dict.fromkeys(_SUMMED_LOSSY, 0.0)
        self._slices = 1
        self._counted = np.zeros(pops * pops, np.bool_)
        self._floor = FloorTally(pops, max(0, slices - 1), settings.hop_ms, settings.max_transits)

    def add(self, one: Judged) -> None:
        """Take the next judged slice."""
        self._slices += 1
        for name in _SUMMED:
            self._sums[name] += getattr(one, name)
        for name in _SUMMED_LOSSY:
            self._lossy[name] += getattr(one.lossy, name)
        self._counted |= one.counts
        self._floor.add(one.rows, one.best, one.costs, one.counts)

    def figures(self) -> Figures:
        """Return what came out so far."""
        sums, lossy = self._sums, self._lossy
        best, chosen, direct = sums["best_ms"], sums["chosen_ms"], sums["direct_ms"]
        floor = self._floor.regret_ratio(
            sums["changed"] / self._counted.sum() if self._counted.any() else 0.0
        )
        return Figures(
            slices=self._slices,
            pairs=int(self._counted.sum()),
            regret_ratio=_over(chosen - best, best),
            direct_regret_ratio=_over(direct - best, best),
            # A hundred-millionth of the RTT is what sums of the same numbers in another order differ by, no gain.
            gain_captured_ratio=_over(
                direct - chosen, direct - best if direct - best > 1e-8 * direct else 0.0
            ),
            changed_ratio=_over(sums["changed"], sums["routed"]),
            changed_without_need_ratio=_over(sums["changed_without_need"], sums["routed"]),
            worse_than_direct_ratio=_over(sums["worse"], sums["pairs"]),
            clairvoyant_regret_ratio=floor,
            clairvoyant_pairs_ratio=self._floor.pairs_ratio,
            unmeasured=int(sums["unmeasured"]),
            unanswered=int(sums["unanswered"]),
            unrouted=int(sums["unrouted"]),
            lossy_pairs=int(lossy["pairs"]),
            loss_removed_ratio=_over(lossy["direct_loss"] - lossy["chosen_loss"], lossy["direct_loss"]),
            lossy_rtt_ratio=_over(lossy["chosen_ms"], lossy["direct_ms"]),
        )


def _over(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
