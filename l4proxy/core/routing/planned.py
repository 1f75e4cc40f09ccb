"""Costs as plans are made with: exact, so that sums are sums and ties are ties, with what capacity and price do to them.

They decide which path is best, on every PoP alike; what a path is said to cost is the plain sum (`rows.price`).

- Whole multiples of 15 ns: sums of four are exact in float64 in any order, so that equal paths are equal. Ties are then broken by fewer
  links and by names; the rank of a name goes into the 14 bits below (`ground`, `products`).
- A full link (`LinkTable.full`) costs more than any path without one: it is planned only where it is the only way.
- Price breaks near-ties: the dearest link of the table counts as `PRICE_BAND_MS` longer, others in proportion.
"""

import numpy as np

from l4proxy.core.routing.links import BoolArray, FloatArray, LinkTable, TableError

QUANTUM_MS = 2.0**-16
"""15 ns: a hundredth of what two probes differ by when nothing has changed. Four links at their worst have 53 bits with the ranks below."""

TIE_MS = QUANTUM_MS / (1 << 14)
"""One step of a rank; `links.MAX_LINKS_OF_A_POP` of them stay below a quantum."""

COST_LIMIT_MS = 400_000.0
"""What costs more is as good as this: 25 % loss over the longest RTT, for bulk."""

FULL_MS = 1_680_000.0
"""More than a path of four links at `COST_LIMIT_MS`; four full links are just below 2²³ ms, where exactness ends."""

HOP_COST_LIMIT_MS = 20_000.0
"""Most that may be charged for a transit PoP: three keep a path without full links below `FULL_MS`."""

PRICE_BAND_MS = 1.0
"""What the dearest link of a table counts as longer: a hop costs as much, and no change for less is ever made (`route.MARGIN_MS`)."""


def planned_costs(table: LinkTable, costs: FloatArray, banned: BoolArray | None = None) -> FloatArray:
    """Return what each link costs in a plan, inf where it is not usable or banned; one more entry, inf, for the link that is none.

    TableError: a cost is negative or no number.
    """
    _check(table, costs)
    planned = np.empty(len(costs) + 1)
    exact = planned[:-1]
    np.minimum(costs, COST_LIMIT_MS, out=exact)
    if table.load_bits_s.any() and (full := table.full).any():
        exact += FULL_MS * full
    if (dearest := table.price.max(initial=0.0)) > 0:
        exact += PRICE_BAND_MS / dearest * table.price
    exact /= QUANTUM_MS
    np.rint(exact, out=exact)
    # At least one quantum: a cheapest way then never goes round.
    np.maximum(exact, 1.0, out=exact)
    exact *= QUANTUM_MS
    exact[~table.usable if banned is None else ~table.usable | banned] = np.inf
    planned[-1] = np.inf
    return planned


def exact_hop_ms(hop_cost_ms: float) -> float:
    """Return the hop cost as plans count it. TableError: it is negative, no number, or more than `HOP_COST_LIMIT_MS`."""
    if not 0 <= hop_cost_ms <= HOP_COST_LIMIT_MS:
        raise TableError(f"a hop cost of {hop_cost_ms:g} ms: take one of 0 to {HOP_COST_LIMIT_MS:g}")
    return round(hop_cost_ms / QUANTUM_MS) * QUANTUM_MS


def without_rank(ranked_ms: FloatArray) -> FloatArray:
    """Return costs without the ranks below their last quantum."""
    return np.floor(ranked_ms / QUANTUM_MS) * QUANTUM_MS


def _check(table: LinkTable, costs: FloatArray) -> None:
    if costs.shape != table.start.shape:
        raise TableError(f"costs have shape {costs.shape}, there are {len(table.names)} links")
    good = (costs >= 0) & ((costs < np.inf) | ~table.usable)
    if not good.all():
        number = int((~good).argmax())
        raise TableError(
            f"link {table.names[number]} costs {costs[number]:g} ms: a cost is a number from 0 on; "
            "ban a link that must not be used, or mark it unusable"
        )
