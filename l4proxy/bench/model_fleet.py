"""A fleet that was never built, from a seed: PoPs in cities, links as long as light in fibre takes and as crooked as networks are.

For `bench table` and its tests. The figures of the model are those of the recorded matrices in kind: a third of the pairs have a better way
through another PoP, a few in a hundred lose packets.
"""

from dataclasses import replace

import numpy as np

from l4proxy.core.estimate import light_rtt_ms
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.links import LinkTable

CITIES = 60
"""Places that PoPs stand around: a fleet of hundreds has several in most of them."""

SPREAD_DEGREES = 2.0
INFLATION = (0.35, 0.25)
"""Mean and deviation of the logarithm of how much longer than the great circle a pair's fibre is: 1.4 times in the median."""

TRANSIT_INFLATION = 0.08
"""The same for one provider beside another."""

ACCESS_MS = (0.3, 2.0)
"""What the last mile of a link adds."""

JITTER_MS = 0.4
LOSSY_SHARE = 0.05
CLEAN_LOSS = 1e-3
"""Upper bound for a link on which no probe was lost."""

CHANGE = (0.75, 1.4)
"""By what a link's RTT changes, where it does."""

DEATHS = 0.02
"""Share of the changes that are links which go down."""


def model_table(pops: int, links: int, seed: int) -> LinkTable:
    """Return a full mesh of `pops` with `links` from each PoP to each other one, one a transit."""
    dice = np.random.default_rng(seed)
    names = tuple(PopName(f"p{number:04d}") for number in range(pops))
    places = _places(dice, pops)
    start, end = np.nonzero(~np.eye(pops, dtype=np.bool_))
    least = np.array([light_rtt_ms(places[a], places[b]) for a, b in zip(start, end, strict=True)])
    crooked = np.exp(dice.normal(*INFLATION, (pops, pops)))
    least = least * np.maximum(crooked, crooked.T)[start, end]
    order = np.lexsort(
        (np.repeat(end, links), np.tile(np.arange(links), len(start)), np.repeat(start, links))
    )
    transit = np.tile(np.arange(links), len(start))[order]
    start, end, least = (np.repeat(of, links)[order].astype(of.dtype) for of in (start, end, least))
    count = len(start)
    rtt_ms = least * np.exp(dice.normal(0.0, TRANSIT_INFLATION, count)) + dice.uniform(*ACCESS_MS, count)
    is_lossy = dice.random(count) < LOSSY_SHARE
    link_names = [
        LinkName(f"{names[a]}/t{t}>{names[b]}/t{t}")
        for a, b, t in zip(start.tolist(), end.tolist(), transit.tolist(), strict=True)
    ]
    return LinkTable(
        pops=names,
        names=tuple(link_names),
        start=start.astype(np.int32),
        end=end.astype(np.int32),
        usable=np.ones(count, np.bool_),
        labelled=np.ones(count, np.bool_),
        rtt_ms=rtt_ms,
        rtt_ms_now=rtt_ms * dice.uniform(0.99, 1.02, count),
        jitter_ms=dice.exponential(JITTER_MS, count),
        loss_ratio=np.where(is_lossy, dice.uniform(0.002, 0.05, count), CLEAN_LOSS),
    )


def _places(dice: np.random.Generator, pops: int) -> list[tuple[float, float]]:
    cities = np.column_stack((dice.uniform(-35, 60, CITIES), dice.uniform(-180, 180, CITIES)))
    at = cities[dice.integers(0, CITIES, pops)] + dice.normal(0, SPREAD_DEGREES, (pops, 2))
    return [(float(latitude), float(longitude)) for latitude, longitude in at]


def changed(table: LinkTable, share: float, seed: int) -> LinkTable:
    """Return the table after a share of the links has changed: most are faster or slower, some have died."""
    dice = np.random.default_rng(seed)
    links = dice.choice(len(table.names), max(1, round(share * len(table.names))), replace=False)
    rtt_ms, usable = table.rtt_ms.copy(), table.usable.copy()
    rtt_ms[links] *= dice.uniform(*CHANGE, len(links))
    usable[links] = dice.random(len(links)) >= DEATHS
    return replace(table, rtt_ms=rtt_ms, usable=usable)
