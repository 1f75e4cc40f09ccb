"""Paths as rows of link numbers: int32 [n, 4], -1 after the last link; a row of -1 is no path. Nothing is searched here."""

import numpy as np

from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.links import BoolArray, FloatArray, IntArray, LinkTable, one_more

Rows = IntArray

MAX_LINKS = 4
"""The outer header has room for three labels (docs/protocol.md section 2)."""


def no_rows(count: int) -> Rows:
    """Return rows that are no paths."""
    return np.full((count, MAX_LINKS), -1, np.int32)


def price(
    rows: Rows, costs: FloatArray, hop_cost_ms: float = HOP_COST_MS, labelled: BoolArray | None = None
) -> FloatArray:
    """Return the cost of each path in ms: its links' and its hops'. inf: no path, or it cannot be used.

    `labelled`: where given, links after the first must be labelled.
    """
    legs = one_more(costs, 0.0)[rows]
    if labelled is not None:
        legs[:, 1:][~one_more(labelled, True)[rows[:, 1:]]] = np.inf
    hops = (rows[:, 1:] >= 0).sum(axis=1)
    return np.where(rows[:, 0] >= 0, legs.sum(axis=1) + hop_cost_ms * hops, np.inf)


def sources(table: LinkTable, rows: Rows) -> IntArray:
    """Return the PoP that each path leaves; the number of PoPs for a row that is no path."""
    return table.pairs.start[rows[:, 0]]


def ends(table: LinkTable, rows: Rows) -> IntArray:
    """Return the PoP that each path leads to; the number of PoPs for a row that is no path."""
    last = np.maximum((rows >= 0).sum(axis=1) - 1, 0)
    found: IntArray = table.pairs.end[rows[np.arange(len(rows)), last]]
    return found


def transits(table: LinkTable, rows: Rows) -> IntArray:
    """Return the PoPs between, [n, 3]; the number of PoPs where there is none."""
    return np.where(rows[:, 1:] >= 0, table.pairs.end[rows[:, :-1]], np.int32(len(table.pops)))
