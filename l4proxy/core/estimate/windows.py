"""Values and counts of the last seconds: least, quantiles and sums without going through the window anew. They know no link."""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from math import ceil

BUCKETS = 300
"""Parts that a window of counts is forgotten in: seconds of the longest, 300 s; so a window holds at most one more entry than this."""


@dataclass(slots=True)
class ValueWindow:
    """Values of the last `span_ns`, and at most `max_values` of them: what is older than both is forgotten, the oldest first."""

    span_ns: int
    max_values: int
    full: int = 0
    """Values that had to go before their time."""
    _times: deque[tuple[int, float]] = field(default_factory=deque)
    _sorted: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._times)

    def add(self, now_ns: int, value: float) -> None:
        """Take a finite value; `now_ns` never goes back."""
        self.forget(now_ns)
        if len(self._times) >= self.max_values:
            self.full += 1
            self._drop()
        self._times.append((now_ns, value))
        insort(self._sorted, value)

    def forget(self, now_ns: int) -> None:
        """Let go of what is older than the window."""
        while self._times and self._times[0][0] < now_ns - self.span_ns:
            self._drop()

    def quantile(self, share: float) -> float | None:
        """Return the least value that at least this share of the values, 0 to 1, does not exceed (nearest rank); None: there is none."""
        if not self._sorted:
            return None
        return self._sorted[max(0, ceil(share * len(self._sorted)) - 1)]

    @property
    def least(self) -> float | None:
        """The least value; None: there is none."""
        return self._sorted[0] if self._sorted else None

    def _drop(self) -> None:
        _, value = self._times.popleft()
        del self._sorted[bisect_left(self._sorted, value)]


@dataclass(slots=True)
class CountWindow:
    """How many were sent and how many of them lost in the last `span_ns`, to a part in `BUCKETS` of it."""

    span_ns: int
    sent: int = 0
    lost: int = 0
    _buckets: deque[list[int]] = field(default_factory=deque)

    def add(self, now_ns: int, sent: int, lost: int) -> None:
        """Count 0 <= lost <= sent; `now_ns` never goes back."""
        self.forget(now_ns)
        if not self._buckets or now_ns - self._buckets[-1][0] >= self.span_ns // BUCKETS:
            self._buckets.append([now_ns, 0, 0])
        bucket = self._buckets[-1]
        bucket[1] += sent
        bucket[2] += lost
        self.sent += sent
        self.lost += lost

    def take_back_one_lost(self) -> None:
        """What was counted as lost last has come after all; nothing happens if it is no longer in the window."""
        for bucket in reversed(self._buckets):
            if bucket[2] > 0:
                bucket[2] -= 1
                self.lost -= 1
                return

    def forget(self, now_ns: int) -> None:
        """Let go of what is older than the window."""
        while self._buckets and self._buckets[0][0] < now_ns - self.span_ns:
            _, sent, lost = self._buckets.popleft()
            self.sent -= sent
            self.lost -= lost

    def clear(self) -> None:
        """Let go of everything."""
        self._buckets.clear()
        self.sent = self.lost = 0
