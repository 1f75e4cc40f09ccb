"""A clock that jumps from event to event. It knows nothing of what happens."""

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

MS = 1_000_000
S = 1_000 * MS
START_NS = 1_700_000_000 * S
"""When a simulation begins, wall clock: a date, because records of other years are refused."""


@dataclass(slots=True)
class Timeline:
    """Things to do, by time; those of one moment in the order in which they were asked for."""

    now_ns: int = START_NS
    _queue: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _counts: Iterator[int] = field(default_factory=itertools.count)

    def at(self, when_ns: int, what: Callable[[], None]) -> None:
        """Do something at a time; what is past happens next."""
        heapq.heappush(self._queue, (when_ns, next(self._counts), what))

    @property
    def next_ns(self) -> int | None:
        """When the next thing is due; None: never."""
        return self._queue[0][0] if self._queue else None

    def step(self, end_ns: int) -> bool:
        """Do the next thing, if it is due by then; whether there was one."""
        if not self._queue or self._queue[0][0] > end_ns:
            return False
        when_ns, _, what = heapq.heappop(self._queue)
        self.now_ns = max(self.now_ns, when_ns)
        what()
        return True

    def run_until(self, end_ns: int) -> None:
        """Let time pass."""
        while self.step(end_ns):
            pass
        self.now_ns = max(self.now_ns, end_ns)
