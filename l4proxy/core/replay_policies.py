"""Policies that `route replay` can be asked for: each sees slices one by one, and says before the next which path every pair takes.

`ours` is what the daemon does, over all pairs. The others are the simple rules that it is held against.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from l4proxy.core import cost
from l4proxy.core.app import TrafficClass
from l4proxy.core.routing import dense, guard, history, switching
from l4proxy.core.routing.dense import FloatArray, Rows

@dataclass(frozen=True, slots=True)
class Slice:
    """One value a directed pair of n PoPs, [n, n] each. `rtt_ms`: NaN where a pair was not measured, inf where it did not answer."""

    rtt_ms: FloatArray
    jitter_ms: FloatArray | None = None
    """NaN where not known, as in `loss_ratio`; None: of no pair."""
    loss_ratio: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What a replay is about."""

    traffic: TrafficClass = "bulk"
    interval_ns: int = 600_000_000_000
    hop_ms: float = 1.0
    max_transits: int = 2
    min_gain_ms: float = 0.0
    policy: str = "ours"


class Policy(Protocol):
    """Decides for all n · n pairs, those of a PoP with itself included (they never have a path)."""

    def observe(self, seen: Slice) -> None:
        """Take one more slice."""

    def rows(self) -> Rows:
        """Return the table for the next slice: [n · n, 4] link numbers."""

    def had_to(self) -> NDArray[np.bool_]:
        """Return which pairs left a path that could not be used, or that the guard refused."""


def as_costs(rtt_ms: FloatArray) -> FloatArray:
    """Return RTTs as costs: inf where there is none, and from a PoP to itself."""
    costs = np.where(np.isnan(rtt_ms), np.inf, rtt_ms)
    np.fill_diagonal(costs, np.inf)
    return costs


@dataclass(slots=True)
class Direct:
    """Always the direct path."""

    _rows: Rows | None = None

    def observe(self, seen: Slice) -> None:
        """Nothing is learnt."""
        n = len(seen.rtt_ms)
        self._rows = dense.direct_rows(as_costs(np.ones((n, n))))

    def rows(self) -> Rows:
        """Return direct paths."""
        assert self._rows is not None, "a slice is seen first"
        return self._rows

    def had_to(self) -> NDArray[np.bool_]:
        """Return which pairs had no choice: not told apart."""
        return np.zeros(len(self.rows()), np.bool_)


@dataclass(slots=True)
class Smoothed:
    """The best path by an exponentially weighted mean; left only for one that is better by both margins."""

    settings: Settings
    weight: float
    margin_ratio: float = 0.0
    margin_ms: float = 0.0
    _mean: FloatArray | None = None
    _rows: Rows | None = None

    def observe(self, seen: Slice) -> None:
        """Take one more slice."""
        values = np.where(np.isfinite(seen.rtt_ms), seen.rtt_ms, np.nan)
        mean = values if self._mean is None else self._mean + self.weight * (values - self._mean)
        mean = np.where(np.isnan(mean), values if self._mean is None else np.where(np.isnan(values), self._mean, values), mean)
        self._mean = mean
        costs = as_costs(np.where(np.isinf(seen.rtt_ms), np.nan, mean))
        _, mids = dense.best_paths(costs, self.settings.max_transits, self.settings.hop_ms)
        best = dense.rows_of(costs, mids)
        if self._rows is None:
            self._rows = best
            return
        current_ms = dense.price(self._rows, costs, self.settings.hop_ms)
        best_ms = dense.price(best, costs, self.settings.hop_ms)
        with np.errstate(invalid="ignore"):
            saved = current_ms - best_ms
        moves = (saved > self.margin_ms) & (saved > self.margin_ratio * current_ms) | (
            np.isinf(current_ms) & np.isfinite(best_ms)
        )
        self._rows = np.where(moves[:, None], best, self._rows)

    def rows(self) -> Rows:
        """Return the table."""
        assert self._rows is not None, "a slice is seen first"
        return self._rows

    def had_to(self) -> NDArray[np.bool_]:
        """Return which pairs had no choice: not told apart."""
        return np.zeros(len(self.rows()), np.bool_)


