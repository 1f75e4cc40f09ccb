"""The ways of one PoP at the costs of one class, within one policy: rows of numbers turned into paths with names, for rules and snapshots.

Each search is made when first asked for, for all peers at once. Nothing is chosen here; that is `core/route.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from l4proxy.core.ids import PopName
from l4proxy.core.paths import Path
from l4proxy.core.routing.backups import backups_on
from l4proxy.core.routing.build import best_from_on, direct_on
from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.declared import DeclaredLinks
from l4proxy.core.routing.ground import Ground, ground_of
from l4proxy.core.routing.links import BoolArray, FloatArray, LinkTable
from l4proxy.core.routing.rows import MAX_LINKS, Rows, no_rows

Paths = Mapping[PopName, Path]


@dataclass(slots=True, eq=False)
class Ways:
    """What `source` can reach. `costs` are the class's, `banned` the links that the policy avoids, `max_links` how many a path may have."""

    declared: DeclaredLinks
    table: LinkTable
    costs: FloatArray
    source: PopName
    max_links: int = MAX_LINKS
    banned: BoolArray | None = None
    _ground: Ground | None = field(default=None, init=False)
    _direct: Paths | None = field(default=None, init=False)
    _best: Paths | None = field(default=None, init=False)

    @property
    def ground(self) -> Ground:
        """What is searched on."""
        if self._ground is None:
            self._ground = ground_of(self.table, self.costs, HOP_COST_MS, self.banned)
        return self._ground

    @property
    def direct(self) -> Paths:
        """The cheapest single link to each peer that one leads to."""
        if self._direct is None:
            number = self.table.pop_number(self.source)
            self._direct = self._named(direct_on(self.ground, number))
        return self._direct

    @property
    def best(self) -> Paths:
        """The cheapest path to each peer that can be reached."""
        if self._best is None:
            number = self.table.pop_number(self.source)
            self._best = self._named(best_from_on(self.ground, number, self.max_links))
        return self._best

    def priced(self, path: Path) -> Path | None:
        """Return a path with its present cost; None if one of its links cannot be used, or not in its place."""
        numbers = [self.table.number(name) for name in path.names]
        for place, number in enumerate(numbers):
            if number is None or not self.table.usable[number]:
                return None
            if (self.banned is not None and self.banned[number]) or (
                place > 0 and not self.table.labelled[number]
            ):
                return None
        return Path(path.links, self._cost_ms([number for number in numbers if number is not None]))

    def has_room(self, path: Path) -> bool:
        """Whether none of its links carries more than the share of its capacity that is planned with."""
        if not self.table.load_bits_s.any():
            return True
        numbers = [self.table.number(name) for name in path.names]
        return not any(number is not None and self.table.full[number] for number in numbers)

    def backups(self, paths: Paths) -> Mapping[PopName, tuple[Path, ...]]:
        """Return up to two more paths to the end of each, best first; none for a path of links that are not of this table."""
        rows = no_rows(len(self.table.pops))
        for path in paths.values():
            numbers = [self.table.number(name) for name in path.names]
            if None not in numbers:
                rows[self.table.pop_number(path.pops[-1]), : len(numbers)] = np.array(numbers, np.int32)
        found = [self._named(some) for some in backups_on(self.ground, rows, self.max_links)]
        return {peer: tuple(some[peer] for some in found if peer in some) for peer in paths}

    def _cost_ms(self, numbers: list[int]) -> float:
        """As `rows.price`, which is slower for few."""
        return sum(float(self.costs[number]) for number in numbers) + HOP_COST_MS * (len(numbers) - 1)

    def _named(self, rows: Rows) -> Paths:
        """Return rows to each PoP, in the order of PoPs, as paths."""
        found = {}
        for peer, row in zip(self.table.pops, rows.tolist(), strict=True):
            numbers = [number for number in row if number >= 0]
            if numbers:
                links = tuple(self.declared.links[number] for number in numbers)
                found[peer] = Path(links, self._cost_ms(numbers))
        return found
