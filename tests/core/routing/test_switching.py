"""Which rows leave their path: one rule at a time, and what holds whatever comes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.routing.switching import (
    MOVES,
    WORDS,
    Costs,
    Offer,
    SwitchRules,
    SwitchState,
    Verdict,
    decided,
)

ROUND_NS = 600_000_000_000
RULES = SwitchRules()
FREE = replace(RULES, budget_ratio=1.0)
"""Without a budget, for the rules that are about one row."""
INF = float("inf")
DIRECT, DETOUR, OTHER = [0, -1, -1, -1], [1, 2, -1, -1], [3, 4, -1, -1]


def state_on(row: list[int], **fields: object) -> SwitchState:
    """One row that has this path since long ago."""
    state = SwitchState.of(1)
    return replace(state, rows=np.array([row], np.int32), **fields)  # type: ignore[arg-type]


def offer(
    best: list[int] = DETOUR,
    best_ms: float = 100,
    current_ms: float = 150,
    direct_ms: float = 150,
    now: tuple[float, float, float] | None = None,
    refused: bool = False,
    slower: bool = False,
    doubt_ms: float = 0.0,
) -> Offer:
    """What one row is offered; `now`: best, direct and current by the newest values, default: the same."""
    best_now, direct_now, current_now = now or (best_ms, direct_ms, current_ms)
    return Offer(
        best=np.array([best], np.int32),
        direct=np.array([DIRECT if np.isfinite(direct_ms) else [-1] * 4], np.int32),
        best_cost=Costs(np.array([best_ms]), np.array([best_now])),
        direct_cost=Costs(np.array([direct_ms]), np.array([direct_now])),
        current_cost=Costs(np.array([current_ms]), np.array([current_now])),
        doubt_ms=np.array([doubt_ms]),
        is_refused=np.array([refused]),
        is_slower=np.array([slower]),
    )


def once(
    state: SwitchState, given: Offer, min_gain_ms: float = 0.0, rules: SwitchRules = FREE
) -> tuple[list[int], Verdict]:
    """Path and verdict of the one row after a round."""
    after, verdicts = decided(state, ROUND_NS, given, min_gain_ms, rules)
    return after.rows[0].tolist(), Verdict(verdicts[0])


@pytest.mark.parametrize(
    ("state", "given", "expected"),
    [
        (SwitchState.of(1), offer(), (DETOUR, Verdict.FIRST)),
        (SwitchState.of(1), offer(best_ms=INF, direct_ms=INF), ([-1] * 4, Verdict.NONE)),
        (state_on(DETOUR), offer(current_ms=100), (DETOUR, Verdict.BEST)),
        (state_on(DIRECT), offer(), (DETOUR, Verdict.MOVED)),
        (state_on(OTHER), offer(current_ms=INF), (DETOUR, Verdict.REPAIRED)),
        (state_on(OTHER), offer(current_ms=INF, best_ms=INF, direct_ms=INF), ([-1] * 4, Verdict.NONE)),
        (state_on(OTHER), offer(current_ms=100.5), (OTHER, Verdict.MARGIN)),
        (state_on(OTHER), offer(now=(160, 150, 150)), (OTHER, Verdict.NOT_NOW)),
        (state_on(OTHER, changed_ns=np.array([ROUND_NS - 1])), offer(), (OTHER, Verdict.HELD)),
        (
            state_on(OTHER, is_damped=np.array([True]), penalty=np.array([5000.0])),
            offer(),
            (OTHER, Verdict.DAMPED),
        ),
        (state_on(OTHER), offer(current_ms=103), (OTHER, Verdict.NOT_YET_WORTH)),
        (state_on(OTHER), offer(doubt_ms=100), (OTHER, Verdict.MARGIN)),
        (state_on(DETOUR), offer(current_ms=160, slower=True), (DIRECT, Verdict.GUARDED)),
        (
            state_on(DETOUR),
            offer(current_ms=160, direct_ms=INF, slower=True, best_ms=160),
            (DETOUR, Verdict.BEST),
        ),
        (state_on(DIRECT), offer(refused=True), (DIRECT, Verdict.REFUSED)),
        (state_on(OTHER), offer(refused=True, direct_ms=120), (DIRECT, Verdict.MOVED)),
    ],
)
def test_each_rule_gives_its_verdict(
    state: SwitchState, given: Offer, expected: tuple[list[int], Verdict]
) -> None:
    assert once(state, given) == expected


def test_min_gain_keeps_direct_but_does_not_send_a_detour_back() -> None:
    """min_gain governs leaving direct; later changes are hysteresis' business, or a detour on the edge would come and go."""
    assert once(state_on(DIRECT), offer(), min_gain_ms=60) == (DIRECT, Verdict.MIN_GAIN)
    assert once(state_on(DIRECT), offer(), min_gain_ms=50)[0] == DETOUR
    assert once(state_on(DETOUR), offer(current_ms=100), min_gain_ms=60) == (DETOUR, Verdict.BEST)


def test_a_small_advantage_is_taken_when_it_has_lasted() -> None:
    state, moved_after = state_on(OTHER), 0
    for number in range(1, 50):
        state, verdicts = decided(state, number * ROUND_NS, offer(current_ms=102), 0.0, FREE)
        if verdicts[0] == Verdict.MOVED:
            moved_after = number
            break
    assert moved_after == int(np.ceil(FREE.price_ms / 2))


def test_a_damped_row_still_leaves_a_dead_path() -> None:
    """RFC 2439 is known to take the last working route away."""
    state = state_on(
        OTHER, is_damped=np.array([True]), penalty=np.array([9e9]), changed_ns=np.array([ROUND_NS])
    )
    assert once(state, offer(current_ms=INF)) == (DETOUR, Verdict.REPAIRED)