LOSS_PROBES = 300
"""What a slice's loss is taken to be counted from: ten minutes at a probe every two seconds."""

CERTAIN = 1.64
"""Deviations of a count that its mean is taken to be less by: 95 % of counts are not further above what is true."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Jitter and loss of links by the slices so far; loss counts as far as it cannot be chance: one lost probe in 300 says nothing."""

    jitter_ms: FloatArray
    loss_ratio: FloatArray
    seen: NDArray[np.int32]
    weight: float = 0.15

    @classmethod
    def of(cls, links: int) -> "Quality":
        """Return what is known of links that were never measured."""
        return cls(np.zeros(links), np.zeros(links), np.zeros(links, np.int32))

    def observed(self, seen: Slice, known: NDArray[np.bool_]) -> "Quality":
        """Return what is known after one more slice; `known`: links that answered."""
        count = self.seen + known.astype(np.int32)
        share = np.where(known, np.maximum(1.0 / np.maximum(count, 1), self.weight), 0.0)

        def moved(before: FloatArray, values: FloatArray | None) -> FloatArray:
            return before if values is None else before + share * (np.nan_to_num(values.reshape(-1)) - before)

        return Quality(moved(self.jitter_ms, seen.jitter_ms), moved(self.loss_ratio, seen.loss_ratio), count)

    def costs(self, rtt_ms: FloatArray, traffic: TrafficClass) -> FloatArray:
        """Return the cost of each link in ms-equivalents."""
        probes = LOSS_PROBES * np.maximum(1, np.minimum(self.seen, 1 / self.weight))
        certain = np.maximum(0.0, self.loss_ratio - CERTAIN * np.sqrt(self.loss_ratio / probes))
        return _class_costs(rtt_ms, self.jitter_ms, np.minimum(certain, cost.MAX_LOSS), traffic)


def _class_costs(rtt_ms: FloatArray, jitter_ms: FloatArray, loss: FloatArray, traffic: TrafficClass) -> FloatArray:
    """`core.cost` over arrays."""
    match traffic:
        case "rtt":
            return rtt_ms
        case "game":
            return rtt_ms + cost.GAME_JITTER_WEIGHT * jitter_ms + cost.GAME_LOSS_MS * loss
        case "voip":
            return rtt_ms + 4 * jitter_ms + 2 * (95 * (100 * loss) / (100 * loss + 25.1)) / 0.024
        case "bulk":
            return rtt_ms * np.sqrt(np.maximum(loss, cost.BULK_LOSS_FLOOR) / cost.BULK_LOSS_FLOOR)


