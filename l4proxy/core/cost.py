"""An estimate of a link → its cost in ms-equivalents, one formula a traffic class. Lower is better; None: not usable.

All costs are in milliseconds of round trip, so that one rule of hysteresis fits every class, and costs of links add up to a path's.
"""

from math import sqrt

from l4proxy.core.app import TrafficClass
from l4proxy.core.estimate import LinkEstimate

HOP_COST_MS = 1.0
"""Charged for each transit PoP: its processing, and one more thing that can fail. Gains are quoted with it."""

GAME_JITTER_WEIGHT = 2.0
"""A game's interpolation buffer holds about two deviations, so a millisecond of jitter delays as much as two of latency."""

GAME_LOSS_MS = 1_000.0
"""A lost state update is repeated at the next tick, some 10 ms later at 1 %: 1,000 ms at certain loss, linear below."""

BULK_LOSS_FLOOR = 1e-4
"""Loss below this cannot be told from none in a minute of probes."""

MAX_LOSS = 0.99


def link_cost_ms(estimate: LinkEstimate, traffic: TrafficClass) -> float | None:
    """Return the cost of one link for a traffic class; None while it is down or was never measured."""
    if not estimate.is_up or estimate.rtt_ms is None:
        return None
    loss = min(max(estimate.route_loss_ratio, 0.0), MAX_LOSS)
    match traffic:
        case "rtt":
            return estimate.rtt_ms
        case "game":
            return estimate.rtt_ms + GAME_JITTER_WEIGHT * estimate.jitter_ms + GAME_LOSS_MS * loss
        case "voip":
            return _voip_ms(estimate.rtt_ms, estimate.jitter_ms, loss)
        case "bulk":
            return _bulk_ms(estimate.rtt_ms, loss)


def _voip_ms(rtt_ms: float, jitter_ms: float, loss: float) -> float:
    """E-model (ITU-T G.107) with G.711 and loss concealment: what loss takes from R, as the delay that would take as much.

    R falls by 0.024 a millisecond of one-way delay, and by Ie,eff = 95 p / (p + Bpl) with p in per cent and Bpl = 25.1.
    A jitter buffer adds two deviations each way.
    """
    impairment = 95 * (100 * loss) / (100 * loss + 25.1)
    return rtt_ms + 4 * jitter_ms + 2 * impairment / 0.024


def _bulk_ms(rtt_ms: float, loss: float) -> float:
    """Mathis et al. 1997: throughput goes with 1 / (RTT sqrt p), so the cost is the RTT scaled by sqrt of the loss beyond the floor."""
    return rtt_ms * sqrt(max(loss, BULK_LOSS_FLOOR) / BULK_LOSS_FLOOR)
