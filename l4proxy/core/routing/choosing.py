"""The rows of one PoP for one policy, from plan to plan: what paths cost, how sure that is and what the guard has seen, for `switching`.

A row is a PoP of the table with the path that flows to it take; the source's own has none. Rows are remembered by the names of PoPs and
links, so that they outlive a change of the fleet. A plan is made every second, whenever something comes or goes at once; a round of
`switching` is ten minutes, of which each decision is the part that has passed since the one before.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.records import SIGNIFICANT_MS, SIGNIFICANT_RATIO
from l4proxy.core.routing import guard
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray, LinkTable
from l4proxy.core.routing.rows import Rows, price
from l4proxy.core.routing.switching import Costs, Offer, SwitchRules, SwitchState, Verdict, decided
from l4proxy.core.routing.ways import Ways

ROUND_NS = 600_000_000_000
"""Ten minutes, what the constants of `switching` are made for."""

LEARNING_NS = 60_000_000_000
"""After a row's first path it follows every advantage beyond the margin: probes and records of all links come within a minute of a start,
and the first path was the best of those that were known by then."""

LEAST_INTERVALS = 12
"""Raw values of both paths before the guard says anything, two minutes: as many as `GuardRules` asks of slices."""

LEVEL_STRAYS = sqrt(pi) / 2 * sqrt(2) * sqrt(1 / 15)
"""Standard error of a level, in jitters. RFC 3550's jitter is the mean difference of two one-way times, 2/√π of their deviation where they
are normal; a round trip is two of them (√2); a mean in which the newest sample weighs 1/8 has √(1/15) of a sample's deviation."""

Seen = Callable[[Rows], FloatArray]
"""Raw costs of paths, [intervals, n]."""

