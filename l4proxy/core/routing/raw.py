"""Raw round trips of the links that paths in use, or waiting to be, are made of: what the guard looks at. No estimate is read here.

Every ten seconds one value a link: of an own link the newest probe, of another PoP's what it says at that moment. A quarter of an hour is
kept. A link is watched while a path that is used, that is best or that is direct passes it, and forgotten when its last value is old.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.app import TrafficClass
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.cost import HOP_COST_MS, cost_ms
from l4proxy.core.routing.links import FloatArray, IntArray, LinkTable, one_more
from l4proxy.core.routing.rows import Rows

EVERY_NS = 10_000_000_000
"""Between two values of a link: the slowest probes of a large fleet come every few seconds, so each is a probe of its own."""

INTERVALS = 90
"""Values kept, a quarter of an hour: four lie beyond the 95th percentile, so a single spike does not make it."""

MAX_WATCHED = 20_000
"""Links: eight policies at 330 PoPs name half as many. 7 MB."""


@dataclass(slots=True)
class RawWindows:
    """The last values of every watched link of a PoP's table, in ms; NaN where it was not measured or could not be used."""

    full: int = 0
    """Times that a link could not be watched, because `MAX_WATCHED` others are."""
    intervals: int = 0
    """How often values were taken."""
    _ring: NDArray[np.float32] = field(default_factory=lambda: np.full((INTERVALS, 0), np.nan, np.float32))
    _names: tuple[LinkName, ...] = ()
    _wanted_at: dict[LinkName, int] = field(default_factory=dict)
    """The interval in which each was last on a path that matters."""
    _at_ns: int | None = None
    _lookup: tuple[tuple[LinkName, ...], IntArray] = field(
        default_factory=lambda: ((), np.zeros(1, np.int64))
    )

    @property
    def watched(self) -> tuple[LinkName, ...]:
        """Links that values are kept of."""
        return self._names

    def is_due(self, now_ns: int) -> bool:
        """Whether the next values are to be taken. A clock that was set back begins anew."""
        return self._at_ns is None or not 0 <= now_ns - self._at_ns < EVERY_NS

    def handle_time(
        self,
        now_ns: int,
        pop: PopName,
        table: LinkTable,
        rows: Iterable[Rows],
        newest_ms: Mapping[LinkName, float],
    ) -> None:
        """Take one value of each link of the paths in `rows`, and of those that are still remembered.

        `newest_ms`: round trips of the own links since the last call.
        """
        self._at_ns = now_ns
        wanted = {int(number) for some in rows for number in np.unique(some) if number >= 0}
        self._follow({table.names[number] for number in wanted})
        own = table.pop_number(pop)
        values = np.full(len(self._names), np.nan, np.float32)
        for column, name in enumerate(self._names):
            number = table.number(name)
            if number is None or not table.usable[number]:
                continue
            is_own = table.start[number] == own
            values[column] = newest_ms.get(name, np.nan) if is_own else table.rtt_ms_now[number]
        self._ring[self.intervals % INTERVALS] = values
        self.intervals += 1

    def costs(self, rows: Rows, table: LinkTable, traffic: TrafficClass) -> FloatArray:
        """Return what paths of `table` cost by their links' values, [intervals, n].

        NaN where one of them is not known, or there is no path.         Jitter and loss, which no single probe has, are those of the table.
        """
        return self._costs(self._ring, rows, table, traffic)

    def newest_costs(self, rows: Rows, table: LinkTable, traffic: TrafficClass) -> FloatArray:
        """Return the same of the newest interval alone, [n]. There must have been one."""
        newest = (self.intervals - 1) % INTERVALS
        found: FloatArray = self._costs(self._ring[newest : newest + 1], rows, table, traffic)[0]
        return found

    def _costs(
        self, values: NDArray[np.float32], rows: Rows, table: LinkTable, traffic: TrafficClass
    ) -> FloatArray:
        columns = self._columns(table)[rows]
        rtt_ms = np.full((len(values), len(self._names) + 2), np.nan)
        rtt_ms[:, :-2] = values
        rtt_ms[:, -1] = 0.0
        jitter_ms = one_more(table.jitter_ms, 0.0)[rows]
        loss_ratio = one_more(table.loss_ratio, 0.0)[rows]
        links = np.where(rows >= 0, cost_ms(traffic, rtt_ms[:, columns], jitter_ms, loss_ratio), 0.0)
        hops = (rows[:, 1:] >= 0).sum(axis=1)
        return np.where(rows[:, 0] >= 0, links.sum(axis=2) + HOP_COST_MS * hops, np.nan)

    def _columns(self, table: LinkTable) -> IntArray:
        """The column of each link of a table: the last but one is of links that are not watched, the last of the link that is none."""
        if self._lookup[0] is not table.names:
            unwatched, none = len(self._names), len(self._names) + 1
            columns = np.full(len(table.names) + 1, unwatched, np.int64)
            columns[-1] = none
            for column, name in enumerate(self._names):
                if (number := table.number(name)) is not None:
                    columns[number] = column
            self._lookup = (table.names, columns)
        return self._lookup[1]

    def _follow(self, wanted: set[LinkName]) -> None:
        """Watch what is wanted, and forget what has not been for as long as values are kept."""
        kept = {
            name: column for column, name in enumerate(self._names) if name in wanted or self._is_young(name)
        }
        new = sorted(wanted - kept.keys())
        room = MAX_WATCHED - len(kept)
        self.full += max(0, len(new) - room)
        new = new[: max(0, room)]
        self._wanted_at = {name: self._wanted_at.get(name, 0) for name in kept}
        self._wanted_at |= dict.fromkeys((*new, *(kept.keys() & wanted)), self.intervals)
        if not new and len(kept) == len(self._names):
            return
        ring = np.full((INTERVALS, len(kept) + len(new)), np.nan, np.float32)
        ring[:, : len(kept)] = self._ring[:, list(kept.values())]
        self._ring, self._names = ring, (*kept, *new)
        self._lookup = ((), np.zeros(1, np.int64))

    def _is_young(self, name: LinkName) -> bool:
        return self.intervals - self._wanted_at[name] < INTERVALS
