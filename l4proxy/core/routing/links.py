"""Every link of a fleet as arrays, in the order of names: what was measured of it and what is declared. What it costs stands in `cost`.

A link's number is its place in `names`; a PoP's is its place in `pops`. Names are sorted, so that every PoP numbers them alike.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from operator import lt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.ids import LinkName, PopName
from l4proxy.errors import L4ProxyError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.signedinteger[Any]]
"""int32 in tables and rows; what numpy counts with in between."""
BoolArray = NDArray[np.bool_]

Number = TypeVar("Number", bound=np.generic)

MAX_POPS = 2_048
"""Six times the largest fleet that is published (330 cities). All pairs of it take matrices of 34 MB each."""

MAX_LINKS_OF_A_POP = (1 << 14) - 1
"""Links that leave one PoP: their ranks have 14 bits of an exact cost (`planned`). Eight to each of 2,047 others fit."""

CAPACITY_SHARE = 0.8
"""A link that carries more of its capacity gets no additional paths: a queue (M/M/1) holds 4 packets at 80 % load, 9 at 90 %."""

ROOM_SHARE = 0.6
"""A full link has room again below this: at 60 % load a queue (M/M/1) holds 1.5 packets, and a flow that ends does not make it flap."""


class TableError(L4ProxyError):
    """Numbers of which no table can be made: which one, where, and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class PairIndex:
    """Which links join which PoPs: the part of a table that stays while the fleet file does. Pairs are numbered from * pops + to."""

    pops: int
    start: IntArray
    """The PoP that each link leaves; one more entry, the number of PoPs, for the link -1 that is none."""
    end: IntArray
    """The PoP that each link leads to, likewise."""
    slots: IntArray
    """[most links of a pair, pops * pops]: numbers of a pair's links, ascending; the number of links where there is none."""
    rank: IntArray
    """Place of each link among those that leave the same PoP; one more entry for the link that is none."""

    @classmethod
    def of(cls, pops: int, start: IntArray, end: IntArray) -> "PairIndex":
        """Sort links by pair. TableError: more than `MAX_LINKS_OF_A_POP` leave one PoP."""
        pair = start.astype(np.int64) * pops + end
        links = len(start)
        place = _places(pair)
        slots = np.full((int(place.max(initial=0)) + 1, pops * pops), links, np.int32)
        slots[place, pair] = np.arange(links, dtype=np.int32)
        rank = _places(start)
        if (most := int(rank.max(initial=0)) + 1) > MAX_LINKS_OF_A_POP:
            raise TableError(f"{most} links leave one PoP, at most {MAX_LINKS_OF_A_POP}: join fewer transits")
        nobody = np.int32(pops)
        return cls(pops, one_more(start, nobody), one_more(end, nobody), slots, one_more(rank, 0))


def one_more(array: NDArray[Number], value: Number | float) -> NDArray[Number]:
    """Return an array with a value behind it: what -1 reads."""
    longer = np.empty(len(array) + 1, array.dtype)
    longer[:-1], longer[-1] = array, value
    return longer


def _places(group: IntArray) -> IntArray:
    """Return for each member its place within its group."""
    order = np.argsort(group, kind="stable")
    in_order = group[order]
    is_first = np.append(True, in_order[1:] != in_order[:-1])[: len(group)]
    position = np.arange(len(group))
    first = np.maximum.accumulate(np.where(is_first, position, 0))
    place = np.empty(len(group), np.int32)
    place[order] = position - first
    return place


@dataclass(frozen=True, slots=True, eq=False)
class LinkTable:
    """All links. RTTs and jitter in milliseconds; where a link is not usable they may be NaN. Frozen; arrays are not written to."""

    pops: tuple[PopName, ...]
    """Sorted."""
    names: tuple[LinkName, ...]
    """Sorted."""
    start: IntArray
    """The PoP that each link leaves."""
    end: IntArray
    """The PoP that it leads to."""
    usable: BoolArray
    """Enabled, alive, measured, not removed."""
    labelled: BoolArray
    """Others may send over it: it may be any link of a path; without, only the first of its owner's paths."""
    rtt_ms: FloatArray
    """What routes are made of: it moves slowly. NaN: never measured, or disabled."""
    rtt_ms_now: FloatArray
    """What it is this moment."""
    jitter_ms: FloatArray
    """RFC 3550, one way."""
    loss_ratio: FloatArray
    """One way, 0 to 1: the upper confidence bound, so that few probes promise little."""
    load_bits_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    """What plans take it to carry; 0: nothing, or not known."""
    capacity_bits_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Declared; inf: not declared, no bound."""
    price: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Declared, in any unit that is the same for all links; 0: not declared."""
    index: PairIndex | None = None
    """Made here unless it is handed over from a table of the same links."""

    def __post_init__(self) -> None:
        links = len(self.names)
        if not len(self.load_bits_s):
            object.__setattr__(self, "load_bits_s", np.zeros(links))
        if not len(self.capacity_bits_s):
            object.__setattr__(self, "capacity_bits_s", np.full(links, np.inf))
        if not len(self.price):
            object.__setattr__(self, "price", np.zeros(links))
        for name in _ARRAYS:
            if getattr(self, name).shape != (links,):
                raise TableError(f"{name} has shape {getattr(self, name).shape}, there are {links} links")
        if self.index is None:
            _check_names(self.pops, self.names, self.start, self.end)
            object.__setattr__(self, "index", PairIndex.of(len(self.pops), self.start, self.end))
        _check_numbers(self)

    @property
    def pairs(self) -> PairIndex:
        """The index, which is always there after construction."""
        assert self.index is not None  # noqa: S101 (made in __post_init__)
        return self.index

    @property
    def full(self) -> BoolArray:
        """Links that carry more than the share of their capacity that is planned with."""
        return self.load_bits_s > CAPACITY_SHARE * self.capacity_bits_s

    def number(self, name: LinkName) -> int | None:
        """Return the number of a link; None: it is not of this table."""
        place = bisect_left(self.names, name)
        return place if place < len(self.names) and self.names[place] == name else None

    def pop_number(self, pop: PopName) -> int:
        """Return the number of a PoP. TableError: it is not of this table."""
        place = bisect_left(self.pops, pop)
        if place == len(self.pops) or self.pops[place] != pop:
            raise TableError(f"no PoP {pop!r} among {len(self.pops)}: check its name")
        return place

    def with_dead(self) -> "LinkTable":
        """Return the table with links that were measured once as if they were still alive, as they were last."""
        return replace(self, usable=self.usable | (self.rtt_ms > 0))