RULES = SwitchRules(budget_ratio=1.0, budget_at_once=1.0)
"""Without a budget of changes: that is for tables that are made of one value a link in ten minutes, where most of what would move has been
unlucky. Here levels follow every probe, and when one provider gets slow all rows over it must move, not two in ten minutes."""


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What is remembered of rows: of those of a policy, one a PoP, or of the apps' egresses."""

    keys: tuple[Hashable, ...]
    """What each row is about."""
    names: tuple[str, ...]
    """What the numbers in the state's rows mean; sorted."""
    state: SwitchState
    since_ns: IntArray
    """When each row had its first path."""
    is_forced: BoolArray
    """Whether the row has its path because the one before could not be used: the way back from it has not to be earned."""

    @classmethod
    def of(cls, keys: tuple[Hashable, ...], names: tuple[str, ...]) -> "Memory":
        """Return the memory of rows that have no path yet."""
        count = len(keys)
        nothing = np.zeros(count, np.bool_)
        return cls(keys, names, SwitchState.of(count), np.zeros(count, np.int64), nothing)

    def numbered(self, keys: tuple[Hashable, ...], names: tuple[str, ...]) -> "Memory":
        """Return what is remembered of these rows, with other numbers. A row whose path is made of names that are gone has none."""
        if (self.keys is keys or self.keys == keys) and (self.names is names or self.names == names):
            return self
        number = {name: place for place, name in enumerate(names)}
        numbers = np.array([number.get(name, -1) for name in self.names] + [-1], np.int32)
        rows = np.where(self.state.rows >= 0, numbers[self.state.rows], np.int32(-1))
        rows[((self.state.rows >= 0) & (rows < 0)).any(axis=1)] = -1
        place = {key: old for old, key in enumerate(self.keys)}
        stayed = [(new, place[key]) for new, key in enumerate(keys) if key in place]
        to, from_ = np.array(stayed, np.int64).reshape(-1, 2).T
        empty = Memory.of(keys, names)
        state = empty.state
        for old, fresh in (
            (rows, state.rows),
            (self.state.changed_ns, state.changed_ns),
            (self.state.owed_ms, state.owed_ms),
            (self.state.penalty, state.penalty),
            (self.state.is_damped, state.is_damped),
            (self.since_ns, empty.since_ns),
            (self.is_forced, empty.is_forced),
        ):
            fresh[to] = old[from_]
        return replace(empty, state=replace(state, at_ns=self.state.at_ns, budget=self.state.budget))

    def holding(self, rows: Rows) -> "Memory":
        """Return it with other rows."""
        return replace(self, state=replace(self.state, rows=rows))


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What was decided for each row, and from what."""

    rows: Rows
    verdicts: NDArray[np.int8]
    """A `Verdict` each."""
    offer: Offer
    owed_ms: FloatArray
    """What staying has cost so far, in ms times rounds."""
    saved_ms: FloatArray
    """By how much the best path is better than the one before, by the slow estimate; 0 where there is none of them."""


def decide(
    ways: Ways,
    costs_now: FloatArray,
    min_gain_ms: float,
    memory: Memory | None,
    now_ns: int,
    seen: Seen | None = None,
) -> tuple[Memory, Round]:
    """Return what is remembered from here on, and what each row takes. `seen`: what the guard knows; None: nothing."""
    last = (memory or Memory.of((), ())).numbered(ways.table.pops, ways.table.names)
    return go_on(last, now_ns, _offer(ways, costs_now, last.state.rows, seen), min_gain_ms)


def go_on(
    last: Memory, now_ns: int, offer: Offer, min_gain_ms: float | FloatArray, rules: SwitchRules = RULES
) -> tuple[Memory, Round]:
    """Decide about rows for the time that has passed since they were decided about last."""
    passed_ns = max(0, now_ns - last.state.at_ns)
    saved_ms = _difference(offer.current_cost.slow_ms, offer.best_cost.slow_ms)
    is_free = (now_ns - last.since_ns < LEARNING_NS) & _is_better(offer, saved_ms)
    rows = np.where(is_free[:, None], np.int32(-1), last.state.rows)
    owed = np.where(last.is_forced, np.maximum(last.state.owed_ms, rules.price_ms), last.state.owed_ms)
    state, verdicts = decided(
        replace(last.state, rows=rows, owed_ms=owed),
        now_ns,
        offer,
        min_gain_ms,
        rules,
        min(1.0, passed_ns / ROUND_NS),
    )
    had_path, has_path = last.state.rows[:, 0] >= 0, state.rows[:, 0] >= 0
    chosen = np.isin(verdicts, (Verdict.MOVED, Verdict.GUARDED, Verdict.FIRST, Verdict.NONE))
    after = replace(
        last,
        state=state,
        since_ns=np.where(has_path & ~had_path, now_ns, last.since_ns),
        is_forced=(last.is_forced | (verdicts == Verdict.REPAIRED)) & ~chosen,
    )
    return after, Round(state.rows, verdicts, offer, state.owed_ms, saved_ms)


def _offer(ways: Ways, costs_now: FloatArray, current: Rows, seen: Seen | None) -> Offer:
    table, best, direct = ways.table, ways.best_rows, ways.direct_rows
    slow, now = ways.allowed(ways.costs), ways.allowed(costs_now)

    def cost(rows: Rows) -> Costs:
        return Costs(price(rows, slow, labelled=table.labelled), price(rows, now, labelled=table.labelled))

    direct_cost, current_cost = cost(direct), cost(current)
    if table.load_bits_s.any():
        # A direct path over a full link is no alternative to one that is not: what is gained is room. The current path stays what it
        # costs: all its flows would move at once, fill the next link, and come back.
        direct_cost = _without(direct_cost, ways.have_room(best) & ~ways.have_room(direct))
    variance = link_variance(table, table.pop_number(ways.source))
    return Offer(
        best=best,
        direct=direct,
        best_cost=cost(best),
        direct_cost=direct_cost,
        current_cost=current_cost,
        doubt_ms=np.sqrt(price(best, variance, 0.0) + price(current, variance, 0.0)),
        is_refused=_guarded(best, direct, seen, lambda a, b: guard.refused(a, b, guard.GuardRules())),
        is_slower=_guarded(current, direct, seen, guard.is_slower),
    )


def link_variance(table: LinkTable, source: int) -> FloatArray:
    """Return the squared standard error of each link's round trip, ms²: by its jitter, and by what its owner does not tell.

    A PoP says nothing while a value has moved by less than `SIGNIFICANT_RATIO` and `SIGNIFICANT_MS`: what is known of it may be off by as
    much either way, all of it alike (a uniform distribution, √3).
    """
    strays = np.nan_to_num(LEVEL_STRAYS * table.jitter_ms)
    rtt_ms = np.nan_to_num(table.rtt_ms)
    untold = np.maximum(SIGNIFICANT_MS, SIGNIFICANT_RATIO * rtt_ms) / sqrt(3)
    variance: FloatArray = strays**2 + np.where(table.start == source, 0.0, untold) ** 2
    return variance


def _is_better(offer: Offer, saved_ms: FloatArray) -> BoolArray:
    """Whether the best path is better than the present one by the margin, on the slow estimate and now."""
    current = offer.current_cost
    least = np.maximum(RULES.margin_ms, RULES.margin_ratio * np.nan_to_num(current.slow_ms, posinf=0.0))
    now_ms = _difference(current.now_ms, offer.best_cost.now_ms)
    return (saved_ms - RULES.certainty * np.nan_to_num(offer.doubt_ms, posinf=0.0) > least) & (now_ms > 0)


def _difference(a: FloatArray, b: FloatArray) -> FloatArray:
    both = np.isfinite(a) & np.isfinite(b)
    return np.where(both, np.where(both, a, 0.0) - np.where(both, b, 0.0), 0.0)


def _without(cost: Costs, is_out: BoolArray) -> Costs:
    return Costs(np.where(is_out, np.inf, cost.slow_ms), np.where(is_out, np.inf, cost.now_ms))


def _guarded(
    rows: Rows, direct: Rows, seen: Seen | None, rule: Callable[[FloatArray, FloatArray], BoolArray]
) -> BoolArray:
    """Return which detours a rule of the guard finds against; none of which too little is known."""
    found = np.zeros(len(rows), np.bool_)
    detours = np.flatnonzero((rows[:, 1] >= 0) & (direct[:, 0] >= 0))
    if seen is None or not len(detours):
        return found
    path_ms, direct_ms = seen(rows[detours]), seen(direct[detours])
    known = (np.isfinite(path_ms) & np.isfinite(direct_ms)).sum(axis=0)
    found[detours] = rule(path_ms, direct_ms) & (known >= LEAST_INTERVALS)
    return found
