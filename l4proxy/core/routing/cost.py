"""What a link costs in ms-equivalents, one formula a traffic class. Lower is better; inf: not usable.

All costs are in milliseconds of round trip, so that one rule of hysteresis fits every class, and costs of links add up to a path's.
Formulas take arrays or single numbers alike. Capacity, load and price are no cost: what they do to a plan stands in `planned`.
"""

from typing import TypeVar

import numpy as np

from l4proxy.core.app import TrafficClass
from l4proxy.core.estimate import LinkEstimate
from l4proxy.core.routing.links import FloatArray, LinkTable

HOP_COST_MS = 1.0
"""Charged for each transit PoP: its processing, and one more thing that can fail. Gains are quoted with it."""

GAME_JITTER_WEIGHT = 2.0
"""A game's interpolation buffer holds about two deviations, so a millisecond of jitter delays as much as two of latency."""

GAME_LOSS_MS = 1_000.0
"""A lost state update is repeated at the next tick, some 10 ms later at 1 %: 1,000 ms at certain loss, linear below."""

VOIP_JITTER_WEIGHT = 4.0
"""A jitter buffer adds two deviations, each way."""

VOIP_R_PER_MS = 0.024
"""ITU-T G.107 as Cole and Rosenbluth 2001 fitted it: what a millisecond one way takes from R, below 177 ms."""

VOIP_LOSS_ROBUSTNESS = 25.1
"""Bpl of G.711 with loss concealment, in per cent (ITU-T G.113 appendix I); its Ie is 0."""

VOIP_IMPAIRMENT_MAX = 95.0
"""Ie,eff at certain loss (ITU-T G.107)."""

BULK_LOSS_FLOOR = 1e-4
"""Loss below this cannot be told from none in a minute of probes."""

BULK_TIMEOUT_RTTS = 4.0
"""Retransmission timeout in round trips: what RFC 5348 section 3.1 takes for TCP's in the same formula."""

MAX_LOSS = 0.99
"""Certain loss would cost no less, but could not be compared."""

Numbers = TypeVar("Numbers", float, FloatArray)


def link_costs(table: LinkTable, traffic: TrafficClass, *, current: bool = False) -> FloatArray:
    """Return the cost of every link for a class; inf where it is not usable. `current`: by the RTT of this moment."""
    rtt_ms = table.rtt_ms_now if current else table.rtt_ms
    return np.where(table.usable, cost_ms(traffic, rtt_ms, table.jitter_ms, table.loss_ratio), np.inf)


def link_cost_ms(estimate: LinkEstimate, traffic: TrafficClass) -> float | None:
    """Return the cost of one link by its estimate; None while it is down or was never measured."""
    if not estimate.is_up or estimate.rtt_ms is None:
        return None
    return float(cost_ms(traffic, estimate.rtt_ms, estimate.jitter_ms, estimate.route_loss_ratio))


def cost_ms(traffic: TrafficClass, rtt_ms: Numbers, jitter_ms: Numbers, loss_ratio: Numbers) -> Numbers:
    """Return what RTT, jitter (one way) and loss (one way, 0 to 1) cost a class."""
    loss: Numbers = np.minimum(loss_ratio, MAX_LOSS)
    match traffic:
        case "rtt":
            return rtt_ms
        case "game":
            return game_ms(rtt_ms, jitter_ms, loss)
        case "voip":
            return voip_ms(rtt_ms, jitter_ms, loss)
        case "bulk":
            return bulk_ms(rtt_ms, loss)


def game_ms(rtt_ms: Numbers, jitter_ms: Numbers, loss_ratio: Numbers) -> Numbers:
    """Return when a game has a state update, on average: with what its buffer waits for, and what is repeated after a loss."""
    return rtt_ms + GAME_JITTER_WEIGHT * jitter_ms + GAME_LOSS_MS * loss_ratio


def voip_ms(rtt_ms: Numbers, jitter_ms: Numbers, loss_ratio: Numbers) -> Numbers:
    """E-model (ITU-T G.107): what loss takes from the factor R, as the delay that would take as much.

    R = 94.2 - Id - Ie,eff. Ie,eff = 95 p / (p + Bpl), p in per cent; Id = 0.024 a millisecond one way. Its second slope, above 177 ms, is
    left out: it belongs to a whole path, and costs of links have to add up. So loss weighs up to 5.6 times as much on the longest paths.
    """
    per_cent = 100.0 * loss_ratio
    impairment = VOIP_IMPAIRMENT_MAX * per_cent / (per_cent + VOIP_LOSS_ROBUSTNESS)
    return rtt_ms + VOIP_JITTER_WEIGHT * jitter_ms + 2.0 / VOIP_R_PER_MS * impairment


def bulk_ms(rtt_ms: Numbers, loss_ratio: Numbers) -> Numbers:
    """Return the RTT that gives the same rate at the least loss that can be told from none.

    Padhye, Firoiu, Towsley and Kurose 1998 (PFTK), one packet an acknowledgement, timeouts of 4 RTT: a packet takes
    RTT sqrt(2p/3) + 4 RTT min(1, 3 sqrt(3p/8)) p (1 + 32 p²). The first term is Mathis et al. 1997; below 2 % loss it is all but alone
    (timeouts add 1 % at 0.1 % loss, 9 % at 1 %), at 5 % they are half as much again.
    """
    loss: Numbers = np.maximum(loss_ratio, BULK_LOSS_FLOOR)
    return rtt_ms * (_packet_rtts(loss) / _packet_rtts(BULK_LOSS_FLOOR))


def _packet_rtts(loss: Numbers) -> Numbers:
    timeouts: Numbers = np.minimum(1.0, 3.0 * np.sqrt(3.0 / 8.0 * loss)) * loss * (1.0 + 32.0 * loss * loss)
    mathis: Numbers = np.sqrt(2.0 / 3.0 * loss)
    return mathis + BULK_TIMEOUT_RTTS * timeouts