@dataclass(slots=True)
class Ours:
    """The daemon's rules over all pairs: levels, best paths, guard, switching."""

    settings: Settings
    history_rules: history.HistoryRules = field(default_factory=history.HistoryRules)
    switch_rules: switching.SwitchRules = field(default_factory=switching.SwitchRules)
    guard_rules: guard.GuardRules = field(default_factory=guard.GuardRules)
    caution: float = 0.5
    verdicts: NDArray[np.int8] | None = None
    _history: history.History | None = None
    _quality: Quality | None = None
    _dead: NDArray[np.bool_] | None = None
    _state: switching.SwitchState | None = None
    _window: deque[NDArray[np.float32]] = field(default_factory=deque)
    _rounds: int = 0

    def observe(self, seen: Slice) -> None:
        """Take one more slice, and decide."""
        n = len(seen.rtt_ms)
        flat = seen.rtt_ms.reshape(-1)
        if self._history is None or self._state is None:
            self._history = history.History.of(n * n)
            self._state = switching.SwitchState.of(n * n)
            self._dead = np.zeros(n * n, np.bool_)
            self._quality = Quality.of(n * n)
        values = np.where(np.isfinite(flat), flat, np.nan)
        self._history = history.observed(self._history, values, self.history_rules)
        self._dead = np.where(np.isnan(flat), self._dead, np.isinf(flat))
        self._quality = self._quality.observed(seen, np.isfinite(flat))
        self._window.append(values.astype(np.float32))
        while len(self._window) > self.guard_rules.window:
            self._window.popleft()
        self._rounds += 1
        self._decide(n)

    def _decide(self, n: int) -> None:
        assert self._history is not None and self._state is not None and self._dead is not None
        hop = self.settings.hop_ms
        links = np.arange(n * n).reshape(n, n)
        reverse = np.ascontiguousarray(links.T).reshape(-1).astype(np.int32)
        level = history.both_ways(self._history, reverse, self.history_rules)
        usable = history.is_fresh(self._history, self.history_rules) & ~self._dead
        usable[:: n + 1] = False
        level = level + self.caution * history.doubt(self._history, self.history_rules)
        newest = np.where(self._history.silent == 0, self._history.last, level)
        slow = np.where(usable, self._quality.costs(level, self.settings.traffic), np.inf)
        now = np.where(usable, self._quality.costs(newest, self.settings.traffic), np.inf)
        plan = np.where(self._history.silent == 0, slow, np.inf).reshape(n, n)
        _, mids = dense.best_paths(plan, self.settings.max_transits, hop)
        best, direct = dense.rows_of(plan, mids), dense.direct_rows(slow.reshape(n, n))
        offer = switching.Offer(
            best=best,
            direct=direct,
            best_ms=dense.price(best, slow, hop),
            direct_ms=slow,
            current_ms=dense.price(self._state.rows, slow, hop),
            best_ms_now=dense.price(best, now, hop),
            direct_ms_now=now,
            current_ms_now=dense.price(self._state.rows, now, hop),
            is_guarded=self._guarded(best),
        )
        now_ns = self._rounds * self.settings.interval_ns
        self._state, self.verdicts = switching.decided(
            self._state, now_ns, offer, self.settings.min_gain_ms, self.switch_rules
        )

    def _guarded(self, best: Rows) -> NDArray[np.bool_]:
        """Rows whose detour, the present one or else the best one, the guard refuses."""
        assert self._state is not None
        has_detour = self._state.rows[:, 1] >= 0
        detours = np.where(has_detour[:, None], self._state.rows, best)
        some = np.flatnonzero(detours[:, 1] >= 0)
        result = np.zeros(len(best), np.bool_)
        if len(some) == 0:
            return result
        path = np.stack([dense.price(detours[some], raw, self.settings.hop_ms) for raw in self._window])
        direct = np.stack([raw[some] for raw in self._window])
        result[some] = guard.refused(path, direct, self.guard_rules)
        return result

    def rows(self) -> Rows:
        """Return the table."""
        assert self._state is not None, "a slice is seen first"
        return self._state.rows

    def had_to(self) -> NDArray[np.bool_]:
        """Return which pairs left a path that could not be used, or that the guard refused."""
        assert self.verdicts is not None, "a slice is seen first"
        return np.isin(self.verdicts, [switching.Verdict.REPAIRED, switching.Verdict.GUARDED])


POLICIES = {
    "ours": "what the daemon does",
    "last": "the best path of the last slice",
    "ewma": "the best path by a mean with weight 0.25 of the newest slice",
    "ewma-hysteresis": "the same, left only for a path that is better by 5 % and 2 ms",
    "direct": "never a detour",
    "oracle": "the best path of the slice itself, which nobody can know before",
}
"""Names and what they are; the simple ones are those of the literature."""


def policy_of(settings: Settings) -> Policy | None:
    """Return a new policy by its name in POLICIES; None: the oracle, which sees what it is judged on."""
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
            return Direct()
        case "oracle":
            return None
        case name:
            raise ValueError(f"there is no policy {name}")
