"""A fleet's links as declared, in the order of names, and the table that measurements make of them. Made once for each fleet file."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from l4proxy.core.bus import LinkState
from l4proxy.core.estimate import LinkEstimate
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.links import (
    CAPACITY_SHARE,
    ROOM_SHARE,
    BoolArray,
    FloatArray,
    IntArray,
    LinkTable,
    PairIndex,
)
from l4proxy.core.topology import Fleet, Link

NOTHING = (0.0, 0.0, np.nan, np.nan, 0.0, 0.0)
"""Of a link that nobody has measured: usable, labelled, RTT, RTT now, jitter, loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The table of one moment, and what the next one is made from."""

    table: LinkTable
    columns: FloatArray
    """[6, links], in the order of `NOTHING`."""
    states: list[LinkState | None]
    """What is said of each link by others."""


@dataclass(frozen=True, slots=True, eq=False)
class DeclaredLinks:
    """What the fleet file says of all links; the numbers of PoPs and links are those of the tables made of it."""

    fleet: Fleet
    pops: tuple[PopName, ...]
    names: tuple[LinkName, ...]
    links: tuple[Link, ...]
    start: IntArray
    end: IntArray
    enabled: BoolArray
    transits: tuple[str, ...]
    """Every `pop/transit`, sorted."""
    start_transit: IntArray
    end_transit: IntArray
    capacity_bits_s: FloatArray
    price: FloatArray
    index: PairIndex

    @classmethod
    def of(cls, fleet: Fleet) -> "DeclaredLinks":
        """Number the PoPs and links of a fleet."""
        pops, names = tuple(sorted(fleet.pops)), tuple(sorted(fleet.links))
        links = tuple(fleet.links[name] for name in names)
        pop_of = {pop: number for number, pop in enumerate(pops)}
        start = np.array([pop_of[link.from_pop] for link in links], np.int32)
        end = np.array([pop_of[link.to_pop] for link in links], np.int32)
        froms = [f"{link.from_pop}/{link.from_transit}" for link in links]
        tos = [f"{link.to_pop}/{link.to_transit}" for link in links]
        transits = tuple(sorted({*froms, *tos}))
        transit_of = {transit: number for number, transit in enumerate(transits)}
        capacities = [np.inf if link.capacity_bits_s is None else link.capacity_bits_s for link in links]
        return cls(
            fleet=fleet,
            pops=pops,
            names=names,
            links=links,
            start=start,
            end=end,
            enabled=np.array([link.enabled for link in links], np.bool_),
            transits=transits,
            start_transit=np.array([transit_of[name] for name in froms], np.int32),
            end_transit=np.array([transit_of[name] for name in tos], np.int32),
            capacity_bits_s=np.array(capacities, np.float64),
            price=np.array([link.price for link in links], np.float64),
            index=PairIndex.of(len(pops), start, end),
        )

    def measured(
        self,
        pop: PopName,
        own_links: Mapping[LinkName, LinkEstimate],
        own_labels: Mapping[LinkName, int],
        other_links: Mapping[LinkName, LinkState],
        before: "Measured | None" = None,
        own_load_bits_s: Mapping[LinkName, float] | None = None,
    ) -> "Measured":
        """Return the table as `pop` knows it: own links as measured here, others as their owners say.

        `before`: what was returned last for the same PoP; of others' links only those of which something else is said are read again,
        and a link that was full is until it carries less than `ROOM_SHARE`. `own_load_bits_s`: what own links carry; others' is not known.
        """
        states = list(map(other_links.get, self.names))
        if before is None:
            columns = np.tile(np.array(NOTHING)[:, None], len(states))
            news: Sequence[int] = range(len(states))
        else:
            columns = before.columns.copy()
            pairs = enumerate(zip(states, before.states, strict=True))
            news = [number for number, (now, was) in pairs if now is not was]
        if news:
            columns[:, news] = np.array([_told(states[number]) for number in news]).T
        own = np.flatnonzero(self.start == bisect_left(self.pops, pop))
        if len(own):
            names = [self.names[number] for number in own]
            columns[:, own] = np.array(
                [_own(own_links.get(name), own_labels.get(name, 0)) for name in names]
            ).T
        columns[:, ~self.enabled] = np.array(NOTHING)[:, None]
        usable, labelled, rtt_ms, rtt_ms_now, jitter_ms, loss_ratio = columns
        table = LinkTable(
            pops=self.pops,
            names=self.names,
            start=self.start,
            end=self.end,
            usable=usable > 0,
            labelled=labelled > 0,
            rtt_ms=rtt_ms,
            rtt_ms_now=rtt_ms_now,
            jitter_ms=jitter_ms,
            loss_ratio=loss_ratio,
            load_bits_s=self._load_bits_s(own_load_bits_s or {}, before),
            capacity_bits_s=self.capacity_bits_s,
            price=self.price,
            index=self.index,
        )
        return Measured(table, columns, states)

    def _load_bits_s(self, own: Mapping[LinkName, float], before: "Measured | None") -> FloatArray:
        """Return what plans take each link to carry: a full one counts as just full until it has room again."""
        load = np.array([own.get(name, 0.0) for name in self.names], np.float64)
        if before is None or not before.table.full.any():
            return load
        is_still_full = before.table.full & (load >= ROOM_SHARE * self.capacity_bits_s)
        just_full = np.nextafter(CAPACITY_SHARE * self.capacity_bits_s, np.inf)
        return np.where(is_still_full, np.maximum(load, just_full), load)

    def avoided(self, avoid: frozenset[str], source: int) -> BoolArray | None:
        """Return the links that a policy bans: those that touch a PoP (`ams`) or transit (`ams/a`) of `avoid`.

        The source itself may be left. None: no link is banned.
        """
        if not avoid:
            return None
        pops = np.array([pop in avoid for pop in self.pops])
        transits = np.array([transit in avoid for transit in self.transits])
        leaves = pops[self.start] & (self.start != source)
        banned: BoolArray = (
            leaves | pops[self.end] | transits[self.start_transit] | transits[self.end_transit]
        )
        return banned


def _own(estimate: LinkEstimate | None, label: int) -> tuple[float, ...]:
    if estimate is None or estimate.rtt_ms is None:
        return NOTHING
    now = estimate.rtt_ms if estimate.rtt_ms_smoothed is None else estimate.rtt_ms_smoothed
    return (estimate.is_up, label != 0, estimate.rtt_ms, now, estimate.jitter_ms, estimate.route_loss_ratio)


def _told(state: LinkState | None) -> tuple[float, ...]:
    if state is None:
        return NOTHING
    return (state.is_up, state.label != 0, state.rtt_ms, state.rtt_ms, state.jitter_ms, state.loss_ratio)