def pairs_table(
    pops: tuple[PopName, ...],
    start: IntArray,
    end: IntArray,
    rtt_ms: FloatArray,
    jitter_ms: FloatArray | None = None,
    loss_ratio: FloatArray | None = None,
) -> LinkTable:
    """Return a table of one link a pair, `a/a>b/a`, all usable by everybody: of a slice or of a model. `pops` sorted; pairs in any order.

    TableError: a pair stands twice, or a number cannot be. Another slice of the same pairs is `dataclasses.replace` with its numbers.
    """
    names = [LinkName(f"{pops[a]}/a>{pops[b]}/a") for a, b in zip(start.tolist(), end.tolist(), strict=True)]
    order = sorted(range(len(names)), key=names.__getitem__)
    nothing = np.zeros(len(names))
    return LinkTable(
        pops=pops,
        names=tuple(names[number] for number in order),
        start=start[order].astype(np.int32),
        end=end[order].astype(np.int32),
        usable=np.ones(len(names), np.bool_),
        labelled=np.ones(len(names), np.bool_),
        rtt_ms=rtt_ms[order],
        rtt_ms_now=rtt_ms[order],
        jitter_ms=(nothing if jitter_ms is None else jitter_ms)[order],
        loss_ratio=(nothing if loss_ratio is None else loss_ratio)[order],
    )


_ARRAYS = (
    "start", "end", "usable", "labelled", "rtt_ms", "rtt_ms_now", "jitter_ms", "loss_ratio", "load_bits_s",
    "capacity_bits_s", "price",
)  # fmt: skip


def _check_names(
    pops: tuple[PopName, ...], names: tuple[LinkName, ...], start: IntArray, end: IntArray
) -> None:
    if len(pops) > MAX_POPS:
        raise TableError(f"{len(pops)} PoPs, at most {MAX_POPS}: make fleets of them")
    for what, given in (("PoPs", pops), ("links", names)):
        if not all(map(lt, given, given[1:])):
            raise TableError(
                f"{what} are not sorted, or one stands twice: hand them over in the order of names"
            )
    wrong = (start < 0) | (start >= len(pops)) | (end < 0) | (end >= len(pops)) | (start == end)
    if wrong.any():
        name = names[int(wrong.argmax())]
        raise TableError(f"link {name} does not join two of the {len(pops)} PoPs: correct its ends")


def _check_numbers(table: LinkTable) -> None:
    """Refuse what would make a wrong table: of usable links everything is a number that can be."""
    good = (table.rtt_ms >= 0) & (table.rtt_ms < np.inf)
    good &= (table.rtt_ms_now >= 0) & (table.rtt_ms_now < np.inf)
    good &= (table.jitter_ms >= 0) & (table.jitter_ms < np.inf)
    good &= (table.loss_ratio >= 0) & (table.loss_ratio <= 1)
    wrong = table.usable & ~good
    if wrong.any():
        number = int(wrong.argmax())
        raise TableError(
            f"link {table.names[number]}: rtt_ms {table.rtt_ms[number]:g}, now {table.rtt_ms_now[number]:g}, "
            f"jitter_ms {table.jitter_ms[number]:g}, loss_ratio {table.loss_ratio[number]:g}: these cannot be; "
            "mark the link unusable until it is measured"
        )
    declared = (
        (table.load_bits_s >= 0) & (table.capacity_bits_s > 0) & (table.price >= 0) & (table.price < np.inf)
    )
    if not declared.all():
        number = int((~declared).argmax())
        raise TableError(
            f"link {table.names[number]}: load {table.load_bits_s[number]:g} bit/s, capacity "
            f"{table.capacity_bits_s[number]:g} bit/s, price {table.price[number]:g}: none may be negative or no number"
        )