DAMPED = {"is_damped": np.array([True]), "penalty": np.array([5000.0])}


@pytest.mark.parametrize(
    ("given", "fields", "expected"),
    [
        (offer(DIRECT, 100, 106, 100), {}, (DIRECT, Verdict.MOVED)),
        (offer(DIRECT, 100, 106, 100), DAMPED, (DIRECT, Verdict.MOVED)),
        (offer(DIRECT, 100, 104.5, 100), {}, (OTHER, Verdict.NOT_YET_WORTH)),
        (offer(DIRECT, 100, 104.5, 100), DAMPED, (OTHER, Verdict.DAMPED)),
        (offer(DIRECT, 100, 106, 100, doubt_ms=2), {}, (OTHER, Verdict.NOT_YET_WORTH)),
        (offer(DIRECT, 100, 106, 100, now=(100, 100, 104)), {}, (OTHER, Verdict.NOT_YET_WORTH)),
        (offer(DETOUR, 100, 104.9, 106), {}, (OTHER, Verdict.NOT_YET_WORTH)),
        (offer(DIRECT, 100, 106, 100), {"changed_ns": np.array([ROUND_NS - 1])}, (OTHER, Verdict.HELD)),
    ],
)
def test_a_direct_path_that_is_clearly_better_beyond_doubt_and_now_waits_for_the_hold_down_alone(
    given: Offer, fields: dict[str, object], expected: tuple[list[int], Verdict]
) -> None:
    assert once(state_on(OTHER, **fields), given) == expected


def test_a_row_that_flaps_is_damped_and_free_again_after_quiet_time() -> None:
    state, verdicts = state_on(OTHER), []
    for number in range(1, 9):
        target = DETOUR if number % 2 else OTHER
        state, verdict = decided(state, number * 60_000_000_000, offer(best=target), 0.0, FREE)
        verdicts.append(Verdict(verdict[0]))
    assert Verdict.DAMPED in verdicts
    state, verdict = decided(
        state, 10**13, offer(best=OTHER if state.rows[0].tolist() == DETOUR else DETOUR), 0.0, FREE
    )
    assert verdict[0] == Verdict.MOVED


def test_the_budget_goes_to_the_rows_that_gain_most() -> None:
    count = 1000
    calm = replace(RULES, flap_suppress=1e9)
    state = replace(SwitchState.of(count), rows=np.tile(np.array(OTHER, np.int32), (count, 1)))
    gains = np.arange(count, dtype=np.float64) + 30
    given = Offer(
        best=np.tile(np.array(DETOUR, np.int32), (count, 1)),
        direct=np.tile(np.array(DIRECT, np.int32), (count, 1)),
        best_cost=Costs(np.full(count, 100.0), np.full(count, 100.0)),
        direct_cost=Costs(np.full(count, 5000.0), np.full(count, 5000.0)),
        current_cost=Costs(100 + gains, 100 + gains),
        doubt_ms=np.zeros(count),
        is_refused=np.zeros(count, np.bool_),
        is_slower=np.zeros(count, np.bool_),
    )
    a_round, kept = RULES.budget_ratio * count, RULES.budget_rounds * RULES.budget_ratio * count
    after, verdicts = decided(state, ROUND_NS, given, 0.0, RULES)
    moved = np.flatnonzero(verdicts == Verdict.MOVED)
    assert len(moved) == int(RULES.budget_at_once * kept)
    assert moved.min() > np.flatnonzero(verdicts == Verdict.BUDGET).max()
    for number in range(2, 20):
        after, verdicts = decided(
            replace(after, rows=state.rows, changed_ns=state.changed_ns), number * ROUND_NS, given, 0.0, calm
        )
        assert after.budget >= 0
    assert a_round - 1 <= (verdicts == Verdict.MOVED).sum() <= a_round + 1


def test_a_fleet_of_few_rows_may_always_change_one_a_round() -> None:
    state = replace(state_on(OTHER), budget=0.0)
    assert once(state, offer(), rules=RULES) == (DETOUR, Verdict.MOVED)


def test_every_verdict_has_its_sentence() -> None:
    assert set(WORDS) == set(Verdict)


costs = st.one_of(st.floats(1, 1000), st.just(INF))


@given(
    st.lists(
        st.tuples(st.sampled_from([DETOUR, OTHER, DIRECT]), costs, costs, costs, costs, costs, st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_a_path_is_left_for_gain_only_if_better_by_the_margin_held_and_worth_it(rounds: list[tuple]) -> None:
    state = SwitchState.of(1)
    changed_at = -(10**18)
    for number, (best, best_ms, current_ms, direct_ms, best_now, current_now, slower) in enumerate(rounds, 1):
        now_ns = number * 7_000_000_000
        before = state.rows[0].tolist()
        given = offer(best, best_ms, current_ms, direct_ms, (best_now, direct_ms, current_now), slower=slower)
        if before == best:
            given = replace(given, current_cost=given.best_cost)
        elif before == DIRECT:
            given = replace(given, current_cost=given.direct_cost)
        state, verdicts = decided(state, now_ns, given, 0.0, FREE)
        verdict, after = Verdict(verdicts[0]), state.rows[0].tolist()
        assert verdict in (*MOVES, Verdict.FIRST, Verdict.NONE) or after == before
        current_ms = float(given.current_cost.slow_ms[0])
        if verdict == Verdict.MOVED:
            target_ms = best_ms if after == best else direct_ms
            assert current_ms - target_ms > max(FREE.margin_ms, FREE.margin_ratio * current_ms)
            assert now_ns - changed_at >= FREE.hold_down_ns
        if verdict == Verdict.NONE:
            assert np.isinf(current_ms) or before[0] < 0
        if verdict in MOVES:
            changed_at = now_ns
