"""The daemon's only clock for the core: wall-clock nanoseconds that never step and do not count time nobody watched.

The core judges silence by it. After an hour on a stopped machine, or thirty seconds under SIGSTOP, every link would
seem to have been silent that long, and routes would flee from links that are well; so a gap between two readings
counts as no more than a moment. The loop reads the clock at least once a second.
"""

import time
from collections.abc import Callable

MAX_GAP_NS = 2_000_000_000
"""Twice what lies between two readings of a loop that turns; longer means that the process did not run."""


class Clock:
    """One per daemon."""

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._last_ns = monotonic_ns()
        self._now_ns = wall_ns()
        self.unwatched_ns = 0
        """Time left out so far."""

    def now_ns(self) -> int:
        """Return now."""
        reading = self._monotonic_ns()
        gap = reading - self._last_ns
        self._last_ns = reading
        if gap > MAX_GAP_NS:
            self.unwatched_ns += gap - MAX_GAP_NS
            gap = MAX_GAP_NS
        self._now_ns += gap
        return self._now_ns
