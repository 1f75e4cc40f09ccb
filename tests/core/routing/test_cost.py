"""What a link costs each class."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.app import TrafficClass
from l4proxy.core.routing.cost import BULK_LOSS_FLOOR, bulk_ms, cost_ms, link_costs
from l4proxy.core.routing.rows import no_rows, price
from tests.core.routing.graphs import costs_of, graph_of

CLASSES: tuple[TrafficClass, ...] = ("rtt", "game", "voip", "bulk")


def test_bulk_is_mathis_below_two_per_cent_and_pays_for_timeouts_above() -> None:
    def over_mathis(loss: float) -> float:
        return float(bulk_ms(1.0, loss)) / sqrt(loss / BULK_LOSS_FLOOR)

    assert bulk_ms(1.0, 0.0) == bulk_ms(1.0, BULK_LOSS_FLOOR) == 1.0
    assert over_mathis(0.001) < 1.01
    assert over_mathis(0.01) == pytest.approx(1.09, abs=0.01)
    assert over_mathis(0.05) == pytest.approx(1.5, abs=0.05)
    assert over_mathis(0.2) > 3


def test_bulk_is_padhyes_formula() -> None:
    """RFC 5348 section 3.1 with s = 1, b = 1 and t_RTO = 4 R, at R = 100 ms and 5 %, against the rate at the least loss."""

    def rate(loss: float) -> float:
        return 1 / (100 * sqrt(2 * loss / 3) + 400 * 3 * sqrt(3 * loss / 8) * loss * (1 + 32 * loss**2))

    assert cost_ms("bulk", 100.0, 0.0, 0.05) == pytest.approx(100 * rate(BULK_LOSS_FLOOR) / rate(0.05))


def test_voip_trades_loss_for_delay_as_the_e_model_does() -> None:
    """One per cent takes 95 / 26.1 = 3.64 from R, as do 152 ms one way."""
    assert cost_ms("voip", 100.0, 0.0, 0.01) == pytest.approx(100 + 2 * 151.66, abs=0.1)
    assert cost_ms("voip", 100.0, 2.0, 0.0) == 108


@given(st.floats(0, 1_000), st.floats(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_no_class_likes_delay_jitter_or_loss(
    rtt_ms: float, jitter_ms: float, loss: float, more: float
) -> None:
    for traffic in CLASSES:
        cost = cost_ms(traffic, rtt_ms, jitter_ms, loss)
        assert rtt_ms <= cost < np.inf
        assert cost_ms(traffic, rtt_ms + 1, jitter_ms, loss) > cost
        assert cost_ms(traffic, rtt_ms, jitter_ms + 1, loss) >= cost
        assert cost_ms(traffic, rtt_ms, jitter_ms, max(loss, more)) >= cost


def test_arrays_and_single_numbers_cost_the_same() -> None:
    rtt_ms, jitter_ms, loss = np.array([10.0, 200.0]), np.array([0.1, 3.0]), np.array([0.0, 0.07])
    for traffic in CLASSES:
        found = cost_ms(traffic, rtt_ms, jitter_ms, loss)
        one_by_one = [
            cost_ms(traffic, float(r), float(j), float(p))
            for r, j, p in zip(rtt_ms, jitter_ms, loss, strict=True)
        ]
        assert found.tolist() == one_by_one


def test_current_costs_are_of_this_moment_and_dead_links_have_none() -> None:
    table = graph_of("a-b 10")
    object.__setattr__(table, "rtt_ms_now", np.array([12.0, 13.0]))
    object.__setattr__(table, "usable", np.array([True, False]))
    assert link_costs(table, "rtt").tolist() == [10, np.inf]
    assert link_costs(table, "rtt", current=True).tolist() == [12, np.inf]


def test_a_path_costs_its_links_and_a_hop_for_each_pop_between() -> None:
    table = graph_of("a-b 10, b-c 5!")
    rows = no_rows(3)
    rows[0, :2] = [table.names.index("a/a>b/a"), table.names.index("b/a>c/a")]  # type: ignore[arg-type]
    rows[1, 0] = rows[0, 1]
    costs = costs_of(table)
    assert price(rows, costs, 2.0).tolist() == [17.0, 5.0, np.inf]
    assert price(rows, costs, 2.0, table.labelled).tolist() == [np.inf, 5.0, np.inf]
