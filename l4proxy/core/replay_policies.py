"""Policies that `route replay` can be asked for: each sees slices one by one, and says before the next which path every pair takes.

`ours` is what `core.routing` has: levels, best paths, guard and switching. The others are the simple rules that it is held against.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.app import TrafficClass
from l4proxy.core.routing import dense, guard, history, switching
from l4proxy.core.routing.dense import FloatArray, Rows
from l4proxy.core.routing.quality import Quality

NO_ROWS: Rows = np.full((0, 4), -1, np.int32)


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
    """Decides for all n · n pairs, those of a PoP with itself included (they never have a path). Empty before the first slice."""

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

    _rows: Rows = field(default_factory=lambda: NO_ROWS)

    def observe(self, seen: Slice) -> None:
        """Nothing is learnt."""
        n = len(seen.rtt_ms)
        self._rows = dense.direct_rows(as_costs(np.ones((n, n))))

    def rows(self) -> Rows:
        """Return direct paths."""
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
    _rows: Rows = field(default_factory=lambda: NO_ROWS)

    def observe(self, seen: Slice) -> None:
        """Take one more slice."""
        values = np.where(np.isfinite(seen.rtt_ms), seen.rtt_ms, np.nan)
        mean = values if self._mean is None else self._mean + self.weight * (values - self._mean)
        mean = np.where(
            np.isnan(mean),
            values if self._mean is None else np.where(np.isnan(values), self._mean, values),
            mean,
        )
        self._mean = mean
        costs = as_costs(np.where(np.isinf(seen.rtt_ms), np.nan, mean))
        _, mids = dense.best_paths(costs, self.settings.max_transits, self.settings.hop_ms)
        best = dense.rows_of(costs, mids)
        if len(self._rows) == 0:
            self._rows = best
            return
        current_ms = dense.price(self._rows, costs, self.settings.hop_ms)
        best_ms = dense.price(best, costs, self.settings.hop_ms)
        is_dead = np.isinf(current_ms)
        saved = np.where(is_dead, 0.0, np.where(is_dead, 0.0, current_ms) - best_ms)
        enough = np.maximum(self.margin_ms, self.margin_ratio * np.where(is_dead, 0.0, current_ms))
        moves = (saved > enough) | (is_dead & np.isfinite(best_ms))
        self._rows = np.where(moves[:, None], best, self._rows)

    def rows(self) -> Rows:
        """Return the table."""
        return self._rows

    def had_to(self) -> NDArray[np.bool_]:
        """Return which pairs had no choice: not told apart."""
        return np.zeros(len(self.rows()), np.bool_)


@dataclass(frozen=True, slots=True)
class Rules:
    """All constants of `ours`."""

    levels: history.HistoryRules = field(default_factory=history.HistoryRules)
    changes: switching.SwitchRules = field(default_factory=switching.SwitchRules)
    guarding: guard.GuardRules = field(default_factory=guard.GuardRules)
    luck: float = 1.5
    """Standard errors of a link that a further transit PoP must gain: the best of many sums looks better than it is by one or two."""


@dataclass(slots=True)
class _Seen:
    """What `ours` knows of all n · n links from the slices so far."""

    pops: int
    reverse: NDArray[np.int32]
    history: history.History
    quality: Quality
    is_silent: NDArray[np.bool_]
    """Links that did not answer when they were last asked."""
    window: deque[NDArray[np.float32]] = field(default_factory=deque)
    """Raw costs of the last slices, for the guard alone."""
    rounds: int = 0

    @classmethod
    def of(cls, pops: int) -> "_Seen":
        reverse = np.arange(pops * pops, dtype=np.int32).reshape(pops, pops).T.reshape(-1)
        nothing = np.zeros(pops * pops, np.bool_)
        return cls(pops, reverse, history.History.of(pops * pops), Quality.of(pops * pops), nothing)

    def add(self, seen: Slice, traffic: TrafficClass, rules: Rules) -> None:
        """Take one more slice."""
        flat = seen.rtt_ms.reshape(-1)
        values = np.where(np.isfinite(flat), flat, np.nan)
        self.history = history.observed(self.history, values, rules.levels)
        self.quality = self.quality.observed(seen.jitter_ms, seen.loss_ratio, np.isfinite(flat))
        self.is_silent = np.where(np.isnan(flat), self.is_silent, np.isinf(flat))
        self.window.append(self.quality.costs(values, traffic).astype(np.float32))
        while len(self.window) > rules.guarding.window:
            self.window.popleft()
        self.rounds += 1

    def slow_ms(self, traffic: TrafficClass, rules: Rules) -> FloatArray:
        """Return costs by the levels; inf where a link cannot be used."""
        return self._usable(history.both_ways(self.history, self.reverse, rules.levels), traffic, rules)

    def newest_ms(self, traffic: TrafficClass, rules: Rules) -> FloatArray:
        """Return costs by each link's newest value."""
        return self._usable(self.history.last, traffic, rules)

    def _usable(self, rtt_ms: FloatArray, traffic: TrafficClass, rules: Rules) -> FloatArray:
        usable = history.is_fresh(self.history, rules.levels) & ~self.is_silent
        usable[:: self.pops + 1] = False
        return np.where(usable, self.quality.costs(rtt_ms, traffic), np.inf)

    def guarded(
        self, rows: Rows, hop_ms: float, rule: Callable[[FloatArray, FloatArray], NDArray[np.bool_]]
    ) -> NDArray[np.bool_]:
        """Return which detours a rule of the guard finds against, by raw costs of path and direct link in the last slices."""
        result = np.zeros(len(rows), np.bool_)
        # A part at a time: the window of all pairs of a large fleet would be gigabytes.
        detours = np.flatnonzero(rows[:, 1] >= 0)
        for some in np.array_split(detours, 1 + len(detours) // 500_000):
            path = np.stack([dense.price(rows[some], raw, hop_ms) for raw in self.window])
            direct = np.stack([raw[some].astype(np.float64) for raw in self.window])
            result[some] = rule(path, direct)
        return result


@dataclass(slots=True)
class Ours:
    """The rules of `core.routing` over all pairs: levels, best paths, guard, switching."""

    settings: Settings
    rules: Rules = field(default_factory=Rules)
    verdicts: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    """A `switching.Verdict` a pair, of the newest decision."""
    _seen: _Seen = field(default_factory=lambda: _Seen.of(0))
    _state: switching.SwitchState = field(default_factory=lambda: switching.SwitchState.of(0))
    _needed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def observe(self, seen: Slice) -> None:
        """Take one more slice, and decide."""
        if self._seen.rounds == 0:
            self._seen = _Seen.of(len(seen.rtt_ms))
            self._state = switching.SwitchState.of(seen.rtt_ms.size)
        self._seen.add(seen, self.settings.traffic, self.rules)
        offer = self._offer(self._seen, self._state.rows)
        before = self._state.rows
        now_ns = self._seen.rounds * self.settings.interval_ns
        self._state, self.verdicts = switching.decided(
            self._state, now_ns, offer, self.settings.min_gain_ms, self.rules.changes
        )
        self._needed = np.isin(self.verdicts, [switching.Verdict.REPAIRED, switching.Verdict.GUARDED])
        now_ms = dense.price(
            self._state.rows, self._seen.newest_ms(self.settings.traffic, self.rules), self.settings.hop_ms
        )
        self._needed |= (before != self._state.rows).any(axis=1) & guard.is_clearly_worse(
            offer.current_cost.now_ms, now_ms
        )

    def _offer(self, seen: "_Seen", rows: Rows) -> switching.Offer:
        hop = self.settings.hop_ms
        n, rules = seen.pops, self.rules
        slow_ms = seen.slow_ms(self.settings.traffic, rules)
        now_ms = seen.newest_ms(self.settings.traffic, rules)
        # A new path is only made of links that the newest slice has: an absent PoP is rather gone than unmeasured.
        plan = np.where(seen.history.silent == 0, slow_ms, np.inf).reshape(n, n)
        gain_ratio = rules.luck * history.common_doubt(seen.history, seen.reverse, rules.levels)
        costs, mids = dense.best_paths(plan, self.settings.max_transits, hop, gain_ratio)
        best = dense.rows_of(costs, mids)
        variance = np.nan_to_num(history.doubt(seen.history, rules.levels) ** 2)

        def cost(paths: Rows) -> switching.Costs:
            return switching.Costs(dense.price(paths, slow_ms, hop), dense.price(paths, now_ms, hop))

        return switching.Offer(
            best=best,
            direct=dense.direct_rows(slow_ms.reshape(n, n)),
            best_cost=cost(best),
            direct_cost=switching.Costs(slow_ms, now_ms),
            current_cost=cost(rows),
            doubt_ms=np.sqrt(dense.price(best, variance, 0.0) + dense.price(rows, variance, 0.0)),
            is_refused=seen.guarded(
                best, hop, lambda path, direct: guard.refused(path, direct, rules.guarding)
            ),
            is_slower=seen.guarded(rows, hop, guard.is_slower),
        )

    def rows(self) -> Rows:
        """Return the table."""
        return self._state.rows

    def had_to(self) -> NDArray[np.bool_]:
        """Return which pairs left a path that could not be used, that the guard refused, or that was clearly slower in the newest slice."""
        return self._needed


POLICIES = {
    "ours": "levels, guard and switching (docs/routing.md)",
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
